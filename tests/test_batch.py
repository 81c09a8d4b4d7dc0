"""engine.batch: what is read from a batch file, and what is said about each line that does not hold."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import batch, batch_index, bodies, lines
from engine.batch import LineProblem, request_id, scan
from engine.errors import BatchInvalid, InputChanged
from engine.faults import faults

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
USER = [{"role": "user", "content": "hi"}]


def line(custom_id: Any = "a", *, url: Any = CHAT, body: Any = None, **body_keys: Any) -> dict[str, Any]:
    if body is None:
        body = {"model": "nano", "messages": USER, **body_keys}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def write(folder: Path, *lines: Any, name: str = "b.jsonl", end: bytes = b"\n") -> Path:
    path = folder / name
    parts = [x if isinstance(x, bytes) else json.dumps(x, ensure_ascii=False).encode() for x in lines]
    path.write_bytes(end.join(parts) + (end if parts else b""))
    return path


def only_problem(folder: Path, *lines: Any) -> LineProblem:
    result = scan(write(folder, *lines))
    assert len(result.problems) == 1, result.problems
    return result.problems[0]


# --- good lines -------------------------------------------------------------------------------------------------------


def test_a_good_file_comes_back_as_it_was(tmp_path: Path) -> None:
    lines = [line("a", temperature=0), line("ünï✓ \" '", max_tokens=5), line("c", seed=7, stop=["x", "y"])]
    result = scan(write(tmp_path, *lines))
    assert (result.errors, result.warnings, result.endpoint, len(result.index)) == (0, 0, CHAT, 3)
    for i, given_line in enumerate(lines):
        request = result.index.request(i)
        assert (request.custom_id, request.url, request.body, request.line) == (
            given_line["custom_id"],
            CHAT,
            given_line["body"],
            i + 1,
        )
        assert request.request_id == request_id(CHAT, given_line["body"]) == result.index.request_id(i)


def test_request_id_depends_on_content_and_not_on_spelling() -> None:
    one = request_id(CHAT, {"a": 1, "b": {"c": "ü", "d": 2}})
    assert one == request_id(CHAT, json.loads('{ "b": {"d":2,"c":"\\u00fc"}, "a":1}'))
    assert one != request_id(CHAT, {"a": 1.0, "b": {"c": "ü", "d": 2}})
    assert one != request_id(COMPLETIONS, {"a": 1, "b": {"c": "ü", "d": 2}})
    assert len(one) == 36
    assert one.startswith("req_")


def test_every_supported_parameter_is_accepted(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    chat = {
        "model": "nano",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "developer", "content": [{"type": "text", "text": "d"}]},
            {"role": "user", "content": "u"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "5", "tool_call_id": "1"},
        ],
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": -1,
        "min_p": 0.1,
        "seed": 3,
        "stop": "x",
        "max_tokens": 4,
        "max_completion_tokens": 4,
        "presence_penalty": -2,
        "frequency_penalty": 2,
        "repetition_penalty": 1.1,
        "repeat_penalty": 1.1,
        "logit_bias": {"5": -100},
        "n": 8,
        "logprobs": True,
        "top_logprobs": 20,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        "tools": [tool],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "reasoning_effort": "low",
        "reasoning": {"effort": "low"},
        "chat_template_kwargs": {"x": 1},
        "stop_token_ids": [1],
        "ignore_eos": True,
        "user": "u",
        "metadata": {"k": "v"},
        "store": False,
        "stream": False,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "modalities": ["text"],
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
    }
    assert set(bodies.parameters(CHAT)) - set(chat) == {"prediction"}
    result = scan(write(tmp_path, line("a", body=chat)))
    assert result.problems == []
    completion = {"model": "nano", "prompt": [1, 2], "logprobs": 5, "max_tokens": 1}
    assert scan(write(tmp_path, line("a", url=COMPLETIONS, body=completion))).problems == []


def test_rules_speak_of_every_parameter_and_nothing_else() -> None:
    assert set(bodies.RULES) == {*bodies.parameters(CHAT), *bodies.parameters(COMPLETIONS)}
    assert not set(bodies.UNSUPPORTED) & set(bodies.RULES)


@pytest.mark.parametrize("name", [n for n in bodies.parameters(CHAT) if n != "messages"])
def test_null_means_absent(tmp_path: Path, name: str) -> None:
    assert scan(write(tmp_path, line(body={"model": "nano", "messages": USER, name: None}))).errors == 0


def test_file_forms_that_editors_make(tmp_path: Path) -> None:
    one, two = (json.dumps(line(c)).encode() for c in "ab")
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + one + b"\r\n\r\n  \n" + two)  # BOM, CRLF, blank lines, no last newline
    result = scan(path)
    assert [int(n) for n in result.index.lines] == [1, 4]
    assert result.by_code == {"byte_order_mark": 1}
    assert [result.index.request(i).custom_id for i in (0, 1)] == ["a", "b"]


def test_lines_are_counted_on_newlines_only(tmp_path: Path) -> None:
    raw = json.dumps(line("a", user="x\u2028\u0085y"), ensure_ascii=False).encode()
    result = scan(write(tmp_path, raw, line("b"), b"nonsense"))
    assert [int(n) for n in result.index.lines] == [1, 2, 3]
    assert result.problems[0].line == 3


# --- bad lines --------------------------------------------------------------------------------------------------------

GOOD = json.dumps(line("a")).encode()


@pytest.mark.parametrize(
    ("raw", "code", "word"),
    [
        (GOOD.replace(b"hi", b"\xff"), "invalid_json_line", "not UTF-8"),
        (GOOD.replace(b'"hi"', b"NaN"), "invalid_json_line", "NaN"),
        (GOOD.replace(b'"hi"', b"1e999"), "invalid_json_line", "out of range"),
        (GOOD.replace(b"hi", rb"\ud800"), "invalid_json_line", "surrogate"),
        (GOOD.replace(b"hi", rb"\ud800 then more"), "invalid_json_line", "surrogate"),
        (GOOD[:-4], "invalid_json_line", "at character"),
        (GOOD + b",", "invalid_json_line", "at character"),
        (b"[" * 70 + b"]" * 70, "invalid_json_line", "deeper"),
        (b"[" * 100_000, "invalid_json_line", "deeper"),
        (b"[1]", "invalid_request", "not a JSON object"),
        (b"null", "invalid_request", "not a JSON object"),
        (b'"text"', "invalid_request", "not a JSON object"),
        (b"{}", "missing_required_parameter", "custom_id"),
    ],
)
def test_lines_that_are_no_request(tmp_path: Path, raw: bytes, code: str, word: str) -> None:
    problem = only_problem(tmp_path, line("good"), raw)
    assert (problem.line, problem.code, problem.level) == (2, code, "error")
    assert word in problem.message
    assert problem.fix


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in line("bad").items() if k != key}


@pytest.mark.parametrize(
    ("bad", "code", "param"),
    [
        (without("custom_id"), "missing_required_parameter", "custom_id"),
        (without("method"), "missing_required_parameter", "method"),
        (without("url"), "missing_required_parameter", "url"),
        (without("body"), "missing_required_parameter", "body"),
        (line(""), "invalid_request", "custom_id"),
        (line(5), "invalid_request", "custom_id"),
        (line("bad") | {"method": "GET"}, "invalid_request", "method"),
        (line("bad") | {"body": []}, "invalid_request", "body"),
        (line("bad") | {"temperature": 1}, "unknown_parameter", "temperature"),
        (line("bad", url="/v1/chat/completion"), "invalid_url", "url"),
        (line("bad", url="/v1/embeddings"), "invalid_url", "url"),
        (line("bad", url=7), "invalid_request", "url"),
        (line("bad", url=COMPLETIONS, body={"model": "nano", "prompt": "x"}), "url_mismatch", "url"),
        (line("bad", stream=True), "streaming_unsupported", "stream"),
    ],
)
def test_envelope_errors(tmp_path: Path, bad: dict[str, Any], code: str, param: str) -> None:
    problem = only_problem(tmp_path, line("good"), bad)
    assert (problem.line, problem.code, problem.param) == (2, code, param)
    assert problem.fix


BAD_VALUES: list[tuple[str, Any]] = [
    ("model", 5),
    ("model", ""),
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("temperature", "1"),
    ("temperature", True),
    ("top_p", 0),
    ("top_p", 1.1),
    ("top_k", -2),
    ("min_p", 1.5),
    ("seed", 1.5),
    ("seed", 2**70),
    ("stop", [""]),
    ("stop", ["x"] * 17),
    ("stop", 3),
    ("max_tokens", 0),
    ("max_completion_tokens", "5"),
    ("presence_penalty", 2.5),
    ("frequency_penalty", -3),
    ("repetition_penalty", 0),
    ("logit_bias", {"a": 1}),
    ("logit_bias", {"1": 101}),
    ("n", 0),
    ("n", 9),
    ("logprobs", 5),
    ("top_logprobs", 21),
    ("top_logprobs", 5),  # without logprobs
    ("response_format", {"type": "xml"}),
    ("response_format", {"type": "json_schema"}),
    ("tools", [{"type": "custom"}]),
    ("tools", [{"type": "function", "function": {"name": "no good"}}]),
    ("tool_choice", "maybe"),
    ("tool_choice", "required"),  # without tools
    ("tool_choice", {"type": "function", "function": {"name": "f"}}),  # not among tools
    ("reasoning_effort", "huge"),
    ("reasoning", {"effort": "huge"}),
    ("chat_template_kwargs", []),
    ("stop_token_ids", [-1]),
    ("ignore_eos", "yes"),
    ("modalities", ["audio"]),
    ("messages", []),
    ("messages", "hi"),
    ("messages", ["hi"]),
    ("messages", [{"content": "x"}]),
    ("messages", [{"role": "function", "content": "x"}]),
    ("messages", [{"role": "user"}]),
    ("messages", [{"role": "user", "content": None}]),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
    ("messages", [{"role": "user", "content": "x", "contnet": "y"}]),
    ("messages", [{"role": "assistant", "content": None}]),
    ("temprature", 1),
    *((name, 1) for name in bodies.UNSUPPORTED),
]


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_body_errors_name_the_parameter(tmp_path: Path, name: str, value: Any) -> None:
    problem = only_problem(tmp_path, line("good"), line("bad", **{name: value}))
    assert (problem.line, problem.custom_id, problem.level) == (2, "bad", "error")
    assert (problem.param or "").startswith(name)
    assert problem.fix


def test_a_slip_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    assert "`temperature`" in only_problem(tmp_path, line("a", temprature=1)).fix
    assert "/v1/chat/completions" in only_problem(tmp_path, line("a", url="/v1/chat/completionz")).fix


def test_all_that_is_wrong_with_a_line_is_in_its_one_problem(tmp_path: Path) -> None:
    problem = only_problem(tmp_path, line("a", temperature=3, top_p=0, audio={}) | {"method": "PUT"})
    for word in ("method", "temperature", "top_p", "audio"):
        assert word in problem.message


@pytest.mark.parametrize(
    ("given_line", "code"),
    [
        (line("a", url="/chat/completions"), "url_without_version"),
        (line("a", body={"messages": USER}), "model_missing"),
        (line("a", store=True), "ignored_parameter"),
        (line("a", parallel_tool_calls=False), "ignored_parameter"),
        (line("a", service_tier="flex"), "ignored_parameter"),
        (line("a", prediction={"type": "content"}), "ignored_parameter"),
        (line("a", messages=[{"role": "user", "content": "x", "name": "bob"}]), "ignored_parameter"),
        (line("a") | {"comment": "x"}, "unknown_key"),
        (GOOD.replace(b'"hi"', b'"hi", "content": "ho"'), "repeated_key"),
    ],
)
def test_warnings_do_not_stop_a_line(tmp_path: Path, given_line: Any, code: str) -> None:
    result = scan(write(tmp_path, given_line))
    assert (result.errors, result.warnings, list(result.by_code)) == (0, 1, [code])
    assert result.index.request(0).url == CHAT


def test_mixed_models_are_said_once(tmp_path: Path) -> None:
    lines = [line(str(i), body={"model": f"m{min(i, 2)}", "messages": USER}) for i in range(5)]
    result = scan(write(tmp_path, *lines))
    assert (result.errors, result.by_code) == (0, {"model_mismatch": 1})
    assert result.problems[0].line == 2


# --- ids --------------------------------------------------------------------------------------------------------------


def test_duplicates_name_the_first_use_and_stay_findable(tmp_path: Path) -> None:
    result = scan(write(tmp_path, line("a"), line("b"), line("a", seed=1), line("a"), line("c", n=99), line("c")))
    index = result.index
    assert list(index.is_bad) == [False, False, True, True, True, True]
    assert [(p.line, p.code) for p in result.problems] == [
        (3, "duplicate_custom_id"),
        (4, "duplicate_custom_id"),
        (5, "invalid_request"),
        (6, "duplicate_custom_id"),
    ]
    assert "line 1" in index.problem(2).message
    assert "line 5" in index.problem(5).message
    assert [index.custom_id(i) for i in range(6)] == ["a", "b", "a#line-3", "a#line-4", "c", "c#line-6"]
    assert [index.find(index.custom_id(i)) for i in range(6)] == list(range(6))
    assert [p for i in np.flatnonzero(index.is_bad) for p in [index.problem(int(i))]] == result.problems


def test_bad_ids_never_equal_good_ones(tmp_path: Path) -> None:
    result = scan(write(tmp_path, b"broken", line("line-1"), line("x"), line("x"), line("x#line-4")))
    ids = [result.index.custom_id(i) for i in range(5)]
    assert ids == ["line-1#invalid", "line-1", "x", "x#line-4#invalid", "x#line-4"]
    assert [result.index.find(c) for c in ids] == list(range(5))


def test_equal_hashes_are_not_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_index, "_id_hash", lambda custom_id: len(custom_id))
    result = scan(write(tmp_path, line("aa"), line("bb"), line("aa"), line("cc"), b"broken"))
    assert [(p.line, p.code) for p in result.problems] == [(3, "duplicate_custom_id"), (5, "invalid_json_line")]
    index = result.index
    assert [index.find(c) for c in ("aa", "bb", "cc", "dd")] == [0, 1, 3, None]
    ids = [index.custom_id(i) for i in range(5)]
    assert list(index.match([*ids, "dd"], [*(index.request_id(i) for i in range(5)), index.request_id(0)])) == [
        *range(5),
        -1,
    ]


def test_match_tells_gone_from_edited(tmp_path: Path) -> None:
    lines = [line(f"r{i}", seed=i) for i in range(50)]
    before = scan(write(tmp_path, *lines, b"bad line")).index
    ids = [before.custom_id(i) for i in range(51)]
    rids = [before.request_id(i) for i in range(51)]
    assert list(before.match(ids, rids)) == list(range(51))
    lines[7]["body"]["seed"] = 1000
    after = scan(write(tmp_path, *reversed(lines[1:]))).index
    found = after.match([*ids, "r1", "r2"], [*rids, "not hex", "req_00"])
    assert list(found) == [-1, *(-2 if i == 7 else 49 - i for i in range(1, 50)), -1, -2, -2]


@pytest.mark.parametrize("odd", ["", "req_", "req_" + "0 " * 16, "req_" + "g" * 32, "req_" + "0" * 34, "0" * 36])
def test_an_odd_request_id_matches_nothing_and_spoils_nothing(tmp_path: Path, odd: str) -> None:
    index = scan(write(tmp_path, line("a"), line("b"))).index
    assert list(index.match(["a"], [odd])) == [-2]
    assert list(index.match(["a", "b", "c"], [odd, index.request_id(1), odd])) == [-2, 1, -1]


def test_match_asks_the_index_and_not_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, line("a"), line("b", seed=1))
    index = scan(path).index
    path.unlink()
    ids = [index.request_id(0), index.request_id(0), index.request_id(1)]
    assert list(index.match(["a", "b", "c"], ids)) == [0, -2, -1]


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, line("a"), line("b"))
    index = scan(path).index
    path.write_bytes(path.read_bytes().replace(b"hi", b"ho"))
    with pytest.raises(InputChanged, match="line 2"):
        index.request(1)
    write(tmp_path, line("x"), line("b"))
    with pytest.raises(InputChanged):
        index.request(0)
    assert index.request(1).custom_id == "b"
    path.unlink()
    with pytest.raises(InputChanged):
        index.request(1)


def test_a_bad_line_makes_no_request(tmp_path: Path) -> None:
    index = scan(write(tmp_path, line("a"), b"x")).index
    with pytest.raises(ValueError, match="bad line"):
        index.request(1)
    with pytest.raises(ValueError, match="good line"):
        index.problem(0)


# --- other forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["p.txt", "prompts"])
def test_text_is_one_prompt_a_line(tmp_path: Path, name: str) -> None:
    result = scan(write(tmp_path, b"What is 2+2?", b"", "Grüße {".encode(), b"bad \xff", name=name))
    assert (result.errors, result.endpoint) == (1, CHAT)
    assert "prompt a line" in result.notice
    request = result.index.request(1)
    assert (request.custom_id, request.body) == ("line-3", {"messages": [{"role": "user", "content": "Grüße {"}]})
    assert result.index.problem(2).line == 4


def test_bare_prompts_and_messages(tmp_path: Path) -> None:
    lines = [{"prompt": "p", "temperature": 0}, {"messages": USER, "id": "mine"}, {"prompt": "q", "id": 7}]
    result = scan(write(tmp_path, *lines))
    assert (result.errors, result.warnings) == (0, 0)
    assert result.notice
    got = [result.index.request(i) for i in range(3)]
    assert [r.custom_id for r in got] == ["line-1", "mine", "7"]
    assert got[0].body == {"messages": [{"role": "user", "content": "p"}], "temperature": 0}
    assert got[1].body == {"messages": USER}


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt": ""},
        {"prompt": [1]},
        {"prompt": "x", "messages": USER},
        {"prompt": "x", "temperature": 5},
        {"text": "x"},
        {"prompt": "x", "id": []},
        line("a"),
    ],
)
def test_bare_lines_that_do_not_hold(tmp_path: Path, bad: dict[str, Any]) -> None:
    result = scan(write(tmp_path, {"prompt": "good"}, bad))
    assert result.errors == 1
    assert result.problems[0].line == 2


def test_a_damaged_first_line_does_not_make_a_batch_text(tmp_path: Path) -> None:
    result = scan(write(tmp_path, b"xx" + GOOD, line("b")))
    assert (result.errors, result.notice) == (1, "")


# --- the whole file ---------------------------------------------------------------------------------------------------


def test_what_is_no_batch_is_refused_as_a_whole(tmp_path: Path) -> None:
    for content in (b"", b"\n \n\r\n", b"\xef\xbb\xbf", "x".encode("utf-16"), b"\x1f\x8b123"):
        (tmp_path / "f.jsonl").write_bytes(content)
        with pytest.raises(BatchInvalid):
            scan(tmp_path / "f.jsonl")
    with pytest.raises(BatchInvalid, match="folder"):
        scan(tmp_path)
    with pytest.raises(BatchInvalid, match="does not exist") as missing:
        scan(tmp_path / "g.jsonl")
    assert "f.jsonl" in missing.value.advice


def test_limit_reads_less_and_digests_all(tmp_path: Path) -> None:
    path = write(tmp_path, *(line(str(i)) for i in range(10)))
    whole, part = scan(path), scan(path, limit=3)
    assert (len(whole.index), len(part.index)) == (10, 3)
    assert (whole.sha256, whole.size) == (part.sha256, part.size)


def test_a_line_too_long_is_one_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 300)
    result = scan(write(tmp_path, line("a"), line("b", user="x" * 5000), line("c")))
    assert [(p.line, p.code) for p in result.problems] == [(2, "invalid_json_line")]
    assert "longer" in result.index.problem(1).message
    assert result.index.request(2).custom_id == "c"


def test_problems_are_bounded_and_all_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_PROBLEMS", 5)
    told: list[LineProblem] = []
    result = scan(write(tmp_path, *([b"x"] * 20)), on_problem=told.append)
    assert (len(result.problems), len(told), result.by_code) == (5, 20, {"invalid_json_line": 20})


def test_progress_goes_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "READ_BYTES", 1024)
    seen: list[float] = []
    scan(write(tmp_path, *(line(str(i)) for i in range(200))), on_progress=seen.append)
    assert len(seen) > 10
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_memory_stays_small(tmp_path: Path) -> None:
    """The index has a few dozen bytes a line, and reading never holds the file."""
    path = tmp_path / "big.jsonl"
    filler = "x" * 4000
    with path.open("w") as f:
        for i in range(15_000):
            f.write(
                f'{{"custom_id":"r{i}","method":"POST","url":"{CHAT}","body":{{"model":"m","messages":'
                f'[{{"role":"user","content":"{filler}"}}]}}}}\n'
            )
    tracemalloc.start()
    result = scan(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.errors == 0
    assert result.index.nbytes <= 64 * 15_000
    assert peak < 8_000_000  # the file has 60 MB


# --- properties -------------------------------------------------------------------------------------------------------

BAD_RAW = [b"nope", b"{", b"[]", b"{}", b"\xff\xfe\xfd", b'{"custom_id": 1}', b'{"a": NaN}', b'{"a": "\\ud800"}']
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
BODY_KEYS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1, exclude_min=True),
        "seed": st.integers(-(2**63), 2**63 - 1),
        "max_tokens": st.integers(1, 10**6),
        "stop": st.lists(TEXTS.filter(bool), max_size=4),
        "user": TEXTS,
        "logit_bias": st.dictionaries(st.integers(0, 999).map(str), st.integers(-100, 100), max_size=3),
    },
)


@given(
    st.lists(st.one_of(st.tuples(TEXTS, BODY_KEYS), st.sampled_from(BAD_RAW), st.just(b" \r")), max_size=12),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
)
@settings(deadline=None, max_examples=100)
def test_good_lines_come_back_and_bad_ones_are_told_once(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Any], end: bytes, ascii_only: bool
) -> None:
    rows: list[bytes] = []
    expected: dict[int, dict[str, Any]] = {}
    bad_lines: list[int] = []
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, bytes):
            rows.append(entry)
            if entry.strip():
                bad_lines.append(number)
        else:
            content, keys = entry
            wanted = line(f"{number}-{content}", messages=[{"role": "user", "content": content}], **keys)
            rows.append(json.dumps(wanted, ensure_ascii=ascii_only).encode())
            expected[number] = wanted
    path = tmp_path_factory.mktemp("p") / "f.jsonl"
    path.write_bytes(end.join(rows))
    if not expected and not bad_lines:
        with pytest.raises(BatchInvalid):
            scan(path)
        return
    told: list[LineProblem] = []
    result = scan(path, on_problem=told.append)
    assert sorted(p.line for p in told if p.level == "error") == bad_lines
    assert result.errors == len(bad_lines)
    good = [result.index.request(int(i)) for i in np.flatnonzero(~result.index.is_bad)]
    assert {r.line: (r.custom_id, r.body) for r in good} == {
        n: (w["custom_id"], w["body"]) for n, w in expected.items()
    }
    ids = [result.index.custom_id(i) for i in range(len(result.index))]
    assert len(set(ids)) == len(ids)
    rids = [result.index.request_id(i) for i in range(len(ids))]
    assert list(result.index.match(ids, rids)) == list(range(len(ids)))


@given(st.binary(max_size=300), st.sampled_from(["f.jsonl", "f.txt", "f"]))
@settings(deadline=None, max_examples=150)
def test_no_bytes_raise_anything_but_batch_invalid(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("p") / name
    path.write_bytes(content)
    try:
        result = scan(path)
    except BatchInvalid:
        return
    for i, bad in enumerate(result.index.is_bad):
        assert result.index.problem(i).line if bad else result.index.request(i).custom_id


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from([*bodies.parameters(CHAT), "audio", "odd"]),
        JSON | st.sampled_from([USER, 1, "low"]),
        max_size=6,
    ),
    st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_explanation_and_struct_agree(body: dict[str, Any], with_messages: bool) -> None:
    """`faults` finds an error exactly where the struct refuses the body or `remarks` has one."""
    if with_messages:
        body = {**body, "messages": USER}
    errors = [f for f in faults(CHAT, body) if f.level == "error"]
    assert not any("does not hold" in f.message for f in errors)
    try:
        typed = msgspec.json.decode(msgspec.json.encode(body), type=bodies.ChatBody)
    except msgspec.ValidationError:
        assert errors
    else:
        assert errors == [f for f in bodies.remarks(typed) if f.level == "error"]
