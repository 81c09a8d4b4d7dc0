"""Batch files: lines → requests. Reads, validates every line, and remembers where each one is, not what it says.

`scan` reads a file once, in near-constant memory: a line leaves a few dozen bytes in the `BatchIndex` (place, length,
line number, digests, flags), whatever its size. `BatchIndex.request` reads one line again when its turn comes, and
notices where the file has changed meanwhile. A bad line is data (`LineProblem`), never an exception.

Lines are counted on the byte \\n of the untouched file, blank ones included, so that numbers agree with every editor.

Three forms are read: OpenAI's batch lines; JSON lines of a bare {"prompt": …} or {"messages": …}; text with one prompt
a line.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from engine.bodies import (
    BODIES,
    CHAT,
    COMPLETIONS,
    ENDPOINTS,
    UNSUPPORTED,
    ChatBody,
    CompletionBody,
    Fault,
    faults,
    nearest,
    parameters,
    remarks,
    show,
)
from engine.errors import BatchInvalid, GptossError

__all__ = [
    "ENDPOINTS",
    "BatchIndex",
    "ChatBody",
    "CompletionBody",
    "InputChanged",
    "LineProblem",
    "Request",
    "Scan",
    "request_id",
    "scan",
]

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Longest line that is read. Also bounds the memory of a file without any newline."""

MAX_DEPTH = 64
"""Deepest nesting of arrays and objects. The parser's own limit depends on the stack it is called from."""

MAX_PROBLEMS = 1000
"""How many problems a Scan keeps; `by_code` counts all, and `on_problem` hears of all."""

READ_BYTES = 1024 * 1024

_BOM = b"\xef\xbb\xbf"
_BAD, _DUPLICATE, _NO_ID = 1, 2, 4  # flags of an entry; a duplicate and a line without id are bad as well

Form = Literal["openai", "bare", "text"]


class InputChanged(GptossError):
    """The batch file is not what it was when it was read: requests would not be those that were validated."""


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


def request_id(url: str, body: dict[str, Any]) -> str:
    """`req_` and 32 hex digits: equal exactly for equal requests, however their keys are ordered or spaced."""
    return "req_" + _digest(url, _canonical.encode(body)).hex()


def _id_hash(custom_id: str) -> int:
    """64 bits of an id. Stable between processes, so that a test can say what collides."""
    return int.from_bytes(hashlib.blake2b(custom_id.encode(), digest_size=8).digest(), "little")


# --- one line ---------------------------------------------------------------------------------------------------------


class _Reading(NamedTuple):
    """One line, read. Without an error among `found`, url and body are set and hold."""

    custom_id: str | None
    url: str
    body: dict[str, Any] | None
    digest: bytes
    found: list[Fault]
    model: str | None = None

    @property
    def bad(self) -> bool:
        return bool(self.found) and any(fault.level == "error" for fault in self.found)


def _quick(raw: bytes) -> _Reading | None:
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
    return _Reading(line.custom_id, line.url, body, _digest(line.url, canonical), [], typed.model)


def _slow(raw: bytes, form: Form, number: int) -> _Reading:
    """Any line, with everything that is wrong with it."""
    unread = hashlib.sha256(raw).digest()[:16]
    if len(raw) > MAX_LINE_BYTES:
        fault = Fault(
            "invalid_json_line",
            f"the line is longer than {MAX_LINE_BYTES // 1024**2} MiB",
            "One request is one line; is the file really JSON lines?",
        )
        return _Reading(None, "", None, unread, [fault])
    if form == "text":
        return _text_line(raw, unread, number)
    value, found = _parse(raw)
    if value is None:
        return _Reading(None, "", None, unread, found)
    read = _openai_line if form == "openai" else _bare_line
    custom_id, url, body, more = read(value, number)
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
        return _Reading(custom_id, url, None, unread, _errors_first(found))
    return _Reading(custom_id, url, body, _digest(url, _canonical.encode(body)), found, model)


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


def _openai_line(value: dict[str, Any], number: int) -> _Parsed:
    del number
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
        found.append(Fault("invalid_request", f"`body` is {show(body)}, not an object", "See docs.", "body"))
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


def _text_line(raw: bytes, unread: bytes, number: int) -> _Reading:
    try:
        prompt = raw.rstrip(b"\r\n").decode()
    except UnicodeDecodeError as e:
        return _Reading(f"line-{number}", "", None, unread, [_unparseable(raw, e)])
    body = {"messages": [{"role": "user", "content": prompt}]}
    return _Reading(f"line-{number}", CHAT, body, _digest(CHAT, _canonical.encode(body)), [])


def _form_of(path: Path, first: bytes) -> Form:
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


_FORMS: dict[Form, str] = {
    "openai": "",
    "bare": 'read as bare {"prompt"} or {"messages"} lines: each becomes a chat request, named line-<number> where it '
    "has no id",
    "text": "read as text, one prompt a line: each becomes a chat request named line-<number>",
}


def _read(raw: bytes, form: Form, number: int) -> _Reading:
    return (_quick(raw) if form == "openai" else None) or _slow(raw, form, number)


def _mismatch(reading: _Reading, endpoint: str) -> _Reading:
    """The same line as a bad one if it goes to another endpoint than the batch."""
    if reading.bad or reading.url == endpoint or not endpoint:
        return reading
    fault = Fault(
        "url_mismatch",
        f"the line goes to {reading.url}, the batch to {endpoint} (its first good line)",
        "Keep lines of different endpoints in different files.",
        "url",
    )
    return reading._replace(found=[fault, *reading.found])


def _problem(reading: _Reading, number: int) -> LineProblem:
    """All errors of a bad line as one problem: the first in full, the others named behind it."""
    errors = [fault for fault in reading.found if fault.level == "error"]
    first = errors[0]
    message = "; ".join([first.message, *(f"also: {fault.message}" for fault in errors[1:4])])
    if len(errors) > 4:
        message += f"; and {len(errors) - 4} more"
    return LineProblem(number, reading.custom_id, first.code, message, first.fix, first.param, "error")


def _duplicate(number: int, custom_id: str, first_line: int) -> LineProblem:
    return LineProblem(
        number,
        custom_id,
        "duplicate_custom_id",
        f"the custom_id is already used on line {first_line}",
        "Give every line its own: answers are found by it.",
        "custom_id",
    )


# --- the index --------------------------------------------------------------------------------------------------------


class BatchIndex:
    """Where each line is and what it was; entries of good and bad lines in the order of the file.

    Every entry has an id of its own in the results: the custom_id of a good line, `bad_custom_id` of a bad one.
    """

    def __init__(
        self,
        path: Path,
        form: Form,
        endpoint: str,
        offsets: npt.NDArray[np.uint64],
        lengths: npt.NDArray[np.uint32],
        lines: npt.NDArray[np.uint32],
        digests: npt.NDArray[np.uint64],
        hashes: npt.NDArray[np.uint64],
        flags: npt.NDArray[np.uint8],
    ) -> None:
        self.path = path
        self.form: Form = form
        self.endpoint = endpoint
        self.lines = lines
        self._offsets = offsets
        self._lengths = lengths
        self._digests = digests  # (n, 2): 16 bytes of sha256, of url and body if good, else of the bytes of the line
        self._hashes = hashes
        self._flags = flags
        self._renamed: dict[int, str] = {}  # generated ids that a real id of the file had taken
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def nbytes(self) -> int:
        """Bytes held, all arrays together."""
        arrays = (self.lines, self._offsets, self._lengths, self._digests, self._hashes, self._flags)
        return sum(a.nbytes for a in (*arrays, self._order, self._sorted))

    @property
    def is_bad(self) -> npt.NDArray[np.bool_]:
        return (self._flags & _BAD) != 0

    def request(self, i: int) -> Request:
        """Entry `i`, read again from the file. Raises InputChanged where the file no longer holds it."""
        reading = self._reread(i)
        if self._flags[i] & _BAD:
            raise ValueError(f"entry {i} is a bad line and makes no request")
        if reading.bad or reading.custom_id is None or reading.body is None:
            raise self._changed(i)
        return Request(reading.custom_id, reading.url, reading.body, int(self.lines[i]), self.request_id(i))

    def request_id(self, i: int) -> str:
        """What identifies the content of entry `i`; of a bad one, the bytes of its line."""
        return "req_" + self._digests[i].tobytes().hex()

    def problem(self, i: int) -> LineProblem:
        """What is wrong with the bad entry `i`, read again from the file."""
        reading = self._reread(i)
        number = int(self.lines[i])
        if reading.bad:
            return _problem(reading, number)
        if self._flags[i] & _DUPLICATE and reading.custom_id is not None:
            return _duplicate(number, reading.custom_id, self._first_line(reading.custom_id, i))
        raise ValueError(f"entry {i} is a good line")

    def bad_custom_id(self, i: int) -> str:
        """The id that a bad line has in the results: its own where it has one and is the first to use it.

        Else `<id>#line-<n>` for a duplicate, `line-<n>` without an id; `#invalid` behind that where a good line is
        called so.
        """
        if (renamed := self._renamed.get(i)) is not None:
            return renamed
        flags, number = self._flags[i], self.lines[i]
        if flags & _NO_ID:
            return f"line-{number}"
        own = self._reread(i).custom_id
        if own is None:
            raise self._changed(i)
        return f"{own}#line-{number}" if flags & _DUPLICATE else own

    def custom_id(self, i: int) -> str:
        """The id of entry `i` in the results, good or bad."""
        return self.bad_custom_id(i) if self._flags[i] & _BAD else self.request(i).custom_id

    def find(self, custom_id: str) -> int | None:
        """The entry that has this id in the results."""
        return next((i for i in self._candidates(custom_id) if self.custom_id(i) == custom_id), None)

    def match(self, custom_ids: list[str], request_ids: list[str]) -> npt.NDArray[np.int64]:
        """For each pair its entry, or -1: no such id in the input, -2: the id is there and its request was edited.

        Ids are compared by 64 bits together with 128 bits of content, without reading the file; where only the id
        agrees, or two ids of the input share their 64 bits, the file decides.
        """
        if len(custom_ids) != len(request_ids):
            raise ValueError("each custom_id needs its request_id")
        result = np.full(len(custom_ids), -1, dtype=np.int64)
        if not custom_ids or not len(self):
            return result
        hashes = np.fromiter((_id_hash(c) for c in custom_ids), dtype=np.uint64, count=len(custom_ids))
        digests = np.zeros((len(custom_ids), 2), dtype=np.uint64)
        wellformed = np.ones(len(custom_ids), dtype=np.bool_)
        for k, rid in enumerate(request_ids):
            try:
                raw = bytes.fromhex(rid.removeprefix("req_"))
            except ValueError:
                raw = b""
            if len(raw) == 16:
                digests[k] = np.frombuffer(raw, dtype=np.uint64)
            else:
                wellformed[k] = False
        left = np.searchsorted(self._sorted, hashes, side="left")
        many = np.searchsorted(self._sorted, hashes, side="right") - left
        entry = self._order[np.minimum(left, len(self) - 1)]
        same = (self._digests[entry] == digests).all(axis=1) & wellformed
        sure = (many == 1) & same
        result[sure] = entry[sure]
        for k in np.flatnonzero((many > 0) & ~sure):
            found = self.find(custom_ids[k])
            if found is not None:
                edited = not wellformed[k] or bool((self._digests[found] != digests[k]).any())
                result[k] = -2 if edited else found
        return result

    # --- inside ---

    def _reread(self, i: int) -> _Reading:
        try:
            with self.path.open("rb", buffering=0) as f:
                reading, unread = self._read_entry(f, i)
        except OSError as e:
            raise self._changed(i, f": {e.strerror or e}") from e
        flags = int(self._flags[i])
        taken = reading.custom_id is not None and not flags & (_BAD | _NO_ID)
        digest = unread if flags & _BAD else reading.digest
        if digest != self._digests[i].tobytes() or (taken and _id_hash(reading.custom_id or "") != self._hashes[i]):
            raise self._changed(i)
        return reading

    def _read_entry(self, f: BinaryIO, i: int) -> tuple[_Reading, bytes]:
        """The line, and the digest of its bytes."""
        f.seek(int(self._offsets[i]))
        raw = _read_exactly(f, min(int(self._lengths[i]), MAX_LINE_BYTES + 1))
        reading = _mismatch(_read(raw, self.form, int(self.lines[i])), self.endpoint)
        return reading, hashlib.sha256(raw).digest()[:16]

    def _candidates(self, custom_id: str) -> list[int]:
        key = np.uint64(_id_hash(custom_id))
        left = int(np.searchsorted(self._sorted, key, side="left"))
        right = int(np.searchsorted(self._sorted, key, side="right"))
        return [int(i) for i in self._order[left:right]]

    def _first_line(self, custom_id: str, i: int) -> int:
        """The line that used this id first."""
        for k in self._candidates(custom_id):
            if not self._flags[k] & (_DUPLICATE | _NO_ID) and self._reread(k).custom_id == custom_id:
                return int(self.lines[k])
        raise self._changed(i)

    def _changed(self, i: int, why: str = "") -> InputChanged:
        return InputChanged(
            f"{self.path}, line {self.lines[i]}: the file has changed since it was read{why}",
            advice="Put the file back as it was, or resume the job: it is read again then, and edited lines run again.",
        )


def _read_exactly(f: BinaryIO, size: int) -> bytes:
    raw = f.read(size)
    while len(raw) < size and (more := f.read(size - len(raw))):
        raw += more
    return raw


# --- the scan ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scan:
    """A validated file. `errors` counts bad lines, `warnings` remarks; `problems` keeps the first of them, by line."""

    index: BatchIndex
    endpoint: str
    sha256: str
    size: int
    errors: int
    warnings: int
    problems: list[LineProblem]
    by_code: dict[str, int]
    notice: str = ""  # how the file was read, where it is not in OpenAI's form

    @property
    def good(self) -> int:
        """Requests that can be run."""
        return len(self.index) - self.errors


class _Report:
    """Counts all problems, tells each, keeps the first."""

    def __init__(self, on_problem: Callable[[LineProblem], None] | None) -> None:
        self.on_problem = on_problem
        self.errors = 0
        self.warnings = 0
        self.kept: list[LineProblem] = []
        self.by_code: Counter[str] = Counter()

    def add(self, problem: LineProblem) -> None:
        self.by_code[problem.code] += 1
        if problem.level == "error":
            self.errors += 1
        else:
            self.warnings += 1
        if len(self.kept) < 2 * MAX_PROBLEMS:  # duplicates come last, whatever their line: cut only at the end
            self.kept.append(problem)
        if self.on_problem is not None:
            self.on_problem(problem)

    def first(self) -> list[LineProblem]:
        return sorted(self.kept, key=lambda problem: problem.line)[:MAX_PROBLEMS]


class _Builder:
    """The arrays of an index while they grow. array.array grows in steps of an eighth, so peaks stay low."""

    def __init__(self) -> None:
        self.offsets = array.array("Q")
        self.lengths = array.array("I")
        self.lines = array.array("I")
        self.digests = bytearray()
        self.hashes = array.array("Q")
        self.flags = bytearray()

    def add(self, offset: int, length: int, number: int, digest: bytes, key: int, flags: int) -> None:
        self.offsets.append(offset)
        self.lengths.append(min(length, 2**32 - 1))
        self.lines.append(number)
        self.digests += digest
        self.hashes.append(key)
        self.flags.append(flags)

    def index(self, path: Path, form: Form, endpoint: str) -> BatchIndex:
        return BatchIndex(
            path,
            form,
            endpoint,
            np.frombuffer(self.offsets, dtype=np.uint64),
            np.frombuffer(self.lengths, dtype=np.uint32),
            np.frombuffer(self.lines, dtype=np.uint32),
            np.frombuffer(self.digests, dtype=np.uint64).reshape(-1, 2),
            np.frombuffer(self.hashes, dtype=np.uint64),
            np.frombuffer(self.flags, dtype=np.uint8),
        )


def scan(
    path: Path | str,
    *,
    limit: int | None = None,
    on_progress: Callable[[float], None] | None = None,
    on_problem: Callable[[LineProblem], None] | None = None,
) -> Scan:
    """Read and validate a batch file.

    `limit`: only the first so many requests, good or bad; size and sha256 are the whole file's all the same.
    `on_progress` is told the fraction of bytes read; `on_problem` every problem, duplicates after all others. Whatever
    they raise ends the scan. Raises BatchInvalid only for what concerns the whole file.
    """
    path = Path(path).absolute()
    with _open(path) as f:
        return _scan(path, f, limit, on_progress, _Report(on_problem))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Around reads of the file only: an OSError of a callback is not ours to explain."""
    try:
        yield
    except OSError as e:
        raise BatchInvalid(
            f"{path} can't be read: {e.strerror or e}", advice="Check the path and its permissions."
        ) from e


def _open(path: Path) -> BinaryIO:
    try:
        with _reading(path):
            exists = path.exists()
            mode = path.stat().st_mode if exists else 0
    except ValueError:  # a NUL in the path
        raise BatchInvalid(f"{str(path)!r} is no path") from None
    if not exists:
        raise BatchInvalid(f"{path} does not exist", advice=_similar(path))
    if stat.S_ISDIR(mode):
        raise BatchInvalid(f"{path} is a folder", advice="Name a batch file in it.")
    if not stat.S_ISREG(mode):
        raise BatchInvalid(
            f"{path} is not a regular file", advice="Lines are read again later: write them to a file first."
        )
    with _reading(path):
        return path.open("rb", buffering=READ_BYTES)


def _similar(path: Path) -> str:
    try:
        names = tuple(sorted(p.name for p in path.parent.iterdir()))
    except OSError:
        return f"There is no folder {path.parent} either."
    guess = nearest(path.name, names)
    return f"Did you mean {path.parent / guess}?" if guess else "Check the path."


class _RawLine(NamedTuple):
    raw: bytes  # cut at MAX_LINE_BYTES + 1
    offset: int
    length: int  # without the newline
    number: int


def _lines_of(path: Path, f: BinaryIO, digest: hashlib._Hash, first_offset: int) -> Iterator[_RawLine]:
    """The lines of a file with true numbers, none blank."""
    offset, number = first_offset, 0
    with _reading(path):  # what a consumer raises at a yield does not pass through here
        while raw := f.readline(MAX_LINE_BYTES + 1):
            number += 1
            digest.update(raw)
            length = len(raw)
            start = offset
            while not raw.endswith(b"\n") and length > MAX_LINE_BYTES and (more := f.readline(READ_BYTES)):
                digest.update(more)
                length += len(more)
                if more.endswith(b"\n"):
                    break
            offset += length
            text = raw.removesuffix(b"\n")
            if text.strip():
                yield _RawLine(text, start, len(text) if length == len(raw) else length, number)


def _scan(
    path: Path, f: BinaryIO, limit: int | None, on_progress: Callable[[float], None] | None, report: _Report
) -> Scan:
    digest = hashlib.sha256()
    with _reading(path):
        size = os.fstat(f.fileno()).st_size
        start = _skip_mark(path, f, digest, report)
    built, endpoint = _Builder(), ""
    form: Form = "openai"
    model: str | None = None
    missing_model = other_model = False
    told = 0
    for line in _lines_of(path, f, digest, start):
        if not built.flags:
            form = _form_of(path, line.raw)
        reading = _read(line.raw, form, line.number)
        if not reading.bad:
            endpoint = endpoint or reading.url
            reading = _mismatch(reading, endpoint)
        flags = 0
        if reading.custom_id is None:
            flags |= _NO_ID
        if reading.bad:
            flags |= _BAD
            report.add(_problem(reading, line.number))
        else:
            model = model or reading.model
            if reading.model not in (None, model) and not other_model:
                other_model = True
                report.add(_other_model(line.number, reading, str(model)))
        for fault in reading.found:
            if fault.level == "error" or (fault.code == "model_missing" and missing_model):
                continue
            missing_model = missing_model or fault.code == "model_missing"
            report.add(
                LineProblem(
                    line.number, reading.custom_id, fault.code, fault.message, fault.fix, fault.param, "warning"
                )
            )
        kept = hashlib.sha256(line.raw).digest()[:16] if reading.bad else reading.digest
        key = _id_hash(reading.custom_id if reading.custom_id is not None else f"line-{line.number}")
        built.add(line.offset, line.length, line.number, kept, key, flags)
        if on_progress is not None and line.offset - told >= READ_BYTES:
            told = line.offset
            on_progress(min(1.0, line.offset / max(size, 1)))
        if limit is not None and len(built.flags) >= limit:
            break
    with _reading(path):
        while block := f.read(READ_BYTES):  # with a limit: the rest counts for the digest only
            digest.update(block)
    if not built.flags:
        raise BatchInvalid(f"{path} has no request in it: {'it is empty' if not size else 'all lines are blank'}")
    index = _without_duplicates(built, path, form, endpoint, report)
    if on_progress is not None:
        on_progress(1.0)
    return Scan(
        index,
        endpoint,
        digest.hexdigest(),
        size,
        report.errors,
        report.warnings,
        report.first(),
        dict(report.by_code),
        _FORMS[form],
    )


def _skip_mark(path: Path, f: BinaryIO, digest: hashlib._Hash, report: _Report) -> int:
    """Go past a byte order mark. Files that are no UTF-8 text from their first bytes on are refused as a whole."""
    head = f.read(4)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in head:
        raise BatchInvalid(f"{path} is UTF-16 text", advice="Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW.")
    if head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")):
        raise BatchInvalid(f"{path} is compressed", advice="Unpack it first.")
    start = len(_BOM) if head.startswith(_BOM) else 0
    f.seek(start)
    digest.update(head[:start])
    if start:
        report.add(
            LineProblem(
                1,
                None,
                "byte_order_mark",
                "the file begins with a byte order mark, which is skipped",
                "Save it as UTF-8 without BOM if other programs read it too.",
                None,
                "warning",
            )
        )
    return start


def _other_model(number: int, reading: _Reading, first: str) -> LineProblem:
    return LineProblem(
        number,
        reading.custom_id,
        "model_mismatch",
        f"the line names the model {show(reading.model)}, the first good line {show(first)}",
        "A run has one model: it answers all lines. Split the file if that is not meant.",
        "model",
        "warning",
    )


def _without_duplicates(built: _Builder, path: Path, form: Form, endpoint: str, report: _Report) -> BatchIndex:
    """Find ids used twice, mark all but the first as bad, and give every entry an id of its own."""
    index = built.index(path, form, endpoint)
    generated = [int(i) for i in np.flatnonzero(index._flags & _NO_ID)]
    equal = index._sorted[1:] == index._sorted[:-1]
    if equal.any():
        with path.open("rb") as f:
            entries, last = [], -1
            for at in np.flatnonzero(equal):
                # Neighbours with equal hashes make groups; a stable sort keeps each in the order of the file.
                entries += [at + 1] if at == last else [at, at + 1]
                last = at + 1
            first_of: dict[str, int] = {}
            group = None
            for at in entries:
                if index._sorted[at] != group:
                    group, first_of = index._sorted[at], {}
                i = int(index._order[at])
                if built.flags[i] & _NO_ID:
                    continue
                reading, unread = index._read_entry(f, i)
                own = reading.custom_id
                if own is None:
                    raise index._changed(i)
                if own not in first_of:
                    first_of[own] = int(index.lines[i])
                    continue
                if built.flags[i] & _BAD:  # one problem a line: the earlier finding stays the one that is told
                    index_flags = _DUPLICATE
                else:
                    report.add(_duplicate(int(index.lines[i]), own, first_of[own]))
                    index_flags = _DUPLICATE | _BAD
                    built.digests[16 * i : 16 * i + 16] = unread
                built.flags[i] |= index_flags
                built.hashes[i] = _id_hash(f"{own}#line-{index.lines[i]}")
                generated.append(i)
    if not generated:
        return index
    if equal.any():
        index = built.index(path, form, endpoint)
    return _with_own_ids(index, built, generated)


def _with_own_ids(index: BatchIndex, built: _Builder, generated: list[int]) -> BatchIndex:
    """Rename generated ids that some line of the file has for its own."""
    renamed: dict[int, str] = {}
    made = set(generated)
    counts = np.searchsorted(index._sorted, index._hashes[generated], side="right") - np.searchsorted(
        index._sorted, index._hashes[generated], side="left"
    )
    for i, count in zip(generated, counts, strict=True):
        if count == 1:
            continue
        name = index.bad_custom_id(i)
        while any(k not in made and index.custom_id(k) == name for k in index._candidates(name)):
            name += "#invalid"
        if name != index.bad_custom_id(i):
            renamed[i] = name
            built.hashes[i] = _id_hash(name)
    if renamed:
        index = built.index(index.path, index.form, index.endpoint)
        index._renamed = renamed
    return index
