"""Copying: what is sent to which terminal, when a file takes its place, and what people are told."""

from __future__ import annotations

import base64
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.workspace import Workspace
from tui import clipboard
from tui.clipboard import CAP, controls, decide, file_name, osc52, unusual
from tui.remote import Terminal

XTERM = Terminal(name="xterm-256color")


def unwrapped(sequence: str, multiplexer: str) -> str:
    """What the terminal behind the multiplexer gets to see."""
    if multiplexer == "screen":
        return "".join(re.findall("\x1bP(.*?)\x1b\\\\", sequence, re.DOTALL))
    return sequence


def is_empty(folder: Path) -> bool:
    return not list(folder.iterdir())


def payload(sequence: str) -> bytes:
    found = re.fullmatch("\x1b]52;c;([A-Za-z0-9+/=]*)\x07", sequence)
    assert found is not None
    return base64.b64decode(found[1])


@given(st.text(st.characters(codec="utf-8"), max_size=3000))
def test_the_true_text_arrives_through_every_multiplexer(text: str) -> None:
    for multiplexer in ("", "screen"):
        sequence = decide(text, Terminal(name="xterm", multiplexer=multiplexer)).sequence
        assert payload(unwrapped(sequence, multiplexer)) == text.encode()


def test_tmux_gets_the_wrapped_and_the_plain_form() -> None:
    sequence = decide("hello", Terminal(name="tmux-256color", multiplexer="tmux")).sequence
    wrapped, _, plain = sequence.partition("\x1b\\")
    assert wrapped.startswith("\x1bPtmux;\x1b\x1b]52;c;")
    assert payload(wrapped.removeprefix("\x1bPtmux;").replace("\x1b\x1b", "\x1b")) == b"hello"
    assert payload(plain) == b"hello"


def test_screen_gets_short_pieces() -> None:
    for piece in re.findall("\x1bP(.*?)\x1b\\\\", osc52("A" * 5000, "screen"), re.DOTALL):
        assert len(piece) <= clipboard.SCREEN_CHUNK


def test_the_cap_is_on_what_is_sent() -> None:
    longest = CAP // 4 * 3
    assert decide("x" * longest, XTERM).sequence
    over = decide("x" * (longest + 1), XTERM)
    assert over == ("", "too long for the clipboard")


@pytest.mark.parametrize(
    "terminal",
    [
        Terminal(name="linux"),
        Terminal(name="dumb", dumb=True),
        Terminal(name="xterm", osc52=False),
        Terminal(name="xterm", dumb=True),
    ],
)
def test_terminals_without_a_clipboard_get_nothing(terminal: Terminal) -> None:
    assert decide("hello", terminal).sequence == ""
    assert "no clipboard" in decide("hello", terminal).why


async def test_copying_says_what_was_sent(tmp_path: Path) -> None:
    written: list[str] = []
    outcome = await clipboard.copy(
        "one\ntwo\x1b[31m", terminal=XTERM, write=written.append, folder=tmp_path, name="req-1"
    )
    assert payload("".join(written)) == b"one\ntwo\x1b[31m"
    assert outcome.sentence == "sent to your terminal's clipboard (12 B, 2 lines, holds control characters: ESC)"
    assert outcome.path is None
    assert is_empty(tmp_path)


async def test_in_tmux_the_sentence_names_the_setting(tmp_path: Path) -> None:
    written: list[str] = []
    terminal = Terminal(name="tmux-256color", multiplexer="tmux")
    outcome = await clipboard.copy("x" * 2150, terminal=terminal, write=written.append, folder=tmp_path, name="a")
    assert outcome.sentence.startswith("sent to your terminal's clipboard (2.1 KiB)")
    assert "set-clipboard on" in outcome.sentence


async def test_what_is_too_long_is_saved_and_the_path_is_told(tmp_path: Path) -> None:
    text = "lang " * 20_000
    folder = tmp_path / "results" / "evals-1" / "saved"
    outcome = await clipboard.copy(
        text, terminal=XTERM, write=lambda _: pytest.fail("sent"), folder=folder, name="req-1", root=tmp_path
    )
    assert outcome.sentence == "too long for the clipboard: saved to results/evals-1/saved/req-1.txt (97.7 KiB)"
    assert outcome.path is not None
    assert outcome.path.read_text() == text


async def test_without_a_terminal_it_is_saved(tmp_path: Path) -> None:
    outcome = await clipboard.copy("hi", terminal=XTERM, write=None, folder=tmp_path, name="req-1", root=tmp_path)
    assert outcome.sentence == "this terminal has no clipboard that can be reached: saved to req-1.txt (2 B)"


async def test_nothing_is_not_copied(tmp_path: Path) -> None:
    outcome = await clipboard.copy("", terminal=XTERM, write=None, folder=tmp_path, name="req-1")
    assert outcome.level == "warn"
    assert is_empty(tmp_path)


def test_saving_never_overwrites_and_keeps_the_text_private(tmp_path: Path) -> None:
    paths = [clipboard.save(text, tmp_path, "req").path for text in ("a", "b", "c")]
    assert [path and path.name for path in paths] == ["req.txt", "req-2.txt", "req-3.txt"]
    assert [path and path.read_text() for path in paths] == ["a", "b", "c"]
    assert stat.S_IMODE((tmp_path / "req.txt").stat().st_mode) == 0o600


def test_saving_does_not_follow_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "req.txt").symlink_to(victim)
    outcome = clipboard.save("text", tmp_path / "saved", "req")
    assert outcome.path == tmp_path / "saved" / "req-2.txt"
    assert not victim.exists()


def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = clipboard.save("text", tmp_path / "file" / "saved", "req", why="too long for the clipboard")
    assert outcome.level == "error"
    assert outcome.sentence.startswith("too long for the clipboard, and can't be saved in ")


@given(st.text(max_size=200))
def test_file_names_are_harmless(name: str) -> None:
    made = file_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}", made)
    assert made not in (".", "..")


def test_a_lone_surrogate_is_written_as_json_writes_it(tmp_path: Path) -> None:
    path = clipboard.save("a\ud83db", tmp_path, "req").path
    assert path is not None
    assert path.read_text() == "a\\ud83db"


def test_names_of_what_steers_a_terminal() -> None:
    assert controls("a\x1b\x07\x07\x9b\u202e\x7f") == ["ESC", "BEL", "U+009B", "U+202E", "DEL"]
    assert controls("plain\ttext\r\nwith é and 日本 and 👩‍💻") == []
    assert unusual("one\ntwo\n") == "2 lines"
    assert unusual("one") == ""


def test_where_texts_are_saved(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (tmp_path / "results" / "evals-1").mkdir(parents=True)
    assert clipboard.folder_for(workspace, "evals-1") == tmp_path / "results" / "evals-1" / "saved"
    assert clipboard.folder_for(workspace, "gone-1") == tmp_path / "results" / ".saved"
    assert clipboard.folder_for(workspace, "") == tmp_path / "results" / ".saved"
    assert clipboard.folder_for(workspace, "../..") == tmp_path / "results" / ".saved"
