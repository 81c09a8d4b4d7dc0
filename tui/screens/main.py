"""The panes, where they stand and which has the focus. Decides nothing about the run: keys go to the app by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual import events
from textual.app import ComposeResult
from textual.screen import Screen

from tui.draw.line import EMPTY, Line, line
from tui.keys import MOVES, PANES, KeyTable, first
from tui.layout import TOO_LOW, TOO_NARROW, arrange
from tui.notice import Notice
from tui.panes.header import Header
from tui.panes.jobs import JobsPane
from tui.panes.keyline import KeyLine
from tui.panes.log import LogPane
from tui.panes.memory import MemoryPane
from tui.panes.pane import Pane
from tui.panes.rate import RatePane
from tui.panes.requests import RequestsPane
from tui.panes.streams import StreamsPane

if TYPE_CHECKING:
    from tui.app import GptossApp
    from tui.desk import Desk


class SmallPane(Pane):
    """Stands where the terminal is too small for lists and texts."""

    can_focus = False

    def rows(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        del desk
        size = self.app.size
        words = [
            f"{size.width}x{size.height} is too small for jobs and texts: {TOO_NARROW}x{TOO_LOW} is needed.",
            "The run goes on.",
        ]
        if columns < 40 or rows < 2:
            return [line((f"too small: {TOO_NARROW}x{TOO_LOW} needed", "warn"))]
        return [EMPTY] * max(0, (rows - 2) // 2) + [line((words[0], "warn")), line(words[1])]


class MainScreen(Screen[None], inherit_bindings=False):
    """All panes at once."""

    def __init__(self, table: KeyTable) -> None:
        super().__init__()
        self.panes: dict[str, Pane] = {
            "header": self._header(table),
            "memory": MemoryPane(),
            "rate": RatePane(),
            "jobs": JobsPane(),
            "requests": RequestsPane(),
            "streams": StreamsPane(),
            "log": LogPane(),
            "small": SmallPane(),
            "keys": KeyLine(table),
        }
        self._table = table
        self._keys = table.lookup("main")

    @staticmethod
    def _header(table: KeyTable) -> Header:
        header = Header()
        header.help_key, header.add_key = first(table["help"].keys), first(table["add"].keys)
        return header

    @property
    def streams(self) -> StreamsPane:
        pane = self.panes["streams"]
        assert isinstance(pane, StreamsPane)
        return pane

    @property
    def host(self) -> GptossApp:
        return cast("GptossApp", self.app)

    def compose(self) -> ComposeResult:
        yield from self.panes.values()

    def on_mount(self) -> None:
        self.place()
        self.set_focus(self.panes["jobs"])

    def on_resize(self) -> None:
        self.place()

    # --- where they stand ---------------------------------------------------------------------------------------------

    def place(self) -> None:
        """Give every pane its box; those without one are hidden, and lose the focus to the next."""
        view = self.host.desk.view
        size = self.app.size
        boxes = arrange(size.width, size.height, layout=view.layout, zoomed=view.zoomed)
        for name, pane in self.panes.items():
            box = boxes.get(name)
            pane.display = box is not None
            if box is None:
                continue
            pane.divider = box.divider
            pane.styles.offset = (box.x, box.y)
            pane.styles.width = box.columns
            pane.styles.height = box.rows
        focused = self.focused
        if focused is not None and not focused.display:
            self.focus_pane(next((n for n in ("jobs", "streams", "memory", *PANES) if n in boxes), ""))

    @property
    def in_focus(self) -> str:
        """The name of the pane with the focus; "" for none."""
        return self.focused.NAME if isinstance(self.focused, Pane) else ""

    def focus_pane(self, name: str) -> bool:
        pane = self.panes.get(name)
        if pane is None or not pane.display:
            return False
        self.set_focus(pane)  # at once: the next key may be in the queue already
        return True

    def next_pane(self, step: int) -> None:
        shown = [name for name in PANES if self.panes[name].display]
        if shown:
            at = shown.index(self.in_focus) if self.in_focus in shown else -1 if step > 0 else 0
            self.focus_pane(shown[(at + step) % len(shown)])

    # --- drawing and keys ---------------------------------------------------------------------------------------------

    def redraw(self) -> None:
        """Once a tick, and after a key."""
        host = self.host
        noticed = host.noticed
        keys = self.panes["keys"]
        if isinstance(keys, KeyLine):
            notice = Notice(*noticed) if noticed is not None else None
            keys.show(self._table, host.why_not, notice, pane=self.in_focus)
        for pane in self.panes.values():
            if pane.display:
                pane.redraw()

    def on_key(self, event: events.Key) -> None:
        action = self._keys.get(event.key)
        if action is None:
            return
        event.stop()
        event.prevent_default()
        if action not in MOVES:
            self.host.do(action)
            return
        pane = self.focused
        if isinstance(pane, Pane) and pane.act(action):
            self.redraw()
