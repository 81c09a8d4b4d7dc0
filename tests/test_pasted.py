"""Pastes are taken out of the keys wherever a read cuts them."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from textual.events import Paste

from tui.pasted import BEGIN, END, LOST_S, MOST_PASTED, Pastes

PIECES = st.lists(st.sampled_from(["j", "\x1b", "\x1b[A", "\x1b[2", "~", "x\x1b]0;t\x07", "日本", "[200~"]), max_size=8)


def told(pastes: Pastes, pieces: list[str]) -> list[str | tuple[str]]:
    """Keys joined, pastes as tuples."""
    out: list[str | tuple[str]] = []
    for piece in [*pieces, ""]:
        for part in pastes.split(piece, 0.0):
            if isinstance(part, Paste):
                out.append((part.text,))
            elif out and isinstance(out[-1], str):
                out[-1] += part
            else:
                out.append(part)
    return out


@pytest.mark.parametrize("at", range(1, len(f"j{BEGIN}X\x1b[AY{END}k")))
def test_a_cut_anywhere_changes_nothing_but_an_escape(at: int) -> None:
    text = f"j{BEGIN}X\x1b[AY{END}k"
    found = told(Pastes(), [text[:at], text[at:]])
    assert found[1:] == [("X\x1b[AY",), "k"]
    assert found[0] in ("j", "j\x1b")  # cut behind its escape, which can't wait


@given(PIECES, PIECES, PIECES, st.integers(1, 5))
def test_nothing_of_a_paste_becomes_keys(before: list[str], inside: list[str], after: list[str], step: int) -> None:
    assume(BEGIN not in "".join(before) and BEGIN not in "".join(after) and END not in "".join(inside))
    text = "".join(before) + " " + BEGIN + "".join(inside) + "|" + END + "".join(after)
    # What stands before in one piece: a lone escape at a cut is a matter of the test above.
    head = len("".join(before)) + 1 + len(BEGIN)
    rest = text[head:]
    pieces = [text[:head], *(rest[i : i + step] for i in range(0, len(rest), step))]
    found = told(Pastes(), pieces)
    assert ("".join(inside) + "|",) in found
    keys = "".join(part for part in found if isinstance(part, str))
    assert keys == "".join(before) + " " + "".join(after)


def test_a_paste_is_bounded_and_may_lose_its_end() -> None:
    pastes = Pastes()
    assert list(pastes.split(BEGIN, 0.0)) == []
    for _ in range(100):
        assert list(pastes.split("x" * 4096, 1.0)) == []
    assert list(pastes.split("", 1.0 + LOST_S)) == []
    (over,) = pastes.split("", 1.1 + LOST_S)
    assert isinstance(over, Paste)
    assert over.text == "x" * MOST_PASTED
    assert list(pastes.split("j", 99.0)) == ["j"]


def test_the_escape_key_does_not_wait() -> None:
    assert list(Pastes().split("\x1b", 0.0)) == ["\x1b"]
