"""The door for foreign text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui.text import cells, fit, one_line, pad, safe

_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\u200e\u200f\ud800-\udfff]")
_HOSTILE = st.text(
    st.one_of(st.characters(codec=None), st.sampled_from("\x1b]0;\x07\x9b\x9d\u202e\u2028\t\r\n\ud83d[m"))
)


@given(_HOSTILE)
def test_nothing_that_steers_a_terminal_is_left(text: str):
    assert not _STEERING.search(safe(text))
    assert "\n" not in one_line(text)
    safe(text).encode()  # no lone surrogate: it can be written


@given(st.lists(_HOSTILE))
def test_a_sequence_split_over_pieces_does_not_slip_through(pieces: list[str]):
    assert not _STEERING.search("".join(safe(piece) for piece in pieces))


@given(_HOSTILE)
def test_twice_is_once(text: str):
    assert safe(safe(text)) == safe(text)


def test_marks_are_visible():
    assert safe("a\x1b[31m\x00\x7f") == "a\u241b[31m\u2400\u2421"
    assert safe("\x9b31m \u202e \u2028 \ud83d") == "<009B>31m <RLO> <LS> <D83D>"
    assert safe("a\tb\nc\r\nd") == "a   b\nc\nd"
    assert one_line("a\nb") == "a\u240ab"
    assert safe("grüße 你好") == "grüße 你好"


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("你好", 4), ("e\u0301", 1), ("", 0), ("a\u200bb", 2)])
def test_cells(text: str, width: int):
    assert cells(text) == width


@given(st.text(), st.integers(0, 30))
def test_fit_and_pad_keep_to_the_width(text: str, width: int):
    text = one_line(text)
    assert cells(fit(text, width)) <= width
    assert cells(pad(text, width)) == width
    if cells(text) <= width:
        assert fit(text, width) == text
