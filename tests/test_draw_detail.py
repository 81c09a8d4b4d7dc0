"""One request as rows: what is shown, what is folded, and that nothing of it steers a terminal."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.pages import Detail, RequestRow, Said
from engine.protocol import RunningRequest, ToolCall
from tests.results_kit import HOSTILE, Run
from tests.tui_kit import NOW, text_of
from tui.draw.detail import SHOWN_CHARS, Body, Limits, Part, facts, highlighted, sections, taken
from tui.draw.line import width
from tui.glyphs import ASCII
from tui.text import cells, safe

RUN = Run()
DONE = RUN.made_up(RUN.row(1))
FAILED = RUN.made_up(RUN.row(7))


def shown(detail: Detail, part: Part = Part.ALL, *, columns: int = 80, height: int = 200, query: str = "") -> list[str]:
    body = Body(detail, part, columns, height=height, query=query)
    return text_of(body.lines(0, len(body), query=query))


def test_a_failed_request_shows_its_error_first_and_then_its_line() -> None:
    rows = shown(FAILED)
    assert rows[0] == "failed: context_exceeded  line 7 of evals.jsonl"
    headings = [row for row in rows if row.startswith("─ ")]
    assert headings[:3] == ["─ error", "─ input line 7 of /data/evals.jsonl", "─ prompt: system"]
    assert '  "message": "the prompt has 9412 tokens, a slot holds 2048"' in rows
    assert "─ answer" not in headings


def test_figures_of_a_request_that_is_done() -> None:
    texts = [text for text, _ in facts(DONE)]
    assert texts == [
        "done",
        "prompt 1 204 tok (1 000 from cache)",
        "answer 312 tok (120 reasoning)",
        "prefill 0.4 s",
        "decode 9.4 s",
        "33 tok/s",
        "queued 0.2 s",
        "line 1 of evals.jsonl",
    ]


def test_figures_of_a_running_one_come_from_the_runner() -> None:
    running = RunningRequest(
        key=1, custom_id="a", prompt_tokens=1204, generated=312, started=NOW - 11, max_tokens=800, rate=34.0
    )
    texts = [text for text, _ in facts(DONE, running, NOW)]
    assert texts[:5] == ["running", "answer 312/800 tok", "prompt 1 204 tok", "34 tok/s", "11 s"]
    starting = msgspec.structs.replace(running, generated=0, rate=0.0)
    assert [text for text, _ in facts(DONE, starting, NOW)][1] == "prefill of the prompt"


def test_long_parts_are_folded_so_that_the_answer_is_in_sight_on_a_small_screen() -> None:
    rows = shown(DONE, height=15)
    assert rows.index("The answer to 1.") < 15
    assert "─ prompt: user  2 of 31 rows, c shows all of the prompt" in rows
    assert "point 29" not in rows
    assert "point 29" in shown(DONE, Part.PROMPT, height=15)


def test_what_holds_the_text_searched_for_is_not_folded() -> None:
    assert "point 29" in shown(DONE, height=15, query="POINT 29")


def test_each_part_shows_its_text() -> None:
    calls = msgspec.structs.replace(DONE, tool_calls=[ToolCall(name="look_up", arguments='{"slot": 4}')])
    assert [section.heading for section in sections(calls, Part.ANSWER)] == ["tool call: look_up", "answer"]
    assert [section.heading for section in sections(DONE, Part.REASONING)] == ["reasoning"]
    assert sections(DONE, Part.INPUT)[0].text == DONE.input_line
    assert sections(DONE, Part.OUTPUT)[0].heading == "result line 1 of /data/output.jsonl"
    assert sections(DONE, Part.OUTPUT)[0].text == DONE.output_line


@pytest.mark.parametrize(
    ("state", "part", "words"),
    [
        ("waiting", Part.ALL, "not run yet"),
        ("aborted", Part.ANSWER, "none: it was taken out before it ended"),
        ("failed", Part.ANSWER, "none: the request failed"),
        ("waiting", Part.OUTPUT, "none: it is written when the request ends"),
        ("done", Part.INPUT, "not at hand: the batch file is gone or was changed"),
        ("done", Part.ANSWER, "empty"),
    ],
)
def test_what_is_missing_says_why(state: str, part: Part, words: str) -> None:
    assert words in shown(Detail(row=RequestRow(custom_id="a", line=0, state=state)), part)


def test_what_copying_takes() -> None:
    assert taken(DONE, Part.ALL) == ("answer", DONE.answer)
    assert taken(FAILED, Part.ALL) == ("error", FAILED.error)
    assert taken(FAILED, Part.ANSWER) == ("answer", "")
    assert taken(DONE, Part.INPUT) == ("input line", DONE.input_line)
    only_calls = msgspec.structs.replace(DONE, answer="", tool_calls=[ToolCall(name="f", arguments="{}")])
    assert taken(only_calls, Part.ALL) == ("tool calls", "f {}")


def test_a_text_without_end_is_cut_and_says_so() -> None:
    detail = msgspec.structs.replace(DONE, answer="word " * (SHOWN_CHARS // 2))
    body = Body(detail, Part.ANSWER, 80)
    assert len(body) < SHOWN_CHARS // 70
    assert "─ answer  the first 100 000 of 250 000 characters, o shows all in the pager" in text_of(body.lines(0, 9))


def test_the_place_in_the_text_survives_another_width() -> None:
    text = " ".join(f"word{i}" for i in range(3000))
    detail = msgspec.structs.replace(DONE, answer=text)
    wide, narrow = Body(detail, Part.ANSWER, 120), Body(detail, Part.ANSWER, 31)
    for row in (10, 40, len(wide) - 1):
        first = wide.rows[row].text.split()[:1]
        found = narrow.rows[narrow.row_of(wide.place_of(row))].text
        assert first
        assert first[0] in found


def test_unwrapped_rows_can_be_moved_through() -> None:
    detail = msgspec.structs.replace(DONE, answer="0123456789" * 30)
    body = Body(detail, Part.ANSWER, 20, height=10, wrap=False)
    row = next(i for i, r in enumerate(body.rows) if r.text.startswith("0123"))
    assert text_of(body.lines(row, 1, left=5)) == ["56789012345678901234"]
    assert body.widest == 300


def test_matches_are_found_in_both_directions_and_marked() -> None:
    body = Body(DONE, Part.PROMPT, 80, query="point 1")
    first = body.first_match("point 1")
    assert first is not None
    assert body.rows[first].text == "point 1"
    after = body.match("point 1", first, 1)
    assert after is not None
    assert body.rows[after].text == "point 10"
    assert body.match("point 1", after, -1) == first
    assert body.match("nowhere", 0, 1) is None
    spans = highlighted("One two ONE", "answer", "one")
    assert [(span.text, span.style) for span in spans] == [
        ("One", "answer match"),
        (" two ", "answer"),
        ("ONE", "answer match"),
    ]


def test_ascii_glyphs_draw_no_other_characters() -> None:
    body = Body(DONE, Part.ALL, 40, height=10, glyphs=ASCII)
    assert all(row.isascii() for row in text_of(body.lines(0, len(body))))


def test_limits_leave_room_for_the_answer_at_every_height() -> None:
    for rows in range(1, 80):
        limits = Limits.of(rows)
        assert limits.prompt >= 1
        assert limits.reasoning >= 1


def hostile(text: str) -> Detail:
    """A request whose every field holds this."""
    row = RequestRow(custom_id=text, line=3, state="failed", finish=text, code=text, message=text)
    return Detail(
        row=row,
        prompt=[Said(role=text, text=text)],
        reasoning=text,
        answer=text,
        tool_calls=[ToolCall(name=text, arguments=text)],
        notes=[text],
        error=text,
        input_line=text,
        input_path=f"/data/{text}",
        output_line=text,
        output_path=text,
        output_line_number=1,
        settings=text,
    )


def harmless(row: str) -> bool:
    return safe(row) == row and "\n" not in row


@settings(max_examples=60, deadline=None)
@given(
    text=st.one_of(st.just(HOSTILE), st.text(max_size=300), st.text(st.characters(max_codepoint=0xA0), max_size=100)),
    part=st.sampled_from(Part),
    columns=st.integers(1, 130),
    height=st.integers(1, 60),
    wrap=st.booleans(),
    left=st.integers(0, 40),
)
def test_no_field_steers_the_terminal_and_no_row_is_too_wide(
    text: str, part: Part, columns: int, height: int, wrap: bool, left: int
) -> None:
    body = Body(hostile(text), part, columns, height=height, wrap=wrap, query=text[:3])
    for line in body.lines(0, len(body), left=left, query=text[:3]):
        assert width(line) <= max(2, columns)  # a wide character takes two
        for span in line:
            assert harmless(span.text)


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Zl", "Zp"]), max_size=400))
def test_wrapping_loses_nothing_but_blanks(text: str) -> None:
    detail = msgspec.structs.replace(DONE, answer=text)
    body = Body(detail, Part.ANSWER, 17, height=10)
    start = next(i for i, row in enumerate(body.rows) if row.text == "answer") + 1
    whole = "".join(row.text for row in body.rows[start:]) if text else ""
    assert whole.replace(" ", "") == safe(text).rstrip("\n").replace(" ", "")
    assert all(cells(row.text) <= 17 for row in body.rows[start:])
