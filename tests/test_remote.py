"""tui.remote: environments of real terminals, and what is made of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.settings import ScreenSettings
from tui.remote import TRUE_COLOUR, Terminal, look_at, prepare

LOCAL = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "en_GB.UTF-8"}
SSH = {"SSH_CONNECTION": "10.0.0.2 50000 10.0.0.1 22"}


def seen(
    environ: dict[str, str], *, isatty: bool = True, locale: str = "utf-8", chosen: ScreenSettings | None = None
) -> Terminal:
    return look_at(environ, isatty=isatty, locale=locale, chosen=chosen)


def test_a_local_terminal() -> None:
    assert seen(LOCAL) == Terminal(colours=TRUE_COLOUR, name="xterm-256color")


@pytest.mark.parametrize("name", ["SSH_CONNECTION", "SSH_TTY", "SSH_CLIENT"])
def test_over_ssh_the_terminal_keeps_its_mouse(name: str) -> None:
    got = seen(LOCAL | {name: "x"})
    assert got.ssh
    assert not got.mouse
    assert got.osc52
    assert got.hz == 4


def test_tmux_over_ssh_is_both() -> None:
    got = seen({"TERM": "tmux-256color", "TMUX": "/tmp/tmux-0/default,1,0", "LANG": "C.UTF-8"} | SSH)
    assert (got.ssh, got.multiplexer, got.colours, got.unicode, got.mouse) == (True, "tmux", 256, True, False)


@pytest.mark.parametrize(
    ("environ", "is_"),
    [
        ({"TERM": "xterm", "TMUX": "x"}, "tmux"),
        ({"TERM": "tmux-256color"}, "tmux"),  # TMUX does not come along over ssh
        ({"TERM": "xterm", "STY": "1.pts"}, "screen"),
        ({"TERM": "screen-256color"}, "screen"),
        ({"TERM": "screen-256color", "TMUX": "x"}, "tmux"),  # an old tmux's own TERM
        ({"TERM": "xterm"}, ""),
    ],
)
def test_multiplexers(environ: dict[str, str], is_: str) -> None:
    assert seen(environ).multiplexer == is_


@pytest.mark.parametrize(
    ("environ", "colours"),
    [
        ({"TERM": "xterm-256color"}, 256),
        ({"TERM": "xterm-256color", "COLORTERM": "24bit"}, TRUE_COLOUR),
        ({"TERM": "xterm-direct"}, TRUE_COLOUR),
        ({"TERM": "xterm"}, 16),
        ({"TERM": "linux"}, 16),
        ({"TERM": "vt100"}, 16),
        ({"TERM": "ansi"}, 16),
        ({"TERM": "xterm-mono"}, 0),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, 0),
        ({}, 0),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor", "NO_COLOR": "1"}, 0),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, 256),
    ],
)
def test_colours(environ: dict[str, str], colours: int) -> None:
    assert seen(environ).colours == colours


@pytest.mark.parametrize(
    ("environ", "unicode"),
    [
        ({"LANG": "de_DE.UTF-8"}, True),
        ({"LANG": "de_DE.utf8@euro"}, True),
        ({"LC_CTYPE": "UTF-8"}, True),  # as macOS sends it over ssh
        ({"LANG": "de_DE"}, False),
        ({"LANG": "de_DE.ISO-8859-1"}, False),
        ({"LANG": "C"}, False),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, False),  # set by Python itself
        ({"LANG": "POSIX", "LC_ALL": "C.UTF-8"}, True),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, False),
        ({"LANG": "C.UTF-8"}, True),
        ({}, True),
        ({"LC_CTYPE": "C.UTF-8"}, True),
        ({"TMUX": "x"}, False),
        ({"TERM": "linux", "LANG": "de_DE.UTF-8"}, False),  # its font has no eighths of blocks
    ],
)
def test_glyphs(environ: dict[str, str], unicode: bool) -> None:
    assert seen({"TERM": "xterm"} | environ).unicode is unicode


def test_without_any_locale_the_character_set_of_python_counts() -> None:
    assert not seen({"TERM": "xterm"}, locale="ascii").unicode


@pytest.mark.parametrize(("environ", "isatty"), [({"TERM": "dumb"}, True), ({}, True), (LOCAL, False)])
def test_what_can_not_be_drawn_on_is_dumb(environ: dict[str, str], isatty: bool) -> None:
    got = seen(environ, isatty=isatty)
    assert got.dumb
    assert not got.mouse
    assert not got.osc52


def test_a_linux_console_has_no_clipboard() -> None:
    assert not seen({"TERM": "linux"}).osc52


def test_a_person_knows_better() -> None:
    chosen = ScreenSettings(theme="light", hz=0.5, glyphs="unicode", mouse=True)
    got = seen({"TERM": "linux"} | SSH, chosen=chosen)
    assert (got.theme, got.hz, got.unicode, got.mouse) == ("light", 0.5, True, True)
    assert not seen(LOCAL, chosen=ScreenSettings(glyphs="ascii", mouse=False)).mouse


@pytest.mark.parametrize(
    ("value", "theme"), [("15;0", "dark"), ("0;15", "light"), ("0;default;7", "light"), ("", "dark")]
)
def test_the_ground_that_some_terminals_tell(value: str, theme: str) -> None:
    assert seen(LOCAL | {"COLORFGBG": value}).theme == theme


def test_a_browser_is_no_terminal() -> None:
    environ = {"TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver", "TMUX": "x", "LANG": "C", "TEXTUAL_FPS": "60"}
    got = seen(environ | SSH, isatty=False)
    assert got.web
    assert (got.ssh, got.multiplexer, got.dumb, got.unicode, got.mouse) == (False, "", False, True, True)
    prepare(got, environ)
    assert int(environ["TEXTUAL_FPS"]) < 60


def test_what_textual_reads() -> None:
    environ = dict(LOCAL)
    prepare(seen(environ), environ)
    assert environ["TEXTUAL_ANIMATIONS"] == "none"
    assert environ["TEXTUAL_SMOOTH_SCROLL"] == "0"
    assert environ["TEXTUAL_THEME"] == "ansi-dark"
    assert environ["TEXTUAL_COLOR_SYSTEM"] == "truecolor"


def test_what_a_person_set_for_textual_stays() -> None:
    environ = {**LOCAL, "TEXTUAL_FPS": "5", "TEXTUAL_COLOR_SYSTEM": "256"}
    prepare(seen(environ), environ)
    assert (environ["TEXTUAL_FPS"], environ["TEXTUAL_COLOR_SYSTEM"]) == ("5", "256")


NAMES = [
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "LC_ALL",
    "LC_CTYPE",
    "LANG",
    "SSH_TTY",
    "TMUX",
    "STY",
    "COLORFGBG",
    "TEXTUAL_DRIVER",
]
environs: Any = st.dictionaries(st.sampled_from(NAMES), st.text(max_size=12))


@given(environs, st.booleans(), st.text(max_size=8))
def test_no_environment_is_too_odd(environ: dict[str, str], isatty: bool, locale: str) -> None:
    got = look_at(environ, isatty=isatty, locale=locale)
    assert got.colours in (0, 16, 256, TRUE_COLOUR)
    assert got.theme in ("dark", "light")
    assert got.dumb or isatty or got.web
    prepare(got, environ)
