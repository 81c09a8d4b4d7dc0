"""Figures that stand still."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tui_kit import GIB, MIB
from tui.draw.steady import Steady, minutes, size_text


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 MiB"),
        (2 * MIB, "2 MiB"),
        (24 * MIB, "20 MiB"),
        (987 * MIB, "990 MiB"),
        (1020 * MIB, "1.0 GiB"),
        (GIB, "1.0 GiB"),
        (3 * GIB, "3.0 GiB"),
        (139 * GIB + GIB // 4, "139.2 GiB"),
    ],
)
def test_sizes(n: int, text: str) -> None:
    assert size_text(n) == text


@given(st.integers(20 * MIB, 100 * GIB), st.lists(st.integers(-2 * MIB, 2 * MIB), max_size=50))
def test_a_wobble_is_not_followed(n: int, wobble: list[int]) -> None:
    steady = Steady()
    first = size_text(steady.size("free", n))
    assert all(size_text(steady.size("free", n + by)) == first for by in wobble)


@given(st.lists(st.integers(0, 100 * GIB), min_size=1))
def test_what_is_shown_is_near_what_is_true(values: list[int]) -> None:
    steady = Steady()
    for n in values:
        assert abs(steady.size("free", n) - n) <= 0.75 * max(GIB / 10, MIB) + 1


def test_names_are_apart() -> None:
    steady = Steady()
    assert steady.of("a", 1.0, 1.0) == 1.0
    assert steady.of("b", 1.4, 1.0) == 1.0
    assert steady.of("a", 2.0, 1.0) == 2.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "under 1 min"), (59.9, "under 1 min"), (119, "1 min"), (2460, "41 min"), (7500, "2 h 05 min")],
)
def test_minutes(seconds: float, text: str) -> None:
    assert minutes(seconds) == text
