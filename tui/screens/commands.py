"""Commands by name: type, and the list narrows; enter takes the row under the cursor."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Mount
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from tui.draw.line import Line, Span, clip
from tui.keys import KeyTable
from tui.palette import Choice, Entry, choose, entries, matching, unknown
from tui.screens.parts import Dialog, Field, Rows, Words, rich_line
from tui.text import pad

NAME_COLUMNS = 18
KEY_COLUMNS = 10


class CommandsScreen(Dialog[tuple[str, str] | None]):
    """Dismisses (action, argument): an action of the key table, or one of `tui.palette.ARGUMENTS`. None after esc."""

    DEFAULT_CSS = """
    CommandsScreen > .frame { height: 100%; max-height: 30; }
    CommandsScreen #said { height: auto; max-height: 3; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,ctrl+n", "move(1)", show=False),
        Binding("up,ctrl+p", "move(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("tab", "complete", show=False, priority=True),
    ]

    def __init__(self, table: KeyTable, why_not: Callable[[str], str | None], where: str = "main") -> None:
        super().__init__()
        self._known = entries(table, where, why_not)
        self._found: list[Entry] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="frame"):
            yield Words("Commands", classes="title")
            yield Field(hint="type a command: pause, find TEXT, job NAME, line N, theme light")
            rows = Rows()
            rows.can_focus = False  # the field keeps the focus; arrows move the cursor of the list
            yield rows
            yield Words("", id="said")
            yield Words("enter run   up down choose   tab complete   esc close", classes="dim")

    def on_mount(self, event: Mount) -> None:
        super().on_mount(event)
        self._list("")
        self.query_one(Field).focus()

    def on_resize(self) -> None:
        self.call_after_refresh(self._list, self.query_one(Field).value)

    # --- the list -----------------------------------------------------------------------------------------------------

    def _list(self, typed: str) -> None:
        if not self.query(Rows):  # called later: the dialog has been closed meanwhile
            return
        rows = self.query_one(Rows)
        at = rows.highlighted
        found = matching(self._known, typed)
        keep = at if found == self._found else 0
        self._found = found
        columns = rows.size.width or 60
        rows.clear_options()
        rows.add_options(
            [
                Option(rich_line(clip(self._row(entry), columns - 1, ellipsis=self.glyphs.ellipsis), self.look))
                for entry in found
            ]
        )
        if found:
            rows.highlighted = min(keep or 0, len(found) - 1)

    @staticmethod
    def _row(entry: Entry) -> Line:
        name = f"{entry.name} {entry.argument}".strip()
        dim = "dim" if entry.reason is not None else "text"
        text = entry.help if entry.reason is None else f"not now: {entry.reason}"
        return (
            Span(pad(name, NAME_COLUMNS - 1) + " ", "dim" if entry.reason is not None else "bold"),
            Span(pad(entry.keys, KEY_COLUMNS - 1) + " ", "dim" if entry.reason is not None else "key"),
            Span(text, dim),
        )

    def _chosen(self) -> Entry | None:
        at = self.query_one(Rows).highlighted
        return self._found[at] if at is not None and at < len(self._found) else None

    def _say(self, text: str) -> None:
        self.query_one("#said", Words).say(Text(text, style=self.look.style("warn")))

    # --- keys ---------------------------------------------------------------------------------------------------------

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._say("")
        self._list(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._take(event.value)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """A click: the row is under the cursor already."""
        event.stop()
        self._take(self.query_one(Field).value)

    def _take(self, typed: str) -> None:
        entry = self._chosen()
        if entry is None:
            self._say(unknown(typed, self._known))
            return
        choice = choose(entry, typed)
        if isinstance(choice, Choice):
            self.dismiss((choice.action, choice.argument))
            return
        if entry.argument and entry.reason is None and not typed.strip().startswith(f"{entry.name} "):
            self._fill(entry)
        # After the field's own message on its new text, which clears the sentence.
        self.call_later(self._say, choice)

    def _fill(self, entry: Entry) -> None:
        field = self.query_one(Field)
        field.value = f"{entry.name} " if entry.argument else entry.name
        field.cursor_position = len(field.value)

    def action_complete(self) -> None:
        if not self.query(Rows):  # its key comes before all others, also before there is anything to see
            return
        if (entry := self._chosen()) is not None:
            self._fill(entry)

    def action_move(self, by: int) -> None:
        rows = self.query_one(Rows)
        if self._found:
            rows.highlighted = ((rows.highlighted or 0) + by) % len(self._found)

    def action_page(self, pages: int) -> None:
        rows = self.query_one(Rows)
        if self._found:
            to = (rows.highlighted or 0) + pages * max(1, rows.size.height - 1)
            rows.highlighted = max(0, min(len(self._found) - 1, to))
