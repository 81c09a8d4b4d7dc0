"""Writes a GGUF with the true shapes of gpt-oss-20b and random weights: memory and speed are the real model's, answers
are noise.

    python tools/shaped_model.py FILE [--layers 24]

Attention and embeddings are Q8_0, experts MXFP4, the rest F32: 12.1 GB with all 24 layers. The vocabulary is the real
one, as far as single tokens can be spelled. Needs as much free memory as the file is long.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter, TokenType

EMBEDDING = 2880
HEADS, KV_HEADS, HEAD = 64, 8, 64
EXPERTS, USED = 32, 4
VOCABULARY = 201_088
LAYERS = 24

BLOCK = 32
BYTES_OF_BLOCK = {Kind.Q8_0: 34, Kind.MXFP4: 17}

SPECIALS = {
    199998: "<|startoftext|>",
    199999: "<|endoftext|>",
    200002: "<|return|>",
    200003: "<|constrain|>",
    200005: "<|channel|>",
    200006: "<|start|>",
    200007: "<|end|>",
    200008: "<|message|>",
    200012: "<|call|>",
    200018: "<|endofprompt|>",
}

CHAT = "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}<|start|>assistant"


class Noise:
    """Blocks of random weights out of one pool: writing twelve gigabytes must not take twelve minutes."""

    POOL = 1 << 26

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._pool = self._random.integers(0, 256, self.POOL, dtype=np.uint8)

    def quantized(self, shape: tuple[int, ...], kind: Kind) -> np.ndarray:
        """Rows of blocks with a small common scale."""
        size = BYTES_OF_BLOCK[kind]
        row = shape[-1] // BLOCK * size
        rows = int(np.prod(shape[:-1]))
        data = np.resize(self._pool, rows * row).reshape(-1, size)
        if kind is Kind.Q8_0:
            data[:, :2] = np.frombuffer(np.float16(0.0004).tobytes(), dtype=np.uint8)
        else:
            data[:, 0] = 120  # 2**(120-127): an exponent, not a number
        return data.reshape(*shape[:-1], row)

    def plain(self, *shape: int, around: float = 0.0) -> np.ndarray:
        return (around + 0.02 * self._random.standard_normal(shape)).astype(np.float32)


def spellings() -> list[str]:
    """Each token as GGUF spells it; those that are no text by themselves get a name of their own."""
    from openai_harmony import HarmonyEncodingName, load_harmony_encoding

    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    byte_names = _byte_names()
    seen: set[str] = set()
    out: list[str] = []
    for token in range(VOCABULARY):
        text = SPECIALS.get(token, "")
        if not text and token < 199_998:
            plain = encoding.decode([token])
            text = "" if "\ufffd" in plain else "".join(byte_names[b] for b in plain.encode())
        if not text or text in seen:
            text = f"<|token_{token}|>"
        seen.add(text)
        out.append(text)
    return out


def _byte_names() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    names = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in names)
    return names | {byte: chr(256 + i) for i, byte in enumerate(others)}


def write(path: Path, layers: int = LAYERS) -> None:
    """The whole file."""
    noise = Noise()
    out = GGUFWriter(str(path), "gpt-oss")
    out.add_name(f"gpt-oss-20b shape, random weights, {layers} layers")
    out.add_context_length(131_072)
    out.add_embedding_length(EMBEDDING)
    out.add_block_count(layers)
    out.add_feed_forward_length(EMBEDDING)
    out.add_expert_feed_forward_length(EMBEDDING)
    out.add_expert_count(EXPERTS)
    out.add_expert_used_count(USED)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KV_HEADS)
    out.add_key_length(HEAD)
    out.add_value_length(HEAD)
    out.add_sliding_window(128)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_freq_base(150_000.0)
    out.add_string("gpt-oss.rope.scaling.type", "yarn")
    out.add_float32("gpt-oss.rope.scaling.factor", 32.0)
    out.add_uint32("gpt-oss.rope.scaling.original_context_length", 4096)
    out.add_vocab_size(VOCABULARY)
    out.add_file_type(38)
    out.add_quantization_version(2)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-4o")
    tokens = spellings()
    out.add_token_list(tokens)
    out.add_token_types([TokenType.CONTROL if token in SPECIALS else TokenType.NORMAL for token in range(VOCABULARY)])
    out.add_token_merges(["\u0120 t", "h e"])
    out.add_bos_token_id(199_998)
    out.add_eos_token_id(200_002)
    out.add_eot_token_id(200_007)
    out.add_pad_token_id(199_999)
    out.add_add_bos_token(False)
    out.add_chat_template(CHAT)

    def quantized(name: str, kind: Kind, *shape: int) -> None:
        out.add_tensor(name, noise.quantized(shape, kind), raw_dtype=kind)

    quantized("token_embd.weight", Kind.Q8_0, VOCABULARY, EMBEDDING)
    quantized("output.weight", Kind.Q8_0, VOCABULARY, EMBEDDING)
    out.add_tensor("output_norm.weight", noise.plain(EMBEDDING, around=1.0))
    for i in range(layers):
        block = f"blk.{i}"
        out.add_tensor(f"{block}.attn_norm.weight", noise.plain(EMBEDDING, around=1.0))
        out.add_tensor(f"{block}.post_attention_norm.weight", noise.plain(EMBEDDING, around=1.0))
        for name, rows in (("q", HEADS * HEAD), ("k", KV_HEADS * HEAD), ("v", KV_HEADS * HEAD)):
            quantized(f"{block}.attn_{name}.weight", Kind.Q8_0, rows, EMBEDDING)
            out.add_tensor(f"{block}.attn_{name}.bias", noise.plain(rows))
        quantized(f"{block}.attn_output.weight", Kind.Q8_0, EMBEDDING, HEADS * HEAD)
        out.add_tensor(f"{block}.attn_output.bias", noise.plain(EMBEDDING))
        out.add_tensor(f"{block}.attn_sinks.weight", noise.plain(HEADS))
        out.add_tensor(f"{block}.ffn_gate_inp.weight", noise.plain(EXPERTS, EMBEDDING))
        out.add_tensor(f"{block}.ffn_gate_inp.bias", noise.plain(EXPERTS))
        for name in ("gate", "up", "down"):
            quantized(f"{block}.ffn_{name}_exps.weight", Kind.MXFP4, EXPERTS, EMBEDDING, EMBEDDING)
            out.add_tensor(f"{block}.ffn_{name}_exps.bias", noise.plain(EXPERTS, EMBEDDING))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="A GGUF of gpt-oss-20b's shape with random weights.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--layers", type=int, default=LAYERS)
    options = parser.parse_args()
    write(options.file, options.layers)
    print(f"{options.file}: {options.file.stat().st_size / 1e9:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
