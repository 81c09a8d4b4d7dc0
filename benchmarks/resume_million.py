"""How long a run of a million done lines takes to be resumed: real runner, real files, nothing left to generate.

    python benchmarks/resume_million.py --lines 1000000

Writes an input of that many lines and a journal in which all are answered, then measures `resume` from the command to
the job's end: reading and checking the input, recovering and checking the journal (every seal), matching the two.
Prints seconds and the runner's peak memory. Needs about 1.2 KB of disk a line, in --folder (default: a temporary one).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psutil

from engine.batch import Request, request_id
from engine.job import JobState
from engine.journal import read_record, write_record
from engine.output import success_line
from engine.protocol import Choice, Completion, Counts, Finish, RunSettings, Usage
from engine.record import RunRecord

ROOT = Path(__file__).resolve().parents[1]


def write_files(workspace: Path, lines: int) -> None:
    """The input and a finished journal for it, left as by a runner that died."""
    source = workspace / "batches" / "many.jsonl"
    run = workspace / "results" / "many-1"
    source.parent.mkdir(parents=True)
    run.mkdir(parents=True)
    url = "/v1/chat/completions"
    answer = Choice(index=0, finish=Finish.STOP, content="42", reasoning="12+30: 2+0+0=02,1+3+0=04>42")
    completion = Completion(finish=Finish.STOP, choices=[answer], usage=Usage(prompt_tokens=60, completion_tokens=40))
    with source.open("wb") as batch, (run / "output.jsonl").open("wb") as output:
        for n in range(lines):
            body = {"model": "nano", "messages": [{"role": "user", "content": f"What is {n} + 30?"}]}
            batch.write(
                msgspec.json.encode({"custom_id": f"request-{n:07}", "method": "POST", "url": url, "body": body})
                + b"\n"
            )
            request = Request(f"request-{n:07}", url, body, n + 1, request_id(url, body))
            output.write(success_line(request, completion, model="nano", created=1_760_000_000).data)
    write_record(
        run,
        RunRecord(
            job="many-1",
            state=JobState.INTERRUPTED,
            input_path=str(source),
            settings=RunSettings(model="nano"),
            created=time.time(),
            counts=Counts(total=lines, succeeded=lines),
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        workspace = Path(folder)
        (workspace / "runtime").mkdir(mode=0o700)
        environment = os.environ | {"XDG_RUNTIME_DIR": str(workspace / "runtime"), "PYTHONPATH": str(ROOT)}
        write_files(workspace, options.lines)
        program = [sys.executable, "-m", "tui.cli"]
        # the runner is started first, so that what is measured is the resume
        subprocess.run([*program, "status"], cwd=workspace, env=environment, check=True, stdout=subprocess.DEVNULL)
        started = time.monotonic()
        subprocess.run(
            [*program, "resume", "many-1"], cwd=workspace, env=environment, check=True, stdout=subprocess.DEVNULL
        )
        peak, state = 0, ""
        while state not in {"done", "failed", "paused"}:
            time.sleep(0.1)
            for process in psutil.process_iter(["cmdline"]):
                command = " ".join(process.info["cmdline"] or [])
                if "engine.runner" in command and folder in command:
                    peak = max(peak, process.memory_info().rss)
            state = str(read_record(workspace / "results" / "many-1").state)
        seconds = time.monotonic() - started
        record = read_record(workspace / "results" / "many-1")
        subprocess.run([*program, "stop"], cwd=workspace, env=environment, check=False, stdout=subprocess.DEVNULL)
        print(f"{options.lines} done lines: {state} after {seconds:.1f} s, runner at most {peak / 2**20:.0f} MiB")
        print(f"counts: {record.counts.succeeded} succeeded, {record.counts.reused} reused; {record.sentence}")


if __name__ == "__main__":
    main()
