"""A runner double: the real control server on a real socket, with jobs that a test sets by hand."""

from __future__ import annotations

import asyncio
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from engine import peer, protocol
from engine.control import Control
from engine.errors import JobNotFound
from engine.job import JobState
from engine.protocol import Command, Counts, JobView, Reply, Snapshot, WatchRequests, Welcome
from engine.workspace import Workspace


def job(name: str = "demo-1", state: JobState = JobState.RUNNING, **fields: object) -> JobView:
    fields.setdefault("input_path", f"/nowhere/{name}.jsonl")
    fields.setdefault("counts", Counts(total=4, waiting=4))
    return JobView(id=name, state=state, created=1.0, **fields)  # type: ignore[arg-type]  # a test's own keywords


class Scripted:
    """What the runner would be; `got` holds every command that arrived."""

    def __init__(self, socket: Path, peer_uid: Callable[[peer.HasOptions], int] = peer.peer_uid) -> None:
        self.jobs: dict[str, JobView] = {}
        self.got: list[Command] = []
        self.arrived = asyncio.Event()
        self.hold: asyncio.Event | None = None
        self.on_command: Callable[[Command], Reply | None] = lambda _: None
        self.keys: dict[str, frozenset[int]] = {}
        self.control = Control(
            socket,
            welcome=Welcome(version=protocol.CLIENT_PROTOCOL, pid=1, workspace="/ws", started=0.0),
            snapshot=self.snapshot,
            handle=self.handle,
            resolve_watch=self.resolve,
            peer_uid=peer_uid,
        )

    def snapshot(self, seq: int) -> Snapshot:
        return Snapshot(seq=seq, jobs=list(self.jobs.values()))

    def resolve(self, watch: WatchRequests) -> frozenset[int]:
        return self.keys.get(watch.job, frozenset())

    async def handle(self, command: Command) -> Reply:
        self.got.append(command)
        self.arrived.set()
        if self.hold is not None:
            await self.hold.wait()
        special = self.on_command(command)
        if special is not None:
            return special
        match command:
            case protocol.AbortJob(job="boom"):
                raise ZeroDivisionError("a fault of the runner")
            case protocol.Pause(job=name) if name not in self.jobs:
                raise JobNotFound(f"no job {name}", advice="look around")
            case _:
                return Reply(id=command.id, sentence="done")

    def change(self, view: JobView) -> None:
        self.jobs[view.id] = view
        self.control.publish(protocol.JobChanged(seq=0, job=view))

    async def saw(self, kind: type) -> Command:
        """The first command of this kind, waiting for it."""
        while True:
            self.arrived.clear()
            for command in self.got:
                if isinstance(command, kind):
                    return command
            await asyncio.wait_for(self.arrived.wait(), 20)


@asynccontextmanager
async def scripted(
    socket: Path, kind: type[Scripted] = Scripted, **more: Callable[[peer.HasOptions], int]
) -> AsyncIterator[Scripted]:
    made = kind(socket, **more)
    await made.control.start()
    try:
        yield made
    finally:
        await made.control.close("the test ends")


async def eventually(ready: Callable[[], bool], patience_s: float = 20.0) -> None:
    """Let the server's tasks go on until `ready`."""
    for _ in range(int(patience_s / 0.005)):
        if ready():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("waited in vain")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def short_folder() -> Path:
    """Socket paths are limited to about 100 bytes; pytest's own folders can be longer."""
    return Path(tempfile.mkdtemp(prefix="gt-"))


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def workspace_at(folder: Path) -> Workspace:
    (folder / "ws").mkdir()
    return Workspace.at(folder / "ws")
