"""All that a pane may look at while it draws: one bundle, made by the app, read by everybody. Holds no behaviour."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tui.glyphs import UNICODE, Glyphs
from tui.look import Look
from tui.remote import Terminal
from tui.state import Mirror
from tui.transcripts import Transcripts
from tui.view import View
from tui.window import RequestWindow


@dataclass
class Link:
    """How the runner and the terminal are reached."""

    connected: bool = True
    why: str = ""  # of a lost runner; safe text
    hz: float = 4.0  # redraws a second now
    kib_s: float = 0.0  # really sent to the terminal, last seconds
    slow: bool = False  # the terminal does not take what is sent, so less is


@dataclass
class Desk:
    """What there is to draw."""

    mirror: Mirror
    view: View
    terminal: Terminal
    transcripts: Transcripts = field(default_factory=Transcripts)
    window: RequestWindow = field(default_factory=RequestWindow)
    look: Look = field(default_factory=Look)
    glyphs: Glyphs = UNICODE
    link: Link = field(default_factory=Link)
    readonly: bool = False
    now: Callable[[], float] = time.time
    """Unix seconds; frozen in tests."""
