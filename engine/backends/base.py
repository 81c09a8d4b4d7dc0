"""The Engine interface: what every backend is, and the values that go in and come out.

Order of calls: `load` once; then `generate`, `abort` and `stats` in any order; then `close` once. Only the process that
loaded an engine may use it, from one event loop. A dead engine is never revived: its process is replaced.

Token ids go in and come out of every backend. `engine.chat` renders prompts and parses output for all of them: a
backend feeds each generated token to the `OutputParser` of its sequence and passes on the text that comes back, so that
the same request means the same thing on each engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import msgspec

from engine.protocol import (
    Channel,
    Choice,
    Completion,
    Delta,
    EngineSettings,
    EngineStats,
    FailureKind,
    Finish,
    ModelInfo,
    TokenLogprob,
)


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen. Defaults are OpenAI's; 0 or 1 switch a stage off as noted."""

    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    logprobs: int | None = None  # None: none; 0: the chosen token's; k: with the k most likely
    json_schema: str | None = None  # schema (JSON text) the answer must match, "{}" any object; holds while `in_answer`


class TextPiece(msgspec.Struct, frozen=True):
    """Text that became certain: whole characters only, and nothing that may still become part of a stop string."""

    channel: Channel
    text: str


class OutputParser(Protocol):
    """Turns the tokens of one sequence into text, reasoning and tool calls. One object per choice, fed in order."""

    def feed(self, token: int, logprob: TokenLogprob | None = None) -> Sequence[TextPiece]:
        """Take one generated token (the end token too); return the text that became certain."""
        ...

    @property
    def stopped(self) -> bool:
        """A stop string was completed: generate no more."""
        ...

    @property
    def in_answer(self) -> bool:
        """The next token belongs to the answer (not to reasoning, a header or a tool call): grammars hold here."""
        ...

    def finish(self, finish: Finish) -> Choice:
        """End the sequence (STOP, LENGTH or ABORTED as the backend saw it) and return the whole choice.

        Never raises: output that broke its format comes back with Finish.PARSE_ERROR and `raw`.
        """
        ...

    @property
    def reasoning_tokens(self) -> int:
        """Tokens spent in reasoning so far."""
        ...

    def so_far(self) -> dict[Channel, str]:
        """All text that `feed` has returned, by channel: for somebody who begins to watch now."""
        ...


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One request, ready for any backend."""

    key: int
    prompt: list[int]
    sampling: Sampling
    max_tokens: int | None  # None: as many as the slot holds
    stop_tokens: frozenset[int]  # end-of-generation ids of this model and request
    make_parser: Callable[[int], OutputParser]  # choice index → its parser
    n: int = 1
    stream: bool = False
    notes: list[str] = []


class Tokenizer(Protocol):
    """The vocabulary of a loaded model."""

    @property
    def size(self) -> int: ...
    @property
    def end_tokens(self) -> frozenset[int]:
        """Every id after which generation ends (`<|return|>`, `<|call|>`, …; never harmony's `<|end|>`)."""
        ...

    @property
    def bos(self) -> int | None:
        """The id to put before raw text prompts, None where the model wants none."""
        ...

    @property
    def eos(self) -> int | None:
        """The id whose text chat templates print as `eos_token`."""
        ...

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Text → ids, without adding bos or eos. `special`: text like `<|end|>` becomes its control token."""
        ...

    def piece(self, token: int, *, special: bool = True) -> bytes:
        """The bytes of one token (it may hold a part of a character); b"" for control tokens if not `special`."""
        ...

    def special_id(self, text: str) -> int | None:
        """The id of a control token by its text, None where the vocabulary has none."""
        ...

    @property
    def chat_template(self) -> str | None: ...


class EngineLoadError(Exception):
    """`load` failed. `kind` says as much as the evidence allows."""

    def __init__(self, kind: FailureKind, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.advice = advice


class EngineBroken(Exception):
    """The engine can't go on; its process should end. Raised out of pending `generate` iterators."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Engine(Protocol):
    """One loaded model that runs many requests at once."""

    async def load(self, settings: EngineSettings, on_progress: Callable[[float, str], None]) -> ModelInfo:
        """Load the model. `on_progress(fraction 0..1, phase)` may be called from any thread. Raises EngineLoadError."""
        ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def generate(self, generation: Generation) -> AsyncIterator[int | Delta | Completion]:
        """Run one request.

        Yields its prompt's token count (an int) once it has a slot, deltas where `stream` is set or `watch` asks, and
        last exactly one Completion. Never raises for a bad request; raises EngineBroken when the engine is lost.
        """
        ...

    async def abort(self, key: int) -> None:
        """End this request: its iterator yields a Completion with Finish.ABORTED and the text so far.

        An unknown or finished key is no error.
        """
        ...

    def watch(self, keys: frozenset[int], fresh: frozenset[int] = frozenset()) -> None:
        """Yield deltas for these requests and no others from now on.

        Those that were not watched before, and those in `fresh`, yield their text so far first, from offset 0.
        """
        ...

    def stats(self) -> EngineStats: ...

    def progress(self) -> dict[int, int]:
        """Tokens generated so far by each request that has a slot, all of its choices together, by key."""
        ...

    async def close(self) -> None:
        """Abort what runs, free the device. Safe to call twice."""
        ...
