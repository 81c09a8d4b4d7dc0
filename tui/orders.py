"""What keys ask of the runner: confirmed where it is hard to undo, sent, and answered with one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from engine.errors import CommandRefused, GptossError
from engine.protocol import (
    AbortJob,
    AbortRequest,
    Command,
    JobView,
    Move,
    Pause,
    PutBack,
    Remove,
    Reply,
    Resume,
    Retry,
    Stop,
    Submit,
)
from tui import can, ledger, plain
from tui.notice import Level
from tui.text import SafeText, one_line

if TYPE_CHECKING:
    from tui.app import GptossApp


_RESTORE: Final = re.compile(r"`gptoss-tui restore [^`]*` brings it back")


def with_keys(sentence: str) -> SafeText:
    """The runner's words for people at a shell, with the key of this screen in place of the command."""
    return one_line(_RESTORE.sub("u puts it back", sentence))


class Orders:
    """One method an action that changes the run."""

    def __init__(self, app: GptossApp) -> None:
        self._app = app
        self._aborted: dict[str, list[str]] = {}
        """By job: requests that were aborted here last, for `u`."""
        self._actions: dict[str, Callable[[], None]] = {
            "pause": self._pause,
            "pause_now": self._pause_now,
            "resume": self._resume,
            "abort": self._abort,
            "abort_job": self._abort_job,
            "put_back": self._put_back,
            "retry": self._retry,
            "later": lambda: self._move(1),
            "earlier": lambda: self._move(-1),
            "remove": self._remove,
            "stop": self._stop,
        }

    def do(self, action: str) -> bool:
        """False where this is no action of the run."""
        found = self._actions.get(action)
        if found is None:
            return False
        found()
        return True

    # --- sending ------------------------------------------------------------------------------------------------------

    def _send(self, commands: Sequence[Command], done: Callable[[], None] | None = None) -> None:
        self._app.spawn(self._sent(commands, done), "command")

    async def _sent(self, commands: Sequence[Command], done: Callable[[], None] | None) -> None:
        replies: list[Reply] = []
        for command in commands:
            try:
                replies.append(await self._app.link.command(command))
            except GptossError as error:
                self._app.notice(one_line(error.text), _level(error))
                return
        sentences = list(dict.fromkeys(with_keys(reply.sentence) for reply in replies if reply.sentence))
        rest = f" (and {plain.count(len(sentences) - 1)} more)" if len(sentences) > 1 else ""
        if sentences:
            self._app.notice(SafeText(sentences[0] + rest))
        if done is not None:
            done()

    def _confirm(self, question: ledger.Question, then: Callable[[], None]) -> None:
        from tui.screens.confirm import ConfirmScreen

        def answered(agreed: bool | None) -> None:
            if agreed:
                then()

        self._app.push_screen(ConfirmScreen(*question), answered)

    async def submit(self, submits: Sequence[Submit]) -> None:
        """Queue files; the last of them is selected."""
        for submit in submits:
            try:
                reply = await self._app.link.command(submit)
            except GptossError as error:
                self._app.notice(one_line(error.text), _level(error))
                continue
            if reply.job:
                self._app.desk.view.select_job(reply.job)
            self._app.notice(one_line(reply.sentence or "queued"))

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _jobs(self, fits: Callable[[JobView], bool]) -> list[JobView]:
        jobs = [job for job in can.targets(self._app.desk) if fits(job)]
        self._app.desk.view.marked_jobs = set()
        return jobs

    def _pause(self) -> None:
        self._send([Pause(id=0, job=job.id) for job in self._jobs(can.pausable)])

    def _pause_now(self) -> None:
        self._send([Pause(id=0, job=job.id, now=True) for job in self._jobs(can.pausable)])

    def _resume(self) -> None:
        jobs = self._jobs(can.resumable)
        self._app.spawn(self._resumed(jobs), "resume")

    async def _resumed(self, jobs: list[JobView]) -> None:
        """Resume each; where settings have changed since, say what would be mixed and ask."""
        for job in jobs:
            try:
                reply = await self._app.link.command(Resume(id=0, job=job.id))
            except GptossError as error:
                if error.code != "FingerprintChanged":
                    self._app.notice(one_line(error.text), _level(error))
                    continue
                question = ledger.Question(
                    SafeText(f"Resume {one_line(job.id)} under other settings?"),
                    [
                        one_line(error.message),
                        SafeText("Answers on disk stay; the rest would be made under the new settings."),
                    ],
                    "Resume all the same",
                    "Leave it",
                )
                self._confirm(question, lambda job=job: self._send([Resume(id=0, job=job.id, force=True)]))
                continue
            self._app.notice(one_line(reply.sentence))

    def _abort(self) -> None:
        app = self._app
        custom_ids = can.chosen_requests(app.desk) if app.pane in can.REQUEST_PANES else []
        if not custom_ids:
            self._abort_job()
            return
        job = app.desk.view.job
        commands = [AbortRequest(id=0, job=job, custom_id=custom_id) for custom_id in custom_ids]

        def send() -> None:
            app.desk.view.marked_requests = set()
            self._aborted[job] = custom_ids
            self._send(commands)

        if len(custom_ids) == 1:
            send()  # u undoes it
            return
        running = {request.custom_id for request in app.desk.mirror.running_of(job)}
        question = ledger.abort_requests(app.desk.mirror.jobs[job], custom_ids, len(running.intersection(custom_ids)))
        self._confirm(question, send)

    def _abort_job(self) -> None:
        jobs = can.targets(self._app.desk)
        commands = [AbortJob(id=0, job=job.id) for job in jobs if can.abortable(job)]
        self._ask(ledger.abort_jobs(jobs), commands)

    def _ask(self, question: ledger.Question, commands: Sequence[Command]) -> None:
        """Send after a yes. Marks hold until then: after a no they are still what the person chose."""

        def send() -> None:
            self._app.desk.view.marked_jobs = set()
            self._send(commands)

        self._confirm(question if commands else question._replace(yes=""), send)

    def _put_back(self) -> None:
        app = self._app
        job = app.desk.mirror.jobs[app.desk.view.job]
        chosen = can.chosen_requests(app.desk) if app.pane in can.REQUEST_PANES else []
        custom_ids = [custom_id for custom_id in chosen if custom_id in job.taken_out]
        if not custom_ids and app.pane in can.REQUEST_PANES:
            # The row has left the cursor: what this screen aborted last is what "put back" means here.
            custom_ids = [custom_id for custom_id in self._aborted.pop(job.id, []) if custom_id in job.taken_out]
        app.desk.view.marked_requests = set()
        if custom_ids:
            self._send([PutBack(id=0, job=job.id, custom_id=custom_id) for custom_id in custom_ids])
        else:
            self._send([PutBack(id=0, job=j.id) for j in self._jobs(can.has_aborted)])

    def _retry(self) -> None:
        self._send([Retry(id=0, job=job.id) for job in self._jobs(can.retryable)])

    def _move(self, by: int) -> None:
        job = self._app.desk.view.job
        self._send([Move(id=0, job=job, by=by)])

    def _remove(self) -> None:
        jobs = can.targets(self._app.desk)
        commands = [Remove(id=0, job=job.id) for job in jobs if can.removable(job)]
        self._ask(ledger.remove(jobs), commands)

    def _stop(self) -> None:
        mirror = self._app.desk.mirror
        self._confirm(ledger.stop(mirror.queue, mirror.engine), self._stop_now)

    def _stop_now(self) -> None:
        self._send([Stop(id=0)], done=lambda: self._app.leave(stopped=True))


def _level(error: GptossError) -> Level:
    """A refusal is the runner's answer and no fault: things stand differently than the key took them to."""
    return "warn" if isinstance(error, CommandRefused) else "error"
