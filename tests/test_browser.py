"""tui.browser: the real child, cancelled questions, children that die."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from engine.errors import GptossError, RunnerError
from engine.workspace import Workspace
from tests.browse_kit import Folder, answered, asked, ids
from tui.browser import Browser


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.record()
    folder.input(asked("a", "apple"), asked("b", "pear"))
    folder.output(answered("a"))
    return folder


@pytest.fixture(name="workspace")
def _workspace(run: Folder) -> Workspace:
    return Workspace(run.path.parents[1])


@pytest_asyncio.fixture(name="browser")
async def _browser() -> AsyncIterator[Browser]:
    browser = Browser()
    yield browser
    await browser.close()


def pid_of(browser: Browser) -> int:
    assert browser._process is not None
    return browser._process.pid


async def test_pages_details_and_searches(browser: Browser, workspace: Workspace):
    await browser.open(workspace, "b-1")
    page = await browser.page(taken_out=["b"])
    assert [(row.custom_id, row.state) for row in page.rows] == [("a", "done"), ("b", "aborted")]
    assert (await browser.detail("a")).answer == "yes"
    assert (await browser.find("PEAR")).custom_id == "b"
    assert (await browser.find("apple", start=1)).row is None
    assert (await browser.page(around="b", count=1)).offset == 1


async def test_the_child_starts_with_the_first_question_and_stays(browser: Browser, workspace: Workspace):
    assert browser._process is None
    await browser.open(workspace, "b-1")
    await browser.page()
    pid = pid_of(browser)
    await browser.open(workspace, "b-1")
    await browser.page()
    assert pid_of(browser) == pid
    assert (
        os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, os.getpid())
        or os.getpriority(os.PRIO_PROCESS, os.getpid()) == 19
    )
    assert os.getsid(pid) == pid  # keys of the terminal send it no signal


async def test_faults_are_raised(browser: Browser, workspace: Workspace):
    await browser.open(workspace, "none-7")
    with pytest.raises(GptossError, match=r"no run at .*none-7"):
        await browser.page()
    await browser.open(workspace, "b-1")
    with pytest.raises(GptossError, match="no request 'x'") as caught:
        await browser.detail("x")
    assert caught.value.advice
    assert ids(await browser.page()) == ["a", "b"]


async def test_many_questions_at_once_and_some_cancelled(browser: Browser, workspace: Workspace):
    await browser.open(workspace, "b-1")
    assert (await browser.page()).fraction == 1  # of pages that wait, only the newest waits on
    tasks = [asyncio.create_task(browser.page(offset=n % 2, count=1)) for n in range(40)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    for n, page in enumerate(done):
        if n % 3:
            assert not isinstance(page, BaseException)
            assert ids(page) == ["ab"[n % 2]]
        else:
            assert isinstance(page, asyncio.CancelledError)
    assert browser._questions == {}
    assert ids(await browser.page()) == ["a", "b"]  # answers to nobody did no harm


async def test_a_newer_search_ends_an_older_one(browser: Browser, workspace: Workspace, run: Folder):
    run.input(*(asked(f"r-{n}", "x" * 200) for n in range(20_000)))
    await browser.open(workspace, "b-1")
    old = asyncio.create_task(browser.find("r-19999"))
    await asyncio.sleep(0)
    assert (await browser.find("r-19998")).row == 19_998
    with pytest.raises(GptossError, match="newer search"):
        await old


async def test_a_killed_child_is_replaced(browser: Browser, workspace: Workspace):
    await browser.open(workspace, "b-1")
    await browser.page()
    for _ in range(3):
        pid = pid_of(browser)
        os.kill(pid, signal.SIGKILL)
        assert ids(await browser.page()) == ["a", "b"]
        assert pid_of(browser) != pid


async def test_a_child_killed_while_it_owes_answers(browser: Browser, workspace: Workspace):
    await browser.open(workspace, "b-1")
    await browser.page()
    pid = pid_of(browser)
    os.kill(pid, signal.SIGSTOP)
    asked_now = [asyncio.create_task(browser.detail("a")), asyncio.create_task(browser.detail("b"))]
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    assert [detail.row.custom_id for detail in await asyncio.gather(*asked_now)] == ["a", "b"]


async def test_two_screens_look_at_two_runs(browser: Browser, workspace: Workspace):
    other = workspace.results / "c-1"
    other.mkdir()
    (other / "output.jsonl").write_bytes(answered("z"))

    async def look(job: str, expected: list[str]) -> None:
        for _ in range(10):
            await browser.open(workspace, job)
            assert (await browser.detail(expected[0])).row.custom_id == expected[0]

    await asyncio.gather(look("b-1", ["a"]), look("c-1", ["z"]))
    process = browser._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    await asyncio.gather(look("c-1", ["z"]), look("b-1", ["a"]))


def scripted(body: str) -> Browser:
    return Browser(command=(sys.executable, "-c", textwrap.dedent(body)))


async def test_a_question_that_ends_two_children_is_given_up(workspace: Workspace, tmp_path: Path):
    starts = tmp_path / "starts"
    browser = scripted(f"""
        import sys
        with open({str(starts)!r}, "a") as f: f.write("x")
        for line in sys.stdin:
            if "AskPage" in line: sys.exit("made of cheese")
    """)
    await browser.open(workspace, "b-1")
    with pytest.raises(RunnerError, match=r"exit code 1.*cheese"):
        await browser.page()
    assert starts.read_text() == "xx"
    await browser.close()


async def test_a_child_that_babbles(workspace: Workspace):
    browser = scripted("""
        import sys
        for line in sys.stdin: print("what?", flush=True)
    """)
    await browser.open(workspace, "b-1")
    with pytest.raises(RunnerError, match="no answer"):
        await browser.page()
    await browser.close()


async def test_a_command_that_is_not_there(workspace: Workspace):
    browser = Browser(command=("/nonexistent/python",))
    with pytest.raises(RunnerError, match="can't be started"):
        await browser.open(workspace, "b-1")
    await browser.close()


async def test_close_ends_a_child_that_does_not_listen(workspace: Workspace):
    browser = Browser()
    await browser.open(workspace, "b-1")
    await browser.page()
    pid = pid_of(browser)
    os.kill(pid, signal.SIGSTOP)
    waiting = asyncio.create_task(browser.page())
    await asyncio.sleep(0)
    await browser.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(ProcessLookupError):  # gone, and reaped
        os.kill(pid, 0)
    await browser.close()
    with pytest.raises(RunnerError, match="closed"):
        await browser.page()


async def test_the_child_ends_when_its_ui_is_killed(workspace: Workspace, tmp_path: Path):
    script = tmp_path / "ui.py"
    script.write_text(
        textwrap.dedent(f"""
            import asyncio
            from pathlib import Path
            from engine.workspace import Workspace
            from tui.browser import Browser
            async def main():
                browser = Browser()
                await browser.open(Workspace(Path({str(workspace.root)!r})), "b-1")
                await browser.page()
                print(browser._process.pid, flush=True)
                await asyncio.sleep(60)
            asyncio.run(main())
        """)
    )
    ui = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert ui.stdout is not None
    pid = int(await ui.stdout.readline())
    child = os.pidfd_open(pid)
    ui.kill()
    await ui.wait()
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(child, gone.set)
    try:
        await asyncio.wait_for(gone.wait(), 20)
    finally:
        asyncio.get_running_loop().remove_reader(child)
        os.close(child)
