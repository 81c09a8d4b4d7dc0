"""What a line says to a person: the prompt of a request, the texts and the facts of an answer, whatever its form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from engine.browse_read import UNREADABLE, number, parse, part
from engine.lines import Form
from engine.output import Answered, classify
from engine.pages import Said
from engine.protocol import Choice, ToolCall, Usage

MESSAGE_CHARS = 240

_NOT_SAID = frozenset({"role", "type", "id", "tool_call_id"})

_encode = msgspec.json.Encoder().encode


def sendable(text: str) -> str:
    """Halves of surrogate pairs, which no UTF-8 wire carries, as their escapes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def raw_text(raw: bytes) -> str:
    """A line as it stands; bytes that are no UTF-8 as \\xff."""
    return raw.decode("utf-8", "backslashreplace")


def indented(value: object) -> str:
    """A value as JSON for people."""
    try:
        return msgspec.json.format(_encode(value), indent=2).decode()
    except (UnicodeEncodeError, *UNREADABLE):
        return sendable(json.dumps(value, indent=2, ensure_ascii=False))


# --- requests ---------------------------------------------------------------------------------------------------------


def body_of(raw: bytes, form: Form) -> dict[str, Any] | None:
    """The body of a request, also of one that does not hold, as far as it can be read."""
    if form == "text":
        return {"messages": [{"role": "user", "content": raw_text(raw.rstrip(b"\r\n"))}]}
    value = parse(raw)
    if value is None:
        try:
            value = json.loads(raw)  # takes NaN and lone surrogates, which make a line bad and no less readable
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, dict):
        return None
    body = value.get("body") if form == "openai" else value
    return body if isinstance(body, dict) else None


def prompt_of(body: dict[str, Any]) -> list[Said]:
    said: list[Said] = []
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict):
            role = message.get("role")
            text = "\n".join(_message_texts(message))
            said.append(Said(role=sendable(role) if isinstance(role, str) else "", text=sendable(text)))
    if "prompt" in body:
        prompt = body["prompt"]
        said.append(Said(role="prompt", text=sendable(prompt) if isinstance(prompt, str) else indented(prompt)))
    return said


def _message_texts(message: dict[str, Any]) -> Iterator[str]:
    for key in ("reasoning_content", "reasoning", "thinking"):
        if isinstance(text := message.get(key), str) and text:
            yield text
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for piece in content:
            text = piece.get("text") if isinstance(piece, dict) else piece
            yield text if isinstance(text, str) else indented(piece)
    elif content is not None:
        yield indented(content)
    for call in _calls(message):
        yield f"{call.name}({call.arguments})"


def strings_of(body: dict[str, Any]) -> Iterator[str]:
    """All that is said in a prompt, as the line has it: where a search looks."""
    return _strings([body.get("messages"), body.get("prompt")])


def _strings(level: list[object]) -> Iterator[str]:
    while level:
        deeper: list[object] = []
        for value in level:
            if isinstance(value, str):
                yield value
            elif isinstance(value, dict):
                deeper.extend(v for key, v in value.items() if key not in _NOT_SAID)
            elif isinstance(value, list):
                deeper.extend(value)
        level = deeper


def settings_of(body: dict[str, Any], form: Form) -> str:
    """The body without what is asked, as indented JSON."""
    aside = {"messages", "prompt"} | ({"custom_id", "id"} if form == "bare" else set())
    rest = {key: value for key, value in body.items() if key not in aside}
    return indented(rest) if rest else ""


# --- answers ----------------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """One answer or failure."""

    reasoning: str = ""
    answer: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    usage: Usage | None = None
    queued_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    notes: list[str] = field(default_factory=list)
    code: str = ""
    message: str = ""
    error: object = None
    request_id: str = ""
    pieces: list[str] = field(default_factory=list)  # of what was generated, as the line has them

    def strings(self) -> Iterator[str]:
        """Where a search looks."""
        yield from self.pieces
        yield self.code
        yield self.message


def told_of(line: dict[str, Any]) -> Told:
    """A parsed line of anybody's results."""
    told = Told()
    response, own = part(line, "response"), part(line, "gptoss")
    body = part(response, "body")
    verdict = classify(line)
    choices = own.get("choices")
    if isinstance(verdict, Answered):
        choices = body.get("choices")
    else:
        told.code = sendable(str(verdict.code)) if verdict.code is not None else "error"
        told.message = sendable(verdict.message)
        told.error = line.get("error") or body.get("error") or body or verdict.message
    _take_choices(told, choices)
    usage = part(own, "usage") or part(body, "usage")
    if usage:
        told.usage = Usage(
            prompt_tokens=int(number(usage.get("prompt_tokens"))),
            completion_tokens=int(number(usage.get("completion_tokens"))),
            reasoning_tokens=int(number(part(usage, "completion_tokens_details").get("reasoning_tokens"))),
            cached_tokens=int(number(part(usage, "prompt_tokens_details").get("cached_tokens"))),
        )
    if timing := part(own, "timing"):
        told.queued_s, told.prefill_s, told.decode_s = (
            number(timing.get(key)) for key in ("queued_s", "prefill_s", "decode_s")
        )
    notes = own.get("notes")
    told.notes = [sendable(str(note)) for note in notes] if isinstance(notes, list) else []
    request_id = response.get("request_id") or own.get("request_id")
    told.request_id = request_id if isinstance(request_id, str) else ""
    return told


def _take_choices(told: Told, choices: object) -> None:
    found = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    answers: list[str] = []
    reasonings: list[str] = []
    for choice in found:
        message = part(choice, "message") or choice
        texts = (message.get(key) for key in ("content", "text", "raw"))
        answers.append(next((text for text in texts if isinstance(text, str) and text), ""))
        texts = (message.get(key) for key in ("reasoning_content", "reasoning"))
        reasonings.append(next((text for text in texts if isinstance(text, str) and text), ""))
        told.calls += _calls(message)
    called: list[object] = [part(choice, "message").get("tool_calls") or choice.get("tool_calls") for choice in found]
    told.pieces = [*answers, *reasonings, *_strings(called)]
    told.answer, told.reasoning = sendable(_together(answers)), sendable(_together(reasonings))


def told_of_choices(choices: list[Choice]) -> Told:
    """What a request had said when it was cut off."""
    answers = [choice.content or choice.raw or "" for choice in choices]
    reasonings = [choice.reasoning or "" for choice in choices]
    calls = [call for choice in choices for call in choice.tool_calls]
    return Told(
        answer=_together(answers),
        reasoning=_together(reasonings),
        pieces=[*answers, *reasonings, *(text for call in calls for text in (call.name, call.arguments))],
        calls=calls,
    )


def _together(texts: list[str]) -> str:
    if len(texts) == 1 or not any(texts):
        return "".join(texts)
    return "\n\n".join(f"[choice {i}]\n{text}" for i, text in enumerate(texts))


def _calls(message: dict[str, Any]) -> list[ToolCall]:
    calls = message.get("tool_calls")
    made: list[ToolCall] = []
    for call in calls if isinstance(calls, list) else []:
        if isinstance(call, dict):
            function = part(call, "function") or call
            name, arguments = function.get("name"), function.get("arguments")
            text = arguments if isinstance(arguments, str) else indented(arguments)
            made.append(ToolCall(name=sendable(str(name or "")), arguments=sendable(text)))
    return made


def first_sentence(text: str) -> str:
    """As much of a message as a row shows."""
    first = text.strip().split("\n", 1)[0]
    end = first.find(". ")
    return (first[: end + 1] if end >= 0 else first)[:MESSAGE_CHARS]
