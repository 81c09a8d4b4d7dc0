"""Whole files by rename, and the small files of a run's folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NamedTuple

import pytest
from openai.types import Batch

from engine.disk import Io
from engine.errors import JobNotFound, ResultsDamaged, ResultsUnwritable
from engine.job import JobState
from engine.journal import (
    Partial,
    append_jsonl,
    read_inflight,
    read_record,
    write_batch_json,
    write_inflight,
    write_record,
)
from engine.protocol import Choice, Counts, Finish
from engine.publish import publication, publish, withdraw
from engine.record import Fingerprint, RunRecord
from tests.journal_kit import TearingIo


class OrderIo(Io):
    """Notes the calls in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self.calls.append("write")
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self.calls.append("fsync folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "fsync file")  # noqa: PTH112 - a fd
        super().fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        self.calls.append("rename")
        super().rename(source, target)


def _record(**changes: object) -> RunRecord:
    facts: dict[str, object] = {"job": "demo-1", "state": JobState.RUNNING, "input_path": "/in.jsonl", "created": 1.5}
    return RunRecord(**{**facts, **changes})  # pyright: ignore[reportArgumentType] - fields by name, checked by use


def test_publishing_syncs_the_file_before_and_the_folder_after_the_rename(tmp_path: Path) -> None:
    io = OrderIo()
    publish(tmp_path / "a", b"new", io=io)
    assert io.calls == ["write", "fsync file", "rename", "fsync folder"]
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["write", "fsync", "rename"])
def test_a_failed_publication_leaves_the_old_file_and_no_litter(tmp_path: Path, name: str) -> None:
    class Broken(Io):
        pass

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    setattr(Broken, name, fail)
    publish(tmp_path / "a", b"old")
    with pytest.raises(OSError, match="No space"):
        publish(tmp_path / "a", b"new", io=Broken())
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"old"}


def test_a_publication_that_is_given_up_changes_nothing(tmp_path: Path) -> None:
    def give_up() -> None:
        with publication(tmp_path / "a") as out:
            out.write(b"half")
            raise KeyError("enough")

    with pytest.raises(KeyError):
        give_up()
    assert list(tmp_path.iterdir()) == []


def test_withdrawing_is_fine_without_a_file(tmp_path: Path) -> None:
    withdraw(tmp_path / "a")
    publish(tmp_path / "a", b"x")
    withdraw(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_record_comes_back_as_it_was_and_its_folder_is_made(tmp_path: Path) -> None:
    record = _record(counts=Counts(total=3, succeeded=1), aborted=["a🙂"], fingerprint=Fingerprint(model="x"))
    write_record(tmp_path / "results" / "demo-1", record)
    assert read_record(tmp_path / "results" / "demo-1") == record


@pytest.mark.parametrize(
    ("content", "error"),
    [(None, JobNotFound), (b"{", ResultsDamaged), (b"\xff", ResultsDamaged), (b'{"job":"x"}', ResultsDamaged)],
)
def test_an_unreadable_record_is_told(tmp_path: Path, content: bytes | None, error: type[Exception]) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(error):
        read_record(tmp_path)


def test_a_record_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path, _record(version=99))
    with pytest.raises(ResultsDamaged, match="newer version"):
        read_record(tmp_path)


def test_a_record_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResultsUnwritable):
        write_record(tmp_path / "file" / "run", _record())


def test_inflight_is_replaced_as_a_whole_and_gone_when_empty(tmp_path: Path) -> None:
    choice = Choice(index=0, finish=Finish.ABORTED, content="halb\n🙂")
    partials = [Partial(custom_id=f"r{n}", request_id="req_1", choices=[choice], completion_tokens=n) for n in range(3)]
    assert read_inflight(tmp_path) == []
    write_inflight(tmp_path, partials)
    assert read_inflight(tmp_path) == partials
    write_inflight(tmp_path, partials[:1])
    assert read_inflight(tmp_path) == partials[:1]
    write_inflight(tmp_path, [])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "inflight.jsonl").write_bytes(b"{\n")
    with pytest.raises(ResultsDamaged, match="not what was written"):
        read_inflight(tmp_path)


class Bad(NamedTuple):
    line: int
    code: str
    message: str
    param: str | None


@pytest.mark.parametrize("state", list(JobState))
def test_batch_json_loads_with_the_sdk_in_every_state(tmp_path: Path, state: JobState) -> None:
    record = _record(
        state=state,
        endpoint="/v1/chat/completions",
        input_sha256="ab" * 32,
        started=2.5,
        ended=9.5,
        prompt_tokens=5,
        completion_tokens=7,
        reasoning_tokens=3,
        counts=Counts(total=3, succeeded=2, failed=1),
        fingerprint=Fingerprint(model_name="nano"),
        sentence="the engine died five times",
    )
    write_batch_json(tmp_path, record)
    batch = Batch.model_validate_json((tmp_path / "batch.json").read_bytes(), strict=True)
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (3, 2, 1)
    assert batch.usage is not None
    assert batch.usage.total_tokens == 12
    assert batch.output_file_id == "output.jsonl"
    assert (batch.status == "completed") is (state is JobState.DONE)
    assert batch.completed_at == (9 if state is JobState.DONE else None)
    assert (batch.errors is not None) is (state is JobState.FAILED)


def test_batch_json_names_bad_lines_and_no_output_where_nothing_succeeded(tmp_path: Path) -> None:
    bad = Bad(3, "invalid_json_line", "not JSON", None)
    write_batch_json(tmp_path, _record(state=JobState.FAILED, counts=Counts(total=1, failed=1)), [bad])
    batch = Batch.model_validate_json((tmp_path / "batch.json").read_bytes(), strict=True)
    assert batch.output_file_id is None
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(e.line, e.code) for e in batch.errors.data] == [(3, "invalid_json_line")]
    assert batch.usage is None


def test_appended_readings_survive_a_torn_tail(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert append_jsonl(path, {"t": 1})
    with path.open("ab") as file:
        file.write(b'{"t":')
    assert append_jsonl(path, {"t": 2})
    assert path.read_bytes() == b'{"t":1}\n{"t":\n{"t":2}\n'


def test_a_full_disk_costs_readings_and_raises_nothing(tmp_path: Path) -> None:
    full = TearingIo(limit=3)
    assert append_jsonl(tmp_path / "metrics.jsonl", {"t": 1}, io=full) is False
    assert append_jsonl(tmp_path / "no" / "metrics.jsonl", {"t": 1}) is False
