"""Lines: OpenAI's shapes as its own SDK reads them, seals, and one reader for everybody's lines."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion as SdkCompletion
from openai.types.chat import ChatCompletion

from engine.output import (
    Answered,
    Line,
    Unanswered,
    classify,
    error_line,
    is_sealed,
    line_for,
    seal,
    success_line,
)
from engine.protocol import (
    Choice,
    Completion,
    Finish,
    RequestError,
    Timing,
    TokenLogprob,
    ToolCall,
    TopLogprob,
    Usage,
)
from engine.recover import read_line
from tests.journal_kit import Asked

CHAT = Asked("a", request_id="req_" + "ab" * 16)
TEXT = Asked("b", url="/v1/completions", request_id="req_" + "cd" * 16)
LOGPROBS = [
    TokenLogprob(token="ä", logprob=-0.5, bytes=[0xC3, 0xA4], top=[TopLogprob(token="ä", logprob=-0.5)]),
    TokenLogprob(token="\ufffd", logprob=-math.inf, bytes=[0xF0, 0x9F], top=[TopLogprob(token="x", logprob=math.nan)]),
    TokenLogprob(token="\ufffd", logprob=-1.0, bytes=[0x99, 0x82]),
    TokenLogprob(token="!", logprob=-2.0, bytes=[0x21]),
]


def _completion(*choices: Choice, finish: Finish = Finish.STOP, **rest: Any) -> Completion:
    usage = Usage(prompt_tokens=11, completion_tokens=5, reasoning_tokens=2, cached_tokens=4)
    return Completion(finish=finish, choices=list(choices), usage=usage, **rest)


def _read(line: Line) -> dict[str, Any]:
    assert line.data.endswith(b"\n")
    assert line.data.count(b"\n") == 1
    assert is_sealed(line.data[:-1])
    return json.loads(line.data)


def test_a_chat_answer_is_what_the_sdk_calls_one() -> None:
    choices = (
        Choice(index=0, finish=Finish.STOP, content="4.", reasoning="2+2", logprobs=LOGPROBS),
        Choice(index=1, finish=Finish.LENGTH, content="fo"),
        Choice(
            index=2,
            finish=Finish.TOOL_CALLS,
            tool_calls=[ToolCall(name="f", arguments='{"a":1}'), ToolCall(name="g", arguments="{")],
        ),
    )
    completion = _completion(*choices, timing=Timing(queued_s=0.123456), notes=['effort "x" was read as "low"'])
    line = line_for(CHAT, completion, model="nano", created=1711475054.75, fingerprint="fp_1")
    rec = _read(line)
    assert line[:3] == ("a", CHAT.request_id, True)
    assert list(rec) == ["id", "custom_id", "response", "error", "gptoss"]
    assert rec["error"] is None
    assert (rec["response"]["status_code"], rec["response"]["request_id"]) == (200, CHAT.request_id)
    body = ChatCompletion.model_validate_json(json.dumps(rec["response"]["body"]), strict=True)
    assert (body.created, body.model, body.system_fingerprint) == (1711475054, "nano", "fp_1")
    assert [c.finish_reason for c in body.choices] == ["stop", "length", "tool_calls"]
    assert [c.message.content for c in body.choices] == ["4.", "fo", None]
    assert body.choices[0].message.model_extra == {"reasoning_content": "2+2"}
    assert body.choices[0].logprobs is not None
    assert body.choices[0].logprobs.content is not None
    assert [t.logprob for t in body.choices[0].logprobs.content] == [-0.5, -9999.0, -1.0, -2.0]
    assert body.choices[0].logprobs.content[1].top_logprobs[0].logprob == -9999.0
    calls = body.choices[2].message.tool_calls
    assert calls is not None
    assert len({call.id for call in calls}) == 2
    assert all(call.id.startswith("call_") for call in calls)
    assert body.usage is not None
    assert body.usage.total_tokens == 16
    assert body.usage.completion_tokens_details is not None
    assert body.usage.completion_tokens_details.reasoning_tokens == 2
    assert body.usage.prompt_tokens_details is not None
    assert body.usage.prompt_tokens_details.cached_tokens == 4
    assert rec["gptoss"]["notes"] == completion.notes
    assert rec["gptoss"]["timing"]["queued_s"] == 0.1235
    assert line == line_for(CHAT, completion, model="nano", created=1711475054.75, fingerprint="fp_1")


def test_a_text_answer_is_what_the_sdk_calls_one() -> None:
    completion = _completion(Choice(index=0, finish=Finish.LENGTH, content="ä🙂!", logprobs=LOGPROBS))
    rec = _read(success_line(TEXT, completion, model="nano", created=7.0))
    body = SdkCompletion.model_validate_json(json.dumps(rec["response"]["body"]), strict=True)
    assert (body.object, body.choices[0].text, body.choices[0].finish_reason) == ("text_completion", "ä🙂!", "length")
    logprobs = body.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.text_offset == [0, 1, 1, 2]
    assert logprobs.tokens == ["ä", "\ufffd", "\ufffd", "!"]
    assert logprobs.top_logprobs == [{"ä": -0.5}, {"x": -9999.0}, {}, {}]


def test_an_answer_that_is_all_reasoning_is_remarked() -> None:
    completion = _completion(Choice(index=0, finish=Finish.LENGTH, reasoning="hm"), finish=Finish.LENGTH)
    rec = _read(line_for(CHAT, completion, model="m", created=1.0))
    assert rec["response"]["body"]["choices"][0]["message"]["content"] == ""
    assert "answer is empty" in rec["gptoss"]["notes"][0]


def test_the_requests_own_fault_stands_in_the_response() -> None:
    error = RequestError(code="context_length_exceeded", message="9412 tokens", status=400, param="messages")
    completion = Completion(finish=Finish.CONTEXT_EXCEEDED, error=error)
    rec = _read(line_for(CHAT, completion, model="m", created=1.0))
    assert rec["error"] is None
    assert rec["response"] == {
        "status_code": 400,
        "request_id": CHAT.request_id,
        "body": {
            "error": {
                "message": "9412 tokens",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        },
    }
    assert classify(rec) == Unanswered(400, "context_length_exceeded", "9412 tokens")


def test_anything_else_is_a_flat_error_and_resume_still_knows_the_request() -> None:
    line = error_line("x", "req_1", RequestError(code="engine_died", message="bad \ud800 name"), created=2.0)
    rec = _read(line)
    assert (rec["response"], rec["error"]) == (None, {"code": "engine_died", "message": "bad \\ud800 name"})
    assert read_line(line.data)[:3] == ("x", "req_1", False)


def test_broken_output_is_an_error_and_keeps_its_text() -> None:
    good = Choice(index=0, finish=Finish.STOP, content="fine")
    broken = Choice(index=1, finish=Finish.PARSE_ERROR, reasoning="so", raw="<|channel|>??")
    rec = _read(
        line_for(CHAT, _completion(good, broken), model="m", created=1.0)
    )  # finish says STOP, one choice is not
    assert rec["error"]["code"] == "parse_error"
    assert rec["gptoss"]["finish"] == "parse_error"
    assert rec["gptoss"]["choices"] == [
        {"index": 0, "finish": "stop", "content": "fine"},
        {"index": 1, "finish": "parse_error", "reasoning": "so", "raw": "<|channel|>??"},
    ]
    assert rec["gptoss"]["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize(
    ("finish", "status", "code"),
    [
        (Finish.INVALID, 400, "invalid_request"),
        (Finish.CONTEXT_EXCEEDED, 400, "context_length_exceeded"),
        (Finish.PARSE_ERROR, None, "parse_error"),
        (Finish.OOM, None, "out_of_memory"),
        (Finish.ENGINE_DIED, None, "engine_died"),
        (Finish.STOP, None, "no_answer"),  # a success without a single choice
    ],
)
def test_every_failing_finish_has_a_line(finish: Finish, status: int | None, code: str) -> None:
    line = line_for(CHAT, Completion(finish=finish), model="m", created=1.0)
    assert not line.ok
    outcome = classify(_read(line))
    assert isinstance(outcome, Unanswered)
    assert outcome[:2] == (status, code)
    assert read_line(line.data)[:3] == ("a", CHAT.request_id, False)


def test_an_aborted_request_has_no_line() -> None:
    with pytest.raises(ValueError, match="aborted"):
        line_for(CHAT, Completion(finish=Finish.ABORTED), model="m", created=1.0)


anything = st.text(st.characters(codec="utf-8"))


@given(custom_id=anything, content=anything, reasoning=st.none() | anything, created=st.floats(0, 4e9))
@settings(deadline=None, max_examples=150)
def test_any_text_comes_back_from_one_line(custom_id: str, content: str, reasoning: str | None, created: float) -> None:
    choice = Choice(index=0, finish=Finish.STOP, content=content, reasoning=reasoning)
    line = line_for(Asked(custom_id), _completion(choice), model="m", created=created)
    rec = _read(line)
    assert len(line.data.decode().splitlines()) == 1  # also for readers that know more line ends than \n
    outcome = classify(rec)
    assert isinstance(outcome, Answered)
    message = outcome.body["choices"][0]["message"]
    assert (rec["custom_id"], message["content"], message.get("reasoning_content")) == (custom_id, content, reasoning)
    assert read_line(line.data)[:3] == (custom_id, Asked("").request_id, True)


@given(
    value=st.dictionaries(
        st.text(max_size=5).filter(lambda k: k != "id"), st.integers() | st.text(max_size=9), max_size=4
    ),
    data=st.data(),
)
@settings(deadline=None, max_examples=200)
def test_no_change_of_a_sealed_line_goes_unseen(value: dict[str, Any], data: st.DataObject) -> None:
    line = seal(value)[:-1]
    assert is_sealed(line)
    at = data.draw(st.integers(0, len(line) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != line[at]))
    assert not is_sealed(line[:at] + bytes([byte]) + line[at + 1 :])
    assert not is_sealed(line[:at])
    assert not is_sealed(line + b" ")


VLLM_NESTED = {"message": "m", "type": "BadRequestError", "param": None, "code": 400}


@pytest.mark.parametrize(
    ("rec", "outcome"),
    [
        pytest.param(
            {"response": {"status_code": 200, "body": {"choices": []}}, "error": None},
            Answered({"choices": []}),
            id="success",
        ),
        pytest.param(
            {"response": {"status_code": 400, "body": {"error": {"message": "m", "code": "c"}}}, "error": None},
            Unanswered(400, "c", "m"),
            id="OpenAI: rejected by the endpoint",
        ),
        pytest.param(
            {"response": None, "error": {"code": "batch_expired", "message": "m"}},
            Unanswered(None, "batch_expired", "m"),
            id="OpenAI: never executed",
        ),
        pytest.param(
            {"response": {"status_code": 400, "body": None}, "error": {"error": VLLM_NESTED}},
            Unanswered(400, 400, "m"),
            id="vLLM: nested twice",
        ),
        pytest.param(
            {"response": {"status_code": 400, "body": None}, "error": "URL not served"},
            Unanswered(400, None, "URL not served"),
            id="vLLM: a bare string",
        ),
        pytest.param(
            {"response": {"status_code": 200, "body": {"error": {"message": "m", "type": "t"}}}, "error": None},
            Unanswered(200, "t", "m"),
            id="200 with an error",
        ),
        pytest.param(
            {"response": {"status_code": 200, "body": {"object": "error", "message": "m", "code": 40301}}},
            Unanswered(200, 40301, "m"),
            id="200 whose body is an error",
        ),
        pytest.param(
            {"response": {"status_code": 200, "body": None}, "error": None},
            Unanswered(200, None, "no body and no error"),
            id="no body",
        ),
        pytest.param(
            {"response": {"status_code": 500, "body": {"x": 1}}, "error": {}},
            Unanswered(500, None, "no body and no error"),
            id="500 without an error, empty error object",
        ),
        pytest.param({}, Unanswered(None, None, "no body and no error"), id="empty object"),
        pytest.param(
            {"response": "?", "error": ""},
            Unanswered(None, None, "no body and no error"),
            id="odd response",
        ),
        pytest.param(
            {"response": {"status_code": True, "body": {"a": 1}}},
            Unanswered(None, None, "no body and no error"),
            id="status of a wrong type",
        ),
        pytest.param(
            {"response": None, "error": {"code": ["?"], "message": {"a": 1}}},
            Unanswered(None, None, ""),
            id="odd types",
        ),
    ],
)
def test_everybodys_lines_are_read(rec: dict[str, Any], outcome: Answered | Unanswered) -> None:
    assert classify(rec) == outcome


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "response", "body", "status_code", "code", "message", "object", "type"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(rec=st.dictionaries(st.sampled_from(["id", "custom_id", "response", "error"]), json_values))
@settings(deadline=None, max_examples=300)
def test_the_reader_never_fails(rec: dict[str, Any]) -> None:
    outcome = classify(rec)
    if isinstance(outcome, Answered):
        assert 200 <= rec["response"]["status_code"] < 300
        assert not rec.get("error")
    else:
        assert isinstance(outcome.message, str)
