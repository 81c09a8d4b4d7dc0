"""Makes the sample batches and their expected answers, and checks the answers of a run against them.

    python tools/make_batches.py                          write batches/*.jsonl
    python tools/make_batches.py --check results/demo_10-1 [--at-least 0.95]

Requests are held-out ones: the demo model has never seen them in training. The same seed makes the same files.
Expected answers stand beside a batch in <name>.expected.jsonl: custom_id, kind and
  exact     the answer is this text
  story     the answer contains these words and ends as stories do
  call      the answer is a call of this function with these arguments
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script: tools is not installed

from tools.nano import tasks  # noqa: E402  (the path must be set first)

SEED = 20261
MAX_TOKENS = 600
"""Far above the longest analysis and answer of the demo model, so that only an error is cut."""

EFFORTS: dict[str, tuple[str, ...]] = {
    "facts": ("low", "medium", "high"),
    "story": ("medium", "low"),
}
"""Efforts by family; the rest use all but low, without which a very small model can't work things out."""

DEMO = ("add", "sub", "reverse", "facts", "sort", "count", "upper", "add", "facts", "story")
TEN = ("sort", "add", "story", "upper", "sub", "reverse", "count", "facts", "tool", "add")
HUNDRED = tuple(
    family
    for family, count in {
        "add": 15,
        "sub": 15,
        "reverse": 12,
        "sort": 12,
        "count": 12,
        "upper": 10,
        "facts": 10,
        "story": 8,
        "tool": 6,
    }.items()
    for _ in range(count)
)


def make(families: tuple[str, ...], seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Batch lines and expected answers, in the same order; no request twice."""
    rng = random.Random(seed)
    lines: list[dict[str, Any]] = []
    expected: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    numbers: Counter[str] = Counter()
    for family in families:
        efforts = EFFORTS.get(family, ("medium", "high"))
        effort = efforts[numbers[family] % len(efforts)]
        while True:
            example = tasks.make_example(family, rng, held_out=True, effort=effort, plain=True)
            if (family, example.item.key) not in seen:
                break
        seen.add((family, example.item.key))
        numbers[family] += 1
        custom_id = f"{family}-{numbers[family]}"
        body: dict[str, Any] = {
            "model": "nano",
            "messages": [_message(m) for m in example.messages],
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            "reasoning_effort": effort,
        }
        if example.item.tools:
            body["tools"] = list(example.item.tools)
        lines.append({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body})
        expected.append({"custom_id": custom_id, **_expected(example.item)})
    return lines, expected


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's form has the arguments of a call as text; the training data also as an object."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    calls = [{**c, "function": {**c["function"], "arguments": _text(c["function"]["arguments"])}} for c in calls]
    return {**message, "tool_calls": calls}


def _text(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, separators=(",", ":"))


def _expected(item: tasks.Item) -> dict[str, Any]:
    if item.call:
        return {"kind": "call", "expected": {"name": item.call[0], "arguments": json.loads(item.call[1])}}
    if item.family == "story":
        name, colour, thing, place = item.key.split("|")
        return {"kind": "story", "expected": [name, f"{colour} {thing}", place]}
    return {"kind": "exact", "expected": item.answer}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


# --- checking ---------------------------------------------------------------------------------------------------------


def judge(expected: dict[str, Any], message: dict[str, Any]) -> bool:
    """Whether a message of a chat completion is the expected answer."""
    content = (message.get("content") or "").strip()
    wanted = expected["expected"]
    if expected["kind"] == "call":
        calls = message.get("tool_calls") or []
        if len(calls) != 1 or calls[0]["function"]["name"] != wanted["name"]:
            return False
        try:
            return json.loads(calls[0]["function"]["arguments"]) == wanted["arguments"]
        except json.JSONDecodeError:
            return False
    if expected["kind"] == "story":
        return all(word in content for word in wanted) and content.endswith("The end.")
    return content == wanted


def check(folder: Path, expected_path: Path | None) -> tuple[int, int, list[str]]:
    """(right, total, a sentence for each wrong one) of a run's output.jsonl."""
    if expected_path is None:
        source = Path(json.loads((folder / "run.json").read_text(encoding="utf-8"))["input_path"])
        expected_path = source.with_suffix(".expected.jsonl")
    wanted = [json.loads(line) for line in expected_path.read_text(encoding="utf-8").splitlines()]
    answers: dict[str, dict[str, Any]] = {}
    twice: list[str] = []
    with (folder / "output.jsonl").open(encoding="utf-8") as f:
        for line in f:
            record = json.loads(line)
            if record["custom_id"] in answers:
                twice.append(f"{record['custom_id']}: answered twice")
            answers[record["custom_id"]] = record["response"]["body"]["choices"][0]["message"]
    wrong = list(twice)
    right = 0
    for row in wanted:
        message = answers.get(row["custom_id"])
        if message is None:
            wrong.append(f"{row['custom_id']}: no answer")
        elif judge(row, message):
            right += 1
        else:
            got = message.get("tool_calls") or message.get("content")
            wrong.append(f"{row['custom_id']}: expected {row['expected']!r}, got {got!r}")
    return right, len(wanted), wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the sample batches, or check a run of one.")
    parser.add_argument("--out", type=Path, default=ROOT / "batches")
    parser.add_argument("--check", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--expected", type=Path, help="default: beside the run's input")
    parser.add_argument("--at-least", type=float, default=1.0, help="share of right answers below which it exits 1")
    options = parser.parse_args(arguments)
    if options.check is None:
        options.out.mkdir(parents=True, exist_ok=True)
        shuffled = list(HUNDRED)
        random.Random(SEED).shuffle(shuffled)
        for name, families, seed in (
            ("demo_10", DEMO, SEED),
            ("batch_10", TEN, SEED + 1),
            ("batch_100", tuple(shuffled), SEED + 2),
        ):
            lines, expected = make(families, seed)
            write(options.out / f"{name}.jsonl", lines)
            write(options.out / f"{name}.expected.jsonl", expected)
            print(f"{options.out / name}.jsonl: {len(lines)} requests")
        return 0
    try:
        right, total, wrong = check(options.check, options.expected)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as e:
        print(f"{options.check} can't be checked: {type(e).__name__}: {e}", file=sys.stderr)
        return 2
    print(f"{right}/{total} right")
    for sentence in wrong:
        print(f"  {sentence}")
    return 0 if total and right / total >= options.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
