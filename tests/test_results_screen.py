"""The results screen by its keys: found among many, read, copied, saved, opened, exported; any size, any text."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.job import JobState
from engine.pages import Detail, RequestRow, Said
from engine.protocol import Channel, Delta, RunningRequest, Text, ToolCall
from tests.results_kit import HOSTILE, ResultsApp, Run
from tests.tui_kit import NOW, job_view, make_desk, screen_text
from tui.desk import Desk
from tui.remote import Terminal
from tui.screens import results as results_module
from tui.screens.ask import AskScreen
from tui.view import Which

SIZES = [(80, 24), (120, 36), (200, 50)]


class Suspends(ResultsApp):
    """Gives its terminal away, as far as a test has one."""

    @contextlib.contextmanager
    def suspend(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def opened(
    run: Run,
    root: Path,
    *,
    size: tuple[int, int] = (80, 24),
    desk: Desk | None = None,
    custom_id: str = "",
    kind: type[ResultsApp] = ResultsApp,
) -> AsyncIterator[tuple[ResultsApp, Any]]:
    app = kind(desk or make_desk(running=[]), run, root, custom_id=custom_id)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        await app.settled()
        yield app, pilot


async def press(app: ResultsApp, pilot: Any, *keys: str) -> list[str]:
    """Press them one after the other, each as soon as the screen is at rest; what it shows then."""
    for key in keys:
        await pilot.press(key)
        await app.settled()
    await pilot.pause()
    return screen_text(app)


def later(app: ResultsApp) -> None:
    """Some seconds pass."""
    now = app.results.clock()
    app.results.clock = lambda: now + 5


def detail_rows(app: ResultsApp) -> list[str]:
    """The request's box as a person reads it."""
    pane = app.results.detail
    lines = pane.rows(app.desk, pane.body_columns, pane.size.height)
    return ["".join(span.text for span in line).rstrip() for line in lines]


# --- finding and reading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_a_failed_request_is_found_and_its_line_is_read(tmp_path: Path, size: tuple[int, int]) -> None:
    async with opened(Run(10_000, failed=(7, 4102)), tmp_path, size=size) as (app, pilot):
        shown = await press(app, pilot, "exclamation_mark", "down")
        assert "failed 2 of 10 000" in shown[0]
        assert app.results.list.selected == "req-004102"
        rows = detail_rows(app)
        assert rows[1] == "failed: context_exceeded  line 4 102 of evals.jsonl"
        assert '  "message": "the prompt has 9412 tokens, a slot holds 2048"' in rows
        assert "─ input line 4 102 of /data/evals.jsonl" in rows
        assert any('{"custom_id": "req-004102"' in row for row in shown)
        await press(app, pilot, "exclamation_mark")
        assert app.results.list.selected == "req-004102"  # now among all of them
        assert app.results.list.cursor.at == 4101


async def test_enter_goes_to_the_request_and_esc_back_step_by_step(tmp_path: Path) -> None:
    async with opened(Run(), tmp_path) as (app, pilot):
        await press(app, pilot, "exclamation_mark", "enter")
        assert app.focused is app.results.detail
        await press(app, pilot, "escape")
        assert app.focused is app.results.list
        await press(app, pilot, "escape")
        assert app.results.list.which is Which.ALL
        await press(app, pilot, "tab")
        assert app.focused is app.results.detail
        await press(app, pilot, "tab", "escape")
        assert app.screen is not app.results


async def test_it_opens_at_the_request_it_was_asked_for(tmp_path: Path) -> None:
    run = Run(1_000_000)
    async with opened(run, tmp_path, custom_id="req-765432") as (app, _):
        assert app.results.list.selected == "req-765432"
        assert app.results.list.cursor.at == 765431
        assert app.focused is app.results.detail
        assert detail_rows(app)[0].startswith("─ req-765432 ")
        assert run.details == ["req-765432"]


async def test_one_key_leads_back_from_where_one_led_in(tmp_path: Path) -> None:
    async with opened(Run(), tmp_path, custom_id="req-000003") as (app, pilot):
        await press(app, pilot, "escape")
        assert app.screen is not app.results


async def test_a_request_chosen_among_failed_ones_stays_among_them(tmp_path: Path) -> None:
    desk = make_desk(running=[])
    desk.view.which = Which.FAILED
    async with opened(Run(), tmp_path, desk=desk) as (app, _):
        assert app.results.list.which is Which.ALL, "v shows all"
        failed = next(row.custom_id for row in app.results.list.window._spans[0].rows if row.state == "failed")
    async with opened(Run(), tmp_path, desk=desk, custom_id=failed) as (app, pilot):
        assert app.results.list.which is Which.FAILED
        assert app.results.list.selected == failed
        await press(app, pilot, "escape")
        assert app.screen is not app.results, "the filter was there before"


async def test_once_in_the_list_esc_goes_step_by_step_again(tmp_path: Path) -> None:
    async with opened(Run(), tmp_path, custom_id="req-000003") as (app, pilot):
        await press(app, pilot, "tab", "enter", "escape")
        assert app.focused is app.results.list
        await press(app, pilot, "escape")
        assert app.screen is not app.results


async def test_parts_go_round_and_the_request_scrolls(tmp_path: Path) -> None:
    async with opened(Run(), tmp_path) as (app, pilot):
        seen = []
        for _ in range(6):
            seen.append(detail_rows(app)[0].split("──── ")[-1].split("  ")[0].strip("─ "))
            await press(app, pilot, "c")
        assert seen == ["all parts", "answer", "reasoning", "prompt", "input line", "result line"]
        await press(app, pilot, "c", "c", "c", "enter", "end")
        assert "point 29" in detail_rows(app)
        await press(app, pilot, "home")
        assert "point 29" not in detail_rows(app)


async def test_long_lines_are_wrapped_or_cut(tmp_path: Path) -> None:
    async with opened(Run(), tmp_path) as (app, pilot):
        await press(app, pilot, "c", "right")
        assert "w cuts them" in app.said[-1]
        wrapped = len(detail_rows(app))
        await press(app, pilot, "w", "right")
        rows = detail_rows(app)
        assert app.results.detail.left == 16
        assert len(rows) < wrapped
        assert rows[0].split("  ")[0].endswith("answer, cut")


async def test_searching_lists_what_holds_the_text_and_goes_on_through_it(tmp_path: Path) -> None:
    async with opened(Run(60), tmp_path) as (app, pilot):
        await press(app, pilot, "down", "slash")
        assert isinstance(app.screen, AskScreen)
        await pilot.press(*"Explain slot 4", "enter")
        await pilot.pause()
        await app.settled()
        await pilot.pause()
        assert app.results.list.total == 11  # 4, 40 to 49
        assert "11 of" in screen_text(app)[0]
        assert app.results.list.selected == "req-000004"
        assert "Explain slot 4." in detail_rows(app)
        await press(app, pilot, "n")
        assert app.results.list.selected == "req-000040"
        await press(app, pilot, "N")
        assert app.results.list.selected == "req-000004"
        await press(app, pilot, "N")
        assert app.said[-1] == "no further match"
        await press(app, pilot, "n", "n", "escape")
        assert app.results.list.sought == ""
        assert app.results.list.selected == "req-000041"  # esc shows what stands around it
        assert app.results.list.total == 60


async def test_a_long_search_says_how_far_it_is_and_esc_ends_it(tmp_path: Path) -> None:
    run = Run(60)
    async with opened(run, tmp_path) as (app, pilot):
        run.fraction = 0.42
        app.results.list.look_at(Which.ALL, "nowhere to be found")
        await app.settled()
        await pilot.pause()
        shown = screen_text(app)
        assert "searching… 42%" in shown[0]
        assert "searching… 42%, esc stops" in shown[1]
        run.fraction = 1.0
        shown = await press(app, pilot, "escape")
        assert "60" in shown[0]
        assert app.results.list.total == 60


async def test_next_without_a_search_says_so(tmp_path: Path) -> None:
    async with opened(Run(), tmp_path) as (app, pilot):
        shown = await press(app, pilot, "n")
        assert "nothing is searched for: / searches" in shown[-1]


async def test_keys_of_the_main_screen_say_where_they_act(tmp_path: Path) -> None:
    async with opened(Run(), tmp_path) as (app, pilot):
        await press(app, pilot, "P", "question_mark", "b", "ctrl+c")
        assert app.said[0].startswith("pause now is a key of the main screen")
        assert app.done == ["help", "low_bandwidth", "leave"]
        await press(app, pilot, "q")
        assert app.screen is not app.results


async def test_a_fault_of_the_reader_is_shown_in_place_of_rows(tmp_path: Path) -> None:
    run = Run()
    run.fault = "results/evals-1: run.json is missing\x1b[31m"
    async with opened(run, tmp_path) as (app, pilot):
        await pilot.pause()
        assert "run.json is missing␛[31m" in screen_text(app)[1]
        await press(app, pilot, "y", "e", "o")
        assert app.said == ["no request is chosen"] * 3


# --- what runs --------------------------------------------------------------------------------------------------------


def in_slot(n: int, **fields: Any) -> RunningRequest:
    facts: dict[str, Any] = {"key": n, "custom_id": f"req-{n:06d}", "line": n, "job": "evals-1", "started": NOW - 11}
    return RunningRequest(
        **(facts | {"prompt_tokens": 1204, "generated": 312, "max_tokens": 800, "rate": 34.0} | fields)
    )


async def test_a_running_request_shows_its_text_so_far(tmp_path: Path) -> None:
    running = [in_slot(2)]
    desk = make_desk(running=running)
    desk.view.request, desk.view.chosen = "req-000009", False
    run = Run()
    run.detail_of = lambda row: Detail(row=row, prompt=[Said(role="user", text="Why?")])
    async with opened(run, tmp_path, desk=desk) as (app, pilot):
        assert "RUN" in screen_text(app)[2]
        await press(app, pilot, "down")
        assert (desk.view.request, desk.view.chosen) == ("req-000002", True)  # so that its text is sent
        for offset, text in ((0, "Because "), (8, "of \x1b[31mthis")):
            desk.transcripts.take(
                Text(seq=1, job="evals-1", items=[Delta(key=2, text=text, channel=Channel.ANSWER, offset=offset)]),
                running,
            )
        app.results.redraw()
        rows = detail_rows(app)
        assert rows[1].startswith("running  answer 312/800 tok")
        assert rows[-2:] == ["─ answer so far", "Because of ␛[31mthis"]
        await press(app, pilot, "t")
        assert app.results.list.which is Which.RUNNING
        assert app.results.list.total == 1
        await press(app, pilot, "escape", "escape")
        assert (desk.view.request, desk.view.chosen) == ("req-000009", False)


async def test_what_ends_meanwhile_is_read_again(tmp_path: Path) -> None:
    desk = make_desk(running=[in_slot(1)])
    run = Run()
    async with opened(run, tmp_path, desk=desk) as (app, _):
        assert run.details == ["req-000001"]
        desk.mirror.running = []
        desk.mirror.saved["evals-1"] = 1
        later(app)
        await app.settled()
        assert run.details == ["req-000001", "req-000001"]
        assert detail_rows(app)[1].startswith("done ")


# --- a million --------------------------------------------------------------------------------------------------------


async def test_moving_through_a_million_rows_asks_for_little(tmp_path: Path) -> None:
    run = Run(1_000_000)
    async with opened(run, tmp_path) as (app, pilot):
        run.asked.clear()
        run.details.clear()
        run.gate = asyncio.Event()
        await pilot.press("end", *["pageup"] * 40, *["up"] * 20, "home", *["pagedown"] * 60)
        assert len(run.asked) <= 1  # the first is still on its way
        run.gate.set()
        await app.settled()
        assert len(run.asked) <= 4
        assert len(run.details) <= 2
        assert all(ask["count"] <= 300 for ask in run.asked)
        assert app.results.list.cursor.at == 300  # 60 pages of 5 rows and one that stays
        assert app.results.list.selected == "req-000301"
        assert run.details[-1] == "req-000301"


async def test_the_cursor_stays_on_its_request_while_others_fail(tmp_path: Path) -> None:
    run = Run(1000, failed=(100, 200, 300))
    async with opened(run, tmp_path) as (app, pilot):
        await press(app, pilot, "exclamation_mark", "down")
        assert app.results.list.selected == "req-000200"
        run.failed = (5, 6, 100, 200, 300)
        app.desk.mirror.saved["evals-1"] = 2
        later(app)
        await app.settled()
        assert app.results.list.total == 5
        assert app.results.list.selected == "req-000200"
        assert app.results.list.cursor.at == 3


# --- texts ------------------------------------------------------------------------------------------------------------


async def test_copying_sends_the_true_answer_to_the_terminal(tmp_path: Path) -> None:
    run = Run()
    run.detail_of = lambda row: msgspec.structs.replace(run.made_up(row), answer="true \x1b[31m text")
    async with opened(run, tmp_path) as (app, pilot):
        app.written = []
        shown = await press(app, pilot, "y")
        payload = base64.b64encode(b"true \x1b[31m text").decode()
        assert app.written == [f"\x1b]52;c;{payload}\x07"]
        assert shown[-1].strip().startswith("answer: sent to your terminal's clipboard (15 B, holds control")


async def test_what_is_copied_is_the_part_that_is_shown(tmp_path: Path) -> None:
    async with opened(Run(), tmp_path, desk=make_desk(terminal=Terminal(multiplexer="tmux"))) as (app, pilot):
        app.written = []
        await press(app, pilot, "exclamation_mark", "y", "c", "c", "c", "c", "y", "c", "c", "c", "y")
        assert [said.split(":")[0] for said in app.said] == ["error", "input line", "req-000007 has no answer"]
        assert len(app.written) == 2
        assert all(text.startswith("\x1bPtmux;") for text in app.written)


async def test_saving_writes_beside_the_results(tmp_path: Path) -> None:
    (tmp_path / "results" / "evals-1").mkdir(parents=True)
    run = Run()
    async with opened(run, tmp_path) as (app, pilot):
        await press(app, pilot, "Y", "Y")
    saved = tmp_path / "results" / "evals-1" / "saved"
    assert sorted(path.name for path in saved.iterdir()) == ["req-000001-2.txt", "req-000001.txt"]
    assert (saved / "req-000001.txt").read_text() == run.made_up(run.row(1)).answer
    assert app.said[0].startswith("answer: saved to results/evals-1/saved/req-000001.txt (")


def editor(folder: Path, name: str = "vi") -> Path:
    path = folder / name
    path.write_text(f'#!/bin/sh\nfor last; do :; done\necho "$@" > {folder}/called\ncat "$last" > {folder}/seen\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("active", [False, True])
async def test_the_editor_opens_the_input_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, active: bool
) -> None:
    monkeypatch.setenv("VISUAL", str(editor(tmp_path)))
    (tmp_path / "evals.jsonl").write_text("one\n" * 40)
    state = JobState.RUNNING if active else JobState.DONE
    desk = make_desk(running=[], jobs=[job_view("evals-1", state)])
    async with opened(Run(folder=str(tmp_path)), tmp_path, desk=desk, kind=Suspends) as (app, pilot):
        await press(app, pilot, "exclamation_mark", "down", "e")
    called = (tmp_path / "called").read_text()
    if active:
        assert '"custom_id": "req-000031"' in (tmp_path / "seen").read_text()
        assert app.said[-1].startswith("that was a read-only copy of the line: its job is running")
    else:
        assert called == f"+31 {tmp_path}/evals.jsonl\n"
        assert app.said[-1] == "back from vi; the run was not touched"


async def test_the_pager_shows_the_answer_made_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGER", str(editor(tmp_path, "pages")))
    run = Run()
    run.detail_of = lambda row: msgspec.structs.replace(run.made_up(row), answer="a\x1b]0;title\x07b")
    async with opened(run, tmp_path, kind=Suspends) as (app, pilot):
        await press(app, pilot, "o")
    assert (tmp_path / "seen").read_text() == "a␛]0;title␇b\n"
    assert app.said[-1] == "back from pages; the run was not touched"


async def test_the_export_is_written_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Sequence[str]]] = []
    go = asyncio.Event()

    async def offline(name: str, args: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
        asked.append((name, args))
        await go.wait()
        folder = tmp_path / "results" / "evals-1"
        yield {
            "kind": "summary",
            "output": str(folder / "export.jsonl"),
            "errors": str(folder / "export_errors.jsonl"),
            "completed": 48,
            "failed": 2,
            "cancelled": 0,
        }

    monkeypatch.setattr(results_module.clients, "offline", offline)
    async with opened(Run(), tmp_path) as (app, pilot):
        await pilot.press("E", "E", "down")
        await pilot.pause()
        assert app.said[-1] == "the export is being written already"
        assert app.results.list.cursor.at == 1  # keys go on
        go.set()
        await app.settled()
    assert asked == [("export", [str(tmp_path / "results" / "evals-1")])]
    assert app.said[-1] == (
        "exported 48 answers to results/evals-1/export.jsonl; 2 failed, 0 not run: results/evals-1/export_errors.jsonl"
    )


# --- any size, any text -----------------------------------------------------------------------------------------------


async def test_a_resize_keeps_the_place(tmp_path: Path) -> None:
    run = Run(1000)
    run.detail_of = lambda row: msgspec.structs.replace(
        run.made_up(row), answer=" ".join(f"word{i}" for i in range(4000))
    )
    async with opened(run, tmp_path) as (app, pilot):
        await press(app, pilot, *["pagedown"] * 30, "c", "enter", *["pagedown"] * 10)
        selected = app.results.list.selected
        word = detail_rows(app)[1].split()[0]
        for width, height in ((200, 50), (61, 20), (120, 36)):
            await pilot.resize_terminal(width, height)
            await app.settled()
            await pilot.pause()
            assert app.results.list.selected == selected
            assert word in detail_rows(app)[1].split()
            assert any(selected in row[: width // 2] for row in screen_text(app))


@pytest.mark.parametrize("size", [(20, 1), (20, 2), (30, 5), (60, 16), (109, 30), (110, 30), (200, 50)])
async def test_it_draws_at_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    async with opened(Run(), tmp_path, size=size) as (app, pilot):
        shown = await press(app, pilot, "down", "tab", "pagedown", "c", "exclamation_mark")
        assert len(shown) == size[1]
        assert all(len(row) <= size[0] for row in shown)


@pytest.mark.parametrize("size", SIZES)
async def test_no_field_reaches_the_terminal_as_it_is(tmp_path: Path, size: tuple[int, int]) -> None:
    run = Run(3, failed=())
    bad = RequestRow(custom_id=HOSTILE, line=1, state="failed", finish=HOSTILE, code=HOSTILE, message=HOSTILE)
    run.row = lambda n: bad if n == 1 else Run.row(run, n)
    detail = Detail(
        row=bad,
        prompt=[Said(role=HOSTILE, text=HOSTILE)],
        reasoning=HOSTILE,
        answer=HOSTILE,
        tool_calls=[ToolCall(name=HOSTILE, arguments=HOSTILE)],
        notes=[HOSTILE],
        error=HOSTILE,
        input_line=HOSTILE,
        input_path=HOSTILE,
        output_line=HOSTILE,
        output_path=HOSTILE,
        settings=HOSTILE,
    )

    async def all_the_same(custom_id: str) -> Detail:
        del custom_id
        return detail

    run.detail = all_the_same
    job = job_view("evals-1", input_path=HOSTILE, sentence=HOSTILE)
    app = ResultsApp(make_desk(running=[], jobs=[job]), run, tmp_path, job=job)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        await app.settled()
        seen = "".join(screen_text(app))
        for _ in range(6):
            seen += "".join(await press(app, pilot, "c", "w", "end", "home"))
        seen += "".join(await press(app, pilot, "Y"))
    assert "[/nope]" in seen
    for char in "\x1b\x07\x9b\u202e\u2066\x00\x7f\ud83d\t\r":
        assert char not in seen
