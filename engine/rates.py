"""Token rates over a window and the time left, from measured counters. Pure: time comes in with each call."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from engine.protocol import RATE_WINDOW_S, EngineStats, Eta

MIN_SPAN_S = 0.5
"""A rate over less than this says more about one step than about the run."""

SPREAD = 1.96
"""Low and high of the time left cover about 95 % if lengths of answers are independent."""


class _Mark(NamedTuple):
    t: float
    prompt: int
    generated: int


class Rates:
    """Tokens a second over the last RATE_WINDOW_S, from the counters of EngineStats."""

    def __init__(self, window_s: float = RATE_WINDOW_S) -> None:
        self._window_s = window_s
        self._marks: deque[_Mark] = deque()

    def clear(self) -> None:
        """A new engine counts from zero."""
        self._marks.clear()

    def add(self, t: float, stats: EngineStats) -> None:
        mark = _Mark(t, stats.prompt_tokens, stats.generated_tokens)
        if self._marks and (mark.generated < self._marks[-1].generated or mark.prompt < self._marks[-1].prompt):
            self._marks.clear()
        self._marks.append(mark)
        # One mark older than the window stays, so that the span is never shorter than the window.
        while len(self._marks) > 2 and t - self._marks[1].t >= self._window_s:
            self._marks.popleft()

    def _span(self) -> tuple[_Mark, _Mark, float] | None:
        if len(self._marks) < 2:
            return None
        first, last = self._marks[0], self._marks[-1]
        span = last.t - first.t
        return (first, last, span) if span >= MIN_SPAN_S else None

    @property
    def decode(self) -> float:
        span = self._span()
        return (span[1].generated - span[0].generated) / span[2] if span else 0.0

    @property
    def prefill(self) -> float:
        span = self._span()
        return (span[1].prompt - span[0].prompt) / span[2] if span else 0.0


class Lengths:
    """Mean and spread of the answer tokens of finished requests (Welford)."""

    def __init__(self) -> None:
        self.n = 0
        self.mean = 0.0
        self._m2 = 0.0

    def add(self, tokens: int) -> None:
        self.n += 1
        delta = tokens - self.mean
        self.mean += delta / self.n
        self._m2 += delta * (tokens - self.mean)

    @property
    def deviation(self) -> float:
        return math.sqrt(self._m2 / (self.n - 1)) if self.n > 1 else 0.0


def time_left(lengths: Lengths, *, open_requests: int, generated_in_flight: int, rate: float) -> Eta:
    """Tokens still to come over the present rate.

    The spread has two parts: each open request differs from the mean, and the mean itself is known only as well as
    the finished requests tell it.
    """
    if open_requests == 0:
        return Eta(s=0.0, low_s=0.0, high_s=0.0)
    if lengths.n == 0 or rate <= 0.0:
        return Eta()
    tokens = max(0.0, lengths.mean * open_requests - generated_in_flight)
    wide = SPREAD * lengths.deviation * math.sqrt(open_requests + open_requests**2 / lengths.n)
    return Eta(s=tokens / rate, low_s=max(0.0, tokens - wide) / rate, high_s=(tokens + wide) / rate)
