"""Where each request of a job stands, and the counts that follow from it. Pure: no I/O, no clock.

One byte a request. Every change goes through `move`, so that at every moment
total = succeeded + failed + running + waiting + aborted.
"""

from __future__ import annotations

import enum

from engine.protocol import Counts


class Place(enum.IntEnum):
    """Where a request stands. RUNNING lasts until its line is fsynced, not only until its answer is complete."""

    WAITING = 0
    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3
    ABORTED = 4


MOVES: dict[Place, frozenset[Place]] = {
    Place.WAITING: frozenset({Place.RUNNING, Place.ABORTED, Place.SUCCEEDED, Place.FAILED}),
    Place.RUNNING: frozenset({Place.WAITING, Place.SUCCEEDED, Place.FAILED, Place.ABORTED}),
    Place.SUCCEEDED: frozenset(),  # a success is final
    Place.FAILED: frozenset({Place.WAITING, Place.SUCCEEDED}),  # run again; or its success was found later on disk
    Place.ABORTED: frozenset({Place.WAITING}),
}


_WAITING = bytes([Place.WAITING])


class Tally:
    """The places of all requests of one job."""

    __slots__ = ("_held", "invalid", "places", "retried", "reused", "truncated")

    def __init__(self, total: int) -> None:
        self.places = bytearray(total)
        self._held = [total, 0, 0, 0, 0]
        self.reused = 0
        self.invalid = 0
        self.truncated = 0
        self.retried = 0

    @classmethod
    def of(cls, places: bytearray) -> Tally:
        """A tally over places that are already known."""
        tally = cls(0)
        tally.places = places
        tally._held = [places.count(place) for place in Place]
        return tally

    def __len__(self) -> int:
        return len(self.places)

    def place(self, index: int) -> Place:
        return Place(self.places[index])

    def move(self, index: int, to: Place) -> bool:
        """Move one request; False (and nothing changes) where the table does not allow it."""
        now = Place(self.places[index])
        if to not in MOVES[now]:
            return False
        self.places[index] = to
        self._held[now] -= 1
        self._held[to] += 1
        return True

    def retry_failed(self, keep: frozenset[int] | set[int] = frozenset()) -> list[int]:
        """Failed requests wait again, except those in `keep` (lines that are still bad); returns them."""
        back = [i for i, place in enumerate(self.places) if place == Place.FAILED and i not in keep]
        for index in back:
            self.move(index, Place.WAITING)
        return back

    def next_waiting(self, at: int) -> int | None:
        """The first waiting request from `at` on."""
        found = self.places.find(_WAITING, at)
        return found if found >= 0 else None

    @property
    def waiting(self) -> int:
        return self._held[Place.WAITING]

    @property
    def running(self) -> int:
        return self._held[Place.RUNNING]

    @property
    def succeeded(self) -> int:
        return self._held[Place.SUCCEEDED]

    @property
    def failed(self) -> int:
        return self._held[Place.FAILED]

    @property
    def aborted(self) -> int:
        return self._held[Place.ABORTED]

    @property
    def open(self) -> int:
        """Requests that still need work."""
        return self.waiting + self.running

    def counts(self) -> Counts:
        return Counts(
            total=len(self.places),
            succeeded=self.succeeded,
            failed=self.failed,
            running=self.running,
            waiting=self.waiting,
            aborted=self.aborted,
            reused=self.reused,
            invalid=self.invalid,
            truncated=self.truncated,
            retried=self.retried,
        )
