"""Why did the engine die, and what to try next. Pure: evidence in, sentences and settings out.

"Out of memory" is said only with evidence: text of a failed allocation among the last lines, or almost no free memory
just before. A bare SIGKILL is "killed", a bare SIGABRT is "crash".
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

import msgspec

from engine.protocol import EngineSettings, FailureKind

LOW_FREE_BYTES = 256 * 1024 * 1024
"""Less free device memory than this just before death is evidence of OOM; one pool step of a CUDA engine is 2 MiB."""

MAX_RESTARTS = 5
"""Restarts in a row without one completed request in between."""

FIRST_WAIT_S = 0.5
STRIKES_ALONE = 2
STRIKES_OUT = 3

_OOM = re.compile(
    r"out of memory|cudaMalloc failed|failed to allocate|unable to allocate|allocation failed|not enough memory"
    r"|No available memory for the cache blocks|is less than desired GPU memory utilization"
    r"|larger than the available KV cache|cannot allocate memory|MemoryError|std::bad_alloc",
    re.IGNORECASE,
)
_NOT_OOM = re.compile(r"failed to allocate graph, reserving|^\s*\[?(?:D|DEBUG)\b", re.IGNORECASE)
_BAD_FILE = re.compile(
    r"data is not within the file bounds|model is corrupted or incomplete|invalid magic|failed to read magic"
    r"|not a GGUF|unexpected end of file",
    re.IGNORECASE,
)
_MISSING_LIBRARY = re.compile(
    r"ModuleNotFoundError: No module named|cannot open shared object|ImportError:|Failed to load shared library"
)
_TELLING = re.compile(
    r"error|abort|assert|terminate called|what\(\)|exception|fatal|killed|segmentation|out of memory", re.IGNORECASE
)


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    kind: FailureKind
    sentence: str
    advice: str = ""


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """One end of an engine, as `next_step` needs it. `completed`: requests it finished while it lived."""

    kind: FailureKind
    completed: int = 0


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Load again under these settings after `wait_s`. `action` says what changes, for people."""

    settings: EngineSettings
    wait_s: float
    action: str


class GiveUp(msgspec.Struct, frozen=True, kw_only=True):
    sentence: str


def _telling_line(lines: Sequence[str], pattern: re.Pattern[str]) -> str:
    for line in reversed(lines):
        if pattern.search(line) and not _NOT_OOM.search(line):
            return line.strip()[:300]
    return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(returncode: int | None) -> str:
    """How a process ended, for people."""
    if returncode is None:
        return "without an exit status"
    if returncode < 0:
        return f"by {_signal_name(-returncode)}"
    if returncode > 128:
        return f"with code {returncode} ({_signal_name(returncode - 128)})"
    return f"with code {returncode}"


def _signal_of(returncode: int | None) -> int:
    if returncode is None:
        return 0
    if returncode < 0:
        return -returncode
    return returncode - 128 if 128 < returncode < 160 else 0


def explain(
    returncode: int | None,
    last_lines: Sequence[str],
    fatal: tuple[FailureKind, str] | None,
    last_free_bytes: int | None,
    phase: str,
    *,
    silent_s: float | None = None,
    garbage: str | None = None,
) -> Explanation:
    """Name the cause as far as the evidence goes.

    `fatal`: the worker's own last word. `last_free_bytes`: free memory of the GPU just before, None where there is
    none. `phase`: "starting", "loading" or "running". `silent_s`: it was killed by us for saying nothing that long.
    `garbage`: it was killed by us because its messages could not be read.
    """
    what = {
        "starting": "The engine's process ended while starting",
        "loading": "The engine ended while loading the model",
    }.get(phase, "The engine ended in mid-run")
    if silent_s is not None:
        return Explanation(
            kind=FailureKind.SILENT,
            sentence=f"The engine said nothing for {silent_s:.0f} s while {phase} and was ended.",
            advice="A hung driver or a machine short of memory look like this; worker.log has its last lines.",
        )
    if garbage is not None:
        return Explanation(
            kind=FailureKind.CRASH,
            sentence=f"The engine sent something that is no message ({garbage}) and was ended.",
            advice="worker.log has its last lines.",
        )
    number = _signal_of(returncode)
    oom_line = _telling_line(last_lines, _OOM)
    low = last_free_bytes is not None and last_free_bytes < LOW_FREE_BYTES
    if fatal is not None and fatal[0] == FailureKind.OOM:
        oom_line = oom_line or fatal[1]
    oom_end = fatal is not None or number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS) or (returncode or 0) > 0
    if oom_end and (oom_line or (low and number == signal.SIGABRT)):
        evidence = f'it said "{oom_line}"' if oom_line else f"only {(last_free_bytes or 0) >> 20} MiB were free"
        return Explanation(
            kind=FailureKind.OOM,
            sentence=f"{what}: out of memory ({evidence}).",
            advice="Fewer slots or a smaller context need less memory.",
        )
    if fatal is not None:
        return Explanation(kind=fatal[0], sentence=f"{what}: {fatal[1]}", advice="worker.log has its last lines.")
    if number == signal.SIGKILL:
        return Explanation(
            kind=FailureKind.KILLED,
            sentence=f"{what}: somebody killed it (SIGKILL).",
            advice="If nobody did it by hand, the system may have run out of memory: see the kernel's log.",
        )
    if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        return Explanation(
            kind=FailureKind.KILLED,
            sentence=f"{what}: somebody sent it {_signal_name(number)}.",
            advice="",
        )
    bad_file = _telling_line(last_lines, _BAD_FILE)
    if bad_file and phase == "loading":
        return Explanation(
            kind=FailureKind.BAD_FILE,
            sentence=f'{what}: the model file is damaged or incomplete ("{bad_file}").',
            advice="Get the file again.",
        )
    missing = _telling_line(last_lines, _MISSING_LIBRARY)
    if missing and phase != "running":
        return Explanation(
            kind=FailureKind.UNAVAILABLE,
            sentence=f'{what}: its library can\'t be used here ("{missing}").',
            advice="`gptoss-tui doctor` says what is missing and how to get it.",
        )
    line = _telling_line(last_lines, _TELLING)
    said = f' It said "{line}".' if line else ""
    if number:
        return Explanation(
            kind=FailureKind.CRASH,
            sentence=f"{what} {_end(returncode)}.{said}",
            advice="worker.log has its last lines.",
        )
    return Explanation(
        kind=FailureKind.EXITED,
        sentence=f"{what} {_end(returncode)}.{said}",
        advice="worker.log has its last lines.",
    )


_HOPELESS = frozenset({FailureKind.BAD_FILE, FailureKind.UNSUPPORTED, FailureKind.UNAVAILABLE})


def next_step(history: Sequence[Death], settings: EngineSettings) -> Retry | GiveUp:
    """What to do after the last death in `history`, which ran under `settings`."""
    last = history[-1]
    if last.kind in _HOPELESS:
        return GiveUp(sentence="Loading again would end the same way.")
    streak = 0
    for death in reversed(history):
        streak += 1
        if death.completed > 0:
            break
    if streak > MAX_RESTARTS:
        return GiveUp(
            sentence=f"The engine was restarted {MAX_RESTARTS} times without finishing a request: this goes no further."
        )
    wait_s = FIRST_WAIT_S * 2 ** (streak - 1)
    if last.kind == FailureKind.OOM:
        if settings.slots > 1:
            fewer = msgspec.structs.replace(settings, slots=settings.slots // 2)
            return Retry(settings=fewer, wait_s=wait_s, action=f"loading again with {fewer.slots} slots")
        return Retry(settings=settings, wait_s=wait_s, action="loading again (one slot is the least)")
    return Retry(settings=settings, wait_s=wait_s, action="loading again")


class Strikes:
    """Engine deaths per request in flight. Small: only requests that met a death are kept."""

    def __init__(self) -> None:
        self._of: dict[int, int] = {}

    def add(self, index: int) -> int:
        self._of[index] = self._of.get(index, 0) + 1
        return self._of[index]

    def clear(self, index: int) -> None:
        self._of.pop(index, None)

    def __getitem__(self, index: int) -> int:
        return self._of.get(index, 0)
