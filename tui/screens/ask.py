"""A question for one line of text: what to find, and where to save."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.events import Mount
from textual.widgets import Input

from tui.screens.parts import Dialog, Field, Words
from tui.text import one_line


class AskScreen(Dialog[str | None]):
    """Dismisses the text, "" included; None after esc."""

    DEFAULT_CSS = """
    AskScreen > .frame { max-width: 72; }
    """

    def __init__(self, title: str, value: str = "", *, hint: str = "") -> None:
        super().__init__()
        self._title = one_line(title)
        self._value = value
        self._hint = one_line(hint)

    def compose(self) -> ComposeResult:
        with Vertical(classes="frame"):
            yield Words(self._title, classes="title")
            yield Field(self._value)
            yield Words(self._hint or "enter: take it, empty: none. esc: as before", classes="dim")

    def on_mount(self, event: Mount) -> None:
        super().on_mount(event)
        self.query_one(Field).focus()  # what was asked for before is selected: typing replaces it

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.dismiss(event.value)
