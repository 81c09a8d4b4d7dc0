"""Owns the optimizer: Muon for matrices (orthogonalised momentum, shared out over processes), Adam for the rest."""

# pyright: reportMissingImports=false
# torch, regex and transformers are needed for training only and are not in the project's environment.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .model import Nano


def orthogonalise(x: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz: push all singular values of each matrix [n, rows, cols] (rows <= cols) towards 1."""
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = x.bfloat16()
    for _ in range(steps):
        a = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.float()


class Optimizer:
    """All gradients live in one flat buffer, so averaging over processes is one call.

    `extra` are a few numbers at the end of that buffer that are summed over the processes along with it.
    """

    def __init__(self, model: Nano, rank: int, world: int, extra: int, muon_lr: float, adam_lr: float) -> None:
        self.model, self.rank, self.world = model, rank, world
        self.muon_lr, self.adam_lr = muon_lr, adam_lr
        params = list(model.named_parameters())
        size = sum(p.numel() for _, p in params)
        self.flat = torch.zeros(size + extra)
        self.extra = self.flat[size:]
        self.small: list[tuple[Tensor, Tensor]] = []
        groups: dict[tuple[int, int], list[tuple[Tensor, Tensor, bool]]] = {}
        offset = 0
        for name, p in params:
            grad = self.flat[offset : offset + p.numel()].view_as(p)
            p.grad = grad
            offset += p.numel()
            matrix = p.dim() >= 2 and not name.startswith(("embed", "head")) and not name.endswith(("_b", "router"))
            if not matrix:
                self.small.append((p, grad))
                continue
            for i in range(p.shape[0] if p.dim() == 3 else 1):
                w, g = (p.data[i], grad[i]) if p.dim() == 3 else (p.data, grad)
                flip = w.shape[0] > w.shape[1]
                key = (w.shape[1], w.shape[0]) if flip else (w.shape[0], w.shape[1])
                groups.setdefault(key, []).append((w, g, flip))
        self.groups = list(groups.values())
        self.momentum = [torch.zeros(len(g), *key) for key, g in groups.items()]
        self.m = [torch.zeros_like(p) for p, _ in self.small]
        self.v = [torch.zeros_like(p) for p, _ in self.small]
        self.steps = 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep."""
        return {"momentum": self.momentum, "m": self.m, "v": self.v, "steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.momentum, self.m, self.v = state["momentum"], state["m"], state["v"]
        self.steps = state["steps"]

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update from the averaged gradients; `factor` is the schedule's share of the learning rates."""
        self.steps += 1
        size = self.flat.numel() - self.extra.numel()
        norm = self.flat[:size].norm()
        if norm > 1:
            self.flat[:size] /= norm
        updates = []
        for group, momentum in zip(self.groups, self.momentum, strict=True):
            grad = torch.stack([g.T if flip else g for _, g, flip in group])
            momentum.lerp_(grad, 0.05)
            look = grad.lerp(momentum, 0.95)
            share = -(-len(group) // self.world)
            update = torch.zeros_like(look)
            mine = slice(self.rank * share, (self.rank + 1) * share)
            if look[mine].shape[0]:
                update[mine] = orthogonalise(look[mine])
            updates.append(update)
        if self.world > 1:
            joined = torch.cat([u.flatten() for u in updates])
            torch.distributed.all_reduce(joined)
            parts = joined.split([u.numel() for u in updates])
            updates = [p.view_as(u) for p, u in zip(parts, updates, strict=True)]
        rate = self.muon_lr * factor
        for group, update in zip(self.groups, updates, strict=True):
            for (w, _, flip), u in zip(group, update, strict=True):
                w.mul_(1 - 0.05 * rate)
                w.add_(u.T if flip else u, alpha=-rate * max(1.0, w.shape[0] / w.shape[1]) ** 0.5)
        rate = self.adam_lr * factor * (1 - 0.98**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        for (p, grad), m, v in zip(self.small, self.m, self.v, strict=True):
            m.lerp_(grad, 0.1)
            v.mul_(0.98).addcmul_(grad, grad, value=0.02)
            p.data.addcdiv_(m, v.sqrt().add_(1e-9), value=-rate)
        self.flat.zero_()
