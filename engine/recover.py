"""What is on disk, and mending it before anything is appended.

A journal is read as a stream: whole sealed lines are good; an unterminated rest at the end is a torn tail, which a
crash leaves; everything else that no seal vouches for is damage. `scan` looks and changes nothing (so `verify` uses it
too); `repair` moves torn and damaged bytes aside, and may be called only by the owner of the run's lock.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from engine.disk import IO, Io, crash_point, sync_folder, write_all
from engine.errors import ResultsDamaged
from engine.output import PREFIX, SEAL_DIGITS, SEAL_END, SEAL_START, digest, is_sealed
from engine.publish import publication

CHUNK_LINES = 4096
COPY_BYTES = 1 << 20

MAX_ENDS = 8
"""Closing braces tried as the end of a whole line inside a damaged one; more would cost a hash of the line each."""


class Damage(NamedTuple):
    """Bytes in a journal that are not what was written. The request they answered runs again."""

    file: str
    line: int  # counted from 1, in the file as it was found
    offset: int
    length: int
    reason: str
    custom_id: str | None = None  # as far as it can still be read

    def sentence(self) -> str:
        who = f' (custom_id "{self.custom_id}")' if self.custom_id else ""
        return f"{self.file} line {self.line}{who}, byte {self.offset}, {self.length} bytes: {self.reason}"


class Torn(NamedTuple):
    """The unfinished line that a crash left at the end of a journal. It was never acknowledged."""

    file: str
    offset: int
    length: int

    def sentence(self) -> str:
        return f"{self.file}: an unfinished line of {self.length} bytes at byte {self.offset}"


class Scan(NamedTuple):
    """What one journal holds."""

    size: int
    lines: int  # good ones
    damage: list[Damage]
    torn: Torn | None
    unended: list[int]  # ends of good lines that no newline follows

    @property
    def sound(self) -> bool:
        return not (self.damage or self.torn or self.unended)


def scan(path: Path, *, io: Io = IO, on_line: Callable[[int, bytes], None] | None = None) -> Scan:
    """Check every line of a journal, calling `on_line(offset, line without newline)` for each good one.

    Constant memory but for 8 bytes a line. A second copy of a line is damage, yet `on_line` has seen it by then.
    """
    damage: list[Damage] = []
    unended: list[int] = []
    torn: Torn | None = None
    seals = bytearray()
    offset = number = lines = 0
    with io.reader(path) as file:
        for raw in file:
            number += 1
            ended = raw.endswith(b"\n")
            line = raw[:-1] if ended else raw
            hashed = digest(line)
            if hashed.hex()[:SEAL_DIGITS].encode() == line[SEAL_START:SEAL_END] and line.startswith(PREFIX):
                seals += hashed[:8]
                lines += 1
                if on_line is not None:
                    on_line(offset, line)
                if not ended:
                    unended.append(offset + len(line))
            else:
                pieces = _pieces(line)
                for at, piece in enumerate(pieces):
                    start, end = offset + piece.start, offset + piece.end
                    last = piece.end == len(line)
                    if piece.good:
                        if at and pieces[at - 1].good:
                            reason = "no newline between two lines"
                            damage.append(Damage(path.name, number, start, 0, reason))
                        good = line[piece.start : piece.end]
                        seals += digest(good)[:8]
                        lines += 1
                        if on_line is not None:
                            on_line(start, good)
                        if not (last and ended):
                            unended.append(end)
                    elif last and not ended:
                        torn = Torn(path.name, start, end - start)
                    else:
                        # the newline of a damaged line goes with it
                        length = end - start + (1 if last else 0)
                        bad = line[piece.start : piece.end]
                        damage.append(Damage(path.name, number, start, length, _reason(bad), _custom_id(bad)))
            offset += len(raw)
    doubled = _doubled(path, seals, io)
    if doubled:
        # a doubled line that came without its newline is dropped whole, so nothing is to be ended there
        gone = {d.offset + d.length for d in doubled}
        unended = [end for end in unended if end not in gone]
        damage = sorted([*damage, *doubled], key=lambda d: d.offset)
    return Scan(offset, lines - len(doubled), damage, torn, unended)


class _Piece(NamedTuple):
    start: int
    end: int
    good: bool


def _pieces(line: bytes) -> list[_Piece]:
    """Cut a line that is not sealed as a whole into sealed lines and what is between them.

    Two lines are glued when the newline between them is damaged, or when something appended after a torn line. The
    prefix can't stand inside a line of ours: quotes in strings are escaped.
    """
    pieces: list[_Piece] = []
    done = 0
    starts = [match.start() for match in re.finditer(re.escape(PREFIX), line)]
    for start, limit in itertools.pairwise([*starts, len(line)]):
        end = _sealed_end(line, start, limit)
        if end is None:
            continue
        if start > done:
            pieces.append(_Piece(done, start, good=False))
        pieces.append(_Piece(start, end, good=True))
        done = end
    if done < len(line) or not line:
        pieces.append(_Piece(done, len(line), good=False))
    return pieces


def _sealed_end(line: bytes, start: int, limit: int) -> int | None:
    at = limit
    for _ in range(MAX_ENDS):
        at = line.rfind(b"}", start, at)
        if at < 0:
            return None
        if is_sealed(line[start : at + 1]):
            return at + 1
    return None


def _reason(bad: bytes) -> str:
    if not bad:
        return "an empty line"
    if b"\0" in bad:
        return "zero bytes, as a file system leaves them for writes that never reached the disk"
    if not bad.startswith(PREFIX):
        return "not a line of this journal, or its beginning is damaged"
    return "the line is not what was written (its seal does not fit)"


def _custom_id(bad: bytes) -> str | None:
    """The id in a damaged line, for the report only."""
    match = re.search(rb'"custom_id":("(?:[^"\\]|\\.)*")', bad)
    if not match:
        return None
    try:
        return msgspec.json.decode(match[1], type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _doubled(path: Path, seals: bytearray, io: Io) -> list[Damage]:
    """Second and later copies of lines. The seals' first 8 bytes name the suspects, a second look convicts them."""
    values = np.sort(np.frombuffer(bytes(seals), dtype=">u8"))
    suspects = {int(v) for v in values[1:][values[1:] == values[:-1]]}
    if not suspects:
        return []
    seen: set[bytes] = set()
    doubled: list[Damage] = []
    offset = number = 0
    with io.reader(path) as file:
        for raw in file:
            number += 1
            line = raw.removesuffix(b"\n")
            pieces = [_Piece(0, len(line), good=True)] if is_sealed(line) else _pieces(line)
            for piece in pieces:
                text = line[piece.start : piece.end]
                if not piece.good or int.from_bytes(digest(text)[:8]) not in suspects:
                    continue
                mark = text[SEAL_START:SEAL_END]
                if mark in seen:
                    length = len(text) + (1 if piece.end == len(line) and raw.endswith(b"\n") else 0)
                    reason = "the same line once more"
                    doubled.append(Damage(path.name, number, offset + piece.start, length, reason, _custom_id(text)))
                seen.add(mark)
            offset += len(raw)
    return doubled


# --- mending ----------------------------------------------------------------------------------------------------------


def repair(path: Path, found: Scan, *, io: Io = IO) -> int:
    """Leave only good, ended lines in a journal, everything else beside it, all of it on disk. Returns its length.

    Only a torn tail or a missing last newline: cut or completed in place. Damage before the end: the journal is written
    anew and renamed over, the one case where that is done to it.
    """
    if found.torn:
        _keep_aside(path, ".torn", [(found.torn.offset, found.torn.length)], io)
        crash_point("torn-saved")
    end = found.torn.offset if found.torn else found.size
    if found.damage:
        _keep_aside(path, ".corrupt", [(d.offset, d.length) for d in found.damage if d.length], io)
        crash_point("corrupt-saved")
        _rewrite(path, found, end, io)
    fd = io.open(path, os.O_RDWR | os.O_APPEND)
    try:
        size = os.fstat(fd).st_size
        if not found.damage:
            if size != end:
                io.ftruncate(fd, end)
                crash_point("tail-cut")
            if found.unended:
                write_all(io, fd, b"\n")
            size = end + len(found.unended)
        # also where nothing was mended: after a kill the last lines may be in the page cache only
        io.fsync(fd)
    finally:
        io.close(fd)
    return size


def _keep_aside(path: Path, suffix: str, ranges: list[tuple[int, int]], io: Io) -> None:
    """Append these bytes, each range with a newline after it, to the file beside the journal, and sync both."""
    fd = io.open(path.with_name(path.name + suffix), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        with io.reader(path) as file:
            for offset, length in ranges:
                file.seek(offset)
                data = file.read(length)
                write_all(io, fd, data if data.endswith(b"\n") else data + b"\n")
        io.fsync(fd)
    finally:
        io.close(fd)
    sync_folder(io, path.parent)


def _rewrite(path: Path, found: Scan, end: int, io: Io) -> None:
    cuts = [(d.offset, d.length) for d in found.damage if d.length]
    breaks = set(found.unended)
    edges = sorted({0, end, *breaks, *(o for o, _ in cuts), *(o + n for o, n in cuts)})
    dropped = {offset for offset, _ in cuts}
    with io.reader(path) as file, publication(path, io=io) as out:
        for start, stop in itertools.pairwise(edges):
            if start in dropped or stop > end:
                continue
            file.seek(start)
            left = stop - start
            while left:
                data = file.read(min(left, COPY_BYTES))
                if not data:
                    raise OSError(5, f"{path.name} became shorter while it was being mended")
                out.write(data)
                left -= len(data)
            if stop in breaks:
                out.write(b"\n")


# --- reading back -----------------------------------------------------------------------------------------------------


class Done(NamedTuple):
    """A request with a line on disk."""

    custom_id: str
    request_id: str
    ok: bool
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish: str = ""
    reasoning_tokens: int = 0
    cached_tokens: int = 0


class _Completed(msgspec.Struct):
    reasoning_tokens: int = 0


class _Prompted(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    completion_tokens_details: _Completed | None = None
    prompt_tokens_details: _Prompted | None = None


class _Body(msgspec.Struct):
    usage: _Usage | None = None


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: _Body


class _Flat(msgspec.Struct):
    code: str


class _Own(msgspec.Struct):
    request_id: str = ""
    finish: str = ""
    usage: _Usage | None = None


class _Record(msgspec.Struct):
    custom_id: str
    response: _Response | None
    error: _Flat | None
    gptoss: _Own


_decode = msgspec.json.Decoder(_Record).decode


def read_line(line: bytes) -> Done:
    """The facts of one of our own lines. Raises msgspec's errors on anything else."""
    record = _decode(line)
    response, own = record.response, record.gptoss
    usage = own.usage
    if response is not None and usage is None:
        usage = response.body.usage
    return Done(
        record.custom_id,
        response.request_id if response is not None else own.request_id,
        record.error is None and response is not None and 200 <= response.status_code < 300,
        usage.prompt_tokens if usage else 0,
        usage.completion_tokens if usage else 0,
        own.finish,
        usage.completion_tokens_details.reasoning_tokens if usage and usage.completion_tokens_details else 0,
        usage.prompt_tokens_details.cached_tokens if usage and usage.prompt_tokens_details else 0,
    )


def read_done(path: Path, *, upto: int, io: Io = IO) -> Iterator[list[Done]]:
    """The lines of a mended journal before byte `upto`, in chunks. Seals are not checked again."""
    chunk: list[Done] = []
    offset = 0
    with io.reader(path) as file:
        for line in file:
            if offset >= upto:
                break
            try:
                chunk.append(read_line(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ResultsDamaged(
                    f"{path} byte {offset}: a sealed line that this version can't read ({error})",
                    advice="A newer version may have written it: use that version for this run.",
                ) from error
            offset += len(line)
            if len(chunk) >= CHUNK_LINES:
                yield chunk
                chunk = []
    if chunk:
        yield chunk
