"""A mirror of the runner: one Snapshot, then events. Pure; shared by everything that draws."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TypeVar

from engine.protocol import (
    HISTORY_S,
    Acknowledged,
    EngineChanged,
    EngineView,
    Event,
    HistoryPoint,
    Incident,
    IncidentView,
    JobChanged,
    JobRemoved,
    JobView,
    Measured,
    Reading,
    RunningRequest,
    Sampled,
    Snapshot,
)

KEPT_INCIDENTS = 1000

_T = TypeVar("_T")


class Mirror:
    """What the runner said last."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.jobs: dict[str, JobView] = {}
        self.engine = EngineView()
        self.reading: Reading | None = None
        self.running: list[RunningRequest] = []
        self.history: deque[HistoryPoint] = deque(maxlen=HISTORY_S)
        self.incidents: deque[IncidentView] = deque(maxlen=KEPT_INCIDENTS)
        self.saved: dict[str, int] = {}
        """By job: how many lines were fsynced since this mirror began. It grows: there is something new to look at."""
        self.take(snapshot)

    def take(self, event: Event | Snapshot) -> None:
        match event:
            case Snapshot():
                self._replace(event)
            case JobChanged(job=job):
                self.jobs[job.id] = job
            case JobRemoved(job=name):
                self.jobs.pop(name, None)
            case EngineChanged(engine=engine, running=running):
                self.engine, self.running = engine, running
            case Sampled(reading=reading):
                self.reading = reading
            case Measured(point=point):
                self.history.append(point)
            case Incident(incident=incident):
                self.incidents.append(incident)
            case Acknowledged(job=name, items=items):
                self.saved[name] = self.saved.get(name, 0) + len(items)
            case _:
                pass

    def _replace(self, snapshot: Snapshot) -> None:
        self.jobs = {job.id: job for job in snapshot.jobs}
        self.engine, self.reading, self.running = snapshot.engine, snapshot.reading, snapshot.running
        self._refill(self.history, snapshot.history)
        # A runner that was started anew knows less than what this screen has seen already.
        seen = {(i.t, i.job, i.message) for i in snapshot.incidents}
        older = [i for i in self.incidents if (i.t, i.job, i.message) not in seen]
        self._refill(self.incidents, sorted([*older, *snapshot.incidents], key=lambda i: i.t))
        for job in snapshot.jobs:
            self.saved[job.id] = self.saved.get(job.id, 0) + 1  # unknown how many: look again

    @staticmethod
    def _refill(kept: deque[_T], items: Iterable[_T]) -> None:
        kept.clear()
        kept.extend(items)

    @property
    def queue(self) -> list[JobView]:
        """All jobs, in the order of the queue."""
        return sorted(self.jobs.values(), key=lambda job: (job.order, job.created))

    def running_of(self, job: str) -> list[RunningRequest]:
        return [request for request in self.running if not request.job or request.job == job]
