"""Readings: never raise, never guess, and say what is missing."""

from __future__ import annotations

import os
import sys
import types
from typing import Any

import pytest

from engine import gpu
from engine.protocol import DeviceReading, Reading


class NVMLError(Exception):
    value = 3


def fake_nvml(**answers: Any) -> types.ModuleType:
    """An NVML with one card that answers only what it is given; everything else is NotSupported."""
    module = types.ModuleType("pynvml")

    def refuse(*_: object, **__: object) -> None:
        raise NVMLError

    names = ["Init", "Shutdown", "DeviceGetCount", "DeviceGetHandleByIndex", "DeviceGetName", "DeviceGetMemoryInfo"]
    names += ["DeviceGetUtilizationRates", "DeviceGetTemperatureV", "DeviceGetPowerUsage"]
    names += ["DeviceGetComputeRunningProcesses"]
    for name in names:
        setattr(module, f"nvml{name}", answers.get(name, refuse))
    constants = {"nvmlMemory_v2": 2, "NVML_TEMPERATURE_GPU": 0, "NVML_ERROR_LIBRARY_NOT_FOUND": 12}
    for name, value in {**constants, "NVML_ERROR_DRIVER_NOT_LOADED": 9, "NVMLError": NVMLError}.items():
        setattr(module, name, value)
    return module


CARD = {
    "Init": lambda: None,
    "Shutdown": lambda: None,
    "DeviceGetCount": lambda: 1,
    "DeviceGetHandleByIndex": lambda i: f"card{i}",
    "DeviceGetName": lambda _: b"A card",
}


def test_without_a_card_ram_is_read_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    machine = gpu.Machine()
    machine.watch_worker(os.getpid())
    reading = machine.sample()
    assert reading.note.startswith(gpu.NO_GPU)
    assert [d.kind for d in reading.devices] == ["ram"]
    assert 0 < reading.devices[0].free < reading.devices[0].total
    assert reading.runner_rss > 1_000_000
    assert reading.devices[0].process == reading.runner_rss + reading.worker_rss
    assert gpu.free_gpu_bytes(reading) is None
    machine.close()


def test_what_a_driver_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(**CARD))
    machine = gpu.Machine()
    card = machine.sample().devices[0]
    assert (card.name, card.kind, card.total) == ("A card", "gpu", 0)
    assert card.utilization is card.temperature_c is card.power_w is card.process is None
    assert machine.sample().note == ""
    machine.close()


def test_memory_is_asked_in_its_second_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(_: str, version: int = 1) -> types.SimpleNamespace:
        return types.SimpleNamespace(total=100, used=10 if version == 2 else 16, free=84)

    process = types.SimpleNamespace(pid=os.getpid(), usedGpuMemory=2**64 - 1)
    nvml = fake_nvml(
        **CARD,
        DeviceGetMemoryInfo=memory,
        DeviceGetPowerUsage=lambda _: 250_500,
        DeviceGetTemperatureV=lambda _h, _s: 61,
        DeviceGetUtilizationRates=lambda _: types.SimpleNamespace(gpu=75, memory=1),
        DeviceGetComputeRunningProcesses=lambda _: [process],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    machine = gpu.Machine()
    machine.watch_worker(os.getpid())
    card = machine.sample().devices[0]
    assert (card.used, card.free, card.power_w, card.temperature_c, card.utilization) == (10, 84, 250.5, 61.0, 0.75)
    assert card.process is None  # the largest u64 is no measurement
    process.usedGpuMemory = 5
    assert machine.sample().devices[0].process == 5


def test_a_card_that_falls_off_the_bus_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml(**CARD, DeviceGetMemoryInfo=lambda _h, **_: types.SimpleNamespace(total=9, used=1, free=8))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    machine = gpu.Machine()
    assert machine.sample().devices[0].free == 8
    monkeypatch.setattr(nvml, "nvmlDeviceGetMemoryInfo", fake_nvml().nvmlDeviceGetMemoryInfo)
    assert machine.sample().devices[0].total == 0


def test_a_worker_that_is_gone_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    machine = gpu.Machine()
    machine.watch_worker(2**22 + 12345)
    assert machine.sample().worker_rss == 0
    machine.watch_worker(None)
    assert machine.sample().worker_rss == 0


def test_the_fullest_card_decides() -> None:
    cards = [DeviceReading(name="a", kind="gpu", total=9, free=5), DeviceReading(name="b", kind="gpu", total=9, free=2)]
    assert gpu.free_gpu_bytes(Reading(t=0, devices=cards)) == 2
    assert gpu.free_gpu_bytes(None) is None


def test_without_a_card_the_pages_of_the_model_are_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    memory = types.SimpleNamespace(total=1000 << 30, available=600 << 30)
    monkeypatch.setattr(gpu.psutil, "virtual_memory", lambda: memory)
    machine = gpu.Machine()
    before = machine.sample().devices[0]
    assert (before.used, before.free) == (400 << 30, 600 << 30)
    machine.watch_worker(os.getpid())
    after = machine.sample().devices[0]
    assert after.used + after.free == after.total
    assert 1 << 20 < after.used - before.used < 1 << 30, "this interpreter's own files"
    monkeypatch.setattr(memory, "available", 1 << 16)
    assert machine.sample().devices[0].free == 0
    machine.watch_worker(None)


def test_beside_a_card_ram_is_as_the_system_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(**CARD))
    memory = types.SimpleNamespace(total=1000 << 30, available=600 << 30)
    monkeypatch.setattr(gpu.psutil, "virtual_memory", lambda: memory)
    machine = gpu.Machine()
    machine.watch_worker(os.getpid())
    assert machine.sample().devices[-1].free == 600 << 30
