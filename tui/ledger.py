"""What a command that is hard to take back would do to a job: how much is on disk, in flight and not started. Pure.

Each function gives the text of one confirmation. What is said holds for the state that the job is in when it is asked.
Which jobs a command fits is settled in `tui.can`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from engine.job import ACTIVE, JobState
from engine.protocol import Counts, EngineView, JobView
from tui.can import abortable, removable
from tui.plain import count, done, several
from tui.text import SafeText, one_line

NAMED_JOBS = 6
"""Of many jobs only so many get a line of their own; the last line counts the rest."""

LOADED = frozenset({"starting", "loading", "ready", "closing"})
"""States of an engine that holds memory."""


class Question(NamedTuple):
    """A confirmation: what is asked, what it means, and the words of the two answers."""

    title: SafeText
    lines: list[SafeText]
    yes: str
    no: str


# --- sentences about one job ------------------------------------------------------------------------------------------


def on_disk(job: JobView) -> str:
    """`4 188 on disk`. After a crash the last record may lag behind the files."""
    kept = done(job.counts)
    if job.state == JobState.INTERRUPTED:
        return f"at least {count(kept)} on disk"
    return f"{count(kept)} on disk"


def _rest(counts: Counts, state: JobState) -> list[str]:
    """What is not on disk and not in flight."""
    parts: list[str] = []
    if counts.waiting or state in ACTIVE:
        parts.append(f"{count(counts.waiting)} not started")
    if counts.aborted:
        parts.append(f"{count(counts.aborted)} taken out before")
    return parts


def ledger(job: JobView, in_flight: str) -> SafeText:
    """Where the requests of a job stand. `in_flight`: what becomes of those that run now."""
    counts = job.counts
    if not counts.total:
        return SafeText("its file is not read yet: nothing of it has run")
    parts = [on_disk(job)]
    if counts.running:
        parts.append(f"{count(counts.running)} in flight {in_flight}")
    return SafeText(", ".join([*parts, *_rest(counts, job.state)]))


def _named(job: JobView) -> SafeText:
    return one_line(job.id)


def _jobs(jobs: Sequence[JobView]) -> str:
    return _named(jobs[0]) if len(jobs) == 1 else several(len(jobs), "job")


def _each(jobs: Sequence[JobView], in_flight: str) -> list[SafeText]:
    """The ledger of one job, or one line for each of the first few and a total of all."""
    if len(jobs) == 1:
        return [SafeText(f"{ledger(jobs[0], in_flight)}.")]
    lines = [SafeText(f"{_named(job)}: {ledger(job, in_flight)}") for job in jobs[:NAMED_JOBS]]
    if len(jobs) > NAMED_JOBS:
        kept = sum(done(job.counts) for job in jobs)
        flying = sum(job.counts.running for job in jobs)
        left = several(len(jobs) - NAMED_JOBS, "further job")
        lines.append(SafeText(f"and {left}; all together {count(kept)} on disk, {count(flying)} in flight"))
    return lines


def _left_alone(jobs: Sequence[JobView], fit: Sequence[JobView], why: str) -> list[SafeText]:
    """A line on those of the marked jobs that the command means nothing to."""
    taken = {job.id for job in fit}
    others = [job for job in jobs if job.id not in taken]
    if not others:
        return []
    names = ", ".join(f"{_named(job)} ({job.state})" for job in others[:3]) + (" and more" if len(others) > 3 else "")
    return [SafeText(f"Left as they are, {why}: {names}.")]


# --- the questions ----------------------------------------------------------------------------------------------------


def abort_jobs(jobs: Sequence[JobView]) -> Question:
    """End jobs; each can be resumed."""
    fit = [job for job in jobs if abortable(job)]
    lines = _each(fit, "will be cancelled and can be resumed") if fit else []
    if any(job.counts.running for job in fit):
        lines.append(SafeText("The text so far of what is in flight is kept; on resume those requests run again."))
    if fit:
        lines.append(SafeText("Nothing is lost. r resumes."))
    lines += _left_alone(jobs, fit, "there is nothing left to abort")
    title = f"Abort {_jobs(fit)}?" if fit else "Nothing to abort"
    return Question(SafeText(title), lines, "Abort", "Let it run" if _any_active(fit) else "Leave it")


def stop(jobs: Sequence[JobView], engine: EngineView) -> Question:
    """End everything in the background."""
    active = [job for job in jobs if job.state in ACTIVE]
    queued = [job for job in jobs if job.state == JobState.QUEUED]
    lines: list[SafeText] = []
    if active:
        lines += _each(active, "will be cancelled, their text so far is kept")
        them = "It is" if len(active) == 1 else "They are"
        lines.append(SafeText(f"{them} paused: nothing on disk is lost, r resumes after the next start."))
    else:
        lines.append(SafeText("No job runs now; all answers are on disk."))
    if queued:
        waits = "waits" if len(queued) == 1 else "wait"
        lines.append(
            SafeText(
                f"{several(len(queued), 'job')} in the queue {waits}, and go{'es' if len(queued) == 1 else ''} on "
                "when the program is started again."
            )
        )
    if engine.state in LOADED:
        name = one_line(engine.info.name) if engine.info is not None else SafeText("the model")
        lines.append(SafeText(f"The engine is unloaded and its memory is free again ({name})."))
    lines.append(SafeText("The background process ends. q instead leaves it all running."))
    return Question(SafeText("Stop everything?"), lines, "Stop everything", "Leave it running")


def remove(jobs: Sequence[JobView]) -> Question:
    """Take jobs off the list."""
    fit = [job for job in jobs if removable(job)]
    lines: list[SafeText] = []
    for job in fit[:NAMED_JOBS]:
        text = ledger(job, "")
        what = "" if job.state == JobState.DONE else f" ({job.state})"
        lines.append(SafeText(f"{_named(job)}{what}: {text}; its files stay in results/{_named(job)}"))
    if len(fit) > NAMED_JOBS:
        lines.append(SafeText(f"and {several(len(fit) - NAMED_JOBS, 'further job')}; all files stay"))
    if any(job.state != JobState.DONE for job in fit):
        lines.append(SafeText("What has not run will not run. A job that is off the list can't be resumed here."))
    lines += _left_alone(jobs, fit, "pause or abort them first")
    title = f"Take {_jobs(fit)} off the list?" if fit else "Nothing to remove"
    return Question(SafeText(title), lines, "Remove", "Keep")


def abort_requests(job: JobView, custom_ids: Collection[str], running: int = 0) -> Question:
    """Take requests out of a job. `running`: how many of them are in a slot now."""
    n = len(custom_ids)
    name = one_line(next(iter(custom_ids), "")) if n == 1 else SafeText(several(n, "request"))
    lines: list[SafeText] = []
    if running:
        is_are = "is" if running == 1 else "are"
        lines.append(SafeText(f"{count(running)} of them {is_are} in flight and will be cancelled."))
    lines.append(SafeText("Those that wait will not run. Those that are on disk already stay as they are."))
    lines.append(SafeText(f"{_named(job)}: {on_disk(job)}. Nothing is lost; u puts them back."))
    return Question(SafeText(f"Abort {name} of {_named(job)}?"), lines, "Abort", "Let them run")


def _any_active(jobs: Sequence[JobView]) -> bool:
    return any(job.state in ACTIVE for job in jobs)
