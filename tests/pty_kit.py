"""A program in a terminal of its own: a PTY with a size, a thread that reads and counts, a screen, keys, faults.

The terminal answers the one question Textual waits for (synchronised output), can stop reading as a slow link does, be
resized, and be hung up. It ends only the process it started.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import pyte

PATIENCE_S = 40.0
_QUESTION = b"\x1b[?2026$p"
QUESTIONS = re.compile(rb"\x1b\[\?[0-9;]*\$p|\x1b\[>[0-9;]*[a-zA-Z]|\x1b\[[<=>][0-9;]*u|\x1b\[\?[0-9;]*u")
"""What pyte does not know and would print."""


class Piece(NamedTuple):
    """What arrived by one read."""

    t: float  # monotonic
    data: bytes


class Pty:
    """One program. Use it in a `with`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        columns: int = 80,
        rows: int = 24,
        environment: Mapping[str, str] | None = None,
        synchronised: bool = True,
        keep: bool = True,
    ) -> None:
        self.pieces: list[Piece] = []
        """Everything that was written, unless `keep` is off; `count` counts always."""
        self.count = 0
        self.emulate = True
        """Off: bytes are counted and nobody looks at them."""
        self._keep = keep
        self._main: pyte.Screen | None = None
        self._synchronised = synchronised
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._reads = threading.Event()
        self._reads.set()
        self._over = threading.Event()
        self.started = time.monotonic()
        self.fd, theirs = pty.openpty()
        _set_size(theirs, columns, rows)
        self.process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **(environment or {})},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_own_terminal,
        )
        os.close(theirs)
        self._thread = threading.Thread(target=self._read, name="pty", daemon=True)
        self._thread.start()

    # --- what comes ---------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        rest = b""
        while not self._over.is_set():
            self._reads.wait()
            try:
                ready, _, _ = select.select([self.fd], [], [], 0.1)
                if not ready or not self._reads.is_set():
                    continue
                data = os.read(self.fd, 65536)
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EBADF):
                    raise
                data = b""
            if not data:
                break
            with self._news:
                self.count += len(data)
                if self._keep:
                    self.pieces.append(Piece(time.monotonic(), data))
                text = rest + data
                if self._synchronised and _QUESTION in text:
                    os.write(self.fd, b"\x1b[?2026;2$y")
                # A sequence that is cut by the end of the read waits for its rest.
                cut = text.rfind(b"\x1b", max(0, len(text) - 32))
                whole = cut < 0 or re.match(rb"\x1b(\[[0-9;?<=>$ ]*[@-~]|[^\[])", text[cut:])
                text, rest = (text, b"") if whole else (text[:cut], text[cut:])
                if self.emulate:
                    self._show(QUESTIONS.sub(b"", text))
                self._news.notify_all()
        with self._news:
            self._over.set()
            self._news.notify_all()

    def _show(self, text: bytes) -> None:
        """pyte has one screen; a terminal has another one for programs that fill it."""
        for part in re.split(rb"(\x1b\[\?1049[hl])", text):
            if part == b"\x1b[?1049h":
                self._main = self._screen
                self._use(pyte.Screen(self._screen.columns, self._screen.lines))
            elif part == b"\x1b[?1049l" and self._main is not None:
                self._main.resize(self._screen.lines, self._screen.columns)
                self._use(self._main)
                self._main = None
            else:
                self._stream.feed(part)

    def _use(self, screen: pyte.Screen) -> None:
        self._stream.detach(self._screen)
        self._stream.attach(screen)
        self._screen = screen

    @property
    def alternate(self) -> bool:
        """Whether the program fills the screen, and has not given it back."""
        with self._lock:
            return self._main is not None

    @property
    def screen(self) -> list[str]:
        """Rows as a person sees them."""
        with self._lock:
            return [row.rstrip() for row in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.screen)

    @property
    def written(self) -> bytes:
        with self._lock:
            return b"".join(piece.data for piece in self.pieces)

    def until(self, seen: str | Callable[[list[str]], bool], patience_s: float = PATIENCE_S) -> list[str]:
        """Wait for a text (or a condition) on the screen; the screen that has it."""
        is_there = (lambda rows: seen in "\n".join(rows)) if isinstance(seen, str) else seen
        end = time.monotonic() + patience_s
        with self._news:
            while True:
                rows = [row.rstrip() for row in self._screen.display]
                if is_there(rows):
                    return rows
                left = end - time.monotonic()
                if left <= 0 or self._over.is_set():
                    shown = "\n".join(rows)
                    over = f" (it ended with {self.process.poll()})" if self._over.is_set() else ""
                    raise AssertionError(f"waited in vain for {seen!r}{over}; the screen is\n{shown}")
                self._news.wait(left)

    def quiet(self, for_s: float, patience_s: float = PATIENCE_S) -> None:
        """Wait until nothing was written for so long."""
        end = time.monotonic() + patience_s
        while True:
            before = self.count
            time.sleep(for_s)
            if self.count == before:
                return
            assert time.monotonic() < end, "it never rests"

    def bytes_within(self, begin: float, end: float) -> int:
        with self._lock:
            return sum(len(piece.data) for piece in self.pieces if begin <= piece.t < end)

    # --- what is done to it -------------------------------------------------------------------------------------------

    def send(self, keys: str | bytes) -> None:
        """Keys, as bytes that a terminal sends."""
        os.write(self.fd, keys.encode() if isinstance(keys, str) else keys)

    def resize(self, columns: int, rows: int) -> None:
        with self._lock:
            self._screen.resize(rows, columns)
        _set_size(self.fd, columns, rows)  # the kernel sends SIGWINCH

    def stop_reading(self) -> None:
        """As a link that does not drain, or a suspended laptop."""
        self._reads.clear()

    def read_on(self) -> None:
        self._reads.set()

    def hang_up(self) -> None:
        """As a dropped SSH session: the terminal is gone, SIGHUP follows."""
        self._over.set()
        self._reads.set()
        self._thread.join(PATIENCE_S)
        os.close(self.fd)
        self.fd = -1

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Its exit code. What it wrote last is read."""
        code = self.process.wait(patience_s)
        self._thread.join(patience_s)
        return code

    def close(self) -> None:
        self._reads.set()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._over.set()
        self._thread.join(PATIENCE_S)
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _set_size(fd: int, columns: int, rows: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _own_terminal() -> None:
    """In the child: stdin becomes its controlling terminal, so that a hang-up and ctrl keys reach it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
    signal.signal(signal.SIGINT, signal.SIG_DFL)
