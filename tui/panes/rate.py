"""The rate pane: tokens a second over the last minutes. What it draws: `tui.draw.rate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from engine.job import ACTIVE
from tui.draw import rate as drawn
from tui.draw.history import Bounds
from tui.draw.line import Line, line
from tui.panes.pane import Pane

if TYPE_CHECKING:
    from tui.desk import Desk

TITLED_ROWS = 3


class RatePane(Pane):
    """One row is enough for it; more rows bring prefill's graph and higher graphs."""

    NAME: ClassVar[str] = "rate"
    DIGIT: ClassVar[str] = "3"

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self._bounds = Bounds()
        self._kept: tuple[object, list[Line]] = (None, [])

    def rows(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        """Drawn anew once a second and not at every tick: the history has a point a second."""
        history = desk.mirror.history
        ends = (len(history), history[0].t, history[-1].t) if history else (0, 0.0, 0.0)
        look = (columns, rows, desk.glyphs, self.has_focus, desk.view.low_bandwidth)
        fallback = None if history else _of_jobs(desk)
        key = (look, ends, int(desk.now()), fallback)
        if self._kept[0] != key:
            self._kept = (key, self._drawn(desk, columns, rows, fallback))
        return self._kept[1]

    def _drawn(self, desk: Desk, columns: int, rows: int, fallback: tuple[float, float] | None) -> list[Line]:
        facts = drawn.Facts(
            history=desk.mirror.history,
            now=desk.now(),
            fallback=fallback,
            graphs=not desk.view.low_bandwidth,
        )
        if rows < TITLED_ROWS:
            digit = line((f"{self.DIGIT} ", "key"))
            name_style = "title.focus" if self.has_focus else "title"
            return drawn.compact(facts, columns, rows, desk.glyphs, self._bounds, digit=digit, name_style=name_style)
        title = self.title(columns, "rate", right=drawn.title_words(facts, columns, rows - 1))
        return [title, *drawn.body(facts, columns, rows - 1, desk.glyphs, self._bounds)]


def _of_jobs(desk: Desk) -> tuple[float, float] | None:
    """Decode and prefill of the jobs in work, as they tell themselves; None without any."""
    active = [job for job in desk.mirror.jobs.values() if job.state in ACTIVE]
    if not active:
        return None
    return sum(job.decode_rate for job in active), sum(job.prefill_rate for job in active)
