"""Styles: whether they can be read on dark and light grounds, and say without colour what they say with it."""

from __future__ import annotations

import pytest
from rich.color import Color
from rich.style import Style
from rich.terminal_theme import TerminalTheme

from tui.look import LIGHT, STYLES, Look, grounds

PALETTES = {
    "xterm": "000000 cd0000 00cd00 cdcd00 0000ee cd00cd 00cdcd e5e5e5"
    " 7f7f7f ff0000 00ff00 ffff00 5c5cff ff00ff 00ffff ffffff",
    "tango": "2e3436 cc0000 4e9a06 c4a000 3465a4 75507b 06989a d3d7cf"
    " 555753 ef2929 8ae234 fce94f 729fcf ad7fa8 34e2e2 eeeeec",
    "campbell": "0c0c0c c50f1f 13a10e c19c00 0037da 881798 3a96dd cccccc"
    " 767676 e74856 16c60c f9f1a5 3b78ff b4009e 61d6d6 f2f2f2",
    "vga": "000000 aa0000 00aa00 aa5500 0000aa aa00aa 00aaaa aaaaaa"
    " 555555 ff5555 55ff55 ffff55 5555ff ff55ff 55ffff ffffff",
    "macos": "000000 990000 00a600 999900 0000b2 b200b2 00a6b2 bfbfbf"
    " 666666 e50000 00d900 e5e500 0000ff e500e5 00e5e5 e5e5e5",
}  # fmt: skip
"""The sixteen colours of widespread terminals, as they come."""

TEXT, MARK = 3.0, 2.0
"""Least contrast of what is read, and of what is only seen: bars, graphs, and letters of a gauge that stand beside
their word in the legend."""


def theme(palette: str, *, light: bool) -> TerminalTheme:
    parts = [bytes.fromhex(part) for part in PALETTES[palette].split()]
    rgb = [(red, green, blue) for red, green, blue in parts]
    black, white = (0, 0, 0), (255, 255, 255)
    ground, text = (white, black) if light else (black, white)
    return TerminalTheme(ground, text, rgb[:8], rgb[8:])


def luminance(rgb: tuple[int, int, int]) -> float:
    """https://www.w3.org/TR/WCAG21/#dfn-relative-luminance"""
    parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(style: Style, colours: TerminalTheme) -> float:
    first = luminance((style.color or Color.default()).get_truecolor(colours))
    second = luminance(colours.background_color)
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)


@pytest.mark.parametrize("palette", PALETTES)
@pytest.mark.parametrize("light", [False, True], ids=["dark", "light"])
def test_every_style_can_be_read(palette: str, light: bool) -> None:
    colours = theme(palette, light=light)
    for name, style in (LIGHT if light else STYLES).items():
        seen = name.startswith(("bar", "graph", "owner"))
        assert contrast(style, colours) >= (MARK if seen else TEXT), name


@pytest.mark.parametrize("light", [False, True], ids=["dark", "light"])
def test_both_grounds_have_the_same_names_and_only_the_sixteen_colours(light: bool) -> None:
    styles = LIGHT if light else STYLES
    assert styles.keys() == STYLES.keys()
    assert all(style.color is None or (style.color.number or 0) < 16 for style in styles.values())
    assert all(style.bgcolor is None for style in styles.values())


def test_bold_makes_no_colour_paler_on_a_light_ground() -> None:
    """Many terminals draw bold green as bright green."""
    look = Look(light=True)
    assert not look.style("bold owner.kv").bold
    assert look.style("bold").bold
    assert Look().style("bold owner.kv").bold


@pytest.mark.parametrize("light", [False, True], ids=["dark", "light"])
def test_without_colour_nothing_is_coloured_and_focus_and_cursor_still_show(light: bool) -> None:
    look = Look(colour=False, light=light)
    assert all(look.style(name).color is None for name in STYLES)
    for focused, other in (
        ("title.focus", "title"),
        ("rule.focus", "rule"),
        ("cursor", "text"),
        ("cursor", "cursor.idle"),
    ):
        assert look.style(focused) != look.style(other), focused
    assert look.style("cursor.idle") != look.style("text")
    for loud in ("error", "warn", "key", "mark", "match"):
        assert look.style(loud) != look.style("text"), loud


@pytest.mark.parametrize("names", ["ok", "error", "dim", "owner.free", "warn bold", "header error"])
@pytest.mark.parametrize("colour", [True, False])
def test_the_row_under_the_cursor_is_of_one_piece(names: str, colour: bool) -> None:
    style = Look(colour=colour).style(f"{names} cursor")
    assert style.reverse
    assert style.color is None
    assert not style.dim


def test_a_bar_under_the_cursor_is_no_hole() -> None:
    assert Look().style("bar cursor") == Style(color="green", reverse=False)
    assert Look(colour=False).style("bar cursor").reverse


def test_grounds_of_a_terminal_without_an_owner() -> None:
    assert grounds(light=True).endswith("\x1b]11;#ffffff\x07")
    assert grounds(light=False).endswith("\x1b]11;#000000\x07")


def test_an_unknown_name_is_a_fault() -> None:
    with pytest.raises(KeyError):
        Look().style("bold nonsense")
