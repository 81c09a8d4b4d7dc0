"""From a batch file and a run's folder to requests that can run: read the one, match it with the lines in the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import BatchInvalid
from engine.folder import read_inflight
from engine.jobs import Job
from engine.office import Office
from engine.problems import ProblemFile, invalid_sentence, sentence_of
from engine.stock import Stock, take_stock
from engine.wish import Wishes

if TYPE_CHECKING:  # numpy comes with them: a runner that only answers `status` does not need it
    from engine.batch import Scan
    from engine.folder import Partial
    from engine.journal import Journal


class Matched(NamedTuple):
    """An open journal, and what it and its neighbours say of the batch."""

    journal: Journal
    stock: Stock
    partials: list[Partial]
    notes: list[str]  # what people should know of the match


class _StopReading(Exception):
    pass


async def read(
    job: Job, office: Office, wishes: Wishes, folder: Path, *, on_progress: Callable[[float | None], None]
) -> Scan:
    """Read the whole batch and list its problems in the folder. Raises BatchInvalid, or End as wished."""
    from engine import batch

    path = Path(job.record.input_path)
    problems = ProblemFile(folder / "problems.jsonl")

    def progress(fraction: float) -> None:
        on_progress(fraction)
        if wishes.now is not None:
            raise _StopReading

    try:
        scan = await asyncio.to_thread(
            batch.scan, path, limit=job.record.settings.limit, on_progress=progress, on_problem=problems.add
        )
    except _StopReading:
        wishes.check()
        raise
    finally:
        on_progress(None)
        await asyncio.to_thread(problems.close)
    record = job.record
    if record.input_sha256 and record.input_sha256 != scan.sha256:
        office.incident(
            job,
            "input_changed",
            f"{path} is not the file it was: requests are matched by custom_id and content",
            "edited lines run again, finished lines are kept",
        )
    job.update(input_sha256=scan.sha256, input_bytes=scan.size, endpoint=scan.endpoint)
    return scan


def check(scan: Scan, path: str, *, skip_invalid: bool) -> None:
    """Raises BatchInvalid where nothing of it may run."""
    if scan.errors and not skip_invalid:
        raise BatchInvalid(invalid_sentence(scan))
    if len(scan.index) == 0:
        raise BatchInvalid(f"{path} holds no request", advice="Add lines and run it again.")


async def match(job: Job, office: Office, folder: Path, scan: Scan) -> Matched:
    """Open the journal and count what is on disk. The caller closes the journal."""
    from engine.journal import Journal

    journal = await asyncio.to_thread(Journal.open, folder)
    try:
        for damage in journal.damage:
            text, then = sentence_of(damage), "the bytes are kept aside, their request runs again"
            office.incident(job, "damage", text, then)
        for torn in journal.torn:
            office.incident(job, "torn", sentence_of(torn), "it was moved to *.torn; its request runs again")
        record = job.record
        stock = await asyncio.to_thread(
            take_stock, scan.index, journal.done(), aborted=record.aborted, retry_failed=record.retry_failed
        )
        if stock.unknown_aborted:
            gone = set(stock.unknown_aborted)
            job.update(aborted=[name for name in record.aborted if name not in gone])
        partials = list(await asyncio.to_thread(read_inflight, folder))
    except BaseException:
        await journal.close()
        raise
    notes: list[str] = []
    if stock.foreign:
        notes.append(f"{stock.foreign} finished lines are not in the input any more; they are kept")
    if stock.edited:
        notes.append(f"{stock.edited} edited requests run again")
    if scan.notice:
        notes.append(scan.notice)
    return Matched(journal, stock, partials, notes)
