"""What keys do with the text of one request: copy, save, editor, pager. While it runs: with the text so far."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import GptossError
from engine.job import ENDED
from engine.pages import Detail
from tui.text import SafeText, one_line

if TYPE_CHECKING:
    from tui.app import GptossApp
    from tui.clipboard import Outcome


class Chosen(NamedTuple):
    """The request that the person looks at."""

    job: str
    custom_id: str


class Texts:
    """One method an action on a text."""

    def __init__(self, app: GptossApp) -> None:
        self._app = app
        self._actions: dict[str, Callable[[Chosen], None]] = {
            "copy": lambda chosen: self._spawn(self._copy(chosen)),
            "save": lambda chosen: self._spawn(self._save(chosen)),
            "pager": lambda chosen: self._spawn(self._pager(chosen)),
            "editor": lambda chosen: self._spawn(self._editor(chosen)),
        }

    def do(self, action: str) -> bool:
        """False where this is no action on a text."""
        found = self._actions.get(action)
        if found is None:
            return False
        chosen = self._chosen()
        if chosen is None:
            self._app.notice(
                SafeText("no request is chosen: go to the requests with 4, or to the streams with 5"), "warn"
            )
        else:
            found(chosen)
        return True

    def _chosen(self) -> Chosen | None:
        view = self._app.desk.view
        if self._app.pane == "requests":
            return Chosen(view.job, view.request) if view.request else None
        focus = self._app.main.streams.focus_of(self._app.desk)
        if focus is not None:
            return Chosen(*focus)
        return Chosen(view.job, view.request) if view.request else None

    def _spawn(self, work: object) -> None:
        self._app.spawn(work, "text")

    def _told(self, outcome: Outcome) -> None:
        self._app.notice(outcome.sentence, outcome.level)

    # --- the text -----------------------------------------------------------------------------------------------------

    async def _detail(self, chosen: Chosen) -> Detail | None:
        """From the files; None after saying why not."""
        try:
            await self._app.browser.open(self._app.workspace, chosen.job)
            return await self._app.browser.detail(chosen.custom_id)
        except GptossError as error:
            self._app.notice(one_line(error.text), "error")
            return None

    async def _text(self, chosen: Chosen) -> str | None:
        """The true answer: the text so far while it runs."""
        transcript = self._app.desk.transcripts.get(chosen.job, chosen.custom_id)
        running = any(r.custom_id == chosen.custom_id for r in self._app.desk.mirror.running_of(chosen.job))
        if running:
            return transcript.true_text() if transcript is not None else ""
        detail = await self._detail(chosen)
        if detail is None:
            return None
        calls = [f"{call.name}({call.arguments})" for call in detail.tool_calls]
        return "\n".join(part for part in (detail.answer or detail.error, *calls) if part)

    # --- what is done with it -----------------------------------------------------------------------------------------

    async def _copy(self, chosen: Chosen) -> None:
        from tui import clipboard

        text = await self._text(chosen)
        if text is None:
            return
        self._told(
            await clipboard.copy(
                text,
                terminal=self._app.desk.terminal,
                write=self._app.writer(),
                folder=clipboard.folder_for(self._app.workspace, chosen.job),
                name=chosen.custom_id,
                root=self._app.workspace.root,
            )
        )

    async def _save(self, chosen: Chosen) -> None:
        from tui import clipboard

        text = await self._text(chosen)
        if text is None:
            return
        if not text:
            self._app.notice(SafeText("nothing to save: there is no text yet"), "warn")
            return
        folder = clipboard.folder_for(self._app.workspace, chosen.job)
        root = self._app.workspace.root
        self._told(await asyncio.to_thread(clipboard.save, text, folder, chosen.custom_id, root=root))

    async def _pager(self, chosen: Chosen) -> None:
        from tui import external

        text = await self._text(chosen)
        if text is None:
            return
        if not text:
            self._app.notice(SafeText("nothing to show: there is no text yet"), "warn")
            return
        self._told(external.page(self._app, text, chosen.custom_id, colour=self._app.desk.terminal.colour))

    async def _editor(self, chosen: Chosen) -> None:
        from tui import external

        detail = await self._detail(chosen)
        if detail is None:
            return
        job = self._app.desk.mirror.jobs.get(chosen.job)
        where = external.target(
            detail.input_path,
            detail.row.line,
            detail.input_line,
            file_bytes=await asyncio.to_thread(external.size_of, detail.input_path),
            readonly=self._app.desk.readonly,
            active=job is not None and job.state not in ENDED,
        )
        self._told(external.edit(self._app, where, colour=self._app.desk.terminal.colour))
