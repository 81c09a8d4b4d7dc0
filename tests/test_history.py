"""A second of history is measured: its rates add up to the tokens, whenever the worker's word arrives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.history import History
from engine.protocol import HISTORY_S, DeviceReading, EngineStats, HistoryPoint, Reading

WALL = 1_700_000_000.0


def _stats(generated: int, prompt: int = 0, **more: Any) -> EngineStats:
    return EngineStats(generated_tokens=generated, prompt_tokens=prompt, **more)


def _points(history: History, now: float, stats: EngineStats, *, alive: bool = True) -> list[HistoryPoint]:
    return history.points(now, WALL + now, stats, None, alive=alive)


@given(st.lists(st.floats(0.15, 0.45), min_size=40, max_size=80), st.integers(1, 3000))
def test_a_steady_engine_has_a_steady_line(gaps: list[float], rate: int) -> None:
    """Heartbeats that come unevenly make neither holes nor peaks."""
    history, now, points = History(), 0.0, []
    for gap in gaps:
        now += gap
        stats = _stats(round(rate * now), round(3 * rate * now))
        history.heard(now, stats)
        points += _points(history, now, stats)
    assert points
    for point in points:
        assert point.decode == pytest.approx(rate, abs=2.0)  # whole tokens over at least half a second
        assert point.prefill == pytest.approx(3 * rate, abs=2.0)
    times = [point.t for point in points]
    assert times == pytest.approx([times[0] + n for n in range(len(times))])


@given(st.lists(st.integers(0, 500), min_size=20, max_size=60))
def test_the_points_add_up_to_the_tokens(per_beat: list[int]) -> None:
    history, total, points = History(), 0, []
    history.heard(0.0, _stats(0))
    _points(history, 0.0, _stats(0))
    for n, more in enumerate([*per_beat, 0, 0, 0, 0], 1):
        total += more
        history.heard(n * 0.25, _stats(total))
        points += _points(history, n * 0.25, _stats(total))
    whole = (len(per_beat) + 4) // 4
    counted = sum(per_beat[: whole * 4])
    assert sum(point.decode for point in points) == pytest.approx(counted, abs=0.01 * len(points))


def test_a_run_that_is_over_before_the_first_word_is_seen() -> None:
    history = History()
    assert _points(history, 0.0, _stats(0), alive=False) == []
    history.begun(0.5)
    history.begun(0.6)  # told again: still the same engine
    history.heard(1.5, _stats(700, 300))
    (point,) = _points(history, 1.5, _stats(700, 300))
    assert (point.decode, point.prefill) == (700.0, 300.0)


def test_a_silent_worker_makes_no_zero_and_no_double() -> None:
    history = History()
    history.heard(0.0, _stats(0))
    assert _points(history, 0.0, _stats(0)) == []
    for now in (1.0, 2.0, 3.0):
        assert _points(history, now, _stats(0)) == [], "nothing is known of these seconds yet"
    history.heard(4.0, _stats(400))
    points = _points(history, 4.0, _stats(400))
    assert [(point.t - WALL, point.decode) for point in points] == [(1, 100), (2, 100), (3, 100), (4, 100)]


def test_without_an_engine_there_are_zeros() -> None:
    history = History()
    gpu = DeviceReading(name="g", kind="gpu", total=9, free=5)
    reading = Reading(t=0, devices=[gpu, DeviceReading(name="RAM", kind="ram", total=9, free=7)])
    assert history.points(0.0, WALL, EngineStats(), reading, alive=False) == []
    (point,) = history.points(1.1, WALL + 1.1, EngineStats(), reading, alive=False)
    assert point == HistoryPoint(t=WALL + 1.0, free=[5, 7])


def test_another_engine_counts_from_its_own_beginning() -> None:
    history = History()
    history.heard(0.0, _stats(90_000))
    _points(history, 0.0, _stats(90_000))
    history.forget()
    (dead,) = _points(history, 1.0, EngineStats(), alive=False)
    assert dead.decode == 0
    history.heard(1.5, _stats(0))
    history.heard(2.0, _stats(50))
    (point,) = _points(history, 2.0, _stats(50))
    assert point.decode == 100
    history.heard(2.5, _stats(7))  # replaced without a word
    history.heard(3.0, _stats(17))
    (point,) = _points(history, 3.0, _stats(17))
    assert point.decode == 20


def test_a_rest_leaves_no_peak_behind_and_old_points_go() -> None:
    history = History()
    history.heard(0.0, _stats(0))
    _points(history, 0.0, _stats(0))
    history.heard(1.0, _stats(10))
    assert len(_points(history, 1.0, _stats(10))) == 1
    history.rest()
    history.heard(100.0, _stats(9000))
    assert _points(history, 100.0, _stats(9000)) == []
    history.heard(101.0, _stats(9005, running=2, slots=4, kv_used=7, kv_total=9))
    (point,) = _points(history, 101.0, _stats(9005, running=2, slots=4, kv_used=7, kv_total=9))
    assert (point.decode, point.running, point.slots, point.kv_used, point.kv_total) == (5, 2, 4, 7, 9)
    assert len(history.all(WALL + 101)) == 2
    assert len(history.all(WALL + 101 + HISTORY_S - 50)) == 1


def test_the_ring_is_bounded() -> None:
    history = History()
    for now in range(HISTORY_S + 50):
        history.heard(float(now), _stats(now))
        _points(history, float(now), _stats(now))
    assert len(history.all(0.0)) == HISTORY_S


def test_an_engine_that_has_only_read_before_it_was_replaced_counts_anew() -> None:
    history = History()
    history.heard(0.0, _stats(0, 900))
    _points(history, 0.0, _stats(0, 900))
    history.heard(0.5, _stats(0, 100))  # another one: fewer tokens read than before
    history.heard(1.0, _stats(0, 150))
    (point,) = _points(history, 1.0, _stats(0, 150))
    assert point.prefill == 100.0


def test_after_a_long_sleep_of_the_machine_the_past_is_filled_once() -> None:
    history = History()
    assert _points(history, 0.0, _stats(0), alive=False) == []
    assert len(_points(history, 10.0 * HISTORY_S, _stats(0), alive=False)) == HISTORY_S
    assert len(_points(history, 10.0 * HISTORY_S + 1.0, _stats(0), alive=False)) <= 2
