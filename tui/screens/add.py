"""Adding a batch: choose a file, see what is wrong with it, look over its settings, queue it. Sends nothing itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.events import Mount
from textual.widget import Widget

from engine.client import offline
from engine.errors import GptossError
from engine.protocol import JobView, RunSettings
from engine.workspace import Workspace
from tui import check, job_settings
from tui.check import Check, CheckState
from tui.files import typed_for
from tui.screens.add_files import FilePicker
from tui.screens.add_settings import Model, SettingsForm, Tick
from tui.screens.parts import Dialog, Press, Words
from tui.text import SafeText, one_line

PROGRESS_S = 0.25
"""Shortest time between two redraws of the check's progress: a redraw costs bytes on the link."""

FAULTS = (GptossError, OSError, msgspec.MsgspecError)
"""What reading from a child process may end in: its own refusal, no process at all, or a line that is no JSON."""

Offline = Callable[[str, Sequence[str]], AsyncIterator[dict[str, Any]]]


def _text(error: Exception) -> SafeText:
    return one_line(error.text if isinstance(error, GptossError) else f"{type(error).__name__}: {error}")


@contextlib.asynccontextmanager
async def _closed_after(items: AsyncIterator[dict[str, Any]]) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Its child process is ended at once where the reading stops early, not when somebody collects garbage."""
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


class AddChoice(NamedTuple):
    """What to submit. `path` is absolute."""

    path: str
    settings: RunSettings


class AddScreen(Dialog[AddChoice | None]):
    """Dismisses an AddChoice, or None after esc. `jobs`: to say which files were run before."""

    DEFAULT_CSS = """
    AddScreen > .frame { max-width: 120; height: 100%; max-height: 44; }
    AddScreen #chosen { display: none; height: 1fr; }
    AddScreen.-chosen #chosen { display: block; }
    AddScreen.-chosen FilePicker { display: none; }
    AddScreen #all { height: 1fr; overflow-y: auto; scrollbar-size-vertical: 1; }
    AddScreen #file { text-style: bold; height: auto; max-height: 3; }
    AddScreen #problems { height: auto; max-height: 12; scrollbar-size-vertical: 1; }
    AddScreen.-ascii #all, AddScreen.-ascii #problems { scrollbar-size-vertical: 0; }
    AddScreen .heading { text-style: bold; height: 1; margin: 1 0 0 0; }
    AddScreen .buttons { height: 1; }
    AddScreen #said { height: auto; max-height: 3; }
    AddScreen.-low .heading { margin: 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "step(1)", show=False),
        Binding("up", "step(-1)", show=False),
        Binding("left", "step(-1)", show=False),
        Binding("right", "step(1)", show=False),
        Binding("pagedown", "scroll(1)", show=False),
        Binding("pageup", "scroll(-1)", show=False),
        Binding("s", "stop_check", show=False),
        Binding("g", "good_lines", show=False),
        Binding("o,backspace", "other", show=False),
    ]

    def __init__(
        self,
        workspace: Workspace,
        jobs: Sequence[JobView] = (),
        *,
        cwd: Path | None = None,
        ask: Offline = offline,
    ) -> None:
        super().__init__()
        self._workspace = workspace
        self._jobs = jobs
        self._cwd = Path.cwd() if cwd is None else cwd
        self._ask = ask
        self._path: Path | None = None
        self._check = Check()
        self._checked_limit = ""
        self._waiting = False
        """Queue was pressed while the check runs: it is queued when the check finds nothing."""

    def compose(self) -> ComposeResult:
        with Vertical(classes="frame"):
            yield Words("Add a batch", classes="title")
            yield FilePicker(self._workspace.root, self._jobs, cwd=self._cwd, say=self._say)
            with Vertical(id="chosen"):
                yield Words("", id="file")
                with Vertical(id="all"):  # no VerticalScroll: that one takes up and down for itself
                    yield Words("", id="head")
                    with VerticalScroll(id="problems", can_focus=False):
                        yield Words("")
                    yield Tick("g  run the good lines only, without the bad ones")
                    yield Words("Settings of this job", classes="heading")
                    yield SettingsForm()
                with Horizontal(classes="buttons"):
                    yield Press("Queue it", id="queue")
                    yield Press("Other file", id="other")
                    yield Press("Cancel", id="cancel")
            yield Words("", id="said")
            yield Words("", id="hint", classes="dim")

    def on_mount(self, event: Mount) -> None:
        super().on_mount(event)
        self.query_one(FilePicker).begin()
        self._hint()
        self.run_worker(self._load_settings(), group="settings")
        self.run_worker(self._load_models(), group="models")

    def on_resize(self) -> None:
        self.set_class(self.app.size.height < 30, "-low")
        self._fit()

    def _fit(self) -> None:
        """The problems take what the settings leave, at least four rows."""
        fixed = 20  # frame, title, file, verdict, headings, ten settings, buttons, messages
        room = min(44, self.app.size.height) - fixed
        self.query_one("#problems").styles.max_height = max(4, room)

    # --- what is said -------------------------------------------------------------------------------------------------

    def _say(self, text: str, style: str = "warn") -> None:
        self.query_one("#said", Words).say(Text(one_line(text), style=self.look.style(style)))

    def _hint(self, about: str = "") -> None:
        if self._path is None:
            text = "enter choose   tab complete   up down move   esc close"
        elif about:
            text = about
        else:
            problems = "  pgdn problems" if self.query_one("#problems").display else ""
            text = f"enter queue  up down settings{problems}  o other file  esc close"
        self.query_one("#hint", Words).say(Text(one_line(text), no_wrap=True, overflow="ellipsis"))

    # --- what is read in the background -------------------------------------------------------------------------------

    async def _load_settings(self) -> None:
        given = await asyncio.to_thread(job_settings.load, self._workspace)
        self.query_one(SettingsForm).show(given)
        self.query_one(Tick).put(given.run.skip_invalid)
        if given.problem:
            self._say(given.problem, "error")

    async def _load_models(self) -> None:
        form = self.query_one(SettingsForm)
        try:
            async with _closed_after(self._ask("models", ["--workspace", str(self._workspace.root)])) as items:
                found = [
                    Model(
                        str(item["name"]),
                        str(item["path"]),
                        int(item["size_bytes"]),
                        str(item["quantization"]),
                        bool(item["embedded"]),
                        str(item["why_not"]),
                    )
                    async for item in items
                    if item.get("kind") == "model"
                ]
        except FAULTS as error:
            form.models_note = f"models can't be listed: {_text(error)}"
        else:
            form.models = found
            form.models_note = "" if found else "no models found"

    async def _validate(self, path: Path, limit: str) -> None:
        found = self._check = Check()
        self._checked_limit = limit
        self._draw_check()
        loop = asyncio.get_running_loop()
        drawn = loop.time()
        try:
            arguments = [str(path), *(["--limit", limit] if limit else [])]
            async with _closed_after(self._ask("validate", arguments)) as items:
                async for item in items:
                    found.take(item)
                    if item.get("kind") == "progress" and loop.time() - drawn > PROGRESS_S:
                        drawn = loop.time()
                        self._draw_check()
        except FAULTS as error:
            found.fail(_text(error))
        self._draw_check()
        if self._waiting:
            self._waiting = False
            self.call_later(self._queue)  # not from in here: it ends this worker
        else:
            self._say(check.why_not_queued(found, skip_invalid=self._skip_invalid))

    @property
    def _skip_invalid(self) -> bool:
        return self.query_one(Tick).value

    def _draw_check(self) -> None:
        self.query_one("#head", Words).lines(check.head(self._check))
        box = self.query_one("#problems")
        lines = check.problems(self._check)
        box.display = bool(lines)
        box.query_one(Words).lines(lines)
        self.query_one(Tick).display = self._check.state != CheckState.GOOD
        if isinstance(self.focused, Press):
            self._hint()
        self._relabel()

    def _relabel(self) -> None:
        good_only = self._check.state == CheckState.BAD and self._skip_invalid
        self.query_one("#queue", Press).relabel("Queue the good lines" if good_only else "Queue it")

    # --- one thing after the other ------------------------------------------------------------------------------------

    def on_file_picker_chosen(self, event: FilePicker.Chosen) -> None:
        event.stop()
        path = Path(os.path.abspath(event.entry.path))  # noqa: PTH100 - resolve would follow links and wait for disks
        self._path = path
        self.query_one("#file", Words).say(one_line(typed_for(path, self._workspace.root)))
        self.add_class("-chosen")
        self._fit()
        self._say("")
        self._begin_check()
        self.query_one("#queue", Press).focus()
        self._hint()

    def _begin_check(self) -> None:
        if self._path is not None:
            self.run_worker(self._validate(self._path, self._limit()), group="check", exclusive=True)

    def _limit(self) -> str:
        """The limit that the check should use: the typed one, else the workspace's."""
        form = self.query_one(SettingsForm)
        try:
            field = next(field for field in job_settings.FIELDS if field.name == "limit")
            value = job_settings.parsed(field, form.typed["limit"]) or form.given.run.limit
        except ValueError:
            return self._checked_limit
        return str(value) if value else ""

    def on_settings_form_changed(self, event: SettingsForm.Changed) -> None:
        event.stop()
        self._waiting = False
        if event.name == "limit" and self._path is not None and self._limit() != self._checked_limit:
            self._begin_check()

    def on_settings_form_focused(self, event: SettingsForm.Focused) -> None:
        event.stop()
        self._hint(event.help)

    def on_descendant_focus(self, event: Any) -> None:
        if isinstance(event.widget, Press):
            self._hint()
        elif isinstance(event.widget, Tick):
            self._hint("space: run a file that has bad lines without them (skip_invalid)")

    def on_tick_changed(self, event: Tick.Changed) -> None:
        event.stop()
        self._say("")
        self._relabel()

    def on_press_pressed(self, event: Press.Pressed) -> None:
        event.stop()
        match event.press.id:
            case "queue":
                self._queue()
            case "other":
                self.action_other()
            case _:
                self.action_close()

    def _queue(self) -> None:
        """Dismiss with what was chosen, or say why not."""
        path, form = self._path, self.query_one(SettingsForm)
        if path is None:
            return
        if form.given.problem:
            self._say(form.given.problem, "error")
            return
        if (field := form.first_fault()) is not None:
            form.focus_on(field)
            self._say(f"{field.name} {job_settings.fault(field, form.typed[field.name])}", "error")
            return
        if reason := check.why_not_queued(self._check, skip_invalid=self._skip_invalid):
            self._say(reason, "error")
            return
        if self._check.state == CheckState.RUNNING and not self._waiting:
            self._waiting = True
            self._say("queued as soon as the check is through; enter again queues it now, unchecked", "info")
            return
        self.workers.cancel_node(self)
        self.dismiss(
            AddChoice(
                str(path), job_settings.combined(form.given, form.typed, skip_invalid=self._skip_invalid, cwd=self._cwd)
            )
        )

    # --- keys ---------------------------------------------------------------------------------------------------------

    def action_close(self) -> None:
        self.workers.cancel_node(self)
        self.dismiss(None)

    def action_other(self) -> None:
        """Back to the files."""
        if self._path is None:
            return
        self._path = None
        self._waiting = False
        self.workers.cancel_group(self, "check")
        self.remove_class("-chosen")
        self._say("")
        self.query_one(FilePicker).begin()
        self._hint()

    def action_stop_check(self) -> None:
        if self._path is not None and self._check.state == CheckState.RUNNING:
            self.workers.cancel_group(self, "check")
            self._waiting = False
            self._check.state = CheckState.STOPPED
            self._say("")
            self._draw_check()

    def action_good_lines(self) -> None:
        """`skip_invalid`, from anywhere."""
        if self._path is not None:
            self.query_one(Tick).action_change()

    def action_step(self, by: int) -> None:
        """Up and down through settings and buttons."""
        if self._path is None:
            return
        steps: list[Widget] = [w for w in self.query("Tick, SettingsForm Field, Press") if w.display]
        focused = self.focused
        at = steps.index(focused) if focused in steps else 0
        to = steps[(at + by) % len(steps)]
        to.focus(scroll_visible=False)
        to.scroll_visible(animate=False)

    def action_scroll(self, pages: int) -> None:
        box = self.query_one("#problems", VerticalScroll)
        box.scroll_relative(y=pages * max(1, box.size.height - 1), animate=False)
