"""SafeText: the only door for text that came from a model, a file or another program, and how wide it is on a terminal.

Every character is mapped by itself, so a sequence split over two pieces can't slip through. What would steer a terminal
(escape sequences, C1 controls, bidi overrides, line separators, lone surrogates) becomes a visible mark. The files keep
the true text.
"""

from __future__ import annotations

import unicodedata
from typing import NewType

SafeText = NewType("SafeText", str)
"""Text that went through `safe` or `one_line`: it may go to a terminal."""

TAB = 4
ELLIPSIS = "…"

_BIDI = {
    0x061C: "ALM",
    0x200E: "LRM",
    0x200F: "RLM",
    0x202A: "LRE",
    0x202B: "RLE",
    0x202C: "PDF",
    0x202D: "LRO",
    0x202E: "RLO",
    0x2066: "LRI",
    0x2067: "RLI",
    0x2068: "FSI",
    0x2069: "PDI",
}
_ZERO_WIDTH = frozenset({0x00AD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF})


def _mark(code: int) -> str:
    return f"<{code:04X}>"


def _table() -> dict[int, str]:
    table = {code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A)}
    table[0x7F] = "\u2421"
    table.update({code: _mark(code) for code in range(0x80, 0xA0)})
    table.update({code: f"<{name}>" for code, name in _BIDI.items()})
    table.update({0x2028: "<LS>", 0x2029: "<PS>"})
    # Interlinear and tag characters: invisible, and able to carry text that nobody sees.
    table.update({code: _mark(code) for code in (*range(0xFFF9, 0xFFFC), *range(0xE0000, 0xE0080))})
    return table


_TABLE = _table()


def safe(text: str) -> SafeText:
    """Text with its newlines, without anything that steers a terminal."""
    text = text.replace("\r\n", "\n").expandtabs(TAB).translate(_TABLE)
    if not text.isascii():
        text = "".join(_mark(ord(c)) if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)
    return SafeText(text)


def one_line(text: str) -> SafeText:
    """As `safe`, with newlines shown as a mark: for names, and wherever one line must stay one."""
    return SafeText(safe(text).replace("\n", "\u240a"))


def char_cells(char: str) -> int:
    """Columns of one character: 0 for combining marks, 2 for wide ones."""
    if char < "\x7f":
        return 1
    code = ord(char)
    if code in _ZERO_WIDTH or 0xFE00 <= code <= 0xFE0F or unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def cells(text: str) -> int:
    """Columns that one line of text takes."""
    return len(text) if text.isascii() else sum(map(char_cells, text))


def fit(text: str, width: int, *, ellipsis: str = ELLIPSIS) -> str:
    """The text, cut to at most `width` columns with a mark where something was cut."""
    if cells(text) <= width:
        return text
    room = width - cells(ellipsis)
    if room < 0:
        ellipsis, room = "", max(0, width)
    used = 0
    for at, char in enumerate(text):
        used += char_cells(char)
        if used > room:
            return text[:at] + ellipsis
    return text


def pad(text: str, width: int, *, right: bool = False) -> str:
    """The text in exactly `width` columns."""
    text = fit(text, width)
    space = " " * (width - cells(text))
    return space + text if right else text + space
