"""The universal canister's builder and modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

CANISTERS = Path(__file__).parents[1] / "canisters"


@pytest.fixture(scope="session")
def universal():
    """The builder of programs for the universal canister."""
    name = "perdure_tests_universal"
    spec = importlib.util.spec_from_file_location(name, CANISTERS / "universal" / "universal.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", params=[32, 64])
def bits(request):
    """Width of the heap's addresses."""
    return request.param


@pytest.fixture(scope="session")
def universal_wasm(bits):
    """The universal canister with such a heap."""
    return (CANISTERS / "modules" / f"universal{bits}.wasm").read_bytes()
