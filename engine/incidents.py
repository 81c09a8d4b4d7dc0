"""The runner's log for people: what happened to jobs and engine, what was decided, what people asked for.

A bounded ring that every client is sent. What belongs to a run's evidence is also appended to its incidents.jsonl, and
the ring of a new runner begins with the ends of those files. Changes of state and commands are in the ring alone.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from engine.folder import INCIDENTS, append_jsonl
from engine.job import JobState
from engine.protocol import IncidentView
from engine.record import RunRecord

log = logging.getLogger("runner")

KEPT = 400
"""Some 80 KB of a Snapshot; a night of a job that is looked after makes a few dozen."""

LOADED = 200
"""Of those, at most so many from files: there is room for what happens now."""

NEWEST_RUNS = 20
TAIL_BYTES = 64 * 1024
"""Read at the start of a runner: at most this much of the end of so many files."""

STATE = "state"
COMMAND = "command"

_LEVELS = {
    "engine_died": "error",
    "engine_silent": "error",
    "load_failed": "error",
    "disk_full": "error",
    "runner_died": "warn",
    "damage": "warn",
    "torn": "warn",
    "input_changed": "warn",
    "settings_changed": "warn",
    "engine_warning": "warn",
    "fewer_slots": "warn",
}
_STATE_LEVELS = {JobState.FAILED: "error", JobState.INTERRUPTED: "warn"}


def level_of(kind: str) -> str:
    """How much an incident of this kind matters: "error", "warn" or "info"."""
    return _LEVELS.get(kind, "info")


class Incidents:
    """The ring. `tell` gets each new one."""

    def __init__(self, tell: Callable[[IncidentView], None]) -> None:
        self._tell = tell
        self._ring: deque[IncidentView] = deque(maxlen=KEPT)
        self._states: dict[str, JobState] = {}  # as told last

    def all(self) -> list[IncidentView]:
        return list(self._ring)

    def load(self, folders: Iterable[Path]) -> None:
        """Begin with what these runs, the newest first, have on disk."""
        found: list[IncidentView] = []
        for folder in list(folders)[:NEWEST_RUNS]:
            found += tail(folder)
        self._ring.extend(sorted(found, key=lambda view: view.t)[-LOADED:])

    def happened(self, folder: Path, kind: str, message: str, action: str, evidence: dict[str, Any]) -> None:
        """Something worth keeping with the run of this folder."""
        view = IncidentView(
            t=time.time(), job=folder.name, kind=kind, message=message, action=action, level=level_of(kind)
        )
        append_jsonl(folder / INCIDENTS, {**msgspec.to_builtins(view), **evidence})
        self._add(view)

    def knows(self, job: str, state: JobState) -> None:
        """This job stands so already: no news."""
        self._states[job] = state

    def forget(self, job: str) -> None:
        self._states.pop(job, None)

    def stands(self, job: str, state: JobState, sentence: str) -> None:
        """Called whenever a job is told of; a new state is news."""
        if self._states.get(job) is state:
            return
        self._states[job] = state
        message = f"{job} {state}: {sentence}" if sentence else f"{job} {state}"
        level = _STATE_LEVELS.get(state, "info")
        self._add(IncidentView(t=time.time(), job=job, kind=STATE, message=message, level=level))

    def asked(self, job: str, what: str, sentence: str) -> None:
        """A person's command was accepted and changes something."""
        message = f"{what} asked: {sentence}"
        self._add(IncidentView(t=time.time(), job=job, kind=COMMAND, message=message))

    def _add(self, view: IncidentView) -> None:
        log.info("%s in %s: %s %s", view.kind, view.job, view.message, view.action)
        self._ring.append(view)
        self._tell(view)


def newest(records: Iterable[RunRecord]) -> list[str]:
    """Names of runs, what happened last first."""
    return [r.job for r in sorted(records, key=lambda r: r.ended or r.started or r.created, reverse=True)]


def tail(folder: Path) -> list[IncidentView]:
    """The last incidents of one run. Damaged lines are skipped, and so is a file that can't be read."""
    try:
        fd = os.open(folder / INCIDENTS, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        start = max(0, os.fstat(fd).st_size - TAIL_BYTES)
        data = os.pread(fd, TAIL_BYTES, start)
    except OSError as error:
        log.warning("%s can't be read: %s", folder / INCIDENTS, error)
        return []
    finally:
        os.close(fd)
    lines = data.split(b"\n")
    views = []
    for line in lines[1:] if start else lines:  # the first of a tail is the end of a line
        try:
            view = msgspec.json.decode(line, type=IncidentView)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        # A renamed run goes by its present name, and files of earlier versions have no level.
        views.append(msgspec.structs.replace(view, job=folder.name, level=level_of(view.kind)))
    return views
