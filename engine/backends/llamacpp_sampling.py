"""Owns the choice of the next token from one row of logits. Pure numpy: no library call, no clock, no shared state.

Order of the stages (vLLM's, so that a request means the same on every engine): logit_bias, repetition penalty,
frequency and presence penalties, temperature, min_p, top_k, top_p, then one draw.
A draw depends on the request's seed, the choice's index and the position in the answer, and on nothing else: which slot
a sequence sits in and what runs beside it cannot change it.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Sampling, Tokenizer
from engine.protocol import TokenLogprob, TopLogprob

Row = NDArray[np.float32]

_MASK64 = (1 << 64) - 1

FAR_BELOW = 25.0
"""A candidate this far under the best (e^-25 of its probability) counts only if the nearer ones can't fill top_p."""


class Constraint(Protocol):
    """What may come next, decided by a grammar. `accept` may only be given tokens that were allowed."""

    def allows(self, token: int) -> bool: ...
    def mask(self, row: Row) -> None:
        """Set what is forbidden to -inf, in place."""
        ...

    def accept(self, token: int) -> None: ...


class NoTokenLeft(Exception):
    """Everything is forbidden: the vocabulary cannot spell what the grammar asks for next."""


class NotFinite(Exception):
    """The model computed NaN or infinity."""


def draws(seed: int, choice: int, position: int) -> NDArray[np.float64]:
    """Two independent uniforms of this place: the second is for a second try under a grammar."""
    bits = np.random.Philox(key=np.array([seed & _MASK64, choice], np.uint64), counter=position)
    return np.random.Generator(bits).random(2)


class Sampler:
    """Chooses the tokens of one sequence. `choose` must be called once per position, in order."""

    def __init__(self, sampling: Sampling, *, choice: int, prompt: list[int], vocabulary: int) -> None:
        self._sampling = s = sampling
        self._choice = choice
        self._position = 0
        self._bias_ids = np.array(list(s.logit_bias), np.int64)
        self._bias = np.array(list(s.logit_bias.values()), np.float32)
        self._penalises = s.presence_penalty != 0 or s.frequency_penalty != 0
        self._counts: dict[int, int] = {}
        self._seen: NDArray[np.bool_] | None = None
        if s.repetition_penalty != 1:
            self._seen = np.zeros(vocabulary, bool)
            self._seen[prompt] = True

    @property
    def is_plain_greedy(self) -> bool:
        """An argmax of the raw row is the whole answer: the loop does it for all such rows at once."""
        s = self._sampling
        return s.temperature == 0 and not (self._penalises or len(self._bias_ids) or self._seen is not None)

    def note(self, token: int) -> None:
        """Remember a chosen token: penalties count it, the next draw is of the next position."""
        self._position += 1
        if self._penalises:
            self._counts[token] = self._counts.get(token, 0) + 1
        if self._seen is not None:
            self._seen[token] = True

    def choose(self, row: Row, constraint: Constraint | None = None) -> int:
        """The next token. `row` is not changed. The token is not noted yet."""
        adjusted = self._adjust(row)
        u = draws(self._sampling.seed, self._choice, self._position) if self._sampling.temperature > 0 else np.zeros(2)
        token = pick(adjusted, self._sampling, u[0])
        if constraint is None or constraint.allows(token):
            return token
        # A second, independent draw over what is allowed: rejecting and redrawing is the same distribution as
        # masking at once, and saves looking at the whole vocabulary where the model obeys by itself.
        masked = adjusted.copy()
        constraint.mask(masked)
        if not np.isfinite(masked.max()):
            raise NoTokenLeft
        return pick(masked, self._sampling, u[1])

    def _adjust(self, row: Row) -> Row:
        if self.is_plain_greedy or not (len(self._bias_ids) or self._penalises or self._seen is not None):
            return row
        s = self._sampling
        row = row.copy()
        if len(self._bias_ids):
            row[self._bias_ids] += self._bias
        if self._seen is not None:
            seen = row[self._seen]
            row[self._seen] = np.where(seen > 0, seen / s.repetition_penalty, seen * s.repetition_penalty)
        if self._penalises and self._counts:
            ids = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            row[ids] -= counts * np.float32(s.frequency_penalty) + np.float32(s.presence_penalty)
        return row


def pick(row: Row, sampling: Sampling, u: float) -> int:
    """One token of an adjusted row; `u` in [0, 1) is the draw. Equal logits: the lowest id comes first."""
    best = int(row.argmax())
    top = row[best]
    if not np.isfinite(top):
        raise NotFinite
    if sampling.temperature == 0 or sampling.top_k == 1:
        return best
    # float64 from here: a cumulative sum over 200 000 float32 probabilities is off by more than a rare token's share.
    scaled = (row.astype(np.float64) - np.float64(top)) / sampling.temperature
    ids: NDArray[np.int64] | None = None
    if sampling.min_p > 0:
        ids = np.flatnonzero(scaled >= np.log(sampling.min_p))
        scaled = scaled[ids]
    if 0 < sampling.top_k < len(scaled):
        kept = _largest(scaled, sampling.top_k)
        ids = kept if ids is None else ids[kept]
        scaled = scaled[kept]
    if sampling.top_p < 1:
        kept = _nucleus(scaled, sampling.top_p)
        ids = kept if ids is None else ids[kept]
        scaled = scaled[kept]
    sums = np.cumsum(np.exp(scaled))
    chosen = min(int(np.searchsorted(sums, u * sums[-1], side="right")), len(sums) - 1)
    return chosen if ids is None else int(ids[chosen])


def _largest(values: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Indices of exactly k largest values in ascending order of index; of equal ones the lowest indices."""
    edge = np.partition(values, len(values) - k)[len(values) - k]
    above = np.flatnonzero(values > edge)
    ties = np.flatnonzero(values == edge)[: k - len(above)]
    return np.sort(np.concatenate((above, ties)))


def _nucleus(scaled: NDArray[np.float64], top_p: float) -> NDArray[np.int64]:
    """Indices (ascending) of the smallest set of likeliest candidates with at least `top_p` of the probability."""
    total = np.exp(scaled).sum()
    near = np.flatnonzero(scaled >= scaled.max() - FAR_BELOW)
    for candidates in (near, np.arange(len(scaled))):
        order = candidates[np.argsort(-scaled[candidates], kind="stable")]
        sums = np.cumsum(np.exp(scaled[order]))
        if sums[-1] >= top_p * total or len(candidates) == len(scaled):
            count = int(np.searchsorted(sums, top_p * total, side="left")) + 1
            return np.sort(order[:count])
    raise AssertionError("the whole row always fills top_p")  # pragma: no cover


def log_softmax(row: Row) -> NDArray[np.float64]:
    wide = row.astype(np.float64)
    wide -= wide.max()
    return wide - np.log(np.exp(wide).sum())


def logprob_of(row: Row, token: int, k: int, tokenizer: Tokenizer) -> TokenLogprob:
    """The chosen token's log-probability under the raw row, with the k likeliest (best first, ties by id)."""
    logprobs = log_softmax(row)
    top: list[TopLogprob] = []
    if k > 0:
        best = _largest(logprobs, min(k, len(logprobs)))
        for t in best[np.argsort(-logprobs[best], kind="stable")]:
            piece = tokenizer.piece(int(t))
            top.append(
                TopLogprob(token=piece.decode("utf-8", errors="replace"), logprob=float(logprobs[t]), bytes=list(piece))
            )
    piece = tokenizer.piece(token)
    return TokenLogprob(
        token=piece.decode("utf-8", errors="replace"),
        logprob=float(logprobs[token]),
        bytes=list(piece),
        top=top,
    )
