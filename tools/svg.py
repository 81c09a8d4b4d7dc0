"""A screen of the program as a small SVG picture.

Columns keep their places with any font: each run of text is given its width. Blocks and lines are drawn as shapes, so
that no gaps show between them. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any, Final, NamedTuple

from rich.cells import cell_len
from rich.color import Color
from rich.color_triplet import ColorTriplet
from rich.segment import Segment
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from textual._compositor import LayoutUpdate
from textual.app import App

FONTS: Final = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"
WIDE: Final = 9  # whole pixels: no hairlines between neighbours
HIGH: Final = 19
SIZE: Final = 15
BASE: Final = 14
"""From the top of a row to the line that letters stand on."""
MARGIN: Final = 12


def _rgb(text: str) -> tuple[int, int, int]:
    return int(text[:2], 16), int(text[2:4], 16), int(text[4:], 16)


def _theme(text: str, ground: str, normal: str, bright: str) -> TerminalTheme:
    return TerminalTheme(_rgb(ground), _rgb(text), [_rgb(x) for x in normal.split()], [_rgb(x) for x in bright.split()])


DARK: Final = _theme(
    "e6edf3",
    "0d1117",
    "484f58 ff7b72 3fb950 d29922 58a6ff bc8cff 39c5cf b1bac4",
    "6e7681 ffa198 56d364 e3b341 79c0ff d2a8ff 56d4dd ffffff",
)
LIGHT: Final = _theme(
    "1f2328",
    "ffffff",
    "24292f cf222e 116329 4d2d00 0969da 8250df 1b7c83 6e7781",
    "57606a a40e26 1a7f37 633c01 218bff a475f9 3192aa 8c959f",
)

_THIN: Final = 1
_MIDDLE: Final = ((HIGH - _THIN) / 2 / HIGH, _THIN / HIGH)
_CENTRE: Final = ((WIDE - _THIN) / 2 / WIDE, _THIN / WIDE)
SHAPES: Final[dict[str, tuple[tuple[float, float, float, float], ...]]] = {
    "█": ((0, 0, 1, 1),),
    "▀": ((0, 0, 1, 0.5),),
    **{chr(0x2580 + i): ((0, 1 - i / 8, 1, i / 8),) for i in range(1, 8)},
    "▕": ((7 / 8, 0, 1 / 8, 1),),
    "▏": ((0, 0, 1 / 8, 1),),
    "─": ((0, _MIDDLE[0], 1, _MIDDLE[1]),),
    "│": ((_CENTRE[0], 0, _CENTRE[1], 1),),
    "╭": ((_CENTRE[0], _MIDDLE[0], 1 - _CENTRE[0], _MIDDLE[1]), (_CENTRE[0], _MIDDLE[0], _CENTRE[1], 1 - _MIDDLE[0])),
    "╮": ((0, _MIDDLE[0], _CENTRE[0] + _CENTRE[1], _MIDDLE[1]), (_CENTRE[0], _MIDDLE[0], _CENTRE[1], 1 - _MIDDLE[0])),
    "╰": ((_CENTRE[0], _MIDDLE[0], 1 - _CENTRE[0], _MIDDLE[1]), (_CENTRE[0], 0, _CENTRE[1], 1 - _MIDDLE[0])),
    "╯": ((0, _MIDDLE[0], _CENTRE[0] + _CENTRE[1], _MIDDLE[1]), (_CENTRE[0], 0, _CENTRE[1], 1 - _MIDDLE[0])),
    "┬": ((0, _MIDDLE[0], 1, _MIDDLE[1]), (_CENTRE[0], _MIDDLE[0], _CENTRE[1], 1 - _MIDDLE[0])),
}
"""Left, top, width and height in parts of a cell."""


class _Ink(NamedTuple):
    """How a run of text looks, colours resolved."""

    text: str
    ground: str
    bold: bool
    underline: bool


def picture_of(app: App[Any]) -> str:
    """What a running app shows now, in the colours of its theme."""
    return picture(_rows(app), app.size.width, LIGHT if app.theme.endswith("light") else DARK)


def text_of(app: App[Any]) -> list[str]:
    """The same without colours."""
    return ["".join(segment.text for segment in row if not segment.control) for row in _rows(app)]


def _rows(app: App[Any]) -> list[list[Segment]]:
    # As Textual's own export does it; the version is pinned.
    update = app.screen._compositor.render_update(  # pyright: ignore[reportPrivateUsage]
        full=True,
        screen_stack=app._background_screens,  # pyright: ignore[reportPrivateUsage]
        simplify=True,
    )
    assert isinstance(update, LayoutUpdate), "a full update"
    return [[segment for strip in row for segment in strip] for row in update.strips]


def picture(rows: Sequence[Iterable[Segment]], columns: int, theme: TerminalTheme = DARK) -> str:
    """The whole picture. `rows` as Textual's compositor gives them."""
    names: dict[str, str] = {}
    body: list[str] = []
    for y, row in enumerate(rows):
        body.extend(_row(row, y, theme, names))
    wide, high = columns * WIDE + 2 * MARGIN, len(rows) * HIGH + 2 * MARGIN
    ground = theme.background_color.hex
    classes = "".join(f".{name}{{{rule}}}" for rule, name in names.items())
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {high:g}" width="{wide:g}">',
            f"<style>rect{{shape-rendering:crispEdges}}text{{font:{SIZE}px {FONTS};white-space:pre}}{classes}</style>",
            f'<rect width="{wide:g}" height="{high:g}" rx="8" fill="{ground}"/>',
            f'<g transform="translate({MARGIN:g} {MARGIN:g})">',
            *body,
            "</g>",
            "</svg>",
            "",
        ]
    )


def _row(row: Iterable[Segment], y: int, theme: TerminalTheme, names: dict[str, str]) -> Iterator[str]:
    """Grounds first, then what stands on them."""
    grounds: list[str] = []
    marks: list[str] = []
    x = 0
    for text, style, control in row:
        if control:
            continue
        ink = _ink(style or Style(), theme)
        cells = cell_len(text)
        if ink.ground != theme.background_color.hex:
            grounds.append(_rect(x * WIDE, y * HIGH, cells * WIDE, HIGH, ink.ground))
        for run, shape in _runs(text):
            wide = cell_len(run)
            if shape:
                across = wide if shape[0][2] == 1 else 1
                for at in range(0, wide, across):
                    for left, top, width, height in shape:
                        marks.append(
                            _rect(
                                (x + at + left) * WIDE, (y + top) * HIGH, across * width * WIDE, height * HIGH, ink.text
                            )
                        )
            elif run.strip() or ink.underline:
                marks.append(_text(run, x, y, ink, names))
            x += wide
    yield from grounds
    yield from marks


def _runs(text: str) -> Iterator[tuple[str, tuple[tuple[float, float, float, float], ...]]]:
    """Pieces of one kind: the same shape again and again, or letters. Long gaps part letters: columns stay columns."""
    start = 0
    while start < len(text):
        end = start + 1
        if text[start] in SHAPES:
            while end < len(text) and text[end] == text[start]:
                end += 1
            yield text[start:end], SHAPES[text[start]]
        elif text[start] == " ":
            while end < len(text) and text[end] == " ":
                end += 1
            yield text[start:end], ()
        else:
            wide = cell_len(text[start]) == 2
            while end < len(text) and text[end] not in SHAPES and text[end : end + 2] != "  ":
                if (cell_len(text[end]) == 2) != wide and cell_len(text[end]):
                    break  # another font, with other widths
                end += 1
            yield text[start:end], ()
        start = end


def _ink(style: Style, theme: TerminalTheme) -> _Ink:
    text = (style.color or Color.default()).get_truecolor(theme)
    ground = (style.bgcolor or Color.default()).get_truecolor(theme, foreground=False)
    if style.reverse:
        text, ground = ground, text
    if style.dim:
        text = ColorTriplet(*(round(a * 0.6 + b * 0.4) for a, b in zip(text, ground, strict=True)))
    return _Ink(text.hex, ground.hex, bool(style.bold), bool(style.underline))


def _rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" fill="{fill}"/>'


def _text(run: str, x: int, y: int, ink: _Ink, names: dict[str, str]) -> str:
    rule = f"fill:{ink.text}"
    if ink.bold:
        rule += ";font-weight:bold"
    if ink.underline:
        rule += ";text-decoration:underline"
    name = names.setdefault(rule, f"s{len(names)}")
    length = f'textLength="{_n(cell_len(run) * WIDE)}" lengthAdjust="spacingAndGlyphs"'
    return (
        f'<text class="{name}" x="{_n(x * WIDE)}" y="{_n(y * HIGH + BASE)}" {length}>{escape(run, quote=False)}</text>'
    )


def _n(value: float) -> str:
    return f"{round(value, 2):g}"
