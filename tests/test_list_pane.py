"""The cursor of lists."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tui.keys import MOVES
from tui.panes.list_pane import STEPS, Cursor, margin

sizes = st.tuples(st.integers(0, 1_000_000), st.integers(1, 60))


def check(cursor: Cursor, total: int, page: int) -> None:
    assert 0 <= cursor.at < max(1, total)
    assert 0 <= cursor.top <= max(0, total - page)
    assert cursor.top <= cursor.at < cursor.top + page
    room = margin(page)
    assert cursor.at - cursor.top >= min(room, cursor.at)
    assert cursor.top + page - 1 - cursor.at >= min(room, total - 1 - cursor.at) or not total


def test_every_step_is_a_move_of_the_key_table() -> None:
    assert set(MOVES) - {"left", "right"} == STEPS


@given(sizes, st.lists(st.sampled_from(sorted(STEPS)), max_size=30))
def test_the_cursor_stays_in_the_list_and_in_sight(size: tuple[int, int], steps: list[str]) -> None:
    total, page = size
    cursor = Cursor()
    for action in steps:
        before = cursor.at
        assert cursor.step(action, total, page)
        check(cursor, total, page)
        down = action in ("down", "page_down", "half_down", "bottom")
        assert cursor.at >= before if down else cursor.at <= before


@given(st.integers(-5, 200), st.integers(-5, 200), sizes)
def test_it_finds_back_from_anywhere(at: int, top: int, size: tuple[int, int]) -> None:
    cursor = Cursor(at, top)
    cursor.settle(*size)
    check(cursor, *size)
    again = Cursor(cursor.at, cursor.top)
    again.settle(*size)
    assert again == cursor


@given(st.integers(1, 500), st.integers(1, 40), st.data())
def test_paging_shows_every_row(total: int, page: int, data: st.DataObject) -> None:
    cursor = Cursor()
    seen: set[int] = set()
    action = data.draw(st.sampled_from(["down", "page_down", "half_down"]))
    for _ in range(total + 1):
        seen |= set(range(cursor.top, min(total, cursor.top + page)))
        cursor.step(action, total, page)
    assert seen == set(range(total))
    assert cursor.at == total - 1


def test_ends() -> None:
    cursor = Cursor()
    cursor.step("bottom", 1_000_000, 20)
    assert (cursor.at, cursor.top) == (999_999, 999_980)
    cursor.step("top", 1_000_000, 20)
    assert cursor == Cursor(0, 0)


def test_no_move_moves_nothing() -> None:
    cursor = Cursor(3, 1)
    assert not cursor.step("pause", 10, 4)
    assert cursor == Cursor(3, 1)


def test_a_page_keeps_the_height_of_the_cursor() -> None:
    cursor = Cursor(55, 50)
    cursor.step("page_down", 1000, 20)
    assert cursor == Cursor(74, 69)


def test_rows_that_move_together_leave_the_picture_still() -> None:
    cursor = Cursor(55, 50)
    cursor.follow(65, still=True)
    assert cursor == Cursor(65, 60)
    cursor.follow(58)
    assert cursor == Cursor(58, 60)
    cursor.settle(1000, 20)
    assert cursor == Cursor(58, 56)
