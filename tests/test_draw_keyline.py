"""The key line: what acts now, and always the way out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tui_kit import text_of
from tui.can import NO_JOB, READONLY
from tui.draw.keyline import key_line
from tui.draw.line import Line, width
from tui.keys import KEYS, NEAR, KeyTable
from tui.notice import Notice
from tui.text import one_line

TABLE = KeyTable()


def every_key_acts(action: str) -> str | None:
    del action
    return None


def a_job_runs(action: str) -> str | None:
    return "no" if action in ("resume", "retry", "put_back", "later", "earlier", "remove") else None


def test_failures_are_offered_where_there_are_some() -> None:
    row = text(
        key_line(TABLE, lambda a: "no" if a in ("pause", "resume", "abort", "put_back") else None, 80, pane="jobs")
    )
    assert "R retry" in row


def none_acts(action: str) -> str | None:
    return f"{action} means nothing now"


def text(line: Line) -> str:
    return text_of([line])[0]


def test_at_80() -> None:
    assert text(key_line(TABLE, every_key_acts, 80)) == (
        " a add  p pause  r resume  x abort  u put back  R retry         ? help  q leave"
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


@pytest.mark.parametrize("pane", NEAR)
def test_the_pane_in_focus_brings_its_own_keys(pane: str) -> None:
    def text_at(columns: int) -> str:
        return text(key_line(TABLE, a_job_runs, columns, pane=pane))

    for action in NEAR[pane]:
        if a_job_runs(action) is None:
            assert f" {TABLE[action].label}" in text_at(140)
    assert "p pause" in text_at(80), "what steers the run stays"


def test_streams_offer_what_is_done_with_texts_at_80() -> None:
    row = text(key_line(TABLE, a_job_runs, 80, pane="streams"))
    assert "c channel" in row
    assert "f follow" not in text(key_line(TABLE, every_key_acts, 80, pane="jobs"))


@pytest.mark.parametrize("reason", [READONLY, NO_JOB])
def test_what_is_out_of_place_is_not_offered_greyed(reason: str) -> None:
    changes = {key.action for key in KEYS if key.changes}
    row = text(key_line(TABLE, lambda action: reason if action in changes else None, 200))
    assert "add" not in row
    assert "pause" not in row
    assert "v results" in row


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
