"""What terminal this is, read once from the environment: SSH, tmux, screen, colours, size, locale. Pure.

What it can't tell (fonts, a slow link, who looks) a person can: `GPTOSS_HZ` (redraws a second), `GPTOSS_GLYPHS`
(unicode or ascii), `GPTOSS_MOUSE` (0 or 1), `GPTOSS_THEME` (dark or light), or the same names under [screen] in
gptoss.toml. They are read by `engine.settings`, as all settings are, and handed to `look_at`.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

from engine.settings import ScreenSettings

TRUE_COLOUR = 16_777_216
FPS = "30"
"""Frames a second Textual may make. The app draws a few; this bounds how long a key's answer waits for its frame."""


class Terminal(NamedTuple):
    """What the rest of the program decides by."""

    ssh: bool = False
    multiplexer: str = ""  # "tmux", "screen" or ""
    colours: int = 256  # 0 (NO_COLOR), 16, 256, 16_777_216
    unicode: bool = True
    dumb: bool = False  # TERM=dumb or none: lines instead of a screen
    hz: float = 4.0
    mouse: bool = True
    osc52: bool = True  # the clipboard can be tried
    name: str = ""  # TERM
    theme: str = "dark"  # or "light"
    web: bool = False  # drawn in a browser: there is no terminal, and nothing to suspend

    @property
    def colour(self) -> bool:
        return self.colours > 0


def look_at(
    environ: Mapping[str, str], *, isatty: bool, locale: str = "", chosen: ScreenSettings | None = None
) -> Terminal:
    """The terminal as its environment describes it.

    `locale`: the character set Python writes to it, for where no variable names one. `chosen`: what a person set.
    """
    chosen = chosen or ScreenSettings()
    name = environ.get("TERM", "").strip().lower()
    web = is_web(environ)
    # Inside a multiplexer these may be of the login it was started from. Then as well they tell of a link more often
    # than not, and to take a local screen for a remote one costs only the mouse.
    ssh = not web and any(environ.get(name) for name in ("SSH_CONNECTION", "SSH_TTY", "SSH_CLIENT"))
    multiplexer = "" if web else _multiplexer(environ, name)
    console = name == "linux" and not web
    dumb = not web and (not isatty or name in ("", "dumb", "unknown"))
    unicode = web or (not console and not dumb and _writes_utf8(environ, locale, multiplexer))
    return Terminal(
        ssh=ssh,
        multiplexer=multiplexer,
        colours=_colours(environ, name, web=web),
        unicode=unicode if chosen.glyphs is None else chosen.glyphs == "unicode",
        dumb=dumb,
        hz=4.0 if chosen.hz is None else chosen.hz,
        mouse=(not ssh and not dumb) if chosen.mouse is None else chosen.mouse,
        osc52=not (console or dumb or web),
        name=name,
        theme=chosen.theme or _theme(environ),
        web=web,
    )


def prepare(terminal: Terminal, environ: MutableMapping[str, str]) -> None:
    """Set what Textual reads when it is imported. What a person has set stays."""
    environ["TEXTUAL_ANIMATIONS"] = "none"  # nothing here moves by itself
    environ.setdefault("TEXTUAL_SMOOTH_SCROLL", "0")  # asks for a report of every pixel the mouse moves
    environ.setdefault("TEXTUAL_THEME", f"ansi-{terminal.theme}")
    if terminal.web:
        environ["TEXTUAL_FPS"] = FPS  # the web server asks for 60
        return
    environ.setdefault("TEXTUAL_FPS", FPS)
    if terminal.colours:
        system = "standard" if terminal.colours <= 16 else "256" if terminal.colours <= 256 else "truecolor"
        environ.setdefault("TEXTUAL_COLOR_SYSTEM", system)


def is_web(environ: Mapping[str, str]) -> bool:
    """`gptoss-tui serve` starts the screen with a driver that speaks to a browser."""
    return "web_driver" in environ.get("TEXTUAL_DRIVER", "")


def _multiplexer(environ: Mapping[str, str], name: str) -> str:
    if environ.get("TMUX") or name.startswith("tmux"):
        return "tmux"
    if environ.get("STY") or name.startswith("screen"):
        return "screen"
    return ""


def _colours(environ: Mapping[str, str], name: str, *, web: bool) -> int:
    if environ.get("NO_COLOR"):  # https://no-color.org: any value but the empty one
        return 0
    if web:
        return TRUE_COLOUR
    if name in ("", "dumb", "unknown"):
        return 0
    if environ.get("COLORTERM", "").strip().lower() in ("truecolor", "24bit") or name.endswith(
        ("-direct", "-truecolor")
    ):
        return TRUE_COLOUR
    if name.endswith("256color") or name in ("xterm-kitty", "alacritty", "foot", "xterm-ghostty", "wezterm"):
        return 256
    if name.endswith(("-m", "-mono")):
        return 0
    return 16


def _writes_utf8(environ: Mapping[str, str], locale: str, multiplexer: str) -> bool:
    language = environ.get("LANG", "")
    kind = environ.get("LC_CTYPE", "")
    # Python sets LC_CTYPE=C.UTF-8 for itself where the locale is C (PEP 538): that says nothing of the terminal.
    if kind in ("C.UTF-8", "C.utf8", "UTF-8") and language in ("C", "POSIX"):
        kind = ""
    value = environ.get("LC_ALL", "") or kind or language
    if value:
        return _is_utf8(value.partition(".")[2] or value)
    # Nobody said anything, as in many containers. tmux writes `_` for what it then believes can't be shown.
    return not multiplexer and _is_utf8(locale)


def _is_utf8(charset: str) -> bool:
    return charset.partition("@")[0].replace("-", "").replace("_", "").lower() == "utf8"


def _theme(environ: Mapping[str, str]) -> str:
    """COLORFGBG (`15;0`) is set by rxvt, Konsole and some others; 7 and 15 are white grounds."""
    ground = environ.get("COLORFGBG", "").rpartition(";")[2]
    return "light" if ground in ("7", "15") else "dark"
