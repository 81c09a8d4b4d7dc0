"""What the screen for adding a batch is made of, without a screen: files, settings of a job, results of a check."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import offline
from engine.protocol import RunSettings
from engine.workspace import Workspace
from tests.tui_kit import text_of
from tui import check, files, job_settings
from tui.check import Check, CheckState
from tui.job_settings import FIELDS, Inherited

BY_NAME = {field.name: field for field in FIELDS}


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "batches").mkdir()
    return tmp_path


def put(path: Path, text: str = "{}\n", age: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def names(listing: files.Listing) -> list[str]:
    return [str(entry.shown) for entry in listing.entries]


def test_newest_first_then_folders_then_nothing_hidden(root: Path) -> None:
    put(root / "batches" / "old.jsonl", age=100)
    put(root / "batches" / "new.jsonl")
    put(root / "batches" / "new.expected.jsonl")
    put(root / "batches" / ".hidden")
    put(root / "batches" / "deep" / "x.jsonl")
    os.mkfifo(root / "batches" / "pipe")
    found = files.listing("", root, root)
    assert names(found) == ["new.jsonl", "old.jsonl", "new.expected.jsonl", "deep/"]
    assert names(files.listing("NEW", root, root)) == ["new.jsonl", "new.expected.jsonl"]
    assert names(files.listing("batches/.h", root, root)) == [".hidden"]
    assert names(files.listing("deep/", root, root)) == ["x.jsonl"]  # of batches/, as the list shows it


def test_a_name_typed_in_full_comes_before_newer_ones_that_only_begin_so(tmp_path: Path) -> None:
    (tmp_path / "batches").mkdir()
    for i, name in enumerate(("evals_10.jsonl", "evals_100.jsonl", "evals_1.jsonl")):
        path = tmp_path / "batches" / name
        path.write_text("{}\n")
        os.utime(path, (i, i))
    for typed in ("evals_10", "batches/evals_10", "evals_10.jsonl"):
        assert files.listing(typed, tmp_path, tmp_path).entries[0].path.name == "evals_10.jsonl"
    assert files.listing("evals", tmp_path, tmp_path).entries[0].path.name == "evals_1.jsonl", "the newest"


def test_completion_is_of_letters_in_common(root: Path) -> None:
    put(root / "batches" / "evals-1.jsonl")
    put(root / "batches" / "evals-20.jsonl")
    put(root / "data" / "only" / "x.jsonl")

    def complete(typed: str) -> str:
        return files.completed(typed, files.listing(typed, root, root).entries, root)

    assert complete("ev") == "batches/evals-"
    assert complete("batches/evals-") == "batches/evals-"
    assert complete("batches/evals-2") == "batches/evals-20.jsonl"
    assert complete("da") == "data/"
    assert complete("data/") == "data/only/"
    assert complete("nothing") == "nothing"
    assert complete("~") == "~/"


@pytest.mark.parametrize("typed", ["\0", "~nobody-has-this-name/x", "no/such/place", "/nowhere/\ud83d"])
def test_paths_without_sense_get_a_sentence(root: Path, typed: str) -> None:
    found = files.listing(typed, root, root)
    assert not found.entries
    assert found.sentence
    assert "\0" not in found.sentence


def test_lines_are_counted_or_estimated(root: Path) -> None:
    small = put(root / "batches" / "s.jsonl", "a\n\n  \nb")
    large = put(root / "batches" / "l.jsonl", ("x" * 99 + "\n") * 40_000)
    endless = put(root / "batches" / "e.jsonl", "x" * (files.HEAD_BYTES + 5))
    by_name = {e.path: files.count_lines(e) for e in files.listing("", root, root).entries}
    assert (by_name[small].lines, by_name[small].exact) == (2, True)
    lines, exact = by_name[large].lines, by_name[large].exact
    assert lines is not None
    assert abs(lines - 40_000) < 400
    assert not exact
    assert by_name[endless].lines is None


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [
        ("slots", " 24 ", 24),
        ("context", "8 192", 8192),
        ("seed", "0", 0),
        ("temperature", "0", 0.0),
        ("temperature", "0.7", 0.7),
        ("max_tokens", "1_000", 1000),
        ("reasoning_effort", "high", "high"),
        ("model", "my model", "my model"),
        ("limit", "", None),
    ],
)
def test_typed_values(name: str, typed: str, value: object) -> None:
    assert job_settings.parsed(BY_NAME[name], typed) == value
    assert not job_settings.fault(BY_NAME[name], typed)


@pytest.mark.parametrize(
    ("name", "typed", "rule"),
    [
        ("slots", "0", "from 1 to 256"),
        ("slots", "257", "from 1 to 256"),
        ("slots", "many", "from 1 to 256"),
        ("context", "-1", "at least 1"),
        ("seed", "1.5", "0 or more"),
        ("temperature", "3", "from 0 to 2"),
        ("temperature", "nan", "from 0 to 2"),
        ("temperature", "warm", "from 0 to 2"),
        ("max_tokens", "0", "at least 1"),
        ("reasoning_effort", "a lot", "one of"),
        ("limit", "99999999999", "at least 1"),
    ],
)
def test_wrong_values_get_the_rule(name: str, typed: str, rule: str) -> None:
    assert rule in job_settings.fault(BY_NAME[name], typed)


@given(st.sampled_from(FIELDS), st.text(max_size=30))
def test_no_text_breaks_a_field(field: job_settings.FieldInfo, typed: str) -> None:
    fault = job_settings.fault(field, typed)
    assert fault or typed.strip() == "" or job_settings.parsed(field, typed) is not None


def test_sources_and_what_is_submitted(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path)
    workspace.settings_file.write_text("[run]\nslots = 8\nseed = 3\n[run.defaults]\ntop_p = 0.5\nmax_tokens = 7\n")
    given = job_settings.load(workspace, {"GPTOSS_SEED": "9"})
    assert job_settings.source(BY_NAME["slots"], given) == "from gptoss.toml"
    assert job_settings.source(BY_NAME["seed"], given) == "from GPTOSS_SEED"
    assert job_settings.source(BY_NAME["context"], given) == "built in"
    assert job_settings.inherited(BY_NAME["seed"], given) == "9"
    run = job_settings.combined(
        given,
        {"slots": "2", "max_tokens": "", "temperature": "0", "model": "./m.gguf"},
        skip_invalid=True,
        cwd=tmp_path,
    )
    assert run == RunSettings(
        slots=2,
        seed=9,
        model=str(tmp_path / "m.gguf"),
        defaults={"top_p": 0.5, "max_tokens": 7, "temperature": 0.0},
        skip_invalid=True,
    )
    with pytest.raises(ValueError, match="must be"):
        job_settings.combined(given, {"slots": "x"}, skip_invalid=False, cwd=tmp_path)


def test_a_broken_settings_file_is_a_sentence(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path)
    workspace.settings_file.write_text("[run]\nslots = 0\n")
    given = job_settings.load(workspace, {})
    assert "slots" in given.problem
    assert given.run == Inherited().run


# --- the check --------------------------------------------------------------------------------------------------------


def told(*items: dict[str, Any]) -> Check:
    found = Check()
    for item in items:
        found.take(item)
    return found


def problem(line: int, **fields: Any) -> dict[str, Any]:
    facts = {"kind": "problem", "line": line, "custom_id": f"c{line}", "code": "x", "message": "wrong.",
             "fix": "Mend it.", "level": "error"}  # fmt: skip
    return facts | fields


def summary(requests: int, errors: int, **fields: Any) -> dict[str, Any]:
    facts = {"kind": "summary", "requests": requests, "good": requests - errors, "errors": errors, "warnings": 0,
             "by_code": {"x": errors} if errors else {}, "endpoint": "/v1/e", "bytes": 3_000_000,
             "notice": ""}  # fmt: skip
    return facts | fields


def test_a_check_in_words() -> None:
    running = told({"kind": "progress", "fraction": 0.42})
    assert "42%" in text_of(check.head(running))[0]
    assert check.why_not_queued(running, skip_invalid=False) == ""
    good = told(summary(10_000, 0))
    assert text_of(check.head(good)) == ["10 000 requests  3 MiB  /v1/e", "every line is good"]
    one = told(summary(1, 0, warnings=1, by_code={"model_missing": 1}))
    assert text_of(check.head(one)) == ["1 request  3 MiB  /v1/e", "every line is good, 1 remark  (1 model_missing)"]


def test_bad_lines_need_consent() -> None:
    bad = told(problem(2), problem(3, level="warning", custom_id=None), summary(10, 1, warnings=1))
    assert bad.state == CheckState.BAD
    assert text_of(check.problems(bad)) == ["line 2 error  c2  wrong. Mend it.", "line 3 remark  wrong. Mend it."]
    assert "press g to run the 9 good lines" in check.why_not_queued(bad, skip_invalid=False)
    assert check.why_not_queued(bad, skip_invalid=True) == ""
    assert "no line" in check.why_not_queued(told(summary(3, 3)), skip_invalid=True)


def test_many_problems_are_counted_not_kept() -> None:
    many = told(*(problem(i) for i in range(5000)), summary(5001, 5000))
    assert len(many.problems) == check.SHOWN_PROBLEMS
    assert "and 4 800 more" in text_of(check.problems(many))[-1]


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_nothing_hostile_comes_out(custom_id: str, message: str, fix: str) -> None:
    found = told(problem(1, custom_id=custom_id, message=message, fix=fix), summary(2, 1, notice=message, endpoint=fix))
    for row in [*text_of(check.problems(found)), *text_of(check.head(found))]:
        assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0x202A <= ord(c) <= 0x202E for c in row)


# --- the list of models -----------------------------------------------------------------------------------------------


def test_models_are_listed_as_json_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    items: list[dict[str, Any]] = []
    monkeypatch.setattr(offline, "emit", lambda kind, fields: items.append({"kind": kind, **fields}))
    assert offline.main(["models", "--workspace", str(tmp_path)]) == 0
    assert items[0]["kind"] == "model"
    assert (items[0]["name"], items[0]["embedded"], items[0]["why_not"]) == ("nano", True, "")
    assert items[-1] == {"kind": "summary", "models": len(items) - 1}
