"""The requests pane: what of the selected job runs now, and under it the requests that the filter lets through.

Running ones come from the runner and keep their rows (`tui.places`); the others come page by page from the files
(`tui.window`), so that a job of a million requests costs as much as a screenful.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from engine.protocol import JobView, RunningRequest
from tui.desk import Desk
from tui.draw import requests as draw
from tui.draw.line import EMPTY, Line, clip, line, restyle
from tui.panes.list_pane import ListPane
from tui.places import Places
from tui.view import Which

FIGURES_S: Final = 1.0
"""How often figures of running requests change: thirty rows of them at every tick are kilobytes that nobody reads."""


OUTCOME_S: Final = 1.0
"""How often the outcome of the chosen request is looked for, once it has ended."""


def _shown(before: RunningRequest | None, now: RunningRequest) -> RunningRequest:
    """The figures shown last, unless its answer has begun since."""
    return now if before is None or (now.generated and not before.generated) else before


class RequestsPane(ListPane):
    """The cursor stays on its custom_id: in the rows on top while it runs, else where the filter lists it."""

    NAME: ClassVar[str] = "requests"
    DIGIT: ClassVar[str] = "4"

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self._job = ""
        self._selection: tuple[Which, str] = (Which.ALL, "")
        self._places = Places()
        self._live: dict[str, RunningRequest] = {}
        self._key = ""  # custom_id under the cursor; "" while its row is not at hand
        self._figures_t = float("-inf")
        self._outcome_t = float("-inf")
        self._block = 0  # rows of `_places` when the cursor was placed
        self._sought = ""  # custom_id that somebody else has chosen and that is looked for

    # --- drawing ------------------------------------------------------------------------------------------------------

    def rows(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        self.page = max(1, rows - 1)
        self.settle()
        view, window = desk.view, desk.window
        job = desk.mirror.jobs.get(view.job)
        if job is None:
            return [self.title(columns, "requests"), clip(line(("  no job is selected", "dim")), columns)]
        block = len(self._places.rows)
        top = max(0, self.cursor.top - block)
        visible = self.cursor.top + self.page - block - top
        in_list = self.cursor.at >= block
        window.show(top, max(1, visible), self._key if in_list else "")
        at = draw.arrange(columns, total=max(job.counts.total, window.total), context=job.context)
        cursor_style = "cursor" if self.has_focus else "cursor.idle"
        lines = [self._title(desk, job, columns)]
        if not self.total:
            from_files = view.which != Which.RUNNING
            fraction = window.fraction if from_files and not window.caught_up else 1.0
            if from_files and job.counts.total and not window.known and not window.note:
                lines.append(clip(line((f"  reading the files{desk.glyphs.ellipsis}", "dim")), columns))
            else:
                note = draw.foreign(window.note)
                lines.append(draw.nothing(view.which, view.query, columns, desk.glyphs, note=note, fraction=fraction))
            return lines
        for i in range(self.cursor.top, min(self.cursor.top + self.page, self.total)):
            row = self._row(desk, i, at, self._figures_t)
            lines.append(restyle(row, cursor_style) if i == self.cursor.at else row)
        return lines

    def _title(self, desk: Desk, job: JobView, columns: int) -> Line:
        view, window = desk.view, desk.window
        matches: int | None = window.total if window.known else None
        if view.which == Which.RUNNING:
            matches = len(self._live)
        elif view.which == Which.WAITING and matches is not None and not view.query:
            matches = max(0, matches - len(self._live))  # the files don't know that those run
        note = draw.title_note(job, view.which, view.query, matches, desk.glyphs, columns)
        fraction = window.fraction if window.known and not window.caught_up else 1.0
        running = len(self._live) if columns >= 2 * len(note) else 0
        right = draw.title_right(running, len(view.marked_requests), fraction, window.note, desk.glyphs, columns)
        return self.title(columns, "requests", note=note, right=right if columns >= 40 else EMPTY)

    def _row(self, desk: Desk, i: int, at: draw.RequestColumns, now: float) -> Line:
        """Row `i` of running ones and window together."""
        glyphs, marks = desk.glyphs, desk.view.marked_requests
        block = len(self._places.rows)
        here = i == self.cursor.at
        if i < block:
            place = self._places.rows[i]
            sign = draw.Sign(here, place.request.custom_id in marks)
            if place.ended is None:
                return draw.running_row(place.request, at, glyphs, sign, now=now)
            row = desk.window.find(place.request.custom_id)
            if row is not None and row.state != "waiting":
                return draw.rest_row(row, at, glyphs, sign)
            return draw.ended_row(place.request, at, glyphs, sign)
        row = desk.window.row(i - block)
        if row is None:
            return draw.absent_row(at, glyphs, draw.Sign(here))
        sign = draw.Sign(here, row.custom_id in marks)
        live = self._live.get(row.custom_id)
        if live is not None and self._places.find(row.custom_id) is not None:
            return draw.above_row(row, at, glyphs, sign)  # the same figures twice would only be looked for twice
        if live is not None:
            return draw.running_row(live, at, glyphs, sign, now=now)
        return draw.rest_row(row, at, glyphs, sign)

    # --- where the cursor is ------------------------------------------------------------------------------------------

    def settle(self) -> None:
        desk = self.desk
        view, window = desk.view, desk.window
        job = desk.mirror.jobs.get(view.job)
        self._choose(desk, job)
        if job is None:
            self.total = 0
            return
        self._run(desk, job)
        block = len(self._places.rows)
        self.total = block + (window.total if view.which != Which.RUNNING else 0)
        if view.request != self._key:
            self._go_to(desk, view.request)
        self._follow(desk)
        self._block = block
        self._look_for_outcome(desk)
        self.cursor.settle(self.total, self.page)
        key = self._at_hand(desk)
        if key or not self.total:
            self._key = key
        # While the row is not at hand, the cursor is on nothing that a key could act on.
        if not window.seeking:
            view.request = self._key

    def _choose(self, desk: Desk, job: JobView | None) -> None:
        """Tell the window what is looked at; from the top if that is something else than before."""
        view, window = desk.view, desk.window
        taken_out = job.taken_out if job is not None else []
        window.select(job.id if job is not None else "", view.which, view.query, taken_out)
        if self._job != view.job:
            self._job = view.job
            self._places.clear()
            self._live = {}  # another job may use the same custom_ids
            self._start_anew()
        if self._selection != (view.which, view.query):
            self._selection = (view.which, view.query)
            if view.request == self._key:  # unless another one was chosen together with the filter
                view.request, view.chosen = "", False
            self._start_anew()

    def _start_anew(self) -> None:
        self.cursor.at = self.cursor.top = 0
        self._key = ""
        self._block = 0

    def _run(self, desk: Desk, job: JobView) -> None:
        """Who runs, and which of them stand on top."""
        view = desk.view
        now = desk.now()
        before: dict[str, RunningRequest] = self._live
        if not 0 <= now - self._figures_t < FIGURES_S:
            before, self._figures_t = {}, now
        running = [_shown(before.get(request.custom_id), request) for request in desk.mirror.running_of(job.id)]
        self._live = {request.custom_id: request for request in running}
        if view.which not in (Which.ALL, Which.RUNNING):
            self._places.clear()
            return
        if view.query:
            query = view.query.casefold()
            running = [request for request in running if query in request.custom_id.casefold()]
        on_top = view.chosen and self.cursor.at < self._block
        self._places.take(running, now, keep=self._key if on_top else "")

    def _go_to(self, desk: Desk, custom_id: str) -> None:
        """Somebody else has chosen another request, or none."""
        window = desk.window
        if not custom_id:
            self._start_anew()
            return
        block = len(self._places.rows)
        row = self._places.find(custom_id)
        if row is None and (place := window.place(custom_id)) is not None:
            row = block + place
        if row is not None:
            window.seek("")
            self._sought = ""
            self.cursor.follow(row)
            self._key, self._block = custom_id, block
        elif window.seeking != custom_id:
            if self._sought == custom_id or desk.view.which == Which.RUNNING:  # looked for, and not there
                self._sought = ""
                desk.view.request = self._key
            else:
                self._sought = custom_id
                window.seek(custom_id)

    def _follow(self, desk: Desk) -> None:
        """The cursor's row may stand elsewhere now."""
        block = len(self._places.rows)
        if not desk.view.chosen and not self.cursor.at:
            self._key = ""  # nobody has moved it: the first row, whatever that is
            return
        if self.cursor.at < self._block:
            row = self._places.find(self._key)
            if row is not None:
                self.cursor.follow(row)
            else:
                self.cursor.at = min(self.cursor.at, max(0, block - 1))
                self._key = ""
            return
        # In the list below: it moves with the number of rows on top, and with what comes and goes above it.
        at = self.cursor.at - self._block
        place = desk.window.place(self._key) if desk.window.moves else at
        self.cursor.follow(block + (at if place is None else place), still=True)

    def _look_for_outcome(self, desk: Desk) -> None:
        """The chosen request has ended: what it came to stands in the files, maybe far from the rows at hand."""
        view, window, now = desk.view, desk.window, desk.now()
        if self.cursor.at >= self._block or self._places.rows[self.cursor.at].ended is None:
            return
        row = window.find(self._key)
        known = row is not None and row.state != "waiting"
        if known or not view.chosen or window.moves or window.seeking or 0 <= now - self._outcome_t < OUTCOME_S:
            return
        self._outcome_t = now
        window.seek(self._key)

    def _at_hand(self, desk: Desk) -> str:
        """The custom_id of the cursor's row, as far as known."""
        block = len(self._places.rows)
        if self.cursor.at < block:
            return self._places.rows[self.cursor.at].request.custom_id
        row = desk.window.row(self.cursor.at - block)
        return row.custom_id if row is not None else ""

    # --- keys ---------------------------------------------------------------------------------------------------------

    def moved(self) -> None:
        view = self.desk.view
        self._block = len(self._places.rows)
        self._key = self._at_hand(self.desk)
        view.request = self._key
        view.chosen = self.total > 0
        self.desk.window.seek("")

    def act(self, action: str) -> bool:
        if action in ("left", "right"):
            return self._next_running(1 if action == "right" else -1)
        return super().act(action)

    def _next_running(self, step: int) -> bool:
        """The running request before or behind the cursor."""
        self.settle()
        block = len(self._places.rows)
        if not block:
            return False
        self.cursor.follow(min(max(0, self.cursor.at + step), block - 1))
        self.cursor.settle(self.total, self.page)
        self.moved()
        return True
