"""Whose the used memory of a device is, its peaks, and below what it gets tight. Pure.

The engine tells the sizes of its own buffers; the rest is what a process or the device holds beyond them. No owner is
negative, and together they are what is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from engine.protocol import DeviceReading, EngineView, Reading
from engine.recovery import LOW_FREE_BYTES

WARN_FREE_BYTES = 512 * 1024 * 1024
"""A CUDA context and the buffers of one more shape of a batch took up to 400 MiB: less than this is no headroom."""

CRITICAL_FREE_BYTES = LOW_FREE_BYTES
"""A death with less than this free counts as out of memory."""

_ENGINES_OWN = {"weights": "weights", "kv": "kv", "compute": "compute", "output": "compute"}
"""The engine's names → ours. What it holds in host memory beside a GPU ("host") is a part of its process there."""


class Owned(NamedTuple):
    """Bytes by owner, in the order to draw them; names of those that are a residue or a share, no measurement."""

    owners: dict[str, int]
    estimated: list[str]


def engine_memory(memory: Mapping[str, int]) -> dict[str, int]:
    """Weights, kv, compute of the device the model runs on."""
    own = {"weights": 0, "kv": 0, "compute": 0}
    for name, size in memory.items():
        if name in _ENGINES_OWN:
            own[_ENGINES_OWN[name]] += max(0, size)
    return own


def of_loading(device: DeviceReading) -> Owned:
    """While a model is loaded the engine tells no sizes; what grows on the GPU then is weights above all."""
    return _filled(device.used, {"weights": device.process or 0}, ["weights"])


def of_gpu(device: DeviceReading, memory: Mapping[str, int], *, gpus: int) -> Owned:
    """`memory`: the engine's figures, empty where no model is on a GPU; `gpus`: over how many it is spread.

    What our process holds beyond them is the driver's context for it. Where the driver does not tell our process's
    bytes, that is a part of "other".
    """
    own = {name: size // gpus for name, size in engine_memory(memory).items()}
    estimated = [name for name, size in own.items() if size] if gpus > 1 else []
    if device.process is None:
        return _filled(device.used, own, [*estimated, "other"] if any(own.values()) else estimated)
    own["context"] = max(0, device.process - sum(own.values()))
    return _filled(device.used, own, [*estimated, "context"])


def of_ram(
    device: DeviceReading, memory: Mapping[str, int], *, offloaded: bool, runner_rss: int, worker_rss: int
) -> Owned:
    """The engine's buffers are here only where the model is not `offloaded`, and only as far as they are resident."""
    own: dict[str, int] = {}
    left = worker_rss
    for name, size in engine_memory({} if offloaded else memory).items():
        own[name] = min(size, left)
        left -= own[name]
    own["runner"] = runner_rss
    own["context"] = left
    return _filled(device.used, own, [name for name in own if name != "runner"])


def _filled(used: int, own: dict[str, int], estimated: list[str]) -> Owned:
    """With "other" for the rest; cut where our figures are more than what is used."""
    owners: dict[str, int] = {}
    left = max(0, used)
    cut = set(estimated)
    for name, size in own.items():
        if size > left:
            cut.add(name)
        owners[name] = min(size, left)
        left -= owners[name]
    owners["other"] = left
    owners = {name: size for name, size in owners.items() if size}
    return Owned(owners, [name for name in owners if name in cut])


class Peaks:
    """The most that was used of each device since this began, and when."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, int], tuple[int, float]] = {}

    def note(self, device: DeviceReading, t: float) -> tuple[int, float]:
        key = (device.kind, device.index)
        peak = self._of.get(key, (0, 0.0))
        if device.used > peak[0]:
            peak = self._of[key] = (device.used, t)
        return peak


def explained(reading: Reading, engine: EngineView, peaks: Peaks) -> Reading:
    """The reading with owners, peaks and thresholds of each device that told its size."""
    offloaded = engine.info is not None and engine.info.gpu_offload
    memory = engine.stats.memory
    gpus = sum(device.kind == "gpu" for device in reading.devices)
    devices = []
    for device in reading.devices:
        if not device.total:
            devices.append(device)
            continue
        if device.kind == "gpu" and engine.state == "loading":
            owned = of_loading(device)
        elif device.kind == "gpu":
            owned = of_gpu(device, memory if offloaded else {}, gpus=gpus)
        else:
            owned = of_ram(
                device,
                memory,
                offloaded=offloaded,
                runner_rss=reading.runner_rss,
                worker_rss=reading.worker_rss,
            )
        peak_used, peak_t = peaks.note(device, reading.t)
        devices.append(
            msgspec.structs.replace(
                device,
                owners=owned.owners,
                estimated=owned.estimated,
                peak_used=peak_used,
                peak_t=peak_t,
                warn_free=WARN_FREE_BYTES,
                critical_free=CRITICAL_FREE_BYTES,
            )
        )
    return msgspec.structs.replace(reading, devices=devices)
