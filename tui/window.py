"""A window over the requests of a job: the pages that are at hand, and which to ask for. Pure. (In work.)"""

from __future__ import annotations


class RequestWindow:
    """Rows around what is visible."""
