"""Adding a batch with a keyboard only: files, what is wrong with them, settings, and what is submitted."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import offline
from engine.client import error_of
from engine.errors import BatchInvalid
from engine.job import JobState
from engine.protocol import ErrorView, RunSettings
from engine.workspace import Workspace
from tests.screen_kit import NONE_YET, SIZES, DialogApp, harmless, settled
from tests.tui_kit import NOW, job_view
from tui.screens.add import AddChoice, AddScreen

WIDE = (120, 36)


def line(custom_id: str, **body: Any) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body})


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    for name in [name for name in os.environ if name.startswith("GPTOSS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "batches").mkdir()
    return Workspace.at(tmp_path)


def put(workspace: Workspace, name: str, *lines: str, age: float = 60.0) -> Path:
    path = workspace.batches / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{text}\n" for text in lines) if lines else "", "utf-8")
    os.utime(path, (NOW - age, NOW - age))
    return path


class Child:
    """Answers as the child process would: with these objects, or by never coming to an end."""

    def __init__(self, *items: dict[str, Any], hang: bool = False, error: Exception | None = None) -> None:
        self.items = items
        self.hang = hang
        self.error = error
        self.asked: list[tuple[str, list[str]]] = []
        self.ended = 0
        self.go_on = asyncio.Event()

    async def __call__(self, name: str, arguments: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
        self.asked.append((name, list(arguments)))
        if name == "models":
            yield {"kind": "model", "name": "nano", "path": "/x/nano.gguf", "size_bytes": 1, "quantization": "q",
                   "embedded": True, "why_not": ""}  # fmt: skip
            yield {"kind": "model", "name": "big[/b]", "path": "/m/big.gguf", "size_bytes": 2**34, "quantization": "Q4",
                   "embedded": False, "why_not": ""}  # fmt: skip
            return
        try:
            for item in self.items:
                yield item
            if self.hang:
                await self.go_on.wait()
            if self.error is not None:
                raise self.error
            yield summary()
        finally:
            self.ended += 1


def summary(**fields: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "kind": "summary", "requests": 10, "good": 10, "errors": 0, "warnings": 0, "by_code": {},
        "endpoint": "/v1/chat/completions", "bytes": 5000, "notice": "",
    }  # fmt: skip
    return facts | fields


async def waits(pilot: Any) -> None:
    """Until the screen has drawn; its workers may still be busy."""
    for _ in range(5):
        await pilot.pause()


def add(workspace: Workspace, *more: Any, ask: Any = None, **fields: Any) -> AddScreen:
    """The screen with the real checks, without a process for each."""
    return AddScreen(workspace, *more, ask=ask or InProcess(), **fields)


class InProcess:
    """`engine.offline` in this process: what it would print, as objects."""

    async def __call__(self, name: str, arguments: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(offline, "emit", lambda kind, fields: items.append({"kind": kind, **fields}))
            offline.main([name, *arguments])
        for item in items:
            if item["kind"] == "error":
                raise error_of(msgspec.convert(item, ErrorView))
            yield item


# --- the usual case ---------------------------------------------------------------------------------------------------


async def test_the_newest_file_is_queued_with_two_keys(workspace: Workspace) -> None:
    put(workspace, "older.jsonl", line("a"), age=500)
    newest = put(workspace, "newest.jsonl", line("a"), line("b"), age=5)
    put(workspace, "newest.expected.jsonl", line("a"), age=1)
    app = DialogApp(AddScreen(workspace, cwd=workspace.root))
    async with app.run_test(size=(80, 24)) as pilot:
        text = await settled(pilot)
        assert text.index("newest.jsonl") < text.index("older.jsonl") < text.index("newest.expected.jsonl")
        assert "2 lines" in text
        await pilot.press("enter")
        text = await settled(pilot)
        assert "2 requests" in text
        assert "every line is good" in text
        assert "built in" in text
        await pilot.press("enter")
        await pilot.pause()
        assert app.answer == AddChoice(str(newest), RunSettings())


async def test_enter_before_the_check_is_through_queues_when_it_is(workspace: Workspace) -> None:
    path = put(workspace, "a.jsonl", line("a"))
    child = Child({"kind": "progress", "fraction": 0.25}, hang=True)
    app = DialogApp(add(workspace, cwd=workspace.root, ask=child))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        await waits(pilot)
        await pilot.press("enter")
        await waits(pilot)
        assert app.answer == NONE_YET
        child.go_on.set()
        await settled(pilot)
        assert app.answer == AddChoice(str(path), RunSettings())


async def test_enter_twice_queues_unchecked(workspace: Workspace) -> None:
    path = put(workspace, "a.jsonl", line("a"))
    child = Child(hang=True)
    app = DialogApp(add(workspace, cwd=workspace.root, ask=child))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        await waits(pilot)
        await pilot.press("enter", "enter")
        await waits(pilot)
        assert app.answer == AddChoice(str(path), RunSettings())
        await app.workers.wait_for_complete()
        assert child.ended == 1


# --- the check --------------------------------------------------------------------------------------------------------


async def test_a_huge_check_is_stopped_and_its_child_ended(workspace: Workspace) -> None:
    path = put(workspace, "huge.jsonl", line("a"))
    child = Child(*({"kind": "progress", "fraction": i / 100} for i in range(43)), hang=True)
    app = DialogApp(add(workspace, cwd=workspace.root, ask=child))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        await waits(pilot)
        await pilot.press("s")
        assert "not checked" in await settled(pilot)
        assert child.ended == 1
        await pilot.press("enter")
        await pilot.pause()
        assert app.answer == AddChoice(str(path), RunSettings())


@pytest.mark.parametrize("key", ["escape", "q"])
async def test_leaving_in_the_middle_of_a_check_ends_its_child(workspace: Workspace, key: str) -> None:
    put(workspace, "huge.jsonl", line("a"))
    child = Child(hang=True)
    app = DialogApp(add(workspace, cwd=workspace.root, ask=child))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        await waits(pilot)
        await pilot.press(key)
        await waits(pilot)
        assert app.answer is None
        assert child.ended == 1


async def test_bad_lines_are_shown_and_only_the_good_ones_can_run(workspace: Workspace) -> None:
    path = put(workspace, "bad.jsonl", line("a"), "{broken", line("b", temperature=9))
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        text = await settled(pilot)
        assert "2 bad lines, 1 can run" in text
        assert "line 2 error" in text
        await pilot.press("enter")
        text = await settled(pilot)
        assert app.answer == NONE_YET
        assert "press g to run the 1 good line only" in text
        await pilot.press("g")
        assert "Queue the good lines" in await settled(pilot)
        await pilot.press("enter")
        await pilot.pause()
        assert app.answer == AddChoice(str(path), RunSettings(skip_invalid=True))


async def test_problems_scroll(workspace: Workspace) -> None:
    put(workspace, "bad.jsonl", *(f"broken {i}" for i in range(50)), line("a"))
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        assert "line 50 " not in await settled(pilot)
        for _ in range(60):
            await pilot.press("pagedown")
        assert "line 50 " in await settled(pilot)


async def test_a_file_without_a_good_line_cannot_be_queued(workspace: Workspace) -> None:
    put(workspace, "bad.jsonl", "{broken")
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        await settled(pilot)
        await pilot.press("g", "enter")
        assert "no line of this file can be run" in await settled(pilot)
        assert app.answer == NONE_YET


async def test_a_file_that_is_no_batch_says_so_and_another_is_chosen(workspace: Workspace) -> None:
    put(workspace, "empty.jsonl", age=1)
    good = put(workspace, "good.jsonl", line("a"))
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        assert "it is empty" in await settled(pilot)
        await pilot.press("enter")
        await waits(pilot)
        assert app.answer == NONE_YET
        await pilot.press("o", "down", "enter")
        assert "every line is good" in await settled(pilot)
        await pilot.press("enter")
        await pilot.pause()
        assert app.answer == AddChoice(str(good), RunSettings())


async def test_a_check_that_fails_says_why(workspace: Workspace) -> None:
    put(workspace, "a.jsonl", line("a"))
    child = Child(error=BatchInvalid("the disk has gone\x1b[2J", advice="Plug it in."))
    app = DialogApp(add(workspace, cwd=workspace.root, ask=child))
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        text = await settled(pilot)
        assert "the disk has gone" in text
        assert "Plug it in" in text
        assert harmless(text)


# --- files ------------------------------------------------------------------------------------------------------------


async def test_an_empty_batches_folder_and_none(workspace: Workspace) -> None:
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=(80, 24)) as pilot:
        assert "is empty: type the path" in await settled(pilot)
        await pilot.press("enter")
        await settled(pilot)
        assert app.answer == NONE_YET
    workspace.batches.rmdir()
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=(80, 24)) as pilot:
        assert "there is no folder" in await settled(pilot)
        await pilot.press("escape")
        await pilot.pause()
        assert app.answer is None


HOSTILE_NAMES = ["evals[b].jsonl", "evals[/old].jsonl", "x\x1b]52;c;aGk=\x07.jsonl", "two\nlines.jsonl",
                 "\u202eg.jsonl", "\x9b2J.jsonl", "a b\t.jsonl", "日本語.jsonl", "[@click=app.quit].jsonl"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
async def test_hostile_names_are_drawn_safely_and_submitted_truly(workspace: Workspace, name: str) -> None:
    path = put(workspace, name, line("a"))
    app = DialogApp(add(workspace, [job_view("old-1", JobState.DONE, input_path=str(path))], cwd=workspace.root))
    async with app.run_test(size=WIDE) as pilot:
        text = await settled(pilot)
        assert harmless(text)
        await pilot.press("tab")  # the name goes into the field, as people may see it
        assert harmless(await settled(pilot))
        for _ in range(2):  # a folder first, where the name has a slash
            if "every line is good" not in text:
                await pilot.press("enter")
                text = await settled(pilot)
                assert harmless(text)
        assert "every line is good" in text
        await pilot.press("enter")
        await pilot.pause()
        assert app.answer == AddChoice(str(path), RunSettings())


async def test_a_name_that_is_no_text_is_refused_with_a_sentence(workspace: Workspace) -> None:
    raw = os.fsencode(workspace.batches) + b"/x\xff.jsonl"
    await asyncio.to_thread(Path(os.fsdecode(raw)).write_text, line("a"))
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        assert "no valid UTF-8" in await settled(pilot)
        assert app.answer == NONE_YET


async def test_files_that_cannot_be_read_say_so(workspace: Workspace) -> None:
    (workspace.batches / "gone.jsonl").symlink_to(workspace.root / "nowhere")
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=(80, 24)) as pilot:
        assert "gone.jsonl  it is not there" in await settled(pilot)
        await pilot.press("enter")
        await settled(pilot)
        assert app.answer == NONE_YET


async def test_typing_narrows_and_tab_completes_through_folders(workspace: Workspace) -> None:
    put(workspace, "other.jsonl", line("a"))
    path = put(workspace, "deep/nested/evals-2.jsonl", line("a"))
    put(workspace, "deep/nested/evals-1.jsonl", line("a"), age=900)
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press(*"de")
        assert "other.jsonl" not in await settled(pilot)
        for _ in range(2):
            await pilot.press("tab")
            await settled(pilot)
        await pilot.press("tab")
        text = await settled(pilot)
        assert "batches/deep/nested/evals-" in text
        await pilot.press("2", "enter")
        await settled(pilot)
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.answer, AddChoice)
        assert app.answer.path == str(path)


async def test_paths_from_home_and_from_where_the_program_was_started(
    workspace: Workspace, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "here").mkdir()
    target = elsewhere / "here" / "it.jsonl"
    target.write_text(line("a") + "\n")
    monkeypatch.setenv("HOME", str(elsewhere))
    for typed in ("here/it.jsonl", "~/here/it.jsonl", str(target)):
        app = DialogApp(add(workspace, cwd=elsewhere))
        async with app.run_test(size=(80, 24)) as pilot:
            await settled(pilot)
            await pilot.press(*typed, "enter")  # enter does not wait for the list
            await settled(pilot)
            await pilot.press("enter")
            await pilot.pause()
            assert isinstance(app.answer, AddChoice), typed
            assert app.answer.path == str(target)


async def test_a_path_to_nothing_says_so(workspace: Workspace) -> None:
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press(*"no/such", "enter")
        assert "there is no file" in await settled(pilot)
        assert app.answer == NONE_YET


# --- settings ---------------------------------------------------------------------------------------------------------


async def test_settings_show_where_they_come_from(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    put(workspace, "a.jsonl", line("a"))
    workspace.settings_file.write_text('[run]\nslots = 24\nmodel = "m\\u001b[2J"\n[run.defaults]\nmax_tokens = 99\n')
    monkeypatch.setenv("GPTOSS_CONTEXT", "2048")
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        text = await settled(pilot)
        assert harmless(text)
        rows = {row.split()[1]: row for row in text.splitlines() if row.count("│") == 2 and len(row.split()) > 3}
        assert "24" in rows["slots"]
        assert "from gptoss.toml" in rows["slots"]
        assert "from GPTOSS_CONTEXT" in rows["context"]
        assert "99" in rows["max_tokens"]
        assert "from gptoss.toml" in rows["max_tokens"]
        assert "built in" in rows["seed"]
        await pilot.press("enter")
        await pilot.pause()
        assert app.answer.settings == RunSettings(model="m\x1b[2J", slots=24, context=2048, defaults={"max_tokens": 99})


async def test_typed_settings_are_for_this_job(workspace: Workspace) -> None:
    put(workspace, "a.jsonl", line("a"))
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        await settled(pilot)
        # From the button upwards: limit, seed, effort, temperature, max_tokens, context, slots, model.
        await pilot.press("up", *"5", "up", *"7", "up", "enter")
        assert "minimal" in await settled(pilot)  # a list of what there is
        await pilot.press("down", "down", "down", "enter")
        await settled(pilot)
        await pilot.press("up", *"0.2", "up", *"64", "up", *"1024", "up", *"2", "up", "enter")
        text = await settled(pilot)
        assert "nano" in text
        await pilot.press("down", "enter")
        text = await settled(pilot)
        assert text.count("this job only") >= 6
        await pilot.press("up", "up", "up", "enter")
        await pilot.pause()
        assert app.answer.settings == RunSettings(
            model="nano", slots=2, context=1024, seed=7, limit=5,
            defaults={"max_tokens": 64, "temperature": 0.2, "reasoning_effort": "low"},
        )  # fmt: skip


async def test_a_wrong_setting_is_refused_where_it_stands(workspace: Workspace) -> None:
    put(workspace, "a.jsonl", line("a"))
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        await settled(pilot)
        await pilot.press(*["up"] * 7, *"999")
        assert "must be a whole number from" in await settled(pilot)
        await pilot.press(*["down"] * 7, "enter")
        assert "slots must be a whole number from 1 to 256" in await settled(pilot)
        assert app.answer == NONE_YET
        assert app.focused is not None
        assert app.focused.id == "set-slots"


async def test_a_limit_checks_only_so_many(workspace: Workspace) -> None:
    put(workspace, "a.jsonl", line("a"), "{broken")
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        assert "1 bad line" in await settled(pilot)
        await pilot.press("up", *"1")
        assert "every line is good" in await settled(pilot)


async def test_a_broken_settings_file_is_said_and_nothing_is_queued(workspace: Workspace) -> None:
    put(workspace, "a.jsonl", line("a"))
    workspace.settings_file.write_text("[run]\nslot = 24\n")
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=WIDE) as pilot:
        assert "which is no setting" in await settled(pilot)
        await pilot.press("enter")
        await settled(pilot)
        await pilot.press("enter")
        assert "which is no setting" in await settled(pilot)
        assert app.answer == NONE_YET


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*SIZES, (40, 8), (20, 3)])
async def test_every_field_and_button_can_be_reached(workspace: Workspace, size: tuple[int, int]) -> None:
    put(workspace, "bad.jsonl", *(f"broken {i}" for i in range(50)), line("a"))
    app = DialogApp(add(workspace, cwd=workspace.root))
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        await settled(pilot)
        seen = set()
        for _ in range(12):
            await pilot.press("up")
            await waits(pilot)
            assert app.focused is not None
            seen.add(app.focused.id or type(app.focused).__name__)
            if size[1] >= 16:
                assert app.screen.region.contains_region(app.focused.region)
                assert app.focused.region.height == 1
        assert len(seen) == 12  # eight settings, the tick, three buttons
        await pilot.press("escape")
        await pilot.pause()
        assert app.answer is None


async def test_ascii_terminals_get_ascii(workspace: Workspace) -> None:
    put(workspace, f"{'long-' * 30}.jsonl", line("a"), "{broken", age=1)
    app = DialogApp(add(workspace, cwd=workspace.root), ascii_only=True)
    async with app.run_test(size=(60, 16)) as pilot:
        assert (await settled(pilot)).isascii()
        await pilot.press("enter")
        text = await settled(pilot)
        assert "1 bad line" in text
        assert text.isascii()
        await pilot.press("up")
        assert (await settled(pilot)).isascii()
