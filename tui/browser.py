"""The UI's handle on the child that reads a run's files: `python -m engine.offline browse` (engine/pages.py).

Questions go out at once and answers come back by id, so any number may be on their way and each await may be cancelled.
The child is started by the first question and again where it died; a question that saw two of them die is given up.
It can't outlive the UI: it ends when its stdin closes, whichever way that comes about.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from engine.client import OFFLINE_COMMAND
from engine.errors import GptossError, RunnerError
from engine.pages import Answer, Ask, AskDetail, AskFind, AskPage, Detail, Fault, Found, OpenRun, Page
from engine.protocol import MAX_LINE_BYTES
from engine.starting import environment
from engine.workspace import Workspace

TRIES = 2
"""Children that one question is put to."""

FAREWELL_S = 0.3
"""How long a child may take to notice that its stdin was closed."""

LEAVING_S = 2.0
"""How long a child that was killed may take to be gone: one stuck in a broken disk can't be waited for."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Answer)
_A = TypeVar("_A", Page, Detail, Found)


class _Question:
    """One on its way."""

    __slots__ = ("answer", "line", "run", "tries")

    def __init__(self, ask: Ask, run: OpenRun | None) -> None:
        self.run = run  # that it is about
        self.line = _encoder.encode(ask) + b"\n"
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.tries = 0


class Browser:
    """One run at a time, that which was opened last."""

    def __init__(self, *, command: Sequence[str] = (*OFFLINE_COMMAND, "browse")) -> None:
        self._command = command
        self._ids = itertools.count(1)
        self._questions: dict[int, _Question] = {}
        self._opened: OpenRun | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    async def open(self, workspace: Workspace, job: str, input_path: str = "") -> None:
        """Questions are about this run from now on. Free where they are already.

        What is wrong with the run is told by the first question about it. Between this and that question there must be
        no other await, or somebody else's `open` may come between.
        """
        wanted = OpenRun(folder=str(workspace.run_folder(job)), input_path=input_path)
        await self._start()
        self._open(wanted)

    async def page(
        self,
        *,
        which: str = "all",
        text: str = "",
        offset: int = 0,
        count: int = 50,
        taken_out: Sequence[str] = (),
        around: str = "",
    ) -> Page:
        """Rows of a selection; with a fraction below 1 it is worth asking again. Raises GptossError."""
        ask = AskPage(
            id=next(self._ids),
            which=which,
            text=text,
            offset=offset,
            count=count,
            taken_out=list(taken_out),
            around=around,
        )
        return await self._ask(ask, Page)

    async def detail(self, custom_id: str) -> Detail:
        """Everything on one request. Raises GptossError."""
        return await self._ask(AskDetail(id=next(self._ids), custom_id=custom_id), Detail)

    async def find(
        self,
        find: str,
        *,
        start: int = 0,
        step: int = 1,
        which: str = "all",
        text: str = "",
        taken_out: Sequence[str] = (),
    ) -> Found:
        """The next row from `start` on that holds `find`. Raises GptossError, also where a newer search took over."""
        ask = AskFind(
            id=next(self._ids),
            find=find,
            start=start,
            step=step,
            which=which,
            text=text,
            taken_out=list(taken_out),
        )
        return await self._ask(ask, Found)

    async def close(self) -> None:
        """End the child. Whoever still waits for an answer is cancelled."""
        self._closed = True
        async with self._starting:  # a child that is being started is there afterwards
            process, self._process = self._process, None
            listener, self._listener = self._listener, None
        for question in self._questions.values():
            question.answer.cancel()
        if listener is not None:
            listener.cancel()
            await asyncio.wait([listener])
        if process is not None:
            await _end(process)

    # --- questions ----------------------------------------------------------------------------------------------------

    async def _ask(self, ask: Ask, kind: type[_A]) -> _A:
        question = _Question(ask, self._opened)
        if self._process is None:
            await self._start()
        self._questions[ask.id] = question
        try:
            self._put(question)
            answer = await question.answer
        finally:
            del self._questions[ask.id]
        if isinstance(answer, Fault):
            raise GptossError(answer.message, advice=answer.advice)
        if not isinstance(answer, kind):
            raise RunnerError(f"the reader of results answered {type(answer).__name__} where {kind.__name__} was asked")
        return answer

    def _put(self, question: _Question) -> None:
        question.tries += 1
        if question.run is not None:  # while a child was started somebody may have opened another
            self._open(question.run)
        self._send(question.line)

    def _open(self, run: OpenRun) -> None:
        if run != self._opened:
            self._opened = run
            self._send(_encoder.encode(run) + b"\n")

    def _send(self, line: bytes) -> None:
        """Never waits. A child that died takes nothing; `_listen` sees that and puts the questions again."""
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(line)

    # --- the child ----------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        """Make sure that there is a child, opened at the run."""
        async with self._starting:
            if self._closed:
                raise RunnerError("the reader of results was closed")
            if self._process is not None:
                return
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment(),
                    limit=MAX_LINE_BYTES,
                    start_new_session=True,  # ctrl+c in the terminal is not meant for it
                )
            except OSError as error:
                raise RunnerError(
                    f"the reader of results can't be started: {error.strerror or error}",
                    advice="`gptoss-tui doctor` looks at the installation.",
                ) from error
            self._process = process
            self._listener = asyncio.create_task(self._listen(process))
            if self._opened is not None:
                self._send(_encoder.encode(self._opened) + b"\n")

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Hand out answers until the child is gone, then see to those who wait for one."""
        assert process.stdout is not None
        assert process.stderr is not None
        complaints = asyncio.create_task(_tail(process.stderr))
        try:
            async for line in process.stdout:
                self._answered(line)
            why = ""
        except (ValueError, msgspec.MsgspecError) as error:  # a line without end, or no answer at all
            why = f"it said what is no answer ({error})"
        finally:
            if self._closed:
                complaints.cancel()
        await _end(process)
        said = (await complaints).decode("utf-8", "replace").strip().splitlines()
        code = process.returncode or 0
        how = why or (f"killed by signal {-code}" if code < 0 else f"exit code {code}")
        self._process = None
        await self._put_again(how + (f": {said[-1]}" if said and not why else ""))

    def _answered(self, line: bytes) -> None:
        answer = _decoder.decode(line)
        question = self._questions.get(answer.id)
        if question is not None and not question.answer.done():
            question.answer.set_result(answer)

    async def _put_again(self, how: str) -> None:
        """Nobody's question is lost with a child, unless it was the question that ended it."""
        failure: GptossError = RunnerError(
            f"the reader of results ended ({how})", advice="`gptoss-tui doctor` looks at the installation."
        )
        waiting = [question for question in self._questions.values() if not question.answer.done()]
        again = [question for question in waiting if 0 < question.tries < TRIES]
        if again:
            try:
                await self._start()
            except GptossError as error:
                failure, again = error, []
        for question in waiting:
            if question in again:
                self._put(question)
            elif question.tries and not question.answer.done():
                question.answer.set_exception(failure)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Gone and reaped, whatever state it is in.

    Not killed at once: to kill one that has just ended by itself takes its exit code away from whoever waits for it.
    """
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), FAREWELL_S)
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), LEAVING_S)


async def _tail(stream: asyncio.StreamReader) -> bytes:
    """The end of what it complained, read on so that it never waits for us."""
    kept = b""
    while block := await stream.read(4096):
        kept = (kept + block)[-4096:]
    return kept
