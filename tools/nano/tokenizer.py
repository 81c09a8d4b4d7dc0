"""Owns the demo model's byte-level BPE vocabulary and its Hugging Face `tokenizer.json`.

Every merge extends a token that begins with a space or a capital letter. So ordinary words are single tokens,
while digits, and letters in quotes or worked steps, always stay single: the model can copy and compare them.
The words of harmony headers stand without a space, so they are added tokens of their own.
"""

# pyright: reportMissingImports=false
# torch, regex and transformers are needed for training only and are not in the project's environment.

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import regex
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from . import tasks
from .harmony import SPECIAL_TOKENS

# The split pattern that llama.cpp knows as "gpt-4o".
PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = (
    "assistant",
    "analysis",
    "final",
    "commentary",
    "system",
    "developer",
    "functions",
    "user",
    "namespace",
    "json",
)

# Marks of the tool namespace and of JSON that always stand together.
MARKS = (
    ("Ċ", "Ċ"),
    ("/", "/"),
    ("#", "#"),
    ("Ġ", "="),
    ("Ġ=", ">"),
    ("Ġ", "{"),
    ("Ġ", "("),
    ("{", '"'),
    ('"', ":"),
    (",", '"'),
)


def byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for bytes in byte-level BPE."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shown, extra = {b: chr(b) for b in printable}, 0
    for b in range(256):
        if b not in shown:
            shown[b] = chr(256 + extra)
            extra += 1
    return [shown[b] for b in range(256)]


def build(size: int = 1280, samples: int = 12000, seed: int = 1) -> Tokenizer:
    """Make the vocabulary from synthetic text: the commonest words, with all their beginnings."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    splitter = regex.compile(PATTERN)
    families = list(tasks.FAMILIES)
    for i in range(samples):
        example = tasks.make_example(families[i % len(families)], rng)
        text = example.prompt + example.target
        for piece in splitter.findall(text):
            if len(piece) > 2 and regex.fullmatch(r"( [A-Za-z]|[A-Z])[a-z]+", piece):
                counts[piece] += 1
    alphabet = byte_alphabet()
    vocab = {c: i for i, c in enumerate(alphabet)}
    merges: list[tuple[str, str]] = list(MARKS)
    room = size - 256 - len(WORDS) - len(SPECIAL_TOKENS)
    known = set(merges)
    for piece, count in sorted(counts.items(), key=lambda kv: (-kv[1] * len(kv[0]), kv[0])):
        chain = piece.replace(" ", "Ġ")
        new = [(chain[:i], chain[i]) for i in range(1, len(chain)) if (chain[:i], chain[i]) not in known]
        if count >= 12 and len(merges) + len(new) <= room:
            merges += new
            known.update(new)
    for left, right in merges:
        vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [  # pyright: ignore[reportAttributeAccessIssue]
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_tokens([AddedToken(w, special=False, normalized=False) for w in WORDS])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    return tokenizer


def load(path: Path) -> Tokenizer:
    """Read a saved `tokenizer.json`."""
    return Tokenizer.from_file(str(path))
