"""A disk that refuses, runners in each other's way, signals, and any order of commands and deaths."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from engine import protocol
from engine.errors import CommandRefused, ExitCode
from engine.job import JobState
from engine.workspace import Workspace
from tests.doubles import run_runner
from tests.runner_kit import Desk, FullDisk, content, desk, expected, lines_of, write_batch
from tests.wire import ROOT, Wire, kill, start_runner


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    monkeypatch.setattr("engine.saving.RETRY_S", 0.3)
    return FullDisk(monkeypatch)


async def test_a_full_disk_pauses_the_job_and_it_goes_on_by_itself(tmp_path: Path, disk: FullDisk) -> None:
    async with desk(tmp_path, {"delay_s": 0.02}) as d:
        job = await d.submit(write_batch(tmp_path / "b.jsonl", 40), slots=4)
        await d.until(lambda: d.record(job).counts.succeeded >= 3)
        disk.full = True
        await d.until(lambda: d.record(job).state == JobState.PAUSED)
        assert "No space left" in d.record(job).sentence
        told = len(d.acknowledged())
        await d.until(lambda: not d.runner.current or not d.runner.current.running())
        assert len(d.acknowledged()) == told
        assert d.record(job).counts.succeeded == told
        disk.full = False
        record = await d.rests(job)
        assert record.state == JobState.DONE, record.sentence
        assert d.ids(job) == {f"r{i}": 1 for i in range(40)}
        assert {"disk_full", "disk_ok"} <= set(d.incidents())


async def test_resume_tries_a_full_disk_at_once_and_abort_ends_it(
    tmp_path: Path, disk: FullDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.saving.RETRY_S", 600)
    async with desk(tmp_path) as d:
        disk.full = True
        job = await d.submit(write_batch(tmp_path / "b.jsonl", 6))
        await d.until(lambda: d.record(job).state == JobState.PAUSED)
        disk.full = False
        await d.command(protocol.Resume, job=job)
        assert (await d.rests(job)).state == JobState.DONE
        disk.full = True
        other = await d.submit(write_batch(tmp_path / "c.jsonl", 6))
        await d.until(lambda: d.record(other).state == JobState.PAUSED)
        await d.command(protocol.AbortJob, job=other)
        record = await d.rests(other)
        assert (record.state, record.counts.waiting) == (JobState.ABORTED, 6)
        assert d.output(other) == []
        disk.full = False
        await d.command(protocol.Resume, job=other)
        assert (await d.rests(other)).counts.succeeded == 6


async def test_an_engine_that_dies_while_the_disk_is_full_is_loaded_again_later(tmp_path: Path, disk: FullDisk) -> None:
    async with desk(tmp_path, {"delay_s": 0.02, "deaths": [{"at": "finish", "n": 4}]}) as d:
        disk.full = True
        job = await d.submit(write_batch(tmp_path / "b.jsonl", 12), slots=4)
        await d.until(lambda: "disk_full" in d.incidents() and "engine_died" in d.incidents())
        disk.full = False
        record = await d.rests(job)
        assert (record.state, record.counts.succeeded) == (JobState.DONE, 12), record.sentence
        assert set(d.ids(job).values()) == {1}


# --- processes --------------------------------------------------------------------------------------------------------


def scripted(root: Path, text: str = "{}") -> list[str]:
    (root / "script.json").write_text(text)
    return [run_runner.__file__, str(root), str(root / "script.json")]


async def test_a_second_runner_names_the_first_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    command = scripted(tmp_path)
    first = start_runner(command, tmp_path / "out")
    wire = await Wire.open(Workspace.at(tmp_path))
    second = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    _, said = await second.communicate()
    assert second.returncode == ExitCode.FAILED
    assert f"process {first.pid}" in said.decode()
    kill(first)
    await wire.close()
    third = start_runner(command, tmp_path / "out")
    wire = await Wire.open(Workspace.at(tmp_path))
    await wire.command(protocol.Stop)
    assert await asyncio.to_thread(third.wait, 20) == 0
    await wire.close()


async def test_sigterm_pauses_sighup_and_a_closed_pipe_do_nothing(tmp_path: Path) -> None:
    batch = write_batch(tmp_path / "b.jsonl", 6)
    process = start_runner(scripted(tmp_path, '{"hold": ["r5"]}'), tmp_path / "out")
    wire = await Wire.open(Workspace.at(tmp_path))
    reply = await wire.command(protocol.Submit, path=str(batch))
    job = reply.job or ""
    await wire.until(lambda: wire.jobs[job].counts.succeeded == 5)
    worker = wire.worker
    assert worker is not None
    assert os.getsid(worker) == worker
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGPIPE)
    assert (await wire.command(protocol.GetSnapshot)).error is None
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 20) == 0
    await wire.close()
    assert not psutil.pid_exists(worker)
    folder = tmp_path / "results" / job
    assert '"paused"' in (folder / "run.json").read_text()
    assert len(lines_of(folder / "inflight.jsonl")) == 1
    assert (folder / "run.json").stat().st_mode & 0o077 == 0
    log = (tmp_path / "results" / ".runner" / "runner.log").read_text()
    assert "SIGTERM" in log
    assert "Traceback" not in log


def test_a_wrong_setting_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "gptoss.toml").write_text("[runner]\nidle_exit = 3\n")
    ended = subprocess.run(
        [sys.executable, "-m", "engine.runner", "--workspace", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == ExitCode.USAGE
    assert "idle_exit_s" in ended.stderr


def test_the_runner_starts_without_the_heavy_modules() -> None:
    """Every command waits for this start: numpy, templates and engines come with the first job."""
    code = "import sys, engine.runner; print(*sorted(m for m in sys.modules))"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    heavy = {"numpy", "jinja2", "gguf", "pynvml", "llama_cpp", "engine.batch", "engine.chat", "textual", "tui"}
    assert heavy & set(ended.stdout.split()) == set()


# --- any order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_any_order_of_commands_and_deaths_ends_in_the_same_answers(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.recovery.FIRST_WAIT_S", 0.01)
    chance = random.Random(seed)
    batch = write_batch(tmp_path / "b.jsonl", 60)
    script = {"delay_s": 0.02, "finish": {"r7": "parse_error"}}
    async with Desk(tmp_path, script) as d:
        job = await d.submit(batch, slots=4)
        for _ in range(12):
            before = len(d.acknowledged())
            match chance.choice(["pause", "now", "abort", "out", "back", "die", "retry", "wait"]):
                case "pause" | "now" as how:
                    await _try(d, protocol.Pause, job=job, now=how == "now")
                case "abort":
                    await _try(d, protocol.AbortJob, job=job)
                case "out":
                    await _try(d, protocol.AbortRequest, job=job, custom_id=f"r{chance.randrange(60)}")
                case "back":
                    await _try(d, protocol.PutBack, job=job)
                case "retry":
                    await _try(d, protocol.Retry, job=job)
                case "die":
                    d.runner.host.kill()
                case _:
                    pass
            await _settle(d, job, before)
        d.rescript({"delay_s": 0.0})
        if d.runner.current is None:
            await d.runner.host.close()  # the next one reads the new script
        else:
            d.runner.host.kill()
        await _settle(d, job, 10**9)
        await d.command(protocol.PutBack, job=job)
        await _settle(d, job, 10**9)
        await d.command(protocol.Retry, job=job)
        await _settle(d, job, 10**9)
        record = d.record(job)
        assert record.state == JobState.DONE, record.sentence
        assert record.counts.succeeded == record.counts.total == 60
        wanted = {rec["custom_id"]: expected(rec) for rec in lines_of(batch)}
        assert d.ids(job) == dict.fromkeys(wanted, 1)
        assert {rec["custom_id"]: content(rec) for rec in d.output(job)} == wanted


async def _try(d: Desk, make: type, **fields: object) -> None:
    try:
        await d.command(make, **fields)
    except CommandRefused:
        return  # the state did not allow it: that is an answer too


async def _settle(d: Desk, job: str, before: int) -> None:
    """Until some more is acknowledged, or the job rests; a resting one is resumed."""
    held = d.runner.jobs[job]

    def at_rest() -> bool:
        return held.live is None and held.state not in (JobState.QUEUED, JobState.DONE)

    await d.until(lambda: at_rest() or held.state == JobState.DONE or len(d.acknowledged()) > before)
    if at_rest():
        await d.command(protocol.Resume, job=job)
        if before == 10**9:
            await d.until(lambda: held.state == JobState.DONE and held.live is None)
