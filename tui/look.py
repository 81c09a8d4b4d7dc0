"""Style names and what they look like: the sixteen colours of the user's own terminal, or none.

Colour is never the only sign: what a colour says, a word or a letter says too. Which of the sixteen can be read
depends on the ground: on black the plain blue, red and magenta of many terminals are too dark, on white their green,
yellow and cyan too pale.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from rich.style import Style

STYLES: Mapping[str, Style] = {
    "text": Style(),
    "dim": Style(dim=True),
    "bold": Style(bold=True),
    "number": Style(bold=True),  # the figure a pane is looked at for
    "title": Style(bold=True),
    "title.focus": Style(bold=True, reverse=True, color="cyan"),  # seen without colour too
    "rule": Style(dim=True),
    "rule.focus": Style(color="cyan"),
    "key": Style(bold=True, color="cyan"),
    "header": Style(reverse=True),
    "notice": Style(bold=True),
    "cursor": Style(reverse=True),
    "cursor.idle": Style(bold=True, underline=False),
    "mark": Style(bold=True, color="yellow"),
    "match": Style(bold=True, underline=True, color="yellow"),
    "ok": Style(color="green"),
    "warn": Style(bold=True, color="yellow"),
    "error": Style(bold=True, color="bright_red"),
    "info": Style(color="cyan"),
    "bar": Style(color="green"),
    "bar.fail": Style(color="bright_red"),
    "bar.empty": Style(dim=True),
    "graph.out": Style(color="green"),
    "graph.in": Style(color="cyan"),
    "graph.free": Style(color="bright_blue"),
    "owner.weights": Style(color="bright_blue"),
    "owner.kv": Style(color="green"),
    "owner.kv_free": Style(color="green", dim=True),
    "owner.compute": Style(color="bright_magenta"),
    "owner.context": Style(color="cyan"),
    "owner.runner": Style(),
    "owner.other": Style(color="yellow"),
    "owner.free": Style(dim=True),
    "reasoning": Style(dim=True),
    "answer": Style(),
    "tool": Style(color="bright_magenta"),
}
"""Every name a span may use, as it looks on a dark ground."""

_ON_LIGHT: Mapping[str, Style] = {
    # Not bold: many terminals draw bold text in the bright colours, which are paler still.
    "title.focus": Style(bold=True, reverse=True, color="blue"),
    "rule.focus": Style(color="blue"),
    "key": Style(color="blue"),
    "mark": Style(color="magenta"),
    "match": Style(underline=True, color="magenta"),
    "ok": Style(),  # no pale colour is needed to say that nothing is wrong
    "warn": Style(color="magenta"),
    "error": Style(bold=True, color="red"),
    "info": Style(color="blue"),
    "bar.fail": Style(color="red"),
    "graph.in": Style(color="blue"),
    "graph.free": Style(color="magenta"),
    "owner.weights": Style(color="blue"),
    "owner.compute": Style(color="magenta"),
    "owner.context": Style(color="bright_black"),
    "owner.other": Style(),
    "tool": Style(color="magenta"),
}
LIGHT: Mapping[str, Style] = {**STYLES, **_ON_LIGHT}
"""The same names on a light ground."""


def without_colour(style: Style) -> Style:
    """The same emphasis in black and white."""
    return Style(bold=style.bold, dim=style.dim, italic=style.italic, underline=style.underline, reverse=style.reverse)


def as_cursor(style: Style, *, bar: bool = False) -> Style:
    """The row under the cursor is of one piece: reversed colours would be patches, and dim text is hard to read.

    Only the full cells of a bar keep their colour. Without one they are reversed too: they would be one with the row.
    """
    if bar and style.color is not None:
        return style + Style(reverse=False)
    return without_colour(style) + Style(dim=False, reverse=True)


class Look:
    """Names to styles for one terminal. `colour` False leaves bold, dim, underline and reverse."""

    def __init__(self, *, colour: bool = True, light: bool = False) -> None:
        styles = LIGHT if light and colour else STYLES
        self._light = light
        self._styles = dict(styles) if colour else {name: without_colour(style) for name, style in styles.items()}
        self.style = functools.lru_cache(maxsize=512)(self._style)

    def _style(self, names: str) -> Style:
        """Raises KeyError for a name that is not in STYLES."""
        style = Style()
        for name in (parts := names.split()):
            style += self._styles[name]
        if "cursor" in parts:
            return as_cursor(style, bar="bar" in parts)
        if self._light and style.color is not None and "bold" in parts:
            return style + Style(bold=False)  # as in _ON_LIGHT
        return style


def grounds(*, light: bool) -> str:
    """What tells a terminal emulator that has no owner's palette (the one in a browser) its two grounds.

    OSC 10 and 11: the colours of text and of what is behind it.
    """
    text, ground = ("1a1a1a", "ffffff") if light else ("e6e6e6", "000000")
    return f"\x1b]10;#{text}\x07\x1b]11;#{ground}\x07"
