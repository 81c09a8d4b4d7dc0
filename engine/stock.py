"""What of a batch is done already: the lines on disk matched to the requests of the input. No I/O of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from engine.rates import Lengths
from engine.tally import Place, Tally


class Array(Protocol):
    """What is needed of a numpy array."""

    def tolist(self) -> list[int]: ...


class Index(Protocol):
    """What is needed of `engine.batch.BatchIndex`."""

    def __len__(self) -> int: ...
    @property
    def is_bad(self) -> Array: ...
    def match(self, custom_ids: list[str], request_ids: list[str]) -> Array: ...
    def find(self, custom_id: str) -> int | None: ...


class DoneLine(Protocol):
    """What is needed of `engine.journal.Done`."""

    @property
    def custom_id(self) -> str: ...
    @property
    def request_id(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def reasoning_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def finish(self) -> str: ...


class Tokens(msgspec.Struct):
    """Sums over the lines that count."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    cached: int = 0

    def add(self, prompt: int, completion: int, reasoning: int, cached: int) -> None:
        self.prompt += prompt
        self.completion += completion
        self.reasoning += reasoning
        self.cached += cached


class Stock(NamedTuple):
    tally: Tally
    lengths: Lengths
    tokens: Tokens
    bad: frozenset[int]  # bad input lines: they never run
    unreported: list[int]  # those of them without an error line on disk
    foreign: int  # lines on disk whose custom_id is not in the input: kept, not counted
    edited: int  # requests whose line on disk answers another body: they run again
    unknown_aborted: list[str]  # taken-out ids that are not in the input any more


def take_stock(
    index: Index, done: Iterable[Sequence[DoneLine]], *, aborted: Iterable[str] = (), retry_failed: bool = False
) -> Stock:
    """Match lines on disk (successes first, then errors) to the input.

    `aborted`: custom_ids a person took out. `retry_failed`: failed requests wait again (bad lines stay bad).
    """
    places = bytearray(len(index))
    lengths, tokens = Lengths(), Tokens()
    bad = frozenset(i for i, is_bad in enumerate(index.is_bad.tolist()) if is_bad)
    foreign = truncated = reused = 0
    edited: set[int] = set()
    edited_ids: list[str] = []
    for chunk in done:
        matched = index.match([d.custom_id for d in chunk], [d.request_id for d in chunk]).tolist()
        for line, i in zip(chunk, matched, strict=True):
            if i < 0:
                if i == -2:
                    edited_ids.append(line.custom_id)
                else:
                    foreign += 1
                continue
            now = places[i]
            if line.ok and now != Place.SUCCEEDED:
                places[i] = Place.SUCCEEDED
                lengths.add(line.completion_tokens)
                truncated += line.finish == "length"
            elif not line.ok and now == Place.WAITING and (not retry_failed or i in bad):
                places[i] = Place.FAILED
            else:
                continue
            reused += 1
            tokens.add(line.prompt_tokens, line.completion_tokens, line.reasoning_tokens, line.cached_tokens)
    for custom_id in edited_ids:
        i = index.find(custom_id)
        if i is not None and places[i] == Place.WAITING:
            edited.add(i)
    unknown: list[str] = []
    for custom_id in aborted:
        i = index.find(custom_id)
        if i is None:
            unknown.append(custom_id)
        elif places[i] == Place.WAITING and i not in bad:
            places[i] = Place.ABORTED
    tally = Tally.of(places)
    tally.reused, tally.truncated, tally.invalid = reused, truncated, len(bad)
    unreported = [i for i in sorted(bad) if places[i] != Place.FAILED]
    return Stock(tally, lengths, tokens, bad, unreported, foreign, len(edited), unknown)
