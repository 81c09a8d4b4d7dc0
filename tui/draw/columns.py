"""Cells of rows that keep their columns: exact widths, wide characters counted, a mark where something is cut. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tui.draw.line import Line, Span, clip, width
from tui.glyphs import Glyphs
from tui.text import cells, char_cells, fit, one_line

LONGEST: Final = 400
"""Characters of a foreign name or message that are looked at: no row is longer."""


def cell(text: str, columns: int, glyphs: Glyphs, *, right: bool = False) -> str:
    """Safe text in exactly `columns`, cut at its end."""
    text = fit(text, max(0, columns), ellipsis=glyphs.ellipsis)
    space = " " * (columns - cells(text))
    return space + text if right else text + space


def squeeze(text: str, columns: int, glyphs: Glyphs) -> str:
    """Safe text in at most `columns`, cut in its middle: ids that begin alike differ at their ends."""
    if cells(text) <= columns:
        return text
    room = columns - cells(glyphs.ellipsis)
    if room < 4:
        return fit(text, max(0, columns), ellipsis=glyphs.ellipsis)
    head = fit(text, room // 3, ellipsis="")
    left = room - cells(head)
    start = len(text)
    while start > 0 and (wide := char_cells(text[start - 1])) <= left:
        left -= wide
        start -= 1
    return head + glyphs.ellipsis + text[start:]


def name_cell(name: str, columns: int, glyphs: Glyphs) -> str:
    """A foreign name in exactly `columns`, made safe, cut in its middle."""
    text = squeeze(foreign(name), columns, glyphs)
    return text + " " * (columns - cells(text))


def foreign(text: str) -> str:
    """A foreign text as one safe line, of which an overlong middle falls out."""
    if len(text) > LONGEST:
        text = text[: LONGEST // 2] + text[-LONGEST // 2 :]
    return one_line(text)


def exact(parts: Sequence[Span], columns: int, glyphs: Glyphs) -> Line:
    """A row of exactly `columns`, with neighbours of one style as one span: fewer bytes to send."""
    row: list[Span] = []
    for span in parts:
        if row and row[-1].style == span.style:
            row[-1] = Span(row[-1].text + span.text, span.style)
        elif span.text:
            row.append(span)
    room = columns - width(tuple(row))
    if room < 0:
        row = list(clip(tuple(row), columns, ellipsis=glyphs.ellipsis))
        room = columns - width(tuple(row))  # a wide character that was cut leaves a column
    if room > 0:
        row.append(Span(" " * room))
    return tuple(row)
