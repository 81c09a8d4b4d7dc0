"""The jobs pane: the queue, one job a row; the one under the cursor unfolds where there is room."""

from __future__ import annotations

from typing import Any, ClassVar

from engine.protocol import JobView
from tui.desk import Desk
from tui.draw import jobs as draw
from tui.draw.line import Line, clip, line, restyle
from tui.panes.list_pane import ListPane

UNFOLDS_FROM = 6
"""Rows from which on the selected job unfolds even where not all jobs are in sight then."""

MOST_LINES = 4

FACTS_S = 1.0
"""How often the unfolded facts of a job change: nobody reads them four times a second."""


class JobsPane(ListPane):
    """The cursor is on `view.job`, wherever that stands in the queue."""

    NAME: ClassVar[str] = "jobs"
    DIGIT: ClassVar[str] = "1"

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self._unfolded: list[Line] = []
        self._unfolded_what: object = None
        self._unfolded_t = float("-inf")

    def rows(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        self.settle()
        queue = desk.mirror.queue
        marked = desk.view.marked_jobs
        right = draw.title_right(queue, len(marked))
        title = self.title(columns, "jobs", right=line(right) if right and columns >= 2 * len(right) else ())
        room = max(1, rows - 1)
        if not queue:
            self.page = room
            return [title, *_welcome(desk, columns)]
        at = draw.arrange(queue, columns)
        under = queue[self.cursor.at]
        unfolded = self._unfold(desk, under, at, _spare(len(queue), room))
        self.page = max(1, room - len(unfolded))
        self.cursor.settle(self.total, self.page)
        cursor_style = "cursor" if self.has_focus else "cursor.idle"
        lines = [title]
        for job in queue[self.cursor.top : self.cursor.top + self.page]:
            here = job is under
            row = draw.job_row(job, at, desk.glyphs, cursor=here, marked=job.id in marked)
            lines.append(restyle(row, cursor_style) if here else row)
            if here:
                lines.extend(unfolded)
        return lines

    def _unfold(self, desk: Desk, job: JobView, at: draw.JobColumns, lines: int) -> list[Line]:
        """The lines under the chosen job; those of one at work change once a second."""
        now = desk.now()
        what = (job.id, job.state, job.sentence, job.counts.failed, job.counts.aborted, at, lines, desk.glyphs)
        if what != self._unfolded_what or not 0 <= now - self._unfolded_t < FACTS_S:
            row = "".join(span.text for span in draw.job_row(job, at, desk.glyphs))
            self._unfolded = draw.unfolded(job, at.columns, lines, desk.glyphs, now=now, shown=row)
            self._unfolded_what, self._unfolded_t = what, now
        return self._unfolded

    def settle(self) -> None:
        desk = self.desk
        queue = desk.mirror.queue
        self.total = len(queue)
        places = {job.id: i for i, job in enumerate(queue)}
        desk.view.marked_jobs &= places.keys()
        desk.view.choose_job(queue)
        if desk.view.job:
            self.cursor.follow(places[desk.view.job])

    def moved(self) -> None:
        queue = self.desk.mirror.queue
        if queue:
            self.desk.view.select_job(queue[self.cursor.at].id)


def _spare(jobs: int, room: int) -> int:
    """Lines that the selected job may unfold to."""
    spare = room - jobs
    if spare < 1 and room >= UNFOLDS_FROM:
        spare = 1
    return min(max(0, spare), MOST_LINES)


def _welcome(desk: Desk, columns: int) -> list[Line]:
    text = "no jobs yet: press a to add a batch, or `gptoss-tui run FILE`"
    if desk.readonly:
        text = "no jobs yet: `gptoss-tui run FILE` adds one (this screen only watches)"
    return [clip(line(f"  {text}"), columns, ellipsis=desk.glyphs.ellipsis)]
