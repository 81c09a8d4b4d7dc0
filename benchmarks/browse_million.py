"""How long a person waits for the requests of a run with a million of them: pages, details, searches, memory.

    python -m benchmarks.browse_million [--requests N] [--folder DIR]

Makes a run folder (kept where --folder names one), opens it in a fresh `python -m engine.offline browse` and asks it
what the terminal UI asks. Times are seconds from question to answer, over the pipe.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from engine.output import error_line, line_for
from engine.pages import Answer, Ask, AskDetail, AskFind, AskPage, Fault, OpenRun, Page
from engine.protocol import Choice, Completion, Finish, RequestError, Timing, Usage

_answers = msgspec.json.Decoder(Answer)


class _Asked(msgspec.Struct):
    custom_id: str
    url: str = "/v1/chat/completions"
    request_id: str = "req_" + "0" * 32


def make(folder: Path, requests: int) -> Path:
    """A run that is nearly done: one in 50 failed, one in 20 cut, the last hundredth waits. Returns the batch file."""
    batch = folder / "million.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with (
        batch.open("wb") as out,
        (folder / "output.jsonl").open("wb") as good,
        (folder / "errors.jsonl").open("wb") as bad,
    ):
        for n in range(requests):
            body = {
                "model": "gpt-oss-20b",
                "messages": [{"role": "user", "content": f"Summarise review {n}: it broke after {n % 97} days."}],
                "max_tokens": 200,
            }
            line = {"custom_id": f"review-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            out.write(msgspec.json.encode(line) + b"\n")
            if n >= requests - requests // 100:
                continue
            asked = _Asked(f"review-{n}", request_id=f"req_{n:032x}")
            if n % 50 == 7:
                error = RequestError(code="engine_died", message="the engine died three times on it. It was alone.")
                bad.write(error_line(asked.custom_id, asked.request_id, error, created=1.0).data)
                continue
            finish = Finish.LENGTH if n % 20 == 3 else Finish.STOP
            text = f"The device of review {n} broke early; the customer wants it mended or replaced."
            choice = Choice(index=0, finish=finish, content=text, reasoning="Short and sober.")
            usage = Usage(prompt_tokens=30 + n % 40, completion_tokens=25 + n % 90)
            timing = Timing(queued_s=0.5, prefill_s=0.01, decode_s=0.2 + n % 1009 / 500)
            completion = Completion(finish=finish, choices=[choice], usage=usage, timing=timing)
            good.write(line_for(asked, completion, model="gpt-oss-20b", created=1.0).data)
    return batch


class Child:
    """The real child, asked one question after the other."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "engine.offline", "browse"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, ask: Ask) -> tuple[Any, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        start = time.perf_counter()
        self._process.stdin.write(msgspec.json.encode(ask) + b"\n")
        self._process.stdin.flush()
        answer = _answers.decode(self._process.stdout.readline())
        if isinstance(answer, Fault):
            raise SystemExit(answer.message)
        return answer, time.perf_counter() - start

    def whole(self, ask: AskPage) -> tuple[Page, float, float]:
        """Asked again until nothing more is to come: the last page, all the time, the longest answer."""
        start, longest = time.perf_counter(), 0.0
        while True:
            page, took = self.ask(ask)
            longest = max(longest, took)
            if page.fraction >= 1:
                return page, time.perf_counter() - start, longest
            time.sleep(0.25)  # as often as the UI draws

    def memory_mib(self) -> tuple[float, float]:
        """Resident now, and at its highest."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        sizes = {key: value.split()[0] for key, _, value in (line.partition(":") for line in lines) if "kB" in value}
        return int(sizes["VmRSS"]) / 1024, int(sizes["VmHWM"]) / 1024

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(folder: Path, batch: Path, requests: int) -> None:
    child = Child()
    _, took = child.ask(OpenRun(folder=str(folder), input_path=str(batch)))
    print(f"open                     {took:7.3f} s  (with the start of Python)")
    _, first = child.ask(AskPage(count=50))
    print(
        f"first page               {first:7.3f} s  after that; {time.perf_counter() - child.started:.3f} s from nothing"
    )
    page, took, longest = child.whole(AskPage(count=50))
    print(f"whole index              {took:7.3f} s  {child.cpu_s():.1f} s of CPU; longest answer {longest:.3f} s")
    print(f"                                   {page.counts}")
    print(f"memory                   {child.memory_mib()[0]:7.0f} MiB, at most {child.memory_mib()[1]:.0f} MiB")
    for name, ask in {
        "page at the middle": AskPage(offset=requests // 2, count=50),
        "page of failed, middle": AskPage(which="failed", offset=requests // 100, count=50),
        "page of slow": AskPage(which="slow", count=50),
        "page around an id": AskPage(around=f"review-{requests * 2 // 3}", count=50),
        "detail": AskDetail(custom_id=f"review-{requests // 3}"),
    }.items():
        times = sorted(child.ask(ask)[1] for _ in range(21))
        print(f"{name:24} {times[10]:7.4f} s  slowest of 21: {times[-1]:.4f} s")
    near, far = f"review {requests // 2}:", f"review {requests - 2}:"
    for name, text in {"find in the middle": near, "find again": near, "find at the end": far}.items():
        found, took = child.ask(AskFind(find=text))
        print(f"{name:24} {took:7.3f} s  {found.custom_id}")
    for name, text in {"find a foreign word": "größe 👍", "find what every line has": "content"}.items():
        found, took = child.ask(AskFind(find=text))
        print(f"{name:24} {took:7.3f} s  row {found.row}")
    page, took, longest = child.whole(AskPage(text="96 days", count=50))
    print(f"filter by text           {took:7.3f} s  longest answer meanwhile {longest:.3f} s; {page.total} rows")
    print(f"memory                   {child.memory_mib()[0]:7.0f} MiB, at most {child.memory_mib()[1]:.0f} MiB")
    child.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "run"
        batch = folder / "million.jsonl"
        if not batch.exists():
            start = time.perf_counter()
            make(folder, options.requests)
            print(f"made {options.requests} requests in {time.perf_counter() - start:.0f} s", flush=True)
        measure(folder, batch, options.requests)


if __name__ == "__main__":
    main()
