"""The engine's worker process as the runner sees it: start, messages, captured output, death.

It leads its own session, so a hangup never reaches it and its whole process group can be ended by the id that was
created here. Whatever way it ends, its pending messages and last lines are read first, and then exactly one `Death` is
reported. The runner's end of the socket closing (also by kill -9) is what tells a worker that nobody wants it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import msgspec

from engine import protocol
from engine.protocol import Close, Fatal, FromWorker, Loaded, LoadFailed, LoadProgress, ToWorker

WORKER_COMMAND = (sys.executable, "-m", "engine.backends.worker")
LAST_LINES = 50
MAX_FRAME_BYTES = 256 * 1024 * 1024
"""An answer with logprobs of 100 000 tokens is some 50 MB; more than this is a broken stream."""

LOG_BYTES = 8 * 1024 * 1024
"""worker.log and one older worker.log.1 of at most this size each."""

START_S = 120.0
"""Importing an engine on a cold, slow disk takes minutes at worst; nothing is sent before that."""

LOAD_S = 180.0
"""Longest silence while loading. Reading 12 GB at 100 MB/s takes 120 s and may come as one step."""

SILENT_S = 20.0
"""Longest silence of a loaded engine; it promises a heartbeat every 0.5 s, also inside a long call."""

WATCH_S = 0.5
DRAIN_S = 2.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long what may take, seconds."""

    start_s: float = START_S
    load_s: float = LOAD_S
    silent_s: float = SILENT_S
    close_s: float = 10.0  # after Close
    term_s: float = 3.0  # after SIGTERM


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker ended. `wanted`: it was asked to close."""

    returncode: int | None
    phase: str  # "starting", "loading" or "running"
    wanted: bool = False
    fatal: tuple[protocol.FailureKind, str] | None = None
    silent_s: float | None = None
    garbage: str | None = None
    last_lines: list[str] = []


class Output:
    """What the worker prints: a bounded file, and the last lines in memory."""

    def __init__(self, path: Path, *, limit: int = LOG_BYTES) -> None:
        self.lines: deque[str] = deque(maxlen=LAST_LINES)
        self._limit = limit
        self._rest = b""
        self._path = path
        self._file: IO[bytes] | None = None

    def move(self, path: Path) -> None:
        """Write to another file from now on (another job uses the engine)."""
        if path != self._path:
            self.close()
            self._path = path

    def feed(self, data: bytes) -> None:
        pieces = (self._rest + data).split(b"\n")
        # A program that never ends its line must not fill the memory.
        self._rest = pieces.pop()[-8192:]
        self.lines.extend(piece.decode("utf-8", "replace")[-2000:] for piece in pieces if piece.strip())
        try:
            self._write(data)
        except OSError:
            # A full disk must not end the engine; the last lines are still in memory.
            self.close()

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
        if self._file.tell() + len(data) > self._limit:
            self._file.close()
            self._file = None
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._path.open("ab", buffering=0)
        self._file.write(data)

    def end(self) -> list[str]:
        """The last lines, with an unfinished one."""
        rest = self._rest.decode("utf-8", "replace").strip()
        return [*self.lines, *([rest] if rest else [])][-LAST_LINES:]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Child:
    """One worker process, from spawn to its end. Use from one event loop; it can't be started twice."""

    def __init__(
        self,
        *,
        log: Path,
        on_message: Callable[[FromWorker], None],
        on_death: Callable[[Death], None],
        command: Sequence[str] = WORKER_COMMAND,
        limits: Limits | None = None,
    ) -> None:
        self.output = Output(log)
        self.limits = limits or Limits()
        self.phase = "starting"
        self.pid: int | None = None
        self._command = command
        self._on_message = on_message
        self._on_death = on_death
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._heard = 0.0
        self._wanted = False
        self._fatal: tuple[protocol.FailureKind, str] | None = None
        self._silent_s: float | None = None
        self._garbage: str | None = None
        self._exited: asyncio.Future[int] | None = None
        self._life: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    async def start(self) -> None:
        """Spawn it. Raises OSError if the system can't."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - vfork + exec takes a millisecond; no shell
                [*self._command, "--fd", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self._heard = loop.time()
        self._exited = loop.create_future()
        threading.Thread(
            target=_await_exit, args=(self.pid, loop, self._exited), name="worker-exit", daemon=True
        ).start()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._life = asyncio.create_task(self._live(reader), name=f"worker {self.pid}")

    @property
    def alive(self) -> bool:
        return self._process is not None and not self._ended.is_set()

    def send(self, message: ToWorker) -> None:
        """Queue one message. To a dead worker it is lost: its death is reported on its own."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(protocol.pack(message))

    def loading(self) -> None:
        """A Load was sent: the longer limit on silence applies until it is answered."""
        self.phase = "loading"

    def kill(self) -> None:
        """End the whole process group now."""
        # The leader is not reaped before `_end`, so its id can't belong to anybody else yet.
        if self.alive and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def close(self) -> None:
        """End it in order, with force where needed; returns when it is gone. Safe to call twice."""
        if self._process is None:
            return
        self._wanted = True
        self.send(Close())
        for limit, last_resort in ((self.limits.close_s, self._terminate), (self.limits.term_s, self.kill)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    await self._ended.wait()
            if self._ended.is_set():
                return
            last_resort()
        await self._ended.wait()

    async def wait(self) -> None:
        """Until it is gone and its death was reported."""
        await self._ended.wait()

    def _terminate(self) -> None:
        if self.alive and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)

    async def _live(self, reader: asyncio.StreamReader) -> None:
        assert self._process is not None
        assert self._exited is not None
        frames = asyncio.create_task(self._read_frames(reader))
        output = asyncio.create_task(self._read_output())
        watch = asyncio.create_task(self._watch_silence())
        try:
            await asyncio.wait({frames, asyncio.ensure_future(self._exited)}, return_when=asyncio.FIRST_COMPLETED)
            if not self._exited.done():
                # It closed its end (or sent rubbish). A worker on its way out gets a moment, then it is ended.
                await asyncio.wait({self._exited}, timeout=DRAIN_S)
                self.kill()
                await self._exited
            # Whatever it started goes with it; while the leader is unreaped the group id is ours.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await asyncio.wait({frames, output}, timeout=DRAIN_S)
        finally:
            for task in (frames, output, watch):
                task.cancel()
            await asyncio.gather(frames, output, watch, return_exceptions=True)
            self.kill()
            returncode = self._process.wait()
            if self._writer is not None:
                self._writer.close()
            self.output.close()
            self._ended.set()
        self._on_death(
            Death(
                returncode=returncode,
                phase=self.phase,
                wanted=self._wanted,
                fatal=self._fatal,
                silent_s=self._silent_s,
                garbage=self._garbage,
                last_lines=self.output.end(),
            )
        )

    async def _read_frames(self, reader: asyncio.StreamReader) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                size = int.from_bytes(await reader.readexactly(4), "big")
                if size > MAX_FRAME_BYTES:
                    self._garbage = f"a frame of {size:,} bytes"
                    break
                payload = await reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            self._heard = loop.time()
            try:
                message = protocol.unpack_from_worker(payload)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self._garbage = str(error)
                break
            match message:
                case LoadProgress():
                    self.phase = "loading"
                case Loaded():
                    self.phase = "running"
                case LoadFailed():
                    self.phase = "starting"
                case Fatal(kind=kind, message=text):
                    self._fatal = (kind, text)
            self._on_message(message)
        self.kill()

    async def _read_output(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self._process.stdout)
        try:
            while data := await reader.read(65536):
                self.output.feed(data)
        finally:
            transport.close()

    async def _watch_silence(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            await asyncio.sleep(WATCH_S)
            now = loop.time()
            if now - before > 4 * WATCH_S + 1:
                # It was us who slept (SIGSTOP, a suspended machine): the worker's messages are still in the socket.
                self._heard = max(self._heard, now)
            before = now
            limit = {"starting": self.limits.start_s, "loading": self.limits.load_s}.get(
                self.phase, self.limits.silent_s
            )
            if now - self._heard > limit:
                self._silent_s = now - self._heard
                self.kill()
                return


def _await_exit(pid: int, loop: asyncio.AbstractEventLoop, exited: asyncio.Future[int]) -> None:
    """Thread: wait until the process is dead without reaping it, so that its id stays ours for killpg."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    def tell() -> None:
        if not exited.done():
            exited.set_result(pid)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(tell)
