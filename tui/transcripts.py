"""The texts of the requests that are watched: pieces in, wrapped rows out. Pure and bounded. (In work.)"""

from __future__ import annotations


class Transcripts:
    """By job and custom_id."""
