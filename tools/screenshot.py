"""Makes the picture in the README: a real run of the demo model, as the screen shows it after half a minute.

    .venv/bin/python -m tools.screenshot [docs/screenshot.svg] [--size 120x36] [--theme dark|light]

Everything in it has happened: the real runner in a workspace of its own, the batches of batches/, one of them with bad
lines. Figures and answers differ a little from one run to the next.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from textual.pilot import Pilot

from engine.workspace import Workspace
from tools.svg import picture_of, text_of
from tui.app import GptossApp
from tui.remote import Terminal

ROOT: Final = Path(__file__).resolve().parents[1]
PATIENCE_S: Final = 120.0
RUNNING_S: Final = 40.0
"""So long it runs before the picture: the graphs show something then."""

REQUESTS: Final = 3000


NAMES: Final = ("Lily", "Ana", "Oscar", "Alma", "Finn", "Milo", "Sam", "Max", "Greta")
THINGS: Final = ("golden lamp", "white bell", "silver mirror", "red map", "green box", "red coin", "silver stone")
PLACES: Final = ("library", "harbor", "market", "desert", "valley")


def requests() -> list[str]:
    """Stories, which the demo model is good at; two ask for more than a slot holds and fail."""
    asked = itertools.cycle(itertools.product(THINGS, PLACES, NAMES))
    made: list[str] = []
    for n, (thing, place, name) in enumerate(itertools.islice(asked, REQUESTS), 1):
        prompt = f"Tell me a story about {name} and a {thing} in a {place}."
        body = {
            "model": "nano",
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": 100_000 if n in (41, 701) else 600,
            "reasoning_effort": "medium",
        }
        line = {"custom_id": f"story-{n:04d}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        made.append(json.dumps(line))
    return made


def fill(folder: Path) -> None:
    """The batches of the picture."""
    batches = folder / "batches"
    batches.mkdir()
    lines = requests()
    (batches / "stories.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    (batches / "summaries.jsonl").write_text("".join(f"{line}\n" for line in lines[:500]), "utf-8")
    (batches / "nightly.jsonl").write_text("".join(f"{line}\n" for line in lines[100:900]), "utf-8")
    shutil.copy(ROOT / "batches" / "demo_10.jsonl", batches)


def program(folder: Path, *arguments: str) -> None:
    """Run one of the program's own commands to its end."""
    command = [sys.executable, "-m", "tui.cli", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr or done.stdout}")


async def until(pilot: Pilot[int], ready: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not ready():
        if time.monotonic() > end:
            raise SystemExit("the run did not come as far as the picture needs")
        await pilot.pause(0.2)


async def take(folder: Path, columns: int, rows: int, theme: str) -> str:
    """Open the screen on the run, wait until there is something to see, and draw it."""
    # As in a browser: there is no terminal to which bytes go.
    app = GptossApp(Workspace.at(folder), Terminal(theme=theme, web=True), start=False)
    async with app.run_test(size=(columns, rows)) as pilot:
        await until(pilot, lambda: app.desk.link.connected and "stories-1" in app.desk.mirror.jobs)
        begun = time.monotonic()
        job = app.desk.mirror.jobs
        await until(pilot, lambda: time.monotonic() - begun > RUNNING_S and bool(job["stories-1"].counts.running))
        await until(pilot, lambda: app.noticed is None and len(app.desk.mirror.running) > 8)
        await until(pilot, lambda: not any("streams" in row and "ended" in row for row in text_of(app)))
        return picture_of(app)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, default=ROOT / "docs" / "screenshot.svg")
    parser.add_argument("--size", default="120x36")
    parser.add_argument("--theme", choices=("dark", "light"), default="dark")
    options = parser.parse_args()
    columns, rows = (int(part) for part in options.size.split("x"))
    folder = Path(tempfile.mkdtemp(prefix="gptoss-"))
    try:
        fill(folder)
        program(folder, "run", "batches/demo_10.jsonl")
        program(folder, "run", "batches/nightly.jsonl", "--detach")
        time.sleep(2.0)
        program(folder, "pause", "nightly-1")
        program(folder, "run", "batches/stories.jsonl", "--detach", "--skip-invalid", "--threads", "1")
        program(folder, "run", "batches/summaries.jsonl", "--detach", "--skip-invalid")
        svg = asyncio.run(take(folder, columns, rows, options.theme))
        options.path.write_text(svg, "utf-8")
        print(f"{options.path}: {len(svg) / 1024:.0f} KiB")
    finally:
        program(folder, "stop")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
