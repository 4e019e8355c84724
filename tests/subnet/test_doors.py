"""The facade's doors to rooms above it: one table, each entry looked up when it is called, and nothing before."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from perdure.network import Network
from perdure.subnet import Canister, Subnet
from perdure.subnet.doors import DOORS, door
from perdure.subnet.memories import LiveMemory

FACADE = {"Canister": Canister, "LiveMemory": LiveMemory, "Network": Network, "Subnet": Subnet}


@pytest.mark.parametrize("name", DOORS)
def test_a_door_leads_to_a_function_with_the_parameters_of_its_method(name: str) -> None:
    owner, _, method = name.partition(".")
    offered = getattr(FACADE[owner], method)
    offered = offered.fget if isinstance(offered, property) else offered
    outside = list(inspect.signature(offered).parameters.values())[1:]
    inside = list(inspect.signature(door(name)).parameters.values())[1:]
    assert [(one.name, one.default, one.kind) for one in outside] == [
        (one.name, one.default, one.kind) for one in inside
    ]


def test_a_door_costs_nothing_until_it_is_opened() -> None:
    above = "('apsw', 'perdure.inspection')"
    code = f"import perdure, sys; perdure.Subnet(); print([name for name in sys.modules if name.startswith({above})])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
