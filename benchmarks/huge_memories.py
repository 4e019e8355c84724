"""Memories of many GiB with every page written: handed over, with the next checkpoint, and kept by an upgrade.

Run by hand, for it writes that much three times: ``benchmarks/huge_memories.py --gib 10 --directory DIR``. One memory
is filled; the others are handed on from it, so that four memories of 10 GiB take the room of one.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import wasmtime

from figures import Table
from perdure import Canister, Subnet

CHUNK = 64 << 20
HEAD = """
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_arg_data_size" (func $size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
  (import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "ic0" "call_perform" (func $perform (result i32)))
  (import "ic0_ext" "call_memory_add" (func $add (param i32 i32 i32 i32)))"""


def giver(wasm_pages: int) -> bytes:
    """Fills its memory in parts, and gives it away: to whom, and under which name of two bytes, says the argument."""
    text = f"""(module {HEAD} (import "stable" "m0" (memory $m0 i64 {wasm_pages})) (memory $heap 1)
      (table funcref (elem $done)) (data (memory $heap) (i32.const 0) "m0take")
      (func $done (param i32) (call $reply))
      (func (export "canister_update fill") (local $at i64) (local $end i64)
        (call $argument (i32.const 512) (i32.const 0) (i32.const 16))
        (local.set $at (i64.load $heap (i32.const 512))) (local.set $end (i64.load $heap (i32.const 520)))
        (loop $next
          (i64.store $m0 offset=8 (local.get $at) (i64.sub (i64.const -1) (local.get $at)))
          (br_if $next (i64.lt_u (local.tee $at (i64.add (local.get $at) (i64.const 4096))) (local.get $end))))
        (call $reply))
      (func (export "canister_update change")
        (i64.store $m0 (i64.const 0) (i64.add (i64.load $m0 (i64.const 0)) (i64.const 1))) (call $reply))
      (func (export "canister_update give") (local $length i32)
        (call $argument (i32.const 512) (i32.const 0) (call $size))
        (local.set $length (i32.sub (call $size) (i32.const 2)))
        (call $new (i32.const 514) (local.get $length) (i32.const 2) (i32.const 4)
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
        (call $add (i32.const 0) (i32.const 2) (i32.const 512) (i32.const 2))
        (drop (call $perform))))"""
    return bytes(wasmtime.wat2wasm(text))


def keeper() -> bytes:
    """Has what it is given under four names."""
    memories = "".join(f'(import "stable" "k{place}" (memory i64 0))' for place in range(4))
    text = f"""(module (import "ic0" "msg_reply" (func $reply)) {memories} (memory 1)
      (func (export "canister_update take") (call $reply)))"""
    return bytes(wasmtime.wat2wasm(text))


def filled(subnet: Subnet, size_bytes: int) -> Canister:
    """A canister with every page of its memory written."""
    canister = subnet.install(giver(size_bytes >> 16))
    for start in range(0, size_bytes, CHUNK):
        end = min(start + CHUNK, size_bytes)
        canister.update("fill", start.to_bytes(8, "little") + end.to_bytes(8, "little"))
    assert canister.memories["m0"].read(size_bytes - 4088, 8) == (2**64 - 1 - (size_bytes - 4096)).to_bytes(8, "little")
    return canister


def resident(field: str) -> int:
    """Bytes of this process, as the kernel says: ``VmRSS`` now, ``VmHWM`` at most; ``RssAnon`` without files."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found[1]) << 10 if found else 0


def peak_bytes(run: Callable[[], object]) -> int:
    """How much more this process had at most while something ran."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = resident("VmRSS")
    run()
    return max(0, resident("VmHWM") - before)


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and seconds of processor time."""
    start, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - used


def hand_over(subnet: Subnet, canister: Canister, other: Canister, name: str) -> None:
    """One call, its answer, the callee having it; and the checkpoint after that, where there is a directory."""
    canister.update("give", name.encode() + other.id.raw_bytes)
    if subnet.version is not None:
        subnet.checkpoint()


def handing(place: Path | None, size_bytes: int, turns: int) -> dict[str, float]:
    """Least of several times to hand a memory over, to upgrade with four of them, and how much room that takes."""
    subnet = Subnet(place, extensions=("memories",), durability="checkpoint" if place else "message")
    canister = filled(subnet, size_bytes)
    if place:
        subnet.checkpoint()
    found: dict[str, float] = {}
    takers = [subnet.install(keeper()) for _ in range(turns + 1)]
    found["peak"] = peak_bytes(lambda: hand_over(subnet, canister, takers[0], "k0"))
    seconds = [timed(partial(hand_over, subnet, canister, taker, "k0")) for taker in takers[1:]]
    found["seconds"], found["processor"] = (min(one) for one in zip(*seconds, strict=True))
    changed = []
    for taker in takers[1:]:
        canister.update("change")
        changed.append(timed(partial(hand_over, subnet, canister, taker, "k1")))
    found["changed"] = min(one[1] for one in changed)
    last = takers[-1]
    for name in ("k2", "k3"):
        hand_over(subnet, canister, last, name)
    assert [last.memories[f"k{at}"].size() for at in range(4)] == [size_bytes >> 16] * 4
    wasm = keeper()
    found["upgrade"] = min(timed(lambda: last.upgrade(wasm))[1] for _ in range(max(turns, 20)))
    if place:
        found["snapshot"] = min(timed(lambda: (canister.take_snapshot(), subnet.checkpoint()))[1] for _ in range(5))
        found["room"] = sum(file.stat().st_blocks * 512 for file in (place / "images").iterdir())
    subnet.close()
    return found


def measure(gib: float, directory: str | None, turns: int) -> Table:
    """Ratios of large to 64 KiB, of processor time; what ran beside it is part of neither."""
    table = Table("huge_memories")
    size = f"{gib:g} GiB"
    for where in ("in memory", "in a state directory"):
        both = []
        for size_bytes in (1 << 16, int(gib * (1 << 30))):
            with tempfile.TemporaryDirectory(dir=directory) as made:
                place = Path(made) / "state" if where != "in memory" else None
                both.append(handing(place, size_bytes, turns))
                shutil.rmtree(made, ignore_errors=True)
                Path(made).mkdir()
        small, large = both
        more = ", with the next checkpoint" if where != "in memory" else ""
        table.add(f"{size} handed over {where}{more}", large["processor"] * 1e3, "ms")
        table.add(f"{size} handed over {where}{more} / 64 KiB", large["processor"] / small["processor"], "ratio", 1.5)
        table.add("  the same, a page changed before / 64 KiB", large["changed"] / small["changed"], "ratio", 1.5)
        table.add("  peak memory more than for 64 KiB", (large["peak"] - small["peak"]) / 2**20, "MiB", 64)
        table.add(
            f"an upgrade that keeps four memories of {size} {where} / of 64 KiB",
            large["upgrade"] / small["upgrade"],
            "ratio",
            1.2,
        )
        if "room" in large:
            table.add(
                f"take_snapshot of {size} and a checkpoint / of 64 KiB", large["snapshot"] / small["snapshot"], "ratio"
            )
            table.add("room of all copies / one", large["room"] / (gib * 2**30), "ratio")
    return table


def main() -> None:
    """Measure and print, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=10)
    parser.add_argument("--directory", help="where there is room for twice that")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    table = measure(arguments.gib, arguments.directory, arguments.turns)
    if arguments.json:
        print(json.dumps(asdict(table), indent=1))
        return
    for figure in table.figures:
        target = f"  (<= {figure.target:g}: {figure.verdict})" if figure.target is not None else ""
        print(f"  {figure.what:80}  {figure.value:>12,.3f} {figure.unit}{target}")


if __name__ == "__main__":
    main()
