"""A runner process and one client of it, as small as the protocol allows; for tests that kill."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine import protocol
from engine.protocol import FromRunner, JobView, Reply
from engine.workspace import Workspace

ROOT = Path(__file__).parents[1]


class Wire:
    """One connection. `heard` gets every message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard: Callable[[FromRunner], None] = lambda _: None
        self.jobs: dict[str, JobView] = {}
        self.worker: int | None = None
        self.alive = True
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._reader, self._writer = reader, writer
        self._news = asyncio.Event()
        self._ids = 0
        self._task = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, workspace: Workspace, *, limit_s: float = 20.0) -> Wire:
        async with asyncio.timeout(limit_s):
            while True:
                try:
                    reader, writer = await asyncio.open_unix_connection(workspace.socket, limit=1 << 24)
                    break
                except (FileNotFoundError, ConnectionRefusedError):
                    await asyncio.sleep(0.02)  # the process is on its way to its socket; nothing tells when
        wire = cls(reader, writer)
        writer.write(protocol.encode_line(protocol.Hello(client="test", pid=os.getpid())))
        return wire

    async def _listen(self) -> None:
        try:
            while text := await self._reader.readline():
                self._take(protocol.decode_from_runner(text))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the runner was killed; `alive` says it
        finally:
            self.alive = False
            self._news.set()
            for waiting in self._replies.values():
                if not waiting.done():
                    waiting.cancel()

    def _take(self, message: FromRunner) -> None:
        match message:
            case protocol.Snapshot(jobs=jobs, engine=engine):
                self.jobs = {job.id: job for job in jobs}
                self.worker = engine.pid
            case protocol.JobChanged(job=job):
                self.jobs[job.id] = job
            case protocol.EngineChanged(engine=engine):
                self.worker = engine.pid
            case Reply() if message.id in self._replies:
                self._replies.pop(message.id).set_result(message)
            case _:
                pass
        self.heard(message)
        self._news.set()

    async def command(self, make: type[Any], **fields: Any) -> Reply:
        self._ids += 1
        self._replies[self._ids] = waiting = asyncio.get_running_loop().create_future()
        self._writer.write(protocol.encode_line(make(id=self._ids, **fields)))
        return await asyncio.wait_for(waiting, 20)

    async def until(self, met: Callable[[], bool], limit_s: float = 30.0) -> bool:
        """True once met; False if the runner is gone before."""
        async with asyncio.timeout(limit_s):
            while not met():
                if not self.alive:
                    return False
                self._news.clear()
                await self._news.wait()
        return True

    async def close(self) -> None:
        self._writer.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def start_runner(arguments: Sequence[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Its output goes to `log`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
