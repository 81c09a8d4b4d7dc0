"""One request of the results screen, with everything that is known of it: scrolled, wrapped or cut, one part or all."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar, Final

from engine.pages import Detail
from engine.protocol import RunningRequest
from tui.desk import Desk
from tui.draw.columns import foreign
from tui.draw.detail import ROOMY, Body, Limits, Part, Place
from tui.draw.line import EMPTY, Line, line
from tui.panes.pane import Pane
from tui.plain import count
from tui.text import SafeText, fit

SIDEWAYS: Final = 16
"""Columns that left and right move unwrapped text."""


class ResultsDetail(Pane):
    """The selected request."""

    NAME: ClassVar[str] = "detail"

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.part = Part.ALL
        self.wrap = True
        self.sought = ""
        self.detail: Detail | None = None
        self.running: RunningRequest | None = None
        self.why = SafeText("")
        """Why there is no detail."""
        self.top = 0
        self.left = 0
        self._page = 1
        self._body: Body | None = None
        self._made_of: Detail | None = None
        self._made_with: Hashable = None
        self._made_for: Hashable = None
        self._shown = ""  # custom_id that `top` belongs to
        self._hit: int | None = None  # the row with the match that was gone to last
        self._anchor: Place | None = None  # what `top` was put on, while only the width changes
        self._jump = False

    def show(self, detail: Detail | None, running: RunningRequest | None = None, why: str = "") -> None:
        """Another request, or news of the same one, which keeps the place."""
        self.why = SafeText(why)
        self.running = running
        self.detail = detail
        if detail is not None and detail.row.custom_id != self._shown:
            self._shown = detail.row.custom_id
            self._anchor = self._hit = None
            self.top = self.left = 0
            self._jump = bool(self.sought)

    def turn(self, part: Part) -> None:
        """Show this part of it, from its beginning."""
        self.part = part
        self._anchor = self._hit = None
        self.top = self.left = 0

    def seek(self, query: str) -> None:
        """Mark this text, and go to where it is first."""
        self.sought = query
        self._hit = None
        self._jump = bool(query)

    # --- keys ---------------------------------------------------------------------------------------------------------

    def act(self, action: str) -> bool:
        last = max(0, len(self._body or ()) - self._page)
        before = (self.top, self.left)
        match action:
            case "up":
                self.top -= 1
            case "down":
                self.top += 1
            case "page_up":
                self.top -= max(1, self._page - 1)
            case "page_down":
                self.top += max(1, self._page - 1)
            case "half_up":
                self.top -= max(1, self._page // 2)
            case "half_down":
                self.top += max(1, self._page // 2)
            case "top":
                self.top = self.left = 0
            case "bottom":
                self.top = last
            case "left" if not self.wrap:
                self.left = max(0, self.left - SIDEWAYS)
            case "right" if not self.wrap:
                widest = self._body.widest if self._body else 0
                self.left = min(self.left + SIDEWAYS, max(0, widest - self.body_columns // 2))
            case _:
                return False
        self.top = min(max(0, self.top), last)
        if before[0] != self.top:
            self._anchor = None
        return before != (self.top, self.left)

    def match(self, step: int) -> bool:
        """Go to the next place that holds the text searched for; False if there is no further one here."""
        if self._body is None or not self.sought:
            return False
        before = self._hit if self._hit is not None else self.top - 1
        found = self._body.match(self.sought, before, step)
        if found is None:
            return False
        self._hit = found
        if not self.top <= found < self.top + self._page:
            self._see(found)
        return True

    def _see(self, row: int) -> None:
        """Bring a row into sight, with a little of what stands above it."""
        self.top = max(0, row - min(3, self._page // 3))
        self._anchor = None

    # --- drawing ------------------------------------------------------------------------------------------------------

    def rows(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        self._page = max(1, rows - 1)
        if self.detail is None:
            text = self.why or "no request chosen"
            return [self.title(columns, "request"), line((fit(text, columns, ellipsis=desk.glyphs.ellipsis), "dim"))]
        body = self._make(desk, self.detail, columns)
        if self._jump:
            self._jump = False
            self._hit = body.first_match(self.sought)
            if self._hit is not None and self._hit >= self._page - 1:
                self._see(self._hit)
        self.top = min(max(0, self.top), max(0, len(body) - self._page))
        left = 0 if self.wrap else self.left
        texts = body.lines(self.top, self._page, left=left, query=self.sought)
        return [self._title(desk, body, columns), *texts]

    def _make(self, desk: Desk, detail: Detail, columns: int) -> Body:
        running, now = self.running, desk.now()
        # The seconds of a running request tick; nothing else does.
        clock = int(now - running.started) if running is not None and running.started else 0
        text = (self.part, self.sought, running, clock)
        box = (columns, self.wrap, Limits.of(self._page), self._page >= ROOMY)
        old, made_of, made_with, made_for = self._body, self._made_of, self._made_with, self._made_for
        if old is not None and made_of is detail and (made_with, made_for) == (text, box):
            return old
        body = Body(
            detail, self.part, columns, height=self._page, wrap=self.wrap, running=running, now=now,
            query=self.sought, glyphs=desk.glyphs,
        )  # fmt: skip
        if old is not None and made_of is detail and made_for != box and self.top:
            # Another width: the same character stays in the first row, also after several changes.
            self._anchor = self._anchor or old.place_of(self.top)
            self.top = body.row_of(self._anchor)
            self._hit = None
        self._body, self._made_of, self._made_with, self._made_for = body, detail, text, box
        return body

    def _title(self, desk: Desk, body: Body, columns: int) -> Line:
        assert self.detail is not None
        name = foreign(self.detail.row.custom_id)
        right: Line = EMPTY
        if columns >= 40:
            shown = "all parts" if self.part is Part.ALL else str(self.part)
            end = min(len(body), self.top + self._page)
            right = line((f"{shown}{'' if self.wrap else ', cut'}", "key"), f"  {count(end)}/{count(len(body))}")
            name = fit(name, max(8, columns - 34), ellipsis=desk.glyphs.ellipsis)
        return self.title(columns, name, right=right)
