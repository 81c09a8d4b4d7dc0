"""What terminal this is, read once from the environment: SSH, tmux, screen, colours, size, locale. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Terminal(NamedTuple):
    """What the rest of the program decides by."""

    ssh: bool = False
    multiplexer: str = ""  # "tmux", "screen" or ""
    colours: int = 256  # 0 (NO_COLOR), 16, 256, 16_777_216
    unicode: bool = True
    dumb: bool = False  # TERM=dumb or none: lines instead of a screen
    hz: float = 4.0
    mouse: bool = True
    osc52: bool = True  # the clipboard can be tried
    name: str = ""  # TERM

    @property
    def colour(self) -> bool:
        return self.colours > 0
