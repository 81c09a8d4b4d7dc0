"""An app that shows one dialog over an empty screen and keeps what it dismissed."""

from __future__ import annotations

from typing import Any

from textual.app import App
from textual.pilot import Pilot
from textual.screen import Screen

from tests.tui_kit import make_desk, screen_text
from tui.glyphs import ASCII

SIZES = [(60, 16), (80, 24), (120, 36), (200, 50)]
NONE_YET = "nothing dismissed yet"


class DialogApp(App[None]):
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, screen: Screen[Any], *, ascii_only: bool = False) -> None:
        super().__init__()
        self.desk = make_desk()
        if ascii_only:
            self.desk.glyphs = ASCII
        self.shown = screen
        self.answer: Any = NONE_YET

    def on_mount(self) -> None:
        self.theme = "ansi-dark"
        self.push_screen(self.shown, self.take)

    def take(self, answer: Any) -> None:
        self.answer = answer


async def settled(pilot: Pilot[None]) -> str:
    """Wait for workers and drawing; the screen as text."""
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()
    await pilot.pause()
    return "\n".join(screen_text(pilot.app))


def harmless(screen: str) -> bool:
    """Nothing on it steers a terminal."""
    return not any(
        (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 or 0x202A <= ord(c) <= 0x202E or 0x2066 <= ord(c) <= 0x2069
        for c in screen
    )
