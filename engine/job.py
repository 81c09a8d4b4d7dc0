"""A job and its states: one enum, one table of moves. Pure: no I/O, no clock.

Whoever wants a change of state calls `move`, and gets the new state or a refusal with a sentence.
"""

from __future__ import annotations

import enum

from engine.errors import CommandRefused


class JobState(enum.StrEnum):
    """Where a job stands. Nothing new starts in the last five."""

    QUEUED = "queued"  # accepted, not read yet
    VALIDATING = "validating"  # reading lines, collecting every bad one
    PLANNING = "planning"  # choosing slots and context
    LOADING = "loading"  # the engine reads the model
    RUNNING = "running"  # requests are in flight
    PAUSED = "paused"  # at rest: by a person, a stop of the runner, or a full disk
    DONE = "done"  # every line answered or given up, all on disk
    FAILED = "failed"  # the input or the engine lets it go no further
    ABORTED = "aborted"  # a person ended it
    INTERRUPTED = "interrupted"  # its runner died; only found on disk, never set by a command


ACTIVE = frozenset({JobState.VALIDATING, JobState.PLANNING, JobState.LOADING, JobState.RUNNING})
"""The job owns the engine now."""

RESUMABLE = frozenset({JobState.PAUSED, JobState.FAILED, JobState.ABORTED, JobState.INTERRUPTED})
ENDED = frozenset({JobState.DONE, *RESUMABLE})

MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.VALIDATING, JobState.PAUSED, JobState.ABORTED}),
    JobState.VALIDATING: frozenset(
        {JobState.PLANNING, JobState.DONE, JobState.PAUSED, JobState.FAILED, JobState.ABORTED, JobState.INTERRUPTED}
    ),
    JobState.PLANNING: frozenset(
        {JobState.LOADING, JobState.RUNNING, JobState.PAUSED, JobState.FAILED, JobState.ABORTED, JobState.INTERRUPTED}
    ),
    JobState.LOADING: frozenset(
        {JobState.RUNNING, JobState.PAUSED, JobState.FAILED, JobState.ABORTED, JobState.INTERRUPTED}
    ),
    JobState.RUNNING: frozenset(
        {
            JobState.LOADING,  # the engine died and is loaded again
            JobState.PAUSED,
            JobState.DONE,
            JobState.FAILED,
            JobState.ABORTED,
            JobState.INTERRUPTED,
        }
    ),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.ABORTED}),
    JobState.DONE: frozenset({JobState.QUEUED}),  # by retry: failed requests run again
    JobState.FAILED: frozenset({JobState.QUEUED, JobState.ABORTED}),
    JobState.ABORTED: frozenset({JobState.QUEUED}),
    JobState.INTERRUPTED: frozenset({JobState.QUEUED, JobState.ABORTED}),
}


def move(job: str, now: JobState, to: JobState) -> JobState:
    """Return `to`, or raise `CommandRefused` with a sentence if the table does not allow it."""
    if to in MOVES[now]:
        return to
    allowed = ", ".join(sorted(MOVES[now])) or "nothing"
    raise CommandRefused(
        f"job {job} is {now} and cannot become {to}",
        advice=f"From {now} it can become: {allowed}.",
    )


def after_runner_death(found: JobState) -> JobState:
    """The state of a job whose run.json says `found` while no runner is alive."""
    return JobState.INTERRUPTED if found in ACTIVE else found
