"""Style names and what they look like: the sixteen colours of the user's own terminal, or none. No RGB anywhere.

Colour is never the only sign: what a colour says, a word or a letter says too.
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
    "title.focus": Style(bold=True, color="cyan"),
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
    "error": Style(bold=True, color="red"),
    "info": Style(color="cyan"),
    "bar": Style(color="green"),
    "bar.fail": Style(color="red"),
    "bar.empty": Style(dim=True),
    "graph.out": Style(color="green"),
    "graph.in": Style(color="cyan"),
    "graph.free": Style(color="yellow"),
    "owner.weights": Style(color="blue"),
    "owner.kv": Style(color="green"),
    "owner.kv_free": Style(color="green", dim=True),
    "owner.compute": Style(color="magenta"),
    "owner.context": Style(color="cyan"),
    "owner.other": Style(color="yellow"),
    "owner.free": Style(dim=True),
    "reasoning": Style(dim=True),
    "answer": Style(),
    "tool": Style(color="magenta"),
}
"""Every name a span may use."""


def without_colour(style: Style) -> Style:
    """The same emphasis in black and white."""
    return Style(bold=style.bold, dim=style.dim, italic=style.italic, underline=style.underline, reverse=style.reverse)


class Look:
    """Names to styles for one terminal. `colour` False leaves bold, dim, underline and reverse."""

    def __init__(self, *, colour: bool = True) -> None:
        self._styles = dict(STYLES) if colour else {name: without_colour(style) for name, style in STYLES.items()}
        self.style = functools.lru_cache(maxsize=512)(self._style)

    def _style(self, names: str) -> Style:
        """Raises KeyError for a name that is not in STYLES."""
        style = Style()
        for name in names.split():
            style += self._styles[name]
        return style
