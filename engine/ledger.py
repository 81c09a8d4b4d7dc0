"""The books of a run: `verify` adds them up, `export` writes them out in input order. The run stays as it is.

At every moment: requests of the input = completed + failed + aborted + remaining, disjoint, each once. A request that
failed and later succeeded counts as completed; of several error lines the last one stands; a line whose request was
edited since, or is no longer in the input, counts for nothing and is listed.

Both read a run while its runner appends to it: a line without its newline at the very end is then simply not there yet.
"""

from __future__ import annotations

import enum
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.batch import BatchIndex
from engine.batch import scan as scan_input
from engine.disk import crash_point
from engine.errors import JobNotFound, ResultsDamaged, ResultsUnwritable, UsageError
from engine.folder import ERRORS, INFLIGHT, OUTPUT, RECORD, read_record, unwritable
from engine.job import ACTIVE, JobState
from engine.journal import LOCK, lock_owner
from engine.output import error_line
from engine.protocol import RequestError
from engine.publish import publication, withdraw
from engine.record import RunRecord
from engine.recover import read_line, scan

LISTED = 1000
"""Ids a verdict names of each kind; the counts are always whole."""

MATCH_LINES = 4096
"""Lines looked up in the input at a time."""

NOT_IN_INPUT, EDITED = -1, -2  # of BatchIndex.match


class VerdictStatus(enum.StrEnum):
    """What `verify` found, most serious first."""

    ABSENT = "absent"  # there is no run here
    DAMAGED = "damaged"  # bytes nobody wrote, a request answered twice, or counts that do not add up
    LOCKED = "locked"  # being written now; all right up to the last whole line
    INCOMPLETE = "incomplete"  # all right, and requests are left to do
    CLEAN = "clean"  # every request has its line


_EXIT = {
    VerdictStatus.CLEAN: 0,
    VerdictStatus.DAMAGED: 1,
    VerdictStatus.INCOMPLETE: 4,
    VerdictStatus.ABSENT: 10,
    VerdictStatus.LOCKED: 11,
}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `verify`. Lists hold the first LISTED entries."""

    status: VerdictStatus
    sentence: str
    exit_code: int
    folder: str
    input_path: str = ""  # empty: verified without the input
    total: int = 0
    completed: int = 0
    failed: int = 0
    aborted: int = 0
    remaining: int = 0
    lines: int = 0  # good lines in both files
    problems: list[str] = []  # why it is damaged
    notes: list[str] = []  # what is worth knowing and no damage
    duplicates: list[str] = []  # custom_ids
    not_in_input: list[str] = []
    not_in_input_count: int = 0
    edited: list[str] = []  # answered, but the input's line reads otherwise now: they run again
    edited_count: int = 0


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `export`. Without errors there is no error file."""

    output: str
    errors: str | None
    completed: int
    failed: int
    cancelled: int
    left_out: int  # lines whose request is edited or no longer in the input
    notes: list[str] = []


# --- where each request's line is -------------------------------------------------------------------------------------


class _Places:
    """Where the line of each input entry stands: `kind` 0 none, 1 error line, 2 success; 17 bytes an entry."""

    def __init__(self, index: BatchIndex) -> None:
        n = len(index)
        self.kind = np.zeros(n, np.uint8)
        self.offset = np.zeros(n, np.int64)
        self.size = np.zeros(n, np.int64)
        self.twice: list[str] = []
        self.twice_count = 0
        self.not_in_input: list[str] = []
        self.not_in_input_count = 0
        self.edited: list[str] = []
        self.edited_count = 0
        self._index = index
        self._chunk: list[tuple[str, str, int, int, bool]] = []

    def add(self, custom_id: str, request_id: str, offset: int, size: int, ok: bool) -> None:
        self._chunk.append((custom_id, request_id, offset, size, ok))
        if len(self._chunk) >= MATCH_LINES:
            self.flush()

    def flush(self) -> None:
        chunk, self._chunk = self._chunk, []
        if not chunk:
            return
        found = self._index.match([c[0] for c in chunk], [c[1] for c in chunk])
        for (custom_id, _, offset, size, ok), place in zip(chunk, found.tolist(), strict=True):
            if place == NOT_IN_INPUT:
                self.not_in_input_count += 1
                if len(self.not_in_input) < LISTED:
                    self.not_in_input.append(custom_id)
            elif place == EDITED:
                self.edited_count += 1
                if len(self.edited) < LISTED:
                    self.edited.append(custom_id)
            elif ok and self.kind[place] == 2:
                self.twice_count += 1
                if len(self.twice) < LISTED:
                    self.twice.append(custom_id)
            elif ok or self.kind[place] < 2:
                self.kind[place] = 2 if ok else 1
                self.offset[place] = offset
                self.size[place] = size


class _Books(msgspec.Struct):
    """What reading both files came to."""

    lines: int = 0
    problems: list[str] = []
    notes: list[str] = []
    torn: bool = False


def _read_files(folder: Path, each: Callable[[str, str, int, int, bool], None], *, locked: bool) -> _Books:
    """Check both files; call `each(custom_id, request_id, offset, size, ok)` for every good line, successes first."""
    books = _Books()
    for name in (OUTPUT, ERRORS):
        path = folder / name
        if not path.exists():
            continue

        def one(offset: int, line: bytes, name: str = name) -> None:
            try:
                done = read_line(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                books.problems.append(f"{name} byte {offset}: sealed, yet unreadable for this version ({error})")
                return
            if done.ok is not (name == OUTPUT):
                books.problems.append(f'{name} byte {offset} (custom_id "{done.custom_id}"): belongs in the other file')
            each(done.custom_id, done.request_id, offset, len(line) + 1, done.ok)

        found = scan(path, on_line=one)
        books.lines += found.lines
        books.problems += [damage.sentence() for damage in found.damage[:LISTED]]
        if len(found.damage) > LISTED:
            books.problems.append(f"{name}: {len(found.damage) - LISTED} more damaged places")
        if found.torn and not locked:
            books.torn = True
            books.notes.append(f"{found.torn.sentence()}; resuming the run moves it aside")
    return books


# --- verify -----------------------------------------------------------------------------------------------------------


def verify(folder: Path, input_path: Path | None = None) -> Verdict:
    """Add up a run: framing, seals, duplicates, and the counts against run.json and the input. Changes nothing.

    Without `input_path` the input named in run.json is used, if it is still there.
    """
    if not any((folder / name).exists() for name in (RECORD, OUTPUT, ERRORS)):
        return _verdict(VerdictStatus.ABSENT, f"there is no run at {folder}", folder)
    owner = lock_owner(folder)
    problems: list[str] = []
    notes: list[str] = []
    record: RunRecord | None = None
    try:
        record = read_record(folder)
    except JobNotFound:
        problems.append(f"{RECORD} is missing")
    except ResultsDamaged as error:
        problems.append(error.message)
    index, used = _input_index(record, input_path, notes)
    places = _Places(index) if index is not None else None
    keys = bytearray()  # 8 bytes a success line, to find one request answered twice

    def each(custom_id: str, request_id: str, offset: int, size: int, ok: bool) -> None:
        if ok:
            keys.extend(_key(custom_id, request_id))
        if places is not None:
            places.add(custom_id, request_id, offset, size, ok)
        else:
            (succeeded if ok else gave_up).add(_key(custom_id, request_id))

    succeeded: set[bytes] = set()
    gave_up: set[bytes] = set()
    books = _read_files(folder, each, locked=owner is not None)
    problems += books.problems
    notes += books.notes
    duplicates = _duplicates(folder, keys)
    if duplicates:
        problems.append(f"{len(duplicates)} requests have more than one success line")
    aborted_ids = set(record.aborted) if record else set()
    if places is not None and index is not None:
        places.flush()
        total = len(index)
        completed, failed = int((places.kind == 2).sum()), int((places.kind == 1).sum())
        entries = {found for custom_id in aborted_ids if (found := index.find(custom_id)) is not None}
        aborted = sum(places.kind[entry] == 0 for entry in entries)
    else:
        completed, failed = len(succeeded), len(gave_up - succeeded)
        total = max(record.counts.total if record else 0, completed + failed)
        aborted = min(len(aborted_ids), total - completed - failed)
    remaining = total - completed - failed - int(aborted)
    if record is not None and owner is None:
        problems += _against_record(
            record,
            total=total,
            completed=completed,
            failed=failed,
            remaining=remaining,
            counted=places is not None,
        )
        if books.torn and record.state is JobState.DONE:
            problems.append("the run is done, yet an unfinished line stands behind its last one")
    if places is not None and places.not_in_input_count:
        notes.append(f"{places.not_in_input_count} lines answer requests that are not in the input; they are kept")
    if places is not None and places.edited_count:
        notes.append(f"{places.edited_count} lines answer requests that were edited since; these run again")
    counts = f"{total} requests: {completed} completed, {failed} failed, {int(aborted)} aborted, {remaining} remaining"
    if problems:
        status, sentence = VerdictStatus.DAMAGED, f"{counts}. {len(problems)} problems, first: {problems[0]}"
    elif owner is not None:
        status, sentence = VerdictStatus.LOCKED, f"{counts}. Being written by {owner}; all right so far"
    elif remaining or aborted or books.torn:
        status, sentence = VerdictStatus.INCOMPLETE, f"{counts}. What is there is all right"
    else:
        status, sentence = VerdictStatus.CLEAN, f"{counts}. All right"
    return _verdict(
        status,
        sentence,
        folder,
        input_path=str(used) if used else "",
        total=total,
        completed=completed,
        failed=failed,
        aborted=int(aborted),
        remaining=remaining,
        lines=books.lines,
        problems=problems,
        notes=notes,
        duplicates=duplicates[:LISTED],
        not_in_input=places.not_in_input if places else [],
        not_in_input_count=places.not_in_input_count if places else 0,
        edited=places.edited if places else [],
        edited_count=places.edited_count if places else 0,
    )


def _verdict(status: VerdictStatus, sentence: str, folder: Path, **facts: object) -> Verdict:
    return msgspec.convert(
        {"status": status, "sentence": sentence, "exit_code": _EXIT[status], "folder": str(folder), **facts}, Verdict
    )


def _input_index(
    record: RunRecord | None, input_path: Path | None, notes: list[str]
) -> tuple[BatchIndex | None, Path | None]:
    """The input's index and path; none of both, with a note, where the input is gone."""
    path = input_path or (Path(record.input_path) if record and record.input_path else None)
    if path is None:
        notes.append("the input is not known: verified without it")
        return None, None
    if not path.is_file() and input_path is None:
        notes.append(f"the input {path} is gone: verified without it")
        return None, None
    found = scan_input(path, limit=record.settings.limit if record else None)
    if record and record.input_sha256 and found.sha256 and found.sha256 != record.input_sha256:
        notes.append(f"the input {path} was changed since the run read it")
    return found.index, path


def _against_record(
    record: RunRecord, *, total: int, completed: int, failed: int, remaining: int, counted: bool
) -> list[str]:
    """Where run.json says otherwise. Its counts are only final where its runner came to an orderly end."""
    if record.state in ACTIVE or record.state in (JobState.QUEUED, JobState.INTERRUPTED):
        return []
    problems = []
    told = record.counts
    if (told.succeeded, told.failed) != (completed, failed):
        problems.append(
            f"{RECORD} counts {told.succeeded} completed and {told.failed} failed, "
            f"the files hold {completed} and {failed}"
        )
    if counted and told.total and told.total != total:
        problems.append(f"{RECORD} counts {told.total} requests, the input holds {total}")
    if record.state is JobState.DONE and remaining:
        problems.append(f"{RECORD} says the run is done, {remaining} of {total} requests have no line")
    return problems


def _key(custom_id: str, request_id: str) -> bytes:
    return hashlib.blake2b(f"{request_id}\n{custom_id}".encode(), digest_size=8).digest()


def _repeated(keys: bytearray) -> set[bytes]:
    values = np.sort(np.frombuffer(bytes(keys), dtype=">u8"))
    return {int(v).to_bytes(8) for v in values[1:][values[1:] == values[:-1]]}


def _duplicates(folder: Path, keys: bytearray) -> list[str]:
    """custom_ids of requests with more than one success line. The hashes name suspects, the ids convict them."""
    suspects = _repeated(keys)
    if not suspects:
        return []
    seen: set[tuple[str, str]] = set()
    twice: dict[str, None] = {}

    def one(_: int, line: bytes) -> None:
        done = read_line(line)
        if done.ok and _key(done.custom_id, done.request_id) in suspects:
            pair = (done.custom_id, done.request_id)
            if pair in seen:
                twice[done.custom_id] = None
            seen.add(pair)

    scan(folder / OUTPUT, on_line=one)
    return list(twice)


# --- export -----------------------------------------------------------------------------------------------------------


def export(
    folder: Path,
    out_path: Path | None = None,
    errors_path: Path | None = None,
    *,
    cancelled: bool = True,
    force: bool = False,
    input_path: Path | None = None,
    now: float | None = None,
) -> Exported:
    """Write the run's lines in input order: answers to one file, errors to another, each appearing whole or not at all.

    Default: export.jsonl and export_errors.jsonl in the run's folder, made anew each time. Any other existing file is
    only replaced with `force`, the input and a run's own files never. With `cancelled` every request without a line
    gets a `batch_cancelled` line in the error file; it stays undone in the run. Raises JobNotFound, ResultsDamaged,
    UsageError, BatchInvalid, ResultsUnwritable.
    """
    record = read_record(folder)
    source = input_path or Path(record.input_path)
    if not source.is_file():
        raise UsageError(
            f"the input {source} is gone, and with it the order to export in",
            advice="Name a copy of it, or use output.jsonl and errors.jsonl as they are: in order of completion.",
        )
    output = out_path or folder / "export.jsonl"
    errors = errors_path or output.with_name(f"{output.stem}_errors{output.suffix}")
    _refuse_foreign(source, output, ours=out_path is None, force=force)
    _refuse_foreign(source, errors, ours=out_path is None and errors_path is None, force=force)
    if output.absolute() == errors.absolute():
        raise UsageError(f"answers and errors can't both go to {output}", advice="Name two files.")

    index = scan_input(source, limit=record.settings.limit).index
    places = _Places(index)
    books = _read_files(folder, places.add, locked=lock_owner(folder) is not None)
    places.flush()
    kinds = places.kind
    want_errors = bool((kinds == 1).any()) or (cancelled and bool((kinds == 0).any()))
    stamp = now if now is not None else time.time()
    try:
        with publication(output, shared=True) as out:
            _copy(folder / OUTPUT, np.flatnonzero(kinds == 2), places, out.write)
        made = 0
        if want_errors:
            with publication(errors, shared=True) as out:
                made = _write_errors(folder, index, places, out.write, cancelled=cancelled, now=stamp)
        elif errors_path is None and out_path is None:
            withdraw(errors)  # an earlier export had errors, this one has none
    except OSError as error:
        raise unwritable(output, error, "cannot export to") from error
    return Exported(
        output=str(output),
        errors=str(errors) if want_errors else None,
        completed=int((kinds == 2).sum()),
        failed=int((kinds == 1).sum()),
        cancelled=made,
        left_out=places.not_in_input_count + places.edited_count,
        notes=[*books.problems[:LISTED], *books.notes],
    )


_RUN_FILES = frozenset({RECORD, OUTPUT, ERRORS, INFLIGHT, "metrics.jsonl", "incidents.jsonl", "batch.json", LOCK})


def _refuse_foreign(source: Path, target: Path, *, ours: bool, force: bool) -> None:
    """Never over results or the input; over anything else of somebody's only when told so."""
    if target.is_dir():
        raise UsageError(f"{target} is a folder", advice="Name a file.")
    if not target.parent.is_dir():
        raise UsageError(f"the folder {target.parent} does not exist", advice="Create it, or name another.")
    if not target.exists():
        return
    inside_a_run = target.name in _RUN_FILES and (target.parent / RECORD).exists()
    if target.samefile(source) or inside_a_run:
        raise UsageError(f"{target} belongs to a run or is its input: never replaced", advice="Name another file.")
    if not ours and not force:
        raise UsageError(f"{target} exists", advice="Name another file, or replace it with --force.")


def _copy(path: Path, entries: NDArray[np.intp], places: _Places, write: Callable[[bytes], None]) -> None:
    if not len(entries):
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        for entry in entries:
            write(_line_at(fd, path, places, int(entry)))
            crash_point("mid-export")
    finally:
        os.close(fd)


def _write_errors(
    folder: Path, index: BatchIndex, places: _Places, write: Callable[[bytes], None], *, cancelled: bool, now: float
) -> int:
    """Error lines and `batch_cancelled` lines in input order; returns how many of the latter were made."""
    path = folder / ERRORS
    fd = os.open(path, os.O_RDONLY) if path.exists() else -1
    made = 0
    try:
        for entry in np.flatnonzero(places.kind < 2):
            i = int(entry)
            if places.kind[i] == 1:
                write(_line_at(fd, path, places, i))
            elif cancelled:
                write(_cancelled_line(index, i, now))
                made += 1
    finally:
        if fd >= 0:
            os.close(fd)
    return made


def _line_at(fd: int, path: Path, places: _Places, entry: int) -> bytes:
    size, offset = int(places.size[entry]), int(places.offset[entry])
    line = os.pread(fd, size, offset)
    if len(line) < size - 1:
        raise ResultsUnwritable(f"{path} became shorter while it was exported", advice="Export again.")
    return line[: size - 1] + b"\n"


def _cancelled_line(index: BatchIndex, entry: int, now: float) -> bytes:
    if index.is_bad[entry]:
        problem = index.problem(entry)
        error = RequestError(code=problem.code, message=f"line {problem.line}: {problem.message}", param=problem.param)
        return error_line(index.bad_custom_id(entry), index.request_id(entry), error, created=now).data
    request = index.request(entry)
    error = RequestError(code="batch_cancelled", message="not run: the batch ended, or was exported, before its turn")
    return error_line(request.custom_id, request.request_id, error, created=now).data
