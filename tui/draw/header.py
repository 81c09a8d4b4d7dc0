"""The first row: what runs, how long it takes, and how it is reached. Pure.

Where the row is short, the least important facts fall out; the state stays to the last.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Final, NamedTuple

from engine.job import ACTIVE
from engine.protocol import JobView
from tui.draw.jobs import ENGINES, time_left
from tui.draw.line import Line, Span, clip, fill, joined, line, restyle, width
from tui.plain import done, duration, state_words
from tui.state import Mirror
from tui.text import cells, one_line

STYLE: Final = "header"


class Facts(NamedTuple):
    """What the header draws. `link`: Hz and KiB/s in words, empty for none."""

    job: JobView | None
    connected: bool = True
    why: str = ""
    slow: bool = False
    link: str = ""
    readonly: bool = False
    ssh: bool = False
    help_key: str = "?"
    add_key: str = "a"


class Part(NamedTuple):
    """A piece of the row; the highest `weight` stays longest."""

    line: Line
    weight: int


def job_of(mirror: Mirror, selected: str) -> JobView | None:
    """The job the machine works on; where it rests, the selected one, else the first of the queue."""
    queue = mirror.queue
    active = [job for job in queue if job.state in ACTIVE]
    if active:
        return next((job for job in active if job.id == selected), active[0])
    return mirror.jobs.get(selected) or (queue[0] if queue else None)


def header(facts: Facts, columns: int, *, ellipsis: str = "…") -> Line:
    """Exactly `columns` wide."""
    left = [_lost(facts, columns - 2)] if not facts.connected else _job(facts.job) if facts.job else _idle(facts)
    right = _right(facts)
    while len(left) + len(right) > 1 and _wide(left, right) > columns:
        least = min([*left, *right], key=lambda part: part.weight)
        (left if least in left else right).remove(least)
    head = (Span(" "), *joined(part.line for part in left))
    tail = (*joined(part.line for part in right), Span(" ")) if right else ()
    room = columns - width(head) - width(tail)
    row = clip(head, columns, ellipsis=ellipsis) if room < 0 else (*head, Span(" " * room), *tail)
    style = STYLE if facts.connected else f"{STYLE} error"
    return fill(restyle(row, style), columns, style=style, ellipsis=ellipsis)


def _wide(left: list[Part], right: list[Part]) -> int:
    """Columns with margins and a gap."""
    ends = [joined(part.line for part in side) for side in (left, right)]
    return 1 + width(ends[0]) + (2 + width(ends[1]) + 1 if right else 0)


def _job(job: JobView) -> list[Part]:
    parts = [Part(line((state_words(job), "bold")), 100), Part(line(one_line(PurePath(job.input_path).name)), 90)]
    counts = job.counts
    if counts.total:
        # Rounded down: 100% means that nothing is left.
        parts.append(Part(line(f"{done(counts) * 100 // counts.total}%"), 80))
    if job.model:
        parts.append(Part(line(one_line(job.model)), 50))
    if job.engine:
        parts.append(Part(line(one_line(ENGINES.get(job.engine, job.engine))), 30))
    if job.active_s >= 1:
        parts.append(Part(line(duration(job.active_s)), 45))
    if job.eta.s is not None and job.state in ACTIVE:
        # As in the row of the job, a few rows below.
        parts.append(Part(line(f"{time_left(job.eta)[0]} left"), 70))
    return parts


def _idle(facts: Facts) -> list[Part]:
    words = "no job yet" if facts.readonly else f"no job yet: {facts.add_key} adds a batch"
    return [Part(line(("idle", "bold")), 100), Part(line(words), 90)]


def _lost(facts: Facts, columns: int) -> Part:
    """The longest sentence that fits."""
    why = one_line(facts.why).rstrip(".")
    short = "not connected to the runner"
    because = f"{short}: {why}" if why else short
    sentences = (
        f"{because}; what you see is as it was last",
        because,
        f"{short}; trying again",
        short,
        "not connected",
    )
    sentence = next((text for text in sentences if cells(text) <= columns), sentences[-1])
    return Part(line((sentence, "bold")), 100)


def _right(facts: Facts) -> list[Part]:
    parts: list[Part] = []
    if facts.slow:
        parts.append(Part(line(("slow link", "bold")), 75))
    if facts.link:
        parts.append(Part(line(facts.link), 48))
    if facts.readonly:
        parts.append(Part(line("read only"), 65))
    if facts.ssh:
        parts.append(Part(line("ssh"), 20))
    parts.append(Part(line((facts.help_key, "bold"), " help"), 35))  # the key line has it too
    return parts


def link_words(hz: float, kib_s: float) -> str:
    """`4 Hz 5 KiB/s`, in steps as coarse as anybody reads them."""
    return f"{hz:g} Hz {traffic(kib_s)}"


def traffic(kib_s: float) -> str:
    """Whole KiB a second, above ten in fives. An idle screen sends a little now and then: that is `<1`."""
    if kib_s < 1:
        return "<1 KiB/s"
    rounded = round(kib_s) if kib_s < 10 else 5 * round(kib_s / 5)
    return f"{rounded} KiB/s"
