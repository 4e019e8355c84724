"""A served subnet with a counter, for tests that leave nothing behind which others would see."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from perdure import Subnet
from perdure.gateway.http import HttpInterface
from perdure.network.live import Live
from perdure.subnet import Canister

sys.path.insert(0, str(Path(__file__).parent))

HERE = Path(__file__).parent
MODULES = HERE.parent / "canisters" / "modules"


@pytest.fixture(scope="session")
def agents() -> ModuleType:
    """The agent by hand."""
    name = "perdure_tests_agents"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE / "agents.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def _counting() -> tuple[Subnet, Canister]:
    subnet = Subnet()
    return subnet, subnet.install(MODULES / "motoko_eop_v1.wasm.gz")


@pytest.fixture
def interface(_counting: tuple[Subnet, Canister]) -> Iterator[HttpInterface]:
    """Of a running subnet of the test's own."""
    subnet = _counting[0].fork()
    live = Live(subnet)
    live.start()
    yield HttpInterface(live)
    live.stop()
    subnet.close()


@pytest.fixture
def counter(interface: HttpInterface) -> Canister:
    """A counter in Motoko with some more methods."""
    return interface.live.subnet.canisters[0]
