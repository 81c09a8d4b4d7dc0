"""The background process around a runner: the lock on its workspace, its own session, its log, and its last words."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import fcntl
import logging
import logging.handlers
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from engine.errors import ExitCode, GptossError, ResultsLocked, RunnerError
from engine.workspace import Workspace

log = logging.getLogger("runner")

LOG_BYTES = 2 * 1024 * 1024


class Service(Protocol):
    """What runs in the process."""

    async def run(self) -> None: ...
    def stop(self, reason: str) -> None: ...


class Lock:
    """flock on the workspace: the kernel frees it when its owner dies, so there is never a stale one."""

    def __init__(self, workspace: Workspace) -> None:
        """Raises ResultsLocked, naming the owner, or RunnerError."""
        try:
            workspace.runner_folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(workspace.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _unwritable(workspace.runner_folder, error) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise ResultsLocked(
                f"another runner (process {owner or 'unknown'}) serves {workspace.root}",
                advice="`gptoss-tui status` talks to it; `gptoss-tui stop` ends it.",
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def _unwritable(path: Path, error: OSError) -> RunnerError:
    return RunnerError(
        f"no runner can work here: {path} can't be written: {error.strerror or error}",
        advice="Mend its permissions or free some space, or choose another folder: --workspace DIR.",
    )


def _start_log(path: Path) -> None:
    """Raises RunnerError."""
    try:
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def last_words(workspace: Workspace, error: GptossError) -> int:
    """Why it could not go on: a sentence and its advice on stderr and last in the log. Returns the exit code.

    Whoever started this process reads them there, so no traceback comes with them.
    """
    text = f"{error.message.rstrip('.')}.\n{error.advice}".strip()
    # A client starts it with both in one file: once is enough. Too early for a log there is stderr alone.
    if logging.getLogger().hasHandlers() and not _is_stderr(workspace.runner_log):
        log.error("%s", text)
    sys.stderr.write(f"{text}\n")
    return int(error.exit_code)


def _is_stderr(path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(2), path.stat())
    except OSError:
        return False


def _own_session() -> None:
    """A hangup of the terminal reaches neither this process nor the engine."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # A group leader can't, and has one of its own if its starter took care.
    with contextlib.suppress(PermissionError):
        os.setsid()


async def _run(make: Callable[[], Service]) -> None:
    service = make()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop, signal.Signals(number).name)
    await service.run()


def live(workspace: Workspace, make: Callable[[], Service]) -> int:
    """Be this workspace's background process until what `make` gives ends. Returns the exit code."""
    os.umask(0o077)
    try:
        lock = Lock(workspace)
    except GptossError as error:
        return last_words(workspace, error)
    try:
        _own_session()
        _start_log(workspace.runner_log)
        # A native fault of this process leaves its Python stack where people look.
        with workspace.runner_log.open("a", encoding="utf-8") as crashes:
            faulthandler.enable(crashes)
            try:
                asyncio.run(_run(make))
            finally:
                faulthandler.disable()
    except GptossError as error:
        return last_words(workspace, error)
    except Exception as error:
        log.exception("the runner ends by a fault of its own")
        what = f"the runner ended by a fault of its own: {type(error).__name__}: {error}"
        return last_words(workspace, RunnerError(what, advice=f"{workspace.runner_log} has the details."))
    finally:
        lock.release()
    return int(ExitCode.OK)
