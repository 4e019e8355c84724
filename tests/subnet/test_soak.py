"""Descriptors, mappings, deleted files and disk space go back with their last user, closed or dropped."""

from __future__ import annotations

from pathlib import Path

import pytest
from soak_script import ACTIONS, Life, excess, repeat

ROUNDS = 5


@pytest.mark.parametrize("name", ACTIONS)
def test_nothing_gathers(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    life = Life(tmp_path / "life")
    before, after = repeat(life, name, ROUNDS, settling=3)
    assert not excess(before, after, ROUNDS)
    assert life.subnet._durable.directory.verify() == []
    life.subnet.close()
