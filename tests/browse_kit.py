"""What the tests of browsing share: run folders, and the plain reading that the quick one is held against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from engine import batch
from engine.browse import Browse
from engine.folder import write_record
from engine.job import JobState
from engine.output import Line, error_line, line_for
from engine.pages import AskFind, AskPage, Found, OpenRun, Page
from engine.protocol import Choice, Completion, Finish, RequestError, RunSettings, Timing, Usage
from engine.record import RunRecord


def asked(custom_id: str, text: str = "hi", **body: Any) -> dict[str, Any]:
    """A line of a batch."""
    body = {"model": "nano", "messages": [{"role": "user", "content": text}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


class _Asked(msgspec.Struct):
    custom_id: str
    request_id: str
    url: str = "/v1/chat/completions"


def answered(
    custom_id: str,
    text: str = "yes",
    *,
    reasoning: str | None = None,
    finish: Finish = Finish.STOP,
    seconds: float = 1.0,
    request_id: str = "req_" + "0" * 32,
) -> bytes:
    """A line of output.jsonl."""
    completion = Completion(
        finish=finish,
        choices=[Choice(index=0, finish=finish, content=text, reasoning=reasoning)],
        usage=Usage(prompt_tokens=20, completion_tokens=7, reasoning_tokens=3, cached_tokens=1),
        timing=Timing(queued_s=0.5, prefill_s=0.25, decode_s=seconds - 0.25),
        notes=["a note"],
    )
    return line_for(_Asked(custom_id, request_id), completion, model="nano", created=1.0).data


def failed(
    custom_id: str, code: str = "engine_died", message: str = "It died. Twice.", *, status: int | None = None
) -> bytes:
    """A line of errors.jsonl; with a status the request's own fault."""
    made: Line = error_line(
        custom_id, "req_" + "0" * 32, RequestError(code=code, message=message, status=status), created=1.0
    )
    return made.data


class Folder:
    """A run and its batch file."""

    def __init__(self, root: Path, name: str = "b.jsonl") -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.path = root / "results" / "b-1"
        self.batch = root / name
        self.path.mkdir(parents=True)

    def record(self, *, limit: int | None = None, aborted: tuple[str, ...] = (), input_bytes: int = 0) -> None:
        record = RunRecord(
            job="b-1",
            state=JobState.INTERRUPTED,
            input_path=str(self.batch),
            input_bytes=input_bytes,
            endpoint="/v1/chat/completions",
            settings=RunSettings(limit=limit),
            created=1.0,
            aborted=list(aborted),
        )
        write_record(self.path, record)

    def input(self, *lines: object) -> None:
        """Objects become JSON, bytes and strings stand as they are."""
        raws = (
            x if isinstance(x, bytes) else x.encode() if isinstance(x, str) else json.dumps(x).encode() for x in lines
        )
        self.batch.write_bytes(b"".join(raw + b"\n" for raw in raws))

    def output(self, *lines: bytes) -> None:
        with (self.path / "output.jsonl").open("ab") as file:
            file.write(b"".join(lines))

    def errors(self, *lines: bytes) -> None:
        with (self.path / "errors.jsonl").open("ab") as file:
            file.write(b"".join(lines))

    def open(self) -> Browse:
        browse = Browse()
        answer = browse.answer(OpenRun(folder=str(self.path)))
        assert isinstance(answer, Page)
        return browse


def whole(browse: Browse, **question: Any) -> Page:
    """The page when everything is read."""
    while browse.work():
        pass
    page = browse.answer(AskPage(**question))
    while page is None:
        browse.work()
        page = browse.answer(AskPage(**question))
    assert isinstance(page, Page)
    return page if page.fraction == 1 else whole(browse, **question)


def found(browse: Browse, find: str, **question: Any) -> Found:
    answer = browse.answer(AskFind(find=find, **question))
    while answer is None:
        browse.work()
        answer = browse.answer(AskFind(find=find, **question))
    assert isinstance(answer, Found)
    return answer


def ids(page: Page) -> list[str]:
    return [row.custom_id for row in page.rows]


def names_by_the_runner(path: Path, limit: int | None = None) -> list[str]:
    """What the runner calls each line of a batch."""
    index = batch.scan(path, limit=limit).index
    return [index.custom_id(i) for i in range(len(index))]
