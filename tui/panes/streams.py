"""The streams pane: the texts of running requests as they are generated."""

from __future__ import annotations

from typing import ClassVar

from tui.desk import Desk
from tui.draw.line import Line
from tui.draw.streams import Name, Streams
from tui.panes.pane import Pane


class StreamsPane(Pane):
    """One text in focus, and up to four more where there is room."""

    NAME: ClassVar[str] = "streams"
    DIGIT: ClassVar[str] = "5"

    def __init__(self) -> None:
        super().__init__()
        self.streams = Streams()

    def rows(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        body = self.streams.look(desk, columns, rows - 1)
        title = self.title(
            columns, "streams", note=self.streams.note(desk, columns), right=self.streams.state(desk, columns)
        )
        return [title, *body]

    def act(self, action: str) -> bool:
        return self.streams.act(self.desk, action)

    def focus_of(self, desk: Desk) -> Name | None:
        """Job and custom_id of the text in focus."""
        self.streams.choose(desk)
        return self.streams.focus
