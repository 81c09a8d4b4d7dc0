"""Browsing a run: the quick reading says what a plain one says, whatever the files hold and however they change."""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import batch
from engine.browse import MAX_TEXT
from engine.browse_scan import fold
from engine.errors import JobNotFound, UsageError
from engine.folder import Partial, write_inflight
from engine.pages import AskDetail, AskPage, Detail, OpenRun, Page
from engine.protocol import Choice, Finish, ToolCall
from tests.browse_kit import Folder, answered, asked, failed, found, ids, names_by_the_runner, whole


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.record()
    return folder


def detail(browse: Any, custom_id: str) -> Detail:
    while browse.work():
        pass
    answer = browse.answer(AskDetail(id=3, custom_id=custom_id))
    assert isinstance(answer, Detail)
    return answer


# --- rows and states --------------------------------------------------------------------------------------------------


def test_each_request_has_its_state(run: Folder):
    run.input(*(asked(f"r-{n}") for n in range(6)))
    run.output(answered("r-0"), answered("r-1", finish=Finish.LENGTH, seconds=2.5))
    run.errors(failed("r-2"), failed("r-3", "invalid_request", "no such field", status=400))
    run.record(aborted=("r-4",))
    page = whole(run.open(), taken_out=["r-5", "r-0"])
    assert [row.state for row in page.rows] == ["done", "truncated", "failed", "invalid", "aborted", "aborted"]
    assert [row.line for row in page.rows] == [1, 2, 3, 4, 5, 6]
    assert page.counts == {"waiting": 0, "done": 1, "truncated": 1, "failed": 1, "invalid": 1, "aborted": 2}
    assert (page.total, page.fraction, page.note) == (6, 1.0, "")
    cut, broken = page.rows[1], page.rows[2]
    assert (cut.finish, cut.prompt_tokens, cut.completion_tokens, cut.seconds) == ("length", 20, 7, 2.5)
    assert (broken.code, broken.message, broken.seconds) == ("engine_died", "It died.", None)


def test_lists_by_state(run: Folder):
    run.input(*(asked(f"r-{n}") for n in range(100)))
    run.output(
        *(answered(f"r-{n}", seconds=1 + n % 7, finish=Finish.LENGTH if n == 3 else Finish.STOP) for n in range(60))
    )
    run.errors(failed("r-60"), failed("r-61", status=400))
    browse = run.open()
    assert whole(browse, which="done").total == 60
    assert ids(whole(browse, which="truncated")) == ["r-3"]
    assert ids(whole(browse, which="failed")) == ["r-60", "r-61"]
    assert whole(browse, which="waiting", offset=2, count=2).rows[0].custom_id == "r-64"
    assert ids(whole(browse, which="slow")) == ["r-6", "r-13", "r-20"]  # the slowest twentieth, ties in input order
    with pytest.raises(UsageError, match="running"):
        browse.answer(AskPage(which="running"))


def test_a_page_around_a_request(run: Folder):
    run.input(*(asked(f"r-{n}") for n in range(100)))
    browse = run.open()
    page = whole(browse, around="r-50", count=10)
    assert (page.offset, ids(page)[5]) == (45, "r-50")
    assert whole(browse, around="r-0", count=10).offset == 0
    assert whole(browse, around="r-99", count=10).offset == 90
    assert whole(browse, around="nobody", offset=7, count=1).offset == 7


def test_a_success_outranks_failures_before_and_after_it(run: Folder):
    run.input(asked("a"), asked("b"), asked("c"))
    run.errors(failed("a", "first"), failed("b"), failed("c", "old"), failed("c", "new"))
    run.output(answered("a"))
    browse = run.open()
    assert [row.state for row in whole(browse).rows] == ["done", "failed", "failed"]
    assert whole(browse).rows[2].code == "new"
    run.output(answered("b"))
    run.errors(failed("a", "later"))
    page = whole(browse)
    assert [row.state for row in page.rows] == ["done", "done", "failed"]
    assert page.counts["failed"] == 1


def test_first_rows_come_before_all_is_read(run: Folder):
    run.input(*(asked(f"r-{n}", "x" * 300) for n in range(20_000)))
    browse = run.open()
    assert browse.answer(AskPage(count=5)) is None
    browse.work()
    page = browse.answer(AskPage(count=5))
    assert isinstance(page, Page)
    assert ids(page) == [f"r-{n}" for n in range(5)]
    assert 0 < page.fraction < 0.5
    assert page.total < 20_000
    assert whole(browse).total == 20_000


# --- names ------------------------------------------------------------------------------------------------------------

HARD_LINES: list[Any] = [
    asked("a"),
    asked("a"),
    asked("a"),
    asked("a#line-2"),
    asked("line-9"),
    "",
    "  \t",
    b"\x0b",
    "{broken",
    asked(""),
    {"custom_id": 7},
    "[1]",
    b'{"custom_id":"latin","body":"\xff"}',
    '{"custom_id":"lone","body":"\\ud800"}',
    '{"custom_id":"far","body":1e999}',
    '{"custom_id":"deep","body":' + "[" * 70 + "]" * 70 + "}",
    '{"custom_id":"wide","body":[' + ",".join(["[]"] * 70) + "]}",
    '{"custom_id":"twice","custom_id":"twice again"}',
    '{"custom_id":"caf\\u00e9 \\ud83d\\ude00"}',
    asked("line-12"),
    asked("line-12#invalid"),
    asked("line-13#invalid"),
    b'{"custom_id":"crlf"}\r',
]


def test_lines_are_called_what_the_runner_calls_them(run: Folder):
    run.input(*HARD_LINES)
    expected = names_by_the_runner(run.batch)
    page = whole(run.open(), count=100)
    assert ids(page) == expected
    assert [row.line for row in page.rows] == batch.scan(run.batch).index.lines.tolist()


@given(st.lists(st.sampled_from(HARD_LINES), min_size=1, max_size=30), st.none() | st.integers(1, 30), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_names_in_any_mixture(lines: list[Any], limit: int | None, ended: bool):
    with tempfile.TemporaryDirectory() as temporary:
        run = Folder(Path(temporary))
        run.record(limit=limit)
        run.input(asked("good"), *lines)
        if not ended:
            run.batch.write_bytes(run.batch.read_bytes()[:-1])
        expected = names_by_the_runner(run.batch, limit)
        run.output(*(answered(name) for name in expected[::2]))
        page = whole(run.open(), count=100)
        assert ids(page) == expected
        assert [row.state for row in page.rows] == ["waiting" if i % 2 else "done" for i in range(len(expected))]


@pytest.mark.parametrize(
    "lines",
    [
        [{"prompt": "a"}, {"messages": []}, {"prompt": "b", "id": "x"}, {"prompt": "b", "id": 5}, {"id": "x"}, "no"],
        [
            {"prompt": "a", "custom_id": None},
            {"prompt": "a", "id": "line-1"},
            {"prompt": "c", "custom_id": "", "id": "q"},
        ],
        [{"prompt": "a", "id": ["list"]}, {"prompt": "a", "id": True}, {"prompt": "a", "id": ""}],
    ],
)
def test_bare_lines_are_called_what_the_runner_calls_them(run: Folder, lines: list[Any]):
    run.input(*lines)
    assert ids(whole(run.open())) == names_by_the_runner(run.batch)


def test_prompts_one_a_line(tmp_path: Path):
    run = Folder(tmp_path, "prompts.txt")
    run.record(limit=4)
    run.batch.write_bytes(b'\xef\xbb\xbffirst\n\n  \nsecond "content":\r\n\xff\nlast\nnever')
    run.output(answered("line-4", "one"))
    browse = run.open()
    assert ids(whole(browse)) == names_by_the_runner(run.batch, 4) == ["line-1", "line-4", "line-5", "line-6"]
    assert detail(browse, "line-4").prompt[0].text == 'second "content":'
    assert found(browse, "Content").custom_id == "line-4"
    assert ids(whole(browse, text="LINE-6")) == ["line-6"]


# --- against a plain reading ------------------------------------------------------------------------------------------

TEXTS = st.text(
    st.sampled_from('abkKisSß\u0131\u0130\u212a\u017f\u03a3\u03c2\u03c3üÜ😀\u2028"\\/\n\té\u0000 line-12#'), max_size=12
)


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_rows_and_searches_equal_a_plain_reading(data: st.DataObject):
    with tempfile.TemporaryDirectory() as temporary:
        run = Folder(Path(temporary))
        run.record()
        many = data.draw(st.integers(1, 12))
        prompts = [data.draw(TEXTS) for _ in range(many)]
        raws = [
            json.dumps(asked(f"r-{n}", text), ensure_ascii=data.draw(st.booleans())) for n, text in enumerate(prompts)
        ]
        run.input(*raws)
        told: dict[str, tuple[str, list[str]]] = {}
        order = data.draw(st.lists(st.integers(0, many + 2), max_size=14))
        browse = run.open()
        for n in order:
            name, texts = f"r-{n}", [data.draw(TEXTS), data.draw(TEXTS)]
            good = data.draw(st.booleans())
            if good and told.get(name, ("", []))[0] != "done":
                run.output(answered(name, texts[0], reasoning=texts[1]))
                told[name] = ("done", texts)
            elif not good:
                run.errors(failed(name, "c", texts[0]))
                if told.get(name, ("", []))[0] != "done":
                    told[name] = ("failed", [texts[0], "c"])
            if data.draw(st.booleans()):
                browse.work()
        page = whole(browse)
        states = [told.get(f"r-{n}", ("waiting", []))[0] for n in range(many)]
        assert [row.state for row in page.rows[:many]] == states
        assert {row.custom_id for row in page.rows[many:]} == {x for x in told if int(x[2:]) >= many}
        needle = data.draw(TEXTS.filter(bool) | st.sampled_from([t for t in [*prompts, "r-1"] if t] or ["x"]))
        held = [
            row.custom_id
            for row in page.rows
            if any(
                fold(needle) in fold(text)
                for text in [
                    row.custom_id,
                    *(prompts[row.line - 1 : row.line] if row.line else []),
                    *told.get(row.custom_id, ("", []))[1],
                ]
            )
        ]
        assert ids(whole(browse, text=needle)) == held
        hit = found(browse, needle)
        assert hit.custom_id == (held[0] if held else "")
        back = found(browse, needle, start=page.total, step=-1)
        assert back.custom_id == (held[-1] if held else "")


def test_many_requests_answered_out_of_order(run: Folder):
    many = 50_000
    run.input(*(asked(f"r-{n}") for n in range(many)))
    order = list(range(0, many, 2))
    random.Random(1).shuffle(order)
    run.output(*(answered(f"r-{n}") for n in order))
    page = whole(run.open(), offset=30_000, count=4)
    assert page.counts["done"] == many // 2
    assert [(row.custom_id, row.state) for row in page.rows] == [
        ("r-30000", "done"), ("r-30001", "waiting"), ("r-30002", "done"), ("r-30003", "waiting"),
    ]  # fmt: skip


# --- files that change ------------------------------------------------------------------------------------------------


def test_new_results_are_seen_at_the_next_question(run: Folder):
    run.input(asked("a", "find me"), asked("b"))
    browse = run.open()
    assert [row.state for row in whole(browse).rows] == ["waiting", "waiting"]
    assert ids(whole(browse, text="me")) == ["a"]
    run.output(answered("b", "now ME too"))
    assert [row.state for row in whole(browse).rows] == ["waiting", "done"]
    assert ids(whole(browse, text="me")) == ["a", "b"]


def test_a_torn_line_is_waited_for_wherever_it_is_cut(tmp_path: Path):
    line = answered("b")
    for cut in range(0, len(line), 7):
        run = Folder(tmp_path / str(cut))
        run.record()
        run.input(asked("a"), asked("b"))
        run.output(answered("a"), line[:cut])
        browse = run.open()
        page = whole(browse)
        assert ([row.state for row in page.rows], page.note) == (["done", "waiting"], "")
        run.output(line[cut:])
        assert [row.state for row in whole(browse).rows] == ["done", "done"]


def test_a_torn_tail_that_a_resume_cuts_off(run: Folder):
    run.input(asked("a"), asked("b"))
    run.output(answered("a"), answered("b")[:50])
    browse = run.open()
    whole(browse)
    output = run.path / "output.jsonl"
    os.truncate(output, output.stat().st_size - 50)
    run.output(answered("b", "another"))
    assert detail(browse, "b").answer == "another"


@pytest.mark.parametrize("grows", [False, True])
def test_results_that_were_cut_or_replaced_are_read_anew(run: Folder, grows: bool):
    run.input(asked("a"), asked("b"), asked("c"))
    run.output(answered("a"), answered("b"))
    browse = run.open()
    assert whole(browse).counts["done"] == 2
    (run.path / "output.jsonl").write_bytes(answered("c") * (9 if grows else 1))
    assert [row.state for row in whole(browse).rows] == ["waiting", "waiting", "done"]
    new = run.path / "new"
    new.write_bytes(answered("a") + answered("b"))
    new.replace(run.path / "output.jsonl")
    assert [row.state for row in whole(browse).rows] == ["done", "done", "waiting"]


def test_a_batch_file_that_was_edited(run: Folder):
    run.input(asked("a", "old"), asked("b"))
    run.record(input_bytes=run.batch.stat().st_size)
    index = batch.scan(run.batch).index
    run.output(*(answered(x, request_id=index.request_id(i)) for i, x in enumerate("ab")))
    browse = run.open()
    assert whole(browse).note == ""
    assert detail(browse, "a").notes == ["a note"]
    run.input(asked("new"), asked("a", "edited"))
    page = whole(browse)
    assert [(row.custom_id, row.line, row.state) for row in page.rows] == [
        ("new", 1, "waiting"), ("a", 2, "done"), ("b", 0, "done"),
    ]  # fmt: skip
    assert "has changed" in page.note
    assert "1 result is of requests that the batch file does not hold" in page.note
    assert any("edited" in note for note in detail(browse, "a").notes)
    assert "does not hold" in detail(browse, "b").notes[-1]


def test_a_batch_file_that_is_gone_and_comes_back(run: Folder):
    run.input(asked("a"), asked("b"), asked("c"))
    content = run.batch.read_bytes()
    run.output(answered("b", "yes, B"), answered("a"))
    run.errors(failed("c"), failed("a"))
    browse = run.open()
    assert ids(whole(browse)) == ["a", "b", "c"]
    run.batch.unlink()
    page = whole(browse)
    assert [(row.custom_id, row.line, row.state) for row in page.rows] == [
        ("b", 0, "done"), ("a", 0, "done"), ("c", 0, "failed"),
    ]  # fmt: skip
    assert "the batch file is gone" in page.note
    assert ids(whole(browse, text="yes, b")) == ["b"]
    assert detail(browse, "b").answer == "yes, B"
    run.output(answered("d"))
    assert whole(browse).total == 4
    run.batch.write_bytes(content)
    assert ids(whole(browse)) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("what", [b"", b"\n\n", b"GGUF\0\0\0", b"\xff\xfe{\0", None])
def test_batch_files_that_are_none(run: Folder, what: bytes | None):
    if what is None:
        run.batch.mkdir()
    else:
        run.batch.write_bytes(what)
    run.output(answered("a"))
    assert ids(whole(run.open())) == ["a"]


def test_run_json_is_missing_or_damaged(run: Folder):
    run.output(answered("a"))
    for content in (b"{", b'{"version":99}', None):
        record = run.path / "run.json"
        record.unlink()
        if content is not None:
            record.write_bytes(content)
        page = whole(run.open())
        assert ids(page) == ["a"]
        assert "run.json" in page.note
        record.touch()


def test_no_run_there_and_a_run_that_goes(run: Folder):
    browse = run.open()
    with pytest.raises(JobNotFound, match="no run at"):
        browse.answer(OpenRun(folder=str(run.path / "nothing")))
    with pytest.raises(JobNotFound, match="nothing"):  # and whoever asks about it hears the same
        browse.answer(AskPage())
    with pytest.raises(JobNotFound):
        browse.answer(OpenRun(folder="\0"))


def test_two_runs_in_turn_are_read_once(run: Folder, tmp_path: Path):
    run.input(asked("a"))
    other = Folder(tmp_path / "other")
    other.record()
    other.input(asked("z"))
    browse = run.open()
    whole(browse)
    for _ in range(2):
        browse.answer(OpenRun(folder=str(other.path)))
        assert ids(whole(browse)) == ["z"]
        opened = browse.answer(OpenRun(folder=str(run.path)))
        assert isinstance(opened, Page)
        assert (opened.total, opened.fraction) == (1, 1.0)


# --- hostile and foreign lines ----------------------------------------------------------------------------------------


def test_damaged_and_foreign_lines_of_results(run: Folder):
    run.input(*(asked(x) for x in "abcdef"))
    foreign: list[Any] = [
        {"custom_id": "b", "response": {"status_code": 400, "body": None}, "error": {"error": {"code": 400}}},
        {"custom_id": "c", "response": {"status_code": 400, "body": None}, "error": "a bare string"},
        {"custom_id": "d", "response": {"status_code": 200, "body": {"choices": [{"finish_reason": "length",
         "message": {"content": "D", "reasoning": "thought"}}], "usage": {"prompt_tokens": 4}}}, "error": None},
        {"custom_id": "e", "response": {"status_code": 200, "body": {"error": {"message": "no"}}}, "error": None},
        {"custom_id": "f", "response": None, "error": {"code": "batch_expired", "message": "late"}},
        {"custom_id": 5},
        [],
    ]  # fmt: skip
    run.output(answered("a"), b"\0" * 40 + b"\n", *(json.dumps(x).encode() + b"\n" for x in foreign), b"\xff\n")
    browse = run.open()
    page = whole(browse)
    assert [row.state for row in page.rows] == ["done", "failed", "failed", "truncated", "failed", "failed"]
    assert [row.code for row in page.rows] == ["", "400", "error", "", "error", "batch_expired"]
    assert "4 lines of the results can't be read" in page.note
    shown = detail(browse, "d")
    assert (shown.answer, shown.reasoning, shown.row.prompt_tokens) == ("D", "thought", 4)
    assert detail(browse, "c").error == '"a bare string"'
    assert detail(browse, "f").output_line_number == 7


def test_a_detail_has_everything(run: Folder):
    text = 'nul \0 esc \x1b[31m "q" 😀'
    run.input(asked("zero"), asked("a", text, temperature=0.5))
    run.output(answered("zero"), answered("a", text, reasoning="because"))
    shown = detail(run.open(), "a")
    assert shown.id == 3
    assert [(said.role, said.text) for said in shown.prompt] == [("user", text)]
    assert (shown.answer, shown.reasoning, shown.partial) == (text, "because", False)
    assert (shown.queued_s, shown.prefill_s, shown.decode_s) == (0.5, 0.25, 0.75)
    assert shown.usage is not None
    assert shown.usage.reasoning_tokens == 3
    assert (shown.output_line_number, shown.row.line) == (2, 2)
    assert json.loads(shown.input_line)["custom_id"] == "a"
    assert json.loads(shown.output_line)["custom_id"] == "a"
    assert json.loads(shown.settings) == {"model": "nano", "temperature": 0.5}
    assert (shown.input_path, shown.output_path) == (str(run.batch), str(run.path / "output.jsonl"))
    assert "nul \\u0000 esc" in msgspec.json.encode(shown).decode()


def test_details_of_lines_that_do_not_hold(run: Folder):
    run.input(
        asked("a", "x"), '{"custom_id":"lone","body":{"messages":[{"role":"user","content":"\\ud800!"}]}}', b"\xff{"
    )
    browse = run.open()
    lone = detail(browse, "line-2")
    assert lone.prompt[0].text == "\\ud800!"
    assert detail(browse, "line-3").input_line == "\\xff{"
    msgspec.json.encode(lone)
    with pytest.raises(UsageError, match="no request"):
        detail(browse, "nobody")


def test_texts_too_long_for_a_screen_are_cut(run: Folder):
    run.input(asked("a", "p" * (MAX_TEXT + 1)))
    run.output(answered("a", "w" * (MAX_TEXT + 5)))
    shown = detail(run.open(), "a")
    assert len(shown.answer) == len(shown.prompt[0].text) == len(shown.input_line) == MAX_TEXT
    assert sum("of 2,097,1" in note for note in shown.notes) >= 2


def test_unfinished_texts(run: Folder):
    run.input(asked("a"), asked("b"))
    choice = Choice(index=0, finish=Finish.ABORTED, content="so far", reasoning="hm",
                    tool_calls=[ToolCall(name="f", arguments="{}")])  # fmt: skip
    write_inflight(run.path, [Partial(custom_id="a", request_id="r", choices=[choice], completion_tokens=9)])
    browse = run.open()
    page = whole(browse)
    assert (page.rows[0].state, page.rows[0].completion_tokens) == ("waiting", 9)
    shown = detail(browse, "a")
    assert (shown.partial, shown.answer, shown.reasoning, shown.tool_calls[0].name) == (True, "so far", "hm", "f")
    assert ids(whole(browse, text="SO FAR")) == ["a"]
    run.output(answered("a", "whole"))
    assert (detail(browse, "a").partial, detail(browse, "a").answer) == (False, "whole")
    assert whole(browse, text="so far").total == 0
    (run.path / "inflight.jsonl").write_bytes(b"{")
    assert whole(browse).total == 2


def test_a_search_in_a_selection(run: Folder):
    run.input(*(asked(f"r-{n}", "red" if n % 3 else "blue") for n in range(12)))
    run.errors(*(failed(f"r-{n}") for n in range(0, 12, 2)))
    browse = run.open()
    assert found(browse, "BLUE", which="failed", start=1).row == 3  # r-6
    assert found(browse, "blue", which="failed", start=2, step=-1).custom_id == "r-0"
    assert found(browse, "blue", which="failed", start=4).row is None
    assert found(browse, "r-1", text="red", start=1).custom_id == "r-10"
    assert found(browse, "content").row is None  # a key is no text
    with pytest.raises(UsageError):
        found(browse, "")


def test_an_old_failure_is_not_found_once_it_succeeded(run: Folder):
    run.input(asked("a"))
    run.errors(failed("a", message="terrible"))
    browse = run.open()
    assert whole(browse, text="terrible").total == 1
    run.output(answered("a"))
    assert whole(browse, text="terrible").total == 0
