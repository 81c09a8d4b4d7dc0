"""A workspace of its own for each end-to-end test, and the program run in it as a user would."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
"""Longest any wait here may take; the machine that runs the tests may be busy."""


def wait_for(what: str, ready: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """Poll until `ready` returns something true; fail with `what` otherwise."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        value = ready()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {patience_s:.0f} s in vain for {what}")


class Box:
    """One workspace. All processes of this test are found by its path in their command line."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        (folder / "batches").mkdir(parents=True)
        (folder / "runtime").mkdir(mode=0o700)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("GPTOSS_")} | {
            "XDG_RUNTIME_DIR": str(folder / "runtime"),
            "PYTHONPATH": str(ROOT),
            "GPTOSS_THREADS": "1",
            "NO_COLOR": "1",
        }

    def batch(self, name: str) -> Path:
        """A copy of one of the sample batches, with its expected answers."""
        for source in (ROOT / "batches").glob(f"{name}.*"):
            shutil.copy(source, self.root / "batches" / source.name)
        return self.root / "batches" / f"{name}.jsonl"

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "tui.cli", *map(str, arguments)]

    def start(self, *arguments: str | Path, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def run(self, *arguments: str | Path, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run one command to its end; `expect` is its exit code."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S * 2,
            check=False,
        )
        assert expect is None or done.returncode == expect, (
            f"{arguments} ended with {done.returncode}, not {expect}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
        assert "Traceback" not in done.stdout + done.stderr
        return done

    # --- what is on disk ---

    def folder(self, job: str) -> Path:
        return self.root / "results" / job

    def record(self, job: str) -> dict[str, Any]:
        path = self.folder(job) / "run.json"
        return json.loads(path.read_bytes()) if path.exists() else {}

    def state(self, job: str) -> str:
        return str(self.record(job).get("state", ""))

    def lines(self, job: str, name: str = "output.jsonl") -> list[dict[str, Any]]:
        """The whole lines of a results file; a torn last one is left out."""
        path = self.folder(job) / name
        if not path.exists():
            return []
        return [msgspec.json.decode(line) for line in path.read_bytes().split(b"\n")[:-1]]

    def answers(self, job: str) -> dict[str, str]:
        """custom_id → everything the model said, reasoning too."""
        out = {}
        for line in self.lines(job):
            message = line["response"]["body"]["choices"][0]["message"]
            out[line["custom_id"]] = json.dumps(
                [message.get("reasoning_content"), message.get("content"), message.get("tool_calls")]
            )
        return out

    # --- processes ---

    def processes(self, part: str) -> list[psutil.Process]:
        """Living processes of this workspace whose command line holds `part`."""
        found = []
        for process in psutil.process_iter(["pid"]):
            try:
                command, environment = " ".join(process.cmdline()), process.environ()
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            if (
                part in command
                and environment.get("XDG_RUNTIME_DIR") == self.environment["XDG_RUNTIME_DIR"]
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        return found

    def runners(self) -> list[psutil.Process]:
        return self.processes("engine.runner")

    def workers(self) -> list[psutil.Process]:
        return self.processes("engine.backends.worker")

    def kill(self, process: psutil.Process) -> None:
        process.send_signal(signal.SIGKILL)
        wait_for(f"the end of {process.pid}", lambda: not process.is_running() or process.status() == "zombie")

    def end(self) -> None:
        """Stop what runs; kill what does not listen."""
        self.run("stop", expect=None)
        for process in self.processes("engine.") + self.processes("tui.cli"):
            process.kill()


@contextmanager
def box(folder: Path) -> Iterator[Box]:
    made = Box(folder)
    try:
        yield made
    finally:
        made.end()
