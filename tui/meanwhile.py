"""What happened while nobody looked: sentences for the moment a screen opens or finds the runner again. Pure."""

from __future__ import annotations

from engine.job import ACTIVE, JobState
from engine.protocol import JobView
from tui import plain
from tui.text import SafeText, one_line


def standing(job: JobView) -> SafeText:
    """`evals-1 running: 91 of 100 done (88 reused), 4 running, 3 failed`."""
    counts = job.counts
    parts = [f"{plain.count(plain.done(counts))} of {plain.count(counts.total)} done"]
    if counts.reused:
        parts[0] += f" ({plain.count(counts.reused)} reused)"
    if counts.running:
        parts.append(f"{plain.count(plain.in_slots(job)[0])} running")
    if counts.failed:
        parts.append(f"{plain.count(counts.failed)} failed")
    if counts.aborted:
        parts.append(f"{plain.count(counts.aborted)} aborted")
    return one_line(f"{job.id} {job.state}: {', '.join(parts)}" if counts.total else f"{job.id} {job.state}")


def change(before: JobView | None, after: JobView) -> SafeText | None:
    """What is different in this job; None where nothing is."""
    if before is None:
        return one_line(f"{after.id} is new: {after.state}")
    more: list[str] = []
    for name, was, now in (
        ("done", before.counts.succeeded, after.counts.succeeded),
        ("failed", before.counts.failed, after.counts.failed),
    ):
        if now > was:
            more.append(f"{plain.count(now - was)} more {name}")
    if before.state != after.state:
        more.insert(0, f"{before.state}, now {after.state}")
    if after.restarts > before.restarts:
        more.append(f"{plain.several(after.restarts - before.restarts, 'engine restart')}")
    return one_line(f"{after.id}: {', '.join(more)}") if more else None


def on_opening(jobs: list[JobView]) -> SafeText | None:
    """How things stand, for a screen that has just been opened; None in an empty workspace."""
    active = [job for job in jobs if job.state in ACTIVE]
    if active:
        return standing(active[0])
    broken = [job for job in jobs if job.state == JobState.INTERRUPTED]
    if broken:
        return SafeText(f"{standing(broken[0])}. Its runner died; r goes on")
    waiting = [job for job in jobs if job.state == JobState.PAUSED]
    if waiting:
        return SafeText(f"{standing(waiting[0])}. r resumes")
    return None


def on_return(before: dict[str, JobView], after: dict[str, JobView]) -> SafeText | None:
    """What changed while the connection was lost."""
    found = [sentence for job in after.values() if (sentence := change(before.get(job.id), job))]
    found += [one_line(f"{name} was taken off the list") for name in before if name not in after]
    if not found:
        return None
    rest = f" (and {len(found) - 2} more)" if len(found) > 2 else ""
    return SafeText("; ".join(found[:2]) + rest)
