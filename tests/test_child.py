"""The worker process as the runner sees it: start, death, silence, orphans, bounded logs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine import protocol
from engine.child import LAST_LINES, Child, Death, Limits, Output
from engine.protocol import EngineSettings, FromWorker
from tests.runner_kit import DOUBLE

LIMITS = Limits(start_s=20, load_s=1.0, silent_s=1.0, close_s=3, term_s=0.5)


class Raised:
    """A child and what it told."""

    def __init__(self, folder: Path, script: dict[str, Any], limits: Limits = LIMITS) -> None:
        path = folder / "script.json"
        path.write_text(json.dumps(script))
        self.messages: list[FromWorker] = []
        self.deaths: list[Death] = []
        self.news = asyncio.Event()
        self.child = Child(
            log=folder / "worker.log",
            on_message=self._message,
            on_death=self._death,
            command=(sys.executable, str(DOUBLE), str(path)),
            limits=limits,
        )

    def _message(self, message: FromWorker) -> None:
        self.messages.append(message)
        self.news.set()

    def _death(self, death: Death) -> None:
        self.deaths.append(death)
        self.news.set()

    async def until(self, kind: type) -> Any:
        async with asyncio.timeout(20):
            while True:
                for message in self.messages:
                    if isinstance(message, kind):
                        return message
                assert not self.deaths, self.deaths
                self.news.clear()
                await self.news.wait()

    async def loaded(self) -> None:
        await self.child.start()
        self.child.send(protocol.Load(settings=EngineSettings(slots=2)))
        await self.until(protocol.Loaded)

    async def death(self) -> Death:
        await asyncio.wait_for(self.child.wait(), 20)
        assert len(self.deaths) == 1
        assert self.child.pid is not None
        # Reaped: the kernel has no child of this id any more.
        with pytest.raises(ChildProcessError):
            os.waitpid(self.child.pid, os.WNOHANG)  # noqa: ASYNC222 - WNOHANG does not wait
        return self.deaths[0]


async def test_close_is_orderly(tmp_path: Path) -> None:
    r = Raised(tmp_path, {})
    await r.loaded()
    await r.child.close()
    death = await r.death()
    assert (death.returncode, death.wanted) == (0, True)
    await r.child.close()


async def test_a_worker_that_does_not_close_is_ended(tmp_path: Path) -> None:
    r = Raised(tmp_path, {"deaths": [{"at": "load", "how": "silent"}]}, Limits(load_s=60, close_s=0.2, term_s=0.2))
    await r.child.start()
    r.child.send(protocol.Load(settings=EngineSettings()))
    await r.until(protocol.LoadProgress)
    await r.child.close()
    assert (await r.death()).returncode == -signal.SIGTERM


@pytest.mark.parametrize(("how", "returncode"), [("abort", -6), ("kill", -9), ("exit", 3)])
async def test_a_death_is_told_once_with_the_last_words_and_all_messages(tmp_path: Path, how, returncode) -> None:
    r = Raised(tmp_path, {"deaths": [{"at": "finish", "n": 2, "how": how, "say": "farewell"}]})
    await r.loaded()
    for key in (1, 2, 3):
        r.child.send(protocol.Generate(key=key, custom_id=f"r{key}", url="/v1/chat/completions", body={}))
    death = await r.death()
    assert (death.returncode, death.phase, death.wanted) == (returncode, "running", False)
    assert death.last_lines[-1] == "farewell"
    assert "farewell" in (tmp_path / "worker.log").read_text()
    assert [m.key for m in r.messages if isinstance(m, protocol.Finished)] == [1, 2]


async def test_the_workers_own_last_word_is_kept(tmp_path: Path) -> None:
    r = Raised(tmp_path, {"deaths": [{"at": "load", "how": "fatal"}]})
    await r.child.start()
    r.child.send(protocol.Load(settings=EngineSettings()))
    death = await r.death()
    assert death.phase == "loading"
    assert death.fatal == (protocol.FailureKind.OOM, "llama_decode: failed to decode, ret = -2")


@pytest.mark.parametrize("at", ["load", "finish"])
async def test_silence_is_ended(tmp_path: Path, at: str) -> None:
    r = Raised(tmp_path, {"deaths": [{"at": at, "how": "silent"}]})
    await r.child.start()
    r.child.send(protocol.Load(settings=EngineSettings()))
    r.child.send(protocol.Generate(key=1, custom_id="a", url="/v1/chat/completions", body={}))
    death = await r.death()
    assert death.returncode == -9
    assert death.silent_s is not None
    assert death.silent_s >= 1.0


async def test_a_loaded_worker_without_work_is_not_silent(tmp_path: Path) -> None:
    r = Raised(tmp_path, {})
    await r.loaded()
    seen = len(r.messages)
    async with asyncio.timeout(10):
        while len(r.messages) < seen + 12:  # some 2.4 s of heartbeats, twice the limit
            r.news.clear()
            await r.news.wait()
    assert r.deaths == []
    await r.child.close()


@pytest.mark.parametrize("how", ["garbage", "huge"])
async def test_rubbish_on_the_wire_ends_it(tmp_path: Path, how: str) -> None:
    r = Raised(tmp_path, {"deaths": [{"at": "start", "how": how}]})
    await r.child.start()
    death = await r.death()
    assert death.garbage
    assert death.returncode == -9


async def test_what_the_worker_started_goes_with_it(tmp_path: Path) -> None:
    r = Raised(tmp_path, {"orphan": True, "deaths": [{"at": "load", "how": "abort"}]})
    await r.child.start()
    r.child.send(protocol.Load(settings=EngineSettings()))
    death = await r.death()
    orphan = int(next(text for text in death.last_lines if text.startswith("orphan")).split()[1])
    # killed with its group; the kernel may take a moment, and who reaps it is not ours to say
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(orphan)
        for _ in range(200):
            if process.status() == psutil.STATUS_ZOMBIE:
                break
            await asyncio.sleep(0.02)
        else:
            pytest.fail(f"{process} outlived the worker that started it")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_command_that_is_not_there_raises_and_leaks_nothing(tmp_path: Path) -> None:
    before = open_files()
    child = Child(log=tmp_path / "w.log", on_message=print, on_death=print, command=(str(tmp_path / "absent"),))
    with pytest.raises(FileNotFoundError):
        await child.start()
    assert open_files() == before


def test_output_is_bounded_on_disk_and_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    output = Output(path, limit=1000)
    for i in range(500):
        output.feed(f"line {i}\n".encode())
    output.feed(b"unfinished")
    assert path.stat().st_size <= 1000
    assert path.with_name("worker.log.1").stat().st_size <= 1000
    assert len(output.end()) == LAST_LINES
    assert output.end()[-2:] == ["line 499", "unfinished"]
    output.feed(b"x" * 1_000_000)
    assert len(output.end()[-1]) < 10_000
    output.close()


def test_output_survives_a_disk_that_refuses(tmp_path: Path) -> None:
    output = Output(tmp_path / "no" / "folder" / "worker.log")
    output.feed(b"still here\n")
    assert output.end() == ["still here"]
