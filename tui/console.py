"""Where lines go: stdout, stderr, one rewriting line on a terminal. All text passes `tui.text` here once more."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from typing import Any, TextIO

from tui.text import cells, fit, safe

_ERASE_TO_END = "\x1b[K"
_ERASE_BELOW = "\x1b[J"
_HOME = "\x1b[H"


class Console:
    """What the commands print on. `live` is a line that is rewritten in place, only where stdout is a terminal."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        for stream in (self._out, self._err):
            if isinstance(stream, io.TextIOWrapper):
                # A locale that can't show a character shows its code; it never ends the command.
                stream.reconfigure(errors="backslashreplace", line_buffering=True)
        self.is_terminal = self._out.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "")
        self._live = ""

    @property
    def width(self) -> int | None:
        """Columns of the terminal, None where there is none."""
        if not self._out.isatty():
            return None
        try:
            return max(20, os.get_terminal_size(self._out.fileno()).columns or 80)
        except OSError:
            return shutil.get_terminal_size().columns

    @property
    def _rows(self) -> int:
        try:
            return os.get_terminal_size(self._out.fileno()).lines or 24
        except OSError:
            return 24

    def say(self, text: str = "") -> None:
        """Lines on stdout."""
        self._clear()
        self._out.write(f"{safe(text)}\n")

    def note(self, text: str) -> None:
        """Lines on stderr: for people, where stdout may hold data."""
        self._clear()
        self._err.write(f"{safe(text)}\n")
        self._err.flush()

    def data(self, item: dict[str, Any]) -> None:
        """One JSON object on a line of stdout; pure ASCII, so that no reader is steered by what is inside."""
        self._out.write(json.dumps(item, ensure_ascii=True, separators=(",", ":")) + "\n")
        self._out.flush()

    def live(self, text: str) -> None:
        """Rewrite the live line. It never reaches the last column, so it never wraps."""
        text = fit(safe(text).replace("\n", " "), (self.width or 80) - 1, ellipsis="...")
        if text != self._live:
            self._live = text
            self._out.write(f"\r{text}{_ERASE_TO_END}" if cells(text) else f"\r{_ERASE_TO_END}")
            self._out.flush()

    def page(self, lines: list[str]) -> None:
        """Redraw plainly from the top of the screen. Where it is too low, the first line and the last ones are shown:
        a page that scrolls would leave a copy of itself in the terminal's history every time.
        """
        width, rows = (self.width or 80) - 1, self._rows
        if len(lines) >= rows:
            last = max(1, rows - 3)
            lines = [lines[0], f"... {len(lines) - 1 - last} lines more", *lines[-last:]]
        shown = [f"{fit(safe(line).replace(chr(10), ' '), width, ellipsis='...')}{_ERASE_TO_END}\n" for line in lines]
        self._out.write(f"{_HOME}{''.join(shown)}{_ERASE_BELOW}")
        self._out.flush()

    def _clear(self) -> None:
        if self._live:
            self._live = ""
            self._out.write(f"\r{_ERASE_TO_END}")
            self._out.flush()

    def close(self) -> None:
        self._clear()
        self._out.flush()
