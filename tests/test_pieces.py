"""Pieces of text: joined where they follow each other, kept apart where something is missing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.pieces import join, joined
from engine.protocol import Channel, Delta

TEXT = "".join(chr(0x100 + n) for n in range(40))  # every character another one: a wrong offset shows


def _piece(start: int, end: int, **more: int) -> Delta:
    return Delta(key=more.get("key", 1), text=TEXT[start:end], offset=start, tokens=end - start)


def _cuts() -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda ends: (min(ends), max(ends)))


def _reader(pieces: list[Delta]) -> dict[int, str]:
    """Every character at its place, as somebody reads who takes each piece as it comes."""
    seen: dict[int, str] = {}
    for piece in pieces:
        seen.update(enumerate(piece.text, piece.offset))
    return seen


@given(st.lists(_cuts(), max_size=12))
def test_joining_loses_and_invents_nothing(cuts: list[tuple[int, int]]) -> None:
    pieces = [_piece(*cut) for cut in cuts]
    out = joined(pieces)
    assert _reader(out) == _reader(pieces)
    assert all(piece.text == TEXT[piece.offset : piece.offset + len(piece.text)] for piece in out)


def test_a_gap_stays_a_gap_and_a_repeat_takes_the_older_in() -> None:
    assert join(_piece(0, 5), _piece(6, 9)) is None
    follows = join(_piece(0, 5), _piece(5, 9))
    assert follows is not None
    assert (follows.text, follows.tokens) == (TEXT[:9], 9)
    repeat = join(_piece(3, 5), _piece(0, 7))
    assert repeat is not None
    assert (repeat.text, repeat.offset, repeat.tokens) == (TEXT[:7], 0, 7)


def test_streams_that_alternate_become_one_piece_each() -> None:
    out = joined([_piece(n, n + 1, key=key) for n in range(5) for key in (1, 2, 3)])
    assert [(piece.key, piece.text) for piece in out] == [(key, TEXT[:5]) for key in (1, 2, 3)]


def test_channels_of_one_choice_keep_their_order() -> None:
    think = Delta(key=1, text="think", channel=Channel.REASONING)
    answer = Delta(key=1, text="answer", channel=Channel.ANSWER)
    more = Delta(key=1, text=" more", channel=Channel.REASONING, offset=5)
    assert joined([think, answer, more]) == [think, answer, more]
