"""SafeText: the only door for text that came from a model, a file or another program, and how wide it is on a terminal.

Every character is mapped by itself, so a sequence split over two pieces can't slip through. What would steer a terminal
(escape sequences, C1 controls, bidi overrides, line separators, lone surrogates), what can't be seen, and what
terminals measure differently becomes a visible mark; joiners and selectors, which only shape their neighbours, fall
out: an emoji made of several shows its parts. What is left has one width, the same here as in Textual. The files keep
the true text.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, NewType

SafeText = NewType("SafeText", str)
"""Text that went through `safe` or `one_line`: it may go to a terminal."""

TAB: Final = 4
"""Blanks for a tab, wherever it stands: a piece of streamed text doesn't know its column."""

ELLIPSIS: Final = "…"

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

_FALL_OUT = (0x200C, 0x200D, 0xFE0E, 0xFE0F, *range(0x1F3FB, 0x1F400))
"""Joiners, text/emoji selectors, skin tones: terminals draw the joined or chosen form in one, two or more columns."""

_UNSEEN = (
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0),  # joiners and fillers that are no format characters
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE0E),
    *range(0xE0100, 0xE01F0),
)

_DISPUTED = (*range(0x2630, 0x2638), *range(0x268A, 0x2690), *range(0x4DC0, 0x4E00), *range(0x1D300, 0x1D377))
"""Trigrams, hexagrams, counting rods: two columns since Unicode 16, one before."""

_SIGNS = frozenset({*range(0x0600, 0x0606), 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD})
"""Format characters (Cf) that are signs with a shape of their own."""

_JAMO = (range(0x1160, 0x1200), range(0xD7B0, 0xD7FC))
"""Vowels and finals of Korean syllables: they join the consonant before them."""

_REMEMBERED = 20_000
"""Characters whose mapping or width is kept. A hostile text may hold a million different ones."""

_QUIET = re.compile(r"[^\x00-\x09\x0b-\x1f\x7f]*")


def _mark(code: int) -> str:
    return f"<{code:04X}>"


class _Door(dict[int, int | str | None]):
    """For str.translate: known characters, and how to judge the others when they come."""

    def __init__(self) -> None:
        super().__init__({code: chr(0x2400 + code) for code in range(0x20) if code != 0x0A})
        self[0x09] = " " * TAB
        self[0x0A] = 0x0A
        self[0x7F] = "\u2421"
        self.update({code: f"<{name}>" for code, name in _BIDI.items()})
        self.update({0x2028: "<LS>", 0x2029: "<PS>"})
        self.update({code: _mark(code) for code in (*range(0x80, 0xA0), *_UNSEEN, *_DISPUTED)})
        self.update(dict.fromkeys(_FALL_OUT))
        self._room = len(self) + _REMEMBERED

    def __missing__(self, code: int) -> int | str:
        category = unicodedata.category(chr(code))
        # Unassigned and private ones have no width that a terminal and we could agree on.
        shown = code if category not in ("Cf", "Cn", "Co", "Cs") or code in _SIGNS else _mark(code)
        if len(self) < self._room:
            self[code] = shown
        return shown


class _Widths(dict[str, int]):
    """Columns by character."""

    def __missing__(self, char: str) -> int:
        width = _measure(char)
        if len(self) < _REMEMBERED:
            self[char] = width
        return width


def _measure(char: str) -> int:
    code = ord(char)
    category = unicodedata.category(char)
    if category in ("Mn", "Me", "Mc") or any(code in span for span in _JAMO):
        return 0
    # Only text that did not pass the door holds what falls out there, or other format characters.
    if category == "Cf" and code not in _SIGNS:
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


_DOOR = _Door()
_WIDTHS = _Widths()
_width = _WIDTHS.__getitem__


def safe(text: str) -> SafeText:
    """Text with its newlines, without anything that steers a terminal."""
    if text.isascii() and _QUIET.fullmatch(text):
        return SafeText(text)
    return SafeText(text.replace("\r\n", "\n").translate(_DOOR))


def one_line(text: str) -> SafeText:
    """As `safe`, with newlines shown as a mark: for names, and wherever one line must stay one."""
    return SafeText(safe(text).replace("\n", "\u240a"))


def char_cells(char: str) -> int:
    """Columns of one character: 0 for combining marks, 2 for wide ones."""
    return 1 if char < "\x7f" else _width(char)


def cells(text: str) -> int:
    """Columns that one line of text takes."""
    return len(text) if text.isascii() else sum(map(_width, text))


def fit(text: str, width: int, *, ellipsis: str = ELLIPSIS) -> str:
    """The text, cut to at most `width` columns with a mark where something was cut."""
    if text.isascii():
        if len(text) <= width:
            return text
    elif len(text) <= 4 * max(width, 0) + 64 and cells(text) <= width:
        return text
    room = width - cells(ellipsis)
    if room < 0:
        ellipsis, room = "", max(0, width)
    used = 0
    cut: int | None = None  # where the mark goes, should the text turn out too wide
    for at, char in enumerate(text):
        used += char_cells(char)
        if used > room and cut is None:
            cut = at
        if used > width:
            return text[:cut] + ellipsis
    return text


def pad(text: str, width: int, *, right: bool = False) -> str:
    """The text in exactly `width` columns."""
    text = fit(text, width)
    space = " " * (width - cells(text))
    return space + text if right else text + space
