"""The sample batches as they are in the repository, and the checker of their answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.batch import scan
from tools import make_batches

BATCHES = Path(__file__).parents[1] / "batches"
SIZES = {"demo_10": 10, "batch_10": 10, "batch_100": 100}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_samples_hold_and_have_an_answer_for_each_line(name: str, size: int) -> None:
    found = scan(BATCHES / f"{name}.jsonl")
    assert (len(found.index), found.problems) == (size, [])
    expected = rows(BATCHES / f"{name}.expected.jsonl")
    assert [row["custom_id"] for row in expected] == [found.index.custom_id(i) for i in range(size)]
    assert {row["kind"] for row in expected} <= {"exact", "story", "call"}


def test_the_hundred_cover_every_family() -> None:
    bodies = [row["body"] for row in rows(BATCHES / "batch_100.jsonl")]
    families = {row["custom_id"].rsplit("-", 1)[0] for row in rows(BATCHES / "batch_100.jsonl")}
    assert families == set(make_batches.tasks.FAMILIES)
    assert {body["reasoning_effort"] for body in bodies} == {"low", "medium", "high"}
    assert {body["temperature"] for body in bodies} == {0}


def test_the_script_makes_the_files_that_are_there(tmp_path: Path) -> None:
    assert make_batches.main(["--out", str(tmp_path)]) == 0
    for path in sorted(tmp_path.iterdir()):
        assert path.read_text() == (BATCHES / path.name).read_text(), f"run tools/make_batches.py: {path.name} is old"


def message_for(row: dict[str, Any]) -> dict[str, Any]:
    wanted = row["expected"]
    if row["kind"] == "call":
        function = {"name": wanted["name"], "arguments": json.dumps(wanted["arguments"])}
        return {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    return {"content": " ".join(wanted) + ". The end." if row["kind"] == "story" else wanted}


def write_run(folder: Path, messages: dict[str, dict[str, Any]]) -> Path:
    (folder / "run.json").write_text(json.dumps({"input_path": str(BATCHES / "batch_100.jsonl")}))
    with (folder / "output.jsonl").open("w") as f:
        for custom_id, message in messages.items():
            body = {"choices": [{"index": 0, "message": message}]}
            f.write(json.dumps({"custom_id": custom_id, "response": {"status_code": 200, "body": body}}) + "\n")
    return folder


def test_check_counts_right_wrong_and_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = rows(BATCHES / "batch_100.expected.jsonl")
    messages = {row["custom_id"]: message_for(row) for row in expected}
    assert make_batches.main(["--check", str(write_run(tmp_path, messages))]) == 0
    assert "100/100 right" in capsys.readouterr().out
    first, *_, last = messages
    messages[first] = {"content": "nonsense"}
    del messages[last]
    write_run(tmp_path, messages)
    assert make_batches.main(["--check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "98/100 right" in said
    assert f"{first}: expected" in said
    assert f"{last}: no answer" in said
    assert make_batches.main(["--check", str(tmp_path), "--at-least", "0.98"]) == 0
    assert make_batches.main(["--check", str(tmp_path), "--at-least", "0.985"]) == 1


@pytest.mark.parametrize("kind", ["exact", "story", "call"])
def test_each_kind_of_answer_can_be_wrong(kind: str) -> None:
    row = next(row for row in rows(BATCHES / "batch_100.expected.jsonl") if row["kind"] == kind)
    assert make_batches.judge(row, message_for(row))
    for wrong in ({"content": None}, {"content": "x"}, {"content": "", "tool_calls": []}):
        assert not make_batches.judge(row, wrong)


def test_a_folder_without_a_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_batches.main(["--check", str(tmp_path)]) == 2
    assert "can't be checked" in capsys.readouterr().err
