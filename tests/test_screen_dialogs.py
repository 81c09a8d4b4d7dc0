"""The small dialogs with a keyboard only: confirmation, one line of text, help, commands."""

from __future__ import annotations

import pytest
from textual.containers import VerticalScroll

from tests.screen_kit import NONE_YET, SIZES, DialogApp, harmless, settled
from tests.tui_kit import job_view
from tui import ledger
from tui.keys import KEYS, KeyTable
from tui.screens.ask import AskScreen
from tui.screens.commands import CommandsScreen
from tui.screens.confirm import ConfirmScreen
from tui.screens.help import HelpScreen
from tui.screens.parts import Rows
from tui.text import SafeText

HOSTILE = "evals[/old]\x1b]52;c;aGk=\x07\x9b31m\u202e\n.jsonl [@click=app.quit]"


def nothing(_: str) -> str | None:
    return None


def blocked(action: str) -> str | None:
    return "the job rests [/nope]" if action == "pause" else None


# --- confirm ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        (["enter"], False),
        (["space"], False),
        (["n"], False),
        (["escape"], False),
        (["q"], False),
        (["y"], True),
        (["right", "enter"], True),
        (["tab", "space"], True),
        (["tab", "shift+tab", "enter"], False),
    ],
)
async def test_confirming(keys: list[str], answer: bool) -> None:
    app = DialogApp(ConfirmScreen(*ledger.abort_jobs([job_view()])))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press(*keys)
        await pilot.pause()
        assert app.answer is answer


@pytest.mark.parametrize("size", SIZES)
async def test_a_long_ledger_keeps_its_answers_in_view(size: tuple[int, int]) -> None:
    jobs = [job_view(f"{HOSTILE}{i}") for i in range(40)]
    app = DialogApp(ConfirmScreen(*ledger.abort_jobs(jobs)))
    async with app.run_test(size=size) as pilot:
        text = await settled(pilot)
        assert harmless(text)
        assert "Abort 40 jobs?" in text
        assert "n  Let it run" in text
        assert "y  Abort" in text
        await pilot.press("pagedown", "pagedown", "pagedown", "pagedown", "pagedown")
        assert "r resumes" in await settled(pilot)


async def test_without_a_yes_it_only_tells() -> None:
    app = DialogApp(ConfirmScreen("Nothing to abort", [SafeText("it is done")], yes="", no="Close"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("y")
        await pilot.pause()
        assert app.answer == NONE_YET
        await pilot.press("enter")
        await pilot.pause()
        assert app.answer is False


async def test_ascii_terminals_get_ascii_frames() -> None:
    for screen in (
        ConfirmScreen(*ledger.abort_jobs([job_view()])),
        AskScreen("Find"),
        HelpScreen(KeyTable(), "main", blocked, "jobs"),
        CommandsScreen(KeyTable(), blocked),
    ):
        app = DialogApp(screen, ascii_only=True)
        async with app.run_test(size=(80, 24)) as pilot:
            assert (await settled(pilot)).isascii(), type(screen).__name__


# --- ask --------------------------------------------------------------------------------------------------------------


async def test_asking_for_text() -> None:
    app = DialogApp(AskScreen("Find in requests", "before"))
    async with app.run_test(size=(80, 24)) as pilot:
        assert "before" in await settled(pilot)
        await pilot.press(*"quiet", "enter")
        await pilot.pause()
        assert app.answer == "quiet"


async def test_asking_again_takes_what_was_there() -> None:
    app = DialogApp(AskScreen("Find in requests", "before"))
    async with app.run_test(size=(60, 16)) as pilot:
        await settled(pilot)
        await pilot.press("enter")
        await pilot.pause()
        assert app.answer == "before"


async def test_asking_is_left_with_esc_and_draws_nothing_hostile() -> None:
    app = DialogApp(AskScreen(HOSTILE, HOSTILE))
    async with app.run_test(size=(200, 50)) as pilot:
        assert harmless(await settled(pilot))
        await pilot.press("escape")
        await pilot.pause()
        assert app.answer is None


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_all_help_can_be_reached(size: tuple[int, int]) -> None:
    app = DialogApp(HelpScreen(KeyTable(), "main", blocked, "jobs"))
    async with app.run_test(size=size) as pilot:
        seen = await settled(pilot)
        assert "not now: the job rests [/nope]" in seen
        box = app.screen.query_one(VerticalScroll)
        for _ in range(40):
            if box.scroll_offset.y >= box.max_scroll_y:
                break
            await pilot.press("question_mark")
            seen += await settled(pilot)
        words = " ".join(seen.replace("│", " ").split())
        for key in KEYS:
            if "main" in key.where.split():
                assert key.help.split()[0] in words
        assert "Moving" in words
        assert "last row; in streams" in words
        await pilot.press("question_mark")
        await settled(pilot)
        assert box.scroll_offset.y == 0  # and round again
        await pilot.press("q")
        await pilot.pause()
        assert app.answer is None


async def test_help_is_searched_by_typing() -> None:
    app = DialogApp(HelpScreen(KeyTable(), "main", nothing, ""))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("slash", *"queue")
        text = await settled(pilot)
        assert "add a batch" in text
        assert "next layout" in text  # "queue" is one of them
        assert "clipboard" not in text
        await pilot.press("q")
        assert "does anything like 'queueq'" in await settled(pilot)
        await pilot.press("backspace", "enter", "j", "q")
        await pilot.pause()
        assert app.answer is None


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_commands_by_name(size: tuple[int, int]) -> None:
    app = DialogApp(CommandsScreen(KeyTable(), nothing))
    async with app.run_test(size=size) as pilot:
        assert "add a batch" in await settled(pilot)
        await pilot.press(*"pau")
        await settled(pilot)
        await pilot.press("down", "enter")
        await pilot.pause()
        assert app.answer == ("pause_now", "")


async def test_the_row_under_the_cursor_shows_without_colour() -> None:
    app = DialogApp(CommandsScreen(KeyTable(), nothing))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("down")
        await settled(pilot)
        rows = app.screen.query_one(Rows)
        reversed_rows = [y for y in range(5) if all(s.style and s.style.reverse for s in rows.render_line(y))]
        assert reversed_rows == [1]


async def test_commands_with_an_argument() -> None:
    app = DialogApp(CommandsScreen(KeyTable(), nothing))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press(*"lin", "tab", "enter")  # tab completes, enter asks for the rest
        assert "line needs N" in await settled(pilot)
        await pilot.press(*"zz", "enter")
        assert "'zz' is no line number" in await settled(pilot)
        await pilot.press("backspace", "backspace", *"41", "enter")
        await pilot.pause()
        assert app.answer == ("line", "41")


async def test_a_command_that_cannot_act_stays_and_says_why() -> None:
    app = DialogApp(CommandsScreen(KeyTable(), blocked))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press(*"pause", "enter")
        assert "pause: not now, the job rests [/nope]" in await settled(pilot)
        assert app.answer == NONE_YET
        await pilot.press("escape")
        await pilot.pause()
        assert app.answer is None


async def test_an_unknown_command_gets_a_sentence() -> None:
    app = DialogApp(CommandsScreen(KeyTable(), nothing))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press(*"xyzzy", "enter")
        assert "there is no command 'xyzzy'" in await settled(pilot)
