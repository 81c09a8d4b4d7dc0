"""A runner in the test's own loop, with the scripted worker and everything else real; events are kept as they come."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import pytest

import engine
from engine import protocol
from engine.child import Limits
from engine.disk import IO, Io
from engine.job import ACTIVE, JobState
from engine.modelfiles import ModelFile
from engine.protocol import DeviceReading, Reading, RunSettings
from engine.record import RunRecord
from engine.runner import Config, Runner
from engine.workspace import Workspace
from tests.doubles.worker import answer_of

DOUBLE = Path(__file__).parent / "doubles" / "worker.py"
ROOT = Path(engine.__file__).parents[1]
LIMITS = Limits(start_s=20, load_s=3, silent_s=2, close_s=3, term_s=1)


def model(_: str | None) -> ModelFile:
    return ModelFile(path=Path("/nowhere/double.gguf"), name="double", format="gguf", digest="0" * 16)


class FullDisk:
    """Writes to results/*.jsonl fail while it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        write = Io.write

        def refuse(io: Io, fd: int, data: bytes | memoryview) -> int:
            target = str(Path(f"/proc/self/fd/{fd}").readlink())
            if self.full and target.endswith(("output.jsonl", "errors.jsonl")):
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(io, fd, data)

        monkeypatch.setattr(type(IO), "write", refuse)


class RecordedReadings:
    """Readings of a GPU that a test sets."""

    def __init__(self, free: int | None = None) -> None:
        self.free = free

    def sample(self) -> Reading:
        gpu = [DeviceReading(name="GPU", kind="gpu", total=1 << 34, free=self.free)] if self.free is not None else []
        return Reading(t=0.0, devices=gpu, note="recorded")

    def watch_worker(self, pid: int | None) -> None:
        pass

    def close(self) -> None:
        pass


def write_batch(path: Path, n: int, /, *, start: int = 0, word: str = "say", **body: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for i in range(start, start + n):
            file.write(json.dumps(line(f"r{i}", f"{word} {i}", **body)) + "\n")
    return path


def line(custom_id: str, text: str, **body: Any) -> dict[str, Any]:
    content = {"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 0, **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": content}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_bytes().splitlines()] if path.exists() else []


class Desk:
    """A runner and what it says."""

    def __init__(self, root: Path, script: dict[str, Any], **config: Any) -> None:
        self.workspace = Workspace.at(root)
        self.workspace.runner_folder.mkdir(parents=True, exist_ok=True)
        self.script = root / "script.json"
        self.rescript(script)
        self.events: list[protocol.Event] = []
        self.faults: list[str] = []
        self._news = asyncio.Event()
        self._id = 0
        self.readings = RecordedReadings()
        settings = {"idle_exit_s": 30.0, "limits": LIMITS, **config}
        self.runner = Runner(
            self.workspace,
            Config(worker_command=(sys.executable, str(DOUBLE), str(self.script)), **settings),
            readings=self.readings,
            resolve_model=model,
        )
        publish = self.runner.control.publish

        def heard(event: protocol.Event) -> None:
            self.events.append(event)
            if isinstance(event, protocol.JobChanged):
                self._check(event.job)
            publish(event)
            self._news.set()

        self.runner.control.publish = heard  # type: ignore[method-assign]  # a test listens in
        self._task: asyncio.Task[None] | None = None

    def rescript(self, script: dict[str, Any]) -> None:
        self.script.write_text(json.dumps(script))
        self.script.with_name("script.json.starts").unlink(missing_ok=True)

    def _check(self, view: protocol.JobView) -> None:
        c = view.counts
        if c.total != c.succeeded + c.failed + c.running + c.waiting + c.aborted:
            self.faults.append(f"{view.id}: {c}")

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.runner.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.runner.stop("the test ends")
        assert self._task is not None
        await asyncio.wait_for(self._task, 20)
        assert not self.faults

    async def ended(self) -> None:
        assert self._task is not None
        await asyncio.wait_for(self._task, 20)

    async def command(self, make: type[Any], **fields: Any) -> protocol.Reply:
        self._id += 1
        return await self.runner._commands.handle(make(id=self._id, **fields))

    async def submit(self, path: Path, **settings: Any) -> str:
        reply = await self.command(protocol.Submit, path=str(path), settings=RunSettings(**settings))
        assert reply.job is not None
        return reply.job

    def record(self, job: str) -> RunRecord:
        return self.runner.jobs[job].refresh()

    async def until(self, met: Callable[[], bool], limit_s: float = 15.0) -> None:
        try:
            async with asyncio.timeout(limit_s):
                while not met():
                    self._news.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), 0.5)
        except TimeoutError:
            told = [
                f"{e.job.state} {e.job.sentence} {e.job.counts}"
                for e in self.events
                if isinstance(e, protocol.JobChanged)
            ]
            raise AssertionError(f"not met in time; jobs said: {told[-8:]}, incidents: {self.incidents()}") from None

    async def rests(self, job: str) -> RunRecord:
        """Until the job is neither queued nor active and its run is over."""

        def at_rest() -> bool:
            if job not in self.runner.jobs:  # a runner that just starts has not read its results yet
                return False
            state = self.runner.jobs[job].state
            return state not in ACTIVE and state != JobState.QUEUED and self.runner.jobs[job].live is None

        await self.until(at_rest)
        return self.record(job)

    def acknowledged(self) -> list[protocol.AckItem]:
        return [item for event in self.events if isinstance(event, protocol.Acknowledged) for item in event.items]

    def incidents(self) -> list[str]:
        return [event.incident.kind for event in self.events if isinstance(event, protocol.Incident)]

    def folder(self, job: str) -> Path:
        return self.workspace.run_folder(job)

    def output(self, job: str) -> list[dict[str, Any]]:
        return lines_of(self.folder(job) / "output.jsonl")

    def errors(self, job: str) -> list[dict[str, Any]]:
        return lines_of(self.folder(job) / "errors.jsonl")

    def ids(self, job: str) -> Counter[str]:
        return Counter(rec["custom_id"] for rec in self.output(job))


@contextlib.asynccontextmanager
async def desk(root: Path, script: dict[str, Any] | None = None, **config: Any) -> AsyncIterator[Desk]:
    async with Desk(root, script or {}, **config) as made:
        yield made


def content(rec: dict[str, Any]) -> str:
    return rec["response"]["body"]["choices"][0]["message"]["content"]


def expected(request: dict[str, Any]) -> str:
    """What the scripted worker says to this line (greedy)."""
    return answer_of(request["body"], 0)
