"""What tests of the screen share: a desk with made-up facts, an app that shows one pane, and screens as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual.app import App, ComposeResult

from engine.job import JobState
from engine.protocol import (
    Counts,
    DeviceReading,
    EngineSettings,
    EngineStats,
    EngineView,
    Eta,
    HistoryPoint,
    IncidentView,
    JobView,
    ModelInfo,
    Reading,
    RunningRequest,
    Snapshot,
)
from tui.desk import Desk
from tui.draw.line import Line
from tui.look import Look
from tui.panes.pane import Pane
from tui.remote import Terminal
from tui.state import Mirror
from tui.view import View

NOW = 1_700_000_000.0
GIB = 1024**3
MIB = 1024**2


def job_view(name: str = "evals-1", state: JobState = JobState.RUNNING, **fields: Any) -> JobView:
    """A job in mid-run; any field may be given."""
    fields.setdefault("input_path", f"/data/{name.rpartition('-')[0] or name}.jsonl")
    fields.setdefault("created", NOW - 4000)
    fields.setdefault("started", NOW - 3600)
    fields.setdefault("counts", Counts(total=10_000, succeeded=4_186, failed=2, running=30, waiting=5_782))
    if state == JobState.RUNNING:
        fields.setdefault("decode_rate", 1012.0)
        fields.setdefault("prefill_rate", 2911.0)
        fields.setdefault("eta", Eta(s=2460.0, low_s=2200.0, high_s=2700.0))
    fields.setdefault("model", "gpt-oss-20b-Q4_K_M")
    fields.setdefault("engine", "llamacpp")
    fields.setdefault("active_s", 3590.0)
    fields.setdefault("slots", 32)
    fields.setdefault("context", 2048)
    return JobView(id=name, state=state, **fields)


def gpu(**fields: Any) -> DeviceReading:
    """A 16 GB card with a model on it."""
    facts: dict[str, Any] = {
        "name": "NVIDIA GeForce RTX 4080",
        "kind": "gpu",
        "total": 16 * GIB,
        "used": 13 * GIB,
        "free": 3 * GIB,
        "process": 12_700 * MIB,
        "utilization": 0.93,
        "temperature_c": 62.0,
        "power_w": 251.0,
        "owners": {
            "weights": 10_650 * MIB,
            "kv": 1_536 * MIB,
            "compute": 120 * MIB,
            "context": 394 * MIB,
            "other": 612 * MIB,
        },
        "estimated": ["context"],
        "peak_used": 13 * GIB + 300 * MIB,
        "peak_t": NOW - 600,
        "warn_free": 512 * MIB,
        "critical_free": 256 * MIB,
    }
    return DeviceReading(**(facts | fields))


def ram(**fields: Any) -> DeviceReading:
    facts: dict[str, Any] = {
        "name": "RAM",
        "kind": "ram",
        "total": 32 * GIB,
        "used": 9 * GIB,
        "free": 23 * GIB,
        "process": 900 * MIB,
        "owners": {"weights": 2 * MIB, "kv": 24 * MIB, "runner": 60 * MIB, "context": 814 * MIB, "other": 8316 * MIB},
        "estimated": ["context"],
        "peak_used": 10 * GIB,
        "peak_t": NOW - 60,
        "warn_free": 512 * MIB,
        "critical_free": 256 * MIB,
    }
    return DeviceReading(**(facts | fields))


def reading(*devices: DeviceReading, note: str = "") -> Reading:
    chosen = list(devices) or [gpu(), ram()]
    return Reading(t=NOW, devices=chosen, runner_rss=60 * MIB, worker_rss=900 * MIB, note=note)


def running(n: int = 4, job: str = "evals-1") -> list[RunningRequest]:
    return [
        RunningRequest(
            key=i + 1,
            custom_id=f"req-{4189 + i:06d}",
            prompt_tokens=1204 - 7 * i,
            generated=312 - 40 * i if i < 3 else 0,
            started=NOW - 11 + i,
            line=4189 + i,
            max_tokens=800,
            rate=34.0 - i if i < 3 else 0.0,
            job=job,
        )
        for i in range(n)
    ]


def history(seconds: int = 300) -> list[HistoryPoint]:
    """A wave, so that a graph has a shape."""
    return [
        HistoryPoint(
            t=NOW - seconds + s,
            decode=900.0 + 200.0 * ((s // 10) % 3),
            prefill=3000.0 if s % 30 < 5 else 400.0,
            running=30,
            slots=32,
            kv_used=40_000,
            kv_total=65_536,
            free=[3 * GIB - (s % 60) * MIB, 23 * GIB],
        )
        for s in range(seconds)
    ]


def engine(**fields: Any) -> EngineView:
    facts: dict[str, Any] = {
        "state": "ready",
        "pid": 4121,
        "settings": EngineSettings(model_path="/m/gpt-oss-20b-Q4_K_M.gguf", slots=32, context=2048),
        "info": ModelInfo(
            name="gpt-oss-20b-Q4_K_M", path="/m/gpt-oss-20b-Q4_K_M.gguf", slots=32, context=2048, device="RTX 4080"
        ),
        "stats": EngineStats(
            running=30,
            waiting=2,
            slots=32,
            kv_used=40_000,
            kv_total=65_536,
            memory={"weights": 10_650 * MIB, "kv": 1_536 * MIB, "compute": 120 * MIB},
        ),
    }
    return EngineView(**(facts | fields))


def snapshot(**fields: Any) -> Snapshot:
    facts: dict[str, Any] = {
        "seq": 1,
        "jobs": [
            job_view("evals-1"),
            job_view("summaries-1", JobState.QUEUED, order=1, counts=Counts(), sentence="waits for its turn"),
            job_view(
                "nightly-1",
                JobState.PAUSED,
                order=2,
                counts=Counts(total=5000, succeeded=312, waiting=4688),
                sentence="paused by a person; resume goes on",
            ),
            job_view("sample-1", JobState.DONE, order=3, counts=Counts(total=10, succeeded=10)),
        ],
        "engine": engine(),
        "reading": reading(),
        "running": running(),
        "history": history(),
        "incidents": [
            IncidentView(t=NOW - 900, job="evals-1", kind="state", message="running"),
            IncidentView(
                t=NOW - 300,
                job="evals-1",
                kind="engine_died",
                message="the engine died: not enough GPU memory",
                action="loading again with 16 slots",
                level="error",
            ),
        ],
    }
    return Snapshot(**(facts | fields))


def make_desk(view: View | None = None, terminal: Terminal | None = None, **fields: Any) -> Desk:
    """A desk with a frozen clock. `fields` are the Snapshot's."""
    return Desk(
        mirror=Mirror(snapshot(**fields)),
        view=view or View(job="evals-1"),
        terminal=terminal or Terminal(),
        look=Look(),
        now=lambda: NOW,
    )


class PaneApp(App[None]):
    """Shows one pane on the whole screen."""

    ENABLE_COMMAND_PALETTE = False

    def __init__(self, pane: Pane, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.pane = pane

    def compose(self) -> ComposeResult:
        yield self.pane


def text_of(lines: Sequence[Line]) -> list[str]:
    """Rows as a person reads them."""
    return ["".join(span.text for span in line).rstrip() for line in lines]


def screen_text(app: App[Any]) -> list[str]:
    """What the terminal would show, row by row."""
    strips = app.screen._compositor.render_strips()  # pyright: ignore[reportPrivateUsage]  # as Textual's snapshots do
    return ["".join(segment.text for segment in strip).rstrip() for strip in strips]
