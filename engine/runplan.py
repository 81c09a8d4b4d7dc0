"""From what a person chose to what an engine loads, and what else the answers depend on. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Container
from typing import Any, Protocol

import msgspec

from engine.protocol import EngineSettings, ModelInfo, RunSettings
from engine.record import Fingerprint

_CHOICES = ("engine", "slots", "context", "batch", "ubatch", "kv_unified", "kv_type", "gpu_layers", "threads")
_TWINS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}


class Model(Protocol):
    """What is needed of `engine.modelfiles.ModelFile`."""

    @property
    def path(self) -> Any: ...
    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...


def overlay(before: RunSettings, new: RunSettings | None) -> RunSettings:
    """`new` over `before`: what it leaves open stays as it was."""
    if new is None:
        return before
    changes = {
        name: value
        for name in RunSettings.__struct_fields__
        if (value := getattr(new, name)) is not None and value != {} and value is not False
    }
    if new.kv_unified is False:
        changes["kv_unified"] = False
    return msgspec.structs.replace(before, **changes)


def engine_settings(run: RunSettings, model: Model, *, date: str, sequences: int) -> EngineSettings:
    """What to load for so many sequences (each of a request's `n` choices is one): never more slots than those."""
    chosen = {name: value for name in _CHOICES if (value := getattr(run, name)) is not None}
    settings = EngineSettings(model_path=str(model.path), model_name=model.name, date=date, **chosen)
    return msgspec.structs.replace(settings, slots=max(1, min(settings.slots, sequences)))


def fingerprint(run: RunSettings, model: Model, settings: EngineSettings) -> Fingerprint:
    """As far as it is known before loading: `engine_version` and `template` are empty."""
    return Fingerprint(
        model=model.digest,
        model_name=model.name,
        engine=settings.engine,
        context=settings.context,
        kv_type=settings.kv_type,
        defaults=run.defaults,
        seed=run.seed or 0,
        date=settings.date,
    )


def completed(print_: Fingerprint, info: ModelInfo) -> Fingerprint:
    """With what the loaded engine tells of itself."""
    return msgspec.structs.replace(print_, template=info.template_digest, engine_version=info.engine_version)


def differences(before: Fingerprint | None, now: Fingerprint) -> list[str]:
    """Sentences for what changed; fields that one side does not know yet are not compared."""
    if before is None:
        return []
    late = ("template", "engine_version")
    unknown = {name: "" for name in late if not (getattr(before, name) and getattr(now, name))}
    return msgspec.structs.replace(before, **unknown).differences(msgspec.structs.replace(now, **unknown))


def seed_of(run_seed: int, custom_id: str, request_id: str) -> int:
    """The seed of a request that names none: the same however often and in whatever order the run is taken up."""
    digest = hashlib.sha256(f"{run_seed}\0{custom_id}\0{request_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") >> 1  # 31 bits: every engine takes these


def with_defaults(body: dict[str, Any], defaults: dict[str, Any], known: Container[str]) -> dict[str, Any]:
    """The body with the run's defaults for what it lacks and its endpoint knows.

    `max_tokens` has two names: one of them is enough.
    """
    missing = {
        name: value
        for name, value in defaults.items()
        if name in known and name not in body and (name not in _TWINS or _TWINS[name] not in body)
    }
    return {**body, **missing} if missing else body


def max_tokens_of(body: dict[str, Any]) -> int | None:
    """The most tokens an answer to this body may have, by either of its two names; None: until the slot is full."""
    for name in ("max_completion_tokens", "max_tokens"):
        if isinstance(value := body.get(name), int) and not isinstance(value, bool):
            return value
    return None
