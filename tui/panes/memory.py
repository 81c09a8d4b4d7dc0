"""The memory pane: who holds how much of each device, and how much is free. What it draws: `tui.draw.memory`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from engine.job import ACTIVE
from tui.draw import memory as drawn
from tui.draw.history import Bounds
from tui.draw.line import EMPTY, Line, line, width
from tui.draw.steady import Steady
from tui.panes.pane import Pane
from tui.text import one_line

if TYPE_CHECKING:
    from tui.desk import Desk

TITLED_ROWS = 4
"""From this many rows on there is a title; below, each row is needed for a figure."""


class MemoryPane(Pane):
    """Two rows are enough for it; more rows bring owners, room for slots, peak and history."""

    NAME: ClassVar[str] = "memory"
    DIGIT: ClassVar[str] = "2"

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self._steady = Steady()
        self._bounds = Bounds()

    def rows(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        reading = desk.mirror.reading
        name_style = "title.focus" if self.has_focus else "title"
        if reading is None:
            words = line(("no memory reading yet", "dim"))
            if rows < TITLED_ROWS:
                return [(*self._digit, *line(("mem ", name_style)), *words)]
            return [self.title(columns, "memory"), (*line(" "), *words)]
        reading = drawn.steadied(reading, self._steady)
        main, _ = drawn.shown(reading)
        right = drawn.sensors(main[0]) if len(main) == 1 else EMPTY
        if reading.note and not right:
            right = line((one_line(reading.note), "dim"))
        if columns < width(right) + 24:
            right = EMPTY
        facts = drawn.Facts(
            reading=reading,
            engine=desk.mirror.engine,
            history=desk.mirror.history,
            waiting=_waiting(desk),
            now=desk.now(),
            graphs=not desk.view.low_bandwidth,
            note_in_title=bool(right),
        )
        if rows < TITLED_ROWS:
            return drawn.compact(facts, columns, rows, desk.glyphs, digit=self._digit, name_style=name_style)
        title = self.title(columns, "memory", right=right, note=drawn.devices_words(reading))
        return [title, *drawn.body(facts, columns, rows - 1, desk.glyphs, self._bounds)]

    @property
    def _digit(self) -> Line:
        return line((f"{self.DIGIT} ", "key"))


def _waiting(desk: Desk) -> int | None:
    """Requests that wait for a slot, over all jobs in work; None where there are none."""
    active = [job for job in desk.mirror.jobs.values() if job.state in ACTIVE]
    return sum(job.counts.waiting for job in active) if active else None
