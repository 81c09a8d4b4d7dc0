"""What tests of the results screen share: a run that is made up as it is asked for, and an app around the screen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from textual.app import App, ComposeResult
from textual.widgets import Static

from engine.errors import GptossError
from engine.pages import Detail, Page, RequestRow, Said
from engine.protocol import JobView, ToolCall, Usage
from engine.workspace import Workspace
from tests.tui_kit import job_view
from tui.desk import Desk
from tui.keys import KeyTable
from tui.screens.results import ResultsScreen
from tui.text import SafeText

ESC = "\x1b"
HOSTILE = f"{ESC}]52;c;aGk=\x07 [/nope] [bold]x{ESC}[31m \x9b31m \u202eabc\u2066 \x00\x7f \ud83d a\tb\r\nsecond"


class Run:
    """A run of any number of requests that answers as `tui.browser.Browser` does. Rows are made when asked for."""

    def __init__(self, total: int = 50, *, failed: tuple[int, ...] = (7, 31), folder: str = "/data") -> None:
        self.total = total
        self.failed = failed
        self.folder = folder
        self.asked: list[dict[str, Any]] = []
        self.details: list[str] = []
        self.opened: list[str] = []
        self.fraction = 1.0
        self.detail_of: Callable[[RequestRow], Detail] = self.made_up
        self.fault = ""
        self.gate: asyncio.Event | None = None
        """Answers wait for it."""

    def row(self, n: int) -> RequestRow:
        """Request `n`, from 1."""
        name = f"req-{n:06d}"
        if n in self.failed:
            message = "the prompt has 9412 tokens, a slot holds 2048"
            return RequestRow(
                custom_id=name, line=n, state="failed", finish="context_exceeded",
                code="context_exceeded", message=message,
            )  # fmt: skip
        if n % 10 == 0:
            return RequestRow(
                custom_id=name, line=n, state="truncated", finish="length",
                prompt_tokens=388, completion_tokens=1024, seconds=31.2,
            )  # fmt: skip
        return RequestRow(
            custom_id=name, line=n, state="done", finish="stop",
            prompt_tokens=1200 + n % 7, completion_tokens=312, seconds=9.8,
        )  # fmt: skip

    def made_up(self, row: RequestRow) -> Detail:
        prompt = [
            Said(role="system", text="You are brief."),
            Said(role="user", text=f"Explain slot {row.line}.\n" + "\n".join(f"point {i}" for i in range(30))),
        ]
        common: dict[str, Any] = {
            "row": row,
            "prompt": prompt,
            "input_line": f'{{"custom_id": "{row.custom_id}", "body": {{"messages": [], "max_tokens": 800}}}}',
            "input_path": f"{self.folder}/evals.jsonl",
            "settings": '{\n  "max_tokens": 800\n}',
        }
        if row.state == "failed":
            error = '{\n  "code": "context_exceeded",\n  "message": "' + row.message + '"\n}'
            line = f'{{"custom_id": "{row.custom_id}", "error": {{"code": "context_exceeded"}}}}'
            return Detail(
                **common, error=error, output_line=line, output_path=f"{self.folder}/errors.jsonl", output_line_number=1
            )
        return Detail(
            **common,
            reasoning="First the cells that each slot owns. " * 30,
            answer=f"The answer to {row.line}.\n\n" + "Two limits apply at once: cells and free memory. " * 20,
            tool_calls=[ToolCall(name="look_up", arguments='{"slot": 4}')] if row.line == 3 else [],
            usage=Usage(prompt_tokens=1204, completion_tokens=312, reasoning_tokens=120, cached_tokens=1000),
            queued_s=0.2,
            prefill_s=0.4,
            decode_s=9.4,
            notes=['reasoning_effort "minimal" was read as "low"'],
            output_line=f'{{"custom_id": "{row.custom_id}", "response": {{"status_code": 200}}}}',
            output_path=f"{self.folder}/output.jsonl",
            output_line_number=row.line,
        )

    # --- as the browser -----------------------------------------------------------------------------------------------

    async def open(self, workspace: Workspace, job: str) -> None:
        del workspace
        self.opened.append(job)
        if self.fault:
            raise GptossError(self.fault)

    async def page(
        self,
        *,
        which: str = "all",
        text: str = "",
        offset: int = 0,
        count: int = 50,
        taken_out: Sequence[str] = (),
        around: str = "",
    ) -> Page:
        del taken_out
        self.asked.append({"which": which, "text": text, "offset": offset, "count": count, "around": around})
        if self.gate is not None:
            await self.gate.wait()
        numbers = self._numbers(which, text)
        if around:
            n = int(around.rpartition("-")[2])
            place = numbers.index(n) if n in numbers else 0
            offset = max(0, place - count // 2)
        rows = [self.row(n) for n in numbers[offset : offset + count]]
        return Page(total=len(numbers), offset=offset, rows=rows, fraction=self.fraction)

    def _numbers(self, which: str, text: str) -> range | list[int]:
        numbers: range | list[int] = range(1, self.total + 1)
        if which == "failed":
            numbers = sorted(self.failed)
        elif which != "all":
            numbers = [n for n in numbers if self.row(n).state == which]
        if text:
            numbers = [n for n in numbers if text in str(self.detail_of(self.row(n)))]
        return numbers

    async def detail(self, custom_id: str) -> Detail:
        self.details.append(custom_id)
        if self.gate is not None:
            await self.gate.wait()
        return self.detail_of(self.row(int(custom_id.rpartition("-")[2])))


class ResultsApp(App[None], inherit_bindings=False):
    """As much of the program as the results screen needs."""

    ENABLE_COMMAND_PALETTE = False

    def __init__(self, desk: Desk, run: Run, root: Path, *, custom_id: str = "", job: JobView | None = None) -> None:
        super().__init__()
        self.desk = desk
        self.workspace = Workspace(root)
        self.noticed: tuple[SafeText, str] | None = None
        self.said: list[str] = []
        self.done: list[str] = []
        self.written: list[str] | None = None
        """What went to the terminal; None: there is none."""
        self.results = ResultsScreen(desk, run, KeyTable(), job or job_view("evals-1"), custom_id=custom_id)
        self.theme = "ansi-dark"

    def compose(self) -> ComposeResult:
        yield Static("main")

    async def on_mount(self) -> None:
        await self.push_screen(self.results)

    def notice(self, text: SafeText, level: str = "info") -> None:
        self.noticed = (text, level)
        self.said.append(text)

    def do(self, action: str, argument: str = "") -> None:
        del argument
        self.done.append(action)

    def spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        return asyncio.create_task(work, name=name)

    def writer(self) -> Callable[[str], None] | None:
        return None if self.written is None else self.written.append

    async def settled(self) -> None:
        """Until nothing is asked and nothing is on its way."""
        for _ in range(200):
            await asyncio.sleep(0)
            self.results.redraw()
            if not self.results.busy:
                return
        raise AssertionError("the screen never comes to rest")
