"""The screen program: wires link, panes, keys and actions together, and draws once a tick. Decides nothing else."""

from __future__ import annotations

import asyncio
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rich.console import RenderableType
from textual import events
from textual.app import App, ScreenStackError
from textual.binding import BindingType
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver
from textual.screen import Screen
from textual.worker import WorkerFailed

from engine.job import ACTIVE, JobState
from engine.protocol import Snapshot, Submit
from engine.workspace import Workspace
from tui import can, clipboard, meanwhile, plain
from tui.actions import Actions
from tui.browser import Browser
from tui.desk import Desk
from tui.driver import SteadyDriver
from tui.glyphs import ASCII, UNICODE
from tui.keys import KEYS, KeyTable
from tui.link import RunnerLink
from tui.look import Look, grounds
from tui.notice import Level
from tui.pace import Pace
from tui.remote import Terminal
from tui.screens.main import MainScreen
from tui.state import Mirror
from tui.text import SafeText, one_line
from tui.view import View

CHANGES = frozenset(key.action for key in KEYS if key.changes)

NOTICE_S = {"info": 6.0, "warn": 10.0, "error": 15.0}
"""How long a message stays on the key line; an error also until the next key."""

PASTED_S = 0.02
"""Two different keys nearer to each other were not typed: somebody pasted a text, or leans on the keyboard."""

READ_S = 0.3
"""Nobody reads a question in less: an answer that comes sooner was meant for something else."""

TICK_S = 0.25
"""The finest step of time: every redraw happens on one."""


class GptossApp(App[int], inherit_bindings=False):
    """One screen on one workspace. `start` runs it and gives the exit code; `farewell` is what to print after."""

    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = []

    def __init__(
        self,
        workspace: Workspace,
        terminal: Terminal,
        *,
        readonly: bool = False,
        keys: KeyTable | None = None,
        add: Sequence[Submit] = (),
        low_bandwidth: bool = False,
        theme: str = "",
        start: bool = True,
        driver_class: type[Driver] | None = None,
    ) -> None:
        super().__init__(driver_class=driver_class or _driver(self))
        self.workspace = workspace
        self.keys = keys or KeyTable()
        self.desk = Desk(
            mirror=Mirror(Snapshot(seq=0)),
            view=View(low_bandwidth=low_bandwidth),
            terminal=terminal,
            look=Look(colour=terminal.colour),
            glyphs=UNICODE if terminal.unicode else ASCII,
            readonly=readonly,
        )
        self.desk.link.connected = False
        self.desk.link.why = "connecting"
        self.link = RunnerLink(self.desk, workspace, start=start, on_notice=self.notice, on_connected=self._connected)
        self.browser = Browser()
        self.actions = Actions(self)
        self.pace = Pace(terminal.hz)
        self.farewell: list[SafeText] = []
        self.fault = ""
        """The traceback of what closed the screen."""
        self.crash_file: Path | None = None
        self._failed_panes: dict[str, Path | None] = {}
        self._add = list(add)
        self._notice: tuple[SafeText, Level, float] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._key = ("", float("-inf"))
        self._pasted = False
        self._main = MainScreen(self.keys)
        self.theme = theme or _theme(terminal)

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> int:
        """Run until the person leaves. Never shows a traceback: a fault is written to a file that is named."""
        self.run(mouse=self.desk.terminal.mouse)
        if self.fault:
            self.farewell = [SafeText("a fault of this program closed the screen; the run was not touched and goes on")]
            if self.crash_file is not None:
                where = f"what happened is in {self.crash_file}"
            else:
                where = f"it could not be written to a file: {self.fault.strip().splitlines()[-1]}"
            self.farewell.append(one_line(f"{where}; `gptoss-tui` opens the screen again"))
        if isinstance(self._driver, SteadyDriver) and self._driver.stuck:
            self.farewell = []  # it would wait for a terminal that does not read, or is gone
        return self.return_code or 0

    def ended_by(self, number: int) -> None:
        """A signal, or a terminal that is gone: leave as `q` does. The run goes on."""
        self.leave()
        self.exit(return_code=128 + number)

    def get_default_screen(self) -> Screen[Any]:
        return self._main

    def on_mount(self) -> None:
        self.animation_level = "none"
        self.watch(self, "theme", self._dress)
        self.spawn(self.link.run(), "link")
        self.set_interval(TICK_S, self.tick, name="tick")
        if self.keys.problems:
            self.notice(one_line(self.keys.problems[0]), "warn")

    def _dress(self, theme: str) -> None:
        """Colours that can be read on this ground; in a browser the ground is ours too."""
        light = theme == "ansi-light"
        self.desk.look = Look(colour=self.desk.terminal.colour, light=light)
        if self.desk.terminal.web and self._driver is not None:
            self._driver.write(grounds(light=light))
        self.full_redraw()

    async def on_unmount(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.browser.close()

    def spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        """Run a coroutine beside the screen. What it raises closes the screen like any other fault."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._handle_exception(error if isinstance(error, Exception) else RuntimeError(str(error)))

    def _fatal_error(self) -> None:
        """Instead of Textual's traceback with local variables: prompts and paths would be on the terminal."""
        error = self._exception
        if isinstance(error, WorkerFailed):
            error = error.error  # with the place where it happened
        text = "".join(traceback.format_exception(error)) if error is not None else traceback.format_exc()
        if not self.fault:  # what comes after the first follows from it
            self.fault = text
            self.crash_file = _write_crash(self.workspace, text)
        self._close_messages_no_wait()

    def pane_failed(self, name: str, error: Exception) -> SafeText | None:
        """What to show in place of a pane that can't be drawn; None: let the fault end the program (tests).

        The others go on: somebody may be watching a run for which this one does not matter.
        """
        if self.is_headless:
            return None
        if name not in self._failed_panes:
            self._failed_panes[name] = _write_crash(self.workspace, "".join(traceback.format_exception(error)))
        where = self._failed_panes[name]
        told = f"what happened is in {where}" if where is not None else f"{type(error).__name__}: {error}"
        return one_line(f"a fault of this program: {name} can't be drawn. The run goes on; {told}")

    def panic(self, *renderables: RenderableType) -> None:
        """Textual's other way to end with a traceback."""
        del renderables
        self._return_code = 1
        self._fatal_error()

    def _connected(self) -> None:
        submits, self._add = self._add, []
        if submits:
            self.spawn(self.actions.submit(submits), "add")

    # --- what people are told -----------------------------------------------------------------------------------------

    def notice(self, text: SafeText, level: Level = "info") -> None:
        """One sentence on the key line for some seconds."""
        self._notice = (text, level, time.monotonic() + NOTICE_S.get(level, 6.0))
        self.redraw()

    @property
    def noticed(self) -> tuple[SafeText, Level] | None:
        """What is to be shown now."""
        if self._notice is None or time.monotonic() > self._notice[2]:
            self._notice = None
            return None
        return self._notice[:2]

    def why_not(self, action: str) -> str | None:
        return can.why_not(action, self.desk, self._main.in_focus)

    @property
    def pane(self) -> str:
        """The name of the pane in focus."""
        return self._main.in_focus

    @property
    def in_front(self) -> bool:
        """The panes are what the person sees."""
        return self.is_running and self._screen_stack_top() is self._main

    def _screen_stack_top(self) -> Screen[Any] | None:
        try:
            return self.screen
        except ScreenStackError:  # while it starts or ends
            return None

    @property
    def main(self) -> MainScreen:
        return self._main

    # --- keys ---------------------------------------------------------------------------------------------------------

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key) and isinstance(self._driver, SteadyDriver):
            # `time` is when it was read, however late it is looked at.
            self._pasted = event.key != self._key[0] and event.time - self._key[1] < PASTED_S
            self._key = (event.key, event.time)
        elif isinstance(event, events.MouseDown):
            self._pasted, self._key = False, ("", event.time)
        await super().on_event(event)

    def heeds(self, shown: float) -> bool:
        """Whether the last key can be the answer to a question that is shown since then (monotonic)."""
        typed = isinstance(self._driver, SteadyDriver)
        return not typed or (not self._pasted and self._key[1] - shown >= READ_S)

    def do(self, action: str, argument: str = "") -> None:
        """Do what a key or a command asks, or say why not."""
        reason = self.why_not(action)
        if reason is not None:
            self.notice(one_line(reason), "warn")
            return
        if self._pasted and action in CHANGES:
            self.notice(SafeText("keys came all at once, as pasted text does: those that change the run did nothing"))
            return
        self._notice = None  # it was read: a key was pressed
        self.actions.do(action, argument)
        self.redraw()

    def leave(self, *, stopped: bool = False) -> None:
        """Close the screen; the run goes on. What to print after it says so."""
        jobs = [job for job in self.desk.mirror.queue if job.state in ACTIVE or job.state == JobState.QUEUED]
        if stopped:
            self.farewell = [SafeText("everything is stopped and saved; `gptoss-tui` starts it again, r resumes")]
        elif jobs and self.desk.link.connected:
            more = f" and {plain.several(len(jobs) - 1, 'more job')}" if len(jobs) > 1 else ""
            self.farewell = [
                SafeText(f"the run goes on: {meanwhile.standing(jobs[0])}{more}; `gptoss-tui` shows it again")
            ]
        else:
            self.farewell = [SafeText("`gptoss-tui` opens this screen again")]
        self.exit(0)

    def full_redraw(self) -> None:
        """Everything once more, for a terminal that somebody else has written on."""
        self.refresh(layout=True)
        self.screen.refresh(layout=True)

    @property
    def can_suspend(self) -> bool:
        return self._driver is not None and self._driver.can_suspend

    def writer(self) -> Callable[[str], object] | None:
        """For sequences to the person's own terminal; None where there is none (tests, a browser).

        It returns False where the terminal does not take them.
        """
        driver = self._driver
        if driver is None or self.is_headless or self.is_web:
            return None
        return driver.write_surely if isinstance(driver, SteadyDriver) else driver.write

    def copy_to_clipboard(self, text: str) -> None:
        """What Textual's fields do at ctrl+c and ctrl+x, with nothing selected too: that would empty the clipboard."""
        write = self.writer()
        decision = clipboard.decide(text, self.desk.terminal, reachable=write is not None)
        if text and write is not None and decision.sequence:
            write(decision.sequence)

    def toggle_mouse(self) -> bool | None:
        """Switch mouse reports on or off; None where that can't be done."""
        driver = self._driver
        if not isinstance(driver, SteadyDriver):
            return None
        return driver.set_mouse(not driver.mouse)

    # --- drawing ------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look at what is new and draw it, as often as the terminal takes it."""
        driver = self._driver
        backlog = driver.backlog if isinstance(driver, SteadyDriver) else 0
        sent = driver.sent_bytes if isinstance(driver, SteadyDriver) else 0
        draw = self.pace.tick(time.monotonic(), backlog=backlog, sent_bytes=sent, low=self.desk.view.low_bandwidth)
        link = self.desk.link
        link.hz, link.kib_s, link.slow = self.pace.hz, self.pace.kib_s, self.pace.slow
        if isinstance(driver, SteadyDriver) and driver.missed and backlog == 0:
            driver.missed = False
            self.refresh(layout=True)
        self.actions.follow_up()
        if draw:
            self.redraw()

    def redraw(self) -> None:
        """Draw what has changed on the screen that is on top."""
        if not self.is_running:
            return
        top = self._screen_stack_top()
        if top is self._main:
            self._main.redraw()
        elif (draw := getattr(top, "redraw", None)) is not None:
            draw()


def _driver(app: Any) -> type[Driver] | None:
    """Ours on a Linux terminal; Textual's own choice elsewhere (a browser, a test)."""
    default = App.get_driver_class(app)
    return SteadyDriver if default is LinuxDriver else None


def _theme(terminal: Terminal) -> str:
    """The terminal's own palette: fewest bytes, and it is what its owner chose."""
    return f"ansi-{terminal.theme}"


def _write_crash(workspace: Workspace, text: str) -> Path | None:
    """The fault with its traceback, without local variables. None where nothing can be written."""
    name = f"screen-crash-{time.strftime('%Y%m%d-%H%M%S')}"
    for folder in (workspace.runner_folder, Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return clipboard.write_new(text, folder, name)
        except OSError:
            continue
    return None
