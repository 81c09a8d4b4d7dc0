"""The background process of a workspace: one lock, one engine, a queue of jobs, one event stream for all clients.

`python -m engine.runner --workspace DIR [--idle-exit S]`. It wires the parts and keeps their loops: the conductor runs
one job after another, the sampler reads the machine, the ticker tells what changed. What a job does is in
`engine.jobrun`, what a command does in `engine.commands`, lock, session and log of the process in `engine.daemon`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from engine import daemon, incidents, jobs_disk, owners, protocol, settings
from engine.child import WORKER_COMMAND, Limits
from engine.commands import Commands
from engine.control import Control
from engine.enginehost import EngineHost
from engine.errors import GptossError
from engine.gpu import Machine, Readings, free_gpu_bytes
from engine.history import History
from engine.incidents import Incidents
from engine.job import ACTIVE, JobState
from engine.jobrun import INTERNAL_ERROR, JobRun
from engine.jobs import Job
from engine.protocol import AckItem, Delta, EngineChanged, Reading, Snapshot, WatchRequests
from engine.viewer import Watched
from engine.wish import Wish
from engine.workspace import Workspace

if TYPE_CHECKING:
    from engine.modelfiles import ModelFile

log = logging.getLogger("runner")

IDLE_EXIT_S = 60.0
"""How long a runner without client and work stays: a second command within a minute finds the model still loaded."""

KEEP_WARM_S = 300.0
"""How long a loaded engine is kept for the next job while a client is there. It holds the card's memory meanwhile."""

SAMPLE_HZ = 4.0
TICK_S = 0.25


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What tests replace; a user's command line reaches only `idle_exit_s`."""

    idle_exit_s: float = IDLE_EXIT_S
    keep_warm_s: float = KEEP_WARM_S
    sample_hz: float = SAMPLE_HZ
    worker_command: Sequence[str] = WORKER_COMMAND
    limits: Limits = Limits()


class Server(Protocol):
    """What is needed of `engine.control.Control`."""

    @property
    def clients(self) -> int: ...
    @property
    def last_left(self) -> float: ...
    def watched(self) -> Watched: ...
    async def start(self) -> None: ...
    async def close(self, reason: str) -> None: ...
    def publish(self, event: protocol.Event) -> None: ...
    def publish_text(self, job: str, deltas: list[Delta]) -> None: ...


def _resolve(workspace: Workspace) -> Callable[[str | None], ModelFile]:
    def resolve(name: str | None) -> ModelFile:
        from engine import models  # reads GGUF headers with numpy: only when a job is planned

        return models.resolve(name, workspace)

    return resolve


class Runner:
    """The process's one object. It is the jobs' `Office`."""

    def __init__(
        self,
        workspace: Workspace,
        config: Config | None = None,
        *,
        readings: Readings | None = None,
        resolve_model: Callable[[str | None], ModelFile] | None = None,
    ) -> None:
        self.workspace = workspace
        self.config = config or Config()
        self.jobs: dict[str, Job] = {}
        self.current: JobRun | None = None
        self.started = time.time()
        self.resolve_model = resolve_model or _resolve(workspace)
        self.host = EngineHost(
            log=workspace.runner_log,
            on_change=self._engine_changed,
            on_pid=self._worker_pid,
            command=self.config.worker_command,
            limits=self.config.limits,
        )
        self._readings: Readings | None = readings
        self._reading: Reading | None = None
        self._free_bytes: int | None = None
        self._peaks = owners.Peaks()
        self._history = History()
        self.incidents = Incidents(lambda view: self.control.publish(protocol.Incident(seq=0, incident=view)))
        self._keys = itertools.count(1)
        self._wake = asyncio.Event()
        self._stopping = ""
        self._engine_dirty = False
        self._engine_told: EngineChanged | None = None
        self._busy_until = time.monotonic()
        self._commands = Commands(self)
        self.control: Server = Control(
            workspace.socket,
            welcome=protocol.Welcome(
                version=protocol.CLIENT_PROTOCOL,
                pid=os.getpid(),
                workspace=str(workspace.root),
                started=self.started,
                program="gptoss-tui",
            ),
            snapshot=self.snapshot,
            handle=self._commands.handle,
            resolve_watch=self.resolve_watch,
        )

    # --- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until stopped or idle for long enough."""
        self._load_jobs()
        if self._readings is None:
            self._readings = await asyncio.to_thread(Machine)
        await self.control.start()
        log.info("runner %d serves %s", os.getpid(), self.workspace.root)
        helpers = [
            asyncio.create_task(self._sample(), name="sampler"),
            asyncio.create_task(self._tick(), name="ticker"),
        ]
        for helper in helpers:
            helper.add_done_callback(self._helper_ended)
        try:
            await self._conduct()
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self.host.close()
            await self.control.close(self._stopping or "the runner ends")
            self._readings.close()
            log.info("runner %d ends: %s", os.getpid(), self._stopping)

    def stop(self, reason: str) -> None:
        """End in order: a running job is paused with its texts kept. Asked again: without waiting for the engine."""
        if self._stopping:
            self.host.kill()
        self._stopping = self._stopping or reason
        if self.current is not None:
            self.current.ask(Wish(JobState.PAUSED, f"the runner was stopped ({reason}); resume goes on", hard=True))
        self._wake.set()

    def wake(self) -> None:
        """There may be work."""
        self._wake.set()

    def _load_jobs(self) -> None:
        found = jobs_disk.load(self.workspace)
        for sentence in found.unreadable:
            log.warning("%s", sentence)
        self.incidents.load(self.workspace.run_folder(name) for name in incidents.newest(found.records))
        for record in found.records:
            self.jobs[record.job] = job = Job(record)
            self.incidents.knows(job.id, job.state)
            if record.state == JobState.INTERRUPTED and record.ended is None:
                self.incident(job, "runner_died", record.sentence, "its requests in flight will run again")
                job.update(ended=time.time())
                try:
                    jobs_disk.save(self.workspace, job.record)
                except (OSError, GptossError) as error:
                    log.warning("run.json of %s: %s", job.id, error)

    async def _conduct(self) -> None:
        """One job after another, in queue order."""
        while not self._stopping:
            job = min(
                (j for j in self.jobs.values() if j.state == JobState.QUEUED),
                key=lambda j: (j.record.order, j.record.created),
                default=None,
            )
            if job is None:
                await self._rest()
                continue
            self.current = run = JobRun(job, self)
            try:
                await run.run()
            except Exception:
                log.exception("job %s could not be ended in order", job.id)
                job.live = None
                if job.state in ACTIVE or job.state == JobState.QUEUED:
                    sentence = "a fault of this program stopped the job; see results/.runner/runner.log"
                    job.update(state=JobState.FAILED, sentence=sentence, failure=INTERNAL_ERROR)
                    await self.save(job)
                    self.publish(job)
            finally:
                self.current = None
                run.over.set()
                self._busy_until = time.monotonic()

    async def _rest(self) -> None:
        """Nothing to do: wait for work, unload after a while, leave after a while."""
        now = time.monotonic()
        waits = []
        if self.control.clients == 0:
            left = max(self._busy_until, self.control.last_left) + self.config.idle_exit_s - now
            if left <= 0:
                self._stopping = f"nobody needed it for {self.config.idle_exit_s:g} s"
                return
            waits.append(left)
        if self.host.idle_since is not None and self.host.ready:
            left = self.host.idle_since + self.config.keep_warm_s - asyncio.get_running_loop().time()
            if left <= 0:
                await self.host.close()
                return
            waits.append(left)
        # A client that leaves wakes nobody, so look again within a second.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min([1.0, *waits])):
                await self._wake.wait()
        self._wake.clear()

    def _helper_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
            self.stop(f"its {task.get_name()} failed: {error}")

    async def _sample(self) -> None:
        period = 1.0 / self.config.sample_hz
        while True:
            started = time.monotonic()
            if self._readings is not None and (self.control.clients or self.current is not None):
                reading = await asyncio.to_thread(self._readings.sample)
                self._reading = reading = owners.explained(reading, self.host.view, self._peaks)
                self._free_bytes = free_gpu_bytes(reading)
                self.control.publish(protocol.Sampled(seq=0, reading=reading))
            await asyncio.sleep(max(0.01, period - (time.monotonic() - started)))

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            if self.current is not None:
                await self.current.tick(loop.time())
            for job in list(self.jobs.values()):
                if job.changed:
                    self.publish(job)
            if self._engine_dirty:
                self._tell_engine()
            self._note_history(loop.time())

    def _note_history(self, now: float) -> None:
        if not self.control.clients and self.current is None:
            self._history.rest()
            return
        for point in self._history.points(now, time.time(), self.host.stats, self._reading, alive=self.host.ready):
            self.control.publish(protocol.Measured(seq=0, point=point))

    # --- what jobs ask (Office) ---------------------------------------------------------------------------------------

    def folder(self, job: Job) -> Path:
        return self.workspace.run_folder(job.id)

    def publish(self, job: Job) -> None:
        job.changed = False
        if job.id in self.jobs:
            view = job.view()
            self.control.publish(protocol.JobChanged(seq=0, job=view))
            self.incidents.stands(view.id, view.state, view.sentence)

    async def save(self, job: Job) -> None:
        async with job.saving:
            record = job.refresh()
            job.urgent = False
            try:
                await asyncio.to_thread(jobs_disk.save, self.workspace, record)
            except (OSError, GptossError) as error:
                # The journal is what counts; run.json follows with the next save.
                log.warning("run.json of %s: %s", job.id, error)

    def incident(self, job: Job, kind: str, message: str, action: str = "", **evidence: Any) -> None:
        self.incidents.happened(self.folder(job), kind, message, action, evidence)

    def acknowledged(self, job: Job, items: list[AckItem]) -> None:
        self.control.publish(protocol.Acknowledged(seq=0, job=job.id, items=items))

    def text(self, job: Job, deltas: list[Delta]) -> None:
        self.control.publish_text(job.id, deltas)

    def watched(self) -> Watched:
        return self.control.watched()

    def next_key(self) -> int:
        return next(self._keys)

    def last_reading(self) -> Reading | None:
        return self._reading

    def free_bytes(self) -> int | None:
        return self._free_bytes

    # --- what clients see ---------------------------------------------------------------------------------------------

    def snapshot(self, seq: int) -> Snapshot:
        jobs = sorted(self.jobs.values(), key=lambda j: (j.record.order, j.record.created))
        return Snapshot(
            seq=seq,
            jobs=[job.view() for job in jobs],
            engine=self.host.view,
            reading=self._reading,
            incidents=self.incidents.all(),
            running=self.current.running() if self.current is not None else [],
            history=self._history.all(time.time()),
        )

    def resolve_watch(self, watch: WatchRequests) -> frozenset[int]:
        """Keys in flight that this client wants to see."""
        run = self.current
        if run is None or (watch.job and watch.job != run.job.id):
            return frozenset()
        return run.keys(watch.custom_ids, watch.auto)

    def _engine_changed(self, at_once: bool) -> None:
        """At once: its state is another one. Otherwise its counters, which are told with the next tick."""
        if at_once:
            if self.host.ready:
                self._history.begun(asyncio.get_running_loop().time())
            else:
                self._history.forget()
            self._tell_engine()
        else:
            self._history.heard(asyncio.get_running_loop().time(), self.host.stats)
            self._engine_dirty = True

    def _tell_engine(self) -> None:
        self._engine_dirty = False
        running = self.current.running() if self.current is not None else []
        event = EngineChanged(seq=0, engine=self.host.view, running=running)
        if event != self._engine_told:  # a warm engine without work counts nothing, four times a second
            self._engine_told = event
            self.control.publish(event)

    def _worker_pid(self, pid: int | None) -> None:
        if self._readings is not None:
            self._readings.watch_worker(pid)


# --- the process ------------------------------------------------------------------------------------------------------


def serve(workspace: Workspace, config: Config, **parts: Any) -> int:
    """Be the runner of this workspace until it ends. Returns the exit code."""
    return daemon.live(workspace, lambda: Runner(workspace, config, **parts))


def _number(text: str, fallback: float) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return fallback


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.runner", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--workspace", metavar="DIR", help="folder with batches/ and results/ (default: the current one)"
    )
    parser.add_argument("--idle-exit", metavar="S", type=float, help="leave after S seconds without client and work")
    options = parser.parse_args(argv)
    workspace = Workspace.at(options.workspace)
    try:
        chosen = settings.load(workspace).runner
    except GptossError as error:
        return daemon.last_words(workspace, error)
    idle_exit_s = options.idle_exit
    if idle_exit_s is None:
        idle_exit_s = _number(os.environ.get("GPTOSS_IDLE_EXIT", ""), chosen.idle_exit_s)
    config = Config(idle_exit_s=idle_exit_s, keep_warm_s=chosen.keep_warm_s, sample_hz=chosen.sample_hz)
    return serve(workspace, config)


if __name__ == "__main__":
    sys.exit(main())
