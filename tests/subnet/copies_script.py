"""Memories that are copies of others, at random, against plain bytes: handed over, in snapshots, loaded, dropped.

    python tests/subnet/copies_script.py --seeds 60

Each seed is a state directory of three canisters; odd ones keep all of their history, are asked for the past on the
way, and replayed at the end. Layers are made to be many: few pieces, small files are kept, little is folded at a time.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import wasmtime

from perdure import Principal, Subnet
from perdure.storage import layers
from perdure.subnet.replay import replay

WASM_PAGES = 4
CODE = bytes(
    wasmtime.wat2wasm(f"""(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_arg_data_size" (func $size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
  (import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "ic0" "call_perform" (func $perform (result i32)))
  (import "ic0_ext" "call_memory_add" (func $add (param i32 i32 i32 i32)))
  (import "stable" "users" (memory $users i64 {WASM_PAGES} 100))
  (memory $heap 1) (table funcref (elem $done)) (data (memory $heap) (i32.const 0) "usersarchivetake")
  (func $done (param i32) (call $reply))
  (func (export "canister_update take") (call $reply))
  (func (export "canister_update put")
    (call $argument (i32.const 512) (i32.const 0) (i32.const 16))
    (i64.store $users (i64.load $heap (i32.const 512)) (i64.load $heap (i32.const 520))) (call $reply))
  (func (export "canister_update grow") (drop (memory.grow $users (i64.const 1))) (call $reply))
  (func (export "canister_update give")
    (call $argument (i32.const 512) (i32.const 0) (call $size))
    (call $new (i32.const 512) (call $size) (i32.const 12) (i32.const 4)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $add (i32.const 0) (i32.const 5) (i32.const 5) (i32.const 7))
    (i64.store $users (i64.const 0) (i64.add (i64.load $users (i64.const 0)) (i64.const 1)))
    (drop (call $perform))))""")
)
Memories = dict[str, bytearray]


class Run:
    """One directory, and what its memories are to be."""

    def __init__(self, seed: int, path: Path) -> None:
        self.rng = random.Random(seed)
        self.path = path
        self.history = None if seed % 2 else 0
        self.subnet = Subnet(path, extensions=("memories",), history=self.history)
        self.ids = [self.subnet.install(CODE).id for _ in range(3)]
        self.models: dict[Principal, Memories] = {one: {"users": bytearray(WASM_PAGES << 16)} for one in self.ids}
        self.snapshots: dict[Principal, dict[bytes, Memories]] = {one: {} for one in self.ids}
        self.past: dict[int, dict[Principal, Memories]] = {}

    @property
    def directory(self) -> Any:
        return self.subnet._host.directory  # type: ignore[union-attr]

    def copied(self) -> dict[Principal, Memories]:
        return {one: {name: data[:] for name, data in model.items()} for one, model in self.models.items()}

    def compare(self, subnet: Subnet, models: dict[Principal, Memories]) -> None:
        for one, model in models.items():
            memories = subnet.canister(one).memories
            assert memories.keys() - {"heap", "stable"} == model.keys()
            for name, data in model.items():
                assert memories[name].read(0, len(data)) == data, f"{name} of {one}"

    def step(self) -> None:
        one = self.rng.choice(self.ids)
        names = ["put"] * 6 + ["give"] * 4 + ["drop"] * 2
        names += ["snapshot", "load", "delete", "checkpoint", "crash", "close", "grow", "many", "fork", "outside"]
        getattr(self, self.rng.choice(names))(one)
        assert self.subnet.version is not None
        self.past[self.subnet.version] = self.copied()

    def put(self, one: Principal) -> None:
        users = self.models[one]["users"]
        at, value = self.rng.randrange(len(users) // 8) * 8, self.rng.randbytes(8)
        self.subnet.canister(one).update("put", at.to_bytes(8, "little") + value)
        users[at : at + 8] = value

    def many(self, one: Principal) -> None:
        for _ in range(20):
            self.put(one)

    def grow(self, one: Principal) -> None:
        if len(self.models[one]["users"]) < 2 * WASM_PAGES << 16:
            self.subnet.canister(one).update("grow")
            self.models[one]["users"] += bytes(1 << 16)

    def give(self, one: Principal) -> None:
        other = self.rng.choice(self.ids)
        self.subnet.canister(one).update("give", other.raw_bytes)
        users = self.models[one]["users"]
        users[:8] = ((int.from_bytes(users[:8], "little") + 1) % 2**64).to_bytes(8, "little")
        self.models[other].setdefault("archive", users[:])  # one that is there is not replaced

    def drop(self, one: Principal) -> None:
        if self.models[one].pop("archive", None) is not None:
            self.subnet.canister(one).memories["archive"].drop()

    def outside(self, one: Principal) -> None:
        archive = self.models[one].get("archive")
        if archive is not None:
            at = self.rng.randrange(len(archive) - 8)
            self.subnet.canister(one).memories["archive"].write(at, b"outside!")
            archive[at : at + 8] = b"outside!"

    def snapshot(self, one: Principal) -> None:
        if len(self.snapshots[one]) < 4:
            self.snapshots[one][self.subnet.canister(one).take_snapshot()] = self.copied()[one]

    def load(self, one: Principal) -> None:
        if self.snapshots[one]:
            taken, model = self.rng.choice([*self.snapshots[one].items()])
            self.subnet.canister(one).load_snapshot(taken)
            self.models[one] = {name: data[:] for name, data in model.items()}

    def delete(self, one: Principal) -> None:
        if self.snapshots[one]:
            taken = self.rng.choice([*self.snapshots[one]])
            self.subnet.canister(one).delete_snapshot(taken)
            del self.snapshots[one][taken]

    def checkpoint(self, _: Principal) -> None:
        self.directory.checkpoint()
        assert self.directory.verify() == []

    def fork(self, one: Principal) -> None:
        with self.subnet.fork() as fork:
            fork.canister(one).update("give", self.rng.choice(self.ids).raw_bytes)
            if self.rng.random() < 0.5:
                self.directory.checkpoint()

    def crash(self, _: Principal) -> None:
        self.directory.abandon()
        self.subnet = Subnet(self.path, history=self.history)

    def close(self, _: Principal) -> None:
        self.subnet.close()
        self.subnet = Subnet(self.path, history=self.history)

    def look_back(self) -> None:
        version = self.rng.choice([*self.past])
        with self.subnet.at(version) as past:
            self.compare(past, self.past[version])


def run(seed: int, steps: int) -> None:
    """One seed; an `AssertionError` says what is wrong."""
    with tempfile.TemporaryDirectory(prefix="perdure-copies-") as scratch:
        one = Run(seed, Path(scratch) / "state")
        for step in range(steps):
            one.step()
            if step % 7 == 0:
                one.compare(one.subnet, one.models)
            if one.history is None and step % 9 == 0:
                one.look_back()
        one.close(one.ids[0])
        one.compare(one.subnet, one.models)
        assert one.directory.verify() == []
        one.subnet.close()
        if one.history is None:
            assert replay(one.path).difference is None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--steps", type=int, default=120)
    arguments = parser.parse_args()
    layers._SMALL_BYTES, layers._MAX_PIECES, layers._FOLD_BYTES = 0, 6, 16 * 4096
    start = time.monotonic()
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        run(seed, arguments.steps)
        print(f"seed {seed}: {arguments.steps} steps, {time.monotonic() - start:.0f} s", flush=True)
    print(f"{arguments.seeds} seeds of {arguments.steps} steps: every memory as it was to be, and its past")


if __name__ == "__main__":
    main()
