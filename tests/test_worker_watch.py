"""Text of requests in flight for those who watch: from the beginning, whoever comes when; and how far each has come."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from engine.protocol import Abort, Channel, Completion, Deltas, EngineSettings, Finish, Finished, Started, Stats, Watch
from tests.test_worker import FOREVER, NANO, Peer, chat, raw, worker

pytestmark = pytest.mark.e2e
__all__ = ["worker"]  # a fixture, used by name

SLOWLY = """
    import ctypes
    from engine.backends.llamacpp_loop import Loop
    real = Loop._decode
    def decode(self):
        ctypes.CDLL(None).usleep(3000)  # so that requests are still there when somebody begins to watch
        return real(self)
    Loop._decode = decode
"""


class Reader:
    """What one viewer knows: pieces at their offsets. A piece that begins beyond the end is a gap."""

    def __init__(self) -> None:
        self.texts: dict[tuple[int, int, Channel], str] = defaultdict(str)
        self.gaps = 0
        self.repeats = 0

    def take(self, message: Any) -> None:
        for piece in message.items if isinstance(message, Deltas) else []:
            place = (piece.key, piece.choice, piece.channel)
            known = self.texts[place]
            self.gaps += piece.offset > len(known)
            self.repeats += piece.offset == 0 and known != ""
            assert known[piece.offset :] == piece.text[: len(known) - piece.offset], "it repeats what it said"
            self.texts[place] = known + piece.text[len(known) - piece.offset :]

    def text(self, key: int, channel: Channel = Channel.ANSWER, choice: int = 0) -> str:
        return self.texts.get((key, choice, channel), "")


def read_until_finished(peer: Peer, reader: Reader, n: int) -> dict[int, Completion]:
    done: dict[int, Completion] = {}
    while len(done) < n:
        reader.take(message := peer.read())
        if isinstance(message, Finished):
            done[message.key] = message.completion
    return done


def progressed(peer: Peer, key: int, tokens: int) -> dict[int, int]:
    """Until this request has generated so many."""
    while (found := peer.until(Stats).progress).get(key, 0) < tokens:
        pass
    return found


def test_who_comes_late_gets_the_whole_text(worker) -> None:
    peer = worker(SLOWLY)
    peer.load()
    peer.send(raw(1, max_tokens=300, **FOREVER), chat(2, "What is 12 + 34?", max_tokens=300, **FOREVER))
    progressed(peer, 1, 60)
    assert not [m for m in peer.seen if isinstance(m, Deltas)], "nobody watches yet"
    peer.send(Watch(keys=[1, 2]))
    reader = Reader()
    done = read_until_finished(peer, reader, 2)
    assert reader.gaps == 0
    assert reader.text(1) == done[1].choices[0].content
    assert reader.text(2) == (done[2].choices[0].content or "")
    assert reader.text(2, Channel.REASONING) == (done[2].choices[0].reasoning or "")


def test_two_who_watch_one_request_both_end_with_its_exact_text(worker) -> None:
    peer = worker(SLOWLY)
    peer.load()
    first, second = Reader(), Reader()
    peer.send(raw(1, max_tokens=300, **FOREVER), Watch(keys=[1]))
    while not isinstance(message := peer.read(), Stats) or message.progress.get(1, 0) < 60:
        first.take(message)
    peer.send(Watch(keys=[1], fresh=[1]))
    while True:
        message = peer.read()
        first.take(message)
        if isinstance(message, Finished):
            break
        if second.texts or (isinstance(message, Deltas) and message.items[0].offset == 0):
            second.take(message)
    content = message.completion.choices[0].content
    assert first.text(1) == second.text(1) == content
    assert first.gaps == second.gaps == 0
    assert first.repeats == 1


def test_who_looks_away_and_back_misses_nothing(worker) -> None:
    peer = worker(SLOWLY)
    peer.load()
    peer.send(raw(1, max_tokens=300, **FOREVER), Watch(keys=[1]))
    reader = Reader()
    reader.take(peer.until(Deltas))
    peer.send(Watch(keys=[]))
    progressed(peer, 1, 100)
    peer.send(Watch(keys=[1]))
    done = read_until_finished(peer, reader, 1)
    assert reader.text(1) == done[1].choices[0].content
    assert reader.gaps == 0


def test_choices_that_have_ended_are_shown_to_who_comes_late(worker) -> None:
    """One slot: the first choice is over while the second still runs."""
    peer = worker(SLOWLY)
    peer.load(EngineSettings(model_path=str(NANO), slots=1, context=512, threads=1, gpu_layers=0))
    peer.send(raw(1, max_tokens=100, n=2, **FOREVER))
    found = progressed(peer, 1, 120)
    assert found.keys() == {1}, "choices of one request add up under its key"
    peer.send(Watch(keys=[1]))
    reader = Reader()
    (completion,) = read_until_finished(peer, reader, 1).values()
    assert [reader.text(1, choice=i) for i in (0, 1)] == [choice.content for choice in completion.choices]


def test_text_held_back_for_a_stop_string_comes_with_the_end(worker) -> None:
    peer = worker()
    peer.load()
    peer.send(raw(1, max_tokens=40, **FOREVER))
    (plain,) = peer.finished(1).values()
    text = plain.completion.choices[0].content
    stop = text[-6:] + "\x00"  # its end could always become this
    peer.send(Watch(keys=[2]), raw(2, max_tokens=40, stop=[stop], **FOREVER))
    reader = Reader()
    (completion,) = read_until_finished(peer, reader, 1).values()
    assert reader.text(2) == completion.choices[0].content == text


def test_progress_names_what_has_a_slot_and_ends_with_it(worker) -> None:
    peer = worker(SLOWLY)
    peer.load()
    assert peer.until(Stats).progress == {}
    peer.send(*(raw(key, max_tokens=400, **FOREVER) for key in range(1, 7)))  # four slots
    peer.until(Started)
    progressed(peer, 1, 20)
    before = peer.until(Stats)
    after = peer.until(Stats)
    assert before.progress.keys() == {1, 2, 3, 4}
    assert all(after.progress[key] > before.progress[key] for key in before.progress)
    assert abs(sum(after.progress.values()) - after.stats.generated_tokens) <= 4, "read while the loop goes on"
    peer.send(Abort(keys=[1, 2, 3, 4, 5, 6]))
    done = peer.finished(6)
    assert {m.completion.finish for m in done.values()} == {Finish.ABORTED}
    while peer.until(Stats).progress:
        pass
