"""Readings of the machine: GPU memory by NVML; process and system RAM where there is no GPU, and it says so.

Every field is optional: what a driver does not tell is left out, never guessed. After the start nothing here raises.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil

from engine.protocol import DeviceReading, Reading

_T = TypeVar("_T")

NO_GPU = "no GPU: process and system RAM"


class Readings(Protocol):
    """Where samples come from. `sample` may block for milliseconds: call it in a thread."""

    def sample(self) -> Reading: ...
    def watch_worker(self, pid: int | None) -> None:
        """Whose memory counts as the worker's from now on."""
        ...

    def close(self) -> None: ...


class Machine:
    """This machine."""

    def __init__(self) -> None:
        self._runner = psutil.Process()
        self._worker: psutil.Process | None = None
        self._nvml: Any = None
        self._gpus: list[tuple[Any, str]] = []
        self._note = NO_GPU
        self._start_nvml()

    def _start_nvml(self) -> None:
        try:
            import pynvml
        except ImportError:
            self._note = f"{NO_GPU} (nvidia-ml-py is not installed)"
            return
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            if getattr(error, "value", None) not in (
                pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
                pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
            ):
                self._note = f"{NO_GPU} (the NVIDIA driver says: {error})"
            return
        self._nvml = pynvml
        for index in range(self._try(lambda: int(pynvml.nvmlDeviceGetCount())) or 0):
            handle = self._try(lambda index=index: pynvml.nvmlDeviceGetHandleByIndex(index))
            if handle is None:
                continue
            name = self._try(lambda handle=handle: pynvml.nvmlDeviceGetName(handle)) or f"GPU {index}"
            self._gpus.append((handle, name.decode() if isinstance(name, bytes) else str(name)))
        if self._gpus:
            self._note = ""

    def _try(self, ask: Callable[[], _T]) -> _T | None:
        """One question to NVML; None where this driver or card has no answer."""
        try:
            return ask()
        except (self._nvml.NVMLError, AttributeError, TypeError, OSError):
            return None

    def watch_worker(self, pid: int | None) -> None:
        try:
            self._worker = psutil.Process(pid) if pid is not None else None
        except psutil.Error:
            self._worker = None

    def sample(self) -> Reading:
        worker_rss = _rss(self._worker)
        runner_rss = _rss(self._runner)
        devices = [self._gpu(index, handle, name) for index, (handle, name) in enumerate(self._gpus)]
        # Beside a GPU they were read once; without one the engine reads them for every token.
        mapped = 0 if self._gpus else _mapped(self._worker)
        devices.append(_ram(runner_rss + worker_rss, mapped))
        return Reading(t=time.time(), devices=devices, runner_rss=runner_rss, worker_rss=worker_rss, note=self._note)

    def _gpu(self, index: int, handle: Any, name: str) -> DeviceReading:
        nvml = self._nvml
        # v2: `used` without the driver's reserve. `free` is the same in both and is what planning goes by.
        memory = self._try(lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)) or self._try(
            lambda: nvml.nvmlDeviceGetMemoryInfo(handle)
        )
        rates = self._try(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        celsius = self._try(lambda: nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU))
        milliwatts = self._try(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        return DeviceReading(
            name=name,
            kind="gpu",
            index=index,
            total=int(memory.total) if memory else 0,
            used=int(memory.used) if memory else 0,
            free=int(memory.free) if memory else 0,
            process=self._of_worker(handle),
            utilization=rates.gpu / 100 if rates else None,
            temperature_c=float(celsius) if celsius is not None else None,
            power_w=milliwatts / 1000 if milliwatts is not None else None,
        )

    def _of_worker(self, handle: Any) -> int | None:
        """The worker's share. None in a container (NVML tells host ids) and where the driver hides it."""
        if self._worker is None:
            return None
        for process in self._try(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []:
            used = getattr(process, "usedGpuMemory", None)
            # Some drivers answer with the largest u64 where they don't know.
            if process.pid == self._worker.pid and used is not None and used < 2**62:
                return int(used)
        return None

    def close(self) -> None:
        if self._nvml is not None:
            self._try(self._nvml.nvmlShutdown)
            self._gpus = []


def _rss(process: psutil.Process | None) -> int:
    if process is None:
        return 0
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _mapped(process: psutil.Process | None) -> int:
    """Resident pages of files, the weights above all. 0 where the system does not tell."""
    if process is None:
        return 0
    try:
        with Path(f"/proc/{process.pid}/status").open("rb") as file:
            for line in file:
                if line.startswith(b"RssFile:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return 0


def _ram(ours: int, mapped: int) -> DeviceReading:
    """`mapped`: pages that the system calls available, because it could drop them, and the engine works with."""
    try:
        memory = psutil.virtual_memory()
    except (psutil.Error, OSError, ValueError, KeyError):  # /proc hidden or foreign
        return DeviceReading(name="RAM", kind="ram", process=ours)
    mapped = min(mapped, int(memory.available))
    return DeviceReading(
        name="RAM",
        kind="ram",
        total=int(memory.total),
        used=int(memory.total - memory.available) + mapped,
        free=int(memory.available) - mapped,
        process=ours,
    )


def free_gpu_bytes(reading: Reading | None) -> int | None:
    """Free memory of the fullest GPU, None where there is none."""
    free = [d.free for d in reading.devices if d.kind == "gpu" and d.total] if reading else []
    return min(free) if free else None
