"""What somebody wants of a running job, and the one place where the job waits for news."""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

from engine.job import JobState


class Wish(NamedTuple):
    """The state to come to rest in. `hard`: requests in flight are aborted, their text so far kept."""

    state: JobState
    sentence: str
    hard: bool


class End(Exception):
    """The job comes to rest in `state`. `failure`: the class name of the error that ended it, if one did."""

    def __init__(self, state: JobState, sentence: str, *, failure: str = "") -> None:
        super().__init__(sentence)
        self.state = state
        self.sentence = sentence
        self.failure = failure


class Wishes:
    """Holds the present wish. Whatever a job should look at (a wish, an answer, a death, the disk) calls `wake`."""

    def __init__(self) -> None:
        self.now: Wish | None = None
        self.since: float | None = None  # loop time at which carrying it out began
        self._news = asyncio.Event()

    def ask(self, wish: Wish | None) -> None:
        """None takes a wish back. A later one replaces an earlier one, but a hard one is not softened."""
        before = self.now
        if wish is not None and before is not None and before.hard and not wish.hard:
            return
        self.now = wish
        if wish is None or before is None or wish.hard != before.hard:
            self.since = None
        self.wake()

    def check(self) -> None:
        """Between two steps: has somebody something else in mind? Raises End."""
        if self.now is not None:
            raise End(self.now.state, self.now.sentence)

    def wake(self) -> None:
        self._news.set()

    async def sleep(self, limit_s: float | None = None) -> None:
        """Until something happened."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._news.wait()
        self._news.clear()
