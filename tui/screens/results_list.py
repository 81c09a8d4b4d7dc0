"""The list of requests on the results screen: a window over any number of rows, with a cursor that keeps its request.

Asks nothing itself: the screen asks what `window` wants and gives it the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from engine.pages import RequestRow
from engine.protocol import JobView, RunningRequest
from tui.desk import Desk
from tui.draw import requests as draw
from tui.draw.columns import foreign
from tui.draw.line import EMPTY, Line, Span, clip, fill, line, restyle
from tui.panes.list_pane import ListPane
from tui.plain import count
from tui.text import fit
from tui.view import Which
from tui.window import RequestWindow


class ResultsList(ListPane):
    """Requests of one job."""

    NAME: ClassVar[str] = "results"

    def __init__(self, job: JobView, **more: Any) -> None:
        super().__init__(**more)
        self.window = RequestWindow()
        self.which = Which.ALL
        self.sought = ""
        """The text that all listed requests hold."""
        self.selected = ""
        """custom_id under the cursor; "" while its row is not at hand."""
        self._job = job
        self._in_slots: dict[str, RunningRequest] = {}

    # --- what is looked at --------------------------------------------------------------------------------------------

    def go_to(self, custom_id: str) -> None:
        """Put the cursor on this one, wherever it is."""
        self.selected = custom_id
        self.window.seek(custom_id)

    def look_at(self, which: Which, sought: str) -> None:
        """Other requests; the cursor stays on its request where that is among them."""
        if (which, sought) != (self.which, self.sought):
            self.which, self.sought = which, sought
            self.cursor.at = self.cursor.top = 0

    def prepare(self, desk: Desk, job: JobView) -> None:
        """Take in what is new; afterwards `window.want` says what to ask."""
        self._job = job
        self._in_slots = {request.custom_id: request for request in desk.mirror.running_of(job.id)}
        keep = self.selected or self.window.seeking
        if self.window.select(job.id, self.which, self.sought, job.taken_out) and keep:
            self.window.seek(keep)
        saved = desk.mirror.saved.get(job.id, 0)
        self.window.refresh((saved, str(job.state), job.counts.aborted, job.counts.total))
        self.settle()

    @property
    def _only_running(self) -> bool:
        return self.which is Which.RUNNING

    def row(self, i: int) -> RequestRow | None:
        """Row `i` as the files tell it; one in a slot says `running`."""
        if self._only_running:
            live = self._live()
            return _as_row(live[i]) if 0 <= i < len(live) else None
        row = self.window.row(i)
        if row is not None and row.custom_id in self._in_slots:
            return msgspec.structs.replace(row, state="running")
        return row

    def _live(self) -> Sequence[RunningRequest]:
        wanted = self.sought.casefold()
        live = [request for request in self._in_slots.values() if wanted in request.custom_id.casefold()]
        return sorted(live, key=lambda request: (request.line, request.key))

    @property
    def current(self) -> RequestRow | None:
        """The row under the cursor."""
        return self.row(self.cursor.at)

    def running(self, custom_id: str) -> RunningRequest | None:
        return self._in_slots.get(custom_id)

    @property
    def searching(self) -> bool:
        """More may come: not all of the files has been read. What a job adds while it runs comes by itself."""
        window = self.window
        behind = window.fraction < 1 and not (window.caught_up and not self.sought)
        return not self._only_running and (not window.known or behind)

    # --- the cursor ---------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        seeks = bool(self.window.seeking) and not self._only_running
        if self._only_running:
            names = [request.custom_id for request in self._live()]
            self.total = len(names)
            at = names.index(self.selected) if self.selected in names else None
        else:
            self.total = self.window.total
            at = self.window.place(self.selected)
        if at is not None:
            self.cursor.follow(at, still=self.window.moves and not seeks)
        self.cursor.settle(self.total, self.page)
        if at is None and not seeks:
            row = self.current
            self.selected = row.custom_id if row is not None else ""
        self.window.show(self.cursor.top, self.page, self.selected)

    def moved(self) -> None:
        self.window.seek("")
        row = self.current
        self.selected = row.custom_id if row is not None else ""
        self.window.show(self.cursor.top, self.page, self.selected)

    # --- drawing ------------------------------------------------------------------------------------------------------

    def rows(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        self.page = max(1, rows - 1)
        self.settle()
        glyphs, now = desk.glyphs, desk.now()
        at = draw.arrange(columns, total=max(self._job.counts.total, self.total), context=self._job.context)
        out = [self._title(desk, columns)]
        for i in range(self.cursor.top, min(self.total, self.cursor.top + self.page)):
            row = self.row(i)
            here = i == self.cursor.at
            sign = draw.Sign(here)
            request = self._in_slots.get(row.custom_id) if row is not None else None
            if row is None:
                drawn = draw.absent_row(at, glyphs, sign)
            elif request is not None:
                drawn = draw.running_row(request, at, glyphs, sign, now=now)
            else:
                drawn = draw.rest_row(row, at, glyphs, sign)
            if here:
                drawn = restyle(fill(drawn, columns), "cursor" if self.has_focus else "cursor.idle")
            out.append(drawn)
        if not self.total:
            out.append(self._nothing(desk, columns))
        return out

    def _nothing(self, desk: Desk, columns: int) -> Line:
        note = self.window.note
        if self.searching and not note:
            verb = "searching" if self.sought else "reading the files"
            how_far = f" {self.window.fraction:.0%}" if self.window.known else ""
            cancel = ", esc stops" if self.sought else ""
            text = f"  {verb}{desk.glyphs.ellipsis}{how_far}{cancel}"
            return clip(line((text, "dim")), columns, ellipsis=desk.glyphs.ellipsis)
        return draw.nothing(self.which, self.sought, columns, desk.glyphs, note=foreign(note))

    def _title(self, desk: Desk, columns: int) -> Line:
        glyphs = desk.glyphs
        matches = self.total if self._only_running or self.window.known else None
        note = draw.title_note(self._job, self.which, self.sought, matches, glyphs, columns)
        right: list[Span] = []
        if self.searching and self.window.known:
            verb = "searching" if self.sought else "reading"
            right.append(Span(f"{verb}{glyphs.ellipsis} {self.window.fraction:.0%}", "info"))
        elif self.window.note and self.total:
            right.append(Span(fit(foreign(self.window.note), columns // 3, ellipsis=glyphs.ellipsis), "warn"))
        elif self.total:
            right.append(Span(f"{count(self.cursor.at + 1)}/{count(self.total)}"))
        return self.title(columns, "results", note=note, right=tuple(right) if columns >= 50 else EMPTY)


def _as_row(request: RunningRequest) -> RequestRow:
    return RequestRow(custom_id=request.custom_id, line=request.line, state="running")
