"""The log pane: which incidents, in which words, at any size."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from engine.protocol import IncidentView
from tests.tui_kit import NOW, PaneApp, make_desk, screen_text, text_of
from tui.draw.line import width
from tui.draw.log import Log, grave_first, local
from tui.glyphs import ASCII
from tui.panes.log import LogPane


@pytest.fixture(autouse=True)
def noon_in_berlin(monkeypatch: pytest.MonkeyPatch):
    """NOW is 23:13:20 there."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


def incident(n: int, level: str = "info", **fields: Any) -> IncidentView:
    facts: dict[str, Any] = {
        "t": NOW - 100 + n,
        "job": "evals-1",
        "kind": "held",
        "message": f"news {n}",
        "level": level,
    }
    return IncidentView(**(facts | fields))


def look(log: Log, desk: Any, columns: int = 80, rows: int = 6) -> list[str]:
    return text_of(log.look(desk, columns, rows))


def title(log: Log, desk: Any) -> str:
    return "".join(span.text for span in log.state(desk))


def test_time_level_words_and_what_was_done():
    desk = make_desk(
        incidents=[
            incident(1, message="held at 12 slots: headroom 480 MiB", level="warn"),
            incident(2, message="the engine died", action="loading again with 16 slots", level="error"),
            incident(3, kind="state", message="evals-1 paused: by a person"),
        ]
    )
    assert look(Log(), desk) == [
        " 23:11:41 warn  held at 12 slots: headroom 480 MiB",
        " 23:11:42 ERROR the engine died → loading again with 16 slots",
        " 23:11:43       evals-1 paused: by a person",
    ]
    desk.glyphs = ASCII
    assert look(Log(), desk)[1].endswith("died > loading again with 16 slots")


def test_the_day_where_it_is_not_today():
    desk = make_desk(incidents=[incident(1, t=NOW - 86_400), incident(2)])
    assert [row[:23] for row in look(Log(), desk)] == [" 13 Nov 23:13:20       ", " 14 Nov 23:11:42       "]
    assert local(NOW).hour == 23


def test_the_job_is_named_where_there_are_several():
    news = [
        incident(1),
        incident(2, job="nightly-1"),
        incident(3, job=""),
        incident(4, message="evals-1 running"),
        incident(5, message="new job asked: evals-1 is queued"),
    ]
    desk = make_desk(incidents=news)
    assert [row[16:] for row in look(Log(), desk)] == [
        "evals-1: news 1",
        "nightly-1: news 2",
        "news 3",
        "evals-1 running",
        "new job asked: evals-1 is queued",
    ]
    assert [row[16:] for row in look(Log(), desk, 120)] == [
        "evals-1            news 1",
        "nightly-1          news 2",
        "                   news 3",
        "evals-1            running",
        "evals-1            new job asked: queued",
    ]


def test_the_name_is_not_said_again_behind_its_column():
    desk = make_desk(
        incidents=[
            incident(1, kind="state", message="evals-1 running"),
            incident(2, kind="command", message="pause asked: evals-1 pauses when its 4 running requests are through"),
            incident(3, kind="command", job="big-1", message="new job asked: big-1 is queued, 1 ahead of it"),
        ]
    )
    assert [row[16:].rstrip() for row in look(Log(), desk, 120)] == [
        "evals-1            running",
        "evals-1            pause asked: pauses when its 4 running requests are through",
        "big-1              new job asked: queued, 1 ahead of it",
    ]
    assert "pause asked: evals-1 pauses" in look(Log(), desk, 80)[1], "no column, no other name"


def test_no_row_stands_without_its_beginning():
    desk = make_desk(incidents=[incident(n, message=f"news {n} " + "word " * 12) for n in range(4)])
    rows = look(Log(), desk, 60, 5)
    assert [row.split()[1:3] for row in rows if row.startswith(" 2")] == [["news", "2"], ["news", "3"]]
    assert rows[0] == ""
    one = make_desk(incidents=[incident(1, message="word " * 60)])
    assert len(look(Log(), one, 60, 4)) == 4


def test_long_words_wrap_under_themselves_or_are_cut():
    desk = make_desk(incidents=[incident(1, message="word " * 20)])
    rows = look(Log(), desk, 60)
    assert len(rows) == 3
    assert all(row.startswith(" " * 16 + "word") for row in rows[1:])
    desk.view.wrap = False
    assert [row[-6:] for row in look(Log(), desk, 60)] == ["d wor…"]


def test_the_newest_are_at_the_bottom():
    desk = make_desk(incidents=[incident(n) for n in range(30)])
    assert [row.split()[-1] for row in look(Log(), desk)] == ["24", "25", "26", "27", "28", "29"]


def test_two_rows_hold_the_newest_and_what_matters():
    news = [incident(0, "error", t=NOW - 4000), *(incident(n) for n in range(1, 10))]
    assert [i.message for i in grave_first(news, 2, NOW)] == ["news 8", "news 9"]
    news[3] = incident(3, "error")
    news[5] = incident(5, "warn")
    assert [i.message for i in grave_first(news, 2, NOW)] == ["news 3", "news 9"]
    assert [i.message for i in grave_first(news, 3, NOW)] == ["news 3", "news 5", "news 9"]
    assert grave_first([], 2, NOW) == []
    desk = make_desk(incidents=news)
    assert [row.split()[-1] for row in look(Log(), desk, rows=2)] == ["3", "9"]


def test_the_title_counts_what_happened_of_late():
    assert title(Log(), make_desk(incidents=[incident(1)])) == ""
    old = [incident(n, "error", t=NOW - 90_000) for n in range(5)]
    desk = make_desk(incidents=[*old, incident(1, "warn"), incident(2, "error"), incident(3, "warn"), incident(4)])
    assert title(Log(), desk) == "1 error  2 warnings  last 24 h"


def test_scrolling_back_stays_while_new_ones_come():
    desk, log = make_desk(incidents=[incident(n) for n in range(30)]), Log()
    look(log, desk)
    assert log.act(desk, 80, "up")
    there = look(log, desk)
    assert there[-1].endswith("news 28")
    desk.mirror.incidents.extend([incident(30), incident(31)])
    assert look(log, desk) == there
    assert title(log, desk) == "STAY  2 new"
    log.act(desk, 80, "top")
    assert look(log, desk)[0].endswith("news 0")
    log.act(desk, 80, "page_down")
    assert look(log, desk)[0].endswith("news 5")
    log.act(desk, 80, "half_up")
    assert look(log, desk)[0].endswith("news 2")
    log.act(desk, 80, "bottom")
    assert log.follows
    assert look(log, desk)[-1].endswith("news 31")
    assert not log.act(desk, 80, "left")


def test_the_place_stays_on_a_resize_and_when_the_oldest_go():
    desk, log = make_desk(incidents=[incident(n, message=f"news {n} " + "word " * 20) for n in range(40)]), Log()
    look(log, desk, 60, 8)
    log.act(desk, 60, "page_up")
    log.act(desk, 60, "page_up")
    first = re.findall(r"news \d+", " ".join(look(log, desk, 60, 8)))[0]
    assert first in " ".join(look(log, desk, 100, 8))
    assert first in " ".join(look(log, desk, 40, 8))
    for n in range(2000):
        desk.mirror.incidents.append(incident(n + 100))
    assert look(log, desk, 60, 8)[0].endswith("news 1100")


def test_rows_are_not_remembered_for_ever():
    desk, log = make_desk(incidents=[]), Log()
    for n in range(5000):
        desk.mirror.incidents.append(incident(n))
        look(log, desk)
    assert len(log._drawn) <= 2001  # pyright: ignore[reportPrivateUsage]


def test_nothing_happened_yet():
    assert look(Log(), make_desk(incidents=[]))[0].startswith(" nothing has happened yet")
    assert not Log().act(make_desk(incidents=[]), 80, "up")


HOSTILE = "".join(map(chr, range(0x20))) + "\x7f\x80\x9b31m\u202e\u2066\ud83d👨\u200d👩[/nope]你好e\u0301 "


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("columns", [20, 24, 40, 80, 120, 200])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 13, 49])
def test_any_size(columns: int, rows: int, wrap: bool):
    levels = ["info", "warn", "error", "what"]
    news = [incident(n, levels[n % 4], message=HOSTILE * n, action=HOSTILE, job=HOSTILE[n:]) for n in range(40)]
    desk, log = make_desk(incidents=news), Log()
    desk.view.wrap = wrap
    for action in ("", "up", "page_up", "half_down", "top", "down", "bottom"):
        if action:
            log.act(desk, columns, action)
        lines = log.look(desk, columns, rows)
        assert 0 < len(lines) <= rows
        assert all(width(row) <= max(columns, 24) for row in lines)


@pytest.mark.parametrize("size", [(20, 1), (80, 3), (120, 8), (54, 14)])
async def test_nothing_hostile_reaches_the_terminal(size: tuple[int, int]):
    news = [incident(n, message=HOSTILE, action=HOSTILE, job=HOSTILE) for n in range(9)]
    app = PaneApp(LogPane(), make_desk(incidents=news))
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        shown = "".join(screen_text(app))
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", shown)


async def test_the_pane_at_80_columns():
    pane = LogPane()
    desk = make_desk(incidents=[incident(1, "warn"), incident(2), incident(3)])
    app = PaneApp(pane, desk)
    async with app.run_test(size=(80, 3)) as pilot:
        await pilot.pause()
        assert screen_text(app) == [
            "─ 6 log ───────────────────────────────────────────────── 1 warning  last 24 h ─",
            " 23:11:41 warn  news 1",
            " 23:11:43       news 3",
        ]
        assert pane.act("top")
        pane.redraw()
        await pilot.pause()
        assert "STAY" in screen_text(app)[0]
