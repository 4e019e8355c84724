"""What tests of several packages share."""

from __future__ import annotations

import signal

import pytest
import wasmtime

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background jobs have it ignored, and so would all programs that tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
