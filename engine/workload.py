"""The requests of one job: where each stands, which comes next, which are taken out, what deaths they met.

Bodies are not kept in memory: a line is read again when its turn comes. What is with the worker is in
`engine.flights`, what is on its way to the disk in `engine.saving`; both tell it here.
"""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING

from engine.errors import CommandRefused, InputChanged
from engine.jobs import Job
from engine.recovery import STRIKES_ALONE, STRIKES_OUT, Strikes
from engine.scheduler import Scheduler
from engine.tally import Place, Tally

if TYPE_CHECKING:  # numpy comes with it
    from engine.batch import BatchIndex, Request

log = logging.getLogger("runner")


class AfterDeath(enum.Enum):
    """What becomes of a request that was in a slot when the engine died."""

    AGAIN = enum.auto()
    GIVEN_UP = enum.auto()  # it has met too many: it gets an error line, so that one can't hold up the rest


class Workload:
    """Moves requests between their places. Nothing here waits."""

    def __init__(self, job: Job, index: BatchIndex, tally: Tally) -> None:
        self._job = job
        self.index = index
        self.tally = tally
        self.input_changed = ""  # why no further line can be read, for people
        self._scheduler = Scheduler(tally)
        self._strikes = Strikes()

    # --- which next ---------------------------------------------------------------------------------------------------

    def choose(self, room: int, *, in_flight: int) -> list[int]:
        """Up to `room` waiting requests, RUNNING from now on: each is sent or given back."""
        chosen = self._scheduler.next(room, in_flight=in_flight)
        for i in chosen:
            self.tally.move(i, Place.RUNNING)
        return chosen

    def read(self, chosen: list[int]) -> list[Request | None]:
        """In a thread: these requests from their file; None, and `input_changed`, where it is not what it was."""
        return [self._read(i) for i in chosen]

    def _read(self, i: int) -> Request | None:
        try:
            return self.index.request(i)
        except InputChanged as error:
            why = error.message
        except OSError as error:
            why = f"{self._job.record.input_path}: {error.strerror or error}"
        if not self.input_changed:
            self.input_changed = f"{why}; resume re-reads the file"
            log.warning("job %s: %s", self._job.id, self.input_changed)
        return None

    def sequences(self, enough: int) -> int:
        """In a thread: how many slots the waiting requests could use at once (each of `n` choices takes one).

        Counts no further than `enough`.
        """
        waiting = self.tally.waiting
        if waiting >= enough:
            return waiting
        default = self._job.record.settings.defaults.get("n")
        found, at = 0, self.tally.next_waiting(0)
        while at is not None and found < enough:
            request = self._read(at)
            found += (request.body.get("n") or default or 1) if request is not None else 1
            at = self.tally.next_waiting(at + 1)
        return found

    # --- what happened to them ----------------------------------------------------------------------------------------

    def give_back(self, i: int) -> None:
        """It waits again."""
        self.tally.move(i, Place.WAITING)
        self._scheduler.requeue(i)

    def answered(self, i: int) -> None:
        """The engine lives and answered it: earlier deaths were not its fault."""
        self._strikes.clear(i)
        self._scheduler.clear(i)

    def met_death(self, i: int) -> AfterDeath:
        """Count a death of the engine for a request that was in a slot. One that goes again waits after this."""
        strikes = self._strikes.add(i)
        if strikes >= STRIKES_OUT:
            self._scheduler.clear(i)
            return AfterDeath.GIVEN_UP
        if strikes >= STRIKES_ALONE:
            self._scheduler.suspect(i)
        self.tally.retried += 1
        self.give_back(i)
        return AfterDeath.AGAIN

    def deaths_met(self, i: int) -> int:
        return self._strikes[i]

    # --- what people do with them -------------------------------------------------------------------------------------

    def find(self, custom_id: str) -> int:
        """Raises CommandRefused."""
        i = self.index.find(custom_id)
        if i is None:
            raise CommandRefused(f"job {self._job.id} has no request with custom_id {custom_id!r}")
        return i

    def take_out(self, i: int) -> None:
        """It runs no more until it is put back."""
        self.tally.move(i, Place.ABORTED)
        self._note_aborted(self.index.custom_id(i), out=True)

    def put_back(self, custom_id: str | None) -> int:
        """One, or all that were taken out, wait again; returns how many. Raises CommandRefused for one that was not."""
        names = [custom_id] if custom_id is not None else list(self._job.record.aborted)
        back = 0
        for name in names:
            i = self.index.find(name)
            if i is not None and self.tally.place(i) == Place.ABORTED:
                self.give_back(i)
                back += 1
            elif custom_id is not None:
                raise CommandRefused(f"{custom_id} is not taken out")
            self._note_aborted(name, out=False)
        return back

    def retry_failed(self) -> int:
        """Failed requests wait again, with a clean slate; bad lines stay bad. Returns how many."""
        bad = frozenset(i for i, is_bad in enumerate(self.index.is_bad.tolist()) if is_bad)
        back = self.tally.retry_failed(bad)
        for i in back:
            self.answered(i)
            self._scheduler.requeue(i)
        if back:
            self._job.update(retry_failed=True)
        return len(back)

    def _note_aborted(self, custom_id: str, *, out: bool) -> None:
        names = [name for name in self._job.record.aborted if name != custom_id]
        self._job.update(aborted=[*names, custom_id] if out else names)
        self._job.urgent = True
