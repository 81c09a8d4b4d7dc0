"""What is in the engine: requests and their sequences, from what may never run to the completion that is told.

Nothing here decodes or waits; `engine.backends.llamacpp_loop` moves sequences through slots.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from engine.backends.base import Generation, OutputParser
from engine.backends.llamacpp_grammar import Grammar, SchemaUnusable, compile_schema
from engine.backends.llamacpp_sampling import Sampler
from engine.backends.llamacpp_vocab import Vocabulary
from engine.protocol import SUCCESSES, Channel, Choice, Completion, Finish, RequestError, Timing, Usage


class Limits(NamedTuple):
    """What the context really granted (read back, not what was asked for)."""

    slots: int
    context: int  # tokens one sequence may reach
    cells: int  # of all slots together
    batch: int
    ubatch: int
    unified: bool
    vocabulary: int


@dataclass
class Request:
    """One Generate in the engine. Its choices are sequences of their own."""

    generation: Generation
    submitted: float
    choices: list[Choice | None]
    notes: list[str]
    admitted: float | None = None
    first_token: float | None = None
    generated: int = 0
    reasoning: int = 0
    error: RequestError | None = None
    finish: Finish | None = None  # set with `error`


@dataclass(eq=False)
class Sequence:
    """One choice of a request, waiting or in a slot."""

    request: Request
    choice: int
    parser: OutputParser
    sampler: Sampler
    grammar: Grammar | None
    ids: list[int]
    limit: int  # length of ids at which generation ends: max_tokens or the slot is full
    slot: int = -1
    fed: int = 0
    silent_tokens: int = 0  # generated since the last delta
    sent: dict[Channel, int] = field(default_factory=dict)  # characters given to who watches; kept only while watched
    order: int = field(default=0)  # of admission; the latest is preempted first

    @property
    def key(self) -> int:
        return self.request.generation.key

    @property
    def is_prefill(self) -> bool:
        return len(self.ids) - self.fed > 1


class Feed(NamedTuple):
    seq: Sequence
    rows: int


# --- in ---------------------------------------------------------------------------------------------------------------


def refusal(generation: Generation, limits: Limits, vocabulary: Vocabulary) -> tuple[Finish, RequestError] | None:
    """Why this request can never run under these limits, or None. Any thread."""
    s = generation.sampling
    if generation.n < 1:
        return _invalid("invalid_value", f"n is {generation.n}; it must be at least 1", "n")
    if not generation.prompt:
        return _invalid("empty_prompt", "the prompt has no tokens; give it some text", None)
    if min(generation.prompt) < 0 or max(generation.prompt) >= limits.vocabulary:
        return _invalid(
            "invalid_token",
            f"the prompt holds a token id outside the vocabulary of {limits.vocabulary}",
            None,
        )
    outside = [t for t in s.logit_bias if not 0 <= t < limits.vocabulary]
    if outside:
        return _invalid(
            "invalid_token",
            f"logit_bias names token {outside[0]}; this model has ids 0 to {limits.vocabulary - 1}",
            "logit_bias",
        )
    if generation.max_tokens is not None and generation.max_tokens < 1:
        return _invalid("invalid_value", f"max_tokens is {generation.max_tokens}; it must be at least 1", "max_tokens")
    wanted = len(generation.prompt) + (generation.max_tokens or 1)
    if wanted > limits.context:
        asked = f" and max_tokens {generation.max_tokens:,}" if generation.max_tokens else ""
        return Finish.CONTEXT_EXCEEDED, RequestError(
            code="context_length_exceeded",
            message=f"prompt of {len(generation.prompt):,} tokens{asked}; a slot holds {limits.context:,}. "
            "Not run. Raise the context per slot, or shorten the prompt or max_tokens.",
            status=400,
        )
    if s.json_schema is not None:
        try:
            compiled = compile_schema(s.json_schema)
            Grammar(vocabulary, compiled.gbnf, generation.stop_tokens).close()
        except SchemaUnusable as error:
            return _invalid("unsupported_schema", f"the JSON schema can't be held to: {error}", "response_format")
    return None


def taken(generation: Generation, submitted: float) -> Request:
    """A request that `refusal` had nothing against, before anything of it runs."""
    notes = list(generation.notes)
    schema = generation.sampling.json_schema
    if schema is not None and (unenforced := compile_schema(schema).unenforced):
        notes.append("the grammar does not hold the answer to these schema keywords: " + ", ".join(unenforced))
    return Request(generation, submitted, [None] * generation.n, notes)


def sequences_of(request: Request, limits: Limits, vocabulary: Vocabulary) -> list[Sequence]:
    """One a choice, each with a parser, a sampler and a grammar of its own. Raises what making a parser raises."""
    generation = request.generation
    schema = generation.sampling.json_schema
    gbnf = compile_schema(schema).gbnf if schema is not None else None
    end = limits.context
    if generation.max_tokens is not None:
        end = min(end, len(generation.prompt) + generation.max_tokens)
    return [
        Sequence(
            request=request,
            choice=choice,
            parser=generation.make_parser(choice),
            sampler=Sampler(generation.sampling, choice=choice, prompt=generation.prompt, vocabulary=limits.vocabulary),
            grammar=Grammar(vocabulary, gbnf, generation.stop_tokens) if gbnf is not None else None,
            ids=list(generation.prompt),
            limit=end,
        )
        for choice in range(generation.n)
    ]


# --- out --------------------------------------------------------------------------------------------------------------


def completed(request: Request, now: float) -> Completion:
    """What a request whose choices are all closed came to."""
    generation = request.generation
    choices = [choice for choice in request.choices if choice is not None]
    admitted = request.admitted if request.admitted is not None else now
    first = request.first_token if request.first_token is not None else now
    return Completion(
        finish=request.finish or overall(choices),
        choices=choices,
        usage=Usage(
            prompt_tokens=len(generation.prompt),
            completion_tokens=request.generated,
            reasoning_tokens=request.reasoning,
        ),
        error=request.error,
        timing=Timing(
            queued_s=admitted - request.submitted,
            prefill_s=max(0.0, first - admitted),
            decode_s=now - first,
        ),
        notes=request.notes,
    )


def overall(choices: list[Choice]) -> Finish:
    """One word for several choices: an abort outranks all, then the worst success; a parse error only if all are."""
    finishes = {choice.finish for choice in choices}
    for finish in (Finish.ABORTED, Finish.LENGTH, Finish.TOOL_CALLS, Finish.STOP):
        if finish in finishes:
            return finish
    return next(iter(finishes - SUCCESSES), Finish.STOP)


def texts_of(choice: Choice) -> dict[Channel, str]:
    """As deltas have it. An answer beside calls that is blank was dropped from the choice, not from the deltas."""
    return {
        Channel.REASONING: choice.reasoning or "",
        Channel.ANSWER: choice.content or "",
        Channel.TOOL: "".join(call.arguments for call in choice.tool_calls),
    }


def _invalid(code: str, message: str, param: str | None) -> tuple[Finish, RequestError]:
    return Finish.INVALID, RequestError(code=code, message=message, status=400, param=param)
