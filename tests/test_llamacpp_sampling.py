"""Sampling: each parameter's effect, draws that depend on nothing else, and llama.cpp's own chain as the measure."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as c
import numpy as np
import pytest

from engine.backends.base import Sampling
from engine.backends.llamacpp_sampling import NotFinite, NoTokenLeft, Sampler, draws, log_softmax, logprob_of, pick

V = 50
ROW = np.random.default_rng(3).normal(0, 2, V).astype(np.float32)


class Letters:
    size = V
    end_tokens = frozenset({0})
    bos = None
    eos = None
    chat_template = None

    def encode(self, text, *, special):
        raise NotImplementedError

    def special_id(self, text):
        raise NotImplementedError(text)

    def piece(self, token, *, special=True):
        assert special
        return b"\xc3" if token == 7 else bytes([65 + token])


def sampler(prompt=(), choice=0, **kw) -> Sampler:
    return Sampler(Sampling(**kw), choice=choice, prompt=list(prompt), vocabulary=V)


def frequencies(n=3000, **kw) -> np.ndarray:
    s = Sampling(**kw)
    uniforms = np.random.default_rng(1).random(n)
    return np.bincount([pick(ROW, s, u) for u in uniforms], minlength=V)


def llama_cpp_probabilities(*stages) -> np.ndarray:
    """What llama.cpp's chain leaves, normalised."""
    data = np.zeros(V, np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)]))
    data["id"], data["logit"] = np.arange(V), ROW
    array: Any = c.llama_token_data_array(data.ctypes.data_as(c.llama_token_data_p), V, -1, False)
    for stage in stages:
        reference: Any = ctypes.byref(array)
        c.llama_sampler_apply(stage, reference)
        c.llama_sampler_free(stage)
    p = np.zeros(V)
    for i in range(array.size):
        p[array.data[i].id] = np.exp(array.data[i].logit - ROW.max())
    return p / p.sum()


@pytest.mark.parametrize(
    ("parameters", "stages"),
    [
        ({"temperature": 0.7}, [("temp", 0.7)]),
        ({"temperature": 1.5}, [("temp", 1.5)]),
        ({"top_k": 5}, [("top_k", 5)]),
        ({"top_p": 0.8}, [("top_p", 0.8, 1)]),
        ({"top_p": 0.05}, [("top_p", 0.05, 1)]),
        ({"min_p": 0.1}, [("min_p", 0.1, 1)]),
        (
            {"temperature": 1.3, "min_p": 0.01, "top_k": 12, "top_p": 0.9},
            [("temp", 1.3), ("min_p", 0.01, 1), ("top_k", 12), ("top_p", 0.9, 1)],
        ),
    ],
)
def test_same_distribution_as_the_chain_of_llama_cpp(parameters, stages):
    expected = llama_cpp_probabilities(*(getattr(c, f"llama_sampler_init_{name}")(*args) for name, *args in stages))
    seen = frequencies(**parameters)
    assert not seen[expected == 0].any(), "a token that llama.cpp cuts away was drawn"
    likely = expected * seen.sum() >= 5
    chi_square = ((seen - expected * seen.sum()) ** 2 / np.maximum(expected * seen.sum(), 1e-9))[likely].sum()
    degrees = max(1, likely.sum() - 1)
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)


def test_zero_temperature_is_the_lowest_id_of_the_largest():
    row = np.zeros(V, np.float32)
    row[[9, 4, 30]] = 1
    assert sampler(temperature=0).choose(row) == 4


@pytest.mark.parametrize(("k", "p"), [(3, 1.0), (0, 0.3)])
def test_ties_at_the_edge_go_to_the_lowest_ids(k, p):
    row = np.zeros(10, np.float32)
    s = Sampling(temperature=1, top_k=k, top_p=p)
    assert {pick(row, s, u) for u in np.linspace(0, 0.999, 50)} == {0, 1, 2}


def test_top_p_needs_the_far_tail_only_when_the_near_cannot_fill_it():
    row = np.full(20000, -26.0, np.float32)
    row[0] = 0.0
    assert pick(row, Sampling(temperature=1, top_p=0.9999), 0.99995) == 0
    assert pick(row, Sampling(temperature=1, top_p=1 - 1e-9), 1 - 1e-8) > 0


def test_draws_depend_on_seed_choice_and_position_alone():
    a, b = sampler(seed=5), sampler(seed=5)
    rows = np.random.default_rng(0).normal(0, 1, (20, V)).astype(np.float32)
    first = []
    for row in rows:
        first.append(a.choose(row))
        a.note(first[-1])
    sampler(seed=5).choose(rows[3])  # another sequence in between changes nothing
    again = []
    for row in rows:
        again.append(b.choose(row))
        b.note(again[-1])
    assert first == again
    assert len({tuple(draws(s, ch, p)) for s in (0, 1, -1, 2**63) for ch in (0, 1) for p in (0, 1, 2)}) == 24


def test_logit_bias_bans_and_forces():
    best = int(ROW.argmax())
    assert sampler(temperature=0, logit_bias={best: -100.0}).choose(ROW) != best
    assert sampler(temperature=1, logit_bias={11: 100.0}).choose(ROW) == 11


def test_presence_and_frequency_count_generated_tokens_only():
    best, second = (int(t) for t in np.argsort(-ROW)[:2])
    gap = float(ROW[best] - ROW[second])
    s = sampler(prompt=[best] * 9, temperature=0, presence_penalty=gap + 0.01)
    assert s.choose(ROW) == best
    s.note(best)
    assert s.choose(ROW) == second
    s = sampler(temperature=0, frequency_penalty=gap / 2 + 0.01)
    s.note(best)
    assert s.choose(ROW) == best
    s.note(best)
    assert s.choose(ROW) == second


def test_repetition_penalty_counts_the_prompt_and_pushes_both_signs_down():
    row = np.full(V, -5.0, np.float32)
    row[3], row[4] = 2.0, 1.5
    assert sampler(prompt=[3], temperature=0, repetition_penalty=2.0).choose(row) == 4
    row[3], row[4] = -1.0, -1.5
    assert sampler(prompt=[3], temperature=0, repetition_penalty=2.0).choose(row) == 4
    assert row[3] == -1.0, "the row itself stays as the model made it"


class Only:
    """A constraint that allows a set."""

    def __init__(self, *tokens):
        self.tokens = tokens
        self.masked = 0

    def allows(self, token):
        return token in self.tokens

    def mask(self, row):
        self.masked += 1
        keep = row[list(self.tokens)]
        row[:] = -np.inf
        row[list(self.tokens)] = keep

    def accept(self, token):
        raise NotImplementedError


def test_a_constraint_gives_the_distribution_of_what_it_allows():
    allowed = [int(t) for t in np.argsort(-ROW)[[1, 3, 5]]]
    seen = np.bincount([sampler(seed=seed).choose(ROW, Only(*allowed)) for seed in range(3000)], minlength=V)
    expected = np.exp(ROW[allowed]) / np.exp(ROW[allowed]).sum()
    assert seen.sum() == seen[allowed].sum()
    assert np.abs(seen[allowed] / 3000 - expected).max() < 0.04


def test_a_constraint_looks_at_the_whole_row_only_when_it_must():
    best = int(ROW.argmax())
    easy, hard = Only(best, 1), Only(1)
    assert sampler(temperature=0).choose(ROW, easy) == best
    assert easy.masked == 0
    assert sampler(temperature=0).choose(ROW, hard) == 1
    with pytest.raises(NoTokenLeft):
        sampler(temperature=0).choose(ROW, Only())


def test_what_is_not_a_number_is_told():
    row = ROW.copy()
    row[8] = np.nan
    with pytest.raises(NotFinite):
        sampler(temperature=1).choose(row)


def test_logprobs_are_of_the_raw_row_and_sum_to_one():
    assert np.exp(log_softmax(ROW)).sum() == pytest.approx(1)
    got = logprob_of(ROW, 7, V, Letters())
    assert sum(np.exp(t.logprob) for t in got.top) == pytest.approx(1)
    assert [t.logprob for t in got.top] == sorted((t.logprob for t in got.top), reverse=True)
    assert got.bytes == [0xC3]
    assert got.logprob == pytest.approx(float(log_softmax(ROW)[7]))
    assert logprob_of(ROW, 1, 0, Letters()).top == []
    ties = logprob_of(np.zeros(V, np.float32), 40, 3, Letters())
    assert [t.token for t in ties.top] == ["A", "B", "C"]
