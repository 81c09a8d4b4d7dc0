"""Generated tokens a second of the llama.cpp engine with 1, 4 and 16 slots.

    python benchmarks/engine_slots.py [--model FILE] [--slots 1 4 16] [--rounds 3] [--json]

In one process, without worker and runner: tokens in, tokens out, greedy, end tokens banned, so that every request
generates exactly `--tokens`. Each engine runs once unmeasured (page cache, thread pool); then the slot counts take
turns, and the best round counts: on a shared machine the slower ones measure the neighbours.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import time
from pathlib import Path

import msgspec

import engine
from engine.backends import llamacpp
from engine.backends.base import Generation, OutputParser, Sampling, TextPiece
from engine.protocol import Channel, Choice, Completion, EngineSettings, Finish, TokenLogprob

DEMO = Path(engine.__file__).parent / "nano" / "nano.gguf"


class Counter:
    """An OutputParser that does nothing: this measures the engine, not the parsing."""

    stopped = False
    in_answer = True
    reasoning_tokens = 0

    def feed(self, token: int, logprob: TokenLogprob | None = None) -> list[TextPiece]:  # noqa: ARG002 - the interface's
        return []

    def so_far(self) -> dict[Channel, str]:
        return {}

    def finish(self, finish: Finish) -> Choice:
        return Choice(index=0, finish=finish)


def make_counter(_choice: int) -> OutputParser:
    return Counter()


class Round(msgspec.Struct):
    slots: int
    tokens_per_s: float
    prompt_tokens_per_s: float
    seconds: float


async def measure(bench: llamacpp.LlamaCpp, *, slots: int, requests: int, prompt: list[int], tokens: int) -> Round:
    banned = dict.fromkeys(bench.tokenizer.end_tokens, -100.0)

    async def one(key: int) -> None:
        generation = Generation(
            key=key,
            prompt=prompt,
            sampling=Sampling(temperature=0, logit_bias=banned),
            max_tokens=tokens,
            stop_tokens=frozenset(),
            make_parser=make_counter,
        )
        async for item in bench.generate(generation):
            if isinstance(item, Completion) and item.usage.completion_tokens != tokens:
                raise RuntimeError(f"request {key} generated {item.usage.completion_tokens} tokens: {item.error}")

    start = time.perf_counter()
    await asyncio.gather(*(one(key) for key in range(requests)))
    seconds = time.perf_counter() - start
    return Round(slots, requests * tokens / seconds, requests * len(prompt) / seconds, seconds)


async def run(args: argparse.Namespace) -> list[list[Round]]:
    engines: list[llamacpp.LlamaCpp] = []
    prompt: list[int] = []
    try:
        for slots in args.slots:
            bench = llamacpp.create()
            engines.append(bench)
            await bench.load(
                EngineSettings(
                    model_path=str(args.model),
                    slots=slots,
                    context=args.prompt + args.tokens,
                    threads=args.threads,
                ),
                lambda _fraction, _phase: None,
            )
            words = bench.tokenizer.encode("The quick brown fox jumps over the lazy dog. " * args.prompt, special=False)
            prompt = words[: args.prompt]
            await measure(bench, slots=slots, requests=slots, prompt=prompt, tokens=args.tokens)
        rounds: list[list[Round]] = [[] for _ in engines]
        for _ in range(args.rounds):
            for i, bench in enumerate(engines):
                slots = args.slots[i]
                rounds[i].append(
                    await measure(
                        bench, slots=slots, requests=max(slots, args.requests), prompt=prompt, tokens=args.tokens
                    )
                )
        return rounds
    finally:
        for bench in engines:
            await bench.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=16, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=128, help="generated tokens of each request")
    parser.add_argument("--threads", type=int, default=0, help="0: as the engine chooses")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.model.is_file():
        parser.error(f"{args.model} is not there")
    with open(os.devnull, "w") as quiet, contextlib.redirect_stderr(quiet):  # noqa: PTH123 - devnull is no path
        rounds = asyncio.run(run(args))
    best = [max(of, key=lambda r: r.tokens_per_s) for of in rounds]
    threads = llamacpp.choose_threads(args.threads, args.model.stat().st_size)
    if args.json:
        facts = {"model": args.model.name, "threads": threads, "machine": platform.machine(), "cores": os.cpu_count()}
        options = {"prompt_tokens": args.prompt, "generated_tokens": args.tokens, "requests": args.requests}
        result = {**facts, **options, "best": msgspec.to_builtins(best), "rounds": msgspec.to_builtins(rounds)}
        json.dump(result, sys.stdout, indent=2)
        print()
        return
    print(f"{args.model.name}, {threads} threads of {os.cpu_count()} cores")
    print(f"{args.requests} requests of {args.prompt} prompt and {args.tokens} generated tokens")
    print(f"{'slots':>5}  {'tok/s':>8}  {'against 1st':>11}  all rounds")
    for one, of in zip(best, rounds, strict=True):
        gain = one.tokens_per_s / best[0].tokens_per_s
        each = ", ".join(f"{r.tokens_per_s:,.0f}" for r in of)
        print(f"{one.slots:>5}  {one.tokens_per_s:>8,.0f}  {gain:>10.2f}x  {each}")


if __name__ == "__main__":
    main()
