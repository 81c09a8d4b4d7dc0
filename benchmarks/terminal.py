"""What the screen costs a terminal: bytes and CPU while 1,500 tokens a second stream, idle, keys, first paint.

    python -m benchmarks.terminal [--quick] [--json]

The real program in a PTY whose every byte is counted, against a runner double on a real socket that generates at an
exact rate and tells what the real runner tells, as often. Idle and first paint are measured with the real runner.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from engine.workspace import Workspace
from tests.pty_kit import Pty

ROOT = Path(__file__).resolve().parents[1]

RATE = 1500
REQUESTS = 16
JOB = "evals-1"


class Case(NamedTuple):
    """One thing to measure, and its limit."""

    name: str
    value: float
    unit: str
    limit: float | None
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.limit is None or self.value <= self.limit


@contextlib.contextmanager
def workspace() -> Iterator[tuple[Path, dict[str, str]]]:
    """An empty one with a socket of its own, and the environment to use it in."""
    folder = Path(tempfile.mkdtemp(prefix="gt-"))
    (folder / "ws").mkdir()
    (folder / "run").mkdir(mode=0o700)
    environment = {"XDG_RUNTIME_DIR": str(folder / "run"), "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}
    for name in ("SSH_CONNECTION", "SSH_TTY", "SSH_CLIENT", "TMUX", "STY", "NO_COLOR"):
        environment[name] = ""
    os.environ["XDG_RUNTIME_DIR"] = environment["XDG_RUNTIME_DIR"]
    try:
        yield folder / "ws", environment
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def feeder(root: Path, environment: dict[str, str], *more: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.doubles.feeder", str(root), *more],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_for(Workspace.at(root).socket.exists)
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def real_runner(root: Path, environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.runner", "--workspace", str(root)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(Workspace.at(root).socket.exists)
        yield
    finally:
        process.terminate()
        process.wait()


def wait_for(ready: object, patience_s: float = 30.0) -> None:
    assert callable(ready)
    end = time.monotonic() + patience_s
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def screen(root: Path, environment: dict[str, str], columns: int, rows: int) -> Pty:
    return Pty([sys.executable, "-m", "tui.cli"], cwd=root, columns=columns, rows=rows, environment=environment)


# --- the measurements -------------------------------------------------------------------------------------------------


def streaming(columns: int, rows: int, seconds: float, limit_kib_s: float, cpu_limit: float | None) -> list[Case]:
    """Bytes a second, CPU and the longest pause while text streams. The first seconds are not counted."""
    size = f"{columns}x{rows}"
    with (
        workspace() as (root, environment),
        feeder(root, environment, f"--rate={RATE}", f"--requests={REQUESTS}"),
        screen(root, environment, columns, rows) as it,
    ):
        it.until(JOB)
        it.until("tok/s")
        time.sleep(5)
        it.emulate = False
        process = psutil.Process(it.process.pid)
        cpu, begin = sum(process.cpu_times()[:2]), time.monotonic()
        time.sleep(seconds)
        cpu, end = sum(process.cpu_times()[:2]) - cpu, time.monotonic()
        sent = it.bytes_within(begin, end)
        memory = process.memory_info().rss
        times = [piece.t for piece in list(it.pieces) if begin <= piece.t < end]
        gap = max(b - a for a, b in zip([begin, *times], [*times, end], strict=True))
        it.send("q")
        code = it.wait()
    assert code == 0, f"the screen ended with {code}"
    return [
        Case(f"bytes while streaming, {size}", sent / 1024 / (end - begin), "KiB/s", limit_kib_s),
        Case(f"CPU while streaming, {size}", 100 * cpu / (end - begin), "% of a core", cpu_limit),
        Case(f"longest pause between frames, {size}", gap, "s", 1.0),
        Case(f"memory of the screen, {size}", memory / 2**20, "MiB", None),
    ]


def idle(seconds: float) -> list[Case]:
    """Nothing to do: with readings that stand still, and with the real runner and this machine's own."""
    cases: list[Case] = []
    for name, serve, shown, limit in (
        ("", lambda root, environment: feeder(root, environment, "--requests=0"), JOB, 0.2),
        (", readings of this machine", real_runner, "no job", None),
    ):
        with (
            workspace() as (root, environment),
            serve(root, environment),
            screen(root, environment, 80, 24) as it,
        ):
            it.until(shown)
            time.sleep(5)
            process = psutil.Process(it.process.pid)
            cpu, begin = sum(process.cpu_times()[:2]), time.monotonic()
            time.sleep(seconds)
            cpu, end = sum(process.cpu_times()[:2]) - cpu, time.monotonic()
            sent = it.bytes_within(begin, end)
            it.send("q")
            it.wait()
        cases.append(Case(f"bytes idle, 80x24{name}", sent / 1024 / (end - begin), "KiB/s", limit))
        cases.append(Case(f"CPU idle, 80x24{name}", 100 * cpu / (end - begin), "% of a core", None))
    return cases


def keys(presses: int) -> list[Case]:
    """From a key to the frame that shows what it did, while text streams: the focus goes to and fro between panes."""
    with (
        workspace() as (root, environment),
        feeder(root, environment, f"--rate={RATE}", f"--requests={REQUESTS}"),
        screen(root, environment, 80, 24) as it,
    ):
        it.until(JOB)
        time.sleep(4)
        it.emulate = False
        waits: list[float] = []
        for i in range(presses):
            key, sign = ("1", b"jobs") if i % 2 else ("6", b"log")
            seen = len(it.pieces)
            sent = time.monotonic()
            it.send(key)
            answer: float | None = None
            while answer is None:
                assert time.monotonic() < sent + 10, f"no answer to {key}"
                answer = next((p.t for p in it.pieces[seen:] if sign in p.data), None)
                time.sleep(0.001)
            waits.append(answer - sent)
            time.sleep(0.037 + (i % 7) * 0.031)  # no rhythm that falls in with the app's own
        it.send("q")
        it.wait()
    waits.sort()
    return [
        Case("key to frame while streaming, median", 1000 * statistics.median(waits), "ms", None, f"{presses} keys"),
        Case("key to frame while streaming, p99", 1000 * waits[int(0.99 * (len(waits) - 1))], "ms", 100.0),
        Case("key to frame while streaming, longest", 1000 * waits[-1], "ms", None),
    ]


def first_paint(times: int) -> list[Case]:
    """From the command to the screen with the runner's facts on it; the runner is up."""
    with workspace() as (root, environment), feeder(root, environment):
        waits: list[float] = []
        work: list[float] = []
        sent = 0
        for _ in range(times):
            with screen(root, environment, 80, 24) as it:
                it.until(JOB)
                waits.append(time.monotonic() - it.started)
                work.append(sum(psutil.Process(it.process.pid).cpu_times()[:2]))
                sent = it.count
                it.send("q")
                it.wait()
    return [
        Case("first paint with the runner up, median", statistics.median(waits), "s", 1.0, f"{times} starts"),
        Case("first paint with the runner up, longest", max(waits), "s", None),
        Case("CPU until then, median", statistics.median(work), "s", None),
        Case("bytes until then, 80x24", sent / 1024, "KiB", None),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute instead of five")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--only", choices=("streaming", "idle", "keys", "paint"), help="one part")
    given = parser.parse_args(arguments)
    seconds = 10.0 if given.quick else 60.0
    parts = {
        "paint": lambda: first_paint(3 if given.quick else 10),
        "idle": lambda: idle(seconds),
        "keys": lambda: keys(50 if given.quick else 400),
        "streaming": lambda: [
            *streaming(80, 24, seconds, 6.0, 5.0),
            *streaming(120, 36, seconds, 20.0, None),
            *streaming(200, 50, seconds, 30.0, None),
        ],
    }
    failed = 0
    for name, part in parts.items():
        if given.only not in (None, name):
            continue
        for case in part():
            failed += not case.holds
            if given.json:
                print(json.dumps({**case._asdict(), "holds": case.holds}), flush=True)
            else:
                limit = "" if case.limit is None else f"   limit {case.limit:g}{'' if case.holds else '   NOT KEPT'}"
                note = f"   {case.note}" if case.note else ""
                print(f"{case.name:45} {case.value:8.2f} {case.unit}{limit}{note}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
