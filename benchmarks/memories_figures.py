"""Loads and stores of what lies beside the heap: direct ones of stable memory, beside the heap's own and `stable64_*`.

Every loop takes 8 bytes from one hot page and adds them up, or stores a number; the loop itself is in each of them.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import wasmtime

from engine import Bench, interleaved
from figures import Table, main
from perdure import Subnet
from perdure.embedder import Compiler, Engine
from perdure.instrument import Options

ADDRESS = "(i64.and (i64.shl (local.get $i) (i64.const 3)) (i64.const 0xff8))"
HEAP_ADDRESS = f"(i32.wrap_i64 {ADDRESS})"
LOADS = {
    "heap": f"(i64.load offset=8192 {HEAP_ADDRESS})",
    "read": f"(call $read (i64.const 64) {ADDRESS} (i64.const 8)) (i64.load (i32.const 64))",
    "direct": f"(call $load {ADDRESS})",
    "named": f"(call $users_load {ADDRESS})",
}
STORES = {
    "heap_store": f"(i64.store offset=8192 {HEAP_ADDRESS} (local.get $i))",
    "write": f"(i64.store (i32.const 64) (local.get $i)) (call $write {ADDRESS} (i64.const 64) (i64.const 8))",
    "direct_store": f"(call $store {ADDRESS} (local.get $i))",
    "named_store": f"(call $users_store {ADDRESS} (local.get $i))",
}
# A binary search over 32 KiB of sorted numbers, in place: what one probe does.
PROBES = {
    "search_heap": "(i64.load offset=65536 (i32.wrap_i64 (i64.shl (local.get $mid) (i64.const 3))))",
    "search_read": "(call $read (i64.const 64) (i64.shl (local.get $mid) (i64.const 3)) (i64.const 8))"
    " (i64.load (i32.const 64))",
    "search_direct": "(call $load (i64.shl (local.get $mid) (i64.const 3)))",
}
COUNT = 4096
LOOP = """(func (export "canister_update {name}") (local $i i64) (local $n i64) (local $sum i64)
  (call $argument (i32.const 0) (i32.const 0) (i32.const 8))
  (local.set $n (i64.load (i32.const 0)))
  (loop $next
    {body}
    (br_if $next (i64.lt_u (local.tee $i (i64.add (local.get $i) (i64.const 1))) (local.get $n))))
  (i64.store (i32.const 0) (local.get $sum))
  (call $append (i32.const 0) (i32.const 8)) (call $reply))"""
SEARCH = """(local.set $key (i64.rem_u (local.tee $x (i64.mul (i64.add (local.get $x) (i64.const 0x9e3779b97f4a7c15))
        (i64.const 0xbf58476d1ce4e5b9))) (i64.const {count})))
    (local.set $low (i64.const 0)) (local.set $high (i64.const {count}))
    (loop $probe
      (local.set $mid (i64.shr_u (i64.add (local.get $low) (local.get $high)) (i64.const 1)))
      (if (i64.lt_u {load} (local.get $key))
        (then (local.set $low (i64.add (local.get $mid) (i64.const 1))))
        (else (local.set $high (local.get $mid))))
      (br_if $probe (i64.lt_u (local.get $low) (local.get $high))))
    (local.set $sum (i64.add (local.get $sum) (local.get $low)))"""


def loop(name: str, body: str) -> str:
    """One exported loop."""
    text = LOOP.format(name=name, body=body)
    locals_ = "(local $x i64) (local $key i64) (local $low i64) (local $high i64) (local $mid i64)"
    return text.replace("(local $sum i64)", f"(local $sum i64) {locals_}", 1)


def processor_ns(bench: Bench, export: str, argument: bytes) -> float:
    """Processor time of one entry, rolled back afterwards."""
    start = time.process_time_ns()
    bench.run(export, argument)
    elapsed = time.process_time_ns() - start
    bench.instance.roll_back()
    return elapsed


def split_load(text: str) -> str:
    """A read is a call, then a load of what it brought."""
    call, separator, _ = text.partition(") (i64.load (i32.const 64))")
    return f"(block (result i64) {call}) (i64.load (i32.const 64)))" if separator else text


def source() -> str:
    """The canister, as text."""
    loops = [
        loop(name, f"(local.set $sum (i64.add (local.get $sum) {split_load(load)}))") for name, load in LOADS.items()
    ]
    loops += [loop(name, store) for name, store in STORES.items()]
    loops += [loop(name, SEARCH.format(count=COUNT, load=split_load(load))) for name, load in PROBES.items()]
    fill = "(i64.store offset=65536 (i32.wrap_i64 (i64.shl (local.get $i) (i64.const 3))) (local.get $i))"
    fill += " (call $store (i64.shl (local.get $i) (i64.const 3)) (local.get $i))"
    loops.append(loop("fill", fill))
    return f"""(module
      (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
      (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
      (import "ic0" "msg_reply" (func $reply))
      (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
      (import "ic0" "stable64_read" (func $read (param i64 i64 i64)))
      (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
      (import "ic0_ext" "stable64_load_i64" (func $load (param i64) (result i64)))
      (import "ic0_ext" "stable64_store_i64" (func $store (param i64 i64)))
      (import "stable:users" "i64.load" (func $users_load (param i64) (result i64)))
      (import "stable:users" "i64.store" (func $users_store (param i64 i64)))
      (import "stable:users" "grow" (func $users_grow (param i64) (result i64)))
      (memory 4)
      (func (export "canister_init") (drop (call $grow (i64.const 4))) (drop (call $users_grow (i64.const 4))))
      {"".join(loops)})"""


WAYS = {
    "metered, accounted": {},
    "unmetered, accounted": {"schedule": None},
    "metered, unaccounted": {"accounting": False},
    "unmetered, unaccounted": {"schedule": None, "accounting": False},
}
EXTENSIONS = ("direct", "memories")
DIRECT_TARGETS = {"metered, accounted": 1.3, "unmetered, accounted": 1.9, "unmetered, unaccounted": 1.35}
NAMED_TARGETS = {"metered, accounted": 1.2, "unmetered, accounted": 1.45}


def accesses(table: Table, quick: bool) -> None:
    """Loops over one hot page, on each way of instrumenting; and the search."""
    wasm = bytes(wasmtime.wat2wasm(source()))
    turns = 100_000  # short, so that many of the runs are undisturbed
    compiler = Compiler(Engine(), None)
    argument, one = struct.pack("<Q", turns), struct.pack("<Q", 1)
    searches, search = turns // 40, struct.pack("<Q", turns // 40)
    benches = {way: Bench(wasm, Options(extensions=EXTENSIONS, **options), compiler) for way, options in WAYS.items()}
    runs: dict[str, Callable[[], float]] = {}
    for way, bench in benches.items():
        bench.run("canister_update fill", struct.pack("<Q", COUNT))
        bench.instance.commit()
        for name in (*LOADS, *STORES, "empty", *PROBES):
            export = "canister_update " + ("heap" if name == "empty" else name)
            given = one if name == "empty" else search if name in PROBES else argument
            runs[f"{way} {name}"] = lambda bench=bench, export=export, given=given: processor_ns(bench, export, given)
    best = interleaved(runs, 60 if quick else 300)
    for way in benches:
        ns = {name: (best[f"{way} {name}"] - best[f"{way} empty"]) / turns for name in (*LOADS, *STORES)}
        for name, value in ns.items():
            table.add(f"{way}: {name.replace('_', ' ')}, 8 bytes", value, "ns")
        table.add(f"{way}: direct load / heap load", ns["direct"] / ns["heap"], "ratio", DIRECT_TARGETS.get(way))
        table.add(f"{way}: named load / heap load", ns["named"] / ns["heap"], "ratio", NAMED_TARGETS.get(way))
        table.add(f"{way}: direct store / heap store", ns["direct_store"] / ns["heap_store"], "ratio")
        for name in PROBES:
            value = (best[f"{way} {name}"] - best[f"{way} empty"]) / searches
            table.add(f"{way}: {name.replace('_', ' ')} of 32 KiB", value, "ns")
    for way in ("metered", "unmetered"):
        ns = {kind: best[f"{way}, {kind} read"] - best[f"{way}, {kind} empty"] for kind in ("accounted", "unaccounted")}
        table.add(f"{way}: unaccounted stable64_read / accounted", ns["unaccounted"] / ns["accounted"], "ratio", 1.0)
    bench = benches["metered, accounted"]
    counted = {name: bench.run(f"canister_update {name}", argument).instructions / turns for name in LOADS}
    bench.instance.roll_back()
    table.add("instructions of a turn: heap", counted["heap"], "instructions")
    table.add("instructions of a turn: stable64_read", counted["read"], "instructions")
    table.add("instructions of a turn: direct", counted["direct"], "instructions")
    loop_alone = counted["heap"] - 1  # under this schedule a load of the heap costs 1
    access = {name: count - loop_alone for name, count in counted.items()}
    table.add("instructions of a direct load / of stable64_read", access["direct"] / access["read"], "ratio", 0.5)


MORE = 8


def beside(count: int, wasm_pages: int) -> str:
    """A canister whose update writes its heap, and which has some memories that only another one writes."""
    memories = "".join(f'(import "stable" "m{place}" (memory $m{place} i64 {wasm_pages}))' for place in range(count))
    writes = "".join(f"(i64.store $m{place} (local.get $at) (i64.const 7))" for place in range(count))
    return f"""(module
      (import "ic0" "msg_reply" (func $reply)) {memories} (memory $heap 1)
      (func (export "canister_update f") (i32.store $heap (i32.const 0) (i32.const 1)) (call $reply))
      (func (export "canister_update fill") (local $at i64)
        (loop $next {writes} (local.set $at (i64.add (local.get $at) (i64.const 4096)))
          (br_if $next (i64.lt_u (local.get $at) (i64.const {wasm_pages << 16}))))
        (call $reply)))"""


def untouched(table: Table, quick: bool) -> None:
    """An update beside memories that it does not touch: what each of them adds to it, small and large."""
    for wasm_pages in (1, 256):
        runs = {}
        for count in (0, MORE):
            subnet = Subnet(extensions=("memories",))
            canister = subnet.install(bytes(wasmtime.wat2wasm(beside(count, wasm_pages))))
            canister.update("fill")
            runs[count] = canister
        best: dict[int, float] = {}
        for _ in range(100 if quick else 400):
            for count, canister in runs.items():
                start = time.process_time_ns()
                for _ in range(20):
                    canister.update("f")
                elapsed = (time.process_time_ns() - start) / 20
                best[count] = min(best.get(count, elapsed), elapsed)
        value = (best[MORE] - best[0]) / MORE / 1e3
        table.add(f"one more memory of {wasm_pages * 64} KiB in an update that does not touch it", value, "us", 3)


def upgrades(table: Table, quick: bool) -> None:
    """An upgrade that keeps four memories, small and large."""
    taken = {}
    for wasm_pages in (1, 1_024 if quick else 4_096):
        subnet = Subnet(extensions=("memories",))
        wasm = bytes(wasmtime.wat2wasm(beside(4, wasm_pages)))
        canister = subnet.install(wasm)
        canister.update("fill")
        best = 0.0
        for _ in range(20 if quick else 60):
            start = time.process_time_ns()
            canister.upgrade(wasm)
            elapsed = float(time.process_time_ns() - start)
            best = min(best or elapsed, elapsed)
        taken[wasm_pages] = best
    (small, first), (large, second) = taken.items()
    what = f"an upgrade that keeps four memories of {large >> 4} MiB / of {small * 64} KiB"
    table.add(what, second / first, "ratio", 1.2)


GIVING = """(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_arg_data_size" (func $size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
  (import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "ic0" "call_perform" (func $perform (result i32)))
  (import "ic0_ext" "call_memory_add" (func $add (param i32 i32 i32 i32)))
  (import "stable" "m0" (memory $m0 i64 {wasm_pages})) (memory $heap 1)
  (table funcref (elem $done)) (data (memory $heap) (i32.const 0) "m0taketheirs")
  (func $done (param i32) (call $reply))
  (func (export "canister_update take") (call $reply))
  (func (export "canister_update fill") (local $at i64)
    (loop $next (i64.store $m0 (local.get $at) (i64.const 7)) (local.set $at (i64.add (local.get $at) (i64.const 4096)))
      (br_if $next (i64.lt_u (local.get $at) (i64.const {size_bytes}))))
    (call $reply))
  (func (export "canister_update give")
    (call $argument (i32.const 512) (i32.const 0) (call $size))
    (call $new (i32.const 512) (call $size) (i32.const 2) (i32.const 4)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $add (i32.const 0) (i32.const 2) (i32.const 6) (i32.const 6))
    (drop (call $perform))))"""


def handing_over(table: Table, quick: bool) -> None:
    """A memory with every page written, handed over: the call, its answer, and the callee having it; in memory."""
    taken = {}
    for wasm_pages in (1, 1_024 if quick else 16_384):
        subnet = Subnet(extensions=("memories",))
        text = GIVING.format(wasm_pages=wasm_pages, size_bytes=wasm_pages << 16)
        canister = subnet.install(bytes(wasmtime.wat2wasm(text)))
        canister.update("fill")
        taker = bytes(wasmtime.wat2wasm(GIVING.format(wasm_pages=0, size_bytes=0)))
        best = 0.0
        for _ in range(20 if quick else 60):
            other = subnet.install(taker)
            start = time.process_time_ns()
            canister.update("give", other.id.raw_bytes)
            elapsed = float(time.process_time_ns() - start)
            best = min(best or elapsed, elapsed)
        taken[wasm_pages] = best
    (small, first), (large, second) = taken.items()
    table.add(f"{large >> 4} MiB handed over, in memory / {small * 64} KiB", second / first, "ratio", 1.5)


def mappings(table: Table, quick: bool) -> None:
    """Mappings of this process with many instances of eight memories, of as many as the kernel lets it have."""
    subnet = Subnet(extensions=("memories",))
    wasm = bytes(wasmtime.wat2wasm(beside(8, 1)))
    count = 200 if quick else 1_000
    for _ in range(count):
        subnet.install(wasm).update("fill")
    found = len(Path("/proc/self/maps").read_text(encoding="utf-8").splitlines())
    limit = int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))
    table.add(f"{count:,} instances of 8 memories: kernel mappings / the limit", found / limit, "ratio", 1)


def measure(quick: bool) -> Table:
    """Nanoseconds of an access, ratios, instructions; each time the least of several runs taken in turns."""
    table = Table("memories_figures")
    accesses(table, quick)
    untouched(table, quick)
    upgrades(table, quick)
    handing_over(table, quick)
    mappings(table, quick)
    return table


if __name__ == "__main__":
    main(measure)
