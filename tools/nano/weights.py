"""Owns the shipped numbers: a training checkpoint rounded once, so that every file holds exactly the same values.

Experts take MXFP4 values, all else F16 values; both are exact in F16 and F32.
"""

# pyright: reportMissingImports=false
# torch, regex and transformers are needed for training only and are not in the project's environment.

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .model import Nano, Shape, mxfp4

EXPERTS = ("gate", "up", "down")


def load(checkpoint: Path) -> Nano:
    """The model of a checkpoint with its shipped values, in fp32, ready for exact evaluation."""
    saved = torch.load(checkpoint, weights_only=False, map_location="cpu")
    model = Nano(Shape(**saved["shape"]))
    state: dict[str, torch.Tensor] = {}
    for name, value in saved["model"].items():
        rounded = mxfp4(value) if name.rsplit(".", 1)[-1] in EXPERTS else value.half().float()
        if not torch.equal(rounded.half().float(), rounded):
            raise ValueError(f"{name}: an MXFP4 value is not exact in F16")
        state[name] = rounded
    model.load_state_dict(state)
    return model.eval()


def arrays(model: Nano) -> dict[str, np.ndarray]:
    """All parameters by their training names."""
    return {name: p.detach().numpy() for name, p in model.named_parameters()}
