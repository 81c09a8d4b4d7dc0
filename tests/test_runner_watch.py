"""What a screen is told while a job runs: progress, rates, history, texts from their beginning, and the log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from engine import client as clients
from engine import protocol
from engine.client import Client
from engine.errors import CommandRefused
from engine.job import JobState
from engine.protocol import EngineChanged, HistoryPoint, Incident, IncidentView, Measured, Snapshot, Text
from engine.record import TAKEN_OUT
from tests.control_kit import remove, short_folder
from tests.doubles.worker import dripped
from tests.runner_kit import Desk, desk, write_batch

HELD = [f"r{i}" for i in range(8)]
DRIP = {"hold": HELD, "drip_s": 0.005}


@pytest.fixture(autouse=True)
def _sockets(monkeypatch: pytest.MonkeyPatch):
    folder = short_folder()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield
    remove(folder)


@contextlib.asynccontextmanager
async def watching(d: Desk, **watch: object) -> AsyncIterator[Client]:
    async with await clients.reconnect(d.workspace) as made:
        await made.command(msgspec.convert({"type": "WatchRequests", "id": 0, **watch}, protocol.WatchRequests))
        yield made


async def text_until(client: Client, tokens: int) -> dict[int, str]:
    """What it reads, until one text has so many tokens. Every piece must follow what is known."""
    texts: dict[int, str] = {}
    async for event in client.events():
        for piece in event.items if isinstance(event, Text) else []:
            known = texts.get(piece.key, "")
            assert piece.offset <= len(known), "a gap"
            texts[piece.key] = known[: piece.offset] + piece.text
        if any(len(text) >= len(dripped(tokens)) for text in texts.values()):
            break
    return texts


async def test_a_running_request_tells_how_far_it_is(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 4, max_completion_tokens=700)
    async with desk(tmp_path, DRIP) as d:
        job = await d.submit(path, slots=4)
        await d.until(lambda: any(r.rate and r.generated > 200 for r in _running(d)))
        running = {r.custom_id: r for r in _running(d)}
        assert {name: r.line for name, r in running.items()} == {"r0": 1, "r1": 2, "r2": 3, "r3": 4}
        assert {r.job for r in running.values()} == {job}
        assert {r.max_tokens for r in running.values()} == {700}
        one = running["r0"]
        assert one.rate == pytest.approx(200, rel=0.5)  # the machine that tests run on is not ours alone
        assert one.generated <= (time.time() - one.started + 1) * 200
        async with await clients.reconnect(d.workspace) as client:
            assert {r.custom_id for r in client.snapshot.running} == set(running)


def _running(d: Desk) -> list[protocol.RunningRequest]:
    return d.runner.current.running() if d.runner.current is not None else []


async def test_limits_come_from_the_request_or_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    rows = [{**body}, {**body, "max_tokens": 5}, {**body, "max_completion_tokens": 6}]
    path.write_text(
        "".join(
            json.dumps({"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": row}) + "\n"
            for n, row in enumerate(rows)
        )
    )
    async with desk(tmp_path, DRIP) as d:
        job = await d.submit(path, slots=3, defaults={"max_tokens": 99})
        await d.until(lambda: len(_running(d)) == 3)
        assert [r.max_tokens for r in _running(d)] == [99, 5, 6]
        await d.command(protocol.AbortJob, job=job)
        await d.rests(job)
        job = await d.submit(path, slots=3)
        await d.until(lambda: len(_running(d)) == 3)
        assert [r.max_tokens for r in _running(d)] == [None, 5, 6]


async def test_two_clients_read_the_same_text_whenever_they_come(tmp_path: Path) -> None:
    async with desk(tmp_path, DRIP) as d:
        await d.submit(write_batch(tmp_path / "b.jsonl", 2), slots=2)
        await d.until(lambda: any(r.generated > 50 for r in _running(d)))
        async with watching(d, auto=1) as first:
            early = await text_until(first, 100)
            async with watching(d, auto=2) as second:
                late = await text_until(second, 200)
                more = asyncio.create_task(_more(first, early))
                assert len(late) == 2
                await asyncio.wait_for(more, 20)
        (key,) = early
        for text in (early[key], late[key]):
            assert dripped(100_000).startswith(text)
        assert len(early[key]) > len(dripped(100))


async def _more(client: Client, texts: dict[int, str]) -> None:
    """Read on, through the repeat that was sent for somebody else."""
    ((key, known),) = texts.items()
    async for event in client.events():
        for piece in event.items if isinstance(event, Text) else []:
            assert piece.key == key, "of the other nothing was asked for"
            assert piece.offset <= len(known), "a gap"
            known = known[: piece.offset] + piece.text + known[piece.offset + len(piece.text) :]
        if len(known) >= len(dripped(250)):
            texts[key] = known
            return


async def test_the_engine_is_told_of_four_times_a_second_and_not_when_nothing_changes(tmp_path: Path) -> None:
    async with desk(tmp_path, DRIP | {"hold": ["r0"]}) as d:
        job = await d.submit(write_batch(tmp_path / "b.jsonl", 1))
        await d.until(lambda: any(r.generated > 20 for r in _running(d)))
        before, begun = _told(d), asyncio.get_running_loop().time()
        await d.until(lambda: _told(d) - before >= 8)
        assert _told(d) - before <= 4.5 * (asyncio.get_running_loop().time() - begun) + 1

        def points() -> list[protocol.HistoryPoint]:
            return [e.point for e in d.events if isinstance(e, Measured)]

        await d.until(lambda: any(p.decode for p in points()))
        assert points()[-1].running == 1
        await d.command(protocol.AbortJob, job=job)
        await d.rests(job)
        async with await clients.reconnect(d.workspace) as client:
            assert client.snapshot.history == points()
            measured = len(points())
            await d.until(lambda: len(points()) > measured + 1)
            before = _told(d)
            measured = len(points())
            await d.until(lambda: len(points()) > measured + 1)
            assert _told(d) == before, "a warm engine without work is no news"
            assert points()[-1].decode == 0
            assert points()[-1].running == 0


def _told(d: Desk) -> int:
    return sum(isinstance(event, EngineChanged) for event in d.events)


async def test_decode_of_the_history_is_what_was_generated(tmp_path: Path) -> None:
    async with desk(tmp_path, DRIP | {"hold": ["r0", "r1"]}) as d:
        await d.submit(write_batch(tmp_path / "b.jsonl", 2), slots=2)
        await d.until(lambda: sum(isinstance(e, Measured) for e in d.events) >= 5, limit_s=30)
        rates = [e.point.decode for e in d.events if isinstance(e, Measured)]
        running = [rate for rate in rates if rate]
        assert len(running) >= 3
        for rate in running[1:]:  # the first second holds the start
            assert rate == pytest.approx(400, rel=0.5)


async def test_states_and_commands_are_in_the_log_and_not_in_the_file(tmp_path: Path) -> None:
    async with desk(tmp_path, {"hold": ["r0"]}) as d:
        job = await d.submit(write_batch(tmp_path / "b.jsonl", 2))
        await d.until(lambda: bool(_running(d)))
        await d.command(protocol.AbortRequest, job=job, custom_id="r0")
        assert (await d.rests(job)).state == JobState.DONE
        await d.command(protocol.Retry, job=job)  # nothing failed: nothing changes
        with pytest.raises(CommandRefused):
            await d.command(protocol.AbortJob, job=job)
        told = [e.incident for e in d.events if isinstance(e, Incident)]
        assert {view.job for view in told} == {job}
        assert [view.message for view in told if view.kind == "command"] == [
            f"new job asked: {job} is queued",
            "abort of a request asked: r0 is being aborted",
        ]
        states = [view.message.split(":")[0] for view in told if view.kind == "state"]
        assert states == [f"{job} {s}" for s in ("queued", "validating", "planning", "loading", "running", "done")]
        assert not (d.folder(job) / "incidents.jsonl").exists()
        view = d.runner.jobs[job].view()
        assert view.taken_out == ["r0"]
        assert (view.slots, view.context) == (2, 4096)
        async with await clients.reconnect(d.workspace) as client:
            assert client.snapshot.incidents == told
    assert clients.jobs_on_disk(d.workspace) == [view]


async def test_a_new_runner_knows_what_happened_before(tmp_path: Path) -> None:
    script = {"deaths": [{"at": "finish", "n": 2, "how": "fatal"}]}
    async with desk(tmp_path, script) as d:
        job = await d.submit(write_batch(tmp_path / "b.jsonl", 12), slots=4)
        assert (await d.rests(job)).state == JobState.DONE
        told = [e.incident for e in d.events if isinstance(e, Incident)]
        (held,) = [view for view in told if view.kind == "fewer_slots"]
        assert held.message == "held at 2 slots: with 4 the engine ran out of memory"
        assert held.level == "warn"
        (died,) = [view for view in told if view.kind == "engine_died"]
        assert (died.level, died.action) == ("error", "loading again with 2 slots")
    async with desk(tmp_path) as d:
        async with await clients.reconnect(d.workspace) as client:
            found = client.snapshot.incidents
        assert found == [view for view in told if view.kind not in ("state", "command")]
        assert all(view.job == job for view in found)


async def test_only_the_first_hundred_that_were_taken_out_are_named(tmp_path: Path) -> None:
    async with desk(tmp_path, {"hold": ["r0"]}) as d:
        job = await d.submit(write_batch(tmp_path / "b.jsonl", 300, word="x"), slots=1)
        await d.until(lambda: bool(_running(d)))
        for n in range(2, TAKEN_OUT + 20):
            await d.command(protocol.AbortRequest, job=job, custom_id=f"r{n}")
        view = d.runner.jobs[job].view()
        assert len(view.taken_out) == TAKEN_OUT
        assert view.counts.aborted == TAKEN_OUT + 18


def test_a_full_snapshot_is_small_and_quick() -> None:
    point = HistoryPoint(
        t=1_700_000_000.25,
        decode=1234.56,
        prefill=2345.67,
        running=32,
        slots=32,
        kv_used=50_000,
        kv_total=65_536,
        free=[3_221_225_472, 23_622_320_128],
    )
    view = IncidentView(t=1_700_000_000.25, job="evals-1", kind="state", message="evals-1 running: " + "x" * 60)
    snapshot = Snapshot(seq=1, history=[point] * protocol.HISTORY_S, incidents=[view] * 400)
    begun = time.perf_counter()
    line = protocol.encode_line(snapshot)
    assert time.perf_counter() - begun < 0.1
    assert len(line) < 200_000
