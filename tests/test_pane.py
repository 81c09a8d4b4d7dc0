"""What a pane repaints: every cell that changed, and no row or column that did not."""

from __future__ import annotations

from typing import Any, ClassVar

from hypothesis import given
from hypothesis import strategies as st
from textual.geometry import Region

from tests.tui_kit import PaneApp, make_desk
from tui.desk import Desk
from tui.draw.line import Line, Span, fill, line
from tui.panes.pane import Pane, first_difference, last_difference
from tui.text import cells

COLUMNS = 24

spans = st.builds(Span, st.text("ab界é ", min_size=1, max_size=6), st.sampled_from(["text", "dim", "ok"]))
lines = st.lists(spans, max_size=5).map(lambda some: fill(tuple(some), COLUMNS))


def painted(some: Line) -> list[tuple[str, str]]:
    """What stands in each cell; the second cell of a wide character knows whose it is."""
    return [
        (char if n == 0 else f"{char}, second", span.style)
        for span in some
        for char in span.text
        for n in range(cells(char))
    ]


@given(lines, lines)
def test_what_lies_outside_the_difference_is_the_same(old: Line, new: Line) -> None:
    left, right = first_difference(old, new), last_difference(old, new, COLUMNS)
    before, after = painted(old), painted(new)
    assert before[:left] == after[:left]
    assert before[right:] == after[right:]
    assert 0 <= left <= COLUMNS
    assert 0 <= right <= COLUMNS


def test_a_difference_is_as_narrow_as_it_can_be() -> None:
    old = fill(line(("name ", "text"), ("界 12 of 90", "number"), (" rest", "dim")), COLUMNS)
    new = fill(line(("name ", "text"), ("界 13 of 90", "number"), (" rest", "dim")), COLUMNS)
    assert first_difference(old, new) == 9
    assert last_difference(old, new, COLUMNS) == 10
    one, two = (fill(line((f"row {n} 界界 end", "text")), COLUMNS) for n in (1, 2))
    assert first_difference(one, two) == 4
    assert last_difference(one, two, COLUMNS) == 5
    restyled = fill(line(("name ", "text"), ("界 12 of 90", "warn"), (" rest", "dim")), COLUMNS)
    assert first_difference(old, restyled) == 5
    assert last_difference(old, restyled, COLUMNS) == 16


class _Rows(Pane):
    NAME: ClassVar[str] = "rows"
    shown: list[Line]

    def rows(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        del desk, columns, rows
        return self.shown


async def test_only_what_changed_is_painted_again() -> None:
    asked: list[tuple[Region, ...]] = []

    class Watched(_Rows):
        def refresh(self, *regions: Region, **more: Any) -> Watched:
            asked.append(regions)
            return super().refresh(*regions, **more)

    pane = Watched()
    pane.shown = [line("first"), line("tokens 12"), line("last")]
    async with PaneApp(pane, make_desk()).run_test(size=(COLUMNS, 4)) as pilot:
        pane.redraw()
        await pilot.pause()
        asked.clear()
        pane.redraw()
        assert asked == []
        pane.shown = [line("first"), line("tokens 13"), line("last")]
        pane.redraw()
        assert asked == [(Region(8, 1, 1, 1),)]
        asked.clear()
        # The same text cut into other pieces: nothing to see, but never a region without a cell.
        pane.shown = [line("fir", "st"), line("tokens 13"), line("last")]
        pane.redraw()
        assert all(region.width > 0 for regions in asked for region in regions)
