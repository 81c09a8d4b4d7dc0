"""Rows of requests: columns, words, titles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.pages import RequestRow
from engine.protocol import RunningRequest
from tests.tui_kit import NOW, job_view, text_of
from tui.draw.line import width
from tui.draw.requests import (
    WORDS,
    RequestColumns,
    Sign,
    absent_row,
    arrange,
    ended_row,
    nothing,
    rest_row,
    running_row,
    title_note,
    title_right,
)
from tui.glyphs import ASCII, UNICODE
from tui.look import STYLES
from tui.view import Which

live = st.builds(
    RunningRequest,
    key=st.just(1),
    custom_id=st.text(max_size=80),
    prompt_tokens=st.integers(0, 200_000),
    generated=st.integers(0, 200_000),
    started=st.just(0.0) | st.floats(NOW - 1e5, NOW + 10),
    line=st.integers(0, 10**6),
    max_tokens=st.none() | st.integers(0, 200_000),
    rate=st.floats(0, 5000),
)
rested = st.builds(
    RequestRow,
    custom_id=st.text(max_size=80),
    line=st.integers(0, 10**6),
    state=st.sampled_from([*sorted(WORDS), "\x1bnew"]),
    finish=st.sampled_from(["", "stop", "length"]),
    prompt_tokens=st.integers(0, 200_000),
    completion_tokens=st.integers(0, 200_000),
    seconds=st.none() | st.floats(0, 1e6),
    code=st.text(max_size=20),
    message=st.text(max_size=200),
)


def running_text(columns: int, **fields) -> str:
    facts = {"custom_id": "req-1", "prompt_tokens": 1204, "generated": 312, "started": NOW - 11, "line": 4189}
    facts |= {"max_tokens": 800, "rate": 34.0, "key": 1} | fields
    at = arrange(columns, total=10_000, context=2048)
    return text_of([running_row(RunningRequest(**facts), at, UNICODE, Sign(), now=NOW)])[0]


def rest_text(columns: int, **fields) -> str:
    facts = {"custom_id": "req-1", "line": 7, "state": "done"} | fields
    return text_of([rest_row(RequestRow(**facts), arrange(columns, total=10_000, context=2048), UNICODE, Sign())])[0]


@given(live, rested, st.integers(0, 220), st.sampled_from([0, 2048, 131_072]), st.sampled_from([UNICODE, ASCII]))
def test_rows_fit_any_width_and_hold_nothing_that_steers_a_terminal(one, other, columns, context, glyphs) -> None:
    at = arrange(columns, total=1_000_000, context=context)
    sign = Sign(cursor=True, marked=True)
    lines = [
        running_row(one, at, glyphs, sign, now=NOW),
        rest_row(other, at, glyphs, sign),
        ended_row(one, at, glyphs, sign),
        absent_row(at, glyphs, sign),
    ]
    for line in lines:
        assert width(line) == columns
        for span in line:
            assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066" for c in span.text)
            assert set(span.style.split()) <= set(STYLES)


def test_a_running_request_at_80_columns() -> None:
    text = running_text(80)
    assert text == "  RUN   req-1                line  4 189 in 1 204 out   312/800     34/s    11 s"
    assert "prefill" in running_text(80, generated=0, rate=0.0)
    assert "/s" not in running_text(80, generated=0, rate=0.0)


@pytest.mark.parametrize("columns", [52, 66, 80, 120, 200])
def test_figures_stay_at_their_columns_while_they_grow(columns: int) -> None:
    seen = {
        tuple(running_text(columns, generated=n, started=NOW - s).index(part) for part in ("/800", "34/s", " s"))
        for n, s in ((1, 1), (99, 9), (800, 9))
    }
    assert len(seen) == 1


def test_a_failure_says_why_even_in_a_narrow_column() -> None:
    text = rest_text(66, state="failed", code="context_exceeded", message="9 412 tokens", prompt_tokens=9412)
    assert "context_exceeded: 9 412 tokens" in text
    assert "in 9 412" not in text
    narrow = rest_text(52, state="failed", code="context_exceeded", message="9 412 tokens, a slot holds 2 048")
    assert "9 412 tokens, a slot" in narrow, "the message goes before its code"
    assert "invalid_json" in rest_text(52, state="invalid", code="invalid_json")
    wide = rest_text(160, state="failed", code="context_exceeded", message="9 412 tokens", prompt_tokens=9412)
    assert "in 9 412" in wide
    assert wide.endswith("9 412 tokens")


def test_a_truncated_answer_is_told_by_a_word() -> None:
    assert rest_text(80, state="truncated", finish="length", completion_tokens=800).split()[0] == "CUT"
    assert "cut at its token limit" in rest_text(160, state="truncated", finish="length")


def test_columns_do_not_depend_on_rows() -> None:
    assert arrange(80, total=1, context=2048) == arrange(80, total=999, context=2048)
    assert isinstance(arrange(10, total=0, context=0), RequestColumns)


def test_nothing_to_show_says_why_and_what_next() -> None:
    def text(which: Which, query: str = "", **more) -> str:
        return text_of([nothing(which, query, 80, UNICODE, **more)])[0]

    assert "! shows all again" in text(Which.FAILED)
    assert "t goes to the next filter" in text(Which.SLOW)
    assert "esc clears" in text(Which.ALL, "\x1b[31mred")
    assert "\x1b" not in text(Which.ALL, "\x1b[31mred")
    assert "42%" in text(Which.FAILED, fraction=0.42)
    assert "the batch file is gone" in text(Which.ALL, note="the batch file is gone")


def test_titles() -> None:
    job = job_view()
    assert title_note(job, Which.ALL, "", 10_000, UNICODE, 80) == "of evals-1 · 10 000"
    assert title_note(job, Which.FAILED, "", 3, UNICODE, 80) == "of evals-1 · failed 3 of 10 000"
    assert title_note(job, Which.FAILED, "cat", None, UNICODE, 80) == 'of evals-1 · failed "cat"'
    assert text_of([title_right(30, 2, 0.42, "", UNICODE, 80)]) == ["reading… 42%  2 marked  30 running"]
    assert text_of([title_right(0, 0, 1.0, "no\nfile", UNICODE, 80)]) == ["no␊file"]
    assert title_right(0, 0, 1.0, "", UNICODE, 80) == ()
