"""What the person has chosen to look at: selection, marks, filters, layout. Pure; the runner knows none of it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.job import ACTIVE, JobState
from engine.protocol import JobView


class Channels(enum.StrEnum):
    """What of an answer is shown; `c` goes round."""

    ALL = "all"  # reasoning dim, answer plain
    ANSWER = "answer"
    REASONING = "reasoning"


class Which(enum.StrEnum):
    """Which requests of a job are listed."""

    ALL = "all"
    RUNNING = "running"
    FAILED = "failed"
    TRUNCATED = "truncated"
    SLOW = "slow"
    WAITING = "waiting"
    DONE = "done"
    ABORTED = "aborted"


LAYOUTS = ("balanced", "queue", "text", "machine")
"""`L` goes round: all panes, jobs and requests large, streams large, memory and rate large."""


@dataclass
class View:
    """Mutable; only keys change it."""

    job: str = ""  # id of the selected job; "" before there is one
    request: str = ""  # custom_id under the cursor of the requests pane; "" for none
    chosen: bool = False  # the person put the cursor on `request`: streams stay with it
    marked_jobs: set[str] = field(default_factory=set)
    marked_requests: set[str] = field(default_factory=set)  # of `job`
    which: Which = Which.ALL
    query: str = ""  # text filter of the requests pane
    follow: bool = True
    wrap: bool = True
    channels: Channels = Channels.ALL
    wall: int = 4  # further streams, where there is room: 0, 1, 2, 4
    layout: str = LAYOUTS[0]
    zoomed: str = ""  # name of the pane that fills the screen
    low_bandwidth: bool = False

    def choose_job(self, jobs: Sequence[JobView]) -> None:
        """Where no job is selected (any more): the one that works, else the first that could, else the newest.

        `jobs` in the order of the queue.
        """
        if any(job.id == self.job for job in jobs):
            return
        groups = (
            [job for job in jobs if job.state in ACTIVE],
            [job for job in jobs if job.state == JobState.QUEUED],
            [job for job in jobs if job.state != JobState.DONE],
            list(reversed(jobs)),
        )
        self.select_job(next((group[0].id for group in groups if group), ""))

    def select_job(self, job: str) -> None:
        """Another job has other requests: what was chosen among them is gone."""
        if job != self.job:
            self.job = job
            self.request = ""
            self.chosen = False
            self.marked_requests = set()
            self.query = ""
