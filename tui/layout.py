"""Where each pane stands: columns and rows in, boxes out. Pure, so every size can be tested without a terminal.

Panes collapse whole and in a fixed order, rather than all of them shrinking: log, requests, then everything but memory
and rate.
"""

from __future__ import annotations

from typing import NamedTuple

TOO_NARROW = 60
TOO_LOW = 16
"""Below this only header, memory, rate and keys fit, with a message."""

MEDIUM = 100
WIDE = 160
TALL = 30
"""From this many rows on memory and rate have titles and history."""


class Box(NamedTuple):
    """A place on the screen, in cells. `divider`: there is a neighbour on its left."""

    x: int
    y: int
    columns: int
    rows: int
    divider: bool = False


class _Shares(NamedTuple):
    """What a layout gives to whom: rows of the top row, rows of jobs, share of the middle for the requests."""

    top: int = 0
    jobs: int = 0
    requests: float = 0.0
    log: int = 0


_EXTRA: dict[str, _Shares] = {
    "balanced": _Shares(),
    "queue": _Shares(jobs=4, requests=0.25, log=-2),
    "text": _Shares(top=-2, jobs=-2, requests=-1.0, log=-2),
    "machine": _Shares(top=8, jobs=-2, requests=-0.1),
}


def too_small(columns: int, rows: int) -> bool:
    return columns < TOO_NARROW or rows < TOO_LOW


def arrange(columns: int, rows: int, *, layout: str = "balanced", zoomed: str = "") -> dict[str, Box]:
    """Boxes by pane name; a pane without one is not shown. `small` is the place of the message."""
    columns, rows = max(1, columns), max(1, rows)
    if rows < 3:
        return {"small": Box(0, 0, columns, rows)}
    frame = {"header": Box(0, 0, columns, 1), "keys": Box(0, rows - 1, columns, 1)}
    if too_small(columns, rows):
        return frame | _small(columns, rows)
    body = rows - 2
    if zoomed:
        return frame | {zoomed: Box(0, 1, columns, body)}
    extra = _EXTRA.get(layout, _EXTRA["balanced"])
    if columns >= WIDE and rows >= TALL:
        return frame | _wide(columns, body, extra)
    if columns >= MEDIUM and rows >= TALL:
        return frame | _medium(columns, body, extra)
    return frame | _stacked(columns, body, extra)


def _small(columns: int, rows: int) -> dict[str, Box]:
    body = rows - 2
    boxes: dict[str, Box] = {}
    if body >= 5:
        boxes["memory"] = Box(0, 1, columns, 2)
        boxes["rate"] = Box(0, 3, columns, 1)
    at = 4 if boxes else 1
    boxes["small"] = Box(0, at, columns, rows - 1 - at)
    return boxes


def _stack(
    columns: int, y: int, heights: list[tuple[str, int]], *, x: int = 0, divider: bool = False
) -> dict[str, Box]:
    boxes: dict[str, Box] = {}
    for name, rows in heights:
        if rows > 0:
            boxes[name] = Box(x, y, columns, rows, divider)
            y += rows
    return boxes


def _stacked(columns: int, body: int, extra: _Shares) -> dict[str, Box]:
    """One above the other: 80x24 and everything narrow."""
    roomy = body + 2 >= TALL
    memory = 5 + max(0, extra.top) if roomy else 2
    rate = 4 + max(0, extra.top) // 2 if roomy else 1
    left = body - memory - rate
    jobs = 4
    log = requests = 0
    if left >= 15:
        requests = 4
    if left >= 18:
        log = 3
    spare = left - jobs - requests - log - 8
    if spare > 0:  # taller than 24 rows
        more = spare // 4
        jobs, requests, log = jobs + min(more, 6), requests + more, log + min(more, 5)
    if extra.requests <= -1.0:
        requests = 0
    jobs = max(3, jobs + extra.jobs)
    log = max(0, log + extra.log) if log else 0
    if 0 < log < 2:
        log = 0
    if requests and extra.requests > 0:
        requests = max(requests, (left - jobs - log) // 2)
    streams = left - jobs - requests - log
    if streams < 4:
        jobs, requests = max(3, jobs - (4 - streams)), requests
        streams = left - jobs - requests - log
    order = [("memory", memory), ("rate", rate), ("jobs", jobs), ("requests", requests), ("streams", streams)]
    return _stack(columns, 1, [*order, ("log", log)])


def _medium(columns: int, body: int, extra: _Shares) -> dict[str, Box]:
    """Memory and rate side by side, jobs under them, requests beside streams, the log below."""
    top = max(4, 6 + extra.top + max(0, body - 40) // 4)
    jobs = max(3, 6 + extra.jobs + max(0, body - 40) // 5)
    log = max(3, 5 + extra.log + max(0, body - 40) // 5)
    middle = body - top - jobs - log
    if middle < 6:
        top = max(4, top - (6 - middle))
        middle = body - top - jobs - log
    left = columns * 55 // 100
    boxes = {
        "memory": Box(0, 1, left, top),
        "rate": Box(left, 1, columns - left, top, True),
        "jobs": Box(0, 1 + top, columns, jobs),
        "log": Box(0, 1 + top + jobs + middle, columns, log),
    }
    return boxes | _beside(columns, 1 + top + jobs, middle, 0.44 + extra.requests)


def _beside(columns: int, y: int, rows: int, share: float) -> dict[str, Box]:
    """Requests and streams next to each other."""
    if share <= 0:
        return {"streams": Box(0, y, columns, rows)}
    left = int(columns * share)
    return {
        "requests": Box(0, y, left, rows),
        "streams": Box(left, y, columns - left, rows, True),
    }


def _wide(columns: int, body: int, extra: _Shares) -> dict[str, Box]:
    """Three columns: what is done, the texts, the machine."""
    left = min(78, columns * 33 // 100)
    right = min(64, columns * 28 // 100)
    if extra.requests <= -1.0:
        left = columns * 25 // 100
    middle = columns - left - right
    jobs = max(4, body * 2 // 5 + extra.jobs)
    requests = body - jobs
    memory = max(6, body * 2 // 5 + extra.top)
    rate = max(6, body // 4 + extra.top // 2)
    log = body - memory - rate
    if log < 3:
        rate, log = max(4, rate - 3), max(0, body - memory - max(4, rate - 3))
    return (
        _stack(left, 1, [("jobs", jobs), ("requests", requests)])
        | {"streams": Box(left, 1, middle, body, True)}
        | _stack(right, 1, [("memory", memory), ("rate", rate), ("log", log)], x=left + middle, divider=True)
    )
