"""Replacing a whole file so that a reader, or a power cut, meets the old content or the new one and nothing between.

Order: temporary file in the same folder, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from engine.disk import IO, Io, crash_point, sync_folder, write_all

BUFFER_BYTES = 1 << 20


class Publication:
    """A file on its way: `write` to it; it appears under its name when `publication` ends without an exception."""

    def __init__(self, fd: int, io: Io) -> None:
        self._fd = fd
        self._io = io
        self._buffer = bytearray()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._buffer += data
        self.size += len(data)
        if len(self._buffer) >= BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        write_all(self._io, self._fd, bytes(self._buffer))
        self._buffer.clear()


@contextlib.contextmanager
def publication(path: Path, *, shared: bool = False, io: Io = IO) -> Iterator[Publication]:
    """Write `path` piece by piece and publish it at the end.

    `shared`: other processes may publish the same path at the same time, so the temporary name carries the pid. Where a
    lock guarantees one writer the name is fixed, and what a killed process left is overwritten by the next.
    """
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp" if shared else f".{path.name}.tmp")
    fd = io.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    renamed = False
    try:
        try:
            out = Publication(fd, io)
            yield out
            out.flush()
            io.fsync(fd)
        finally:
            io.close(fd)
        crash_point("tmp-synced")
        io.rename(tmp, path)
        renamed = True
        crash_point("renamed")
        sync_folder(io, path.parent)
    finally:
        if not renamed:
            # the failure itself is on its way up; a leftover temporary file costs nothing but its space
            with contextlib.suppress(OSError):
                io.unlink(tmp)


def publish(path: Path, data: bytes, *, io: Io = IO) -> None:
    """Replace the content of `path` atomically and durably. Raises OSError; the old content then still stands."""
    with publication(path, io=io) as out:
        out.write(data)


def withdraw(path: Path, *, io: Io = IO) -> None:
    """Remove a published file durably; fine if there is none."""
    try:
        io.unlink(path)
    except FileNotFoundError:
        return
    sync_folder(io, path.parent)
