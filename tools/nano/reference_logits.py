"""Owns the reference logits: what an exact fp32 run of the shipped weights gives for about ten prompts.

`python -m tools.nano.reference_logits --run DIR --to engine/nano` writes `reference_logits.npz` and an index;
with `--plain FILE` it also compares llama.cpp (an all-F32 GGUF, F32 cache) and Hugging Face transformers.
"""

# pyright: reportMissingImports=false
# torch, regex and transformers are needed for training only and are not in the project's environment.

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch

from . import tasks, weights
from . import tokenizer as nano_tokenizer
from .model import Nano

SPREAD = 8


def prompts(tok: nano_tokenizer.Tokenizer) -> list[tuple[str, list[int]]]:
    """(what it is, token ids): each is a prompt with part of its answer; two are long enough for the window."""
    out: list[tuple[str, list[int]]] = []
    for family in tasks.FAMILIES:
        example = tasks.make_example(
            family, random.Random(f"reference {family}"), held_out=True, effort="medium", plain=True
        )
        ids = tok.encode(example.prompt + example.target).ids
        out.append((f"{family}, medium effort, whole answer", ids[:-1]))
    first = tasks.make_example("story", random.Random("first"), held_out=True, effort="low", plain=True)
    second = tasks.make_example("sort", random.Random("second"), held_out=True, effort="low", plain=True)
    messages = [*first.messages, {"role": "assistant", "content": first.item.answer}, *second.messages]
    text = tasks.render(messages, (), "low") + second.target
    out.append(("two turns: a story, then sort", tok.encode(text).ids[:-1]))
    return out


def positions(length: int) -> list[int]:
    """About eight positions spread over a prompt, the last one always among them."""
    return sorted({round(i * (length - 1) / (SPREAD - 1)) for i in range(SPREAD)})


def exact(model: Nano, ids: list[int]) -> np.ndarray:
    """fp32 logits of all positions."""
    with torch.no_grad():
        return model.logits(torch.tensor([ids]))[0].numpy()


def compare(model: Nano, items: list[tuple[str, list[int]]], plain: Path, shipped: Path, folder: Path) -> None:
    """Print the greatest difference of each engine from the reference."""
    from transformers import GptOssForCausalLM

    from .greedy import Decoder

    hf = GptOssForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    engines = {
        "llama.cpp F32 file, F32 cache": Decoder(plain, 1, exact_kv=True),
        "llama.cpp shipped file, F32 cache": Decoder(shipped, 1, exact_kv=True),
        "llama.cpp shipped file, F16 cache": Decoder(shipped, 1),
    }
    worst: dict[str, float] = {}
    for _, ids in items:
        want = exact(model, ids)
        with torch.no_grad():
            got = hf(torch.tensor([ids])).logits[0].float().numpy()
        worst["transformers fp32"] = max(worst.get("transformers fp32", 0), float(np.abs(got - want).max()))
        for name, engine in engines.items():
            got = engine.logits(ids, list(range(len(ids))))
            worst[name] = max(worst.get(name, 0), float(np.abs(got - want).max()))
    for name, value in worst.items():
        print(f"max |difference of logits| {name}: {value:.2g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("/tmp/nano-run"))
    parser.add_argument("--to", type=Path, default=Path("engine/nano"))
    parser.add_argument("--plain", type=Path, help="an all-F32 GGUF of the same weights (export --plain)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tok = nano_tokenizer.load(args.run / "tokenizer.json")
    model = weights.load(args.run / "checkpoint.pt")
    items = prompts(tok)
    arrays: dict[str, np.ndarray] = {}
    index = []
    for i, (what, ids) in enumerate(items):
        logits = exact(model, ids)
        where = positions(len(ids))
        arrays[f"tokens_{i}"] = np.array(ids, dtype=np.int32)
        arrays[f"positions_{i}"] = np.array(where, dtype=np.int32)
        arrays[f"logits_{i}"] = logits[where]
        best = np.sort(logits[-1])[-2:]
        index.append(
            {
                "prompt": i,
                "what": what,
                "tokens": len(ids),
                "positions": where,
                "argmax": [int(x) for x in logits[where].argmax(-1)],
                "last_margin": round(float(best[1] - best[0]), 3),
            }
        )
    np.savez_compressed(args.to / "reference_logits.npz", **arrays)  # pyright: ignore[reportArgumentType]
    text = json.dumps(
        {
            "about": "fp32 logits of the shipped weights; logits_i[j] are for position positions_i[j] of tokens_i",
            "prompts": index,
        },
        indent=1,
    )
    (args.to / "reference_logits.json").write_text(text + "\n", encoding="utf-8")
    for line in index:
        print(line["what"], line["tokens"], "tokens, last margin", line["last_margin"])
    if args.plain:
        compare(model, items, args.plain, args.to / "nano.gguf", args.to / "hf")


if __name__ == "__main__":
    main()
