"""The screen's end of the runner's socket: keeps the mirror and the texts up to date, and finds the runner again.

Nothing here draws. What arrives is put into the desk at once; the app looks at it once a tick.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from engine.client import Client, connect, jobs_on_disk
from engine.errors import GptossError, RunnerUnreachable
from engine.protocol import Acknowledged, Command, Event, IncidentView, Reply, Snapshot, Text, WatchRequests
from engine.workspace import Workspace
from tui import meanwhile
from tui.desk import Desk
from tui.notice import Level
from tui.text import SafeText, one_line

CLIENT_NAME = "tui"
LOOK_AGAIN_S = 1.0
RESTART_S = 10.0
"""A runner that dies is started again at most this often."""

EVENTS_AT_ONCE = 500
"""Then the loop gets a turn, so that keys are answered during a flood."""


class RunnerLink:
    """Reads events for ever. `on_notice(text, level)` is told what people should know of the connection."""

    def __init__(
        self,
        desk: Desk,
        workspace: Workspace,
        *,
        start: bool,
        on_notice: Callable[[SafeText, Level], None],
        on_connected: Callable[[], None],
    ) -> None:
        self._desk = desk
        self._workspace = workspace
        self._start = start
        self._notice = on_notice
        self._on_connected = on_connected
        self._client: Client | None = None
        self._watch: WatchRequests | None = None
        self._started_at = -RESTART_S
        self._parted = False
        self._wanted = asyncio.Event()  # somebody needs the runner although it left in order
        self._up = asyncio.Event()
        self.first = True

    @property
    def connected(self) -> bool:
        return self._client is not None and self._client.alive

    async def run(self) -> None:
        """Until cancelled. Never raises for a runner that is gone."""
        try:
            while True:
                try:
                    client = await self._reach()
                except GptossError as error:
                    if self.first:  # later on, why it ended says more than that it is gone
                        self._lost(error.message)
                        self._log("connect", one_line(error.text), level="error")  # the notice may be cut, and goes
                        self._notice(one_line(error.text), "error")
                        self.first = False
                        await self._show_disk()
                    await self._pause()
                    continue
                since = time.monotonic()
                await self._serve(client)
                if time.monotonic() - since < LOOK_AGAIN_S:  # whatever is wrong with it, it is not asked all the time
                    await self._pause()
        finally:
            if self._client is not None:
                await self._client.close()

    async def _show_disk(self) -> None:
        """Without a runner the files still tell which jobs there are and how they stand."""
        jobs = await asyncio.to_thread(jobs_on_disk, self._workspace)
        if jobs and not self.connected:
            self._desk.mirror.take(Snapshot(seq=0, jobs=jobs))

    async def _reach(self) -> Client:
        # The first time, after a death (not too often), and when a key needs it; not after it left in order.
        now = time.monotonic()
        died = not self._parted and now - self._started_at > RESTART_S
        start = self._start and (self.first or died or self._wanted.is_set())
        if start:
            self._started_at = now
        return await connect(self._workspace, start=start, client=CLIENT_NAME)

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AGAIN_S):
                await self._wanted.wait()

    async def _serve(self, client: Client) -> None:
        desk = self._desk
        before = dict(desk.mirror.jobs)
        self._client = client
        self._wanted.clear()
        self._watch = None
        self._take(client.snapshot)
        desk.link.connected, desk.link.why = True, ""
        said = meanwhile.on_opening(desk.mirror.queue) if self.first else meanwhile.on_return(before, desk.mirror.jobs)
        if self.first:
            if said:
                self._notice(said, "info")
        else:
            text = SafeText("the background process is back" + (f": {said}" if said else ""))
            self._log("connected", text)
            self._notice(text, "info")
        self.first = False
        self._up.set()
        self._on_connected()
        try:
            await self._follow(client)
        except GptossError as error:  # it was too slow to keep up, and the runner went away before it said all anew
            self._log("watch", one_line(error.message), level="warn")
        finally:
            self._up.clear()
        self._parted = client.parted
        garbled = client.goodbye.startswith("the runner sent")
        why = one_line(client.goodbye) if client.parted or garbled else SafeText("it died or was killed")
        self._lost(f"the background process has ended: {why}")
        self._log("disconnected", one_line(f"the background process has ended: {why}"), level="warn")
        await client.close()
        self._client = None

    async def _follow(self, client: Client) -> None:
        taken = 0
        async for event in client.events():
            self._take(event)
            taken += 1
            if taken >= EVENTS_AT_ONCE:
                taken = 0
                await asyncio.sleep(0)

    def _take(self, event: Event | Snapshot) -> None:
        desk = self._desk
        if isinstance(event, Text):
            desk.transcripts.take(event, desk.mirror.running)
            return
        desk.mirror.take(event)
        if isinstance(event, Acknowledged):
            for item in event.items:
                desk.transcripts.ended(
                    event.job, item.custom_id, finish=item.finish, tokens=item.completion_tokens, now=desk.now()
                )

    def _lost(self, why: str) -> None:
        self._desk.link.connected = False
        self._desk.link.why = one_line(why)

    def _log(self, kind: str, message: SafeText, *, level: str = "info") -> None:
        incident = IncidentView(t=self._desk.now(), job="", kind=kind, message=message, level=level)
        self._desk.mirror.incidents.append(incident)

    # --- what keys send -----------------------------------------------------------------------------------------------

    async def command(self, command: Command, *, patience_s: float = 20.0) -> Reply:
        """Send one, with a runner started for it where there is none. Raises GptossError."""
        if not self.connected:
            if not self._start:
                raise RunnerUnreachable("the background process is not running", advice="`gptoss-tui` starts it.")
            self._wanted.set()
            try:
                async with asyncio.timeout(patience_s):
                    await self._up.wait()
            except TimeoutError:
                raise RunnerUnreachable(
                    f"the background process did not come up within {patience_s:.0f} s",
                    advice=f"Its log is {self._workspace.runner_log}.",
                ) from None
        client = self._client
        if client is None:
            raise RunnerUnreachable("the background process has just ended", advice="Try again.")
        return await client.command(command)

    async def watch(self, wanted: WatchRequests) -> None:
        """Ask for the texts of these requests from now on; costs nothing where they are the same as before."""
        if wanted == self._watch or self._client is None or not self._client.alive:
            return
        self._watch = wanted
        try:
            await self._client.command(wanted)
        except RunnerUnreachable:
            return  # it has just ended, which is told elsewhere; what comes back is asked anew
        except GptossError as error:
            self._log("watch", one_line(f"the texts could not be asked for: {error.message}"), level="warn")
