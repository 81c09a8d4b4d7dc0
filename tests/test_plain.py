"""Protocol values as lines."""

from __future__ import annotations

import pytest

from engine.job import JobState
from engine.protocol import Counts, DeviceReading, Eta, JobView, Reading
from tests.control_kit import job
from tui import plain
from tui.text import cells

GIB = 1024**3
GPU = Reading(
    t=1,
    devices=[
        DeviceReading(name="RTX", kind="gpu", total=16 * GIB, used=11 * GIB, free=5 * GIB),
        DeviceReading(name="RAM", kind="ram", total=64 * GIB, used=8 * GIB, free=56 * GIB),
    ],
)
RAM = Reading(t=1, devices=[DeviceReading(name="RAM", kind="ram", total=8 * GIB, used=3 * GIB, free=5 * GIB)])


def running(**fields: object) -> JobView:
    return job(
        "demo_10-1",
        JobState.RUNNING,
        counts=Counts(total=1000, succeeded=300, failed=2, running=16, waiting=682),
        decode_rate=431.7,
        eta=Eta(s=95, low_s=80, high_s=130),
        **fields,
    )


def test_progress_line_says_everything_where_there_is_room():
    assert plain.progress_line(running(), GPU, None) == (
        "demo_10-1  running  302/1 000  2 failed  432 tok/s  ~1 min 35 s left  (1 min 20 s to 2 min 10 s)  "
        "GPU 5.0 GiB free  (11.0/16.0 GiB used)"
    )
    assert "RAM 5.0 GiB free  (3.0/8.0 GiB used, no GPU)" in plain.progress_line(running(), RAM, None)


@pytest.mark.parametrize("width", range(1, 201, 7))
def test_progress_line_never_is_too_wide_and_keeps_what_counts(width: int):
    line = plain.progress_line(running(), GPU, width)
    assert cells(line) <= width
    if width >= 40:
        assert "302/1 000" in line
        assert "2 failed" in line
        assert "~" in line


def test_an_unknown_rest_is_not_invented():
    view = job(eta=Eta(), counts=Counts(total=3, waiting=3))
    assert "left" not in plain.progress_line(view, None, None)


def test_loading_says_how_far():
    assert "loading 42%" in plain.progress_line(job(state=JobState.LOADING, load_fraction=0.42), None, None)


def test_foreign_text_is_made_safe():
    evil = "a\x1b]0;owned\x07\nb\u202e"
    view = job(evil, JobState.PAUSED, sentence=evil)
    lines = [*plain.status_table([view], 60), *plain.summary(view), plain.progress_line(view, None, 80)]
    for line in lines:
        assert not set(line) & set("\x1b\x07\n\u202e")


def test_status_table_keeps_to_the_width():
    lines = plain.status_table([running(), job("x" * 70, JobState.QUEUED, sentence="waits " * 20)], 79)
    assert all(cells(line) <= 79 for line in lines)
    assert lines[0].split() == ["job", "state", "done", "failed", "rate", "left", "why"] or lines[0].endswith("...")
    assert plain.status_table([], 80) == ["no jobs"]


def test_summary_adds_up():
    counts = Counts(total=10, succeeded=7, failed=2, aborted=1, truncated=1, reused=3, retried=2)
    view = job(state=JobState.DONE, counts=counts, prompt_tokens=1234, completion_tokens=500, active_s=10.0, restarts=1)
    text = "\n".join(plain.summary(view))
    for part in (
        "7/10 succeeded, 2 failed, 1 taken out (3 of them",
        "1 cut",
        "restarted 1x",
        "1 234",
        "50 tok/s in 10 s of running",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3720, "1 h 02 min"), (90000, "1 d 1 h")]
)
def test_duration(seconds: float, text: str):
    assert plain.duration(seconds) == text


def test_a_gpu_that_tells_nothing_is_not_no_gpu() -> None:
    silent = Reading(t=1, devices=[DeviceReading(name="RTX", kind="gpu"), *RAM.devices])
    assert plain.memory(silent) == ""
    assert plain.memory(RAM) == "RAM 3.0/8.0 GiB, 5.0 GiB free (no GPU)"


@pytest.mark.parametrize(("n", "words"), [(0, "0 errors"), (1, "1 error"), (2, "2 errors"), (4188, "4 188 errors")])
def test_one_is_not_many(n: int, words: str) -> None:
    assert plain.several(n, "error") == words


def test_without_thresholds_memory_has_no_state() -> None:
    assert plain.memory_state(RAM.devices[0]) == ""
    assert plain.memory_state(DeviceReading(name="RTX", kind="gpu", warn_free=2, critical_free=1)) == ""
