"""The last row: the keys that act now, or a notice in their place. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tui.can import OUT_OF_PLACE
from tui.draw.line import EMPTY, Line, Span, fill, joined, line, restyle, width
from tui.keys import NEAR, Key, KeyTable, first
from tui.notice import Level, Notice

ALWAYS: Final = ("help", "leave")
"""At the right end, at any width and in this order, so that the way out stands in one place."""

NEARER: Final = 5
"""What the pane in focus adds to the weight of its own keys: less than what pausing and resuming have."""

_STYLES: Final[dict[Level, str]] = {"info": "notice", "warn": "warn", "error": "error"}
_SIGNS: Final[dict[Level, str]] = {"info": "", "warn": "! ", "error": "error: "}


WhyNot = Callable[[str], str | None]


def key_line(
    table: KeyTable,
    why_not: WhyNot,
    columns: int,
    *,
    where: str = "main",
    pane: str = "",
    notice: Notice | None = None,
    ellipsis: str = "…",
) -> Line:
    """Exactly `columns` wide. The keys that want a place most get one; they stand in the order of the table.

    `pane`: the one in focus, whose own keys want a place more than elsewhere.
    """
    if notice is not None and notice.text:
        row = line(f" {_SIGNS[notice.level]}{notice.text}")
        return fill(restyle(row, _STYLES[notice.level]), columns, ellipsis=ellipsis)
    keys = [key for key in table.within(where) if key.keys]
    ends = [key for action in ALWAYS for key in keys if key.action == action]
    tail = joined(_entry(key) for key in ends)
    room = columns - width(tail) - 2 if tail else columns - 1
    near = NEAR.get(pane, ())
    wanted = [
        key
        for key in keys
        if (key.footer or key.action in near) and key.action not in ALWAYS and why_not(key.action) not in OUT_OF_PLACE
    ]
    # Stable: the table's order among equals.
    wanted.sort(key=lambda key: -key.footer - (NEARER if key.action in near else 0))
    able = {key.action: why_not(key.action) is None for key in wanted}
    chosen: set[str] = set()
    used = -2
    for usable in (True, False):  # greyed keys only in what is left
        for key in wanted:
            columns_needed = width(_entry(key)) + 2
            if able[key.action] == usable and used + columns_needed <= room - 2:
                chosen.add(key.action)
                used += columns_needed
    shown = [_entry(key) if able[key.action] else restyle(_grey(key), "dim") for key in keys if key.action in chosen]
    left = (Span(" "), *joined(shown)) if shown else EMPTY
    gap = columns - width(left) - width(tail) - 1
    if gap < 0:
        return fill(tail, columns, ellipsis=ellipsis)
    return fill((*left, Span(" " * gap), *tail), columns)


def _entry(key: Key) -> Line:
    return line((first(key.keys), "key"), f" {key.label}")


def _grey(key: Key) -> Line:
    return line(f"{first(key.keys)} {key.label}")
