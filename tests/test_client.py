"""Connecting, starting, replies, and losing the runner."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import client as clients
from engine import protocol, starting
from engine.errors import GptossError, JobNotFound, ProtocolMismatch, RunnerUnreachable
from engine.job import JobState
from engine.protocol import JobChanged, Pause, Reply, Snapshot
from engine.workspace import Workspace
from tests.control_kit import job, remove, scripted, short_folder, workspace_at

RUNNER = textwrap.dedent("""
    import asyncio, fcntl, os, sys
    from pathlib import Path
    from engine.workspace import Workspace
    from tests.control_kit import scripted
    async def main():
        ws = Workspace.at(sys.argv[sys.argv.index("--workspace") + 1])
        with (ws.root / "starts").open("a") as f:
            f.write(f"{os.getpid()} {os.getsid(0)} {os.getcwd()}\\n")
        lock = ws.lock_file.open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        async with scripted(ws.socket):
            await asyncio.sleep(60)
    asyncio.run(main())
""")


@pytest.fixture(name="workspace")
def _workspace(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    folder = short_folder()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    workspace = workspace_at(folder)
    yield workspace
    starts = workspace.root / "starts"
    for line in starts.read_text().splitlines() if starts.exists() else []:
        try:
            os.kill(int(line.split()[0]), signal.SIGKILL)
        except ProcessLookupError:
            continue
    while starting.started:
        starting.started.pop().wait(20)
    remove(folder)


def _starts(workspace: Workspace) -> list[str]:
    return (workspace.root / "starts").read_text().splitlines()


async def test_many_clients_at_once_start_one_runner(workspace: Workspace):
    command = (sys.executable, "-c", RUNNER)
    made = await asyncio.gather(
        *(clients.connect(workspace, start=True, command=command, start_s=60) for _ in range(5))
    )
    (line,) = _starts(workspace)
    pid, session, folder = line.split(" ", 2)
    assert pid == session  # its own session: a hangup of ours does not reach it
    assert Path(folder) == workspace.root
    for client in made:
        await client.close()


async def test_a_runner_that_dies_at_start_is_explained(workspace: Workspace):
    command = (sys.executable, "-c", "raise SystemExit('the disk is made of cheese')")
    with pytest.raises(RunnerUnreachable, match="cheese"):
        await clients.connect(workspace, start=True, command=command)


async def test_a_runner_that_holds_the_lock_is_waited_for_and_not_doubled(workspace: Workspace):
    workspace.runner_folder.mkdir(parents=True)
    with workspace.lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        trying = asyncio.create_task(clients.connect(workspace, start=True, command=("/bin/false",), start_s=60))
        async with scripted(workspace.socket):
            await (await trying).close()


async def test_without_start_nothing_is_started(workspace: Workspace):
    with pytest.raises(RunnerUnreachable, match="no runner"):
        await clients.connect(workspace, start=False)
    assert not workspace.results.exists()


async def test_replies_find_their_command_and_errors_come_back_as_they_were(workspace: Workspace):
    async with scripted(workspace.socket) as runner:
        runner.jobs["a"] = job("a")
        runner.on_command = lambda c: Reply(id=c.id, sentence=str(c.id))
        async with await clients.connect(workspace, start=False) as client:
            assert client.snapshot.jobs == [job("a")]
            replies = await asyncio.gather(*(client.command(Pause(id=0, job="a")) for _ in range(20)))
            assert len({reply.id for reply in replies}) == 20
            runner.on_command = lambda _: None
            with pytest.raises(JobNotFound) as caught:
                await client.command(Pause(id=0, job="nope"))
            assert caught.value.advice == "look around"
            with pytest.raises(GptossError, match="fault of the runner"):
                await client.command(protocol.AbortJob(id=0, job="boom"))


async def test_events_arrive_and_end_with_the_runner(workspace: Workspace):
    async with scripted(workspace.socket) as runner:
        client = await clients.connect(workspace, start=False)
        runner.change(job("a", JobState.DONE))
        runner.hold = asyncio.Event()
        asking = asyncio.create_task(client.command(Pause(id=0, job="a")))
        await runner.saw(Pause)
        await runner.control.close("over")
        events = [event async for event in client.events()]
        assert [e.job.state for e in events if isinstance(e, JobChanged)] == [JobState.DONE]
        assert client.goodbye == "over"
        with pytest.raises(RunnerUnreachable):
            await asking
        await client.close()


async def test_a_reader_that_was_too_slow_starts_again_from_a_snapshot(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(clients, "WAITING_EVENTS", 5)
    async with scripted(workspace.socket) as runner:
        client = await clients.connect(workspace, start=False)
        for n in range(30):
            runner.change(job(f"j{n}"))
            await client.command(Pause(id=0, job="j0"))
        async for event in client.events():
            assert isinstance(event, Snapshot)
            assert len(event.jobs) == 30
            break
        await client.close()


async def test_reconnect_waits_for_another_to_start_it(workspace: Workspace):
    trying = asyncio.create_task(clients.reconnect(workspace, patience_s=30))
    await asyncio.sleep(0)
    async with scripted(workspace.socket):
        await (await trying).close()


async def test_another_version_is_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    async with scripted(workspace.socket):
        monkeypatch.setattr(clients, "CLIENT_PROTOCOL", 99)
        with pytest.raises(ProtocolMismatch, match="99"):
            await clients.connect(workspace, start=False)


async def test_offline_helpers_yield_their_objects_and_raise_their_errors():
    echo = (sys.executable, "-c", 'print(\'{"kind":"summary","n":1}\')')
    assert [item async for item in clients.offline("x", [], command=echo)] == [{"kind": "summary", "n": 1}]
    error = (sys.executable, "-c", 'print(\'{"kind":"error","code":"JobNotFound","message":"m","exit_code":2}\')')
    with pytest.raises(JobNotFound):
        [_ async for _ in clients.offline("x", [], command=error)]
    with pytest.raises(GptossError, match="wordless"):
        [_ async for _ in clients.offline("x", [], command=(sys.executable, "-c", "raise SystemExit('wordless')"))]
