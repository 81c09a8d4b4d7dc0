"""Texts of watched requests: what was missed, what comes twice, what is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import Channel, Delta, RunningRequest, Text
from tui import transcripts as module
from tui.transcripts import Transcript, Transcripts

R, A, T = Channel.REASONING, Channel.ANSWER, Channel.TOOL


def run(key: int, custom_id: str = "", job: str = "j") -> RunningRequest:
    return RunningRequest(key=key, custom_id=custom_id or f"r{key}", job=job)


def text(*items: Delta, dropped: int = 0) -> Text:
    return Text(seq=1, job="j", items=list(items), dropped=dropped)


def said(transcript: Transcript | None, *channels: Channel) -> list[str]:
    assert transcript is not None
    return ["\n".join(block.lines) for block in transcript.of(channels or tuple(Channel))]


def one(*pieces: Delta) -> Transcript:
    transcript = Transcript("j", "r1", 1)
    for piece in pieces:
        transcript.add(piece)
    return transcript


def test_text_goes_to_the_request_that_has_its_key():
    texts = Transcripts()
    texts.take(text(Delta(key=1, text="a"), Delta(key=2, text="b"), Delta(key=1, text="c", offset=1)), [run(1), run(2)])
    assert said(texts.get("j", "r1")) == ["ac"]
    assert said(texts.get("j", "r2")) == ["b"]
    assert texts.get("j", "r3") is None
    assert texts.get("other", "r1") is None


def test_the_job_of_the_event_counts_where_the_list_names_none():
    texts = Transcripts()
    texts.take(text(Delta(key=1, text="a")), [run(1, job="")])
    assert said(texts.get("j", "r1")) == ["a"]


def test_text_that_is_ahead_of_the_list_waits_for_its_name():
    texts = Transcripts()
    texts.take(text(Delta(key=5, text="early ")), [])
    texts.note_running([run(5)], 0)
    texts.take(text(Delta(key=5, text="late", offset=6)), [run(5)])
    assert said(texts.get("j", "r5")) == ["early late"]


def test_text_without_a_name_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_EARLY", 100)
    texts = Transcripts()
    for key in range(1, 50):
        texts.take(text(Delta(key=key, text="x" * 10)), [])
    texts.note_running([run(key) for key in range(1, 50)], 0)
    known = [key for key in range(1, 50) if texts.get("j", f"r{key}") is not None]
    assert known == list(range(40, 50))


def test_text_after_the_request_left_the_list_still_is_its_own():
    texts = Transcripts()
    texts.take(text(Delta(key=1, text="begin")), [run(1)])
    texts.note_running([], 5.0)
    texts.take(text(Delta(key=1, text=" end", offset=5)), [])
    assert said(texts.get("j", "r1")) == ["begin end"]
    # Another runner counts its keys from 1 again: what does not go on where this stopped is not this one's.
    texts.take(text(Delta(key=1, text="quite another text")), [])
    assert said(texts.get("j", "r1")) == ["begin end"]


def test_channels_and_choices_stand_apart_in_their_order():
    transcript = one(
        Delta(key=1, text="think", channel=R),
        Delta(key=1, text="B", channel=A, choice=1),
        Delta(key=1, text="say", channel=A),
        Delta(key=1, text=" more", channel=R, offset=5),
        Delta(key=1, text="!", channel=A, offset=3),
        Delta(key=1, text="C", channel=A, choice=1, offset=1),
    )
    assert [(b.choice, b.channel, b.lines) for b in transcript.blocks] == [
        (0, R, ["think"]),
        (0, A, ["say"]),
        (0, R, [" more"]),
        (0, A, ["!"]),
        (1, A, ["BC"]),
    ]
    assert [b.order for b in transcript.blocks] == sorted({b.order for b in transcript.blocks})
    assert transcript.several_choices


def test_what_was_seen_is_skipped():
    transcript = one(
        Delta(key=1, text="one two"),
        Delta(key=1, text="one two", offset=0),
        Delta(key=1, text="one", offset=0),
        Delta(key=1, text="one two three", offset=0),
        Delta(key=1, text="ree four", offset=10),
    )
    assert said(transcript) == ["one two three four"]
    assert transcript.true_text() == "one two three four"
    assert transcript.is_whole()


def test_what_was_lost_is_marked():
    transcript = one(Delta(key=1, text="one "), Delta(key=1, text="four", offset=1244))
    assert said(transcript) == ["one [… 1 240 characters not received] four"]
    assert transcript.true_text() == "one four"
    assert not transcript.is_whole()


def test_a_gap_heals_when_the_text_so_far_comes_again():
    transcript = one(Delta(key=1, text="think", channel=R), Delta(key=1, text="aa"), Delta(key=1, text="cc", offset=4))
    before = transcript.generation
    transcript.add(Delta(key=1, text="think", channel=R))
    transcript.add(Delta(key=1, text="aabbccdd"))
    assert said(transcript) == ["think", "aabbccdd"]
    assert transcript.is_whole()
    assert transcript.generation != before


WHOLE = "Grüße 你好\r\nline\ttwo\x1b[31m \u202e\ud83d end\n\n👍🏽"


@given(st.lists(st.tuples(st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE))), max_size=12))
def test_pieces_that_overlap_in_any_way_come_to_the_same_text(cuts: list[tuple[int, int]]):
    transcript = Transcript("j", "r1", 1)
    reached = 0
    for start, end in [*cuts, (0, len(WHOLE))]:
        if start <= reached:
            transcript.add(Delta(key=1, text=WHOLE[start:end], offset=start))
            reached = max(reached, end)
    assert said(transcript) == said(one(Delta(key=1, text=WHOLE)))
    assert transcript.true_text() == WHOLE


def test_what_is_shown_is_safe_and_what_is_copied_is_true():
    transcript = one(
        Delta(key=1, text="a\x1b[3"), Delta(key=1, text="1mb\r", offset=4), Delta(key=1, text="\nc", offset=8)
    )
    assert said(transcript) == ["a\u241b[31mb\nc"]
    assert transcript.true_text() == "a\x1b[31mb\r\nc"


def test_lost_text_is_doubted_until_the_next_piece_fits():
    texts = Transcripts()
    texts.take(text(Delta(key=1, text="ab"), Delta(key=2, text="xy")), [run(1), run(2)])
    texts.take(text(Delta(key=1, text="cd", offset=2), dropped=3), [run(1), run(2)])
    texts.note_running([], 9.0)
    first, second = texts.get("j", "r1"), texts.get("j", "r2")
    assert first is not None
    assert second is not None
    assert (first.may_lack_its_end, second.may_lack_its_end) == (False, True)
    assert first.is_whole()
    assert not second.is_whole()


def test_what_ends_unwatched_may_lack_its_end():
    texts = Transcripts()
    both = [run(1), run(2), run(3)]
    texts.take(text(*(Delta(key=key, text="ab") for key in (1, 2, 3))), both)
    texts.watched = frozenset({("j", "r1")})
    texts.note_running(both, 1.0)
    # The third is watched again: its text so far is sent again.
    texts.watched = frozenset({("j", "r1"), ("j", "r3")})
    texts.take(text(Delta(key=3, text="ab")), both)
    texts.note_running([], 2.0)
    lacking = {key: t.may_lack_its_end for key in (1, 2, 3) if (t := texts.get("j", f"r{key}")) is not None}
    assert lacking == {1: False, 2: True, 3: False}
    # Late words show that nothing was missed.
    texts.take(text(Delta(key=2, text="c", offset=2)), [])
    second = texts.get("j", "r2")
    assert second is not None
    assert not second.may_lack_its_end


def test_the_end_is_known_from_the_list_and_its_reason_from_the_acknowledgement():
    texts = Transcripts()
    texts.take(text(Delta(key=1, text="a")), [run(1)])
    texts.note_running([run(1)], 5.0)
    transcript = texts.get("j", "r1")
    assert transcript is not None
    assert transcript.ended is None
    texts.note_running([], 6.0)
    texts.note_running([], 7.0)
    assert transcript.ended == 6.0
    texts.ended("j", "r1", finish="stop", tokens=412, now=8.0)
    assert (transcript.ended, transcript.finish, transcript.tokens) == (6.0, "stop", 412)
    texts.ended("j", "never seen", finish="stop", tokens=1, now=8.0)


def test_a_request_that_runs_again_begins_anew():
    texts = Transcripts()
    texts.take(text(Delta(key=1, text="first try")), [run(1)])
    texts.note_running([], 1.0)
    texts.take(text(Delta(key=9, text="second")), [run(9, "r1")])
    transcript = texts.get("j", "r1")
    assert said(transcript) == ["second"]
    assert transcript is not None
    assert transcript.ended is None


def test_the_last_ended_ones_and_the_one_in_focus_are_kept():
    texts = Transcripts()
    texts.focus = ("j", "r1")
    for key in range(1, 60):
        texts.take(text(Delta(key=key, text="a")), [run(key)])
        texts.note_running([], float(key))
    kept = [key for key in range(1, 60) if texts.get("j", f"r{key}") is not None]
    assert kept == [1, *range(44, 60)]


def test_all_lines_together_are_bounded_and_the_largest_gives(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_LINES", 1000)
    texts = Transcripts()
    running = [run(1), run(2)]
    texts.take(text(Delta(key=2, text="short\n" * 50)), running)
    for i in range(400):
        texts.take(
            text(Delta(key=1, text="".join(f"{n:06d}\n" for n in range(i * 10, i * 10 + 10)), offset=i * 70)), running
        )
    large, small = texts.get("j", "r1"), texts.get("j", "r2")
    assert large is not None
    assert small is not None
    assert large.lines + small.lines <= 1000
    assert large.lines > 700
    assert small.lines == 51
    (block,) = large.blocks
    assert block.first + len(block.lines) == 4001
    assert block.lines[0] == f"{block.first:06d}"
    assert block.lines[-2] == "003999"


def test_all_characters_together_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_CHARS", 100_000)
    monkeypatch.setattr(module, "LONGEST_LINE", 1000)
    texts = Transcripts()
    for i in range(100):
        texts.take(text(Delta(key=1, text="y" * 5000, offset=i * 5000)), [run(1)])
        transcript = texts.get("j", "r1")
        assert transcript is not None
        # A bite of the oldest goes, not more.
        assert min(5000 * i, 80_000) < transcript.chars <= 100_000
    transcript = texts.get("j", "r1")
    assert transcript is not None
    assert transcript.chars == sum(map(len, transcript.blocks[0].lines))


def test_a_line_without_an_end_goes_on_in_the_next(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LONGEST_LINE", 20)
    transcript = one(Delta(key=1, text="word " * 13), Delta(key=1, text="x" * 70, offset=65))
    (block,) = transcript.blocks
    assert "".join(block.lines) == "word " * 13 + "x" * 70
    assert max(map(len, block.lines)) <= 20
    assert block.lines[0] == "word word word word "


def test_the_true_text_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_RAW", 1000)
    transcript = Transcript("j", "r1", 1)
    for i in range(1000):
        transcript.add(Delta(key=1, text=f"{i:04d}", offset=4 * i))
    assert len(transcript.true_text()) <= 1000
    assert transcript.true_text().endswith("0999")
    assert not transcript.is_whole()


def test_every_change_has_another_version():
    transcript = Transcript("j", "r1", 1)
    versions = [transcript.version]
    transcript.add(Delta(key=1, text="a"))
    versions.append(transcript.version)
    transcript.add(Delta(key=1, text="a"))
    assert transcript.version == versions[-1]
    transcript.drop(0)
    assert transcript.version == versions[-1]
    transcript.end(1.0)
    versions.append(transcript.version)
    transcript.begin_again(2)
    versions.append(transcript.version)
    assert len(set(versions)) == len(versions)
    assert transcript.empty


def test_the_beginning_of_a_repetition_replaces_nothing_yet():
    broken = one(Delta(key=1, text="abc"), Delta(key=1, text="xyz", offset=6))
    shown = said(broken)
    broken.add(Delta(key=1, text="abc"))
    assert said(broken) == shown
    broken.add(Delta(key=1, text="abcdefxyz!"))
    assert said(broken) == ["abcdefxyz!"]
    assert broken.is_whole()


def test_a_request_that_runs_again_has_not_ended_with_its_first_run():
    texts = Transcripts()
    texts.note_running([run(1, "a")], 1.0)
    texts.take(text(Delta(key=1, text="first")), [])
    texts.note_running([run(2, "a")], 2.0)
    again = texts.get("j", "a")
    assert again is not None
    assert again.ended is None
    assert again.empty
