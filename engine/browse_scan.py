"""Which rows hold a text: a search through all lines of a run in slices, which goes on as the files grow.

A line is decoded only where its bytes may hold the text. Its longest plain piece decides that: JSON may write any
character as an escape and upper case as lower, so every spelling of the piece is looked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

import numpy as np
import numpy.typing as npt

from engine.browse_files import Block, Followed
from engine.browse_read import own_id, parse
from engine.browse_run import Run
from engine.browse_table import DUPLICATE, NAMELESS, NUMBERED, OUTPUT_BIT
from engine.browse_texts import body_of, strings_of, told_of, told_of_choices

_PLAIN = frozenset(" !#$%&'()*+,-.0123456789:;<=>?@[]^_`abcdefghijklmnopqrstuvwxyz{|}~")
"""Characters (folded) that JSON writes as they are, if not as \\u00xx."""

_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")
FINAL_SIGMA, SIGMA = "\u03c2", "\u03c3"
_NUMBER_NAME = frozenset("line-0123456789#invalid")
_KEYS = """
    custom_id method url body model messages role content prompt max_tokens max_completion_tokens temperature seed
    id response status_code request_id object created choices index message refusal reasoning_content logprobs text
    finish_reason usage prompt_tokens completion_tokens total_tokens prompt_tokens_details cached_tokens
    completion_tokens_details reasoning_tokens system_fingerprint error gptoss finish timing queued_s prefill_s
    decode_s notes type param code tool_calls function name arguments"""
_VALUES = '"role":"user" "role":"assistant" "role":"system"'
_FRAMING = tuple(framing.encode() for framing in (*_VALUES.split(), *(f'"{key}":' for key in _KEYS.split())))
"""What nearly every line holds and no search is about, in lowered bytes: keys, and keys with values that are no text.
Quotes inside a text are escaped, so none of these can be part of one."""

ENOUGH = 3
"""Characters that make a plain piece rare enough to be asked for before a rarer foreign character."""


def fold(text: str) -> str:
    """Upper and lower case made one, character by character: where one stands must not depend on its neighbours."""
    return text.lower().replace(FINAL_SIGMA, SIGMA)


class Needle:
    """A text to look for."""

    def __init__(self, text: str) -> None:
        self.folded = fold(text)
        self._spellings, self._through_escapes = _spellings(self.folded)
        self._framing = [f for f in _FRAMING if any(spelling in f for spelling in self._spellings)]
        self.may_be_number = set(self.folded) <= _NUMBER_NAME

    def within(self, text: str) -> bool:
        return self.folded in fold(text)

    def positions(self, data: bytes, *, json: bool) -> list[int] | None:
        """Where the text may be, in any order; None: anywhere. `json`: lines of it, not of plain text."""
        if not self._spellings:
            return None
        low = data.lower()
        for framing in self._framing if json else ():
            low = low.replace(framing, bytes(len(framing)))
        found: list[int] = []
        for spelling in self._spellings:
            at = low.find(spelling)
            while at >= 0:
                found.append(at)
                # one hit a line is enough, and a line may be full of them
                end = low.find(b"\n", at)
                if end < 0:
                    break
                at = low.find(spelling, end + 1)
        if self._through_escapes:
            found += [match.start() for match in _ESCAPED_ASCII.finditer(low)]
        return found


def _spellings(folded: str) -> tuple[list[bytes], bool]:
    """What to look for in lowered bytes, and whether escaped ASCII may hide it."""
    runs = re.findall("[" + re.escape("".join(sorted(_PLAIN))) + "]+", folded)
    run = max(runs, key=len, default="")
    foreign = [c for c in folded if ord(c) > 127]
    if foreign and len(run) < ENOUGH:
        return sorted({s for c in _sources().get(foreign[0], {foreign[0]}) for s in _written(c)}), False
    if not run:
        return [], False
    spellings = {run.encode()}
    for c in run:  # two foreign characters have ASCII for their lower case: the Kelvin sign and the dotted I
        spellings |= {s for source in _sources().get(c, ()) if ord(source) > 127 for s in _written(source)}
    return sorted(spellings), True


def _written(char: str) -> set[bytes]:
    """A character as lowered JSON may have it."""
    units = char.encode("utf-16-be", "surrogatepass")
    escaped = "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
    return {char.encode("utf-8", "surrogatepass").lower(), escaped.encode()}


@cache
def _sources() -> dict[str, set[str]]:
    """Folded character → all that fold to it or to something with it."""
    sources: dict[str, set[str]] = {}
    for code in range(0x110000):
        char = chr(code)
        folded = fold(char)
        if folded != char:
            for piece in folded:
                sources.setdefault(piece, {piece}).add(char)
    return sources


class Hits:
    """What was found so far. Of results the line is remembered: another one may have taken its place since."""

    def __init__(self) -> None:
        self._asked = np.zeros(0, np.bool_)
        self._answered = np.zeros(0, np.int64)

    def _grow(self, count: int) -> None:
        if count > len(self._asked):
            more = max(count, 1024, len(self._asked) * 3 // 2) - len(self._asked)
            self._asked = np.concatenate([self._asked, np.zeros(more, np.bool_)])
            self._answered = np.concatenate([self._answered, np.full(more, -1, np.int64)])

    def in_request(self, row: int) -> None:
        self._grow(row + 1)
        self._asked[row] = True

    def in_result(self, row: int, where: int) -> None:
        self._grow(row + 1)
        self._answered[row] = where

    def mask(self, where: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Rows that match, given the lines that count for them now."""
        self._grow(len(where))
        return self._asked[: len(where)] | ((where >= 0) & (self._answered[: len(where)] == where))


def candidates(block: Block, needle: Needle, *, json: bool) -> list[tuple[int, bytes]]:
    """Lines of a block that may hold the text: where each begins in the file, and its bytes without the newline."""
    data = block.data
    positions = needle.positions(data, json=json)
    if positions is not None and not positions:
        return []
    if positions is None:
        found: list[tuple[int, bytes]] = []
        at = 0
        for raw in data.split(b"\n"):
            found.append((block.offset + at, raw))
            at += len(raw) + 1
        return found
    starts: dict[int, None] = {}
    for position in sorted(positions):
        starts[data.rfind(b"\n", 0, position) + 1] = None
    found = []
    for start in starts:
        end = data.find(b"\n", start)
        found.append((block.offset + start, data[start : end if end >= 0 else len(data)]))
    return found


class Search:
    """One text looked for in all lines of a run, from where it was last."""

    def __init__(self, run: Run, text: str) -> None:
        self.epoch = run.epoch
        self._run = run
        self._needle = Needle(text)
        self._hits = Hits()
        self._at: dict[str, int] = {"input": 0, "output": 0, "errors": 0}

    def _files(self) -> Iterable[tuple[str, Followed]]:
        return (("input", self._run.input), ("output", self._run.output), ("errors", self._run.errors))

    @property
    def behind(self) -> bool:
        return any(self._at[name] < file.position for name, file in self._files())

    @property
    def fraction(self) -> float:
        size = sum(file.position for _, file in self._files())
        return sum(self._at.values()) / size if self.behind else 1.0

    def mask(self) -> npt.NDArray[np.bool_]:
        """Rows that hold the text, as far as it has looked."""
        table = self._run.table
        mask = self._hits.mask(table.where[: len(table)])
        for name, partial in self._run.partials.items():
            row = self._run.row_of(name)
            if row is not None and table.where[row] < 0:
                mask[row] |= self._within(told_of_choices(partial.choices).strings())
        return mask

    def step(self) -> None:
        name, file = next((n, f) for n, f in self._files() if self._at[n] < f.position)
        block = file.block(self._at[name], file.position)
        if block is None:  # shorter than it was a moment ago; `look` will see that
            self._at[name] = file.position
            return
        self._at[name] = block.offset + block.length
        found = candidates(block, self._needle, json=name != "input" or self._run.form != "text")
        if name != "input":
            for offset, raw in found:
                self._result(offset, raw, output=name == "output")
            return
        table = self._run.table
        inputs = len(table) - table.extras
        first, end = (int(at) for at in np.searchsorted(table.places[:inputs], (block.offset, self._at[name])))
        self._names(first, end)
        rows = {int(place): first + i for i, place in enumerate(table.places[first:end])} if found else {}
        for offset, raw in found:
            if (row := rows.get(offset)) is not None:
                self._request(row, raw)

    def _within(self, texts: Iterable[str]) -> bool:
        return any(self._needle.within(text) for text in texts if text)

    def _names(self, first: int, end: int) -> None:
        """Names that stand on no line: made of line numbers."""
        table, needle = self._run.table, self._needle
        if not (needle.may_be_number or "#" in needle.folded):
            return
        for row in range(first, end):
            if table.kinds[row] in (NUMBERED, NAMELESS, DUPLICATE) and needle.within(table.name(row)):
                self._hits.in_request(row)

    def _request(self, row: int, raw: bytes) -> None:
        form = self._run.form
        table = self._run.table
        body = body_of(raw, form)
        own = "" if table.kinds[row] in (NUMBERED, NAMELESS) else own_id(raw, form, int(table.lines[row]))
        if self._needle.within(own) or (body is not None and self._within(strings_of(body))):
            self._hits.in_request(row)

    def _result(self, offset: int, raw: bytes, *, output: bool) -> None:
        value = parse(raw)
        name = value.get("custom_id") if value is not None else None
        if value is None or not isinstance(name, str):
            return
        if not (self._needle.within(name) or self._within(told_of(value).strings())):
            return
        row = self._run.row_of(name)
        where = offset + (OUTPUT_BIT if output else 0)
        if row is not None and self._run.table.where[row] == where:  # else another line has taken its place
            self._hits.in_result(row, where)
