"""Appending: what an acknowledgement means, groups, halts, retry and close."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from engine.disk import Io
from engine.errors import ResultsUnwritable
from engine.journal import GROUP_LINES, Journal
from engine.output import Line
from tests.journal_kit import QuickIo, TearingIo, answer, every, failure, files


class GatedIo(QuickIo):
    """Syncs only when the test says so."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.syncing = threading.Event()
        self.gated = False
        self.groups: list[int] = []

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self.gated:
            self.groups.append(bytes(data).count(b"\n"))
        return super().write(fd, data)

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        if self.gated:
            self.syncing.set()
            assert self.gate.acquire(timeout=20)


class BrokenSyncIo(QuickIo):
    """The next `times` fdatasyncs fail."""

    def __init__(self, times: int = 0) -> None:
        self.times = times

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        if self.times > 0:
            self.times -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def _tasks(journal: Journal, lines: list[Line]) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(journal.append(line)) for line in lines]


async def test_lines_land_in_their_file_in_order_of_completion(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "run")
    lines = [answer(1), failure(2), answer(3), failure(4)]
    await asyncio.gather(*_tasks(journal, lines))
    found = [(d.custom_id, d.ok) for chunk in journal.done() for d in chunk]
    await journal.close()
    assert (tmp_path / "run/output.jsonl").read_bytes() == every(lambda line: line.ok, lines)
    assert (tmp_path / "run/errors.jsonl").read_bytes() == every(lambda line: not line.ok, lines)
    assert found == [("r-1", True), ("r-3", True), ("r-2", False), ("r-4", False)]


async def test_done_tells_request_tokens_and_finish(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    await asyncio.gather(*_tasks(journal, [answer(5), failure(6)]))
    good, bad = [d for chunk in journal.done() for d in chunk]
    await journal.close()
    assert good._asdict() == {
        "custom_id": "r-5",
        "request_id": f"req_{5:032x}",
        "ok": True,
        "prompt_tokens": 25,
        "completion_tokens": 7,
        "finish": "stop",
        "reasoning_tokens": 3,
        "cached_tokens": 1,
    }
    assert (bad.request_id, bad.ok, bad.finish) == (f"req_{6:032x}", False, "")


async def test_append_returns_only_after_the_sync(tmp_path: Path) -> None:
    io = GatedIo()
    journal = Journal.open(tmp_path, io=io)
    io.gated = True
    task = asyncio.create_task(journal.append(answer(1)))
    await asyncio.to_thread(io.syncing.wait, 20)
    assert (tmp_path / "output.jsonl").read_bytes() == answer(1).data  # written
    await asyncio.sleep(0)
    assert not task.done()  # and not acknowledged
    assert journal.pending_bytes == len(answer(1).data)
    io.gate.release()
    await task
    assert journal.pending_bytes == 0
    await journal.close()


async def test_both_files_are_synced_before_either_is_acknowledged(tmp_path: Path) -> None:
    io = GatedIo()
    journal = Journal.open(tmp_path, io=io)
    io.gated = True
    tasks = _tasks(journal, [answer(1), failure(2)])
    await asyncio.to_thread(io.syncing.wait, 20)
    io.syncing.clear()
    io.gate.release()  # the first file
    await asyncio.to_thread(io.syncing.wait, 20)
    await asyncio.sleep(0)
    assert [t.done() for t in tasks] == [False, False]
    io.gate.release()
    await asyncio.gather(*tasks)
    await journal.close()


async def test_what_finishes_during_a_sync_forms_the_next_group_and_no_group_is_too_large(tmp_path: Path) -> None:
    io = GatedIo()
    journal = Journal.open(tmp_path, io=io)
    io.gated = True
    first = asyncio.create_task(journal.append(answer(0)))
    await asyncio.to_thread(io.syncing.wait, 20)
    rest = _tasks(journal, [answer(n) for n in range(1, GROUP_LINES + 11)])
    await asyncio.sleep(0)
    for _ in range(3):
        io.gate.release()
    await asyncio.gather(first, *rest)
    await journal.close()
    assert io.groups == [1, GROUP_LINES, 10]


async def test_a_cancelled_wait_still_writes_the_line(tmp_path: Path) -> None:
    io = GatedIo()
    journal = Journal.open(tmp_path, io=io)
    io.gated = True
    task = asyncio.create_task(journal.append(answer(1)))
    await asyncio.to_thread(io.syncing.wait, 20)
    task.cancel()
    io.gate.release()
    await asyncio.wait({task})
    await journal.close()
    assert (tmp_path / "output.jsonl").read_bytes() == answer(1).data


async def test_a_writer_cancelled_in_mid_sync_writes_nothing_twice(tmp_path: Path) -> None:
    io = GatedIo()
    journal = Journal.open(tmp_path, io=io)
    io.gated = True
    task = asyncio.create_task(journal.append(answer(1)))
    await asyncio.to_thread(io.syncing.wait, 20)
    (writer,) = [t for t in asyncio.all_tasks() if t.get_name() == "journal"]
    writer.cancel()  # as asyncio.run does with all tasks when it ends
    await asyncio.wait({writer})
    io.gate.release()
    await journal.close()
    await task
    assert (tmp_path / "output.jsonl").read_bytes() == answer(1).data


async def test_the_loop_runs_on_while_the_disk_is_slow(tmp_path: Path) -> None:
    io = GatedIo()
    journal = Journal.open(tmp_path, io=io)
    io.gated = True
    task = asyncio.create_task(journal.append(answer(1)))
    turns = 0
    while not io.syncing.is_set():
        await asyncio.sleep(0)
        turns += 1
    for _ in range(100):
        await asyncio.sleep(0)
    assert turns > 0
    assert not task.done()
    io.gate.release()
    await task
    await journal.close()


async def test_a_full_disk_halts_keeps_the_lines_and_goes_on_when_space_returns(tmp_path: Path) -> None:
    io = TearingIo(limit=1 << 30)
    journal = Journal.open(tmp_path, io=io)
    await journal.append(answer(1))
    io.left = len(answer(2).data) + 10  # the second line of the group will be torn
    halts: list[ResultsUnwritable] = []
    halted = asyncio.Event()
    journal.on_halt = lambda error: (halts.append(error), halted.set())[1]
    tasks = _tasks(journal, [answer(2), answer(3)])
    await halted.wait()
    late = asyncio.create_task(journal.append(answer(4)))
    await asyncio.sleep(0)
    waiting = sum(len(answer(n).data) for n in (2, 3, 4))
    assert (tmp_path / "output.jsonl").read_bytes() == answer(1).data  # cut back, no half line
    assert journal.pending_bytes == waiting
    assert "No space left" in halts[0].message
    assert "2 finished answers" in halts[0].message
    assert await journal.retry() is False
    assert not any(t.done() for t in [*tasks, late])
    io.left = 1 << 30
    assert await journal.retry() is True
    await asyncio.gather(*tasks, late)
    assert len(halts) == 1  # a retry answers for itself
    await journal.close()
    assert (tmp_path / "output.jsonl").read_bytes() == b"".join(answer(n).data for n in (1, 2, 3, 4))


async def test_one_failed_sync_is_answered_with_new_pages_not_with_a_second_sync(tmp_path: Path) -> None:
    writes: list[bytes] = []
    cuts: list[int] = []

    class Watched(BrokenSyncIo):
        def write(self, fd: int, data: bytes | memoryview) -> int:
            writes.append(bytes(data))
            return super().write(fd, data)

        def ftruncate(self, fd: int, length: int) -> None:
            cuts.append(length)
            super().ftruncate(fd, length)

    io = Watched()
    journal = Journal.open(tmp_path, io=io)
    await journal.append(answer(1))
    io.times = 1
    await journal.append(answer(2))
    await journal.close()
    assert cuts == [len(answer(1).data)]
    assert writes == [answer(1).data, answer(2).data, answer(2).data]
    assert (tmp_path / "output.jsonl").read_bytes() == answer(1).data + answer(2).data


async def test_a_second_failed_sync_halts_with_the_file_cut_back(tmp_path: Path) -> None:
    io = BrokenSyncIo()
    journal = Journal.open(tmp_path, io=io)
    await asyncio.gather(*_tasks(journal, [answer(1), failure(1)]))
    before = files(tmp_path)
    halted = asyncio.Event()
    journal.on_halt = lambda _: halted.set()
    io.times = 2
    tasks = _tasks(journal, [answer(2), failure(3)])
    await halted.wait()
    assert files(tmp_path) == before
    assert not any(t.done() for t in tasks)
    assert await journal.retry()
    await asyncio.gather(*tasks)
    await journal.close()


async def test_when_even_cutting_fails_nothing_is_appended_behind_the_half_line(tmp_path: Path) -> None:
    class Stuck(TearingIo):
        stuck = True

        def ftruncate(self, fd: int, length: int) -> None:
            if self.stuck:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().ftruncate(fd, length)

    io = Stuck(limit=100)
    journal = Journal.open(tmp_path, io=io)
    halted = asyncio.Event()
    journal.on_halt = lambda _: halted.set()
    task = asyncio.create_task(journal.append(answer(1)))
    await halted.wait()
    assert len((tmp_path / "output.jsonl").read_bytes()) == 100
    io.left = 1 << 30
    assert await journal.retry() is False
    assert len((tmp_path / "output.jsonl").read_bytes()) == 100
    io.stuck = False
    assert await journal.retry()
    await task
    await journal.close()
    assert (tmp_path / "output.jsonl").read_bytes() == answer(1).data


async def test_close_with_unwritable_lines_says_how_many_answers_are_lost(tmp_path: Path) -> None:
    io = TearingIo(limit=0)
    journal = Journal.open(tmp_path, io=io)
    halted = asyncio.Event()
    journal.on_halt = lambda _: halted.set()
    tasks = _tasks(journal, [answer(1), answer(2), failure(3)])
    await halted.wait()
    with pytest.raises(ResultsUnwritable, match="3 finished answers") as caught:
        await journal.close()
    assert "run again" in caught.value.advice
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(o, ResultsUnwritable) for o in outcomes)
    again = Journal.open(tmp_path)  # the lock is free, nothing half-written is left
    assert [list(chunk) for chunk in again.done()] == []
    assert not again.torn
    await again.close()


async def test_close_tries_once_more_and_may_succeed(tmp_path: Path) -> None:
    io = TearingIo(limit=0)
    journal = Journal.open(tmp_path, io=io)
    halted = asyncio.Event()
    journal.on_halt = lambda _: halted.set()
    task = asyncio.create_task(journal.append(answer(1)))
    await halted.wait()
    io.left = 1 << 30
    await journal.close()
    await task
    assert (tmp_path / "output.jsonl").read_bytes() == answer(1).data


async def test_appending_after_close_is_refused_and_close_is_safe_twice(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    await journal.close()
    await journal.close()
    with pytest.raises(ResultsUnwritable, match="closed"):
        await journal.append(answer(1))


async def test_short_writes_are_continued(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, io=TearingIo(limit=1 << 30, most=7))
    await asyncio.gather(*_tasks(journal, [answer(1), answer(2)]))
    await journal.close()
    assert (tmp_path / "output.jsonl").read_bytes() == answer(1).data + answer(2).data


def test_a_folder_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    class ReadOnly(Io):
        def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
            if flags & os.O_CREAT:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return super().open(path, flags, mode)

    with pytest.raises(ResultsUnwritable, match="Read-only file system"):
        Journal.open(tmp_path, io=ReadOnly())
