"""The streams pane: whose text, how it scrolls, what the title says, at any size."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from engine.job import JobState
from engine.protocol import Channel, Delta, RunningRequest, Text
from tests.tui_kit import NOW, PaneApp, job_view, make_desk, running, screen_text, text_of
from tui.desk import Desk
from tui.draw.line import fill, width
from tui.draw.streams import Streams, wanted
from tui.draw.streams import figures as streams_figures
from tui.draw.wrap import cut
from tui.glyphs import ASCII
from tui.panes.pane import first_difference, last_difference
from tui.panes.streams import StreamsPane
from tui.text import cells
from tui.view import Channels, View

R, A, T = Channel.REASONING, Channel.ANSWER, Channel.TOOL
WORDS = ["the", "scheduler", "decides", "how", "many", "slots", "may", "grow", "at", "once", "outside", "its", "pool"]


def prose(words: int, seed: int = 1) -> str:
    chance = random.Random(seed)
    return " ".join(chance.choice(WORDS) for _ in range(words))


class Feed:
    """A desk whose requests say what the test wants, now and later."""

    def __init__(self, n: int = 4, **fields: Any) -> None:
        self.at = NOW
        self.desk = make_desk(running=running(n), **fields)
        self.desk.now = lambda: self.at
        self._said: dict[tuple[int, Channel], int] = {}

    def say(self, i: int, text: str, channel: Channel = A) -> None:
        request = running(i + 1)[i]
        offset = self._said.get((i, channel), 0)
        self._said[i, channel] = offset + len(text)
        piece = Delta(key=request.key, text=text, channel=channel, offset=offset)
        self.desk.transcripts.take(Text(seq=1, job="evals-1", items=[piece]), self.desk.mirror.running)

    def left(self, *others: int) -> None:
        """Only these still run."""
        self.desk.mirror.running = [running(i + 1)[i] for i in others]
        self.desk.transcripts.note_running(self.desk.mirror.running, self.at)


def look(streams: Streams, desk: Desk, columns: int = 60, rows: int = 7) -> list[str]:
    return text_of(streams.look(desk, columns, rows))


def title(streams: Streams, desk: Desk, columns: int = 100) -> str:
    return streams.note(desk, columns) + " | " + "".join(span.text for span in streams.state(desk, columns))


# --- whose text -------------------------------------------------------------------------------------------------------


def test_it_stays_with_the_first_until_it_has_ended_and_was_read():
    feed, streams = Feed(), Streams()
    feed.say(0, "first")
    feed.say(1, "second")
    assert look(streams, feed.desk) == ["first"]
    feed.left(1, 2)
    assert look(streams, feed.desk) == ["first"]
    feed.at += 1.4
    assert look(streams, feed.desk) == ["first"]
    feed.at += 0.2
    assert look(streams, feed.desk) == ["second"]


def test_the_last_text_stays_when_nothing_runs_any_more():
    feed, streams = Feed(), Streams()
    feed.say(0, "first")
    look(streams, feed.desk)
    feed.left()
    feed.at += 100
    feed.desk.transcripts.ended("evals-1", "req-004189", finish="length", tokens=800, now=feed.at)
    assert look(streams, feed.desk) == ["first"]
    assert "ended: length  800 tok" in title(streams, feed.desk)


def test_nobody_is_taken_away_from_a_text_that_is_being_read():
    feed, streams = Feed(), Streams()
    feed.say(0, "\n".join(map(str, range(30))))
    look(streams, feed.desk)
    streams.act(feed.desk, "up")
    feed.left(1)
    feed.at += 100
    assert look(streams, feed.desk)[0] == "22"
    streams.act(feed.desk, "bottom")
    assert look(streams, feed.desk) == [" 272 tokens so far, no text of them yet"]


def test_a_chosen_request_wins_where_anything_is_known_of_it():
    feed, streams = Feed(), Streams()
    feed.say(0, "first")
    feed.say(2, "third")
    feed.desk.view.request = "req-004191"
    assert look(streams, feed.desk) == ["first"]  # the cursor is there, nobody put it there
    feed.desk.view.chosen = True
    assert look(streams, feed.desk) == ["third"]
    feed.left(1)
    feed.at += 100
    assert look(streams, feed.desk) == ["third"]
    feed.desk.view.request = "one that waits"
    assert look(streams, feed.desk)[0] == " 272 tokens so far, no text of them yet"
    assert streams.focus == ("evals-1", "req-004190")


def test_a_text_at_rest_goes_with_its_job():
    feed, streams = Feed(), Streams()
    feed.say(0, "first")
    look(streams, feed.desk)
    feed.left()
    feed.at += 100
    assert look(streams, feed.desk) == ["first"]
    feed.desk.view.select_job("big-1")
    assert streams.choose(feed.desk) == {}
    assert streams.focus is None


def test_left_and_right_go_round_the_running_ones_and_choose():
    feed, streams = Feed(), Streams()
    look(streams, feed.desk)
    feed.desk.view.marked_requests = {"req-004189"}
    names: list[str] = []
    for action in ("right", "right", "left", "left", "left"):
        assert streams.act(feed.desk, action)
        look(streams, feed.desk)
        assert streams.focus is not None
        names.append(streams.focus[1][-1])
    assert names == ["0", "1", "0", "9", "2"]
    assert feed.desk.view.chosen
    assert feed.desk.view.marked_requests == {"req-004189"}  # same job: nothing of it is lost
    feed.left()
    assert not streams.act(feed.desk, "right")


def test_another_job_is_selected_with_its_request():
    feed, streams = Feed(), Streams()
    feed.desk.view.job = "nightly-1"
    look(streams, feed.desk)
    streams.act(feed.desk, "right")
    assert (feed.desk.view.job, feed.desk.view.request) == ("evals-1", "req-004190")


def test_what_to_watch():
    desk = Feed().desk
    assert wanted(desk) == ("", [], 1)
    look(Streams(), desk, 80, 31)
    assert wanted(desk) == ("", [], 5)
    assert desk.transcripts.watched == {("evals-1", f"req-{n:06d}") for n in range(4189, 4193)}
    desk.view.wall = 2
    assert wanted(desk) == ("", [], 3)
    desk.view.request, desk.view.chosen = "req-004190", True
    assert wanted(desk) == ("evals-1", ["req-004190"], 3)
    desk.view.low_bandwidth = True
    assert wanted(desk) == ("evals-1", ["req-004190"], 0)
    desk.view.request = "it waits"
    assert wanted(desk) == ("", [], 1)


def test_a_request_that_names_no_job_is_of_the_active_one():
    desk = make_desk(running=[RunningRequest(key=3, custom_id="a")])
    streams = Streams()
    look(streams, desk)
    assert streams.focus == ("evals-1", "a")


# --- further streams --------------------------------------------------------------------------------------------------


def boxes(lines: list[str]) -> list[str]:
    return [found for text in lines for found in re.findall(r"── (req-\d+)", text)]


@pytest.mark.parametrize(
    ("columns", "rows", "wall", "shown"),
    [(80, 7, 4, 0), (80, 12, 4, 0), (80, 13, 4, 2), (80, 31, 4, 4), (80, 31, 2, 2), (80, 31, 0, 0), (120, 7, 4, 2),
     (120, 16, 4, 4), (120, 2, 4, 0)],
)  # fmt: skip
def test_how_many_further_streams_there_are(columns: int, rows: int, wall: int, shown: int):
    feed = Feed(7)
    feed.desk.view.wall = wall
    lines = look(Streams(), feed.desk, columns, rows)
    assert len(boxes(lines)) == shown
    assert len(lines) <= rows
    assert "req-004189" not in boxes(lines)


def test_further_streams_keep_their_places():
    feed, streams = Feed(7), Streams()
    assert [b[-1] for b in boxes(look(streams, feed.desk, 80, 31))] == ["0", "1", "2", "3"]
    feed.say(2, "last words of 4191")
    feed.left(0, 1, 3, 4, 5, 6)
    assert [b[-1] for b in boxes(look(streams, feed.desk, 80, 31))] == ["0", "1", "2", "3"]
    feed.at += 2
    assert [b[-1] for b in boxes(look(streams, feed.desk, 80, 31))] == ["0", "4", "2", "3"]


def test_low_bandwidth_shows_one():
    feed = Feed(7)
    feed.desk.view.low_bandwidth = True
    assert boxes(look(Streams(), feed.desk, 120, 31)) == []


def test_beside_the_columns_are_kept():
    feed = Feed(7)
    feed.say(0, prose(200))
    feed.say(1, "你好世界" * 100)
    for row in Streams().look(feed.desk, 121, 20):
        assert width(row) <= 121
        assert cut("".join(span.text for span in row), 72, 1) == "│"


# --- the text ---------------------------------------------------------------------------------------------------------


def test_channels_are_told_apart_by_words():
    feed, streams = Feed(), Streams()
    feed.say(0, "I think", R)
    feed.say(0, "so it is", A)
    feed.say(0, '{"a": 1}', T)
    view = feed.desk.view
    assert look(streams, feed.desk) == [
        "── reasoning ──",
        "I think",
        "── answer ──",
        "so it is",
        "── tool call ──",
        '{"a": 1}',
    ]
    view.channels = Channels.ANSWER
    assert look(streams, feed.desk) == ["so it is", "── tool call ──", '{"a": 1}']
    view.channels = Channels.REASONING
    assert look(streams, feed.desk) == ["── reasoning ──", "I think"]
    feed.desk.glyphs = ASCII
    assert look(streams, feed.desk)[0] == "-- reasoning --"
    styles = {span.text: span.style for row in Streams().look(feed.desk, 60, 7) for span in row}
    assert styles["I think"] == "reasoning"


def test_a_plain_answer_has_no_heading_and_several_choices_have():
    feed = Feed()
    feed.say(0, "yes")
    assert look(Streams(), feed.desk) == ["yes"]
    piece = Delta(key=1, text="no", choice=1)
    feed.desk.transcripts.take(Text(seq=1, job="evals-1", items=[piece]), feed.desk.mirror.running)
    assert look(Streams(), feed.desk) == ["── choice 0 answer ──", "yes", "── choice 1 answer ──", "no"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt_tokens": 1204}, "prefill: 1 204 tokens of prompt"),
        ({}, "waiting for a slot"),
        ({"prompt_tokens": 5, "generated": 3}, "its text arrives in a moment"),
        ({"prompt_tokens": 5, "generated": 286}, "286 tokens so far, no text of them yet"),
    ],
)
def test_before_there_is_text(fields: dict[str, int], words: str):
    desk = make_desk(running=[RunningRequest(key=1, custom_id="a", job="evals-1", **fields)])
    assert look(Streams(), desk) == [f" {words}"]


def test_a_text_that_ended_unwatched_says_so():
    feed, streams = Feed(), Streams()
    feed.say(0, "first")
    feed.say(1, "second")
    assert look(streams, feed.desk) == ["first"]
    feed.left(0, 1)
    feed.left(0)
    feed.desk.view.request, feed.desk.view.chosen = "req-004190", True
    assert look(streams, feed.desk, 70) == ["second", "── the end may be missing here; the results have all of it ──"]
    assert look(streams, feed.desk, 24)[-1].endswith("…")


def test_when_nothing_runs():
    assert "nothing runs; answers appear here" in look(Streams(), make_desk(running=[], jobs=[]))[0]
    loading = job_view("big-1", JobState.LOADING, load_fraction=0.42)
    assert look(Streams(), make_desk(running=[], jobs=[loading])) == [" nothing runs yet: big-1 is loading 42%"]
    lost = make_desk(running=[])
    lost.link.connected = False
    assert look(Streams(), lost) == [" no connection to the background process"]


def test_a_channel_without_text_says_so():
    feed = Feed()
    feed.say(0, "hmm", R)
    feed.desk.view.channels = Channels.ANSWER
    assert look(Streams(), feed.desk) == [" no answer yet: it is reasoning (312 tokens so far)"]


def test_the_title_names_the_channel_where_its_heading_is_out_of_view():
    feed, streams = Feed(), Streams()
    feed.say(0, "I think\n" * 20, R)
    look(streams, feed.desk)
    assert title(streams, feed.desk).startswith("req-004189  1 of 4  reasoning |")
    feed.say(0, "so it is\n" * 20)
    rows = look(streams, feed.desk)
    assert "── answer ──" not in rows
    assert title(streams, feed.desk).startswith("req-004189  1 of 4  answer |")
    feed.desk.view.channels = Channels.REASONING
    look(streams, feed.desk)
    assert "reasoning only" in title(streams, feed.desk)


def test_the_title_names_the_job_where_another_one_is_selected():
    feed, streams = Feed(), Streams()
    feed.say(0, "hello")
    feed.desk.view.job = "evals-1"
    look(streams, feed.desk)
    assert " of " not in title(streams, feed.desk).partition("|")[0].replace("1 of 4", "")
    feed.desk.view.job = "big-1"
    look(streams, feed.desk)
    assert title(streams, feed.desk).startswith("req-004189 of evals-1  1 of 4")


def test_titles_of_further_streams_say_whose_and_what():
    feed = Feed(3)
    feed.say(1, "I think\n" * 20, R)
    lines = look(Streams(), feed.desk, 80, 20)
    head = next(row for row in lines if "req-004190" in row)
    assert head.startswith("── req-004190  reasoning ──")
    assert head.endswith("  272/800 tok   33/s ─")
    assert len(head) == 80


def test_numbers_of_tokens_keep_their_columns():
    def figures(generated: int, rate: float, columns: int = 80) -> str:
        request = RunningRequest(key=1, custom_id="a", prompt_tokens=9, generated=generated, max_tokens=2048, rate=rate)
        return "".join(span.text for span in streams_figures(request, None, columns))

    assert figures(7, 0.0) == "    7/2 048 tok  N/A/s"
    assert figures(1312, 34.4) == "1 312/2 048 tok   34/s"
    assert figures(1312, 3.44) == "1 312/2 048 tok  3.4/s"
    assert figures(1312, 3.44, 60) == "1 312 tok"
    assert figures(1312, 3.44, 30) == ""


# --- scrolling --------------------------------------------------------------------------------------------------------


def test_scrolling_up_stays_and_counts_new_lines_until_the_bottom():
    feed, streams = Feed(), Streams()
    feed.say(0, "\n".join(f"line {i}" for i in range(40)))
    assert look(streams, feed.desk)[-1] == "line 39"
    assert "FOLLOW" in title(streams, feed.desk)
    assert streams.act(feed.desk, "page_up")
    there = look(streams, feed.desk)
    assert there[-1] == "line 33"
    assert not feed.desk.view.follow
    feed.say(0, "\nnew 1\nnew 2\nnew 3")
    assert look(streams, feed.desk) == there
    assert "STAY  3 new lines" in title(streams, feed.desk)
    streams.act(feed.desk, "top")
    assert look(streams, feed.desk)[0] == "line 0"
    streams.act(feed.desk, "half_down")
    assert look(streams, feed.desk)[0] == "line 3"
    streams.act(feed.desk, "bottom")
    assert look(streams, feed.desk)[-1] == "new 3"
    assert "new line" not in title(streams, feed.desk)


def test_the_follow_key_stays_and_follows():
    feed, streams = Feed(), Streams()
    feed.say(0, "a\nb")
    look(streams, feed.desk)
    feed.desk.view.follow = False
    look(streams, feed.desk)
    feed.say(0, "\nc" * 20)
    assert look(streams, feed.desk)[0] == "a"
    assert "20 new lines" in title(streams, feed.desk)
    feed.desk.view.follow = True
    assert look(streams, feed.desk)[-1] == "c"


def test_unwrapped_text_scrolls_sideways():
    feed, streams = Feed(), Streams()
    feed.say(0, "0123456789" * 20)
    feed.desk.view.wrap = False
    assert look(streams, feed.desk, 20) == ["01234567890123456789"]
    streams.act(feed.desk, "right")
    streams.act(feed.desk, "right")
    streams.act(feed.desk, "right")
    feed.desk.view.follow = True
    assert look(streams, feed.desk, 25) == ["0123456789012345678901234"]
    for _ in range(5):
        streams.act(feed.desk, "left")
    assert look(streams, feed.desk, 20)[0].startswith("0")
    assert not feed.desk.view.chosen
    streams.act(feed.desk, "right")
    feed.desk.view.wrap = True
    assert look(streams, feed.desk, 20)[0] == "01234567890123456789"


def test_a_request_that_runs_again_is_not_shown_in_the_rows_of_its_first_try():
    feed, streams = Feed(), Streams()
    feed.say(0, prose(30))
    look(streams, feed.desk)
    again = RunningRequest(key=50, custom_id="req-004189", job="evals-1")
    feed.desk.mirror.running = [again]
    words = prose(60, seed=2)
    feed.desk.transcripts.take(Text(seq=1, job="evals-1", items=[Delta(key=50, text=words)]), [again])
    assert " ".join(look(streams, feed.desk, 60, 20)) == words


# --- cost -------------------------------------------------------------------------------------------------------------


def changed_cells(before: list[Any], after: list[Any], columns: int) -> int:
    cells = 0
    for old, new in zip(before, after, strict=True):
        if old != new:
            left = first_difference(old, new)
            cells += max(left + 1, last_difference(old, new, columns)) - left
    return cells


def test_few_cells_change_while_text_streams():
    feed, streams = Feed(1), Streams()
    columns, rows, hz, seconds = 80, 7, 4, 20
    before, changed = None, 0
    for tick in range(hz * seconds):
        feed.say(0, prose(1500 * 3 // 4 // hz, seed=tick) + " ")
        lines = [fill(row, columns) for row in streams.look(feed.desk, columns, rows)]
        lines += [fill((), columns)] * (rows - len(lines))
        if before is not None:
            changed += changed_cells(before, lines, columns)
        before = lines
    assert changed / seconds < 2500


def test_a_slow_stream_changes_little_more_than_it_says():
    feed, streams = Feed(1), Streams()
    before, changed, said = None, 0, 0
    for tick in range(400):
        words = prose(6, seed=tick) + " "
        said += len(words)
        feed.say(0, words)
        lines = [fill(row, 80) for row in streams.look(feed.desk, 80, 7)]
        lines += [fill((), 80)] * (7 - len(lines))
        if before is not None:
            changed += changed_cells(before, lines, 80)
        before = lines
    assert changed < 6 * said  # line by line: 13 times


# --- the widget -------------------------------------------------------------------------------------------------------

HOSTILE = (
    "".join(map(chr, range(0x20)))
    + "\x7f\x80\x9b31m\x9d0;t\x07\u202e\u2066\u061c\u200b\ud83d👨\u200d👩[red][/nope]你e\u0301"
)


@pytest.mark.parametrize("columns", [20, 21, 33, 60, 80, 119, 120, 200])
@pytest.mark.parametrize("rows", [1, 2, 4, 14, 50])
def test_any_size(columns: int, rows: int):
    feed, pane = Feed(7), Streams()
    feed.say(0, prose(500), R)
    feed.say(0, HOSTILE * 30)
    feed.say(1, HOSTILE)
    for action in ("", "up", "page_up", "top", "down", "right", "bottom"):
        if action:
            pane.act(feed.desk, action)
        lines = pane.look(feed.desk, columns, rows - 1)
        assert len(lines) <= max(1, rows - 1)
        assert all(width(row) <= columns for row in lines)


@pytest.mark.parametrize("size", [(20, 1), (40, 3), (80, 8), (120, 17), (200, 50)])
async def test_nothing_hostile_reaches_the_terminal(size: tuple[int, int]):
    hostile = running(4)
    hostile = [
        RunningRequest(key=r.key, custom_id=HOSTILE + str(r.key), job="evals-1", prompt_tokens=3) for r in hostile
    ]
    desk = make_desk(running=hostile)
    for request in hostile[:3]:
        for channel in (R, A, T):
            piece = Delta(key=request.key, text=HOSTILE * 5, channel=channel)
            desk.transcripts.take(Text(seq=1, job="evals-1", items=[piece]), hostile)
    app = PaneApp(StreamsPane(), desk)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        rows = screen_text(app)
    shown = "".join(rows)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    assert all(cells(row) <= size[0] for row in rows)
    assert size[1] == 1 or "[/nope]" in shown or size[0] < 80


async def test_the_pane_at_80_columns():
    feed = Feed()
    feed.say(0, prose(40))
    pane = StreamsPane()
    app = PaneApp(pane, feed.desk)
    async with app.run_test(size=(80, 8)) as pilot:
        await pilot.pause()
        rows = screen_text(app)
        assert rows[0] == "─ 5 streams req-004189  answer ────────────────── FOLLOW    312/800 tok   34/s ─"
        assert " ".join(rows[1:]).strip() == prose(40)
        assert pane.act("up")
        pane.redraw()
        await pilot.pause()
        assert "STAY" in screen_text(app)[0]
        assert pane.focus_of(feed.desk) == ("evals-1", "req-004189")
        await pilot.resize_terminal(40, 6)
        assert screen_text(app)[0].startswith("─ 5 streams req-0041")


async def test_a_text_from_the_files_is_read_from_its_beginning() -> None:
    desk = make_desk(View(job="evals-1", request="old-1", chosen=True), running=[])
    answer = "\n".join(f"line {n}" for n in range(40))
    desk.transcripts.adopt("evals-1", "old-1", [(Channel.ANSWER, answer)], finish="stop", tokens=80, now=NOW)
    async with PaneApp(pane := StreamsPane(), desk).run_test(size=(80, 8)) as pilot:
        pane.redraw()
        await pilot.pause()
        rows = screen_text(pilot.app)
        assert "old-1" in rows[0]
        assert "FOLLOW" not in rows[0]
        assert rows[1] == "line 0"
        assert pane.act("bottom")
        pane.redraw()
        await pilot.pause()
        assert "line 39" in "\n".join(screen_text(pilot.app))
        assert desk.view.follow
        assert pane.act("top")
        pane.redraw()
        await pilot.pause()
        assert "line 0" in "\n".join(screen_text(pilot.app))
