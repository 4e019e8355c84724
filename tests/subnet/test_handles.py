"""Handles of canisters: the same canister is equal, and wrong arguments are said to be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure import Principal, Subnet
from perdure.errors import MalformedError

MODULE = Path(__file__).parents[1] / "canisters/modules/motoko_eop_v1.wasm.gz"


def test_handles_of_one_canister_are_equal():
    subnet = Subnet()
    first, second = subnet.create_canister(), subnet.create_canister()
    assert first == subnet.canister(first.id)
    assert hash(first) == hash(subnet.canister(first.id))
    assert first != second
    assert first != subnet.fork().canister(first.id)
    assert {first, second} == set(subnet.canisters)


def test_a_sender_is_a_principal():
    canister = Subnet().install(MODULE)
    with pytest.raises(TypeError, match=r"the sender is a Principal, found 'alice': Principal.from_text reads a text"):
        canister.actor("alice")


@pytest.mark.parametrize("found", ["2vxsx-fae", "rrkah-fqaaa-aaaaa-aaaaq-cai" * 3, 5, None])
def test_a_principal_is_made_of_bytes(found):
    with pytest.raises(TypeError, match=r"a principal is made of its bytes, found .*Principal.from_text reads a text"):
        Principal(found)


def test_nothing_is_left_of_an_install_whose_argument_is_wrong():
    subnet = Subnet()
    ledger = MODULE.with_name("ledger.wasm.gz")
    for argument, error in ((None, ValueError), ((5,), ValueError), ("(5)", MalformedError), ("(", MalformedError)):
        with pytest.raises(error):
            subnet.install(ledger, argument)
    with pytest.raises(ValueError, match=r"takes \(record {.*}\), and no argument was given"):
        subnet.install(ledger)
    assert subnet.canisters == ()


def test_no_argument_is_an_empty_list_of_values():
    subnet = Subnet()
    canister = subnet.install(MODULE)
    canister.upgrade(MODULE, wasm_memory_persistence="keep")
    canister.reinstall(MODULE)
    assert canister.actor().count() == 0


@pytest.mark.parametrize("cycles", [1 << 90, 1 << 100, (1 << 128) - 1])
def test_whoever_has_all_cycles_can_spend_them(cycles):
    """What they pay for is more pages than any number of 64 bits."""
    subnet = Subnet()
    canister = subnet.install(MODULE.with_name("kv32.wasm"), bytes(8), cycles=cycles)
    assert canister.update("inc") == (1).to_bytes(8, "little")
    assert canister.update("stable64_grow", (1).to_bytes(8, "little"))
    assert canister.status().cycles > cycles - 10**12
