"""What is hard to undo is asked first, with marks held until the answer; the rest is sent at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from engine.errors import FingerprintChanged, GptossError, JobNotFound
from engine.job import JobState
from engine.protocol import (
    AbortJob,
    AbortRequest,
    Command,
    Counts,
    JobView,
    PutBack,
    Remove,
    Reply,
    Resume,
    Stop,
)
from tests.tui_kit import job_view, make_desk
from tui.orders import Orders, with_keys
from tui.screens.confirm import ConfirmScreen
from tui.view import View

PAUSED = Counts(total=9, succeeded=4, waiting=5)


class Place:
    """What orders need of the app; questions wait in a list for the test's answer."""

    def __init__(self, *jobs: JobView, pane: str = "jobs", **view: Any) -> None:
        self.desk = make_desk(View(job=jobs[0].id, **view), jobs=list(jobs))
        self.pane = pane
        self.link = self
        self.sent: list[Command] = []
        self.errors: dict[str, GptossError] = {}
        self.notices: list[str] = []
        self.questions: list[tuple[str, Callable[[bool], None]]] = []
        self.left = False
        self._tasks: list[asyncio.Task[None]] = []
        self.orders = Orders(cast("Any", self))

    async def command(self, command: Command) -> Reply:
        name = getattr(command, "job", "")
        if name in self.errors and not getattr(command, "force", False):
            raise self.errors[name]
        self.sent.append(command)
        return Reply(id=0, sentence=f"{name} is told")

    def spawn(self, work: Any, name: str) -> None:
        del name
        self._tasks.append(asyncio.ensure_future(work))

    def notice(self, text: str, level: str = "info") -> None:
        del level
        self.notices.append(text)

    def push_screen(self, screen: ConfirmScreen, answered: Callable[[bool], None]) -> None:
        self.questions.append((f"{screen._title}\n{screen._said}", answered))

    def leave(self, *, stopped: bool) -> None:
        self.left = stopped

    async def do(self, action: str) -> list[Command]:
        """What was sent by now."""
        assert self.orders.do(action)
        await asyncio.gather(*self._tasks)
        return self.sent

    async def answer(self, agreed: bool) -> list[Command]:
        _, answered = self.questions.pop(0)
        answered(agreed)
        await asyncio.gather(*self._tasks)
        return self.sent


async def test_one_request_is_aborted_at_once_and_several_are_asked_for() -> None:
    one = Place(job_view(), pane="requests", request="req-1")
    assert await one.do("abort") == [AbortRequest(id=0, job="evals-1", custom_id="req-1")]
    assert one.questions == []
    several = Place(job_view(), pane="requests", marked_requests={"req-1", "req-2"})
    assert await several.do("abort") == []
    assert "Abort 2 requests of evals-1?" in several.questions[0][0]
    await several.answer(False)
    assert several.sent == []
    assert several.desk.view.marked_requests == {"req-1", "req-2"}
    await several.do("abort")
    sent = await several.answer(True)
    assert [type(command) for command in sent] == [AbortRequest, AbortRequest]
    assert several.desk.view.marked_requests == set()


@pytest.mark.parametrize(
    ("action", "state", "kind"),
    [("abort_job", JobState.PAUSED, AbortJob), ("remove", JobState.PAUSED, Remove)],
)
async def test_marks_hold_until_the_answer_is_yes(action: str, state: JobState, kind: type[Command]) -> None:
    jobs = [job_view(name, state, counts=PAUSED) for name in ("a-1", "b-1")]
    place = Place(*jobs, marked_jobs={"a-1", "b-1"})
    assert await place.do(action) == []
    assert await place.answer(False) == []
    assert place.desk.view.marked_jobs == {"a-1", "b-1"}
    await place.do(action)
    assert [type(command) for command in await place.answer(True)] == [kind, kind]
    assert place.desk.view.marked_jobs == set()


async def test_only_jobs_that_it_fits_are_sent_to() -> None:
    done = job_view("done-1", JobState.DONE, counts=Counts(total=4, succeeded=4))
    place = Place(job_view("a-1"), done, marked_jobs={"a-1", "done-1"})
    await place.do("abort_job")
    assert "Left as they are, there is nothing left to abort: done-1 (done)" in place.questions[0][0]
    assert await place.answer(True) == [AbortJob(id=0, job="a-1")]


async def test_stopping_everything_is_asked_for_and_leaves() -> None:
    place = Place(job_view())
    assert await place.do("stop") == []
    assert await place.answer(False) == []
    assert not place.left
    await place.do("stop")
    assert await place.answer(True) == [Stop(id=0)]
    assert place.left


async def test_changed_settings_are_asked_for_and_keep_no_other_job_waiting() -> None:
    jobs = [job_view(name, JobState.PAUSED, counts=PAUSED) for name in ("a-1", "b-1", "c-1")]
    place = Place(*jobs, marked_jobs={"a-1", "b-1", "c-1"})
    place.errors = {"a-1": FingerprintChanged("context: 4096 before, 2048 now"), "b-1": JobNotFound("no job b-1")}
    assert await place.do("resume") == [Resume(id=0, job="c-1")]
    assert "no job b-1" in place.notices
    assert len(place.questions) == 1
    assert "context: 4096 before, 2048 now" in place.questions[0][0]
    assert (await place.answer(True))[1:] == [Resume(id=0, job="a-1", force=True)]


async def test_put_back_means_the_aborted_ones_among_the_chosen() -> None:
    job = job_view(taken_out=["req-1", "req-3"], counts=Counts(total=9, aborted=2, waiting=7))
    place = Place(job, pane="requests", marked_requests={"req-1", "req-2"})
    assert await place.do("put_back") == [PutBack(id=0, job="evals-1", custom_id="req-1")]
    place = Place(job, pane="jobs")
    assert await place.do("put_back") == [PutBack(id=0, job="evals-1")]


async def test_many_answers_are_one_sentence_and_a_number() -> None:
    jobs = [job_view(f"{name}-1", JobState.PAUSED, counts=PAUSED) for name in "abc"]
    place = Place(*jobs, marked_jobs={job.id for job in jobs})
    await place.do("abort_job")
    await place.answer(True)
    assert place.notices == ["a-1 is told (and 2 more)"]


def test_the_runner_s_words_name_the_key_instead_of_the_command() -> None:
    said = "req-1 is taken out; `gptoss-tui restore big-3 --request req-1` brings it back"
    assert with_keys(said) == "req-1 is taken out; u puts it back"
    assert with_keys("big-3 is queued") == "big-3 is queued"


async def test_put_back_after_an_abort_means_that_request_wherever_the_cursor_went() -> None:
    counts = Counts(total=9, aborted=2, waiting=7)
    place = Place(job_view(taken_out=["req-0"]), pane="requests", request="req-1")
    await place.do("abort")
    place.desk.mirror.jobs["evals-1"] = job_view(taken_out=["req-0", "req-1"], counts=counts)
    place.desk.view.request = "req-2"
    assert (await place.do("put_back"))[1:] == [PutBack(id=0, job="evals-1", custom_id="req-1")]
    place.desk.mirror.jobs["evals-1"] = job_view(taken_out=["req-0"], counts=counts)
    assert (await place.do("put_back"))[2:] == [PutBack(id=0, job="evals-1")]
