"""What each command of a client does to the queue and its jobs. Changes states only through `Job.move`.

A command is answered when it is accepted and on disk, not when its effect is complete: that is told by events.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine import jobs_disk, protocol, runplan
from engine.errors import BatchInvalid, CommandRefused, FingerprintChanged, JobNotFound
from engine.job import ACTIVE, ENDED, RESUMABLE, JobState
from engine.jobrun import JobRun, taken_out
from engine.jobs import Job
from engine.protocol import Command, Reply, RunSettings
from engine.wish import Wish

if TYPE_CHECKING:
    from engine.runner import Runner

_MANY = 1_000_000
"""Stands for "as many sequences as there are" where only settings, not slots, are compared."""


_WORDS: dict[type[Command], str] = {
    protocol.Submit: "new job",
    protocol.Pause: "pause",
    protocol.Resume: "resume",
    protocol.AbortJob: "abort",
    protocol.Retry: "retry",
    protocol.AbortRequest: "abort of a request",
    protocol.PutBack: "putting back",
    protocol.Move: "move",
    protocol.Remove: "removal",
    protocol.Stop: "stop",
}
"""What was asked, for the log."""


class _Done(NamedTuple):
    """What a command came to. `changed`: something is not as it was, or is about to be."""

    job: Job | None
    sentence: str
    changed: bool = True


class Commands:
    """Answers commands of all clients. Safe to call for several clients at once: states are checked after each wait."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def handle(self, command: Command) -> Reply:
        """Raises GptossError; the control makes the Reply of it."""
        done = await self._do(command)
        job = done.job.id if done.job is not None else None
        if done.changed:
            self._runner.incidents.asked(job or "", _WORDS[type(command)], done.sentence)
        return Reply(id=command.id, job=job, sentence=done.sentence)

    async def _do(self, command: Command) -> _Done:
        match command:
            case protocol.Submit():
                return await self._submit(command)
            case protocol.Pause():
                return await self._pause(await self._job(command.job), now=command.now)
            case protocol.Resume():
                return await self._resume(await self._job(command.job), command)
            case protocol.AbortJob():
                return await self._abort(await self._job(command.job))
            case protocol.Retry():
                return await self._retry(await self._job(command.job))
            case protocol.AbortRequest():
                return await self._abort_request(await self._job(command.job), command.custom_id)
            case protocol.PutBack():
                return await self._put_back(await self._job(command.job), command.custom_id)
            case protocol.Move():
                return await self._move(self.find(command.job), command.by)
            case protocol.Remove():
                return await self._remove(await self._job(command.job))
            case protocol.Stop():
                # After the reply is on its way: the one who asked should hear that it worked.
                asyncio.get_running_loop().call_later(0.05, self._runner.stop, "asked by a person")
                return _Done(None, "the runner pauses what runs, unloads the engine and ends")
            case protocol.WatchRequests():
                if self._runner.current is not None:
                    self._runner.current.sync_watch()
                return _Done(None, "", changed=False)
            case protocol.GetSnapshot():
                return _Done(None, "", changed=False)  # the control answers it itself

    async def _job(self, name: str) -> Job:
        """The job, not in the moment between its last request and its resting state: what is told then gets lost."""
        job = self.find(name)
        run = self._running(job)
        if run is not None and run.ending:
            await run.over.wait()
        return job

    def find(self, name: str) -> Job:
        """By its id or a unique beginning of it. Raises JobNotFound with the nearest names."""
        jobs = self._runner.jobs
        if name in jobs:
            return jobs[name]
        matching = [job for known, job in jobs.items() if name and known.startswith(name)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            names = ", ".join(sorted(job.id for job in matching)[:5])
            raise JobNotFound(f"{name!r} may be several jobs: {names}", advice="Type more of it.")
        near = difflib.get_close_matches(name, jobs, n=3, cutoff=0.4)
        known = f"Did you mean {' or '.join(near)}?" if near else "`gptoss-tui status` lists the jobs."
        raise JobNotFound(f"no job {name!r} in {self._runner.workspace.root}", advice=known)

    async def _changed(self, job: Job) -> None:
        await self._runner.save(job)
        self._runner.publish(job)
        self._runner.wake()

    # --- jobs ---------------------------------------------------------------------------------------------------------

    async def _submit(self, command: protocol.Submit) -> _Done:
        runner = self._runner
        path = await asyncio.to_thread(_readable, runner.workspace.root, command.path)
        order = 1 + max((j.record.order for j in runner.jobs.values()), default=0)
        record = await asyncio.to_thread(
            jobs_disk.create, runner.workspace, path, command.settings, order=order, now=time.time()
        )
        job = runner.jobs[record.job] = Job(record)
        runner.publish(job)
        runner.wake()
        ahead = sum(
            1 for j in runner.jobs.values() if j is not job and (j.state == JobState.QUEUED or j.state in ACTIVE)
        )
        return _Done(job, f"{job.id} is queued" + (f", {ahead} ahead of it" if ahead else ""))

    async def _pause(self, job: Job, *, now: bool) -> _Done:
        run = self._running(job)
        if run is not None:
            if job.state == JobState.PAUSED and not run.halted:
                return _Done(job, f"{job.id} is paused already", changed=False)
            again = run.wish is not None and run.wish.state == JobState.PAUSED and (run.wish.hard or not now)
            run.ask(Wish(JobState.PAUSED, "paused by a person; resume goes on", hard=now))
            in_flight = len(run.running())
            if again:
                return _Done(job, f"{job.id} is being paused already", changed=False)
            if now or not in_flight:
                return _Done(job, f"{job.id} pauses now")
            job.update(sentence="pauses when its running requests are through")
            left = "its running request is" if in_flight == 1 else f"its {in_flight} running requests are"
            return _Done(job, f"{job.id} pauses when {left} through")
        if job.state == JobState.PAUSED:
            return _Done(job, f"{job.id} is paused already", changed=False)
        if job.state in ENDED:
            raise CommandRefused(f"{job.id} is {job.state}: nothing of it runs or waits for its turn")
        job.move(JobState.PAUSED, "paused by a person; resume goes on")
        await self._changed(job)
        return _Done(job, f"{job.id} is paused")

    async def _resume(self, job: Job, command: protocol.Resume) -> _Done:
        run = self._running(job)
        if run is not None:
            if command.settings is not None:
                raise CommandRefused(
                    f"{job.id} is {job.state}: its settings can't change now", advice="Pause it first."
                )
            if run.halted:
                run.retry_disk()
                return _Done(job, f"{job.id} tries the disk again")
            if run.wish is not None and not run.wish.hard:
                run.ask(None)
                job.update(sentence="")
                return _Done(job, f"{job.id} goes on: the pause is taken back")
            if run.wish is not None:
                raise CommandRefused(f"{job.id} is being ended", advice="Resume it in a moment.")
            return _Done(job, f"{job.id} is {job.state} already", changed=False)
        if job.state == JobState.QUEUED and command.settings is None and not command.force:
            return _Done(job, f"{job.id} is queued already", changed=False)
        settings = runplan.overlay(job.record.settings, command.settings)
        found = await self._differences(job, settings)
        if found and not command.force:
            raise FingerprintChanged(
                f"resuming {job.id} would mix answers of different settings: {'; '.join(found)}",
                advice="`gptoss-tui resume --force` goes on and notes it; `gptoss-tui run` starts a run of its own.",
            )
        was = job.state
        if was not in RESUMABLE and was not in {JobState.QUEUED, JobState.DONE}:  # somebody else was quicker
            return _Done(job, f"{job.id} is {was} already", changed=False)
        # An earlier consent that no engine has run under yet still holds, but only for what it was given for.
        force = command.force or (job.record.force and command.settings is None)
        job.update(settings=settings, force=force)
        if was != JobState.QUEUED:
            job.move(JobState.QUEUED, "waits for its turn")
        await self._changed(job)
        queued = "still queued" if was == JobState.QUEUED else "queued again"
        return _Done(job, f"{job.id} is {queued}" + (f", mixing: {'; '.join(found)}" if found else ""))

    async def _differences(self, job: Job, settings: RunSettings) -> list[str]:
        record = job.record
        if record.fingerprint is None or not (record.counts.succeeded or record.counts.failed or record.engine.date):
            return []
        model = await asyncio.to_thread(self._runner.resolve_model, settings.model)
        engine = runplan.engine_settings(settings, model, date=record.engine.date, sequences=_MANY)
        return runplan.differences(record.fingerprint, runplan.fingerprint(settings, model, engine))

    async def _abort(self, job: Job) -> _Done:
        run = self._running(job)
        sentence = "aborted by a person; what is done stays, resume goes on"
        if run is not None:
            again = run.wish is not None and run.wish.state == JobState.ABORTED
            run.ask(Wish(JobState.ABORTED, sentence, hard=True))
            return _Done(job, f"{job.id} is being aborted", changed=not again)
        if job.state == JobState.ABORTED:
            return _Done(job, f"{job.id} is aborted already", changed=False)
        if job.state == JobState.DONE:
            raise CommandRefused(f"{job.id} is done: nothing is left to abort")
        job.move(JobState.ABORTED, sentence)
        await self._changed(job)
        return _Done(job, f"{job.id} is aborted")

    async def _retry(self, job: Job) -> _Done:
        run = self._running(job)
        if run is not None:
            n = run.retry_failed()
            await self._runner.save(job)
            if not n:
                return _Done(job, f"{job.id} has no failed requests", changed=False)
            return _Done(job, f"{_count(n, 'failed request')} of {job.id} will run again")
        counts = job.record.counts
        n = counts.failed - counts.invalid
        if job.state == JobState.QUEUED:
            job.update(retry_failed=True)
        elif n <= 0 and job.state != JobState.INTERRUPTED:  # after a crash, counts may lag behind the files
            why = f" ({counts.invalid} bad lines stay bad)" if counts.invalid else ""
            rest = f"; `gptoss-tui resume {job.id}` runs the rest" if job.state in RESUMABLE else ""
            return _Done(job, f"{job.id} has no failed requests to run again{why}{rest}", changed=False)
        else:
            job.update(retry_failed=True)
            job.move(JobState.QUEUED, "waits for its turn to run failed requests again")
        await self._changed(job)
        return _Done(job, f"{job.id} is queued: {_count(max(0, n), 'failed request')} will run again")

    async def _move(self, job: Job, by: int) -> _Done:
        queued = sorted(
            (j for j in self._runner.jobs.values() if j.state == JobState.QUEUED),
            key=lambda j: (j.record.order, j.record.created),
        )
        if job not in queued:
            raise CommandRefused(f"{job.id} is {job.state}: only queued jobs have a place", advice="")
        orders = [j.record.order for j in queued]
        at = queued.index(job)
        to = min(max(0, at + by), len(queued) - 1)
        queued.insert(to, queued.pop(at))
        for other, order in zip(queued, orders, strict=True):
            if other.record.order != order:
                other.update(order=order)
                await self._changed(other)
        return _Done(job, f"{job.id} is number {to + 1} of {len(queued)} in the queue", changed=to != at)

    async def _remove(self, job: Job) -> _Done:
        if self._running(job) is not None or job.state in ACTIVE:
            raise CommandRefused(f"{job.id} is {job.state}", advice="Pause or abort it first.")
        job.update(removed=True)
        del self._runner.jobs[job.id]
        await self._runner.save(job)
        self._runner.control.publish(protocol.JobRemoved(seq=0, job=job.id))
        self._runner.incidents.forget(job.id)
        return _Done(job, f"{job.id} is off the list; its files stay in results/{job.id}")

    # --- single requests ----------------------------------------------------------------------------------------------

    async def _abort_request(self, job: Job, custom_id: str) -> _Done:
        run = self._running(job)
        if run is not None:
            before = custom_id in job.record.aborted
            sentence = run.take_out(custom_id)
            await self._runner.save(job)
            return _Done(job, sentence, changed=not before)
        if job.state == JobState.DONE:
            raise CommandRefused(f"{job.id} is done: no request is left to abort")
        if custom_id in job.record.aborted:
            return _Done(job, f"{custom_id} was taken out before", changed=False)
        place = await asyncio.to_thread(_place_of, self._runner.workspace.run_folder(job.id), job, custom_id)
        if self._running(job) is not None:
            return await self._abort_request(job, custom_id)
        if place is not None:
            raise CommandRefused(f"{custom_id} has {place} already", advice="Its line stays.")
        counts = job.record.counts
        job.update(aborted=[*job.record.aborted, custom_id])
        if counts.waiting:
            moved = msgspec.structs.replace(counts, waiting=counts.waiting - 1, aborted=counts.aborted + 1)
            job.update(counts=moved)
        await self._changed(job)
        return _Done(job, taken_out(job.id, custom_id))

    async def _put_back(self, job: Job, custom_id: str | None) -> _Done:
        run = self._running(job)
        if run is not None:
            n = run.put_back(custom_id)
            await self._runner.save(job)
            return _Done(job, f"{_count(n, 'aborted request')} of {job.id} will run", changed=n > 0)
        names = job.record.aborted
        if custom_id is not None and custom_id not in names:
            raise CommandRefused(f"{custom_id} is not taken out of {job.id}")
        back = [name for name in names if custom_id is None or name == custom_id]
        if not back:
            return _Done(job, f"{job.id} has no aborted requests", changed=False)
        counts = job.record.counts
        n = min(len(back), counts.aborted)
        job.update(
            aborted=[name for name in names if name not in set(back)],
            counts=msgspec.structs.replace(counts, waiting=counts.waiting + n, aborted=counts.aborted - n),
        )
        if job.state == JobState.DONE:
            job.move(JobState.QUEUED, "waits for its turn to run what was put back")
        await self._changed(job)
        return _Done(job, f"{_count(len(back), 'aborted request')} of {job.id} will run")

    def _running(self, job: Job) -> JobRun | None:
        run = self._runner.current
        return run if run is not None and run.job is job else None


def _count(n: int, what: str) -> str:
    """`1 failed request`, `3 failed requests`."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def _readable(root: Path, name: str) -> Path:
    """In a thread: the batch file, absolute. Raises BatchInvalid."""
    path = root / Path(name).expanduser()
    if not path.exists():
        raise BatchInvalid(f"no file {path}", advice="Look at the path; nothing was queued.")
    if not path.is_file():
        raise BatchInvalid(f"{path} is no file", advice="Name a batch file; nothing was queued.")
    if not os.access(path, os.R_OK):
        raise BatchInvalid(f"{path} can't be read", advice="Look at its permissions; nothing was queued.")
    return path


def _place_of(folder: Path, job: Job, custom_id: str) -> str | None:
    """In a thread: what a request of a resting job came to, None if it waits. Raises CommandRefused if unknown.

    Reads the files without their lock and mends nothing.
    """
    from engine import batch
    from engine.folder import ERRORS, OUTPUT
    from engine.recover import read_line

    index = batch.scan(Path(job.record.input_path), limit=job.record.settings.limit).index
    i = index.find(custom_id)
    if i is None:
        raise CommandRefused(f"job {job.id} has no request with custom_id {custom_id!r}")
    wanted = index.request_id(i)
    needle = msgspec.json.encode(custom_id)
    for name, place in ((OUTPUT, "succeeded"), (ERRORS, "failed")):
        path = folder / name
        if not path.exists():
            continue
        with path.open("rb") as file:
            for line in file:
                if needle not in line:
                    continue
                try:
                    done = read_line(line.rstrip(b"\n"))
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue  # a damaged or torn line: the job's next start deals with it
                if done.custom_id == custom_id and done.request_id == wanted:
                    return place
    return None
