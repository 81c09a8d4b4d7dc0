"""The window over a job's requests: what is asked for, what is kept, what is dropped."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.pages import AskPage, Page, RequestRow
from tui.view import Which
from tui.window import AGAIN_S, LOST_S, MOST, RETRY_S, SPANS, RequestWindow


class Reader:
    """Answers as the reading process does, over a list of custom_ids."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.fraction = 1.0

    def answer(self, ask: AskPage) -> Page:
        offset = ask.offset
        if ask.around in self.names:
            offset = max(0, self.names.index(ask.around) - ask.count // 2)
        rows = [
            RequestRow(custom_id=name, line=i + 1, state="done")
            for i, name in enumerate(self.names[offset : offset + ask.count], offset)
        ]
        return Page(total=len(self.names), offset=offset, rows=rows, counts={"done": 1}, fraction=self.fraction)


def names(n: int) -> list[str]:
    return [f"r{i}" for i in range(n)]


def window(which: Which = Which.ALL, *, top: int = 0, rows: int = 10) -> RequestWindow:
    made = RequestWindow()
    made.select("job-1", which)
    made.show(top, rows)
    return made


def asked(of: RequestWindow, now: float) -> AskPage:
    ask = of.want(now)
    assert ask is not None
    return ask


def settle(of: RequestWindow, reader: Reader, now: float) -> int:
    """Ask until all is at hand; returns how often."""
    for times in range(20):
        ask = of.want(now)
        if ask is None:
            return times
        assert of.take(ask, reader.answer(ask))
    raise AssertionError("it asks for ever")


def test_it_asks_for_what_is_visible_and_then_no_more() -> None:
    it = window(top=500)
    assert it.row(500) is None
    assert not it.known
    assert settle(it, Reader(names(1_000_000)), 0.0) == 1
    assert it.total == 1_000_000
    row = it.row(500)
    assert row is not None
    assert row.custom_id == "r500"
    assert it.place("r505") == 505
    assert it.row(999_999) is None


def test_one_question_at_a_time() -> None:
    it = window()
    ask = asked(it, 0.0)
    assert it.want(1.0) is None
    it.select("job-1", Which.FAILED)
    assert it.want(1.0) is None, "the reader is still busy with the old one"
    assert not it.take(ask, Reader(names(5)).answer(ask))
    assert it.total == 0
    assert not it.known
    assert asked(it, 1.0).which == "failed"


def test_a_lost_answer_is_asked_for_again_and_comes_too_late_then() -> None:
    it = window()
    first = asked(it, 0.0)
    second = asked(it, LOST_S)
    assert not it.take(first, Reader(names(3)).answer(first))
    assert it.take(second, Reader(names(4)).answer(second))
    assert it.total == 4


def test_a_failure_is_told_and_asked_again_after_a_pause() -> None:
    it = window()
    it.fail(asked(it, 0.0), "the reader was killed", 1.0)
    assert it.note == "the reader was killed"
    assert it.want(1.0 + RETRY_S / 2) is None
    settle(it, Reader(names(3)), 1.0 + RETRY_S)
    assert it.note == ""


def test_news_are_looked_for_at_most_twice_a_second() -> None:
    it, reader = window(), Reader(names(5))
    settle(it, reader, 0.0)
    reader.names = names(7)
    it.refresh(("more", 7))
    assert it.want(AGAIN_S / 2) is None
    it.refresh(("more", 7))
    assert settle(it, reader, AGAIN_S) == 1
    assert it.total == 7
    it.refresh(("more", 7))
    assert it.want(10.0) is None, "nothing is new"


def test_rows_that_appear_in_an_empty_list_are_found() -> None:
    it, reader = window(Which.FAILED), Reader([])
    settle(it, reader, 0.0)
    assert it.known
    reader.names = ["bad"]
    it.refresh(1)
    settle(it, reader, 1.0)
    assert it.total == 1


def test_it_looks_again_while_the_files_are_still_being_read() -> None:
    it, reader = window(), Reader(names(5))
    reader.fraction = 0.4
    ask = asked(it, 0.0)
    it.take(ask, reader.answer(ask))
    assert it.fraction == 0.4
    assert not it.caught_up
    assert it.want(0.1) is None
    reader.fraction = 1.0
    assert settle(it, reader, AGAIN_S) == 1
    assert it.want(9.0) is None
    assert it.caught_up
    it.select("job-2", Which.ALL)
    assert not it.caught_up


def test_rows_that_move_are_asked_for_around_the_chosen_one() -> None:
    it, reader = window(Which.FAILED, top=200), Reader(names(1000))
    settle(it, reader, 0.0)
    it.show(200, 10, anchor="r205")
    reader.names = [f"new{i}" for i in range(100)] + reader.names
    it.refresh(1)
    ask = asked(it, 1.0)
    assert ask.around == "r205"
    it.take(ask, reader.answer(ask))
    assert it.place("r205") == 305
    assert it.place("r150") is None, "what was asked for before the change may stand elsewhere"


def test_the_plain_list_keeps_its_order() -> None:
    it, reader = window(top=200), Reader(names(1000))
    settle(it, reader, 0.0)
    it.show(200, 10, anchor="r205")
    it.refresh(1)
    assert asked(it, 1.0).around == ""


def test_seeking_finds_a_row_far_away() -> None:
    it, reader = window(), Reader(names(100_000))
    settle(it, reader, 0.0)
    it.seek("r77777")
    assert settle(it, reader, 0.1) == 1
    assert it.seeking == ""
    assert it.place("r77777") == 77_777


def test_seeking_ends_where_there_is_no_such_row_but_not_before_all_is_read() -> None:
    it, reader = window(), Reader(names(10))
    settle(it, reader, 0.0)
    reader.fraction = 0.5
    it.seek("r11")
    ask = asked(it, 0.1)
    it.take(ask, reader.answer(ask))
    assert it.seeking == "r11"
    reader.names, reader.fraction = names(12), 1.0
    settle(it, reader, 1.0)
    assert it.place("r11") == 11
    it.seek("nobody")
    settle(it, reader, 2.0)
    assert it.seeking == ""


def test_another_job_has_other_rows_and_aborted_ones_are_looked_at_again() -> None:
    it, reader = window(), Reader(names(5))
    settle(it, reader, 0.0)
    assert not it.select("job-1", Which.ALL, "", ["r1"])
    assert it.row(0) is not None
    assert asked(it, 1.0).taken_out == ["r1"]
    assert it.select("job-2", Which.ALL)
    assert it.row(0) is None


def test_running_requests_are_not_in_the_files() -> None:
    it = window(Which.RUNNING)
    assert it.want(0.0) is None


def test_a_reader_that_gives_too_little_is_not_asked_at_every_tick() -> None:
    it = window()
    asks = 0
    for tick in range(40):
        ask = it.want(tick * 0.25)
        if ask is not None:
            asks += 1
            it.take(ask, Page(total=50, offset=0, rows=[]))
    assert asks <= 22


@settings(max_examples=60, deadline=None)
@given(
    total=st.integers(0, 3000),
    looks=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 60), st.booleans()), max_size=25),
)
def test_whatever_is_shown_is_at_hand_after_a_few_questions_and_memory_is_bounded(
    total: int, looks: list[tuple[int, int, bool]]
) -> None:
    it, reader = window(), Reader(names(total))
    now = 0.0
    for version, (top, rows, news) in enumerate(looks):
        now += 1.0
        if news:
            it.refresh(version)
        it.show(min(top, max(0, total - rows)), rows)
        assert settle(it, reader, now) <= 3
        for i in range(min(top, max(0, total - rows)), min(total, min(top, max(0, total - rows)) + rows)):
            row = it.row(i)
            assert row is not None
            assert row.custom_id == f"r{i}"
        assert sum(it.row(i) is not None for i in range(total)) <= SPANS * MOST


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["ask", "answer", "old answer", "filter", "fail", "news"]), max_size=40))
def test_no_row_of_another_selection_is_ever_shown(steps: list[str]) -> None:
    it = window()
    out: list[AskPage] = []
    nth, now = 0, 0.0
    for step in steps:
        now += 0.3
        match step:
            case "ask":
                if (ask := it.want(now)) is not None:
                    out.append(ask)
            case "filter":
                nth += 1
                it.select("job-1", Which.ALL, f"query {nth}")
            case "news":
                it.refresh(now)
            case "fail" if out:
                it.fail(out[-1], "no", now)
            case _ if out:
                ask = out[-1] if step == "answer" else out[0]
                rows = [RequestRow(custom_id=f"{ask.text}:{i}", line=i, state="done") for i in range(5)]
                it.take(ask, Page(total=5, offset=0, rows=rows))
            case _:
                pass
        shown = it.row(0)
        assert shown is None or shown.custom_id == f"{it.query}:0"


def test_what_was_looked_at_long_ago_is_given_up() -> None:
    it, reader = window(), Reader(names(100_000))
    for page in range(SPANS + 1):
        it.show(page * 1000, 10)
        settle(it, reader, float(page))
    assert it.row(0) is None
    assert all(it.row(page * 1000) is not None for page in range(1, SPANS + 1))


def test_rows_that_move_are_not_mixed_with_older_ones() -> None:
    it, reader = window(Which.FAILED), Reader(names(5000))
    settle(it, reader, 0.0)
    reader.names = ["new", *reader.names]
    it.refresh(1)
    it.show(2000, 10)
    settle(it, reader, 1.0)
    assert it.row(0) is None  # r0 stood there; who stands there now has to be asked


def test_a_place_that_somebody_else_has_now_is_not_told() -> None:
    it, reader = window(), Reader(names(500))
    settle(it, reader, 0.0)
    assert it.place("r15") == 15
    reader.names = [f"n{i}" for i in range(500)]
    it.refresh(1)
    it.show(20, 10)
    settle(it, reader, 1.0)
    row = it.row(15)
    assert row is not None
    assert row.custom_id == "n15"
    assert it.place("r15") is None
