"""`gptoss-tui serve`: who gets a screen, that the page loads nothing from elsewhere, and that all of it ends."""

from __future__ import annotations

import asyncio
import io
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engine.errors import UsageError
from engine.workspace import Workspace
from tui import serve as web
from tui.console import Console

PATIENCE_S = 40.0


class Served:
    def __init__(self, said: io.StringIO, noted: io.StringIO, task: asyncio.Task[int]) -> None:
        self.said, self.noted, self.task = said, noted, task

    @property
    def link(self) -> str:
        found = re.search(r"http://\S+", self.said.getvalue())
        assert found
        return found[0]

    @property
    def root(self) -> str:
        return "/".join(self.link.split("/")[:3])


@asynccontextmanager
async def served(folder: Path, **options: Any) -> AsyncIterator[Served]:
    said, noted = io.StringIO(), io.StringIO()
    task = asyncio.create_task(web.serve(Workspace.at(folder), Console(said, noted), port=0, **options))
    async with asyncio.timeout(PATIENCE_S):
        while "Ctrl-C" not in said.getvalue():
            if task.done():
                task.result()
            await asyncio.sleep(0.01)  # the server says when it listens, by a line
    made = Served(said, noted, task)
    try:
        yield made
    finally:
        if not task.done():
            signal.raise_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            assert await task == 0


async def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    async with served(tmp_path) as it, aiohttp.ClientSession() as session:
        async with session.get(it.link) as answer:
            page = await answer.text()
            assert answer.status == 200
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        for address in re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s)>]+)""", page):
            assert address.startswith(("/static/", "data:", f"{it.link.replace('http', 'ws', 1)}ws")), address
            if address.startswith("/static/"):
                async with session.get(it.root + address) as answer:
                    assert answer.status == 200, address
        assert re.search(r'data-session-websocket-url="ws://127\.0\.0\.1:\d+/[-\w]+/ws"', page)


async def test_without_the_key_there_is_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as it, aiohttp.ClientSession() as session:
        for path in ("/", "/ws", "/wrong/", "/wrong/ws", "/static/", f"{it.link.split('/')[3][:-1]}/"):
            async with session.get(f"{it.root}/{path.lstrip('/')}") as answer:
                assert answer.status in (403, 404), path


async def test_a_tunnel_with_another_port_is_followed(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as it,
        aiohttp.ClientSession() as session,
        session.get(it.link, headers={"Host": "localhost:9000"}) as answer,
    ):
        assert 'url="ws://localhost:9000/' in await answer.text()


SCREEN = """
import os, sys
os.write(1, b"__GANGLION__\\n")
text = f"size {os.environ['COLUMNS']} {os.environ['ROWS']} args {sys.argv[1:]}".encode()
os.write(1, b"D" + len(text).to_bytes(4, "big") + text)
head = sys.stdin.buffer.read(1)
size = int.from_bytes(sys.stdin.buffer.read(4), "big")
text = b"got " + head + sys.stdin.buffer.read(size)
os.write(1, b"D" + len(text).to_bytes(4, "big") + text)
{end}
"""


def fake_screen(folder: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """A screen that says how it was started, and what it is sent."""
    script = folder / "screen.py"
    script.write_text(SCREEN.replace("{end}", end))
    starter = folder / "starter"
    starter.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {script} "$@"\n')
    starter.chmod(0o755)
    monkeypatch.setattr(web.sys, "executable", str(starter))


async def test_a_page_gets_a_screen_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_screen(tmp_path, monkeypatch, "sys.stdin.buffer.read()")
    monkeypatch.setattr(web, "CLOSE_S", 0.5)
    async with (
        served(tmp_path, readonly=True) as it,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{it.link}ws?width=100&height=30") as socket,
    ):
        first = await socket.receive_bytes(timeout=PATIENCE_S)
        assert b"size 100 30" in first
        assert b"--readonly" in first
        assert str(tmp_path).encode() in first
        await socket.send_json(["stdin", "q"])
        assert await socket.receive_bytes(timeout=PATIENCE_S) == b"got Dq"


async def test_the_server_ends_although_a_screen_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_screen(tmp_path, monkeypatch, "import time; time.sleep(1000)")
    monkeypatch.setattr(web, "CLOSE_S", 0.2)
    async with (
        served(tmp_path) as it,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{it.link}ws") as socket,
    ):
        await socket.receive_bytes(timeout=PATIENCE_S)
        signal.raise_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            assert await asyncio.shield(it.task) == 0
    assert "the run goes on" in it.said.getvalue().splitlines()[-1]


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "os.kill(os.getpid(), 9)"])
async def test_a_page_is_told_when_its_screen_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """However it ended: the page says so, and offers to open it again."""
    fake_screen(tmp_path, monkeypatch, end)
    async with (
        served(tmp_path) as it,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{it.link}ws") as socket,
    ):
        await socket.receive_bytes(timeout=PATIENCE_S)
        await socket.send_json(["stdin", "q"])
        await socket.receive_bytes(timeout=PATIENCE_S)
        assert (await socket.receive(timeout=PATIENCE_S)).type is aiohttp.WSMsgType.CLOSE


async def test_a_page_is_told_when_its_screen_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starter = tmp_path / "starter"
    starter.write_text("#!/bin/sh\nexit 1\n")
    starter.chmod(0o755)
    monkeypatch.setattr(web.sys, "executable", str(starter))
    async with (
        served(tmp_path) as it,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{it.link}ws") as socket,
    ):
        assert (await socket.receive(timeout=PATIENCE_S)).type is aiohttp.WSMsgType.CLOSE


async def test_only_so_many_screens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_screen(tmp_path, monkeypatch, "sys.stdin.buffer.read()")
    monkeypatch.setattr(web, "CLOSE_S", 0.2)
    monkeypatch.setattr(web, "MAX_SCREENS", 1)
    async with (
        served(tmp_path) as it,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{it.link}ws") as socket,
    ):
        await socket.receive_bytes(timeout=PATIENCE_S)
        async with session.get(f"{it.link}ws") as answer:
            assert answer.status == 503


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.1", False)]
)
def test_which_addresses_are_of_this_machine_only(host: str, local: bool) -> None:
    assert web.is_loopback(host) is local


async def test_other_addresses_only_on_demand(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unencrypted"):
        await web.serve(Workspace.at(tmp_path), Console(), host="0.0.0.0", port=0)
    async with served(tmp_path, host="0.0.0.0", allow_remote=True) as it:
        assert "no password" in it.noted.getvalue()


async def test_a_taken_port_is_a_sentence(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        with pytest.raises(UsageError, match="can't be listened on: address already in use"):
            await web.serve(Workspace.at(tmp_path), Console(), port=int(it.root.rpartition(":")[2]))
    with pytest.raises(UsageError, match="no port"):
        await web.serve(Workspace.at(tmp_path), Console(), port=70000)
