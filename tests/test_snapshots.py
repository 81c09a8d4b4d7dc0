"""The whole screen as pictures, to see what a change of the layout changes.

A picture that differs fails its test, and `snapshot_report.html` shows both side by side. Where the new one is right:

    .venv/bin/python -m pytest tests/test_snapshots.py --snapshot-update

Look at what it has written (tests/__snapshots__, any browser) before it is committed. The facts are made up, the clock
stands, and no runner is asked.
"""

from __future__ import annotations

import inspect
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from textual.pilot import Pilot

from engine.protocol import Channel, Delta, Snapshot, Text
from engine.workspace import Workspace
from tests.results_kit import Run
from tests.tui_kit import NOW, ram, reading, snapshot
from tools.svg import picture_of
from tui.app import GptossApp
from tui.browser import Browser as RealBrowser
from tui.look import LIGHT, STYLES, grounds
from tui.remote import Terminal
from tui.screens.add import AddScreen

PICTURE = Path(__file__).parents[1] / "docs" / "screenshot.svg"
Compare = Callable[..., bool]

STORY = (
    "The keeper climbed the stairs every evening before dark, a lamp in one hand and bread in the other. "
    "There were 214 steps.\n\n"
    "1. He counted them aloud.\n2. The sea answered.\n\n"
    "One night the light was already burning when he came up, and on the sill stood a cup of tea, still warm. "
    "日本語も大丈夫、and so are emoji 🗼."
)
THOUGHT = "The user wants a short story about a lighthouse. Keep it calm; end with a small surprise."


class Browser(Run):
    """Rows that are made up when they are asked for."""

    async def close(self) -> None:
        """There is no process to end."""


class Still(GptossApp):
    """The program with facts that stand still."""

    CSS_PATH = Path(inspect.getfile(GptossApp)).with_name("app.tcss")

    def __init__(self, workspace: Workspace, terminal: Terminal, facts: Snapshot) -> None:
        super().__init__(workspace, terminal, start=False)
        self.link.run = self._no_link
        self.browser = cast("RealBrowser", Browser(total=10_000))  # it answers as the real one
        self._facts = facts
        desk = self.desk
        desk.now = lambda: NOW
        desk.link.connected = True
        desk.mirror.take(facts)
        desk.view.job = next(iter(desk.mirror.jobs), "")
        if facts.running:
            desk.transcripts.note_running(facts.running, NOW)
            self._texts(facts.running[0].job)

    async def _no_link(self) -> None:
        return

    def _texts(self, job: str) -> None:
        pieces = [
            Delta(key=1, channel=Channel.REASONING, text=THOUGHT),
            Delta(key=1, text=STORY),
            Delta(key=2, text="Water boils at a lower temperature on a mountain, because the air presses on it less."),
            Delta(key=3, channel=Channel.REASONING, text="Two limits apply at once: cells and free memory."),
        ]
        self.desk.transcripts.take(Text(seq=2, job=job, items=pieces), self.desk.mirror.running)

    def export_screenshot(self, *, title: str | None = None, simplify: bool = False) -> str:
        del title, simplify
        return picture_of(self)


@pytest.fixture(autouse=True)
def _one_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same hours and settings everywhere."""
    with monkeypatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("GPTOSS_", "NO_COLOR"))]:
            patch.delenv(name)
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


async def settled(pilot: Pilot[Any]) -> None:
    """Until every row that is in view has come."""
    app = pilot.app
    assert isinstance(app, Still)
    for _ in range(3):
        app.tick()
        await pilot.pause()
    app.redraw()
    await pilot.pause()


def still(folder: Path, terminal: Terminal | None = None, **facts: Any) -> Still:
    (folder / "batches").mkdir(exist_ok=True)
    for name, lines, age in (("evals", 10_000, 5_000), ("stories", 40, 90_000)):
        path = folder / "batches" / f"{name}.jsonl"
        path.write_text('{"custom_id": "a"}\n' * lines)
        os.utime(path, (NOW - age, NOW - age))
    return Still(Workspace(folder), terminal or Terminal(), snapshot(**facts))


def pressed(*keys: str) -> Callable[[Pilot[Any]], Any]:
    """The screen at rest, then keys, then at rest again."""

    async def go(pilot: Pilot[Any]) -> None:
        await settled(pilot)
        for key in keys:
            await pilot.press(key)
            await pilot.app.workers.wait_for_complete()
            await settled(pilot)

    return go


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (120, 36), (200, 50), (60, 16), (50, 12)])
def test_sizes(snap_compare: Compare, tmp_path: Path, columns: int, rows: int) -> None:
    assert snap_compare(still(tmp_path), terminal_size=(columns, rows), run_before=settled)


def test_ascii(snap_compare: Compare, tmp_path: Path) -> None:
    app = still(tmp_path, Terminal(unicode=False, ssh=True, multiplexer="tmux"))
    assert snap_compare(app, terminal_size=(80, 24), run_before=settled)


def test_no_colour(snap_compare: Compare, tmp_path: Path) -> None:
    assert snap_compare(still(tmp_path, Terminal(colours=0)), terminal_size=(80, 24), run_before=settled)


def test_light(snap_compare: Compare, tmp_path: Path) -> None:
    assert snap_compare(still(tmp_path, Terminal(theme="light")), terminal_size=(120, 36), run_before=settled)


def test_no_gpu(snap_compare: Compare, tmp_path: Path) -> None:
    facts = reading(ram(), note="no GPU: process and system RAM")
    assert snap_compare(still(tmp_path, reading=facts), terminal_size=(80, 24), run_before=settled)


def test_nothing_yet(snap_compare: Compare, tmp_path: Path) -> None:
    app = Still(Workspace(tmp_path), Terminal(), Snapshot(seq=1, reading=reading()))
    assert snap_compare(app, terminal_size=(80, 24), run_before=settled)


KEY_OF = {"results": "v", "help": "question_mark", "confirm": "X", "memory": "m", "commands": "colon"}


@pytest.mark.parametrize("screen", KEY_OF)
def test_screens(snap_compare: Compare, tmp_path: Path, screen: str) -> None:
    assert snap_compare(still(tmp_path), terminal_size=(80, 24), run_before=pressed(KEY_OF[screen]))


async def checks(name: str, arguments: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
    """What the child process would find, without one."""
    del arguments
    if name == "models":
        yield {"kind": "model", "name": "gpt-oss-20b-Q4_K_M", "path": "/m/gpt-oss-20b-Q4_K_M.gguf",
               "size_bytes": 12 * 2**30, "quantization": "Q4_K_M", "embedded": False, "why_not": ""}  # fmt: skip
        return
    for line in (17, 803):
        yield {"kind": "problem", "line": line, "level": "error", "code": "invalid_json",
               "message": "not JSON: the line ends within a text", "custom_id": None}  # fmt: skip
    yield {"kind": "summary", "requests": 10_000, "good": 9_998, "errors": 2, "warnings": 0, "notice": "",
           "by_code": {"invalid_json": 2}, "endpoint": "/v1/chat/completions", "bytes": 5_000_000}  # fmt: skip


@pytest.mark.parametrize("keys", [[], ["enter"]], ids=["files", "checked"])
def test_add(snap_compare: Compare, tmp_path: Path, keys: list[str]) -> None:
    app = still(tmp_path)

    async def go(pilot: Pilot[Any]) -> None:
        await settled(pilot)
        app.push_screen(AddScreen(app.workspace, app.desk.mirror.queue, cwd=tmp_path, ask=checks))
        await pilot.app.workers.wait_for_complete()
        await pressed(*keys)(pilot)

    assert snap_compare(app, terminal_size=(80, 24), run_before=go)


async def test_the_other_theme_has_other_colours_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = still(tmp_path, Terminal(web=True))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        written: list[str] = []
        assert app._driver is not None
        monkeypatch.setattr(app._driver, "write", written.append)
        for theme, style in (("light", LIGHT["rule.focus"]), ("dark", STYLES["rule.focus"])):
            await pilot.press("T")
            await settled(pilot)
            assert grounds(light=theme == "light") in written  # in a browser the ground follows
            strips = app.screen._compositor.render_strips()
            assert any(segment.style and segment.style.color == style.color for strip in strips for segment in strip)


@pytest.mark.parametrize(
    "path", [*(Path(__file__).parent / "__snapshots__").rglob("*.svg"), PICTURE], ids=lambda p: p.stem
)
def test_a_picture_loads_nothing(path: Path) -> None:
    text = path.read_text("utf-8")
    assert re.findall(r"https?:[^\s\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"@font-face|@import|<image|<script|href|url\(", text)
    assert len(text) < 100_000
