"""A terminal that stops reading costs frames, never the loop and never what switches its modes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from textual import events
from textual.app import App
from textual.drivers._writer_thread import WriterThread

from tui import driver as drivers
from tui.driver import KEEP_FREE, Out, SteadyDriver

Pipe = tuple[int, Out]


@pytest.fixture(name="pipe")
def _pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as file:
        yield reader, Out(file)
    os.close(reader)


@pytest.fixture(name="make")
def _make(monkeypatch: pytest.MonkeyPatch, pipe: Pipe) -> Callable[[], tuple[SteadyDriver, list[Any]]]:
    def make() -> tuple[SteadyDriver, list[Any]]:
        """A driver whose writer takes nothing, and what it told the app."""
        reader, out = pipe
        told: list[Any] = []
        monkeypatch.setattr(drivers.sys, "__stdout__", None)
        monkeypatch.setattr(drivers, "Out", lambda _file: out)
        monkeypatch.setattr("sys.__stdin__", os.fdopen(reader, closefd=False))
        found = SteadyDriver(App())
        found._writer_thread = WriterThread(out)  # pyright: ignore[reportArgumentType]  # all that it uses of a file
        found._running = True
        monkeypatch.setattr(found, "process_message", told.append)
        return found, told

    return make


async def test_frames_are_left_out_where_there_is_no_room_and_modes_are_not(
    make: Callable[[], tuple[SteadyDriver, list[Any]]],
) -> None:
    driver, _ = make()
    thread = driver._writer_thread
    assert thread is not None
    room = thread._queue.maxsize
    for _ in range(room - KEEP_FREE + 1):
        driver.write("frame")
    assert (driver.backlog, driver.missed) == (room - KEEP_FREE + 1, False)
    driver.write("frame")
    assert (driver.backlog, driver.missed) == (room - KEEP_FREE + 1, True)
    sent = [driver.write_surely("mode") for _ in range(KEEP_FREE)]
    assert sent == [True] * (KEEP_FREE - 1) + [False]  # full: given up, at once


async def test_bytes_that_nobody_can_parse_cost_these_keys_only(
    make: Callable[[], tuple[SteadyDriver, list[Any]]],
) -> None:
    driver, told = make()

    class Stumbles:
        def feed(self, text: str) -> Iterator[Any]:
            raise ValueError(text)

        def tick(self) -> Iterator[Any]:
            return iter(())

    parser = driver._feed(Stumbles(), "\x1b[?")  # pyright: ignore[reportArgumentType]  # what a parser has
    assert told == []
    driver._feed(parser, "a")
    assert [event.key for event in told if isinstance(event, events.Key)] == ["a"]


def test_only_what_the_terminal_took_counts(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, out = pipe
    write = os.write
    monkeypatch.setattr(drivers.os, "write", lambda fd, data: write(fd, data[:3]))
    out.write("häl")
    out.write("lo")
    out.flush()
    assert os.read(reader, 100).decode() == "hällo"
    assert out.sent_bytes == 6


def test_a_terminal_that_is_gone_ends_writing(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> int:
        raise OSError(5, "Input/output error")

    _, out = pipe
    monkeypatch.setattr(drivers.os, "write", gone)
    out.write("text")
    out.flush()
    assert out.gone
    assert out.sent_bytes == 0


def test_what_the_character_set_lacks_keeps_its_columns() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="ascii") as file:
        out = Out(file)
        out.write("a界é")
        out.flush()
        assert os.read(reader, 100) == b"a???"
    os.close(reader)
