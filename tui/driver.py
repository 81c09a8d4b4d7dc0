"""The terminal driver of this program: counts what is sent, and never lets a terminal that does not read stop the loop.

Textual's writer queue holds a few writes and then blocks whoever writes, which is its event loop. Here a frame that
finds no room is left out instead; once the terminal has caught up, the screen is drawn afresh. What switches modes of
the terminal (at start, stop and suspend) is never left out.
"""

from __future__ import annotations

import queue
import sys
import time
from typing import Any

from textual.drivers.linux_driver import LinuxDriver

CLOSE_S = 2.0
"""How long leaving waits for a terminal that does not read."""

KEEP_FREE = 12
"""Writes of room that frames leave for what must not be lost."""


class SteadyDriver(LinuxDriver):
    """Counts and never blocks while the app runs."""

    def __init__(self, app: Any, **more: Any) -> None:
        super().__init__(app, **more)
        if sys.__stdout__ is not None and sys.__stdout__.isatty():
            self._file = sys.__stdout__  # Textual's own choice is stderr, which people send to files
        self.sent_bytes = 0
        self.missed = False
        """A frame was left out: the screen is not what the app thinks it is."""
        self._running = False

    @property
    def backlog(self) -> int:
        """Writes that the terminal has not taken yet."""
        thread = self._writer_thread
        return thread._queue.qsize() if thread is not None else 0  # pyright: ignore[reportPrivateUsage]  # version is pinned

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

    def start_application_mode(self) -> None:
        self._running = False
        super().start_application_mode()
        self._running = True

    def stop_application_mode(self) -> None:
        self._running = False
        super().stop_application_mode()

    def write(self, data: str) -> None:
        thread = self._writer_thread
        assert thread is not None, "the driver is in application mode"
        if not self._running:
            thread.write(data)
            return
        waiting = thread._queue  # pyright: ignore[reportPrivateUsage]  # version is pinned
        if waiting.qsize() + KEEP_FREE > waiting.maxsize:
            self.missed = True
            return
        self.sent_bytes += len(data.encode("utf-8", "replace"))
        thread.write(data)

    def close(self) -> None:
        """End the writer; give up on a terminal that does not read."""
        thread = self._writer_thread
        if thread is None:
            return
        end = time.monotonic() + CLOSE_S
        try:
            thread._queue.put(None, timeout=CLOSE_S)  # pyright: ignore[reportPrivateUsage]  # version is pinned
        except queue.Full:
            return
        thread.join(max(0.0, end - time.monotonic()))
