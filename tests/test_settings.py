"""engine.settings: which source wins, and what a wrong one is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.errors import SettingsError
from engine.protocol import RunSettings
from engine.settings import KEYS, RunnerSettings, ScreenSettings, Settings, load, table
from engine.workspace import Workspace


def at(folder: Path, toml: str = "") -> Workspace:
    if toml:
        (folder / "gptoss.toml").write_text(toml)
    return Workspace.at(folder)


def refused(folder: Path, toml: str = "", env: dict[str, str] | None = None, **options: Any) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load(at(folder, toml), options, environment=env or {})
    return caught.value


def test_nothing_set_is_what_is_built_in(tmp_path: Path) -> None:
    assert load(at(tmp_path), environment={}) == Settings()


def test_each_source_outranks_the_next(tmp_path: Path) -> None:
    workspace = at(
        tmp_path,
        '[run]\nmodel = "file"\nslots = 1\ncontext = 100\n[run.defaults]\ntemperature = 0\ntop_p = 0.5\n'
        "[runner]\nidle_exit_s = 5",
    )
    env = {"GPTOSS_SLOTS": "2", "GPTOSS_CONTEXT": "200", "GPTOSS_KV_UNIFIED": "yes", "GPTOSS_MODEL": "", "HOME": "x"}
    got = load(workspace, {"context": 300, "threads": None, "defaults": {"top_p": 0.9}}, environment=env)
    assert got.run == RunSettings(
        model="file", slots=2, context=300, kv_unified=True, defaults={"temperature": 0, "top_p": 0.9}
    )
    assert got.runner == RunnerSettings(idle_exit_s=5)


@pytest.mark.parametrize(
    ("toml", "where", "hint"),
    [
        ("[run]\nslotss = 4", "slotss", "`slots`"),
        ("[run]\nidle_exit_s = 4", "idle_exit_s", "[runner]"),
        ("[run]\ntemperature = 1", "temperature", "[run.defaults]"),
        ("[run]\nslots = 0", "slots", "1 to 256"),
        ('[run]\nslots = "4"', "slots", "whole number"),
        ("[run]\nslots = true", "slots", "whole number"),
        ("[run]\nslots = 1979-05-27", "slots", "whole number"),
        ("[runs]\nslots = 4", "runs", "[run]"),
        ("slots = 4", "slots", "[run]"),
        ("run = 4", "run", "[run]"),
        ('[run]\nkv_type = "q5"', "kv_type", "q8_0"),
        ("[run.defaults]\ntemprature = 1", "temprature", "`temperature`"),
        ("[run.defaults]\ntemperature = 3", "temperature", "0 to 2"),
        ("[run.defaults]\nmessages = []", "messages", "Known"),
        ("[run", "TOML", "Mend"),
    ],
)
def test_the_file_is_named_with_the_key_and_the_nearest_one(tmp_path: Path, toml: str, where: str, hint: str) -> None:
    error = refused(tmp_path, toml)
    assert str(tmp_path / "gptoss.toml") in error.message
    assert where in error.message
    assert hint in error.advice


@pytest.mark.parametrize(
    ("variable", "value", "hint"),
    [
        ("GPTOSS_SLOTS", "many", "whole number"),
        ("GPTOSS_SLOTS", "2.5", "whole number"),
        ("GPTOSS_KV_UNIFIED", "maybe", "true or false"),
        ("GPTOSS_SAMPLE_HZ", "nan", "number"),
        ("GPTOSS_SLOT", "4", "GPTOSS_SLOTS"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, variable: str, value: str, hint: str) -> None:
    error = refused(tmp_path, env={variable: value})
    assert variable in error.message
    assert hint in error.advice


def test_variables_that_are_no_settings_pass(tmp_path: Path) -> None:
    assert load(at(tmp_path), environment={"GPTOSS_WORKSPACE": "/x", "GPTOSS_ZZZZZZZ": "1"}) == Settings()


def test_wrong_options(tmp_path: Path) -> None:
    assert "--gpu-layers" in refused(tmp_path, gpu_layers=-2).message
    assert "--slots" in refused(tmp_path, slotz=1).advice


def test_a_model_may_be_called_like_a_number(tmp_path: Path) -> None:
    assert load(at(tmp_path), environment={"GPTOSS_MODEL": "120"}).run.model == "120"


def test_the_table_has_every_field_once() -> None:
    names = {
        "run": set(RunSettings.__struct_fields__) - {"defaults"},
        "runner": set(RunnerSettings.__struct_fields__),
        "screen": set(ScreenSettings.__struct_fields__),
    }
    for section, fields in names.items():
        assert sorted(k.name for k in KEYS if k.section == section) == sorted(fields)
    for key in KEYS:
        if key.section == "runner":
            assert float(key.default) == getattr(RunnerSettings(), key.name)
    assert len(table()) == len(KEYS)


def test_screen_and_keys(tmp_path: Path) -> None:
    (tmp_path / "gptoss.toml").write_text('[screen]\ntheme = "light"\nhz = 2\n[keys]\npause = "p,f5"\n')
    got = load(at(tmp_path), environment={"GPTOSS_HZ": "0.5", "GPTOSS_MOUSE": "0"})
    assert got.screen == ScreenSettings(theme="light", hz=0.5, mouse=False)
    assert got.keys == {"pause": "p,f5"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[keys]\npause = 3\n", "[keys] pause is 3"),
        ("[screen]\ntheme = 'blue'\n", "[screen] theme"),
        ("keys = 1\n", "keys"),
    ],
)
def test_wrong_screen_and_keys(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "gptoss.toml").write_text(text)
    with pytest.raises(SettingsError) as refusal:
        load(at(tmp_path), environment={})
    assert says in refusal.value.message


def test_settings_load_nothing_heavy() -> None:
    code = (
        "import sys, engine.settings; print([m for m in ('numpy', 'jinja2', 'psutil', 'pynvml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
