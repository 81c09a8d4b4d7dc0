"""Figures that stand still: rounded as coarsely as they are read, and changed only when they really move. Pure.

An idle machine's free memory wobbles by a few MiB; a screen that follows it is never quiet.
"""

from __future__ import annotations

from typing import Final

from tui.plain import GIB, MIB, duration

GAVE_WAY: Final = 0.75
"""How many steps a figure has to move before the shown one follows; above a half, so it can't flip to and fro."""


class Steady:
    """What was shown last, by name."""

    def __init__(self) -> None:
        self._shown: dict[str, float] = {}

    def of(self, name: str, value: float, step: float) -> float:
        """`value` in whole steps; the last shown one while `value` stays near it."""
        shown = self._shown.get(name)
        if shown is None or abs(value - shown) > GAVE_WAY * step:
            shown = round(value / step) * step
            self._shown[name] = shown
        return shown

    def size(self, name: str, n: int) -> int:
        """Bytes in steps that `size_text` prints."""
        return round(self.of(name, n, size_step(n)))


def size_step(n: int) -> float:
    """0.1 GiB, below 1 GiB 10 MiB, below 10 MiB 1 MiB."""
    if n >= GIB:
        return GIB / 10
    return 10 * MIB if n >= 10 * MIB else MIB


def size_text(n: int) -> str:
    """`3.0 GiB`, `980 MiB`, `2 MiB`; never more digits than `size_step` keeps."""
    if n >= GIB:
        return f"{n / GIB:.1f} GiB"
    step = size_step(n)
    text = f"{round(n / step) * round(step / MIB)}"
    return f"{text} MiB" if text != "1020" else "1.0 GiB"


def minutes(seconds: float) -> str:
    """A duration that changes once a minute: `under 1 min`, `12 min`, `2 h 05 min`."""
    if seconds < 60:
        return "under 1 min"
    return duration(seconds // 60 * 60).removesuffix(" 00 s")
