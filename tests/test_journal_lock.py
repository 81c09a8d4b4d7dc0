"""One writer: two openers, a dead owner, a child that lives on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import ResultsLocked
from engine.journal import LOCK, Journal, lock_owner
from tests.journal_kit import answer

ROOT = Path(__file__).parent.parent

OWNER = """
import asyncio, sys
from pathlib import Path
from engine.journal import Journal
from tests.journal_kit import answer

async def main():
    journal = Journal.open(Path(sys.argv[1]))
    await journal.append(answer(1))
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""


def _owner(folder: Path) -> subprocess.Popen[str]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "open\n"
    return owner


async def test_the_second_opener_is_told_who_owns_the_run_and_takes_over_after_kill_9(tmp_path: Path) -> None:
    with _owner(tmp_path) as owner:
        try:
            before = (tmp_path / "output.jsonl").read_bytes()
            with pytest.raises(ResultsLocked, match=f"process {owner.pid}"):
                Journal.open(tmp_path)
            assert (tmp_path / "output.jsonl").read_bytes() == before
            assert lock_owner(tmp_path) == f"process {owner.pid}"
        finally:
            owner.send_signal(signal.SIGKILL)
            owner.wait(20)
    assert lock_owner(tmp_path) is None
    journal = Journal.open(tmp_path)
    assert [d.custom_id for chunk in journal.done() for d in chunk] == ["r-1"]
    await journal.close()


async def test_within_one_process_a_run_is_opened_once(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    with pytest.raises(ResultsLocked, match=str(os.getpid())):
        Journal.open(tmp_path)
    await journal.append(answer(1))
    await journal.close()
    await Journal.open(tmp_path).close()


async def test_the_pid_of_a_stranger_in_the_lock_file_blocks_nobody(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(f"{os.getppid()}\n")  # alive, and not the owner
    assert lock_owner(tmp_path) is None
    await Journal.open(tmp_path).close()


async def test_a_child_that_outlives_the_owner_holds_nothing(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=subprocess.PIPE, close_fds=False
    )
    try:
        await journal.close()
        await Journal.open(tmp_path).close()
    finally:
        child.kill()
        await child.wait()


async def test_looking_who_owns_a_run_does_not_take_it(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    await journal.close()
    assert lock_owner(tmp_path) is None
    assert lock_owner(tmp_path / "nowhere") is None
    await Journal.open(tmp_path).close()
