"""Tokenizers for the tests of engine.chat: one of bytes and words, OpenAI's own vocabulary, the demo model's."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai_harmony
import tokenizers

HARMONY = (
    "<|endoftext|>",
    "<|return|>",
    "<|constrain|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|call|>",
)
HARMONY_WORDS = ("assistant", "analysis", "commentary", "final", "functions", " to=", "json", "Hello", " world")
NANO = Path(__file__).parent.parent / "engine" / "nano" / "hf"


class WordTokenizer:
    """Ids 0 to 255 are bytes, then `words` (longest match first), then `specials`."""

    def __init__(
        self,
        specials: Sequence[str] = HARMONY,
        *,
        words: Sequence[str] = HARMONY_WORDS,
        template: str | None = None,
        ends: Sequence[str] = ("<|endoftext|>", "<|return|>", "<|call|>"),
        bos: str | None = None,
        plain: Sequence[str] = (),
    ) -> None:
        """`plain`: tokens that are matched as one piece and are no control tokens, like Qwen's <think>."""
        self._words = sorted((*words, *plain), key=len, reverse=True)
        self._pieces = [bytes([i]) for i in range(256)] + [w.encode() for w in (*self._words, *specials)]
        self._specials = {s: len(self._pieces) - len(specials) + i for i, s in enumerate(specials)}
        self._ids = {w: 256 + i for i, w in enumerate(self._words)}
        self._chat_template = template
        self._ends = frozenset(self._specials[e] for e in ends if e in self._specials)
        self._bos = None if bos is None else self._specials[bos]

    @property
    def size(self) -> int:
        return len(self._pieces)

    @property
    def end_tokens(self) -> frozenset[int]:
        return self._ends

    @property
    def bos(self) -> int | None:
        return self._bos

    @property
    def eos(self) -> int | None:
        return min(self._ends, default=None)

    @property
    def chat_template(self) -> str | None:
        return self._chat_template

    def special_id(self, text: str) -> int | None:
        return self._specials.get(text)

    def piece(self, token: int, *, special: bool = True) -> bytes:
        if not special and token >= self.size - len(self._specials):
            return b""
        return self._pieces[token]

    def encode(self, text: str, *, special: bool) -> list[int]:
        known = [*(self._specials if special else ()), *self._words]
        cut = re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True))) or "(?!)")
        ids: list[int] = []
        at = 0
        for match in cut.finditer(text):
            ids += text[at : match.start()].encode()
            found = match.group()
            ids.append(self._specials[found] if special and found in self._specials else self._ids[found])
            at = match.end()
        return ids + list(text[at:].encode())


class O200k:
    """OpenAI's harmony vocabulary, out of the oss-harmony package."""

    size = 201_088
    end_tokens = frozenset({199_999, 200_002, 200_012})
    bos = None
    eos = 200_002
    chat_template = None

    def __init__(self) -> None:
        self._encoding = openai_harmony.load_harmony_encoding("HarmonyGptOss")

    def special_id(self, text: str) -> int | None:
        if text not in self._encoding.special_tokens_set:
            return None
        return self._encoding.encode(text, allowed_special="all")[0]

    def piece(self, token: int, *, special: bool = True) -> bytes:
        if token >= 199_998:
            return self._encoding.decode([token]).encode() if special and token <= 200_012 else b""
        return bytes(self._encoding._inner.decode_bytes([token]))  # pyright: ignore[reportAttributeAccessIssue] - no public one

    def encode(self, text: str, *, special: bool) -> list[int]:
        if special:
            return self._encoding.encode(text, allowed_special="all")
        return self._encoding.encode(text, disallowed_special=())

    def text(self, ids: Sequence[int]) -> str:
        return self._encoding.decode(ids)


@functools.cache
def o200k() -> O200k:
    """Half a second to load: once."""
    return O200k()


def _byte_letters() -> dict[str, int]:
    """Byte-level BPE writes each byte as a visible letter; this is the way back."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    return {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(hidden)}


class Nano:
    """The demo model's vocabulary, through another implementation than the engine's."""

    bos = None
    eos = None

    def __init__(self) -> None:
        self._plain = tokenizers.Tokenizer.from_file(str(NANO / "tokenizer.json"))
        self._plain.encode_special_tokens = True
        self._special = tokenizers.Tokenizer.from_file(str(NANO / "tokenizer.json"))
        self._controls: dict[int, Any] = {
            i: t.content for i, t in self._special.get_added_tokens_decoder().items() if t.special
        }
        self._letters = _byte_letters()

    @property
    def size(self) -> int:
        return self._special.get_vocab_size()

    @property
    def end_tokens(self) -> frozenset[int]:
        return frozenset(i for i, t in self._controls.items() if t in ("<|endoftext|>", "<|return|>", "<|call|>"))

    @property
    def chat_template(self) -> str | None:
        return (NANO / "chat_template.jinja").read_text()

    def special_id(self, text: str) -> int | None:
        return next((i for i, t in self._controls.items() if t == text), None)

    def piece(self, token: int, *, special: bool = True) -> bytes:
        if token in self._controls:
            return self._controls[token].encode() if special else b""
        return bytes(self._letters[c] for c in self._special.id_to_token(token) or "")

    def encode(self, text: str, *, special: bool) -> list[int]:
        return (self._special if special else self._plain).encode(text, add_special_tokens=False).ids


@functools.cache
def nano() -> Nano:
    return Nano()


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """What the ids say, control tokens included."""
    return b"".join(tokenizer.piece(i) for i in ids).decode(errors="replace")
