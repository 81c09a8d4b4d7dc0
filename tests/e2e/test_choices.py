"""Requests for several answers at once, with fewer slots than answers."""

from __future__ import annotations

import pytest

from tests.e2e.harness import box
from tests.runner_kit import write_batch

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("slots", [[], ["--slots", "1"], ["--slots", "3"]])
def test_one_request_with_more_choices_than_slots_gets_them_all(tmp_path, slots: list[str]) -> None:
    with box(tmp_path) as b:
        batch = write_batch(b.root / "batches" / "one.jsonl", 1, word="Reverse the word", max_tokens=8, n=4)
        b.run("run", batch, *slots)
        (line,) = b.lines("one-1")
        choices = line["response"]["body"]["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
        assert b.record("one-1")["engine"].get("slots", 16) == (int(slots[1]) if slots else 4)
