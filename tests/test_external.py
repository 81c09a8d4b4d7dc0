"""Editor and pager: which program with which arguments, what it gets to see, and what people are told afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.app import App

from tui import external
from tui.external import child_environment, editor_command, pager_command, pretty, program, target


class Suspends(App[None]):
    """An app whose terminal can be given away, as far as a test has one."""

    def __init__(self) -> None:
        super().__init__()
        self.suspended = 0

    @contextlib.contextmanager
    def suspend(self) -> Iterator[None]:
        self.suspended += 1
        yield


def is_gone(named_in: Path) -> bool:
    """The file whose path a script has written there, with its folder."""
    path = Path(named_in.read_text().strip())
    return not path.exists() and not path.parent.exists()


def script(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def _no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VISUAL", "EDITOR", "PAGER"):
        monkeypatch.delenv(name, raising=False)


# --- which program ----------------------------------------------------------------------------------------------------


def test_the_first_variable_that_is_set_wins() -> None:
    which = dict.fromkeys(["vim", "nano", "vi"], "/bin/x").get
    both = {"VISUAL": "vim -p", "EDITOR": "nano"}
    assert program(("VISUAL", "EDITOR"), ("vi",), both, which=which) == ["vim", "-p"]
    assert program(("VISUAL", "EDITOR"), ("vi",), {"VISUAL": " ", "EDITOR": "nano"}, which=which) == ["nano"]
    assert program(("VISUAL", "EDITOR"), ("emacs", "vi"), {}, which=which) == ["vi"]


def test_words_are_split_as_a_shell_does() -> None:
    words = program(("EDITOR",), (), {"EDITOR": "'/opt/my editor/ed' -x 'a b'"}, which=lambda _: "/x")
    assert words == ["/opt/my editor/ed", "-x", "a b"]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"EDITOR": "nosuch\x1b[31m"}, "$EDITOR names nosuch␛[31m, which is not installed here"),
        ({"EDITOR": "vim 'open"}, "$EDITOR can't be read"),
        ({}, "vi and nano are not installed"),
    ],
)
def test_without_a_program_the_reason_is_told(environment: dict[str, str], words: str) -> None:
    found = program(("VISUAL", "EDITOR"), ("vi", "nano"), environment, which=lambda _: None)
    assert isinstance(found, str)
    assert words in found
    assert "\x1b" not in found


@pytest.mark.parametrize(
    ("editor", "arguments"),
    [
        ("vi", ["+12", "/b.jsonl"]),
        ("/usr/bin/nvim", ["+12", "/b.jsonl"]),
        ("nano", ["+12", "/b.jsonl"]),
        ("emacs", ["+12", "/b.jsonl"]),
        ("code", ["--wait", "--goto", "/b.jsonl:12"]),
        ("hx", ["/b.jsonl:12"]),
        ("ed", ["/b.jsonl"]),
    ],
)
def test_editors_open_at_the_line(editor: str, arguments: list[str]) -> None:
    assert editor_command([editor], Path("/b.jsonl"), 12) == [editor, *arguments]


def test_a_copy_opens_read_only_and_an_editor_with_windows_is_waited_for() -> None:
    assert editor_command(["vim"], Path("/c"), read_only=True) == ["vim", "-R", "/c"]
    assert editor_command(["code", "-w"], Path("/c"), read_only=True) == ["code", "-w", "/c"]


def test_less_never_ends_before_it_was_read() -> None:
    assert pager_command(["less", "-R"], Path("/t")) == ["less", "-R", "-+F", "/t"]
    assert pager_command(["most"], Path("/t")) == ["most", "/t"]


def test_the_environment_is_the_persons_own() -> None:
    given = {"HOME": "/h", "LINES": "24", "COLUMNS": "80", "TEXTUAL_FPS": "30", "LESS": "-F"}
    assert child_environment(given, colour=True) == {"HOME": "/h", "LESS": "-F"}
    assert child_environment(given, colour=False)["NO_COLOR"] == "1"


# --- what is opened ---------------------------------------------------------------------------------------------------

LINE = '{"custom_id": "a", "body": {"n": 1}}'


def test_a_small_file_at_rest_opens_itself() -> None:
    where = target("/b.jsonl", 7, LINE, file_bytes=1000, readonly=False, active=False)
    assert (where.path, where.line, where.why) == (Path("/b.jsonl"), 7, "")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"file_bytes": external.HUGE + 1}, "the file has"),
        ({"readonly": True}, "only watches"),
        ({"active": True}, "would pause it"),
        ({"file_bytes": None}, "is gone"),
        ({"line": 0}, "not known"),
    ],
)
def test_else_a_copy_of_the_line(changed: dict[str, object], why: str) -> None:
    facts = {"line": 7, "file_bytes": 1000, "readonly": False, "active": False} | changed
    where = target("/b.jsonl", facts.pop("line"), LINE, **facts)  # pyright: ignore[reportArgumentType]  # made above
    assert why in where.why
    assert where.copy == '{\n  "custom_id": "a",\n  "body": {\n    "n": 1\n  }\n}\n'


def test_a_line_that_is_no_json_stays_as_it_is() -> None:
    assert pretty('{"a": ') == '{"a": \n'
    assert pretty("[" * 100_000) == "[" * 100_000 + "\n"


# --- doing it ---------------------------------------------------------------------------------------------------------


async def test_the_editor_gets_the_file_and_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = tmp_path / "b.jsonl"
    batch.write_text(LINE + "\n")
    editor = script(tmp_path, "vi", f'echo "$@" > {tmp_path}/called')
    monkeypatch.setenv("VISUAL", str(editor))
    app = Suspends()
    async with app.run_test():
        outcome = external.edit(app, target(str(batch), 1, LINE, file_bytes=40, readonly=False, active=False))
    assert (tmp_path / "called").read_text() == f"+1 {batch}\n"
    assert outcome.sentence == "back from vi; the run was not touched"
    assert app.suspended == 1


async def test_a_changed_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = tmp_path / "b.jsonl"
    batch.write_text(LINE + "\n")
    monkeypatch.setenv("VISUAL", str(script(tmp_path, "vi", 'echo more >> "$2"')))
    app = Suspends()
    async with app.run_test():
        outcome = external.edit(app, target(str(batch), 1, LINE, file_bytes=40, readonly=False, active=False))
    assert outcome.sentence == "b.jsonl was changed; results on disk stay as they are"


async def test_a_copy_is_private_and_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f'ls -l "$2" > {tmp_path}/facts; cat "$2" > {tmp_path}/seen; echo "$2" > {tmp_path}/path'
    monkeypatch.setenv("VISUAL", str(script(tmp_path, "vi", body)))
    app = Suspends()
    async with app.run_test():
        outcome = external.edit(app, target("/b.jsonl", 1, LINE, file_bytes=40, readonly=True, active=False))
    assert (tmp_path / "facts").read_text().startswith("-r--------")
    assert '"custom_id": "a"' in (tmp_path / "seen").read_text()
    assert is_gone(tmp_path / "path")
    assert outcome.sentence == "that was a read-only copy of the line: this screen only watches"


async def test_the_pager_sees_safe_text_in_a_private_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f'cat "$1" > {tmp_path}/seen; ls -l "$1" > {tmp_path}/facts; echo "$1" > {tmp_path}/path'
    monkeypatch.setenv("PAGER", str(script(tmp_path, "pages", body)))
    app = Suspends()
    async with app.run_test():
        outcome = external.page(app, "a\x1b]52;c;aGk=\x07b\u202e\nend", "req/1")
    seen = (tmp_path / "seen").read_bytes()
    assert seen.decode() == "a␛]52;c;aGk=␇b<RLO>\nend\n"
    assert (tmp_path / "facts").read_text().startswith("-rw-------")
    assert (tmp_path / "path").read_text().endswith("/req-1.txt\n")
    assert is_gone(tmp_path / "path")
    assert outcome.level == "info"


@pytest.mark.parametrize(
    ("body", "words"), [("exit 3", "ended with exit code 3"), ("kill -TERM $$", "was ended by signal 15")]
)
async def test_how_it_ended_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str) -> None:
    monkeypatch.setenv("PAGER", str(script(tmp_path, "pages", body)))
    app = Suspends()
    async with app.run_test():
        outcome = external.page(app, "text", "req")
    assert outcome.sentence == f"pages {words}; the run was not touched"
    assert outcome.level == "warn"


async def test_ctrl_c_in_the_other_program_is_not_meant_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The terminal sends it to both; the child keeps its own way of taking it."""
    before = signal.getsignal(signal.SIGINT)
    body = f"kill -INT {os.getpid()}; kill -INT $$; echo survived > {tmp_path}/survived"
    monkeypatch.setenv("PAGER", str(script(tmp_path, "pages", body)))
    app = Suspends()
    async with app.run_test():
        outcome = external.page(app, "text", "req")
        assert outcome.sentence.startswith("pages was ended by signal 2")
    assert not (tmp_path / "survived").exists()
    assert signal.getsignal(signal.SIGINT) is before


async def test_a_program_that_can_not_start_leaves_the_screen_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "pages"
    broken.write_text("#!/no/such/shell\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PAGER", str(broken))
    app = Suspends()
    async with app.run_test():
        outcome = external.page(app, "text", "req")
    assert outcome.level == "error"
    assert "could not be started" in outcome.sentence


@pytest.mark.usefixtures("_no_choice")
async def test_where_the_terminal_can_not_be_given_away_the_way_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGER", str(script(tmp_path, "pages", "exit 0")))
    monkeypatch.setenv("EDITOR", str(script(tmp_path, "vi", "exit 0")))
    app: App[None] = App()
    async with app.run_test():
        paged = external.page(app, "text", "req")
        edited = external.edit(app, target("/b.jsonl", 7, LINE, file_bytes=40, readonly=False, active=False))
    assert paged.sentence == "no other program can be opened from here; Y saves the text to a file"
    assert edited.sentence == "no other program can be opened from here: the line is line 7 of /b.jsonl"
