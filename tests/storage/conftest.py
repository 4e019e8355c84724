"""The simulated disk, the crash script and the fuzzer, which are programs of their own, for tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from perdure.storage import TemporaryStore

sys.path.insert(0, str(Path(__file__).parent))


def _module(name: str) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def simulated_disk() -> ModuleType:
    return _module("simulated_disk")


@pytest.fixture(scope="session")
def crash_script(simulated_disk: ModuleType) -> ModuleType:
    assert simulated_disk
    return _module("crash_script")


@pytest.fixture(scope="session")
def fuzz_script(simulated_disk: ModuleType) -> ModuleType:
    assert simulated_disk
    _module("second_decoder")
    return _module("fuzz_script")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state")


@pytest.fixture
def disk(simulated_disk: ModuleType) -> Any:
    return simulated_disk.SimulatedDisk()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TemporaryStore]:
    store = TemporaryStore(tmp_path)
    yield store
    store.close()
