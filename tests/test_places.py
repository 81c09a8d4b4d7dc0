"""Running requests keep their rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import RunningRequest
from tui.places import LINGER_S, Places


def requests(*names: str) -> list[RunningRequest]:
    return [RunningRequest(key=i, custom_id=name) for i, name in enumerate(names)]


def shown(places: Places) -> list[str]:
    return [place.request.custom_id for place in places.rows]


def test_a_newcomer_takes_the_row_of_one_that_ended() -> None:
    places = Places()
    places.take(requests("a", "b", "c"), 0.0)
    places.take(requests("b", "c", "d"), 0.25)
    assert shown(places) == ["d", "b", "c"]
    places.take(requests("d", "b", "c", "e"), 0.5)
    assert shown(places) == ["d", "b", "c", "e"]


def test_a_row_that_nobody_takes_closes_after_a_moment() -> None:
    places = Places()
    places.take(requests("a", "b"), 0.0)
    places.take(requests("b"), 0.25)
    assert shown(places) == ["a", "b"]
    assert places.rows[0].ended == 0.25
    places.take(requests("b"), 0.25 + LINGER_S)
    assert shown(places) == ["b"]


def test_the_row_under_the_cursor_is_kept() -> None:
    places = Places()
    places.take(requests("a", "b"), 0.0)
    places.take(requests("c", "d"), 60.0, keep="a")
    assert shown(places) == ["a", "c", "d"]
    places.take(requests("c", "d"), 61.0)
    assert shown(places) == ["c", "d"]


def test_one_that_comes_back_runs_again() -> None:
    places = Places()
    places.take(requests("a"), 0.0)
    places.take([], 0.5)
    places.take(requests("a"), 0.75)
    assert places.rows[0].ended is None


def test_a_clock_that_was_set_back_keeps_nothing_for_ever() -> None:
    places = Places()
    places.take(requests("a"), 100.0)
    places.take([], 100.0)
    places.take([], 50.0)
    assert not places.rows


@given(st.lists(st.sets(st.sampled_from("abcdefgh")), max_size=30), st.sampled_from(["", "a", "c"]))
def test_everyone_who_runs_has_one_row_and_keeps_it_while_nothing_closes(ticks: list[set[str]], keep: str) -> None:
    places = Places()
    for nth, names in enumerate(ticks):
        before = shown(places)
        places.take(requests(*sorted(names)), nth * LINGER_S / 2, keep=keep)
        now = shown(places)
        assert len(now) == len(set(now))
        assert names <= set(now)
        stayed = [name for name in before if name in names]
        assert [name for name in now if name in stayed] == stayed, "they never pass each other"
        if len(now) >= len(before):
            assert all(now[i] == name for i, name in enumerate(before) if name in names)
