"""A sentence for the person, shown for a moment on the last row."""

from __future__ import annotations

from typing import Literal, NamedTuple

from tui.text import SafeText

Level = Literal["info", "warn", "error"]


class Notice(NamedTuple):
    """`text` went through `tui.text`."""

    text: SafeText
    level: Level = "info"
