"""The whole screen against a runner double on a real socket: keys in, commands out, everything drawn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from engine import protocol
from engine.job import JobState
from engine.protocol import Counts, Delta, Text
from engine.workspace import Workspace
from tests.control_kit import Scripted, eventually, remove, scripted, short_folder, workspace_at
from tests.tui_kit import engine, history, job_view, reading, running, screen_text
from tui.app import GptossApp
from tui.keys import KEYS, KeyTable
from tui.remote import Terminal

SIZES = [(80, 24), (120, 36), (200, 50)]


class Full(Scripted):
    """A runner with everything that there is to see."""

    def snapshot(self, seq: int) -> protocol.Snapshot:
        return protocol.Snapshot(
            seq=seq,
            jobs=list(self.jobs.values()),
            engine=engine(),
            reading=reading(),
            running=running() if any(job.state == JobState.RUNNING for job in self.jobs.values()) else [],
            history=history(),
            incidents=[protocol.IncidentView(t=1.0, job="evals-1", kind="x", message="held at 12 slots", level="warn")],
        )


@asynccontextmanager
async def stage(**options: Any) -> AsyncIterator[tuple[Workspace, Full, GptossApp]]:
    """A workspace whose runner has a job in every interesting state."""
    folder = short_folder()
    try:
        workspace = workspace_at(folder)
        (workspace.root / "batches").mkdir()
        async with scripted(workspace.socket, kind=Full) as runner:
            assert isinstance(runner, Full)
            for job in (
                job_view("evals-1"),
                job_view("next-1", JobState.QUEUED, order=1, counts=Counts()),
                job_view("night-1", JobState.PAUSED, order=2, counts=Counts(total=50, succeeded=12, waiting=38)),
                job_view("old-1", JobState.DONE, order=3, counts=Counts(total=10, succeeded=8, failed=2)),
            ):
                runner.jobs[job.id] = job
            runner.keys["evals-1"] = frozenset(range(1, 5))
            yield workspace, runner, GptossApp(workspace, Terminal(), start=False, **options)
    finally:
        remove(folder)


async def settled(pilot: Pilot[Any], app: GptossApp) -> None:
    await eventually(lambda: bool(app.desk.mirror.jobs))
    await pilot.pause()
    app.tick()
    app.redraw()
    await pilot.pause()


def commands(runner: Scripted) -> list[str]:
    return [type(c).__name__ for c in runner.got if not isinstance(c, protocol.WatchRequests)]


@pytest.mark.parametrize("size", SIZES)
async def test_all_four_kinds_of_information_are_on_the_screen(size: tuple[int, int]) -> None:
    async with stage() as (_, runner, app), app.run_test(size=size) as pilot:
        await settled(pilot, app)
        runner.control.publish(Text(seq=0, job="evals-1", items=[Delta(key=1, text="The answer is forty-two.")]))
        await eventually(lambda: app.desk.transcripts.get("evals-1", "req-004189") is not None)
        await pilot.press("1")
        await pilot.pause()
        text = "\n".join(screen_text(app))
        assert "evals-1" in text
        assert "16.0" in text
        assert "tok/s" in text
        assert "The answer is forty-two." in text
        assert "held at 12 slots" in text
        assert "? help" in text


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["p"], protocol.Pause),
        (["P"], protocol.Pause),
        (["j", "K"], protocol.Move),
        (["j", "j", "r"], protocol.Resume),
        (["j", "j", "j", "R"], protocol.Retry),
        (["X", "y"], protocol.AbortJob),
        (["j", "j", "j", "d", "y"], protocol.Remove),
        (["4", "x"], protocol.AbortRequest),
        (["Q", "y"], protocol.Stop),
    ],
)
async def test_keys_send_commands(keys: list[str], expected: type) -> None:
    async with stage() as (_, runner, app), app.run_test(size=(120, 36)) as pilot:
        await settled(pilot, app)
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        await runner.saw(expected)


async def test_marks_make_a_key_act_on_several_jobs() -> None:
    async with stage() as (_, runner, app), app.run_test(size=(120, 36)) as pilot:
        await settled(pilot, app)
        await pilot.press("space", "space")
        await pilot.pause()
        await pilot.press("P")
        await eventually(lambda: commands(runner) == ["Pause", "Pause"])
        assert {c.job for c in runner.got if isinstance(c, protocol.Pause)} == {"evals-1", "next-1"}


async def test_no_is_no() -> None:
    async with stage() as (_, runner, app), app.run_test(size=(80, 24)) as pilot:
        await settled(pilot, app)
        for refusal in ("n", "escape", "enter"):  # enter: no is the answer at hand
            await pilot.press("X")
            await pilot.pause()
            assert "4 188 on disk" in "\n".join(screen_text(app))
            await pilot.press(refusal)
            await pilot.pause()
        assert commands(runner) == []


async def test_a_key_that_can_not_act_says_why() -> None:
    async with stage() as (_, runner, app), app.run_test(size=(80, 24)) as pilot:
        await settled(pilot, app)
        await pilot.press("r")
        await pilot.pause()
        assert "evals-1 is running already" in screen_text(app)[-1]
        assert commands(runner) == []


async def test_readonly_changes_nothing() -> None:
    async with stage(readonly=True) as (_, runner, app), app.run_test(size=(80, 24)) as pilot:
        await settled(pilot, app)
        for key in KEYS:
            if key.changes:
                await pilot.press(key.keys.split(",")[0])
                await pilot.pause()
                assert "only watches" in screen_text(app)[-1]
        assert commands(runner) == []


async def test_every_pane_can_be_reached_by_its_digit_and_by_tab() -> None:
    async with stage() as (_, _, app), app.run_test(size=(80, 24)) as pilot:
        await settled(pilot, app)
        seen = []
        for digit in "123456":
            await pilot.press(digit)
            seen.append(app.pane)
        assert seen == ["jobs", "memory", "rate", "requests", "streams", "log"]
        await pilot.press("tab")
        assert app.pane == "jobs"
        await pilot.press("shift+tab")
        assert app.pane == "log"


async def test_zoom_and_layouts_keep_the_place() -> None:
    async with stage() as (_, _, app), app.run_test(size=(120, 36)) as pilot:
        await settled(pilot, app)
        await pilot.press("j", "5", "z")
        await pilot.pause()
        assert {name for name, pane in app.main.panes.items() if pane.display} == {"header", "keys", "streams"}
        await pilot.press("z")
        for _ in range(4):
            await pilot.press("L")
            await pilot.pause()
            assert app.desk.view.job == "next-1"
        assert app.main.panes["requests"].display


async def test_resizing_follows_and_too_small_says_so() -> None:
    async with stage() as (_, _, app), app.run_test(size=(120, 36)) as pilot:
        await settled(pilot, app)
        await pilot.press("j", "j")
        for size in [(80, 24), (59, 20), (39, 7), (200, 50), (20, 2), (80, 24)]:
            await pilot.resize_terminal(*size)
            await pilot.pause()
            app.redraw()
            await pilot.pause()
            assert app.desk.view.job == "night-1"
            if size[0] < 60:
                assert "too small" in "\n".join(screen_text(app))
        assert "night-1" in "\n".join(screen_text(app))


async def test_own_keys_replace_the_built_in_ones() -> None:
    async with stage(keys=KeyTable({"pause": "ctrl+e"})) as (_, runner, app), app.run_test(size=(80, 24)) as pilot:
        await settled(pilot, app)
        await pilot.press("p")
        await pilot.pause()
        assert commands(runner) == []
        await pilot.press("ctrl+e")
        await runner.saw(protocol.Pause)


async def test_leaving_says_that_the_run_goes_on() -> None:
    async with stage() as (_, runner, app):
        async with app.run_test(size=(80, 24)) as pilot:
            await settled(pilot, app)
            await pilot.press("q")
            await pilot.pause()
        assert app.return_code == 0
        assert app.farewell[0].startswith("the run goes on: evals-1 running: 4 188 of 10 000 done")
        assert commands(runner) == []


async def _faulty(app: GptossApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot, app)

        async def fault() -> None:
            raise ZeroDivisionError("a fault of this program")

        app.spawn(fault(), "fault")
        await pilot.pause()
        await pilot.pause()


async def test_a_fault_leaves_a_file_and_no_traceback() -> None:
    async with stage() as (workspace, _, app):
        with pytest.raises(ZeroDivisionError):  # the test harness raises it again
            await _faulty(app)
        assert app.return_code == 1
        assert app.crash_file is not None
        text = app.crash_file.read_text()
        assert "ZeroDivisionError" in text
        assert app.crash_file.parent == workspace.runner_folder


async def test_hostile_text_does_not_get_through_any_pane() -> None:
    evil = "\x1b]52;c;QUJD\x07\x9b31m\u202eevil[/nope][@click=app.quit]x"
    async with stage() as (_, runner, app), app.run_test(size=(120, 36)) as pilot:
        await settled(pilot, app)
        for name in list(runner.jobs):
            runner.control.publish(protocol.JobRemoved(seq=0, job=name))
        hostile = job_view("h-1", input_path=f"/x/{evil}.jsonl", sentence=evil, model=evil, engine=evil)
        runner.change(hostile)
        requests = [protocol.RunningRequest(key=1, custom_id=evil, started=1.0, job="h-1", prompt_tokens=3)]
        runner.keys["h-1"] = frozenset({1})
        runner.control.publish(protocol.EngineChanged(seq=0, engine=engine(), running=requests))
        runner.control.publish(
            protocol.Incident(
                seq=0, incident=protocol.IncidentView(t=2.0, job=evil, kind=evil, message=evil, action=evil)
            )
        )
        await eventually(lambda: len(app.desk.mirror.incidents) > 1 and "h-1" in app.desk.mirror.jobs)
        await asyncio.sleep(0)
        app.tick()
        runner.control.publish(Text(seq=0, job="h-1", items=[Delta(key=1, text=evil)]))
        await eventually(lambda: app.desk.transcripts.get("h-1", evil) is not None)
        for size in SIZES:
            await pilot.resize_terminal(*size)
            await pilot.pause()
            app.tick()
            app.redraw()
            await pilot.pause()
            text = "\n".join(screen_text(app))
            assert "evil[/nope]" in text
            for bad in "\x1b\x07\x9b\u202e":
                assert bad not in text


async def test_the_mirror_of_a_screen_opened_without_a_runner_is_empty_and_says_so(tmp_path: Path) -> None:
    app = GptossApp(Workspace.at(tmp_path), Terminal(), start=False)
    async with app.run_test(size=(80, 24)) as pilot:
        await eventually(lambda: app.noticed is not None)
        app.redraw()
        await pilot.pause()
        assert "no runner is alive" in "\n".join(screen_text(app))
