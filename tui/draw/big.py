"""Figures three rows high, made of half blocks. Pure."""

from __future__ import annotations

from typing import Final

from tui.glyphs import Glyphs

BIG_ROWS: Final = 3

# Five rows of dots for each sign; two dots make a cell of a row, so the sixth row stays empty.
_DOTS: Final = {
    "0": ("###", "#.#", "#.#", "#.#", "###"),
    "1": (".#.", "##.", ".#.", ".#.", "###"),
    "2": ("###", "..#", "###", "#..", "###"),
    "3": ("###", "..#", "###", "..#", "###"),
    "4": ("#.#", "#.#", "###", "..#", "..#"),
    "5": ("###", "#..", "###", "..#", "###"),
    "6": ("###", "#..", "###", "#.#", "###"),
    "7": ("###", "..#", "..#", "..#", "..#"),
    "8": ("###", "#.#", "###", "#.#", "###"),
    "9": ("###", "#.#", "###", "..#", "###"),
    ".": (".", ".", ".", ".", "#"),
    " ": ("...", "...", "...", "...", "..."),
}


def big(figure: str, glyphs: Glyphs) -> list[str]:
    """The digits, dots and blanks of `figure` in three rows of one width; none where there are no half blocks."""
    if glyphs.full.isascii():
        return []
    cell = {"##": glyphs.full, "#.": glyphs.half_up, ".#": glyphs.half_down, "..": " "}
    rows: list[str] = []
    for y in range(0, 2 * BIG_ROWS, 2):
        signs: list[str] = []
        for char in figure:
            dots = (*_DOTS[char], "." * len(_DOTS[char][0]))
            signs.append("".join(cell[upper + lower] for upper, lower in zip(dots[y], dots[y + 1], strict=True)))
        rows.append(" ".join(signs))
    return rows
