"""The base of panes that are lists with a cursor: where the cursor is, which rows show, and the keys that move it.

`Cursor` is plain arithmetic on row numbers; which row is which, so that the cursor stays on it, is the subclass's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tui.panes.pane import Pane

STEPS: Final = frozenset({"up", "down", "page_up", "page_down", "half_up", "half_down", "top", "bottom"})
"""Those of `tui.keys.MOVES` that move a cursor from row to row."""


def margin(page: int) -> int:
    """Rows that stay in sight above and below the cursor, where there are any."""
    return min(2, max(0, (page - 1) // 4))


@dataclass
class Cursor:
    """A place in a list. After `settle` it is on a row (if there is one), in sight, and the page has no empty end."""

    at: int = 0
    top: int = 0

    def step(self, action: str, total: int, page: int) -> bool:
        """Move as a key says; False if the action is no move."""
        if action not in STEPS:
            return False
        page = max(1, page)
        by = {"page": max(1, page - 1), "half": max(1, page // 2)}.get(action.partition("_")[0], 1)
        before = self.at
        match action:
            case "top":
                self.at = 0
            case "bottom":
                self.at = max(0, total - 1)
            case "up" | "page_up" | "half_up":
                self.at = max(0, self.at - by)
            case _:
                self.at = min(max(0, total - 1), self.at + by)
        if "_" in action:  # the page goes along, so that the cursor keeps its height
            self.top += self.at - before
        self.settle(total, page)
        return True

    def settle(self, total: int, page: int) -> None:
        """Back into the list and into sight."""
        page = max(1, page)
        self.at = min(max(0, self.at), max(0, total - 1))
        room = margin(page)
        self.top = min(self.top, self.at - room)
        self.top = max(self.top, self.at + room + 1 - page)
        self.top = max(0, min(self.top, total - page))

    def follow(self, at: int, *, still: bool = False) -> None:
        """The row under the cursor is at `at` now. `still`: all rows moved with it, so the picture should stay."""
        if still:
            self.top = max(0, self.top + at - self.at)
        self.at = at


class ListPane(Pane):
    """A list with a cursor. A subclass keeps `total` and `page` up to date and says what a move means."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.cursor = Cursor()
        self.total = 0
        self.page = 1
        """Rows that were visible when it was drawn last."""

    def settle(self) -> None:
        """Take in what has changed since it was drawn last: `total`, and where the cursor's row is now."""

    def moved(self) -> None:
        """A key has put the cursor on another row."""

    def act(self, action: str) -> bool:
        if action not in STEPS:
            return False
        self.settle()
        self.cursor.step(action, self.total, self.page)
        self.moved()
        return True
