"""Soft wrap: rows of a line, rows of a long text, and the window over a text that grows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui.draw import wrap as module
from tui.draw.wrap import Pages, Place, Scroll, Wraps, cut, row_starts, shown
from tui.text import cells, one_line

WORDS = st.text(
    st.one_of(
        st.sampled_from("ab   cd你好-e\u0301👍🏽\u0902का1\t"),
        st.characters(exclude_characters="\n", exclude_categories=["Cs"]),
    ),
    max_size=120,
).map(one_line)
WIDTHS = st.integers(2, 40)


class Part(NamedTuple):
    order: int
    heading: str
    first: int
    lines: Sequence[str]


def rows_of(text: str, width: int) -> list[str]:
    starts = [*row_starts(text, width), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(starts)]


@given(WORDS, WIDTHS)
def test_rows_hold_the_whole_text_and_fit(text: str, width: int):
    rows = rows_of(text, width)
    assert "".join(rows) == text
    assert all(cells(shown(row)) <= width for row in rows)
    assert all(rows[1:]) or not text


@given(WORDS, WIDTHS)
def test_no_row_begins_with_a_blank_or_a_combining_mark(text: str, width: int):
    for row in rows_of(text, width)[1:]:
        assert cells(row[0]) > 0
        assert row[0] != " "


@given(st.lists(WORDS, max_size=8), WIDTHS)
def test_a_line_that_grows_is_wrapped_as_if_it_had_come_at_once(pieces: list[str], width: int):
    text, starts = "", [0]
    for piece in pieces:
        text += piece
        starts = row_starts(text, width, starts)
    assert starts == row_starts(text, width)


@given(st.lists(st.sampled_from(["a", "bcd", "efghi"]), min_size=1, max_size=30), st.integers(5, 40))
def test_words_that_fit_are_not_broken(words: list[str], width: int):
    assert [word for row in rows_of(" ".join(words), width) for word in row.split()] == words


@pytest.mark.parametrize(
    ("text", "width", "rows"),
    [
        ("", 5, [""]),
        ("two words", 5, ["two", "words"]),
        ("two words", 4, ["two", "word", "s"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("abc   def", 3, ["abc", "def"]),
        ("    abcdef", 6, ["    ab", "cdef"]),
        ("Hello 你好世界", 9, ["Hello 你", "好世界"]),
        ("你好世界", 5, ["你好", "世界"]),
        ("cafe\u0301s are", 5, ["cafe\u0301s", "are"]),
    ],
)
def test_where_rows_break(text: str, width: int, rows: list[str]):
    assert [shown(row) for row in rows_of(text, width)] == rows


def test_a_row_of_combining_marks_ends_somewhere():
    assert max(map(len, rows_of("e" + "\u0301" * 10_000, 20))) <= 20 * 8 + 1


@given(WORDS, st.integers(0, 50), st.integers(1, 30))
def test_the_part_in_view_is_no_wider_than_the_view(text: str, left: int, width: int):
    part = cut(text, left, width)
    assert cells(part) == max(0, min(width, cells(text) - left))


@pytest.mark.parametrize(("left", "part"), [(0, "a你 "), (1, "你b"), (2, " bc"), (3, "bcd")])
def test_half_a_wide_character_is_a_blank(left: int, part: str):
    assert cut("a你bcd" if left else "a你好", left, 3 if left != 0 else 4)[: len(part)] == part


# --- many lines -------------------------------------------------------------------------------------------------------

TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=6), min_size=1, max_size=3)


def parts_of(texts: list[list[str]], first: int = 0) -> list[Part]:
    return [Part(i * 2, "head" if i else "", first, lines) for i, lines in enumerate(texts)]


@given(TEXTS, WIDTHS, st.integers(0, 30), st.booleans())
def test_walking_back_finds_the_same_rows_as_walking_forth(texts: list[list[str]], width: int, skip: int, wrap: bool):
    pages = Pages(parts_of(texts, first=7), width, Wraps(), wrap=wrap)
    forth = pages.rows_from(pages.start, 10_000)
    assert [r[:2] for r in pages.rows_before(None, 10_000)] == [r[:2] for r in forth]
    assert len(forth) == pages.count_from(pages.start, 10_000)
    if skip < len(forth):
        place = forth[skip].place
        assert [r[:2] for r in pages.rows_from(place, 3)] == [r[:2] for r in forth[skip : skip + 3]]
        assert [r[:2] for r in pages.rows_before(place, 3)] == [r[:2] for r in forth[max(0, skip - 3) : skip]]


@given(TEXTS, st.lists(st.tuples(WIDTHS, st.integers(1, 9)), min_size=2, max_size=6), st.integers(0, 30))
def test_a_change_of_size_keeps_the_first_visible_character(
    texts: list[list[str]], sizes: list[tuple[int, int]], up: int
):
    wraps, scroll = Wraps(), Scroll()
    width, height = sizes[0]
    pages = Pages(parts_of(texts), width, wraps)
    scroll.rows(pages, height)
    scroll.move(pages, height, -up)
    kept = scroll.top
    for width, height in sizes[1:]:
        pages = Pages(parts_of(texts), width, wraps)
        rows = scroll.rows(pages, height)
        if rows and kept is not None and len(rows) > 1:
            assert rows[0].place <= kept < rows[1].place
    assert scroll.top == kept


def test_lines_that_are_gone_are_skipped():
    part = Part(0, "head (90 earlier lines left out)", 90, ["x", "y"])
    pages = Pages([part], 10, Wraps())
    assert [row.text for row in pages.rows_from(Place(0, 3), 5)] == ["x", "y"]
    assert [row.text for row in pages.rows_before(Place(0, 3), 5)] == [part.heading]


def test_the_empty_line_after_the_last_newline_is_not_shown():
    pages = Pages([Part(0, "", 0, ["x", "", "y", ""])], 10, Wraps())
    assert [row.text for row in pages.rows_from(pages.start, 9)] == ["x", "", "y"]
    assert pages.end == Place(0, 2, 1)


def test_only_what_is_looked_at_is_wrapped(monkeypatch: pytest.MonkeyPatch):
    wrapped: list[str] = []

    def counted(text: str, width: int, before: Sequence[int] = (0,)) -> list[int]:
        wrapped.append(text)
        return row_starts(text, width, before)

    monkeypatch.setattr(module, "row_starts", counted)
    lines = [f"line {i} of a long text" for i in range(200_000)]
    pages = Pages([Part(0, "", 0, lines)], 10, Wraps())
    scroll = Scroll()
    assert scroll.rows(pages, 20)[-1].text == "text"
    scroll.move(pages, 20, -1000)
    assert len(wrapped) < 1000


def test_a_line_that_grows_is_wrapped_from_its_last_row(monkeypatch: pytest.MonkeyPatch):
    begun: list[int] = []

    def counted(text: str, width: int, before: Sequence[int] = (0,)) -> list[int]:
        begun.append(before[-1])
        return row_starts(text, width, before)

    monkeypatch.setattr(module, "row_starts", counted)
    wraps = Wraps()
    for words in (10, 20, 20, 30):
        wraps.starts(0, 0, "word " * words, 10)
    assert begun == [0, 40, 90]
    assert wraps.starts(0, 0, "word " * 30, 20) == row_starts("word " * 30, 20)


def test_wrapping_a_line_of_the_longest_kind_takes_no_tick():
    words = "wort 你好 " * 8192
    began = time.process_time()
    row_starts(words[: 64 * 1024], 80)
    assert time.process_time() - began < 0.2  # a tick is 0.25 s; measured: 0.02 s


# --- the window -------------------------------------------------------------------------------------------------------


def test_following_fills_the_window_then_leaps_by_a_third():
    lines: list[str] = ["0"]
    wraps, scroll = Wraps(), Scroll()
    seen: list[list[str]] = []
    for i in range(1, 12):
        pages = Pages([Part(0, "", 0, lines)], 10, wraps)
        seen.append([row.text for row in scroll.rows(pages, 6)])
        lines.append(str(i))
    assert seen[5] == ["0", "1", "2", "3", "4", "5"]
    assert seen[6] == ["3", "4", "5", "6"]
    assert seen[8] == ["3", "4", "5", "6", "7", "8"]
    assert seen[9] == ["6", "7", "8", "9"]


def test_a_text_that_is_there_already_fills_the_window():
    pages = Pages([Part(0, "", 0, list("abcdefgh"))], 10, Wraps())
    assert [row.text for row in Scroll().rows(pages, 3)] == ["f", "g", "h"]


def test_staying_keeps_the_rows_and_counts_what_is_new():
    lines = [str(i) for i in range(20)]
    scroll = Scroll()

    def pages() -> Pages:
        return Pages([Part(0, "", 0, lines)], 10, Wraps())

    scroll.rows(pages(), 5)
    scroll.move(pages(), 5, -3)
    before = [row.text for row in scroll.rows(pages(), 5)]
    assert before == ["12", "13", "14", "15", "16"]
    assert scroll.new_rows(pages()) == 0
    lines.extend(["new words in two rows", "another"])
    assert [row.text for row in scroll.rows(pages(), 5)] == before
    assert scroll.new_rows(pages()) == 4
    assert scroll.new_rows(pages(), 2) == 2
    scroll.move(pages(), 5, 1000)
    assert [row.text for row in scroll.rows(pages(), 5)][-1] == "another"
    scroll.to_start(pages())
    assert scroll.rows(pages(), 2)[0].text == "0"
    scroll.follow()
    assert scroll.rows(pages(), 5)[-1].text == "another"
    assert scroll.new_rows(pages()) == 0
