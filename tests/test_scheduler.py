"""Counts that always add up, and the order of requests. Pure."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.scheduler import Scheduler
from engine.tally import Place, Tally


def take(tally: Tally, scheduler: Scheduler, n: int, in_flight: int = 0) -> list[int]:
    chosen = scheduler.next(n, in_flight=in_flight)
    for i in chosen:
        assert tally.move(i, Place.RUNNING)
    return chosen


def test_input_order_and_what_comes_back_goes_first() -> None:
    tally = Tally(6)
    scheduler = Scheduler(tally)
    assert take(tally, scheduler, 3) == [0, 1, 2]
    tally.move(1, Place.WAITING)
    scheduler.requeue(1)
    assert take(tally, scheduler, 2, in_flight=2) == [1, 3]
    assert take(tally, scheduler, 9, in_flight=4) == [4, 5]
    assert take(tally, scheduler, 9, in_flight=6) == []


def test_taken_out_requests_are_passed_over_and_come_back() -> None:
    tally = Tally(3)
    scheduler = Scheduler(tally)
    tally.move(0, Place.ABORTED)
    assert take(tally, scheduler, 1) == [1]
    tally.move(0, Place.WAITING)
    scheduler.requeue(0)
    assert take(tally, scheduler, 5, in_flight=1) == [0, 2]


def test_suspects_run_last_and_alone() -> None:
    tally = Tally(4)
    scheduler = Scheduler(tally)
    scheduler.suspect(0)
    scheduler.suspect(2)
    assert take(tally, scheduler, 4) == [1, 3]
    assert take(tally, scheduler, 4, in_flight=1) == []
    assert take(tally, scheduler, 4, in_flight=0) == [0]
    assert take(tally, scheduler, 4, in_flight=1) == []
    tally.move(1, Place.WAITING)
    scheduler.requeue(1)
    assert take(tally, scheduler, 4, in_flight=1) == []  # nothing joins a suspect
    tally.move(0, Place.SUCCEEDED)
    assert take(tally, scheduler, 4, in_flight=0) == [1]
    assert take(tally, scheduler, 4, in_flight=0) == [2]


def test_a_success_is_final_and_a_failure_can_run_again() -> None:
    tally = Tally(2)
    assert tally.move(0, Place.SUCCEEDED)
    assert not tally.move(0, Place.WAITING)
    assert tally.move(1, Place.FAILED)
    assert not tally.move(1, Place.RUNNING)
    assert tally.retry_failed(keep={1}) == []
    assert tally.retry_failed() == [1]
    assert tally.counts().waiting == 1


@given(st.lists(st.sampled_from(list(Place))))
def test_a_tally_over_known_places_counts_them(places: list[Place]) -> None:
    counts = Tally.of(bytearray(places)).counts()
    assert counts.total == len(places)
    assert [counts.waiting, counts.running, counts.succeeded, counts.failed, counts.aborted] == [
        places.count(place) for place in Place
    ]


class Run(RuleBasedStateMachine):
    """Commands and engine events in any order; the model is a list of places and a set of those in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.tally = Tally(0)
        self.scheduler = Scheduler(self.tally)
        self.places: list[Place] = []
        self.flying: set[int] = set()

    @initialize(n=st.integers(0, 30))
    def begin(self, n: int) -> None:
        self.tally = Tally(n)
        self.scheduler = Scheduler(self.tally)
        self.places = [Place.WAITING] * n

    def _set(self, i: int, place: Place) -> None:
        self.tally.move(i, place)
        self.places[i] = place

    @rule(n=st.integers(0, 8))
    def dispatch(self, n: int) -> None:
        chosen = self.scheduler.next(n, in_flight=len(self.flying))
        assert len(chosen) == len(set(chosen)) <= max(n, 0)
        suspects = self.scheduler.suspects
        if n > 0 and not chosen and not self.flying:
            assert Place.WAITING not in self.places, "something waits and nothing would ever start it"
        for i in chosen:
            assert self.places[i] == Place.WAITING
            assert i not in suspects or (len(chosen) == 1 and not self.flying)
            self._set(i, Place.RUNNING)
            self.flying.add(i)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), ok=st.booleans())
    def finish(self, data: Any, ok: bool) -> None:
        i = data.draw(st.sampled_from(sorted(self.flying)))
        self.flying.discard(i)
        self.scheduler.clear(i)
        self._set(i, Place.SUCCEEDED if ok else Place.FAILED)

    @precondition(lambda self: self.flying)
    @rule(suspicious=st.booleans())
    def die(self, suspicious: bool) -> None:
        for i in sorted(self.flying):
            if suspicious:
                self.scheduler.suspect(i)
            self._set(i, Place.WAITING)
            self.scheduler.requeue(i)
        self.flying.clear()

    @rule(data=st.data())
    def take_out(self, data: Any) -> None:
        able = [i for i, p in enumerate(self.places) if p in (Place.WAITING, Place.RUNNING)]
        if able:
            i = data.draw(st.sampled_from(able))
            self.flying.discard(i)
            self._set(i, Place.ABORTED)

    @rule()
    def put_back(self) -> None:
        for i, place in enumerate(self.places):
            if place == Place.ABORTED:
                self._set(i, Place.WAITING)
                self.scheduler.requeue(i)

    @rule()
    def retry(self) -> None:
        for i in self.tally.retry_failed():
            self.places[i] = Place.WAITING
            self.scheduler.requeue(i)

    @invariant()
    def counts_add_up(self) -> None:
        c = self.tally.counts()
        assert c.total == c.succeeded + c.failed + c.running + c.waiting + c.aborted == len(self.places)
        assert list(self.tally.places) == [int(p) for p in self.places]
        assert c.running == len(self.flying)


TestRun = Run.TestCase
