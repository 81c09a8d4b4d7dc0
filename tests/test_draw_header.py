"""The header: the state to the last, the rest by importance."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.job import JobState
from engine.protocol import Counts
from tests.tui_kit import job_view, make_desk, snapshot, text_of
from tui.draw.header import Facts, header, job_of, link_words, traffic
from tui.draw.line import width
from tui.look import STYLES
from tui.state import Mirror


def text(columns: int, **fields: Any) -> str:
    given_facts: dict[str, Any] = {"job": job_view()}
    return text_of([header(Facts(**(given_facts | fields)), columns)])[0]


def test_at_three_widths() -> None:
    link = link_words(4.0, 4.7)
    assert text(80, link=link) == " running  evals.jsonl  41%  gpt-oss-20b-Q4_K_M  ~41 min left       4 Hz 5 KiB/s"
    wide = text(120, link=link, ssh=True)
    assert wide.startswith(" running  evals.jsonl  41%  gpt-oss-20b-Q4_K_M  llama.cpp  59 min 50 s  ~41 min left ")
    assert wide.endswith(" 4 Hz 5 KiB/s  ssh  ? help")
    assert text(40) == " running  evals.jsonl  41%  ~41 min left"
    assert text(12) == " running"


def test_a_load_has_its_fraction() -> None:
    job = job_view(state=JobState.LOADING, load_fraction=0.42)
    assert text(80, job=job).startswith(" loading 42%  evals.jsonl")


def test_a_hundred_percent_means_all() -> None:
    almost = job_view(counts=Counts(total=10_000, succeeded=9_999, running=1))
    assert "99%" in text(80, job=almost)


def test_no_job_says_what_to_do() -> None:
    assert text(80, job=None).startswith(" idle  no job yet: a adds a batch")
    assert "a adds" not in text(80, job=None, readonly=True)
    assert "read only" in text(80, job=None, readonly=True)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (100, " not connected to the runner: its socket is gone; what you see is as it was last"),
        (60, " not connected to the runner: its socket is gone"),
        (30, " not connected to the runner"),
        (16, " not connected"),
    ],
)
def test_a_lost_runner_is_a_sentence(columns: int, expected: str) -> None:
    row = text(columns, connected=False, why="its socket is gone.")
    assert row.startswith(expected)
    assert all(
        "error" in span.style for span in header(Facts(job=None, connected=False, why="its socket is gone"), columns)
    )


def test_a_slow_link_is_said_even_where_it_is_narrow() -> None:
    assert text(40, slow=True, link="1 Hz 5 KiB/s").endswith("slow link")


@given(
    st.text(max_size=40), st.text(max_size=40), st.integers(0, 200), st.booleans(), st.booleans(), st.booleans(),
    st.sampled_from(list(JobState)),
)  # fmt: skip
def test_any_names_at_any_width(
    name: str, model: str, columns: int, connected: bool, slow: bool, ssh: bool, state: JobState
) -> None:
    job = job_view(state=state, input_path=f"/data/{name}", model=model)
    row = header(Facts(job=job, connected=connected, why=name, slow=slow, ssh=ssh, link="4 Hz <1 KiB/s"), columns)
    assert width(row) == columns
    assert all("header" in span.style for span in row)
    assert all(part in STYLES for span in row for part in span.style.split())
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202a\u202e\u2028" for span in row for c in span.text)


@pytest.mark.parametrize(
    ("kib_s", "expected"), [(0.0, "<1"), (0.99, "<1"), (1.2, "1"), (9.4, "9"), (9.6, "10"), (12.0, "10"), (13.0, "15")]
)
def test_traffic_in_steps(kib_s: float, expected: str) -> None:
    assert traffic(kib_s) == f"{expected} KiB/s"


def test_the_job_in_work_goes_before_the_selected_one() -> None:
    desk = make_desk()
    found = job_of(desk.mirror, "sample-1")
    assert found is not None
    assert found.id == "evals-1"
    resting = Mirror(snapshot(jobs=[job_view("a-1", JobState.DONE), job_view("b-1", JobState.PAUSED, order=1)]))
    chosen, other = job_of(resting, "b-1"), job_of(resting, "gone")
    assert chosen is not None
    assert chosen.id == "b-1"
    assert other is not None
    assert other.id == "a-1"
    assert job_of(Mirror(snapshot(jobs=[])), "") is None
