"""All keys, made from the key table alone: by group, with the reason beside each that can't be used now."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.events import Mount
from textual.widgets import Input

from tui.keys import KeyTable
from tui.keys_doc import WhyNot, help_lines
from tui.screens.parts import Dialog, Field, Words
from tui.text import one_line


class HelpScreen(Dialog[None]):
    """`where` is "main" or "results", `pane` the name of what has the focus ("" for none)."""

    DEFAULT_CSS = """
    HelpScreen > .frame { height: 100%; max-width: 110; }
    HelpScreen VerticalScroll { height: 1fr; scrollbar-size-vertical: 1; }
    HelpScreen Field { display: none; }
    HelpScreen.-typing Field { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "type", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("up,k", "move(-1)", show=False),
        Binding("pagedown,space,ctrl+d,ctrl+f", "page(1)", show=False),
        Binding("pageup,b,ctrl+u", "page(-1)", show=False),
        Binding("question_mark,f1", "again", show=False),
        Binding("home,g", "edge(0)", show=False),
        Binding("end,G", "edge(1)", show=False),
    ]

    def __init__(self, table: KeyTable, where: str, why_not: WhyNot, pane: str = "") -> None:
        super().__init__()
        self._table = table
        self._where = where
        self._why_not = why_not
        self._pane = one_line(pane)

    def compose(self) -> ComposeResult:
        with Vertical(classes="frame"):
            place = "results" if self._where == "results" else "this screen"
            yield Words(f"Keys of {place}" + (f", with {self._pane} in focus" if self._pane else ""), classes="title")
            yield Field(hint="type what a key should do")
            with VerticalScroll(can_focus=False):
                yield Words()
            yield Words("esc close   / search   ? next page   j k scroll", classes="dim", id="hint")

    def on_mount(self, event: Mount) -> None:
        super().on_mount(event)
        self._draw()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        if not self.query(Field):  # called later: the help has been closed meanwhile
            return
        box = self.query_one(VerticalScroll)
        columns = (box.size.width or min(108, self.app.size.width - 4)) - 1  # the scrollbar's column
        lines = help_lines(self._table, self._where, self._why_not, columns, self.query_one(Field).value)
        box.query_one(Words).lines(lines)

    # --- searching ----------------------------------------------------------------------------------------------------

    def action_type(self) -> None:
        self.add_class("-typing")
        self.query_one(Field).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._draw()
        self.query_one(VerticalScroll).scroll_home(animate=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Back to scrolling; what was typed still holds."""
        event.stop()
        self.set_focus(None)
        self.set_class(bool(event.value), "-typing")

    # --- scrolling ----------------------------------------------------------------------------------------------------

    def action_move(self, rows: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=rows, animate=False)

    def action_page(self, pages: int) -> None:
        box = self.query_one(VerticalScroll)
        box.scroll_relative(y=pages * max(1, box.size.height - 1), animate=False)

    def action_again(self) -> None:
        """The next page, and after the last the first."""
        box = self.query_one(VerticalScroll)
        if box.scroll_offset.y >= box.max_scroll_y:
            box.scroll_home(animate=False)
        else:
            self.action_page(1)

    def action_edge(self, end: int) -> None:
        box = self.query_one(VerticalScroll)
        if end:
            box.scroll_end(animate=False)
        else:
            box.scroll_home(animate=False)
