"""Files that other processes write while they are read here: whole lines in blocks, one line at its place, changes.

Nothing is kept but a descriptor; a file that is replaced or cut is noticed by `Followed.changed`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from engine.lines import MAX_LINE_BYTES

BLOCK_BYTES = 512 * 1024
"""Read and worked on at once: some 10 ms, so that questions never wait for long."""

MARK_BYTES = 128
GLANCE_BYTES = 16 * 1024


def stat_of(path: Path | None) -> os.stat_result | None:
    """None where nothing can be said of it."""
    try:
        return path.stat() if path is not None else None
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None


class Block(NamedTuple):
    """Whole lines of a file. `data` ends with a newline, but for the last line of a batch file and cut lines."""

    offset: int
    data: bytes
    length: int  # of the file, `data` and what was cut off a line that is longer than any line may be


class Followed:
    """One file, read from its beginning to its growing end."""

    def __init__(self, path: Path | None, *, whole: bool) -> None:
        """`whole`: the last line counts without a newline as well; else it is waited for. None: never there."""
        self.path = path
        self.position = 0  # everything before it was handed out
        self.size = 0
        self.stuck = -1  # the size at which a torn last line was met: until it grows there is nothing to read
        self._whole = whole
        self._fd = -1
        self._identity: tuple[int, int] | None = None
        self._stamp = 0
        # the beginning of the last line handed out, where its seal is: a file that was cut and grew again has another
        self._mark, self._mark_at = b"", 0
        self.look()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()

    @property
    def there(self) -> bool:
        return self._fd >= 0

    @property
    def left(self) -> int:
        return max(0, self.size - self.position)

    def look(self) -> bool:
        """Notice growth. False: the file is another one than it was, what was read of it is void."""
        found = stat_of(self.path)
        if found is not None and not stat.S_ISREG(found.st_mode):
            found = None
        identity = (found.st_dev, found.st_ino) if found else None
        if self._fd < 0:
            if found is None or self.path is None:
                return True
            try:
                # what was a file a moment ago may be a pipe now, which would never open
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                return True
            found = os.fstat(self._fd)
            self._identity = (found.st_dev, found.st_ino)
            self.size, self._stamp = found.st_size, found.st_mtime_ns
            return True
        if found is None or identity != self._identity:
            return False
        size, stamp, before = found.st_size, found.st_mtime_ns, self.size
        if size == before and stamp == self._stamp:
            return True
        self.size, self._stamp = size, stamp
        if self._whole:
            return False
        return size >= self.position and self.read(self._mark_at, len(self._mark)) == self._mark

    def next_block(self, limit: int, count: int = BLOCK_BYTES) -> Block | None:
        """The next whole lines before byte `limit`, None where there are none yet."""
        block = self.block(self.position, limit, count)
        if block is not None:
            self.position += block.length
            start = block.data.rfind(b"\n", 0, len(block.data) - 1) + 1
            self._mark, self._mark_at = block.data[start : start + MARK_BYTES], block.offset + start
        return block

    def block(self, offset: int, limit: int, count: int = BLOCK_BYTES) -> Block | None:
        """Whole lines from `offset` on."""
        while offset < limit:
            data = self.read(offset, min(count, limit - offset))
            if not data:
                return None
            end = data.rfind(b"\n") + 1
            if end:
                return Block(offset, data[:end], end)
            if offset + len(data) >= limit or len(data) < min(count, limit - offset):
                return Block(offset, data, len(data)) if self._whole else None
            if count > MAX_LINE_BYTES:
                return self._endless(offset, data, limit)
            count *= 4
        return None

    def _endless(self, offset: int, data: bytes, limit: int) -> Block | None:
        """A line longer than a line may be: its beginning, and where it ends."""
        at = offset + len(data)
        while at < limit:
            more = self.read(at, min(4 * 1024 * 1024, limit - at))
            if not more:
                return None
            end = more.find(b"\n")
            if end >= 0:
                return Block(offset, data[: MAX_LINE_BYTES + 1], at + end + 1 - offset)
            at += len(more)
        return Block(offset, data[: MAX_LINE_BYTES + 1], at - offset) if self._whole else None

    def line_at(self, offset: int) -> bytes:
        """The line that begins there, without its newline, cut at MAX_LINE_BYTES + 1; empty where it is gone."""
        count = GLANCE_BYTES
        while True:
            data = self.read(offset, count)
            end = data.find(b"\n")
            if end >= 0:
                return data[:end]
            if len(data) < count or count > MAX_LINE_BYTES:
                return data[: MAX_LINE_BYTES + 1]
            count *= 8

    def head(self, count: int) -> bytes:
        """The first bytes of the file."""
        return self.read(0, count)

    def read(self, offset: int, count: int) -> bytes:
        """So many bytes, fewer at the end of the file."""
        if self._fd < 0 or count <= 0:
            return b""
        try:
            data = os.pread(self._fd, count, offset)
            while len(data) < count and (more := os.pread(self._fd, count - len(data), offset + len(data))):
                data += more
        except OSError:  # a folder, a disk that fails: what can't be read is not there
            return b""
        return data
