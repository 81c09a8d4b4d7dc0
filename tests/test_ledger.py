"""Adding a run up, and writing it out in the order of its input."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from engine import batch
from engine.errors import UsageError
from engine.job import JobState
from engine.journal import Journal, write_record
from engine.ledger import VerdictStatus, export, verify
from engine.output import Line, error_line, line_for
from engine.protocol import Choice, Completion, Counts, Finish, RequestError, RunSettings
from engine.record import RunRecord
from tests.journal_kit import files

IDS = ["plain", 'qu"ote\\', "🙂", "a\u2028b", "x" * 100, " space ", "é", "e\u0301", "last"]
TIME = 1000.0


def _input_line(custom_id: str, text: str = "hi") -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body})


class Run:
    """A run on disk: an input, a folder, and lines as a runner would append them."""

    def __init__(self, root: Path, ids: list[str] = IDS, extra: list[str] | None = None) -> None:
        self.root = root
        self.input = root / "in.jsonl"
        self.input.write_text("".join(f"{line}\n" for line in [*map(_input_line, ids), *(extra or [])]), "utf-8")
        self.folder = root / "results" / "in-1"
        self.index = batch.scan(self.input).index
        self.made = 0
        self.lines: list[Line] = []

    def ok(self, i: int, text: str = "4.") -> Run:
        self.made += 1
        completion = Completion(finish=Finish.STOP, choices=[Choice(index=0, finish=Finish.STOP, content=text)])
        self.lines.append(line_for(self.index.request(i), completion, model="m", created=TIME + self.made))
        return self

    def bad(self, i: int, code: str = "engine_died") -> Run:
        self.made += 1
        custom_id, request_id = self.index.custom_id(i), self.index.request_id(i)
        error = RequestError(code=code, message="m")
        self.lines.append(error_line(custom_id, request_id, error, created=TIME + self.made))
        return self

    async def write(self, state: JobState = JobState.PAUSED, counts: Counts | None = None, **more: Any) -> Run:
        journal = Journal.open(self.folder)
        await asyncio.gather(*(journal.append(line) for line in self.lines))
        await journal.close()
        done = {(line.custom_id, line.request_id) for line in self.lines if line.ok}
        failed = {(line.custom_id, line.request_id) for line in self.lines if not line.ok} - done
        counts = counts or Counts(total=len(self.index), succeeded=len(done), failed=len(failed))
        write_record(
            self.folder,
            RunRecord(job="in-1", state=state, input_path=str(self.input), created=1.0, counts=counts, **more),
        )
        return self


def _lines(path: str | Path | None) -> list[dict[str, Any]]:
    return [] if path is None else [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def _ids(path: str | Path | None) -> list[str]:
    return [line["custom_id"] for line in _lines(path)]


# --- verify -----------------------------------------------------------------------------------------------------------


async def test_a_whole_run_is_clean(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for i in range(len(IDS)):
        run.ok(i) if i % 3 else run.bad(i)
    await run.write(JobState.DONE)
    before = files(run.folder)
    verdict = verify(run.folder)
    assert (verdict.status, verdict.exit_code) == (VerdictStatus.CLEAN, 0), verdict
    assert (verdict.total, verdict.completed, verdict.failed, verdict.remaining) == (9, 6, 3, 0)
    assert files(run.folder) == before


async def test_a_part_done_run_is_incomplete_and_adds_up(tmp_path: Path) -> None:
    run = await Run(tmp_path).ok(1).bad(2).bad(3).ok(3).write(aborted=[IDS[4], IDS[1]])
    verdict = verify(run.folder)
    assert (verdict.status, verdict.exit_code) == (VerdictStatus.INCOMPLETE, 4), verdict
    assert (verdict.completed, verdict.failed, verdict.aborted, verdict.remaining) == (2, 1, 1, 5)
    assert verdict.completed + verdict.failed + verdict.aborted + verdict.remaining == verdict.total == len(IDS)


def test_no_run_is_absent(tmp_path: Path) -> None:
    verdict = verify(tmp_path / "nothing")
    assert (verdict.status, verdict.exit_code) == (VerdictStatus.ABSENT, 10)


async def test_a_run_being_written_is_verified_up_to_its_last_whole_line(tmp_path: Path) -> None:
    run = await Run(tmp_path).ok(0).write(JobState.RUNNING)
    journal = Journal.open(run.folder)
    with (run.folder / "output.jsonl").open("ab") as file:
        file.write(b'{"id":"batch_req_12')  # as a reader may meet a write half-way
    verdict = verify(run.folder)
    await journal.close()
    assert (verdict.status, verdict.exit_code) == (VerdictStatus.LOCKED, 11), verdict
    assert verdict.completed == 1
    assert verify(run.folder).status is VerdictStatus.INCOMPLETE
    assert "unfinished line" in verify(run.folder).notes[0]


@pytest.mark.parametrize("byte", [3, 25, 80, 300])
async def test_a_broken_byte_is_damage_with_its_place(tmp_path: Path, byte: int) -> None:
    run = await Run(tmp_path).ok(0).ok(1).write()
    path = run.folder / "output.jsonl"
    content = bytearray(path.read_bytes())
    content[byte] ^= 4
    path.write_bytes(bytes(content))
    verdict = verify(run.folder)
    assert (verdict.status, verdict.exit_code) == (VerdictStatus.DAMAGED, 1)
    assert "output.jsonl line 1" in verdict.problems[0]
    assert verdict.completed == 1


async def test_a_removed_line_a_doubled_one_and_a_misplaced_one_are_damage(tmp_path: Path) -> None:
    run = await Run(tmp_path).ok(0).ok(1).bad(2).write(JobState.DONE)
    output, errors = run.folder / "output.jsonl", run.folder / "errors.jsonl"
    whole = output.read_bytes()
    first = whole.index(b"\n") + 1
    output.write_bytes(whole[first:])
    assert any("counts 2 completed" in problem for problem in verify(run.folder).problems)
    output.write_bytes(whole + whole[:first])
    assert any("once more" in problem for problem in verify(run.folder).problems)
    output.write_bytes(whole)
    errors.write_bytes(errors.read_bytes() + whole[:first])
    assert any("other file" in problem for problem in verify(run.folder).problems)


async def test_a_request_answered_twice_is_damage_even_in_other_words(tmp_path: Path) -> None:
    run = await Run(tmp_path).ok(2, "one").ok(2, "two").write()
    for source in (run.input, None):
        if source is None:
            run.input.unlink()
        verdict = verify(run.folder, source)
        assert verdict.status is VerdictStatus.DAMAGED
        assert verdict.duplicates == [IDS[2]]


async def test_done_with_requests_left_is_damage(tmp_path: Path) -> None:
    run = await Run(tmp_path).ok(0).write(JobState.DONE)
    verdict = verify(run.folder)
    assert verdict.status is VerdictStatus.DAMAGED
    assert any("8 of 9 requests have no line" in problem for problem in verdict.problems)


async def test_edited_and_removed_requests_are_listed_and_no_damage(tmp_path: Path) -> None:
    run = await Run(tmp_path).ok(0).ok(1).ok(2).write()
    lines = run.input.read_text("utf-8").splitlines()
    edited = json.dumps(
        json.loads(lines[1]) | {"body": {"model": "m", "messages": [{"role": "user", "content": "new"}]}}
    )
    run.input.write_text("\n".join([edited, *lines[2:]]), "utf-8")  # the first line is gone
    verdict = verify(run.folder)
    assert (verdict.not_in_input, verdict.edited) == ([IDS[0]], [IDS[1]])
    assert (verdict.total, verdict.completed, verdict.remaining) == (8, 1, 7)


async def test_without_its_input_a_run_is_still_checked(tmp_path: Path) -> None:
    run = await Run(tmp_path).ok(0).bad(1).bad(0).write()
    run.input.unlink()
    verdict = verify(run.folder)
    assert verdict.status is VerdictStatus.INCOMPLETE
    assert (verdict.input_path, verdict.total, verdict.completed, verdict.failed) == ("", 9, 1, 1)
    assert any("is gone" in note for note in verdict.notes)


@pytest.mark.parametrize("seed", range(25))
async def test_after_any_cut_the_books_add_up(tmp_path: Path, seed: int) -> None:
    """Conservation: whatever a crash takes from either file, each request is in exactly one place."""
    rng = random.Random(seed)
    run = Run(tmp_path)
    for i in rng.sample(range(len(IDS)), 7):
        run.bad(i) if rng.random() < 0.5 else run.ok(i)
        if rng.random() < 0.3:
            run.bad(i)
    await run.write(JobState.RUNNING)
    for name in ("output.jsonl", "errors.jsonl"):
        content = (run.folder / name).read_bytes()
        (run.folder / name).write_bytes(content[: rng.randint(0, len(content))])
    await Journal.open(run.folder).close()
    verdict = verify(run.folder)
    assert verdict.status in (VerdictStatus.INCOMPLETE, VerdictStatus.CLEAN), verdict.problems
    exported = export(run.folder, now=TIME)
    good, rest = _ids(exported.output), _ids(exported.errors)
    assert sorted([*good, *rest]) == sorted(IDS)
    assert (len(good), exported.failed, exported.cancelled) == (verdict.completed, verdict.failed, verdict.remaining)


# --- export -----------------------------------------------------------------------------------------------------------


async def test_lines_come_in_input_order_and_unchanged(tmp_path: Path) -> None:
    run = await Run(tmp_path).ok(7).bad(5).ok(0).bad(3).ok(3).bad(1, "first").bad(1, "second").write()
    exported = export(run.folder, now=TIME)
    assert _ids(exported.output) == [IDS[0], IDS[3], IDS[7]]
    assert exported.errors is not None
    assert _ids(exported.errors) == [IDS[i] for i in (1, 2, 4, 5, 6, 8)]
    assert (exported.completed, exported.failed, exported.cancelled) == (3, 2, 4)
    written = (run.folder / "output.jsonl").read_bytes().splitlines()
    assert sorted((run.folder / "export.jsonl").read_bytes().splitlines()) == sorted(written)
    codes = [line["error"]["code"] for line in _lines(exported.errors)]
    cancelled = "batch_cancelled"
    assert codes == ["second", cancelled, cancelled, "engine_died", cancelled, cancelled]


async def test_an_export_says_nothing_of_requests_without_a_line_unless_asked(tmp_path: Path) -> None:
    run = await Run(tmp_path).ok(0).write()
    first = export(run.folder)
    assert first.errors == str(run.folder / "export_errors.jsonl")
    second = export(run.folder, cancelled=False)
    assert second.errors is None
    assert not (run.folder / "export_errors.jsonl").exists()  # nor the old one


async def test_bad_input_lines_keep_their_code(tmp_path: Path) -> None:
    run = Run(tmp_path, IDS[:2], ["{nonsense", _input_line(IDS[0])])
    run.ok(0).bad(2, "invalid_json_line")
    await run.write(settings=RunSettings(skip_invalid=True))
    exported = export(run.folder)
    assert exported.errors is not None
    found = {line["custom_id"]: line["error"]["code"] for line in _lines(exported.errors)}
    assert found == {
        IDS[1]: "batch_cancelled",
        "line-3": "invalid_json_line",
        f"{IDS[0]}#line-4": "duplicate_custom_id",
    }
    assert verify(run.folder).status is VerdictStatus.INCOMPLETE


async def test_damaged_and_torn_lines_are_left_out(tmp_path: Path) -> None:
    run = await Run(tmp_path).ok(0).ok(1).ok(2).write()
    path = run.folder / "output.jsonl"
    content = bytearray(path.read_bytes())
    content[content.index(b"\n") + 200] ^= 1
    path.write_bytes(bytes(content[:-1]) + b"\nhalf")
    exported = export(run.folder)
    assert _ids(exported.output) == [IDS[0], IDS[2]]
    assert any("line 2" in note for note in exported.notes)


async def test_a_line_without_its_newline_is_exported_with_one(tmp_path: Path) -> None:
    run = await Run(tmp_path).ok(0).write()
    path = run.folder / "output.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    export(run.folder)
    assert (run.folder / "export.jsonl").read_bytes() == whole


async def test_nobodys_file_is_replaced_unasked_and_results_never(tmp_path: Path) -> None:
    run = await Run(tmp_path).ok(0).write()
    mine = tmp_path / "mine.jsonl"
    mine.write_text("precious")
    with pytest.raises(UsageError, match="exists"):
        export(run.folder, mine)
    with pytest.raises(UsageError, match="exists"):
        export(run.folder, tmp_path / "new.jsonl", mine)
    assert mine.read_text() == "precious"
    for target in (run.input, run.folder / "output.jsonl", run.folder / "run.json"):
        before = target.read_bytes()
        with pytest.raises(UsageError, match="never replaced"):
            export(run.folder, target, force=True)
        assert target.read_bytes() == before
    with pytest.raises(UsageError, match="both"):
        export(run.folder, tmp_path / "a", tmp_path / "a")
    with pytest.raises(UsageError, match="does not exist"):
        export(run.folder, tmp_path / "no" / "a")
    exported = export(run.folder, mine, force=True)
    assert _ids(mine) == [IDS[0]]
    assert exported.errors == str(tmp_path / "mine_errors.jsonl")


async def test_without_the_input_there_is_no_order(tmp_path: Path) -> None:
    run = await Run(tmp_path).ok(1).ok(0).write()
    copy = tmp_path / "copy.jsonl"
    run.input.rename(copy)
    with pytest.raises(UsageError, match="is gone"):
        export(run.folder)
    assert _ids(export(run.folder, input_path=copy).output) == IDS[:2]
