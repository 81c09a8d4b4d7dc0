"""The lines of one job on their way to the disk: a request counts as done only when its line is fsynced.

What was counted is told to clients in groups. A disk that refuses halts this until a retry succeeds; meanwhile the
answers wait in memory.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from engine.errors import ResultsUnwritable
from engine.jobs import Job
from engine.office import Office
from engine.protocol import AckItem, Completion, Finish, Usage
from engine.rates import Lengths
from engine.stock import Tokens
from engine.tally import Place
from engine.wish import Wishes
from engine.workload import Workload

if TYPE_CHECKING:
    from engine.journal import Journal
    from engine.output import Line

log = logging.getLogger("runner")

RETRY_S = 3.0
"""Between two tries of a disk that refuses: freed space is noticed soon, and a dead disk is not hammered."""


class Saving:
    """Writes lines, and keeps the sums over those that are safe."""

    def __init__(
        self,
        job: Job,
        office: Office,
        wishes: Wishes,
        workload: Workload,
        journal: Journal,
        *,
        lengths: Lengths,
        tokens: Tokens,
    ) -> None:
        self._job = job
        self._office = office
        self._wishes = wishes
        self._workload = workload
        self._journal = journal
        self.lengths = lengths
        self.tokens = tokens
        self.halted: ResultsUnwritable | None = None
        self._next_try = 0.0
        self._writing: set[asyncio.Task[None]] = set()
        self._acks: list[AckItem] = []
        journal.on_halt = self._on_halt

    @property
    def pending(self) -> int:
        """Lines that are not safe yet."""
        return len(self._writing)

    def write(self, i: int, line: Line, completion: Completion | None = None) -> None:
        """Save the line of request `i`, which is RUNNING. Returns at once."""
        task = asyncio.create_task(self._acknowledge(i, line, completion))
        self._writing.add(task)
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job %s: saving a line", self._job.id, exc_info=error)
        self._wishes.wake()

    async def _acknowledge(self, i: int, line: Line, completion: Completion | None) -> None:
        """Wait for the line's fsync, then count it. The order is the promise."""
        try:
            await self._journal.append(line)
        except ResultsUnwritable:
            # The journal was closed over a disk that refuses: the answer is lost, its request runs again.
            self._workload.give_back(i)
            return
        tally = self._workload.tally
        tally.move(i, Place.SUCCEEDED if line.ok else Place.FAILED)
        usage = completion.usage if completion is not None else Usage()
        finish = completion.finish if completion is not None else Finish.INVALID
        self.tokens.add(usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens, usage.cached_tokens)
        if line.ok:
            self.lengths.add(usage.completion_tokens)
            tally.truncated += finish == Finish.LENGTH
        if not self._acks:
            # Every line of one fsync group comes through here in the same turn of the loop: one message for all.
            asyncio.get_running_loop().call_soon(self._tell)
        self._acks.append(
            AckItem(
                custom_id=line.custom_id,
                request_id=line.request_id,
                ok=line.ok,
                finish=finish.value,
                completion_tokens=usage.completion_tokens,
            )
        )

    def _tell(self) -> None:
        items, self._acks = self._acks, []
        if items:
            self._office.acknowledged(self._job, items)
            self._job.changed = True

    # --- a disk that refuses ------------------------------------------------------------------------------------------

    def _on_halt(self, error: ResultsUnwritable) -> None:
        if self.halted is None:
            self._next_try = asyncio.get_running_loop().time() + RETRY_S
        self.halted = error
        self._wishes.wake()

    @property
    def wait_s(self) -> float:
        """Until the next try is due."""
        return self._next_try - asyncio.get_running_loop().time()

    def retry_soon(self) -> None:
        """Somebody says there is space again."""
        self._next_try = 0.0
        self._wishes.wake()

    async def retry(self) -> bool:
        """Try the disk. True: what waited is written, and `halted` is None."""
        self._next_try = asyncio.get_running_loop().time() + RETRY_S
        written = await self._journal.retry()
        self.halted = self._journal.halted  # the next group may have been refused again by now
        return written and self.halted is None

    # --- the end ------------------------------------------------------------------------------------------------------

    async def close(self) -> str:
        """Wait for what can be saved. Returns a sentence if finished answers were lost."""
        lost = ""
        try:
            await self._journal.close()
        except ResultsUnwritable as error:
            lost = error.text
        if self._writing:
            await asyncio.wait(set(self._writing))
        self._tell()
        return lost
