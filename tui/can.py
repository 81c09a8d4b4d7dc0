"""Whether a key can act now, and if not, why not: a sentence each. Pure; screens and actions ask here and only here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from engine.job import ACTIVE, RESUMABLE, JobState
from engine.protocol import JobView
from tui.desk import Desk
from tui.keys import KEYS
from tui.text import one_line
from tui.view import Which

READONLY: Final = "this screen only watches (--readonly)"
NO_JOB: Final = "there is no job yet: a adds a batch"
OUT_OF_PLACE: Final = frozenset({READONLY, NO_JOB})
"""With these reasons a key is not worth a place on the key line, not even a grey one."""

_CHANGES = frozenset(key.action for key in KEYS if key.changes)
_NEEDS_JOB = frozenset(
    {"pause", "pause_now", "resume", "abort", "abort_job", "put_back", "retry", "later", "earlier", "remove", "results",
     "mark", "find", "next", "previous", "failures", "which", "editor", "channel", "copy", "save", "pager"}
)  # fmt: skip

TOP: Final = "there is nothing to go back from; q leaves, the run goes on"

JOB_PANES = frozenset({"", "jobs", "requests", "streams"})
"""Where `enter` goes into a job or a request of it."""

REQUEST_PANES = frozenset({"requests", "streams"})
"""Where `x`, `u` and `enter` mean a request and not its job."""


def _can_go_back(desk: Desk, pane: str) -> bool:
    """Something is zoomed, marked, filtered or chosen, or the jobs are one step up."""
    view = desk.view
    narrowed = view.query or view.which is not Which.ALL
    marked = view.marked_jobs or view.marked_requests
    return bool(view.zoomed or marked or narrowed or (pane != "jobs" and desk.mirror.jobs))


def targets(desk: Desk) -> list[JobView]:
    """The jobs that a key is meant for: the marked ones, else the selected one."""
    jobs = desk.mirror.jobs
    marked = [jobs[name] for name in jobs if name in desk.view.marked_jobs]
    if marked:
        return marked
    selected = jobs.get(desk.view.job)
    return [selected] if selected is not None else []


def why_not(action: str, desk: Desk, pane: str = "") -> str | None:
    """Why this key does nothing now; None where it acts. `pane` is the name of the one in focus."""
    if desk.readonly and action in _CHANGES:
        return READONLY
    jobs = targets(desk)
    if action in _NEEDS_JOB and not jobs:
        return NO_JOB
    # A pane in which requests are chosen, and one of them is.
    custom_ids = chosen_requests(desk) if pane in REQUEST_PANES else []
    match action:
        case "pause" | "pause_now":
            return _none_of(jobs, pausable, lambda job: f"{one_line(job.id)} is {job.state}: nothing of it runs")
        case "resume":
            return _none_of(jobs, resumable, _not_resumable)
        case "abort" if custom_ids:
            return _abort_request(desk, custom_ids)
        case "abort" if pane in REQUEST_PANES:
            return "no request is chosen"
        case "abort" | "abort_job":
            return _none_of(jobs, abortable, lambda job: f"{one_line(job.id)} is {job.state}: nothing is left to abort")
        case "put_back":
            return _none_of(jobs, has_aborted, lambda j: f"{one_line(j.id)} has no aborted requests")
        case "retry":
            return _none_of(jobs, retryable, _not_retryable)
        case "later" | "earlier":
            # One at a time, marks or not: several that change places with each other move nobody.
            selected = [job for job in desk.mirror.queue if job.id == desk.view.job]
            return _none_of(
                selected, _queued, lambda j: f"only queued jobs can be moved; {one_line(j.id)} is {j.state}"
            )
        case "remove":
            return _none_of(jobs, removable, lambda j: f"{one_line(j.id)} is {j.state}: pause or abort it first")
        case "stop":
            return None if desk.link.connected else "no background process is running"
        case "open" if pane in JOB_PANES and not jobs:
            return NO_JOB
        case "back" if not _can_go_back(desk, pane):
            return TOP
        case "copy" | "save" | "pager" | "editor" | "open" if pane == "streams" and not custom_ids:
            return "no request is chosen yet"
        case _:
            return None


def chosen_requests(desk: Desk) -> list[str]:
    """custom_ids that a request key is meant for: the marked ones, else the one under the cursor."""
    view = desk.view
    if view.marked_requests:
        return sorted(view.marked_requests)
    return [view.request] if view.request else []


def _none_of(jobs: list[JobView], fits: Callable[[JobView], bool], reason: Callable[[JobView], str]) -> str | None:
    """The reason of the first job, where the key fits none of them."""
    if any(fits(job) for job in jobs):
        return None
    return reason(jobs[0]) if jobs else NO_JOB


def _queued(job: JobView) -> bool:
    return job.state == JobState.QUEUED


def removable(job: JobView) -> bool:
    return job.state not in ACTIVE


def pausable(job: JobView) -> bool:
    return job.state in ACTIVE or job.state == JobState.QUEUED


def resumable(job: JobView) -> bool:
    """At rest and not through, or about to pause."""
    if job.state in ACTIVE:
        return job.sentence.startswith("pauses when")
    return job.state in RESUMABLE


def _not_resumable(job: JobView) -> str:
    if job.state == JobState.DONE and job.counts.failed:
        return f"{one_line(job.id)} is done; R runs its failed requests again"
    if job.state == JobState.DONE:
        return f"{one_line(job.id)} is done: every request has its answer"
    return f"{one_line(job.id)} is {job.state} already"


def has_aborted(job: JobView) -> bool:
    return job.counts.aborted > 0


def abortable(job: JobView) -> bool:
    return job.state not in (JobState.DONE, JobState.ABORTED)


def retryable(job: JobView) -> bool:
    """It has failed requests that can run again: bad input lines stay bad."""
    return job.counts.failed > job.counts.invalid


def _not_retryable(job: JobView) -> str:
    if job.counts.invalid:
        return f"the failed requests of {one_line(job.id)} are bad lines of its file: mend the file and add it again"
    return f"{one_line(job.id)} has no failed requests"


def _abort_request(desk: Desk, custom_ids: list[str]) -> str | None:
    job = desk.mirror.jobs.get(desk.view.job)
    if job is None:
        return NO_JOB
    if job.state == JobState.DONE:
        return f"{one_line(job.id)} is done: no request is left to abort"
    if len(custom_ids) == 1 and custom_ids[0] in job.taken_out:
        return f"{one_line(custom_ids[0])} is aborted already; u puts it back"
    return None
