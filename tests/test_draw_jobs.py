"""Rows of the queue: columns, words, time left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.job import JobState
from engine.protocol import Counts, Eta, JobView
from tests.tui_kit import NOW, job_view, text_of
from tui.draw.columns import cell, exact, name_cell, squeeze
from tui.draw.jobs import WORDS, arrange, job_row, time_left, title_right, unfolded
from tui.draw.line import Span, width
from tui.glyphs import ASCII, UNICODE
from tui.look import STYLES
from tui.text import cells

HOSTILE = "\x1b]0;owned\x07\u202e\x9b31m[/nope]\n"

jobs = st.builds(
    JobView,
    id=st.text(max_size=60),
    state=st.sampled_from(list(JobState)),
    input_path=st.text(max_size=20),
    created=st.just(NOW),
    sentence=st.text(max_size=90),
    counts=st.builds(
        lambda done, failed, waiting: Counts(
            total=done + failed + waiting, succeeded=done, failed=failed, waiting=waiting
        ),
        st.integers(0, 1_000_000),
        st.integers(0, 5000),
        st.integers(0, 1_000_000),
    ),
    model=st.text(max_size=30),
    decode_rate=st.floats(0, 1e5),
    eta=st.builds(Eta, s=st.none() | st.floats(0, 1e8), low_s=st.none() | st.floats(0, 1e8), high_s=st.none()),
    load_fraction=st.none() | st.floats(0, 1),
    slots=st.integers(0, 512),
    context=st.integers(0, 200_000),
    completion_tokens=st.integers(0, 10**10),
    active_s=st.floats(0, 1e7),
    started=st.none() | st.just(NOW),
)


def row(job: JobView, columns: int = 80, **more: bool) -> str:
    return text_of([job_row(job, arrange([job], columns), UNICODE, **more)])[0]


@given(st.lists(jobs, min_size=1, max_size=4), st.integers(0, 220), st.sampled_from([UNICODE, ASCII]))
def test_rows_fit_any_width_and_hold_nothing_that_steers_a_terminal(queue, columns, glyphs) -> None:
    at = arrange(queue, columns)
    for job in queue:
        lines = [job_row(job, at, glyphs), *unfolded(job, columns, 4, glyphs, now=NOW)]
        assert width(lines[0]) == columns
        assert all(width(line) <= columns for line in lines)
        for span in (span for line in lines for span in line):
            assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066" for c in span.text)
            assert set(span.style.split()) <= set(STYLES)


def test_every_state_has_its_own_word_that_fits() -> None:
    words = [WORDS[state][0] for state in JobState]
    assert len(set(words)) == len(JobState)
    assert max(map(len, words)) <= 6


def test_a_running_job_at_80_columns() -> None:
    text = row(job_view(), cursor=True, marked=True)
    assert text == ">*RUN    evals-1    ▕████x·····▏ 4 188/10 000  41% 2 failed 1 012 tok/s  ~41 min"


def test_figures_stay_at_their_columns_while_they_grow() -> None:
    starts = set()
    for n in (0, 7, 4_000, 9_997):
        job = job_view(counts=Counts(total=10_000, succeeded=n, failed=2, waiting=10_000 - n - 2))
        text = row(job)
        starts.add((text.index("/10 000"), text.index("%"), text.index("2 failed"), text.index("~41 min")))
    assert len(starts) == 1


def test_a_hundred_percent_only_when_nothing_is_left() -> None:
    job = job_view(counts=Counts(total=100_000, succeeded=99_999, waiting=1))
    assert " 99%" in row(job)
    assert "100%" in row(job_view(state=JobState.DONE, counts=Counts(total=3, succeeded=3)))


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.FAILED, JobState.INTERRUPTED, JobState.QUEUED])
def test_a_job_that_stands_says_why_even_at_80_columns(state: JobState) -> None:
    text = row(job_view(state=state, sentence="the disk is full: 12 MiB free, 1 GiB needed"))
    assert "the disk is full: 12 MiB free" in text
    assert "tok/s" not in text


def test_a_job_that_is_done_keeps_its_figures() -> None:
    job = job_view(
        state=JobState.DONE,
        counts=Counts(total=400, succeeded=389, failed=11),
        sentence="389 of 400 succeeded; 11 failed: see errors.jsonl",
    )
    assert row(job, 66).rstrip().endswith("400/400 100% 11 failed")
    wide = row(job, 120)
    assert "took 59 min 50 s" in wide
    assert "389 of 400" not in wide, "the figures say it"
    under = " ".join(text_of(unfolded(job, 120, 2, UNICODE, now=NOW, shown=wide)))
    assert "389 of 400 succeeded; 11 failed" in under
    assert under.count("11 failed") == 1, "nothing is said twice"


def test_a_done_job_with_less_than_all_says_what_is_missing() -> None:
    counts = Counts(total=2_000, succeeded=1_996, aborted=4, truncated=6)
    text = row(job_view(state=JobState.DONE, counts=counts, active_s=88.0), 100)
    assert "99%" in text
    assert "4 taken out, 6 cut, took 1 min 28 s" in text


def test_a_paused_job_names_the_key_that_resumes_it() -> None:
    job = job_view(state=JobState.PAUSED, sentence="paused by a person; resume goes on")
    assert row(job, 80).rstrip().endswith("by a person; r resumes")


def test_a_job_whose_runner_died_names_the_key_at_80_columns() -> None:
    sentence = "its runner died while it was running; resume goes on without losing a saved answer"
    assert "its runner died; r resumes" in row(job_view(state=JobState.INTERRUPTED, sentence=sentence), 80)


def test_a_rate_of_any_size_keeps_its_column() -> None:
    for rate, text in ((9_999.0, "9 999 tok/s"), (12_345.0, "12.3k tok/s"), (123_456.0, "123k tok/s")):
        assert f" {text}  ~41 min" in row(job_view(decode_rate=rate))


def test_a_job_about_to_pause_says_so() -> None:
    text = row(job_view(sentence="pauses when its running requests are through"), 120)
    assert "pauses when its running requests" in text


def test_work_before_the_first_request_is_told() -> None:
    job = job_view(state=JobState.VALIDATING, counts=Counts(), load_fraction=0.43)
    assert "43%" in row(job)
    assert "checking the file" in row(job, 120)


def test_what_a_job_unfolds_to() -> None:
    counts = Counts(total=100, succeeded=90, failed=3, running=4, waiting=1, aborted=2, reused=88, truncated=1)
    job = job_view(counts=counts, sentence="it goes well")
    text = " ".join(text_of(unfolded(job, 78, 4, UNICODE, now=NOW)))
    for part in ("it goes well", "reused 88", "running 4", "3 failed", "2 taken out", "1 cut at its limit"):
        assert part in text
    one = text_of(unfolded(job, 78, 1, UNICODE, now=NOW))
    assert len(one) == 1
    assert "it goes well, reused 88" in one[0]
    assert unfolded(job, 78, 0, UNICODE, now=NOW) == []
    said = text_of(unfolded(job, 78, 4, UNICODE, now=NOW, shown="PAUSE evals-1 it goes well"))
    assert "it goes well" not in " ".join(said), "nothing is said twice"


@pytest.mark.parametrize(
    ("eta", "expected"),
    [
        (Eta(), ("", "")),
        (Eta(s=0.2), ("~0 s", "")),
        (Eta(s=41.0, low_s=40.0, high_s=44.4), ("~41 s", "(40-44)")),
        (Eta(s=2460.0, low_s=2200.0, high_s=2700.0), ("~41 min", "(37-45)")),
        (Eta(s=2460.0, low_s=2459.0, high_s=2461.0), ("~41 min", "")),
        (Eta(s=3.4 * 3600, low_s=3.1 * 3600, high_s=12 * 3600), ("~3.4 h", "(3.1-12)")),
        (Eta(s=4.0 * 86400), ("~4.0 d", "")),
    ],
)
def test_time_left(eta: Eta, expected: tuple[str, str]) -> None:
    assert time_left(eta) == expected


def test_how_many() -> None:
    assert title_right([], 0) == ""
    assert title_right([job_view(), job_view("b", JobState.DONE)], 0) == "2 jobs  1 running"
    assert title_right([job_view("b", JobState.DONE)], 1) == "1 job  1 marked"


# --- cells ------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=80), st.integers(0, 40), st.sampled_from([UNICODE, ASCII]))
def test_cells_are_exact(text, columns, glyphs) -> None:
    assert cells(name_cell(text, columns, glyphs)) == columns
    assert cells(cell(squeeze(text.replace("\n", ""), 30, glyphs), columns, glyphs, right=True)) == columns
    assert width(exact([Span(name_cell(text, 50, glyphs)), Span("x")], columns, glyphs)) == columns


def test_a_long_id_keeps_its_end() -> None:
    assert squeeze("evaluation-of-everything-000123", 16, UNICODE) == "evalu…ing-000123"
    assert squeeze("短い-🚀-000001", 9, ASCII).endswith("000001")


def test_neighbours_of_one_style_are_sent_as_one() -> None:
    assert exact([Span("a"), Span(""), Span("b"), Span("c", "dim")], 4, UNICODE) == (
        Span("ab"),
        Span("c", "dim"),
        Span(" "),
    )


def test_a_hostile_name_is_shown_and_obeyed_by_nobody() -> None:
    text = row(job_view(HOSTILE, JobState.PAUSED, sentence=HOSTILE), 200)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[/nope]" in text
