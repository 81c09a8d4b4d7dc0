"""The requests pane: running ones on top, a window over the rest, a cursor that stays on its request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from textual.app import App

from engine.job import JobState
from engine.pages import Page, RequestRow
from engine.protocol import Counts, EngineChanged, JobChanged, RunningRequest
from tests.tui_kit import NOW, PaneApp, job_view, make_desk, running, screen_text
from tui.desk import Desk
from tui.glyphs import ASCII
from tui.panes.requests import RequestsPane
from tui.view import View, Which


def rows_of(state: str = "done") -> Callable[[int], RequestRow]:
    return lambda i: RequestRow(custom_id=f"r{i}", line=i + 1, state=state, prompt_tokens=5, seconds=1.0)


class Files:
    """What the reading process would answer: a selection of `total` rows, made when they are asked for."""

    def __init__(self, total: int, row: Callable[[int], RequestRow] | None = None) -> None:
        self.total = total
        self.row = row or rows_of()
        self.shift = 0  # this many rows have come in before the first
        self.t = 0.0

    def feed(self, desk: Desk) -> None:
        """As the app's ticks do."""
        for _ in range(10):
            self.t += 1.0
            ask = desk.window.want(self.t)
            if ask is None:
                return
            offset = ask.offset
            if ask.around[1:].isdigit():
                offset = max(0, int(ask.around[1:]) + self.shift - ask.count // 2)
            rows = [self.row(i - self.shift) for i in range(offset, min(offset + ask.count, self.total))]
            desk.window.take(ask, Page(total=self.total, offset=offset, rows=rows))


def run_now(desk: Desk, *requests: RunningRequest) -> None:
    desk.mirror.take(EngineChanged(seq=9, engine=desk.mirror.engine, running=list(requests)))


def under_cursor(app: App[Any]) -> str:
    found = [row for row in screen_text(app) if row.startswith(">")]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("size", [(20, 1), (20, 3), (52, 19), (66, 30), (80, 4), (120, 20), (200, 50)])
@pytest.mark.parametrize("ascii_only", [False, True])
async def test_it_looks_right_at_any_size(size: tuple[int, int], ascii_only: bool) -> None:
    desk = make_desk()
    if ascii_only:
        desk.glyphs = ASCII
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=size) as pilot:
        for _ in range(2):
            pane.redraw()
            Files(10_000).feed(desk)
        await pilot.pause()
        rows = screen_text(pilot.app)
        assert "4 requests" in rows[0]
        if size[1] > 1:
            assert rows[1].startswith("> RUN")
            assert not ascii_only or all(row.isascii() for row in rows[1:])
        if size[0] >= 66:
            assert "4 running" in rows[0]
            assert "of evals-1" in rows[0]
        assert desk.view.request == "req-004189"
        assert not desk.view.chosen


async def test_it_never_waits_for_rows() -> None:
    desk = make_desk(View(job="evals-1"), running=[])
    files = Files(1_000_000)
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(80, 10)) as pilot:
        pane.redraw()
        await pilot.pause()
        assert "reading the files" in screen_text(pilot.app)[1]
        files.feed(desk)
        pane.act("bottom")
        pane.redraw()
        await pilot.pause()
        assert "···" in under_cursor(pilot.app)
        assert desk.view.request == "", "no key may act on a row that nobody has seen"
        files.feed(desk)
        pane.redraw()
        await pilot.pause()
        assert "line 1 000 000" in under_cursor(pilot.app)
        assert desk.view.request == "r999999"
        pane.act("top")
        pane.redraw()
        assert desk.view.request == "r0"


async def test_running_requests_keep_their_rows_and_the_cursor_its_request() -> None:
    desk = make_desk(running=running(4))
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(80, 8)) as pilot:
        pane.redraw()
        pane.act("down")
        pane.act("down")
        assert desk.view.request == "req-004191"
        assert desk.view.chosen
        first, second, third, fourth = running(4)
        newcomer = msgspec.structs.replace(first, custom_id="new-1")
        run_now(desk, second, fourth, third, newcomer)
        pane.redraw()
        await pilot.pause()
        names = [row[8:24].strip() for row in screen_text(pilot.app)[1:5]]
        assert names == ["new-1", "req-004190", "req-004191", "req-004192"]
        assert desk.view.request == "req-004191"


async def test_a_chosen_request_that_ends_stays_under_the_cursor_with_its_outcome() -> None:
    desk = make_desk(running=running(2))
    clock = [NOW]
    desk.now = lambda: clock[0]
    files = Files(10)
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(80, 8)) as pilot:
        pane.redraw()
        files.feed(desk)
        pane.act("down")
        run_now(desk, running(2)[0])
        clock[0] += 60.0
        pane.redraw()
        await pilot.pause()
        assert "END   req-004190" in under_cursor(pilot.app)
        assert desk.window.seeking == "req-004190", "its line is far from the rows at hand"
        files.row = lambda i: RequestRow(custom_id="req-004190" if i == 3 else f"r{i}", line=i + 1, state="failed",
                                         message="it broke")  # fmt: skip
        desk.window.refresh("more")
        files.feed(desk)
        pane.redraw()
        await pilot.pause()
        assert "FAIL  req-004190" in under_cursor(pilot.app)
        assert desk.view.request == "req-004190"
        pane.act("up")
        clock[0] += 5.0
        pane.redraw()
        await pilot.pause()
        assert len([row for row in screen_text(pilot.app) if "req-004190" in row]) == 1, "its row on top is gone"


async def test_where_nobody_has_chosen_the_first_running_one_is_under_the_cursor() -> None:
    desk = make_desk(running=[])
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(80, 8)):
        pane.redraw()
        Files(10).feed(desk)
        pane.redraw()
        assert desk.view.request == "r0"
        run_now(desk, *running(3))
        pane.redraw()
        assert desk.view.request == "req-004189"
        assert pane.cursor.at == 0


async def test_rows_below_do_not_move_when_the_running_ones_change() -> None:
    desk = make_desk(running=running(4))
    clock = [NOW]
    desk.now = lambda: clock[0]
    files = Files(1000)
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(80, 11)) as pilot:
        pane.redraw()
        files.feed(desk)
        for _ in range(5):
            pane.act("page_down")
            pane.redraw()
            files.feed(desk)
        pane.redraw()
        await pilot.pause()
        before, chosen = screen_text(pilot.app)[1:], desk.view.request
        assert chosen.startswith("r")
        run_now(desk, running(1)[0])
        for _ in range(2):
            pane.redraw()
            clock[0] += 5.0
        await pilot.pause()
        assert screen_text(pilot.app)[1:] == before
        assert desk.view.request == chosen


async def test_the_cursor_stays_on_its_request_when_failures_come_in_above() -> None:
    desk = make_desk(View(job="evals-1", which=Which.FAILED))
    files = Files(500, rows_of("failed"))
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(80, 11)) as pilot:
        pane.redraw()
        files.feed(desk)
        for _ in range(30):
            pane.act("down")
            pane.redraw()
            files.feed(desk)
        assert desk.view.request == "r30"
        pane.redraw()
        await pilot.pause()
        before = screen_text(pilot.app)[1:]
        files.shift, files.total = 7, 507
        desk.window.refresh("seven more")
        files.feed(desk)
        pane.redraw()
        await pilot.pause()
        assert desk.view.request == "r30"
        assert pane.cursor.at == 37
        assert screen_text(pilot.app)[1:] == before


async def test_a_request_chosen_elsewhere_is_found_far_away() -> None:
    desk = make_desk(running=running(2))
    files = Files(100_000)
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(80, 8)) as pilot:
        pane.redraw()
        files.feed(desk)
        desk.view.request, desk.view.chosen = "r77777", True
        pane.redraw()
        files.feed(desk)
        pane.redraw()
        files.feed(desk)
        pane.redraw()
        await pilot.pause()
        assert "line  77 778" in under_cursor(pilot.app)
        assert desk.view.request == "r77777"
        desk.view.request = "req-004190"
        pane.redraw()
        assert pane.cursor.at == 1


async def test_one_that_is_not_in_the_list_leaves_the_cursor_alone() -> None:
    desk = make_desk(running=running(2))
    files = Files(100)
    files.row = lambda i: RequestRow(custom_id=f"x{i}", line=i + 1, state="done")
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(80, 8)):
        pane.redraw()
        files.feed(desk)
        pane.act("down")
        desk.view.request = "nobody"
        pane.redraw()
        files.feed(desk)
        pane.redraw()
        assert desk.view.request == "req-004190"


async def test_filters_and_texts() -> None:
    desk = make_desk(running=running(4))
    files = Files(0)
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(80, 8)) as pilot:
        pane.redraw()
        desk.view.which = Which.FAILED
        pane.redraw()
        files.feed(desk)
        pane.redraw()
        await pilot.pause()
        rows = screen_text(pilot.app)
        assert "failed 0 of 10 000" in rows[0]
        assert "no request has failed: ! shows all again" in rows[1]
        assert desk.view.request == ""
        desk.view.which, desk.view.query = Which.RUNNING, "4190"
        pane.redraw()
        await pilot.pause()
        rows = screen_text(pilot.app)
        assert 'running "4190"' in rows[0]
        assert [row[8:18] for row in rows[1:] if row] == ["req-004190"]


async def test_another_job_begins_at_its_top() -> None:
    desk = make_desk(running=running(4))
    files = Files(1000)
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(80, 8)) as pilot:
        pane.redraw()
        files.feed(desk)
        pane.act("bottom")
        desk.view.select_job("sample-1")
        pane.redraw()
        await pilot.pause()
        assert "of sample-1" in screen_text(pilot.app)[0]
        assert "reading" in screen_text(pilot.app)[1]
        Files(10).feed(desk)
        pane.redraw()
        assert pane.cursor.at == 0
        assert desk.view.request == "r0"


async def test_waiting_rows_that_run_are_shown_running() -> None:
    one = msgspec.structs.replace(running(1)[0], custom_id="r2")
    desk = make_desk(View(job="evals-1", which=Which.WAITING), running=[one])
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(80, 8)) as pilot:
        pane.redraw()
        Files(9, rows_of("waiting")).feed(desk)
        pane.redraw()
        await pilot.pause()
        rows = screen_text(pilot.app)
        assert rows[3].startswith("  RUN   r2")
        assert rows[4].startswith("  WAIT  r3")
        assert "waiting 8 of" in rows[0]


async def test_one_that_runs_has_its_figures_on_top_only() -> None:
    desk = make_desk()
    pane = RequestsPane()
    files = Files(10, lambda i: RequestRow(custom_id=f"r{i}", line=i + 1, state="waiting"))
    run_now(
        desk,
        RunningRequest(key=1, custom_id="r2", line=3, generated=40, max_tokens=600, job="evals-1", started=NOW - 5),
    )
    async with PaneApp(pane, desk).run_test(size=(100, 14)) as pilot:
        for _ in range(2):
            pane.redraw()
            files.feed(desk)
        pane.redraw()
        await pilot.pause()
        rows = [row for row in screen_text(pilot.app) if " r2 " in row]
        assert len(rows) == 2
        assert "40/600" in rows[0]
        assert "line" in rows[1]
        assert "in a slot: see the top of the list" in rows[1]
        assert "600" not in rows[1]


async def test_left_and_right_go_from_one_running_request_to_the_next() -> None:
    desk = make_desk(running=running(3))
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(80, 8)):
        pane.redraw()
        assert pane.act("right")
        assert pane.act("right")
        assert pane.act("right")
        assert desk.view.request == "req-004191"
        assert pane.act("left")
        assert desk.view.request == "req-004190"
        assert not pane.act("pause")
        run_now(desk)
        desk.view.select_job("sample-1")
        assert not pane.act("left")


async def test_without_a_job_it_says_so() -> None:
    desk = make_desk(View(), jobs=[], running=[])
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(80, 4)) as pilot:
        pane.redraw()
        await pilot.pause()
        assert "no job is selected" in screen_text(pilot.app)[1]
        pane.act("down")
        assert desk.view.request == ""


async def test_marks_and_what_is_missing_are_told() -> None:
    desk = make_desk(View(job="evals-1", marked_requests={"r1", "req-004189"}), running=running(1))
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(120, 8)) as pilot:
        pane.redraw()
        ask = desk.window.want(0.0)
        assert ask is not None
        rows = [RequestRow(custom_id=f"r{i}", line=i + 1, state="done") for i in range(3)]
        desk.window.take(ask, Page(total=3, offset=0, rows=rows, note="the batch file\x1b is gone"))
        pane.redraw()
        await pilot.pause()
        text = screen_text(pilot.app)
        assert "the batch file␛ is gone  2 marked" in text[0]
        assert text[1].startswith(">*RUN")
        assert text[3].startswith(" *DONE")


async def test_live_figures_change_once_a_second() -> None:
    desk = make_desk(running=running(2))
    clock = [NOW]
    desk.now = lambda: clock[0]
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(80, 8)):
        pane.redraw()
        first, second = running(2)
        shown = set[str]()
        for tick in range(9):
            clock[0] = NOW + tick * 0.25
            run_now(desk, msgspec.structs.replace(first, generated=400 + tick), second)
            pane.redraw()
            shown.add("".join(span.text for span in pane._lines[1]))
        assert len(shown) == 3
        waits = msgspec.structs.replace(first, custom_id="new-2", generated=0)
        run_now(desk, waits, second)
        pane.redraw()
        assert "prefill" in "".join(span.text for span in pane._lines[1])
        run_now(desk, msgspec.structs.replace(waits, generated=1), second)
        pane.redraw()
        assert "prefill" not in "".join(span.text for span in pane._lines[1]), "nor is the beginning of an answer late"
        run_now(desk, first, second)
        pane.redraw()
        third = msgspec.structs.replace(first, custom_id="new-1")
        run_now(desk, first, second, third)
        pane.redraw()
        assert "new-1" in "".join(span.text for span in pane._lines[3]), "who is new is seen at once"


async def test_a_job_that_changes_nothing_draws_nothing() -> None:
    desk = make_desk(running=running(3))
    async with PaneApp(pane := RequestsPane(), desk).run_test(size=(80, 8)) as pilot:
        pane.redraw()
        Files(100).feed(desk)
        pane.redraw()
        await pilot.pause()
        before = list(pane._lines)
        counts = Counts(total=10_000, succeeded=4_187, failed=2, running=30, waiting=5_781)
        desk.mirror.take(JobChanged(seq=2, job=job_view(state=JobState.RUNNING, counts=counts)))
        pane.redraw()
        assert pane._lines == before
