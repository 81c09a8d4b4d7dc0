"""Editor and pager: other programs that get the terminal for a while. The run is not touched; the screen comes back.

The input line opens in the batch file itself where that is small and at rest, else as a read-only copy of the one line.
What a pager shows went through `tui.text`, since a pager hands on what it reads; only saved files hold the true text.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from textual.app import App, SuspendNotSupported

from tui.clipboard import Outcome, amount, encoded, file_name
from tui.text import SafeText, one_line, safe

HUGE = 50_000_000
"""Bytes of a batch file above which an editor would take long to open it."""

EDITORS = ("vi", "nano")
PAGERS = ("less", "more")

_PLUS = frozenset(
    {
        *("vi", "vim", "nvim", "vimx", "view", "ex", "nano", "pico", "emacs", "emacsclient", "mg", "joe", "jmacs"),
        *("kak", "less", "most", "mcedit", "micro", "ne"),
    }
)
_GOTO = frozenset({"code", "code-insiders", "codium", "vscodium", "cursor", "windsurf"})
_COLON = frozenset({"hx", "helix", "subl", "sublime_text", "zed"})
_WAITS = {**dict.fromkeys(_GOTO, "--wait"), "subl": "--wait", "zed": "--wait"}
"""Editors with windows of their own, which return at once unless told to wait."""
_READS_ONLY = {**dict.fromkeys(("vi", "vim", "nvim", "view", "vimx"), "-R"), "nano": "-v"}
_ENDS_AT_ONCE = frozenset({"more", "cat", "pg"})
"""Pagers that leave the text on the terminal and end: the screen must not come back before it was read."""


class Target(NamedTuple):
    """What to open in the editor: a place in a file, or a copy of one line where `why` says why not the file."""

    path: Path
    line: int = 0
    copy: str = ""  # text of the copy
    why: str = ""


# --- pure -------------------------------------------------------------------------------------------------------------


def program(
    names: Sequence[str], fallback: Sequence[str], environment: Mapping[str, str], *, which: Any = shutil.which
) -> list[str] | SafeText:
    """Words of the command: of the first of `names` that is set, else what is installed; or why there is none."""
    for name in names:
        value = environment.get(name, "").strip()
        if not value:
            continue
        try:
            words = shlex.split(value)
        except ValueError as error:
            return SafeText(f"${name} can't be read ({error}): {one_line(value)}")
        if not words:
            continue
        if which(words[0]) is None:
            return SafeText(f"${name} names {one_line(words[0])}, which is not installed here: set {name} to another")
        return words
    for word in fallback:
        if which(word) is not None:
            return [word]
    tried = " and ".join(fallback)
    return SafeText(f"no program for this: {tried} are not installed; set {names[-1]} to one that is")


def _kind(words: Sequence[str]) -> str:
    return Path(words[0]).name


def editor_command(words: Sequence[str], path: Path, line: int = 0, *, read_only: bool = False) -> list[str]:
    """At a line where the editor is known to take one."""
    kind = _kind(words)
    command = list(words)
    if read_only and kind in _READS_ONLY:
        command.append(_READS_ONLY[kind])
    if kind in _WAITS and not {"--wait", "-w"} & set(words):
        command.append(_WAITS[kind])
    if line > 0 and kind in _PLUS:
        return [*command, f"+{line}", str(path)]
    if line > 0 and kind in _GOTO:
        return [*command, "--goto", f"{path}:{line}"]
    if line > 0 and kind in _COLON:
        return [*command, f"{path}:{line}"]
    return [*command, str(path)]


def pager_command(words: Sequence[str], path: Path) -> list[str]:
    # less with -F (from $LESS) ends at once where the text fits the screen, and nobody would see it.
    undo = ["-+F"] if _kind(words) == "less" else []
    return [*words, *undo, str(path)]


def child_environment(environment: Mapping[str, str], *, colour: bool) -> dict[str, str]:
    """Without sizes from before the window was resized and without what only concerns this program."""
    kept = {k: v for k, v in environment.items() if k not in ("LINES", "COLUMNS") and not k.startswith("TEXTUAL")}
    if not colour:
        kept["NO_COLOR"] = "1"  # Textual takes it out of the environment
    return kept


def pretty(line: str) -> str:
    """A JSON line with indentation; what does not parse stays as it is."""
    try:
        return json.dumps(json.loads(line), indent=2, ensure_ascii=False) + "\n"
    except (ValueError, RecursionError):
        return line if line.endswith("\n") else line + "\n"


def target(input_path: str, line: int, raw: str, *, file_bytes: int | None, readonly: bool, active: bool) -> Target:
    """What `e` opens. `file_bytes`: of the batch file, None where it is gone; `active`: its job is not at rest."""
    path = Path(input_path)
    why = ""
    if file_bytes is None:
        why = "the batch file is gone"
    elif readonly:
        why = "this screen only watches"
    elif active:
        why = "its job is running, and a changed file would pause it"
    elif file_bytes > HUGE:
        why = f"the file has {amount(file_bytes)}"
    elif line < 1:
        why = "its place in the file is not known"
    return Target(path, 0 if why else line, pretty(raw) if why else "", why)


# --- effects ----------------------------------------------------------------------------------------------------------


def size_of(path: str) -> int | None:
    """Bytes, None where there is no such file. Blocks on slow disks."""
    try:
        return Path(path).stat().st_size if path else None
    except OSError:
        return None


@contextmanager
def _keys_for_the_child() -> Iterator[None]:
    """ctrl+c and ctrl+\\ go to every process of the terminal; here they are for the other program.

    A handler, not SIG_IGN: that one a child inherits.
    """

    def nothing(_number: int, _frame: FrameType | None) -> None:
        """Somebody pressed it in the other program."""

    before = {number: signal.signal(number, nothing) for number in (signal.SIGINT, signal.SIGQUIT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int | str:
    """Exit code, or why it could not start. Raises nothing: an exception inside `suspend` would lose the terminal."""
    try:
        code = subprocess.run(command, env=dict(environment), check=False).returncode
    except (OSError, ValueError) as error:
        return str(error)
    if _kind(command) in _ENDS_AT_ONCE and sys.__stdin__ is not None and sys.__stdin__.isatty():
        try:
            os.write(2, b"\n[enter goes back] ")
            os.read(0, 1024)
        except OSError as error:
            return str(error)
    return code


def hand_over(app: App[Any], command: Sequence[str], *, colour: bool = True, instead: str = "") -> Outcome:
    """Give the terminal to another program until it ends. `instead`: what to say where that can't be done."""
    name = one_line(_kind(command))
    try:
        with _keys_for_the_child(), app.suspend():  # in this order: the terminal is never ours to be ended by
            ended = _run(command, child_environment(os.environ, colour=colour))
    except SuspendNotSupported:
        return Outcome(SafeText(f"no other program can be opened from here{instead}"), "warn")
    app.refresh(layout=True)  # the other program has drawn over everything
    app.screen.refresh(layout=True)
    match ended:
        case 0:
            return Outcome(SafeText(f"back from {name}; the run was not touched"))
        case int():
            how = f"was ended by signal {-ended}" if ended < 0 else f"ended with exit code {ended}"
            return Outcome(SafeText(f"{name} {how}; the run was not touched"), "warn")
        case _:
            return Outcome(SafeText(f"{name} could not be started: {one_line(ended)}"), "error")


def edit(app: App[Any], where: Target, *, colour: bool = True) -> Outcome:
    """Open it in $VISUAL, $EDITOR or what there is. Blocks until the editor ends, as it owns the terminal."""
    words = program(("VISUAL", "EDITOR"), EDITORS, os.environ)
    if not isinstance(words, list):
        return Outcome(words, "warn")
    if not where.why:
        before = _stamp(where.path)
        path = one_line(str(where.path))
        command = editor_command(words, where.path, where.line)
        outcome = hand_over(app, command, colour=colour, instead=f": the line is line {where.line} of {path}")
        if _stamp(where.path) != before:
            return Outcome(
                SafeText(f"{one_line(where.path.name)} was changed; results on disk stay as they are"), "warn"
            )
        return outcome
    name = f"{file_name(where.path.stem)}-line.json"
    with _temporary(where.copy, name, mode=0o400) as path:
        if isinstance(path, Outcome):
            return path
        command = editor_command(words, path, read_only=True)
        outcome = hand_over(app, command, colour=colour, instead=f": the file is {one_line(str(where.path))}")
    if outcome.level == "info":
        return Outcome(SafeText(f"that was a read-only copy of the line: {where.why}"))
    return outcome


def page(app: App[Any], text: str, name: str, *, colour: bool = True) -> Outcome:
    """Show a text in $PAGER, or what there is. Blocks until the pager ends."""
    words = program(("PAGER",), PAGERS, os.environ)
    if not isinstance(words, list):
        return Outcome(words, "warn")
    shown = safe(text)
    with _temporary(shown if shown.endswith("\n") else shown + "\n", f"{file_name(name)}.txt") as path:
        if isinstance(path, Outcome):
            return path
        return hand_over(app, pager_command(words, path), colour=colour, instead="; Y saves the text to a file")


def _stamp(path: Path) -> tuple[int, int]:
    try:
        facts = path.stat()
    except OSError:
        return (0, 0)
    return (facts.st_mtime_ns, facts.st_size)


@contextmanager
def _temporary(text: str, name: str, *, mode: int = 0o600) -> Iterator[Path | Outcome]:
    """A file in a folder of its own that only its owner can enter; gone afterwards."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="gptoss-tui-"))
    except OSError as error:
        yield Outcome(SafeText(f"no temporary file can be made: {one_line(error.strerror or str(error))}"), "error")
        return
    try:
        path = folder / name
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with open(fd, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
                file.write(encoded(text))
        except OSError as error:
            yield Outcome(SafeText(f"no temporary file can be made: {one_line(error.strerror or str(error))}"), "error")
            return
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)
