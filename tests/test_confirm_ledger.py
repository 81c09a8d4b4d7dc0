"""tui.ledger: what confirmations say holds for every state a job can be in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.job import JobState
from engine.protocol import Counts, EngineView, JobView
from tests.tui_kit import engine, job_view
from tui import ledger

PARTS = st.integers(0, 12_000)


@st.composite
def jobs(draw: st.DrawFn) -> JobView:
    state = draw(st.sampled_from(JobState))
    failed = draw(PARTS)
    counts = {
        "succeeded": draw(PARTS),
        "failed": failed,
        "waiting": draw(PARTS),
        "aborted": draw(st.integers(0, 3)),
        "running": draw(st.integers(0, 64)) if state == JobState.RUNNING else 0,
    }
    name = draw(st.text(min_size=1, max_size=12))
    return job_view(
        name,
        state,
        counts=Counts(total=sum(counts.values()), invalid=draw(st.integers(0, failed)), **counts),
    )


def said(question: ledger.Question) -> str:
    return "\n".join([question.title, *question.lines])


def test_a_running_job_is_told_to_the_request() -> None:
    job = job_view(counts=Counts(total=10_000, succeeded=4_186, failed=2, running=64, waiting=5_748))
    question = ledger.abort_jobs([job])
    assert question.title == "Abort evals-1?"
    assert question.lines[0] == ("4 188 on disk, 64 in flight will be cancelled and can be resumed, 5 748 not started.")
    assert question.lines[-1] == "Nothing is lost. r resumes."
    assert (question.yes, question.no) == ("Abort", "Let it run")


def test_what_does_not_run_is_not_said_to_be_in_flight() -> None:
    queued = job_view("q", JobState.QUEUED, counts=Counts())
    assert ledger.abort_jobs([queued]).lines[0] == "its file is not read yet: nothing of it has run."
    paused = job_view("p", JobState.PAUSED, counts=Counts(total=10, succeeded=4, waiting=5, aborted=1))
    assert ledger.abort_jobs([paused]).lines[0] == "4 on disk, 5 not started, 1 taken out before."
    crashed = job_view("c", JobState.INTERRUPTED, counts=Counts(total=10, succeeded=4, waiting=6))
    assert "at least 4 on disk" in said(ledger.abort_jobs([crashed]))


@pytest.mark.parametrize("state", [JobState.DONE, JobState.ABORTED])
def test_nothing_is_promised_for_what_has_ended(state: JobState) -> None:
    ended = job_view("old", state, counts=Counts(total=3, succeeded=3))
    question = ledger.abort_jobs([ended])
    assert question.title == "Nothing to abort"
    assert question.lines == [f"Left as they are, there is nothing left to abort: old ({state})."]
    both = ledger.abort_jobs([job_view(), ended])
    assert both.title == "Abort evals-1?"
    assert f"old ({state})" in both.lines[-1]


def test_stopping_counts_jobs_and_names_the_engine() -> None:
    queue = [job_view(f"q{i}", JobState.QUEUED, counts=Counts()) for i in range(2)]
    text = said(ledger.stop([job_view(), *queue], engine()))
    assert "4 188 on disk, 30 in flight will be cancelled" in text
    assert "2 jobs in the queue wait, and go on" in text
    assert "gpt-oss-20b-Q4_K_M" in text
    idle = said(ledger.stop([job_view("d", JobState.DONE)], EngineView()))
    assert "No job runs now" in idle
    assert "unloaded" not in idle
    assert "queue" not in idle


def test_removing_says_where_the_files_stay_and_what_will_not_run() -> None:
    text = said(ledger.remove([job_view("d", JobState.DONE, counts=Counts(total=3, succeeded=3))]))
    assert "results/d" in text
    assert "will not run" not in text
    text = said(ledger.remove([job_view("q", JobState.QUEUED), job_view("r")]))
    assert "What has not run will not run" in text
    assert "r (running)" in text.rpartition("\n")[2]


def test_marked_requests() -> None:
    question = ledger.abort_requests(job_view(), ["a", "b", "c"], running=1)
    assert question.title == "Abort 3 requests of evals-1?"
    assert question.lines[0] == "1 of them is in flight and will be cancelled."
    assert "u puts them back" in question.lines[-1]
    assert ledger.abort_requests(job_view(), ["\x1b[2J"]).title == "Abort ␛[2J of evals-1?"


@given(st.lists(jobs(), min_size=1, max_size=9))
def test_every_question_is_safe_and_true(some: list[JobView]) -> None:
    questions = [
        ledger.abort_jobs(some),
        ledger.stop(some, engine()),
        ledger.remove(some),
    ]
    for question in questions:
        assert question.lines
        assert question.yes
        assert question.no
        for line in (question.title, *question.lines):
            assert line.isprintable() or not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in line)
    if not any(job.state == JobState.RUNNING for job in some):
        assert not any("in flight" in line and "0 in flight" not in line for q in questions for line in q.lines)
