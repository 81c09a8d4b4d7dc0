"""The log pane: what was decided and what went wrong, with its cause."""

from __future__ import annotations

from typing import ClassVar

from tui.desk import Desk
from tui.draw.line import Line
from tui.draw.log import Log
from tui.panes.pane import Pane


class LogPane(Pane):
    """Incidents, newest at the bottom."""

    NAME: ClassVar[str] = "log"
    DIGIT: ClassVar[str] = "6"

    def __init__(self) -> None:
        super().__init__()
        self.entries = Log()

    def rows(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        return [self.title(columns, "log", right=self.entries.state(desk)), *self.entries.look(desk, columns, rows - 1)]

    def act(self, action: str) -> bool:
        return self.entries.act(self.desk, self.body_columns, action)
