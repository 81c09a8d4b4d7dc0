"""A job as the runner holds it: its record, and its live part while it runs. A small mutable holder."""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from engine import job as states
from engine.job import JobState
from engine.protocol import JobView
from engine.record import RunRecord, view_of


class Live(Protocol):
    """What only a running job knows."""

    def refreshed(self, record: RunRecord) -> RunRecord:
        """The record with present counts, tokens and times."""
        ...

    def lively(self, view: JobView) -> JobView:
        """The view with rates, time left and progress."""
        ...


class Job:
    """One run of the workspace."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self.live: Live | None = None
        self.changed = False  # since the last JobChanged
        self.urgent = False  # a person was promised something that run.json does not hold yet
        self.saving = asyncio.Lock()  # run.json always gets the newest record, one write at a time

    @property
    def id(self) -> str:
        return self.record.job

    @property
    def state(self) -> JobState:
        return self.record.state

    def move(self, to: JobState, sentence: str, *, failure: str = "") -> None:
        """Change the state by the table. `failure` is the class name of the error behind FAILED.

        Raises CommandRefused.
        """
        state = states.move(self.id, self.record.state, to)
        self.update(state=state, sentence=sentence, failure=failure)

    def update(self, **changes: object) -> None:
        self.record = msgspec.structs.replace(self.record, **changes)
        self.changed = True

    def refresh(self) -> RunRecord:
        if self.live is not None:
            self.record = self.live.refreshed(self.record)
        return self.record

    def view(self) -> JobView:
        view = view_of(self.refresh())
        return self.live.lively(view) if self.live is not None else view
