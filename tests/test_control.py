"""The socket server, with real clients on real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import control as controls
from engine import protocol
from engine.control import Outbox
from engine.errors import RunnerUnreachable
from engine.job import JobState
from engine.protocol import (
    AckItem,
    Acknowledged,
    Counts,
    Delta,
    Incident,
    IncidentView,
    JobChanged,
    JobRemoved,
    Reading,
    Sampled,
    Snapshot,
    Text,
)
from engine.viewer import Viewer, Watched
from tests.control_kit import eventually, job, mode_of, remove, scripted, short_folder


@pytest.fixture(name="path")
def _path() -> Iterator[Path]:
    folder = short_folder()
    yield folder / "in" / "runner.sock"
    remove(folder)


class Raw:
    """A client made of bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def at(cls, path: Path, *, hello: bool = True) -> Raw:
        made = cls(*await asyncio.open_unix_connection(str(path), limit=64 * 1024 * 1024))
        if hello:
            made.send(protocol.Hello(client="test"))
        return made

    def send(self, message: Any) -> None:
        self.writer.write(protocol.encode_line(message))

    async def get(self) -> Any:
        line = await asyncio.wait_for(self.reader.readline(), 20)
        return protocol.decode_from_runner(line) if line else None

    async def until(self, kind: type) -> Any:
        while True:
            message = await self.get()
            assert message is not None, f"closed before a {kind.__name__}"
            if isinstance(message, kind):
                return message

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


async def test_snapshot_then_events_with_higher_seq_and_no_gap(path: Path):
    async with scripted(path) as runner:
        runner.change(job(counts=Counts(total=1)))
        clients = [await Raw.at(path) for _ in range(20)]
        for client in clients:
            assert isinstance(await client.get(), protocol.Welcome)
        snapshots = [await client.get() for client in clients]
        assert all(isinstance(s, Snapshot) and s.jobs == list(runner.jobs.values()) for s in snapshots)
        assert runner.control.clients == 20
        for n in range(50):
            runner.control.publish(Incident(seq=0, incident=IncidentView(t=n, job="demo-1", kind="k", message="m")))
        for client, snapshot in zip(clients, snapshots, strict=True):
            seqs = [(await client.get()).seq for _ in range(50)]
            assert seqs == list(range(snapshot.seq + 1, snapshot.seq + 51))
        left = runner.control.last_left
        for client in clients:
            await client.close()
        await eventually(lambda: runner.control.clients == 0)
        assert runner.control.last_left > left


async def test_folder_and_socket_are_private(path: Path):
    async with scripted(path):
        assert mode_of(path.parent) == 0o700
        assert mode_of(path) == 0o600
    with pytest.raises(FileNotFoundError):
        mode_of(path)


@pytest.mark.parametrize("fault", ["open", "link", "file"])
async def test_a_folder_that_is_not_private_is_refused(path: Path, fault: str):
    match fault:
        case "open":
            path.parent.mkdir()
            path.parent.chmod(0o755)
        case "link":
            (path.parent.parent / "real").mkdir(mode=0o700)
            path.parent.symlink_to(path.parent.parent / "real")
        case _:
            path.parent.write_text("")
    with pytest.raises(RunnerUnreachable):
        async with scripted(path):
            pass


async def test_a_stale_socket_is_replaced_and_a_living_one_is_not(path: Path):
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with scripted(path):
        with pytest.raises(RunnerUnreachable, match="another runner"):
            async with scripted(path):
                pass
        client = await Raw.at(path)
        assert isinstance(await client.get(), protocol.Welcome)
        await client.close()


async def test_another_user_is_turned_away_unheard(path: Path, caplog: pytest.LogCaptureFixture):
    async with scripted(path, peer_uid=lambda _: os.getuid() + 1) as runner:
        client = await Raw.at(path, hello=False)
        assert await client.reader.read() == b""
        assert runner.control.clients == 0
        assert "turned away" in caplog.text
        await client.close()


async def test_another_version_gets_a_sentence(path: Path):
    async with scripted(path):
        client = await Raw.at(path, hello=False)
        client.send(protocol.Hello(version=99))
        welcome, goodbye = await client.get(), await client.get()
        assert welcome.version == protocol.CLIENT_PROTOCOL
        assert f"protocol {protocol.CLIENT_PROTOCOL}" in goodbye.reason
        assert "99" in goodbye.reason
        assert await client.get() is None
        await client.close()


GARBAGE = [
    b"\n",
    b"{}\n",
    b"\xff\xfe\n",
    b'{"type":"Pause"}\n',
    b'{"type":"Pause","id":1,"x":' + b"[" * 5000 + b"\n",
    b'{"type":"Pause","id":"x","job":1}\n',
]


@pytest.mark.parametrize("line", GARBAGE)
@pytest.mark.parametrize("greeted", [False, True])
async def test_garbage_ends_its_connection_only(path: Path, line: bytes, greeted: bool):
    async with scripted(path) as runner:
        other = await Raw.at(path)
        await other.until(Snapshot)
        client = await Raw.at(path, hello=greeted)
        client.writer.write(line)
        assert (await client.until(protocol.Goodbye)).reason
        assert await client.get() is None
        await client.close()
        runner.change(job())
        assert isinstance(await other.get(), JobChanged)
        await other.close()


async def test_an_endless_line_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(controls, "COMMAND_BYTES", 10_000)
    async with scripted(path):
        client = await Raw.at(path)
        await client.until(Snapshot)
        client.writer.write(b"x" * 50_000)
        assert "longer" in (await client.until(protocol.Goodbye)).reason
        await client.close()


async def test_commands_run_at_once_and_replies_carry_their_id(path: Path):
    async with scripted(path) as runner:
        runner.hold = asyncio.Event()
        client = await Raw.at(path)
        await client.until(Snapshot)
        for number in range(10):
            client.send(protocol.Resume(id=number, job="j"))
        await eventually(lambda: len(runner.got) == 10)
        runner.hold.set()
        assert {(await client.until(protocol.Reply)).id for _ in range(10)} == set(range(10))
        client.send(protocol.Pause(id=77, job="nope"))
        reply = await client.until(protocol.Reply)
        assert (reply.id, reply.error.code, reply.error.advice, reply.error.exit_code) == (
            77,
            "JobNotFound",
            "look around",
            2,
        )
        client.send(protocol.AbortJob(id=78, job="boom"))
        assert (await client.until(protocol.Reply)).error.code == "InternalError"
        client.send(protocol.GetSnapshot(id=79))
        assert isinstance(await client.until(Snapshot), Snapshot)
        assert (await client.until(protocol.Reply)).id == 79
        await client.close()


async def test_text_goes_only_to_those_who_watch_it(path: Path):
    async with scripted(path) as runner:
        runner.keys = {"a": frozenset({1, 2})}
        watching, blind = await Raw.at(path), await Raw.at(path)
        for client in (watching, blind):
            await client.until(Snapshot)
        watching.send(protocol.WatchRequests(id=1, job="a", auto=2))
        await watching.until(protocol.Reply)
        assert runner.control.watched() == (frozenset({1, 2}), frozenset({1, 2}))
        runner.control.publish_text("a", [Delta(key=1, text="x"), Delta(key=3, text="secret")])
        runner.change(job())
        text = await watching.until(Text)
        assert [d.text for d in text.items] == ["x"]
        assert isinstance(await blind.get(), JobChanged)
        await watching.close()
        await eventually(lambda: runner.control.clients == 1)
        assert runner.control.watched() == (frozenset(), frozenset())
        await blind.close()


async def test_a_client_that_never_reads_costs_bounded_memory_and_nobody_waits(path: Path):
    async with scripted(path) as runner:
        runner.keys = {"demo-1": frozenset({1})}
        deaf = socket.socket(socket.AF_UNIX)
        deaf.connect(str(path))
        deaf.sendall(protocol.encode_line(protocol.Hello()))
        deaf.sendall(protocol.encode_line(protocol.WatchRequests(id=1, job="demo-1", auto=1)))
        await runner.saw(protocol.WatchRequests)
        runner.control.watched()
        reader = await Raw.at(path)
        await reader.until(Snapshot)
        text = "y" * 500
        items = [AckItem(custom_id=f"id-{n}", request_id="r" * 36, ok=True, finish="stop") for n in range(20)]
        tracemalloc.start()
        for n in range(4000):
            runner.change(job(counts=Counts(total=4000, succeeded=n)))
            runner.control.publish_text("demo-1", [Delta(key=1, text=text, offset=500 * n)])
            runner.control.publish(Acknowledged(seq=0, job="demo-1", items=items))
            if n % 100 == 0:
                await asyncio.sleep(0)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 16 * 1024 * 1024
        # Another client gets the newest state, whatever the deaf one does; so does the deaf one when it reads at last.
        await _newest(reader)
        await reader.close()
        late = Raw(*await asyncio.open_unix_connection(sock=deaf, limit=64 * 1024 * 1024))
        await _newest(late)
        await late.close()


async def _newest(client: Raw) -> None:
    """Read until the last state of the test above, by an event or a fresh Snapshot; everything in order of seq."""
    seq, succeeded = -1, -1
    while succeeded != 3999:
        message = await client.get()
        if hasattr(message, "seq"):
            assert message.seq >= seq
            seq = message.seq
        if isinstance(message, JobChanged):
            succeeded = message.job.counts.succeeded
        elif isinstance(message, Snapshot) and message.jobs:
            succeeded = message.jobs[0].counts.succeeded


async def test_close_says_why_to_everybody(path: Path):
    async with scripted(path) as runner:
        clients = [await Raw.at(path) for _ in range(3)]
        for client in clients:
            await client.until(Snapshot)
        await runner.control.close("the test is over")
        for client in clients:
            assert (await client.until(protocol.Goodbye)).reason == "the test is over"
            assert await client.get() is None
            await client.close()


# --- the outbox by itself ---------------------------------------------------------------------------------------------


def _take(box: Outbox, seq: int = 1000) -> list[Any]:
    return list(box.take(lambda: Snapshot(seq=seq)))


def _acks(n: int) -> list[AckItem]:
    return [AckItem(custom_id=str(i), request_id="r", ok=True, finish="stop") for i in range(n)]


def test_state_coalesces_and_keeps_its_order():
    box = Outbox()
    box.put(JobChanged(seq=1, job=job("a", JobState.QUEUED)))
    box.put(JobChanged(seq=2, job=job("b")))
    box.put(Sampled(seq=3, reading=Reading(t=1)))
    box.put(JobChanged(seq=4, job=job("a", JobState.DONE)))
    box.put(Sampled(seq=5, reading=Reading(t=2)))
    box.put(Acknowledged(seq=6, job="a", items=_acks(1)))
    box.put(Acknowledged(seq=7, job="a", items=_acks(2)))
    box.put(JobRemoved(seq=8, job="b"))
    out = _take(box)
    assert [m.seq for m in out] == [4, 5, 7, 8]
    assert out[0].job.state == JobState.DONE
    assert len(out[2].items) == 3
    assert not box


def test_text_is_dropped_first_and_counted():
    box = Outbox()
    box.put(JobChanged(seq=1, job=job("a")))
    for n in range(200):
        box.put(Text(seq=n + 2, job="a", items=[Delta(key=n, text="z" * 10_000, tokens=3)]))
    box.put(Incident(seq=500, incident=IncidentView(t=0, job="a", kind="k", message="m")))
    out = _take(box)
    text = next(m for m in out if isinstance(m, Text))
    assert 0 < sum(d.tokens for d in text.items) < 600
    assert text.dropped + sum(d.tokens for d in text.items) == 600
    assert [type(m) for m in out] == [JobChanged, Text, Incident]


def test_neighbouring_text_becomes_one_piece():
    box = Outbox()
    for offset, piece in ((0, "one "), (4, "two "), (8, "three")):
        box.put(Text(seq=1, job="a", items=[Delta(key=1, text=piece, offset=offset), Delta(key=2, text=piece)]))
    (text,) = _take(box)
    assert next((d.key, d.text, d.offset, d.tokens) for d in text.items) == (1, "one two three", 0, 3)


def test_lost_text_leaves_a_gap_that_the_offset_shows():
    box = Outbox()
    size = controls.TEXT_CHARS // 4
    for n in range(6):
        box.put(Text(seq=n, job="a", items=[Delta(key=1, text="z" * size, offset=n * size)]))
    (text,) = _take(box)
    assert text.dropped > 0
    (piece,) = text.items
    assert piece.offset == text.dropped * size > 0
    assert piece.offset + len(piece.text) == 6 * size
    box.put(Text(seq=9, job="a", items=[Delta(key=1, text="b", offset=6 * size + 10)]))
    box.put(Text(seq=9, job="a", items=[Delta(key=1, text="a", offset=6 * size)]))
    (text,) = _take(box)
    assert [(d.text, d.offset - 6 * size) for d in text.items] == [("b", 10), ("a", 0)]


def test_a_viewer_gets_a_text_from_its_beginning_or_not_at_all():
    viewer = Viewer(protocol.WatchRequests(id=0, auto=1))
    piece = Delta(key=1, text="late", offset=100)
    assert viewer.chosen([piece]) == []
    assert viewer.look(frozenset({1})) == {1}
    assert viewer.chosen([piece]) == [], "it was on its way before the text was asked for"
    repeat = Delta(key=1, text="x" * 104)
    assert viewer.chosen([repeat, Delta(key=2, text="other")]) == [repeat]
    more = Delta(key=1, text="more", offset=104)
    assert viewer.chosen([more]) == [more]
    assert viewer.look(frozenset({1, 2})) == {2}
    assert viewer.chosen([more]) == [more]
    viewer.look(frozenset({2}))
    assert viewer.look(frozenset({1, 2})) == {1}, "it went away and came back: what it missed it must get"
    assert viewer.chosen([more]) == []


async def test_the_same_watch_again_asks_for_the_texts_from_the_beginning(path: Path):
    async with scripted(path) as runner:
        runner.keys = {"a": frozenset({1, 2}), "b": frozenset({2, 3})}
        client = await Raw.at(path)

        async def watch(n: int, job: str) -> Watched:
            client.send(protocol.WatchRequests(id=n, job=job, auto=2))
            await client.until(protocol.Reply)
            return runner.control.watched()

        assert await watch(1, "a") == ({1, 2}, {1, 2})
        assert runner.control.watched() == ({1, 2}, set())
        assert await watch(2, "b") == ({2, 3}, {3}), "what it reads already goes on"
        assert await watch(3, "b") == ({2, 3}, {2, 3})
        await client.close()


def test_points_of_the_history_are_not_coalesced():
    box = Outbox()
    for n in range(3):
        box.put(protocol.Measured(seq=n, point=protocol.HistoryPoint(t=n)))
    assert [m.point.t for m in _take(box)] == [0, 1, 2]


@pytest.mark.parametrize("what", ["events", "acks"])
def test_a_backlog_that_does_not_fit_becomes_a_snapshot(what: str):
    box = Outbox()
    if what == "events":
        for n in range(controls.STATE_EVENTS + 1):
            box.put(Incident(seq=n, incident=IncidentView(t=0, job="a", kind="k", message="m")))
    else:
        box.put(Acknowledged(seq=1, job="a", items=_acks(controls.ACK_ITEMS + 1)))
    box.put(JobChanged(seq=9999, job=job("a")))
    (snapshot,) = _take(box, 9999)
    assert snapshot.seq == 9999
    box.put(JobChanged(seq=10000, job=job("a")))
    assert [m.seq for m in _take(box)] == [10000]


def test_hello_needs_its_version_on_the_wire():
    assert json.loads(protocol.encode_line(protocol.Hello()))["version"] == protocol.CLIENT_PROTOCOL
