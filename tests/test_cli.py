"""The command as a user runs it: a process of its own, against a scripted runner."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from engine import protocol
from engine.job import JobState
from engine.journal import write_record
from engine.protocol import AckItem, Acknowledged, Counts, Eta, Incident, IncidentView, Reply
from engine.record import RunRecord
from engine.workspace import Workspace
from tests.control_kit import Scripted, job, remove, scripted, short_folder, workspace_at
from tui import cli, commands, progress
from tui.console import Console
from tui.text import cells

ROOT = Path(__file__).resolve().parents[1]
EVIL = "id\x1b]0;owned\x07\x9b31m\u202e\n"
PATIENCE_S = 40.0


@pytest.fixture(name="workspace")
def _workspace(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    folder = short_folder()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TERM", "xterm")
    for name in list(os.environ):
        if name.startswith("GPTOSS_"):
            monkeypatch.delenv(name)
    workspace = workspace_at(folder)
    (workspace.root / "demo.jsonl").write_text("{}\n")
    yield workspace
    remove(folder)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tui.cli", *arguments]


class Ended:
    def __init__(self, code: int | None, out: bytes, err: bytes = b"") -> None:
        self.code, self.out, self.err = code, out.decode(), err.decode()
        assert "Traceback" not in self.out + self.err


async def start(workspace: Workspace, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command(*arguments),
        cwd=workspace.root,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


async def end(process: asyncio.subprocess.Process) -> Ended:
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    return Ended(process.returncode, out, err)


async def run(workspace: Workspace, *arguments: str, **environment: str) -> Ended:
    return await end(await start(workspace, *arguments, **environment))


def accept(runner: Scripted, name: str = "demo-1") -> None:
    """Submits become this job, queued."""

    def on_command(given: protocol.Command) -> Reply | None:
        if isinstance(given, protocol.Submit):
            runner.change(job(name, JobState.QUEUED, input_path=given.path, model="nano"))
            return Reply(id=given.id, job=name)
        return None

    runner.on_command = on_command


def finish(runner: Scripted, **counts: int) -> None:
    view = runner.jobs["demo-1"]
    fields = {"total": 2, "succeeded": 2, **counts}
    for state in (JobState.RUNNING, JobState.DONE):
        runner.change(replace(view, state=state, counts=Counts(**fields)))


def write_lines(folder: Path, name: str, *lines: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def answer(custom_id: str, text: str | None, *calls: tuple[str, str]) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in calls]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    return {"id": "x", "custom_id": custom_id, "response": {"status_code": 200, "body": {"choices": [choice]}}}


# --- without a runner -------------------------------------------------------------------------------------------------


def test_version_and_status_load_nothing_heavy(workspace: Workspace):
    code = (
        "import sys; from tui.cli import main; main(['--version']); main(['status']);"
        "main(['keys']); main(['--plain', '--readonly']);"
        "heavy = ('numpy', 'jinja2', 'textual', 'rich', 'aiohttp', 'psutil', 'engine.runner');"
        "print([m for m in heavy if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=workspace.root, capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"
    assert out.stdout.startswith("gptoss-tui ")


WRONG = [
    ["rum"],
    ["run"],
    ["run", "absent.jsonl"],
    ["pause", "nope"],
    ["run", "demo.jsonl", "--slots", "0"],
    ["run", "demo.jsonl", "--slots", "x"],
    ["run", "demo.jsonl", "--temperature", "3"],
    ["run", "demo.jsonl", "--slot", "3"],
    ["run", "/dev/null"],
    ["status", "--workspace", "/absent"],
    ["--plain", "status"],
    ["--add", "demo.jsonl", "run", "demo.jsonl"],
    ["--add", "absent.jsonl"],
    ["--readonly", "--add", "demo.jsonl"],
    ["--theme", "blue"],
    ["serve", "--host", "0.0.0.0"],
    ["serve", "--host", "no.such.host.invalid"],
    ["serve", "--port", "70000"],
    ["--plain", "serve"],
]


def test_keys_are_listed_with_the_own_ones_and_their_faults(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(workspace.root)
    assert cli.main(["keys"]) == 0
    assert re.search(r"^  p +pause +pause: ", capsys.readouterr().out, re.MULTILINE)
    workspace.settings_file.write_text('[keys]\npause = "f5"\nfly = "y"\nresume = "f5"\n')
    assert cli.main(["keys"]) == 2
    said = capsys.readouterr()
    assert re.search(r"^  f5 +pause ", said.out, re.MULTILINE)
    assert "[keys] fly: there is no such action" in said.err
    assert "is pause already" in said.err


def test_options_of_the_screen_are_named_where_they_mean_nothing(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--low-bandwidth", "--theme", "dark", "status"]) == 2
    assert "--low-bandwidth, --theme goes with the screen, not with `status`" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_use_is_a_sentence_and_exit_2(
    workspace: Workspace, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(workspace.root)
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.startswith("gptoss-tui: ")
    assert not workspace.lock_file.exists()  # nothing was started


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "demo.jsonl", "--slots", "x"], "'x' is no whole number"),
        (["run", "demo.jsonl", "--temperature", "3"], "--temperature is 3.0"),
        (["run", "demo.jsonl", "--slot", "3"], "`gptoss-tui run --help`"),
        (["status", "a", "b"], "`gptoss-tui status` has no place for b"),
        (["run", "/dev/null"], "/dev/null is no regular file"),
    ],
)
def test_wrong_use_says_what_is_wrong(
    workspace: Workspace,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(workspace.root)
    assert cli.main(arguments) == 2
    assert said in capsys.readouterr().err


async def test_a_model_s_path_counts_from_the_current_folder(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "m.gguf").touch()
    monkeypatch.chdir(elsewhere)
    batch, here = str(workspace.root / "demo.jsonl"), ["--workspace", str(workspace.root), "--detach"]
    async with scripted(workspace.socket) as runner:
        accept(runner)
        for typed, sent in (
            ("m.gguf", str(elsewhere / "m.gguf")),
            ("./absent.gguf", str(elsewhere / "absent.gguf")),
            ("gpt-oss-20b", "gpt-oss-20b"),
        ):
            assert await asyncio.to_thread(cli.main, ["run", batch, *here, "--model", typed]) == 0
            submit = next(command for command in reversed(runner.got) if isinstance(command, protocol.Submit))
            assert submit.settings.model == sent


def test_results_off_the_list_can_still_be_verified_and_exported(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(workspace.root)
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    }
    write_lines(tmp_path, "copy.jsonl", line)
    folder = workspace.run_folder("gone-1")
    folder.mkdir(parents=True)
    write_record(
        folder,
        RunRecord(
            job="gone-1",
            state=JobState.PAUSED,
            input_path=str(workspace.root / "away.jsonl"),
            created=1.0,
            removed=True,
            counts=Counts(total=1, waiting=1),
        ),
    )
    assert cli.main(["verify", "gone-1"]) == 4
    assert "away.jsonl is gone" in capsys.readouterr().out
    assert cli.main(["export", "gone-1"]) == 2  # its order is not known
    assert cli.main(["export", "gone-1", "--input", str(tmp_path / "copy.jsonl")]) == 0
    assert "1 cancelled or not run" in capsys.readouterr().out


def test_a_page_never_scrolls():
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 8, 40, 0, 0))
    with os.fdopen(side, "w") as out:
        Console(out, out).page([f"row {n}" for n in range(20)])
    shown = os.read(main, 10_000).decode()
    os.close(main)
    assert shown.count("\n") == 7
    for part in ("row 0", "... 14 lines more", "row 15", "row 19"):
        assert part in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_every_command_and_parses(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name in ("run", "restore", "validate", "doctor"):
        assert re.search(rf"\b{name}\b", script)
    assert "skip-invalid" in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_sentences_name_commands_and_options_that_there_are():
    choices = next(action.choices for action in cli.parser()._actions if action.dest == "command")
    assert isinstance(choices, dict)
    named = [
        (path.name, *found)
        for room in ("engine", "tui")
        for path in (ROOT / room).rglob("*.py")
        for found in re.findall(r"`gptoss-tui ([a-z]+)([^`\n]*)`", path.read_text())
    ]
    assert len(named) > 20
    for name, command, rest in named:
        assert command in choices, f"{name}: there is no {command}"
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in choices[command].format_help(), f"{name}: {command} has no {option}"


def test_bash_completion_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cli.main(["completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    for job_id in ("demo-1", "demo-2", "other-1"):
        (tmp_path / "results" / job_id).mkdir(parents=True)
        (tmp_path / "results" / job_id / "run.json").touch()
    ask = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _gptoss_tui; echo "${COMPREPLY[*]}"'
    for words, wanted in (
        (["pause", "--n"], "--now"),
        (["re"], "resume restore retry remove"),
        (["attach", "de"], "demo-1 demo-2"),
        (["run", "--kv-type", ""], ""),
        (["run", "--model", "res"], "results"),
        (["run", "scr"], "script"),
    ):
        done = subprocess.run(
            ["bash", "-c", ask, "-", str(tmp_path / "script"), "gptoss-tui", *words],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        assert done.stdout.strip() == wanted, words


def test_a_job_may_be_left_out_where_one_fits():
    jobs = [job("a", JobState.RUNNING), job("b", JobState.QUEUED), job("c", JobState.QUEUED)]
    fits = [lambda j: j.state == JobState.RUNNING, lambda j: j.state == JobState.QUEUED]
    assert commands.choose(jobs, None, fits, "fits").id == "a"
    assert commands.choose(jobs, "b", fits, "fits").id == "b"
    with pytest.raises(commands.UsageError, match="b, c"):
        commands.choose(jobs[1:], None, fits, "fits")
    with pytest.raises(commands.JobNotFound):
        commands.choose([], None, fits, "fits")


@pytest.mark.parametrize(
    ("state", "counts", "failure", "code"),
    [
        (JobState.DONE, Counts(total=1, succeeded=1), "", 0),
        (JobState.DONE, Counts(total=2, succeeded=1, failed=1), "", 3),
        (JobState.PAUSED, Counts(), "", 4),
        (JobState.ABORTED, Counts(), "", 4),
        (JobState.INTERRUPTED, Counts(), "", 4),
        (JobState.FAILED, Counts(), "LoadFailed", 1),
        (JobState.FAILED, Counts(), "WorkerDied", 1),
        (JobState.FAILED, Counts(), "ResultsDamaged", 1),
        (JobState.FAILED, Counts(), "InternalError", 1),
        (JobState.FAILED, Counts(), "", 1),
        (JobState.FAILED, Counts(), "BatchInvalid", 2),
        (JobState.FAILED, Counts(), "ModelNotFound", 2),
        (JobState.FAILED, Counts(), "SettingsError", 2),
        (JobState.FAILED, Counts(), "FingerprintChanged", 2),
    ],
)
def test_exit_codes(state: JobState, counts: Counts, failure: str, code: int):
    assert progress.exit_code_of(job(state=state, counts=counts, failure=failure)) == code


# --- run, piped -------------------------------------------------------------------------------------------------------


async def test_run_to_the_end_with_answers_and_reasons(workspace: Workspace):
    wanted = {"custom_id": EVIL, "kind": "contains", "expected": ["x"]}
    add = {"name": "add", "arguments": {"a": 1, "b": 2}}
    write_lines(
        workspace.root,
        "demo.expected.jsonl",
        {"custom_id": "a", "kind": "exact", "expected": "42"},
        wanted,
        {"custom_id": "c", "kind": "call", "expected": add},
        {"custom_id": "d", "kind": "call", "expected": add},
    )
    folder = workspace.run_folder("demo-1")
    write_lines(
        folder,
        "output.jsonl",
        answer("a", " 42\n"),
        answer(EVIL, "\x1b[2Jno"),
        answer("c", None, ("add", '{"b": 2, "a": 1}')),
        answer("d", None, ("add", '{"b": 2, "a":')),
    )
    write_lines(folder, "errors.jsonl", {"custom_id": "z", "response": None, "error": {"code": "oom", "message": EVIL}})
    async with scripted(workspace.socket) as runner:
        accept(runner)
        process = await start(workspace, "run", "demo.jsonl", "--show-answers", "--slots", "3", "--temperature", "0.5")
        submit = await runner.saw(protocol.Submit)
        assert isinstance(submit, protocol.Submit)
        assert (submit.settings.slots, submit.settings.defaults) == (3, {"temperature": 0.5})
        assert submit.path == str(workspace.root / "demo.jsonl")
        finish(runner, total=3, failed=1)
        got = await end(process)
    assert got.code == 3
    for part in (
        "embedded demo model",
        "  a: 42  [right]",
        "[WRONG, expected x]",
        '  c: add({"b": 2, "a": 1})  [right]',
        '[WRONG, expected add({"a":1,"b":2})]',
        "2/4 answers are right",
        "2/3 succeeded, 1 failed",
        "z: oom:",
        "retry demo-1",
        "export demo-1",
        "output.jsonl",
    ):
        assert part in got.out, part
    assert not set(got.out) & set("\x1b\x07\x9b\u202e\r")


async def test_following_a_run_loads_no_screen(workspace: Workspace):
    code = (
        "import sys; from tui.cli import main; code = main(['run', 'demo.jsonl']);"
        "heavy = ('numpy', 'jinja2', 'textual', 'rich', 'aiohttp', 'engine.runner');"
        "print(code, [m for m in heavy if m in sys.modules])"
    )
    async with scripted(workspace.socket) as runner:
        accept(runner)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code,
            cwd=workspace.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        await runner.saw(protocol.Submit)
        finish(runner)
        got = await end(process)
    assert got.out.splitlines()[-1] == "0 []"


async def test_json_has_every_acknowledged_id(workspace: Workspace):
    async with scripted(workspace.socket) as runner:
        accept(runner)
        process = await start(workspace, "run", "demo.jsonl", "--json")
        await runner.saw(protocol.Submit)
        items = [AckItem(custom_id=name, request_id="r", ok=True, finish="stop") for name in ("a", EVIL)]
        runner.control.publish(Acknowledged(seq=0, job="demo-1", items=items))
        runner.control.publish(Acknowledged(seq=0, job="other", items=items))
        runner.control.publish(
            Incident(seq=0, incident=IncidentView(t=0, job="demo-1", kind="engine_died", message="oom"))
        )
        finish(runner)
        got = await end(process)
    assert got.code == 0
    events = [json.loads(line) for line in got.out.splitlines()]
    assert [e["custom_id"] for e in events if e["event"] == "acknowledged"] == ["a", EVIL]
    assert events[0] == {"event": "submitted", "job": "demo-1", "path": str(workspace.root / "demo.jsonl")}
    assert events[-1]["event"] == "summary"
    assert (events[-1]["exit_code"], events[-1]["succeeded"]) == (0, 2)
    assert {"state", "progress", "incident"} <= {e["event"] for e in events}
    assert got.out.isascii()


async def test_an_invalid_batch_is_reported_and_exits_2(workspace: Workspace):
    problems = [
        {"line": n, "custom_id": EVIL, "code": "missing_prompt", "message": "no prompt.", "fix": "Add one."}
        for n in range(1, 26)
    ]
    write_lines(workspace.run_folder("demo-1"), "problems.jsonl", *problems)
    async with scripted(workspace.socket) as runner:
        accept(runner)
        process = await start(workspace, "run", "demo.jsonl")
        await runner.saw(protocol.Submit)
        runner.change(job(state=JobState.FAILED, failure="BatchInvalid", sentence="25 lines do not hold"))
        got = await end(process)
    assert got.code == 2
    assert "25 lines do not hold" in got.out
    assert got.out.count("no prompt") == 20
    assert "25 missing_prompt" in got.out
    assert "gptoss-tui validate" in got.out
    assert not set(got.out) & set("\x1b\x07\x9b\u202e")


async def test_a_lost_runner_is_resumable(workspace: Workspace):
    async with scripted(workspace.socket) as runner:
        accept(runner)
        process = await start(workspace, "run", "demo.jsonl")
        await runner.saw(protocol.Submit)
    got = await end(process)
    assert got.code == 4
    assert "resume demo-1" in got.err


async def test_a_runner_that_comes_back_is_found_again(workspace: Workspace):
    async with scripted(workspace.socket) as runner:
        accept(runner)
        process = await start(workspace, "run", "demo.jsonl", "--json")
        await runner.saw(protocol.Submit)
    async with scripted(workspace.socket) as runner:
        runner.jobs["demo-1"] = job(state=JobState.INTERRUPTED)
        got = await end(process)
    assert got.code == 4
    assert json.loads(got.out.splitlines()[-1])["state"] == "interrupted"


async def test_ctrl_c_detaches_and_says_how_to_return(workspace: Workspace):
    async with scripted(workspace.socket) as runner:
        accept(runner)
        process = await start(workspace, "run", "demo.jsonl")
        assert process.stdout is not None
        seen = b""
        while b"demo-1: queued" not in seen:
            seen += await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
        process.send_signal(signal.SIGINT)
        got = await end(process)
        assert got.code == 130
        assert "gptoss-tui attach demo-1" in got.err
        assert not [c for c in runner.got if not isinstance(c, protocol.Submit)]


async def test_a_closed_pipe_is_quiet(workspace: Workspace):
    async with scripted(workspace.socket) as runner:
        accept(runner)
        reader, writer = os.pipe()
        process = await asyncio.create_subprocess_exec(
            *command("run", "demo.jsonl", "--json"), cwd=workspace.root, stdout=writer, stderr=subprocess.PIPE
        )
        os.close(writer)
        await runner.saw(protocol.Submit)
        os.close(reader)
        finish(runner)
        got = Ended(await process.wait(), b"", await process.stderr.read() if process.stderr else b"")
    assert got.code == 141
    assert got.err.count("\n") <= 1  # at most which model answers


async def test_commands_say_what_the_runner_says(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(workspace.root)
    async with scripted(workspace.socket) as runner:
        runner.jobs = {"a-1": job("a-1"), "b-1": job("b-1", JobState.QUEUED)}
        for arguments, wanted in (
            (["pause", "--now"], protocol.Pause(id=1, job="a-1", now=True)),
            (["abort", "a", "--request", "r"], protocol.AbortRequest(id=1, job="a-1", custom_id="r")),
            (["restore", "a-1"], protocol.PutBack(id=1, job="a-1")),
            (["move", "b-1", "-1"], protocol.Move(id=1, job="b-1", by=-1)),
        ):
            assert await asyncio.to_thread(cli.main, arguments) == 0
            assert capsys.readouterr().out == "done\n"
            assert runner.got[-1] == wanted
        assert await asyncio.to_thread(cli.main, ["status", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)["jobs"]
        assert [j["id"] for j in told] == ["a-1", "b-1"]
        assert told[0]["counts"]["failed"] == 0  # zeros are written, inside too


async def test_a_locale_without_unicode_never_raises(workspace: Workspace):
    async with scripted(workspace.socket) as runner:
        runner.jobs = {"ü": job("ü\u4f60")}
        got = await run(workspace, "status", PYTHONIOENCODING="ascii", TERM="dumb", NO_COLOR="1")
    assert got.code == 0
    assert "\\xfc" in got.out


# --- on a terminal ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def terminal(
    workspace: Workspace, columns: int, *arguments: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, bytearray]]:
    """The command on a PTY of this width, and all bytes that it wrote."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    seen = bytearray()
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            seen.extend(os.read(master, 65536))
        except OSError:  # the last writer has gone
            loop.remove_reader(master)

    process = await asyncio.create_subprocess_exec(
        *command(*arguments), cwd=workspace.root, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    loop.add_reader(master, read)
    try:
        yield process, seen
        await asyncio.wait_for(process.wait(), PATIENCE_S)
        read()
    finally:
        loop.remove_reader(master)
        os.close(master)


@pytest.mark.parametrize("columns", [40, 80, 200])
async def test_the_live_line_never_wraps_and_carries_no_foreign_control(workspace: Workspace, columns: int):
    async with scripted(workspace.socket) as runner:
        accept(runner)
        async with terminal(workspace, columns, "run", "demo.jsonl") as (_, seen):
            await runner.saw(protocol.Submit)
            base = runner.jobs["demo-1"]
            for n in range(1, 100):
                counts = Counts(total=100, succeeded=n, waiting=100 - n)
                eta = Eta(s=300.0 - n, low_s=200.0, high_s=400.0)
                runner.change(
                    replace(base, state=JobState.RUNNING, counts=counts, eta=eta, decode_rate=1234.5, sentence=EVIL)
                )
                await asyncio.sleep(0.01)
                if seen.count(b"/100") > 2:
                    break
            runner.control.publish(
                Incident(seq=0, incident=IncidentView(t=0, job="demo-1", kind="engine_died", message=EVIL))
            )
            finish(runner)
    text = seen.decode()
    assert "/100" in text
    assert "2/2 succeeded" in text
    for line in re.split(r"\r\n|\r", text):
        # Lines of the summary may wrap like all text; rewritten ones must not, or they would pile up.
        if "\x1b[K" in line:
            assert cells(line.partition("\x1b[K")[0]) < columns
    assert set(re.findall(r"\x1b\[?.", text)) <= {"\x1b[K"}
    assert not set(text) & set("\x07\x9b\u202e")


@pytest.fixture
def sighup_ends() -> Iterator[None]:
    """Children inherit it: under nohup, tests would start clients that ignore a hang-up."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("sighup_ends")
async def test_hanging_up_ends_the_client_and_nothing_else(workspace: Workspace):
    async with scripted(workspace.socket) as runner:
        accept(runner)
        async with terminal(workspace, 80, "run", "demo.jsonl") as (process, _):
            await runner.saw(protocol.Submit)
            process.send_signal(signal.SIGHUP)
            await asyncio.wait_for(process.wait(), PATIENCE_S)
        assert process.returncode == -signal.SIGHUP
        assert [type(c) for c in runner.got] == [protocol.Submit]
        runner.change(job())
        got = await run(workspace, "status")
        assert "running" in got.out
