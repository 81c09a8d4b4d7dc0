"""A question before something that is hard to take back: the ledger first, then yes or no. The answer at hand is no."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.events import Mount

from tui.screens.parts import Dialog, Press, Words
from tui.text import SafeText, one_line


class ConfirmScreen(Dialog[bool]):
    """Dismisses True for yes. `ConfirmScreen(*tui.ledger.abort_jobs(jobs))`. Without a `yes` it only tells."""

    DEFAULT_CSS = """
    ConfirmScreen > .frame { max-width: 78; }
    ConfirmScreen VerticalScroll { height: auto; margin: 1 0; scrollbar-size-vertical: 1; }
    ConfirmScreen .buttons { height: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "yes", show=False),
        Binding("n", "close", show=False),
        Binding("left,h,up,k", "app.focus_previous", show=False),
        Binding("right,l,down,j", "app.focus_next", show=False),
        Binding("pageup", "scroll(-1)", show=False),
        Binding("pagedown", "scroll(1)", show=False),
    ]

    def __init__(self, title: str, lines: Sequence[SafeText], yes: str = "Yes", no: str = "No") -> None:
        super().__init__()
        self._title = one_line(title)
        self._said = "\n".join(lines)
        self._yes = yes
        self._no = no
        self._shown = 0.0

    def compose(self) -> ComposeResult:
        with Vertical(classes="frame"):
            yield Words(self._title, classes="title")
            with VerticalScroll(can_focus=False):
                yield Words(self._said)
            with Horizontal(classes="buttons"):
                yield Press(f"n  {self._no}", id="no")
                if self._yes:
                    yield Press(f"y  {self._yes}", id="yes")

    def on_mount(self, event: Mount) -> None:
        super().on_mount(event)
        self._fit()
        self._shown = time.monotonic()
        self.query_one("#no", Press).focus()

    def on_resize(self) -> None:
        self._fit()

    def _fit(self) -> None:
        # Title, buttons, the frame and the blank rows around the text; at 16 rows a long ledger scrolls.
        self.query_one(VerticalScroll).styles.max_height = max(1, self.app.size.height - 6)

    def action_yes(self) -> None:
        if self._yes and self._heeded():
            self.dismiss(True)

    def action_close(self) -> None:
        self.dismiss(False)

    def action_scroll(self, pages: int) -> None:
        box = self.query_one(VerticalScroll)
        box.scroll_relative(y=pages * max(1, box.size.height - 1), animate=False)

    def on_press_pressed(self, event: Press.Pressed) -> None:
        event.stop()
        yes = event.press.id == "yes"
        if not yes or self._heeded():
            self.dismiss(yes)

    def _heeded(self) -> bool:
        """A yes that came before anybody could read the question, or in a pasted text, is none."""
        heeds = getattr(self.app, "heeds", None)
        return heeds is None or heeds(self._shown)
