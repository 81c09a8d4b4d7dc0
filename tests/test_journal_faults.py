"""The Nth system call failing, the power failing at any of them, and the process dying between two of them."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from engine.disk import CRASH_EXIT, CRASH_POINTS, Io
from engine.errors import ResultsUnwritable
from engine.job import JobState
from engine.journal import Journal, read_record, write_record
from engine.output import Line, is_sealed
from engine.record import RunRecord
from tests.journal_kit import FailingIo, LosingIo, QuickIo, answer, failure

OLD = [answer(100), failure(101), answer(102)]
STARTS = {
    "fresh": {},
    "torn": {
        "output.jsonl": OLD[0].data + OLD[2].data + answer(103).data[:90],
        "errors.jsonl": OLD[1].data[:-1],
    },
    "damaged": {
        "output.jsonl": OLD[0].data + b"\0" * 80 + b"\n" + OLD[2].data + b"half",
        "errors.jsonl": OLD[1].data * 2,
    },
}
ROUNDS = [[answer(1), failure(2)], [answer(3)], [answer(4), answer(5), failure(6)]]
SENT = [line for group in ROUNDS for line in group]


def _lay_out(folder: Path, start: str) -> list[Line]:
    """The starting state; returns the lines that must survive it."""
    folder.mkdir()
    for name, content in STARTS[start].items():
        (folder / name).write_bytes(content)
    return OLD if STARTS[start] else []


async def _work(folder: Path, io: Io, acknowledged: list[Line]) -> bool:
    """Open, append in three groups, retry a few times on a halt, close. False if it ended early."""
    try:
        journal = Journal.open(folder, io=io)
    except ResultsUnwritable:
        return False
    halted = asyncio.Event()
    journal.on_halt = lambda _: halted.set()

    async def one(line: Line) -> None:
        await journal.append(line)
        acknowledged.append(line)

    tasks: list[asyncio.Task[None]] = []
    for group in ROUNDS:
        mine = [asyncio.create_task(one(line)) for line in group]
        tasks += mine
        alarm = asyncio.create_task(halted.wait())
        everything = asyncio.gather(*mine)
        await asyncio.wait({alarm, everything}, return_when=asyncio.FIRST_COMPLETED)
        alarm.cancel()
        if halted.is_set():
            halted.clear()
            if not any([await journal.retry() for _ in range(3)]):
                break
            await everything
    lost = 0
    try:
        await journal.close()
    except ResultsUnwritable as error:
        lost = int(error.message.split()[0])
    await asyncio.gather(*tasks, return_exceptions=True)
    assert lost == len(tasks) - len(acknowledged)  # every answer is either on disk or named as lost
    return lost == 0


async def _check(folder: Path, must: list[Line], may: list[Line], what: object) -> None:
    """Acknowledged lines are there byte for byte, none twice, none foreign, and the journal can go on."""
    journal = Journal.open(folder, io=QuickIo())
    done = Counter((d.custom_id, d.ok) for chunk in journal.done() for d in chunk)
    await journal.append(answer(900))
    await journal.close()
    on_disk = b"".join((folder / name).read_bytes() for name in ("output.jsonl", "errors.jsonl"))
    lines = Counter(on_disk.splitlines(keepends=True))
    assert all(line.endswith(b"\n") and is_sealed(line[:-1]) for line in lines), what
    assert set(lines.values()) == {1}, what
    assert {line.data for line in must} <= set(lines), what
    assert set(lines) <= {line.data for line in [*may, answer(900)]}, what
    assert sum(done.values()) == len(lines) - 1, what


@pytest.mark.parametrize("forever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("how", ["ENOSPC", "EIO", "short"])
@pytest.mark.parametrize("start", list(STARTS))
async def test_the_nth_call_fails(tmp_path: Path, start: str, how: str, forever: bool) -> None:
    at = 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        old = _lay_out(folder, start)
        io = FailingIo(at, how, forever=forever)
        acknowledged: list[Line] = []
        complete = await _work(folder, io, acknowledged)
        await _check(folder, [*old, *acknowledged], [*old, *SENT], at)
        if not io.faults:
            assert complete
            assert Counter(acknowledged) == Counter(SENT)
            break
        if how == "short":
            assert complete, at  # a short write is no failure, only a longer way
    # no write of the three groups may escape the faults
    assert at > (5 if how == "short" else 12)


async def test_a_fault_that_passes_costs_nothing_once_the_journal_is_open(tmp_path: Path) -> None:
    opened = FailingIo(1 << 30, "EIO", forever=False)
    journal = Journal.open(tmp_path / "probe", io=opened)
    await journal.close()
    at = opened.calls
    while True:
        at += 1
        io = FailingIo(at, "EIO", forever=False)
        acknowledged: list[Line] = []
        assert await _work(tmp_path / str(at), io, acknowledged), at
        assert Counter(acknowledged) == Counter(SENT), at
        if not io.faults:
            break


class PowerCutIo(LosingIo):
    """Before every call, lays out what a power cut at that moment would leave, with what was acknowledged by then."""

    def __init__(self, folder: Path, target: Path, rng: random.Random, acknowledged: list[Line]) -> None:
        super().__init__(folder)
        self.target = target
        self.rng = rng
        self.acknowledged = acknowledged
        self.cuts: list[tuple[Path, list[Line]]] = []
        self.inside = False

    def cut(self) -> None:
        if not self.inside:
            path = self.target / f"cut-{len(self.cuts)}"
            self.crash(path, self.rng)
            self.cuts.append((path, list(self.acknowledged)))

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        self.cut()
        return super().open(path, flags, mode)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self.cut()
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self.cut()
        super().fsync(fd)

    def ftruncate(self, fd: int, length: int) -> None:
        self.cut()
        super().ftruncate(fd, length)

    def rename(self, source: Path, target: Path) -> None:
        self.cut()
        super().rename(source, target)


def _adopt(io: LosingIo, folder: Path, *, synced: bool) -> None:
    """Files that are there already: known to the folder, their content on disk or only in the page cache."""
    for path in folder.iterdir():
        fd = os.open(path, os.O_RDONLY)
        io.adopt(path.name, fd, synced=synced)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("start", list(STARTS))
async def test_the_power_fails_before_any_call(tmp_path: Path, start: str, seed: int) -> None:
    folder = tmp_path / "run"
    old = _lay_out(folder, start)
    acknowledged: list[Line] = []
    io = PowerCutIo(folder, tmp_path, random.Random(seed), acknowledged)
    _adopt(io, folder, synced=True)
    assert await _work(folder, io, acknowledged)
    io.cut()
    io.finish()
    assert len(io.cuts) > 15
    for path, by_then in io.cuts:
        await _check(path, [*old, *by_then], [*old, *SENT], path.name)


@pytest.mark.parametrize("seed", range(12))
async def test_what_a_killed_process_left_in_the_page_cache_counts_only_once_it_is_synced(
    tmp_path: Path, seed: int
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [answer(n, text="x" * 3000) for n in range(5)]
    (folder / "output.jsonl").write_bytes(b"".join(line.data for line in lines))  # by a process killed before its fsync
    io = LosingIo(folder)
    _adopt(io, folder, synced=False)
    journal = Journal.open(folder, io=io)
    told = [d.custom_id for chunk in journal.done() for d in chunk]
    io.crash(tmp_path / "after", random.Random(seed))
    await journal.close()
    io.finish()
    assert told == [line.custom_id for line in lines]
    await _check(tmp_path / "after", lines, lines, seed)


@pytest.mark.parametrize("seed", range(20))
def test_a_published_file_is_the_old_or_the_new_one_and_the_new_one_once_told(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    io = PowerCutIo(folder, tmp_path, random.Random(seed), [])
    from_state, to_state = _record(1), _record(2)
    write_record(folder, from_state, io=io)
    first = len(io.cuts)
    write_record(folder, to_state, io=io)
    assert len(io.cuts) > first + 3
    for path, _ in io.cuts[first:]:
        assert read_record(path) in (from_state, to_state)
    io.crash(tmp_path / "after", random.Random(seed))
    io.finish()
    assert read_record(tmp_path / "after") == to_state


def _record(n: int) -> RunRecord:
    return RunRecord(job="b-1", state=JobState.RUNNING, input_path="/x", created=float(n), sentence="s" * 5000 * n)


CHILD = """
import asyncio, os, sys
from pathlib import Path
from engine.journal import Journal, write_record
from tests.journal_kit import answer, failure
from tests.test_journal_faults import ROUNDS, _record

async def main(folder):
    write_record(folder, _record(1))
    journal = Journal.open(folder)
    async def one(line):
        await journal.append(line)
        os.write(1, line.data)
    for group in ROUNDS:
        await asyncio.gather(*(one(line) for line in group))
    await journal.close()
asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("point", [p for p in CRASH_POINTS if p != "mid-export"])
async def test_the_process_dies_at_a_named_point(tmp_path: Path, point: str, n: int) -> None:
    folder = tmp_path / "run"
    start = {"file-created": "fresh", "torn-saved": "torn", "tail-cut": "torn"}.get(point, "damaged")
    old = _lay_out(folder, start)
    if point == "tail-cut":
        (folder / "errors.jsonl").write_bytes(OLD[1].data + b"half")
    if point in ("torn-saved", "corrupt-saved") and n == 2:
        (folder / "errors.jsonl").write_bytes(b"junk\n" + OLD[1].data + b"half")
    child = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", CHILD, str(folder)],
        env={**os.environ, "GPTOSS_CRASH_AT": f"{point}:{n}"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        timeout=60,
        check=False,
    )
    if point == "lock-taken" and n == 2:  # there is one lock in a life
        assert child.returncode == 0
    else:
        assert child.returncode == CRASH_EXIT, child.stderr.decode()
    told = [line for line in SENT if line.data in child.stdout]
    await _check(folder, [*old, *told], [*old, *SENT], point)
