"""The embedded demo model: complete metadata, equal numbers in both forms, template, tokenizer, task checkers."""

import functools
import json
import random
from pathlib import Path
from typing import Any

import gguf
import jinja2.sandbox
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from tools.nano import harmony, tasks

NANO = Path(__file__).resolve().parents[2] / "engine" / "nano"
LAYERS, EXPERTS = 4, 4


@pytest.fixture(scope="module")
def reader() -> gguf.GGUFReader:
    return gguf.GGUFReader(NANO / "nano.gguf")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(NANO / "hf" / "tokenizer.json"))


@pytest.fixture(scope="module")
def tensors(reader: gguf.GGUFReader) -> dict[str, np.ndarray]:
    """All GGUF tensors as fp32, in numpy's order of dimensions."""
    return {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32).reshape(tuple(t.shape)[::-1])
        for t in reader.tensors
    }


def value(reader: gguf.GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    assert field is not None, name
    return field.contents()


@functools.cache
def template() -> jinja2.Template:
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return env.from_string((NANO / "hf" / "chat_template.jinja").read_text(encoding="utf-8"))


def render(messages: list[dict[str, Any]], **more: Any) -> str:
    return template().render(messages=messages, add_generation_prompt=True, **more)


# ---- files ----------------------------------------------------------------------------------------


def test_all_is_a_few_megabytes() -> None:
    assert sum(p.stat().st_size for p in NANO.rglob("*") if p.is_file()) < 8_000_000


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("general.architecture", "gpt-oss"),
        ("general.name", "gptoss-nano"),
        ("gpt-oss.block_count", LAYERS),
        ("gpt-oss.expert_count", EXPERTS),
        ("gpt-oss.expert_used_count", 2),
        ("gpt-oss.attention.sliding_window", 128),
        ("gpt-oss.context_length", 131072),
        ("gpt-oss.rope.scaling.type", "yarn"),
        ("gpt-oss.rope.scaling.factor", 32.0),
        ("gpt-oss.rope.scaling.original_context_length", 4096),
        ("gpt-oss.rope.freq_base", 150000.0),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "gpt-4o"),
        ("tokenizer.ggml.add_bos_token", False),
    ],
)
def test_gguf_metadata(reader: gguf.GGUFReader, name: str, want: object) -> None:
    assert value(reader, name) == want


def test_context_is_what_yarn_gives(reader: gguf.GGUFReader) -> None:
    config = json.loads((NANO / "hf" / "config.json").read_text())
    yarn = config["rope_scaling"]
    assert yarn["truncate"] is True  # ggml always rounds the correction dimensions
    assert yarn["factor"] * yarn["original_max_position_embeddings"] == value(reader, "gpt-oss.context_length")
    assert config["max_position_embeddings"] == value(reader, "gpt-oss.context_length")
    assert config["layer_types"] == ["sliding_attention", "full_attention"] * (LAYERS // 2)


def test_expert_matrices_are_mxfp4(reader: gguf.GGUFReader) -> None:
    kinds = {t.name: t.tensor_type for t in reader.tensors}
    experts = [n for n in kinds if n.endswith("_exps.weight")]
    assert len(experts) == 3 * LAYERS
    assert {kinds[n] for n in experts} == {gguf.GGMLQuantizationType.MXFP4}
    assert sum(n.endswith("attn_sinks.weight") for n in kinds) == LAYERS


def test_gguf_and_safetensors_hold_the_same_numbers(tensors: dict[str, np.ndarray]) -> None:
    theirs = {k: v.astype(np.float32) for k, v in load_file(NANO / "hf" / "model.safetensors").items()}
    seen = 0

    def same(ours: str, want: np.ndarray) -> None:
        nonlocal seen
        seen += 1
        assert np.array_equal(tensors[ours], want), ours

    same("token_embd.weight", theirs["model.embed_tokens.weight"])
    same("output.weight", theirs["lm_head.weight"])
    same("output_norm.weight", theirs["model.norm.weight"])
    for i in range(LAYERS):
        a, b = f"blk.{i}.", f"model.layers.{i}."
        same(a + "attn_norm.weight", theirs[b + "input_layernorm.weight"])
        same(a + "post_attention_norm.weight", theirs[b + "post_attention_layernorm.weight"])
        same(a + "attn_sinks.weight", theirs[b + "self_attn.sinks"])
        for ours, part in (("attn_q", "q"), ("attn_k", "k"), ("attn_v", "v"), ("attn_output", "o")):
            for end in ("weight", "bias"):
                same(f"{a}{ours}.{end}", theirs[f"{b}self_attn.{part}_proj.{end}"])
        for end in ("weight", "bias"):
            same(f"{a}ffn_gate_inp.{end}", theirs[f"{b}mlp.router.{end}"])
        both, bias = theirs[b + "mlp.experts.gate_up_proj"], theirs[b + "mlp.experts.gate_up_proj_bias"]
        for j, part in enumerate(("gate", "up")):
            same(f"{a}ffn_{part}_exps.weight", both[..., j::2].transpose(0, 2, 1))
            same(f"{a}ffn_{part}_exps.bias", bias[..., j::2])
        same(a + "ffn_down_exps.weight", theirs[b + "mlp.experts.down_proj"].transpose(0, 2, 1))
        same(a + "ffn_down_exps.bias", theirs[b + "mlp.experts.down_proj_bias"])
    assert seen == len(tensors)


# ---- tokenizer ------------------------------------------------------------------------------------


def test_vocabularies_agree(reader: gguf.GGUFReader, tokenizer: Tokenizer) -> None:
    tokens = value(reader, "tokenizer.ggml.tokens")
    kinds = value(reader, "tokenizer.ggml.token_type")
    assert tokens == [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    for text in harmony.SPECIAL_TOKENS:
        assert kinds[tokens.index(text)] == gguf.TokenType.CONTROL
    ids = {k: value(reader, f"tokenizer.ggml.{k}_token_id") for k in ("bos", "eos", "eot", "padding")}
    assert tokens[ids["bos"]] == "<|startoftext|>"
    assert tokens[ids["eos"]] == "<|return|>"
    assert tokens[ids["eot"]] == tokens[ids["padding"]] == "<|endoftext|>"
    ends = json.loads((NANO / "hf" / "generation_config.json").read_text())["eos_token_id"]
    assert {tokens[i] for i in ends} == {"<|return|>", "<|call|>", "<|endoftext|>"}


@pytest.mark.parametrize(
    "text",
    ["Hello, world!", 'Reverse "banana".', "naïve — 漢字 🙂\n\n\ttab", "12345 + 67 = ?", '{"a":12,"b":30}', " x  y "],
)
def test_tokenizer_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_letters_in_quotes_and_digits_are_single_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode('Reverse "strawberry"').tokens[-11:] == [*"strawberry", '"']
    assert tokenizer.encode("123+45").tokens == [*"123+45"]


# ---- chat template --------------------------------------------------------------------------------


def test_template_is_the_same_in_all_places(reader: gguf.GGUFReader) -> None:
    text = (NANO / "hf" / "chat_template.jinja").read_text(encoding="utf-8")
    assert value(reader, "tokenizer.chat_template") == text
    assert json.loads((NANO / "hf" / "tokenizer_config.json").read_text())["chat_template"] == text


@pytest.mark.parametrize("family", list(tasks.FAMILIES))
@pytest.mark.parametrize("effort", tasks.EFFORTS)
def test_template_renders_what_was_trained(family: str, effort: str) -> None:
    rng = random.Random(f"{family} {effort}")
    for _ in range(40):
        example = tasks.make_example(family, rng, effort=effort)
        if not example.item.tools and "# Tools" in example.prompt:
            continue  # unneeded tools were mixed in; the tool family covers the namespace
        got = render(list(example.messages), tools=list(example.item.tools), reasoning_effort=effort)
        assert got == example.prompt


def test_template_copes_with_openai_forms() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    text = render(
        [
            {"role": "system", "content": "One."},
            {"role": "developer", "content": [{"type": "text", "text": "Two."}]},
            {"role": "user", "content": "1+2"},
            {"role": "assistant", "content": None, "tool_calls": [call, call]},
            {"role": "tool", "tool_call_id": "c", "content": "3"},
            {"role": "assistant", "content": "3", "tool_calls": None},
            {"role": "user", "content": None},
        ],
        reasoning_effort=None,
    )
    assert "Reasoning: medium\n" in text
    assert "# Instructions\n\nOne.\n\nTwo.<|end|>" in text
    assert text.count('commentary to=functions.add <|constrain|>json<|message|>{"a": 1, "b": 2}<|call|>') == 2
    assert "<|start|>functions.add to=assistant<|channel|>commentary<|message|>3<|end|>" in text
    assert "<|start|>assistant<|channel|>final<|message|>3<|end|>" in text
    assert "None" not in text
    assert text.endswith("<|start|>user<|message|><|end|><|start|>assistant")


def test_template_has_no_empty_developer_message_and_no_date() -> None:
    text = render([{"role": "user", "content": "hi"}])
    assert "developer" not in text
    assert "date" not in text.lower()


# ---- tasks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(tasks.FAMILIES))
def test_the_right_answer_passes_and_a_wrong_one_fails(family: str) -> None:
    rng = random.Random(family)
    for held_out in (False, True):
        item = tasks.draw(family, rng, held_out)
        assert item.held_out is held_out
        assert tasks.check(item, item.answer)
        assert not tasks.check(item, item.answer[:-2] + "7")


def test_same_seed_same_example() -> None:
    for family in tasks.FAMILIES:
        assert tasks.make_example(family, random.Random(4)) == tasks.make_example(family, random.Random(4))


@pytest.mark.parametrize(
    ("steps", "want"),
    [
        (tasks.add_steps(97, 64), "097+064:7+4+0=11,9+6+1=16,0+0+1=01>0161"),
        (tasks.sub_steps(161, 64), "161-064:1-4-0=7b1,6-6-1=9b1,1-0-1=0b0>097"),
        (tasks.reverse_steps("zgd"), "1z2g3d|3d2g1z"),
        (tasks.upper_steps("ab"), "1aA2bB"),
        (tasks.count_steps("rar", "r"), "r:1rr+1,2ar-1,3rr+2"),
        (tasks.sort_steps([41, 5, 47]), "41,05,47|0:05;1;2;3;4:41,47;5;6;7;8;9"),
    ],
)
def test_worked_steps(steps: str, want: str) -> None:
    assert steps == want


# ---- reference logits -----------------------------------------------------------------------------


def test_reference_logits_are_complete(tokenizer: Tokenizer) -> None:
    index = json.loads((NANO / "reference_logits.json").read_text())["prompts"]
    with np.load(NANO / "reference_logits.npz") as data:
        assert len(index) >= 10
        assert max(p["tokens"] for p in index) > 300
        for p in index:
            i, logits = p["prompt"], data[f"logits_{p['prompt']}"]
            assert logits.dtype == np.float32
            assert logits.shape == (len(p["positions"]), tokenizer.get_vocab_size())
            assert data[f"positions_{i}"].tolist() == p["positions"]
            assert p["positions"][-1] == len(data[f"tokens_{i}"]) - 1 == p["tokens"] - 1
            assert logits.argmax(-1).tolist() == p["argmax"]
