"""One job from its turn to its end: read, match, plan, load, dispatch, journal, and whatever goes wrong in between.

`JobRun.run` is the only way in and never raises for what happens to the job: it leaves the job in a resting state with
a sentence. A request is counted as done only when `Journal.append` has returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from engine import protocol, recovery, runplan
from engine.child import Death
from engine.enginehost import EngineDied, EngineHost
from engine.errors import BatchInvalid, CommandRefused, FingerprintChanged, GptossError, LoadFailed, ResultsUnwritable
from engine.folder import (
    METRICS,
    Partial,
    append_jsonl,
    read_inflight,
    write_batch_json,
    write_inflight,
)
from engine.job import ACTIVE, JobState
from engine.jobs import Job
from engine.problems import ProblemFile, bad_lines, invalid_sentence, sentence_of
from engine.protocol import (
    AckItem,
    Completion,
    Delta,
    EngineSettings,
    Finish,
    FromWorker,
    JobView,
    Reading,
    RequestError,
    RunningRequest,
)
from engine.rates import Lengths, Rates, time_left
from engine.record import Fingerprint, RunRecord, Session
from engine.recovery import STRIKES_ALONE, STRIKES_OUT, Strikes
from engine.scheduler import Scheduler
from engine.stock import Tokens, take_stock
from engine.tally import Place, Tally

if TYPE_CHECKING:  # numpy comes with them: a runner that only answers `status` does not need it
    from engine.batch import BatchIndex, LineProblem, Request, Scan
    from engine.journal import Journal
    from engine.models import ModelFile

log = logging.getLogger("runner")

AHEAD = 2
"""Requests with the worker per slot: one that runs, one that is rendered and ready when the slot frees."""

UNSAVED = 2048
"""Most finished requests that may wait for the disk before no new ones start."""

HARD_S = 20.0
"""How long aborted requests may take to come back before the engine is ended instead."""

DISK_RETRY_S = 3.0
SAVE_S = 5.0
METRIC_S = 1.0
ERROR_GROUP = 512


class Wish(NamedTuple):
    """What somebody wants of a running job. `hard`: requests in flight are aborted, their text so far kept."""

    state: JobState
    sentence: str
    hard: bool


class Office(Protocol):
    """What the runner does for a job."""

    host: EngineHost
    resolve_model: Callable[[str | None], ModelFile]

    def folder(self, job: Job) -> Path: ...
    def publish(self, job: Job) -> None:
        """Tell clients of the job now; otherwise changes go out a few times a second."""
        ...

    async def save(self, job: Job) -> None:
        """Write run.json; a failure is told and does not raise."""
        ...

    def incident(self, job: Job, kind: str, message: str, action: str = "", **evidence: Any) -> None: ...
    def acknowledged(self, job: Job, items: list[AckItem]) -> None: ...
    def text(self, job: Job, deltas: list[Delta]) -> None: ...
    def watched(self) -> frozenset[int]: ...
    def next_key(self) -> int: ...
    def last_reading(self) -> Reading | None: ...
    def free_bytes(self) -> int | None: ...


class _End(Exception):
    def __init__(self, state: JobState, sentence: str) -> None:
        super().__init__(sentence)
        self.state = state
        self.sentence = sentence


class _StopReading(Exception):
    pass


class Flight:
    """A request with the worker."""

    __slots__ = ("generated", "index", "key", "prompt_tokens", "recalled", "request", "sent", "started", "taken_out")

    def __init__(self, key: int, index: int, request: Request) -> None:
        self.key = key
        self.index = index
        self.request = request
        self.sent = time.time()
        self.started = 0.0
        self.prompt_tokens = 0
        self.generated = 0
        self.taken_out = False  # a person aborted this one
        self.recalled = False  # an Abort was sent


class JobRun:
    """Runs one job once. Everything happens on the runner's loop; blocking work goes to threads."""

    def __init__(self, job: Job, office: Office, *, force: bool = False) -> None:
        self.job = job
        self._office = office
        self._host = office.host
        self._force = force
        self._folder = office.folder(job)
        self.ending = False  # nothing is taken up any more: a command has to wait for `over`
        self.over = asyncio.Event()  # the runner has let go of it
        self._wake = asyncio.Event()
        self._wish: Wish | None = None
        self._aborting_since: float | None = None
        self._fraction: float | None = None
        self._index: BatchIndex | None = None
        self._journal: Journal | None = None
        self._tally: Tally | None = None
        self._scheduler: Scheduler | None = None
        self._lengths = Lengths()
        self._tokens = Tokens()
        self._rates = Rates()
        self._strikes = Strikes()
        self._deaths: list[recovery.Death] = []
        self._completed = 0  # requests finished by the engine that is loaded now
        self._completed_tokens = 0  # and their answer tokens
        self._stats_base = 0  # generated tokens of a warm engine before this job
        self._settings = EngineSettings()
        self._flights: dict[int, Flight] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._partials: dict[str, Partial] = {}
        self._acks: list[AckItem] = []
        self._death: Death | None = None
        self._needs_engine = False
        self._halted: ResultsUnwritable | None = None
        self._next_disk_try = 0.0
        self._input_changed: str = ""
        self._running_since: float | None = None
        self._saved_at = 0.0
        self._metric_at = 0.0
        self._watching: frozenset[int] = frozenset()
        self._problems: list[LineProblem] = []
        self._notes: list[str] = []

    # --- what the runner asks -----------------------------------------------------------------------------------------

    def ask(self, wish: Wish | None) -> None:
        """End this job as wished; None takes a pause back. A later wish replaces an earlier one."""
        before = self._wish
        if wish is not None and before is not None and before.hard and not wish.hard:
            return
        self._wish = wish
        if wish is None or before is None or wish.hard != before.hard:
            self._aborting_since = None
        self._wake.set()

    @property
    def wish(self) -> Wish | None:
        return self._wish

    @property
    def halted(self) -> bool:
        return self._halted is not None

    def retry_disk(self) -> None:
        """Somebody says there is space again."""
        self._next_disk_try = 0.0
        self._wake.set()

    def take_out(self, custom_id: str) -> str:
        """Abort one request. Returns a sentence; raises CommandRefused."""
        index, tally, i = self._find(custom_id)
        match tally.place(i):
            case Place.ABORTED:
                return f"{custom_id} was taken out before"
            case Place.WAITING:
                tally.move(i, Place.ABORTED)
                self._note_aborted(index.custom_id(i), out=True)
                return f"{custom_id} is taken out; `put back` brings it back"
            case Place.RUNNING:
                flight = next((f for f in self._flights.values() if f.index == i), None)
                if flight is None:
                    raise CommandRefused(f"{custom_id} has its answer already, it is being saved")
                flight.taken_out = True
                self._recall([flight])
                return f"{custom_id} is being aborted"
            case place:
                raise CommandRefused(f"{custom_id} has {place.name.lower()} already", advice="Its line stays.")

    def put_back(self, custom_id: str | None) -> int:
        """Aborted requests wait again; returns how many. Raises CommandRefused for an id that is not taken out."""
        index, tally, _ = self._find(None)
        names = [custom_id] if custom_id is not None else list(self.job.record.aborted)
        back = 0
        for name in names:
            i = index.find(name)
            if i is not None and tally.place(i) == Place.ABORTED and tally.move(i, Place.WAITING):
                self._requeue(i)
                back += 1
            elif custom_id is not None:
                raise CommandRefused(f"{custom_id} is not taken out")
            self._note_aborted(name, out=False)
        self._wake.set()
        return back

    def retry_failed(self) -> int:
        """Failed requests wait again; returns how many."""
        index, tally, _ = self._find(None)
        bad = frozenset(i for i, is_bad in enumerate(index.is_bad.tolist()) if is_bad)
        back = tally.retry_failed(bad)
        for i in back:
            self._strikes.clear(i)
            if self._scheduler is not None:
                self._scheduler.clear(i)
            self._requeue(i)
        if back:
            self.job.update(retry_failed=True)
        self._wake.set()
        return len(back)

    def _find(self, custom_id: str | None) -> tuple[BatchIndex, Tally, int]:
        if self._index is None or self._tally is None or self._scheduler is None:
            raise CommandRefused(
                f"job {self.job.id} is {self.job.state}: its requests are not known yet",
                advice="Try again in a moment.",
            )
        if custom_id is None:
            return self._index, self._tally, -1
        i = self._index.find(custom_id)
        if i is None:
            raise CommandRefused(f"job {self.job.id} has no request with custom_id {custom_id!r}")
        return self._index, self._tally, i

    def _note_aborted(self, custom_id: str, *, out: bool) -> None:
        names = [name for name in self.job.record.aborted if name != custom_id]
        self.job.update(aborted=[*names, custom_id] if out else names)
        # Promised to a person: on disk soon, not only with the next change of state.
        self._saved_at = 0.0

    def running(self) -> list[RunningRequest]:
        return [
            RunningRequest(
                key=f.key,
                custom_id=f.request.custom_id,
                prompt_tokens=f.prompt_tokens,
                generated=f.generated,
                started=f.started,
            )
            for f in self._flights.values()
            if f.started
        ]

    def keys(self, custom_ids: list[str], auto: int) -> frozenset[int]:
        """Keys of these requests where they are in flight, and of the first `auto` running ones."""
        wanted = set(custom_ids)
        named = {f.key for f in self._flights.values() if f.request.custom_id in wanted} if wanted else set()
        started = [f.key for f in self._flights.values() if f.started]
        return frozenset({*named, *started[:auto]})

    # --- what is shown and saved --------------------------------------------------------------------------------------

    def refreshed(self, record: RunRecord) -> RunRecord:
        if self._tally is None:
            return record
        now = asyncio.get_running_loop().time()
        active_s = record.active_s
        if self._running_since is not None:
            active_s += now - self._running_since
            self._running_since = now
        return msgspec.structs.replace(
            record,
            counts=self._tally.counts(),
            active_s=active_s,
            prompt_tokens=self._tokens.prompt,
            completion_tokens=self._tokens.completion,
            reasoning_tokens=self._tokens.reasoning,
            cached_tokens=self._tokens.cached,
        )

    def lively(self, view: JobView) -> JobView:
        eta = protocol.Eta()
        if self._tally is not None and view.state == JobState.RUNNING:
            in_flight = max(0, self._host.stats.generated_tokens - self._stats_base - self._completed_tokens)
            eta = time_left(
                self._lengths,
                open_requests=self._tally.open,
                generated_in_flight=in_flight,
                rate=self._rates.decode,
            )
        running = view.state == JobState.RUNNING
        return msgspec.structs.replace(
            view,
            decode_rate=self._rates.decode if running else 0.0,
            prefill_rate=self._rates.prefill if running else 0.0,
            eta=eta,
            load_fraction=self._fraction if view.state in (JobState.VALIDATING, JobState.LOADING) else None,
        )

    async def tick(self, now: float) -> None:
        """A few times a second: watches, run.json, metrics. Never raises for a full disk."""
        self.sync_watch()
        if self.job.state != JobState.RUNNING:
            return
        self._rates.add(now, self._host.stats)
        self.job.changed = True
        if now - self._metric_at >= METRIC_S:
            self._metric_at = now
            append_jsonl(self._folder / METRICS, self._metric())
        if now - self._saved_at >= SAVE_S:
            self._saved_at = now
            await self._office.save(self.job)

    def _metric(self) -> dict[str, Any]:
        stats = self._host.stats
        counts = self._tally.counts() if self._tally is not None else protocol.Counts()
        reading = self._office.last_reading()
        return {
            "t": round(time.time(), 3),
            "decode_rate": round(self._rates.decode, 2),
            "prefill_rate": round(self._rates.prefill, 2),
            "running": stats.running,
            "waiting": stats.waiting,
            "slots": stats.slots,
            "kv_used": stats.kv_used,
            "kv_total": stats.kv_total,
            "preemptions": stats.preemptions,
            "prompt_tokens": stats.prompt_tokens,
            "generated_tokens": stats.generated_tokens,
            "memory": stats.memory,
            "unsaved": len(self._writing),
            "counts": counts,
            "devices": reading.devices if reading else [],
            "runner_rss": reading.runner_rss if reading else 0,
            "worker_rss": reading.worker_rss if reading else 0,
        }

    def sync_watch(self) -> None:
        """The worker sends text only of requests that somebody watches."""
        watched = self._office.watched() & frozenset(self._flights)
        if watched != self._watching:
            self._watching = watched
            self._host.send(protocol.Watch(keys=sorted(watched)))

    async def _to(self, state: JobState, sentence: str = "") -> None:
        """Change the state: on disk, then to the clients."""
        now = asyncio.get_running_loop().time()
        self.job.refresh()
        self.job.move(state, sentence)
        self._running_since = now if state == JobState.RUNNING else None
        await self._office.save(self.job)
        self._saved_at = now
        self._office.publish(self.job)

    # --- the way of a job ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work on the job until it rests."""
        self.job.live = self
        self._begin_session()
        try:
            end = await self._work()
        except _End as reason:
            end = reason
        except GptossError as error:
            end = _End(JobState.FAILED, f"{error.message} {error.advice}".strip())
        except Exception as error:
            log.exception("job %s", self.job.id)
            where = traceback.extract_tb(error.__traceback__)[-1]
            end = _End(
                JobState.FAILED,
                f"a fault of this program stopped the job: {type(error).__name__}: {error} "
                f"({Path(where.filename).name}:{where.lineno}). Finished answers are saved; results/.runner/runner.log "
                "has the details.",
            )
        await self._rest(end)

    def _begin_session(self) -> None:
        now = time.time()
        record = self.job.record
        self.job.update(
            started=record.started or now,
            ended=None,
            sessions=[*record.sessions, Session(started=now)],
        )

    def _check(self) -> None:
        """Between two steps: has somebody something else in mind?"""
        if self._wish is not None:
            raise _End(self._wish.state, self._wish.sentence)

    async def _work(self) -> _End:
        self._check()
        await self._to(JobState.VALIDATING, "reading the batch")
        scan = await self._read_batch()
        await self._match(scan)
        assert self._tally is not None
        if self._tally.open:
            self._check()
            await self._to(JobState.PLANNING, "choosing slots and context")
            await self._plan()
            self._check()
            if not self._host.serves(self._settings):
                await self._to(JobState.LOADING, f"loading {self._settings.model_name}")
            await self._load()
            await self._to(JobState.RUNNING, "; ".join(self._notes))
            await self._serve()
        return _End(JobState.DONE, self._summary())

    def _summary(self) -> str:
        assert self._tally is not None
        counts = self._tally.counts()
        parts = [f"{counts.succeeded} of {counts.total} succeeded"]
        if counts.failed:
            parts.append(f"{counts.failed} failed: see errors.jsonl")
        if counts.aborted:
            parts.append(f"{counts.aborted} taken out")
        if counts.truncated:
            parts.append(f"{counts.truncated} cut at their token limit")
        return "; ".join([*parts, *self._notes])

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _read_batch(self) -> Scan:
        from engine import batch

        path = Path(self.job.record.input_path)
        problems = ProblemFile(self._folder / "problems.jsonl")

        def progress(fraction: float) -> None:
            self._fraction = fraction
            self.job.changed = True
            if self._wish is not None:
                raise _StopReading

        try:
            scan = await asyncio.to_thread(
                batch.scan,
                path,
                limit=self.job.record.settings.limit,
                on_progress=progress,
                on_problem=problems.add,
            )
        except _StopReading:
            self._check()
            raise
        finally:
            self._fraction = None
            await asyncio.to_thread(problems.close)
        self._problems = scan.problems
        record = self.job.record
        if record.input_sha256 and record.input_sha256 != scan.sha256:
            self._office.incident(
                self.job,
                "input_changed",
                f"{path} is not the file it was: requests are matched by custom_id and content",
                "edited lines run again, finished lines are kept",
            )
        self.job.update(input_sha256=scan.sha256, input_bytes=scan.size, endpoint=scan.endpoint)
        if scan.errors and not record.settings.skip_invalid:
            raise _End(JobState.FAILED, invalid_sentence(scan))
        if len(scan.index) == 0:
            raise BatchInvalid(f"{path} holds no request", advice="Add lines and submit it again.")
        return scan

    async def _match(self, scan: Scan) -> None:
        """Open the journal, count what is on disk, give bad lines their error lines."""
        from engine import journal as journals

        self._index = scan.index
        self._journal = await asyncio.to_thread(journals.Journal.open, self._folder)
        self._journal.on_halt = self._on_halt
        for damage in self._journal.damage:
            self._office.incident(
                self.job, "damage", sentence_of(damage), "the bytes are kept aside, their request runs again"
            )
        for torn in self._journal.torn:
            self._office.incident(self.job, "torn", sentence_of(torn), "it was moved to *.torn; its request runs again")
        record = self.job.record
        stock = await asyncio.to_thread(
            take_stock,
            scan.index,
            self._journal.done(),
            aborted=record.aborted,
            retry_failed=record.retry_failed,
        )
        self._tally, self._lengths, self._tokens = stock.tally, stock.lengths, stock.tokens
        self._scheduler = Scheduler(stock.tally)
        if stock.foreign:
            self._notes.append(f"{stock.foreign} finished lines are not in the input any more; they are kept")
        if stock.edited:
            self._notes.append(f"{stock.edited} edited requests run again")
        if stock.unknown_aborted:
            gone = set(stock.unknown_aborted)
            self.job.update(aborted=[name for name in record.aborted if name not in gone])
        self._partials = {p.custom_id: p for p in await asyncio.to_thread(read_inflight, self._folder)}
        if scan.notice:
            self._notes.append(scan.notice)
        for start in range(0, len(stock.unreported), ERROR_GROUP):
            self._check()
            group = stock.unreported[start : start + ERROR_GROUP]
            for bad in await asyncio.to_thread(bad_lines, scan.index, group):
                self._tally.move(bad.at, Place.RUNNING)
                self._write_error(*bad)
            await self._saved()

    async def _saved(self) -> None:
        """Until nothing waits for the disk. While the disk refuses, retries go on here too."""
        while self._writing:
            if self._halted is not None:
                await self._wait_for_disk()
            else:
                await self._sleep(None)

    # --- planning and loading -----------------------------------------------------------------------------------------

    async def _plan(self) -> None:
        assert self._tally is not None
        record = self.job.record
        model = await asyncio.to_thread(self._office.resolve_model, record.settings.model)
        why_not = model.why_not(record.settings.engine or EngineSettings().engine)
        if why_not is not None:
            raise LoadFailed(why_not, kind=protocol.FailureKind.UNSUPPORTED)
        date = record.engine.date or time.strftime("%Y-%m-%d")
        self._settings = runplan.engine_settings(record.settings, model, date=date, requests=self._tally.open)
        self._compare(runplan.fingerprint(record.settings, model, self._settings))
        self.job.update(engine=self._settings)

    def _compare(self, now: Fingerprint) -> None:
        """Answers of two different settings never mix unnoticed. Raises FingerprintChanged unless forced."""
        record = self.job.record
        found = runplan.differences(record.fingerprint, now)
        if found and not self._force:
            raise FingerprintChanged(
                f"settings differ from those of the answers on disk: {'; '.join(found)}.",
                advice="`resume --force` goes on and notes it; a new submit starts a run of its own.",
            )
        if found:
            session = msgspec.structs.replace(record.sessions[-1], forced=[*record.sessions[-1].forced, *found])
            self.job.update(sessions=[*record.sessions[:-1], session])
            self._office.incident(self.job, "settings_changed", "; ".join(found), "forced by a person")
        unknown = {
            name: getattr(record.fingerprint, name)
            for name in ("template", "engine_version")
            if record.fingerprint is not None and not getattr(now, name)
        }
        self.job.update(fingerprint=msgspec.structs.replace(now, **unknown))

    async def _load(self) -> None:
        """Have the engine, through as many tries as recovery allows. Raises _End or LoadFailed."""
        while True:
            self._check()
            try:
                info = await self._load_once()
            except LoadFailed as failure:
                step = self._after_load_failure(failure)
            except EngineDied as died:
                step = self._after_death(died.death)
            except OSError as error:
                raise LoadFailed(
                    f"the engine's process can't be started: {error.strerror or error}",
                    kind=protocol.FailureKind.UNAVAILABLE,
                    advice="`gptoss-tui doctor` looks at the installation.",
                ) from error
            else:
                break
            await self._pause_before(step)
        for warning in info.warnings:
            self._office.incident(self.job, "engine_warning", warning)
        print_ = self.job.record.fingerprint
        if print_ is not None:
            self._compare(runplan.completed(print_, info))
        stats = self._host.stats
        self._completed = self._completed_tokens = 0
        self._stats_base = stats.generated_tokens
        self._rates.clear()
        self._watching = frozenset()
        self._needs_engine = False

    async def _load_once(self) -> protocol.ModelInfo:
        def progress(fraction: float) -> None:
            self._fraction = fraction
            self.job.changed = True

        load = asyncio.create_task(
            self._host.load(self._settings, log=self._folder / "worker.log", sink=self, on_progress=progress)
        )
        try:
            while not load.done():
                sleeping = asyncio.create_task(self._sleep(None))
                await asyncio.wait({load, sleeping}, return_when=asyncio.FIRST_COMPLETED)
                sleeping.cancel()
                if self._wish is not None and not load.done():
                    load.cancel()
                    await asyncio.wait({load})
                    await self._host.close()
                    self._check()
            return load.result()
        finally:
            self._fraction = None
            load.cancel()

    def _after_load_failure(self, failure: LoadFailed) -> recovery.Retry:
        kind = protocol.FailureKind(failure.kind)
        self._deaths.append(recovery.Death(kind=kind))
        step = recovery.next_step(self._deaths, self._settings)
        if isinstance(step, recovery.GiveUp):
            self._office.incident(self.job, "load_failed", failure.message, "the job stops")
            hopeless = kind not in (protocol.FailureKind.OOM, protocol.FailureKind.CRASH)
            text = failure.message if hopeless else f"{failure.message} {step.sentence}"
            raise _End(JobState.FAILED, f"{text} {failure.advice}".strip())
        self._office.incident(self.job, "load_failed", failure.message, step.action)
        return step

    def _after_death(self, death: Death) -> recovery.Retry:
        """Explain a death, note it, and say what comes next. Raises _End when nothing does."""
        why = recovery.explain(
            death.returncode,
            death.last_lines,
            death.fatal,
            self._office.free_bytes(),
            death.phase,
            silent_s=death.silent_s,
            garbage=death.garbage,
        )
        self._deaths.append(recovery.Death(kind=why.kind, completed=self._completed))
        del self._deaths[: -2 * recovery.MAX_RESTARTS]
        step = recovery.next_step(self._deaths, self._settings)
        give_up = isinstance(step, recovery.GiveUp)
        self._office.incident(
            self.job,
            "engine_silent" if why.kind == protocol.FailureKind.SILENT else "engine_died",
            why.sentence,
            "the job stops" if give_up else step.action,
            cause=why.kind,
            returncode=death.returncode,
            phase=death.phase,
            free_bytes=self._office.free_bytes(),
            settings=self._settings,
            last_lines=death.last_lines,
        )
        if give_up:
            raise _End(JobState.FAILED, f"{why.sentence} {step.sentence} {why.advice}".strip())
        self.job.update(restarts=self.job.record.restarts + 1)
        return step

    async def _pause_before(self, step: recovery.Retry) -> None:
        if step.settings != self._settings:
            self._settings = step.settings
            self.job.update(engine=step.settings)
        deadline = asyncio.get_running_loop().time() + step.wait_s
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            self._check()
            await self._sleep(left)

    async def _reload(self) -> None:
        """The engine died in mid-run: requests in flight wait again, then a new engine."""
        death, self._death = self._death, None
        if death is not None:
            self._bury_flights()
            self._needs_engine = True
            try:
                step = self._after_death(death)
            except _End:
                if self._wish is None:
                    raise
                return  # it ends as somebody wished, which needs no engine
        else:  # it died while the disk was full, or was ended by us; explained already
            step = recovery.Retry(settings=self._settings, wait_s=0.0, action="")
        if self._wish is not None or self._halted is not None:
            self._settings = step.settings
            return
        incident = self._deaths[-1].kind if self._deaths else ""
        await self._to(JobState.LOADING, f"the engine ended ({incident}); {step.action or 'loading again'}")
        await self._pause_before(step)
        await self._load()
        self._office.incident(
            self.job, "restarted", f"the engine runs again with {self._settings.slots} slots", "going on"
        )
        await self._to(JobState.RUNNING, f"the engine was restarted {self.job.record.restarts} times")

    def _bury_flights(self) -> None:
        """Requests that were in a slot get a strike; at the third they are given up, so one can't hold up the rest."""
        assert self._tally is not None
        assert self._scheduler is not None
        flights = list(self._flights.values())
        self._flights.clear()
        # If none had a slot, one of them may have killed the engine on its way to one.
        struck = {f.key for f in flights if f.started} or {f.key for f in flights}
        for flight in flights:
            i = flight.index
            if flight.taken_out:
                self._tally.move(i, Place.ABORTED)
                self._note_aborted(flight.request.custom_id, out=True)
            elif flight.key in struck:
                self._strike(flight)
            else:
                self._give_back(i)

    def _strike(self, flight: Flight) -> None:
        assert self._tally is not None
        assert self._scheduler is not None
        i = flight.index
        strikes = self._strikes.add(i)
        if strikes >= STRIKES_OUT:
            self._scheduler.clear(i)
            message = (
                f"the engine died {strikes} times while it ran this request, the last time with nothing else in it"
            )
            error = RequestError(code=Finish.ENGINE_DIED.value, message=message)
            self._write_error(i, flight.request.custom_id, flight.request.request_id, error)
            return
        if strikes >= STRIKES_ALONE:
            self._scheduler.suspect(i)
        self._tally.retried += 1
        self._give_back(i)

    def _give_back(self, i: int) -> None:
        assert self._tally is not None
        self._tally.move(i, Place.WAITING)
        self._requeue(i)

    def _requeue(self, i: int) -> None:
        if self._scheduler is not None:
            self._scheduler.requeue(i)

    # --- running ------------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Until every request is done. Raises _End when something else was wished."""
        assert self._tally is not None
        while True:
            if self._death is not None or (self._needs_engine and not self._wish and not self._halted):
                await self._reload()
                continue
            if self._wish is not None and self._ended_as_wished(self._wish):
                raise _End(self._wish.state, self._wish.sentence)
            if self._halted is not None:
                await self._wait_for_disk()
                continue
            if self._input_changed and not self._flights and not self._writing:
                raise _End(JobState.PAUSED, self._input_changed)
            if self._wish is None and not self._input_changed and await self._dispatch():
                continue
            if not self._tally.open:
                return
            await self._sleep(1.0 if self._aborting_since is not None else None)

    async def _sleep(self, limit_s: float | None) -> None:
        """Until something happened."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._wake.wait()
        self._wake.clear()

    async def _dispatch(self) -> bool:
        """Give the worker what it has room for. True if that changed anything, so the caller looks again."""
        assert self._tally is not None
        assert self._scheduler is not None
        slots = max(1, self._host.loaded.slots if self._host.loaded else self._settings.slots)
        room = min(AHEAD * slots - len(self._flights), UNSAVED - len(self._writing))
        chosen = self._scheduler.next(room, in_flight=len(self._flights))
        if not chosen:
            return False
        for i in chosen:
            self._tally.move(i, Place.RUNNING)
        requests = await asyncio.to_thread(self._read_requests, chosen)
        for i, request in zip(chosen, requests, strict=True):
            if request is None or self._wish is not None or self._death is not None or self._halted is not None:
                self._give_back(i)
                continue
            self._send(i, request)
        if self._input_changed:
            # What is still with the worker was read before the change and finishes.
            log.warning("job %s: %s", self.job.id, self._input_changed)
        self.sync_watch()
        self.job.changed = True
        return True

    def _read_requests(self, chosen: list[int]) -> list[Request | None]:
        """In a thread: bodies are not kept in memory, each line is read again when its turn comes."""
        from engine.batch import InputChanged

        assert self._index is not None
        requests: list[Request | None] = []
        for i in chosen:
            try:
                requests.append(self._index.request(i))
            except InputChanged as error:
                self._input_changed = f"{error.message}; resume re-reads the file"
                requests.append(None)
            except OSError as error:
                reason = error.strerror or str(error)
                self._input_changed = f"{self.job.record.input_path}: {reason}; resume re-reads the file"
                requests.append(None)
        return requests

    def _send(self, i: int, request: Request) -> None:
        from engine.bodies import parameters

        settings = self.job.record.settings
        flight = Flight(self._office.next_key(), i, request)
        self._flights[flight.key] = flight
        self._host.send(
            protocol.Generate(
                key=flight.key,
                custom_id=request.custom_id,
                url=request.url,
                body=runplan.with_defaults(request.body, settings.defaults, parameters(request.url)),
                seed=runplan.seed_of(settings.seed or 0, request.custom_id, request.request_id),
            )
        )

    def _ended_as_wished(self, wish: Wish) -> bool:
        """Bring requests in flight to their end, softly or not; True when none is left."""
        now = asyncio.get_running_loop().time()
        if self._aborting_since is None and self._flights:
            self._aborting_since = now
            # Soft: what has no slot yet has nothing to lose by waiting on our side.
            self._recall([f for f in self._flights.values() if wish.hard or not f.started])
        elif wish.hard and self._flights and self._aborting_since is not None and now - self._aborting_since > HARD_S:
            log.warning("job %s: the engine does not give its requests back, ending it", self.job.id)
            self._host.use(None)
            self._host.kill()
            for flight in list(self._flights.values()):
                self._came_back(flight, None)
            self._flights.clear()
        if self._flights:
            return False
        return not self._writing or self._halted is not None

    def _recall(self, flights: list[Flight]) -> None:
        for flight in flights:
            flight.recalled = True
        if flights:
            self._host.send(protocol.Abort(keys=[f.key for f in flights]))

    # --- messages of the engine ---------------------------------------------------------------------------------------

    def on_message(self, message: FromWorker) -> None:
        match message:
            case protocol.Finished(key=key, completion=completion):
                flight = self._flights.pop(key, None)
                if flight is not None:
                    self._finished(flight, completion)
                    self._wake.set()
            case protocol.Started(key=key, prompt_tokens=prompt_tokens):
                flight = self._flights.get(key)
                if flight is not None:
                    flight.started = time.time()
                    flight.prompt_tokens = prompt_tokens
            case protocol.Deltas(items=items):
                for item in items:
                    flight = self._flights.get(item.key)
                    if flight is not None:
                        flight.generated += item.tokens
                self._office.text(self.job, items)
            case _:
                pass

    def on_death(self, death: Death) -> None:
        self._death = death
        self._wake.set()

    def _finished(self, flight: Flight, completion: Completion) -> None:
        if completion.finish == Finish.ABORTED and flight.recalled:
            self._came_back(flight, completion)
            return
        if completion.finish in (Finish.ABORTED, Finish.OOM, Finish.ENGINE_DIED):
            # The engine lives and could not do this one; whatever it is, it must not go round for ever.
            if flight.taken_out:
                self._came_back(flight, completion)
            else:
                self._strike(flight)
            return
        from engine import output

        self._completed += 1
        self._completed_tokens += completion.usage.completion_tokens
        self._strikes.clear(flight.index)
        if self._scheduler is not None:
            self._scheduler.clear(flight.index)
        line = output.line_for(flight.request, completion, model=self._settings.model_name, created=time.time())
        self._write(flight.index, line, completion)

    def _came_back(self, flight: Flight, completion: Completion | None) -> None:
        """It was aborted: taken out by a person, or it waits again."""
        assert self._tally is not None
        request = flight.request
        if completion is not None and completion.choices and flight.started:
            self._partials[request.custom_id] = Partial(
                custom_id=request.custom_id,
                request_id=request.request_id,
                choices=completion.choices,
                prompt_tokens=completion.usage.prompt_tokens,
                completion_tokens=completion.usage.completion_tokens,
            )
            self._completed_tokens += completion.usage.completion_tokens
        if flight.taken_out:
            self._tally.move(flight.index, Place.ABORTED)
            self._note_aborted(request.custom_id, out=True)
        else:
            self._give_back(flight.index)

    # --- the journal --------------------------------------------------------------------------------------------------

    def _write_error(self, i: int, custom_id: str, request_id: str, error: RequestError) -> None:
        from engine import output

        line = output.error_line(custom_id, request_id, error, created=time.time(), model=self._settings.model_name)
        self._write(i, line, None)

    def _write(self, i: int, line: Any, completion: Completion | None) -> None:
        task = asyncio.create_task(self._acknowledge(i, line, completion))
        self._writing.add(task)
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job %s: saving a line", self.job.id, exc_info=error)
        self._wake.set()

    async def _acknowledge(self, i: int, line: Any, completion: Completion | None) -> None:
        """Wait for the line's fsync, then count it. The order is the promise."""
        assert self._journal is not None
        assert self._tally is not None
        try:
            await self._journal.append(line)
        except ResultsUnwritable:
            # The journal was closed over a disk that refuses: the answer is lost, its request runs again.
            self._give_back(i)
            return
        self._tally.move(i, Place.SUCCEEDED if line.ok else Place.FAILED)
        usage = completion.usage if completion is not None else protocol.Usage()
        finish = completion.finish if completion is not None else Finish.INVALID
        self._tokens.add(usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens, usage.cached_tokens)
        if line.ok:
            self._lengths.add(usage.completion_tokens)
            self._tally.truncated += finish == Finish.LENGTH
        self._partials.pop(line.custom_id, None)
        if not self._acks:
            # Every line of one fsync group comes through here in the same turn of the loop: one message for all.
            asyncio.get_running_loop().call_soon(self._tell_acks)
        self._acks.append(
            AckItem(
                custom_id=line.custom_id,
                request_id=line.request_id,
                ok=line.ok,
                finish=finish.value,
                completion_tokens=usage.completion_tokens,
            )
        )

    def _tell_acks(self) -> None:
        items, self._acks = self._acks, []
        self._office.acknowledged(self.job, items)
        self.job.changed = True

    def _on_halt(self, error: ResultsUnwritable) -> None:
        self._halted = error
        self._wake.set()

    async def _wait_for_disk(self) -> None:
        """The disk refuses: no new requests, answers wait in memory, a try every few seconds."""
        assert self._halted is not None
        assert self._journal is not None
        loop = asyncio.get_running_loop()
        was = self.job.state
        if was != JobState.PAUSED:
            self._next_disk_try = loop.time() + DISK_RETRY_S
            self._office.incident(
                self.job,
                "disk_full",
                self._halted.message,
                "nothing new starts; writing is tried again every few seconds",
            )
            await self._to(JobState.PAUSED, f"{self._halted.message} {self._halted.advice}")
        while self._wish is None:
            left = self._next_disk_try - loop.time()
            if left > 0:
                await self._sleep(left)
                if self._death is not None:
                    return
                continue
            self._next_disk_try = loop.time() + DISK_RETRY_S
            if await self._journal.retry():
                break
            self.job.update(sentence=f"{self._halted.message} {self._halted.advice}")
        else:
            if not self._flights:
                raise _End(self._wish.state, self._wish.sentence)
            await self._sleep(1.0)
            return
        self._halted = None
        self._office.incident(self.job, "disk_ok", "the disk takes results again", "going on")
        # The table knows no way from paused back into work but through the queue; the job never left its place.
        steps = [JobState.QUEUED, JobState.VALIDATING]
        if self._settings.model_path:  # it was beyond planning
            steps += [JobState.PLANNING, JobState.RUNNING]
        for state in steps[:-1]:
            self.job.move(state, "")
        await self._to(steps[-1], "; ".join(self._notes))

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _rest(self, end: _End) -> None:
        """Leave nothing behind: no request in the engine, no open journal, everything on disk, then say so."""
        self.ending = True
        state = end.state
        sentence = end.sentence
        await self._clear_engine()
        lost = await self._close_journal()
        if lost and state == JobState.DONE:
            state = JobState.PAUSED
        if lost:
            sentence = f"{sentence}. {lost}" if sentence else lost
        self.job.refresh()
        try:
            await asyncio.to_thread(self._write_partials)
        except GptossError as error:
            log.warning("job %s: inflight.jsonl: %s", self.job.id, error.message)
        sessions = self.job.record.sessions
        now = time.time()
        ended = msgspec.structs.replace(sessions[-1], ended=now, end_state=state.value)
        self.job.update(ended=now, sessions=[*sessions[:-1], ended])
        if state == JobState.DONE:
            self.job.update(retry_failed=False)
        self._running_since = None
        if self.job.state == state:
            self.job.update(sentence=sentence)
        else:
            self.job.move(state, sentence)
        try:
            await asyncio.to_thread(write_batch_json, self._folder, self.job.record, self._problems)
        except ResultsUnwritable as error:
            log.warning("job %s: batch.json: %s", self.job.id, error.message)
        await self._office.save(self.job)
        self.job.live = None
        self._office.publish(self.job)

    async def _clear_engine(self) -> None:
        if self._flights:
            # Only after a fault of ours: whoever ends a job in order has none left.
            await self._host.close()
            for flight in list(self._flights.values()):
                self._came_back(flight, None)
            self._flights.clear()
        if self._host.ready:
            self._host.use(None)

    async def _close_journal(self) -> str:
        """Returns a sentence if finished answers were lost."""
        lost = ""
        if self._journal is not None:
            try:
                await self._journal.close()
            except ResultsUnwritable as error:
                lost = f"{error.message} {error.advice}"
            if self._writing:
                await asyncio.wait(set(self._writing))
        if self._acks:
            self._tell_acks()
        return lost

    def _write_partials(self) -> None:
        keep: list[Partial] = []
        if self._tally is None or self._index is None:
            return  # nothing was read: what an earlier session wrote still stands
        for partial in self._partials.values():
            i = self._index.find(partial.custom_id)
            if i is not None and self._tally.place(i) in (Place.WAITING, Place.ABORTED):
                keep.append(partial)
        write_inflight(self._folder, keep)

    @property
    def active(self) -> bool:
        return self.job.state in ACTIVE
