"""History graphs with fixed, labelled bounds, made of block levels. Pure.

Columns stand on absolute time and only complete ones are drawn, so a graph moves once per column and not with every
sample: what a terminal is sent stays small. Time without a sample stays blank; a measured zero is the lowest block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tui.glyphs import Glyphs

SLACK_S: Final = 1.5
"""Samples come about once a second: one this near to an empty column stands for it, so that jitter makes no holes."""

LATE_S: Final = 3.0
"""How long a sample may be on its way. Without any for longer, the graph moves on and shows the gap."""

STEPS_S: Final = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 60, 120)
"""Seconds a column may stand for."""


class Sample(NamedTuple):
    """A value at a time."""

    t: float
    value: float


class Bounds:
    """Upper bounds of the graphs of one session, by name: 1-2-5 steps that only grow, so that a graph never jumps."""

    def __init__(self) -> None:
        self._top: dict[str, float] = {}

    def top(self, name: str, highest: float, *, least: float = 1.0) -> float:
        """The bound of this graph, raised where `highest` does not fit any more."""
        found = max(self._top.get(name, 0.0), nice(max(highest, least)))
        self._top[name] = found
        return found


def nice(value: float) -> float:
    """The next number of 1, 2, 5, 10, 20, 50, … that is not below `value`; 1 for nothing."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    for factor in (1, 2, 5, 10):
        # A sliver of tolerance, for 0.1 * 3 and its like.
        if value <= factor * unit * (1 + 1e-9):
            return factor * unit
    return 10 * unit


def seconds_per_column(columns: int, span_s: float) -> int:
    """The smallest step with which `columns` show at least `span_s`."""
    for step in STEPS_S:
        if columns * step >= span_s:
            return step
    return STEPS_S[-1]


def columns_of(samples: Iterable[Sample], columns: int, per_column: int, *, now: float) -> list[float | None]:
    """Means by column, the newest complete one last; None where nothing was measured."""
    if columns <= 0 or per_column <= 0:
        return []
    known = [sample for sample in samples if math.isfinite(sample.value)]
    latest = known[-1].t if known else now
    newest = math.floor(max(latest, now - LATE_S) / per_column) - 1
    # One more at each end, which is not shown: whether a column is a hole shows in its neighbours.
    first, wide = newest - columns, columns + 2
    sums = [0.0] * wide
    counted = [0] * wide
    near: list[tuple[float, float] | None] = [None] * wide  # distance and value of the sample nearest to a column
    for t, value in known:
        at = math.floor(t / per_column) - first
        if 0 <= at < wide:
            sums[at] += value
            counted[at] += 1
        for beside in (at - 1, at + 1):
            if 0 <= beside < wide:
                distance = abs(t - (first + beside + 0.5) * per_column) - per_column / 2
                best = near[beside]
                if distance <= SLACK_S and (best is None or distance < best[0]):
                    near[beside] = (distance, value)
    out: list[float | None] = []
    for i in range(1, columns + 1):
        beside = near[i]
        if counted[i]:
            out.append(sums[i] / counted[i])
        elif beside is not None and counted[i - 1] and counted[i + 1]:
            out.append(beside[1])  # a single column is missing: jitter, and no gap
        else:
            out.append(None)
    return out


def graph(values: Sequence[float | None], rows: int, top: float, glyphs: Glyphs) -> list[str]:
    """`rows` texts of one cell per value, top row first. Values above `top` fill their column."""
    steps = len(glyphs.levels)
    heights = [None if value is None else _height(value, rows * steps, top) for value in values]
    out: list[str] = []
    for row in range(rows - 1, -1, -1):
        below = row * steps
        out.append("".join(_cell(height, below, glyphs.levels) for height in heights))
    return out


def _height(value: float, steps: int, top: float) -> int:
    """At least one step: what was measured is to be seen."""
    if top <= 0:
        return 1
    return max(1, min(steps, round(value / top * steps)))


def _cell(height: int | None, below: int, levels: str) -> str:
    if height is None or height <= below:
        return " "
    return levels[min(height - below, len(levels)) - 1]
