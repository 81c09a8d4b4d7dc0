"""The header: one row that never takes the focus. What it draws: `tui.draw.header`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tui.draw import header as drawn
from tui.draw.line import Line
from tui.draw.steady import Steady
from tui.panes.pane import Pane

if TYPE_CHECKING:
    from tui.desk import Desk

LINK_EVERY_S = 1.0
"""The read-out of the traffic is traffic itself: it changes at most this often."""


class Header(Pane, can_focus=False):
    """What runs, and how it is reached."""

    DEFAULT_CSS = "Header { height: 1; }"

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self._link = ""
        self._link_t = float("-inf")
        self._steady = Steady()
        self.help_key = "?"
        self.add_key = "a"
        """As people read them; the app sets what is bound to them."""

    def rows(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        del rows
        link = desk.link
        facts = drawn.Facts(
            job=drawn.job_of(desk.mirror, desk.view.job),
            connected=link.connected,
            why=link.why,
            slow=link.slow,
            link=self._link_words(desk),
            readonly=desk.readonly,
            ssh=desk.terminal.ssh,
            help_key=self.help_key,
            add_key=self.add_key,
        )
        return [drawn.header(facts, columns, ellipsis=desk.glyphs.ellipsis)]

    def _link_words(self, desk: Desk) -> str:
        if desk.terminal.web:
            return ""  # what goes to a browser is not counted
        now = desk.now()
        # A clock that was set back must not hold the figure for hours.
        if not 0 <= now - self._link_t < LINK_EVERY_S:
            self._link_t = now
            step = 1.0 if desk.link.kib_s < 10 else 5.0
            kib_s = self._steady.of("kib_s", desk.link.kib_s, step) if desk.link.kib_s >= 1 else 0.0
            self._link = drawn.link_words(desk.link.hz, kib_s)
        return self._link
