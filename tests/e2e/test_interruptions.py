"""Everything that may happen to a run while it runs, done to the real programs: nothing is lost, nothing twice."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.harness import Box, wait_for
from tools.make_batches import check

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SLOW = ("--slots", "1")
"""One slot: slow enough that every blow falls while the run is going on."""


def done_at_least(box: Box, job: str, n: int) -> None:
    wait_for(f"{n} answers of {job}", lambda: len(box.lines(job)) >= n)


def exported(box: Box, job: str, out: Path) -> list[dict[str, object]]:
    """The export without what names a moment."""
    box.run("export", job, "--out", out)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        for key in ("id", "gptoss"):
            line.pop(key)
        for key in ("id", "created"):
            line["response"]["body"].pop(key)
    return lines


def test_batch_100_through_abort_and_three_kills(box: Box, tmp_path: Path) -> None:
    source = box.batch("batch_100")
    box.run("run", source, "--slots", "8")
    whole = exported(box, "batch_100-1", tmp_path / "whole.jsonl")

    box.run("run", source, *SLOW, "--detach")
    job = "batch_100-2"
    done_at_least(box, job, 8)
    box.run("abort", job)
    wait_for("the abort", lambda: box.state(job) == "aborted")
    assert len(box.lines(job)) < 100
    box.run("resume", job)

    done_at_least(box, job, 20)
    client = box.start("attach", job)
    wait_for("the client", lambda: box.processes("attach"))
    client.kill()
    client.communicate()

    done_at_least(box, job, 30)
    for worker in box.workers():
        box.kill(worker)
    done_at_least(box, job, 45)

    for runner in box.runners():
        box.kill(runner)
    wait_for("the worker to notice that its runner is gone", lambda: not box.workers())
    assert "interrupted" in box.run("status", expect=None).stdout
    box.run("resume", job)
    assert box.run("attach", job).returncode == 0

    ids = Counter(line["custom_id"] for line in box.lines(job))
    assert len(ids) == 100
    assert set(ids.values()) == {1}
    assert not box.lines(job, "errors.jsonl")
    box.run("verify", job)
    assert check(box.folder(job), None)[:2] == check(box.folder("batch_100-1"), None)[:2]
    assert exported(box, job, tmp_path / "again.jsonl") == whole
    kinds = {line["kind"] for line in box.lines(job, "incidents.jsonl")}
    assert kinds & {"engine_died"}, kinds
    assert box.record(job)["restarts"] >= 1

    box.run("stop")
    wait_for("every process to end", lambda: not box.processes("engine."))


def test_a_hangup_of_the_terminal_does_not_touch_the_run(box: Box) -> None:
    source = box.batch("batch_100")
    master, slave = pty.openpty()
    client = subprocess.Popen(
        box.command("run", source, *SLOW),
        cwd=box.root,
        env=box.environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),  # its terminal
    )
    os.close(slave)
    os.set_blocking(master, False)

    def read_on() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(master, 65536)
        return len(box.lines("batch_100-1")) >= 5

    wait_for("5 answers", read_on)
    os.close(master)  # the kernel sends SIGHUP to the session
    client.wait(timeout=20)
    before = len(box.lines("batch_100-1"))
    assert before < 100
    done = box.run("attach", "batch_100-1")
    assert "100/100" in done.stdout + done.stderr
    assert box.state("batch_100-1") == "done"


def test_ctrl_c_detaches_and_says_how_to_return(box: Box) -> None:
    client = box.start("run", box.batch("batch_100"), *SLOW)
    done_at_least(box, "batch_100-1", 3)
    client.send_signal(signal.SIGINT)
    out, err = client.communicate(timeout=20)
    assert client.returncode == 130
    assert "gptoss-tui attach" in out + err
    assert box.run("attach").returncode == 0
    assert len(box.lines("batch_100-1")) == 100


def test_pause_now_keeps_partial_text_and_resume_finishes(box: Box) -> None:
    box.run("run", box.batch("batch_100"), *SLOW, "--detach")
    done_at_least(box, "batch_100-1", 3)
    box.run("pause", "--now")
    wait_for("the pause", lambda: box.state("batch_100-1") == "paused")
    at_rest = len(box.lines("batch_100-1"))
    assert at_rest < 100
    assert (box.folder("batch_100-1") / "inflight.jsonl").exists()
    box.run("resume")
    box.run("attach", "batch_100-1")
    assert len(box.lines("batch_100-1")) == 100


def test_stop_leaves_a_resumable_job_and_no_process(box: Box) -> None:
    client = box.start("run", box.batch("batch_100"), *SLOW)
    done_at_least(box, "batch_100-1", 3)
    box.run("stop")
    client.communicate(timeout=20)
    assert client.returncode == 4
    wait_for("every process to end", lambda: not box.processes("engine."))
    assert box.state("batch_100-1") == "paused"
    box.run("resume")
    box.run("attach")
    assert len(box.lines("batch_100-1")) == 100


def test_a_second_runner_is_refused(box: Box) -> None:
    box.run("run", box.batch("batch_100"), *SLOW, "--detach")
    (runner,) = box.runners()
    second = subprocess.run(
        [box.command("x")[0], "-m", "engine.runner", "--workspace", str(box.root)],
        cwd=box.root,
        env=box.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode != 0
    assert str(runner.pid) in second.stdout + second.stderr
    box.run("abort", "batch_100-1")
