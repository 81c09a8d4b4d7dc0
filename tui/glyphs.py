"""The characters that panes draw with: Unicode blocks, or ASCII where the terminal or the locale has no more. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Glyphs(NamedTuple):
    """One set. Every one is a single column."""

    bar_left: str = "▕"
    bar_right: str = "▏"
    full: str = "█"
    half_up: str = "▀"
    half_down: str = "▄"
    empty: str = "·"
    levels: str = "▁▂▃▄▅▆▇█"  # heights of a history cell, lowest first
    rule: str = "─"
    vrule: str = "│"
    tee_down: str = "┬"
    ellipsis: str = "…"
    cursor: str = ">"
    mark: str = "*"
    dot: str = "·"
    arrow: str = "→"
    up: str = "↑"
    down: str = "↓"


UNICODE = Glyphs()
ASCII = Glyphs(
    bar_left="[",
    bar_right="]",
    full="#",
    half_up="'",
    half_down=",",
    empty=".",
    levels="._-=+*%#",
    rule="-",
    vrule="|",
    tee_down="+",
    ellipsis="~",
    cursor=">",
    mark="*",
    dot=".",
    arrow=">",
    up="^",
    down="v",
)
