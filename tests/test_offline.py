"""engine.offline: JSON lines and exit codes, through a real process and in this one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine import ledger, offline

GOOD = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "nano", "messages": [{"role": "user", "content": "hi"}]},
}


def call(capfdbinary: pytest.CaptureFixture[bytes], *arguments: object) -> tuple[int, list[dict[str, Any]]]:
    code = offline.main([str(a) for a in arguments])
    out, err = capfdbinary.readouterr()
    assert err == b""
    return code, [json.loads(line) for line in out.splitlines()]


def test_validate_as_a_command(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps(GOOD) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "engine.offline", "validate", path], capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    assert [x["kind"] for x in lines] == ["progress", "summary"]
    assert (lines[-1]["requests"], lines[-1]["errors"], lines[-1]["endpoint"]) == (1, 0, "/v1/chat/completions")


def test_validate_lists_problems(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD) + "\nbroken\n")
    for extra in ([], ["--all"]):
        code, lines = call(capfdbinary, "validate", path, *extra)
        assert code == 2
        problems = [x for x in lines if x["kind"] == "problem"]
        assert sorted((x["line"], x["code"]) for x in problems) == [
            (2, "duplicate_custom_id"),
            (3, "invalid_json_line"),
        ]
        assert lines[-1]["kind"] == "summary"
        assert lines[-1]["listed"] == 2
        assert lines[-1]["errors_by_code"] == {"duplicate_custom_id": 1, "invalid_json_line": 1}
    assert call(capfdbinary, "validate", path, "--limit", 1)[0] == 0


def test_warnings_are_no_errors(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = tmp_path / "b.jsonl"
    other = {**GOOD, "custom_id": "b", "body": {**GOOD["body"], "model": "other"}}
    path.write_text(f"{json.dumps(GOOD)}\n{json.dumps(other)}\nbroken\n")
    _, lines = call(capfdbinary, "validate", path, "--all")
    assert lines[-1]["by_code"] == {"model_mismatch": 1, "invalid_json_line": 1}
    assert lines[-1]["errors_by_code"] == {"invalid_json_line": 1}


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (["validate", "/nowhere.jsonl"], 2, "BatchInvalid"),
        (["validate"], 2, "UsageError"),
        (["validate", "x", "--limit", "0"], 2, "UsageError"),
        (["nonsense"], 2, "UsageError"),
        ([], 2, "UsageError"),
        (["export", "/nowhere"], 2, "JobNotFound"),
        (["doctor", "--only", "weather"], 2, "UsageError"),
    ],
)
def test_failures_are_an_error_line(
    arguments: list[str], code: int, name: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    got, lines = call(capfdbinary, *arguments)
    assert got == code
    assert lines[-1]["kind"] == "error"
    assert (lines[-1]["code"], lines[-1]["exit_code"]) == (name, code)
    assert lines[-1]["message"]


def test_verify_speaks_for_a_missing_run(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    code, lines = call(capfdbinary, "verify", tmp_path / "none")
    assert code == ledger.verify(tmp_path / "none").exit_code != 0
    assert lines[-1]["kind"] == "summary"


def test_doctor(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    code, lines = call(capfdbinary, "doctor", "--workspace", tmp_path)
    findings = [x for x in lines if x["kind"] == "finding"]
    assert lines[-1]["kind"] == "summary"
    assert lines[-1]["error"] == sum(f["level"] == "error" for f in findings)
    assert code == (1 if lines[-1]["error"] else 0)


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text("broken\n" * 20000)
    with subprocess.Popen(
        [sys.executable, "-m", "engine.offline", "validate", "--all", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1
