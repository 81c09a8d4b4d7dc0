"""What the journal's tests share: lines, and shims of the system calls that fail, tear or lose."""

from __future__ import annotations

import errno
import io
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from engine.disk import Io
from engine.output import Line, error_line, line_for, seal
from engine.protocol import Choice, Completion, Finish, RequestError, Usage

PAGE = 4096


class Asked(NamedTuple):
    """A request as far as a line needs it."""

    custom_id: str
    url: str = "/v1/chat/completions"
    request_id: str = "req_" + "0" * 32


def answer(n: int, *, text: str = "4.", custom_id: str | None = None, created: float | None = None) -> Line:
    """A success line; equal arguments give equal bytes."""
    completion = Completion(
        finish=Finish.STOP,
        choices=[Choice(index=0, finish=Finish.STOP, content=text, reasoning="2+2")],
        usage=Usage(prompt_tokens=20 + n, completion_tokens=7, reasoning_tokens=3, cached_tokens=1),
    )
    asked = Asked(custom_id or f"r-{n}", request_id=f"req_{n:032x}")
    return line_for(asked, completion, model="m", created=created if created is not None else 1000.0 + n)


def short(n: int, custom_id: str) -> Line:
    """The shortest line a journal can hold, for tests that try each of its bytes."""
    value = {"custom_id": custom_id, "response": None, "error": {"code": "e"}, "gptoss": {"request_id": f"req_{n}"}}
    return Line(custom_id, f"req_{n}", True, seal(value))


def failure(n: int, *, custom_id: str | None = None) -> Line:
    """An error line of the flat form."""
    error = RequestError(code="engine_died", message="the engine died three times on it — näh")
    return error_line(custom_id or f"r-{n}", f"req_{n:032x}", error, created=1000.0 + n)


class QuickIo(Io):
    """Does not wait for the disk: for tests in which nothing is lost and thousands of journals are opened."""

    def fsync(self, fd: int) -> None:
        os.fstat(fd)  # still an error on a closed descriptor

    def fdatasync(self, fd: int) -> None:
        os.fstat(fd)


class MemoryIo(Io):
    """A file that is only read, from memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def reader(self, path: Path) -> BinaryIO:
        assert path.name
        return io.BytesIO(self.content)


class FailingIo(QuickIo):
    """Fails call number `at`, or every call from it on. All kinds of calls count; for short writes only writes do."""

    def __init__(self, at: int, how: str, *, forever: bool) -> None:
        self.at = at
        self.how = how
        self.forever = forever
        self.calls = 0
        self.faults = 0

    def _trip(self, kind: str) -> bool:
        """Raise, or return True where the call should be cut short."""
        if self.how == "short" and kind != "write":
            return False
        self.calls += 1
        due = self.calls >= self.at if self.forever else self.calls == self.at
        if not due:
            return False
        if self.how == "short":
            self.faults += 1
            return True
        self.faults += 1
        code = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}[self.how]
        if kind == "open" and not self.forever:
            code = errno.EMFILE
        if kind == "rename" and not self.forever:
            code = errno.EXDEV
        raise OSError(code, os.strerror(code))

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        self._trip("open")
        return super().open(path, flags, mode)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self._trip("write"):
            return super().write(fd, data[: len(data) // 2]) if len(data) > 1 else super().write(fd, data)
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._trip("fsync")
        super().fsync(fd)

    def fdatasync(self, fd: int) -> None:
        self._trip("fdatasync")
        super().fdatasync(fd)

    def ftruncate(self, fd: int, length: int) -> None:
        self._trip("ftruncate")
        super().ftruncate(fd, length)

    def rename(self, source: Path, target: Path) -> None:
        self._trip("rename")
        super().rename(source, target)


class TearingIo(Io):
    """Every write takes at most `most` bytes, and after `limit` bytes in all the disk is full."""

    def __init__(self, limit: int, most: int = 1 << 30) -> None:
        self.left = limit
        self.most = most

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self.left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(fd, data[: min(self.left, self.most)])
        self.left -= written
        return written


class _Inode:
    def __init__(self) -> None:
        self.synced = b""


class LosingIo(Io):
    """Remembers what a power cut may not take: file content at its last sync, folder entries at the folder's last.

    `crash` then builds a folder as the cut may leave it: of everything later any subset of pages and entries.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inodes: dict[int, _Inode] = {}
        self.held: dict[int, bytes] = {}
        self.durable: dict[str, int] = {}
        self.changes: list[tuple[str, int | None]] = []  # entries set or removed since the folder's last sync
        self.open_folders: set[int] = set()
        self.keep: list[int] = []  # our own descriptors: an inode number must not be used again

    def adopt(self, name: str, fd: int, *, synced: bool) -> None:
        """A file that was there before; `fd` is ours from now on."""
        number = self._number(fd)
        self.keep.append(fd)
        self.inodes[number] = _Inode()
        self.inodes[number].synced = self._content(fd) if synced else b""
        self.durable[name] = number

    def _number(self, fd: int) -> int:
        return os.fstat(fd).st_ino

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        existed = path.exists()
        fd = super().open(path, flags, mode)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            self.open_folders.add(fd)
        elif not existed:
            number = self._number(fd)
            self.keep.append(os.dup(fd))
            self.inodes[number] = _Inode()
            self.changes.append((path.name, number))
        return fd

    def close(self, fd: int) -> None:
        self.open_folders.discard(fd)
        super().close(fd)

    def fsync(self, fd: int) -> None:
        if fd in self.open_folders:
            for name, number in self.changes:
                self._apply(self.durable, name, number)
            self.changes.clear()
        else:
            self.inodes[self._number(fd)].synced = self._content(fd)

    def fdatasync(self, fd: int) -> None:
        self.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        number = source.stat().st_ino
        super().rename(source, target)
        self.changes += [(target.name, number), (source.name, None)]

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.changes.append((path.name, None))

    @staticmethod
    def _apply(entries: dict[str, int], name: str, number: int | None) -> None:
        if number is None:
            entries.pop(name, None)
        else:
            entries[name] = number

    @staticmethod
    def _content(fd: int) -> bytes:
        return Path(f"/proc/self/fd/{fd}").read_bytes()

    def crash(self, target: Path, rng: random.Random) -> None:
        """Lay out `target` as after a power cut at this moment."""
        target.mkdir()
        entries = dict(self.durable)
        kept = rng.randint(0, len(self.changes))  # folder entries reach the disk in order, as a file system's log does
        for name, number in self.changes[:kept]:
            self._apply(entries, name, number)
        now = {os.fstat(fd).st_ino: self._content(fd) for fd in self.keep}
        for name, number in entries.items():
            (target / name).write_bytes(mixed(self.inodes[number].synced, now[number], rng))

    def finish(self) -> None:
        for fd in self.keep:
            os.close(fd)


def mixed(old: bytes, new: bytes, rng: random.Random) -> bytes:
    """What a cut may leave of a file synced as `old`, then changed to `new`: any size, any subset of pages, torn."""
    size = rng.choice([len(old), len(new), rng.randint(min(len(old), len(new)), max(len(old), len(new)))])
    pages = bytearray()
    for at in range(0, size, PAGE):
        before = old[at : at + PAGE].ljust(PAGE, b"\0")
        after = new[at : at + PAGE].ljust(PAGE, b"\0")
        pick = rng.random()
        if pick < 0.4:
            pages += before
        elif pick < 0.8:
            pages += after
        else:
            cut = rng.randrange(PAGE)
            pages += after[:cut] + before[cut:]
    return bytes(pages[:size])


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def every(pick: Callable[[Line], bool], lines: list[Line]) -> bytes:
    return b"".join(line.data for line in lines if pick(line))
