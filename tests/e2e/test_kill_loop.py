"""kill -9 again and again, with a ledger of acknowledged lines kept outside: what was told as done stays done."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from engine import protocol
from engine.job import RESUMABLE, JobState
from engine.protocol import FromRunner
from engine.workspace import Workspace
from tests.doubles import run_runner
from tests.runner_kit import content, expected, lines_of, write_batch
from tests.wire import Wire, kill, start_runner

REQUESTS = 600


class Ledger:
    """Acknowledged lines as a bystander saw them: the digest of each line's bytes when it was acknowledged."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._read: dict[Path, int] = {}
        self._lines: dict[Path, dict[str, str]] = {}
        self.seen: dict[str, dict[str, str]] = {}
        self.missing: list[str] = []

    def _digests(self, job: str) -> dict[str, str]:
        path = self._workspace.run_folder(job) / "output.jsonl"
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[path] = self._read.get(path, 0) + len(whole)
        known = self._lines.setdefault(path, {})
        for text in whole.splitlines():
            known[json.loads(text)["custom_id"]] = hashlib.sha256(text).hexdigest()
        return known

    def hear(self, message: FromRunner) -> None:
        if isinstance(message, protocol.Acknowledged):
            on_disk = self._digests(message.job)
            for item in message.items:
                if item.custom_id in on_disk:
                    self.seen.setdefault(message.job, {})[item.custom_id] = on_disk[item.custom_id]
                else:
                    self.missing.append(item.custom_id)

    def check(self, job: str, requests: set[str], *, finished: bool) -> None:
        path = self._workspace.run_folder(job) / "output.jsonl"
        data = path.read_bytes() if path.exists() else b""  # killed before the journal was opened
        *texts, torn = data.split(b"\n")  # the kill may have torn the last line
        assert not (finished and torn)
        digests = {json.loads(text)["custom_id"]: hashlib.sha256(text).hexdigest() for text in texts}
        ids = Counter(json.loads(text)["custom_id"] for text in texts)
        assert [i for i, n in ids.items() if n > 1] == [], "written twice"
        assert set(ids) <= requests, "foreign lines"
        told = self.seen.get(job, {})
        assert {i: d for i, d in told.items() if digests.get(i) != d} == {}, "acknowledged and lost or changed"
        assert self.missing == [], "acknowledged before they were in the file"
        if finished:
            assert set(ids) == requests


async def kill_loop(
    tmp_path: Path, rounds: int, command: Sequence[str], batch: Path, *, seed: int, spread_s: float
) -> Ledger:
    """Start, work on a job, kill at a random moment; the last round runs to the end."""
    chance = random.Random(seed)
    workspace = Workspace.at(tmp_path)
    ledger = Ledger(workspace)
    requests = {rec["custom_id"] for rec in lines_of(batch)}
    job, finished, workers, progress = "", set[str](), set[int](), 0
    for number in range(rounds + 1):
        last = number == rounds
        process = start_runner(command, tmp_path / "runner.out")
        wire = await Wire.open(workspace)
        heard = {"acks": 0}

        def hear(message: FromRunner, heard: dict[str, int] = heard, wire: Wire = wire) -> None:
            ledger.hear(message)
            if isinstance(message, protocol.Acknowledged):
                heard["acks"] += len(message.items)
            if wire.worker is not None:
                workers.add(wire.worker)

        wire.heard = hear
        try:
            await wire.until(lambda wire=wire, job=job: bool(wire.jobs) or not job)
            if not job or wire.jobs[job].state == JobState.DONE:
                finished |= {job} - {""}
                reply = await wire.command(protocol.Submit, path=str(batch))
                assert reply.job is not None
                job = reply.job
            elif wire.jobs[job].state in RESUMABLE:
                reply = await wire.command(protocol.Resume, job=job)
                assert reply.error is None, reply
            if last:
                assert await wire.until(lambda wire=wire, job=job: wire.jobs[job].state == JobState.DONE, 60)
                finished.add(job)
                await wire.command(protocol.Stop)
                await asyncio.to_thread(process.wait, 20)
                continue
            if chance.random() < 0.7:
                wanted = chance.randrange(1, 60)
                await wire.until(
                    lambda wire=wire, job=job, wanted=wanted, heard=heard: (
                        heard["acks"] >= wanted or wire.jobs[job].state == JobState.DONE
                    )
                )
            # Moments between the events too: in mid-write, in mid-load, before the first line.
            await asyncio.sleep(chance.random() * spread_s)
            if chance.random() < 0.15 and wire.worker is not None:
                os.kill(wire.worker, signal.SIGKILL)
                await asyncio.sleep(chance.random() * spread_s)
            progress += heard["acks"]
        finally:
            if process.poll() is None:
                await asyncio.to_thread(kill, process)
            await wire.close()
        ledger.check(job, requests, finished=job in finished)
    for name in finished:
        ledger.check(name, requests, finished=True)
    assert progress > rounds, "the loop killed too early to test anything"
    await no_process_left(workers)
    return ledger


async def no_process_left(pids: set[int]) -> None:
    """Workers of killed runners end by themselves."""
    async with asyncio.timeout(15):
        # processes that are not our children report their end to nobody: there is no event to wait for
        while [pid for pid in pids if psutil.pid_exists(pid) and "--fd" in _command_of(pid)]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def _command_of(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


def _scripted(tmp_path: Path) -> tuple[list[str], Path]:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"delay_s": 0.01}))
    batch = write_batch(tmp_path / "batches" / "kill.jsonl", REQUESTS)
    return [run_runner.__file__, str(tmp_path), str(script)], batch


@pytest.mark.e2e
@pytest.mark.timeout(280)
async def test_fifty_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    command, batch = _scripted(tmp_path)
    await kill_loop(tmp_path, 50, command, batch, seed=1, spread_s=0.3)
    answers = {rec["custom_id"]: expected(rec) for rec in lines_of(batch)}
    for run in (tmp_path / "results").glob("kill-*"):
        for rec in lines_of(run / "output.jsonl"):
            assert content(rec) == answers[rec["custom_id"]]


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
async def test_a_thousand_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    command, batch = _scripted(tmp_path)
    await kill_loop(tmp_path, 1000, command, batch, seed=2, spread_s=0.3)


@pytest.mark.e2e
@pytest.mark.timeout(280)
async def test_kills_with_the_real_worker_and_model_lose_nothing(tmp_path: Path) -> None:
    batch = write_batch(tmp_path / "batches" / "real.jsonl", 40, word="Reverse the word", max_tokens=12)
    command = ["-m", "engine.runner", "--workspace", str(tmp_path), "--idle-exit", "20"]
    await kill_loop(tmp_path, 5, command, batch, seed=3, spread_s=0.5)
