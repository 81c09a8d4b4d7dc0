"""What a screen says when it opens, and when it finds the runner again."""

from __future__ import annotations

from engine.job import JobState
from engine.protocol import Counts
from tests.tui_kit import job_view
from tui import meanwhile

COUNTS = Counts(total=100, succeeded=91, failed=3, running=4, waiting=2, reused=88)


def test_standing_tells_what_was_reused() -> None:
    job = job_view("evals-1", counts=COUNTS)
    assert meanwhile.standing(job) == "evals-1 running: 94 of 100 done (88 reused), 4 running, 3 failed"


def test_on_opening_the_work_comes_first_then_what_waits_for_a_person() -> None:
    done = job_view("a-1", JobState.DONE, counts=Counts(total=1, succeeded=1))
    broken = job_view("b-1", JobState.INTERRUPTED, counts=Counts(total=5, succeeded=2, waiting=3))
    paused = job_view("c-1", JobState.PAUSED, counts=Counts(total=5, succeeded=1, waiting=4))
    active = job_view("d-1", counts=COUNTS)
    assert (meanwhile.on_opening([done, broken, paused, active]) or "").startswith("d-1 running")
    assert (meanwhile.on_opening([done, paused, broken]) or "").endswith("Its runner died; r goes on")
    assert (meanwhile.on_opening([done, paused]) or "").endswith("r resumes")
    assert meanwhile.on_opening([done]) is None
    assert meanwhile.on_opening([]) is None


def test_on_return_only_what_changed_is_told() -> None:
    before = {"a-1": job_view("a-1", counts=Counts(total=9, succeeded=1)), "b-1": job_view("b-1")}
    after = {
        "a-1": job_view("a-1", JobState.PAUSED, counts=Counts(total=9, succeeded=5, failed=1), restarts=1),
        "b-1": job_view("b-1"),
    }
    said = meanwhile.on_return(before, after)
    assert said == "a-1: running, now paused, 4 more done, 1 more failed, 1 engine restart"
    assert meanwhile.on_return(after, after) is None
    assert "taken off" in (meanwhile.on_return(before, {"a-1": before["a-1"]}) or "")
    assert "c-1 is new" in (meanwhile.on_return({}, {"c-1": job_view("c-1")}) or "")
