"""Owns the shipped files: one GGUF (MXFP4 experts) and one Hugging Face checkpoint with the same numbers.

`python -m tools.nano.export --run DIR --to engine/nano`
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from . import tokenizer as nano_tokenizer
from . import weights
from .model import Shape

NAME = "gptoss-nano"
CONTEXT = 131072  # 4096 * the YaRN factor
TEMPLATE = Path(__file__).parent / "chat_template.jinja"
END_TOKENS = ("<|return|>", "<|call|>", "<|endoftext|>")


def _id(tok: Tokenizer, text: str) -> int:
    number = tok.token_to_id(text)
    if number is None:
        raise KeyError(text)
    return number


def write_gguf(path: Path, w: dict[str, np.ndarray], shape: Shape, tok: Tokenizer, plain: bool = False) -> None:
    """One GGUF file. `plain` keeps all in F32, for checks against the reference logits."""
    out = gguf.GGUFWriter(str(path), "gpt-oss")
    out.add_name(NAME)
    out.add_basename("nano")
    out.add_size_label("1.5M")
    out.add_description("A tiny trained model of the gpt-oss architecture for demos and tests")
    out.add_context_length(CONTEXT)
    out.add_embedding_length(shape.hidden)
    out.add_block_count(shape.layers)
    out.add_feed_forward_length(shape.expert_width)
    out.add_expert_feed_forward_length(shape.expert_width)
    out.add_expert_count(shape.experts)
    out.add_expert_used_count(shape.top_k)
    out.add_head_count(shape.heads)
    out.add_head_count_kv(shape.kv_heads)
    out.add_key_length(shape.head_dim)
    out.add_value_length(shape.head_dim)
    out.add_sliding_window(shape.window)
    out.add_layer_norm_rms_eps(shape.eps)
    out.add_rope_freq_base(shape.rope_theta)
    out.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    out.add_rope_scaling_factor(shape.yarn_factor)
    out.add_rope_scaling_orig_ctx_len(shape.yarn_original)
    out.add_vocab_size(shape.vocab)
    out.add_file_type(gguf.LlamaFileType.ALL_F32 if plain else gguf.LlamaFileType.MOSTLY_MXFP4_MOE)
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)

    data = json.loads(tok.to_str())
    special = {a["content"]: a["special"] for a in data["added_tokens"]}
    texts = [tok.id_to_token(i) or "" for i in range(tok.get_vocab_size())]
    kinds = {True: gguf.TokenType.CONTROL, False: gguf.TokenType.USER_DEFINED, None: gguf.TokenType.NORMAL}
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-4o")
    out.add_token_list(texts)
    out.add_token_types([kinds[special.get(t)] for t in texts])
    out.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in data["model"]["merges"]])
    out.add_bos_token_id(_id(tok, "<|startoftext|>"))
    out.add_eos_token_id(_id(tok, "<|return|>"))
    out.add_eot_token_id(_id(tok, "<|endoftext|>"))
    out.add_pad_token_id(_id(tok, "<|endoftext|>"))
    out.add_add_bos_token(False)
    out.add_chat_template(TEMPLATE.read_text(encoding="utf-8"))

    def add(name: str, value: np.ndarray, kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16) -> None:
        if plain or kind == gguf.GGMLQuantizationType.F32:
            out.add_tensor(name, value.astype(np.float32))
        elif kind == gguf.GGMLQuantizationType.F16:
            out.add_tensor(name, value.astype(np.float16))
        else:
            packed = gguf.quants.quantize(value, kind)
            if not np.array_equal(gguf.quants.dequantize(packed, kind), value):
                raise ValueError(f"{name}: MXFP4 does not give the same values back")
            out.add_tensor(name, packed, raw_dtype=kind)

    f32, mx = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.MXFP4
    add("token_embd.weight", w["embed"])
    add("output.weight", w["head"])
    add("output_norm.weight", w["norm"], f32)
    for i in range(shape.layers):
        a, b = f"blk.{i}.", f"blocks.{i}."
        add(a + "attn_norm.weight", w[b + "norm1"], f32)
        add(a + "post_attention_norm.weight", w[b + "norm2"], f32)
        for ours, theirs in (("q", "attn_q"), ("k", "attn_k"), ("v", "attn_v"), ("o", "attn_output")):
            add(f"{a}{theirs}.weight", w[b + ours])
            add(f"{a}{theirs}.bias", w[b + ours + "_b"], f32)
        add(a + "attn_sinks.weight", w[b + "sinks"], f32)
        add(a + "ffn_gate_inp.weight", w[b + "router"], f32)
        add(a + "ffn_gate_inp.bias", w[b + "router_b"], f32)
        for part in ("gate", "up", "down"):
            add(f"{a}ffn_{part}_exps.weight", w[b + part], mx)
            add(f"{a}ffn_{part}_exps.bias", w[b + part + "_b"], f32)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def write_checkpoint(folder: Path, w: dict[str, np.ndarray], shape: Shape, tok: Tokenizer) -> None:
    """The Hugging Face folder: `GptOssForCausalLM`, tokenizer, chat template, generation settings."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"model.embed_tokens.weight": w["embed"], "lm_head.weight": w["head"], "model.norm.weight": w["norm"]}
    for i in range(shape.layers):
        a, b = f"model.layers.{i}.", f"blocks.{i}."
        tensors[a + "input_layernorm.weight"] = w[b + "norm1"]
        tensors[a + "post_attention_layernorm.weight"] = w[b + "norm2"]
        for part in "qkvo":
            tensors[f"{a}self_attn.{part}_proj.weight"] = w[b + part]
            tensors[f"{a}self_attn.{part}_proj.bias"] = w[b + part + "_b"]
        tensors[a + "self_attn.sinks"] = w[b + "sinks"]
        tensors[a + "mlp.router.weight"] = w[b + "router"]
        tensors[a + "mlp.router.bias"] = w[b + "router_b"]
        # [experts, out, in] -> [experts, in, out], gate and up in turns
        both = np.stack([w[b + "gate"], w[b + "up"]], axis=2)
        tensors[a + "mlp.experts.gate_up_proj"] = both.reshape(shape.experts, -1, shape.hidden).transpose(0, 2, 1)
        biases = np.stack([w[b + "gate_b"], w[b + "up_b"]], axis=2)
        tensors[a + "mlp.experts.gate_up_proj_bias"] = biases.reshape(shape.experts, -1)
        tensors[a + "mlp.experts.down_proj"] = w[b + "down"].transpose(0, 2, 1)
        tensors[a + "mlp.experts.down_proj_bias"] = w[b + "down_b"]
    halves = {k: np.ascontiguousarray(v.astype(np.float16)) for k, v in tensors.items()}
    save_file(halves, str(folder / "model.safetensors"), metadata={"format": "pt"})
    ends = [_id(tok, t) for t in END_TOKENS]
    yarn = {
        "rope_type": "yarn",
        "factor": shape.yarn_factor,
        "beta_fast": shape.beta_fast,
        "beta_slow": shape.beta_slow,
        "truncate": True,
        "original_max_position_embeddings": shape.yarn_original,
    }
    config = {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "dtype": "float16",
        "torch_dtype": "float16",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.expert_width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "num_local_experts": shape.experts,
        "num_experts_per_tok": shape.top_k,
        "experts_per_token": shape.top_k,
        "sliding_window": shape.window,
        "layer_types": ["full_attention" if i % 2 else "sliding_attention" for i in range(shape.layers)],
        "rope_theta": shape.rope_theta,
        "rope_scaling": yarn,
        "rope_parameters": {**yarn, "rope_theta": shape.rope_theta},
        "max_position_embeddings": CONTEXT,
        "initial_context_length": shape.yarn_original,
        "rms_norm_eps": shape.eps,
        "swiglu_limit": shape.limit,
        "hidden_act": "silu",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.01,
        "use_cache": True,
        "bos_token_id": _id(tok, "<|startoftext|>"),
        "eos_token_id": _id(tok, "<|return|>"),
        "pad_token_id": _id(tok, "<|endoftext|>"),
    }
    generation = {
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": ends,
        "pad_token_id": config["pad_token_id"],
        "do_sample": False,
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|return|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": template,
    }
    for name, value in (
        ("config.json", config),
        ("generation_config.json", generation),
        ("tokenizer_config.json", settings),
        ("special_tokens_map.json", {k: settings[k] for k in ("bos_token", "eos_token", "pad_token")}),
    ):
        (folder / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    tok.save(str(folder / "tokenizer.json"), pretty=False)
    shutil.copyfile(TEMPLATE, folder / "chat_template.jinja")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("/tmp/nano-run"))
    parser.add_argument("--to", type=Path, default=Path("engine/nano"))
    parser.add_argument("--plain", type=Path, help="also write an all-F32 GGUF here, for checks")
    args = parser.parse_args()
    tok = nano_tokenizer.load(args.run / "tokenizer.json")
    model = weights.load(args.run / "checkpoint.pt")
    w = weights.arrays(model)
    args.to.mkdir(parents=True, exist_ok=True)
    part = args.to / "nano.gguf.part"
    write_gguf(part, w, model.shape, tok)
    part.replace(args.to / "nano.gguf")
    write_checkpoint(args.to / "hf", w, model.shape, tok)
    if args.plain:
        write_gguf(args.plain, w, model.shape, tok, plain=True)
    for path in sorted(args.to.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size:>9} {path}")


if __name__ == "__main__":
    main()
