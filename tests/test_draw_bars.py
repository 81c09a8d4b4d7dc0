"""Bars: exact width, honest shares, nothing lost that is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tui_kit import GIB, MIB, text_of
from tui.draw.bars import Mark, Part, apportion, gauge, progress
from tui.draw.line import width
from tui.glyphs import ASCII, UNICODE, Glyphs

amounts = st.lists(st.integers(0, 200 * GIB), max_size=7)


@given(amounts, st.integers(0, 400 * GIB), st.integers(0, 200))
def test_cells_sum_up(parts: list[int], total: int, cells: int) -> None:
    given_cells = apportion(parts, total, cells)
    assert sum(given_cells) == cells
    assert all(n >= 0 for n in given_cells)
    assert len(given_cells) == len(parts) + 1
    assert all(n == 0 for part, n in zip(parts, given_cells, strict=False) if part == 0)


@given(amounts, st.integers(0, 400 * GIB), st.integers(0, 200))
def test_nobody_who_holds_something_is_invisible(parts: list[int], total: int, cells: int) -> None:
    there = sum(part > 0 for part in parts) + (total > sum(parts))
    given_cells = apportion(parts, total, cells)
    if cells >= there:
        assert all(n > 0 for part, n in zip(parts, given_cells, strict=False) if part > 0)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=5), st.integers(50, 200))
def test_a_share_is_off_by_little(parts: list[int], cells: int) -> None:
    """By less than a cell for the remainder, and one for each small owner that had to be shown."""
    total = 2 * sum(parts)
    for part, n in zip(parts, apportion(parts, total, cells), strict=False):
        assert abs(n - part * cells / total) <= 1 + len(parts)


def test_more_than_all_fills_the_bar() -> None:
    assert apportion([10, 10], 5, 8) == [4, 4, 0]


@given(amounts, st.integers(0, 400 * GIB), st.integers(0, 120), st.sampled_from([UNICODE, ASCII]))
def test_a_gauge_has_its_width(parts: list[int], total: int, columns: int, glyphs: Glyphs) -> None:
    named = [Part("wkcxro?"[i], "text", n) for i, n in enumerate(parts)]
    marks = [Mark("!", "warn", GIB), Mark("!", "error", GIB // 2)]
    assert width(gauge(named, total, columns, glyphs, marks=marks)) == columns


def test_a_gauge_is_read_by_its_letters() -> None:
    parts = [Part("w", "owner.weights", 10 * GIB), Part("k", "owner.kv", 2 * GIB), Part("o", "owner.other", 5 * MIB)]
    assert text_of([gauge(parts, 16 * GIB, 18, UNICODE)]) == ["▕wwwwwwwwwkko····▏"]
    assert text_of([gauge(parts, 16 * GIB, 18, ASCII)]) == ["[wwwwwwwwwkko....]"]


def test_a_threshold_is_marked_where_it_would_be_crossed() -> None:
    parts = [Part("w", "owner.weights", 8)]
    marks = [Mark("!", "warn", 4), Mark("!", "error", 1)]
    assert text_of([gauge(parts, 16, 18, ASCII, marks=marks)]) == ["[wwwwwwww...!..!.]"]
    # The marks are gone once the memory behind them is taken.
    assert text_of([gauge([Part("w", "text", 15)], 16, 18, ASCII, marks=marks)]) == ["[wwwwwwwwwwwwwww.]"]


def test_a_gauge_without_a_total_is_empty() -> None:
    assert text_of([gauge([], 0, 8, UNICODE)]) == ["▕······▏"]


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 120))
def test_progress_has_its_width(done: int, failed: int, left: int, columns: int) -> None:
    assert width(progress(done, failed, done + failed + left, columns, UNICODE)) == columns


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**6), st.integers(6, 120))
def test_progress_looks_full_only_at_the_end(done: int, failed: int, left: int, columns: int) -> None:
    assert UNICODE.empty in text_of([progress(done, failed, done + failed + left, columns, UNICODE)])[0]
    if done + failed:
        assert UNICODE.empty not in text_of([progress(done, failed, done + failed, columns, UNICODE)])[0]


@pytest.mark.parametrize(
    ("done", "failed", "expected"),
    [
        (0, 0, "[..........]"),
        (50, 0, "[#####.....]"),
        (50, 1, "[####x.....]"),  # one failure among a hundred has its cell
        (0, 100, "[xxxxxxxxxx]"),
        (99, 1, "[#########x]"),
        (999_999, 0, "[##########]"),
    ],
)
def test_progress_shows_failures_without_colour(done: int, failed: int, expected: str) -> None:
    total = max(100, done)
    assert text_of([progress(done, failed, total, 12, ASCII)]) == [expected]
