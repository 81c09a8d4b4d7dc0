"""Owns the training form of the model: gpt-oss in plain PyTorch, with MXFP4 rounding of the experts on demand.

Weights are kept the way GGUF wants them ([experts, out, in], gate and up apart); `export.py` converts.
All experts are computed and weighted (zero outside the top two): at this size that is faster than sorting.
"""

# pyright: reportMissingImports=false
# torch, regex and transformers are needed for training only and are not in the project's environment.

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """The model's dimensions; everything else follows from them."""

    vocab: int
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    experts: int = 4
    top_k: int = 2
    expert_width: int = 128
    window: int = 128
    rope_theta: float = 150000.0
    yarn_factor: float = 32.0
    yarn_original: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    eps: float = 1e-5
    limit: float = 7.0


def mxfp4(w: Tensor) -> Tensor:
    """Round to MXFP4 in blocks of 32 along the last dimension, the same values as `gguf.quants` gives."""
    blocks = w.reshape(*w.shape[:-1], -1, 32)
    top = blocks.abs().amax(-1, keepdim=True)
    _, exponent = torch.frexp(top)
    scale = torch.where(top > 0, torch.ldexp(torch.ones_like(top), exponent - 3), torch.ones_like(top))
    bounds = w.new_tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    values = w.new_tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    scaled = blocks / scale
    rounded = values[torch.bucketize(scaled.abs(), bounds)] * scaled.sign() * scale
    return rounded.reshape(w.shape)


def rope_tables(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin [length, head_dim/2] with YaRN; correction dimensions rounded as ggml rounds them."""
    half = shape.head_dim // 2
    freq = shape.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)

    def dim_of(turns: float) -> float:
        return shape.head_dim * math.log(shape.yarn_original / (turns * 2 * math.pi)) / (2 * math.log(shape.rope_theta))

    low = max(math.floor(dim_of(shape.beta_fast)), 0)
    high = min(math.ceil(dim_of(shape.beta_slow)), shape.head_dim - 1)
    ramp = ((torch.arange(half, dtype=torch.float64) - low) / max(high - low, 0.001)).clamp(0, 1)
    freq = freq / shape.yarn_factor * ramp + freq * (1 - ramp)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * freq[None]
    scale = 0.1 * math.log(shape.yarn_factor) + 1
    return (angle.cos() * scale).float(), (angle.sin() * scale).float()


class Block(nn.Module):
    """One layer: attention with sinks, then the mixture of experts."""

    def __init__(self, shape: Shape, index: int) -> None:
        super().__init__()
        s, h, d = shape, shape.hidden, shape.head_dim
        self.shape = shape
        self.window = s.window if index % 2 == 0 else None

        def matrix(*size: int, gain: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(*size) * size[-1] ** -0.5 * gain)

        def zeros(*size: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*size))

        self.norm1, self.norm2 = nn.Parameter(torch.ones(h)), nn.Parameter(torch.ones(h))
        self.q, self.q_b = matrix(s.heads * d, h), zeros(s.heads * d)
        self.k, self.k_b = matrix(s.kv_heads * d, h), zeros(s.kv_heads * d)
        self.v, self.v_b = matrix(s.kv_heads * d, h), zeros(s.kv_heads * d)
        self.o, self.o_b = matrix(h, s.heads * d, gain=0.5), zeros(h)
        self.sinks = zeros(s.heads)
        self.router, self.router_b = matrix(s.experts, h), zeros(s.experts)
        self.gate, self.gate_b = matrix(s.experts, s.expert_width, h), zeros(s.experts, s.expert_width)
        self.up, self.up_b = matrix(s.experts, s.expert_width, h), zeros(s.experts, s.expert_width)
        self.down, self.down_b = matrix(s.experts, h, s.expert_width, gain=0.5), zeros(s.experts, h)

    def attention(self, x: Tensor, cos: Tensor, sin: Tensor, masks: dict[int | None, Tensor]) -> Tensor:
        s = self.shape
        b, t, _ = x.shape

        def split(y: Tensor, n: int) -> Tensor:
            return y.view(b, t, n, s.head_dim).transpose(1, 2)

        def rotate(y: Tensor) -> Tensor:
            y1, y2 = y.chunk(2, -1)
            return torch.cat((y1 * cos - y2 * sin, y2 * cos + y1 * sin), -1)

        groups = s.heads // s.kv_heads
        q = rotate(split(functional.linear(x, self.q, self.q_b), s.heads)) * s.head_dim**-0.5
        k = rotate(split(functional.linear(x, self.k, self.k_b), s.kv_heads))
        v = split(functional.linear(x, self.v, self.v_b), s.kv_heads)
        q = q.reshape(b * s.kv_heads, groups * t, s.head_dim)
        k, v = k.reshape(b * s.kv_heads, t, s.head_dim), v.reshape(b * s.kv_heads, t, s.head_dim)
        scores = torch.bmm(q.to(v.dtype), k.to(v.dtype).transpose(1, 2)).float().view(b, s.heads, t, t)
        # a sink is one more key whose value is nothing: a column that takes its share of the softmax
        sink = self.sinks.view(1, -1, 1, 1).expand(b, -1, t, 1)
        weights = torch.cat((scores + masks[self.window], sink), -1).softmax(-1)[..., :-1]
        out = torch.bmm(weights.to(v.dtype).reshape(b * s.kv_heads, groups * t, t), v)
        out = out.view(b, s.heads, t, s.head_dim).transpose(1, 2).reshape(b, t, -1)
        return functional.linear(out, self.o, self.o_b)

    def experts(self, x: Tensor, quantize: bool) -> tuple[Tensor, Tensor]:
        s = self.shape
        logits = functional.linear(x.float(), self.router, self.router_b).float()
        best, chosen = logits.topk(s.top_k, -1)
        share = torch.zeros_like(logits).scatter(-1, chosen, best.softmax(-1))
        probs = logits.softmax(-1)
        used = (share.detach() > 0).float().mean(0)
        balance = s.experts / s.top_k * (used * probs.mean(0)).sum()
        gate, up, down = self.gate, self.up, self.down
        if quantize:  # straight through: the gradient passes as if nothing were rounded
            gate = gate + (mxfp4(gate.detach()) - gate.detach())
            up = up + (mxfp4(up.detach()) - up.detach())
            down = down + (mxfp4(down.detach()) - down.detach())
        g = functional.linear(x, gate.flatten(0, 1), self.gate_b.flatten()).clamp(max=s.limit)
        u = functional.linear(x, up.flatten(0, 1), self.up_b.flatten()).clamp(-s.limit, s.limit)
        act = (u + 1) * g * torch.sigmoid(1.702 * g)
        act = (act.view(-1, s.experts, s.expert_width) * share.unsqueeze(-1).to(act.dtype)).flatten(1)
        out = functional.linear(act, down.permute(1, 0, 2).reshape(s.hidden, -1)) + share @ self.down_b
        return out, balance

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.shape.eps) * weight

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, masks: dict[int | None, Tensor], quantize: bool
    ) -> tuple[Tensor, Tensor]:
        x = x + self.attention(self.norm(x, self.norm1), cos, sin, masks)
        y, balance = self.experts(self.norm(x, self.norm2).flatten(0, 1), quantize)
        return x + y.view_as(x), balance


class Nano(nn.Module):
    """The whole model. `forward` gives the normed last hidden states; `head` is applied where it is needed."""

    def __init__(self, shape: Shape, length: int = 512) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Parameter(torch.randn(shape.vocab, shape.hidden) * 0.5)
        self.head = nn.Parameter(torch.randn(shape.vocab, shape.hidden) * 0.02)
        self.norm = nn.Parameter(torch.ones(shape.hidden))
        self.blocks = nn.ModuleList(Block(shape, i) for i in range(shape.layers))
        cos, sin = rope_tables(shape, length)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        far = torch.arange(length)[:, None] - torch.arange(length)[None]
        minus = torch.tensor(-1e9)
        self.register_buffer("full", torch.where(far >= 0, 0.0, minus), persistent=False)
        self.register_buffer("near", torch.where((far >= 0) & (far < shape.window), 0.0, minus), persistent=False)

    def forward(self, tokens: Tensor, quantize: bool = False) -> tuple[Tensor, Tensor]:
        t = tokens.shape[1]
        x = functional.embedding(tokens, self.embed)
        cos, sin = self.cos[:t], self.sin[:t]  # pyright: ignore[reportIndexIssue]
        masks: dict[int | None, Tensor] = {
            None: self.full[:t, :t],  # pyright: ignore[reportIndexIssue]
            self.shape.window: self.near[:t, :t],  # pyright: ignore[reportIndexIssue]
        }
        balance = x.new_zeros(())
        for block in self.blocks:
            x, more = block(x, cos, sin, masks, quantize)
            balance = balance + more
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.shape.eps) * self.norm
        return x, balance

    def logits(self, tokens: Tensor, quantize: bool = False) -> Tensor:
        return functional.linear(self(tokens, quantize)[0], self.head)
