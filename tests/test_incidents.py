"""The runner's log: what is kept, what a new runner finds of it, and how much each entry matters."""

from __future__ import annotations

import json
import os
from pathlib import Path

from engine import incidents
from engine.incidents import Incidents, newest, tail
from engine.job import JobState
from engine.protocol import IncidentView
from engine.record import RunRecord


def _line(t: float, kind: str = "engine_died", **more: object) -> bytes:
    return json.dumps({"t": t, "job": "old-name", "kind": kind, "message": f"at {t}", **more}).encode() + b"\n"


def _run(folder: Path, *lines: bytes) -> Path:
    folder.mkdir()
    (folder / "incidents.jsonl").write_bytes(b"".join(lines))
    return folder


def test_damaged_lines_are_skipped_and_levels_found(tmp_path: Path) -> None:
    folder = _run(
        tmp_path / "a-1",
        _line(1, "engine_died", cause="oom", last_lines=["x"], settings={"slots": 4}),
        b"\xff\xfe garbage\n",
        b'{"t": 2, "job": "a-1"}\n',
        b"[" * 5000 + b"\n",
        _line(3, "restarted"),
        _line(4, "damage")[:-9],
    )
    found = tail(folder)
    assert [(view.t, view.kind, view.level) for view in found] == [
        (1, "engine_died", "error"),
        (3, "restarted", "info"),
    ]
    assert {view.job for view in found} == {"a-1"}, "a run goes by its present name"


def test_of_a_long_file_only_the_end_is_read(tmp_path: Path) -> None:
    folder = _run(tmp_path / "a-1", *(_line(t, padding="x" * 1000) for t in range(1000)))
    found = tail(folder)
    assert [view.t for view in found] == list(range(1000 - len(found), 1000))
    assert 50 < len(found) < 64


def test_what_is_no_file_is_no_incident(tmp_path: Path) -> None:
    assert tail(tmp_path / "nowhere") == []
    (tmp_path / "dir" / "incidents.jsonl").mkdir(parents=True)
    assert tail(tmp_path / "dir") == []
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "incidents.jsonl")
    assert tail(tmp_path / "pipe") == [], "and nobody waits for a writer"


def test_the_newest_runs_are_loaded_in_the_order_of_time(tmp_path: Path) -> None:
    for n in range(incidents.NEWEST_RUNS + 5):
        _run(tmp_path / f"r-{n}", *(_line(n + 100 * k) for k in range(20)))
    records = [
        RunRecord(job=f"r-{n}", state=JobState.DONE, input_path="x", created=n, ended=1000.0 - n)
        for n in range(incidents.NEWEST_RUNS + 5)
    ]
    assert newest(records)[:2] == ["r-0", "r-1"]
    ring = Incidents(lambda _: None)
    ring.load(tmp_path / name for name in newest(records))
    found = ring.all()
    assert len(found) == incidents.LOADED
    assert [view.t for view in found] == sorted(view.t for view in found)
    assert "r-24" not in {view.job for view in found}


def test_states_are_told_once_and_in_no_file(tmp_path: Path) -> None:
    told: list[IncidentView] = []
    ring = Incidents(told.append)
    ring.knows("a-1", JobState.PAUSED)
    ring.stands("a-1", JobState.PAUSED, "paused by a person")
    assert told == []
    ring.stands("a-1", JobState.QUEUED, "waits for its turn")
    ring.stands("a-1", JobState.QUEUED, "waits for another turn")
    ring.stands("a-1", JobState.FAILED, "")
    assert [(view.kind, view.message, view.level) for view in told] == [
        ("state", "a-1 queued: waits for its turn", "info"),
        ("state", "a-1 failed", "error"),
    ]
    ring.asked("a-1", "pause", "a-1 is paused")
    assert (told[-1].kind, told[-1].message) == ("command", "pause asked: a-1 is paused")
    assert list(tmp_path.iterdir()) == []
    assert ring.all() == told


def test_the_ring_is_bounded_and_evidence_goes_to_the_file_alone(tmp_path: Path) -> None:
    ring = Incidents(lambda _: None)
    for n in range(incidents.KEPT + 10):
        ring.happened(tmp_path, "engine_died", f"death {n}", "loading again", {"cause": "oom"})
    assert len(ring.all()) == incidents.KEPT
    assert ring.all()[-1].level == "error"
    lines = (tmp_path / "incidents.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["cause"] == "oom"
    assert tail(tmp_path)[-1] == ring.all()[-1]
