"""The one table of keys: bindings, the key line, help, commands, README and rebinding are made from it. Pure.

`gptoss.toml` may bind others, by the names of the first column:

    [keys]
    pause = "p"
    leave = "q,ctrl+x"
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Key(NamedTuple):
    """One action. `keys`: Textual's names, separated by commas; `where`: the places in which it means something."""

    action: str
    keys: str
    label: str  # for the key line: one or two words
    help: str  # a sentence without its dot
    group: str
    where: str = "main"  # main, results, or both: "main results"
    changes: bool = False  # changes the run: off with --readonly
    footer: int = 0  # how much it wants a place on the key line; 0: none


PANES = ("jobs", "memory", "rate", "requests", "streams", "log")
"""In the order of their digits."""

NEAR: Mapping[str, tuple[str, ...]] = {
    "jobs": ("results", "remove", "later", "earlier"),
    "requests": ("open", "find", "failures", "which"),
    "streams": ("channel", "follow", "copy", "pager", "wrap", "zoom"),
    "memory": ("memory", "zoom"),
    "rate": ("zoom", "layout"),
    "log": ("zoom", "layout"),
}
"""What people mostly want while this pane is in focus: on the key line before what is wanted anywhere."""

MOVES = ("up", "down", "page_up", "page_down", "half_up", "half_down", "top", "bottom", "left", "right")

KEYS: tuple[Key, ...] = (
    # --- the run
    Key("add", "a", "add", "add a batch: choose a file, see what is wrong with it, then queue it", "run", changes=True, footer=8),
    Key("pause", "p", "pause", "pause: start nothing new, let running requests finish", "run", changes=True, footer=9),
    Key("pause_now", "P", "pause now", "pause at once: running requests are aborted, their text so far is kept", "run", changes=True),
    Key("resume", "r", "resume", "resume a paused, failed, aborted or interrupted job", "run", changes=True, footer=9),
    Key("abort", "x", "abort", "abort the request under the cursor (u puts it back), or the job", "run", changes=True, footer=7),
    Key("abort_job", "X", "abort job", "abort the whole job; what is done stays, r resumes", "run", changes=True),
    Key("put_back", "u", "put back", "put aborted requests back into the queue", "run", changes=True, footer=6),
    Key("retry", "R", "retry", "run failed requests of the job again", "run", changes=True, footer=8),
    Key("later", "J", "later", "move the queued job one place back", "run", changes=True),
    Key("earlier", "K", "earlier", "move the queued job one place ahead", "run", changes=True),
    Key("remove", "d", "remove", "take a job that rests off the list; its files stay", "run", changes=True),
    Key("mark", "space", "mark", "mark the row; x, u, p, r, R and d act on marked rows", "run"),
    # --- looking
    Key("open", "enter", "open", "go into: a job's requests, a request's prompt and answer", "look", "main results", footer=6),
    Key("back", "escape", "back", "go up: close, clear the filter or the marks", "look", "main results", footer=2),
    Key("results", "v", "results", "results of the job: every request with prompt, answer and error", "look", footer=5),
    Key("find", "slash", "find", "find in the requests or results", "look", "main results", footer=5),
    Key("next", "n", "next", "next match", "look", "main results"),
    Key("previous", "N", "previous", "match before", "look", "main results"),
    Key("failures", "exclamation_mark", "failures", "failures only, and back to all", "look", "main results", footer=4),
    Key("which", "t", "filter", "next filter: all, running, failed, truncated, slow, waiting, done, aborted", "look", "main results", footer=1),
    Key("follow", "f", "follow", "follow the newest text, or stay", "look", "main"),
    Key("wrap", "w", "wrap", "wrap long lines, or cut them", "look", "main results"),
    Key("channel", "c", "channel", "reasoning and answer, answer only, reasoning only", "look", "main results", footer=2),
    Key("wall", "W", "streams", "number of further streams: 4, 0, 1, 2", "look"),
    Key("copy", "y", "copy", "copy the answer (to your own clipboard, also over SSH)", "look", "main results", footer=1),
    Key("save", "Y", "save", "save the answer to a file", "look", "main results"),
    Key("editor", "e", "editor", "open the request's input line in $EDITOR", "look", "main results", footer=1),
    Key("pager", "o", "pager", "open the answer in $PAGER", "look", "main results"),
    Key("export", "E", "export", "write the results in the order of the input", "look", "results", footer=1),
    # --- the screen
    Key("memory", "m", "memory", "memory: who holds how much, and what still fits", "screen", footer=3),
    *(Key(f"pane_{name}", str(digit), name, f"go to the {name} pane", "screen") for digit, name in enumerate(PANES, 1)),
    Key("pane_next", "tab", "next pane", "next pane", "screen"),
    Key("pane_previous", "shift+tab", "pane before", "pane before", "screen"),
    Key("zoom", "z", "zoom", "this pane over the whole screen, and back", "screen", footer=2),
    Key("layout", "L", "layout", "next layout: balanced, queue, text, machine", "screen"),
    Key("low_bandwidth", "b", "low bandwidth", "fewer redraws and no graphs, for slow links", "screen"),
    Key("mouse", "M", "mouse", "mouse on or off (off over SSH, so that the terminal can select text)", "screen"),
    Key("theme", "T", "theme", "dark or light", "screen"),
    Key("redraw", "ctrl+l", "redraw", "draw everything again", "screen"),
    Key("suspend", "ctrl+z", "suspend", "put the program in the background of your shell", "screen"),
    Key("help", "question_mark,f1", "help", "all keys, and why some can't be used now", "screen", "main results", footer=10),
    Key("commands", "colon,ctrl+p", "commands", "commands by name", "screen", "main results", footer=1),
    Key("leave", "q,ctrl+c", "leave", "leave; the run goes on", "screen", "main", footer=10),
    Key("stop", "Q", "stop all", "stop everything: pause what runs, unload the engine, end the background process", "screen", changes=True),
    # --- moving
    Key("up", "up,k", "up", "row up", "move", "main results"),
    Key("down", "down,j", "down", "row down", "move", "main results"),
    Key("page_up", "pageup", "page up", "page up", "move", "main results"),
    Key("page_down", "pagedown", "page down", "page down", "move", "main results"),
    Key("half_up", "ctrl+u", "half up", "half a page up", "move", "main results"),
    Key("half_down", "ctrl+d", "half down", "half a page down", "move", "main results"),
    Key("top", "home,g", "top", "first row", "move", "main results"),
    Key("bottom", "end,G", "bottom", "last row; in streams: the newest text", "move", "main results"),
    Key("left", "left,h,left_square_bracket", "left", "running request before; left in unwrapped text", "move", "main results"),
    Key("right", "right,l,right_square_bracket", "right", "next running request; right in unwrapped text", "move", "main results"),
)  # fmt: skip

GROUPS = {"run": "The run", "look": "Looking", "screen": "The screen", "move": "Moving"}

_SHOWN = {
    "slash": "/",
    "exclamation_mark": "!",
    "question_mark": "?",
    "colon": ":",
    "escape": "esc",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "pageup": "pgup",
    "pagedown": "pgdn",
}


def shown(keys: str) -> str:
    """Keys as people read them: `? f1`."""
    return " ".join(_SHOWN.get(key, key) for key in keys.split(","))


def first(keys: str) -> str:
    """The first of them, as people read it."""
    return shown(keys.split(",")[0])


class KeyTable:
    """The table with a person's own bindings on top."""

    def __init__(self, own: Mapping[str, str] | None = None) -> None:
        """`own`: action → keys. `problems` says what of it could not be taken."""
        self.problems: list[str] = []
        own = dict(own or {})
        known = {key.action for key in KEYS}
        for action in sorted(set(own) - known):
            self.problems.append(f"[keys] {action}: there is no such action; `gptoss-tui keys` lists them")
            del own[action]
        taken: dict[tuple[str, str], str] = {}
        rows: list[Key] = []
        for key in KEYS:
            wanted = own.get(key.action)
            rows.append(key if wanted is None else key._replace(keys=_names(wanted)))
        # A person's binding wins over a built-in one on the same key.
        for key in sorted(rows, key=lambda k: k.action not in own):
            for place in key.where.split():
                for name in key.keys.split(","):
                    other = taken.setdefault((place, name), key.action)
                    if other != key.action and key.action in own:
                        self.problems.append(f"[keys] {key.action}: {shown(name)} is {other} already")
        self.rows = tuple(
            key._replace(keys=",".join(n for n in key.keys.split(",") if self._mine(taken, key, n))) for key in rows
        )
        self._by_action = {key.action: key for key in self.rows}

    @staticmethod
    def _mine(taken: Mapping[tuple[str, str], str], key: Key, name: str) -> bool:
        return any(taken[place, name] == key.action for place in key.where.split())

    def __getitem__(self, action: str) -> Key:
        return self._by_action[action]

    def lookup(self, where: str) -> dict[str, str]:
        """Textual's name of a key → the action that it stands for there."""
        return {name: key.action for key in self.within(where) for name in key.keys.split(",") if name}

    def within(self, where: str) -> Iterable[Key]:
        """What has a meaning there."""
        return (key for key in self.rows if where in key.where.split())


_TYPED = {"/": "slash", "!": "exclamation_mark", "?": "question_mark", ":": "colon", "[": "left_square_bracket",
          "]": "right_square_bracket", "esc": "escape", " ": "space"}  # fmt: skip


def _names(typed: str) -> str:
    """Keys as a person writes them in a file → Textual's names."""
    parts = [part.strip() or part for part in typed.split(",")]
    return ",".join(_TYPED.get(part, part) for part in parts if part)
