"""What the runner does for a job that runs: the interface between `engine.runner` and the parts of a job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine.enginehost import EngineHost
from engine.jobs import Job
from engine.protocol import AckItem, Delta, Reading
from engine.viewer import Watched

if TYPE_CHECKING:  # numpy comes with it
    from engine.modelfiles import ModelFile


class Office(Protocol):
    """All of it on the runner's loop."""

    host: EngineHost
    resolve_model: Callable[[str | None], ModelFile]

    def folder(self, job: Job) -> Path: ...
    def publish(self, job: Job) -> None:
        """Tell clients of the job now; otherwise changes go out a few times a second."""
        ...

    async def save(self, job: Job) -> None:
        """Write run.json; a failure is told and does not raise."""
        ...

    def incident(self, job: Job, kind: str, message: str, action: str = "", **evidence: Any) -> None: ...
    def acknowledged(self, job: Job, items: list[AckItem]) -> None: ...
    def text(self, job: Job, deltas: list[Delta]) -> None: ...
    def watched(self) -> Watched: ...
    def next_key(self) -> int: ...
    def last_reading(self) -> Reading | None: ...
    def free_bytes(self) -> int | None: ...
