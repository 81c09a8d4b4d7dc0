"""Owns the training run: data stream, schedule by the clock, adaptive mix of families, checkpoints.

Two single-thread processes average their gradients; that stands up better to other jobs than two threads do.
Run it with `python -m tools.nano.train --out DIR --minutes 60`; it resumes from DIR if a checkpoint is there.
`DIR/control.json` (for example `{"end": <unix time>, "decay_minutes": 12, "quantize": true}`) is read while running.
"""

# pyright: reportMissingImports=false
# torch, regex and transformers are needed for training only and are not in the project's environment.

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from torch.multiprocessing.spawn import spawn
from torch.nn import functional

from . import tasks, tokenizer
from .model import Nano, Shape
from .optimizer import Optimizer

FAMILIES = list(tasks.FAMILIES)
# Longer examples are drawn less often, so that no family takes most of the tokens.
WEIGHT = {"story": 0.35, "tool": 0.6, "sort": 2.5}
BALANCE = 0.01


class Row(NamedTuple):
    """One tokenized example: its ids, how many of them are prompt, and its family's number."""

    ids: list[int]
    prompt: int
    family: int


class Batch(NamedTuple):
    """Rows of about the same length; `at` are the flat positions with loss, `want` their next tokens."""

    tokens: torch.Tensor
    at: torch.Tensor
    want: torch.Tensor
    row: torch.Tensor
    family: torch.Tensor


def stream(tok: Tokenizer, rng: random.Random, mix: list[float], tokens: int, pool: int) -> Iterator[Batch]:
    """Endless batches; examples of a pool are sorted by length and cut, then the pieces come in random order."""
    while True:
        rows = []
        for number in rng.choices(range(len(FAMILIES)), mix, k=pool):
            example = tasks.make_example(FAMILIES[number], rng)
            prompt, target = tok.encode(example.prompt).ids, tok.encode(example.target).ids
            rows.append(Row(prompt + target, len(prompt), number))
        rows.sort(key=lambda r: len(r.ids))
        batches, start = [], 0
        while start < len(rows):
            end = start + 1
            while end < len(rows) and (end + 1 - start) * (len(rows[end].ids) - 1) <= tokens:
                end += 1
            if (end - start) * len(rows[end - 1].ids) > tokens * 0.6:  # the last, small piece is dropped
                batches.append(collate(rows[start:end]))
            start = end
        rng.shuffle(batches)
        yield from batches


def collate(rows: list[Row]) -> Batch:
    """Rows to tensors; padding stands at the end, where causal attention never looks."""
    length = max(len(r.ids) for r in rows) - 1
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    at, want, row = [], [], []
    for i, r in enumerate(rows):
        tokens[i, : len(r.ids) - 1] = torch.tensor(r.ids[:-1])
        for position in range(r.prompt - 1, len(r.ids) - 1):
            at.append(i * length + position)
            want.append(r.ids[position + 1])
            row.append(i)
    family = torch.tensor([r.family for r in rows])
    return Batch(tokens, torch.tensor(at), torch.tensor(want), torch.tensor(row), family)


def save(path: Path, model: Nano, optimizer: Optimizer, facts: dict[str, object]) -> None:
    """Write a checkpoint so that an interrupted write never harms the one before."""
    part = path.with_suffix(".part")
    weights = {"model": model.state_dict(), "shape": asdict(model.shape)}
    torch.save({**weights, "optimizer": optimizer.state(), **facts}, part)
    part.replace(path)


def work(rank: int, args: argparse.Namespace) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # tiny attention weights would slow every elementwise step down
    world = args.processes
    if world > 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29611")
        dist.init_process_group("gloo", rank=rank, world_size=world)
    out = Path(args.out)
    tok = tokenizer.load(out / "tokenizer.json")
    torch.manual_seed(args.seed)
    model = Nano(Shape(vocab=tok.get_vocab_size()))
    n = len(FAMILIES)
    # extra sums: wrong and seen examples of each family, tokens, loss, then what only process 0 says
    optimizer = Optimizer(model, rank, world, 2 * n + 5, args.muon_lr, args.adam_lr)
    seen_tokens, error = 0, [1.0] * n
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(saved["model"])
        optimizer.restore(saved["optimizer"])
        seen_tokens, error = saved["tokens"], saved["error"]
    mix = [1.0] * n
    batches = stream(tok, random.Random(f"{args.seed} {rank} {seen_tokens}"), mix, args.tokens, args.pool)
    started = last_log = last_save = time.time()
    control: dict[str, float] = {"end": started + args.minutes * 60, "decay_minutes": args.decay_minutes}
    factor, quantize, stop, tokens_then, loss_sum = 0.01, False, False, seen_tokens, 0.0
    logged = 0
    while not stop:
        for i, name in enumerate(FAMILIES):
            mix[i] = (0.02 + min(0.3, error[i] / max(sum(error), 0.02))) * WEIGHT.get(name, 1.0)
        batch = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            hidden, balance = model(batch.tokens, quantize)
            logits = functional.linear(hidden.flatten(0, 1)[batch.at], model.head).float()
        loss = functional.cross_entropy(logits, batch.want)
        (loss + BALANCE * balance).backward()
        wrong = (logits.argmax(-1) != batch.want).float()
        row_wrong = torch.zeros(len(batch.family)).index_add_(0, batch.row, wrong).clamp(max=1)
        extra = optimizer.extra
        extra.zero_()
        extra[:n].index_add_(0, batch.family, row_wrong)
        extra[n : 2 * n].index_add_(0, batch.family, torch.ones(len(batch.family)))
        extra[2 * n] = batch.tokens.numel()
        extra[2 * n + 1] = loss.detach()
        if rank == 0:
            now = time.time()
            if optimizer.steps % 20 == 0 and (out / "control.json").exists():
                control.update(json.loads((out / "control.json").read_text()))
            left = control["end"] - now
            factor = min(1.0, (optimizer.steps + 1) / 150, max(0.01, left / (60 * control["decay_minutes"])))
            quantize = bool(control.get("quantize", left < 60 * args.quantize_minutes))
            extra[2 * n + 2], extra[2 * n + 3], extra[2 * n + 4] = factor, float(quantize), float(left < 0)
        if world > 1:
            dist.all_reduce(optimizer.flat)
        sums = extra.tolist()
        factor, quantize, stop = sums[2 * n + 2], sums[2 * n + 3] > 0.5, sums[2 * n + 4] > 0.5
        seen_tokens += int(sums[2 * n])
        loss_sum += sums[2 * n + 1] / world
        logged += 1
        for i in range(n):
            keep = 0.995 ** sums[n + i]
            if sums[n + i]:
                error[i] = keep * error[i] + (1 - keep) * sums[i] / sums[n + i]
        optimizer.flat[: -len(extra)] /= world
        optimizer.step(factor)
        if rank == 0:
            now = time.time()
            if now - last_log > 20 or stop:
                rate = (seen_tokens - tokens_then) / (now - last_log)
                shown = " ".join(f"{name} {1 - e:.3f}" for name, e in zip(FAMILIES, error, strict=True))
                line = (
                    f"{time.strftime('%H:%M:%S')} step {optimizer.steps} Mtok {seen_tokens / 1e6:.2f} tok/s {rate:.0f} "
                    f"lr {factor:.3f} q {int(quantize)} loss {loss_sum / max(logged, 1):.4f} | {shown}"
                )
                with (out / "train.log").open("a") as log:
                    log.write(line + "\n")
                last_log, tokens_then, loss_sum, logged = now, seen_tokens, 0.0, 0
            if now - last_save > 90 or stop:
                save(checkpoint, model, optimizer, {"tokens": seen_tokens, "error": error})
                last_save = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="/tmp/nano-run", help="folder for tokenizer, checkpoint and log")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--decay-minutes", type=float, default=50)
    parser.add_argument("--quantize-minutes", type=float, default=30, help="train with MXFP4 rounding at the end")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=2560, help="tokens per step and process")
    parser.add_argument("--pool", type=int, default=1000)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.004)
    parser.add_argument("--vocab", type=int, default=1280)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "tokenizer.json").exists():
        tokenizer.build(args.vocab).save(str(out / "tokenizer.json"))
    os.environ["OMP_NUM_THREADS"] = "1"
    if args.processes > 1:
        spawn(work, (args,), nprocs=args.processes)
    else:
        work(0, args)


if __name__ == "__main__":
    main()
