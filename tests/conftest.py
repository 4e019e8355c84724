"""What tests of several packages share."""

from __future__ import annotations

import pytest
import wasmtime


@pytest.fixture(scope="session")
def answering_wasm():
    """A canister that replies or rejects, and does nothing else."""
    return bytes(
        wasmtime.wat2wasm("""(module
          (import "ic0" "msg_reply" (func $reply))
          (import "ic0" "msg_reject" (func $reject (param i32 i32)))
          (memory 1)
          (func (export "canister_query reply") (call $reply))
          (func (export "canister_query reject") (call $reject (i32.const 0) (i32.const 0))))""")
    )
