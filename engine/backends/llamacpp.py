"""Owns the llama.cpp engine: `base.Engine` on llama-cpp-python's low-level API.

Here: settings → parameters, loading and why it failed, and the way between the asyncio side and the one thread that
owns the context. The batching itself is in `llamacpp_loop`, requests and sequences in `llamacpp_requests`, sampling in
`llamacpp_sampling`, JSON schemas in `llamacpp_grammar`, the vocabulary in `llamacpp_vocab`, the library's log in
`llamacpp_log`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ctypes
import functools
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import llama_cpp
import llama_cpp.llama_cpp as c
import psutil
import pynvml

from engine.backends import llamacpp_log as log
from engine.backends.base import EngineBroken, EngineLoadError, Generation
from engine.backends.llamacpp_loop import GRAMMAR_S, Broken, Counters, Item, Loop, Result
from engine.backends.llamacpp_requests import Limits
from engine.backends.llamacpp_vocab import Vocabulary
from engine.protocol import (
    Completion,
    Delta,
    EngineSettings,
    EngineStats,
    FailureKind,
    Finish,
    ModelInfo,
    RequestError,
)

NAME = "llamacpp"

SCHEMA_S = 10.0
"""Longest that making a grammar of a JSON schema may take: milliseconds mostly, and the loop waits for it once more."""

_T = TypeVar("_T")

MAX_THREADS = 8
"""More CPU threads than this wait for each other more than they compute at the sizes that run on a CPU."""

ONE_THREAD_BYTES = 32 * 1024 * 1024
"""Below this a pass is over before threads have met: the 2 MB demo model on two cores and one slot made 410 tokens a
second with two threads and 4 937 with one."""

KV_TYPES = {"f32": c.GGML_TYPE_F32, "f16": c.GGML_TYPE_F16, "q8_0": c.GGML_TYPE_Q8_0, "q4_0": c.GGML_TYPE_Q4_0}

FLASH_ATTENTION_ON = c.LLAMA_FLASH_ATTN_TYPE_ENABLED

log.install()  # importing llama_cpp set a callback of its own, which prints every fragment


@functools.cache
def _init_library() -> None:
    c.llama_backend_init()


def choose_threads(wanted: int, model_bytes: int) -> int:
    """`wanted`, or the physical cores this process may use, at most MAX_THREADS; one for a tiny model."""
    if wanted > 0:
        return wanted
    if model_bytes < ONE_THREAD_BYTES:
        return 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(psutil.cpu_count(logical=False) or usable, usable, MAX_THREADS))


def gpu_names() -> list[str]:
    """NVIDIA GPUs the driver shows; none where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        names = [pynvml.nvmlDeviceGetName(handle) for handle in handles]
        return [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    except pynvml.NVMLError:
        return []
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def gpu_warnings(
    *, gpus: list[str], library_has_gpu: bool, device: str, gpu_layers: int, errors: list[str]
) -> list[str]:
    """What to say where a GPU is there and the model does not run on it. Pure."""
    if not gpus or gpu_layers == 0 or device != "CPU":
        return []
    if not library_has_gpu:
        message = (
            f"{gpus[0]} is there, but llama-cpp-python was built without CUDA, so the model runs on the CPU. "
            "Build it for this card with `make install` (it needs nvcc from the CUDA toolkit)."
        )
        return [message]
    said = next((line for line in errors if "CUDA" in line), "llama.cpp found no usable device")
    message = (
        f"{gpus[0]} is there, but llama.cpp could not use it and the model runs on the CPU: {said}. "
        "Check the driver with `nvidia-smi`, then build again with `make install`."
    )
    return [message]


def check_settings(settings: EngineSettings) -> None:
    """Raise EngineLoadError for what llama.cpp would answer with NULL or abort()."""
    most = int(c.llama_max_parallel_sequences())
    problems = [
        (not 1 <= settings.slots <= most, f"slots is {settings.slots}; llama.cpp runs 1 to {most}"),
        (settings.context < 1, f"context is {settings.context}; a slot needs at least 1 token"),
        (settings.ubatch < 1, f"ubatch is {settings.ubatch}; it must be at least 1"),
        (settings.batch < 1, f"batch is {settings.batch}; it must be at least 1"),
        (settings.slots * settings.context >= 2**31, "slots times context is more than llama.cpp can count"),
        (
            settings.kv_type not in KV_TYPES,
            f"kv_type is {settings.kv_type!r}; llama.cpp knows {', '.join(KV_TYPES)}",
        ),
    ]
    for wrong, message in problems:
        if wrong:
            raise EngineLoadError(FailureKind.UNSUPPORTED, message, advice="Change this setting and start again.")


def check_file(path: Path) -> None:
    """Raise EngineLoadError with a sentence where the file can't be a GGUF model."""
    advice = "Give the path of a .gguf file."
    try:
        if path.is_dir():
            raise EngineLoadError(
                FailureKind.UNSUPPORTED,
                f"{path} is a folder; llama.cpp reads GGUF files",
                advice=advice,
            )
        with path.open("rb") as file:
            head = file.read(4)
    except FileNotFoundError:
        raise EngineLoadError(FailureKind.BAD_FILE, f"{path} is not there", advice=advice) from None
    except OSError as error:
        raise EngineLoadError(
            FailureKind.BAD_FILE, f"{path} can't be read: {error.strerror}", advice="Check its permissions."
        ) from None
    if not head:
        raise EngineLoadError(FailureKind.BAD_FILE, f"{path} is empty", advice="Get the file again.")
    if head != b"GGUF":
        raise EngineLoadError(FailureKind.BAD_FILE, f"{path} is not a GGUF model", advice=advice)


def _load_error(what: str, path: Path, lines: list[log.Line]) -> EngineLoadError:
    kind, said = log.cause(lines)
    message, advice = {
        FailureKind.OOM: (
            f"not enough memory for {what} of {path.name}",
            "Use fewer slots, a smaller context or a smaller ubatch, or end what else uses the device.",
        ),
        FailureKind.BAD_FILE: (
            f"{path} is broken or incomplete",
            "Compare its size with the source's and get it again.",
        ),
        FailureKind.UNSUPPORTED: (
            f"this version of llama.cpp can't run {path.name} with these settings",
            "Take another model, or change the setting the message names.",
        ),
    }[kind]
    return EngineLoadError(kind, f"{message} ({said})", advice=advice)


class _Thread:
    """The one thread that touches the library. A daemon, so that a forgotten `close` can't keep the process alive."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], concurrent.futures.Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._main, name="llamacpp", daemon=True).start()

    def run(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        future: concurrent.futures.Future[_T] = concurrent.futures.Future()
        self._work.put((work, future))
        return asyncio.wrap_future(future)

    def end(self) -> None:
        self._work.put(None)

    def _main(self) -> None:
        while (item := self._work.get()) is not None:
            work, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - whoever waits for the future gets it
                future.set_exception(error)


class LlamaCpp:
    """`base.Engine`: one model, one context, one thread that touches them."""

    def __init__(self) -> None:
        self._thread = _Thread()
        self._model: Any = None
        self._context: Any = None
        self._vocabulary: Vocabulary | None = None
        self._loop: Loop | None = None
        self._running: asyncio.Future[None] | None = None
        self._queues: dict[int, asyncio.Queue[Item]] = {}
        self._checking: list[threading.Thread] = []  # schemas; one that hangs stays here
        self._aborted: set[int] = set()  # of `_queues`: an abort may come while the schema is still being compiled
        self._broken: EngineBroken | None = None
        self._limits = Limits(0, 0, 0, 0, 0, False, 0)
        self._memory: dict[str, int] = {}
        self._cancelled = threading.Event()
        self._closed = False

    # --- loading ------------------------------------------------------------------------------------------------------

    async def load(self, settings: EngineSettings, on_progress: Callable[[float, str], None]) -> ModelInfo:
        check_settings(settings)
        path = Path(settings.model_path)
        check_file(path)
        asyncio_loop = asyncio.get_running_loop()
        try:
            info = await self._thread.run(lambda: self._load(settings, path, on_progress))
        except BaseException:
            # Also when cancelled: the library polls this in its progress callback and gives up.
            self._cancelled.set()
            raise

        def deliver(results: list[Result]) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop was closed: nobody is left to tell
                asyncio_loop.call_soon_threadsafe(self._distribute, results)

        assert self._vocabulary is not None
        self._loop = loop = Loop(self._context, self._vocabulary, self._limits, deliver)
        self._running = self._thread.run(lambda: self._run(loop, deliver))
        return info

    def _load(self, settings: EngineSettings, path: Path, on_progress: Callable[[float, str], None]) -> ModelInfo:
        """In the engine's thread."""
        _init_library()
        mark = log.LOG.mark()

        @c.llama_progress_callback
        def progress(fraction: float, _user_data: ctypes.c_void_p) -> bool:
            on_progress(fraction, "weights")
            return not self._cancelled.is_set()

        mp = c.llama_model_default_params()
        mp.n_gpu_layers = settings.gpu_layers
        mp.progress_callback = progress
        self._model = c.llama_model_load_from_file(os.fsencode(path), mp)
        if not self._model:
            raise _load_error("the weights", path, log.LOG.since(mark))
        if not c.llama_model_has_decoder(self._model) or c.llama_model_has_encoder(self._model):
            self._release()
            raise EngineLoadError(
                FailureKind.UNSUPPORTED,
                f"{path.name} is not a decoder-only language model",
                advice="Take another model.",
            )
        on_progress(1.0, "context")
        threads = choose_threads(settings.threads, path.stat().st_size)
        cp = c.llama_context_default_params()
        cp.n_ctx = settings.slots * settings.context
        cp.n_seq_max = settings.slots
        cp.n_batch = max(settings.batch, settings.slots)  # a decode row for every slot must fit one call
        cp.n_ubatch = min(settings.ubatch, cp.n_batch)
        cp.n_outputs_max = settings.slots  # its default sizes the compute buffer for logits on every row
        cp.n_threads = threads
        cp.n_threads_batch = threads
        cp.flash_attn_type = FLASH_ATTENTION_ON
        cp.swa_full = False  # sliding-window layers keep their window and not the whole context
        cp.kv_unified = settings.kv_unified
        cp.type_k = cp.type_v = KV_TYPES[settings.kv_type]
        cp.no_perf = True
        self._context = c.llama_init_from_model(self._model, cp)
        lines = log.LOG.since(mark)
        if not self._context:
            self._release()
            raise _load_error("the KV cache and compute buffers", path, lines)
        self._vocabulary = Vocabulary(self._model)
        context = int(c.llama_n_ctx_seq(self._context))
        self._limits = Limits(
            slots=int(c.llama_n_seq_max(self._context)),
            context=context,
            cells=int(c.llama_n_ctx(self._context)),
            batch=int(c.llama_n_batch(self._context)),
            ubatch=int(c.llama_n_ubatch(self._context)),
            unified=settings.kv_unified,
            vocabulary=self._vocabulary.size,
        )
        self._memory = log.memory_by_owner(lines)
        return self._info(settings, path, lines)

    def _info(self, settings: EngineSettings, path: Path, lines: list[log.Line]) -> ModelInfo:
        device = log.device_used(lines)
        library_has_gpu = bool(c.llama_supports_gpu_offload())
        train_context = int(c.llama_model_n_ctx_train(self._model))
        warnings = gpu_warnings(
            gpus=gpu_names(),
            library_has_gpu=library_has_gpu,
            device=device.name,
            gpu_layers=settings.gpu_layers,
            errors=[line.text for line in lines],
        )
        if 0 < train_context < settings.context:
            warnings.append(
                f"slots of {settings.context:,} tokens, but the model was trained for {train_context:,}: "
                "long answers may lose their sense."
            )
        return ModelInfo(
            name=settings.model_name or path.stem,
            path=str(path),
            architecture=self._meta(b"general.architecture"),
            parameters=int(c.llama_model_n_params(self._model)),
            size_bytes=int(c.llama_model_size(self._model)),
            vocabulary=self._limits.vocabulary,
            train_context=train_context,
            context=self._limits.context,
            slots=self._limits.slots,
            engine=NAME,
            engine_version=llama_cpp.__version__,
            device=device.name,
            gpu_offload=device.layers_offloaded > 0,
            warnings=warnings,
        )

    def _meta(self, key: bytes) -> str:
        buffer: Any = ctypes.create_string_buffer(256)  # the binding's hint says bytes; C writes into it
        n = c.llama_model_meta_val_str(self._model, key, buffer, len(buffer))
        return buffer.value.decode("utf-8", errors="replace") if n >= 0 else ""

    # --- running ------------------------------------------------------------------------------------------------------

    def _run(self, loop: Loop, deliver: Callable[[list[Result]], None]) -> None:
        """In the engine's thread, from load to close."""
        try:
            loop.run()
        except Broken as error:
            broken = EngineBroken(error.kind, error.message)
        except Exception as error:  # noqa: BLE001 - a fault in the loop ends the engine, and must be told as such
            broken = EngineBroken(FailureKind.CRASH, f"a fault in the batching loop: {type(error).__name__}: {error}")
            broken.__cause__ = error
        else:
            return
        self._broken = broken
        deliver([])

    def _distribute(self, results: list[Result]) -> None:
        """In the event loop: each item to the iterator of its request."""
        for key, item in results:
            self._distribute_to(key, item)
        if self._broken is not None:
            for reader in self._queues.values():
                reader.put_nowait(self._broken)

    @property
    def tokenizer(self) -> Vocabulary:
        if self._vocabulary is None:
            raise RuntimeError("the engine is not loaded")
        return self._vocabulary

    async def generate(self, generation: Generation) -> AsyncIterator[int | Delta | Completion]:
        if self._broken is not None:
            raise self._broken
        if self._loop is None or self._closed:
            raise RuntimeError("the engine is not loaded")
        loop, key = self._loop, generation.key
        if key in self._queues:
            raise RuntimeError(f"request {key} is running already")
        items: asyncio.Queue[Item] = asyncio.Queue()
        self._queues[key] = items
        done = False
        try:
            # A schema can take long to compile; everything else is checked in microseconds.
            if generation.sampling.json_schema is None:
                refusal = loop.check(generation)
            else:
                refusal = await self._check_schema(loop, generation)
            if refusal is not None:
                done = True
                finish, error = refusal
                yield Completion(finish=finish, error=error, notes=list(generation.notes))
                return
            loop.submit(generation)
            if key in self._aborted:
                loop.abort(key)
            while not done:
                item = await items.get()
                if isinstance(item, EngineBroken):
                    done = True
                    raise item
                done = isinstance(item, Completion)
                yield item
        finally:
            del self._queues[key]
            self._aborted.discard(key)
            if not done:
                loop.abort(key)  # its reader went away: nobody would see the rest

    async def _check_schema(self, loop: Loop, generation: Generation) -> tuple[Finish, RequestError] | None:
        """In a thread of its own that is left behind if it hangs: it ends with the process."""
        done: asyncio.Future[tuple[Finish, RequestError] | None] = asyncio.get_running_loop().create_future()
        events = asyncio.get_running_loop()

        def work() -> None:
            try:
                result, error = loop.check(generation), None
            except Exception as fault:  # noqa: BLE001 - handed over to the awaiting coroutine
                result, error = None, fault
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits any more
                events.call_soon_threadsafe(tell, result, error)

        def tell(result: tuple[Finish, RequestError] | None, error: Exception | None) -> None:
            if not done.done():
                done.set_exception(error) if error is not None else done.set_result(result)

        thread = threading.Thread(target=work, name="schema", daemon=True)
        self._checking = [t for t in self._checking if t.is_alive()] + [thread]
        thread.start()
        try:
            return await asyncio.wait_for(done, SCHEMA_S)
        except TimeoutError:
            return Finish.INVALID, RequestError(
                code="unsupported_schema",
                message=f"the JSON schema can't be held to: making a grammar of it takes more than {SCHEMA_S:.0f} s. "
                "Nest fewer optional parts, and repeat and list less",
                status=400,
                param="response_format",
            )

    async def abort(self, key: int) -> None:
        if self._loop is not None and key in self._queues:
            self._aborted.add(key)
            self._loop.abort(key)

    def watch(self, keys: frozenset[int], fresh: frozenset[int] = frozenset()) -> None:
        if self._loop is not None:
            self._loop.watch(keys, fresh)

    def _give_up(self, key: int) -> None:
        """The guilty request gets its answer first, so that it is not run again; all others are told of the loss."""
        what = f"its grammar took more than {GRAMMAR_S:.0f} s for one token: it is too ambiguous"
        error = RequestError(
            code="unsupported_schema",
            message=f"the JSON schema can't be held to: {what}",
            status=400,
            param="response_format",
        )
        self._broken = EngineBroken(FailureKind.SILENT, f"the JSON schema of one request hung the engine: {what}")
        self._distribute_to(key, Completion(finish=Finish.INVALID, error=error))
        asyncio.get_running_loop().call_later(0.05, self._distribute, [])

    def _distribute_to(self, key: int, item: Item) -> None:
        if (reader := self._queues.get(key)) is not None:
            reader.put_nowait(item)

    def stats(self) -> EngineStats:
        if self._broken is None and self._loop is not None and (key := self._loop.hung()) is not None:
            self._give_up(key)
        n = self._loop.counters if self._loop is not None else Counters()
        return EngineStats(
            running=n.running,
            waiting=n.waiting,
            slots=self._limits.slots,
            kv_used=n.kv_used,
            kv_total=self._limits.cells,
            prompt_tokens=n.prompt_tokens,
            generated_tokens=n.generated_tokens,
            steps=n.steps,
            preemptions=n.preemptions,
            memory=self._memory,
        )

    def progress(self) -> dict[int, int]:
        return self._loop.progress() if self._loop is not None else {}

    # --- the end ------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._cancelled.set()
        if self._loop is not None and self._running is not None:
            self._loop.stop()
            await self._running
        if self._broken is None and not any(thread.is_alive() for thread in self._checking):
            await self._thread.run(self._release)
        # A broken context is left alone: freeing it can abort, and its process is about to end. So is a model
        # that a hung check of a schema still reads.
        self._thread.end()

    def _release(self) -> None:
        """In the engine's thread. The context goes before its model, and the vocabulary is a part of the model."""
        if self._vocabulary is not None:
            self._vocabulary.close()
        if self._context:
            c.llama_free(self._context)
        if self._model:
            c.llama_model_free(self._model)
        self._context = self._model = None


def create() -> LlamaCpp:
    """An engine of this kind, not loaded yet."""
    return LlamaCpp()
