"""`python -m engine.offline browse`: questions of engine/pages.py on stdin, answers on stdout, until stdin closes.

Between two slices of work it looks for new questions. One that must wait does not hold up others: a newer search
takes the place of an older one, a page that has waited long enough tells what is known. Nothing that is asked, and
nothing that stands in the files, ends it.
"""

from __future__ import annotations

import gc
import os
import select
import sys
import time
from typing import Any

import msgspec

from engine.browse import Browse
from engine.errors import GptossError
from engine.pages import Answer, Ask, AskFind, AskPage, Fault, OpenRun
from engine.protocol import MAX_LINE_BYTES

PATIENCE_S = 0.2
"""How long a page waits for a search or for a row before it comes as far as things are known."""

LAST_S = 2.0
"""How long questions are still answered after stdin was closed. Where the UI was killed, nobody hears it."""

READ_BYTES = 64 * 1024
NICENESS = 5
"""A person waits for it, but the engine's threads go first."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Ask)


class _Waiting:
    __slots__ = ("ask", "run", "until")

    def __init__(self, ask: Ask, run: OpenRun | None, until: float) -> None:
        self.ask = ask
        self.run = run  # that was open when it was asked
        self.until = until


class Desk:
    """The questions that wait, and the run they are about."""

    def __init__(self) -> None:
        self._browse = Browse()
        self._opened: OpenRun | None = None  # what new questions are about
        self._active: OpenRun | None = None  # what is worked on: of a question that waits, it may be another
        self._waiting: list[_Waiting] = []
        self._faults: list[Fault] = []  # of a run that could not be read on

    def hear(self, line: bytes) -> list[Answer]:
        """A new question. Answers it, or those whose place it takes."""
        if not line.strip():
            return []
        try:
            ask = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return [Fault(id=_id_in(line), message=f"this is no question: {error}")]
        answers: list[Answer] = []
        for waiting in list(self._waiting):
            old = waiting.ask
            if isinstance(ask, AskFind) and isinstance(old, AskFind):
                answers.append(Fault(id=old.id, message="a newer search took the place of this one"))
            elif isinstance(ask, AskPage) and isinstance(old, AskPage):
                answers += self._try(old, waiting.run, at_once=True)
            else:
                continue
            self._waiting.remove(waiting)
        if isinstance(ask, OpenRun):
            self._opened = self._active = ask
        found = self._try(ask, self._opened, at_once=False)
        if not found:
            self._waiting.append(_Waiting(ask, self._opened, time.monotonic() + PATIENCE_S))
        return [*answers, *found]

    def work(self) -> bool:
        """A slice of what is to be read. False: there is nothing more."""
        try:
            return self._browse.work()
        except Exception as error:  # noqa: BLE001 - whatever stands in a file, another run can still be opened
            self._browse.close()
            self._active = None
            message = f"the run can't be read: {_plain(str(error)) or type(error).__name__}"
            self._faults = [Fault(id=waiting.ask.id, message=message) for waiting in self._waiting]
            self._waiting = []
            return False

    def due(self, *, idle: bool) -> list[Answer]:
        """Answers to those who waited. `idle`: nothing more will be known."""
        answers: list[Answer] = [*self._faults]
        self._faults = []
        now = time.monotonic()
        for waiting in list(self._waiting):
            late = idle or now >= waiting.until
            if late or isinstance(waiting.ask, AskPage):
                found = self._try(waiting.ask, waiting.run, at_once=late)
                if found:
                    self._waiting.remove(waiting)
                    answers += found
                elif late:
                    waiting.until = now + PATIENCE_S
        return answers

    @property
    def anybody_waits(self) -> bool:
        return bool(self._waiting)

    def last_words(self) -> list[Answer]:
        """Nobody will ask any more: what can be known soon is still said."""
        answers: list[Answer] = []
        end = time.monotonic() + LAST_S
        while self._waiting and time.monotonic() < end:
            busy = self.work()
            answers += self.due(idle=not busy)
        return answers

    def _try(self, ask: Ask, run: OpenRun | None, *, at_once: bool) -> list[Answer]:
        """One answer, or none yet."""
        try:
            if run is not None and run is not self._active:
                self._active = run
                self._browse.answer(run)
            answer = self._browse.answer(ask, at_once=at_once)
        except GptossError as error:
            answer = Fault(message=_plain(error.message), advice=_plain(error.advice))
        except MemoryError:
            answer = Fault(message="this machine's memory is not enough to show that")
        except OSError as error:
            answer = Fault(message=f"{error.filename or 'a file'} can't be read: {error.strerror or error}")
        except Exception as error:  # noqa: BLE001 - whatever stands in a file, the next question is answered
            answer = Fault(
                message=f"internal error while answering: {type(error).__name__}: {_plain(str(error))}",
                advice="The files are untouched. Please report this.",
            )
        if answer is None:
            return []
        return [msgspec.structs.replace(answer, id=ask.id)]


def _id_in(line: bytes) -> int:
    """The id of a question that can't be read otherwise, so that whoever asked is told."""
    try:
        value: Any = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) else 0


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _line(answer: Answer) -> bytes:
    data = _encoder.encode(answer)
    if len(data) >= MAX_LINE_BYTES:
        data = _encoder.encode(Fault(id=answer.id, message="this request is too large to be shown here"))
    return data + b"\n"


def serve() -> int:
    """Until stdin closes. Raises BrokenPipeError where nobody reads the answers."""
    os.nice(NICENESS)
    gc.freeze()  # modules stay; a collection looks only at what came later,
    gc.set_threshold(100_000)  # and not at every block: what is read holds no cycles
    desk = Desk()
    stdin, out = sys.stdin.fileno(), sys.stdout.buffer
    held = b""
    busy = False
    while True:
        answers: list[Answer] = []
        if select.select([stdin], [], [], 0.0 if busy else None)[0]:
            data = os.read(stdin, READ_BYTES)
            if not data:
                answers = desk.last_words()
                out.write(b"".join(map(_line, answers)))
                out.flush()
                return 0
            *whole, held = (held + data).split(b"\n")
            if len(held) > MAX_LINE_BYTES:  # no question of ours: what is left of it is answered as a bad one
                held = b""
            for line in whole:
                answers += desk.hear(line)
        busy = desk.work()
        answers += desk.due(idle=not busy)
        busy = busy or desk.anybody_waits  # for what came into the files since that last slice
        if answers:
            out.write(b"".join(map(_line, answers)))
            out.flush()
