"""What a failure leaves behind: a name for programs, a sentence for people, and a way on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from engine import client as clients
from engine import protocol, starting
from engine.errors import ExitCode, FingerprintChanged, ModelNotFound, RunnerUnreachable
from engine.job import JobState
from engine.protocol import RunSettings
from engine.workspace import Workspace
from tests.control_kit import remove, short_folder, workspace_at
from tests.runner_kit import ROOT, Desk, FullDisk, desk, write_batch

# --- the name of the error --------------------------------------------------------------------------------------------


async def test_a_failed_job_names_its_error_until_it_goes_on(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 2)
    good = path.read_text()
    path.write_text(good + "not json\n")
    async with desk(tmp_path) as d:
        job = await d.submit(path)
        record = await d.rests(job)
        assert (record.state, record.failure) == (JobState.FAILED, "BatchInvalid")
        assert d.runner.jobs[job].view().failure == "BatchInvalid"
        assert json.loads((d.folder(job) / "run.json").read_text())["failure"] == "BatchInvalid"
        (on_disk,) = clients.jobs_on_disk(d.workspace)
        assert on_disk.failure == "BatchInvalid"
        path.write_text(good)
        await d.command(protocol.Resume, job=job)
        assert d.record(job).failure == ""
        record = await d.rests(job)
        assert (record.state, record.failure) == (JobState.DONE, "")


async def test_errors_of_model_and_engine_are_named(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 2)
    async with desk(tmp_path, {"load_failed": {"kind": "bad_file", "message": "no model in it"}}) as d:
        record = await d.rests(await d.submit(path))
        assert (record.failure, "no model in it" in record.sentence) == ("LoadFailed", True)
        resolve = d.runner.resolve_model

        def absent(_: str | None) -> NoReturn:
            raise ModelNotFound("no model 'x'", advice="Look at models/.")

        d.runner.resolve_model = absent
        record = await d.rests(await d.submit(path))
        assert (record.failure, record.sentence) == ("ModelNotFound", "no model 'x'. Look at models/.")
        d.runner.resolve_model = resolve


async def test_an_engine_that_dies_again_and_again_while_it_loads_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first engine finished says nothing for those that never came up."""
    monkeypatch.setattr("engine.recovery.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("engine.recovery.MAX_RESTARTS", 2)
    deaths = [{"at": "finish", "n": 3}, *[{"at": "load"}] * 20]
    async with desk(tmp_path, {"deaths": deaths}) as d:
        job = await d.submit(write_batch(tmp_path / "b.jsonl", 20), slots=1)
        record = await d.rests(job)
        assert (record.state, record.failure) == (JobState.FAILED, "WorkerDied")
        assert record.counts.succeeded >= 3
        assert d.script.with_name("script.json.starts").read_text() == "3"


async def test_an_engine_lost_for_good_while_the_disk_is_full_leaves_the_job_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.recovery.MAX_RESTARTS", 0)
    monkeypatch.setattr("engine.saving.RETRY_S", 600)
    disk = FullDisk(monkeypatch)
    async with desk(tmp_path, {"delay_s": 0.05, "hold": ["r5"]}) as d:
        disk.full = True
        job = await d.submit(write_batch(tmp_path / "b.jsonl", 6))
        await d.until(lambda: d.record(job).state == JobState.PAUSED)
        d.runner.host.kill()
        record = await d.rests(job)
        assert (record.state, record.failure) == (JobState.PAUSED, "")
        assert "SIGKILL" in record.sentence
        disk.full = False
        d.rescript({})
        await d.command(protocol.Resume, job=job)
        assert (await d.rests(job)).counts.succeeded == 6


# --- consent that outlives the runner ---------------------------------------------------------------------------------


async def _half_done(d: Desk, root: Path) -> str:
    job = await d.submit(write_batch(root / "a.jsonl", 6), slots=1)
    await d.until(lambda: d.record(job).counts.succeeded >= 2)
    await d.command(protocol.Pause, job=job, now=True)
    await d.rests(job)
    return job


async def test_a_forced_resume_still_holds_for_the_next_runner(tmp_path: Path) -> None:
    async with desk(tmp_path, {"delay_s": 0.1, "hold": ["r10"]}) as d:
        job = await _half_done(d, tmp_path)
        first = await d.submit(write_batch(tmp_path / "first.jsonl", 1, start=10))
        await d.until(lambda: d.record(first).counts.running == 1)
        await d.command(protocol.Resume, job=job, settings=RunSettings(context=512), force=True)
        assert json.loads((d.folder(job) / "run.json").read_text())["force"] is True
    # The file is all that a killed runner would have left, too: a queued job is not touched at the end.
    async with desk(tmp_path) as d:
        record = await d.rests(job)
        assert record.state == JobState.DONE, record.sentence
        assert record.sessions[-1].forced == ["context: 4096 before, 512 now"]
        assert not record.force


async def test_a_queued_job_can_still_be_resumed_by_force(tmp_path: Path) -> None:
    async with desk(tmp_path, {"delay_s": 0.1, "hold": ["r10"]}) as d:
        job = await _half_done(d, tmp_path)
        first = await d.submit(write_batch(tmp_path / "first.jsonl", 1, start=10))
        await d.until(lambda: d.record(first).counts.running == 1)
        await d.command(protocol.Resume, job=job)
        assert "already" in (await d.command(protocol.Resume, job=job)).sentence
        with pytest.raises(FingerprintChanged):
            await d.command(protocol.Resume, job=job, settings=RunSettings(context=512))
        await d.command(protocol.Resume, job=job, settings=RunSettings(context=512), force=True)
        await d.command(protocol.AbortJob, job=first)
        record = await d.rests(job)
        assert (record.state, record.engine.context) == (JobState.DONE, 512), record.sentence


# --- slots for choices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("setting", "planned"), [(None, 5), (3, 3)])
async def test_slots_are_planned_for_choices_and_not_for_requests(
    tmp_path: Path, setting: int | None, planned: int
) -> None:
    path = write_batch(tmp_path / "b.jsonl", 1, n=4, temperature=1)
    write_batch(tmp_path / "one.jsonl", 1, start=1)
    path.write_text(path.read_text() + (tmp_path / "one.jsonl").read_text())
    async with desk(tmp_path) as d:
        record = await d.rests(await d.submit(path, slots=setting))
        assert (record.state, record.engine.slots) == (JobState.DONE, planned), record.sentence


# --- a runner that can't start ----------------------------------------------------------------------------------------


@pytest.fixture(name="workspace")
def _workspace(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    folder = short_folder()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield workspace_at(folder)
    while starting.started:
        starting.started.pop().wait(20)
    remove(folder)


async def test_a_runner_without_a_socket_says_why_in_one_sentence(workspace: Workspace) -> None:
    workspace.socket_folder.mkdir(parents=True, mode=0o700)
    workspace.socket_folder.parent.chmod(0o700)
    workspace.socket.write_text("in the way")
    workspace.runner_folder.mkdir(parents=True)
    workspace.runner_log.write_text("of another day\n")
    with pytest.raises(RunnerUnreachable) as caught:
        await clients.connect(workspace, start=True)
    assert "is no socket" in caught.value.message
    assert "Traceback" not in caught.value.message
    assert "of another day" not in caught.value.message
    lines = workspace.runner_log.read_text().splitlines()
    assert lines[-2:] == [f"{workspace.socket} is no socket.", "Remove it."]
    assert "Traceback" not in "".join(lines)


def test_a_workspace_that_can_t_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("no folder")
    ended = subprocess.run(
        [sys.executable, "-m", "engine.runner", "--workspace", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == ExitCode.FAILED
    sentence, advice = ended.stderr.splitlines()
    assert f"{tmp_path}/results/.runner can't be written" in sentence
    assert "--workspace DIR" in advice


async def test_of_a_fault_at_the_start_the_client_shows_the_last_line_only(workspace: Workspace) -> None:
    code = "try:\n  {}['secret']\nexcept KeyError as e:\n  raise ZeroDivisionError('of the test') from e"
    with pytest.raises(RunnerUnreachable) as caught:
        await clients.connect(workspace, start=True, command=(sys.executable, "-c", code))
    assert "Traceback" in workspace.runner_log.read_text()
    shown = caught.value.message.splitlines()[1:]
    assert shown == ["    ZeroDivisionError: of the test"]
