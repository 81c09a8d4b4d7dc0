"""report.md and report.svg: true figures, drawn within their bounds, and no foreign text that could act."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from engine.job import JobState
from engine.output import error_line
from engine.protocol import Counts, DeviceReading, EngineSettings, IncidentView, RequestError
from engine.record import RunRecord, Session
from engine.report import Sample, chart, markdown, write_report

RECORD = RunRecord(
    job="many-1",
    state=JobState.DONE,
    input_path="batches/`evil`|\x1b[31m.jsonl",
    created=0.0,
    active_s=20.0,
    counts=Counts(total=10, succeeded=8, failed=2, truncated=1),
    prompt_tokens=500,
    completion_tokens=2_000,
)


def device(free: int) -> DeviceReading:
    return DeviceReading(name="<GPU>", kind="gpu", total=100, used=100 - free, free=free)


def test_figures_are_those_of_the_record():
    text = markdown(RECORD, [], Counter(), charted=False)
    assert "10: 8 succeeded, 2 failed" in text
    assert "2,000 generated, 100 a second" in text
    assert "report.svg" not in text


@pytest.mark.parametrize(("n", "words"), [(0, "0 sessions"), (1, "1 session"), (2, "2 sessions")])
def test_one_is_not_many(n: int, words: str):
    record = msgspec.structs.replace(RECORD, sessions=[Session(started=0.0)] * n, engine=EngineSettings(slots=n))
    text = markdown(record, [], Counter(), charted=False)
    assert f"in {words} |" in text
    assert f"{words.replace('session', 'slot')} of" in text


def test_foreign_text_can_not_act():
    text = markdown(
        RECORD, [IncidentView(t=1.0, job="j", kind="k", message="a\nb`c|d")], Counter({"x|y": 1}), charted=True
    )
    assert "\x1b" not in text
    row = next(line for line in text.splitlines() if line.startswith("| input"))
    assert row.count("|") == 3
    assert "a b c d" in text


def test_the_chart_stays_within_its_panels():
    samples = [Sample(t=float(i), decode_rate=10.0 * i, devices=[device(i)]) for i in range(50)]
    root = ET.fromstring(chart(samples))
    curves = [e.get("points") or "" for e in root.iter() if e.tag.endswith("polyline")]
    assert len(curves) == 2
    rects = [e for e in root.iter() if e.tag.endswith("rect")][1:]
    for curve, rect in zip(curves, rects, strict=True):
        top = float(rect.get("y") or 0)
        bottom = top + float(rect.get("height") or 0)
        ys = [float(y) for _, y in re.findall(r"([\d.]+),([\d.]+)", curve)]
        assert len(ys) == 50
        assert top <= min(ys)
        assert max(ys) <= bottom
    assert "&lt;GPU&gt;" in chart(samples)


def test_files_of_a_run_become_its_report(tmp_path: Path):
    error = RequestError(code="context_length_exceeded", message="too long", status=400)
    (tmp_path / "errors.jsonl").write_bytes(error_line("a", "req_1", error, created=1).data * 2)
    lines = [msgspec.json.encode({"t": float(i), "decode_rate": 5.0, "running": 3}) for i in range(3)]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines) + b'\n{"t": 4')  # the last one torn
    write_report(tmp_path, RECORD)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| `context_length_exceeded` | 2 |" in text
    assert ET.parse(tmp_path / "report.svg").getroot().tag.endswith("svg")


def test_a_run_without_samples_has_no_chart(tmp_path: Path):
    write_report(tmp_path, RECORD)
    assert not (tmp_path / "report.svg").exists()
    assert "many-1" in (tmp_path / "report.md").read_text(encoding="utf-8")
