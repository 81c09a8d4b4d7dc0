"""Owns the measured accuracy of the shipped GGUF: held-out requests, greedy decoding, llama.cpp.

`python -m tools.nano.evaluate` prints a Markdown table; an answer counts only if the output has an analysis,
a final message (or the call) that is right, and ends itself.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from pathlib import Path

from tokenizers import Tokenizer

from . import tasks
from .greedy import Decoder

FINAL = re.compile(
    r"<\|channel\|>analysis<\|message\|>.*?<\|end\|><\|start\|>assistant<\|channel\|>final<\|message\|>(.*)<\|return\|>",
    re.DOTALL,
)
CALL = re.compile(
    r"<\|channel\|>analysis<\|message\|>.*?<\|end\|><\|start\|>assistant<\|channel\|>commentary to=functions\.(\w+) "
    r"<\|constrain\|>json<\|message\|>(.*)<\|call\|>",
    re.DOTALL,
)


def held_out(family: str, count: int, effort: str, seed: int = 2026, plain: bool = True) -> list[tasks.Example]:
    """`count` different held-out examples of a family."""
    rng = random.Random(f"{seed} {family} {effort}")
    found: dict[str, tasks.Example] = {}
    for _ in range(count * 400):
        example = tasks.make_example(family, rng, held_out=True, effort=effort, plain=plain)
        found.setdefault(example.item.key, example)
        if len(found) == count:
            break
    return list(found.values())


def right(item: tasks.Item, output: str) -> bool:
    """Whether a whole output is right in form and content."""
    if item.call:
        match = CALL.fullmatch(output)
        return bool(match) and match[1] == item.call[0] and tasks.check(item, match[2])
    match = FINAL.fullmatch(output)
    return bool(match) and tasks.check(item, match[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("engine/nano/nano.gguf"))
    parser.add_argument("--tokenizer", type=Path, default=Path("engine/nano/hf/tokenizer.json"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--efforts", default="medium,low,high")
    parser.add_argument("--families", default=",".join(tasks.FAMILIES))
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--varied", action="store_true", help="mix in instructions, earlier turns, unneeded tools")
    parser.add_argument("--wrong", type=int, default=0, help="show this many wrong outputs of each family")
    args = parser.parse_args()
    tok = Tokenizer.from_file(str(args.tokenizer))
    decoder = Decoder(args.model, args.slots, threads=args.threads)
    efforts = args.efforts.split(",")
    print("| family | " + " | ".join(efforts) + " |\n|---|" + "---|" * len(efforts))
    tokens, start = 0, time.time()
    for family in args.families.split(","):
        cells, shown = [], []
        for effort in efforts:
            examples = held_out(family, args.count, effort, plain=not args.varied)
            outputs = decoder.generate([tok.encode(e.prompt).ids for e in examples], 640)
            tokens += sum(map(len, outputs))
            texts = [tok.decode(o, skip_special_tokens=False) for o in outputs]
            good = [right(e.item, t) for e, t in zip(examples, texts, strict=True)]
            cells.append(f"{sum(good)}/{len(good)} = {100 * sum(good) / len(good):.1f} %")
            shown += [(e, t) for e, t, ok in zip(examples, texts, good, strict=True) if not ok][: args.wrong]
        print(f"| {family} | " + " | ".join(cells) + " |", flush=True)
        for example, text in shown:
            print(f"    {example.messages[-1]['content']!r}\n    got  {text!r}\n    want {example.target!r}")
    print(f"\n{tokens} tokens generated in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
