"""Measures the journal on a real disk: lines a second by size of the fsync group, and opening a long one again.

    python -m benchmarks.journal FOLDER [--lines 1000000] [--seconds 3]

Use a folder on the disk that will hold results/: a temporary folder in memory would make fsync free.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from engine.journal import Journal
from engine.output import Line, line_for
from engine.protocol import Choice, Completion, Finish, Usage

GROUPS = (1, 16, 256)

ANSWER = "The three numbers in order are 17, 204 and 911; the middle one is 204. " * 3
THOUGHT = "The user wants the numbers sorted. I compare 204 with 17, then with 911. " * 2


class _Asked:
    url = "/v1/chat/completions"

    def __init__(self, n: int) -> None:
        self.custom_id = f"request-{n:07d}"
        self.request_id = f"req_{n:032x}"


def _line(n: int) -> Line:
    choice = Choice(index=0, finish=Finish.STOP, content=ANSWER, reasoning=THOUGHT)
    usage = Usage(prompt_tokens=120, completion_tokens=95, reasoning_tokens=40)
    completion = Completion(finish=Finish.STOP, choices=[choice], usage=usage)
    return line_for(_Asked(n), completion, model="gpt-oss-20b", created=1.7e9 + n)


async def _append(folder: Path, group: int, seconds: float) -> float:
    """Lines a second with `group` requests in flight, each waiting for its acknowledgement before the next."""
    journal = Journal.open(folder)
    start = time.perf_counter()
    count = 0
    while time.perf_counter() - start < seconds:
        await asyncio.gather(*(journal.append(_line(count + k)) for k in range(group)))
        count += group
    rate = count / (time.perf_counter() - start)
    await journal.close()
    return rate


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def _reopen(folder: Path) -> None:
    """Print: seconds to open, seconds to read done(), lines, MiB before and at the peak."""
    before = _peak_mib()
    start = time.perf_counter()
    journal = Journal.open(folder)
    opened = time.perf_counter()
    lines = sum(len(chunk) for chunk in journal.done())
    read = time.perf_counter()
    await journal.close()
    print(f"{opened - start:.2f} {read - opened:.2f} {lines} {before:.0f} {_peak_mib():.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each group size")
    parser.add_argument("--reopen", action="store_true", help=argparse.SUPPRESS)  # the second half, in its own process
    args = parser.parse_args()
    if args.reopen:
        asyncio.run(_reopen(args.folder))
        return
    work = args.folder / "journal-benchmark"
    if work.exists():
        parser.error(f"{work} exists: remove it first")
    try:
        print(f"{len(_line(1).data)} bytes a line\n\n| requests in flight | lines/s, fsynced |\n|---:|---:|")
        for group in GROUPS:
            print(f"| {group} | {asyncio.run(_append(work / str(group), group, args.seconds)):,.0f} |", flush=True)
        long = work / "long"
        long.mkdir()
        with (long / "output.jsonl").open("wb") as file:
            for n in range(args.lines):
                file.write(_line(n).data)
        command = [sys.executable, "-m", "benchmarks.journal", str(long), "--reopen"]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        opened, read, lines, before, peak = out.split()
        size = (long / "output.jsonl").stat().st_size / 2**20
        print(f"\n| {int(lines):,} lines, {size:,.0f} MiB | |\n|---|---:|")
        print(f"| open: lock, check every seal, sync | {opened} s |\n| read done() | {read} s |")
        print(f"| peak memory, of which the program itself | {peak} MiB, {before} MiB |")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
