"""Once a tick: chooses a job where nobody has, and asks for the rows and the texts that are in view, no more."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from engine.errors import GptossError
from engine.pages import AskPage
from engine.protocol import Channel, WatchRequests
from tui.draw.streams import wanted

if TYPE_CHECKING:
    from tui.app import GptossApp


HAS_TEXT: Final = frozenset({"done", "truncated", "failed", "invalid"})
"""States of rows whose files hold an answer or the reason why there is none."""


class Watching:
    """Keeps what is asked in step with what is looked at."""

    def __init__(self, app: GptossApp) -> None:
        self._app = app
        self._watch: WatchRequests | None = None
        self._reading: asyncio.Task[None] | None = None
        self._asked: tuple[str, str, int] | None = None

    def tick(self) -> None:
        desk = self._app.desk
        desk.view.choose_job(desk.mirror.queue)
        desk.transcripts.note_running(desk.mirror.running, desk.now())
        if self._app.in_front:
            self._rows()
            self._ended_text()
        self._texts()

    def reopen(self) -> None:
        """Another screen had the reader: what is at hand may be of another job."""
        self._app.desk.window.refresh(time.monotonic())

    # --- rows of the requests pane ------------------------------------------------------------------------------------

    def _rows(self) -> None:
        desk = self._app.desk
        view, window = desk.view, desk.window
        job = desk.mirror.jobs.get(view.job)
        if job is None:
            return
        window.select(job.id, view.which, view.query, job.taken_out)
        # Counts first: a page is asked for again when lines were saved, not when a rate changed.
        window.refresh((desk.mirror.saved.get(job.id, 0), job.state, job.counts.total, job.counts.aborted))
        ask = window.want(time.monotonic())
        if ask is not None:
            self._app.spawn(self._page(job.id, ask), "page")

    async def _page(self, job: str, ask: AskPage) -> None:
        browser, window = self._app.browser, self._app.desk.window
        try:
            await browser.open(self._app.workspace, job)
            page = await browser.page(
                which=ask.which,
                text=ask.text,
                offset=ask.offset,
                count=ask.count,
                taken_out=ask.taken_out,
                around=ask.around,
            )
        except GptossError as error:
            window.fail(ask, error.message, time.monotonic())  # the pane shows it
            return
        window.take(ask, page)

    # --- the text of a request that has ended -------------------------------------------------------------------------

    def _ended_text(self) -> None:
        """What the cursor is on has no text here: it ended before anybody watched. Its files have it."""
        desk = self._app.desk
        view = desk.view
        name = (view.job, view.request)
        idle = not desk.mirror.running and desk.transcripts.focus is None
        if not view.request or not (view.chosen or idle) or self._reading is not None:
            return
        row = desk.window.find(view.request)
        if row is None or row.state not in HAS_TEXT or desk.transcripts.get(*name) is not None:
            return
        if any(request.custom_id == view.request for request in desk.mirror.running_of(view.job)):
            return
        asked = (*name, desk.mirror.saved.get(view.job, 0))
        if asked != self._asked:
            self._asked = asked
            self._reading = self._app.spawn(self._read(*name), "text")

    async def _read(self, job: str, custom_id: str) -> None:
        desk = self._app.desk
        try:
            await self._app.browser.open(self._app.workspace, job)
            detail = await self._app.browser.detail(custom_id)
        except GptossError:
            return  # the requests pane says what is wrong with the files
        finally:
            self._reading = None
        parts = [(Channel.REASONING, detail.reasoning), (Channel.ANSWER, detail.answer)]
        parts += [(Channel.TOOL, f"{call.name}({call.arguments})") for call in detail.tool_calls]
        if detail.row.message:
            parts.append((Channel.ANSWER, f"{detail.row.code}: {detail.row.message}"))
        found = [(channel, text) for channel, text in parts if text]
        if found and desk.transcripts.get(job, custom_id) is None:
            row = detail.row
            desk.transcripts.adopt(
                job, custom_id, found, finish=row.finish or row.state, tokens=row.completion_tokens, now=desk.now()
            )

    # --- texts of the streams pane ------------------------------------------------------------------------------------

    def _texts(self) -> None:
        job, custom_ids, auto = wanted(self._app.desk)
        watch = WatchRequests(id=0, job=job, custom_ids=list(custom_ids), auto=auto)
        if watch != self._watch and self._app.link.connected:
            self._watch = watch
            self._app.spawn(self._app.link.watch(watch), "watch")
        elif not self._app.link.connected:
            self._watch = None
