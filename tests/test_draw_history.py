"""History graphs: fixed bounds, columns on absolute time, blanks where nothing was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui.draw.history import Bounds, Sample, columns_of, graph, nice, seconds_per_column
from tui.glyphs import ASCII, UNICODE

T = 1_700_000_000.0


def wave(seconds: int, *, start: float = T) -> list[Sample]:
    return [Sample(start + s + 0.3, float(s % 7)) for s in range(seconds)]


# --- bounds -----------------------------------------------------------------------------------------------------------


@given(st.floats(1e-6, 1e12))
def test_a_bound_is_a_step_that_holds_the_value(value: float) -> None:
    top = nice(value)
    assert top >= value * (1 - 1e-6)
    assert top <= value * 2.5 * (1 + 1e-6)
    assert f"{top:.6e}".rstrip("0+-e").startswith(("1.", "2.", "5."))


@pytest.mark.parametrize(("value", "top"), [(0, 1), (1, 1), (1.1, 2), (3, 5), (7, 10), (1012, 2000), (20_000, 20_000)])
def test_steps(value: float, top: float) -> None:
    assert nice(value) == top


@given(st.lists(st.floats(0, 1e9), min_size=1))
def test_bounds_only_grow(values: list[float]) -> None:
    bounds = Bounds()
    tops = [bounds.top("out", value) for value in values]
    assert tops == sorted(tops)
    assert tops[-1] >= max(values) * (1 - 1e-6)


def test_bounds_of_two_graphs_are_apart() -> None:
    bounds = Bounds()
    assert bounds.top("in", 3000.0) == 5000.0
    assert bounds.top("out", 100.0) == 100.0


# --- columns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "span", "per"), [(120, 120, 1), (119, 120, 2), (22, 120, 6), (1, 9999, 120)])
def test_seconds_per_column(columns: int, span: float, per: int) -> None:
    assert seconds_per_column(columns, span) == per


@pytest.mark.parametrize("per", [1, 2, 3, 5])
def test_the_graph_moves_once_a_column(per: int) -> None:
    """A sample a second, drawn four times a second: the columns change only when another one is complete."""
    samples = wave(200)
    moves = 0
    before: list[float | None] = []
    for tick in range(100 * 4, 160 * 4):
        now = T + tick / 4
        known = [sample for sample in samples if sample.t <= now]
        after = columns_of(known, 20, per, now=now)
        if before and after != before:
            moves += 1
            assert after[:-1] == before[1:]  # by one column, and no other has changed
        before = after
    assert moves == pytest.approx(60 / per, abs=1)


def test_a_column_is_the_mean_of_its_seconds() -> None:
    samples = [Sample(T + s + 0.5, float(s)) for s in range(9)]  # T is a multiple of 2
    assert columns_of(samples, 4, 2, now=T + 8.6) == [0.5, 2.5, 4.5, 6.5]


def test_missing_time_is_blank() -> None:
    samples = [Sample(T + s + 0.5, 5.0) for s in range(40) if not 10 <= s < 20]
    values = columns_of(samples, 39, 1, now=T + 39.6)
    assert [i for i, value in enumerate(values) if value is None] == list(range(10, 20))


def test_jitter_makes_no_hole() -> None:
    samples = [Sample(T + s + (0.98 if s % 2 else 1.02), 5.0) for s in range(40)]  # two in one second, none in the next
    assert None not in columns_of(samples, 30, 1, now=T + 40.1)


def test_a_lost_runner_leaves_a_growing_gap() -> None:
    samples = wave(60)
    values = columns_of(samples, 60, 1, now=T + 80)
    assert values[-10:] == [None] * 10
    assert values[0] is not None


@given(
    st.lists(st.tuples(st.floats(T, T + 600), st.floats(0, 1e6)), max_size=50),
    st.integers(0, 80),
    st.integers(1, 60),
    st.floats(T, T + 900),
)
def test_any_samples_give_as_many_columns(
    points: list[tuple[float, float]], columns: int, per: int, now: float
) -> None:
    samples = [Sample(t, value) for t, value in sorted(points)]
    values = columns_of(samples, columns, per, now=now)
    assert len(values) == columns
    measured = {value for _, value in points}
    assert all(value is None or min(measured) <= value <= max(measured) + 1e-6 for value in values)


def test_values_that_are_no_numbers_are_left_out() -> None:
    samples = [Sample(T, float("nan")), Sample(T + 1, float("inf"))]
    assert columns_of(samples, 3, 1, now=T + 4) == [None, None, None]


# --- cells ------------------------------------------------------------------------------------------------------------


def test_heights() -> None:
    assert graph([0.0, 1.0, 4.0, 8.0, 16.0, None], 2, 16.0, UNICODE) == ["   ▁█ ".replace("▁", " "), "▁▁▄██ "]


def test_ascii_has_levels_too() -> None:
    assert graph([0.0, 4.0, 8.0], 1, 8.0, ASCII) == [".=#"]


def test_a_measured_zero_differs_from_nothing() -> None:
    assert graph([0.0, None], 1, 100.0, UNICODE) == ["▁ "]


@given(st.lists(st.none() | st.floats(0, 1e6), max_size=60), st.integers(1, 12), st.floats(0.1, 1e6))
def test_every_row_has_a_cell_for_every_value(values: list[float | None], rows: int, top: float) -> None:
    drawn = graph(values, rows, top, ASCII)
    assert len(drawn) == rows
    assert all(len(row) == len(values) for row in drawn)
    for x, value in enumerate(values):
        column = [row[x] for row in reversed(drawn)]  # from the ground up: full cells, one of any level, blanks
        assert (column[0] == " ") == (value is None)
        filled = "".join(column).rstrip(" ")
        assert filled[:-1] == "#" * len(filled[:-1])
