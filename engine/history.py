"""The last minutes of the runner, one point a second, for graphs. Pure: time comes in with each call.

The worker tells its counters a few times a second. A point's rates are what they grew by between the two readings next
to its second, over the time between just these: however the two clocks slide against each other, the points of a run
add up to its tokens. While the worker says nothing no point is made, and the next ones carry the mean.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from engine.protocol import HISTORY_S, EngineStats, HistoryPoint, Reading

POINT_S = 1.0


class _Mark(NamedTuple):
    t: float
    prompt: int
    generated: int


class History:
    """A ring of points. `heard` for each reading of the counters, `points` a few times a second."""

    def __init__(self) -> None:
        self._ring: deque[HistoryPoint] = deque(maxlen=HISTORY_S)
        self._base: _Mark | None = None  # the reading that the last point ended with
        self._last: _Mark | None = None
        self._next: float | None = None  # when the next point is due; None: nobody looked for a while

    def heard(self, now: float, stats: EngineStats) -> None:
        """The worker's counters, just arrived."""
        mark = _Mark(now, stats.prompt_tokens, stats.generated_tokens)
        last = self._last
        if last is None or mark.generated < last.generated or mark.prompt < last.prompt:
            self._base = mark  # another engine, which counts from here
        self._last = mark

    def begun(self, now: float) -> None:
        """An engine is ready and counts from zero; what it does before its first word belongs to the graph too."""
        if self._last is None:
            self._base = self._last = _Mark(now, 0, 0)

    def forget(self) -> None:
        """The engine is gone."""
        self._base = self._last = None

    def rest(self) -> None:
        """Nobody looks and nothing runs."""
        self._next = None

    def points(
        self, now: float, wall: float, stats: EngineStats, reading: Reading | None, *, alive: bool
    ) -> list[HistoryPoint]:
        """The points that are due, kept in the ring from now on: mostly none or one.

        `alive`: an engine is loaded, so its word is waited for. `wall` is `now` in Unix seconds.
        """
        if self._next is None:
            self._next = now + POINT_S
            self._base = self._last
            return []
        if now < self._next:
            return []
        base, last = self._base, self._last
        silent = last is None or (base is not None and last.t <= base.t)
        if alive and silent:
            return []
        decode = prefill = 0.0
        if base is not None and last is not None and last.t > base.t:
            span = last.t - base.t
            decode = (last.generated - base.generated) / span
            prefill = (last.prompt - base.prompt) / span
            self._base = last
        due = []
        while self._next <= now and len(due) < HISTORY_S:
            due.append(
                HistoryPoint(
                    t=wall - (now - self._next),
                    decode=round(decode, 2),
                    prefill=round(prefill, 2),
                    running=stats.running,
                    slots=stats.slots,
                    kv_used=stats.kv_used,
                    kv_total=stats.kv_total,
                    free=[device.free for device in reading.devices] if reading is not None else [],
                )
            )
            self._next += POINT_S
        self._next = max(self._next, now)  # after a long sleep of the machine
        self._ring.extend(due)
        return due

    def all(self, wall: float) -> list[HistoryPoint]:
        """What is not older than HISTORY_S."""
        return [point for point in self._ring if point.t > wall - HISTORY_S]
