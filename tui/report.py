"""What a run wrote, for the end of a command: answers with their marks, the first failures, where things are.

Reads finished lines of the results files by path; they are plain JSON. Bounded: of large files only the needed part.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tui.text import SafeText, one_line, safe

TAIL_BYTES = 256 * 1024
REASONS = 3
PROBLEMS = 20


class Answer(NamedTuple):
    custom_id: str
    text: str
    finish: str
    calls: tuple[tuple[str, object], ...] = ()  # of tools: name and arguments


class Failure(NamedTuple):
    custom_id: str
    code: str
    message: str


class Expected(NamedTuple):
    """What an answer is held against: kind exact (the same, surrounding space aside), call (one tool call with this
    name and these arguments), contains, story (all strings)."""

    kind: str
    wanted: list[str]
    call: tuple[str, object] | None = None

    def holds(self, answer: Answer) -> bool:
        if self.kind == "call":
            return answer.calls == (self.call,)
        if self.kind == "exact":
            return answer.text.strip() == self.wanted[0].strip()
        return all(part in answer.text for part in self.wanted)


class Lines:
    """The whole lines of a growing file, each once."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self._offset = offset

    def new(self) -> Iterator[dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    self._offset += len(line)
                    if (item := _object(line)) is not None:
                        yield item
        except OSError:
            return  # not there yet, or moved away: there is nothing to show


def _object(line: bytes) -> dict[str, Any] | None:
    """None for a damaged line: `verify` is the one to complain."""
    try:
        item = json.loads(line)
    except ValueError:
        return None
    return item if isinstance(item, dict) else None


def _tail(path: Path) -> list[dict[str, Any]]:
    try:
        size = path.stat().st_size
        start = max(0, size - TAIL_BYTES)
        with path.open("rb") as file:
            file.seek(start)
            if start:
                file.readline()
            return list(Lines(path, file.tell()).new())
    except OSError:
        return []


def answer_of(line: dict[str, Any]) -> Answer | None:
    """The answer in a success line of either endpoint."""
    body = (line.get("response") or {}).get("body") or {}
    texts, finish = [], ""
    called: list[tuple[str, object]] = []
    for choice in body.get("choices") or []:
        message = choice.get("message") or {}
        text = choice.get("text") if "text" in choice else message.get("content")
        calls = [call.get("function") or {} for call in message.get("tool_calls") or []]
        called.extend((str(call.get("name")), _arguments(call.get("arguments"))) for call in calls)
        texts.append("\n".join([*([text] if text else []), *(f"{c.get('name')}({c.get('arguments')})" for c in calls)]))
        finish = str(choice.get("finish_reason") or "")
    if not texts:
        return None
    return Answer(str(line.get("custom_id", "")), "\n".join(texts), finish, tuple(called))


def _arguments(text: object) -> object:
    """What the text of a call's arguments means; the text itself where it is no JSON."""
    try:
        return json.loads(str(text))
    except ValueError:
        return text


def failure_of(line: dict[str, Any]) -> Failure:
    error = line.get("error") or ((line.get("response") or {}).get("body") or {}).get("error") or {}
    return Failure(str(line.get("custom_id", "")), str(error.get("code") or "error"), str(error.get("message") or ""))


def expected_beside(input_path: Path) -> dict[str, Expected]:
    """`<stem>.expected.jsonl` beside a batch: custom_id → what its answer should be. Empty where there is none."""
    found: dict[str, Expected] = {}
    for item in Lines(input_path.with_name(f"{input_path.stem}.expected.jsonl")).new():
        wanted = item.get("expected")
        call = None
        if isinstance(wanted, dict):
            call = (str(wanted.get("name")), wanted.get("arguments"))
            wanted = f"{call[0]}({json.dumps(call[1], ensure_ascii=False, separators=(',', ':'))})"
        strings = [str(part) for part in wanted] if isinstance(wanted, list) else [str(wanted)]
        found[str(item.get("custom_id"))] = Expected(str(item.get("kind", "exact")), strings, call)
    return found


def answer_lines(answer: Answer, expected: Expected | None) -> list[SafeText]:
    """`custom_id: answer`, further lines of it indented, and whether it is right where that is known."""
    first, *rest = safe(answer.text).strip().split("\n")
    mark = ""
    if expected is not None:
        mark = "  [right]" if expected.holds(answer) else f"  [WRONG, expected {one_line(' | '.join(expected.wanted))}]"
    cut = "  [cut at its token limit]" if answer.finish == "length" else ""
    lines = [f"  {one_line(answer.custom_id)}: {first}", *(f"      {line}" for line in rest)]
    lines[-1] += cut + mark
    return [SafeText(line) for line in lines]


def failures(folder: Path) -> list[Failure]:
    """The newest failures, each custom_id once."""
    newest: dict[str, Failure] = {}
    for line in reversed(_tail(folder / "errors.jsonl")):
        failure = failure_of(line)
        newest.setdefault(failure.custom_id, failure)
        if len(newest) == REASONS:
            break
    return list(newest.values())


def failure_line(failure: Failure) -> SafeText:
    return SafeText(f"    {one_line(failure.custom_id)}: {one_line(failure.code)}: {one_line(failure.message)}")


def problem_line(item: dict[str, Any]) -> SafeText:
    """One bad line of a batch."""
    who = f" (custom_id {one_line(json.dumps(item['custom_id'], ensure_ascii=False))})" if item.get("custom_id") else ""
    level = "warning: " if item.get("level") == "warning" else ""
    fix = f" {one_line(str(item['fix']))}" if item.get("fix") else ""
    message = one_line(str(item.get("message", ""))).rstrip(".")
    return SafeText(f"line {item.get('line')}{who}: {level}{message}. [{one_line(str(item.get('code', '')))}]{fix}")


def problems(folder: Path) -> tuple[list[SafeText], dict[str, int]]:
    """The first bad lines that a run found in its input, and how many of each code; empty where all lines hold."""
    shown: list[SafeText] = []
    codes: dict[str, int] = {}
    for item in Lines(folder / "problems.jsonl").new():
        if item.get("level") == "warning":
            continue
        code = str(item.get("code", ""))
        codes[code] = codes.get(code, 0) + 1
        if len(shown) < PROBLEMS:
            shown.append(problem_line(item))
    return shown, codes


def code_counts(codes: dict[str, int]) -> SafeText:
    return SafeText(", ".join(f"{n} {one_line(code)}" for code, n in sorted(codes.items(), key=lambda kv: -kv[1])))


def shown_path(path: Path) -> str:
    """Relative to the current folder where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
