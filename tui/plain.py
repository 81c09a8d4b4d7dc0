"""The runner's facts as lines of text: pure functions from protocol values, for pipes, logs and one rewriting line.

Everything that may come from a file or a model goes through `tui.text` here. Estimates carry a `~`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.job import JobState
from engine.protocol import Counts, DeviceReading, EngineView, Eta, IncidentView, JobView, Reading
from tui.text import SafeText, cells, fit, one_line, pad

GIB = 1024**3
MIB = 1024**2


# --- numbers ----------------------------------------------------------------------------------------------------------


def count(n: int) -> str:
    return f"{n:,}".replace(",", " ")


def several(n: int, what: str) -> str:
    """`1 error`, `3 errors`, `4 188 errors`."""
    return f"{count(n)} {what}{'' if n == 1 else 's'}"


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    s = max(0, round(seconds))
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02d} s"
    if s < 86400:
        return f"{s // 3600} h {s % 3600 // 60:02d} min"
    return f"{s // 86400} d {s % 86400 // 3600} h"


def took(seconds: float) -> str:
    """As `duration`, with a decimal where whole seconds would say nothing: `0.4 s`."""
    return f"{max(seconds, 0.1):.1f} s" if seconds < 9.95 else duration(seconds)


def size(n: int) -> str:
    return f"{n / GIB:.1f} GiB" if n >= GIB / 10 else f"{n / MIB:.0f} MiB"


def rate(per_s: float) -> str:
    return f"{count(round(per_s))} tok/s" if per_s >= 10 else f"{per_s:.1f} tok/s"


def eta(value: Eta) -> str:
    """Time left, always marked as the estimate it is; empty while nothing is known."""
    if value.s is None:
        return ""
    text = f"~{duration(value.s)} left"
    if value.low_s is not None and value.high_s is not None and round(value.low_s) != round(value.high_s):
        text += f" ({duration(value.low_s)} to {duration(value.high_s)})"
    return text


def memory(reading: Reading | None) -> str:
    """The fullest GPU, or RAM where there is none, with what is free."""
    device = tightest(reading)
    if device is None:
        return ""
    if device.kind == "gpu":
        return f"GPU {_of(device)}"
    return f"RAM {_of(device)} (no GPU)"


def _of(device: DeviceReading) -> str:
    return f"{device.used / GIB:.1f}/{device.total / GIB:.1f} GiB, {size(device.free)} free"


def tightest(reading: Reading | None) -> DeviceReading | None:
    """The GPU with the least headroom among those that tell, or RAM where there is no GPU."""
    if reading is None:
        return None
    gpus = [d for d in reading.devices if d.kind == "gpu"]
    return min((d for d in gpus or reading.devices if d.total), key=lambda d: d.free, default=None)


def memory_state(device: DeviceReading) -> str:
    """`ok`, `warn` or `critical`, by the runner's own thresholds; empty where it tells none."""
    if not device.total or not device.warn_free:
        return ""
    if device.free < device.critical_free:
        return "critical"
    return "warn" if device.free < device.warn_free else "ok"


# --- jobs -------------------------------------------------------------------------------------------------------------


def in_slots(job: JobView) -> tuple[int, int]:
    """How many requests are in a slot, and how many the engine has ready to follow them at once."""
    running = job.counts.running
    n = min(running, job.slots) if job.slots else running
    return n, running - n


def done(counts: Counts) -> int:
    return counts.succeeded + counts.failed


def state_words(job: JobView) -> str:
    """The state, with how far it is where that can be told."""
    if job.load_fraction is not None and job.state in (JobState.VALIDATING, JobState.LOADING):
        return f"{job.state} {job.load_fraction:.0%}"
    return str(job.state)


def progress_line(job: JobView, reading: Reading | None, width: int | None, *, place: str = "") -> SafeText:
    """One line on a job in work. Where `width` is short, the least important parts go first."""
    counts = job.counts
    running = job.state == JobState.RUNNING
    # (text, importance): drawn in this order, dropped from the least important.
    parts: list[tuple[str, int]] = [(f"{place}{one_line(job.id)}", 5), (state_words(job), 5 if running else 9)]
    if counts.total:
        parts.append((f"{count(done(counts))}/{count(counts.total)}", 10))
        parts.append((f"{count(counts.failed)} failed", 8 if counts.failed else 3))
    if running:
        parts.append((rate(job.decode_rate), 6))
        if left := eta(job.eta):
            short = left.partition(" (")[0]
            parts.append((short, 7))
            if left != short:
                parts.append((left[len(short) + 1 :], 1))
    elif job.state == JobState.QUEUED:
        parts.append((one_line(job.sentence), 2))
    if device := tightest(reading):
        gpu = device.kind == "gpu"
        parts.append((f"{'GPU' if gpu else 'RAM'} {size(device.free)} free", 4))
        used = f"{device.used / GIB:.1f}/{device.total / GIB:.1f} GiB used"
        parts.append((f"({used})" if gpu else f"({used}, no GPU)", 2))
    if job.restarts:
        parts.append((f"engine restarted {job.restarts}x", 4))
    if width is None:
        return _line(parts)
    while len(parts) > 1 and cells(_line(parts)) > width:
        parts.remove(min(parts, key=lambda part: part[1]))
    return SafeText(fit(_line(parts), width, ellipsis="..."))


def _line(parts: Iterable[tuple[str, int]]) -> SafeText:
    return SafeText("  ".join(text for text, _ in parts if text))


def state_line(job: JobView) -> SafeText:
    """For a change of state."""
    sentence = f" ({one_line(job.sentence)})" if job.sentence else ""
    return SafeText(f"{one_line(job.id)}: {job.state}{sentence}")


def incident_line(incident: IncidentView) -> SafeText:
    action = f"; {one_line(incident.action)}" if incident.action else ""
    return SafeText(f"{one_line(incident.job)}: {one_line(incident.message).rstrip('.')}{action}")


def engine_words(engine: EngineView) -> SafeText:
    """The engine in a few words."""
    if engine.info is None:
        return SafeText("none" if engine.state == "none" else one_line(engine.state))
    info = engine.info
    device = info.device or "device unknown"
    running = f"{engine.stats.running} of {info.slots} slots busy"
    return SafeText(f"{one_line(info.name)} on {one_line(device)}, {engine.state}, {running}")


_COLUMNS = ("job", "state", "done", "failed", "rate", "left")


def status_table(jobs: Sequence[JobView], width: int | None) -> list[SafeText]:
    """Jobs as rows; the last column, why it stands where it stands, is cut to what is left of the line."""
    if not jobs:
        return [SafeText("no jobs")]
    rows = [
        (
            one_line(job.id),
            state_words(job),
            f"{count(done(job.counts))}/{count(job.counts.total)}" if job.counts.total else "-",
            count(job.counts.failed) if job.counts.total else "-",
            rate(job.decode_rate) if job.state == JobState.RUNNING else "-",
            eta(job.eta).partition(" left")[0] or "-",
        )
        for job in jobs
    ]
    widths = [max(cells(row[i]) for row in [_COLUMNS, *rows]) for i in range(len(_COLUMNS))]
    right = (False, False, True, True, True, True)

    def line(row: Sequence[str], why: str) -> SafeText:
        start = "  ".join(pad(text, w, right=r) for text, w, r in zip(row, widths, right, strict=True))
        text = f"{start}  {why}".rstrip()
        return SafeText(text if width is None else fit(text, width, ellipsis="..."))

    return [line(_COLUMNS, "why"), *(line(row, one_line(job.sentence)) for row, job in zip(rows, jobs, strict=True))]


def summary(job: JobView) -> list[SafeText]:
    """What a job at rest came to."""
    counts = job.counts
    lines = [state_line(job) if job.state != JobState.DONE else SafeText(f"{one_line(job.id)}: done")]
    if counts.total:
        text = f"  {count(counts.succeeded)}/{count(counts.total)} succeeded, {count(counts.failed)} failed"
        if counts.aborted:
            text += f", {count(counts.aborted)} taken out"
        if left := counts.waiting + counts.running:
            text += f", {count(left)} left"
        if counts.reused:
            text += f" ({count(counts.reused)} of them finished before)"
        lines.append(SafeText(text))
    if counts.truncated:
        lines.append(SafeText(f"  {count(counts.truncated)} cut at their token limit (finish_reason length)"))
    if counts.retried or job.restarts:
        lines.append(
            SafeText(f"  the engine was restarted {job.restarts}x, {count(counts.retried)} requests ran again")
        )
    if job.completion_tokens:
        text = f"  {count(job.prompt_tokens)} tokens read, {count(job.completion_tokens)} generated"
        if job.active_s > 0:
            text += f", {rate(job.completion_tokens / job.active_s)} in {took(job.active_s)} of running"
        lines.append(SafeText(text))
    if job.started is not None and job.ended is not None and job.completion_tokens:
        lines.append(SafeText(f"  {took(job.ended - job.started)} in all, loading and rests included"))
    return lines
