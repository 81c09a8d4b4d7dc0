"""Owns the child process around one engine: frames of the runner in, what the engine says out, and a sure end.

`python -m engine.backends.worker --fd N`, N being one end of a socketpair. Nothing here knows a library: the backend is
imported by name when a Load asks for it, and it may end this process at any moment.

Ways out: Close or SIGTERM → in order, 0. The engine broke → Fatal, 70. The runner is gone (EOF on the socket) → 1,
within ORPHAN_S even if the event loop or the engine hangs. SIGINT and SIGHUP are not for us: the runner decides.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import functools
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec

from engine.backends.base import Engine, EngineBroken, EngineLoadError
from engine.pieces import Place, join, place_of
from engine.protocol import (
    HEARTBEAT_S,
    Abort,
    Close,
    Completion,
    Delta,
    Deltas,
    FailureKind,
    Fatal,
    Finish,
    Finished,
    FromWorker,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    ModelInfo,
    Ready,
    RequestError,
    Started,
    Stats,
    ToWorker,
    Watch,
    pack,
    unpack_to_worker,
)

if TYPE_CHECKING:
    from engine.chat import Chat

BACKENDS = ("llamacpp",)

EXIT_OK = 0
EXIT_ORPHAN = 1
EXIT_PROTOCOL = 65
EXIT_BROKEN = 70

DELTAS_S = 0.1
"""Text of watched requests goes out at most this often: more is unreadable and costs the runner its time."""

PROGRESS_STEP = 0.01
ORPHAN_S = 1.0
"""An orphan ends itself in order for so long, then without."""

CLOSE_S = 8.0
"""Longest an orderly end waits for the engine's present step; the runner waits 10 s before it sends SIGTERM."""

MAX_FRAME_BYTES = 256 * 1024 * 1024
MAX_UNSENT_BYTES = 4 * 1024 * 1024
"""With more than this unsent, deltas wait and merge: a slow runner must not fill our memory."""


class _Stopped(Exception):
    """The way out, with the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Worker:
    """One connection, at most one engine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._engine: Engine | None = None
        self._chat: Chat | None = None
        self._context = 0
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._aborted: set[int] = set()  # before they reached the engine
        self._deltas: dict[Place, Delta] = {}
        # One thread keeps the order of the requests; tokenizers and templates needn't be safe for more.
        self._prepare = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._loading: asyncio.Task[None] | None = None

    # --- the life of the process --------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Serve until the end; returns the exit code."""
        self._send(Ready(pid=os.getpid()))
        tasks = [asyncio.create_task(work) for work in (self._receive(), self._send_deltas(), self._send_stats())]
        for task in tasks:
            task.add_done_callback(self._on_task_end)
        code = await self._end
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if code == EXIT_OK:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._close_engine()
        self._flush_deltas()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._writer.drain()
                self._writer.close()
                await self._writer.wait_closed()
        return code

    def stop(self, code: int) -> None:
        if not self._end.done():
            self._end.set_result(code)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """A fault of our own in the plumbing ends the process visibly instead of leaving it deaf."""
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, _Stopped):
                self.stop(error.code)
                return
            traceback.print_exception(error)
            self._send(Fatal(kind=FailureKind.CRASH, message=f"a fault of the worker: {type(error).__name__}: {error}"))
            self.stop(EXIT_BROKEN)

    async def _close_engine(self) -> None:
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        # A prompt in preparation uses the vocabulary, which dies with the engine.
        await asyncio.to_thread(self._prepare.shutdown, wait=True, cancel_futures=True)
        if self._engine is not None:
            await self._engine.close()
        await asyncio.gather(*self._requests.values(), return_exceptions=True)

    # --- in -----------------------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            try:
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                if size > MAX_FRAME_BYTES:
                    raise self._unreadable(f"a frame of {size:,} bytes")
                payload = await self._reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionError):
                raise _Stopped(EXIT_ORPHAN) from None
            try:
                message = unpack_to_worker(payload)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise self._unreadable(str(error)) from None
            self._handle(message)

    def _unreadable(self, what: str) -> _Stopped:
        self._send(Fatal(kind=FailureKind.EXITED, message=f"the runner sent what this worker can't read: {what}"))
        return _Stopped(EXIT_PROTOCOL)

    def _handle(self, message: ToWorker) -> None:
        match message:
            case Load():
                self._start_load(message)
            case Generate():
                self._start_request(message)
            case Abort(keys=keys):
                for key in keys:
                    self._aborted.add(key) if key in self._requests else None
                    if self._engine is not None:
                        _background(self._engine.abort(key))
            case Watch(keys=keys, fresh=fresh):
                if self._engine is not None:
                    self._engine.watch(frozenset(keys), frozenset(fresh))
                self._deltas = {place: delta for place, delta in self._deltas.items() if delta.key in set(keys)}
            case Close():
                self.stop(EXIT_OK)

    # --- loading ------------------------------------------------------------------------------------------------------

    def _start_load(self, message: Load) -> None:
        if self._engine is not None or (self._loading is not None and not self._loading.done()):
            self._send(
                LoadFailed(
                    kind=FailureKind.UNSUPPORTED,
                    message="this worker has a model already",
                    advice="Start another worker for another model.",
                )
            )
            return
        self._loading = asyncio.create_task(self._load(message))

    async def _load(self, message: Load) -> None:
        try:
            self._send(Loaded(info=await self._load_engine(message)))
        except EngineLoadError as error:
            self._send(LoadFailed(kind=error.kind, message=error.message, advice=error.advice))
        except Exception as error:  # noqa: BLE001 - a fault while loading is told as a failed load, with its traceback logged
            traceback.print_exception(error)
            self._send(LoadFailed(kind=FailureKind.CRASH, message=f"loading failed: {type(error).__name__}: {error}"))

    async def _load_engine(self, message: Load) -> ModelInfo:
        settings = message.settings
        engine = await asyncio.to_thread(_create, settings.engine)
        loop = asyncio.get_running_loop()
        reported = [-1.0]

        def on_progress(fraction: float, phase: str) -> None:
            # From the engine's thread, hundreds of times a second.
            if fraction - reported[0] >= PROGRESS_STEP or fraction >= 1:
                reported[0] = fraction
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(self._send, LoadProgress(fraction=fraction, phase=phase))

        try:
            info = await engine.load(settings, on_progress)
            on_progress(1.0, "chat template")
            chat = await loop.run_in_executor(self._prepare, _make_chat, engine, settings.date, info.name)
        except BaseException:
            await engine.close()
            raise
        self._engine, self._chat, self._context = engine, chat, info.context
        return msgspec.structs.replace(info, harmony=chat.harmony, template_digest=chat.template_digest)

    # --- requests -----------------------------------------------------------------------------------------------------

    def _start_request(self, message: Generate) -> None:
        if message.key in self._requests:
            raise self._unreadable(f"request {message.key} twice")
        task = asyncio.create_task(self._request(message))
        self._requests[message.key] = task
        task.add_done_callback(functools.partial(self._on_request_end, message.key))

    def _on_request_end(self, key: int, task: asyncio.Task[None]) -> None:
        self._requests.pop(key, None)
        self._aborted.discard(key)
        if not task.cancelled():
            task.exception()  # taken: `_request` tells of everything itself

    async def _request(self, message: Generate) -> None:
        """One request; whatever happens in it, it ends with exactly one Finished, or the engine is broken."""
        try:
            completion = await self._generate(message)
        except EngineBroken as error:
            if not self._end.done():
                self._send(Fatal(kind=error.kind, message=error.message))
                self.stop(EXIT_BROKEN)
            return
        except Exception as error:  # noqa: BLE001 - one request's fault must not be the others' end
            if self._end.done():
                return
            traceback.print_exception(error)
            completion = _not_executed(f"{type(error).__name__}: {error}")
        self._flush_deltas(message.key)
        self._send(Finished(key=message.key, completion=completion))

    async def _generate(self, message: Generate) -> Completion:
        engine, chat = self._engine, self._chat
        if engine is None or chat is None:
            return _not_executed("no model is loaded in this worker")
        prepared = await asyncio.get_running_loop().run_in_executor(
            self._prepare,
            functools.partial(
                chat.prepare,
                key=message.key,
                url=message.url,
                body=message.body,
                seed=message.seed,
                stream=message.stream,
                context=self._context,
            ),
        )
        if isinstance(prepared, RequestError):
            return Completion(
                finish=Finish.CONTEXT_EXCEEDED if "context" in prepared.code else Finish.INVALID, error=prepared
            )
        if message.key in self._aborted:
            return Completion(finish=Finish.ABORTED)
        async for item in engine.generate(prepared):
            match item:
                case int():
                    self._send(Started(key=message.key, prompt_tokens=item))
                case Delta():
                    self._merge(item)
                case Completion():
                    return item
        return _not_executed("the engine ended the request without a result")

    # --- out ----------------------------------------------------------------------------------------------------------

    def _send(self, message: FromWorker) -> None:
        if not self._writer.is_closing():
            self._writer.write(pack(message))

    def _merge(self, delta: Delta) -> None:
        place = place_of(delta)
        if (held := self._deltas.pop(place, None)) is not None:
            if (both := join(held, delta)) is None:
                self._send(Deltas(items=[held]))  # a gap between them: two pieces stay two
            else:
                delta = both
        self._deltas[place] = delta

    def _flush_deltas(self, key: int | None = None) -> None:
        """Send what is held: all of it, or of one request, whose Finished must come after its text."""
        chosen = [place for place in self._deltas if key is None or place[0] == key]
        if chosen:
            self._send(Deltas(items=[self._deltas.pop(place) for place in chosen]))

    async def _send_deltas(self) -> None:
        while True:
            await asyncio.sleep(DELTAS_S)
            if self._writer.transport.get_write_buffer_size() < MAX_UNSENT_BYTES:
                self._flush_deltas()

    async def _send_stats(self) -> None:
        while True:
            # Half the promised time: this loop shares the interpreter with the engine's thread and may be late.
            await asyncio.sleep(HEARTBEAT_S / 2)
            if self._engine is not None and self._writer.transport.get_write_buffer_size() < MAX_UNSENT_BYTES:
                self._send(Stats(stats=self._engine.stats(), progress=self._engine.progress()))


_background_tasks: set[asyncio.Future[None]] = set()


def _background(work: Coroutine[Any, Any, None]) -> None:
    """Run to its end without being waited for; kept, because the loop holds its tasks weakly."""
    task = asyncio.ensure_future(work)
    _background_tasks.add(task)
    task.add_done_callback(_background_tasks.discard)


def _not_executed(what: str) -> Completion:
    return Completion(
        finish=Finish.ENGINE_DIED, error=RequestError(code="internal_error", message=f"not executed: {what}")
    )


def _create(name: str) -> Engine:
    """In a thread: importing an engine can take seconds."""
    if name not in BACKENDS:
        raise EngineLoadError(
            FailureKind.UNSUPPORTED,
            f"there is no engine {name!r} in this version",
            advice=f"It has: {', '.join(BACKENDS)}.",
        )
    try:
        return importlib.import_module(f"engine.backends.{name}").create()
    except (ImportError, OSError, RuntimeError) as error:  # llama_cpp raises RuntimeError where its .so is missing
        raise EngineLoadError(
            FailureKind.UNAVAILABLE,
            f"the library of engine {name!r} does not work here: {error}",
            advice="Run `make install`, then `gptoss-tui doctor`.",
        ) from error


def _make_chat(engine: Engine, date: str, model_name: str) -> Chat:
    from engine.chat import Chat

    return Chat(engine.tokenizer, date=date, model_name=model_name)


def watch_for_orphan(fd: int, *, grace_s: float = ORPHAN_S) -> None:
    """A thread of its own: once the runner's end of the socket is gone, end within `grace_s` whatever else hangs."""

    def watch() -> None:
        poller = select.poll()
        gone = select.POLLHUP | select.POLLERR | select.POLLNVAL | getattr(select, "POLLRDHUP", 0)
        poller.register(fd, gone)
        while not any(events & gone for _, events in poller.poll()):
            pass
        time.sleep(grace_s)
        os._exit(EXIT_ORPHAN)

    # On a duplicate: the event loop closes its own when it ends in order.
    fd = os.dup(fd)
    threading.Thread(target=watch, name="orphan watch", daemon=True).start()


async def serve(sock: socket.socket) -> int:
    reader, writer = await asyncio.open_connection(sock=sock)
    worker = Worker(reader, writer)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop, EXIT_OK)
    return await worker.run()


def prepare_process() -> None:
    """What must be set before a native library is loaded."""
    os.dup2(2, 1)  # whatever prints belongs to the log; the protocol has its own socket
    faulthandler.enable()
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    # Else an abort() first starts gdb on this process where gdb is installed.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    # Threads that wait for each other by spinning make a busy machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.backends.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="one end of a socketpair")
    fd = parser.parse_args().fd
    prepare_process()
    watch_for_orphan(fd)
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    code = asyncio.run(serve(sock))
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a native library's destructors may abort or wait for its threads, with everything said already.
    os._exit(code)


if __name__ == "__main__":
    main()
