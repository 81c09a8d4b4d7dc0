"""Which request next. Pure; works on a Tally, keeps no object per request.

First form: input order. Requests that were in flight at two engine deaths are suspects: they wait until all others are
through and then run one at a time, so that a request that kills the engine takes nothing with it.
"""

from __future__ import annotations

from engine.tally import Place, Tally


class Scheduler:
    """Hands out waiting requests. `requeue` everything that came back to WAITING, or it is not seen again."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._from = 0  # no request before this one waits, suspects aside
        self._suspects: set[int] = set()
        self._alone: int | None = None

    def next(self, n: int, *, in_flight: int) -> list[int]:
        """Up to n waiting requests to start now, in input order. `in_flight`: how many the engine has."""
        if in_flight == 0:
            self._alone = None
        if n <= 0 or self._alone is not None:
            return []
        found: list[int] = []
        at = self._from
        while len(found) < n:
            waiting = self._tally.next_waiting(at)
            if waiting is None:
                at = len(self._tally)
                break
            if waiting not in self._suspects:
                found.append(waiting)
            at = waiting + 1
        # Handed-out requests are about to leave WAITING; whoever can't start one calls `requeue`.
        self._from = at
        if not found and in_flight == 0:
            suspects = sorted(i for i in self._suspects if self._tally.place(i) == Place.WAITING)
            if suspects:
                self._alone = suspects[0]
                return [suspects[0]]
        return found

    def requeue(self, index: int) -> None:
        """This request waits again."""
        self._from = min(self._from, index)

    def suspect(self, index: int) -> None:
        """Run this one alone, after the others."""
        self._suspects.add(index)

    def clear(self, index: int) -> None:
        """This request is no suspect any more."""
        self._suspects.discard(index)

    @property
    def suspects(self) -> frozenset[int]:
        return frozenset(self._suspects)
