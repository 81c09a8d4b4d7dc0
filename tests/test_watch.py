"""`gptoss-tui --plain`: what is said at first, what counts as news, and how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from engine import protocol
from engine.job import JobState
from engine.protocol import (
    AckItem,
    Acknowledged,
    Counts,
    DeviceReading,
    EngineChanged,
    EngineView,
    Event,
    Incident,
    IncidentView,
    JobChanged,
    JobRemoved,
    JobView,
    ModelInfo,
    Reading,
    Reply,
    Sampled,
    Snapshot,
    Welcome,
)
from engine.workspace import Workspace
from tests.control_kit import Scripted, job, remove, scripted, short_folder, workspace_at
from tui.plain import memory_state
from tui.state import Mirror
from tui.watch import PROGRESS_S, Lines, memory_line

ROOT = Path(__file__).resolve().parents[1]
EVIL = "id\x1b]0;owned\x07\x9b31m\u202e\r\n[/x]"
PATIENCE_S = 40.0
GIB = 1024**3
WELCOME = Welcome(version=2, pid=7, workspace="/ws", started=1000.0)


def gpu(free: float, peak: float = 10.0) -> DeviceReading:
    return DeviceReading(
        name="RTX 4080",
        kind="gpu",
        total=16 * GIB,
        used=int((16 - free) * GIB),
        free=int(free * GIB),
        owners={"weights": 10 * GIB, "kv": GIB, "other": GIB},
        estimated=["other"],
        peak_used=int(peak * GIB),
        warn_free=GIB,
        critical_free=GIB // 2,
    )


class Watched:
    """A mirror and the lines made of it."""

    def __init__(self, **facts: Any) -> None:
        self.lines = Lines()
        self.mirror = Mirror(Snapshot(seq=0, **facts))
        self.opening = list(self.lines.opening(self.mirror, WELCOME, now=0.0, wall=1060.0))

    def take(self, event: Event) -> list[str]:
        self.mirror.take(event)
        return list(self.lines.event(self.mirror, event))

    def change(self, view: JobView) -> list[str]:
        return self.take(JobChanged(seq=0, job=view))

    def sample(self, *devices: DeviceReading) -> list[str]:
        return self.take(Sampled(seq=0, reading=Reading(t=0.0, devices=list(devices))))

    def tick(self, now: float) -> list[str]:
        return list(self.lines.tick(self.mirror, now))


# --- what is said at first --------------------------------------------------------------------------------------------


def test_the_summary_has_runner_engine_memory_and_all_jobs() -> None:
    it = Watched(
        jobs=[
            job("b-1", JobState.DONE, order=2),
            job("a-1", JobState.RUNNING, order=1, counts=Counts(total=10, succeeded=4, failed=1, running=5)),
        ],
        engine=EngineView(state="ready", info=ModelInfo(name="nano", path="", device="CPU", slots=4, context=256)),
        reading=Reading(t=0.0, devices=[gpu(4.0)]),
    )
    assert it.opening[:2] == ["runner 7, up 1 min 00 s", "engine: ready (nano on CPU, 4 slots of 256 tokens)"]
    assert it.opening[2].startswith("GPU 0 RTX 4080: 12.0 GiB of 16.0 GiB used, 4.0 GiB free, ok; weights 10.0 GiB, ")
    assert "other ~1.0 GiB; most so far 10.0 GiB" in it.opening[2]
    assert it.opening[3].startswith("a-1  running  5/10  1 failed")
    assert it.opening[4] == "b-1: done"


def test_an_empty_workspace_says_so() -> None:
    it = Watched()
    assert it.opening == ["runner 7, up 1 min 00 s", "engine: none", "memory: N/A yet", "no jobs"]


def test_old_incidents_are_no_news() -> None:
    old = IncidentView(t=1.0, job="a-1", kind="engine_died", message="it died", action="loading again", level="error")
    it = Watched(incidents=[old])
    assert it.opening[-1] == "1 fault before, the last: a-1: it died; loading again"
    assert it.take(Incident(seq=1, incident=old)) == []


# --- what is news -----------------------------------------------------------------------------------------------------


def test_a_state_is_told_once_with_its_sentence() -> None:
    it = Watched(jobs=[job("a-1", JobState.QUEUED)])
    running = job("a-1", JobState.RUNNING)
    assert it.change(running)[0] == "a-1: running"
    assert it.change(replace(running, decode_rate=5.0)) == []
    assert it.change(replace(running, state=JobState.PAUSED, sentence="disk full"))[0] == "a-1: paused (disk full)"


def test_a_new_job_is_told_with_its_file() -> None:
    assert Watched().change(job("a-1", JobState.QUEUED))[:2] == ["a-1: new, from /nowhere/a-1.jsonl", "a-1: queued"]


def test_the_end_has_its_sum_and_what_can_be_done() -> None:
    it = Watched(jobs=[job("a-1")])
    counts = Counts(total=4, succeeded=3, failed=1)
    told = it.change(job("a-1", JobState.DONE, counts=counts))
    assert told[0] == "a-1: done"
    assert "  3/4 succeeded, 1 failed" in told
    assert "next: gptoss-tui retry a-1 runs the failed requests again" in told


def test_progress_every_few_seconds_and_only_where_there_is_some() -> None:
    it = Watched(jobs=[job("a-1"), job("b-1", JobState.QUEUED)])
    assert it.tick(PROGRESS_S - 0.1) == []
    assert [line.split()[0] for line in it.tick(PROGRESS_S)] == ["a-1"]
    assert it.tick(PROGRESS_S + 0.1) == []
    assert it.tick(2 * PROGRESS_S) == []  # nothing has changed
    it.change(job("a-1", counts=Counts(total=4, succeeded=1, waiting=3)))
    assert "1/4" in it.tick(3 * PROGRESS_S)[0]


def test_saved_requests_come_in_groups() -> None:
    it = Watched(jobs=[job("a-1")])
    items = [AckItem(custom_id=f"r{i}", request_id="", ok=i != 2, finish="stop") for i in range(6)]
    assert it.take(Acknowledged(seq=0, job="a-1", items=items)) == []
    told = it.tick(PROGRESS_S)
    assert told[:2] == ["a-1: saved r0, r1, r3 and 2 more", "a-1: failed r2"]
    assert not any("saved" in line for line in it.tick(2 * PROGRESS_S))


def test_what_was_saved_last_is_told_before_the_end_is() -> None:
    it = Watched(jobs=[job("a-1")])
    it.take(Acknowledged(seq=0, job="a-1", items=[AckItem(custom_id="r0", request_id="", ok=True, finish="stop")]))
    assert "a-1: saved r0" in it.change(job("a-1", JobState.DONE, counts=Counts(total=1, succeeded=1)))


def test_memory_speaks_when_its_state_changes() -> None:
    it = Watched(reading=Reading(t=0.0, devices=[gpu(4.0)]))
    assert it.sample(gpu(3.0)) == []
    assert it.sample(gpu(0.9))[0].startswith("memory now warn: GPU 0")
    assert it.sample(gpu(0.8)) == []
    assert it.sample(gpu(0.4))[0].startswith("memory now critical: GPU 0")
    assert it.sample(gpu(0.51)) == []  # a hair's breadth better is no news
    assert it.sample(gpu(2.0))[0].startswith("memory now ok: GPU 0")


def test_a_new_peak_is_told_from_a_step_on() -> None:
    it = Watched(reading=Reading(t=0.0, devices=[gpu(4.0, peak=12.0)]))
    assert it.sample(gpu(4.0, peak=12.1)) == []
    assert it.sample(gpu(4.0, peak=12.5))[0].startswith("new peak: GPU 0 RTX 4080")
    assert it.sample(gpu(4.0, peak=12.5)) == []


def test_unknown_memory_is_not_zero() -> None:
    assert memory_line(DeviceReading(name="X", kind="gpu")) == "GPU 0 X: memory N/A"


@pytest.mark.parametrize(("free", "state"), [(2.0, "ok"), (1.0, "ok"), (0.7, "warn"), (0.5, "warn"), (0.1, "critical")])
def test_thresholds_are_the_runners(free: float, state: str) -> None:
    assert memory_state(gpu(free)) == state


def test_incidents_once_states_not_at_all_and_warnings_of_each_load_once() -> None:
    it = Watched()
    dead = Incident(
        seq=1, incident=IncidentView(t=1.0, job="a-1", kind="engine_died", message="it died.", action="again")
    )
    assert it.take(dead) == ["a-1: it died; again"]
    assert it.take(dead) == []
    assert it.take(Incident(seq=2, incident=IncidentView(t=2.0, job="a-1", kind="state", message="running"))) == []
    for t in (3.0, 4.0):
        told = it.take(Incident(seq=3, incident=IncidentView(t=t, job="a-1", kind="engine_warning", message="no GPU")))
        assert told == (["warning: no GPU"] if t == 3.0 else [])


def test_the_engine_speaks_when_it_changes() -> None:
    it = Watched()
    info = ModelInfo(name="nano", path="", device="CPU", slots=1, context=256, warnings=["slow"])
    told = it.take(EngineChanged(seq=0, engine=EngineView(state="ready", info=info)))
    assert told == ["engine: ready (nano on CPU, 1 slot of 256 tokens)", "warning: slow"]
    assert it.take(EngineChanged(seq=1, engine=EngineView(state="ready", info=info))) == []


def test_after_a_gap_only_the_difference() -> None:
    it = Watched(jobs=[job("a-1", counts=Counts(total=4, waiting=4)), job("b-1")])
    before = dict(it.mirror.jobs)
    it.mirror.take(Snapshot(seq=9, jobs=[job("a-1", JobState.DONE, counts=Counts(total=4, succeeded=4))]))
    told = list(it.lines.again(before, it.mirror))
    assert told[0] == "a-1: running, now done, 4 more done"
    assert told[1] == "b-1: taken off the list"


def test_a_removed_job_is_told() -> None:
    assert Watched(jobs=[job("a-1")]).take(JobRemoved(seq=0, job="a-1")) == ["a-1: taken off the list"]


TEXT = st.one_of(st.text(max_size=30), st.just(EVIL))


@given(TEXT, TEXT, st.sampled_from(JobState))
def test_no_text_steers_a_terminal_or_makes_a_second_line(name: str, sentence: str, state: JobState) -> None:
    it = Watched(
        jobs=[job(name, JobState.RUNNING, sentence=sentence)],
        reading=Reading(t=0.0, devices=[replace(gpu(4.0), name=name, owners={name: 1})], note=sentence),
        engine=EngineView(state=name, info=ModelInfo(name=name, path="", device=sentence, warnings=[name])),
        incidents=[IncidentView(t=0.0, job=name, kind="x", message=sentence, action=name, level="error")],
    )
    told = [*it.opening, *it.change(job(name, state, sentence=sentence + "!", input_path=name, restarts=1))]
    told += it.change(job("new" + name, state, input_path=name))
    told += it.take(
        Acknowledged(seq=0, job=name, items=[AckItem(custom_id=sentence, request_id="", ok=True, finish="")])
    )
    told += it.take(Incident(seq=0, incident=IncidentView(t=1.0, job=name, kind="y", message=sentence)))
    told += [*it.tick(100.0), *it.take(JobRemoved(seq=0, job=name))]
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2028\ud800-\udfff]", "".join(told))


# --- as a process -----------------------------------------------------------------------------------------------------


@pytest.fixture(name="workspace")
def _workspace(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    folder = short_folder()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in list(os.environ):
        if name.startswith("GPTOSS_"):
            monkeypatch.delenv(name)
    workspace = workspace_at(folder)
    (workspace.root / "demo.jsonl").write_text("{}\n")
    yield workspace
    remove(folder)


class Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []

    async def until(self, text: str) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while True:
                line = (await self.process.stdout.readline()).decode()
                assert line, f"it ended without {text!r}: {self.said}"
                self.said.append(line.rstrip("\n"))
                if text in line:
                    return line

    async def end(self) -> tuple[int, str, str]:
        out, err = await asyncio.wait_for(self.process.communicate(), PATIENCE_S)
        assert "Traceback" not in out.decode() + err.decode()
        return self.process.returncode or 0, out.decode(), err.decode()


@asynccontextmanager
async def started(workspace: Workspace, *arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tui.cli",
        *arguments,
        cwd=workspace.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_ctrl_c_leaves_the_run(workspace: Workspace) -> None:
    async with scripted(workspace.socket) as runner:
        runner.jobs = {"a-1": job("a-1"), "b-1": job("b-1", JobState.QUEUED)}
        async with started(workspace, "--plain") as it:
            await it.until("b-1")
            runner.change(job("a-1", sentence=EVIL))
            assert "\x1b" not in await it.until("owned")
            it.process.send_signal(signal.SIGINT)
            code, out, err = await it.end()
    assert code == 130
    assert "left a-1 running; `gptoss-tui` shows it again" in err
    assert "\r" not in out + "".join(it.said)


async def test_ctrl_c_where_nothing_runs(workspace: Workspace) -> None:
    async with scripted(workspace.socket), started(workspace, "--plain") as it:
        await it.until("no jobs")
        it.process.send_signal(signal.SIGINT)
        assert (await it.end())[0] == 0


async def test_without_a_terminal_it_says_why_and_queues_files(workspace: Workspace) -> None:
    def on_command(given: protocol.Command) -> Reply | None:
        if isinstance(given, protocol.Submit):
            assert given.path == str(workspace.root / "demo.jsonl")
            runner.change(job("demo-1", JobState.QUEUED, input_path=given.path))
            return Reply(id=given.id, job="demo-1")
        return None

    async with scripted(workspace.socket) as runner:
        runner.on_command = on_command
        async with started(workspace, "--add", "demo.jsonl") as it:
            await it.until("demo-1: queued")
            runner.change(job("demo-1", JobState.DONE, counts=Counts(total=1, succeeded=1)))
            await it.until("demo-1: done")
            it.process.send_signal(signal.SIGINT)
            code, _, err = await it.end()
    assert code == 0
    assert err.splitlines()[0].startswith("stdout is no terminal: plain lines instead of the screen")


async def test_a_runner_that_comes_back_is_found_again(workspace: Workspace) -> None:
    async with started_again(workspace) as it:
        await it.until("connected again")
        await it.until("a-1: running, now done")


@asynccontextmanager
async def started_again(workspace: Workspace) -> AsyncIterator[Process]:
    first = Scripted(workspace.socket)
    first.jobs = {"a-1": job("a-1")}
    await first.control.start()
    async with started(workspace, "--plain") as it:
        await it.until("a-1")
        await first.control.close("it was ended")
        async with scripted(workspace.socket) as second:
            second.jobs = {"a-1": job("a-1", JobState.DONE, counts=Counts(total=4, succeeded=4))}
            yield it


async def test_a_lost_runner_ends_it_with_what_to_do(workspace: Workspace) -> None:
    runner = Scripted(workspace.socket)
    runner.jobs = {"a-1": job("a-1")}
    await runner.control.start()
    async with started(workspace, "--plain") as it:
        await it.until("a-1")
        await runner.control.close("it was ended")
        code, _, err = await it.end()
    assert code == 4
    assert "`gptoss-tui resume a-1` goes on" in err


async def test_an_idle_runner_that_leaves_is_no_fault(workspace: Workspace) -> None:
    runner = Scripted(workspace.socket)
    await runner.control.start()
    async with started(workspace, "--plain") as it:
        await it.until("no jobs")
        await runner.control.close("nobody needed it for 60 s")
        code, out, _ = await it.end()
    assert code == 0
    assert "the runner has left (nobody needed it for 60 s)" in out


async def test_readonly_starts_nothing(workspace: Workspace) -> None:
    async with started(workspace, "--plain", "--readonly") as it:
        code, out, _ = await it.end()
    assert code == 0
    assert out.splitlines() == ["no runner is alive here", "memory: N/A yet", "no jobs"]
    assert not workspace.runner_folder.exists()
