"""The runner's socket server: who may connect, what each client is sent, and what a slow one loses.

Every client has a bounded `Outbox`. `publish` only puts events there and never waits; one task per client writes. While
a client does not read, state coalesces (the newest of each job, of the engine, of the readings), acknowledgements
merge, text is dropped first and counted. If even that does not fit, the backlog is replaced by a fresh Snapshot.

Nothing a client sends, however broken, raises in the runner. This file knows no job: commands go to `handle`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable, Hashable
from pathlib import Path

import msgspec

from engine import peer
from engine.errors import GptossError, RunnerUnreachable
from engine.pieces import joined
from engine.protocol import (
    CLIENT_PROTOCOL,
    Acknowledged,
    Command,
    Delta,
    EngineChanged,
    ErrorView,
    Event,
    FromRunner,
    GetSnapshot,
    Goodbye,
    Hello,
    Incident,
    JobChanged,
    JobRemoved,
    Measured,
    Reply,
    Sampled,
    Snapshot,
    Text,
    WatchRequests,
    Welcome,
    decode_from_client,
    encode_line,
)
from engine.viewer import Viewer, Watched

log = logging.getLogger("runner.control")

TEXT_CHARS = 512 * 1024
"""Text kept for a client that does not read, each delta counted as some more: the beginnings of a few long answers,
which who begins to watch is sent at once, or a minute of 16 slots."""

DELTA_CHARS = 64
"""What a delta costs besides its text."""

STATE_EVENTS = 2048
ACK_ITEMS = 20_000
"""Some 4 MB of JSON. A client that is further behind gets counts (in a Snapshot) instead of ids."""

OPEN_COMMANDS = 64
"""Commands of one client that may wait for an answer; more are not read from its socket until some are answered."""

COMMAND_BYTES = 4 * 1024 * 1024
"""Longest command. None carries a file's content, so a longer line is a fault, and reading it would cost memory."""

HELLO_S = 10.0
GOODBYE_S = 1.0
SOCKET_BUFFER = 64 * 1024


class Outbox:
    """What one client has yet to be sent. Pure: no I/O, and bounded whatever is put in."""

    def __init__(self) -> None:
        self._replies: list[Reply | Goodbye] = []
        self._events: dict[Hashable, Event] = {}  # in order of seq: what is replaced moves to the end
        self._acks = 0
        self._text_size: dict[str, int] = {}
        self._dropped: dict[str, int] = {}
        self.needs_snapshot = False

    def __bool__(self) -> bool:
        return bool(self._replies or self._events or self.needs_snapshot)

    def reply(self, message: Reply | Goodbye) -> None:
        self._replies.append(message)

    def put(self, event: Event) -> None:
        """Take an event, in place of an older one that it makes needless."""
        if isinstance(event, Text):
            self._put_text(event)
            return
        if self.needs_snapshot:
            return  # made when it is sent, so it holds this already
        key: Hashable
        match event:
            case JobChanged(job=job):
                key = ("job", job.id)
            case JobRemoved(job=name):
                key = ("job", name)
                self._drop_text(name)
            case EngineChanged() | Sampled():
                key = type(event)
            case Measured(seq=seq):
                key = ("measured", seq)
            case Acknowledged(job=name):
                key = ("acknowledged", name)
                self._acks += len(event.items)
                if isinstance(older := self._events.get(key), Acknowledged):
                    event = msgspec.structs.replace(event, items=[*older.items, *event.items])
            case Incident(seq=seq):
                key = ("incident", seq)
        self._events.pop(key, None)
        self._events[key] = event
        if len(self._events) > STATE_EVENTS or self._acks > ACK_ITEMS:
            self.resync()

    def resync(self) -> None:
        """A fresh Snapshot instead of all that waits."""
        self._events = {key: event for key, event in self._events.items() if isinstance(event, Text)}
        self._acks = 0
        self.needs_snapshot = True

    def _put_text(self, event: Text) -> None:
        size = sum(len(item.text) + DELTA_CHARS for item in event.items)
        if self._text_size.get(event.job, 0) + size > TEXT_CHARS:
            self._drop_text(event.job)
        key = ("text", event.job)
        if size > TEXT_CHARS:
            self._lose(event)
            return
        older = self._events.pop(key, None)
        items = joined([*older.items, *event.items]) if isinstance(older, Text) else event.items
        self._text_size[event.job] = sum(len(item.text) + DELTA_CHARS for item in items)
        self._events[key] = msgspec.structs.replace(event, items=items)

    def _drop_text(self, job: str) -> None:
        event = self._events.pop(("text", job), None)
        self._text_size.pop(job, None)
        if isinstance(event, Text):
            self._lose(event)

    def _lose(self, event: Text) -> None:
        self._dropped[event.job] = self._dropped.get(event.job, 0) + sum(item.tokens for item in event.items)

    def take(self, snapshot: Callable[[], Snapshot]) -> list[FromRunner]:
        """Everything there is, in the order to send it; the box is empty after it."""
        out: list[FromRunner] = []
        for event in self._events.values():
            if isinstance(event, Text) and (lost := self._dropped.pop(event.job, 0)):
                out.append(msgspec.structs.replace(event, dropped=lost))
            else:
                out.append(event)
        if self.needs_snapshot:  # last: only text is left before it, and its seq is the newest
            self.needs_snapshot = False
            out.append(snapshot())
        # After the events: what a command changed is visible when its reply comes.
        out.extend(self._replies)
        self._replies = []
        self._events = {}
        self._text_size = {}
        self._acks = 0
        return out


class _Connection:
    """One welcomed client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.outbox = Outbox()
        self.wake = asyncio.Event()
        self.room = asyncio.Semaphore(OPEN_COMMANDS)
        self.unanswered = 0  # commands read whose reply is not written yet
        self.viewer: Viewer | None = None
        self.closing = False

    def put(self, event: Event) -> None:
        self.outbox.put(event)
        self.wake.set()

    def reply(self, message: Reply | Goodbye) -> None:
        self.outbox.reply(message)
        self.wake.set()

    def watch(self, command: WatchRequests) -> None:
        """Read these. The same again: all of their text from the beginning; others: what it reads already goes on."""
        wanted = msgspec.structs.replace(command, id=0)
        if not (command.custom_ids or command.auto):
            self.viewer = None
        elif self.viewer is None or self.viewer.watch == wanted:
            self.viewer = Viewer(wanted)
        else:
            self.viewer.watch = wanted


class Control:
    """The server. All methods belong to the runner's event loop."""

    def __init__(
        self,
        socket_path: Path,
        *,
        welcome: Welcome,
        snapshot: Callable[[int], Snapshot],
        handle: Callable[[Command], Awaitable[Reply]],
        resolve_watch: Callable[[WatchRequests], frozenset[int]],
        peer_uid: Callable[[peer.HasOptions], int] = peer.peer_uid,
    ) -> None:
        self._path = socket_path
        self._welcome = welcome
        self._snapshot = snapshot
        self._handle = handle
        self._resolve_watch = resolve_watch
        self._peer_uid = peer_uid
        self._seq = 0
        self._server: asyncio.Server | None = None
        self._inode: int | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.last_left = time.monotonic()

    def watched(self) -> Watched:
        """What the present clients read. Who asks gives the `fresh` ones anew: they are named once."""
        keys: set[int] = set()
        fresh: set[int] = set()
        for connection in self._connections:
            if (viewer := connection.viewer) is not None:
                wanted = self._resolve_watch(viewer.watch)
                keys |= wanted
                fresh |= viewer.look(wanted)
        return Watched(frozenset(keys), frozenset(fresh))

    @property
    def clients(self) -> int:
        return len(self._connections)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen. Raises RunnerUnreachable where the socket can't be made or another runner answers on it."""
        sock = self._bind()
        self._server = await asyncio.start_unix_server(self._accept, sock=sock, limit=COMMAND_BYTES)

    def _bind(self) -> socket.socket:
        folder = self._path.parent
        try:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            fault = peer.folder_fault(folder)
        except OSError as error:
            raise RunnerUnreachable(
                f"the folder of the socket, {folder}, can't be used: {error.strerror or error}",
                advice="Set XDG_RUNTIME_DIR to a folder of yours on a local disk.",
            ) from error
        if fault is not None:
            raise RunnerUnreachable(f"no socket is made: {fault[0]}", advice=fault[1])
        self._remove_stale()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(str(self._path))
            # Nobody else gets past the folder; this is the second lock on the door.
            self._path.chmod(0o600)
            self._inode = self._path.stat().st_ino
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            raise RunnerUnreachable(
                f"the socket {self._path} can't be made: {error.strerror or error}",
                advice="Set XDG_RUNTIME_DIR to a folder with a short path on a local disk.",
            ) from error
        return sock

    def _remove_stale(self) -> None:
        """A socket file without anybody behind it is left over from a killed runner."""
        try:
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise RunnerUnreachable(f"{self._path} is no socket", advice="Remove it.")
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self._path))
            except (ConnectionRefusedError, FileNotFoundError):
                self._path.unlink(missing_ok=True)
                return
            except OSError as error:  # a full queue of connections: somebody is there
                log.info("the socket does not take a connection now: %s", error)
        raise RunnerUnreachable(f"another runner answers on {self._path}", advice="`gptoss-tui stop` ends it.")

    async def close(self, reason: str) -> None:
        """Say goodbye to everybody and stop listening. Unread messages get a second to leave."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            connection.closing = True
            connection.reply(Goodbye(reason=reason))
        me = asyncio.current_task()
        tasks = {task for task in self._tasks if task is not me}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=GOODBYE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._server = None
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
                self._path.parent.rmdir()  # one folder a workspace would pile up

    # --- what the runner tells ----------------------------------------------------------------------------------------

    def publish(self, event: Event) -> None:
        """Stamp `event` with the next seq and put it in every client's box. Never waits."""
        self._seq += 1
        if self._connections:
            stamped = msgspec.structs.replace(event, seq=self._seq)
            for connection in self._connections:
                connection.put(stamped)

    def publish_text(self, job: str, deltas: list[Delta]) -> None:
        """Put text in the boxes of the clients that watch it, as far as `watched` has told of it."""
        self._seq += 1
        for connection in self._connections:
            if connection.viewer is not None and (items := connection.viewer.chosen(deltas)):
                connection.put(Text(seq=self._seq, job=job, items=items))

    # --- one client ---------------------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # streams call this in a task of its own
        self._tasks.add(task)
        try:
            if self._allowed(writer) and await self._greeted(reader, writer):
                await self._attend(_Connection(reader, writer))
        except (ConnectionError, TimeoutError):
            pass  # it left, or never said who it is: nothing of the runner depends on it
        except asyncio.CancelledError:
            pass  # only `close` cancels; a task of the stream server must not end as cancelled, asyncio would log it
        finally:
            self._tasks.discard(task)
            # Not wait_closed: it waits for a peer that does not read. abort drops what it never took.
            writer.transport.abort()

    def _allowed(self, writer: asyncio.StreamWriter) -> bool:
        uid = self._peer_uid(writer.get_extra_info("socket"))
        if uid != os.getuid():
            log.warning("a process of user %d tried to connect and was turned away", uid)
            return False
        return True

    async def _greeted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Hello and Welcome. False after a Goodbye that says why not."""
        async with asyncio.timeout(HELLO_S):
            try:
                hello = decode_from_client(await reader.readline())
            except (ValueError, RecursionError, msgspec.MsgspecError):
                hello = None
            if isinstance(hello, Hello) and hello.version == CLIENT_PROTOCOL:
                writer.write(encode_line(self._welcome))
                return True
            if isinstance(hello, Hello):
                reason = (
                    f"this runner (process {os.getpid()}) speaks protocol {CLIENT_PROTOCOL}, the client "
                    f"{hello.version}: they are of different versions of gptoss-tui. `kill {os.getpid()}` ends the "
                    "runner in order (its jobs are paused); the next command starts a new one."
                )
                writer.write(encode_line(self._welcome))  # its version tells a client what it met
            else:
                reason = f"the first message must be a Hello of protocol {CLIENT_PROTOCOL}"
            log.info("a client was turned away: %s", reason)
            writer.write(encode_line(Goodbye(reason=reason)))
            await writer.drain()
            writer.write_eof()
            while await reader.read(COMMAND_BYTES):  # until it has left: closing at once could cut the sentence off
                pass
        return False

    async def _attend(self, connection: _Connection) -> None:
        connection.writer.transport.set_write_buffer_limits(high=SOCKET_BUFFER)
        connection.outbox.resync()
        connection.wake.set()
        self._connections.add(connection)
        writing = asyncio.create_task(self._write(connection), name="control-write")
        reading = asyncio.create_task(self._read(connection), name="control-read")
        try:
            done, _ = await asyncio.wait({writing, reading}, return_when=asyncio.FIRST_COMPLETED)
            if writing not in done:  # it shut its side down after its last command: answers still go out
                connection.closing = True
                connection.wake.set()
                await asyncio.wait({writing}, timeout=GOODBYE_S)
        finally:
            self._connections.discard(connection)
            self.last_left = time.monotonic()
            for task in (writing, reading):
                task.cancel()
            for result in await asyncio.gather(writing, reading, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, ConnectionError):
                    log.error("a client's connection failed", exc_info=result)

    async def _write(self, connection: _Connection) -> None:
        while True:
            await connection.wake.wait()
            connection.wake.clear()
            for message in connection.outbox.take(lambda: self._snapshot(self._seq)):
                connection.writer.write(encode_line(message))
                # A line at a time: of a large backlog only one message waits twice in memory.
                await connection.writer.drain()
                if isinstance(message, Reply):
                    connection.unanswered -= 1
                    connection.room.release()
                elif isinstance(message, Goodbye):
                    connection.closing = True
            if connection.closing and not connection.outbox and not connection.unanswered:
                connection.writer.transport.set_write_buffer_limits(high=0)
                await connection.writer.drain()
                return

    async def _read(self, connection: _Connection) -> None:
        while True:
            try:
                line = await connection.reader.readline()
            except ValueError:
                self._refuse(connection, f"a message is longer than {COMMAND_BYTES} bytes")
                return
            if not line:
                return
            try:
                message = decode_from_client(line)
            except (ValueError, RecursionError, msgspec.MsgspecError) as error:
                self._refuse(connection, f"a message can't be read: {error}")
                return
            if isinstance(message, Hello):
                continue
            await connection.room.acquire()
            connection.unanswered += 1
            task = asyncio.create_task(self._answer(connection, message), name="control-command")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _refuse(self, connection: _Connection, reason: str) -> None:
        """After a line that makes no sense nothing behind it can be trusted either."""
        log.warning("a client is let go: %s", reason)
        connection.reply(Goodbye(reason=reason))

    async def _answer(self, connection: _Connection, command: Command) -> None:
        try:
            if isinstance(command, WatchRequests):
                connection.watch(command)
            elif isinstance(command, GetSnapshot):
                connection.outbox.resync()
            reply = await self._handle(command)
        except GptossError as error:
            view = ErrorView(
                code=error.code, message=error.message, advice=error.advice, exit_code=int(error.exit_code)
            )
            reply = Reply(id=command.id, error=view)
        except Exception as error:  # one failing command ends neither the connection nor the runner
            log.exception("command %s failed", type(command).__name__)
            view = ErrorView(
                code="InternalError",
                message=f"a fault of this program stopped the command: {type(error).__name__}: {error}",
                advice="results/.runner/runner.log has the details.",
            )
            reply = Reply(id=command.id, error=view)
        connection.reply(reply)
