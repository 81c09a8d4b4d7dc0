"""The memory screen (`m`): who holds how much, what a slot costs and how many more would fit.

It covers everything and is drawn like a pane: by `redraw()` at the app's tick. Its text: `tui.draw.memory_plan`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.events import Key
from textual.screen import ModalScreen

from tui.draw import memory_plan
from tui.draw.line import Line, line
from tui.draw.memory import steadied
from tui.draw.steady import Steady
from tui.keys import MOVES, KeyTable, first
from tui.panes.pane import Pane
from tui.screens.parts import ClosesOnce

if TYPE_CHECKING:
    from tui.desk import Desk

CLOSING = frozenset({"memory", "back", "leave"})
"""Actions whose keys close this screen."""

ADD = "add"
"""What the screen returns when a person goes from here to adding a batch."""


class MemoryTable(Pane):
    """The rows, and a window over them."""

    NAME: ClassVar[str] = "memory_plan"

    def __init__(self, table: KeyTable) -> None:
        super().__init__()
        self._steady = Steady()
        self._table = table
        self._top = 0
        self._last_top = 0  # as far down as the last drawing went
        self._page = 1

    def rows(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        mirror = desk.mirror
        facts = memory_plan.Facts(
            reading=None if mirror.reading is None else steadied(mirror.reading, self._steady),
            engine=mirror.engine,
            history=mirror.history,
            incidents=mirror.incidents,
            now=desk.now(),
            add_key=first(self._table[ADD].keys),
        )
        found = memory_plan.plan(facts, columns, desk.glyphs)
        self._page = max(1, rows - 1)
        self._last_top = max(0, len(found) - self._page)
        self._top = min(self._top, self._last_top)
        closing = first(self._table["back"].keys) or first(self._table["memory"].keys)
        right = line((closing, "key"), " close")
        if self._last_top:
            glyphs = desk.glyphs
            above, below = self._top > 0, self._top < self._last_top
            arrows = f"{glyphs.up if above else ' '}{glyphs.down if below else ' '}"
            right = line(arrows, " scroll  ", *right)
        head = self.title(columns, "memory", note="who holds how much, and what still fits", right=right)
        return [head, *found[self._top : self._top + self._page]]

    def act(self, action: str) -> bool:
        by = {
            "up": -1,
            "down": 1,
            "page_up": -self._page,
            "page_down": self._page,
            "half_up": -max(1, self._page // 2),
            "half_down": max(1, self._page // 2),
            "top": -self._last_top,
            "bottom": self._last_top,
        }.get(action)
        if by is None:
            return False
        self._top = max(0, min(self._last_top, self._top + by))
        self.redraw()
        return True


class MemoryScreen(ClosesOnce[str | None], ModalScreen[str | None]):
    """Returns `ADD` when the key for adding a batch was pressed, else None."""

    DEFAULT_CSS = """
    MemoryScreen { background: ansi_default; }
    MemoryScreen > MemoryTable { width: 100%; height: 100%; }
    """

    def __init__(self, table: KeyTable | None = None, *, readonly: bool = False) -> None:
        super().__init__()
        self._table = table or KeyTable()
        self._readonly = readonly
        self._actions = self._table.lookup("main")
        self._rows = MemoryTable(self._table)

    def compose(self) -> ComposeResult:
        yield self._rows

    def on_mount(self) -> None:
        self._rows.focus()

    def redraw(self) -> None:
        """Once a tick; writes nothing where nothing changed."""
        self._rows.redraw()

    def on_key(self, event: Key) -> None:
        action = self._actions.get(event.key, "")
        if event.key == "escape" or action in CLOSING:
            self.dismiss(None)
        elif action == ADD and not self._readonly:
            self.dismiss(ADD)
        elif action not in MOVES or not self._rows.act(action):
            return
        event.stop()
        event.prevent_default()
