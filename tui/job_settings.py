"""Settings of one job as a form: what would be used, where it comes from, what a typed text means. Pure but `load`.

What is left empty stays with the workspace: environment, then gptoss.toml, then what is built in (`engine.settings`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from engine import settings
from engine.bodies import CHAT, RULES
from engine.errors import SettingsError
from engine.faults import faults
from engine.protocol import RunSettings
from engine.workspace import Workspace
from tui.text import SafeText, one_line

Value = str | int | float


class FieldInfo(NamedTuple):
    """One row of the form."""

    name: str
    help: str
    rule: str
    built_in: str  # what holds if nothing is set
    default: bool = False  # a body parameter for lines that lack it, not a setting of the engine


def _setting(name: str) -> FieldInfo:
    key = next(key for key in settings.KEYS if key.section == "run" and key.name == name)
    return FieldInfo(name, key.help, key.rule, key.default)


def _parameter(name: str, help_: str) -> FieldInfo:
    return FieldInfo(name, help_, RULES[name], "as each line says", default=True)


FIELDS: tuple[FieldInfo, ...] = (
    _setting("model"),
    _setting("slots"),
    _setting("context"),
    _parameter("max_tokens", "longest answer, for lines that don't say"),
    _parameter("temperature", "0 is always the likeliest token, for lines that don't say"),
    _parameter("reasoning_effort", "how long it thinks, for lines that don't say"),
    _setting("seed"),
    _setting("limit"),
)
_BY_NAME = {field.name: field for field in FIELDS}


class Inherited(NamedTuple):
    """What the workspace gives. `problem`: gptoss.toml or the environment can't be used."""

    run: RunSettings = RunSettings()
    sources: Mapping[str, str] = {}  # by field, where it is not built in
    problem: SafeText = SafeText("")


def load(workspace: Workspace, environment: Mapping[str, str] | None = None) -> Inherited:
    """Reads gptoss.toml: not for the UI's own loop."""
    environment = os.environ if environment is None else environment
    try:
        run = settings.load(workspace, environment=environment).run
        from_file = settings.load(workspace, environment={}).run
    except SettingsError as error:
        return Inherited(problem=one_line(error.text))
    sources: dict[str, str] = {}
    for key in settings.KEYS:
        if key.section != "run":
            continue
        if environment.get(key.variable):
            sources[key.name] = key.variable
        elif getattr(from_file, key.name) not in (None, False):
            sources[key.name] = "gptoss.toml"
    sources.update(dict.fromkeys(from_file.defaults, "gptoss.toml"))
    return Inherited(run, sources)


def inherited(field: FieldInfo, given: Inherited) -> SafeText:
    """The value that holds where nothing is typed."""
    value = given.run.defaults.get(field.name) if field.default else getattr(given.run, field.name)
    return SafeText(field.built_in) if value is None else one_line(str(value))


def source(field: FieldInfo, given: Inherited) -> str:
    """Where it comes from."""
    found = given.sources.get(field.name)
    if found:
        return f"from {found}"
    return "" if field.default else "built in"


def parsed(field: FieldInfo, typed: str) -> Value | None:
    """What a typed text means; None for nothing. Raises ValueError with a sentence."""
    typed = typed.strip()
    if not typed:
        return None
    value = _value(field, typed)
    if field.default:
        if any(fault.level == "error" and fault.param == field.name for fault in faults(CHAT, {field.name: value})):
            raise ValueError(f"must be {field.rule}")
        return value
    key = next(key for key in settings.KEYS if key.name == field.name)
    try:
        return msgspec.convert(value, key.kind)
    except msgspec.ValidationError:
        raise ValueError(f"must be {field.rule}") from None


def _value(field: FieldInfo, typed: str) -> Value:
    """A number where the field takes one; the text itself where it is none, so that the check refuses it."""
    if field.name in ("model", "reasoning_effort"):
        return typed
    try:
        return float(typed) if field.name == "temperature" else int(typed.replace("_", "").replace(" ", ""))
    except ValueError:
        return typed


def fault(field: FieldInfo, typed: str) -> SafeText:
    """Why a typed text can't be used; empty where it can."""
    try:
        parsed(field, typed)
    except ValueError as error:
        return one_line(str(error))
    return SafeText("")


def combined(given: Inherited, typed: Mapping[str, str], *, skip_invalid: bool, cwd: Path) -> RunSettings:
    """What the job is submitted with: the workspace's settings with the typed ones on top. Raises ValueError."""
    chosen: dict[str, Any] = {}
    defaults = dict(given.run.defaults)
    for name, text in typed.items():
        value = parsed(_BY_NAME[name], text)
        if value is None:
            continue
        if _BY_NAME[name].default:
            defaults[name] = value
        else:
            chosen[name] = _model(str(value), cwd) if name == "model" else value
    return msgspec.structs.replace(given.run, **chosen, defaults=defaults, skip_invalid=skip_invalid)


def _model(name: str, cwd: Path) -> str:
    """A path counts from where it was typed; the runner lives elsewhere. Anything else is a name for it to find."""
    if name.startswith(("/", "./", "../", "~")):
        return str((cwd / Path(name).expanduser()).absolute())
    return name
