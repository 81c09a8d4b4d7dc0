"""One line of a batch file → a request, or everything that is wrong with it. Opens no file, remembers no line.

Three forms are read: OpenAI's batch lines; JSON lines of a bare {"prompt": …} or {"messages": …}; text with one prompt
a line. `read` never raises: what does not hold is data (a `Fault` of a `Reading`, and a `LineProblem` for people).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from engine.bodies import (
    BODIES,
    CHAT,
    COMPLETIONS,
    ENDPOINTS,
    UNSUPPORTED,
    Fault,
    nearest,
    parameters,
    remarks,
    show,
)
from engine.faults import faults

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Longest line that is read. Also bounds the memory of a file without any newline."""

MAX_DEPTH = 64
"""Deepest nesting of arrays and objects. The parser's own limit depends on the stack it is called from."""

Form = Literal["openai", "bare", "text"]


class LineProblem(msgspec.Struct, frozen=True):
    """Something to say about one line: what is wrong, and what a person can do about it."""

    line: int
    custom_id: str | None
    code: str
    message: str
    fix: str
    param: str | None = None
    level: Literal["error", "warning"] = "error"

    def sentence(self) -> str:
        """One line for people."""
        who = f" (custom_id {show(self.custom_id)})" if self.custom_id is not None else ""
        return f"line {self.line}{who}: {self.message}. {self.fix}"


class Request(msgspec.Struct, frozen=True):
    """One line of a batch that holds. `body` is as the file has it; `request_id` is a digest of url and body."""

    custom_id: str
    url: str
    body: dict[str, Any]
    line: int
    request_id: str


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """What all good lines have in common; the body is decoded by its endpoint's struct."""

    custom_id: str
    method: Literal["POST"]
    url: Literal["/v1/chat/completions", "/v1/completions"]
    body: msgspec.Raw


_line = msgspec.json.Decoder(_Line)
_bodies = {url: msgspec.json.Decoder(kind) for url, kind in BODIES.items()}
_any = msgspec.json.Decoder()
_canonical = msgspec.json.Encoder(order="deterministic")

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)
"""What msgspec raises on foreign bytes; only the first is its own. ValidationError is a DecodeError."""


def _digest(url: str, canonical: bytes) -> bytes:
    return hashlib.sha256(url.encode() + b"\n" + canonical).digest()[:16]


def raw_digest(raw: bytes) -> bytes:
    """What identifies a line that is no request: its bytes."""
    return hashlib.sha256(raw).digest()[:16]


def request_id(url: str, body: dict[str, Any]) -> str:
    """`req_` and 32 hex digits: equal exactly for equal requests, however their keys are ordered or spaced."""
    return "req_" + _digest(url, _canonical.encode(body)).hex()


class Reading(NamedTuple):
    """One line, read. Without an error among `found`, url and body are set and hold.

    `digest` is of url and body then, else of the bytes of the line.
    """

    custom_id: str | None
    url: str
    body: dict[str, Any] | None
    digest: bytes
    found: list[Fault]
    model: str | None = None

    @property
    def bad(self) -> bool:
        return bool(self.found) and any(fault.level == "error" for fault in self.found)


def form_of(path: Path, first: bytes) -> Form:
    """How to read a file, from its name and its first line that is not blank."""
    if path.suffix.lower() in (".txt", ".text"):
        return "text"
    named_json = path.suffix.lower() in (".jsonl", ".ndjson", ".json")
    try:
        value = _any.decode(first)
    except _UNREADABLE:
        # A damaged first line must not turn all lines of a batch into prompts.
        return "openai" if named_json or first.lstrip().startswith(b"{") else "text"
    if not isinstance(value, dict):
        return "openai" if named_json else "text"
    bare = ("prompt" in value or "messages" in value) and not ({"body", "url", "method"} & value.keys())
    return "bare" if bare else "openai"


NOTICES: dict[Form, str] = {
    "openai": "",
    "bare": 'read as bare {"prompt"} or {"messages"} lines: each becomes a chat request, named line-<number> where it '
    "has no id",
    "text": "read as text, one prompt a line: each becomes a chat request named line-<number>",
}


def read(raw: bytes, form: Form, number: int, endpoint: str) -> Reading:
    """A line without its newline, cut at MAX_LINE_BYTES + 1.

    `number` names lines that have no id of their own. `endpoint` is the batch's; empty until a good line has set it.
    """
    reading = (_quick(raw) if form == "openai" else None) or _slow(raw, form, number)
    if not endpoint or reading.url == endpoint or reading.bad:
        return reading
    fault = Fault(
        "url_mismatch",
        f"the line goes to {reading.url}, the batch to {endpoint} (its first good line)",
        "Keep lines of different endpoints in different files.",
        "url",
    )
    return Reading(reading.custom_id, "", None, raw_digest(raw), [fault, *reading.found])


def problem_of(reading: Reading, number: int) -> LineProblem:
    """All errors of a bad line as one problem: the first in full, the others named behind it."""
    errors = [fault for fault in reading.found if fault.level == "error"]
    first = errors[0]
    message = "; ".join([first.message, *(f"also: {fault.message}" for fault in errors[1:4])])
    if len(errors) > 4:
        message += f"; and {len(errors) - 4} more"
    return LineProblem(number, reading.custom_id, first.code, message, first.fix, first.param, "error")


def duplicate(number: int, custom_id: str, first_line: int) -> LineProblem:
    return LineProblem(
        number,
        custom_id,
        "duplicate_custom_id",
        f"the custom_id is already used on line {first_line}",
        "Give every line its own: answers are found by it.",
        "custom_id",
    )


# --- reading ----------------------------------------------------------------------------------------------------------


def _quick(raw: bytes) -> Reading | None:
    """A line of OpenAI's form about which there is nothing to say, or None: then `_slow` says it."""
    try:
        line = _line.decode(raw)
        typed = _bodies[line.url].decode(line.body)
        body = _any.decode(line.body)
        canonical = _canonical.encode(body)
    except _UNREADABLE:
        return None
    # Quotes: the only sign that a repeated key (or an escaped quote, which `_slow` sorts out) was lost in decoding.
    quotes = 14 + line.custom_id.count('"') + canonical.count(b'"')
    if (
        not line.custom_id
        or typed.model is None
        or raw.count(b'"') != quotes
        or raw.count(b"{") + raw.count(b"[") > MAX_DEPTH
        or remarks(typed)
    ):
        return None
    return Reading(line.custom_id, line.url, body, _digest(line.url, canonical), [], typed.model)


def _slow(raw: bytes, form: Form, number: int) -> Reading:
    """Any line, with everything that is wrong with it."""
    unread = raw_digest(raw)
    if len(raw) > MAX_LINE_BYTES:
        fault = Fault(
            "invalid_json_line",
            f"the line is longer than {MAX_LINE_BYTES // 1024**2} MiB",
            "One request is one line; is the file really JSON lines?",
        )
        return Reading(None, "", None, unread, [fault])
    if form == "text":
        return _text_line(raw, unread, number)
    value, found = _parse(raw)
    if value is None:
        return Reading(None, "", None, unread, found)
    custom_id, url, body, more = _openai_line(value) if form == "openai" else _bare_line(value, number)
    found += more
    model = None
    if body is not None:
        named = body.get("model")
        model = named if isinstance(named, str) else None
        if form == "openai" and model is None and body.get("model") is None and url:
            found.append(
                Fault(
                    "model_missing",
                    "the body names no model, so the run's model answers (said once for the file)",
                    'Add "model" if other programs read this file too.',
                    "model",
                    "warning",
                )
            )
    if body is None or not url or any(fault.level == "error" for fault in found):
        return Reading(custom_id, url, None, unread, _errors_first(found))
    return Reading(custom_id, url, body, _digest(url, _canonical.encode(body)), found, model)


def _errors_first(found: list[Fault]) -> list[Fault]:
    return sorted(found, key=lambda fault: fault.level != "error")


def _parse(raw: bytes) -> tuple[dict[str, Any] | None, list[Fault]]:
    """The object on a line, or why there is none; a warning where a key is repeated."""
    try:
        value = _any.decode(raw)
        _canonical.encode(value)  # what can't be written again (a recursion deeper than ours) can't be digested
    except _UNREADABLE as e:
        return None, [_unparseable(raw, e)]
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        return None, [_too_deep()]
    if not isinstance(value, dict):
        fix = 'A line is an object: {"custom_id": …, "method": "POST", "url": …, "body": {…}}.'
        if isinstance(value, list):
            fix += " A file with one JSON array becomes lines by: jq -c '.[]' FILE."
        return None, [Fault("invalid_request", f"the line is {show(value, 40)}, not a JSON object", fix)]
    return value, _repeated_keys(raw)


def _unparseable(raw: bytes, e: Exception) -> Fault:
    try:
        text = raw.decode()
    except UnicodeDecodeError as bad:
        return Fault(
            "invalid_json_line",
            f"byte {bad.start + 1} of the line ({raw[bad.start]:#04x}) is not UTF-8",
            "Save the file as UTF-8, for example with: iconv -f WINDOWS-1252 -t UTF-8.",
        )
    if isinstance(e, RecursionError):
        return _too_deep()
    try:
        json.loads(text)
    except json.JSONDecodeError as where:
        said = f"the line is no valid JSON: {where.msg} at character {where.pos + 1}"
    except RecursionError:
        return _too_deep()
    except ValueError:  # an integer of more digits than Python converts
        said = "the line has a number out of range"
    else:  # Python's parser takes NaN, lone surrogates and numbers past the range of a float
        lone = "surrogate" in str(e) or "truncated" in str(e) or "\\u" in text
        if "out of range" in str(e):
            said = "the line has a number out of range"
        elif "NaN" in text or "Infinity" in text:
            said = "the line has NaN or Infinity, which JSON does not have"
        elif lone:
            said = "the line has half of a surrogate pair (\\ud800 to \\udfff alone), which is no character"
        else:
            said = f"the line is no valid JSON: {e}"
    return Fault("invalid_json_line", said, "One whole JSON object on one line; `jq -c . FILE` writes it so.")


def _too_deep() -> Fault:
    return Fault(
        "invalid_json_line",
        f"the line is nested deeper than {MAX_DEPTH} levels",
        "Put deep data into a string.",
    )


def _depth(value: object) -> int:
    deepest, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        deepest += 1
        level = [child for v in level for child in (v.values() if isinstance(v, dict) else v)]
    return deepest


def _repeated_keys(raw: bytes) -> list[Fault]:
    """A key given twice in one object: parsers keep the last, so what was meant is a guess. Said, once a line."""
    repeated: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> None:
        counts = Counter(key for key, _ in pairs)
        repeated.extend(key for key, times in counts.items() if times > 1)

    try:
        json.loads(raw, object_pairs_hook=note, parse_int=len)  # len: values don't matter, and long digits are refused
    except ValueError:  # the two parsers disagree on this line; the one that decides has accepted it
        return []
    if not repeated:
        return []
    return [
        Fault(
            "repeated_key",
            f"the key {show(repeated[0])} stands twice in one object; the last one counts",
            "Remove one of them.",
            repeated[0],
            "warning",
        )
    ]


_Parsed = tuple[str | None, str, dict[str, Any] | None, list[Fault]]


def _openai_line(value: dict[str, Any]) -> _Parsed:
    found = [
        Fault(
            "missing_required_parameter",
            f"the line has no `{key}`",
            'A line is {"custom_id": …, "method": "POST", "url": "/v1/chat/completions", "body": {…}}.',
            key,
        )
        for key in ("custom_id", "method", "url", "body")
        if key not in value
    ]
    custom_id, method, url, body = (value.get(key) for key in ("custom_id", "method", "url", "body"))
    if "custom_id" in value and (not isinstance(custom_id, str) or not custom_id):
        found.append(
            Fault(
                "invalid_request",
                f"`custom_id` is {show(custom_id)}, not a string with something in it",
                "Give every line its own custom_id in quotes.",
                "custom_id",
            )
        )
    if "method" in value and method != "POST":
        found.append(Fault("invalid_request", f"`method` is {show(method)}", 'It must be "POST".', "method"))
    served = ""
    if "url" in value:
        served, more = _served(url)
        found += more
    if "body" in value and not isinstance(body, dict):
        fix = 'It holds the parameters: {"model": …, "messages": […]}.'
        found.append(Fault("invalid_request", f"`body` is {show(body)}, not an object", fix, "body"))
    for key in value:
        if key not in ("custom_id", "method", "url", "body"):
            found.append(_beside_body(key))
    if isinstance(body, dict) and served:
        found += faults(served, body)
    return (
        custom_id if isinstance(custom_id, str) and custom_id else None,
        served,
        body if isinstance(body, dict) else None,
        found,
    )


def _served(url: object) -> tuple[str, list[Fault]]:
    if isinstance(url, str):
        if url in ENDPOINTS:
            return url, []
        if "/v1" + url in ENDPOINTS:
            return "/v1" + url, [
                Fault("url_without_version", f"url {show(url)} is read as /v1{url}", "Write it so.", "url", "warning")
            ]
        guess = nearest(url, ENDPOINTS) or CHAT
        return "", [
            Fault("invalid_url", f"url {show(url)} is not served here", f"Did you mean {guess}?", "url"),
        ]
    return "", [Fault("invalid_request", f"`url` is {show(url)}, not a string", f"Write {CHAT}.", "url")]


def _beside_body(key: str) -> Fault:
    if key in parameters(CHAT) or key in parameters(COMPLETIONS) or key in UNSUPPORTED:
        return Fault("unknown_parameter", f"`{key}` stands beside `body`", "Move it into `body`.", key)
    guess = nearest(key, ("custom_id", "method", "url", "body"))
    return Fault(
        "unknown_key",
        f"the line has {show(key)}, which is ignored",
        f"Did you mean `{guess}`?" if guess else "Remove it to silence this.",
        key,
        "warning",
    )


def _bare_line(value: dict[str, Any], number: int) -> _Parsed:
    """{"prompt": …} or {"messages": …} with body parameters beside it. A prompt in words becomes a user's message."""
    body = dict(value)
    found: list[Fault] = []
    given = [body.pop(key) for key in ("custom_id", "id") if key in body]
    custom_id = f"line-{number}"
    if given:
        first = given[0]
        if isinstance(first, str) and first:
            custom_id = first
        elif isinstance(first, int) and not isinstance(first, bool):
            custom_id = str(first)
        elif first is not None:
            found.append(
                Fault("invalid_request", f"the id is {show(first)}", "Write a string, or leave it out.", "custom_id")
            )
    if "body" in body:
        fault = Fault(
            "invalid_request",
            'this is a line of OpenAI\'s form in a file that began with a bare {"prompt"} or {"messages"}',
            "Keep the two forms in two files.",
            "body",
        )
        return custom_id, "", None, [fault]
    if "prompt" in body and "messages" in body:
        fault = Fault("invalid_request", "the line has `prompt` and `messages`", "Keep one of them.", "prompt")
        return custom_id, "", None, [fault]
    if "prompt" in body:
        prompt = body.pop("prompt")
        if not isinstance(prompt, str) or not prompt:
            fault = Fault(
                "invalid_request",
                f"`prompt` is {show(prompt)}",
                f"Here it is a string, not empty; token ids go in OpenAI's form to {COMPLETIONS}.",
                "prompt",
            )
            return custom_id, "", None, [*found, fault]
        body = {"messages": [{"role": "user", "content": prompt}], **body}
    return custom_id, CHAT, body, found + faults(CHAT, body)


def _text_line(raw: bytes, unread: bytes, number: int) -> Reading:
    try:
        prompt = raw.rstrip(b"\r\n").decode()
    except UnicodeDecodeError as e:
        return Reading(f"line-{number}", "", None, unread, [_unparseable(raw, e)])
    body = {"messages": [{"role": "user", "content": prompt}]}
    return Reading(f"line-{number}", CHAT, body, _digest(CHAT, _canonical.encode(body)), [])
