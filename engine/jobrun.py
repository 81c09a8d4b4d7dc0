"""The life of one job, from its turn to its rest. Decides what comes when; each part of the work has a file of its own.

    intake      reads the batch and matches it with the lines on disk
    workload    knows where each request stands and which is next
    supervisor  plans the engine, loads it, and loads it again after a death
    flights     are the requests with the worker
    saving      brings their lines to the disk, and counts what is safe
    gauges      show all this

`JobRun.run` is the only way in and never raises for what happens to the job: it leaves the job in a resting state with
a sentence.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine import intake, recovery
from engine.errors import CommandRefused, GptossError, ResultsUnwritable, WorkerDied
from engine.flights import Flights
from engine.folder import write_batch_json, write_inflight
from engine.gauges import Gauges
from engine.job import JobState
from engine.jobs import Job
from engine.office import Office
from engine.problems import bad_lines
from engine.protocol import RunningRequest
from engine.record import Session
from engine.report import write_report
from engine.saving import Saving
from engine.supervisor import Supervisor
from engine.tally import Place
from engine.wish import End, Wish, Wishes
from engine.workload import Workload

if TYPE_CHECKING:  # numpy comes with it
    from engine.batch import LineProblem, Scan

log = logging.getLogger("runner")

HARD_S = 20.0
"""How long aborted requests may take to come back before the engine is ended instead."""

LOOK_S = 1.0
"""How often that is looked at."""

ERROR_GROUP = 512
"""Bad lines that get their error lines at once; between two groups the job can be paused."""

INTERNAL_ERROR = "InternalError"
"""Stands for the error's name where a fault of this program ended something."""


class _Parts(NamedTuple):
    """What there is from the matching on."""

    workload: Workload
    saving: Saving
    flights: Flights


class JobRun:
    """Runs one job once. Everything happens on the runner's loop; blocking work goes to threads."""

    def __init__(self, job: Job, office: Office) -> None:
        self.job = job
        self.ending = False  # nothing is taken up any more: a command has to wait for `over`
        self.over = asyncio.Event()  # the runner has let go of it
        self._office = office
        self._host = office.host
        self._folder = office.folder(job)
        self._wishes = Wishes()
        self._gauges = Gauges(job, office, self._folder)
        self._supervisor = Supervisor(job, office, self._wishes, self._folder, on_progress=self._gauges.progress)
        self._parts: _Parts | None = None
        self._problems: list[LineProblem] = []
        self._notes: list[str] = []

    # --- what commands and clients ask --------------------------------------------------------------------------------

    def ask(self, wish: Wish | None) -> None:
        """End this job as wished; None takes a pause back."""
        self._wishes.ask(wish)

    @property
    def wish(self) -> Wish | None:
        return self._wishes.now

    @property
    def halted(self) -> bool:
        """The disk refuses."""
        return self._parts is not None and self._parts.saving.halted is not None

    def retry_disk(self) -> None:
        if self._parts is not None:
            self._parts.saving.retry_soon()

    def take_out(self, custom_id: str) -> str:
        """Abort one request. Returns a sentence; raises CommandRefused."""
        workload, _, flights = self._matched()
        i = workload.find(custom_id)
        match workload.tally.place(i):
            case Place.ABORTED:
                return f"{custom_id} was taken out before"
            case Place.WAITING:
                workload.take_out(i)
                return taken_out(self.job.id, custom_id)
            case Place.RUNNING:
                if not flights.take_out(i):
                    raise CommandRefused(f"{custom_id} has its answer already, it is being saved")
                return f"{custom_id} is being aborted"
            case place:
                raise CommandRefused(f"{custom_id} has {place.name.lower()} already", advice="Its line stays.")

    def put_back(self, custom_id: str | None) -> int:
        """Aborted requests wait again; returns how many. Raises CommandRefused for an id that is not taken out."""
        back = self._matched().workload.put_back(custom_id)
        self._wishes.wake()
        return back

    def retry_failed(self) -> int:
        """Failed requests wait again; returns how many."""
        back = self._matched().workload.retry_failed()
        self._wishes.wake()
        return back

    def _matched(self) -> _Parts:
        if self._parts is None:
            raise CommandRefused(
                f"job {self.job.id} is {self.job.state}: its requests are not known yet",
                advice="Try again in a moment.",
            )
        return self._parts

    def running(self) -> list[RunningRequest]:
        return self._parts.flights.running() if self._parts is not None else []

    def keys(self, custom_ids: list[str], auto: int) -> frozenset[int]:
        """Keys of these requests where they are in flight, and of the first `auto` running ones."""
        return self._parts.flights.keys(custom_ids, auto) if self._parts is not None else frozenset()

    def sync_watch(self) -> None:
        """Somebody may watch other requests than before."""
        if self._parts is not None:
            self._parts.flights.sync_watch()

    async def tick(self, now: float) -> None:
        """A few times a second: watches, run.json, metrics. Never raises for a full disk."""
        self.sync_watch()
        if self.job.state == JobState.RUNNING:
            await self._gauges.tick(now)

    # --- from its turn to its rest ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work on the job until it rests."""
        self.job.live = self._gauges
        record = self.job.record
        now = time.time()
        self.job.update(started=record.started or now, ended=None, sessions=[*record.sessions, Session(started=now)])
        try:
            end = await self._work()
        except End as reason:
            end = reason
        except GptossError as error:
            end = End(JobState.FAILED, error.text, failure=error.code)
        except Exception as error:
            log.exception("job %s", self.job.id)
            where = traceback.extract_tb(error.__traceback__)[-1]
            end = End(
                JobState.FAILED,
                f"a fault of this program stopped the job: {type(error).__name__}: {error} "
                f"({Path(where.filename).name}:{where.lineno}). Finished answers are saved; results/.runner/runner.log "
                "has the details.",
                failure=INTERNAL_ERROR,
            )
        await self._rest(end)

    async def _to(self, state: JobState, sentence: str = "") -> None:
        """Change the state: on disk, then to the clients."""
        self.job.refresh()
        self.job.move(state, sentence)
        self._gauges.on_state(state)
        await self._office.save(self.job)
        self._office.publish(self.job)

    async def _work(self) -> End:
        self._wishes.check()
        await self._to(JobState.VALIDATING, "reading the batch")
        record = self.job.record
        scan = await intake.read(self.job, self._office, self._wishes, self._folder, on_progress=self._gauges.progress)
        self._problems = scan.problems
        intake.check(scan, record.input_path, skip_invalid=record.settings.skip_invalid)
        parts = self._parts = await self._match(scan)
        if parts.workload.tally.open:
            self._wishes.check()
            await self._to(JobState.PLANNING, "choosing slots and context")
            settings = await self._supervisor.plan(parts.workload)
            self._wishes.check()
            if not self._host.serves(settings):
                await self._to(JobState.LOADING, f"loading {settings.model_name}")
            await self._load(parts)
            await self._to(JobState.RUNNING, "; ".join(self._notes))
            await self._serve(parts)
        return End(JobState.DONE, self._summary(parts.workload))

    async def _match(self, scan: Scan) -> _Parts:
        found = await intake.match(self.job, self._office, self._folder, scan)
        stock = found.stock
        self._notes = found.notes
        workload = Workload(self.job, scan.index, stock.tally)
        saving = Saving(
            self.job,
            self._office,
            self._wishes,
            workload,
            found.journal,
            lengths=stock.lengths,
            tokens=stock.tokens,
        )
        flights = Flights(self.job, self._office, self._wishes, workload, saving)
        flights.remember(found.partials)
        self._gauges.watch(stock.tally, saving, flights)
        self._parts = _Parts(workload, saving, flights)
        await self._report_bad_lines(self._parts, stock.unreported)
        return self._parts

    async def _report_bad_lines(self, parts: _Parts, unreported: list[int]) -> None:
        """Error lines for bad input lines that have none yet."""
        from engine import output

        for start in range(0, len(unreported), ERROR_GROUP):
            self._wishes.check()
            group = unreported[start : start + ERROR_GROUP]
            for bad in await asyncio.to_thread(bad_lines, parts.workload.index, group):
                parts.workload.tally.move(bad.at, Place.RUNNING)
                line = output.error_line(bad.custom_id, bad.request_id, bad.error, created=time.time())
                parts.saving.write(bad.at, line)
            while parts.saving.pending:
                if parts.saving.halted is not None:
                    await self._wait_for_disk(parts)
                else:
                    await self._wishes.sleep()

    def _summary(self, workload: Workload) -> str:
        counts = workload.tally.counts()
        parts = [f"{counts.succeeded} of {counts.total} succeeded"]
        if counts.failed:
            parts.append(f"{counts.failed} failed: see errors.jsonl")
        if counts.aborted:
            parts.append(f"{counts.aborted} taken out")
        if counts.truncated:
            parts.append(f"{counts.truncated} cut at their token limit")
        return "; ".join([*parts, *self._notes])

    # --- running ------------------------------------------------------------------------------------------------------

    async def _load(self, parts: _Parts) -> None:
        await self._supervisor.load(parts.flights)
        parts.flights.on_new_engine()
        self._gauges.on_new_engine()
        if held := self._supervisor.held():
            self._office.incident(self.job, "fewer_slots", held, "going on with these")

    async def _serve(self, parts: _Parts) -> None:
        """Until every request is done. Raises End when something else was wished."""
        workload, saving, flights = parts
        while True:
            wish, halted = self._wishes.now, saving.halted is not None
            if flights.death is not None or (self._supervisor.lost and wish is None and not halted):
                await self._reload(parts)
                continue
            if wish is not None and self._ended_as_wished(parts, wish):
                raise End(wish.state, wish.sentence)
            if halted:
                await self._wait_for_disk(parts)
                continue
            if workload.input_changed and not flights and not saving.pending:
                raise End(JobState.PAUSED, workload.input_changed)
            # After a change of the file, what is still with the worker was read before it and finishes.
            if wish is None and not workload.input_changed and await flights.dispatch(self._slots()):
                continue
            if not workload.tally.open:
                return
            await self._wishes.sleep(LOOK_S if self._wishes.since is not None else None)

    def _slots(self) -> int:
        settings = self._host.loaded or self._supervisor.settings
        return max(1, settings.slots) if settings is not None else 1

    def _ended_as_wished(self, parts: _Parts, wish: Wish) -> bool:
        """Bring requests in flight to their end, softly or not; True when none is left."""
        flights = parts.flights
        now = asyncio.get_running_loop().time()
        if flights and self._wishes.since is None:
            self._wishes.since = now
            flights.recall(hard=wish.hard)
        elif flights and wish.hard and self._wishes.since is not None and now - self._wishes.since > HARD_S:
            log.warning("job %s: the engine does not give its requests back, ending it", self.job.id)
            self._host.use(None)
            self._host.kill()
            flights.write_off()
        if flights:
            return False
        return not parts.saving.pending or parts.saving.halted is not None

    async def _reload(self, parts: _Parts) -> None:
        """The engine died: requests in flight wait again, then a new engine."""
        supervisor, flights = self._supervisor, parts.flights
        assert supervisor.settings is not None
        death, flights.death = flights.death, None
        if death is None:  # it died while the disk was full, or was ended by us; explained already
            step = recovery.Retry(settings=supervisor.settings, wait_s=0.0, action="")
        else:
            flights.bury()
            try:
                step = supervisor.after_death(death, completed=flights.completed)
            except WorkerDied:
                if self._wishes.now is None:
                    raise
                return  # it ends as somebody wished, which needs no engine
        if self._wishes.now is not None or parts.saving.halted is not None:
            supervisor.use(step.settings)
            return
        await self._to(
            JobState.LOADING, f"the engine ended ({supervisor.last_cause}); {step.action or 'loading again'}"
        )
        await supervisor.before(step)
        await self._load(parts)
        self._office.incident(self.job, "restarted", f"the engine runs again with {self._slots()} slots", "going on")
        n = self.job.record.restarts
        await self._to(JobState.RUNNING, f"the engine was restarted {n} time{'s' if n != 1 else ''}")

    async def _wait_for_disk(self, parts: _Parts) -> None:
        """The disk refuses: no new requests, a try every few seconds, until it takes lines again or the engine died."""
        saving = parts.saving
        assert saving.halted is not None
        if self.job.state != JobState.PAUSED:
            self._office.incident(
                self.job,
                "disk_full",
                saving.halted.message,
                "nothing new starts; writing is tried again every few seconds",
            )
            await self._to(JobState.PAUSED, saving.halted.text)
        while (wish := self._wishes.now) is None:
            if (left := saving.wait_s) > 0:
                await self._wishes.sleep(left)
                if parts.flights.death is not None:
                    return
            elif await saving.retry():
                break
            else:
                self.job.update(sentence=saving.halted.text)
        else:
            if not parts.flights:
                raise End(wish.state, wish.sentence)
            await self._wishes.sleep(LOOK_S)
            return
        self._office.incident(self.job, "disk_ok", "the disk takes results again", "going on")
        # The table knows no way from paused back into work but through the queue; the job never left its place.
        steps = [JobState.QUEUED, JobState.VALIDATING]
        if self._supervisor.settings is not None:
            steps += [JobState.PLANNING, JobState.RUNNING]
        for state in steps[:-1]:
            self.job.move(state, "")
        await self._to(steps[-1], "; ".join(self._notes))

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _rest(self, end: End) -> None:
        """Leave nothing behind: no request in the engine, no open journal, everything on disk, then say so."""
        self.ending = True
        state, sentence = end.state, end.sentence
        if self._parts is not None:
            lost = await self._let_go(self._parts)
            if lost:
                sentence = f"{sentence}. {lost}" if sentence else lost
            if lost and state == JobState.DONE:
                state = JobState.PAUSED
        if state == JobState.FAILED and self.job.state == JobState.PAUSED:
            state = JobState.PAUSED  # by a full disk, when the engine was lost too: resume is the way out of both
        self.job.refresh()
        sessions = self.job.record.sessions
        now = time.time()
        ended = msgspec.structs.replace(sessions[-1], ended=now, end_state=state.value)
        self.job.update(ended=now, sessions=[*sessions[:-1], ended])
        if state == JobState.DONE:
            self.job.update(retry_failed=False, force=False)
        self._gauges.on_state(state)
        if self.job.state == state:
            self.job.update(sentence=sentence)
        else:
            self.job.move(state, sentence, failure=end.failure if state == JobState.FAILED else "")
        try:
            await asyncio.to_thread(write_batch_json, self._folder, self.job.record, self._problems)
        except ResultsUnwritable as error:
            log.warning("job %s: batch.json: %s", self.job.id, error.message)
        try:
            await asyncio.to_thread(write_report, self._folder, self.job.record)
        except OSError as error:
            log.warning("job %s: report.md: %s", self.job.id, error.strerror or error)
        await self._office.save(self.job)
        self.job.live = None
        self._office.publish(self.job)

    async def _let_go(self, parts: _Parts) -> str:
        """Of engine and journal. Returns a sentence if finished answers were lost."""
        if parts.flights:
            # Only after a fault of ours: whoever ends a job in order has none left.
            await self._host.close()
            parts.flights.write_off()
        if self._host.ready:
            self._host.use(None)
        lost = await parts.saving.close()
        try:
            await asyncio.to_thread(write_inflight, self._folder, parts.flights.partials())
        except GptossError as error:
            log.warning("job %s: inflight.jsonl: %s", self.job.id, error.message)
        return lost


def taken_out(job: str, custom_id: str) -> str:
    """The sentence for one that waits no more."""
    return f"{custom_id} is taken out; `gptoss-tui restore {job} --request {custom_id}` brings it back"
