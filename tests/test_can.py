"""A key acts, or says why not."""

from __future__ import annotations

import pytest

from engine.job import JobState
from engine.protocol import Counts
from tests.tui_kit import job_view, make_desk
from tui import can
from tui.keys import KEYS
from tui.view import View, Which


def desk_of(state: JobState, counts: Counts | None = None, **fields: object):  # the kit's own type
    job = job_view("evals-1", state, counts=counts or Counts(total=10, succeeded=4, waiting=6), **fields)
    return make_desk(View(job="evals-1"), jobs=[job], running=[])


ALLOWED = {
    JobState.QUEUED: {"pause", "pause_now", "abort_job", "later", "earlier", "remove"},
    JobState.RUNNING: {"pause", "pause_now", "abort_job"},
    JobState.LOADING: {"pause", "pause_now", "abort_job"},
    JobState.PAUSED: {"resume", "abort_job", "remove"},
    JobState.DONE: {"remove"},
    JobState.FAILED: {"resume", "abort_job", "remove"},
    JobState.ABORTED: {"resume", "remove"},
    JobState.INTERRUPTED: {"resume", "abort_job", "remove"},
}
ASKED = {"pause", "pause_now", "resume", "abort_job", "later", "earlier", "remove", "retry", "put_back"}


@pytest.mark.parametrize("state", ALLOWED)
def test_each_state_allows_its_own_keys(state: JobState) -> None:
    desk = desk_of(state)
    assert {action for action in ASKED if can.why_not(action, desk) is None} == ALLOWED[state]


def test_failed_and_aborted_requests_open_their_keys() -> None:
    counts = Counts(total=10, succeeded=4, failed=3, invalid=1, aborted=2, waiting=1)
    desk = desk_of(JobState.DONE, counts)
    assert can.why_not("retry", desk) is None
    assert can.why_not("put_back", desk) is None
    bad = desk_of(JobState.DONE, Counts(total=10, succeeded=9, failed=1, invalid=1))
    assert "bad lines" in (can.why_not("retry", bad) or "")


def test_a_job_about_to_pause_can_go_on() -> None:
    desk = desk_of(JobState.RUNNING, sentence="pauses when its running requests are through")
    assert can.why_not("resume", desk) is None


def test_readonly_turns_off_all_that_changes_the_run_and_nothing_else() -> None:
    desk = desk_of(JobState.RUNNING)
    desk.readonly = True
    off = {key.action for key in KEYS if can.why_not(key.action, desk) == can.READONLY}
    assert off == {key.action for key in KEYS if key.changes}
    assert {"add", "pause", "abort", "resume", "retry", "stop", "put_back", "remove"} <= off


def test_without_a_job_the_reason_says_what_to_do() -> None:
    desk = make_desk(View(), jobs=[], running=[])
    assert can.why_not("pause", desk) == can.NO_JOB
    assert can.why_not("results", desk) == can.NO_JOB
    assert can.why_not("add", desk) is None
    assert can.why_not("help", desk) is None


def test_x_means_the_request_in_the_panes_of_requests() -> None:
    desk = desk_of(JobState.DONE)
    assert "is done" in (can.why_not("abort", desk, "jobs") or "")
    desk = desk_of(JobState.RUNNING)
    assert can.why_not("abort", desk, "requests") == "no request is chosen"
    desk.view.request = "req-1"
    assert can.why_not("abort", desk, "requests") is None
    taken = desk_of(JobState.RUNNING, taken_out=["req-1"])
    taken.view.request = "req-1"
    assert "u puts it back" in (can.why_not("abort", taken, "requests") or "")


def test_marks_come_before_the_cursor() -> None:
    desk = make_desk(View(job="evals-1", marked_jobs={"nightly-1", "gone"}))
    assert [job.id for job in can.targets(desk)] == ["nightly-1"]
    assert can.why_not("resume", desk) is None
    desk.view.marked_jobs = set()
    assert can.why_not("resume", desk) is not None


def test_a_reason_is_safe_text() -> None:
    job = job_view("evil\x1b]0;x\x07-1", JobState.DONE, counts=Counts(total=1, succeeded=1))
    desk = make_desk(View(job=job.id), jobs=[job], running=[])
    for key in KEYS:
        assert "\x1b" not in (can.why_not(key.action, desk, "requests") or "")


def test_going_back_says_where_there_is_nothing_to_go_back_from() -> None:
    desk = desk_of(JobState.RUNNING)
    assert can.why_not("back", desk, "jobs") == can.TOP
    assert can.why_not("back", desk, "requests") is None
    for field, value in (("zoomed", "log"), ("marked_jobs", {"evals-1"}), ("query", "x"), ("which", Which.FAILED)):
        again = desk_of(JobState.RUNNING)
        setattr(again.view, field, value)
        assert can.why_not("back", again, "jobs") is None, field


def test_an_empty_workspace_offers_no_keys_of_jobs() -> None:
    desk = make_desk(View(), jobs=[], running=[])
    for pane in ("jobs", "requests", "streams"):
        assert can.why_not("open", desk, pane) == can.NO_JOB
        assert can.why_not("channel", desk, pane) == can.NO_JOB
    assert can.why_not("open", desk, "memory") is None
    assert can.why_not("add", desk, "jobs") is None


def test_marked_requests_come_before_the_one_under_the_cursor() -> None:
    desk = make_desk(View(job="evals-1", request="c", marked_requests={"b", "a"}))
    assert can.chosen_requests(desk) == ["a", "b"]
    desk.view.marked_requests = set()
    assert can.chosen_requests(desk) == ["c"]


def test_only_what_runs_can_be_stopped() -> None:
    desk = desk_of(JobState.RUNNING)
    assert can.why_not("stop", desk) is None
    desk.link.connected = False
    assert can.why_not("stop", desk) == "no background process is running"


def test_moving_means_the_job_under_the_cursor_whatever_is_marked() -> None:
    desk = make_desk(View(job="evals-1", marked_jobs={"summaries-1"}))
    assert "evals-1 is running" in (can.why_not("later", desk) or "")
    desk.view.job, desk.view.marked_jobs = "summaries-1", {"evals-1"}
    assert can.why_not("later", desk) is None
