"""The limits of a benchmarking subnet, as PocketIC makes them for canbench."""

from __future__ import annotations

import pytest
import wasmtime

from perdure import RejectError, Subnet
from perdure.execution import SubnetConfig

NAMES = [f"{number:04}{'n' * 96}" for number in range(218)]
"""21,800 bytes: a published benchmark of stable structures has 21,752."""
WASM = bytes(
    wasmtime.wat2wasm(
        f"""(module (import "ic0" "msg_reply" (func $reply)) (func $f (call $reply))
        {" ".join(f'(export "canister_query {name}" (func $f))' for name in NAMES)}
        (func (export "canister_update last") (call $reply)))"""
    )
)


def test_names_of_exports():
    with Subnet(config=SubnetConfig.benchmarking()) as subnet:
        assert subnet.install(WASM).query(NAMES[-1]) == b""
    # What has been compiled for one subnet is still refused by another.
    with Subnet() as subnet, pytest.raises(RejectError, match="is 21804 which exceeds the allowed limit of 20000"):
        subnet.install(WASM)


def test_a_directory_with_such_a_module_opens_under_other_limits(tmp_path):
    with Subnet(tmp_path / "state", config=SubnetConfig.benchmarking()) as subnet:
        canister_id = subnet.install(WASM).id
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.canister(canister_id).query(NAMES[0]) == b""


def test_an_update_can_set_aside_what_its_limit_costs():
    with Subnet(config=SubnetConfig.benchmarking()) as subnet:
        assert subnet.install(WASM).update("last") == b""


def test_instructions():
    config = SubnetConfig.benchmarking()
    assert config.max_instructions_per_message == config.max_instructions_per_query_message == 99_999_999_999_999
    assert config.max_sum_exported_function_name_lengths > 21_752
