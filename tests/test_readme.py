"""The README is what a newcomer types: its commands exist, its settings are known, its files are written."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from engine.settings import load
from engine.workspace import Workspace
from tui.cli import parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("#")[0] for block in blocks() for line in block.splitlines()]
    return [c.strip() for line in lines for c in line.split("gptoss-tui ")[1:]]


def test_there_are_commands():
    assert len(commands()) > 10


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_readme_are_understood(command: str):
    options = parser().parse_args(shlex.split(command))
    # Without a subcommand it is the screen.
    assert options.handler if options.command else options.plain in (True, False)


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_make_targets_exist(target: str):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_settings_example_is_valid(tmp_path: Path):
    (example,) = blocks("toml")
    tomllib.loads(example)
    (tmp_path / "gptoss.toml").write_text(example, encoding="utf-8")
    run = load(Workspace.at(tmp_path), {}, environment={}).run
    assert (run.slots, run.context, run.defaults["max_tokens"]) == (32, 2048, 1024)
