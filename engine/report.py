"""report.md and report.svg of a run at rest: what ran, what came of it, what went wrong, and its course over time.

Made from run.json, errors.jsonl, incidents.jsonl and metrics.jsonl alone, so it can be made again. What came from a
model or a file is printed as code, with its control characters and backticks taken out.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import msgspec

from engine.folder import INCIDENTS, METRICS
from engine.output import Unanswered, classify
from engine.protocol import DeviceReading, IncidentView
from engine.publish import publish
from engine.record import RunRecord

REPORT = "report.md"
CHART = "report.svg"

ERRORS_READ = 10_000
"""Error lines that are sorted by their code; a run with more has one cause, and it is among these."""

POINTS = 600
"""Points of a curve: one a pixel."""

GIB = 1024**3


class Sample(msgspec.Struct, frozen=True):
    """What the chart needs of a line of metrics.jsonl."""

    t: float
    decode_rate: float = 0.0
    devices: list[DeviceReading] = []


def write_report(folder: Path, record: RunRecord) -> None:
    """Publish both files. Raises OSError; earlier ones then still stand."""
    samples = _thinned(list(_read(folder / METRICS, Sample)))
    incidents = list(_read(folder / INCIDENTS, IncidentView))
    publish(folder / REPORT, markdown(record, incidents, _error_codes(folder / "errors.jsonl"), bool(samples)).encode())
    if samples:
        publish(folder / CHART, chart(samples).encode())


def markdown(record: RunRecord, incidents: Sequence[IncidentView], errors: Counter[str], charted: bool) -> str:
    """The report as text."""
    counts, engine = record.counts, record.engine
    rate = f", {record.completion_tokens / record.active_s:,.0f} a second while running" if record.active_s else ""
    slots = f"{_several(engine.slots, 'slot')} of {engine.context} tokens"
    rows = [
        ("state", f"{record.state}: {_code(record.sentence)}" if record.sentence else str(record.state)),
        ("input", f"{_code(record.input_path)}, sha256 {_code(record.input_sha256[:16])}…"),
        ("model", f"{_code(engine.model_name)} on {_code(engine.engine)}, {slots}"),
        ("requests", f"{counts.total:,}: {counts.succeeded:,} succeeded, {counts.failed:,} failed"),
        ("cut at a token limit", f"{counts.truncated:,}"),
        ("taken out by a person", f"{counts.aborted:,}"),
        ("tokens", f"{record.prompt_tokens:,} read, {record.completion_tokens:,} generated{rate}"),
        ("of these reasoning", f"{record.reasoning_tokens:,}"),
        ("time running", f"{record.active_s:,.1f} s in {_several(len(record.sessions), 'session')}"),
        ("started, ended", f"{_time(record.started)}, {_time(record.ended)}"),
        ("engine restarts", f"{record.restarts}"),
    ]
    lines = [f"# {_code(record.job)}", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]
    if charted:
        lines += [f"![tokens a second and free memory over time]({CHART})", ""]
    if errors:
        lines += ["## Failed requests by cause", "", "| code | requests |", "|---|---:|"]
        lines += [f"| {_code(code)} | {n:,} |" for code, n in errors.most_common()]
        lines += ["", "Each one with its message is in `errors.jsonl`.", ""]
    if incidents:
        lines += ["## Incidents", ""]
        lines += [f"- {_time(i.t)} {_code(i.kind)}: {_code(i.message)}; {_code(i.action)}" for i in incidents[-100:]]
        lines += [""]
    return "\n".join(lines)


def chart(samples: Sequence[Sample]) -> str:
    """Two curves over the same time: decode tokens a second, and free memory of the tightest device."""
    width, height, left, gap = POINTS + 140, 330, 90, 30
    panel = (height - 3 * gap) // 2
    begin, end = samples[0].t, max(samples[-1].t, samples[0].t + 1)
    x = [left + (s.t - begin) / (end - begin) * POINTS for s in samples]
    devices = [min((d for d in s.devices if d.total), key=lambda d: d.free, default=None) for s in samples]
    total = max((d.total for d in devices if d), default=0)
    top = max((s.decode_rate for s in samples), default=0.0)
    name = next((d.name for d in devices if d), "no reading")
    frame = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    )
    parts = [frame]
    panels = (
        ("decode tokens a second", f"{top:,.0f}", top, [s.decode_rate for s in samples]),
        (
            f"free memory, {name}",
            f"{total / GIB:.1f} GiB",
            float(total),
            [float(d.free) if d else 0.0 for d in devices],
        ),
    )
    for number, (title, label, bound, values) in enumerate(panels):
        y = gap + number * (panel + gap)
        points = " ".join(
            f"{px:.1f},{y + panel - (value / bound * panel if bound else 0):.1f}"
            for px, value in zip(x, values, strict=True)
        )
        parts += [
            f'<text x="{left}" y="{y - 8}">{escape(_plain(title))}</text>',
            f'<rect x="{left}" y="{y}" width="{POINTS}" height="{panel}" fill="none" stroke="#bbb"/>',
            f'<text x="{left - 6}" y="{y + 12}" text-anchor="end">{label}</text>',
            f'<text x="{left - 6}" y="{y + panel}" text-anchor="end">0</text>',
            f'<polyline points="{points}" fill="none" stroke="#06c" stroke-width="1.5"/>',
        ]
    parts += [f'<text x="{left + POINTS}" y="{height - 8}" text-anchor="end">{end - begin:,.0f} s</text>', "</svg>"]
    return "\n".join(parts) + "\n"


def _read(path: Path, kind: type[Any]) -> Iterator[Any]:
    """The whole lines of a file that nobody fsyncs line by line: a torn or foreign line is passed over."""
    decoder = msgspec.json.Decoder(kind)
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                yield decoder.decode(line)
            except (msgspec.MsgspecError, ValueError):
                continue


def _error_codes(path: Path) -> Counter[str]:
    codes: Counter[str] = Counter()
    for number, line in enumerate(_read(path, dict)):
        if number >= ERRORS_READ:
            break
        found = classify(line)
        if isinstance(found, Unanswered):
            codes[str(found.code or "no code")] += 1
    return codes


def _thinned(samples: list[Sample]) -> list[Sample]:
    step = max(1, len(samples) // POINTS)
    return samples[::step]


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() and c not in "`|" else " " for c in text)


def _code(text: str) -> str:
    return f"`{_plain(text)}`" if text else "-"


def _several(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _time(t: float | None) -> str:
    return datetime.datetime.fromtimestamp(t, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if t else "-"
