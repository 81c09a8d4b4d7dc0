"""The journal of a run: output.jsonl and errors.jsonl, one writer, append-only, done means fsynced.

- `Journal.open` takes the lock, mends what a crash left (`engine.recover`) and syncs it before a line counts.
- `append` returns after the fsync of the line's group, never before. A line that finds the disk idle is written at
  once; lines that finish while a group is being synced form the next group. So a lone answer waits for one sync, a
  busy run makes no more syncs than the disk can do, and no timer is needed to keep the wait short.
- When the disk refuses, the group is cut off again and stays in memory with everything after it, in order; `on_halt`
  is called, `append` stays pending, `retry` writes the same group again. A group is never mixed with later lines, so
  what a half-done attempt left on disk can only be a part of the same bytes.

A power cut costs the requests in flight and the group being written. All calls happen on one event loop; the disk is
touched by one thread of the journal's own.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine.disk import IO, Io, crash_point, make_folder, sync_folder, write_all
from engine.errors import ResultsLocked, ResultsUnwritable
from engine.folder import (
    ERRORS,
    INCIDENTS,
    INFLIGHT,
    METRICS,
    OUTPUT,
    RECORD,
    Partial,
    append_jsonl,
    read_inflight,
    read_record,
    unwritable,
    write_batch_json,
    write_inflight,
    write_record,
)
from engine.output import Line
from engine.recover import Damage, Done, Torn, read_done, repair, scan

__all__ = [
    "ERRORS",
    "INCIDENTS",
    "INFLIGHT",
    "METRICS",
    "OUTPUT",
    "RECORD",
    "Damage",
    "Done",
    "Journal",
    "Partial",
    "Torn",
    "append_jsonl",
    "lock_owner",
    "read_inflight",
    "read_record",
    "write_batch_json",
    "write_inflight",
    "write_record",
]

LOCK = "journal.lock"

GROUP_LINES = 256
"""Most lines of one write and sync: what a power cut can cost beyond the requests in flight."""

LOCK_TRIES = 5
LOCK_WAIT_S = 0.02
"""`lock_owner` holds a lock shared for an instant to look whether it is free; an owner must not lose to that."""


class _File:
    """One of the two files. `durable` bytes are on disk; while `dirty` there may be more behind them, of no value."""

    def __init__(self, path: Path, fd: int, durable: int) -> None:
        self.path = path
        self.fd = fd
        self.durable = durable
        self.dirty = False


class _Waiting:
    """A line and who waits for it."""

    def __init__(self, line: Line, acknowledged: asyncio.Future[None]) -> None:
        self.line = line
        self.acknowledged = acknowledged


class _Group:
    """Lines that are written and synced together. `written` once that has happened, whoever was told of it."""

    def __init__(self, members: list[_Waiting]) -> None:
        self.members = members
        self.written = False

    def data(self, ok: bool) -> bytes:
        return b"".join(m.line.data for m in self.members if m.line.ok is ok)


class Journal:
    """The only writer of a run's results. Make one with `open`, end it with `close`."""

    def __init__(self, folder: Path, io: Io) -> None:
        self.folder = folder
        self.damage: list[Damage] = []
        self.torn: list[Torn] = []
        self.on_halt: Callable[[ResultsUnwritable], None] | None = None
        self.pending_bytes = 0
        self._io = io
        self._lock: int | None = None
        self._files: dict[bool, _File] = {}  # by Line.ok
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._group: _Group | None = None  # being written, or kept after a failure
        self._halted: ResultsUnwritable | None = None
        self._writer: asyncio.Task[None] | None = None
        self._attempt: asyncio.Future[bool] | None = None  # who waits for a retry's outcome
        self._closed = False
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="journal")
        # Guards fds, durable lengths and `written`: one commit at a time, and none while the files are closed.
        self._disk_turn = threading.Lock()

    # --- opening ------------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, folder: Path, *, io: Io = IO) -> Journal:
        """Lock, recover, sync. Blocks for as long as reading the journal takes.

        Raises ResultsLocked (naming the owner) or ResultsUnwritable. Damage is not an error: it is mended, listed in
        `damage` and `torn`, and the requests concerned are simply not done.
        """
        journal = cls(folder, io)
        try:
            make_folder(io, folder)
            journal._take_lock()
            crash_point("lock-taken")
            for ok, name in ((True, OUTPUT), (False, ERRORS)):
                journal._files[ok] = journal._recover(folder / name)
        except OSError as error:
            journal._release()
            raise unwritable(folder, error, "cannot open the results in") from error
        except BaseException:
            journal._release()
            raise
        return journal

    def _take_lock(self) -> None:
        path = self.folder / LOCK
        fd = self._io.open(path, os.O_RDWR | os.O_CREAT)
        for attempt in range(LOCK_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if attempt + 1 < LOCK_TRIES:
                    time.sleep(LOCK_WAIT_S)
                    continue
                owner = _owner_text(fd)
                self._io.close(fd)
                raise ResultsLocked(
                    f"the results in {self.folder} are being written by {owner}",
                    advice="Attach to that runner with `gptoss-tui attach`, or end it with `gptoss-tui stop`.",
                ) from error
            except OSError:
                self._io.close(fd)
                raise
        self._lock = fd
        # For messages only: that the lock is held is what counts, and the kernel frees it when its holder dies.
        with contextlib.suppress(OSError):  # a full disk must not keep finished answers from being read
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    def _recover(self, path: Path) -> _File:
        io = self._io
        if not path.exists():
            io.close(io.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
            crash_point("file-created")
        found = scan(path, io=io)
        durable = repair(path, found, io=io)
        # Always: a file that an earlier opener created may be missing from the folder's own record, if that opener died
        # before it got here.
        sync_folder(io, self.folder)
        self.damage += found.damage
        self.torn += [found.torn] if found.torn else []
        return _File(path, io.open(path, os.O_RDWR | os.O_APPEND), durable)

    def done(self) -> Iterator[list[Done]]:
        """Every line on disk, in chunks: successes first, since they outrank an error line of the same request."""
        for file in self._files.values():
            yield from read_done(file.path, upto=file.durable, io=self._io)

    # --- appending ----------------------------------------------------------------------------------------------------

    async def append(self, line: Line) -> None:
        """Return once the line is on disk. While the disk refuses, this waits for `retry` or `close`.

        Cancelling the wait does not take the line back: it is still written. Raises ResultsUnwritable from `close`.
        """
        if self._closed:
            raise ResultsUnwritable(f"the journal in {self.folder} is closed", advice="Resume the job to go on.")
        waiting = _Waiting(line, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self.pending_bytes += len(line.data)
        if self._halted is None:
            self._start_writer()
        await waiting.acknowledged

    @property
    def halted(self) -> ResultsUnwritable | None:
        """Why nothing is written at the moment, None while all is well."""
        return self._halted

    async def retry(self) -> bool:
        """After a halt: write the group that failed once more. True if the disk took it; the rest then follows."""
        if self._halted is not None:
            self._halted = None
            self._attempt = asyncio.get_running_loop().create_future()
            self._start_writer()
        if self._attempt is None:
            return True
        return await asyncio.shield(self._attempt)

    async def close(self) -> None:
        """Write what is pending (after a halt: try once more), then let go of the lock.

        Raises ResultsUnwritable if finished answers could not be written: they exist nowhere else and run again.
        """
        if self._closed:
            return
        self._closed = True
        if self._halted is not None:
            await self.retry()
        elif self._group is not None or self._queue:
            self._start_writer()  # it may have been cancelled with its loop's other tasks
        while self._writer is not None:
            await asyncio.wait({self._writer})
        await asyncio.get_running_loop().run_in_executor(self._disk, self._release)
        self._disk.shutdown(wait=False)
        lost = [*(self._group.members if self._group else []), *self._queue]
        if not lost:
            return
        reason = self._halted.message if self._halted else "the writing was cut off"
        message = f"{len(lost)} finished answers ({self.pending_bytes} bytes) could not be written: {reason}"
        advice = "They are lost with this process and will be run again on resume. Free some space, then resume."
        for waiting in lost:
            if not waiting.acknowledged.done():
                waiting.acknowledged.set_exception(ResultsUnwritable(message, advice=advice))
        raise ResultsUnwritable(message, advice=advice)

    # --- writing ------------------------------------------------------------------------------------------------------

    def _start_writer(self) -> None:
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_all_pending(), name="journal")

    async def _write_all_pending(self) -> None:
        """Lives while there is something to write. Between its last look at the queue and its end nothing can run."""
        try:
            await asyncio.sleep(0)  # whatever finished in the same turn of the loop shares one sync
            while self._next_group() is not None and await self._write_group():
                pass
        finally:
            self._writer = None
            self._answer_retry(self._halted is None)

    def _next_group(self) -> _Group | None:
        if self._group is None and self._queue:
            size = min(GROUP_LINES, len(self._queue))
            self._group = _Group([self._queue.popleft() for _ in range(size)])
        return self._group

    async def _write_group(self) -> bool:
        group = self._group
        if group is None:
            return True
        try:
            await asyncio.get_running_loop().run_in_executor(self._disk, self._commit, group)
        except (OSError, MemoryError) as error:
            again = self._attempt is not None
            self._halted = self._explain(error)
            if self.on_halt is not None and not again:
                self.on_halt(self._halted)
            return False
        self._group = None
        for member in group.members:
            self.pending_bytes -= len(member.line.data)
            if not member.acknowledged.done():
                member.acknowledged.set_result(None)
        self._answer_retry(True)
        return True

    def _answer_retry(self, written: bool) -> None:
        if self._attempt is not None:
            if not self._attempt.done():
                self._attempt.set_result(written)
            self._attempt = None

    def _explain(self, error: OSError | MemoryError) -> ResultsUnwritable:
        pending = len(self._queue) + (len(self._group.members) if self._group else 0)
        reason = (error.strerror if isinstance(error, OSError) else "out of memory") or str(error)
        return ResultsUnwritable(
            f"cannot write results in {self.folder}: {reason}; {pending} finished answers "
            f"({self.pending_bytes} bytes) wait in memory",
            advice="Free some space or mend the disk: they are written as soon as it takes them.",
        )

    def _commit(self, group: _Group) -> None:
        """Write and sync one group, all or nothing. Runs in the journal's thread; raises OSError with the files cut."""
        with self._disk_turn:
            if group.written:  # its writer task was cancelled while this thread went on
                return
            self._cut()
            try:
                self._write(group)
            except OSError:
                self._cut_if_possible()
                raise
            try:
                self._sync()
            except OSError:
                # A second fsync of the same pages may claim success although they never reached the disk: Linux marks
                # them clean once it has told the error. So cut them off and write them anew, once; then it is a halt.
                self._cut()
                self._write_or_cut(group)
            for file in self._files.values():
                if file.dirty:
                    file.durable = os.fstat(file.fd).st_size
                    file.dirty = False
            group.written = True
            crash_point("after-sync")

    def _write_or_cut(self, group: _Group) -> None:
        try:
            self._write(group)
            self._sync()
        except OSError:
            self._cut_if_possible()
            raise

    def _write(self, group: _Group) -> None:
        crash_point("before-write")
        for ok, file in self._files.items():
            data = group.data(ok)
            if data:
                file.dirty = True
                write_all(self._io, file.fd, data, crash="mid-write")
        crash_point("after-write")

    def _sync(self) -> None:
        """Both files of a group before anybody is told."""
        for file in self._files.values():
            if file.dirty:
                self._io.fdatasync(file.fd)

    def _cut(self) -> None:
        """Take off what lies behind the last synced byte: appending after half a line would destroy the next one."""
        for file in self._files.values():
            if file.dirty:
                self._io.ftruncate(file.fd, file.durable)
                file.dirty = False

    def _cut_if_possible(self) -> None:
        try:
            self._cut()
        except OSError:
            # `dirty` stays set: the next attempt begins with the cut, and if there is none, the next open repairs
            return

    def _release(self) -> None:
        with self._disk_turn:
            for file in self._files.values():
                self._io.close(file.fd)
            self._files = {}
            if self._lock is not None:
                self._io.close(self._lock)
                self._lock = None


def lock_owner(folder: Path) -> str | None:
    """Who writes this run now ("process 1234"), None if nobody does. Takes nothing and changes nothing."""
    try:
        fd = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner_text(fd)
    finally:
        os.close(fd)
    return None


def _owner_text(fd: int) -> str:
    pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
    return f"process {pid}" if pid else "another process"
