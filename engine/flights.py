"""The requests of one job that are with the worker: sent, recalled, answered, or lost when it dies.

The keys are the worker's; places and strikes are in `engine.workload`, finished lines go to `engine.saving`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from engine import protocol, runplan
from engine.child import Death
from engine.folder import Partial
from engine.jobs import Job
from engine.office import Office
from engine.protocol import Completion, Finish, FromWorker, RequestError, RunningRequest
from engine.saving import Saving
from engine.tally import Place
from engine.wish import Wishes
from engine.workload import AfterDeath, Workload

if TYPE_CHECKING:  # numpy comes with it
    from engine.batch import Request

AHEAD = 2
"""Requests with the worker per slot: one that runs, one that is rendered and ready when the slot frees."""

UNSAVED = 2048
"""Most finished requests that may wait for the disk before no new ones start."""

RATE_S = 3.0
"""A request's rate is over this long: short enough to show one that slows down, long enough not to flicker."""

MARK_S = 0.2
"""Marks of a request's progress are at least so far apart, however often the worker tells it."""


class Flight:
    """One request with the worker."""

    __slots__ = (
        "_marks",
        "generated",
        "index",
        "key",
        "max_tokens",
        "prompt_tokens",
        "recalled",
        "request",
        "started",
        "taken_out",
    )

    def __init__(self, key: int, index: int, request: Request, max_tokens: int | None) -> None:
        self.key = key
        self.index = index
        self.request = request
        self.max_tokens = max_tokens
        self.started = 0.0
        self.prompt_tokens = 0
        self.generated = 0
        self._marks: deque[tuple[float, int]] = deque()  # time, tokens; from its first token on
        self.taken_out = False  # a person aborted this one
        self.recalled = False  # an Abort was sent

    def note(self, now: float, generated: int) -> None:
        """It has come so far."""
        self.generated = generated
        if not generated or (self._marks and now - self._marks[-1][0] < MARK_S):
            return
        self._marks.append((now, generated))
        # One mark older than the window stays, so that the span is never shorter than the window.
        while len(self._marks) > 2 and now - self._marks[1][0] >= RATE_S:
            self._marks.popleft()

    @property
    def rate(self) -> float:
        """Tokens a second between the first and the last mark, 0 while there are not two."""
        if len(self._marks) < 2:
            return 0.0
        (since, before), (until, after) = self._marks[0], self._marks[-1]
        return (after - before) / (until - since)


class Flights:
    """Who listens to the engine while the job uses it (`enginehost.Sink`)."""

    def __init__(self, job: Job, office: Office, wishes: Wishes, workload: Workload, saving: Saving) -> None:
        self._job = job
        self._office = office
        self._wishes = wishes
        self._workload = workload
        self._saving = saving
        self._flights: dict[int, Flight] = {}
        self._watched: frozenset[int] = frozenset()
        self._partials: dict[str, Partial] = {}
        self.death: Death | None = None  # of the engine, until somebody dealt with it
        self.completed = 0  # requests that the present engine finished
        self.completed_tokens = 0  # and the answer tokens it made for requests that are no longer in flight

    def __len__(self) -> int:
        return len(self._flights)

    def on_new_engine(self) -> None:
        self.completed = self.completed_tokens = 0
        self._watched = frozenset()

    # --- out ----------------------------------------------------------------------------------------------------------

    async def dispatch(self, slots: int) -> bool:
        """Give the worker what it has room for. True if that changed anything, so the caller looks again."""
        room = min(AHEAD * slots - len(self._flights), UNSAVED - self._saving.pending)
        chosen = self._workload.choose(room, in_flight=len(self._flights))
        if not chosen:
            return False
        requests = await asyncio.to_thread(self._workload.read, chosen)
        for i, request in zip(chosen, requests, strict=True):
            # The thread took its time: somebody may want something else by now.
            stopped = self._wishes.now is not None or self.death is not None or self._saving.halted is not None
            if request is None or stopped:
                self._workload.give_back(i)
            else:
                self._send(i, request)
        self.sync_watch()
        self._job.changed = True
        return True

    def _send(self, i: int, request: Request) -> None:
        from engine.bodies import parameters

        settings = self._job.record.settings
        body = runplan.with_defaults(request.body, settings.defaults, parameters(request.url))
        flight = Flight(self._office.next_key(), i, request, runplan.max_tokens_of(body))
        self._flights[flight.key] = flight
        self._office.host.send(
            protocol.Generate(
                key=flight.key,
                custom_id=request.custom_id,
                url=request.url,
                body=body,
                seed=runplan.seed_of(settings.seed or 0, request.custom_id, request.request_id),
            )
        )

    def recall(self, *, hard: bool) -> None:
        """Abort all; softly only what has no slot yet: that has nothing to lose by waiting on our side."""
        self._abort([f for f in self._flights.values() if hard or not f.started])

    def take_out(self, i: int) -> bool:
        """Abort request `i` for good; False if it is not here any more."""
        flight = next((f for f in self._flights.values() if f.index == i), None)
        if flight is None:
            return False
        flight.taken_out = True
        self._abort([flight])
        return True

    def _abort(self, flights: list[Flight]) -> None:
        for flight in flights:
            flight.recalled = True
        if flights:
            self._office.host.send(protocol.Abort(keys=[f.key for f in flights]))

    # --- who looks ----------------------------------------------------------------------------------------------------

    def running(self) -> list[RunningRequest]:
        """Those in a slot."""
        return [
            RunningRequest(
                key=f.key,
                custom_id=f.request.custom_id,
                prompt_tokens=f.prompt_tokens,
                generated=f.generated,
                started=f.started,
                line=f.request.line,
                max_tokens=f.max_tokens,
                rate=f.rate,
                job=self._job.id,
            )
            for f in self._flights.values()
            if f.started
        ]

    def keys(self, custom_ids: list[str], auto: int) -> frozenset[int]:
        """Keys of these requests where they are in flight, and of the first `auto` running ones."""
        wanted = set(custom_ids)
        named = {f.key for f in self._flights.values() if f.request.custom_id in wanted} if wanted else set[int]()
        started = [f.key for f in self._flights.values() if f.started]
        return frozenset({*named, *started[:auto]})

    def sync_watch(self) -> None:
        """The worker sends text only of requests that somebody watches."""
        watched, fresh = self._office.watched()
        keys = watched & frozenset(self._flights)
        fresh &= keys
        if keys != self._watched or fresh:
            self._watched = keys
            self._office.host.send(protocol.Watch(keys=sorted(keys), fresh=sorted(fresh)))

    # --- back ---------------------------------------------------------------------------------------------------------

    def on_message(self, message: FromWorker) -> None:
        match message:
            case protocol.Finished(key=key, completion=completion):
                flight = self._flights.pop(key, None)
                if flight is not None:
                    self._finished(flight, completion)
                    self._wishes.wake()
            case protocol.Started(key=key, prompt_tokens=prompt_tokens):
                flight = self._flights.get(key)
                if flight is not None:
                    flight.started = time.time()
                    flight.prompt_tokens = prompt_tokens
            case protocol.Deltas(items=items):
                self._office.text(self._job, items)
            case protocol.Stats(progress=progress):
                now = asyncio.get_running_loop().time()
                for key, generated in progress.items():
                    flight = self._flights.get(key)
                    if flight is not None:
                        flight.note(now, generated)
            case _:
                pass

    def on_death(self, death: Death) -> None:
        self.death = death
        self._wishes.wake()

    def _finished(self, flight: Flight, completion: Completion) -> None:
        if completion.finish == Finish.ABORTED and flight.recalled:
            self._came_back(flight, completion)
            return
        if completion.finish in (Finish.ABORTED, Finish.OOM, Finish.ENGINE_DIED):
            # The engine lives and could not do this one; whatever it is, it must not go round for ever.
            if flight.taken_out:
                self._came_back(flight, completion)
            else:
                self._met_death(flight)
            return
        from engine import output

        self.completed += 1
        self.completed_tokens += completion.usage.completion_tokens
        self._workload.answered(flight.index)
        self._partials.pop(flight.request.custom_id, None)
        line = output.line_for(flight.request, completion, model=self._model_name, created=time.time())
        self._saving.write(flight.index, line, completion)

    @property
    def _model_name(self) -> str:
        return self._job.record.engine.model_name

    def _came_back(self, flight: Flight, completion: Completion | None) -> None:
        """It was aborted: taken out by a person, or it waits again."""
        request = flight.request
        if completion is not None and completion.choices and flight.started:
            self._partials[request.custom_id] = Partial(
                custom_id=request.custom_id,
                request_id=request.request_id,
                choices=completion.choices,
                prompt_tokens=completion.usage.prompt_tokens,
                completion_tokens=completion.usage.completion_tokens,
            )
            self.completed_tokens += completion.usage.completion_tokens
        if flight.taken_out:
            self._workload.take_out(flight.index)
        else:
            self._workload.give_back(flight.index)

    # --- without an engine --------------------------------------------------------------------------------------------

    def write_off(self) -> None:
        """The engine was ended by us: nobody answers for these any more, and none of them is to blame."""
        flights, self._flights = list(self._flights.values()), {}
        for flight in flights:
            self._came_back(flight, None)

    def bury(self) -> None:
        """The engine died: requests that were in a slot may have killed it, the others just wait again."""
        flights, self._flights = list(self._flights.values()), {}
        # If none had a slot, one of them may have killed the engine on its way to one.
        suspected = [f for f in flights if f.started] or flights
        for flight in flights:
            if flight in suspected and not flight.taken_out:
                self._met_death(flight)
            else:
                self._came_back(flight, None)

    def _met_death(self, flight: Flight) -> None:
        if self._workload.met_death(flight.index) is AfterDeath.AGAIN:
            return
        from engine import output

        request = flight.request
        message = (
            f"the engine died {self._workload.deaths_met(flight.index)} times while it ran this request, "
            "the last time with nothing else in it"
        )
        error = RequestError(code=Finish.ENGINE_DIED.value, message=message)
        line = output.error_line(
            request.custom_id, request.request_id, error, created=time.time(), model=self._model_name
        )
        self._saving.write(flight.index, line)

    # --- texts so far -------------------------------------------------------------------------------------------------

    def remember(self, partials: list[Partial]) -> None:
        """What an earlier session left in inflight.jsonl."""
        self._partials = {p.custom_id: p for p in partials}

    def partials(self) -> list[Partial]:
        """Texts of requests that have no line."""
        places = (Place.WAITING, Place.ABORTED)
        return [
            partial
            for partial in self._partials.values()
            if (i := self._workload.index.find(partial.custom_id)) is not None
            and self._workload.tally.place(i) in places
        ]
