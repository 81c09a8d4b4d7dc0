"""Decisions and incidents as lines: when, how grave, of which job, what happened and what was done. Pure."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from engine.protocol import IncidentView
from tui.desk import Desk
from tui.draw.line import EMPTY, Line, Span, joined, line, width
from tui.draw.wrap import row_starts, shown
from tui.glyphs import Glyphs
from tui.plain import several
from tui.state import KEPT_INCIDENTS
from tui.text import SafeText, fit, one_line, pad

FEW_ROWS: Final = 3
"""So few rows hold one incident each, the graver ones first."""

ORPHANS: Final = 2
"""The last one or two rows of an incident say nothing without its beginning: rather none of it."""

GRAVE_S: Final = 1800.0
"""So long a warning keeps its place among few rows when ordinary news would push it out."""

TALLY_S: Final = 86_400.0
"""The title counts so far back: the log begins with what earlier runs left."""

JOB_COLUMNS: Final = 18
WIDE: Final = 90
"""From here on there is a column for the job."""

LEVELS: Final = {"warn": "warn", "error": "ERROR"}
_GRAVITY: Final = {"warn": 1, "error": 2}


class Job(enum.Enum):
    """Where a row names its job."""

    NOT = enum.auto()  # all are of the same
    BEFORE = enum.auto()  # before the words
    COLUMN = enum.auto()


class Place(NamedTuple):
    """A row: its incident, and which of its rows."""

    incident: IncidentView
    row: int = 0


def local(t: float) -> datetime:
    """On the clock of whoever looks."""
    return datetime.fromtimestamp(t, tz=UTC).astimezone()


def when(t: float, *, with_day: bool) -> str:
    """`14:21:58`, or `22 Nov 14:21:58`."""
    return local(t).strftime("%d %b %H:%M:%S" if with_day else "%H:%M:%S")


def tally(incidents: Iterable[IncidentView], now: float) -> Line:
    """How many warnings and errors there were of late."""
    levels = [incident.level for incident in incidents if now - incident.t < TALLY_S]
    parts = [
        line((several(levels.count(level), word), level))
        for level, word in (("error", "error"), ("warn", "warning"))
        if level in levels
    ]
    return joined([*parts, line(("last 24 h", "dim"))]) if parts else EMPTY


def rows_of(
    incident: IncidentView, columns: int, *, with_day: bool, job: Job, wrap: bool, glyphs: Glyphs
) -> list[Line]:
    """One incident: one row, or as many as its words need, indented under the first."""
    head = [
        Span(f" {when(incident.t, with_day=with_day)} ", "dim"),
        Span(pad(LEVELS.get(incident.level, ""), 5) + " ", incident.level if incident.level in LEVELS else "text"),
    ]
    words = one_line(incident.message)
    name = one_line(incident.job)
    if job is Job.COLUMN:
        words = _without_name(words, name)
        head.append(Span(pad(fit(name, JOB_COLUMNS, ellipsis=glyphs.ellipsis), JOB_COLUMNS) + " ", "dim"))
    elif job is Job.BEFORE and name and name not in words:
        words = SafeText(f"{name}: {words}")
    if incident.action:
        words = SafeText(f"{words} {glyphs.arrow} {one_line(incident.action)}")
    indent = width(tuple(head))
    room = columns - indent
    style = "bold" if incident.level == "error" else "text"
    if not wrap or room < 16:
        return [line(*head, (words, style))]
    starts = [*row_starts(words, room), len(words)]
    parts = [shown(words[a:b]) for a, b in itertools.pairwise(starts)]
    return [line(*head, (parts[0], style)), *(line(" " * indent, (part, style)) for part in parts[1:])]


def _without_name(words: SafeText, name: SafeText) -> SafeText:
    """What is said of a job where its name stands before it already: `pause asked: evals-1 is queued` → `… queued`."""
    if not name:
        return words
    words = SafeText(words.removeprefix(f"{name} "))
    return SafeText(words.replace(f": {name} is ", ": ", 1).replace(f": {name} ", ": ", 1))


def grave_first(incidents: Sequence[IncidentView], rows: int, now: float) -> list[IncidentView]:
    """The few that matter, in the order of time: the newest of all, and warnings of late before ordinary news."""
    if not incidents or rows < 1:
        return []
    *older, newest = incidents

    def weight(numbered: tuple[int, IncidentView]) -> tuple[int, int]:
        place, incident = numbered
        return (_GRAVITY.get(incident.level, 0) if now - incident.t < GRAVE_S else 0, place)

    chosen = sorted(enumerate(older), key=weight, reverse=True)[: rows - 1]
    return [*(incident for _, incident in sorted(chosen, key=lambda numbered: numbered[0])), newest]


class Log:
    """What the pane remembers: where it is, and the rows of incidents that were drawn already."""

    def __init__(self) -> None:
        self._top: Place | None = None
        """None: follows the newest."""
        self._seen: IncidentView | None = None  # the newest when it stopped following
        self._rows = 1
        self._drawn: dict[IncidentView, list[Line]] = {}
        self._drawn_for: object = None

    @property
    def follows(self) -> bool:
        return self._top is None

    def look(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        """The rows under the title: newest at the bottom."""
        self._rows = rows
        incidents = list(desk.mirror.incidents)
        if not incidents:
            return [line((" nothing has happened yet; decisions and failures appear here with their cause", "dim"))]
        if rows < 1:
            return []
        of = self._drawer(desk, columns, wrap=desk.view.wrap and rows > FEW_ROWS)
        if self._top is None:
            chosen = grave_first(incidents, rows, desk.now()) if rows <= FEW_ROWS else incidents
            out: list[Line] = []
            for incident in reversed(chosen):
                lines = of(incident)
                left = rows - len(out)
                if out and left < len(lines) and left <= ORPHANS:
                    return [EMPTY] * left + out
                out[:0] = lines
                if len(out) >= rows:
                    break
            return out[-rows:]
        out = []
        at = self._place(incidents)
        for i, incident in enumerate(incidents[at:]):
            lines = of(incident)
            out += lines[min(self._top.row, len(lines) - 1) :] if i == 0 else lines
            if len(out) >= rows:
                break
        return out[:rows]

    def _drawer(self, desk: Desk, columns: int, *, wrap: bool) -> Callable[[IncidentView], list[Line]]:
        incidents = desk.mirror.incidents
        today = local(desk.now()).date()
        with_day = any(local(incident.t).date() != today for incident in (incidents[0], incidents[-1]))
        several_jobs = len({incident.job for incident in incidents if incident.job}) > 1
        job = Job.NOT if not several_jobs else Job.COLUMN if columns >= WIDE else Job.BEFORE
        drawn_for = (columns, wrap, with_day, job, desk.glyphs)
        if drawn_for != self._drawn_for or len(self._drawn) > 2 * KEPT_INCIDENTS:
            self._drawn_for = drawn_for
            self._drawn = {}

        def of(incident: IncidentView) -> list[Line]:
            lines = self._drawn.get(incident)
            if lines is None:
                lines = self._drawn[incident] = [
                    self._cut(row, columns, desk.glyphs.ellipsis)
                    for row in rows_of(
                        incident,
                        columns,
                        with_day=with_day,
                        job=job,
                        wrap=wrap,
                        glyphs=desk.glyphs,
                    )
                ]
            return lines

        return of

    @staticmethod
    def _cut(row: Line, columns: int, ellipsis: str) -> Line:
        """Long foreign words are cut once, not at every tick."""
        last = row[-1]
        room = columns - width(row[:-1])
        return (*row[:-1], Span(fit(last.text, room, ellipsis=ellipsis), last.style)) if room > 0 else row

    def _place(self, incidents: Sequence[IncidentView]) -> int:
        if self._top is not None:
            for i, incident in enumerate(incidents):
                if incident == self._top.incident:
                    return i
        return 0  # it was given up: the oldest that there is

    # --- title --------------------------------------------------------------------------------------------------------

    def state(self, desk: Desk) -> Line:
        right = tally(desk.mirror.incidents, desk.now())
        if self._top is None:
            return right
        incidents = list(desk.mirror.incidents)
        new = 0
        for incident in reversed(incidents):
            if incident == self._seen:
                break
            new += 1
        return joined([line(("STAY", "warn")), line((f"{new} new" if new else "", "bold")), right])

    # --- keys ---------------------------------------------------------------------------------------------------------

    def act(self, desk: Desk, columns: int, action: str) -> bool:
        """One of `tui.keys.MOVES`, without left and right."""
        incidents = list(desk.mirror.incidents)
        rows = max(1, self._rows)
        steps = {"up": -1, "down": 1, "page_up": -max(1, rows - 1), "page_down": max(1, rows - 1)}
        steps |= {"half_up": -max(1, rows // 2), "half_down": max(1, rows // 2)}
        if not incidents or action not in {*steps, "top", "bottom"}:
            return False
        if action == "bottom":
            self._top = self._seen = None
            return True
        of = self._drawer(desk, columns, wrap=desk.view.wrap and rows > FEW_ROWS)
        places = [Place(incident, row) for incident in incidents for row in range(len(of(incident)))]
        last = max(0, len(places) - rows)
        if self._top is None:
            self._seen = incidents[-1]
            at = last
        else:
            first = self._place(incidents)
            at = sum(len(of(incident)) for incident in incidents[:first]) + self._top.row
        self._top = places[0 if action == "top" else max(0, min(at + steps[action], last))]
        return True
