"""What is wrong with a request's body, in words, every fault at once.

Only asked about a body that its struct (`engine.bodies`) refused: the structs decide, this explains.
"""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from engine.bodies import (
    BODIES,
    CHAT,
    COMPLETIONS,
    MESSAGES,
    NAME_PATTERN,
    RULES,
    TOKEN_PATTERN,
    UNSUPPORTED,
    Fault,
    nearest,
    parameters,
    remarks,
    rule_for,
    show,
    streaming,
)


def faults(url: str, body: dict[str, Any]) -> list[Fault]:
    """Everything wrong with a body, and every warning. No error among them means that the struct accepts it."""
    kind, fields = BODIES[url], _fields(url)
    found: list[Fault] = []
    for name, value in body.items():
        if name not in fields:
            found.append(_unknown(url, name))
        elif value is None and not fields[name].required:
            continue
        elif name == "messages":
            found.extend(_message_faults(value))
        elif name == "stream" and value is True:
            found.append(streaming())
        elif (problem := _refusal({name: value}, fields[name].alone)) is not None:
            found.append(_wrong(url, name, value, problem))
    for name, field in fields.items():
        if field.required and name not in body:
            found.append(_missing(url, name, body))
    if any(fault.level == "error" for fault in found):
        return found
    try:
        typed = msgspec.convert(body, kind)
    except (msgspec.ValidationError, RecursionError, OverflowError) as e:
        # Not reached as far as known: each field was accepted. Said rather than passed over, should msgspec differ.
        return [*found, Fault("invalid_request", f"the body does not hold: {e}", "See docs on the batch format.")]
    return [*found, *remarks(typed)]


class _Field(NamedTuple):
    required: bool
    alone: type[Struct]  # a struct of this field only: msgspec compiles structs once, other types at every call


@functools.cache
def _fields(url: str) -> dict[str, _Field]:
    return {
        field.name: _Field(field.required, msgspec.defstruct(f"Only_{field.name}", [(field.name, field.type)]))
        for field in msgspec.structs.fields(BODIES[url])
    }


def _refusal(value: dict[str, Any], kind: type[Struct]) -> str | None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as e:
        return str(e)
    return None


_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<key>key` in `)?\$?(?P<where>.*)`)?\Z", re.DOTALL)
_BOUND = re.compile(r"^Expected `\w+` (?P<length>of length )?(?P<sign><=|>=|<|>) (?P<bound>\S+)\Z")
_TYPE = re.compile(r"^Expected `(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)`\Z")
_FIELD = re.compile(r"^Object (?P<how>missing required|contains unknown) field `(?P<name>.*)`\Z", re.DOTALL)

_SIGNS = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than"}
_PATTERNS = {
    NAME_PATTERN: "must be of 1 to 64 letters, digits and the signs _ . -",
    TOKEN_PATTERN: "must be a token id in digits",
}
_TYPES = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def _sentence(problem: str) -> tuple[str, str]:
    """msgspec's message as (path, what): "Expected `str`, got `int` - at `$.a`" → (".a", "must be a string, …")."""
    match = _AT.match(problem)
    if match is None:
        return "", problem
    return match["where"] or "", ("has a key that does not fit: it " if match["key"] else "") + _in_words(match["what"])


def _in_words(what: str) -> str:
    """What a value must be, for people who know JSON and not our types."""
    if bound := _BOUND.match(what):
        amount = f"{_SIGNS[bound['sign']]} {bound['bound'].removesuffix('.0')}"
        if not bound["length"]:
            return f"must be {amount}"
        return "must not be empty" if amount == "at least 1" else f"must have {amount} entries"
    if types := _TYPE.match(what):
        wanted = [_TYPES.get(name, name) for name in types["wanted"].split(" | ")]
        if len(wanted) > 1 and "null" in wanted:
            wanted.remove("null")  # as good as leaving it out
        got = "a number with a fraction" if types["got"] == "float" else _TYPES.get(types["got"], types["got"])
        return f"must be {' or '.join(wanted)}, not {got}"
    if field := _FIELD.match(what):
        return f"{'lacks' if field['how'].startswith('missing') else 'does not take'} `{field['name']}`"
    for pattern, words in _PATTERNS.items():
        if what.endswith(repr(pattern)):
            return words
    if what.startswith("Invalid "):  # of an enum, of a tag: the rule names those that there are
        return "is none of the known ones"
    return f"does not fit: {what}"


def _wrong(url: str, name: str, value: object, problem: str) -> Fault:
    place, what = _sentence(problem)
    place = place.removeprefix(".") or name
    rule = rule_for(url, name)
    if name == "prompt" and isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return Fault(
            "invalid_request",
            "`prompt` is a list of several prompts; a line is one request",
            "Write one line for each prompt, each with its own custom_id.",
            "prompt",
        )
    if name == "modalities":
        return Fault(
            "unsupported_parameter", f"`modalities` is {show(value)}; only text comes out", "Remove it.", "modalities"
        )
    if name == "tools" and isinstance(value, list):
        for i, tool in enumerate(value):
            if isinstance(tool, dict) and tool.get("type", "function") != "function":
                return Fault(
                    "unsupported_parameter",
                    f"tools[{i}] is of type {show(tool.get('type'))}; only functions can be called",
                    "Describe it as a function, or remove it.",
                    f"tools[{i}].type",
                )
    if isinstance(value, dict | list):
        return Fault("invalid_request", f"{place} {what}", f"`{name}` must be {rule}.", place)
    return Fault("invalid_request", f"`{name}` is {show(value)}; it {what}", f"`{name}` must be {rule}.", name)


def _unknown(url: str, name: str) -> Fault:
    if name in UNSUPPORTED:
        why, instead = UNSUPPORTED[name]
        return Fault("unsupported_parameter", f"`{name}` is not supported: {why}", instead, name)
    other = COMPLETIONS if url == CHAT else CHAT
    if name in parameters(other):
        return Fault(
            "unsupported_parameter",
            f"`{name}` belongs to {other}, this line goes to {url}",
            f"Remove it, or change the line's url to {other}.",
            name,
        )
    guess = nearest(name, parameters(url))
    return Fault(
        "unknown_parameter",
        f"{show(name)} is not a parameter of {url}",
        f"Did you mean `{guess}`?" if guess else "Remove it: it would have no effect.",
        name,
    )


def _missing(url: str, name: str, body: dict[str, Any]) -> Fault:
    other = {"messages": "prompt", "prompt": "messages"}.get(name)
    if other in body:
        right = COMPLETIONS if other == "prompt" else CHAT
        return Fault(
            "missing_required_parameter",
            f"the body has no `{name}`, which {url} needs",
            f"A body with `{other}` goes to {right}.",
            name,
        )
    return Fault(
        "missing_required_parameter", f"the body has no `{name}`", f"`{name}` must be {rule_for(url, name)}.", name
    )


_PART_WORDS = {
    "image_url": "an image",
    "input_image": "an image",
    "image": "an image",
    "input_audio": "sound",
    "audio": "sound",
    "video_url": "a video",
    "file": "a file",
    "input_file": "a file",
}


def _message_faults(messages: object) -> list[Fault]:
    if not isinstance(messages, list) or not messages:
        return [
            Fault(
                "invalid_request",
                f"`messages` is {show(messages)}",
                f"`messages` must be {RULES['messages']}.",
                "messages",
            )
        ]
    found: list[Fault] = []
    for i, message in enumerate(messages):
        found.extend(_one_message(f"messages[{i}]", message))
    return found


def _one_message(place: str, message: object) -> list[Fault]:
    if not isinstance(message, dict):
        return [
            Fault(
                "invalid_request",
                f"{place} is {show(message)}, not an object",
                'A message is {"role": …, "content": …}.',
                place,
            )
        ]
    role = message.get("role")
    if not isinstance(role, str) or role not in MESSAGES:
        hint = 'Write "tool".' if role == "function" else f"One of: {', '.join(MESSAGES)}."
        what = f"{place}.role is {show(role)}" if "role" in message else f"{place} has no role"
        return [Fault("invalid_request", what, hint, f"{place}.role")]
    found: list[Fault] = []
    content = message.get("content")
    if isinstance(content, list):
        for k, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind != "text":
                what = _PART_WORDS.get(kind, f"a part of type {show(kind)}")
                found.append(
                    Fault(
                        "unsupported_parameter",
                        f"{place}.content[{k}] is {what}; only text can be read",
                        'Keep parts of {"type": "text", "text": …} only.',
                        f"{place}.content[{k}].type",
                    )
                )
    shape = MESSAGES[role]
    known = ("role", *shape.__struct_fields__)
    for name in message:
        if name not in known:
            guess = nearest(name, known)
            found.append(
                Fault(
                    "unknown_parameter",
                    f"{place} has {show(name)}, which a message of the role {role} does not take",
                    f"Did you mean `{guess}`?" if guess else "Remove it.",
                    f"{place}.{name}",
                )
            )
    if not found and (problem := _refusal(message, shape)) is not None:
        where, what = _sentence(problem)
        where = place + where
        found.append(
            Fault(
                "invalid_request",
                f"{where} {what}",
                "Content is a string or a list of text parts"
                + (", or null beside tool_calls." if role == "assistant" else "."),
                where,
            )
        )
    return found
