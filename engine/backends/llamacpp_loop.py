"""Owns continuous batching: which sequence sits in which slot, what goes into each llama_decode, and what comes out.

One thread runs all of it and is the only one that touches the context. Requests and aborts come in through an inbox
that any thread may fill; results go out in one batch a step, through a callable given at the start.

A sequence is its ids (prompt + generated) and how many of them the KV cache holds. Prefill, decode and the replay after
a preemption are the same act: feed the next ids, and sample when the last one has been fed.

Every limit is checked here before the call, because llama.cpp answers a wrong argument with abort().
"""

from __future__ import annotations

import collections
import ctypes
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import llama_cpp.llama_cpp as c
import numpy as np

from engine.backends.base import EngineBroken, Generation
from engine.backends.llamacpp_log import LOG
from engine.backends.llamacpp_requests import (
    Feed,
    Limits,
    Request,
    Sequence,
    completed,
    refusal,
    sequences_of,
    taken,
    texts_of,
)
from engine.backends.llamacpp_sampling import NotFinite, NoTokenLeft, Row, logprob_of
from engine.backends.llamacpp_vocab import Vocabulary
from engine.protocol import Channel, Choice, Completion, Delta, FailureKind, Finish, RequestError

PREFILL_ROWS_WHILE_DECODING = 512
"""Most prompt rows of one call while others generate: more would hold back their next token noticeably."""

GRAMMAR_S = 20.0
"""Longest act of one grammar, of microseconds mostly: an ambiguous one can grow without end inside one native call."""

Item = int | Delta | Completion | EngineBroken
Result = tuple[int, Item]


class Broken(Exception):
    """The context can't be used any more."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Batch:
    """A `llama_batch` over arrays of our own, filled by assignment of slices."""

    def __init__(self, rows: int) -> None:
        self.token = np.zeros(rows, np.int32)
        self.pos = np.zeros(rows, np.int32)
        self.logits = np.zeros(rows, np.int8)
        self._seq = np.zeros(rows, np.int32)
        self._n_seq = np.ones(rows, np.int32)
        # One pointer a row into `_seq`; all of these arrays must live as long as the struct that points to them.
        self._seq_pointers = (self._seq.ctypes.data + 4 * np.arange(rows)).astype(np.uint64)
        self.struct: Any = c.llama_batch()  # the binding's hints of its fields are not what ctypes takes
        self.struct.token = self.token.ctypes.data_as(ctypes.POINTER(c.llama_token))
        self.struct.pos = self.pos.ctypes.data_as(ctypes.POINTER(c.llama_pos))
        self.struct.n_seq_id = self._n_seq.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self.struct.seq_id = self._seq_pointers.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(c.llama_seq_id)))
        self.struct.logits = self.logits.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))

    def fill(self, feeds: Iterable[Feed]) -> None:
        n = 0
        for seq, count in feeds:
            end = n + count
            self.token[n:end] = seq.ids[seq.fed : seq.fed + count]
            self.pos[n:end] = np.arange(seq.fed, seq.fed + count)
            self._seq[n:end] = seq.slot
            self.logits[n:end] = 0
            self.logits[end - 1] = seq.fed + count == len(seq.ids)
            n = end
        self.struct.n_tokens = n


class Counters:
    """Written by the loop's thread alone, read by any."""

    def __init__(self) -> None:
        self.running = 0
        self.waiting = 0
        self.kv_used = 0
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.steps = 0
        self.preemptions = 0


class Loop:
    """The batching loop over one context. `run` is the body of its thread; its other methods are for other threads."""

    def __init__(
        self,
        context: Any,
        vocabulary: Vocabulary,
        limits: Limits,
        deliver: Callable[[list[Result]], None],
    ) -> None:
        self._context = context
        self._memory: Any = c.llama_get_memory(context)
        self._vocabulary = vocabulary
        self._limits = limits
        self._deliver = deliver
        self._batch = Batch(limits.batch)
        self._waiting: collections.deque[Sequence] = collections.deque()
        self._slots: list[Sequence | None] = [None] * limits.slots
        self._watched: set[int] = set()
        self._out: list[Result] = []
        self._admissions = 0
        self._hold_admission = False  # after a preemption, until a slot is given up: else the two would swap for ever
        self.counters = Counters()
        self._in_grammar: tuple[int, float] | None = None  # whose, since when; written by the loop's thread alone
        # Guards the inbox and nothing else; the loop's own state belongs to its thread.
        self._wake = threading.Condition()
        self._inbox: list[Callable[[], None]] = []
        self._stopping = False

    # --- for other threads --------------------------------------------------------------------------------------------

    def submit(self, generation: Generation) -> None:
        """Queue a request that passed `check`. Its items are delivered under its key, a Completion last."""
        now = time.monotonic()
        self._post(lambda: self._enqueue(generation, now))

    def abort(self, key: int) -> None:
        self._post(lambda: self._abort(key))

    def watch(self, keys: frozenset[int], fresh: frozenset[int] = frozenset()) -> None:
        self._post(lambda: self._set_watched(keys, fresh))

    def progress(self) -> dict[int, int]:
        """Tokens generated so far by each request that has a slot."""
        # A copy, because the thread goes on meanwhile; each count is one it had at some moment of this call.
        return {seq.key: seq.request.generated for seq in list(self._slots) if seq is not None}

    def stop(self) -> None:
        """End after the present step: what waits or runs is aborted."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def hung(self) -> int | None:
        """For a watcher in another thread: the request whose grammar sits in a native call that won't end in time."""
        inside = self._in_grammar
        return inside[0] if inside is not None and time.monotonic() - inside[1] > GRAMMAR_S else None

    def _post(self, act: Callable[[], None]) -> None:
        with self._wake:
            self._inbox.append(act)
            self._wake.notify()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until stopped. Raises Broken when the context is lost; nobody is told by then."""
        while self._take_inbox():
            self._admit()
            self._step()
            self._flush()
        for key in {seq.key for seq in self._living()}:
            self._abort(key)
        self._flush()

    def _living(self) -> list[Sequence]:
        return [*(s for s in self._slots if s is not None), *self._waiting]

    def _take_inbox(self) -> bool:
        with self._wake:
            while not (self._inbox or self._stopping or self._waiting or any(self._slots)):
                self._wake.wait()
            if self._stopping:
                for act in self._inbox:
                    act()
                self._inbox = []
                return False
            acts, self._inbox = self._inbox, []
        for act in acts:
            act()
        return True

    def _flush(self) -> None:
        self.counters.running = sum(seq is not None for seq in self._slots)
        self.counters.waiting = len(self._waiting)
        self.counters.kv_used = sum(seq.fed for seq in self._slots if seq is not None)
        if self._out:
            out, self._out = self._out, []
            self._deliver(out)

    # --- requests in and out ------------------------------------------------------------------------------------------

    def check(self, generation: Generation) -> tuple[Finish, RequestError] | None:
        """Why this request can never run here, or None. Any thread; touches no loop state."""
        return refusal(generation, self._limits, self._vocabulary)

    def _enqueue(self, generation: Generation, submitted: float) -> None:
        if generation.stream:
            self._watched.add(generation.key)
        request = taken(generation, submitted)
        try:
            sequences = sequences_of(request, self._limits, self._vocabulary)
        except Exception as error:  # noqa: BLE001 - a parser's fault costs its own request, never the batch
            self._fail_internally(request, error)
            self._complete(request)
            return
        self._waiting.extend(sequences)

    def _abort(self, key: int) -> None:
        for seq in self._living():
            if seq.key == key:
                self._end(seq, Finish.ABORTED)

    def _set_watched(self, keys: frozenset[int], fresh: frozenset[int]) -> None:
        new = keys - self._watched | keys & fresh
        self._watched = set(keys)
        if new:
            for request in {id(seq.request): seq.request for seq in self._living() if seq.key in new}.values():
                self._repeat(request)

    def _repeat(self, request: Request) -> None:
        """Give all text of a request once more, from its beginning."""
        living = {seq.choice: seq for seq in self._living() if seq.request is request}
        for index, choice in enumerate(request.choices):
            if choice is not None:
                self._give(request.generation.key, index, texts_of(choice), tokens=0)
            elif index in living:
                seq = living[index]
                seq.silent_tokens = 0
                seq.sent = self._give(
                    seq.key, index, seq.parser.so_far(), tokens=len(seq.ids) - len(request.generation.prompt)
                )

    def _give(self, key: int, choice: int, texts: dict[Channel, str], *, tokens: int) -> dict[Channel, int]:
        """Deltas of these texts from offset 0; the first carries the count of tokens. Returns the ends."""
        for channel, text in texts.items():
            if text:
                self._out.append((key, Delta(key=key, text=text, channel=channel, choice=choice, tokens=tokens)))
                tokens = 0
        return {channel: len(text) for channel, text in texts.items()}

    def _end(self, seq: Sequence, finish: Finish) -> None:
        """Take a sequence out and close its choice; the last choice of a request completes it."""
        if seq.slot >= 0:
            self._free(seq)
        elif seq in self._waiting:
            self._waiting.remove(seq)
        if seq.grammar is not None:
            seq.grammar.close()
        request = seq.request
        try:
            choice = request.choices[seq.choice] = seq.parser.finish(finish)
            request.reasoning += seq.parser.reasoning_tokens
            if seq.key in self._watched:
                self._give_rest(seq, choice)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail_internally(request, error)
            request.choices[seq.choice] = Choice(index=seq.choice, finish=finish)
        if all(choice is not None for choice in request.choices):
            self._complete(request)

    def _give_rest(self, seq: Sequence, choice: Choice) -> None:
        """What the parser held back (half of a stop string, say) and let go at the end."""
        for channel, text in texts_of(choice).items():
            sent = seq.sent.get(channel, 0)
            if len(text) > sent:
                piece = Delta(
                    key=seq.key,
                    text=text[sent:],
                    channel=channel,
                    choice=seq.choice,
                    tokens=seq.silent_tokens,
                    offset=sent,
                )
                seq.silent_tokens = 0
                self._out.append((seq.key, piece))

    def _fail(self, request: Request, finish: Finish, error: RequestError) -> None:
        """End all sequences of a request with an error."""
        if request.error is None:
            request.error, request.finish = error, finish
        for seq in self._living():
            if seq.request is request:
                self._end(seq, Finish.ABORTED)

    def _fail_internally(self, request: Request, error: Exception) -> None:
        traceback.print_exception(error)  # to stderr: the runner's worker.log
        if request.error is None:
            request.error = RequestError(
                code="internal_error", message=f"a fault of this program: {type(error).__name__}: {error}"
            )
            request.finish = Finish.ENGINE_DIED

    def _complete(self, request: Request) -> None:
        key = request.generation.key
        self._watched.discard(key)
        self._out.append((key, completed(request, time.monotonic())))

    # --- slots --------------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Give free slots, lowest first, to waiting sequences in their order."""
        while self._waiting and not self._hold_admission:
            slot = next((i for i, seq in enumerate(self._slots) if seq is None), None)
            if slot is None or not self._has_room(self._waiting[0]):
                return
            seq = self._waiting.popleft()
            c.llama_memory_seq_rm(self._memory, slot, -1, -1)
            seq.slot, seq.fed = slot, 0
            self._admissions += 1
            seq.order = self._admissions
            self._slots[slot] = seq
            request = seq.request
            if request.admitted is None:
                request.admitted = time.monotonic()
                self._out.append((seq.key, len(request.generation.prompt)))

    def _has_room(self, seq: Sequence) -> bool:
        """In a shared pool a prompt starts only if it fits beside what runs; what runs may still outgrow the pool."""
        running = [s for s in self._slots if s is not None]
        if not self._limits.unified or not running:
            return True
        taken = sum(len(s.ids) for s in running)
        # One ubatch of slack: the running sequences grow while this prompt is read.
        return taken + len(seq.ids) + self._limits.ubatch <= self._limits.cells

    def _free(self, seq: Sequence) -> None:
        c.llama_memory_seq_rm(self._memory, seq.slot, -1, -1)
        self._slots[seq.slot] = None
        seq.slot, seq.fed = -1, 0
        self._hold_admission = False

    def _preempt(self, seq: Sequence) -> None:
        """Take a sequence out of its slot to run again later: its ids are prefilled once more, its draws go on."""
        self._free(seq)
        self._waiting.appendleft(seq)
        self._hold_admission = True
        self.counters.preemptions += 1

    # --- steps --------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        running = [seq for seq in self._slots if seq is not None]  # ascending by slot: fewest ubatches
        decode = [Feed(seq, 1) for seq in running if not seq.is_prefill]
        prefill = self._prefill_chunks([seq for seq in running if seq.is_prefill], len(decode))
        if self._limits.unified:
            both = sorted([*decode, *prefill], key=lambda feed: feed.seq.slot)
            self._feed(both)
        else:
            # Apart, because a call with rows of unequal counts is cut into many small passes when partitioned.
            self._feed(decode)
            self._feed([feed for feed in prefill if feed.seq.slot >= 0])  # an end in decode may have ended its siblings

    def _prefill_chunks(self, seqs: list[Sequence], decoding: int) -> list[Feed]:
        """Equal chunks of the prompts, as many rows as one call may have."""
        if not seqs:
            return []
        rows = self._limits.batch
        if decoding:
            rows = min(rows, max(PREFILL_ROWS_WHILE_DECODING, self._limits.ubatch))
        if self._limits.unified:
            rows = max(1, min(rows, self._limits.batch - decoding))
        seqs = seqs[:rows]
        chunk = rows // len(seqs)
        return [Feed(seq, min(chunk, len(seq.ids) - seq.fed)) for seq in seqs]

    def _feed(self, feeds: list[Feed]) -> None:
        """One llama_decode and the sampling after it; whatever it returns is dealt with here."""
        if not feeds:
            return
        rows = sum(count for _, count in feeds)
        if rows > self._limits.batch:  # llama.cpp would abort the process
            raise Broken(FailureKind.CRASH, f"{rows} rows for a batch of {self._limits.batch}: a fault of this program")
        self._batch.fill(feeds)
        code = self._decode()
        if code == 0:
            self.counters.steps += 1
            self._collect(feeds)
        elif code == 1 and self._limits.unified:
            self._pool_full(feeds)
        elif code in (1, -1):
            self._isolate(feeds, code)
        else:
            errors = LOG.last_errors()
            kind = FailureKind.OOM if code == -2 else FailureKind.CRASH
            what = "it could not allocate memory" if code == -2 else "the computation failed"
            raise Broken(kind, f"llama_decode returned {code}: {what}. " + " | ".join(errors))

    def _decode(self) -> int:
        return c.llama_decode(self._context, self._batch.struct)

    def _pool_full(self, feeds: list[Feed]) -> None:
        """No cells left in the shared pool; nothing was changed. The same call again would fail again."""
        running = [seq for seq in self._slots if seq is not None]
        if len(running) > 1:
            self._preempt(max(running, key=lambda seq: seq.order))
            return
        seq, count = feeds[0]
        if count > 1:
            self._feed([Feed(seq, count // 2)])
        else:
            self._end(seq, Finish.LENGTH)  # alone in the pool and it is full: this is all the context there is

    def _isolate(self, feeds: list[Feed], code: int) -> None:
        """One of these is not accepted, and the call changed nothing: find it by feeding each alone."""
        if len(feeds) > 1:
            for feed in feeds:
                if feed.seq.slot >= 0:
                    self._feed([feed])
            return
        (seq, count) = feeds[0]
        errors = LOG.last_errors(2)
        self._fail(
            seq.request,
            Finish.ENGINE_DIED,
            RequestError(
                code="internal_error",
                message=f"llama_decode refused {count} tokens at position {seq.fed} with {code}: " + " | ".join(errors),
            ),
        )

    def _collect(self, feeds: list[Feed]) -> None:
        """After a call: note what the cache holds now, and sample where a sequence's last id was fed."""
        ready: list[Sequence] = []
        for seq, count in feeds:
            if seq.fed < len(seq.request.generation.prompt):
                end = min(seq.fed + count, len(seq.request.generation.prompt))
                self.counters.prompt_tokens += end - seq.fed
            seq.fed += count
            if seq.fed == len(seq.ids):
                ready.append(seq)
        if not ready:
            return
        # One block, rows in the order of the batch; valid until the next decode. This read waits for the device.
        pointer = c.llama_get_logits(self._context)
        block: np.ndarray = np.ctypeslib.as_array(pointer, shape=(len(ready), self._limits.vocabulary))
        best = block.argmax(axis=1)  # of equal logits the lowest id
        for i, seq in enumerate(ready):
            if seq.slot < 0:  # ended by a sibling's fault in this very step
                continue
            try:
                self._advance(seq, block[i], int(best[i]))
            except NotFinite:
                self._fail(
                    seq.request,
                    Finish.ENGINE_DIED,
                    RequestError(code="not_a_number", message="the model computed values that are not numbers"),
                )
            except NoTokenLeft:
                self._fail(
                    seq.request,
                    Finish.INVALID,
                    RequestError(
                        code="grammar_dead_end",
                        message="no token of this model continues the answer as its JSON schema demands",
                        status=400,
                        param="response_format",
                    ),
                )
            except Exception as error:  # noqa: BLE001 - a parser's fault costs its own request, never the batch
                self._fail_internally(seq.request, error)
                self._fail(seq.request, Finish.ENGINE_DIED, RequestError(code="internal_error", message=""))
            finally:
                self._in_grammar = None

    def _advance(self, seq: Sequence, row: Row, best: int) -> None:
        """Choose the next token of one sequence, show it to its parser, and end or go on."""
        request = seq.request
        generation = request.generation
        constraint = seq.grammar if seq.parser.in_answer else None
        if constraint is None and seq.sampler.is_plain_greedy:
            if not np.isfinite(row[best]):
                raise NotFinite
            token = best
        else:
            if constraint is not None:
                self._in_grammar = (seq.key, time.monotonic())  # until `_collect` clears it
            token = seq.sampler.choose(row, constraint)
        seq.sampler.note(token)
        if constraint is not None:
            constraint.accept(token)
        k = generation.sampling.logprobs
        logprob = logprob_of(row, token, k, self._vocabulary) if k is not None else None
        if request.first_token is None:
            request.first_token = time.monotonic()
        request.generated += 1
        self.counters.generated_tokens += 1
        seq.ids.append(token)
        pieces = seq.parser.feed(token, logprob)
        seq.silent_tokens += 1
        if pieces and seq.key in self._watched:
            for piece in pieces:
                if piece.text:
                    offset = seq.sent.get(piece.channel, 0)
                    delta = Delta(
                        key=seq.key,
                        text=piece.text,
                        channel=piece.channel,
                        choice=seq.choice,
                        tokens=seq.silent_tokens,
                        offset=offset,
                    )
                    seq.sent[piece.channel] = offset + len(piece.text)
                    seq.silent_tokens = 0
                    self._out.append((seq.key, delta))
        if token in generation.stop_tokens or seq.parser.stopped:
            self._end(seq, Finish.STOP)
        elif len(seq.ids) >= seq.limit:
            self._end(seq, Finish.LENGTH)
