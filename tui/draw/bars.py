"""Bars of exact width: a gauge split by owner, and the progress of a job. Pure.

Letters carry what colours carry, so a bar reads the same in black and white.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from tui.draw.line import EMPTY, Line, Span, line
from tui.glyphs import Glyphs

FAILED: Final = "x"
"""What a cell of failed requests is drawn with: a colour alone would not say it."""


class Part(NamedTuple):
    """One owner's share of a gauge."""

    letter: str
    style: str
    amount: int


class Mark(NamedTuple):
    """A sign in the empty part of a gauge: `amount` from its right end."""

    letter: str
    style: str
    amount: int


def apportion(amounts: Sequence[int], total: int, cells: int) -> list[int]:
    """Cells for each amount and, last, for what is left of `total`; together exactly `cells`.

    Largest remainders, and then one cell for each amount above zero, as far as others can spare one: 2 MiB of 16 GiB
    are still there. Amounts that exceed `total` share all cells.
    """
    shares = [max(0, amount) for amount in amounts]
    known = sum(shares)
    shares.append(max(0, total - known))
    whole = known + shares[-1]
    if cells <= 0 or whole <= 0:
        return [0] * len(amounts) + [max(0, cells)]
    given = [share * cells // whole for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (-(shares[i] * cells % whole), i))
    for i in by_remainder[: cells - sum(given)]:
        given[i] += 1
    for i, share in enumerate(shares[:-1]):
        if share and not given[i]:
            richest = max(range(len(given)), key=lambda j: given[j])
            if given[richest] < 2:
                break
            given[richest] -= 1
            given[i] = 1
    return given


def gauge(parts: Sequence[Part], total: int, columns: int, glyphs: Glyphs, *, marks: Sequence[Mark] = ()) -> Line:
    """`▕wwwkkc····!▏`: exactly `columns` wide, frame included; the frame falls out below four columns."""
    inside, left, right = _frame(columns, glyphs)
    given = apportion([part.amount for part in parts], total, inside)
    spans = [Span(part.letter * n, part.style) for part, n in zip(parts, given, strict=False) if n]
    return line(left, *spans, *_empty(given[-1], inside, total, glyphs, marks), right)


def progress(
    done: int, failed: int, total: int, columns: int, glyphs: Glyphs, *, style: str = "bar", fail: str = "bar.fail"
) -> Line:
    """`▕█████xx····▏`: `done` without the failed ones, then the failed ones; exactly `columns` wide.

    It looks full only when everything is done, and failures keep a cell where there is room for one.
    """
    inside, left, right = _frame(columns, glyphs)
    given = apportion([done, failed], total, inside)
    if not given[2] and 0 <= done + failed < total and inside > 1:
        given[0 if given[0] else 1] -= 1
        given[2] = 1
    return line(
        left,
        Span(glyphs.full * given[0], style),
        Span(FAILED * given[1], fail),
        Span(glyphs.empty * given[2], "bar.empty"),
        right,
    )


def _frame(columns: int, glyphs: Glyphs) -> tuple[int, Span, Span]:
    """Cells inside the frame, and its two ends."""
    if columns < 4:
        return max(0, columns), Span(""), Span("")
    return columns - 2, Span(glyphs.bar_left, "bar.empty"), Span(glyphs.bar_right, "bar.empty")


def _empty(cells: int, inside: int, total: int, glyphs: Glyphs, marks: Sequence[Mark]) -> Line:
    """The empty end of a gauge, with those marks that fall into it; of two in one cell the later one wins."""
    if not cells:
        return EMPTY
    row = [Span(glyphs.empty, "owner.free")] * cells
    for mark in marks:
        if mark.amount <= 0 or total <= 0:
            continue
        from_right = min(inside - 1, max(0, mark.amount * inside // total))
        if from_right < cells:
            row[cells - 1 - from_right] = Span(mark.letter, mark.style)
    return _merged(row)


def _merged(row: Sequence[Span]) -> Line:
    """Neighbours of one style as one span."""
    out: list[Span] = []
    for span in row:
        if out and out[-1].style == span.style:
            out[-1] = Span(out[-1].text + span.text, span.style)
        else:
            out.append(span)
    return tuple(out)
