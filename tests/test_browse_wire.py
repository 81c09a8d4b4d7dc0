"""`python -m engine.offline browse`: a real child over pipes, and its order of work in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import browse_wire
from engine.browse_wire import Desk
from engine.pages import Answer, AskDetail, AskFind, AskPage, Fault, Found, OpenRun, Page
from engine.starting import environment
from tests.browse_kit import Folder, answered, asked, ids

_answers = msgspec.json.Decoder(Answer)


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.record()
    return folder


def talk(*lines: bytes) -> list[Any]:
    """What the child answers before it ends with its stdin."""
    done = subprocess.run(
        [sys.executable, "-m", "engine.offline", "browse"],
        input=b"".join(line + b"\n" for line in lines),
        capture_output=True,
        check=False,
        timeout=60,
        env=environment(),
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return [_answers.decode(line) for line in done.stdout.splitlines()]


def encoded(*asks: msgspec.Struct) -> list[bytes]:
    return [msgspec.json.encode(ask) for ask in asks]


def test_a_conversation(run: Folder):
    hostile = "\0\x1b]52;c;x\x07\u202e\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")
    run.input(asked("a", hostile), asked("b"))
    run.output(answered("a", hostile))
    opened, page, detail = talk(
        *encoded(OpenRun(id=1, folder=str(run.path)), AskPage(id=2), AskDetail(id=3, custom_id="a"))
    )
    assert (opened.id, opened.rows, page.id, detail.id) == (1, [], 2, 3)
    assert ids(page) == ["a", "b"]
    assert detail.prompt[0].text == detail.answer == hostile


def test_bad_questions_are_answered(run: Folder):
    run.input(asked("a"))
    answers = talk(
        b"{",
        b'{"type":"AskPage","id":7,"offset":"x"}',
        b'{"type":"Nonsense","id":8}',
        b"\xff\0",
        b"",
        b"[" * 5000,
        b'{"type":"OpenRun","id":9,"folder":"\\u0000"}',
        b'{"type":"AskPage","id":10}',
        *encoded(OpenRun(id=11, folder=str(run.path)), AskPage(id=12, which="running"), AskPage(id=13, offset=-5)),
    )
    assert [answer.id for answer in answers] == [0, 7, 8, 0, 0, 9, 10, 11, 12, 13]
    assert [type(answer) for answer in answers] == [Fault] * 7 + [Page, Fault, Page]
    assert ids(answers[-1]) == ["a"]


def test_paths_that_are_no_text(tmp_path: Path):
    run = Folder(tmp_path / "o\udcff")
    run.input(asked("a"))
    line = b'{"type":"OpenRun","id":1,"folder":' + json.dumps(str(run.path)).encode() + b"}"
    (fault,) = talk(line)
    assert isinstance(fault, Fault)


# --- the order of work ------------------------------------------------------------------------------------------------


def opened(run: Folder) -> Desk:
    desk = Desk()
    (answer,) = hear(desk, OpenRun(folder=str(run.path)))
    assert isinstance(answer, Page)
    return desk


def hear(desk: Desk, *asks: msgspec.Struct) -> list[Answer]:
    return [answer for line in encoded(*asks) for answer in desk.hear(line)]


def finish(desk: Desk) -> list[Answer]:
    answers: list[Answer] = []
    while desk.work() or desk.anybody_waits:
        answers += desk.due(idle=False)
        if not desk.work():
            answers += desk.due(idle=True)
    return answers


@pytest.fixture(name="large")
def _large(run: Folder) -> Folder:
    run.input(*(asked(f"r-{n}", "x" * 200) for n in range(8000)))
    return run


def test_a_page_overtakes_a_search(large: Folder):
    desk = opened(large)
    assert hear(desk, AskFind(id=1, find="r-7999")) == []
    desk.work()
    (page,) = hear(desk, AskPage(id=2))
    assert isinstance(page, Page)
    assert (page.id, len(page.rows), page.fraction < 1) == (2, 50, True)
    (found,) = finish(desk)
    assert (found.id, isinstance(found, Found) and found.custom_id) == (1, "r-7999")


def test_a_newer_search_takes_the_place_of_an_older_one(large: Folder):
    desk = opened(large)
    hear(desk, AskFind(id=1, find="r-7999"))
    (gone,) = hear(desk, AskFind(id=2, find="r-7998"))
    assert (gone.id, isinstance(gone, Fault)) == (1, True)
    (found,) = finish(desk)
    assert (found.id, isinstance(found, Found) and found.row) == (2, 7998)


def test_a_filtered_page_comes_as_far_as_it_is_known(large: Folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(browse_wire, "PATIENCE_S", 0.0)
    desk = opened(large)
    assert hear(desk, AskPage(id=1, text="r-7")) == []
    desk.work()
    (page,) = desk.due(idle=False)
    assert isinstance(page, Page)
    assert page.fraction < 1
    monkeypatch.setattr(browse_wire, "PATIENCE_S", 60.0)
    assert hear(desk, AskPage(id=2, text="r-7")) == []
    (old,) = hear(desk, AskPage(id=3, text="r-79"))  # an older page comes as it is
    assert (old.id, isinstance(old, Page)) == (2, True)
    (page,) = finish(desk)
    assert isinstance(page, Page)
    assert (page.id, page.total, page.fraction) == (3, 111, 1.0)


def test_a_detail_waits_for_its_line(large: Folder):
    desk = opened(large)
    assert hear(desk, AskDetail(id=1, custom_id="r-7999")) == []
    (detail,) = finish(desk)
    assert detail.id == 1
    assert not isinstance(detail, Fault)


def test_who_waits_gets_an_answer_from_the_run_it_asked_about(large: Folder, tmp_path: Path):
    desk = opened(large)
    hear(desk, AskFind(id=1, find="r-7999"), AskDetail(id=2, custom_id="r-7998"))
    other = Folder(tmp_path / "other")
    other.output(answered("z"))
    (page,) = hear(desk, OpenRun(id=3, folder=str(other.path)))
    assert page.id == 3
    answers = {answer.id: answer for answer in [*hear(desk, AskDetail(id=4, custom_id="z")), *finish(desk)]}
    assert sorted(answers) == [1, 2, 4]
    assert not any(isinstance(answer, Fault) for answer in answers.values())
    (fault,) = [*hear(desk, AskDetail(id=5, custom_id="r-7998")), *finish(desk)]
    assert isinstance(fault, Fault)  # new questions are about the run opened last


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError(), IndexError("a fault of ours")])
def test_a_run_that_can_not_be_read_on(large: Folder, monkeypatch: pytest.MonkeyPatch, error: Exception):
    desk = opened(large)
    hear(desk, AskFind(id=1, find="y"))

    def fail(_self: object) -> bool:
        raise error

    monkeypatch.setattr("engine.browse.Browse.work", fail)
    assert not desk.work()
    (told,) = desk.due(idle=True)
    assert isinstance(told, Fault)
    assert (told.id, "can't be read" in told.message) == (1, True)
    monkeypatch.undo()
    assert [answer.id for answer in [*hear(desk, AskDetail(id=4, custom_id="r-1")), *finish(desk)]] == [4]
    answers: Sequence[Answer] = hear(desk, OpenRun(id=2, folder=str(large.path)))
    assert isinstance(answers[0], Page)
