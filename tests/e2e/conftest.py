"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import harness


@pytest.fixture(name="box")
def _box(tmp_path: Path) -> Iterator[harness.Box]:
    with harness.box(tmp_path / "workspace") as made:
        yield made
