"""The key line: the last row, which never takes the focus. What it draws: `tui.draw.keyline`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tui.draw.keyline import WhyNot, key_line
from tui.draw.line import Line
from tui.keys import KeyTable
from tui.notice import Notice
from tui.panes.pane import Pane

if TYPE_CHECKING:
    from tui.desk import Desk


def _no_reason(action: str) -> None:
    """Until the app says better, every key acts."""
    del action


class KeyLine(Pane, can_focus=False):
    """Keys that act now, or a notice while there is one."""

    DEFAULT_CSS = "KeyLine { height: 1; }"

    def __init__(self, table: KeyTable | None = None, *, where: str = "main", **more: Any) -> None:
        super().__init__(**more)
        self._table = table or KeyTable()
        self._why_not: WhyNot = _no_reason
        self._notice: Notice | None = None
        self._where = where
        self._pane = ""

    def show(self, table: KeyTable, why_not: WhyNot, notice: Notice | None = None, *, pane: str = "") -> None:
        """What the row is made of from now on. `why_not` is asked at every redraw; a notice stays until None comes.

        `pane`: the name of the one in focus.
        """
        self._table, self._why_not, self._notice, self._pane = table, why_not, notice, pane
        if self.is_mounted:
            self.redraw()

    def rows(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        del rows
        notice, cut = self._notice, desk.glyphs.ellipsis
        row = key_line(
            self._table, self._why_not, columns, where=self._where, pane=self._pane, notice=notice, ellipsis=cut
        )
        return [row]
