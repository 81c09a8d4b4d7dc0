"""Owns the OpenAI form of a conversation: messages and tools of a request body → plain turns that every renderer takes.

What a template or the harmony renderer would drop or garble silently (lists of parts, null contents, arguments as JSON
text, two calls in one message, a second system message) is put right here, or refused with a sentence.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from engine.protocol import RequestError

_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""OpenAI's rule plus the dot. Names stand in message headers, where a space or `to=` would mean something else."""

_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


class Refused(Exception):
    """This request can't be run; `error` says why. Never leaves `Chat.prepare`."""

    def __init__(self, code: str, message: str, *, param: str | None = None, status: int | None = 400) -> None:
        super().__init__(message)
        self.error = RequestError(code=code, message=message, status=status, param=param)


class Call(msgspec.Struct, frozen=True):
    """A tool call of the history. `arguments` is the JSON text as the request holds it."""

    id: str
    name: str
    arguments: str


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One message. A tool's turn has the called function's name in `name`."""

    role: str  # system, developer, user, assistant, tool
    text: str = ""
    reasoning: str = ""
    calls: list[Call] = []
    name: str = ""
    call_id: str = ""


class Tool(msgspec.Struct, frozen=True):
    """A function that the model may call. `source` is the whole entry as the request holds it."""

    name: str
    description: str
    parameters: dict[str, Any] | None
    source: dict[str, Any]


def read_turns(messages: Any) -> list[Turn]:
    """Check and normalise `body.messages`. Raises Refused."""
    if not isinstance(messages, list) or not messages:
        raise Refused("invalid_messages", "messages must be a list with at least one message", param="messages")
    turns: list[Turn] = []
    called: dict[str, str] = {}
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, dict):
            raise Refused("invalid_messages", f"{where} is not an object", param=where)
        turn = _read_turn(message, where, called)
        called.update({call.id: call.name for call in turn.calls})
        turns.append(turn)
    return turns


def _read_turn(message: dict[str, Any], where: str, called: dict[str, str]) -> Turn:
    role = message.get("role")
    text = _read_text(message.get("content"), f"{where}.content")
    if role == "assistant":
        if not text and isinstance(message.get("refusal"), str):
            text = _checked(message["refusal"], f"{where}.refusal")
        reasoning = next((message[k] for k in ("reasoning_content", "reasoning", "thinking") if message.get(k)), "")
        if not isinstance(reasoning, str):
            raise Refused("invalid_messages", f"the reasoning of {where} must be a string", param=where)
        calls = [_read_call(c, f"{where}.tool_calls[{i}]") for i, c in enumerate(message.get("tool_calls") or [])]
        return Turn(role=role, text=text, reasoning=_checked(reasoning, where), calls=calls)
    if role == "tool":
        call_id = message.get("tool_call_id") or ""
        name = called.get(call_id) or message.get("name") or ""
        if not name:
            raise Refused(
                "invalid_messages",
                f"{where} answers tool_call_id {call_id!r}, which no earlier assistant message has; "
                "put the assistant message with that tool call before it",
                param=f"{where}.tool_call_id",
            )
        _check_name(name, f"{where}.name")
        return Turn(role=role, text=text, name=name, call_id=call_id)
    if role in ("system", "developer", "user"):
        return Turn(role=role, text=text)  # names of people have no place in prompts; engine.bodies warns of them
    raise Refused(
        "invalid_messages",
        f"{where} has the role {role!r}; known roles are system, developer, user, assistant and tool",
        param=f"{where}.role",
    )


def _read_text(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return _checked(content, where)
    if not isinstance(content, list):
        raise Refused("invalid_messages", f"{where} must be a string or a list of parts", param=where)
    texts: list[str] = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
            raise Refused(
                "unsupported_content",
                f"{where}[{i}] is of type {kind!r}; only text parts can be read by this model",
                param=f"{where}[{i}]",
            )
        texts.append(_checked(part["text"], f"{where}[{i}].text"))
    return "\n".join(texts)


def _read_call(call: Any, where: str) -> Call:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Refused("invalid_messages", f"{where} must be a function call with a name", param=where)
    _check_name(function["name"], f"{where}.function.name")
    arguments = function.get("arguments", "")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return Call(str(call.get("id") or ""), function["name"], _checked(arguments or "{}", where))


def _checked(text: str, where: str) -> str:
    """JSON can hold half of a surrogate pair; no tokenizer can."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise Refused(
            "invalid_text", f"{where} holds half of a surrogate pair at character {e.start + 1}", param=where
        ) from None
    return text


def _check_name(name: Any, where: str) -> None:
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        raise Refused(
            "invalid_function_name",
            f"{where} is {name!r}; a function's name has 1 to 64 letters, digits, dots, dashes or underscores",
            param=where,
        )


def read_tools(tools: Any) -> list[Tool]:
    """Check `body.tools`. Raises Refused."""
    out: list[Tool] = []
    for i, tool in enumerate(tools or []):
        where = f"tools[{i}]"
        function = (
            tool.get("function") if isinstance(tool, dict) and tool.get("type", "function") == "function" else None
        )
        if not isinstance(function, dict):
            raise Refused("unsupported_tool", f"{where} must be of type function", param=where)
        _check_name(function.get("name"), f"{where}.function.name")
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            raise Refused("invalid_tool", f"{where}.function.parameters must be a JSON schema", param=where)
        if any(t.name == function["name"] for t in out):
            raise Refused("invalid_tool", f'{where} has the name "{function["name"]}" a second time', param=where)
        for text in strings_of(tool):
            _checked(text, where)
        out.append(Tool(function["name"], str(function.get("description") or ""), parameters, tool))
    return out


def strings_of(value: Any) -> list[str]:
    """Every string inside a JSON value, keys too."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [s for k, v in value.items() for s in (*strings_of(k), *strings_of(v))]
    if isinstance(value, list):
        return [s for v in value for s in strings_of(v)]
    return []


def join_instructions(turns: list[Turn]) -> tuple[str, list[Turn], bool]:
    """System and developer texts joined by blank lines, the other turns, and whether one stood after another turn.

    Many templates look at the first message only and would drop the others without a word.
    """
    texts = [t.text for t in turns if t.role in ("system", "developer") and t.text]
    others = [t for t in turns if t.role not in ("system", "developer")]
    leading = 0
    while leading < len(turns) and turns[leading].role in ("system", "developer"):
        leading += 1
    moved = any(t.role in ("system", "developer") for t in turns[leading:])
    return "\n\n".join(texts), others, moved


def one_call_a_turn(turns: list[Turn]) -> list[Turn]:
    """Each call in a turn of its own, followed by its result where there is one: harmony knows no parallel calls."""
    out: list[Turn] = []
    taken: set[int] = set()
    for i, turn in enumerate(turns):
        if i in taken:
            continue
        if len(turn.calls) < 2:
            out.append(turn)
            continue
        for n, call in enumerate(turn.calls):
            out.append(msgspec.structs.replace(turn, calls=[call]) if n == 0 else Turn(role="assistant", calls=[call]))
            for j in range(i + 1, len(turns)):
                if turns[j].role != "tool":
                    break
                if j not in taken and turns[j].call_id == call.id:
                    out.append(turns[j])
                    taken.add(j)
                    break
    return out


def last_answer(turns: list[Turn]) -> int:
    """Index of the last assistant turn without a call, -1 if none. Reasoning up to it is not shown again."""
    return max((i for i, t in enumerate(turns) if t.role == "assistant" and not t.calls), default=-1)
