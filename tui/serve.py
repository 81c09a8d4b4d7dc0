"""`gptoss-tui serve`: the screen in a browser. Each page is a screen of its own; all of them are clients of one runner.

Who may look is decided by the link: it holds a key that is made anew each time and is told to nobody but the terminal.
So neither another user of this machine nor another page in the same browser can drive the screen. The page loads
nothing from elsewhere. By default it listens on this machine only; from afar, `ssh -L` brings it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import secrets
import shlex
import signal
import socket
import sys
from pathlib import Path

import aiohttp_jinja2
import jinja2
from aiohttp import web
from textual_serve.app_service import AppService
from textual_serve.server import Server

from engine.errors import ExitCode, UsageError
from engine.workspace import Workspace
from tui.console import Console

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = Path(__file__).with_name("web")

MAX_SCREENS = 8
"""Each is a process of some 60 MB."""

CLOSE_S = 5.0
"""How long a screen may take to leave before its process is ended."""

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self' ws: wss:; frame-ancestors 'none'"
)


async def serve(
    workspace: Workspace,
    console: Console,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    readonly: bool = False,
    allow_remote: bool = False,
) -> int:
    """Serve until Ctrl-C. The run is not touched by any of it."""
    if not 0 <= port <= 65535:
        raise UsageError(f"there is no port {port}", advice="Ports go from 1 to 65535; 0 takes any free one.")
    local = is_loopback(host)
    if not local and not allow_remote:
        raise UsageError(
            f"{host} can be reached from other machines, and the screen is served unencrypted",
            advice=f"From afar, `ssh -L {port}:127.0.0.1:{port}` to this machine is safe. "
            "In a network that you trust: --allow-remote.",
        )
    screens = _Screens(workspace, host, readonly=readonly)
    runner = web.AppRunner(screens.application(), handle_signals=False, shutdown_timeout=CLOSE_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise UsageError(
                f"{host}:{port} can't be listened on: {_why(error)}",
                advice="Choose another: --port N (0: any free one).",
            ) from error
        shown = f"[{host}]" if ":" in host else host
        console.say(f"the screen of {workspace.root}{', to watch only,' if readonly else ''} is served at")
        console.say(f"  http://{shown}:{runner.addresses[0][1]}/{screens.key}/")
        console.say("whoever has this link can use it; Ctrl-C ends the server, the run goes on")
        if not local:
            console.note(
                "warning: other machines can reach it. There is no password but the link, and nothing is encrypted: "
                "whoever can read the network traffic can read the link."
            )
        await _until_signal()
        console.say("the server ends; the run goes on")
    finally:
        await runner.cleanup()
        await screens.ended()
    return ExitCode.OK


def is_loopback(host: str) -> bool:
    """Only this machine reaches it. A name counts by all of its addresses."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise UsageError(f"{host!r} is no address of this machine: {error.strerror or error}") from None
    return bool(found) and all(ipaddress.ip_address(str(address)).is_loopback for address in found)


def _why(error: OSError) -> str:
    """asyncio wraps the reason in a sentence of its own."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


async def _until_signal() -> None:
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, asked.set)
    try:
        await asked.wait()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


class _Screen(AppService):
    """One browser page's screen. Ends for certain."""

    def _build_environment(self, width: int = 80, height: int = 24) -> dict[str, str]:
        rest = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
        return {
            **super()._build_environment(width, height),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *rest]),
            "PYTHONSAFEPATH": "1",  # a file of the workspace never stands in for a module
        }

    async def run(self) -> None:
        """Until its process has ended, however it did; then there is nothing to look at."""
        try:
            await super().run()
        finally:
            await self.remote_close()

    async def stop(self) -> None:
        """Ask it to leave; end it where it does not."""
        process = self._process
        if process is not None and process.returncode is None:
            await self.send_meta({"type": "quit"})
            try:
                async with asyncio.timeout(CLOSE_S):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        await super().stop()  # its pipes are at their end now


class _Screens(Server):
    """The pages and the sockets of the screens."""

    def __init__(self, workspace: Workspace, host: str, *, readonly: bool) -> None:
        command = [sys.executable, "-m", "tui.cli", "--workspace", str(workspace.root)]
        super().__init__(
            # `exec`: the shell that textual-serve starts it by would otherwise stand between us and it.
            "exec " + shlex.join([*command, *(["--readonly"] if readonly else [])]),
            host=host,
            title="gptoss-tui",
            templates_path=TEMPLATES,
        )
        self.key = secrets.token_urlsafe(16)
        self._open: set[web.WebSocketResponse] = set()
        self._ending: set[asyncio.Task[None]] = set()

    def application(self) -> web.Application:
        """Its own table of addresses: those of textual-serve know no key."""
        made = web.Application()
        aiohttp_jinja2.setup(made, loader=jinja2.FileSystemLoader(self.templates_path))
        made.router.add_static("/static", self.statics_path)
        made.router.add_get("/download/{key}", self.handle_download)  # of a file that a screen has just offered
        made.router.add_get("/{key}/", self._page)
        made.router.add_get("/{key}/ws", self._socket)
        made.on_shutdown.append(self._close_all)
        made.on_response_prepare.append(_guard)
        return made

    async def _close_all(self, app: web.Application) -> None:
        """Sockets would otherwise keep the server for as long as somebody looks."""
        del app
        await asyncio.gather(*(socket.close() for socket in self._open), return_exceptions=True)

    async def ended(self) -> None:
        """Until no process of a screen is left."""
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _check(self, request: web.Request) -> None:
        if not secrets.compare_digest(request.match_info["key"].encode(), self.key.encode()):
            raise web.HTTPNotFound(
                text="This link does not hold (any more): a server makes a new one when it starts.\n"
            )

    async def _page(self, request: web.Request) -> web.Response:
        self._check(request)
        # The addresses follow those of the page: it may be reached through a tunnel with another port.
        scheme = "wss" if request.scheme == "https" else "ws"
        size = request.query.get("fontsize", "")
        context = {
            "font_size": int(size) if size.isdecimal() and len(size) < 4 else 16,
            "app_websocket_url": f"{scheme}://{request.host}/{self.key}/ws",
            "config": {"static": {"url": "/static/"}},
            "application": {"name": self.title},
            "most": MAX_SCREENS,
        }
        return aiohttp_jinja2.render_template("app_index.html", request, context)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        self._check(request)
        if len(self._open) >= MAX_SCREENS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_SCREENS} screens are open already; close one.\n")
        made = web.WebSocketResponse(heartbeat=15, max_msg_size=1 << 20)
        await made.prepare(request)
        self._open.add(made)

        async def close() -> None:
            await made.close()

        screen = _Screen(
            self.command,
            write_bytes=made.send_bytes,
            write_str=made.send_str,
            close=close,
            download_manager=self.download_manager,
        )
        try:
            await screen.start(_cells(request, "width", 80), _cells(request, "height", 24))
            await self._process_messages(made, screen)
        finally:
            self._open.discard(made)
            # A task of its own: the server's end may cut this handler short, never the end of its process.
            ending = asyncio.create_task(screen.stop())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            await asyncio.shield(ending)
        return made


def _cells(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, "")
    return min(max(int(text), 1), 1000) if text.isdecimal() and len(text) < 6 else default


async def _guard(request: web.Request, response: web.StreamResponse) -> None:
    """Nothing from elsewhere is loaded, and the link with its key is told to nobody."""
    del request
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
