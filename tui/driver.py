"""The terminal driver of this program: what is sent, what comes in, and how it ends, whatever the terminal does.

Textual's writer queue holds a few writes and then blocks whoever writes, which is its event loop. Here a frame that
finds no room is left out instead; once the terminal has caught up, the screen is drawn afresh. What switches modes of
the terminal (at start, stop and suspend) is never left out. Bytes that are no keys end nothing, and signals that end
the program give the terminal back first.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import queue
import select
import signal
import sys
import termios
import threading
import time
from types import FrameType
from typing import Any, TextIO

from textual import events
from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver
from textual.geometry import Size
from textual.message import Message

from tui.pasted import Pastes
from tui.text import char_cells

CLOSE_S = 2.0
"""How long leaving waits for a terminal that does not read."""

FORCED_S = 6.0
"""A signal that ends the program does so after that time, even if it hangs."""

KEEP_FREE = 12
"""Writes of room that frames leave for what must not be lost."""

INPUT_BYTES = 4096
LOOK_S = 0.1
"""How long the reader of keys sleeps at most: a lone escape is told from a sequence by what does not follow it."""

ENDING = (signal.SIGTERM, signal.SIGHUP)


def _marks(error: UnicodeError) -> tuple[str, int]:
    """For characters that the terminal's character set lacks: as many marks as they have columns."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join("?" * char_cells(char) for char in error.object[error.start : error.end]), error.end


codecs.register_error("gptoss-columns", _marks)


class Out:
    """The terminal as a file for one writer: never raises, counts what was really taken.

    Not Python's own stdout: a thread that hangs in that one makes the interpreter hang at its end.
    """

    def __init__(self, file: TextIO) -> None:
        self._fd = file.fileno()
        self._encoding = file.encoding or "utf-8"
        self._parts: list[str] = []
        self.sent_bytes = 0
        self.gone = False
        """Nobody is behind it any more."""

    def write(self, text: str) -> None:
        self._parts.append(text)

    def flush(self) -> None:
        parts, self._parts = self._parts, []
        data = memoryview("".join(parts).encode(self._encoding, "gptoss-columns"))
        while data and not self.gone:
            try:
                taken = os.write(self._fd, data)
            except BlockingIOError:  # somebody who shares the terminal has set it so
                select.select([], [self._fd], [], LOOK_S)
                continue
            except OSError:
                self.gone = True
                return
            self.sent_bytes += taken
            data = data[taken:]

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)


class SteadyDriver(LinuxDriver):
    """Counts and never blocks while the app runs."""

    def __init__(self, app: Any, **more: Any) -> None:
        super().__init__(app, **more)
        stdout = sys.__stdout__
        # Textual's own choice is stderr, which people send to files.
        file = stdout if stdout is not None and stdout.isatty() else sys.__stderr__
        assert file is not None, "a screen is opened on a terminal only"
        self.out = Out(file)
        self._file: Any = self.out
        self.missed = False
        """A frame was left out: the screen is not what the app thinks it is."""
        self._running = False
        self._stopped = False
        self._patience_end = 0.0

    @property
    def sent_bytes(self) -> int:
        """What the terminal has really taken."""
        return self.out.sent_bytes

    @property
    def backlog(self) -> int:
        """Writes that the terminal has not taken yet."""
        thread = self._writer_thread
        return thread._queue.qsize() if thread is not None else 0  # pyright: ignore[reportPrivateUsage]  # version is pinned

    @property
    def stuck(self) -> bool:
        """After the end: the terminal has not taken everything, so more can't be said there."""
        return self.out.gone or (self._writer_thread is not None and self._writer_thread.is_alive())

    @property
    def mouse(self) -> bool:
        """Whether the terminal reports the mouse to the app."""
        return self._mouse

    def set_mouse(self, on: bool) -> bool:
        """Switch reports on or off; returns what holds now."""
        if on:
            self._mouse = True
            self._enable_mouse_support()
        else:
            self._disable_mouse_support()
            self._mouse = False
        return on

    # --- beginning and end --------------------------------------------------------------------------------------------

    def start_application_mode(self) -> None:
        self._running = False
        self._patience_end = time.monotonic() + CLOSE_S
        super().start_application_mode()
        # Textual's handler runs inside itself when sizes come faster than it ends; the loop takes one after another.
        self._loop.add_signal_handler(signal.SIGWINCH, self._resized)
        self._running = True
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup a hang-up is ignored
                signal.signal(number, self._told_to_end)

    def stop_application_mode(self) -> None:
        self._running = False
        self._patience_end = time.monotonic() + CLOSE_S
        self._loop.remove_signal_handler(signal.SIGWINCH)
        super().stop_application_mode()

    def _resized(self) -> None:
        size = Size(*self._get_terminal_size())
        self.send_message(events.Resize(size, size))

    def _told_to_end(self, number: int, frame: FrameType | None) -> None:
        """Leave in order: the terminal gets its modes back. By force where that takes too long."""
        del frame
        if not self._running:  # another program has the terminal, or it was given back already
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        watch = threading.Timer(FORCED_S, self._forced, (number,))
        watch.daemon = True
        watch.start()
        self._loop.call_soon_threadsafe(self._app.ended_by, number)  # pyright: ignore[reportAttributeAccessIssue]  # our app

    def _forced(self, number: int) -> None:
        if self.attrs_before is not None:
            with contextlib.suppress(termios.error, OSError):  # it may be gone
                termios.tcsetattr(self.fileno, termios.TCSANOW, self.attrs_before)
        os._exit(128 + number)

    def _sigtstp_application(self, *_: object) -> None:
        self._stopped = True
        super()._sigtstp_application()

    def _sigcont_application(self, *_: object) -> None:
        """Textual starts everything once more at every SIGCONT; only what ctrl+z has stopped must be."""
        if self._stopped:
            self._stopped = False
            super()._sigcont_application()
            self.missed = True
        elif self._running:  # stopped from outside: others may have used the terminal meanwhile
            self._raw_again()
            self.missed = True

    def _raw_again(self) -> None:
        try:
            attributes = termios.tcgetattr(self.fileno)
            attributes[0] = self._patch_iflag(attributes[0])
            attributes[3] = self._patch_lflag(attributes[3])
            termios.tcsetattr(self.fileno, termios.TCSANOW, attributes)
        except (termios.error, OSError):
            pass  # the terminal is gone: the reader of keys sees that

    def close(self) -> None:
        """End the writer; give up on a terminal that does not read."""
        thread = self._writer_thread
        if thread is None:
            return
        try:
            thread._queue.put(None, timeout=self._patience)  # pyright: ignore[reportPrivateUsage]  # version is pinned
        except queue.Full:
            return
        thread.join(self._patience)

    @property
    def _patience(self) -> float:
        """Seconds left for a terminal that does not read, for all there is to say at the end together."""
        return max(0.0, self._patience_end - time.monotonic())

    # --- what is sent -------------------------------------------------------------------------------------------------

    def write(self, data: str) -> None:
        """A part of a frame, left out where there is no room for it."""
        if self._running and self.backlog + KEEP_FREE > self._room:
            self.missed = True
            return
        self.write_surely(data)

    def write_surely(self, data: str) -> bool:
        """What no later frame makes good. False where the terminal has stopped reading for so long that it is lost."""
        thread = self._writer_thread
        assert thread is not None, "the driver is in application mode"
        waiting = thread._queue  # pyright: ignore[reportPrivateUsage]  # version is pinned
        try:
            if self._running:
                waiting.put_nowait(data)
            else:
                waiting.put(data, timeout=self._patience)
        except queue.Full:
            self.missed = True
            return False
        return True

    @property
    def _room(self) -> int:
        thread = self._writer_thread
        return thread._queue.maxsize if thread is not None else 0  # pyright: ignore[reportPrivateUsage]  # version is pinned

    # --- what comes in ------------------------------------------------------------------------------------------------

    def run_input_thread(self) -> None:
        """Read keys until the end. Textual's own ends at a byte that is no UTF-8, and spins after a hang-up."""
        parser = XTermParser(self._debug)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        pastes = Pastes()
        while not self.exit_event.is_set():
            try:
                ready = select.select([self.fileno], [], [], LOOK_S)[0]
                data = os.read(self.fileno, INPUT_BYTES) if ready else b""
            except OSError:
                data, ready = b"", [self.fileno]
            if ready and not data:  # hung up
                self.out.gone = True
                self._loop.call_soon_threadsafe(self._app.ended_by, signal.SIGHUP)  # pyright: ignore[reportAttributeAccessIssue]  # our app
                return
            for part in pastes.split(decoder.decode(data), time.monotonic()):
                if isinstance(part, events.Paste):
                    self.process_message(part)
                else:
                    parser = self._feed(parser, part)
            parser = self._feed(parser, "")

    def _feed(self, parser: XTermParser, text: str) -> XTermParser:
        """The parser for what comes next: another one where this stumbled."""
        read: list[Message] = []
        try:
            for event in parser.feed(text) if text else ():  # "" would be the end for it
                read.append(event)  # noqa: PERF402 - what was read before a stumble counts
            read.extend(parser.tick())
        except Exception:  # noqa: BLE001 - anybody's bytes, and a parser that raises what it likes: the rest is lost
            parser = XTermParser(self._debug)
        for event in read:
            self.process_message(event)
        return parser

    def process_message(self, message: Message) -> None:
        # The size comes from the kernel. What looks like a report of it may be text that somebody pasted.
        if isinstance(message, events.Resize) and not self._in_band_window_resize:
            return
        super().process_message(message)
