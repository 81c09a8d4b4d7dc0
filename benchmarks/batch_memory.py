"""How much memory and time reading a batch file of a million lines takes: `python benchmarks/batch_memory.py`.

CPU seconds are what to compare: they hold on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def write_batch(path: Path, lines: int) -> None:
    """Lines of some 230 bytes, all good, each different."""
    with path.open("w", encoding="utf-8") as f:
        for i in range(lines):
            f.write(
                f'{{"custom_id":"request-{i}","method":"POST","url":"/v1/chat/completions","body":{{"model":"nano",'
                '"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":'
                f'"What is {i} + {i * 7}?"}}],"temperature":0,"max_tokens":100}}}}\n'
            )


def measure(path: Path) -> dict[str, float]:
    """Scan in this process; run in a child, so that nothing else counts."""
    sys.path.insert(0, str(ROOT))
    from engine.batch import scan

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, started_cpu = time.perf_counter(), time.process_time()
    found = scan(path)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = len(found.index)
    # What a resume does with the lines on disk: all agree, then all were edited.
    custom_ids = [f"request-{i}" for i in range(lines)]
    request_ids = [found.index.request_id(i) for i in range(lines)]
    started_cpu = time.process_time()
    matched = found.index.match(custom_ids, request_ids)
    match_cpu_seconds = time.process_time() - started_cpu
    started_cpu = time.process_time()
    edited = found.index.match(custom_ids, request_ids[1:] + request_ids[:1])
    edited_cpu_seconds = time.process_time() - started_cpu
    return {
        "lines": lines,
        "errors": found.errors,
        "file_mb": found.size / 1e6,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "lines_a_second": lines / seconds,
        "lines_a_cpu_second": lines / cpu_seconds,
        "index_mb": found.index.nbytes / 1e6,
        "index_bytes_a_line": found.index.nbytes / lines,
        "rss_before_mb": before * 1024 / 1e6,
        "peak_rss_mb": peak * 1024 / 1e6,
        "matched": int((matched >= 0).sum()),
        "match_cpu_seconds": match_cpu_seconds,
        "edited": int((edited == -2).sum()),
        "edited_cpu_seconds": edited_cpu_seconds,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "big.jsonl"
        write_batch(path, options.lines)
        done = subprocess.run(
            [sys.executable, __file__, "--measure", str(path)], stdout=subprocess.PIPE, text=True, check=False
        )
    if done.returncode:
        return done.returncode
    for name, value in json.loads(done.stdout).items():
        print(f"{name:20} {value:14,.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
