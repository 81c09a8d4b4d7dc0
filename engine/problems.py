"""What a run keeps of the reading of its batch: problems.jsonl, error lines for bad lines, sentences for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.protocol import RequestError

if TYPE_CHECKING:  # numpy comes with it
    from engine.batch import BatchIndex, LineProblem, Scan

LISTED_PROBLEMS = 100_000
"""Lines of problems.jsonl: a million equal complaints help nobody and fill the disk."""


class BadLine(NamedTuple):
    at: int
    custom_id: str
    request_id: str
    error: RequestError


def bad_lines(index: BatchIndex, group: list[int]) -> list[BadLine]:
    """In a thread: what the error lines of these bad input lines say."""
    lines: list[BadLine] = []
    for i in group:
        problem = index.problem(i)
        message = f"{problem.message.rstrip('.')}. {problem.fix}".strip()
        error = RequestError(code=problem.code, message=message, status=400, param=problem.param)
        lines.append(BadLine(i, index.bad_custom_id(i), index.request_id(i), error))
    return lines


class ProblemFile:
    """problems.jsonl: every bad line of the last reading, up to LISTED_PROBLEMS. Used in the scan's thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None
        self._left = LISTED_PROBLEMS
        path.unlink(missing_ok=True)

    def add(self, problem: LineProblem) -> None:
        if self._left <= 0:
            return
        if self._file is None:
            self._file = self._path.open("wb")
        self._left -= 1
        self._file.write(msgspec.json.encode(problem) + b"\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def sentence_of(damage: Any) -> str:
    sentence = getattr(damage, "sentence", None)
    return str(sentence()) if callable(sentence) else str(damage)


def invalid_sentence(scan: Scan) -> str:
    kinds = ", ".join(f"{n} {code}" for code, n in sorted(scan.by_code.items(), key=lambda kv: -kv[1])[:4])
    first = next((p for p in scan.problems if p.level == "error"), None)
    lines = "line does" if scan.errors == 1 else "lines do"
    where = f" First: line {first.line}: {first.message.rstrip('.')}. {first.fix}".rstrip() if first else ""
    return (
        f"{scan.errors} {lines} not hold ({kinds}); nothing was run.{where} "
        "`gptoss-tui validate FILE` lists each; --skip-invalid runs the others."
    )
