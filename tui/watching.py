"""Once a tick: chooses a job where nobody has, and asks for the rows and the texts that are in view, no more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from engine.errors import GptossError
from engine.pages import AskPage
from engine.protocol import WatchRequests
from tui.draw.streams import wanted

if TYPE_CHECKING:
    from tui.app import GptossApp


class Watching:
    """Keeps what is asked in step with what is looked at."""

    def __init__(self, app: GptossApp) -> None:
        self._app = app
        self._watch: WatchRequests | None = None

    def tick(self) -> None:
        desk = self._app.desk
        desk.view.choose_job(desk.mirror.queue)
        desk.transcripts.note_running(desk.mirror.running, desk.now())
        if self._app.in_front:
            self._rows()
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

    # --- texts of the streams pane ------------------------------------------------------------------------------------

    def _texts(self) -> None:
        job, custom_ids, auto = wanted(self._app.desk)
        watch = WatchRequests(id=0, job=job, custom_ids=list(custom_ids), auto=auto)
        if watch != self._watch and self._app.link.connected:
            self._watch = watch
            self._app.spawn(self._app.link.watch(watch), "watch")
        elif not self._app.link.connected:
            self._watch = None
