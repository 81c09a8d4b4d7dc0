"""What `gptoss-tui` alone does before and after the screen: settings, terminal, files to queue, farewell.

Textual is imported here and nowhere else on a command's way, and only once it is told how to behave.
"""

from __future__ import annotations

import argparse
import asyncio
import locale
import os
import sys

from engine import settings
from engine.errors import UsageError
from engine.protocol import Submit
from engine.workspace import Workspace
from tui import commands
from tui.console import Console
from tui.keys import KeyTable
from tui.remote import Terminal, is_web, look_at, prepare


def open_screen(workspace: Workspace, console: Console, options: argparse.Namespace) -> int:
    """Show the screen until the person leaves it; plain lines where there is none. Returns the exit code."""
    paths = [commands.batch_file(name) for name in options.add]
    if paths and options.readonly:
        raise UsageError("--add queues a file and --readonly changes nothing", advice="Leave one of them out.")
    chosen = settings.load(workspace, {"theme": options.theme})
    add = [Submit(id=0, path=str(path), settings=chosen.run) for path in paths]
    terminal = look_at(
        os.environ,
        isatty=sys.stdin.isatty() and sys.stdout.isatty(),
        locale=locale.getencoding(),
        chosen=chosen.screen,
    )
    if options.plain or terminal.dumb:
        if not options.plain:
            console.note(
                f"{_why_plain(terminal)}: plain lines instead of the screen (`gptoss-tui --plain` asks for them)"
            )
        return _plain(workspace, console, add, readonly=options.readonly)
    prepare(terminal, os.environ)
    from tui.app import GptossApp  # Textual reads its settings when it is imported, and no other command needs it

    app = GptossApp(
        workspace,
        terminal,
        readonly=options.readonly,
        keys=KeyTable(chosen.keys),
        add=add,
        low_bandwidth=options.low_bandwidth,
        theme=f"ansi-{terminal.theme}",
        start=not options.readonly,
    )
    code = app.start()
    if not is_web(os.environ):  # there stdout speaks to a browser
        for line in app.farewell:
            console.say(line)
    return code


def _why_plain(terminal: Terminal) -> str:
    if not sys.stdout.isatty():
        return "stdout is no terminal"
    if not sys.stdin.isatty():
        return "stdin is no terminal"
    return f"TERM is {terminal.name}" if terminal.name else "TERM is not set"


def _plain(workspace: Workspace, console: Console, add: list[Submit], *, readonly: bool) -> int:
    from tui import watch  # not needed for the screen

    try:
        return int(asyncio.run(watch.watch(workspace, console, add=add, readonly=readonly)))
    finally:
        console.close()
