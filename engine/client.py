"""A client's side of the runner's socket: connect, have a runner started if there is none, send commands, read events.

`tui` must not load what the runner loads. So what needs the engine's files but no runner (`validate`, `verify`,
`export`, `doctor`) runs as a command too, by `offline`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from engine import errors, peer
from engine.errors import ExitCode, GptossError, LoadFailed, ProtocolMismatch, RunnerUnreachable
from engine.protocol import (
    CLIENT_PROTOCOL,
    MAX_LINE_BYTES,
    Command,
    ErrorView,
    Event,
    FailureKind,
    FromRunner,
    GetSnapshot,
    Goodbye,
    Hello,
    JobView,
    Reply,
    Snapshot,
    Welcome,
    decode_from_runner,
    encode_line,
)
from engine.record import RunRecord, as_found, view_of
from engine.starting import environment, is_held, not_started, spawn, starting_lock
from engine.workspace import Workspace

RUNNER_COMMAND = (sys.executable, "-m", "engine.runner")
OFFLINE_COMMAND = (sys.executable, "-m", "engine.offline")

START_S = 15.0
"""A runner answers after half a second; a busy machine with a cold disk needs several."""

LEAVING_S = 30.0
"""Longest wait for a runner that holds the lock and does not answer: it is starting, or unloading its engine."""

GREETING_S = 10.0
POLL_S = 0.05
WAITING_EVENTS = 10_000
"""Events kept for somebody who does not read them; then a fresh Snapshot takes their place."""


class _NoRunner(Exception):
    """Nobody listens."""


class Client:
    """A connection to a runner. Made by `connect`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._ids = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._events: deque[Event | Snapshot] = deque()
        self._arrived = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._overrun = False
        self._ended = False
        self.welcome: Welcome
        self.snapshot: Snapshot
        self.goodbye = ""
        """Why the runner ended the connection, as far as it said."""
        self.parted = False
        """It said goodbye; otherwise it died."""

    async def _greet(self, name: str) -> None:
        self._writer.write(encode_line(Hello(version=CLIENT_PROTOCOL, client=name, pid=os.getpid())))
        welcome = await self._next()
        if isinstance(welcome, Goodbye):
            raise _NoRunner(welcome.reason)  # it is just leaving
        if not isinstance(welcome, Welcome):
            raise ProtocolMismatch("what listens on this workspace's socket is no runner")
        if welcome.version != CLIENT_PROTOCOL:
            raise ProtocolMismatch(
                f"the runner of this workspace (process {welcome.pid}) speaks protocol {welcome.version}, this program "
                f"{CLIENT_PROTOCOL}: it was started by another version of gptoss-tui",
                advice=f"`kill {welcome.pid}` ends it in order (its jobs are paused), then run the command again.",
            )
        snapshot = await self._next()
        if not isinstance(snapshot, Snapshot):
            raise _NoRunner("it left before it said how things stand")
        self.welcome, self.snapshot = welcome, snapshot
        self._reading = asyncio.create_task(self._read(), name="client-read")

    async def _next(self) -> FromRunner:
        line = await self._reader.readline()
        if not line:
            raise _NoRunner("it closed the connection")
        return decode_from_runner(line)

    async def _read(self) -> None:
        try:
            while True:
                self._take(await self._next())
        except (_NoRunner, ConnectionError) as error:
            self.goodbye = self.goodbye or str(error)
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            self.goodbye = f"the runner sent what this program can't read: {error}"
        finally:
            self._ended = True
            self._arrived.set()
            for waiting in self._replies.values():
                if not waiting.done():
                    waiting.set_exception(
                        RunnerUnreachable(
                            f"the runner went away before it answered ({self.goodbye or 'connection closed'})",
                            advice="`gptoss-tui status` shows how things stand.",
                        )
                    )

    def _take(self, message: FromRunner) -> None:
        match message:
            case Reply(id=number):
                waiting = self._replies.pop(number, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
            case Goodbye(reason=reason):
                self.goodbye, self.parted = reason, True
            case Welcome():
                pass
            case _:
                if isinstance(message, Snapshot):
                    self._overrun = False
                elif len(self._events) >= WAITING_EVENTS:
                    self._events.clear()
                    self._overrun = True
                if not self._overrun:
                    self._events.append(message)
                self._arrived.set()

    @property
    def alive(self) -> bool:
        return not self._ended

    async def command(self, command: Command) -> Reply:
        """Send one and wait for its Reply; its `id` is set here. Raises the error that the runner names."""
        number = next(self._ids)
        waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        if self._ended:
            raise RunnerUnreachable("the runner has gone away", advice="`gptoss-tui status` shows how things stand.")
        self._replies[number] = waiting
        try:
            self._writer.write(encode_line(msgspec.structs.replace(command, id=number)))
            reply = await waiting
        finally:
            self._replies.pop(number, None)
        if reply.error is not None:
            raise error_of(reply.error)
        return reply

    async def events(self) -> AsyncIterator[Event | Snapshot]:
        """All that happens after `snapshot`, until the connection ends.

        A Snapshot in between stands for everything missed: the reader was too slow. It replaces what was known.
        """
        while True:
            while self._events:
                yield self._events.popleft()
            if self._ended:
                return
            if self._overrun:
                await self.command(GetSnapshot(id=0))
                continue
            self._arrived.clear()
            await self._arrived.wait()

    async def close(self) -> None:
        """Leave. The runner and its jobs go on."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def error_of(view: ErrorView) -> GptossError:
    """The exception that an ErrorView describes."""
    found = getattr(errors, view.code, None)
    if found is LoadFailed:
        return LoadFailed(view.message, kind=FailureKind.EXITED, advice=view.advice)
    if isinstance(found, type) and issubclass(found, GptossError):
        return found(view.message, advice=view.advice)
    error = GptossError(view.message, advice=view.advice)
    with contextlib.suppress(ValueError):
        error.exit_code = ExitCode(view.exit_code)
    return error


# --- connecting and starting ------------------------------------------------------------------------------------------


async def connect(
    workspace: Workspace,
    *,
    start: bool,
    client: str = "cli",
    command: Sequence[str] = RUNNER_COMMAND,
    start_s: float = START_S,
) -> Client:
    """Reach the runner of this workspace; with `start`, have one. Raises RunnerUnreachable or ProtocolMismatch.

    Clients that start at once end up with one runner: starting is done under a lock of its own.
    """
    with contextlib.suppress(_NoRunner):
        return await _reach(workspace, client)
    if not start:
        raise RunnerUnreachable(
            f"no runner is alive in {workspace.root}", advice="`gptoss-tui run FILE` or `resume` starts one."
        )
    begun = time.monotonic()
    process: subprocess.Popen[bytes] | None = None
    logged = 0
    with starting_lock(workspace) as lock:
        while True:
            with contextlib.suppress(_NoRunner):
                return await _reach(workspace, client)
            if process is not None and process.poll() is not None and not is_held(workspace.lock_file):
                raise not_started(workspace, f"it ended with exit code {process.returncode}", logged)
            mine = process is not None or lock.take()
            held = is_held(workspace.lock_file)
            if mine and process is None and not held:
                process, logged = spawn(workspace, command)
                begun = time.monotonic()
            waited = time.monotonic() - begun
            if waited > (LEAVING_S if held and start_s == START_S else start_s):
                if process is not None and process.poll() is None:
                    process.send_signal(signal.SIGTERM)  # ours, and nobody knows of it
                raise not_started(workspace, f"it did not answer within {waited:.0f} s", logged)
            await asyncio.sleep(POLL_S)


async def reconnect(workspace: Workspace, *, client: str = "cli", patience_s: float = 5.0) -> Client:
    """Reach a runner that somebody else may be starting again; it is not started here. Raises RunnerUnreachable."""
    end = time.monotonic() + patience_s
    while True:
        try:
            return await connect(workspace, start=False, client=client)
        except RunnerUnreachable:
            if time.monotonic() > end:
                raise
        await asyncio.sleep(4 * POLL_S)


async def _reach(workspace: Workspace, name: str) -> Client:
    """Raises _NoRunner where nobody listens."""
    path = workspace.socket
    if not path.exists():
        raise _NoRunner("no socket")
    fault = peer.folder_fault(path.parent)
    if fault is not None:
        raise RunnerUnreachable(f"the runner's socket is not trusted: {fault[0]}", advice=fault[1])
    try:
        reader, writer = await asyncio.open_unix_connection(str(path), limit=MAX_LINE_BYTES)
    except (ConnectionRefusedError, FileNotFoundError, ConnectionResetError) as error:
        raise _NoRunner(str(error)) from error
    except OSError as error:
        raise RunnerUnreachable(f"the runner's socket {path} can't be used: {error.strerror or error}") from error
    made = Client(reader, writer)
    try:
        _check_server(writer, path)
        async with asyncio.timeout(GREETING_S):
            await made._greet(name)
    except BaseException as error:
        await made.close()
        match error:
            case ConnectionError():
                raise _NoRunner(str(error)) from error
            case TimeoutError():
                raise RunnerUnreachable(
                    f"the runner of {workspace.root} took the connection and says nothing",
                    advice=f"Its log is {workspace.runner_log}.",
                ) from error
            case msgspec.MsgspecError() | ValueError():
                raise ProtocolMismatch(
                    f"the runner of {workspace.root} sent what this program can't read: {error}",
                    advice="It may be of another version: end it with `gptoss-tui stop` of that version.",
                ) from error
            case _:
                raise
    return made


def _check_server(writer: asyncio.StreamWriter, path: Path) -> None:
    if peer.peer_uid(writer.get_extra_info("socket")) != os.getuid():
        raise RunnerUnreachable(f"the socket {path} is served by another user", advice=f"Remove {path.parent}.")


# --- without a runner -------------------------------------------------------------------------------------------------


def jobs_on_disk(workspace: Workspace) -> list[JobView]:
    """The runs under results/ as their files tell, for when no runner is alive. See `unreadable_runs` for the rest."""
    views = []
    for name in workspace.run_names():
        try:
            record = msgspec.json.decode((workspace.run_folder(name) / "run.json").read_bytes(), type=RunRecord)
        except (OSError, ValueError, msgspec.MsgspecError):
            continue
        if record.removed:
            continue
        views.append(view_of(as_found(msgspec.structs.replace(record, job=name))))
    return sorted(views, key=lambda view: (view.order, view.created))


def unreadable_runs(workspace: Workspace) -> list[str]:
    """A sentence for each folder under results/ that holds answers and no run.json that can be read."""
    sentences: list[str] = []
    if not workspace.results.is_dir():
        return sentences
    for folder in sorted(workspace.results.iterdir()):
        if folder.name.startswith(".") or not any((folder / name).is_file() for name in ("run.json", "output.jsonl")):
            continue
        try:
            msgspec.json.decode((folder / "run.json").read_bytes(), type=RunRecord)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            why = "is missing" if isinstance(error, FileNotFoundError) else f"can't be read ({error})"
            sentences.append(
                f"results/{folder.name}: run.json {why}. Its answers are untouched in output.jsonl; "
                "put back a copy of run.json, or start the file again with `gptoss-tui run`"
            )
    return sentences


async def offline(
    name: str,
    args: Sequence[str],
    *,
    command: Sequence[str] = OFFLINE_COMMAND,
    more_environment: Mapping[str, str] | None = None,
) -> AsyncIterator[dict[str, Any]]:
    """Run `python -m engine.offline NAME ARGS` and yield the JSON objects it prints.

    Raises the GptossError that an object of kind "error" describes, or RunnerError where the child
    fails without a word.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        name,
        *args,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**environment(), **(more_environment or {})},
        limit=MAX_LINE_BYTES,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    complaints = asyncio.create_task(_tail(process.stderr))
    spoke = False
    try:
        async for line in process.stdout:
            item = msgspec.json.decode(line, type=dict[str, Any])
            spoke = True
            if item.get("kind") == "error":
                raise error_of(msgspec.convert(item, ErrorView))
            yield item
        code = await process.wait()
        if code and not spoke:
            text = (await complaints).decode("utf-8", "replace").strip().splitlines()
            raise errors.RunnerError(
                f"`{name}` failed with exit code {code}" + (f": {text[-1]}" if text else ""),
                advice="`gptoss-tui doctor` looks at the installation.",
            )
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await complaints


async def _tail(stream: asyncio.StreamReader) -> bytes:
    """The end of a stream, read to its end so that the writer never waits."""
    kept = b""
    while block := await stream.read(65536):
        kept = (kept + block)[-65536:]
    return kept
