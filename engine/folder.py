"""The files of a run's folder beside its journal: run.json, inflight.jsonl, batch.json, metrics and incidents.

The first three are replaced as a whole (`engine.publish`). Metrics and incidents are appended line by line without
fsync: losing the last second of them costs nobody an answer. Only the owner of the run's lock writes here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from engine.disk import IO, Io, make_folder, write_all
from engine.errors import JobNotFound, ResultsDamaged, ResultsUnwritable
from engine.job import JobState
from engine.protocol import Choice
from engine.publish import publish, withdraw
from engine.record import RECORD_VERSION, RunRecord

RECORD = "run.json"
INFLIGHT = "inflight.jsonl"
BATCH = "batch.json"
METRICS = "metrics.jsonl"
INCIDENTS = "incidents.jsonl"
OUTPUT = "output.jsonl"
ERRORS = "errors.jsonl"

METADATA_CHARS = 512
"""OpenAI's limit for a metadata value."""

LISTED_PROBLEMS = 1000


def unwritable(path: Path, error: OSError, what: str = "") -> ResultsUnwritable:
    """The error a person sees when the system refuses a write."""
    reason = error.strerror or str(error)
    return ResultsUnwritable(
        f"{what or 'cannot write'} {path}: {reason}",
        advice="Free some space there or mend its permissions, then resume; nothing acknowledged is lost.",
    )


# --- run.json ---------------------------------------------------------------------------------------------------------


def read_record(folder: Path) -> RunRecord:
    """Raises JobNotFound where there is no run, ResultsDamaged where run.json can't be read."""
    path = folder / RECORD
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise JobNotFound(f"no run at {folder}", advice="`gptoss-tui status` lists the runs.") from error
    except OSError as error:
        raise ResultsDamaged(f"cannot read {path}: {error.strerror or error}") from error
    try:
        record = msgspec.json.decode(data, type=RunRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResultsDamaged(
            f"{path} is not a run record: {error}",
            advice="The answers in output.jsonl beside it are untouched. Put back a copy of run.json, "
            "or start the file again with `gptoss-tui run`.",
        ) from error
    if record.version > RECORD_VERSION:
        raise ResultsDamaged(
            f"{path} was written by a newer version (record version {record.version}, known here: {RECORD_VERSION})",
            advice="Use that version for this run.",
        )
    return record


def write_record(folder: Path, record: RunRecord, *, io: Io = IO) -> None:
    """Publish run.json, making the folder if needed. Raises ResultsUnwritable; the old content then still stands."""
    path = folder / RECORD
    try:
        make_folder(io, folder)
        publish(path, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n", io=io)
    except OSError as error:
        raise unwritable(path, error) from error


# --- inflight.jsonl ---------------------------------------------------------------------------------------------------


class Partial(msgspec.Struct, frozen=True, kw_only=True):
    """What a request had produced when it was cut off."""

    custom_id: str
    request_id: str
    choices: list[Choice]
    prompt_tokens: int = 0
    completion_tokens: int = 0


def write_inflight(folder: Path, partials: list[Partial], *, io: Io = IO) -> None:
    """Replace inflight.jsonl; without partials there is no such file. Raises ResultsUnwritable."""
    path = folder / INFLIGHT
    try:
        if partials:
            publish(path, b"".join(msgspec.json.encode(p) + b"\n" for p in partials), io=io)
        else:
            withdraw(path, io=io)
    except OSError as error:
        raise unwritable(path, error) from error


def read_inflight(folder: Path) -> list[Partial]:
    """What inflight.jsonl holds; empty without one. Raises ResultsDamaged: it is published whole or not at all."""
    path = folder / INFLIGHT
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    try:
        return msgspec.json.Decoder(Partial).decode_lines(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResultsDamaged(
            f"{path} is not what was written: {error}",
            advice="Remove it: it holds unfinished texts only, and these requests run again.",
        ) from error


# --- batch.json -------------------------------------------------------------------------------------------------------


class Problem(Protocol):
    """What batch.json says of a bad input line (`engine.batch.LineProblem` has it)."""

    @property
    def line(self) -> int: ...
    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def param(self) -> str | None: ...


_STATUS = {
    JobState.QUEUED: "validating",
    JobState.VALIDATING: "validating",
    JobState.PLANNING: "in_progress",
    JobState.LOADING: "in_progress",
    JobState.RUNNING: "in_progress",
    JobState.PAUSED: "in_progress",
    JobState.INTERRUPTED: "in_progress",
    JobState.DONE: "completed",
    JobState.FAILED: "failed",
    JobState.ABORTED: "cancelled",
}
_ENDED_AT = {JobState.DONE: "completed_at", JobState.FAILED: "failed_at", JobState.ABORTED: "cancelled_at"}


def batch_object(record: RunRecord, problems: Iterable[Problem] = ()) -> dict[str, Any]:
    """The run as OpenAI's Batch object. Files are named relative to the run's folder."""
    counts = record.counts
    name = hashlib.sha256(f"{record.job}/{record.created}".encode()).hexdigest()[:24]
    batch: dict[str, Any] = {
        "id": f"batch_{name}",
        "object": "batch",
        "endpoint": record.endpoint,
        "input_file_id": f"file-{record.input_sha256[:24]}",
        "completion_window": "24h",
        "created_at": int(record.created),
        "status": _STATUS[record.state],
        "output_file_id": OUTPUT if counts.succeeded else None,
        "error_file_id": ERRORS if counts.failed else None,
        "request_counts": {"total": counts.total, "completed": counts.succeeded, "failed": counts.failed},
        "metadata": {"job": record.job, "input_path": record.input_path[-METADATA_CHARS:]},
    }
    if record.fingerprint and record.fingerprint.model_name:
        batch["model"] = record.fingerprint.model_name
    if record.started is not None:
        batch["in_progress_at"] = int(record.started)
    if record.ended is not None and record.state in _ENDED_AT:
        batch[_ENDED_AT[record.state]] = int(record.ended)
    if record.prompt_tokens or record.completion_tokens:
        batch["usage"] = {
            "input_tokens": record.prompt_tokens,
            "input_tokens_details": {"cached_tokens": record.cached_tokens},
            "output_tokens": record.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": record.reasoning_tokens},
            "total_tokens": record.prompt_tokens + record.completion_tokens,
        }
    found = [{"code": p.code, "message": p.message, "line": p.line, "param": p.param} for p in problems]
    if not found and record.state is JobState.FAILED:
        found = [{"code": "job_failed", "message": record.sentence, "line": None, "param": None}]
    if found:
        batch["errors"] = {"object": "list", "data": found[:LISTED_PROBLEMS]}
    return batch


def write_batch_json(folder: Path, record: RunRecord, problems: Iterable[Problem] = (), *, io: Io = IO) -> None:
    """Publish batch.json. Raises ResultsUnwritable."""
    path = folder / BATCH
    try:
        publish(path, msgspec.json.format(msgspec.json.encode(batch_object(record, problems))) + b"\n", io=io)
    except OSError as error:
        raise unwritable(path, error) from error


# --- metrics.jsonl, incidents.jsonl -----------------------------------------------------------------------------------


def append_jsonl(path: Path, value: Any, *, io: Io = IO) -> bool:
    """Append one line, unsynced. False where the disk does not take it: readings must never end a run.

    A line that a crash or a full disk left unfinished is ended first, so it costs itself and not its successor.
    """
    data = msgspec.json.encode(value) + b"\n"
    try:
        fd = io.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    except OSError:
        return False
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            data = b"\n" + data
        write_all(io, fd, data)
    except OSError:
        return False
    finally:
        io.close(fd)
    return True
