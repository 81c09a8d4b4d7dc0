"""A runner that generates an exact number of tokens a second: the real control server, fed at the real runner's rates.

`python -m tests.doubles.feeder WORKSPACE [--rate 1500] [--requests 16] [--lines 20000] [--evil]`

Text every 0.1 s, engine, readings and jobs four times, history once a second, acknowledgements as requests end. Pause,
resume and abort work; everything else is answered and changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import time
from pathlib import Path

from msgspec.structs import replace

from engine import protocol
from engine.control import Control
from engine.job import JobState
from engine.journal import write_record
from engine.protocol import (
    AckItem,
    Channel,
    Command,
    Counts,
    Delta,
    DeviceReading,
    EngineStats,
    EngineView,
    Eta,
    HistoryPoint,
    IncidentView,
    JobView,
    ModelInfo,
    Reading,
    Reply,
    RunningRequest,
    Snapshot,
    WatchRequests,
    Welcome,
)
from engine.record import RunRecord
from engine.workspace import Workspace

STEP_S = 0.1
CHAT = "/v1/chat/completions"
EVIL = (
    "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))
    + "\x1b]0;OWNED\x07\x1b]52;c;T1dORUQ=\x1b\\\x1b[31;46mOWNED\x1b[2J\x1b[?1049l\x9b5mOWNED\x9d0;OWNED\x9c"
    + "\u202eOWNED\u2066\u2069\u200f\u061c\u2028\u2029[/nope][@click=app.bell]OWNED[/]{}%s$(x)`x`\ufeff\ufff9"
)
"""All that steers terminals, readers and markup."""
GIB = 1024**3
ANSWER_TOKENS = 600
REASONING_TOKENS = 150
CONTEXT = 2048

TEXT = (
    "the batch runs on one device so a scheduler has to decide how many slots may grow at once while two limits apply "
    "cells that each slot owns and free memory outside of its pool which nobody sees until it is gone then everything "
    "stops with an error that names an address and nothing else"
)
WORDS = TEXT.split()


class Flight:
    """One request in a slot."""

    def __init__(self, key: int, rng: random.Random, extra: str) -> None:
        self.key = key
        self.custom_id = f"req-{key:06d}{extra}"
        self.started = time.time()
        self.tokens = 0
        self.goal = rng.randrange(ANSWER_TOKENS // 2, ANSWER_TOKENS)
        self.text = {Channel.REASONING: "", Channel.ANSWER: ""}
        self._rng = rng
        self._extra = extra

    def grow(self, tokens: int) -> list[Delta]:
        """What so many tokens come to."""
        channel = Channel.REASONING if self.tokens < REASONING_TOKENS else Channel.ANSWER
        words = [self._rng.choice(WORDS) for _ in range(tokens)]
        text = "".join(f" {word}" if self._rng.random() > 0.04 else f" {word}.\n" for word in words)
        text += self._extra
        offset = len(self.text[channel])
        self.text[channel] += text
        self.tokens += tokens
        return [Delta(key=self.key, text=text, channel=channel, tokens=tokens, offset=offset)]

    def whole(self) -> list[Delta]:
        """Its text so far, for somebody who looks anew."""
        return [Delta(key=self.key, text=text, channel=channel) for channel, text in self.text.items() if text]

    def view(self, job: str, rate: float) -> RunningRequest:
        return RunningRequest(
            key=self.key,
            custom_id=self.custom_id,
            prompt_tokens=200 + self.key % 700,
            generated=self.tokens,
            started=self.started,
            line=self.key,
            max_tokens=800,
            rate=rate,
            job=job,
        )


class Feeder:
    """What the runner would be."""

    def __init__(self, workspace: Workspace, *, rate: float, requests: int, lines: int, extra: str = "") -> None:
        self.rate = rate
        self.requests = requests
        self.extra = extra
        """Goes into every text there is."""
        self.rng = random.Random(1)
        self.flights: dict[int, Flight] = {}
        self.next_key = 1
        self.generated = 0
        self.owed = 0.0
        self.over = asyncio.Event()
        self.history: list[HistoryPoint] = []
        self.job = JobView(
            id="evals-1",
            state=JobState.RUNNING if requests else JobState.DONE,
            input_path=str(workspace.root / "evals.jsonl"),
            sentence=extra,
            created=time.time() - 60,
            started=time.time() - 50,
            counts=Counts(total=lines, waiting=lines) if requests else Counts(total=lines, succeeded=lines),
            model="gpt-oss-20b-Q4_K_M",
            engine="llamacpp",
            slots=requests,
            context=CONTEXT,
        )
        self._write(workspace)
        self.others = [
            JobView(
                id=f"summaries-1{extra}",
                state=JobState.QUEUED,
                sentence=f"waits{extra}",
                input_path="/nowhere/summaries.jsonl",
                created=1.0,
                order=1,
            )
        ]
        self.control = Control(
            workspace.socket,
            welcome=Welcome(
                version=protocol.CLIENT_PROTOCOL, pid=os.getpid(), workspace=str(workspace.root), started=time.time()
            ),
            snapshot=self.snapshot,
            handle=self.handle,
            resolve_watch=self.resolve,
        )

    def _write(self, workspace: Workspace) -> None:
        """The job's input and its record: screens read the requests from the files. Answers are not written."""
        with Path(self.job.input_path).open("w") as file:
            for i in range(1, self.job.counts.total + 1):
                body = {"model": "m", "messages": [{"role": "user", "content": f"say {i}{self.extra}"}]}
                line = {"custom_id": f"req-{i:06d}{self.extra}", "method": "POST", "url": CHAT, "body": body}
                file.write(json.dumps(line) + "\n")
        folder = workspace.run_folder(self.job.id)
        folder.mkdir(parents=True)
        write_record(
            folder,
            RunRecord(
                job=self.job.id,
                state=self.job.state,
                input_path=self.job.input_path,
                created=self.job.created,
                started=self.job.started,
                counts=self.job.counts,
            ),
        )

    # --- what clients see ---------------------------------------------------------------------------------------------

    @property
    def running(self) -> list[RunningRequest]:
        each = self.rate / max(1, len(self.flights))
        return [flight.view(self.job.id, round(each + flight.key % 5, 1)) for flight in self.flights.values()]

    @property
    def engine(self) -> EngineView:
        used = sum(300 + flight.tokens for flight in self.flights.values())
        slots = max(1, self.requests)
        return EngineView(
            state="ready",
            pid=os.getpid(),
            info=ModelInfo(
                name=f"gpt-oss{self.extra}", path="/m", device=f"RTX{self.extra}", slots=slots, context=CONTEXT
            ),
            stats=EngineStats(
                running=len(self.flights),
                slots=slots,
                kv_used=used,
                kv_total=slots * CONTEXT,
                generated_tokens=self.generated,
            ),
        )

    @property
    def reading(self) -> Reading:
        free = 3 * GIB - self.rng.randrange(4) * (1 << 21) * bool(self.requests)
        gpu = DeviceReading(
            name=f"NVIDIA GeForce RTX 4080{self.extra}",
            kind="gpu",
            total=16 * GIB,
            used=16 * GIB - free,
            free=free,
            process=12 * GIB,
            utilization=0.9,
            owners={"weights": 10 * GIB, "kv": 2 * GIB, "other": 4 * GIB - free},
            peak_used=13 * GIB,
            peak_t=self.job.created,
            warn_free=GIB // 2,
            critical_free=GIB // 4,
        )
        return Reading(t=time.time(), devices=[gpu])

    def snapshot(self, seq: int) -> Snapshot:
        return Snapshot(
            seq=seq,
            jobs=[self.job, *self.others],
            engine=self.engine,
            reading=self.reading,
            running=self.running,
            history=self.history[-600:],
            incidents=[
                IncidentView(
                    t=self.job.created,
                    job=self.job.id,
                    kind="engine_died",
                    message=f"it died{self.extra}",
                    action=f"again{self.extra}",
                    level="error",
                )
            ],
        )

    def resolve(self, watch: WatchRequests) -> frozenset[int]:
        named = [f.key for f in self.flights.values() if f.custom_id in watch.custom_ids]
        return frozenset([*named, *sorted(self.flights)[: watch.auto]])

    async def handle(self, command: Command) -> Reply:
        states: dict[type, JobState] = {
            protocol.Pause: JobState.PAUSED,
            protocol.Resume: JobState.RUNNING,
            protocol.AbortJob: JobState.ABORTED,
        }
        if (state := states.get(type(command))) is not None:
            self.job = replace(self.job, state=state, sentence=f"{state} by a person{self.extra}")
            self.control.publish(protocol.JobChanged(seq=0, job=self.job))
        elif isinstance(command, protocol.Stop):
            self.over.set()
        return Reply(id=command.id, job=self.job.id, sentence=f"done{self.extra}")

    # --- what happens -------------------------------------------------------------------------------------------------

    def step(self, elapsed_s: float) -> None:
        """Generate what is due."""
        if self.job.state != JobState.RUNNING:
            return
        while len(self.flights) < self.requests:
            self.flights[self.next_key] = Flight(self.next_key, self.rng, self.extra)
            self.next_key += 1
        self.owed += self.rate * elapsed_s
        due, self.owed = int(self.owed), self.owed % 1.0
        watched = self.control.watched()
        deltas: list[Delta] = []
        done: list[Flight] = []
        for i, flight in enumerate(list(self.flights.values())):
            tokens = due // self.requests + (i < due % self.requests)
            pieces = flight.grow(tokens)
            self.generated += tokens
            if flight.key in watched.fresh:
                deltas += flight.whole()
            elif flight.key in watched.keys:
                deltas += pieces
            if flight.tokens >= flight.goal:
                done.append(flight)
        if deltas:
            self.control.publish_text(self.job.id, deltas)
        for flight in done:
            del self.flights[flight.key]
        counts = self.job.counts
        succeeded = counts.succeeded + len(done)
        self.job = replace(
            self.job,
            counts=replace(
                counts,
                succeeded=succeeded,
                running=len(self.flights),
                waiting=counts.total - succeeded - len(self.flights),
            ),
            decode_rate=self.rate + self.rng.randrange(20),
            prefill_rate=2900.0 + self.rng.randrange(20),
            completion_tokens=self.generated,
            active_s=time.time() - (self.job.started or 0),
            eta=Eta(s=2460.0 - self.generated / 1500, low_s=2200.0, high_s=2700.0),
        )
        if done:
            items = [
                AckItem(custom_id=f.custom_id, request_id="", ok=True, finish="stop", completion_tokens=f.tokens)
                for f in done
            ]
            self.control.publish(protocol.Acknowledged(seq=0, job=self.job.id, items=items))

    def tell(self) -> None:
        """Four times a second."""
        self.control.publish(protocol.Sampled(seq=0, reading=self.reading))
        if self.job.state == JobState.RUNNING:
            self.control.publish(protocol.JobChanged(seq=0, job=self.job))
            self.control.publish(protocol.EngineChanged(seq=0, engine=self.engine, running=self.running))

    def measure(self) -> None:
        """Once a second."""
        stats = self.engine.stats
        runs = self.job.state == JobState.RUNNING
        point = HistoryPoint(
            t=time.time(),
            decode=self.rate + self.rng.randrange(-60, 60) if runs else 0.0,
            prefill=2900.0 + self.rng.randrange(500) if runs else 0.0,
            running=stats.running,
            slots=stats.slots,
            kv_used=stats.kv_used,
            kv_total=stats.kv_total,
            free=[device.free for device in self.reading.devices],
        )
        self.history.append(point)
        self.control.publish(protocol.Measured(seq=0, point=point))

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.over.set)
        await self.control.start()
        last = time.monotonic()
        steps = 0
        while not self.over.is_set():
            try:
                async with asyncio.timeout(max(0.0, last + STEP_S - time.monotonic())):
                    await self.over.wait()
            except TimeoutError:
                pass
            now = time.monotonic()
            self.step(now - last)
            last = now
            steps += 1
            if steps % 5 in (0, 2):
                self.tell()
            if steps % 10 == 0:
                self.measure()
        await self.control.close("it was stopped")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace")
    parser.add_argument("--rate", type=float, default=1500.0)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--evil", action="store_true", help="every text carries what steers a terminal")
    given = parser.parse_args()

    async def feed() -> None:
        workspace = Workspace.at(Path(given.workspace))
        extra = EVIL if given.evil else ""
        await Feeder(workspace, rate=given.rate, requests=given.requests, lines=given.lines, extra=extra).run()

    asyncio.run(feed())


if __name__ == "__main__":
    main()
