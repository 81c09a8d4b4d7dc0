"""The engine of one job: planned from its settings, loaded, and loaded again after each death as far as that helps.

What a death was and what to do next is decided in `engine.recovery`; the process is `engine.enginehost`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from engine import recovery, runplan
from engine.child import Death
from engine.enginehost import EngineDied, Sink
from engine.errors import FingerprintChanged, LoadFailed, WorkerDied
from engine.jobs import Job
from engine.office import Office
from engine.protocol import EngineSettings, FailureKind, ModelInfo
from engine.record import Fingerprint
from engine.wish import Wishes
from engine.workload import Workload


class Supervisor:
    """Keeps the settings that hold now and the deaths so far. Raises End whenever somebody wishes to."""

    def __init__(
        self, job: Job, office: Office, wishes: Wishes, folder: Path, *, on_progress: Callable[[float | None], None]
    ) -> None:
        self._job = job
        self._office = office
        self._host = office.host
        self._wishes = wishes
        self._log = folder / "worker.log"
        self._on_progress = on_progress
        self._deaths: list[recovery.Death] = []
        self.settings: EngineSettings | None = None  # None: not planned yet
        self.lost = False  # the engine is gone and has to be loaded again
        self._slots = 0  # as planned, or as told since
        self._tight: int | None = None  # free bytes of the device just before it last ran out of memory

    # --- planning -----------------------------------------------------------------------------------------------------

    async def plan(self, workload: Workload) -> EngineSettings:
        """Choose what to load. Raises FingerprintChanged, LoadFailed and ModelError."""
        record = self._job.record
        model = await asyncio.to_thread(self._office.resolve_model, record.settings.model)
        why_not = model.why_not(record.settings.engine or EngineSettings().engine)
        if why_not is not None:
            raise LoadFailed(why_not, kind=FailureKind.UNSUPPORTED)
        most = record.settings.slots or EngineSettings().slots
        settings = runplan.engine_settings(
            record.settings,
            model,
            date=record.engine.date or time.strftime("%Y-%m-%d"),
            sequences=await asyncio.to_thread(workload.sequences, most),
        )
        self._compare(runplan.fingerprint(record.settings, model, settings))
        self.use(settings)
        self._slots = settings.slots
        return settings

    def use(self, settings: EngineSettings) -> None:
        """These hold from the next load on."""
        self.settings = settings
        self._job.update(engine=settings)

    def _compare(self, now: Fingerprint) -> None:
        """Answers of two different settings never mix unnoticed. Raises FingerprintChanged unless forced."""
        record = self._job.record
        found = runplan.differences(record.fingerprint, now)
        if found and not record.force:
            raise FingerprintChanged(
                f"settings differ from those of the answers on disk: {'; '.join(found)}.",
                advice="`gptoss-tui resume --force` goes on and notes it; `gptoss-tui run` starts a run of its own.",
            )
        if found:
            session = msgspec.structs.replace(record.sessions[-1], forced=[*record.sessions[-1].forced, *found])
            self._job.update(sessions=[*record.sessions[:-1], session])
            self._office.incident(self._job, "settings_changed", "; ".join(found), "forced by a person")
        unknown = {
            name: getattr(record.fingerprint, name)
            for name in ("template", "engine_version")
            if record.fingerprint is not None and not getattr(now, name)
        }
        self._job.update(fingerprint=msgspec.structs.replace(now, **unknown))

    # --- loading ------------------------------------------------------------------------------------------------------

    async def load(self, sink: Sink) -> None:
        """Have the engine, through as many tries as recovery allows. Raises LoadFailed or WorkerDied."""
        while True:
            self._wishes.check()
            try:
                info = await self._load_once(sink)
            except LoadFailed as failure:
                step = self._after_failure(failure)
            except EngineDied as died:
                step = self.after_death(died.death, completed=0)
            except OSError as error:
                raise LoadFailed(
                    f"the engine's process can't be started: {error.strerror or error}",
                    kind=FailureKind.UNAVAILABLE,
                    advice="`gptoss-tui doctor` looks at the installation.",
                ) from error
            else:
                break
            await self.before(step)
        for warning in info.warnings:
            self._office.incident(self._job, "engine_warning", warning)
        if self._job.record.fingerprint is not None:
            self._compare(runplan.completed(self._job.record.fingerprint, info))
        self._job.update(force=False)  # from here on the answers are those of the noted settings
        self.lost = False

    async def _load_once(self, sink: Sink) -> ModelInfo:
        assert self.settings is not None
        load = asyncio.create_task(
            self._host.load(self.settings, log=self._log, sink=sink, on_progress=self._on_progress)
        )
        try:
            while not load.done():
                sleeping = asyncio.create_task(self._wishes.sleep())
                await asyncio.wait({load, sleeping}, return_when=asyncio.FIRST_COMPLETED)
                sleeping.cancel()
                if self._wishes.now is not None and not load.done():
                    load.cancel()
                    await asyncio.wait({load})
                    await self._host.close()
                    self._wishes.check()
            return load.result()
        finally:
            self._on_progress(None)
            load.cancel()

    def _after_failure(self, failure: LoadFailed) -> recovery.Retry:
        assert self.settings is not None
        kind = FailureKind(failure.kind)
        if kind is FailureKind.OOM:
            self._tight = self._office.free_bytes()
        self._deaths.append(recovery.Death(kind=kind))
        step = recovery.next_step(self._deaths, self.settings)
        if isinstance(step, recovery.GiveUp):
            self._office.incident(self._job, "load_failed", failure.message, "the job stops")
            hopeless = kind not in (FailureKind.OOM, FailureKind.CRASH)
            text = failure.message if hopeless else f"{failure.message} {step.sentence}"
            raise LoadFailed(text, kind=kind, advice=failure.advice) from failure
        self._office.incident(self._job, "load_failed", failure.message, step.action)
        return step

    # --- deaths -------------------------------------------------------------------------------------------------------

    def after_death(self, death: Death, *, completed: int) -> recovery.Retry:
        """Explain a death, note it, and say what comes next. Raises WorkerDied when nothing does.

        `completed`: requests that this engine finished.
        """
        assert self.settings is not None
        self.lost = True
        why = recovery.explain(
            death.returncode,
            death.last_lines,
            death.fatal,
            self._office.free_bytes(),
            death.phase,
            silent_s=death.silent_s,
            garbage=death.garbage,
        )
        if why.kind == FailureKind.OOM:
            self._tight = self._office.free_bytes()
        self._deaths.append(recovery.Death(kind=why.kind, completed=completed))
        del self._deaths[: -2 * recovery.MAX_RESTARTS]
        step = recovery.next_step(self._deaths, self.settings)
        give_up = isinstance(step, recovery.GiveUp)
        self._office.incident(
            self._job,
            "engine_silent" if why.kind == FailureKind.SILENT else "engine_died",
            why.sentence,
            "the job stops" if give_up else step.action,
            cause=why.kind,
            returncode=death.returncode,
            phase=death.phase,
            free_bytes=self._office.free_bytes(),
            settings=self.settings,
            last_lines=death.last_lines,
        )
        if give_up:
            raise WorkerDied(f"{why.sentence} {step.sentence}", advice=why.advice)
        self._job.update(restarts=self._job.record.restarts + 1)
        return step

    def held(self) -> str:
        """Once after a loss of slots: at how many the job is held, and why. Only want of memory takes slots away."""
        if self.settings is None or self.settings.slots >= self._slots:
            return ""
        before, self._slots = self._slots, self.settings.slots
        headroom = "" if self._tight is None else f" (headroom {self._tight // 1024**2} MiB)"
        return f"held at {_slots(self._slots)}: with {before} the engine ran out of memory{headroom}"

    @property
    def last_cause(self) -> str:
        return self._deaths[-1].kind.value if self._deaths else ""

    async def before(self, step: recovery.Retry) -> None:
        """Take up the settings of the next try and wait for its time."""
        self.use(step.settings)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + step.wait_s
        while (left := deadline - loop.time()) > 0:
            self._wishes.check()
            await self._wishes.sleep(left)


def _slots(n: int) -> str:
    return f"{n} slot{'' if n == 1 else 's'}"
