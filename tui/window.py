"""A window over the requests of a job: the rows that are at hand, and which to ask for. Pure: time comes in.

Owns one selection (job, filter, text) and a few spans of rows of it, so a job may have a million requests. Whoever
draws says what it shows (`select`, `refresh`, `show`); whoever reads files asks `want` each tick, sends what it gets to
the child of `engine.pages`, and gives the answer to `take`. Never more than one question is on its way, so the child is
never behind by more than one; an answer to an old selection is dropped.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple

from engine.pages import AskPage, Page, RequestRow
from tui.view import Which

AGAIN_S: Final = 0.5
"""Shortest time between two questions that only look for news."""

LOST_S: Final = 30.0
"""An answer that takes longer does not come any more: the child was ended. Text searches over a million requests take
seconds."""

RETRY_S: Final = 2.0
"""Pause after a question that failed."""

CAUGHT_UP: Final = 0.98
"""From this fraction on the reader is up to date: the files of a job at work grow while they are read."""

SPANS: Final = 8
"""Spans of rows kept, newest first. Each has at most MOST rows."""

MOST: Final = 300
LEAST: Final = 30


class _Span(NamedTuple):
    """Consecutive rows, as they were at one time."""

    offset: int
    rows: Sequence[RequestRow]
    age: int  # the `_age` at which they were asked for

    @property
    def end(self) -> int:
        return self.offset + len(self.rows)


class RequestWindow:
    """Rows around what is visible."""

    def __init__(self) -> None:
        self.job = ""
        self.which = Which.ALL
        self.query = ""
        self.total = 0
        """Rows that match, as far as known."""
        self.known = False
        """A page of this selection came: `total` means something."""
        self.counts: dict[str, int] = {}
        """Requests of the whole job by state, as its files say."""
        self.fraction = 1.0
        """Of the files read so far."""
        self.caught_up = False
        """The reader has been at the end of the job's files, so `fraction` is only about what was added since."""
        self.note = ""
        """What is missing, for people; not safe yet."""
        self._taken_out: list[str] = []
        self._version: Hashable = None
        self._age = 0  # grows whenever what is at hand may be out of date
        self._spans: list[_Span] = []
        self._places: dict[str, int] = {}
        self._top = self._rows = 0  # what is visible
        self._anchor = ""
        self._sought = ""
        self._seek_at = float("-inf")
        self._asked: AskPage | None = None
        self._asked_age = 0
        self._asked_for = 0  # the selection of `_asked`
        self._asked_t = float("-inf")
        self._not_before = float("-inf")
        self._selection = 0
        self._ids = 0

    # --- what is looked at --------------------------------------------------------------------------------------------

    def select(self, job: str, which: Which, query: str = "", taken_out: Sequence[str] = ()) -> bool:
        """Look at these requests. True if that is another selection, so that nothing of it is at hand yet."""
        if list(taken_out) != self._taken_out:
            self._taken_out = list(taken_out)
            self._age += 1
        if (job, which, query) == (self.job, self.which, self.query):
            return False
        if job != self.job:
            self.counts, self.fraction, self.caught_up, self._version = {}, 1.0, False, None
        self.job, self.which, self.query = job, which, query
        self.total, self.known, self.note = 0, False, ""
        self._spans, self._places = [], {}
        self._anchor = self._sought = ""
        self._top = 0
        self._selection += 1
        self._not_before = float("-inf")
        return True

    def refresh(self, version: Hashable) -> None:
        """Look again if `version` (lines saved, state, …) is another one than before."""
        if version != self._version:
            self._version = version
            self._age += 1

    def show(self, top: int, rows: int, anchor: str = "") -> None:
        """These rows are visible. `anchor`: a custom_id among them that should stay in sight when rows move."""
        self._top, self._rows, self._anchor = max(0, top), max(0, rows), anchor

    def seek(self, custom_id: str) -> None:
        """Find out where this one is: once the answer came, `seeking` is empty again and `place` may know it."""
        if custom_id != self._sought:
            self._sought, self._seek_at = custom_id, float("-inf")

    @property
    def seeking(self) -> str:
        """The custom_id whose row is not known yet."""
        return self._sought

    @property
    def moves(self) -> bool:
        """Rows of this selection may change their numbers: only the plain list of all of them keeps its order."""
        return self.which != Which.ALL or bool(self.query)

    # --- rows ---------------------------------------------------------------------------------------------------------

    def row(self, i: int) -> RequestRow | None:
        """Row `i` of the selection; None where it is not at hand."""
        span = self._span(i)
        return None if span is None else span.rows[i - span.offset]

    def place(self, custom_id: str) -> int | None:
        """Where this one is, if it is at hand."""
        place = self._places.get(custom_id)
        # Where a newer span lies over it, another row may stand there now.
        row = None if place is None else self.row(place)
        return place if row is not None and row.custom_id == custom_id else None

    def find(self, custom_id: str) -> RequestRow | None:
        """What the files say of this one, if it is at hand."""
        place = self.place(custom_id)
        return None if place is None else self.row(place)

    def _span(self, i: int) -> _Span | None:
        if i >= self.total:
            return None
        return next((span for span in self._spans if span.offset <= i < span.end), None)

    # --- questions and answers ----------------------------------------------------------------------------------------

    def want(self, now: float) -> AskPage | None:
        """What to ask now; None if all is at hand or asked already. `now`: seconds of any steady clock."""
        if not self.job or not self._rows or self.which == Which.RUNNING or now < self._not_before:
            return None
        if self._asked is not None and now - self._asked_t < LOST_S:
            return None
        if self._sought and now >= self._seek_at:
            return self._ask(now, around=self._sought)
        if not self.known or self._missing():
            return self._ask(now)
        if now - self._asked_t >= AGAIN_S and (self.fraction < 1 or self._stale()):
            return self._ask(now, around=self._anchor if self.moves else "")
        # What is next in both directions, so that paging does not have to wait.
        near = (self._top - self._reach // 2, self._top + self._rows + self._reach // 2 - 1)
        if any(self._span(i) is None for i in near if 0 <= i < self.total):
            return self._ask(now)
        return None

    @property
    def _count(self) -> int:
        return max(self._rows, min(MOST, max(LEAST, 3 * self._rows)))

    @property
    def _reach(self) -> int:
        """Rows asked for on each side of the visible ones."""
        return (self._count - self._rows) // 2

    @property
    def _visible(self) -> range:
        return range(self._top, min(self._top + self._rows, self.total))

    def _missing(self) -> int:
        return sum(self._span(i) is None for i in self._visible)

    def _stale(self) -> bool:
        if not self._visible:  # but there may be something now
            return self._asked_age != self._age
        return any(span is None or span.age != self._age for span in map(self._span, self._visible))

    def _ask(self, now: float, around: str = "") -> AskPage:
        self._ids += 1
        self._asked = AskPage(
            id=self._ids,
            which=str(self.which),
            text=self.query,
            offset=max(0, self._top - self._reach),
            count=self._count,
            taken_out=list(self._taken_out),
            around=around,
        )
        self._asked_t, self._asked_age, self._asked_for = now, self._age, self._selection
        return self._asked

    def take(self, ask: AskPage, page: Page) -> bool:
        """The answer to `ask`. False if it was dropped: it is not the one waited for, or its selection is gone."""
        if ask != self._asked:
            return False
        self._asked = None
        if self._asked_for != self._selection:
            return False
        missing = self._missing()
        self.known = True
        self.total, self.counts = max(page.total, 0), dict(page.counts)
        self.fraction, self.note = page.fraction, page.note
        self.caught_up = self.caught_up or page.fraction >= CAUGHT_UP
        if self._sought and ask.around == self._sought:
            # Where it was not found it is not in the selection, unless more of the files is still to be read.
            if page.fraction >= 1 or any(row.custom_id == self._sought for row in page.rows):
                self._sought = ""
            else:
                self._seek_at = self._asked_t + AGAIN_S
        fresh = _Span(max(0, page.offset), list(page.rows), self._asked_age)
        # Of rows that move, what was asked for earlier may stand in the wrong place by now.
        kept = [span for span in self._spans if not self.moves or span.age == fresh.age]
        if fresh.rows:
            kept = [span for span in kept if not (fresh.offset <= span.offset and span.end <= fresh.end)]
            kept.insert(0, fresh)
        self._spans = kept[:SPANS]
        self._places = {
            row.custom_id: i for span in reversed(self._spans) for i, row in enumerate(span.rows, span.offset)
        }
        if not ask.around and self._missing() >= max(1, missing):
            self._not_before = self._asked_t + AGAIN_S  # no nearer than before: don't ask the same at every tick
        return True

    def fail(self, ask: AskPage, note: str, now: float) -> None:
        """There is no answer to `ask`, and why, for people. It is asked again after a pause."""
        if ask != self._asked:
            return
        self._asked = None
        self._not_before = now + RETRY_S
        if self._asked_for == self._selection:
            self.note = note
