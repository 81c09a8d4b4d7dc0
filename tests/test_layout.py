"""Boxes of panes: at every size they fit the screen, never overlap, and the four kinds of information are there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui.keys import PANES
from tui.layout import TOO_LOW, TOO_NARROW, Box, arrange
from tui.view import LAYOUTS

NEEDED = {"header", "memory", "rate", "jobs", "streams", "keys"}


def cells(box: Box) -> set[tuple[int, int]]:
    return {(x, y) for x in range(box.x, box.x + box.columns) for y in range(box.y, box.y + box.rows)}


@given(
    columns=st.integers(1, 220),
    rows=st.integers(1, 70),
    layout=st.sampled_from(LAYOUTS),
    zoomed=st.sampled_from(["", *PANES]),
)
def test_boxes_tile_the_screen(columns: int, rows: int, layout: str, zoomed: str) -> None:
    boxes = arrange(columns, rows, layout=layout, zoomed=zoomed)
    taken: set[tuple[int, int]] = set()
    for name, box in boxes.items():
        assert box.columns > 0, name
        assert box.rows > 0, name
        own = cells(box)
        assert not own & taken, name
        taken |= own
    assert taken == {(x, y) for x in range(columns) for y in range(rows)}


@given(columns=st.integers(TOO_NARROW, 220), rows=st.integers(TOO_LOW, 70), layout=st.sampled_from(LAYOUTS))
def test_all_four_kinds_of_information_are_there(columns: int, rows: int, layout: str) -> None:
    boxes = arrange(columns, rows, layout=layout)
    assert boxes.keys() >= NEEDED
    assert boxes["jobs"].rows >= 3
    assert boxes["streams"].rows >= 4
    assert "small" not in boxes


@given(columns=st.integers(TOO_NARROW, 220), rows=st.integers(TOO_LOW, 70), zoomed=st.sampled_from(PANES))
def test_a_zoomed_pane_has_the_screen(columns: int, rows: int, zoomed: str) -> None:
    assert arrange(columns, rows, zoomed=zoomed).keys() == {"header", "keys", zoomed}


@pytest.mark.parametrize(("columns", "rows"), [(59, 40), (200, 15), (30, 9), (10, 3)])
def test_a_small_screen_says_so(columns: int, rows: int) -> None:
    boxes = arrange(columns, rows)
    assert "small" in boxes
    assert "jobs" not in boxes


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (120, 36), (200, 50)])
def test_nothing_is_missing_at_the_usual_sizes(columns: int, rows: int) -> None:
    assert arrange(columns, rows).keys() == {"header", "keys", *PANES}


@given(columns=st.integers(TOO_NARROW, 220), rows=st.integers(TOO_LOW, 70), layout=st.sampled_from(LAYOUTS))
def test_no_pane_is_its_title_alone(columns: int, rows: int, layout: str) -> None:
    boxes = arrange(columns, rows, layout=layout)
    for name in ("jobs", "requests", "streams", "log"):
        assert name not in boxes or boxes[name].rows >= 2, name
