"""run.json: what was run, and how it looks to clients. Pure; `engine.folder` reads and publishes it."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.job import JobState, after_runner_death
from engine.protocol import Counts, EngineSettings, JobView, RunSettings

RECORD_VERSION = 1

TAKEN_OUT = 100
"""Aborted custom_ids named in a view: enough to choose one to put back; the count tells of the others."""


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """Everything besides the request itself that an answer depends on. Resume compares these field by field."""

    model: str = ""  # digest of the model file, see engine.modelfiles
    model_name: str = ""
    template: str = ""  # digest of the chat template or "harmony"
    engine: str = ""
    engine_version: str = ""
    context: int = 0  # tokens per slot: decides which requests are refused or cut
    kv_type: str = ""
    defaults: dict[str, Any] = {}  # body parameters for lines that lack them
    seed: int = 0
    date: str = ""  # what chat templates print

    def differences(self, other: Fingerprint) -> list[str]:
        """Sentences like `context: 4096 before, 2048 now`, empty where nothing differs."""
        return [
            f"{name}: {getattr(self, name)!r} before, {getattr(other, name)!r} now"
            for name in self.__struct_fields__
            if getattr(self, name) != getattr(other, name)
        ]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of work on a run, from start or resume to its end."""

    started: float
    ended: float | None = None
    end_state: str = ""
    forced: list[str] = []  # fingerprint differences that --force accepted


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All of run.json. Sizes bytes, times Unix seconds."""

    version: int = RECORD_VERSION
    job: str
    state: JobState
    sentence: str = ""
    failure: str = ""  # of a FAILED job: the class name of its error, see engine.errors
    order: int = 0
    input_path: str
    input_sha256: str = ""
    input_bytes: int = 0
    endpoint: str = ""
    settings: RunSettings = RunSettings()
    engine: EngineSettings = EngineSettings()
    fingerprint: Fingerprint | None = None
    versions: dict[str, str] = {}
    created: float
    started: float | None = None
    ended: float | None = None
    active_s: float = 0.0
    counts: Counts = Counts()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    restarts: int = 0
    aborted: list[str] = []  # custom_ids taken out by a person, to be put back
    retry_failed: bool = False  # a person asked to run failed requests again; until the job is done once more
    force: bool = False  # a person accepted that settings changed; until an engine runs under the new ones
    removed: bool = False  # taken off the list by a person; the folder stays
    sessions: list[Session] = []


def as_found(record: RunRecord) -> RunRecord:
    """The record as it stands when no runner is alive: what was active belonged to a dead one.

    Requests in flight at the death wait again; what was fsynced since the last save is counted at resume.
    """
    counts = record.counts
    record = msgspec.structs.replace(
        record, counts=msgspec.structs.replace(counts, waiting=counts.waiting + counts.running, running=0)
    )
    state = after_runner_death(record.state)
    if state == record.state:
        return record
    sentence = f"its runner died while it was {record.state}; resume goes on without losing a saved answer"
    return msgspec.structs.replace(record, state=state, sentence=sentence)


def view_of(record: RunRecord) -> JobView:
    """The run as clients draw it, without what only a running job knows."""
    planned = bool(record.engine.model_path)
    return JobView(
        id=record.job,
        state=record.state,
        input_path=record.input_path,
        created=record.created,
        sentence=record.sentence,
        failure=record.failure,
        order=record.order,
        counts=record.counts,
        started=record.started,
        ended=record.ended,
        active_s=record.active_s,
        model=record.engine.model_name,
        engine=record.engine.engine if planned else "",
        settings=record.settings,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        reasoning_tokens=record.reasoning_tokens,
        restarts=record.restarts,
        taken_out=record.aborted[:TAKEN_OUT],
        slots=record.engine.slots if planned else 0,
        context=record.engine.context if planned else 0,
    )
