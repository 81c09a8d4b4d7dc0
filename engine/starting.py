"""Starting a runner: who may, as which process, and what is told of one that does not come up.

It is started as a command, never by import: it must live in a process and session of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.errors import RunnerUnreachable
from engine.workspace import Workspace

LOG_BYTES = 4 * 1024 * 1024
LOG_LINES = 8
LOG_TAIL_BYTES = 64 * 1024

started: list[subprocess.Popen[bytes]] = []
"""Runners started by this process. Kept: they outlive it, and an object that is thrown away would warn of that."""


class Lock:
    """The right to start a runner."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._taken = False

    def take(self) -> bool:
        """Try once; True from the moment it is ours."""
        if not self._taken:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            self._taken = True
        return True


@contextlib.contextmanager
def starting_lock(workspace: Workspace) -> Iterator[Lock]:
    """Who holds it may start a runner; held until that one answers. The kernel frees it if the client dies."""
    try:
        workspace.runner_folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(workspace.runner_folder / "starting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RunnerUnreachable(
            f"no runner can be started: {workspace.runner_folder} can't be written: {error.strerror or error}",
            advice="Choose a folder of yours: --workspace DIR.",
        ) from error
    try:
        yield Lock(fd)
    finally:
        os.close(fd)


def is_held(path: Path) -> bool:
    """A living runner holds its lock. A shared try does no harm: it lasts microseconds and starters are serialised."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def environment() -> dict[str, str]:
    """So that `engine` is found from any folder, and a file of the workspace never stands in for a module."""
    root = str(Path(__file__).resolve().parents[1])
    rest = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != root]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *rest]), "PYTHONSAFEPATH": "1"}


def spawn(workspace: Workspace, command: Sequence[str]) -> tuple[subprocess.Popen[bytes], int]:
    """Returns it, and how many bytes its log held before it."""
    log = workspace.runner_log
    try:
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            logged = output.tell()
            process = subprocess.Popen(
                [*command, "--workspace", str(workspace.root)],
                cwd=workspace.root,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a hangup of this terminal never reaches it
                close_fds=True,
            )
    except OSError as error:
        raise RunnerUnreachable(f"no runner can be started: {error.strerror or error}") from error
    started.append(process)
    return process, logged


def not_started(workspace: Workspace, why: str, logged: int) -> RunnerUnreachable:
    lines = without_tracebacks(_log_lines(workspace.runner_log, logged))[-LOG_LINES:]
    text = "".join(f"\n    {line}" for line in lines)
    return RunnerUnreachable(
        f"the runner of {workspace.root} can't be reached: {why}"
        + (f". Its last lines, from {workspace.runner_log}:{text}" if lines else ""),
        advice="`gptoss-tui doctor` looks at the installation.",
    )


def _log_lines(path: Path, since: int) -> list[str]:
    """What was logged after the first `since` bytes, of much the end."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since if since <= size else 0, size - LOG_TAIL_BYTES))  # smaller than before: a new file
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()


def without_tracebacks(lines: Sequence[str]) -> list[str]:
    """Of each traceback (and of those it was chained to) only what it ends with: the error."""
    kept: list[str] = []
    inside = False
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            inside = True
        elif inside and (line.startswith(" ") or not line):
            continue
        elif line.startswith(("During handling of the above exception", "The above exception was the direct cause")):
            while kept and not kept[-1]:
                kept.pop()
            kept = kept[:-1]  # the error of the traceback before: the one that follows came of it
        else:
            kept.append(line)
            inside = False
    return [line for line in kept if line]
