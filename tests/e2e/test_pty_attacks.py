"""What no terminal should send and no system should do: the screen goes on, or leaves in order."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import termios
import time
from typing import Any

import psutil
import pytest

from engine.workspace import Workspace
from tests.e2e.place import JOB, PATIENCE_S, Place, foreign, sent
from tests.pty_kit import Pty

pytestmark = pytest.mark.e2e

STALLED_S = 60.0
CTRL_L = "\x0c"
ESC = "\x1b"
SEQUENCES = (
    *("\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D", "\x1b[5~", "\x1b[6~", "\x1b[H", "\x1b[F", "\x1b[Z", "\x1bOP", "\t", "\r"),
    *(
        "\x1b[200~pasted\x1b]0;OWNED\x07\x1b[201~",
        "\x1b[<0;10;10M\x1b[<0;10;10m",
        "\x1b[<64;10;10M",
        "\x1b[<35;500;500M",
    ),
    *(
        "\x1b[I",
        "\x1b[O",
        "\x1b[1;5R",
        "\x1b[?2026;2$y",
        "\x1b[?2048;1$y",
        "\x1b[48;50;50;1;1t",
        "\x1b[118;1:3u",
        "\x1b",
    ),
)


def opened(place: Place, *feed: str, **environment: Any) -> Pty:
    place.feed("--lines=300", *feed)
    it = place.screen(**environment)
    it.until("tok/s")
    it.until("FOLLOW")
    return it


def answers(it: Pty) -> None:
    """It lives and heeds keys."""
    it.send("?")
    it.until("Keys of")
    it.send(ESC)
    it.until(lambda rows: not any("Keys of" in row for row in rows))


def state(place: Place) -> str:
    return place.status()["jobs"][0]["state"]


def lives(it: Pty, place: Place) -> None:
    if it.process.poll() is not None:
        no_faults(place)
    assert it.process.poll() is None, it.text


def without_times(rows: list[str]) -> list[str]:
    """Without the readings above and the seconds that requests take: they go on."""
    return [re.sub(r" +(\d+ min )?\d+ s$", "", row) for row in rows[4:]]


def no_faults(place: Place) -> None:
    assert [path.read_text() for path in Workspace.at(place.root).runner_folder.glob("screen-crash*")] == []


# --- what comes in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe\x80",
        b"\xe6\x97",
        b"\x1b[99999999999u",
        b"\x1b[48;9000;9000;1;1t",
        b"\x1b[<99999999999999999999;1;1M",
        b"\x1b[200~" + b"never ends",
    ],
)
def test_bytes_that_are_no_keys_end_nothing(place: Place, data: bytes) -> None:
    it = opened(place)
    it.send(data)
    it.send(b"\x1b[201~")
    sent(it, 0.5)
    answers(it)
    assert psutil.Process(it.process.pid).memory_info().rss < 150 << 20
    it.send("q")
    assert it.wait() == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_of_keys_ends_nothing_and_destroys_nothing(place: Place, seed: int) -> None:
    rng = random.Random(seed)
    keys = [bytes([n]) for n in range(256) if n not in b"q\x03\x1a"]
    typed = [key.encode() for key in SEQUENCES] * 3 + keys
    it = opened(place, EDITOR="/nonexistent/editor", PAGER="/nonexistent/pager")
    for _ in range(20):
        it.send(b"".join(rng.choice(typed) for _ in range(500)))
        it.resize(rng.choice((1, 20, 60, 80, 120, 300)), rng.choice((1, 5, 16, 24, 50, 100)))
        sent(it, 0.05)
        lives(it, place)
    it.resize(80, 24)
    end = time.monotonic() + PATIENCE_S
    while not any("help" in row for row in it.screen):
        assert time.monotonic() < end, it.text
        lives(it, place)
        it.send(ESC)
        sent(it, 0.3)
    assert state(place) != "aborted"
    no_faults(place)
    assert foreign(it.written) == set()


def test_pasted_text_does_not_answer_a_question(place: Place) -> None:
    it = opened(place)
    it.send("X")
    sent(it, 0.05)  # not in one go with it, and before anybody could have read the question
    it.send("yyyy")
    it.until("Abort evals-1?")
    sent(it, 0.5)
    assert "Abort evals-1?" in it.text
    assert state(place) == "running"
    it.send("jPRx")  # letters of a text: none of them is an order here
    it.send("n")
    it.until(lambda rows: not any("Abort evals-1?" in row for row in rows))
    it.send("kP")
    it.until("pasted text")
    assert state(place) == "running"
    sent(it, 0.2)  # the next key is nobody's paste
    it.send("X")
    it.until("Abort evals-1?")
    sent(it, 0.5)  # as long as it takes to read it, at least
    it.send("y")
    it.until(lambda rows: any("ABORT" in row and JOB in row for row in rows))


def test_a_huge_text_pasted_into_the_screen_and_into_a_field(place: Place) -> None:
    text = "\x1b[200~" + "OWNED\x1b]52;c;T1dORUQ=\x07 日本 \u202e [bold]x[/] \x9b31m " * 2000 + "\x1b[201~"
    it = opened(place)
    paste = text.encode()
    for keys in ("", "/", "?/", "a", ":"):
        it.send(keys)
        sent(it, 0.5)
        for at in range(0, len(paste), 4000):
            it.send(paste[at : at + 4000])
        sent(it, 0.5)
        for _ in range(3):
            it.send(ESC)
            sent(it, 0.2)
    it.until("q leave")
    answers(it)
    assert foreign(it.written) == set()
    no_faults(place)


# --- what is done to it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(place: Place, number: signal.Signals) -> None:
    place.feed()
    it = place.screen()
    before = termios.tcgetattr(it.fd)
    it.until("tok/s")
    it.process.send_signal(number)
    assert it.wait() == 128 + number
    assert not it.alternate
    assert termios.tcgetattr(it.fd)[:4] == before[:4]
    assert "the run goes on" in it.text
    assert state(place) == "running"


def test_stopped_from_outside_and_continued(place: Place) -> None:
    place.feed()
    it = place.screen()
    before = termios.tcgetattr(it.fd)
    it.until("tok/s")
    for _ in range(3):
        it.process.send_signal(signal.SIGSTOP)
        sent(it, 0.2)
        termios.tcsetattr(it.fd, termios.TCSANOW, before)  # as a shell does that takes the terminal
        it.process.send_signal(signal.SIGCONT)
    answers(it)
    assert not termios.tcgetattr(it.fd)[3] & termios.ECHO
    it.send("q")
    assert it.wait() == 0
    assert termios.tcgetattr(it.fd)[:4] == before[:4]


def test_a_terminal_that_goes_where_hang_ups_are_ignored(place: Place) -> None:
    place.feed()
    code = (
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); from tui.cli import main; sys.exit(main([]))"
    )
    it = place.run(code)
    it.until("tok/s")
    it.hang_up()
    assert it.process.wait(PATIENCE_S) == 128 + signal.SIGHUP
    assert state(place) == "running"


@pytest.mark.parametrize("end", ["hang up", "kill"])
def test_nothing_is_left_behind(place: Place, end: str) -> None:
    it = opened(place)
    it.until("req-000001")
    it.send("v")
    it.until("results of")
    give_up = time.monotonic() + PATIENCE_S
    while not (children := psutil.Process(it.process.pid).children(recursive=True)):
        assert time.monotonic() < give_up
    if end == "kill":
        it.process.kill()
    else:
        it.hang_up()
    it.process.wait(PATIENCE_S)
    assert psutil.wait_procs(children, PATIENCE_S)[1] == []


def test_a_signal_ends_it_also_where_the_terminal_does_not_read(place: Place) -> None:
    it = opened(place)
    it.stop_reading()
    for _ in range(8):
        it.send("14")
        sent(it, 0.3)
    it.process.terminate()
    it.process.wait(PATIENCE_S)
    assert state(place) == "running"


def test_a_thousand_sizes(place: Place) -> None:
    it = opened(place)
    sizes = ((1, 1), (300, 100), (80, 24), (20, 2), (60, 16), (59, 15), (200, 50), (2, 80))
    for i in range(1000):
        it.resize(*sizes[i % len(sizes)])
    it.resize(80, 24)
    it.until(lambda rows: "q leave" in rows[-1] and any("6 log" in row for row in rows))
    answers(it)
    no_faults(place)


@pytest.mark.soak
def test_a_minute_without_reading(place: Place) -> None:
    it = opened(place)
    process = psutil.Process(it.process.pid)
    before, begin = place.tokens(), time.monotonic()
    it.stop_reading()
    it.send("6")
    sent(it, STALLED_S / 2)
    it.send("p")
    end = time.monotonic() + PATIENCE_S
    while state(place) != "paused":  # its keys are heeded, so its loop goes on
        assert time.monotonic() < end
    it.send("r")
    while state(place) != "running":
        assert time.monotonic() < end
    sent(it, STALLED_S / 2)
    rate = (place.tokens() - before) / (time.monotonic() - begin)
    assert rate > 1000
    assert process.memory_info().rss < 100 << 20
    it.send("p")
    it.read_on()
    it.until(lambda rows: any("PAUSE" in row for row in rows))
    sent(it, 12.0)  # messages go and the pace comes back
    shown = without_times(it.screen)
    it.send(CTRL_L)
    sent(it, 2.0)
    assert without_times(it.screen) == shown
    no_faults(place)


# --- where it runs ----------------------------------------------------------------------------------------------------


def test_a_terminal_that_lacks_characters_gets_marks(place: Place) -> None:
    it = opened(place, "--evil", PYTHONIOENCODING="latin-1", LANG="de_DE.ISO-8859-1", COLORTERM="")
    sent(it, 2.0)
    answers(it)
    assert max(it.written) < 0x100
    it.send("q")
    assert it.wait() == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_without_its_standard_files(place: Place, closed: str) -> None:
    place.feed()
    done = subprocess.run(
        [
            "sh",
            "-c",
            f"exec '{sys.executable}' -m tui.cli status {closed} && exec '{sys.executable}' -m tui.cli status",
        ],
        cwd=place.root,
        env={**os.environ, **place.environment},
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0


FAULTY = """
import sys
from tui.panes.{module} import {name} as kind
def rows(self, desk, columns, rows):
    raise ZeroDivisionError("a fault of a test")
{patch}
from tui.cli import main
sys.exit(main([]))
"""


def test_a_pane_that_can_not_be_drawn_leaves_the_others(place: Place) -> None:
    place.feed()
    it = place.run(FAULTY.format(module="rate", name="RatePane", patch="kind.rows = rows"))
    it.until("rate can't be drawn")
    it.until(lambda rows: any(JOB in row for row in rows))
    answers(it)
    it.send("q")
    assert it.wait() == 0
    written = list(Workspace.at(place.root).runner_folder.glob("screen-crash*"))
    assert len(written) == 1
    assert "a fault of a test" in written[0].read_text()


@pytest.mark.parametrize("writable", [True, False])
def test_a_fault_ends_in_a_sentence(place: Place, writable: bool) -> None:
    place.feed()
    if not writable:
        folder = Workspace.at(place.root).runner_folder
        folder.parent.mkdir(exist_ok=True)
        folder.write_text("no folder")
    it = place.run(
        FAULTY.format(module="rate", name="RatePane", patch="kind.redraw = lambda self: rows(self, 0, 0, 0)")
    )
    assert it.wait() == 1
    text = it.text.replace("\n", "")
    assert "the run was not touched" in text
    assert "Traceback" not in text
    assert "screen-crash" in text


# --- others who act ---------------------------------------------------------------------------------------------------


def test_the_job_is_gone_when_the_question_is_answered(place: Place) -> None:
    place.feed()
    one, two = place.screen(), place.screen()
    for it in (one, two):
        it.until("tok/s")
        it.send("X")
        it.until("Abort evals-1?")
        sent(it, 0.5)
    one.send("y")
    one.until(lambda rows: any("ABORT" in row for row in rows))
    two.send("y")
    two.until(lambda rows: any("ABORT" in row for row in rows))
    answers(two)


def test_the_runner_dies_while_a_question_is_open(place: Place) -> None:
    runner = place.feed()
    it = place.screen("--readonly")
    it.until("tok/s")
    it.send("?")
    it.until("Keys of")
    runner.kill()
    sent(it, 1.0)
    it.send(ESC)
    it.until("not connected")
    it.send("q")
    assert it.wait() == 0
