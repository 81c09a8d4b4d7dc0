"""Following jobs to their rest: one live line on a terminal, plain lines in a pipe, JSON objects for programs.

JSON (`--json`), one object a line on stdout, each with `event`:

    submitted     job, path
    state         job, state, sentence
    progress      job, state, total, succeeded, failed, running, waiting, aborted, reused, invalid, truncated, retried,
                  prompt_tokens, completion_tokens, decode_rate, prefill_rate, eta_s, eta_low_s, eta_high_s, fraction
    acknowledged  job, custom_id, request_id, ok, finish, completion_tokens    (its line is fsynced; never sent before)
    engine        state, pid, model, device, slots, context, warnings
    reading       t, devices, runner_rss, worker_rss, note
    incident      t, job, kind, message, action, level
    text          job, key, channel, choice, text
    resync        jobs        (this reader was too slow: ids acknowledged meanwhile are in the files, not in events)
    removed       job
    detached      jobs
    lost          jobs        (the runner is gone)
    summary       as progress, with state, sentence, failure, exit_code, active_s, wall_s, results
    error         code, message, advice, exit_code

Rates are tokens a second over the last 10 s, times are seconds, sizes bytes. Fields may be added.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from engine.client import Client, reconnect
from engine.errors import BatchInvalid, ExitCode, GptossError, RunnerUnreachable, exit_code_of_failure
from engine.job import ACTIVE, ENDED, JobState
from engine.protocol import (
    Acknowledged,
    EngineChanged,
    Event,
    Incident,
    JobChanged,
    JobRemoved,
    JobView,
    Sampled,
    Snapshot,
    Text,
)
from engine.workspace import Workspace
from tui import plain, report
from tui.console import Console
from tui.state import Mirror
from tui.text import one_line

TICK_S = 0.25
PLAIN_S = 5.0
LOST_S = 3.0
"""How long a lost runner is looked for: somebody else may be starting it again."""

DETACHED = 130

TOLD_OTHERWISE = ("state", "command")
"""Kinds of incident that are for the log of a screen: here a change of state is an event of its own."""


class Show(Protocol):
    """One way to draw."""

    def event(self, mirror: Mirror, event: Event | Snapshot) -> None: ...
    def tick(self, mirror: Mirror, jobs: list[str]) -> None: ...
    def rested(self, job: JobView) -> None: ...


# --- the end of a job -------------------------------------------------------------------------------------------------


def exit_code_of(job: JobView) -> ExitCode:
    """What the shell is told about a job at rest."""
    match job.state:
        case JobState.DONE if job.counts.failed:
            return ExitCode.SOME_FAILED
        case JobState.DONE:
            return ExitCode.RESUMABLE if job.counts.aborted else ExitCode.OK
        case JobState.FAILED:
            return exit_code_of_failure(job.failure)
        case _:
            return ExitCode.RESUMABLE


def worst(codes: list[ExitCode]) -> ExitCode:
    """One code for several jobs: what needs a person first."""
    order = (ExitCode.FAILED, ExitCode.USAGE, ExitCode.RESUMABLE, ExitCode.SOME_FAILED, ExitCode.OK)
    return min(codes, key=order.index, default=ExitCode.OK)


def end_lines(job: JobView, folder: Path, *, verdict: str = "") -> Iterator[str]:
    """The summary of a job at rest, with reasons, places and what to do next. `verdict`: of its answers."""
    bad, codes = report.problems(folder) if job.failure == BatchInvalid.__name__ else ([], {})
    if bad:
        n = sum(codes.values())
        lines = "line does" if n == 1 else "lines do"
        yield f"{one_line(job.input_path)}: {plain.count(n)} {lines} not hold; nothing was run"
        yield from (f"  {line}" for line in bad)
        if n > len(bad):
            yield f"  ... and {plain.count(n - len(bad))} more"
        yield f"  by kind: {report.code_counts(codes)}"
        yield f"  all of them: gptoss-tui validate {one_line(report.shown_path(Path(job.input_path)))}"
        yield "  run the good lines all the same: --skip-invalid"
        return
    yield from plain.summary(job)
    if verdict:
        yield verdict
    if job.counts.failed:
        yield from map(report.failure_line, report.failures(folder))
        shown = one_line(report.shown_path(folder / "errors.jsonl"))
        yield f"    all failures: {shown}"
    if job.counts.succeeded:
        yield f"  answers: {one_line(report.shown_path(folder / 'output.jsonl'))}"
    yield from (f"  next: {line}" for line in next_steps(job))


def next_steps(job: JobView) -> list[str]:
    name = one_line(job.id)
    steps = []
    if job.state == JobState.DONE:
        if job.counts.failed - job.counts.invalid > 0:
            steps.append(f"gptoss-tui retry {name} runs the failed requests again")
        if job.counts.aborted:
            steps.append(f"gptoss-tui restore {name} puts the aborted requests back")
        if job.counts.succeeded:
            steps.append(f"gptoss-tui export {name} writes the results in the order of the input")
    elif job.state == JobState.FAILED:
        steps.append(f"when that is mended, gptoss-tui resume {name} goes on; what is done stays")
        if exit_code_of_failure(job.failure) == ExitCode.USAGE:
            steps.append("with other options: gptoss-tui run makes a new job of the file")
    else:
        steps.append(f"gptoss-tui resume {name} goes on; what is done stays")
    return steps


# --- three ways to draw -----------------------------------------------------------------------------------------------


class _Answers:
    """Prints answers of a job as their lines reach the disk."""

    def __init__(self, job: JobView, folder: Path) -> None:
        self._lines = report.Lines(folder / "output.jsonl")
        self._expected = report.expected_beside(Path(job.input_path))
        self._right = 0
        self._checked = 0

    def new(self) -> Iterator[str]:
        for line in self._lines.new():
            answer = report.answer_of(line)
            if answer is None:
                continue
            expected = self._expected.get(answer.custom_id)
            if expected is not None:
                self._checked += 1
                self._right += expected.holds(answer)
            yield from report.answer_lines(answer, expected)

    def verdict(self) -> str:
        return f"  {self._right}/{self._checked} answers are right" if self._checked else ""


class People:
    """Lines for people: a live line on a terminal, changes and a line every few seconds in a pipe."""

    def __init__(self, console: Console, workspace: Workspace, jobs: list[str], *, show_answers: bool = False) -> None:
        self._console = console
        self._workspace = workspace
        self._jobs = jobs
        self._states: dict[str, tuple[JobState, str]] = {}
        self._said: set[str] = set()
        self._answers: dict[str, _Answers] | None = {} if show_answers else None
        self._next_line = time.monotonic() + PLAIN_S

    def event(self, mirror: Mirror, event: Event | Snapshot) -> None:
        match event:
            case JobChanged(job=job) if job.id in self._jobs:
                self._changed(job)
            case Snapshot():
                for name in self._jobs:
                    if name in mirror.jobs:
                        self._changed(mirror.jobs[name])
            case Incident(incident=incident) if incident.job in self._jobs and incident.kind not in TOLD_OTHERWISE:
                if incident.kind == "engine_warning":
                    self._warn(incident.message)
                else:
                    self._console.say(plain.incident_line(incident))
            case Acknowledged(job=name) if name in self._jobs and name in mirror.jobs:
                self._tell_answers(mirror.jobs[name])
            case _:
                pass
        info = mirror.engine.info
        if info is not None:
            for warning in info.warnings:
                self._warn(warning)

    def _warn(self, warning: str) -> None:
        """Each once: a GPU that the library can't use comes with every load."""
        if warning not in self._said:
            self._said.add(warning)
            self._console.say(f"warning: {one_line(warning)}")

    def _changed(self, job: JobView) -> None:
        known = self._states.get(job.id)
        now = (job.state, job.sentence)
        if known == now:
            return
        self._states[job.id] = now
        if job.state not in ENDED and (not self._console.is_terminal or job.restarts):
            self._console.say(plain.state_line(job))

    def _tell_answers(self, job: JobView) -> None:
        if self._answers is None:
            return
        if job.id not in self._answers:
            self._answers[job.id] = _Answers(job, self._workspace.run_folder(job.id))
        for line in self._answers[job.id].new():
            self._console.say(line)

    def tick(self, mirror: Mirror, jobs: list[str]) -> None:
        known = [mirror.jobs[name] for name in jobs if name in mirror.jobs]
        job = next((j for j in known if j.state in ACTIVE), known[0] if known else None)
        if job is None:
            return
        place = f"[{self._jobs.index(job.id) + 1}/{len(self._jobs)}] " if len(self._jobs) > 1 else ""
        if self._console.is_terminal:
            width = (self._console.width or 80) - 1
            self._console.live(plain.progress_line(job, mirror.reading, width, place=place))
        elif job.state in ACTIVE and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + PLAIN_S
            self._console.say(plain.progress_line(job, mirror.reading, None, place=place))

    def rested(self, job: JobView) -> None:
        self._tell_answers(job)
        verdict = self._answers[job.id].verdict() if self._answers is not None else ""
        for line in end_lines(job, self._workspace.run_folder(job.id), verdict=verdict):
            self._console.say(line)


class Machine:
    """JSON objects; see the module's docstring."""

    def __init__(self, console: Console, workspace: Workspace, jobs: list[str]) -> None:
        self._console = console
        self._workspace = workspace
        self._jobs = jobs
        self._states: dict[str, tuple[JobState, str]] = {}
        self._begun = time.monotonic()

    def event(self, mirror: Mirror, event: Event | Snapshot) -> None:
        put = self._console.data
        match event:
            case JobChanged(job=job) if job.id in self._jobs:
                self._changed(job)
                put(progress_object("progress", job))
            case Snapshot():
                put({"event": "resync", "jobs": [name for name in self._jobs if name in mirror.jobs]})
                for name in self._jobs:
                    if name in mirror.jobs:
                        self._changed(mirror.jobs[name])
            case Acknowledged(job=name, items=items) if name in self._jobs:
                for item in items:
                    put({"event": "acknowledged", "job": name, **full(item)})
            case Incident(incident=incident) if incident.job in self._jobs and incident.kind not in TOLD_OTHERWISE:
                put({"event": "incident", **full(incident)})
            case EngineChanged(engine=engine):
                info = engine.info
                put(
                    {
                        "event": "engine",
                        "state": engine.state,
                        "pid": engine.pid,
                        "model": info.name if info else None,
                        "device": info.device if info else None,
                        "slots": info.slots if info else None,
                        "context": info.context if info else None,
                        "warnings": info.warnings if info else [],
                    }
                )
            case Sampled(reading=reading):
                put({"event": "reading", **full(reading)})
            case Text(job=name, items=deltas) if name in self._jobs:
                for delta in deltas:
                    put({"event": "text", "job": name, **full(delta)})
            case JobRemoved(job=name) if name in self._jobs:
                put({"event": "removed", "job": name})
            case _:
                pass

    def _changed(self, job: JobView) -> None:
        now = (job.state, job.sentence)
        if self._states.get(job.id) != now:
            self._states[job.id] = now
            self._console.data({"event": "state", "job": job.id, "state": job.state.value, "sentence": job.sentence})

    def tick(self, mirror: Mirror, jobs: list[str]) -> None:
        """Events carry everything."""

    def rested(self, job: JobView) -> None:
        self._changed(job)
        folder = self._workspace.run_folder(job.id)
        self._console.data(
            {
                **progress_object("summary", job),
                "sentence": job.sentence,
                "failure": job.failure,
                "exit_code": int(exit_code_of(job)),
                "active_s": round(job.active_s, 3),
                "wall_s": round(time.monotonic() - self._begun, 3),
                "results": str(folder),
            }
        )


def full(value: msgspec.Struct) -> dict[str, Any]:
    """All fields, defaults too, also of what is inside: a program should not have to know them."""
    return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}


def _plain(value: object) -> Any:
    if isinstance(value, msgspec.Struct):
        return full(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return msgspec.to_builtins(value)


def progress_object(event: str, job: JobView) -> dict[str, Any]:
    return {
        "event": event,
        "job": job.id,
        "state": job.state.value,
        **full(job.counts),
        "prompt_tokens": job.prompt_tokens,
        "completion_tokens": job.completion_tokens,
        "decode_rate": round(job.decode_rate, 2),
        "prefill_rate": round(job.prefill_rate, 2),
        "eta_s": job.eta.s,
        "eta_low_s": job.eta.low_s,
        "eta_high_s": job.eta.high_s,
        "fraction": job.load_fraction,
        "restarts": job.restarts,
    }


# --- following --------------------------------------------------------------------------------------------------------


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """How following ended: the jobs at rest, and those left while they run (`interrupted` or the runner lost)."""

    rested: dict[str, JobView]
    left: list[str]
    interrupted: bool = False
    lost: str = ""


async def follow(client: Client, workspace: Workspace, jobs: list[str], show: Show, mirror: Mirror) -> Followed:
    """Draw until all `jobs` rest, the runner is lost, or Ctrl-C. Closes `client`."""
    following = _Following(client, workspace, jobs, show, mirror)
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, interrupted.set)
    pump = asyncio.create_task(following.pump())
    ticker = asyncio.create_task(following.tick())
    waiting = asyncio.create_task(interrupted.wait())
    try:
        await asyncio.wait({pump, ticker, waiting}, return_when=asyncio.FIRST_COMPLETED)
        for task in (pump, ticker):
            if task.done():
                task.result()
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        for task in (pump, ticker, waiting):
            task.cancel()
        await asyncio.gather(pump, ticker, waiting, return_exceptions=True)
        await following.client.close()
    return Followed(
        rested=following.rested,
        left=following.left,
        interrupted=interrupted.is_set() and bool(following.left),
        lost=following.lost,
    )


class _Following:
    def __init__(self, client: Client, workspace: Workspace, jobs: list[str], show: Show, mirror: Mirror) -> None:
        self.client = client
        self._workspace = workspace
        self._show = show
        self._mirror = mirror
        self.left = list(jobs)
        self.rested: dict[str, JobView] = {}
        self.lost = ""

    async def pump(self) -> None:
        self._settle()
        while self.left:
            async for event in self.client.events():
                gone = self._mirror.jobs.get(event.job) if isinstance(event, JobRemoved) else None
                self._mirror.take(event)
                self._show.event(self._mirror, event)
                if gone is not None and gone.id in self.left:
                    self._rest(gone)
                self._settle()
                if not self.left:
                    return
            self.lost = self.client.goodbye
            await self.client.close()
            try:
                self.client = await reconnect(self._workspace, patience_s=LOST_S)
            except GptossError as error:
                self.lost = self.lost or str(error)
                return
            self.lost = ""
            self._mirror.take(self.client.snapshot)
            self._show.event(self._mirror, self.client.snapshot)
            self._settle()

    def _settle(self) -> None:
        for name in list(self.left):
            job = self._mirror.jobs.get(name)
            if job is not None and job.state in ENDED:
                self._rest(job)

    def _rest(self, job: JobView) -> None:
        self.left.remove(job.id)
        self.rested[job.id] = job
        self._show.rested(job)

    async def tick(self) -> None:
        while True:
            self._show.tick(self._mirror, self.left)
            await asyncio.sleep(TICK_S)


def lost_error(jobs: list[str], why: str) -> RunnerUnreachable:
    names = " ".join(one_line(name) for name in jobs)
    error = RunnerUnreachable(
        f"the runner is gone ({why or 'the connection broke'}); {names} is not finished, and every answer that was "
        "counted is on disk",
        advice=f"`gptoss-tui resume {one_line(jobs[0])}` goes on.",
    )
    error.exit_code = ExitCode.RESUMABLE
    return error


@contextlib.contextmanager
def closing(console: Console) -> Iterator[Console]:
    """Leave the terminal's line clean, whatever happens."""
    try:
        yield console
    finally:
        console.close()
