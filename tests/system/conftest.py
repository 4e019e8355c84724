"""Universal canisters in pairs: one with the native System API, one behind host calls."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

# Helpers that tests import by name lie beside them; importlib mode puts nothing on the path by itself.
sys.path.insert(0, str(Path(__file__).parent))

from system_machine import HOST_CALLS, NATIVE, Both, Machine

from perdure import Subnet


@pytest.fixture(scope="session")
def installed(universal_wasm, answering_wasm):
    """A subnet of each kind with a universal canister, and one that answers it; tests take forks of them."""
    subnets = []
    for options in (NATIVE, HOST_CALLS):
        subnet = Subnet(instrumentation=options, seed=b"system tests")
        canister = subnet.install(universal_wasm, b"", cycles=10**18)
        variables = [{"name": "b", "value": "zwei"}, {"name": "a", "value": "eins"}]
        canister.update_settings(environment_variables=variables)
        subnets.append((subnet, canister.id, subnet.install(answering_wasm, b"").id))
    yield subnets
    for subnet, *_ in subnets:
        subnet.close()


@pytest.fixture
def machines(installed, universal, universal_wasm):
    """A machine with native functions and one behind host calls, in the same state."""
    with ExitStack() as stack:
        pair = []
        for subnet, canister_id, answering_id in installed:
            fork = stack.enter_context(subnet.fork())
            stream = stack.enter_context(fork.events())
            pair.append(Machine(fork, canister_id, answering_id, universal, universal_wasm, stream))
        yield pair


@pytest.fixture
def both(machines):
    """The two machines, compared with each other at every step."""
    return Both(machines)
