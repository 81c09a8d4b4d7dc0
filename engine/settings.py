"""Settings: the command line, then the environment, then gptoss.toml, then what is built in.

`KEYS` is the one table of all of them; help and docs are made from it. An unknown key or a wrong value is refused by
name, with the place it stands in and the nearest key that exists: a setting is never passed over in silence.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from engine.bodies import CHAT, COMPLETIONS, nearest, parameters, show
from engine.errors import SettingsError
from engine.faults import faults
from engine.protocol import EngineSettings, RunSettings
from engine.workspace import Workspace

PREFIX = "GPTOSS_"


class RunnerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the background runner behaves."""

    idle_exit_s: float = 60.0
    keep_warm_s: float = 300.0
    sample_hz: float = 4.0


class ScreenSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the screen is drawn. None: as the terminal allows."""

    theme: str | None = None
    hz: float | None = None
    glyphs: str | None = None
    mouse: bool | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set, after all sources. In `run`, None still means: as built into the engine."""

    run: RunSettings = RunSettings()
    runner: RunnerSettings = RunnerSettings()
    screen: ScreenSettings = ScreenSettings()
    keys: dict[str, str] = {}
    """A person's own key bindings, action → keys. Whether they mean anything is for the screen to say."""


class Key(NamedTuple):
    """One setting."""

    section: Literal["run", "runner", "screen"]
    name: str
    kind: Any  # what msgspec checks
    rule: str  # the same in words
    default: str  # what holds if nothing is set, for people
    help: str

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


_Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Seconds = Annotated[float, Meta(ge=0, le=86400 * 365)]
_built_in = EngineSettings()

KEYS: tuple[Key, ...] = (
    Key("run", "model", Annotated[str, Meta(min_length=1)], "a name or a path", "the embedded demo model", "the model"),
    Key("run", "engine", Literal["llamacpp"], '"llamacpp"', _built_in.engine, "what runs the model"),
    Key(
        "run",
        "slots",
        Annotated[int, Meta(ge=1, le=256)],
        "a whole number from 1 to 256",
        str(_built_in.slots),
        "requests generated at the same time",
    ),
    Key(
        "run",
        "context",
        _Positive,
        "a whole number, at least 1",
        str(_built_in.context),
        "tokens a slot holds, prompt and answer together (rounded up to 256s)",
    ),
    Key("run", "batch", _Positive, "a whole number, at least 1", str(_built_in.batch), "tokens of one engine step"),
    Key(
        "run",
        "ubatch",
        _Positive,
        "a whole number, at least 1",
        str(_built_in.ubatch),
        "tokens of one pass on the device",
    ),
    Key("run", "kv_unified", bool, "true or false", "false", "one KV cache shared by all slots"),
    Key(
        "run",
        "kv_type",
        Literal["f16", "f32", "q8_0", "q4_0"],
        "one of f16, f32, q8_0, q4_0",
        _built_in.kv_type,
        "number format of the KV cache",
    ),
    Key(
        "run",
        "gpu_layers",
        Annotated[int, Meta(ge=-1, le=10000)],
        "a whole number: -1 for all, 0 for none",
        str(_built_in.gpu_layers),
        "layers put on the GPU",
    ),
    Key(
        "run",
        "threads",
        Annotated[int, Meta(ge=0, le=1024)],
        "a whole number, 0 to choose by the machine",
        str(_built_in.threads),
        "processor threads of the engine",
    ),
    Key(
        "run",
        "seed",
        Annotated[int, Meta(ge=0, le=2**63 - 1)],
        "a whole number, 0 or more",
        "0",
        "seed of the run, from which lines without one get theirs",
    ),
    Key("run", "skip_invalid", bool, "true or false", "false", "run the good lines of a file that has bad ones"),
    Key("run", "limit", _Positive, "a whole number, at least 1", "no limit", "only the first so many requests"),
    Key("runner", "idle_exit_s", _Seconds, "seconds, 0 or more", "60", "the runner leaves after so long without work"),
    Key(
        "runner",
        "keep_warm_s",
        _Seconds,
        "seconds, 0 or more",
        "300",
        "an engine without work keeps its model loaded for so long",
    ),
    Key(
        "runner",
        "sample_hz",
        Annotated[float, Meta(ge=0.1, le=20)],
        "a number from 0.1 to 20",
        "4",
        "readings of memory and GPU a second",
    ),
    Key("screen", "theme", Literal["dark", "light"], "dark or light", "dark", "for a dark or a light terminal"),
    Key(
        "screen",
        "hz",
        Annotated[float, Meta(ge=0.2, le=10)],
        "a number from 0.2 to 10",
        "4",
        "redraws of the screen a second",
    ),
    Key(
        "screen",
        "glyphs",
        Literal["unicode", "ascii"],
        "unicode or ascii",
        "by the terminal",
        "what bars and rules are drawn with",
    ),
    Key(
        "screen",
        "mouse",
        bool,
        "true or false",
        "on, over SSH off",
        "whether the screen takes the mouse from the terminal",
    ),
)
"""All settings. Besides them `[run.defaults]` holds body parameters for lines that lack them, `[keys]` key bindings."""

_SECTIONS = ("run", "runner", "screen")

_BY_NAME = {key.name: key for key in KEYS}

OTHER_VARIABLES = ("GPTOSS_WORKSPACE", "GPTOSS_MODELS", "GPTOSS_BUILD", "GPTOSS_CRASH_AT", "GPTOSS_IDLE_EXIT")
"""Read elsewhere; not settings."""

_NOT_A_DEFAULT = ("messages", "prompt", "model", "stream")
_DEFAULTS = tuple(dict.fromkeys(n for url in (CHAT, COMPLETIONS) for n in parameters(url) if n not in _NOT_A_DEFAULT))


def load(
    workspace: Workspace,
    overrides: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The settings that hold in a workspace.

    `overrides` are options of the command line by key name; None is an option that was not given. `environment`:
    default, the process's own. Raises SettingsError.
    """
    chosen: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for source in (
        _from_file(workspace),
        _from_environment(os.environ if environment is None else environment),
        _from_options(overrides or {}),
    ):
        defaults |= source.pop("defaults", {})
        keys |= source.pop("keys", {})
        chosen |= source
    own = {
        section: {k.name: chosen[k.name] for k in KEYS if k.section == section and k.name in chosen}
        for section in _SECTIONS
    }
    return Settings(
        run=RunSettings(**own["run"], defaults=defaults),
        runner=RunnerSettings(**own["runner"]),
        screen=ScreenSettings(**own["screen"]),
        keys=keys,
    )


def table() -> list[tuple[str, str, str, str, str]]:
    """All settings as rows (key, variable, values, default, meaning) for docs and help."""
    return [(f"{key.section}.{key.name}", key.variable, key.rule, key.default, key.help) for key in KEYS]


def _checked(key: Key, value: object, where: str) -> Any:
    try:
        return msgspec.convert(value, key.kind)
    except msgspec.ValidationError:
        raise SettingsError(f"{where} is {show(value)}", advice=f"It must be {key.rule}.") from None


def _checked_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Body parameters that have an option of their own: the refusal names the option."""
    for name, value in given.items():
        for fault in faults(CHAT, {name: value}):
            if fault.level == "error" and fault.param == name:
                raise SettingsError(f"--{name.replace('_', '-')} is {show(value)}", advice=fault.fix)
    return dict(given)


def _checked_defaults(given: object, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise SettingsError(f"{where} is {show(given)}", advice="It is a table of body parameters.")
    for name, value in given.items():
        if name not in _DEFAULTS:
            guess = nearest(name, _DEFAULTS)
            advice = f"Did you mean `{guess}`?" if guess else f"Known: {', '.join(_DEFAULTS)}."
            raise SettingsError(f"{where} has {show(name)}, which can't be set for all lines", advice=advice)
        url, needed = (CHAT, "messages") if name in parameters(CHAT) else (COMPLETIONS, "prompt")
        for fault in faults(url, {name: value}):
            if fault.level == "error" and fault.param != needed:
                raise SettingsError(f"{where}: {fault.message}", advice=fault.fix)
    return dict(given)


def _checked_bindings(given: Mapping[str, object], where: str) -> dict[str, str]:
    for action, keys in given.items():
        if not isinstance(keys, str) or not keys:
            raise SettingsError(f"{where} {action} is {keys}", advice=f'Name its keys as a text: {action} = "ctrl+x".')
    return {action: str(keys) for action, keys in given.items()}


# --- gptoss.toml ------------------------------------------------------------------------------------------------------


def _from_file(workspace: Workspace) -> dict[str, Any]:
    path = workspace.settings_file
    try:
        with path.open("rb") as f:
            content = tomllib.load(f)
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise SettingsError(f"{path} is no valid TOML: {e}", advice="Mend that line, or remove the file.") from None
    except OSError as e:
        raise SettingsError(f"{path} can't be read: {e.strerror}", advice="Check its permissions.") from None
    found: dict[str, Any] = {}
    for section, values in content.items():
        if section not in (*_SECTIONS, "keys"):
            raise SettingsError(f"{path} has {show(section)}, which is no section", advice=_section_hint(section))
        if not isinstance(values, dict):
            raise SettingsError(f"{path}: `{section}` is {show(str(values))}", advice=f"Write it as [{section}].")
        if section == "keys":
            found["keys"] = _checked_bindings(values, f"{path}: [keys]")
            continue
        for name, value in values.items():
            if section == "run" and name == "defaults":
                found["defaults"] = _checked_defaults(value, f"{path}: [run.defaults]")
                continue
            key = _BY_NAME.get(name)
            if key is None or key.section != section:
                raise SettingsError(
                    f"{path}: [{section}] has {show(name)}, which is no setting", advice=_key_hint(section, name)
                )
            if not isinstance(value, str | int | float):  # dates and tables: not values of JSON, say what they are
                raise SettingsError(f"{path}: [{section}] {name} is {value}", advice=f"It must be {key.rule}.")
            found[name] = _checked(key, value, f"{path}: [{section}] {name}")
    return found


def _section_hint(section: str) -> str:
    key = _BY_NAME.get(section)
    if key is not None:
        return f"It goes below a line [{key.section}]."
    if section == "defaults":
        return "Write it as [run.defaults]."
    guess = nearest(section, (*_SECTIONS, "keys", *_BY_NAME))
    if guess in _BY_NAME:
        return f"Did you mean `{guess}`, below a line [{_BY_NAME[guess].section}]?"
    return f"Did you mean [{guess}]?" if guess else "There are [run], [run.defaults], [runner], [screen] and [keys]."


def _key_hint(section: str, name: str) -> str:
    if name in _BY_NAME:
        return f"It goes into [{_BY_NAME[name].section}]."
    if section == "run" and name in _DEFAULTS:
        return "It is a body parameter: it goes into [run.defaults]."
    known = tuple(key.name for key in KEYS if key.section == section)
    guess = nearest(name, known) or nearest(name, tuple(_BY_NAME))
    return f"Did you mean `{guess}`?" if guess else f"[{section}] knows {', '.join(known)}."


# --- environment and options ------------------------------------------------------------------------------------------

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    known = {key.variable: key for key in KEYS}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX):
            continue
        key = known.get(variable)
        if key is None:
            # Other programs may use the prefix as well: only what looks like a slip is refused.
            # The prefix is left out: with it, short names would all look alike.
            names = tuple(name.removeprefix(PREFIX) for name in (*known, *OTHER_VARIABLES))
            guess = None if variable in OTHER_VARIABLES else nearest(variable.removeprefix(PREFIX), names)
            if guess is not None:
                raise SettingsError(
                    f"the environment variable {variable} is no setting", advice=f"Did you mean {PREFIX}{guess}?"
                )
            continue
        if text != "":  # set to nothing is how a shell unsets for one command
            found[key.name] = _checked(key, _from_text(key, text), f"the environment variable {variable}")
    return found


def _from_text(key: Key, text: str) -> object:
    """What a text means for this key; the text itself where it means nothing, so that the refusal can show it."""
    if key.kind is bool:
        word = text.strip().lower()
        return True if word in _TRUE else False if word in _FALSE else text
    for kind in (int, float):
        try:
            msgspec.convert(1, key.kind)  # a key that takes numbers
            return kind(text)
        except (ValueError, msgspec.ValidationError):
            continue
    return text


def _from_options(overrides: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in overrides.items():
        if value is None:
            continue
        option = "--" + name.replace("_", "-")
        if name == "defaults":
            found["defaults"] = _checked_options(value)
            continue
        key = _BY_NAME.get(name)
        if key is None:
            guess = nearest(name, tuple(_BY_NAME))
            raise SettingsError(f"there is no setting {option}", advice=f"Did you mean --{guess}?" if guess else "")
        found[name] = _checked(key, value, option)
    return found
