"""The door for foreign text."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tui.text import TAB, cells, char_cells, fit, one_line, pad, safe

_STEERING = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufe00-\ufe0f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
_HOSTILE = st.text(
    st.one_of(
        st.characters(codec=None),
        st.sampled_from("\x1b]0;\x07\x9b\x9d\u202e\u2028\t\r\n\ud83d[m\u200d\ufe0f\u20e3👨👩🏽🇩🇪e\u0301한각का⚠☰你"),
    )
)


@given(_HOSTILE)
def test_nothing_that_steers_a_terminal_is_left(text: str):
    assert not _STEERING.search(safe(text))
    assert "\n" not in one_line(text)
    safe(text).encode()  # no lone surrogate: it can be written


def test_no_control_format_private_or_unassigned_character_is_left():
    visible_format = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
    for code in range(0x110000):
        for char in safe(chr(code)):
            assert char == "\n" or ord(char) in visible_format or unicodedata.category(char)[0] != "C", hex(code)


def test_every_character_is_as_wide_here_as_in_textual():
    for code in range(0x110000):
        if code == 0x0A:
            continue
        shown = safe(chr(code))
        assert cells(shown) == sum(map(char_cells, shown)) == cell_len(shown), hex(code)


@given(_HOSTILE)
def test_every_line_is_as_wide_here_as_in_textual(text: str):
    for line in safe(text).split("\n"):
        assert cells(line) == cell_len(line)


@given(st.lists(_HOSTILE))
def test_a_sequence_split_over_pieces_does_not_slip_through(pieces: list[str]):
    assert not _STEERING.search("".join(safe(piece) for piece in pieces))


@given(_HOSTILE, st.integers(0, 40))
def test_it_does_not_matter_where_a_text_is_split(text: str, at: int):
    text = text.replace("\r\n", "\n")  # the one pair that is read as one
    assert safe(text[:at]) + safe(text[at:]) == safe(text) == "".join(safe(char) for char in text)


@given(_HOSTILE)
def test_twice_is_once(text: str):
    assert safe(safe(text)) == safe(text)


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"], max_codepoint=0x2FF)))
def test_ordinary_text_is_left_as_it_is(text: str):
    assert safe(text) == text


@pytest.mark.parametrize(
    ("true", "shown"),
    [
        ("a\x1b[31m\x00\x7f", "a\u241b[31m\u2400\u2421"),
        ("\x9b31m \u202e \u2028 \ud83d", "<009B>31m <RLO> <LS> <D83D>"),
        ("\u061c\u200e\u200f\u2066\u2069", "<ALM><LRM><RLM><LRI><PDI>"),
        ("a\u200bb\ufeffc\u00add", "a<200B>b<FEFF>c<00AD>d"),
        ("\U000e0041\ue0b0\U0010ffff\u0378", "<E0041><E0B0><10FFFF><0378>"),
        ("👨\u200d👩\u200d👧", "👨👩👧"),
        ("⚠\ufe0f 1\ufe0f\u20e3 👍🏽", "⚠ 1\u20e3 👍"),
        ("a\tb\nc\r\nd\re", f"a{' ' * TAB}b\nc\nd\u240de"),
        ("grüße 你好 का 한국어", "grüße 你好 का 한국어"),
    ],
)
def test_what_is_shown(true: str, shown: str):
    assert safe(true) == shown


def test_newlines_of_a_name():
    assert one_line("a\nb") == "a\u240ab"


@pytest.mark.parametrize(
    ("text", "width"),
    [("abc", 3), ("你好", 4), ("e\u0301", 1), ("", 0), ("\u1112\u1161\u11ab", 2), ("का", 1), ("🇩🇪", 2)],
)
def test_cells(text: str, width: int):
    assert cells(text) == width


@given(_HOSTILE, st.integers(0, 30))
def test_fit_and_pad_keep_to_the_width(text: str, width: int):
    text = one_line(text)
    assert cells(fit(text, width)) <= width
    assert cells(pad(text, width)) == cells(pad(text, width, right=True)) == width
    if cells(text) <= width:
        assert fit(text, width) == text
    elif width >= 1:
        cut = fit(text, width)
        assert cut.endswith("…")
        assert text.startswith(cut[:-1])
        assert cells(cut) >= width - 1  # a wide character may not fit into what is left


def test_a_million_different_characters_are_not_all_remembered():
    from tui import text as module

    everything = "".join(map(chr, range(0x3400, 0x30000)))
    cells(safe(everything))
    assert len(module._WIDTHS) <= 20_000  # pyright: ignore[reportPrivateUsage]
    assert len(module._DOOR) <= 21_000  # pyright: ignore[reportPrivateUsage]


def test_a_cut_takes_no_more_than_it_must() -> None:
    assert fit("abcdef", 4) == "abc…"
    assert fit("ab界界", 5) == "ab界…"
    assert fit("ab界界", 4) == "ab…"  # half a character is none
    assert fit("abcd", 4) == "abcd"
