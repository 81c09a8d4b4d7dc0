"""What keys do: the screen's own part here, what is asked of the runner in `tui.orders`, texts in `tui.texts`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.errors import GptossError
from engine.protocol import Submit
from tui import can, plain
from tui.keys import PANES
from tui.layout import arrange
from tui.orders import Orders
from tui.text import SafeText, one_line
from tui.texts import Texts
from tui.view import LAYOUTS, Channels, Which
from tui.watching import Watching

if TYPE_CHECKING:
    from tui.app import GptossApp

WALLS = (4, 0, 1, 2)

LOOK_BACK = 200
"""Rows before a line number among which its request is looked for: so many lines of the file may hold none."""


class Actions:
    """One method an action. `do` has checked already that it can act."""

    def __init__(self, app: GptossApp) -> None:
        self._app = app
        self._orders = Orders(app)
        self._texts = Texts(app)
        self._watching = Watching(app)
        self._own: dict[str, Callable[[str], None]] = {
            "add": self._add,
            "mark": self._mark,
            "open": self._open,
            "back": self._back,
            "results": self._results,
            "find": self._find,
            "next": lambda _: self._step(1),
            "previous": lambda _: self._step(-1),
            "failures": self._failures,
            "which": self._which,
            "follow": self._follow,
            "wrap": self._wrap,
            "channel": self._channel,
            "wall": self._wall,
            "memory": self._memory,
            "zoom": self._zoom,
            "layout": self._layout,
            "low_bandwidth": self._low_bandwidth,
            "mouse": self._mouse,
            "theme": self._theme,
            "hz": self._hz,
            "redraw": lambda _: self._app.full_redraw(),
            "suspend": self._suspend,
            "help": self._help,
            "commands": self._commands,
            "leave": lambda _: self._app.leave(),
            "pane_next": lambda _: self._app.main.next_pane(1),
            "pane_previous": lambda _: self._app.main.next_pane(-1),
            "job": self._go_to_job,
            "request": self._go_to_request,
            "line": self._go_to_line,
        }
        self._own.update({f"pane_{name}": lambda _, name=name: self._pane(name) for name in PANES})

    def do(self, action: str, argument: str = "") -> None:
        own = self._own.get(action)
        if own is not None:
            own(argument)
        elif not self._orders.do(action) and not self._texts.do(action):
            self._app.notice(one_line(f"{action} means nothing here"), "warn")

    def follow_up(self) -> None:
        """Once a tick: choose what nobody has chosen, ask for the rows and texts that are in view."""
        self._watching.tick()

    async def submit(self, submits: list[Submit]) -> None:
        await self._orders.submit(submits)

    # --- screens ------------------------------------------------------------------------------------------------------

    def _add(self, argument: str) -> None:
        from tui.screens.add import AddChoice, AddScreen

        def chosen(choice: AddChoice | None) -> None:
            if choice is not None:
                self._app.spawn(
                    self._orders.submit([Submit(id=0, path=choice.path, settings=choice.settings)]), "submit"
                )

        del argument
        self._app.push_screen(AddScreen(self._app.workspace, self._app.desk.mirror.queue), chosen)

    def _results(self, argument: str) -> None:
        from tui.screens.results import ResultsScreen

        desk = self._app.desk
        job = desk.mirror.jobs[desk.view.job]
        self._app.push_screen(
            ResultsScreen(desk, self._app.browser, self._app.keys, job, custom_id=argument),
            lambda _: self._watching.reopen(),
        )

    def _memory(self, argument: str) -> None:
        from tui.screens.memory import MemoryScreen

        del argument

        def closed(then: str | None) -> None:
            if then:
                self._app.do(then)

        self._app.push_screen(MemoryScreen(self._app.keys, readonly=self._app.desk.readonly), closed)

    def _help(self, argument: str) -> None:
        from tui.screens.help import HelpScreen

        del argument
        where = "main" if self._app.in_front else "results"
        self._app.push_screen(HelpScreen(self._app.keys, where, self._app.why_not, self._app.pane))

    def _commands(self, argument: str) -> None:
        from tui.screens.commands import CommandsScreen

        del argument

        def chosen(choice: tuple[str, str] | None) -> None:
            if choice is not None:
                self._app.do(*choice)

        where = "main" if self._app.in_front else "results"
        self._app.push_screen(CommandsScreen(self._app.keys, self._app.why_not, where), chosen)

    # --- going about --------------------------------------------------------------------------------------------------

    def _pane(self, name: str) -> None:
        main, view = self._app.main, self._app.desk.view
        if view.zoomed and view.zoomed != name:
            view.zoomed = name
            main.place()
        if main.focus_pane(name):
            return
        size = self._app.size
        if name in arrange(size.width, size.height):
            view.layout = LAYOUTS[0]  # this layout leaves it out
        else:
            view.zoomed = name  # there is no room for it beside the others
        main.place()
        main.focus_pane(name)

    def _open(self, _: str) -> None:
        view = self._app.desk.view
        match self._app.pane:
            case "jobs":
                if "requests" in self._boxes():
                    self._app.main.focus_pane("requests")
                elif view.job:
                    self._app.do("results")
            case "requests" | "streams" if view.request:
                self._app.do("results", view.request)
            case "memory":
                self._app.do("memory")
            case "log" | "rate":
                self._zoom("")
            case _:
                self._app.do("results")

    def _boxes(self) -> dict[str, object]:
        size, view = self._app.size, self._app.desk.view
        return dict(arrange(size.width, size.height, layout=view.layout, zoomed=view.zoomed))

    def _back(self, _: str) -> None:
        """The nearest thing that can be undone: zoom, marks, filter, then up to the jobs."""
        view = self._app.desk.view
        if view.zoomed:
            self._zoom("")
        elif view.marked_requests or view.marked_jobs:
            view.marked_requests = set()
            view.marked_jobs = set()
        elif view.query or view.which is not Which.ALL:
            view.query, view.which = "", Which.ALL
        elif view.chosen and self._app.pane in can.REQUEST_PANES:
            view.chosen = False
            view.follow = True
            self._app.main.focus_pane("jobs")
        else:
            self._app.main.focus_pane("jobs")

    def _go_to_job(self, name: str) -> None:
        jobs = self._app.desk.mirror.jobs
        found = [job for job in jobs if job == name] or [job for job in jobs if job.startswith(name)]
        if len(found) != 1:
            what = "several jobs begin" if found else "no job begins"
            self._app.notice(one_line(f"{what} with {name}"), "warn")
            return
        self._app.desk.view.select_job(found[0])
        self._pane("jobs")

    def _go_to_request(self, custom_id: str) -> None:
        view = self._app.desk.view
        view.which, view.query = Which.ALL, ""
        view.request, view.chosen = custom_id, True
        self._app.do("results", custom_id)

    def _go_to_line(self, number: str) -> None:
        if not number.isdecimal() or not int(number):
            self._app.notice(one_line(f"{number!r} is no line number"), "warn")
            return
        self._app.spawn(self._opened_at(int(number)), "line")

    async def _opened_at(self, number: int) -> None:
        """Lines without a request (blank ones) come before it, so its row is at most `number` - 1."""
        app = self._app
        job = app.desk.view.job
        try:
            await app.browser.open(app.workspace, job)
            page = await app.browser.page(offset=max(0, number - LOOK_BACK), count=LOOK_BACK)
        except GptossError as error:
            app.notice(one_line(error.text), "error")
            return
        found = next((row.custom_id for row in page.rows if row.line == number), None)
        if found is None:
            app.notice(one_line(f"no request of {job} is on line {number}"), "warn")
        elif app.in_front and app.desk.view.job == job:
            self._go_to_request(found)

    def _mark(self, _: str) -> None:
        view, name = self._app.desk.view, self._app.pane
        if name == "jobs" and view.job:
            view.marked_jobs = view.marked_jobs ^ {view.job}
        elif name == "requests" and view.request:
            view.marked_requests = view.marked_requests ^ {view.request}
        else:
            self._app.notice(SafeText("rows are marked in the lists of jobs (1) and requests (4)"), "warn")
            return
        self._app.main.panes[name].act("down")

    def _find(self, argument: str) -> None:
        view = self._app.desk.view
        if argument:
            self._search(argument)
            return
        from tui.screens.ask import AskScreen

        def said(text: str | None) -> None:
            if text is not None:
                self._search(text)

        self._app.push_screen(AskScreen("find in the requests (custom_id, prompt, answer, error)", view.query), said)

    def _search(self, text: str) -> None:
        self._app.desk.view.query = text
        if "requests" in self._boxes():
            self._app.main.focus_pane("requests")
        else:
            self._pane("requests")

    def _step(self, by: int) -> None:
        """The requests pane lists only what matches, so the next match is the next row."""
        if not self._app.desk.view.query:
            self._app.notice(SafeText("nothing is searched for: / finds"), "warn")
            return
        pane = self._app.main.panes["requests"]
        pane.act("down" if by > 0 else "up")

    def _failures(self, _: str) -> None:
        view = self._app.desk.view
        view.which = Which.ALL if view.which is Which.FAILED else Which.FAILED
        if view.which is Which.FAILED and "requests" in self._boxes():
            self._app.main.focus_pane("requests")

    def _which(self, _: str) -> None:
        view = self._app.desk.view
        order = list(Which)
        view.which = order[(order.index(view.which) + 1) % len(order)]

    # --- how it looks -------------------------------------------------------------------------------------------------

    def _follow(self, _: str) -> None:
        view = self._app.desk.view
        view.follow = not view.follow

    def _wrap(self, _: str) -> None:
        view = self._app.desk.view
        view.wrap = not view.wrap
        self._app.notice(SafeText("long lines are wrapped" if view.wrap else "long lines are cut: h and l move"))

    def _channel(self, _: str) -> None:
        view = self._app.desk.view
        order = list(Channels)
        view.channels = order[(order.index(view.channels) + 1) % len(order)]
        names = {
            Channels.ALL: "reasoning and answer",
            Channels.ANSWER: "answer only",
            Channels.REASONING: "reasoning only",
        }
        self._app.notice(SafeText(f"shown: {names[view.channels]}"))

    def _wall(self, _: str) -> None:
        view = self._app.desk.view
        view.wall = WALLS[(WALLS.index(view.wall) + 1) % len(WALLS)] if view.wall in WALLS else WALLS[0]
        words = f"up to {plain.several(view.wall, 'further stream')}, where there is room"
        self._app.notice(SafeText(words if view.wall else "one stream only"))

    def _zoom(self, _: str) -> None:
        view = self._app.desk.view
        view.zoomed = "" if view.zoomed else self._app.pane
        self._app.main.place()

    def _layout(self, _: str) -> None:
        view = self._app.desk.view
        view.zoomed = ""
        view.layout = LAYOUTS[(LAYOUTS.index(view.layout) + 1) % len(LAYOUTS)]
        self._app.main.place()
        self._app.notice(SafeText(f"layout: {view.layout}"))

    def _low_bandwidth(self, _: str) -> None:
        view = self._app.desk.view
        view.low_bandwidth = not view.low_bandwidth
        said = "low bandwidth: one redraw a second, one stream, no graphs" if view.low_bandwidth else "full bandwidth"
        self._app.notice(SafeText(said))

    def _hz(self, argument: str) -> None:
        try:
            hz = float(argument)
        except ValueError:
            self._app.notice(one_line(f"{argument!r} is no number of redraws a second"), "warn")
            return
        if not 0.1 <= hz <= 4.0:
            self._app.notice(SafeText("between 0.1 and 4 redraws a second"), "warn")
            return
        self._app.pace.set_top(hz)
        self._app.notice(SafeText(f"{hz:g} redraws a second"))

    def _mouse(self, _: str) -> None:
        on = self._app.toggle_mouse()
        if on is None:
            self._app.notice(SafeText("the mouse can't be switched here"), "warn")
        elif on:
            self._app.notice(SafeText("mouse on: your terminal selects text with shift held"))
        else:
            self._app.notice(SafeText("mouse off: your terminal selects text again"))

    def _theme(self, argument: str) -> None:
        themes = {"dark": "ansi-dark", "light": "ansi-light"}
        if argument and argument not in themes:
            self._app.notice(one_line(f"no theme {argument}: dark or light"), "warn")
            return
        now = "light" if self._app.theme == themes["dark"] else "dark"
        self._app.theme = themes[argument or now]
        self._app.notice(SafeText(f"theme: {argument or now}"))

    def _suspend(self, _: str) -> None:
        if not self._app.can_suspend:
            self._app.notice(SafeText("there is no shell behind this screen"), "warn")
            return
        signal.raise_signal(signal.SIGTSTP)
