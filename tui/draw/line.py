"""A line of a pane: spans of safe text with the name of a style. Pure; `tui.look` turns names into colours.

Whatever comes from a model, a file or another program passes `tui.text` before it gets into a span.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tui.text import cells, fit

PLAIN = "text"


class Span(NamedTuple):
    """A piece of a line. `style` holds names of `tui.look.STYLES`, separated by spaces; later ones win."""

    text: str
    style: str = PLAIN


Line = tuple[Span, ...]
EMPTY: Line = ()


def line(*parts: str | Span | tuple[str, str]) -> Line:
    """A line of its parts; a bare string is plain. Empty parts fall out."""
    spans = (Span(part) if isinstance(part, str) else Span(*part) for part in parts)
    return tuple(span for span in spans if span.text)


def width(of: Line) -> int:
    """Columns."""
    return sum(cells(span.text) for span in of)


def restyle(of: Line, style: str) -> Line:
    """The line with `style` on top of each span's own."""
    return tuple(Span(span.text, f"{span.style} {style}") for span in of)


def clip(of: Line, columns: int, *, ellipsis: str = "…") -> Line:
    """At most `columns` wide, with a mark where something was cut."""
    if width(of) <= columns:
        return of
    out: list[Span] = []
    left = columns
    for i, span in enumerate(of):
        wide = cells(span.text)
        rest = any(later.text for later in of[i + 1 :])
        if wide < left or (wide == left and not rest):
            out.append(span)
            left -= wide
            continue
        # `fit` marks a cut only where it cuts; what follows is cut too, so leave no room to spare.
        cut = fit(span.text + ("  " if rest else ""), left, ellipsis=ellipsis)
        out.append(Span(cut, span.style))
        break
    return tuple(out)


def fill(of: Line, columns: int, *, style: str = PLAIN, ellipsis: str = "…") -> Line:
    """Exactly `columns` wide: clipped, or filled with blanks."""
    of = clip(of, columns, ellipsis=ellipsis)
    room = columns - width(of)
    return (*of, Span(" " * room, style)) if room > 0 else of


def spread(left: Line, right: Line, columns: int, *, gap: str = " ", style: str = PLAIN) -> Line:
    """`left` and `right` at the two ends. `right` gives way first: it falls out where both do not fit."""
    room = columns - width(left) - width(right)
    if room < 1:
        return fill(left, columns)
    return (*left, Span(gap * room, style), *right)


def joined(parts: Iterable[Line], separator: str = "  ") -> Line:
    """Several lines as one, with blanks between those that hold something."""
    out: list[Span] = []
    for part in parts:
        if part:
            if out:
                out.append(Span(separator))
            out.extend(part)
    return tuple(out)
