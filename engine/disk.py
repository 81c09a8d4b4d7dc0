"""The system calls that durability rests on, in one object, so that tests can fail, tear or lose any single one.

Also the named crash points: with `GPTOSS_CRASH_AT=<point>:<n>` in its environment a process ends without any cleaning
up when it comes to that point for the n-th time, which is how tests get an honest kill between two system calls.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

CRASH_POINTS = (
    "lock-taken",  # the lock is ours, nothing read yet
    "file-created",  # a journal file exists, its folder is not synced
    "torn-saved",  # the torn tail is kept aside, not cut yet
    "tail-cut",  # cut, not synced
    "corrupt-saved",  # damaged bytes are kept aside, the journal not rewritten yet
    "before-write",
    "mid-write",  # half of a group's bytes are in the file
    "after-write",  # a group is written, not synced
    "after-sync",  # a group is synced, nobody was told
    "tmp-synced",  # a file to publish is on disk under its temporary name
    "renamed",  # published, its folder is not synced
    "mid-export",
)
CRASH_EXIT = 86
"""Exit status of a process that ended at a crash point, so that a test can tell it from other deaths."""


class _CrashPlan:
    def __init__(self, text: str) -> None:
        point, _, count = text.partition(":")
        self.point = point
        self.left = int(count) if count.isdigit() else 1

    def due(self, point: str) -> bool:
        if point != self.point:
            return False
        self.left -= 1
        return self.left == 0


_plan = _CrashPlan(os.environ["GPTOSS_CRASH_AT"]) if os.environ.get("GPTOSS_CRASH_AT") else None


def crash_point(point: str) -> None:
    """End the process here if the environment asks for it."""
    if _plan is not None and _plan.due(point):
        os._exit(CRASH_EXIT)


class Io:
    """Thin names for the calls; every file that must survive is written through one of these objects."""

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        return os.open(path, flags, mode)  # not inheritable: a child must never hold a lock of ours

    def write(self, fd: int, data: bytes | memoryview) -> int:
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        # macOS has no fdatasync
        (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(fd)

    def ftruncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)  # noqa: PTH105 - the call itself is what this object stands for

    def unlink(self, path: Path) -> None:
        os.unlink(path)  # noqa: PTH108 - as above

    def close(self, fd: int) -> None:
        os.close(fd)

    def reader(self, path: Path) -> BinaryIO:
        return path.open("rb", buffering=1 << 20)


IO = Io()


def write_all(io: Io, fd: int, data: bytes, *, crash: str = "") -> None:
    """Write every byte; a short write is continued, and the call after it names the reason if there is one.

    `crash`: the crash point at which only half of the bytes get written.
    """
    rest = memoryview(data)
    if _plan is not None and crash and _plan.due(crash):
        io.write(fd, rest[: len(rest) // 2])
        os._exit(CRASH_EXIT)
    while rest:
        written = io.write(fd, rest)
        if written <= 0:
            raise OSError(5, "the system wrote nothing and gave no reason")
        rest = rest[written:]


def sync_folder(io: Io, folder: Path) -> None:
    """Make the folder's entries durable: without it a created or renamed file may be gone after a power cut."""
    fd = io.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        io.fsync(fd)
    finally:
        io.close(fd)


def make_folder(io: Io, folder: Path) -> None:
    """Create a folder, and its parents, durably."""
    if folder.is_dir():
        return
    make_folder(io, folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(io, folder.parent)
