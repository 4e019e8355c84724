"""What tests of several packages share."""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path

import pytest
import wasmtime

CANISTERS = Path(__file__).parent / "canisters"

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


@pytest.fixture(scope="session")
def universal():
    """The builder of programs for the universal canister."""
    name = "perdure_tests_universal"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, CANISTERS / "universal" / "universal.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session", params=[32, 64])
def bits(request):
    """Width of the heap's addresses."""
    return request.param


@pytest.fixture(scope="session")
def universal_wasm(bits):
    """The universal canister with such a heap."""
    return (CANISTERS / "modules" / f"universal{bits}.wasm").read_bytes()
