"""The body of a request: every supported parameter with its type and range, and what to say about the rest.

The structs decide; `engine.faults` explains what they refuse. `remarks` holds what a type can't say (parameters that
contradict each other, parameters accepted without effect); it is asked about every body, so that both ways of reading a
line agree.
"""

from __future__ import annotations

import difflib
import functools
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

MAX_CHOICES = 8
"""Highest `n`: each choice takes a slot of its own, and more than this of one request starves the others."""

MAX_STOPS = 16

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
ENDPOINTS = (CHAT, COMPLETIONS)


class Fault(NamedTuple):
    """One thing to say about a line, without the line."""

    code: str
    message: str
    fix: str
    param: str | None = None
    level: Literal["error", "warning"] = "error"


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
NAME_PATTERN = r"^[A-Za-z0-9_.-]{1,64}\Z"
TOKEN_PATTERN = r"^[0-9]{1,9}\Z"

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
StopString = Annotated[str, Meta(min_length=1)]


class _Part(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of everything inside a body."""


# --- messages ---------------------------------------------------------------------------------------------------------


class TextPart(_Part, frozen=True, tag_field="type", tag="text", kw_only=True):
    text: str


Content = str | list[TextPart]


class SystemMessage(_Part, frozen=True, tag_field="role", tag="system", kw_only=True):
    content: Content
    name: str | None = None


class DeveloperMessage(_Part, frozen=True, tag_field="role", tag="developer", kw_only=True):
    content: Content
    name: str | None = None


class UserMessage(_Part, frozen=True, tag_field="role", tag="user", kw_only=True):
    content: Content
    name: str | None = None


class CalledFunction(_Part, frozen=True, kw_only=True):
    name: Name
    arguments: str


class CalledTool(_Part, frozen=True, kw_only=True):
    function: CalledFunction
    id: str = ""
    type: Literal["function"] = "function"
    index: int | None = None


class AssistantMessage(_Part, frozen=True, tag_field="role", tag="assistant", kw_only=True):
    """Reasoning comes under three names, depending on which server wrote the conversation."""

    content: Content | None = None
    name: str | None = None
    tool_calls: list[CalledTool] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    thinking: str | None = None
    refusal: str | None = None


class ToolMessage(_Part, frozen=True, tag_field="role", tag="tool", kw_only=True):
    content: Content
    tool_call_id: str = ""
    name: str | None = None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage

MESSAGES: dict[str, type[Struct]] = {
    "system": SystemMessage,
    "developer": DeveloperMessage,
    "user": UserMessage,
    "assistant": AssistantMessage,
    "tool": ToolMessage,
}


# --- tools and formats ------------------------------------------------------------------------------------------------


class Function(_Part, frozen=True, kw_only=True):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Part, frozen=True, kw_only=True):
    function: Function
    type: Literal["function"] = "function"


class FunctionName(_Part, frozen=True, kw_only=True):
    name: Name


class ToolChoice(_Part, frozen=True, kw_only=True):
    function: FunctionName
    type: Literal["function"] = "function"


class TextFormat(_Part, frozen=True, tag_field="type", tag="text"):
    pass


class JsonObjectFormat(_Part, frozen=True, tag_field="type", tag="json_object"):
    pass


class JsonSchema(_Part, frozen=True, kw_only=True):
    name: str = ""
    description: str | None = None
    schema: dict[str, Any]
    strict: bool | None = None


class JsonSchemaFormat(_Part, frozen=True, tag_field="type", tag="json_schema", kw_only=True):
    json_schema: JsonSchema


class Reasoning(_Part, frozen=True, kw_only=True):
    effort: Effort | None = None


# --- bodies -----------------------------------------------------------------------------------------------------------


class _Body(_Part, frozen=True, kw_only=True):
    """What both endpoints take. None means absent: OpenAI's clients write null for what was not set."""

    model: Annotated[str, Meta(min_length=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None  # 0 and -1: all
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOPS)] | None = None
    max_tokens: Count | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None  # llama.cpp's name for repetition_penalty
    logit_bias: dict[Annotated[str, Meta(pattern=TOKEN_PATTERN)], Annotated[float, Meta(ge=-100, le=100)]] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    # Accepted, with no effect on an answer; `remarks` says so where a person could expect one.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    stream: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @property
    def repetition(self) -> float | None:
        """`repetition_penalty` under either of its names."""
        return self.repetition_penalty if self.repetition_penalty is not None else self.repeat_penalty


class ChatBody(_Body, frozen=True, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    reasoning_effort: Effort | None = None
    reasoning: Reasoning | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    prediction: dict[str, Any] | None = None

    @property
    def token_limit(self) -> int | None:
        """`max_completion_tokens`, or its older name `max_tokens`."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def effort(self) -> Effort | None:
        """`reasoning_effort`, or `reasoning.effort`."""
        return self.reasoning_effort or (self.reasoning.effort if self.reasoning else None)


class CompletionBody(_Body, frozen=True, kw_only=True):
    prompt: Annotated[str, Meta(min_length=1)] | Annotated[list[TokenId], Meta(min_length=1)]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens


BODIES: dict[str, type[ChatBody | CompletionBody]] = {CHAT: ChatBody, COMPLETIONS: CompletionBody}

RULES: dict[str, str] = {
    "model": "a name (a string that is not empty)",
    "messages": "a list of at least one message",
    "prompt": "a string or a list of token ids, not empty",
    "temperature": "a number from 0 to 2",
    "top_p": "a number above 0, at most 1",
    "top_k": "a whole number: 0 or -1 for all, else how many tokens to choose from",
    "min_p": "a number from 0 to 1",
    "seed": "a whole number of 64 bits",
    "stop": f"a string or up to {MAX_STOPS} strings, none empty",
    "max_tokens": "a whole number, at least 1",
    "max_completion_tokens": "a whole number, at least 1",
    "presence_penalty": "a number from -2 to 2",
    "frequency_penalty": "a number from -2 to 2",
    "repetition_penalty": "a number above 0 (1 switches it off), at most 10",
    "repeat_penalty": "a number above 0 (1 switches it off), at most 10",
    "logit_bias": 'an object of token ids as strings and numbers from -100 to 100, like {"50256": -100}',
    "n": f"a whole number from 1 to {MAX_CHOICES}; for more, repeat the line with other custom_ids and seeds",
    "logprobs": "true or false",
    "top_logprobs": "a whole number from 0 to 20",
    "response_format": '{"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": '
    '{"name": …, "schema": {…}}}',
    "tools": 'a list of {"type": "function", "function": {"name": …, "parameters": {…}}}',
    "tool_choice": '"none", "auto", "required" or {"type": "function", "function": {"name": …}}',
    "reasoning_effort": "one of none, minimal, low, medium, high, xhigh",
    "reasoning": '{"effort": …} with one of none, minimal, low, medium, high, xhigh',
    "chat_template_kwargs": "an object",
    "stop_token_ids": "a list of token ids (whole numbers, 0 or more)",
    "ignore_eos": "true or false",
    "user": "a string",
    "metadata": "an object",
    "store": "true or false",
    "stream": "false: a batch is not streamed",
    "service_tier": "a string",
    "safety_identifier": "a string",
    "prompt_cache_key": "a string",
    "prompt_cache_retention": "a string",
    "parallel_tool_calls": "true or false",
    "modalities": '["text"]',
    "prediction": "an object",
}
"""What each supported parameter may be, in words. `rule_for` knows where the endpoints differ."""

UNSUPPORTED: dict[str, tuple[str, str]] = {
    "audio": ("no engine here makes sound", "Remove it."),
    "web_search_options": (
        "a local run never goes to the network",
        "Put what the model should know into the messages.",
    ),
    "functions": ("it is the old form of `tools`", 'Write "tools": [{"type": "function", "function": {…}}].'),
    "function_call": ("it is the old form of `tool_choice`", "Write `tool_choice`."),
    "stream_options": ("a batch is not streamed", "Remove it; every answer has its usage."),
    "verbosity": ("the models that run here don't know it", "Ask for short or long answers in the messages."),
    "best_of": ("choosing among several answers is not built in", "Use `n` and choose yourself."),
    "echo": ("the prompt is not repeated in the answer", "Join prompt and answer by custom_id."),
    "suffix": ("filling in the middle is not built in", "Write the suffix into the prompt."),
    "min_tokens": ("a least length is not built in", "Use `ignore_eos` with `max_tokens` for an exact length."),
    "typical_p": ("this sampler is not built in", "Use `top_p` or `min_p`."),
    "mirostat": ("this sampler is not built in", "Use `top_p` or `min_p`."),
    "use_beam_search": ("beam search is not built in", 'Use `n`, or "temperature": 0.'),
    "length_penalty": ("beam search is not built in", "Remove it."),
    "guided_json": ("it is another server's name", "Use `response_format` with a json_schema."),
    "guided_regex": ("only JSON can be enforced", "Use `response_format` with a json_schema that has a pattern."),
    "guided_choice": ("only JSON can be enforced", "Use `response_format` with a json_schema that has an enum."),
    "guided_grammar": ("only JSON can be enforced", "Use `response_format`."),
    "grammar": ("only JSON can be enforced", "Use `response_format`."),
    "structured_outputs": ("it is another server's name", "Use `response_format` with a json_schema."),
    "bad_words": ("it is not built in", "Use `logit_bias` with -100 for the token ids."),
    "allowed_token_ids": ("it is not built in", "Use `logit_bias`."),
    "include_reasoning": ("reasoning is always kept beside the answer", "Remove it."),
    "skip_special_tokens": ("a chat answer never shows control tokens, a completion always does", "Remove it."),
    "truncate_prompt_tokens": ("prompts are never cut in silence", "Shorten the prompt."),
    "prompt_logprobs": ("only generated tokens have logprobs", "Remove it."),
    "num_ctx": ("the size of a slot is set for the whole run", "Use --context."),
    "num_predict": ("it is another server's name", "Use `max_tokens`."),
    "max_output_tokens": ("it belongs to another endpoint", "Use `max_completion_tokens`."),
    "max_new_tokens": ("it is another library's name", "Use `max_tokens`."),
    "instructions": ("it belongs to another endpoint", "Write a system message."),
    "input": ("it belongs to another endpoint", "Use `messages` (chat) or `prompt` (completions)."),
}
"""Known elsewhere, not here: why, and what to do instead. All are errors: leaving one out would change the answer."""


def rule_for(url: str, name: str) -> str:
    """The words of RULES, for this endpoint."""
    if name == "logprobs" and url == COMPLETIONS:
        return "a whole number from 0 to 5"
    return RULES[name]


def parameters(url: str) -> tuple[str, ...]:
    """Names of all supported parameters of an endpoint."""
    return BODIES[url].__struct_fields__


@functools.lru_cache(maxsize=1024)
def nearest(word: str, known: tuple[str, ...]) -> str | None:
    """The known word that was most likely meant. Cached: a slip is mostly on every line of a file."""
    close = difflib.get_close_matches(word[:80], known, n=1, cutoff=0.6)
    return close[0] if close else None


def show(value: object, width: int = 60) -> str:
    """A value of a file as it may stand in a sentence: JSON, cut."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    text = msgspec.json.encode(text).decode() if isinstance(value, str) else text
    return text if len(text) <= width else text[: width - 1] + "…"


# --- what types can't say ---------------------------------------------------------------------------------------------


def remarks(body: ChatBody | CompletionBody) -> list[Fault]:
    """Errors and warnings about a body that its struct accepts. Mostly empty, and cheap then."""
    found: list[Fault] = []
    if body.stream:
        found.append(streaming())
    if body.store:
        found.append(_without_effect("store", "nothing is stored elsewhere; results stay in results/"))
    if body.service_tier not in (None, "auto", "default"):
        found.append(_without_effect("service_tier", "one machine has one tier"))
    if (
        body.repeat_penalty is not None
        and body.repetition_penalty is not None
        and body.repeat_penalty != body.repetition_penalty
    ):
        found.append(_conflict("repetition_penalty", "repeat_penalty"))
    if isinstance(body, ChatBody):
        _chat_remarks(body, found)
    return found


def _chat_remarks(body: ChatBody, found: list[Fault]) -> None:
    if (
        body.max_tokens is not None
        and body.max_completion_tokens is not None
        and body.max_tokens != body.max_completion_tokens
    ):
        found.append(_conflict("max_completion_tokens", "max_tokens"))
    if (
        body.reasoning is not None
        and body.reasoning_effort is not None
        and body.reasoning.effort not in (None, body.reasoning_effort)
    ):
        found.append(_conflict("reasoning_effort", "reasoning.effort"))
    if body.top_logprobs and not body.logprobs:
        found.append(
            Fault(
                "invalid_request",
                "`top_logprobs` is set without `logprobs`",
                'Add "logprobs": true, or remove `top_logprobs`.',
                "top_logprobs",
            )
        )
    if body.parallel_tool_calls is False:
        found.append(_without_effect("parallel_tool_calls", "the model itself decides how many calls it makes"))
    if body.prediction is not None:
        found.append(_without_effect("prediction", "it only makes a hosted service faster"))
    if body.tools or body.tool_choice not in (None, "none", "auto"):
        _tool_remarks(body, found)
    for i, message in enumerate(body.messages):
        if (
            isinstance(message, AssistantMessage)
            and message.content is None
            and not message.tool_calls
            and not (message.reasoning or message.reasoning_content or message.thinking or message.refusal)
        ):
            found.append(
                Fault(
                    "invalid_request",
                    f"messages[{i}] is an assistant message with neither content nor tool_calls",
                    "Give it content, or remove the message.",
                    f"messages[{i}].content",
                )
            )
        if message.name is not None and not isinstance(message, ToolMessage):
            found.append(
                Fault(
                    "ignored_parameter",
                    f"messages[{i}].name is not shown to the model: its prompt format has no place for names",
                    "Write the name into the content if the model should see it.",
                    f"messages[{i}].name",
                    "warning",
                )
            )


def _tool_remarks(body: ChatBody, found: list[Fault]) -> None:
    names = [tool.function.name for tool in body.tools or []]
    if body.tool_choice == "required" and not names:
        found.append(
            Fault(
                "invalid_request",
                '`tool_choice` is "required" and there are no `tools`',
                "Add `tools`, or remove `tool_choice`.",
                "tool_choice",
            )
        )
    if isinstance(body.tool_choice, ToolChoice) and body.tool_choice.function.name not in names:
        wanted = body.tool_choice.function.name
        found.append(
            Fault(
                "invalid_request",
                f"`tool_choice` names {show(wanted)}, which is not among `tools`",
                f"Name one of: {', '.join(names)}." if names else "Add it to `tools`.",
                "tool_choice",
            )
        )
    if len(set(names)) != len(names):
        found.append(
            Fault("invalid_request", "two of the `tools` have the same name", "Give each its own name.", "tools")
        )


def _conflict(one: str, other: str) -> Fault:
    return Fault("invalid_request", f"`{one}` and `{other}` differ, and mean the same", f"Keep `{one}` only.", one)


def _without_effect(name: str, why: str) -> Fault:
    return Fault("ignored_parameter", f"`{name}` has no effect: {why}", "Remove it to silence this.", name, "warning")


def streaming() -> Fault:
    return Fault(
        "streaming_unsupported",
        '"stream": true does not fit a batch: answers are written as whole lines',
        "Remove `stream`; text can be watched while it is generated all the same.",
        "stream",
    )
