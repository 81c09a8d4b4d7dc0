"""The lines of a journal: OpenAI batch output and error lines, their seals, and one reader for everybody's lines.

Shape: `id`, `custom_id`, `response`, `error` as OpenAI writes them, then `gptoss`, an object that other readers ignore:
when the line was made, why the request ended, timing, notes, and where there is no `response` to hold them the request
id, the usage and the text a failed request had produced.

- The request's own fault: `response.status_code` 4xx with `body.error`, and `error` null.
- Anything else that failed, and output that broke its format: `response` null and a flat `error`. The text of such an
  output stands in `gptoss.choices` with its markup, so that nothing a model said is lost.

`id` seals the line: `batch_req_` + 32 hex digits of sha256 over the line in which these digits are zeros. A changed
byte is then seen even where the line still parses.
"""

from __future__ import annotations

import codecs
import hashlib
import math
from typing import Any, NamedTuple, Protocol

import msgspec

from engine.protocol import SUCCESSES, Choice, Completion, Finish, RequestError, TokenLogprob, Usage

PREFIX = b'{"id":"batch_req_'
SEAL_START = len(PREFIX)
SEAL_DIGITS = 32
SEAL_END = SEAL_START + SEAL_DIGITS
UNSEALED = b"0" * SEAL_DIGITS

UNLIKELY = -9999.0
"""What OpenAI writes for a log probability too small to tell; JSON has no infinity."""

LINE_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))
"""Legal inside JSON strings, but line ends to Python's splitlines, JavaScript and some editors: readers that cut lines
there would see two halves, so they are written escaped."""

_encode = msgspec.json.Encoder().encode


class Request(Protocol):
    """What a line needs to know of the request it answers (`engine.batch.Request` has it)."""

    @property
    def custom_id(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def request_id(self) -> str: ...


class Line(NamedTuple):
    """One sealed line, its newline included, and what the journal needs to know to file it."""

    custom_id: str
    request_id: str
    ok: bool
    data: bytes


# --- seals ------------------------------------------------------------------------------------------------------------


def digest(line: bytes) -> bytes:
    """sha256 over the line without its newline, the seal's digits taken as zeros."""
    state = hashlib.sha256(line[:SEAL_START])
    state.update(UNSEALED)
    state.update(line[SEAL_END:])
    return state.digest()


def seal(value: dict[str, Any]) -> bytes:
    """Encode `value` (without `id`) as one sealed line with its newline."""
    body = _encode({"id": "batch_req_" + UNSEALED.decode(), **value})
    for raw, escaped in LINE_ENDS:
        body = body.replace(raw, escaped)
    return body[:SEAL_START] + digest(body).hex()[:SEAL_DIGITS].encode() + body[SEAL_END:] + b"\n"


def is_sealed(line: bytes) -> bool:
    """True if the line (without its newline) is byte for byte what was sealed."""
    return line.startswith(PREFIX) and digest(line).hex()[:SEAL_DIGITS].encode() == line[SEAL_START:SEAL_END]


# --- making lines -----------------------------------------------------------------------------------------------------


def line_for(
    request: Request, completion: Completion, *, model: str, created: float, fingerprint: str | None = None
) -> Line:
    """The line of a finished request: a success only if the completion and each of its choices is one.

    An aborted request has no line; asking for one is a fault of the caller (ValueError).
    """
    if completion.finish is Finish.ABORTED:
        raise ValueError(f"request {request.custom_id!r} was aborted: it has no line and can be put back")
    broken = [choice for choice in completion.choices if choice.finish not in SUCCESSES]
    if completion.error is None and completion.finish in SUCCESSES and completion.choices and not broken:
        return success_line(request, completion, model=model, created=created, fingerprint=fingerprint)
    finish = completion.finish if completion.finish not in SUCCESSES or not broken else broken[0].finish
    error = completion.error or _default_error(finish, completion)
    return error_line(
        request.custom_id, request.request_id, error, completion=completion, model=model, created=created, finish=finish
    )


def success_line(
    request: Request, completion: Completion, *, model: str, created: float, fingerprint: str | None = None
) -> Line:
    """A line of output.jsonl. `created` in Unix seconds; the body has it as a whole number, as OpenAI's does."""
    chat = request.url.rstrip("/").endswith("/chat/completions")
    own = request.request_id.removeprefix("req_")
    body = {
        "id": ("chatcmpl-" if chat else "cmpl-") + own,
        "object": "chat.completion" if chat else "text_completion",
        "created": int(created),
        "model": model,
        "choices": [_chat_choice(c, request.request_id) if chat else _text_choice(c) for c in completion.choices],
        "usage": _usage(completion.usage),
        "system_fingerprint": fingerprint,
    }
    data = seal(
        {
            "custom_id": request.custom_id,
            "response": {"status_code": 200, "request_id": request.request_id, "body": body},
            "error": None,
            "gptoss": _own_part(completion, created, completion.finish, [*completion.notes, *_remarks(completion)]),
        }
    )
    return Line(request.custom_id, request.request_id, True, data)


def error_line(
    custom_id: str,
    request_id: str,
    error: RequestError,
    *,
    created: float,
    completion: Completion | None = None,
    model: str = "",
    finish: Finish | None = None,
) -> Line:
    """A line of errors.jsonl. `error.status` decides the form: the request's own fault, or not."""
    reason = finish or (completion.finish if completion else Finish.INVALID if error.status else None)
    own = _own_part(completion, created, reason, completion.notes if completion else [])
    if completion is not None:
        own["usage"] = _usage(completion.usage)
        texts = [_kept_text(c) for c in completion.choices]
        if any(texts):
            own["choices"] = texts
    if model:
        own["model"] = model
    response: dict[str, Any] | None = None
    flat: dict[str, Any] | None = None
    message = _writable(error.message)
    if error.status is not None:
        kind = "invalid_request_error" if error.status < 500 else "server_error"
        detail = {"message": message, "type": kind, "param": error.param, "code": error.code}
        response = {"status_code": error.status, "request_id": request_id, "body": {"error": detail}}
    else:
        flat = {"code": error.code, "message": message}
        own = {"request_id": request_id, **own}
    data = seal({"custom_id": custom_id, "response": response, "error": flat, "gptoss": own})
    return Line(custom_id, request_id, False, data)


def _default_error(finish: Finish, completion: Completion) -> RequestError:
    match finish:
        case Finish.INVALID:
            return RequestError(code="invalid_request", message="the engine refused this request", status=400)
        case Finish.CONTEXT_EXCEEDED:
            return RequestError(
                code="context_length_exceeded",
                message=f"the prompt ({completion.usage.prompt_tokens} tokens) and its answer do not fit a slot",
                status=400,
                param="messages",
            )
        case Finish.PARSE_ERROR:
            return RequestError(
                code="parse_error",
                message="the model's output broke its format; its text is kept in gptoss.choices",
            )
        case Finish.OOM:
            return RequestError(code="out_of_memory", message="the engine ran out of memory on this request")
        case Finish.ENGINE_DIED:
            return RequestError(code="engine_died", message="the engine died while it ran this request")
        case _:
            return RequestError(code="no_answer", message="the engine ended this request without an answer")


def _own_part(completion: Completion | None, created: float, finish: Finish | None, notes: list[str]) -> dict[str, Any]:
    own: dict[str, Any] = {"created": round(created, 6)}
    if finish is not None:
        own["finish"] = finish.value
    if completion is not None:
        timing = completion.timing
        own["timing"] = {
            "queued_s": round(timing.queued_s, 4),
            "prefill_s": round(timing.prefill_s, 4),
            "decode_s": round(timing.decode_s, 4),
        }
    if notes:
        own["notes"] = [_writable(note) for note in notes]
    return own


def _remarks(completion: Completion) -> list[str]:
    """What a reader of a success should know and OpenAI's form can't say."""
    return [
        f"choice {c.index}: the answer is empty, every token went into reasoning"
        for c in completion.choices
        if not c.content and not c.tool_calls and c.reasoning
    ]


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _kept_text(choice: Choice) -> dict[str, Any]:
    """All that a failed request had produced; empty if that is nothing."""
    texts: dict[str, Any] = {
        name: value
        for name, value in (("content", choice.content), ("reasoning", choice.reasoning), ("raw", choice.raw))
        if value
    }
    if choice.tool_calls:
        texts["tool_calls"] = [{"name": call.name, "arguments": call.arguments} for call in choice.tool_calls]
    return {"index": choice.index, "finish": choice.finish.value, **texts} if texts else {}


def _chat_choice(choice: Choice, request_id: str) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        # OpenAI: null beside tool calls, a string otherwise
        "content": choice.content if choice.content or choice.tool_calls else "",
        "refusal": None,
    }
    if choice.reasoning is not None:
        message["reasoning_content"] = choice.reasoning
    if choice.tool_calls:
        message["tool_calls"] = [
            {
                "id": _call_id(request_id, choice.index, number),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(choice.tool_calls)
        ]
    return {
        "index": choice.index,
        "message": message,
        "logprobs": None if choice.logprobs is None else _chat_logprobs(choice.logprobs),
        "finish_reason": choice.finish.value,
    }


def _call_id(request_id: str, choice: int, number: int) -> str:
    """The same call gets the same id however often its request is run."""
    return "call_" + hashlib.sha256(f"{request_id}/{choice}/{number}".encode()).hexdigest()[:24]


def _chat_logprobs(tokens: list[TokenLogprob]) -> dict[str, Any]:
    return {
        "content": [
            {
                "token": t.token,
                "logprob": _finite(t.logprob),
                "bytes": t.bytes,
                "top_logprobs": [
                    {"token": top.token, "logprob": _finite(top.logprob), "bytes": top.bytes} for top in t.top
                ],
            }
            for t in tokens
        ],
        "refusal": None,
    }


def _text_choice(choice: Choice) -> dict[str, Any]:
    return {
        "index": choice.index,
        "text": choice.content or "",
        "logprobs": None if choice.logprobs is None else _text_logprobs(choice.logprobs),
        # the old endpoint knows no tool calls
        "finish_reason": "length" if choice.finish is Finish.LENGTH else "stop",
    }


def _text_logprobs(tokens: list[TokenLogprob]) -> dict[str, Any]:
    """The legacy form: parallel lists. An offset counts characters before the token; a character that several tokens
    share begins with the first of them.
    """
    offsets: list[int] = []
    position = 0
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for t in tokens:
        offsets.append(position)
        position += len(t.token) if t.bytes is None else len(decoder.decode(bytes(t.bytes)))
    return {
        "tokens": [t.token for t in tokens],
        "token_logprobs": [_finite(t.logprob) for t in tokens],
        # two tokens may print the same text: the likelier one is named first and stays
        "top_logprobs": [{top.token: _finite(top.logprob) for top in reversed(t.top)} for t in tokens],
        "text_offset": offsets,
    }


def _finite(logprob: float) -> float:
    return float(logprob) if math.isfinite(logprob) else UNLIKELY


def _writable(text: str) -> str:
    """Text from a file name or a broken input may hold lone surrogates, which no UTF-8 file can."""
    return text.encode("utf-8", "backslashreplace").decode()


# --- reading anybody's lines ------------------------------------------------------------------------------------------


class Answered(NamedTuple):
    """A line with an answer."""

    body: dict[str, Any]


class Unanswered(NamedTuple):
    """A line with an error. `code` may be OpenAI's string, vLLM's number, or absent."""

    status: int | None
    code: str | int | None
    message: str


def classify(rec: dict[str, Any]) -> Answered | Unanswered:
    """Read one parsed output or error line of OpenAI, Azure, vLLM, compatible servers or ourselves.

    An error may be flat (`error.code`), nested twice (vLLM), a bare string (vLLM), inside `response.body` (OpenAI), or
    inside a body with status 200. `finish_reason` "length" counts as an answer, as it does for OpenAI.
    """
    error = rec.get("error")
    response = rec.get("response")
    body = status = None
    if isinstance(response, dict):
        body, status = response.get("body"), response.get("status_code")
    status = status if isinstance(status, int) and not isinstance(status, bool) else None
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    if not error and isinstance(body, dict) and (body.get("error") or body.get("object") == "error"):
        error = body.get("error") or body
    if not error and isinstance(body, dict) and status is not None and 200 <= status < 300:
        return Answered(body)
    if isinstance(error, dict) and error:
        code = error.get("code") or error.get("type")
        message = error.get("message")
        return Unanswered(
            status, code if isinstance(code, (str, int)) else None, message if isinstance(message, str) else ""
        )
    return Unanswered(status, None, error if isinstance(error, str) and error else "no body and no error")
