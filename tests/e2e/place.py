"""A workspace with a runner double, and the screen opened on it in terminals of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.workspace import Workspace
from tests.control_kit import remove, short_folder
from tests.pty_kit import Pty
from tests.wire import kill

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 40.0
JOB = "evals-1"


class Place:
    """A workspace with a runner double that generates 1,500 tokens a second."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "ws"
        self.root.mkdir()
        (folder / "run").mkdir(mode=0o700)
        self.environment = {
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "PYTHONPATH": str(ROOT),
            "LANG": "C.UTF-8",
            **dict.fromkeys(("SSH_CONNECTION", "SSH_TTY", "SSH_CLIENT", "TMUX", "STY", "NO_COLOR", "LC_ALL"), ""),
        }
        self._open = ExitStack()

    def feed(self, *more: str) -> subprocess.Popen[bytes]:
        """Start the double; it is killed at the end."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.doubles.feeder", str(self.root), *more],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
        )
        self._open.callback(kill, process)
        end = time.monotonic() + PATIENCE_S
        while not Workspace.at(self.root).socket.exists():
            assert time.monotonic() < end
            time.sleep(0.02)  # the process is on its way to its socket; nothing tells when
        return process

    def run(self, code: str) -> Pty:
        """Python of the test's own in a terminal."""
        made = Pty([sys.executable, "-c", code], cwd=self.root, environment=self.environment)
        return self._open.enter_context(made)

    def screen(self, *arguments: str, columns: int = 80, rows: int = 24, **environment: str) -> Pty:
        made = Pty(
            [sys.executable, "-m", "tui.cli", *arguments],
            cwd=self.root,
            columns=columns,
            rows=rows,
            environment=self.environment | environment,
        )
        return self._open.enter_context(made)

    def status(self) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "tui.cli", "status", "--json"],
            cwd=self.root,
            env={**os.environ, **self.environment},
            capture_output=True,
            check=True,
            timeout=PATIENCE_S,
        )
        return json.loads(done.stdout)

    def tokens(self) -> int:
        return self.status()["jobs"][0]["completion_tokens"]

    def close(self) -> None:
        self._open.close()


@contextmanager
def made_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    folder = short_folder()
    place = Place(folder)
    monkeypatch.setenv("XDG_RUNTIME_DIR", place.environment["XDG_RUNTIME_DIR"])
    try:
        yield place
    finally:
        place.close()
        remove(folder)


def sent(it: Pty, seconds: float) -> float:
    """Bytes a second. A count over a time that the test chooses: a slow machine sends less, never more."""
    begin = it.count
    time.sleep(seconds)
    return (it.count - begin) / seconds


def foreign(written: bytes) -> set[bytes]:
    """Steering bytes that are no part of what the program itself sends, with what is around them."""
    rest = OWN_SEQUENCES.sub(b"", written)
    rest = re.sub(rb"\x1b[^a-zA-Z]*$", b"", rest)  # the last one is still on its way
    found = set(re.findall(rb"(?s).{0,9}[\x00-\x09\x0b\x0c\x0e-\x1f\x7f].{0,19}", rest))
    bidi = "[\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufff9]"
    return found | {char.encode() for char in re.findall(bidi, rest.decode("utf-8", "replace"))}


OWN_SEQUENCES = re.compile(
    rb"\x1b(\[[0-9;?<=>$ ]*[@-~]|\]22;[a-z]*\x07|\]52;c;(?!T1dORUQ=)[A-Za-z0-9+/=]*\x07|[=>78M])"
)
"""What the program itself sends: CSI, the shape of the mouse pointer, and a copy that `y` asked for (never the payload
that the hostile texts carry)."""
