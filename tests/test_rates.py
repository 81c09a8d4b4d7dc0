"""Rates over a window and the time left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import EngineStats
from engine.rates import Lengths, Rates, time_left


def stats(generated: int, prompt: int = 0) -> EngineStats:
    return EngineStats(generated_tokens=generated, prompt_tokens=prompt)


def test_the_rate_is_that_of_the_window_only() -> None:
    rates = Rates(window_s=10)
    for t in range(31):
        rates.add(float(t), stats(min(t, 20) * 100 + max(0, t - 20) * 10, t * 5))
    assert rates.decode == pytest.approx(10)
    assert rates.prefill == pytest.approx(5)


def test_nothing_is_claimed_from_one_look_or_a_short_one() -> None:
    rates = Rates()
    assert rates.decode == 0
    rates.add(0.0, stats(0))
    rates.add(0.1, stats(1000))
    assert rates.decode == 0


def test_a_new_engine_begins_a_new_window() -> None:
    rates = Rates()
    rates.add(0.0, stats(0))
    rates.add(1.0, stats(5000))
    rates.add(2.0, stats(0))
    assert rates.decode == 0
    rates.add(4.0, stats(20))
    assert rates.decode == 10


@given(st.lists(st.integers(0, 5000), min_size=2, max_size=200))
def test_mean_and_deviation(values: list[int]) -> None:
    lengths = Lengths()
    for value in values:
        lengths.add(value)
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    assert lengths.mean == pytest.approx(mean, abs=1e-6)
    assert lengths.deviation == pytest.approx(variance**0.5, abs=1e-3)


def test_time_left_counts_tokens_not_requests() -> None:
    lengths = Lengths()
    for value in (100, 100, 100):
        lengths.add(value)
    eta = time_left(lengths, open_requests=10, generated_in_flight=200, rate=80.0)
    assert (eta.s, eta.low_s, eta.high_s) == (10.0, 10.0, 10.0)


def test_more_spread_and_fewer_samples_widen_it() -> None:
    def width(values: list[int]) -> float:
        lengths = Lengths()
        for value in values:
            lengths.add(value)
        eta = time_left(lengths, open_requests=50, generated_in_flight=0, rate=100.0)
        assert eta.s is not None
        assert eta.low_s is not None
        assert eta.high_s is not None
        assert 0 <= eta.low_s <= eta.s <= eta.high_s
        return eta.high_s - eta.low_s

    assert width([90, 110]) < width([50, 150])
    assert width([90, 110] * 50) < width([90, 110])


def test_nothing_known_is_none_and_nothing_open_is_zero() -> None:
    assert time_left(Lengths(), open_requests=5, generated_in_flight=0, rate=10).s is None
    known = Lengths()
    known.add(10)
    assert time_left(known, open_requests=5, generated_in_flight=0, rate=0).s is None
    assert time_left(known, open_requests=0, generated_in_flight=0, rate=0).s == 0
    assert time_left(known, open_requests=1, generated_in_flight=99, rate=1).s == 0
