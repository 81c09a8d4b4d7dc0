"""A gpt-oss model of a megabyte with random weights: slots, caches and errors of llama.cpp without any meaning."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

SPECIALS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|return|>",
    "<|constrain|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|call|>",
)
MERGES = (("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"), ("Ġ", "t"))
LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, EXPERTS, WIDTH = 4, 64, 4, 2, 32, 4, 64


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level BPE vocabulary."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters, n = {}, 0
    for byte in range(256):
        if byte in plain:
            letters[byte] = chr(byte)
        else:
            letters[byte] = chr(256 + n)
            n += 1
    return [letters[byte] for byte in range(256)]


def write_tiny(path: Path, *, seed: int = 0, endless: bool = False) -> Path:
    """Write the model; equal seeds give equal files. `endless`: markup and end tokens are never the likeliest."""
    random = np.random.default_rng(seed)
    tokens = [*byte_letters(), *(a + b for a, b in MERGES), *SPECIALS]
    first_special = len(tokens) - len(SPECIALS)
    types = [gguf.TokenType.NORMAL] * first_special + [gguf.TokenType.CONTROL] * len(SPECIALS)
    w = gguf.GGUFWriter(str(path), "gpt-oss")
    w.add_name("tiny random gpt-oss")
    w.add_context_length(4096)
    w.add_embedding_length(HIDDEN)
    w.add_block_count(LAYERS)
    w.add_feed_forward_length(WIDTH)
    w.add_expert_feed_forward_length(WIDTH)
    w.add_expert_count(EXPERTS)
    w.add_expert_used_count(2)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_key_length(HEAD_DIM)
    w.add_value_length(HEAD_DIM)
    w.add_rope_dimension_count(HEAD_DIM)
    w.add_rope_freq_base(150000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_sliding_window(128)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-4o")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges([f"{a} {b}" for a, b in MERGES])
    w.add_eos_token_id(tokens.index("<|return|>"))
    w.add_add_bos_token(False)

    def add(name: str, *shape: int, scale: float) -> None:
        values = (random.standard_normal(shape) * scale).astype(np.float32)
        if endless and name == "output.weight":
            values[first_special:] = values[0]  # equal logits: the lower id wins
        w.add_tensor(name, values)

    def ones(name: str, n: int) -> None:
        w.add_tensor(name, np.ones(n, np.float32))

    add("token_embd.weight", len(tokens), HIDDEN, scale=1.0)
    add("output.weight", len(tokens), HIDDEN, scale=0.5)
    ones("output_norm.weight", HIDDEN)
    for i in range(LAYERS):
        ones(f"blk.{i}.attn_norm.weight", HIDDEN)
        ones(f"blk.{i}.post_attention_norm.weight", HIDDEN)
        for name, n in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            add(f"blk.{i}.attn_{name}.weight", n * HEAD_DIM, HIDDEN, scale=0.2)
            add(f"blk.{i}.attn_{name}.bias", n * HEAD_DIM, scale=0.1)
        add(f"blk.{i}.attn_output.weight", HIDDEN, HEADS * HEAD_DIM, scale=0.2)
        add(f"blk.{i}.attn_output.bias", HIDDEN, scale=0.1)
        add(f"blk.{i}.attn_sinks.weight", HEADS, scale=1.0)
        add(f"blk.{i}.ffn_gate_inp.weight", EXPERTS, HIDDEN, scale=0.3)
        add(f"blk.{i}.ffn_gate_inp.bias", EXPERTS, scale=0.1)
        for name in ("gate", "up", "down"):
            out, into = (HIDDEN, WIDTH) if name == "down" else (WIDTH, HIDDEN)
            add(f"blk.{i}.ffn_{name}_exps.weight", EXPERTS, out, into, scale=0.2)
            add(f"blk.{i}.ffn_{name}_exps.bias", EXPERTS, out, scale=0.1)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


class PlainParser:
    """The simplest OutputParser: every token is answer text, stop strings over whole text."""

    def __init__(self, choice: int, pieces, *, stop: tuple[bytes, ...] = (), answer_from: int = 0) -> None:
        self.choice, self.pieces, self.stop = choice, pieces, stop
        self.answer_from = answer_from
        self.tokens: list[int] = []
        self.logprobs: list = []
        self.text = b""

    def feed(self, token, logprob=None):
        from engine.backends.base import TextPiece
        from engine.protocol import Channel

        self.tokens.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        piece = self.pieces(token, special=False)
        self.text += piece
        return [TextPiece(Channel.ANSWER, piece.decode("latin-1"))] if piece else []

    def so_far(self):
        from engine.protocol import Channel

        return {Channel.ANSWER: self.text.decode("latin-1")}

    @property
    def stopped(self) -> bool:
        return any(stop in self.text for stop in self.stop)

    @property
    def in_answer(self) -> bool:
        return len(self.tokens) >= self.answer_from

    def finish(self, finish):
        from engine.protocol import Choice

        return Choice(
            index=self.choice,
            finish=finish,
            content=self.text.decode("utf-8", errors="replace"),
            logprobs=self.logprobs or None,
            raw=",".join(map(str, self.tokens)),
        )

    @property
    def reasoning_tokens(self) -> int:
        return 0
