"""The one engine of a runner: which worker is loaded with what, kept warm between jobs, replaced when it died.

Messages and the death of a loaded engine go to its present user, the `Sink`; between jobs nobody listens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from engine import protocol
from engine.child import WORKER_COMMAND, Child, Death, Limits
from engine.errors import LoadFailed
from engine.protocol import EngineSettings, EngineStats, EngineView, FromWorker, ModelInfo, ToWorker


class Sink(Protocol):
    """Who uses the engine now."""

    def on_message(self, message: FromWorker) -> None: ...
    def on_death(self, death: Death) -> None: ...


class EngineDied(Exception):
    """It died before it was loaded."""

    def __init__(self, death: Death) -> None:
        super().__init__(f"worker ended with {death.returncode} while {death.phase}")
        self.death = death


class EngineHost:
    """Owns the worker process."""

    def __init__(
        self,
        *,
        log: Path,
        on_change: Callable[[bool], None],
        on_pid: Callable[[int | None], None],
        command: Sequence[str] = WORKER_COMMAND,
        limits: Limits | None = None,
    ) -> None:
        self._log = log
        self._on_change = on_change
        self._on_pid = on_pid
        self._command = command
        self._limits = limits
        self._child: Child | None = None
        self._sink: Sink | None = None
        self._loading: asyncio.Future[ModelInfo] | None = None
        self._on_progress: Callable[[float], None] = lambda _: None
        self.view = EngineView()
        self.idle_since: float | None = None

    def _change(self, *, at_once: bool = True, **changes: object) -> None:
        self.view = msgspec.structs.replace(self.view, **changes)
        self._on_change(at_once)

    @property
    def ready(self) -> bool:
        return self.view.state == "ready"

    @property
    def loaded(self) -> EngineSettings | None:
        return self.view.settings if self.ready else None

    @property
    def info(self) -> ModelInfo | None:
        return self.view.info if self.ready else None

    @property
    def stats(self) -> EngineStats:
        return self.view.stats

    def serves(self, wanted: EngineSettings) -> bool:
        """What is loaded can run a job of these settings: the same, or with more slots than needed."""
        loaded = self.loaded
        return (
            loaded is not None
            and loaded.slots >= wanted.slots
            and msgspec.structs.replace(loaded, slots=wanted.slots) == wanted
        )

    async def load(
        self, settings: EngineSettings, *, log: Path, sink: Sink, on_progress: Callable[[float], None]
    ) -> ModelInfo:
        """Have an engine of these settings, warm or new. Raises LoadFailed, EngineDied or OSError (no process).

        When cancelled, the half-loaded engine is still there: `close` it.
        """
        if self.serves(settings) and self._child is not None and self.info is not None:
            self._child.output.move(log)
            self.use(sink)
            return self.info
        await self.close()
        loop = asyncio.get_running_loop()
        self._loading = loop.create_future()
        self._on_progress = on_progress
        child = Child(
            log=log,
            on_message=lambda message: self._message(child, message),
            on_death=lambda death: self._death(child, death),
            command=self._command,
            limits=self._limits,
        )
        self._child = child
        self._change(state="starting", pid=None, settings=settings, info=None, stats=EngineStats())
        try:
            await child.start()
        except OSError:
            self._child = None
            self._change(state="none", settings=None)
            raise
        self._on_pid(child.pid)
        self._change(state="loading", pid=child.pid)
        child.send(protocol.Load(settings=settings))
        try:
            info = await self._loading
        except LoadFailed:
            await self.close()
            raise
        finally:
            self._loading = None
        self.use(sink)
        self._change(state="ready", info=info)
        return info

    def use(self, sink: Sink | None) -> None:
        """Messages go to this one from now on; None: nobody, it is kept warm."""
        self._sink = sink
        self.idle_since = asyncio.get_running_loop().time() if sink is None else None
        if sink is None and self._child is not None:
            self._child.output.move(self._log)

    def send(self, message: ToWorker) -> None:
        if self._child is not None:
            self._child.send(message)

    def kill(self) -> None:
        """End it now; its death is still reported to the sink."""
        if self._child is not None:
            self._child.kill()

    async def close(self) -> None:
        """Unload and end the worker in order. Nothing is reported to a sink."""
        self._sink = None
        child = self._child
        if child is None:
            return
        self._change(state="closing")
        try:
            await child.close()
        finally:
            if self._child is child:
                self._child = None
                self._on_pid(None)
                self._change(state="none", pid=None, settings=None, info=None, stats=EngineStats())

    def _message(self, child: Child, message: FromWorker) -> None:
        if child is not self._child:
            return
        match message:
            case protocol.LoadProgress(fraction=fraction):
                self._on_progress(fraction)
            case protocol.Loaded(info=info):
                if self._loading is not None and not self._loading.done():
                    self._loading.set_result(info)
            case protocol.LoadFailed(kind=kind, message=text, advice=advice):
                if self._loading is not None and not self._loading.done():
                    self._loading.set_exception(LoadFailed(text, kind=kind, advice=advice))
            case protocol.Stats(stats=stats):
                self._change(at_once=False, stats=stats)
            case protocol.Ready(version=version) if version != protocol.WORKER_PROTOCOL:
                if self._loading is not None and not self._loading.done():
                    text = f"the worker speaks protocol {version}, this runner {protocol.WORKER_PROTOCOL}"
                    self._loading.set_exception(
                        LoadFailed(text, kind=protocol.FailureKind.UNAVAILABLE, advice="Install again: `make install`.")
                    )
            case _:
                pass
        if self._sink is not None:
            self._sink.on_message(message)

    def _death(self, child: Child, death: Death) -> None:
        if child is not self._child:
            return
        sink, self._sink = self._sink, None
        self._child = None
        self._on_pid(None)
        self._change(state="none" if death.wanted else "dead", pid=None, info=None, stats=EngineStats())
        if self._loading is not None and not self._loading.done():
            self._loading.set_exception(EngineDied(death))
        elif sink is not None and not death.wanted:
            sink.on_death(death)
