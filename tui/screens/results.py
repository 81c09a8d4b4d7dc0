"""Results of a job: every request with its prompt, answer and error, found among any number, while it runs or after.

The list is above or on the left, the chosen request below or on the right. All of it comes from the files by
`tui.browser`, in a process of its own; this screen sends no commands to the runner.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, cast

import msgspec
from textual import events
from textual.app import ComposeResult

from engine import client as clients
from engine.errors import GptossError
from engine.job import ENDED
from engine.pages import AskPage, Detail, Page
from engine.protocol import Channel, JobView, RunningRequest
from engine.workspace import Workspace
from tui import clipboard, external
from tui.draw.detail import Part, taken
from tui.keys import MOVES, KeyTable
from tui.notice import Level, Notice
from tui.panes.keyline import KeyLine
from tui.screens.parts import ClosesOnce
from tui.screens.results_detail import ResultsDetail
from tui.screens.results_list import ResultsList
from tui.text import SafeText, one_line
from tui.view import Which

if TYPE_CHECKING:
    from tui.app import GptossApp
    from tui.desk import Desk

SIDE_BY_SIDE: Final = 110
"""Columns from which on list and request stand beside each other."""

LIST_ROWS: Final = 8
"""Of the list with its title where it stands above the request."""

AGAIN_S: Final = 1.0
"""Shortest time between two looks at the same request while it changes."""

_SCREEN = ("redraw", "theme", "mouse", "low_bandwidth", "suspend", "pane_next", "pane_previous")
"""Actions of the main screen that mean the same here."""


class Browser(Protocol):
    """What this screen asks of `tui.browser.Browser`."""

    async def open(self, workspace: Workspace, job: str) -> None: ...

    async def page(
        self,
        *,
        which: str = "all",
        text: str = "",
        offset: int = 0,
        count: int = 50,
        taken_out: Sequence[str] = (),
        around: str = "",
    ) -> Page: ...

    async def detail(self, custom_id: str) -> Detail: ...


class ResultsScreen(ClosesOnce[None], inherit_bindings=False):
    """Requests of one job and what became of them."""

    DEFAULT_CSS = """
    ResultsScreen { layers: panes; overflow: hidden hidden; }
    ResultsScreen Pane { position: absolute; layer: panes; }
    """
    AUTO_FOCUS: ClassVar[str | None] = ""

    def __init__(
        self, desk: Desk, browser: Browser, table: KeyTable, job: JobView | str, *, custom_id: str = ""
    ) -> None:
        """`custom_id`: the request to show first."""
        super().__init__()
        self.clock: Callable[[], float] = time.monotonic
        """Seconds; paces questions."""
        self._desk = desk
        self._browser = browser
        self._table = table
        self._view = job if isinstance(job, JobView) else desk.mirror.jobs[job]
        self._first = custom_id
        self._direct = bool(custom_id)
        """One key led to the request, so one leads back."""
        self._actions = _lookup(table)
        self._tasks: set[asyncio.Task[None]] = set()
        self._paging = self._loading = self._exporting = False
        self._wanted: Hashable = None
        self._wanted_t = float("-inf")
        self._detail: Detail | None = None
        self._fault = ""  # why there is no detail; safe
        self._before = (desk.view.request, desk.view.chosen)
        self._watched = ""  # custom_id that this screen put into the view, so that its text is streamed
        self._live: tuple[Detail, Hashable, Detail] | None = None
        self.list = ResultsList(self._view)
        if custom_id and desk.view.job == self._view.id and desk.view.which is not Which.RUNNING:
            self.list.which = desk.view.which  # it was chosen among these
        self._began_with = self.list.which
        self.detail = ResultsDetail()
        self.foot = KeyLine(table, where="results")

    @property
    def host(self) -> GptossApp:
        return cast("GptossApp", self.app)

    @property
    def job(self) -> JobView:
        """As the runner said last."""
        return self._desk.mirror.jobs.get(self._view.id, self._view)

    @property
    def busy(self) -> bool:
        """A question is on its way, or other work."""
        return bool(self._tasks)

    # --- life ---------------------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        yield self.list
        yield self.detail
        yield self.foot

    def on_mount(self) -> None:
        self.place()
        if self._first:
            self.list.go_to(self._first)
        (self.detail if self._first else self.list).focus()
        self.redraw()

    async def on_unmount(self) -> None:
        if self._watched and self._desk.view.request == self._watched:
            self._desk.view.request, self._desk.view.chosen = self._before
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def on_resize(self) -> None:
        self.place()
        self.redraw()

    def on_screen_resume(self) -> None:
        self.place()
        self.redraw()

    def place(self) -> None:
        """Give list, request and last row their boxes."""
        size = self.app.size
        rows = max(1, size.height - 1)
        beside = size.width >= SIDE_BY_SIDE
        if beside:
            wide = min(84, max(50, size.width * 2 // 5))
            boxes = [(0, 0, wide, rows), (wide, 0, size.width - wide, rows)]
        else:
            high = min(LIST_ROWS, max(2, rows // 3))
            boxes = [(0, 0, size.width, high), (0, high, size.width, max(1, rows - high))]
        self.detail.divider = beside
        boxes.append((0, rows, size.width, 1))
        for pane, (x, y, columns, high) in zip((self.list, self.detail, self.foot), boxes, strict=True):
            pane.styles.offset = (x, y)
            pane.styles.width = columns
            pane.styles.height = high

    # --- drawing ------------------------------------------------------------------------------------------------------

    def redraw(self) -> None:
        """Once a tick, after a key and after an answer: ask for what is missing, draw what is there."""
        if not self.is_mounted or not self.app.is_running:
            return
        self.list.prepare(self._desk, self.job)
        self._ask()
        self._show()
        noticed = self.host.noticed
        self.foot.show(self._table, self._why_not, Notice(noticed[0], noticed[1]) if noticed else None)
        self.list.redraw()
        self.detail.redraw()

    def _show(self) -> None:
        """Hand the detail pane what is known of the selected request."""
        selected = self.list.selected
        running = self.list.running(selected)
        view = self._desk.view
        if running is not None and view.job == self._view.id and selected != self._watched:
            self._watched = view.request = selected
            view.chosen = True
        if self._detail is None or self._detail.row.custom_id != selected:
            why = self._fault if self._fault and self._asked_id == selected else "reading it" if selected else ""
            # What was shown stays until the next one is there, so that moving on does not flicker.
            if why == "reading it" and self._detail is not None and self._loading:
                return
            self.detail.show(None, why=why)
            return
        self.detail.show(self._with_live(self._detail, running), running)

    def _with_live(self, detail: Detail, running: RunningRequest | None) -> Detail:
        """With the text so far of one that is generated right now."""
        if running is None:
            return detail
        transcript = self._desk.transcripts.get(self._view.id, detail.row.custom_id)
        if transcript is None:
            return detail
        key = (id(transcript), transcript.version)
        if self._live is None or self._live[0] is not detail or self._live[1] != key:
            texts = {
                "reasoning": transcript.true_text(Channel.REASONING),
                "answer": transcript.true_text(Channel.ANSWER),
            }
            self._live = (detail, key, msgspec.structs.replace(detail, partial=True, **texts))
        return self._live[2]

    # --- asking the files ---------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self.host.spawn(work, name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def _asked_id(self) -> str:
        return self._wanted[0] if isinstance(self._wanted, tuple) else ""

    def _ask(self) -> None:
        """One question of each kind at a time: moving over many rows asks only for the last."""
        now = self.clock()
        window = self.list.window
        if not self._paging and (ask := window.want(now)) is not None:
            self._paging = True
            self._spawn(self._page(ask), "results-page")
        row = self.list.current
        if row is None or row.custom_id != self.list.selected or self._loading:
            return
        # A running request's figures come from the runner; what the files hold of it changes at its end.
        wanted = (row.custom_id, "running" if row.state == "running" else row)
        if wanted != self._wanted and (wanted[0] != self._asked_id or now - self._wanted_t >= AGAIN_S):
            self._wanted, self._wanted_t = wanted, now
            self._loading = True
            self._spawn(self._load(row.custom_id), "results-detail")

    async def _page(self, ask: AskPage) -> None:
        window = self.list.window
        try:
            # At once before each question: other screens open other runs.
            await self._browser.open(self.host.workspace, self._view.id)
            page = await self._browser.page(
                which=ask.which,
                text=ask.text,
                offset=ask.offset,
                count=ask.count,
                taken_out=ask.taken_out,
                around=ask.around,
            )
        except GptossError as error:
            window.fail(ask, error.text, self.clock())
        else:
            window.take(ask, page)
        finally:
            self._paging = False
        self.redraw()

    async def _load(self, custom_id: str) -> None:
        try:
            await self._browser.open(self.host.workspace, self._view.id)
            self._detail = await self._browser.detail(custom_id)
            self._fault = ""
        except GptossError as error:
            self._detail = None
            self._fault = one_line(error.text)
        finally:
            self._loading = False
        self.redraw()

    # --- keys ---------------------------------------------------------------------------------------------------------

    def on_key(self, event: events.Key) -> None:
        action = self._actions.get(event.key)
        if action is None:
            other = self._table.lookup("main").get(event.key)
            if other is not None:
                event.stop()
                event.prevent_default()
                self._say(f"{other.replace('_', ' ')} is a key of the main screen: esc goes back there", "warn")
            return
        event.stop()
        event.prevent_default()
        self.act(action)

    def act(self, action: str) -> None:
        """Do what a key says, or say why not."""
        if action in MOVES:
            pane = self.detail if self.detail.has_focus or action in ("left", "right") else self.list
            if pane.act(action):
                self.redraw()
            elif action in ("left", "right") and self.detail.wrap:
                self._say("long lines are wrapped; w cuts them, then left and right move")
            return
        match action:
            case "open":
                self.detail.focus()
            case "back":
                self._back()
            case "pane_next" | "pane_previous":
                (self.list if self.detail.has_focus else self.detail).focus()
                self._direct = False
            case "find":
                self._find()
            case "next":
                self._step(1)
            case "previous":
                self._step(-1)
            case "failures":
                self._look_at(Which.ALL if self.list.which is Which.FAILED else Which.FAILED, self.list.sought)
            case "which":
                order = list(Which)
                self._look_at(order[(order.index(self.list.which) + 1) % len(order)], self.list.sought)
            case "wrap":
                self.detail.wrap = not self.detail.wrap
                self.detail.left = 0
                self._say("long lines are wrapped" if self.detail.wrap else "long lines are cut: left and right move")
            case "channel":
                order = list(Part)
                self.detail.turn(order[(order.index(self.detail.part) + 1) % len(order)])
            case "copy" | "save" | "pager":
                self._text(action)
            case "editor":
                self._with_detail(self._edit)
            case "export":
                self._export()
            case _:
                self.host.do(action)
        self.redraw()

    def _why_not(self, action: str) -> str | None:
        """For the last row: what means something here needs the request, and nothing else."""
        if action in ("copy", "save", "editor", "pager", "open", "channel") and not self.list.selected:
            return "no request is chosen"
        if action == "open" and self.detail.has_focus:
            return "the request is open"
        return None

    def _say(self, text: str, level: Level = "info") -> None:
        """`text` is safe already."""
        self.host.notice(SafeText(text), level)

    def _told(self, outcome: clipboard.Outcome) -> None:
        self.host.notice(outcome.sentence, outcome.level)

    def _back(self) -> None:
        """The nearest thing that can be undone: the request, the search, the filter; then the screen."""
        if self.list.sought:
            self._look_at(self.list.which, "")
        elif self.detail.has_focus and not self._direct:
            self.list.focus()
        elif self.list.which not in (Which.ALL, self._began_with):
            self._look_at(Which.ALL, "")
        else:
            self.dismiss(None)

    def _look_at(self, which: Which, query: str) -> None:
        self.list.look_at(which, query)
        self.detail.seek(query)

    def _find(self) -> None:
        from tui.screens.ask import AskScreen

        def said(text: str | None) -> None:
            if text is not None:
                self._look_at(self.list.which, text)
                self.redraw()

        hint = "enter lists what holds it; n and N go on, esc shows all again"
        title = f"search {one_line(self._view.id)}: custom_id, prompt, reasoning, answer, error"
        self.app.push_screen(AskScreen(title, self.list.sought, hint=hint), said)

    def _step(self, by: int) -> None:
        """The next place in the request that holds the text, then the next request of the list."""
        if not self.list.sought:
            self._say("nothing is searched for: / searches", "warn")
        elif not self.detail.match(by):
            before = self.list.selected
            self.list.act("down" if by > 0 else "up")
            if self.list.selected == before and before:
                more = self.list.window.fraction < 1
                self._say("no further match yet" if more else "no further match", "warn")

    def _with_detail(self, then: Any) -> None:
        detail = self.detail.detail
        if detail is None or detail.row.custom_id != self.list.selected:
            self._say(
                "no request is chosen" if not self.list.selected else "it is being read: once more, please", "warn"
            )
        else:
            self._spawn(then(detail), "results-text")

    # --- texts --------------------------------------------------------------------------------------------------------

    def _text(self, action: str) -> None:
        async def go(detail: Detail) -> None:
            what, text = taken(detail, self.detail.part)
            name = one_line(detail.row.custom_id)
            if not text:
                self._say(f"{name} has no {what}: nothing to {_VERBS[action]}", "warn")
                return
            file = detail.row.custom_id if what == "answer" else f"{detail.row.custom_id} {what}"
            root = self.host.workspace.root
            folder = clipboard.folder_for(self.host.workspace, self._view.id)
            match action:
                case "copy":
                    outcome = await clipboard.copy(
                        text,
                        terminal=self._desk.terminal,
                        write=self.host.writer(),
                        folder=folder,
                        name=file,
                        root=root,
                    )
                case "save":
                    outcome = await asyncio.to_thread(clipboard.save, text, folder, file, root=root)
                case _:
                    outcome = external.page(self.host, text, file, colour=self._desk.terminal.colour)
            if action != "pager":
                outcome = outcome._replace(sentence=SafeText(f"{what}: {outcome.sentence}"))
            self._told(outcome)
            self.redraw()

        self._with_detail(go)

    async def _edit(self, detail: Detail) -> None:
        where = external.target(
            detail.input_path,
            detail.row.line,
            detail.input_line,
            file_bytes=await asyncio.to_thread(external.size_of, detail.input_path),
            readonly=self._desk.readonly,
            active=self.job.state not in ENDED,
        )
        self._told(external.edit(self.host, where, colour=self._desk.terminal.colour))
        self.redraw()

    # --- export -------------------------------------------------------------------------------------------------------

    def _export(self) -> None:
        if self._exporting:
            self._say("the export is being written already", "warn")
            return
        self._exporting = True
        self._say("writing the export: all results in the order of the input")
        self._spawn(self._write_export(), "results-export")

    async def _write_export(self) -> None:
        workspace = self.host.workspace
        try:
            async for item in clients.offline("export", [str(workspace.run_folder(self._view.id))]):
                if item.get("kind") == "summary":
                    self._say("; ".join(_exported(item, workspace.root)))
        except GptossError as error:
            self.host.notice(one_line(error.text), "error")
        finally:
            self._exporting = False
        self.redraw()


_VERBS = {"copy": "copy", "save": "save", "pager": "show"}


def _lookup(table: KeyTable) -> dict[str, str]:
    """Textual's name of a key → its action here."""
    found = table.lookup("results")
    for action in _SCREEN:
        for name in table[action].keys.split(","):
            found.setdefault(name, action)
    # Who knows `q` as leaving goes back from here; ctrl+c leaves from everywhere.
    for name in table["leave"].keys.split(","):
        found.setdefault(name, "leave" if "+" in name else "back")
    return found


def _exported(item: dict[str, Any], root: Path) -> Iterator[str]:
    """What the export came to, in safe words."""
    output = _shown(str(item.get("output")), root)
    yield f"exported {item.get('completed')} answers to {output}"
    if item.get("errors"):
        failed = f"{item.get('failed')} failed, {item.get('cancelled')} not run"
        yield f"{failed}: {_shown(str(item['errors']), root)}"
    notes = item.get("notes")
    if isinstance(notes, list) and notes:
        yield f"note: {one_line(str(notes[0]))}"


def _shown(path: str, root: Path) -> str:
    full = Path(path)
    return one_line(str(full.relative_to(root) if full.is_relative_to(root) else full))
