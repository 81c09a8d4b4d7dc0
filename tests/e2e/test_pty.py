"""The screen in a real terminal: what it sends, and what it does when the terminal stops, goes, or changes its size."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import termios
import time

import aiohttp
import pyte
import pytest

from tests.e2e.harness import Box
from tests.e2e.place import JOB, PATIENCE_S, Place, foreign, sent
from tests.pty_kit import QUESTIONS, Pty

pytestmark = pytest.mark.e2e

MEASURED_S = 6.0
STALLED_S = 5.0

# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "rows", "kib_s"), [(80, 24, 6.0), (120, 36, 20.0)])
def test_bytes_while_text_streams(place: Place, columns: int, rows: int, kib_s: float) -> None:
    place.feed()
    it = place.screen(columns=columns, rows=rows)
    it.until(JOB)
    it.until("FOLLOW")
    sent(it, 2.0)  # the first frames draw everything
    it.emulate = False
    rate = sent(it, MEASURED_S) / 1024
    assert 0.2 < rate <= kib_s


def test_idle_is_quiet(place: Place) -> None:
    place.feed("--requests=0")
    it = place.screen()
    it.until(JOB)
    sent(it, 4.0)
    assert sent(it, MEASURED_S) / 1024 <= 0.2


def test_without_colours_there_are_none(place: Place) -> None:
    place.feed()
    it = place.screen(NO_COLOR="1")
    it.until("tok/s")
    it.send("?")
    it.until("Keys of")
    it.send("\x1b")
    sent(it, 1.0)
    codes = {int(code) for run in re.findall(rb"\x1b\[([0-9;]*)m", it.written) for code in run.split(b";") if code}
    assert not codes & {*range(30, 39), *range(40, 49), *range(90, 108)}, codes


# --- what a terminal does ---------------------------------------------------------------------------------------------


def test_a_terminal_that_stops_reading_stops_nothing(place: Place) -> None:
    place.feed()
    it = place.screen()
    it.until("tok/s")
    it.stop_reading()
    before = place.tokens()
    time.sleep(STALLED_S)
    assert place.tokens() > before
    it.read_on()
    it.send("?")
    it.until("Keys of")
    it.send("\x1b")
    shown = re.compile(r"([\d ]+)/20 000")
    now = place.status()["jobs"][0]["counts"]["succeeded"]
    it.until(lambda rows: any(int(m[1].replace(" ", "")) >= now for row in rows if (m := shown.search(row))))
    it.send("q")
    assert it.wait() == 0


def test_a_hang_up_ends_the_screen_and_nothing_else(place: Place) -> None:
    place.feed()
    it = place.screen()
    it.until("tok/s")
    before = place.tokens()
    it.hang_up()
    it.wait()
    assert place.tokens() > before
    again = place.screen()
    again.until(JOB)
    again.until("tok/s")


def test_a_killed_screen_is_no_loss(place: Place) -> None:
    place.feed()
    it = place.screen()
    it.until(JOB)
    it.process.kill()
    it.wait()
    place.screen().until(JOB)


def test_two_screens_at_once(place: Place) -> None:
    place.feed()
    one, two = place.screen(), place.screen(columns=120, rows=36)
    one.until("tok/s")
    two.until("tok/s")
    one.send("p")
    two.until(lambda rows: any("PAUSE" in row for row in rows))
    two.send("r")
    one.until(lambda rows: any(row.lstrip("> ").startswith("RUN ") and JOB in row for row in rows))


def test_a_storm_of_sizes(place: Place) -> None:
    place.feed()
    it = place.screen()
    it.until("tok/s")
    for i in range(60):
        it.resize(20 + i * 3, 5 + i % 40)
    it.resize(100, 30)
    rows = it.until(lambda rows: "q leave" in rows[-1] and len(rows) == 30)
    assert any(JOB in row for row in rows)
    it.resize(30, 6)
    it.until(lambda rows: not any("q leave" in row for row in rows))
    it.resize(80, 24)
    it.until(lambda rows: "q leave" in rows[-1] and any("6 log" in row for row in rows))
    it.send("q")
    assert it.wait() == 0


@pytest.mark.parametrize("key", ["q", "\x03"])
def test_leaving_gives_the_terminal_back_and_says_how_things_stand(place: Place, key: str) -> None:
    place.feed()
    it = place.screen()
    before = termios.tcgetattr(it.fd)
    it.until("tok/s")
    assert it.alternate
    assert not termios.tcgetattr(it.fd)[3] & termios.ECHO
    it.send(key)
    assert it.wait() == 0
    assert not it.alternate
    assert termios.tcgetattr(it.fd)[3] == before[3]
    assert JOB in it.text
    assert "`gptoss-tui` shows it again" in it.text.replace("\n", "")
    assert place.status()["jobs"][0]["state"] == "running"


# --- text that would steer --------------------------------------------------------------------------------------------


def test_no_text_reaches_the_terminal_untamed(place: Place) -> None:
    place.feed("--evil")
    it = place.screen()
    it.until(JOB)
    for keys in (
        "?",
        "\x1b",
        "m",
        "\x1b",
        "z",
        "z",
        "6",
        "5",
        "\x1b[C",
        "w",
        "c",
        "4",
        "v",
        "\x1b",
        "y",
        "p",
        "r",
        "X",
    ):
        it.send(keys)
        sent(it, 0.4)  # long enough for a frame; what comes is looked at below, not awaited
    it.send("\x1b")
    it.resize(120, 36)
    it.until(lambda rows: len(rows) == 36 and "q leave" in rows[-1])
    sent(it, 1.0)
    it.send("q")
    assert it.wait() == 0
    assert b"OWNED" in it.written
    assert foreign(it.written) == set()


def test_plain_lines_are_safe_too(place: Place) -> None:
    place.feed("--evil")
    it = place.screen("--plain", columns=200, rows=50)
    it.until("slots busy")
    sent(it, 6.0)
    it.send("\x03")
    assert it.wait() == 130
    assert set(re.findall(rb"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]", it.written.replace(b"^C", b""))) == set()


# --- with everything real ---------------------------------------------------------------------------------------------


def test_a_batch_added_on_the_command_line_runs_while_one_looks(box: Box) -> None:
    batch = box.batch("demo_10")
    environment = {**box.environment, "NO_COLOR": "", "LANG": "C.UTF-8", "LC_ALL": ""}
    with Pty(box.command("--add", batch), cwd=box.root, environment=environment) as it:
        it.until(lambda rows: any("DONE" in row and "demo_10-1" in row for row in rows), patience_s=100)
        it.send("q")
        assert it.wait() == 0
        assert not it.alternate
    assert box.state("demo_10-1") == "done"
    assert box.lines("demo_10-1")


async def test_a_browser_sees_the_same_screen(place: Place) -> None:
    place.feed()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tui.cli", "serve", "--port", "0"),
        cwd=place.root,
        env={**os.environ, **place.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as session:
            link = ""
            while not link.startswith("http"):
                link = (await process.stdout.readline()).decode().strip()
            shown = pyte.Screen(100, 30)
            stream = pyte.ByteStream(shown)
            async with session.ws_connect(f"{link}ws?width=100&height=30") as socket:
                while JOB not in "".join(shown.display):
                    stream.feed(QUESTIONS.sub(b"", await socket.receive_bytes()))
                assert any("6 log" in row for row in shown.display)
                await socket.send_json(["stdin", "q"])
                while (await socket.receive()).type != aiohttp.WSMsgType.CLOSED and not socket.closed:
                    pass
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0
    assert err == b""
    assert "the run goes on" in out.decode()
