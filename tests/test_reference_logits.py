"""The engine's logits against fp32 ones kept with the demo model, and proof that a wrong engine would be noticed.

Right answers alone don't show missing attention sinks, a wrong window or a wrong rope: these do.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from engine.backends.base import Sampling
from engine.backends.llamacpp_sampling import log_softmax
from tests.gguf_variants import rewrite
from tests.test_llamacpp import NANO, loaded

PROMPTS = 10
ROUNDED = 0.08
"""Bound on each prompt's median difference for the shipped file: ggml rounds activations to 8 bits before an MXFP4
product, which moves it by 0.02 to 0.04. The smallest fault below, a missing window, moves the long prompt's by 0.13."""

EXACT = 0.005
"""The same for an all-F32 copy: 0.002 at most; flash attention computes with F16 pieces."""


async def medians(path: Path) -> list[float]:
    """Per reference prompt: the median difference of log-probabilities over its positions and all tokens."""
    reference = np.load(NANO / "reference_logits.npz")
    async with loaded(path, slots=4, context=512, batch=64, ubatch=64) as rig:
        sampling = Sampling(temperature=0, logprobs=rig.tokenizer.size)
        spelled = [rig.tokenizer.piece(i).decode("utf-8", errors="replace") for i in range(rig.tokenizer.size)]
        # Pieces that are no whole characters share a spelling: compare where it is unique.
        unique = np.array([i for i, s in enumerate(spelled) if spelled.count(s) == 1])

        async def differences(prompt: int, position: int, logits: np.ndarray) -> np.ndarray:
            ids = reference[f"tokens_{prompt}"][: position + 1].tolist()
            done = await rig.run(ids, sampling=sampling, max_tokens=1)
            got = {t.token: t.logprob for t in done.choices[0].logprobs[0].top}
            expected = log_softmax(logits)
            return np.abs(np.array([got[spelled[i]] for i in unique]) - expected[unique])

        found: list[float] = []
        for prompt in range(PROMPTS):
            rows = zip(reference[f"positions_{prompt}"], reference[f"logits_{prompt}"], strict=True)
            parts = await asyncio.gather(*(differences(prompt, int(at), logits) for at, logits in rows))
            found.append(float(np.median(np.concatenate(parts))))
        return found


def test_one_prompt_is_longer_than_two_windows():
    reference = np.load(NANO / "reference_logits.npz")
    assert max(len(reference[f"tokens_{i}"]) for i in range(PROMPTS)) > 300


async def test_the_shipped_file_is_within_rounding():
    assert max(await medians(NANO / "nano.gguf")) < ROUNDED


async def test_an_all_f32_copy_agrees(tmp_path):
    assert max(await medians(rewrite(NANO / "nano.gguf", tmp_path / "plain.gguf"))) < EXACT


@pytest.mark.parametrize(
    ("fields", "sinks"),
    [
        ({}, False),
        ({"gpt-oss.attention.sliding_window": 4096}, True),
        ({"gpt-oss.rope.scaling.factor": 16.0}, True),
        ({"gpt-oss.rope.freq_base": 10_000.0}, True),
    ],
    ids=["no attention sinks", "no sliding window", "YaRN factor halved", "another rope base"],
)
async def test_a_wrong_engine_would_be_noticed(tmp_path, fields, sinks):
    """The faults are put into the file, which to the reference is the same as an engine that has them."""

    def edit(name: str, values: np.ndarray) -> np.ndarray:
        return values if sinks or "attn_sinks" not in name else np.full_like(values, -1e4)

    assert max(await medians(rewrite(NANO / "nano.gguf", tmp_path / "wrong.gguf", fields=fields, edit=edit))) > ROUNDED
