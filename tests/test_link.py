"""The screen's end of the socket: it mirrors, it comes back, it starts a runner only when it should."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from engine.errors import RunnerUnreachable
from engine.job import JobState
from engine.protocol import Counts, Delta, Pause, Reply, RunningRequest, Snapshot, Text, WatchRequests
from engine.record import RunRecord
from engine.workspace import Workspace
from tests.control_kit import Scripted, eventually, job, remove, scripted, short_folder, workspace_at
from tests.tui_kit import make_desk
from tui import link
from tui.desk import Desk
from tui.link import RunnerLink


class Screen:
    """A link with what it told."""

    def __init__(self, workspace: Workspace, *, start: bool = False) -> None:
        self.desk: Desk = make_desk(jobs=[], running=[], incidents=[], history=[], reading=None)
        self.notices: list[tuple[str, str]] = []
        self.connected = 0
        self.link = RunnerLink(
            self.desk,
            workspace,
            start=start,
            on_notice=lambda text, level: self.notices.append((text, level)),
            on_connected=self._up,
        )
        self.task = asyncio.create_task(self.link.run())

    def _up(self) -> None:
        self.connected += 1

    async def close(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@asynccontextmanager
async def stage() -> AsyncIterator[tuple[Workspace, Scripted, Screen]]:
    folder = short_folder()
    try:
        workspace = workspace_at(folder)
        async with scripted(workspace.socket) as runner:
            runner.jobs["evals-1"] = job("evals-1", counts=Counts(total=100, succeeded=88, reused=88, waiting=12))
            screen = Screen(workspace)
            try:
                await eventually(lambda: screen.connected == 1)
                yield workspace, runner, screen
            finally:
                await screen.close()
    finally:
        remove(folder)


async def test_events_reach_the_mirror_and_opening_says_how_things_stand() -> None:
    async with stage() as (_, runner, screen):
        assert screen.notices == [("evals-1 running: 88 of 100 done (88 reused)", "info")]
        runner.change(job("evals-1", JobState.PAUSED))
        await eventually(lambda: screen.desk.mirror.jobs["evals-1"].state == JobState.PAUSED)
        assert screen.desk.link.connected


async def test_a_command_is_answered_and_a_watch_is_sent_once() -> None:
    async with stage() as (_, runner, screen):
        reply = await screen.link.command(Pause(id=0, job="evals-1"))
        assert reply.error is None
        watch = WatchRequests(id=0, job="evals-1", auto=3)
        await screen.link.watch(watch)
        await screen.link.watch(watch)
        assert [type(c).__name__ for c in runner.got].count("WatchRequests") == 1


async def test_text_reaches_the_transcripts() -> None:
    async with stage() as (_, runner, screen):
        screen.desk.mirror.running = [RunningRequest(key=7, custom_id="req-1", job="evals-1", started=1.0)]
        runner.keys["evals-1"] = frozenset({7})
        await screen.link.watch(WatchRequests(id=0, job="evals-1", custom_ids=["req-1"]))
        runner.control.publish(Text(seq=0, job="evals-1", items=[Delta(key=7, text="hel")]))
        runner.control.publish(Text(seq=0, job="evals-1", items=[Delta(key=7, text="lo", offset=3)]))
        transcripts = screen.desk.transcripts
        await eventually(
            lambda: (found := transcripts.get("evals-1", "req-1")) is not None and found.true_text() == "hello"
        )


async def test_a_runner_that_leaves_and_comes_back_is_found_and_the_change_is_told() -> None:
    folder = short_folder()
    workspace = workspace_at(folder)
    screen: Screen | None = None
    try:
        async with scripted(workspace.socket) as runner:
            runner.jobs["evals-1"] = job("evals-1", counts=Counts(total=100, succeeded=10, waiting=90))
            screen = Screen(workspace)
            await eventually(lambda: screen.connected == 1)
        await eventually(lambda: not screen.desk.link.connected)
        assert "has ended" in screen.desk.link.why
        async with scripted(workspace.socket) as runner:
            counts = Counts(total=100, succeeded=40, failed=3, waiting=57, reused=10)
            runner.jobs["evals-1"] = job("evals-1", JobState.PAUSED, counts=counts)
            await eventually(lambda: screen.connected == 2)
            assert screen.notices[-1] == (
                "the background process is back: evals-1: running, now paused, 30 more done, 3 more failed",
                "info",
            )
            kinds = [incident.kind for incident in screen.desk.mirror.incidents]
            assert kinds == ["disconnected", "connected"]
    finally:
        if screen is not None:
            await screen.close()
        remove(folder)


async def test_without_a_runner_and_without_leave_to_start_one_it_says_so_once() -> None:
    folder = short_folder()
    try:
        screen = Screen(workspace_at(folder))
        await eventually(lambda: bool(screen.notices))
        with pytest.raises(RunnerUnreachable):
            await screen.link.command(Pause(id=0, job="evals-1"))
        assert len(screen.notices) == 1
        assert screen.notices[0][1] == "error"
        assert not screen.desk.link.connected
        await screen.close()
    finally:
        remove(folder)


async def test_without_a_runner_the_jobs_on_disk_are_shown() -> None:
    folder = short_folder()
    try:
        workspace = workspace_at(folder)
        record = RunRecord(
            job="old-1",
            state=JobState.RUNNING,
            input_path="/x/old.jsonl",
            created=1.0,
            counts=Counts(total=5, succeeded=2, waiting=3),
        )
        workspace.run_folder("old-1").mkdir(parents=True)
        (workspace.run_folder("old-1") / "run.json").write_bytes(msgspec.json.encode(record))
        screen = Screen(workspace)
        await eventually(lambda: "old-1" in screen.desk.mirror.jobs)
        assert screen.desk.mirror.jobs["old-1"].state == JobState.INTERRUPTED
        assert not screen.desk.link.connected
        await screen.close()
    finally:
        remove(folder)


async def test_two_screens_see_the_same() -> None:
    async with stage() as (workspace, runner, first):
        second = Screen(workspace)
        await eventually(lambda: second.connected == 1)
        runner.change(job("evals-1", JobState.ABORTED))
        for screen in (first, second):
            await eventually(lambda screen=screen: screen.desk.mirror.jobs["evals-1"].state == JobState.ABORTED)
        await second.close()
        runner.change(job("evals-1", JobState.DONE))
        await eventually(lambda: first.desk.mirror.jobs["evals-1"].state == JobState.DONE)


class Runner:
    """What a link needs of a client, with an end that the test decides."""

    def __init__(self, *, parted: bool) -> None:
        self.snapshot = Snapshot(seq=0)
        self.parted, self.goodbye, self.alive = parted, "it was stopped" if parted else "", True
        self.over = asyncio.Event()
        self.got: list[object] = []

    async def events(self) -> AsyncIterator[Text]:
        await self.over.wait()
        self.alive = False
        return
        yield  # a generator, although it has nothing to say

    async def command(self, command: object) -> Reply:
        self.got.append(command)
        return Reply(id=0, sentence="done")

    async def close(self) -> None:
        self.alive = False


class Stage:
    """Runners that come when they are started, and a clock that goes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, parted: bool) -> None:
        self.now = 1000.0
        self.asked: list[bool] = []
        self.runners: list[Runner] = []
        self._parted = parted
        monkeypatch.setattr(link, "connect", self._connect)
        monkeypatch.setattr(link, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(link, "LOOK_AGAIN_S", 0.001)
        self.screen = Screen(Workspace(Path("/nowhere")), start=True)

    async def _connect(self, workspace: Workspace, *, start: bool, client: str) -> Runner:
        del workspace, client
        self.asked.append(start)
        if not start:
            raise RunnerUnreachable("no runner is alive")
        self.runners.append(Runner(parted=self._parted))
        return self.runners[-1]

    async def looked(self, times: int = 3) -> list[bool]:
        """Whether it started one, each of the next times that it looked."""
        before = len(self.asked)
        await eventually(lambda: len(self.asked) >= before + times)
        return self.asked[before : before + times]


async def test_a_runner_that_died_is_started_again_but_not_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Stage(monkeypatch, parted=False)
    try:
        await eventually(lambda: place.screen.connected == 1)
        assert place.asked == [True]
        place.runners[0].over.set()
        assert not any(await place.looked())  # it was started only just now
        place.now += link.RESTART_S + 1
        await eventually(lambda: place.screen.connected == 2)
        assert "died" in place.screen.desk.mirror.incidents[-2].message
    finally:
        await place.screen.close()


async def test_a_runner_that_left_in_order_comes_back_for_a_key_only(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Stage(monkeypatch, parted=True)
    try:
        await eventually(lambda: place.screen.connected == 1)
        await place.screen.link.watch(WatchRequests(id=0, job="evals-1", auto=3))
        place.now += 100 * link.RESTART_S
        place.runners[0].over.set()
        assert not any(await place.looked())
        assert (await place.screen.link.command(Pause(id=0, job="evals-1"))).sentence == "done"
        assert place.screen.connected == 2
        await place.screen.link.watch(WatchRequests(id=0, job="evals-1", auto=3))
        # A new runner has not heard what the old one was asked.
        assert [type(c).__name__ for c in place.runners[1].got] == ["Pause", "WatchRequests"]
    finally:
        await place.screen.close()
