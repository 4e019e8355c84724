"""What these tests share: helpers beside them, and programs in Python that are edited between two openings."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

# Helpers that tests import by name lie beside them; importlib mode puts nothing on the path by itself.
sys.path.insert(0, str(Path(__file__).parent))

from edited import VARIABLES, Write

from perdure import Principal, Subnet
from perdure.execution.records import encode_record, encode_record_again
from perdure.execution.state import CanisterState
from perdure.record import Written


@pytest.fixture(autouse=True)
def _written_the_same(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only what has changed of a record is encoded, the whole record is the same, in whatever a test does."""

    def encode(canister: CanisterState, before: Written) -> tuple[bytes, Written]:
        record, written = encode_record_again(canister, before)
        assert record == encode_record(canister)
        return record, written

    if request.path.name != "test_counts.py":
        monkeypatch.setattr("perdure.subnet.durable.encode_record_again", encode)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module where Python finds it, as an editor would, and imports it as another process would."""
    folder = tmp_path / "program"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names: set[str] = set()

    def write(source: str | None, name: str = "shop") -> ModuleType:
        names.add(name)
        sys.modules.pop(name, None)
        file = folder / f"{name}.py"
        if source is None:
            file.unlink()
            return sys
        file.write_text(source)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def filled(tmp_path: Path, write: Write) -> Principal:
    shop = write(VARIABLES)
    with Subnet(tmp_path / "state") as subnet:
        target = subnet.install(shop.Shop)
        target.actor().fill()
    return target.id
