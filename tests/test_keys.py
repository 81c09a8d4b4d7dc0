"""The key table, and what is made from it: rebinding, help, docs, commands."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tui_kit import text_of
from tui.draw.line import width
from tui.keys import GROUPS, KEYS, MOVES, PANES, KeyTable, shown
from tui.keys_doc import help_lines, markdown, wrapped
from tui.palette import ARGUMENTS, Choice, Entry, choose, entries, matching, unknown

ROOT = Path(__file__).parents[1]
ACTIONS = {key.action for key in KEYS}


def nothing(_: str) -> str | None:
    return None


# --- the table --------------------------------------------------------------------------------------------------------


def test_no_key_means_two_things_in_one_place() -> None:
    taken = Counter((place, name) for key in KEYS for place in key.where.split() for name in key.keys.split(","))
    assert [at for at, n in taken.items() if n > 1] == []
    assert len(ACTIONS) == len(KEYS)


def test_every_row_is_whole() -> None:
    assert {*MOVES, *(f"pane_{name}" for name in PANES)} <= ACTIONS
    for key in KEYS:
        assert key.group in GROUPS
        assert set(key.where.split()) <= {"main", "results"}
        assert key.label
        assert key.keys
        assert not key.help.endswith(".")


def test_the_multiplexers_and_the_flow_control_keep_their_keys() -> None:
    for key in KEYS:
        assert not {"ctrl+a", "ctrl+b", "ctrl+s", "ctrl+q", "ctrl+j", "ctrl+o"} & set(key.keys.split(",")), key.action


def test_own_bindings_win_and_say_what_is_lost() -> None:
    table = KeyTable({"pause": "a", "leave": "q,ctrl+x", "nonsense": "x"})
    assert table["pause"].keys == "a"
    assert table["add"].keys == ""
    assert table["leave"].keys == "q,ctrl+x"
    assert any("nonsense" in problem for problem in table.problems)
    text = "\n".join(text_of(help_lines(table, "main", nothing, 80)))
    assert "no key" in text
    assert "nonsense" in text


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_holds_every_key_of_the_place_and_no_other() -> None:
    text = "\n".join(text_of(help_lines(KeyTable(), "main", nothing, 200)))
    for key in KEYS:
        assert (key.help in text) == ("main" in key.where.split()), key.action
    assert "not now" not in text


def test_help_dims_what_cannot_act_and_says_why() -> None:
    lines = help_lines(KeyTable(), "main", lambda a: "no job is there" if a == "pause" else None, 80)
    at = next(i for i, line in enumerate(text_of(lines)) if line.startswith("  p "))
    assert {span.style for span in lines[at]} == {"dim"}
    assert text_of(lines)[at + 1].strip() == "not now: no job is there"
    assert lines[1][0].style == "key"


def test_help_is_searched_by_all_words() -> None:
    text = text_of(help_lines(KeyTable(), "main", nothing, 80, "PAUSE once"))
    assert next(line for line in text if line.startswith("  ")).startswith("  P ")
    assert text_of(help_lines(KeyTable(), "main", nothing, 80, "zzz")) == ["no key does anything like 'zzz'"]


@given(st.integers(1, 220))
def test_help_fits_where_it_can(columns: int) -> None:
    for line in help_lines(KeyTable(), "main", lambda _: "a reason with some words", columns):
        assert width(line) <= max(columns, 24)


@given(st.text(max_size=200), st.integers(1, 60))
def test_wrapping_keeps_the_words(text: str, columns: int) -> None:
    rows = wrapped(text, columns)
    if all(len(word) <= columns // 2 for word in text.split()):
        assert " ".join(rows).split() == text.split()


def test_docs_have_every_key() -> None:
    text = markdown(KeyTable())
    for key in KEYS:
        assert key.help in text
        for name in shown(key.keys).split():
            assert f"`{name}`" in text
    for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        content = file.read_text("utf-8")
        if "<!-- keys -->" in content:
            block = content.partition("<!-- keys -->")[2].partition("<!-- /keys -->")[0]
            assert block.strip() == text.strip(), f"{file.name}: write tui.keys_doc.markdown(KeyTable()) there"


# --- commands ---------------------------------------------------------------------------------------------------------


def known(where: str = "main", blocked: str = "") -> list[Entry]:
    return entries(KeyTable(), where, lambda action: "nothing runs" if action == blocked else None)


def test_every_action_is_a_command() -> None:
    listed = {entry.action for entry in known()}
    main = {key.action for key in KEYS if "main" in key.where.split()}
    assert main - set(MOVES) - {"commands"} <= listed
    assert {entry.action for entry in ARGUMENTS} <= listed
    assert "export" in {entry.action for entry in known("results")}


@pytest.mark.parametrize("entry", known(), ids=lambda entry: entry.name)
def test_a_full_name_finds_its_command_first(entry: Entry) -> None:
    assert matching(known(), entry.name)[0].action == entry.action


@pytest.mark.parametrize(
    ("typed", "action"),
    [
        ("pau", "pause"),
        ("pause-now", "pause_now"),
        ("pn", "pause_now"),
        ("quit", "leave"),
        (":pause", "pause"),
        ("failed requests again", "retry"),
        ("who holds how much", "memory"),
    ],
)
def test_people_find_what_they_mean(typed: str, action: str) -> None:
    assert matching(known(), typed)[0].action == action


@pytest.mark.parametrize(
    ("typed", "choice"),
    [
        ("find two words", Choice("find", "two words")),
        ("job evals-1", Choice("job", "evals-1")),
        ("line 4102", Choice("line", "4102")),
        ("request req 7", Choice("request", "req 7")),
        ("theme light", Choice("theme", "light")),
        ("theme", Choice("theme")),
        ("hz 0.5", Choice("hz", "0.5")),
        ("pause", Choice("pause")),
    ],
)
def test_arguments(typed: str, choice: Choice) -> None:
    assert choose(matching(known(), typed)[0], typed) == choice


@pytest.mark.parametrize(
    ("typed", "part"),
    [
        ("line x", "'x' is no line number"),
        ("line 0", "no line number"),
        ("line ٣", "no line number"),
        ("hz 99", "0.5 to 10"),
        ("hz nan", "0.5 to 10"),
        ("theme pink", "light or dark"),
        ("job", "job needs NAME"),
    ],
)
def test_arguments_without_sense_get_a_sentence(typed: str, part: str) -> None:
    answer = choose(matching(known(), typed)[0], typed)
    assert isinstance(answer, str)
    assert part in answer


def test_what_cannot_act_says_why() -> None:
    entry = matching(known(blocked="pause"), "pause")[0]
    assert choose(entry, "pause") == "pause: not now, nothing runs"


def test_unknown_commands_get_a_sentence() -> None:
    assert matching(known(), "xyzzy") == []
    assert "no command 'xyzzy'" in unknown("xyzzy", known())
    assert "\x1b" not in unknown("\x1b[2J", known())


@given(st.text(max_size=40))
def test_whatever_is_typed_gets_an_answer(typed: str) -> None:
    for entry in matching(known(), typed)[:3]:
        answer = choose(entry, typed)
        assert isinstance(answer, (Choice, str))
    assert unknown(typed, known())
