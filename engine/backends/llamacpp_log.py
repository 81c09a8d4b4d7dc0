"""Owns what llama.cpp says: whole lines out of fragments, kept in a ring, and what they tell (memory, device, cause).

The library has one log callback for the whole process, so this module has one `LOG`. Lines at INFO and above also go to
stderr, which the parent of the worker keeps as evidence.
"""

from __future__ import annotations

import collections
import ctypes
import re
import sys
import threading
from typing import NamedTuple

import llama_cpp.llama_cpp as c

from engine.protocol import FailureKind

DEBUG, INFO, WARN, ERROR, CONTINUED = 1, 2, 3, 4, 5
"""Of ggml.h; the numbers in llama-cpp-python's own `_logger.py` are of an older version."""

RING_LINES = 2000
"""Enough for the load log of a model with a long metadata list (about 300 lines) and what follows."""

_OUT_OF_MEMORY = re.compile(
    r"out of memory|cudaMalloc failed|failed to allocate|unable to allocate|allocation failed|not enough memory",
    re.IGNORECASE,
)
_BAD_FILE = re.compile(
    r"not within the file bounds|corrupted or incomplete|invalid magic|failed to open GGUF|failed to read|"
    r"gguf_init_from_file|invalid vector|unexpectedly reached end of file|missing tensor|wrong number of tensors|"
    r"key not found in model|tensor '.*' (has invalid|not found)|bad_alloc in gguf",
    re.IGNORECASE,
)
_UNSUPPORTED = re.compile(
    r"unknown model architecture|unsupported model architecture|unknown pre-tokenizer|unknown tokenizer|"
    r"requires flash_attn|Flash Attention|quantized V cache|unsupported .*type|does not support|n_seq_max|"
    r"failed to initialize the context",
    re.IGNORECASE,
)
_BUFFER = re.compile(r"^\S+:\s+(\S+)\s+(model|KV|RS|compute|output) buffer size\s*=\s*([0-9.]+) MiB")
_DEVICE = re.compile(r"using device (\S+) \((.+?)\) \(.*\) - (\d+) MiB free")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_OWNERS = {"model": "weights", "KV": "kv", "RS": "kv", "compute": "compute", "output": "output"}


class Line(NamedTuple):
    level: int
    text: str


class Device(NamedTuple):
    """The first device the library put the model on; `name` is "CPU" where it used none."""

    name: str
    layers_offloaded: int


class Log:
    """A ring of whole lines. `mark` and `since` bracket one load."""

    def __init__(self) -> None:
        self._lines: collections.deque[Line] = collections.deque(maxlen=RING_LINES)
        self._count = 0
        self._level = INFO
        self._partial = ""
        # The callback runs on whichever thread called the library; fragments of two threads must not mix with a reader.
        self._lock = threading.Lock()

    def feed(self, level: int, text: str) -> None:
        with self._lock:
            if level != CONTINUED:
                if self._partial and level != self._level:
                    self._end_line()
                self._level = level
            *whole, rest = (self._partial + text).split("\n")
            for part in whole:
                self._partial = part
                self._end_line()
            self._partial = rest

    def _end_line(self) -> None:
        line = Line(self._level, self._partial)
        self._partial = ""
        if not line.text:
            return
        self._lines.append(line)
        self._count += 1
        if line.level != DEBUG:
            sys.stderr.write(line.text + "\n")

    def mark(self) -> int:
        return self._count

    def since(self, mark: int, *, debug: bool = False) -> list[Line]:
        """Lines after `mark` still in the ring. DEBUG on request: "failed to allocate graph" is normal there."""
        with self._lock:
            wanted = self._count - mark
            lines = list(self._lines)[-wanted:] if wanted > 0 else []
        return lines if debug else [line for line in lines if line.level != DEBUG]

    def last_errors(self, n: int = 5) -> list[str]:
        with self._lock:
            return [line.text for line in self._lines if line.level in (WARN, ERROR)][-n:]


LOG = Log()


@c.llama_log_callback
def _callback(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    LOG.feed(level, text.decode("utf-8", errors="replace"))


def install() -> None:
    """Take over the library's log. `_callback` lives in the module: a collected one would be a segfault."""
    c.llama_log_set(_callback, ctypes.c_void_p(None))


def cause(lines: list[Line]) -> tuple[FailureKind, str]:
    """Why a load failed, and the line that says it. What nothing explains counts as a bad file: NULL is all we have."""
    errors = [line.text for line in lines if line.level in (WARN, ERROR)]
    for pattern, kind in (
        (_OUT_OF_MEMORY, FailureKind.OOM),
        (_BAD_FILE, FailureKind.BAD_FILE),
        (_UNSUPPORTED, FailureKind.UNSUPPORTED),
    ):
        for text in errors:
            if pattern.search(text):
                return kind, text
    return FailureKind.BAD_FILE, errors[-1] if errors else "the library gave no reason"


def is_out_of_memory(lines: list[str]) -> bool:
    return any(_OUT_OF_MEMORY.search(line) for line in lines)


def memory_by_owner(lines: list[Line]) -> dict[str, int]:
    """Bytes of the buffers the library reported. With a GPU, what lies in host memory is one owner: "host"."""
    found = [match for line in lines if (match := _BUFFER.match(line.text))]
    on_host = [_on_host(match[1]) for match in found]
    device_used = not all(on_host)
    owners: dict[str, int] = {}
    for match, host in zip(found, on_host, strict=True):
        owner = "host" if host and device_used else _OWNERS[match[2]]
        owners[owner] = owners.get(owner, 0) + round(float(match[3]) * 1024 * 1024)
    return owners


def device_used(lines: list[Line]) -> Device:
    """Where the model's layers are. The line that names the card may have left the ring; its buffers come later."""
    name, buffer, layers = "", "", 0
    for line in lines:
        if (match := _OFFLOADED.search(line.text)) is not None:
            layers = int(match[1])
        elif not name and (match := _DEVICE.search(line.text)) is not None:
            name = match[2]
        elif not buffer and (match := _BUFFER.match(line.text)) is not None and not _on_host(match[1]):
            buffer = match[1]
    return Device((name or buffer or "GPU") if layers else "CPU", layers)


def _on_host(buffer: str) -> bool:
    return buffer.startswith("CPU") or buffer.endswith("_Host")
