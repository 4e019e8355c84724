"""A state directory has as many canisters as it has, however few files the process may have open."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

CANISTERS = 120
SCRIPT = """
import sys, wasmtime
from perdure import Subnet

WASM = wasmtime.wat2wasm('''(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
  (memory 1)
  (func (export "canister_init") (drop (call $grow (i64.const 1))))
  (func (export "canister_update count")
    (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
    (call $write (i64.const 0) (i64.const 0) (i64.const 4)) (call $reply)))''')
with Subnet(sys.argv[1], durability="checkpoint") as subnet:
    for _ in range(int(sys.argv[2])):
        subnet.install(WASM).update("count")
    subnet.checkpoint()
for count in (2, 3):
    with Subnet(sys.argv[1], durability="checkpoint") as subnet:
        for canister in subnet.canisters:
            canister.update("count")
        assert {canister.stable.read(0, 1)[0] for canister in subnet.canisters} == {count}
print(len(subnet.canisters))
"""


@pytest.mark.slow
def test_more_canisters_than_files(tmp_path: Path) -> None:
    """Each has two memories, of which each is a file of bytes and one of hashes: more than 128 together."""

    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "state"), str(CANISTERS)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=few_files,
    )
    assert (done.stdout, done.stderr, done.returncode) == (f"{CANISTERS}\n", "", 0)


def test_a_directory_asks_for_as_many_files_as_it_may_have(tmp_path: Path) -> None:
    script = """
import resource, sys
from perdure import Subnet
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
with Subnet(sys.argv[1]):
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
print(soft == min(hard, 1 << 20))
"""
    command = [sys.executable, "-c", script, str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
