"""A mirror of the runner: one Snapshot, then events. Pure; shared by everything that draws."""

from __future__ import annotations

from engine.protocol import (
    EngineChanged,
    EngineView,
    Event,
    JobChanged,
    JobRemoved,
    JobView,
    Reading,
    RunningRequest,
    Sampled,
    Snapshot,
)


class Mirror:
    """What the runner said last."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.jobs: dict[str, JobView] = {}
        self.engine = EngineView()
        self.reading: Reading | None = None
        self.running: list[RunningRequest] = []
        self.take(snapshot)

    def take(self, event: Event | Snapshot) -> None:
        match event:
            case Snapshot():
                self.jobs = {job.id: job for job in event.jobs}
                self.engine, self.reading, self.running = event.engine, event.reading, event.running
            case JobChanged(job=job):
                self.jobs[job.id] = job
            case JobRemoved(job=name):
                self.jobs.pop(name, None)
            case EngineChanged(engine=engine, running=running):
                self.engine, self.running = engine, running
            case Sampled(reading=reading):
                self.reading = reading
            case _:
                pass
