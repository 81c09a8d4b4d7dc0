"""How often the screen is drawn: as often as wanted, less where the terminal does not take it. Pure; time comes in."""

from __future__ import annotations

from collections import deque
from typing import Final

STEPS: Final = (4.0, 2.0, 1.0, 0.5)
LOW_HZ: Final = 1.0

BUSY_WRITES: Final = 3
"""Writes that still wait at a tick: the terminal did not take the last frame within a tick."""

STRIKES: Final = 2
"""Busy ticks in a row before it gets slower: one may be a hiccup."""

CALM_S: Final = 8.0
"""How long the terminal must keep up before it gets faster again."""

WINDOW_S: Final = 4.0


class Pace:
    """Asked once a tick."""

    def __init__(self, hz: float) -> None:
        self._top = hz
        self.hz = hz
        self.slow = False
        self.kib_s = 0.0
        self._strikes = 0
        self._calm_since: float | None = None
        self._drawn_at = float("-inf")
        self._sent: deque[tuple[float, int]] = deque()

    def set_top(self, hz: float) -> None:
        """A person's wish."""
        self._top = hz
        self.hz = min(self.hz, hz) if self.slow else hz

    def tick(self, now: float, *, backlog: int, sent_bytes: int, low: bool) -> bool:
        """Whether to draw now. `backlog`: writes not taken yet; `sent_bytes`: since the start."""
        self._measure(now, sent_bytes)
        top = min(self._top, LOW_HZ) if low else self._top
        if backlog >= BUSY_WRITES:
            self._calm_since = None
            self._strikes += 1
            if self._strikes >= STRIKES:
                self._strikes = 0
                self.slow = True
                self.hz = next((step for step in STEPS if step < self.hz), STEPS[-1])
            return False
        self._strikes = 0
        self._calm_since = now if self._calm_since is None else self._calm_since
        if self.slow and now - self._calm_since >= CALM_S:
            self._calm_since = now
            self.hz = next((step for step in reversed(STEPS) if step > self.hz), top)
            self.slow = self.hz < top
        if not self.slow or self.hz > top:
            self.hz = top
        # A little early is as good: ticks come a few milliseconds apart from their plan.
        if now - self._drawn_at < 1.0 / self.hz - 0.1:
            return False
        self._drawn_at = now
        return True

    def _measure(self, now: float, sent_bytes: int) -> None:
        self._sent.append((now, sent_bytes))
        while len(self._sent) > 2 and now - self._sent[0][0] > WINDOW_S:
            self._sent.popleft()
        first = self._sent[0]
        if now > first[0]:
            self.kib_s = (sent_bytes - first[1]) / 1024 / (now - first[0])
