"""Requests become generations: limits, sampling, completions, and how plain text output is read."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.answers import StopStrings, read_call
from engine.backends.base import Generation
from engine.chat import Chat
from engine.protocol import Channel, Choice, Finish, RequestError, TokenLogprob
from tests.chat_tokenizers import WordTokenizer, nano

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
THINKING = (
    "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}{% if tools %}<tool_call>{% endif %}"
    "{% if open is defined %}<think>\n{% elif shut is defined %}<think>\n\n</think>\n\n{% endif %}"
)
WORDS = WordTokenizer(
    ("<|im_end|>", "<|pad|>"),
    template=THINKING,
    ends=("<|im_end|>",),
    words=("Hello", " world", "</tool_call>", "<tool_call>"),
    plain=("<think>", "</think>"),
)
TOOLS = [{"type": "function", "function": {"name": "f"}}]
MESSAGES = [{"role": "user", "content": "Hello"}]


@functools.cache
def chat_of(tokenizer: Any) -> Chat:
    return Chat(tokenizer, date="2026-11-23", model_name="m")


def prepare(url: str = CHAT, tokenizer: Any = WORDS, context: int = 1000, **body: Any) -> Generation | RequestError:
    body.setdefault(*(("messages", MESSAGES) if url == CHAT else ("prompt", "Hello")))
    return chat_of(tokenizer).prepare(key=5, url=url, body=body, seed=7, stream=True, context=context)


def good(url: str = CHAT, **more: Any) -> Generation:
    made = prepare(url, **more)
    assert isinstance(made, Generation), made
    return made


def refused(url: str = CHAT, **more: Any) -> RequestError:
    made = prepare(url, **more)
    assert isinstance(made, RequestError)
    return made


def run(
    output: str | list[int], finish: Finish = Finish.STOP, url: str = CHAT, **body: Any
) -> tuple[Choice, dict[Channel, str]]:
    parser = good(url, **body).make_parser(0)
    texts = dict.fromkeys(Channel, "")
    for token in WORDS.encode(output, special=True) if isinstance(output, str) else output:
        for piece in parser.feed(token, TokenLogprob(token="t", logprob=-0.5)):
            texts[piece.channel] += piece.text
        assert parser.so_far() == texts, "who begins to watch now has missed nothing"
        if parser.stopped:
            break
    return parser.finish(finish), texts


# --- parameters -------------------------------------------------------------------------------------------------------


def test_parameters_reach_the_engine() -> None:
    made = good(
        temperature=0, top_p=0.5, top_k=3, min_p=0.1, seed=11, presence_penalty=0.2, frequency_penalty=0.3,
        repeat_penalty=1.1, logit_bias={"3": -100, "4": 2.5}, n=2, logprobs=True, top_logprobs=4,
        stop_token_ids=[65], max_tokens=9, max_completion_tokens=8,
    )  # fmt: skip
    s = made.sampling
    assert (s.temperature, s.top_p, s.top_k, s.min_p, s.seed) == (0, 0.5, 3, 0.1, 11)
    assert (s.presence_penalty, s.frequency_penalty, s.repetition_penalty) == (0.2, 0.3, 1.1)
    assert s.logit_bias == {3: -100.0, 4: 2.5}
    assert (s.logprobs, made.n, made.max_tokens, made.key, made.stream) == (4, 2, 8, 5, True)
    assert made.stop_tokens == WORDS.end_tokens | {65}


def test_absent_parameters_have_openais_defaults() -> None:
    for empty in (
        {},
        dict.fromkeys(("temperature", "top_p", "seed", "stop", "n", "max_tokens", "logprobs", "logit_bias")),
    ):
        made = good(**empty)
        s = made.sampling
        assert (s.temperature, s.top_p, s.top_k, s.seed, s.logprobs, s.json_schema) == (1.0, 1.0, 0, 7, None, None)
        assert (made.n, made.max_tokens) == (1, None)
    assert good(top_k=-1).sampling.top_k == 0
    assert good(seed=0).sampling.seed == 0
    assert good(logprobs=True).sampling.logprobs == 0
    assert good(COMPLETIONS, logprobs=2).sampling.logprobs == 2
    assert good(ignore_eos=True).stop_tokens == frozenset()


def test_what_does_not_fit_is_refused_before_it_runs() -> None:
    size = len(good().prompt)
    for url, param in ((CHAT, "messages"), (COMPLETIONS, "prompt")):
        size = len(good(url).prompt)
        assert good(url, context=size + 1)
        error = refused(url, context=size)
        assert (error.code, error.status, error.param) == ("context_length_exceeded", 400, param)
        assert f"{size} tokens" in error.message
        assert good(url, context=size + 10, max_tokens=10)
        error = refused(url, context=size + 10, max_tokens=11)
        assert (error.code, error.param) == ("context_length_exceeded", param)
        assert "to 10 or less" in error.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"logit_bias": {"999": 1}}, "logit_bias"),
        ({"stop_token_ids": [999]}, "stop_token_ids"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"messages": []}, "messages"),
        ({"tools": [*TOOLS, *TOOLS]}, "tools[1]"),
    ],
)
def test_what_makes_no_sense_is_refused(body: dict[str, Any], param: str) -> None:
    error = refused(**body)
    assert (error.param, error.status) == (param, 400)


# --- completions ------------------------------------------------------------------------------------------------------


def test_prompts_of_completions() -> None:
    assert good(COMPLETIONS, prompt="Hello<|im_end|>").prompt == WORDS.encode("Hello<|im_end|>", special=False)
    assert good(COMPLETIONS, prompt=[1, 2, WORDS.size - 1]).prompt == [1, 2, WORDS.size - 1]
    assert refused(COMPLETIONS, prompt=[1, WORDS.size]).param == "prompt"
    with_bos = WordTokenizer(("<s>",), ends=(), bos="<s>")
    assert good(COMPLETIONS, tokenizer=with_bos, prompt="A").prompt == [with_bos.special_id("<s>"), 65]
    assert refused(COMPLETIONS, prompt="").code == "invalid_prompt"
    assert refused(COMPLETIONS, prompt="\udc00").code == "invalid_text"


def test_completions_are_read_raw() -> None:
    choice, texts = run("<think>Hello<|pad|> world</think><|im_end|>", url=COMPLETIONS)
    assert choice.content == texts[Channel.ANSWER] == "<think>Hello<|pad|> world</think>"
    assert (choice.reasoning, choice.finish) == (None, Finish.STOP)
    choice, _ = run("<think>Hello world", url=COMPLETIONS, stop="o w")
    assert choice.content == "<think>Hell"
    parser = good(COMPLETIONS).make_parser(0)
    assert parser.in_answer


# --- reasoning and calls in plain text --------------------------------------------------------------------------------


def test_reasoning_is_split_off() -> None:
    for output, kwargs in (
        ("<think>\nhm, Hello\n</think>\n\nHello world<|im_end|>", {}),
        ("hm, Hello\n</think>\n\nHello world<|im_end|>", {"open": 1}),
        (" <think>hm, Hello</think>Hello world<|im_end|>", {}),
    ):
        choice, texts = run(output, chat_template_kwargs=kwargs, logprobs=True)
        assert (choice.content, choice.reasoning, choice.finish) == ("Hello world", "hm, Hello", Finish.STOP)
        assert (texts[Channel.ANSWER], texts[Channel.REASONING]) == ("Hello world", "hm, Hello")
        assert [bytes(p.bytes or []) for p in choice.logprobs or []] == [b"Hello", b" world"]


def test_text_without_reasoning_is_the_answer() -> None:
    assert run("Hello <b>world<|im_end|>")[0].content == "Hello <b>world"
    assert run("<thi<|im_end|>")[0].content == "<thi"
    assert run("</think>x<|im_end|>", chat_template_kwargs={"shut": 1})[0].content == "</think>x"


def test_reasoning_without_an_end() -> None:
    choice, _ = run("<think>hm", Finish.LENGTH)
    assert (choice.finish, choice.content, choice.reasoning) == (Finish.LENGTH, "", "hm")
    choice, _ = run("<think>hm<|im_end|>")
    assert (choice.finish, choice.content, choice.reasoning) == (Finish.PARSE_ERROR, "", "hm")
    assert choice.raw == "<think>hm<|im_end|>"


def test_grammars_hold_after_the_reasoning() -> None:
    json_object = {"type": "json_object"}
    parser = good(response_format=json_object, chat_template_kwargs={"open": 1}).make_parser(0)
    held = []
    for token in WORDS.encode("hm</think>{}", special=True):
        held.append(parser.in_answer)
        parser.feed(token)
    assert held == [False, False, False, True, True]
    made = good(response_format=json_object)
    assert made.make_parser(0).in_answer
    assert made.notes == ["with response_format this model answers without reasoning"]
    assert good(response_format=json_object, chat_template_kwargs={"shut": 1}).notes == []


def test_tool_calls_in_text() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {"a":  1}}\n</tool_call>'
    choice, texts = run(f"Hello\n{call}\n{call}<|im_end|>", tools=TOOLS, logprobs=True)
    assert (choice.content, choice.finish) == ("Hello", Finish.TOOL_CALLS)
    assert [(c.name, c.arguments) for c in choice.tool_calls] == [("f", '{"a":  1}')] * 2
    assert texts == {Channel.ANSWER: "Hello", Channel.TOOL: '{"a":  1}' * 2, Channel.REASONING: ""}
    assert [bytes(p.bytes or []) for p in choice.logprobs or []] == [b"Hello"]
    assert run(call + "<|im_end|>", tools=TOOLS)[0].content is None
    assert run(call + "<|im_end|>")[0].content == call, "no tools, no calls"


def test_broken_calls_are_kept_and_marked() -> None:
    for text in ("<tool_call>{oops}</tool_call>", "<tool_call>{"):
        choice, _ = run(text + "<|im_end|>", tools=TOOLS)
        assert (choice.finish, choice.raw, choice.tool_calls) == (Finish.PARSE_ERROR, text + "<|im_end|>", [])
    choice, _ = run('<tool_call>{"name": "f"', Finish.LENGTH, tools=TOOLS)
    assert (choice.finish, choice.tool_calls) == (Finish.LENGTH, [])
    choice, _ = run('<tool_call>{"name": "f"}<|im_end|>', tools=TOOLS)
    assert choice.finish is Finish.TOOL_CALLS, "whole, only its closing tag is missing"


def test_forms_of_calls() -> None:
    for text in ('{"name": "f", "arguments": "{}"}', '{"name": "f", "parameters": {}}', '{"name": "f"}'):
        call = read_call(text)
        assert call is not None
        assert (call.name, call.arguments) == ("f", "{}")
    for text in ("", "[]", '{"name": ""}', '{"arguments": {}}', "{"):
        assert read_call(text) is None


# --- characters and stop strings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [CHAT, COMPLETIONS])
def test_characters_are_never_split(url: str) -> None:
    parser = good(url).make_parser(0)
    text = "añ日🙂"
    for byte in text.encode():
        for piece in parser.feed(byte):
            assert "\ufffd" not in piece.text
    parser.feed("🙂".encode()[0])
    assert parser.finish(Finish.LENGTH).content == text + "\ufffd"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=30))
def test_any_bytes_become_the_text_that_python_reads(data: bytes) -> None:
    choice, texts = run([*data, min(WORDS.end_tokens)], url=COMPLETIONS)
    assert choice.content == texts[Channel.ANSWER] == data.decode(errors="replace")


PIECES = st.lists(st.text("ab<|", max_size=3), max_size=12)
STOPS = st.lists(st.text("ab<|", min_size=1, max_size=4), max_size=3)


@settings(max_examples=500, deadline=None)
@given(PIECES, STOPS)
def test_stop_strings_do_not_depend_on_token_borders(pieces: list[str], stops: list[str]) -> None:
    whole, cut = StopStrings(stops), StopStrings(stops)
    text = "".join(pieces)
    expected = "".join(whole.feed(c) for c in text) + whole.flush()
    found = "".join(cut.feed(p) for p in pieces) + cut.flush()
    assert found == expected
    assert cut.found == whole.found
    assert text.startswith(found)
    assert not any(s in found for s in stops)
    if cut.found is None:
        assert found == text
    else:
        assert text[len(found) :].startswith(cut.found)


def test_text_is_held_back_only_while_it_may_become_a_stop_string() -> None:
    stops = StopStrings(["\n\n", "END"])
    assert [stops.feed(p) for p in ("a\n", "b", "E", "N", "X", "EN", "D")] == ["a", "\nb", "", "", "ENX", "", ""]
    assert stops.found == "END"
    assert stops.feed("more") == ""


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, WORDS.size - 1), st.sampled_from(range(256, WORDS.size))), max_size=40),
    st.sampled_from([{}, {"open": 1}, {"shut": 1}]),
    st.booleans(),
    st.sampled_from([Finish.STOP, Finish.LENGTH, Finish.ABORTED]),
)
def test_random_tokens_never_raise_and_streams_agree(
    tokens: list[int], kwargs: dict[str, int], tools: bool, finish: Finish
) -> None:
    body: dict[str, Any] = {"tools": TOOLS} if tools else {}
    choice, texts = run([*tokens, min(WORDS.end_tokens)], finish, chat_template_kwargs=kwargs, logprobs=True, **body)
    assert texts[Channel.REASONING] == (choice.reasoning or "")
    assert texts[Channel.TOOL] == "".join(c.arguments for c in choice.tool_calls)
    if choice.content is not None:
        assert texts[Channel.ANSWER] == choice.content
    assert len(choice.logprobs or []) <= len(tokens)


def test_a_round_trip_with_the_demo_models_vocabulary() -> None:
    chat = Chat(nano(), date="2026-11-23", model_name="nano")
    made = chat.prepare(key=1, url=CHAT, body={"messages": MESSAGES}, seed=0, stream=False, context=1000)
    assert isinstance(made, Generation)
    assert {nano().piece(t) for t in made.stop_tokens} == {b"<|return|>", b"<|call|>", b"<|endoftext|>"}
    parser = made.make_parser(0)
    said = "<|channel|>analysis<|message|>97+64>161<|end|><|start|>assistant<|channel|>final<|message|>161 🙂<|return|>"
    for token in nano().encode(said, special=True):
        parser.feed(token)
    choice = parser.finish(Finish.STOP)
    assert (choice.content, choice.reasoning, choice.finish) == ("161 🙂", "97+64>161", Finish.STOP)
