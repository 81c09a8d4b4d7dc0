"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import harness
from tests.e2e.place import Place, made_place


@pytest.fixture(name="box")
def _box(tmp_path: Path) -> Iterator[harness.Box]:
    with harness.box(tmp_path / "workspace") as made:
        yield made


@pytest.fixture(name="place")
def _place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with made_place(monkeypatch) as made:
        yield made
