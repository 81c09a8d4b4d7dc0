"""Blocks of a run's files → entries for the table. Fast for lines as we and OpenAI write them, right for all others."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engine import lines
from engine.browse_files import Block
from engine.browse_table import (
    DONE,
    FAILED,
    INVALID,
    NAMELESS,
    NUMBERED,
    OUTPUT_BIT,
    RESULT,
    TRUNCATED,
    Ints,
    Results,
    hashes_of,
)
from engine.lines import Form
from engine.output import Answered, classify

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)
FINISHES = ["", "stop", "length", "tool_calls", "aborted", "invalid", "context_exceeded", "parse_error", "oom"]
"""By number, as the table keeps them. Others are added as they are met, up to what a byte holds."""

_finish_numbers = {name: number for number, name in enumerate(FINISHES)}
_BLANK = frozenset(b" \t\r\n\x0b\x0c")


def _finish_number(name: str) -> int:
    number = _finish_numbers.get(name)
    if number is None:
        if len(FINISHES) > 255:
            return 0
        number = _finish_numbers[name] = len(FINISHES)
        FINISHES.append(name)
    return number


# --- batch files ------------------------------------------------------------------------------------------------------

_objects = msgspec.json.Decoder(dict[str, Any])


class Lines:
    """The requests of one block of a batch file."""

    __slots__ = ("kinds", "names", "numbers", "places")

    def __init__(self, block: Block, form: Form, number: int) -> None:
        """`number`: of the block's first line."""
        raws = block.data.split(b"\n")
        if not raws[-1]:
            raws.pop()  # what follows the last newline; a block is never without a line
        lengths = np.fromiter(map(len, raws), dtype=np.int64, count=len(raws))
        starts = np.zeros(len(raws), dtype=np.int64)
        np.cumsum(lengths[:-1] + 1, out=starts[1:])
        numbers = np.arange(number, number + len(raws), dtype=np.int64)
        odd = (lengths > lines.MAX_LINE_BYTES) | (_openers(block.data, starts) > lines.MAX_DEPTH)
        empty = [i for i, raw in enumerate(raws) if not raw or (raw[0] in _BLANK and not raw.strip())]
        if empty:
            keep = np.ones(len(raws), dtype=np.bool_)
            keep[empty] = False
            raws = [raw for raw, kept in zip(raws, keep, strict=True) if kept]
            starts, numbers, odd = starts[keep], numbers[keep], odd[keep]
        self.places: Ints = starts + block.offset
        self.numbers: Ints = numbers
        self.kinds: npt.NDArray[np.uint8] = np.zeros(len(raws), dtype=np.uint8)
        if form == "text":
            self.kinds[:] = NUMBERED
            self.names: list[str] = [f"line-{n}" for n in numbers.tolist()]
            return
        values = _values(block.data, raws)
        quick = None if odd.any() else _all_ids(values)
        self.names = quick if quick is not None else self._each(raws, values, odd.tolist(), form)

    def _each(self, raws: list[bytes], values: list[dict[str, Any] | None], odd: list[bool], form: Form) -> list[str]:
        """Names of lines among which some need a closer look."""
        names: list[str] = []
        for i, (raw, value, number) in enumerate(zip(raws, values, self.numbers.tolist(), strict=True)):
            own = _own_id(value, form) if value is not None and not odd[i] else None
            if own is None:
                own = lines.read(raw, form, number, "").custom_id
            if own is None:
                self.kinds[i] = NAMELESS
            elif not own or (form == "bare" and own == f"line-{number}"):
                self.kinds[i] = NUMBERED
            names.append(own or f"line-{number}")
        return names

    def cut(self, count: int) -> None:
        self.places, self.numbers, self.kinds = self.places[:count], self.numbers[:count], self.kinds[:count]
        self.names = self.names[:count]


def _openers(data: bytes, starts: Ints) -> Ints:
    """Brackets that open in each line: more than the deepest nesting may mean that it is too deep."""
    held = np.frombuffer(data, dtype=np.uint8)
    places = np.flatnonzero((held == ord("{")) | (held == ord("[")))
    return np.diff(np.searchsorted(places, starts), append=len(places))


def _all_ids(values: list[dict[str, Any] | None]) -> list[str] | None:
    """The ids of lines of which each gives itself one."""
    names = [value.get("custom_id") if value is not None else None for value in values]
    texts = [name for name in names if type(name) is str and name]
    return texts if len(texts) == len(values) else None


def _values(data: bytes, raws: list[bytes]) -> list[dict[str, Any] | None]:
    """Each line as an object, None for what is none."""
    try:
        together = _objects.decode_lines(data)
    except UNREADABLE:
        together = []
    if len(together) == len(raws):
        return list(together)
    return [_value(raw) for raw in raws]


def _value(raw: bytes) -> dict[str, Any] | None:
    try:
        return _objects.decode(raw)
    except UNREADABLE:
        return None


def _own_id(value: dict[str, Any], form: Form) -> str | None:
    """The id a line gives itself, "" where its number names it, None where `engine.lines` has to say."""
    own = value.get("custom_id")
    if type(own) is str and own:
        return own
    if form == "bare" and "custom_id" not in value:
        own = value.get("id", "")
        return own if type(own) is str and (own or "id" not in value) else None
    return None


def own_id(raw: bytes, form: Form, number: int) -> str:
    """The id of one line that was indexed with an id of its own; "" where it has none now."""
    value = _value(raw)
    own = _own_id(value, form) if value is not None else None
    return own or lines.read(raw, form, number, "").custom_id or ""


# --- results ----------------------------------------------------------------------------------------------------------


class _Any(msgspec.Struct, gc=False):  # gc: trees have no cycles, and looking for them costs a third
    """An object whose content does not matter."""


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Body(msgspec.Struct, gc=False):
    usage: _Usage | None = None
    error: _Any | None = None


class _Response(msgspec.Struct, gc=False):
    status_code: int
    body: _Body


class _Timing(msgspec.Struct, gc=False):
    prefill_s: float = 0.0
    decode_s: float = 0.0


class _Own(msgspec.Struct, gc=False):
    finish: str = ""
    timing: _Timing | None = None
    usage: _Usage | None = None


class _Line(msgspec.Struct, gc=False):
    custom_id: str
    response: _Response | None
    error: _Any | None
    gptoss: _Own


_ours = msgspec.json.Decoder(_Line)
_anything = msgspec.json.Decoder()
_NO_USAGE = _Usage()
_GOOD, _BAD = {"length": TRUNCATED}, {"invalid": INVALID}
"""States of answers and failures by their finish, where it makes a difference."""


class Answers:
    """The lines of one block of a results file; `damaged` counts those that nobody can read."""

    def __init__(self, block: Block, *, output: bool) -> None:
        data = block.data
        ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == 10)
        starts = np.zeros(len(ends), dtype=np.int64)
        starts[1:] = ends[:-1] + 1
        self.damaged = 0
        self.lines = len(ends) or 1  # without a newline: a line longer than any may be
        try:
            records = _ours.decode_lines(data)
        except UNREADABLE:
            records = []
        if not len(ends):
            facts, names = [], []
            self.damaged = 1
        elif len(records) == len(starts):
            facts = [_facts(record) for record in records]
            names = [record.custom_id for record in records]
        else:
            facts, names, kept = [], [], []
            for i, raw in enumerate(data.split(b"\n")[: len(starts)]):
                read = _one(raw)
                if read is None:
                    self.damaged += bool(raw.strip())
                    continue
                names.append(read[0])
                facts.append(read[1])
                kept.append(i)
            starts = starts[kept]
        results = np.zeros(len(names), dtype=RESULT)
        results["hash"] = hashes_of(names)
        results["where"] = starts + block.offset + (OUTPUT_BIT if output else 0)
        if facts:
            state, finish, prompt, completion, seconds = zip(*facts, strict=True)
            results["state"] = state
            results["finish"] = finish
            results["prompt"] = np.clip(prompt, 0, 2**32 - 1)
            results["completion"] = np.clip(completion, 0, 2**32 - 1)
            results["seconds"] = seconds
        self.results: Results = results


_Facts = tuple[int, int, int, int, float]


def _facts(record: _Line) -> _Facts:
    response, own = record.response, record.gptoss
    usage, timing, finish = own.usage, own.timing, own.finish
    if response is None:
        good = False
    else:
        body = response.body
        good = 200 <= response.status_code < 300 and record.error is None and body.error is None
        if usage is None:
            usage = body.usage
    if usage is None:
        usage = _NO_USAGE
    return (
        (_GOOD if good else _BAD).get(finish, DONE if good else FAILED),
        _finish_numbers[finish] if finish in _finish_numbers else _finish_number(finish),
        usage.prompt_tokens,
        usage.completion_tokens,
        timing.prefill_s + timing.decode_s if timing is not None else math.nan,
    )


def parse(raw: bytes) -> dict[str, Any] | None:
    """A line of anybody's results as an object."""
    try:
        value = _anything.decode(raw)
    except UNREADABLE:
        return None
    return value if isinstance(value, dict) else None


def _one(raw: bytes) -> tuple[str, _Facts] | None:
    """One line of any server's form."""
    try:
        record = _ours.decode(raw)
        return record.custom_id, _facts(record)
    except UNREADABLE:
        value = parse(raw)
    if value is None or not isinstance(value.get("custom_id"), str):
        return None
    own = part(value, "gptoss")
    body = part(part(value, "response"), "body")
    usage = part(own, "usage") or part(body, "usage")
    finish = own.get("finish") or finish_of(body)
    finish = finish if isinstance(finish, str) else ""
    good = isinstance(classify(value), Answered)
    state = (_GOOD if good else _BAD).get(finish, DONE if good else FAILED)
    timing = part(own, "timing")
    seconds = number(timing.get("prefill_s")) + number(timing.get("decode_s")) if timing else math.nan
    tokens = [int(number(usage.get(key))) for key in ("prompt_tokens", "completion_tokens")]
    return value["custom_id"], (state, _finish_number(finish), tokens[0], tokens[1], seconds)


def part(value: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under a key, empty where there is none."""
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def finish_of(body: dict[str, Any]) -> str:
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    found = first.get("finish_reason") if isinstance(first, dict) else None
    return found if isinstance(found, str) else ""


def number(value: object) -> float:
    """A finite number, 0 for anything else."""
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return 0.0
