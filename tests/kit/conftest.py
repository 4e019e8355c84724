"""The built modules by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HASHES = json.loads((ROOT / "tests/canisters/hashes.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def built() -> Callable[[str], Path]:
    """The path of a built module."""
    return lambda name: ROOT / HASHES[name]["file"]
