"""The jobs pane: the cursor follows its job, rows unfold where there is room."""

from __future__ import annotations

from typing import Any

import pytest
from textual.app import App

from engine.job import JobState
from engine.protocol import Counts, JobChanged, JobRemoved, JobView
from tests.tui_kit import PaneApp, job_view, make_desk, screen_text
from tui.glyphs import ASCII
from tui.panes.jobs import JobsPane
from tui.view import View


def queue(n: int) -> list[JobView]:
    return [job_view(f"job-{i:02d}", JobState.QUEUED, order=i, counts=Counts()) for i in range(n)]


def selected(app: App[Any]) -> str:
    rows = [row for row in screen_text(app) if row.startswith(">")]
    assert len(rows) == 1
    return next(word for word in rows[0].split() if "-" in word)


@pytest.mark.parametrize("size", [(20, 1), (20, 3), (60, 4), (80, 4), (120, 6), (78, 19), (200, 50)])
@pytest.mark.parametrize("ascii_only", [False, True])
async def test_it_looks_right_at_any_size(size: tuple[int, int], ascii_only: bool) -> None:
    desk = make_desk()
    if ascii_only:
        desk.glyphs = ASCII
    async with PaneApp(pane := JobsPane(), desk).run_test(size=size) as pilot:
        pane.redraw()
        await pilot.pause()
        rows = screen_text(pilot.app)
        assert "1 jobs" in rows[0]
        assert len(rows) == size[1]
        if size[1] > 1:
            assert rows[1].startswith("> RUN")
        if ascii_only:
            assert all(row.isascii() for row in rows)
        if size[0] >= 60:
            assert "4 jobs  1 running" in rows[0]


async def test_an_empty_queue_says_what_to_do() -> None:
    desk = make_desk(View(), jobs=[])
    async with PaneApp(pane := JobsPane(), desk).run_test(size=(80, 4)) as pilot:
        pane.redraw()
        await pilot.pause()
        assert "press a to add a batch" in screen_text(pilot.app)[1]
        assert pane.act("down")
        assert desk.view.job == ""
        desk.readonly = True
        pane.redraw()
        await pilot.pause()
        assert "press a" not in screen_text(pilot.app)[1]


async def test_keys_choose_a_job_and_the_list_scrolls() -> None:
    desk = make_desk(View(job="job-00"), jobs=queue(30))
    async with PaneApp(pane := JobsPane(), desk).run_test(size=(80, 11)) as pilot:
        pane.redraw()
        for action, job in (("down", "job-01"), ("bottom", "job-29"), ("up", "job-28"), ("top", "job-00")):
            assert pane.act(action)
            assert desk.view.job == job
            pane.redraw()
            await pilot.pause()
            assert selected(pilot.app) == job
        assert not pane.act("left")


async def test_the_cursor_stays_on_its_job_when_the_queue_changes() -> None:
    desk = make_desk(View(job="job-05"), jobs=queue(8))
    desk.view.marked_jobs = {"job-05", "job-06"}
    async with PaneApp(pane := JobsPane(), desk).run_test(size=(80, 5)) as pilot:
        desk.mirror.take(JobChanged(seq=2, job=job_view("job-05", JobState.QUEUED, order=99, counts=Counts())))
        pane.redraw()
        await pilot.pause()
        assert selected(pilot.app) == "job-05"
        desk.mirror.take(JobRemoved(seq=3, job="job-06"))
        pane.redraw()
        assert desk.view.job == "job-05"
        assert desk.view.marked_jobs == {"job-05"}


async def test_where_no_job_is_chosen_the_one_in_work_is() -> None:
    jobs = [*queue(3), job_view("works-1", order=9)]
    desk = make_desk(View(job="gone-1"), jobs=jobs)
    async with PaneApp(pane := JobsPane(), desk).run_test(size=(80, 4)) as pilot:
        pane.redraw()
        await pilot.pause()
        assert desk.view.job == "works-1"
        assert selected(pilot.app) == "works-1"


async def test_the_chosen_job_unfolds_only_where_there_is_room() -> None:
    desk = make_desk()
    for height, unfolds in ((4, False), (5, False), (6, True)):
        async with PaneApp(pane := JobsPane(), desk).run_test(size=(80, height)) as pilot:
            pane.redraw()
            await pilot.pause()
            rows = screen_text(pilot.app)
            assert ("running 30" in rows[2]) is unfolds
            if unfolds:
                assert rows[3].startswith("  QUEUE")
                assert rows[5].startswith("  DONE")


async def test_only_what_changed_is_drawn_again() -> None:
    desk = make_desk()
    async with PaneApp(pane := JobsPane(), desk).run_test(size=(80, 4)) as pilot:
        pane.redraw()
        await pilot.pause()
        before = list(pane._lines)
        counts = Counts(total=10_000, succeeded=4_187, failed=2, running=29, waiting=5_782)
        desk.mirror.take(JobChanged(seq=2, job=job_view(counts=counts)))
        pane.redraw()
        changed = [y for y, (old, new) in enumerate(zip(before, pane._lines, strict=True)) if old != new]
        assert changed == [1]
