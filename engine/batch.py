"""Batch files: reads and validates every line, and remembers where each one is, not what it says.

`scan` reads a file once, in near-constant memory: a line becomes a request or a problem (`engine.lines`) and leaves a
few dozen bytes in the `BatchIndex`. A bad line is data (`LineProblem`), never an exception.

Lines are counted on the byte \\n of the untouched file, blank ones included, so that numbers agree with every editor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from engine import lines
from engine.batch_index import BatchIndex, Entries
from engine.bodies import nearest, show
from engine.errors import BatchInvalid
from engine.lines import Form, LineProblem, Reading, Request, request_id

__all__ = ["BatchIndex", "LineProblem", "Request", "Scan", "request_id", "scan"]

MAX_PROBLEMS = 1000
"""How many problems a Scan keeps; `by_code` counts all, and `on_problem` hears of all."""

READ_BYTES = 1024 * 1024

_BOM = b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class Scan:
    """A validated file. `errors` counts bad lines, `warnings` remarks; `problems` keeps the first of them, by line."""

    index: BatchIndex
    endpoint: str
    sha256: str
    size: int
    errors: int
    warnings: int
    problems: list[LineProblem]
    by_code: dict[str, int]
    notice: str = ""  # how the file was read, where it is not in OpenAI's form

    @property
    def good(self) -> int:
        """Requests that can be run."""
        return len(self.index) - self.errors


class _Report:
    """Counts all problems, tells each, keeps the first."""

    def __init__(self, on_problem: Callable[[LineProblem], None] | None) -> None:
        self.on_problem = on_problem
        self.errors = 0
        self.warnings = 0
        self.kept: list[LineProblem] = []
        self.by_code: Counter[str] = Counter()
        self._model: str | None = None  # of the first good line that names one

    def line(self, reading: Reading, number: int) -> None:
        """What there is to say about a line: one problem for all its errors, a warning for each remark."""
        if reading.bad:
            self.add(lines.problem_of(reading, number))
        elif reading.model is not None:
            self._model = self._model or reading.model
            if reading.model != self._model and not self.by_code["model_mismatch"]:
                self.add(_other_model(number, reading, self._model))
        for fault in reading.found:
            if fault.level == "error" or (fault.code == "model_missing" and self.by_code["model_missing"]):
                continue
            self.add(
                LineProblem(number, reading.custom_id, fault.code, fault.message, fault.fix, fault.param, "warning")
            )

    def add(self, problem: LineProblem) -> None:
        self.by_code[problem.code] += 1
        if problem.level == "error":
            self.errors += 1
        else:
            self.warnings += 1
        if len(self.kept) < 2 * MAX_PROBLEMS:  # duplicates come last, whatever their line: cut only at the end
            self.kept.append(problem)
        if self.on_problem is not None:
            self.on_problem(problem)

    def first(self) -> list[LineProblem]:
        return sorted(self.kept, key=lambda problem: problem.line)[:MAX_PROBLEMS]


def scan(
    path: Path | str,
    *,
    limit: int | None = None,
    on_progress: Callable[[float], None] | None = None,
    on_problem: Callable[[LineProblem], None] | None = None,
) -> Scan:
    """Read and validate a batch file.

    `limit`: only the first so many requests, good or bad; size and sha256 are the whole file's all the same.
    `on_progress` is told the fraction of bytes read; `on_problem` every problem, duplicates after all others. Whatever
    they raise ends the scan. Raises BatchInvalid only for what concerns the whole file.
    """
    path = Path(path).absolute()
    with _open(path) as f:
        return _scan(path, f, limit, on_progress, _Report(on_problem))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Around reads of the file only: an OSError of a callback is not ours to explain."""
    try:
        yield
    except OSError as e:
        raise BatchInvalid(
            f"{path} can't be read: {e.strerror or e}", advice="Check the path and its permissions."
        ) from e


def _open(path: Path) -> BinaryIO:
    try:
        with _reading(path):
            exists = path.exists()
            mode = path.stat().st_mode if exists else 0
    except ValueError:  # a NUL in the path
        raise BatchInvalid(f"{str(path)!r} is no path") from None
    if not exists:
        raise BatchInvalid(f"{path} does not exist", advice=_similar(path))
    if stat.S_ISDIR(mode):
        raise BatchInvalid(f"{path} is a folder", advice="Name a batch file in it.")
    if not stat.S_ISREG(mode):
        raise BatchInvalid(
            f"{path} is not a regular file", advice="Lines are read again later: write them to a file first."
        )
    with _reading(path):
        return path.open("rb", buffering=READ_BYTES)


def _similar(path: Path) -> str:
    try:
        names = tuple(sorted(p.name for p in path.parent.iterdir()))
    except OSError:
        return f"There is no folder {path.parent} either."
    guess = nearest(path.name, names)
    return f"Did you mean {path.parent / guess}?" if guess else "Check the path."


class _RawLine(NamedTuple):
    raw: bytes  # cut at lines.MAX_LINE_BYTES + 1
    offset: int
    length: int  # without the newline
    number: int


def _lines_of(path: Path, f: BinaryIO, digest: hashlib._Hash, first_offset: int) -> Iterator[_RawLine]:
    """The lines of a file with true numbers, none blank."""
    offset, number = first_offset, 0
    with _reading(path):  # what a consumer raises at a yield does not pass through here
        while raw := f.readline(lines.MAX_LINE_BYTES + 1):
            number += 1
            digest.update(raw)
            length = len(raw)
            start = offset
            while not raw.endswith(b"\n") and length > lines.MAX_LINE_BYTES and (more := f.readline(READ_BYTES)):
                digest.update(more)
                length += len(more)
                if more.endswith(b"\n"):
                    break
            offset += length
            text = raw.removesuffix(b"\n")
            if text.strip():
                yield _RawLine(text, start, len(text) if length == len(raw) else length, number)


def _scan(
    path: Path, f: BinaryIO, limit: int | None, on_progress: Callable[[float], None] | None, report: _Report
) -> Scan:
    digest = hashlib.sha256()
    with _reading(path):
        size = os.fstat(f.fileno()).st_size
        start = _skip_mark(path, f, digest, report)
    entries, endpoint = Entries(), ""
    form: Form = "openai"
    told = 0
    for line in _lines_of(path, f, digest, start):
        if not entries:
            form = lines.form_of(path, line.raw)
        reading = lines.read(line.raw, form, line.number, endpoint)
        if not endpoint and not reading.bad:
            endpoint = reading.url
        report.line(reading, line.number)
        entries.add(line.offset, line.length, line.number, reading)
        if on_progress is not None and line.offset - told >= READ_BYTES:
            told = line.offset
            on_progress(min(1.0, line.offset / max(size, 1)))
        if limit is not None and len(entries) >= limit:
            break
    with _reading(path):
        while block := f.read(READ_BYTES):  # with a limit: the rest counts for the digest only
            digest.update(block)
    if not entries:
        raise BatchInvalid(f"{path} has no request in it: {'it is empty' if not size else 'all lines are blank'}")
    index = BatchIndex(path, form, endpoint, entries, report.add)
    if on_progress is not None:
        on_progress(1.0)
    return Scan(
        index,
        endpoint,
        digest.hexdigest(),
        size,
        report.errors,
        report.warnings,
        report.first(),
        dict(report.by_code),
        lines.NOTICES[form],
    )


def _skip_mark(path: Path, f: BinaryIO, digest: hashlib._Hash, report: _Report) -> int:
    """Go past a byte order mark. Files that are no UTF-8 text from their first bytes on are refused as a whole."""
    head = f.read(1024)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in head[:4]:
        raise BatchInvalid(f"{path} is UTF-16 text", advice="Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW.")
    if head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")):
        raise BatchInvalid(f"{path} is compressed", advice="Unpack it first.")
    if head.startswith(b"GGUF"):
        raise BatchInvalid(f"{path} is a model, not a batch", advice="Name it with --model, and a batch file to run.")
    if not head.strip(b"\0") and head:
        raise BatchInvalid(f"{path} is not text: it begins with zero bytes", advice="Name a JSONL or text file.")
    start = len(_BOM) if head.startswith(_BOM) else 0
    f.seek(start)
    digest.update(head[:start])
    if start:
        report.add(
            LineProblem(
                1,
                None,
                "byte_order_mark",
                "the file begins with a byte order mark, which is skipped",
                "Save it as UTF-8 without BOM if other programs read it too.",
                None,
                "warning",
            )
        )
    return start


def _other_model(number: int, reading: Reading, first: str) -> LineProblem:
    return LineProblem(
        number,
        reading.custom_id,
        "model_mismatch",
        f"the line names the model {show(reading.model)}, the first good line {show(first)}",
        "A run has one model: it answers all lines. Split the file if that is not meant.",
        "model",
        "warning",
    )
