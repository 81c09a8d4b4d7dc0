"""The key line: what acts now, and always the way out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tui_kit import text_of
from tui.draw.keyline import key_line
from tui.draw.line import Line, width
from tui.keys import KEYS, KeyTable
from tui.notice import Notice
from tui.text import one_line

TABLE = KeyTable()


def every_key_acts(action: str) -> str | None:
    del action
    return None


def none_acts(action: str) -> str | None:
    return f"{action} means nothing now"


def text(line: Line) -> str:
    return text_of([line])[0]


def test_at_80() -> None:
    assert text(key_line(TABLE, every_key_acts, 80)) == (
        " a add  p pause  r resume  x abort  enter open  v results       ? help  q leave"
    )


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 120, 200])
def test_help_and_leave_are_always_there_in_one_place(columns: int) -> None:
    for why_not in (every_key_acts, none_acts):
        assert text(key_line(TABLE, why_not, columns)).endswith("? help  q leave")


def test_what_acts_goes_before_what_does_not() -> None:
    line = key_line(TABLE, lambda action: "no" if action in ("pause", "resume") else None, 60)
    assert "p pause" not in text(line)
    assert "x abort" in text(line)


def test_keys_that_do_not_act_are_dim_where_there_is_room() -> None:
    line = key_line(TABLE, lambda action: "no" if action == "pause" else None, 200)
    assert next(span.style for span in line if "p pause" in span.text).endswith("dim")
    assert not any("dim" in span.style for span in line if span.text == " add")


def test_own_bindings_are_shown() -> None:
    assert "f5 pause" in text(key_line(KeyTable({"pause": "f5"}), every_key_acts, 80))


def test_results_have_their_own_keys() -> None:
    row = text(key_line(TABLE, every_key_acts, 80, where="results"))
    assert "pause" not in row
    assert "/ find" in row
    assert row.endswith("? help")


def test_a_notice_takes_the_row() -> None:
    said = one_line("paused: evals-1\nfinishes 30 requests")
    assert text(key_line(TABLE, every_key_acts, 80, notice=Notice(said))) == f" {said}"
    warned = key_line(TABLE, every_key_acts, 80, notice=Notice(said, "error"))
    assert text(warned) == f" error: {said}"
    assert any("error" in span.style for span in warned)
    assert text(key_line(TABLE, every_key_acts, 80, notice=Notice(one_line("")))).endswith("q leave")


@given(st.sets(st.sampled_from([key.action for key in KEYS])), st.integers(0, 220), st.text(max_size=90))
def test_the_row_has_its_width(refused: set[str], columns: int, said: str) -> None:
    def why_not(action: str) -> str | None:
        return "no" if action in refused else None

    assert width(key_line(TABLE, why_not, columns)) == columns
    assert width(key_line(TABLE, why_not, columns, notice=Notice(one_line(said), "warn"))) == columns


@given(st.integers(20, 220))
def test_a_wider_row_never_shows_fewer_of_the_keys_that_act(columns: int) -> None:
    narrow, wide = (key_line(TABLE, every_key_acts, n) for n in (columns, columns + 1))
    assert sum(span.style == "key" for span in narrow) <= sum(span.style == "key" for span in wide) + 1
