"""Token rates as rows: decode and prefill, now, mean and highest, with graphs of fixed, labelled bounds. Pure.

Now: the mean of the last seconds measured. Mean and max: over the time the graph shows; the mean leaves out seconds in
which nothing ran, so that it tells how fast the engine is and not how often it rested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from engine.protocol import HistoryPoint
from tui.draw.history import LATE_S, Bounds, Sample, columns_of, graph, seconds_per_column
from tui.draw.line import EMPTY, Line, Span, clip, line, width
from tui.draw.steady import minutes
from tui.glyphs import Glyphs
from tui.plain import count

NOW_S: Final = 3.0
"""Seconds of which "now" is the mean: a single second holds too few engine steps to be read."""

MIN_GRAPH: Final = 8
SPAN_S: Final = 120.0
LONG_SPAN_S: Final = 300.0
"""Shown where a pane is high enough for more than a glance."""


class Kind(NamedTuple):
    """One of the two rates."""

    name: str
    short: str
    style: str
    of: Callable[[HistoryPoint], float]


OUT: Final = Kind("decode", "out", "graph.out", lambda point: point.decode)
IN: Final = Kind("prefill", "in", "graph.in", lambda point: point.prefill)


class Figures(NamedTuple):
    """Tokens a second; None is unknown."""

    now: float | None
    mean: float | None
    highest: float | None


class Facts(NamedTuple):
    """What the pane draws. `fallback`: decode and prefill of a job, where there is no history yet."""

    history: Sequence[HistoryPoint]
    now: float
    fallback: tuple[float, float] | None = None
    graphs: bool = True


def figures(facts: Facts, kind: Kind, span_s: float) -> Figures:
    points = [point for point in facts.history if facts.now - span_s <= point.t]
    if not points:
        fallback = None if facts.fallback is None else facts.fallback[0 if kind is OUT else 1]
        return Figures(fallback, None, None)
    newest = points[-1].t
    fresh = [kind.of(point) for point in points if point.t > newest - NOW_S]
    # Half a second of grace: clients and runner do not tick together.
    alive = facts.now - newest <= 2 * LATE_S
    busy = [kind.of(point) for point in points if point.running or point.decode or point.prefill]
    return Figures(
        sum(fresh) / len(fresh) if alive else None,
        sum(busy) / len(busy) if busy else 0.0,
        max(kind.of(point) for point in points),
    )


def number(per_s: float | None) -> str:
    """Whole tokens a second; one decimal below ten, where it matters."""
    if per_s is None:
        return "N/A"
    return f"{per_s:.1f}" if 0 < per_s < 9.95 else count(round(per_s))


def bound(top: float) -> str:
    """A bound in few columns: `500`, `2k`, `20k`, `1M`."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if top >= unit:
            return f"{top / unit:g}{letter}"
    return f"{top:g}"


# --- rows -------------------------------------------------------------------------------------------------------------


def span_of(columns: int, rows: int) -> tuple[int, float]:
    """Seconds a column of the graph stands for, and seconds in all; `rows`: of the whole pane."""
    per = seconds_per_column(columns, LONG_SPAN_S if rows >= 10 else SPAN_S)
    return per, float(per * columns)


def inline(
    facts: Facts, kind: Kind, head: Line, columns: int, glyphs: Glyphs, bounds: Bounds, *, other: Kind | None = None
) -> Line:
    """`head ▁▂▃▅  0-2k   1 012 tok/s  mean 900  max 1 200  in 2 911`: graph and figures in one row."""
    tops = _tops(facts, bounds)
    room = columns - width(head)
    mine = figures(facts, kind, SPAN_S)
    beside = None if other is None else (other, figures(facts, other, SPAN_S))
    tail = EMPTY
    scale = f" 0-{bound(tops[kind.name]):<4}"
    least = MIN_GRAPH + len(scale) if facts.graphs else 0
    for wanted in ((True, True, True), (False, True, True), (False, True, False), (False, False, False)):
        tail = _tail(mine, kind, tops, beside, wanted)
        if room - width(tail) >= least:
            break
    graph_columns = room - width(tail) - len(scale)
    if not facts.graphs or graph_columns < MIN_GRAPH:
        return clip((*head, *_without_margin(tail)), columns, ellipsis=glyphs.ellipsis)
    per, _ = span_of(graph_columns, 1)
    drawn = _graph(facts, kind, graph_columns, per, 1, tops[kind.name], glyphs)[0]
    return (*head, Span(drawn, kind.style), Span(scale, "dim"), *tail)


def _tops(facts: Facts, bounds: Bounds) -> dict[str, float]:
    """The bounds of both graphs, of all that is known: the same whatever part of it is shown."""
    return {
        kind.name: bounds.top(kind.name, max(map(kind.of, facts.history), default=0.0), least=10.0)
        for kind in (OUT, IN)
    }


def _tail(
    mine: Figures,
    kind: Kind,
    tops: dict[str, float],
    beside: tuple[Kind, Figures] | None,
    wanted: tuple[bool, bool, bool] = (True, True, True),
) -> Line:
    """The figures in fixed columns. `wanted`: mean, max, and the rate beside."""
    wide = max(3, len(count(round(tops[kind.name]))))
    parts: list[Span] = [Span(f" {number(mine.now):>{wide}}", "number"), Span(" tok/s")]
    if wanted[0]:
        parts.append(Span(f"  mean {number(mine.mean):>{wide}}"))
    if wanted[1]:
        parts.append(Span(f"  max {number(mine.highest):>{wide}}"))
    if beside is not None and wanted[2]:
        other, its = beside
        parts.append(Span(f"  {other.short} {number(its.now):>{max(3, len(count(round(tops[other.name]))))}}"))
    return tuple(parts)


def _without_margin(tail: Line) -> Line:
    return (Span(tail[0].text[1:], tail[0].style), *tail[1:])


def body(facts: Facts, columns: int, rows: int, glyphs: Glyphs, bounds: Bounds) -> list[Line]:
    """The rows under a title."""
    if rows <= 0 or columns <= 2:
        return []
    blank = Span(" ")
    inner = columns - 1
    if rows < 4 or not facts.graphs or inner < 24:
        # One row each; what is left stays empty rather than being stretched.
        both = [inline(facts, kind, line(f"{kind.short:<3} "), inner, glyphs, bounds) for kind in (OUT, IN)]
        return [(blank, *row) for row in both[:rows]]
    out_rows = (rows - 2 + 1) // 2
    out = _block(facts, OUT, inner, out_rows, rows, glyphs, bounds)
    out += _block(facts, IN, inner, rows - 2 - out_rows, rows, glyphs, bounds)
    return [(blank, *row) for row in out]


def _block(
    facts: Facts, kind: Kind, columns: int, graph_rows: int, rows: int, glyphs: Glyphs, bounds: Bounds
) -> list[Line]:
    """A caption with the figures, and `graph_rows` of graph with the bounds at its right."""
    wide = columns - LABEL
    per, span_s = span_of(wide, rows)
    mine = figures(facts, kind, span_s)
    top = _tops(facts, bounds)[kind.name]
    tail = _tail(mine, kind, {kind.name: top}, None)
    caption = clip((Span(f"{kind.name:<7}"), *tail), columns, ellipsis=glyphs.ellipsis)
    out = [caption]
    drawn = _graph(facts, kind, wide, per, graph_rows, top, glyphs)
    for y, row in enumerate(drawn):
        words = bound(top) if y == 0 else "0" if y == len(drawn) - 1 else ""
        if graph_rows == 1:
            words = f"0-{words}"
        out.append(line((row, kind.style), " ", (f"{words:<{LABEL - 1}}", "dim")))
    return out


LABEL: Final = 6
"""Columns of the bounds beside a graph: ` 0-50k`."""


def _graph(facts: Facts, kind: Kind, columns: int, per: int, rows: int, top: float, glyphs: Glyphs) -> list[str]:
    samples = [Sample(point.t, kind.of(point)) for point in facts.history]
    return graph(columns_of(samples, columns, per, now=facts.now), rows, top, glyphs)


def compact(
    facts: Facts, columns: int, rows: int, glyphs: Glyphs, bounds: Bounds, *, digit: Line, name_style: str
) -> list[Line]:
    """One or two rows without a title."""
    head = line(*digit, ("out ", name_style))
    if rows < 2:
        return [inline(facts, OUT, head, columns, glyphs, bounds, other=IN)]
    under = line(" " * width(digit) + "in  ")
    return [inline(facts, OUT, head, columns, glyphs, bounds), inline(facts, IN, under, columns, glyphs, bounds)]


def title_words(facts: Facts, columns: int, rows: int) -> Line:
    """For the right end of the title: the time that is shown."""
    if not facts.graphs:
        return EMPTY
    wide = columns - 1 - LABEL
    _, span_s = span_of(max(MIN_GRAPH, wide), rows if rows >= 4 else 1)
    return line(f"last {minutes(span_s)}")
