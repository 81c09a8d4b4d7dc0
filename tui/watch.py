"""`gptoss-tui --plain`: what the screen shows, as lines. A summary first, then only what changes.

For pipes, logs and screen readers: one fact a line, times in words, nothing is ever rewritten.
`Lines` is pure: it makes lines of the mirror and the events. `watch` reads the runner and prints them.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator, Sequence

import msgspec

from engine import client as clients
from engine.client import Client, reconnect
from engine.errors import ExitCode, GptossError, RunnerUnreachable
from engine.job import ACTIVE, ENDED, JobState
from engine.protocol import (
    AckItem,
    Acknowledged,
    DeviceReading,
    EngineView,
    Event,
    Incident,
    IncidentView,
    JobChanged,
    JobRemoved,
    JobView,
    Reading,
    Sampled,
    Snapshot,
    Submit,
    Welcome,
)
from engine.workspace import Workspace
from tui import meanwhile, plain, progress
from tui.console import Console
from tui.state import Mirror
from tui.text import SafeText, one_line

PROGRESS_S = 5.0
NAMED = 3
"""Of many saved requests so many are named."""

PEAK_STEP = 0.02
"""A new peak is news from this share of the memory on: readings tremble."""

CALM_SHARE = 1.1
"""Memory is called better again only this much above a threshold, so that a reading near it does not chatter."""


_WORSE = ("", "ok", "warn", "critical")


def device_words(device: DeviceReading) -> SafeText:
    """`GPU 0 RTX 4080`; RAM needs no name."""
    return SafeText(f"GPU {device.index} {one_line(device.name)}") if device.kind == "gpu" else SafeText("RAM")


def memory_line(device: DeviceReading) -> SafeText:
    """One device: how much, who holds it, how much is left and since when the most was held."""
    if not device.total:
        return SafeText(f"{device_words(device)}: memory N/A")
    state = plain.memory_state(device)
    text = (
        f"{device_words(device)}: {plain.size(device.used)} of {plain.size(device.total)} used, "
        f"{plain.size(device.free)} free{', ' if state else ''}{state}"
    )
    owners = [
        f"{one_line(name)} {'~' if name in device.estimated else ''}{plain.size(held)}"
        for name, held in device.owners.items()
        if held
    ]
    if owners:
        text += f"; {', '.join(owners)}"
    if device.peak_used:
        text += f"; most so far {plain.size(device.peak_used)}"
        if device.peak_t:
            text += f" at {time.strftime('%H:%M:%S', time.localtime(device.peak_t))}"
    return SafeText(text)


class _Told(msgspec.Struct):
    """What has been said of a device."""

    state: str
    peak: int


class Lines:
    """What is new, as lines. Times are monotonic seconds and come in."""

    def __init__(self) -> None:
        self._states: dict[str, tuple[JobState, str, int]] = {}
        self._progress: dict[str, str] = {}
        self._saved: dict[str, list[AckItem]] = {}
        self._devices: dict[tuple[str, int], _Told] = {}
        self._engine = ""
        self._warned: set[str] = set()
        self._incidents: set[IncidentView] = set()
        self._due = 0.0

    # --- the whole ----------------------------------------------------------------------------------------------------

    def opening(self, mirror: Mirror, welcome: Welcome | None, *, now: float, wall: float) -> Iterator[str]:
        """How things stand."""
        self._due = now + PROGRESS_S
        if welcome is None:
            yield "no runner is alive here"
        else:
            yield f"runner {welcome.pid}, up {plain.duration(wall - welcome.started)}"
            yield from self._engine_lines(mirror.engine)
        yield from self._memory_lines(mirror.reading, first=True)
        if not mirror.jobs:
            yield "no jobs"
        for job in mirror.queue:
            self._states[job.id] = _state(job)
            yield plain.state_line(job) if job.state in ENDED else self._progress_of(mirror, job)
        # What is old is on the list already; it is not news to whoever looks now.
        self._incidents.update(i for i in mirror.incidents)
        if bad := [i for i in mirror.incidents if i.level == "error"]:
            yield f"{plain.several(len(bad), 'fault')} before, the last: {plain.incident_line(bad[-1])}"

    def again(self, before: dict[str, JobView], mirror: Mirror) -> Iterator[str]:
        """After a gap: what changed meanwhile."""
        for job in mirror.queue:
            if (sentence := meanwhile.change(before.get(job.id), job)) is not None:
                yield sentence
            self._states[job.id] = _state(job)
        for name in before:
            if name not in mirror.jobs:
                yield f"{one_line(name)}: taken off the list"
        yield from self._engine_lines(mirror.engine)
        yield from self._memory_lines(mirror.reading)
        for incident in mirror.incidents:
            yield from self._incident(incident)

    # --- one event ----------------------------------------------------------------------------------------------------

    def event(self, mirror: Mirror, event: Event) -> Iterator[str]:
        """`mirror` has taken it already."""
        match event:
            case JobChanged(job=job):
                yield from self._job(mirror, job)
            case JobRemoved(job=name):
                self._states.pop(name, None)
                yield f"{one_line(name)}: taken off the list"
            case Sampled(reading=reading):
                yield from self._memory_lines(reading)
            case Incident(incident=incident):
                yield from self._incident(incident)
            case Acknowledged(job=name, items=items):
                self._saved.setdefault(name, []).extend(items)
            case _:
                yield from self._engine_lines(mirror.engine)

    def tick(self, mirror: Mirror, now: float) -> Iterator[str]:
        """Progress of what runs, every few seconds and only where there is any."""
        if now < self._due:
            return
        self._due = now + PROGRESS_S
        for job in mirror.queue:
            yield from self._saved_lines(job.id)
            if job.state in ACTIVE:
                line = self._progress_of(mirror, job)
                if self._progress.get(job.id) != line:
                    self._progress[job.id] = line
                    yield line

    # --- parts --------------------------------------------------------------------------------------------------------

    def _job(self, mirror: Mirror, job: JobView) -> Iterator[str]:
        known = self._states.get(job.id)
        now = _state(job)
        if known == now:
            return
        self._states[job.id] = now
        if known is None:
            yield f"{one_line(job.id)}: new, from {one_line(job.input_path)}"
        if known is None or known[:2] != now[:2]:
            yield plain.state_line(job)
        if known is not None and job.restarts > known[2]:
            yield f"{one_line(job.id)}: the engine was restarted, {plain.several(job.restarts, 'time')} so far"
        if job.state in ENDED:
            yield from self._saved_lines(job.id)
            yield from list(plain.summary(job))[1:]
            yield from (f"next: {step}" for step in progress.next_steps(job))
        elif known is None or known[0] != job.state:
            self._progress[job.id] = line = self._progress_of(mirror, job)
            if job.counts.total:
                yield line

    @staticmethod
    def _progress_of(mirror: Mirror, job: JobView) -> str:
        line = plain.progress_line(job, mirror.reading if job.state in ACTIVE else None, None)
        stats = mirror.engine.stats
        if job.state == JobState.RUNNING and stats.slots:
            line = SafeText(f"{line}  {stats.running} of {stats.slots} slots busy")
        return line

    def _saved_lines(self, job: str) -> Iterator[str]:
        items = self._saved.pop(job, [])
        for ok, what in ((True, "saved"), (False, "failed")):
            if names := [one_line(item.custom_id) for item in items if item.ok is ok]:
                text = ", ".join(names[:NAMED])
                if len(names) > NAMED:
                    text += f" and {plain.count(len(names) - NAMED)} more"
                yield f"{one_line(job)}: {what} {text}"

    def _engine_lines(self, engine: EngineView) -> Iterator[str]:
        info = engine.info
        where = f" ({one_line(info.name)} on {one_line(info.device or 'an unknown device')}" if info else ""
        if info and where:
            where += f", {plain.several(info.slots, 'slot')} of {plain.count(info.context)} tokens)"
        words = f"engine: {one_line(engine.state)}{where}"
        if words != self._engine:
            self._engine = words
            yield words
        for warning in info.warnings if info else ():
            if warning not in self._warned:
                self._warned.add(warning)
                yield f"warning: {one_line(warning)}"

    def _memory_lines(self, reading: Reading | None, *, first: bool = False) -> Iterator[str]:
        if reading is None:
            if first:
                yield "memory: N/A yet"
            return
        if first and reading.note:
            yield f"memory: {one_line(reading.note)}"
        for device in reading.devices:
            told = self._devices.get((device.kind, device.index))
            state = plain.memory_state(device)
            if told is None:
                self._devices[device.kind, device.index] = _Told(state, device.peak_used)
                yield memory_line(device)
            elif _WORSE.index(state) > _WORSE.index(told.state) or (state != told.state and _is_calm(device, told)):
                self._devices[device.kind, device.index] = _Told(state, device.peak_used)
                yield f"memory now {state}: {memory_line(device)}"
            elif device.peak_used > told.peak + PEAK_STEP * device.total:
                told.peak = device.peak_used
                yield f"new peak: {memory_line(device)}"

    def _incident(self, incident: IncidentView) -> Iterator[str]:
        if incident in self._incidents:
            return
        if len(self._incidents) >= 10_000:  # far more than a snapshot repeats
            self._incidents.clear()
        self._incidents.add(incident)
        if incident.kind == "state":  # told as the job's own line
            return
        if incident.kind == "engine_warning":
            if incident.message not in self._warned:
                self._warned.add(incident.message)
                yield f"warning: {one_line(incident.message)}"
            return
        yield plain.incident_line(incident)


def _state(job: JobView) -> tuple[JobState, str, int]:
    return job.state, job.sentence, job.restarts


def _is_calm(device: DeviceReading, told: _Told) -> bool:
    threshold = device.critical_free if told.state == "critical" else device.warn_free
    return device.free >= threshold * CALM_SHARE


# --- watching ---------------------------------------------------------------------------------------------------------


async def watch(workspace: Workspace, console: Console, *, add: Sequence[Submit] = (), readonly: bool = False) -> int:
    """Print until Ctrl-C (the run goes on) or the runner leaves. Returns the exit code."""
    try:
        client = await clients.connect(workspace, start=not readonly)
    except RunnerUnreachable:
        if not readonly:
            raise
        mirror = Mirror(Snapshot(seq=0, jobs=clients.jobs_on_disk(workspace)))
        for line in Lines().opening(mirror, None, now=0.0, wall=0.0):
            console.say(line)
        return ExitCode.OK
    watching = _Watching(workspace, console, client)
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, interrupted.set)
    tasks = [
        asyncio.create_task(watching.pump(add)),
        asyncio.create_task(watching.tick()),
        asyncio.create_task(interrupted.wait()),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await watching.client.close()
    active = [job.id for job in watching.mirror.queue if job.state in ACTIVE]
    if interrupted.is_set():
        if not active:
            return ExitCode.OK
        names = " ".join(map(one_line, active))
        console.note(f"left {names} running; `gptoss-tui` shows it again, `gptoss-tui pause` pauses it")
        return progress.DETACHED
    if active:
        raise progress.lost_error(active, watching.client.goodbye)
    console.say(f"the runner has left ({one_line(watching.client.goodbye) or 'the connection ended'})")
    return ExitCode.OK


class _Watching:
    def __init__(self, workspace: Workspace, console: Console, client: Client) -> None:
        self.client = client
        self.mirror = Mirror(client.snapshot)
        self._workspace = workspace
        self._console = console
        self._lines = Lines()

    def _say(self, lines: Iterator[str]) -> None:
        for line in lines:
            self._console.say(line)

    async def pump(self, add: Sequence[Submit]) -> None:
        """Until the runner is gone for good."""
        lines, mirror = self._lines, self.mirror
        self._say(lines.opening(mirror, self.client.welcome, now=time.monotonic(), wall=time.time()))
        for submit in add:
            await self.client.command(submit)
        while True:
            async for event in self.client.events():
                if isinstance(event, Snapshot):  # this reader was too slow
                    before = dict(mirror.jobs)
                    mirror.take(event)
                    self._say(lines.again(before, mirror))
                else:
                    mirror.take(event)
                    self._say(lines.event(mirror, event))
            before = dict(mirror.jobs)
            await self.client.close()
            gone = self.client
            try:
                self.client = await reconnect(self._workspace, patience_s=progress.LOST_S)
            except GptossError:
                self.client = gone
                return
            self._console.say(f"connected again, to runner {self.client.welcome.pid}")
            mirror.take(self.client.snapshot)
            self._say(lines.again(before, mirror))

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(progress.TICK_S)
            self._say(self._lines.tick(self.mirror, time.monotonic()))
