"""What a message costs besides the canister's own work: through the public API, and on the engine alone."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import wasmtime

from engine import FACTS, Bench, interleaved, module
from figures import Table, best_ns, main, median_ns
from perdure import Canister, Subnet
from perdure.canister import Context, Env, Limits, Method, Return
from perdure.embedder import CompileCache, Compiler, Engine
from perdure.image import MemoryKind
from perdure.instrument import Options

GIB = 1 << 30
WASM_PAGES_500_GIB = 500 * GIB >> 16
SCATTERED_PAGES = 1_000

CANISTER = f"""(module
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
  (import "ic0" "stable64_read" (func $read (param i64 i64 i64)))
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_arg_data_copy" (func $copy (param i32 i32 i32)))
  (memory 32)
  (func $count (i32.store (i32.const 65536) (i32.add (i32.load (i32.const 65536)) (i32.const 1))))
  (func (export "canister_init"))
  (func (export "canister_update grow")
    (call $copy (i32.const 0) (i32.const 0) (i32.const 8)) (drop (call $grow (i64.load (i32.const 0)))) (call $reply))
  (func (export "canister_update empty") (call $reply))
  (func (export "canister_update heap") (call $count) (call $reply))
  (func (export "canister_update both") (call $count)
    (call $write (i64.const 8192) (i64.const 65536) (i64.const 8))
    (call $append (i32.const 65536) (i32.const 8)) (call $reply))
  (func (export "canister_query both")
    (call $count) (call $read (i64.const 65544) (i64.const 8192) (i64.const 8))
    (call $append (i32.const 65536) (i32.const 16)) (call $reply))
  (func (export "canister_update scatter") (local $page i64)
    (loop $next
      (call $write (i64.mul (local.get $page) (i64.const {400 * GIB // SCATTERED_PAGES}))
        (i64.const 65536) (i64.const 8))
      (br_if $next (i64.lt_u (local.tee $page (i64.add (local.get $page) (i64.const 1)))
        (i64.const {SCATTERED_PAGES}))))
    (call $reply)))
"""


def wasm() -> bytes:
    """The canister of this benchmark."""
    text = CANISTER.replace('(export "canister_query both")', '(export "canister_query look")')
    return bytes(wasmtime.wat2wasm(text))


def per_call_us(call: Callable[[], object], repeat: int) -> float:
    """Processor time of one of many calls in a row, us: the least of many short series, which others disturb least."""
    call()
    run = series(call, time.process_time_ns)
    return min(run() for _ in range(repeat // 15)) / 100_000


def public_api(table: Table, repeat: int) -> None:
    """The facade, raw bytes."""
    canister = Subnet().install(wasm())
    canister.update("grow", (1).to_bytes(8, "little"))
    update = per_call_us(lambda: canister.update("both"), repeat)
    query = per_call_us(lambda: canister.query("look"), repeat)
    table.add("public API: an update that writes one heap and one stable page", update, "us", 35)
    table.add("public API: a query", query, "us", 20)
    table.add("public API: an update that only replies", per_call_us(lambda: canister.update("empty"), repeat), "us")


def engine_alone(table: Table, repeat: int) -> None:
    """Without the rules: run, then commit or roll back."""
    bench = Bench(wasm(), compiler=Compiler(Engine(), None))
    bench.run("canister_update grow", (1).to_bytes(8, "little"))
    instance = bench.instance
    instance.commit()
    update = Env(Context.UPDATE, FACTS, Limits())
    query = Env(Context.NON_REPLICATED_QUERY, FACTS, Limits())

    def run(method: Method, env: Env, end: Callable[[], object] | None) -> Callable[[], None]:
        def call() -> None:
            assert isinstance(instance.run(method, env), Return)
            if end is not None:
                end()

        return call

    both = run(Method("canister_update both"), update, instance.commit)
    look = run(Method("canister_query look"), query, instance.roll_back)
    empty = run(Method("canister_update empty"), update, None)
    table.add("engine alone: an update that writes one heap and one stable page", per_call_us(both, repeat), "us", 20)
    table.add("engine alone: a query", per_call_us(look, repeat), "us", 13)
    table.add("engine alone: an entry that only replies, not committed", per_call_us(empty, repeat), "us", 8)


def series(call: Callable[[], object], clock_ns: Callable[[], int] = time.perf_counter_ns) -> Callable[[], float]:
    """Time of 100 calls in a row, ns."""

    def run() -> float:
        start = clock_ns()
        for _ in range(100):
            call()
        return clock_ns() - start

    return run


def stable_sizes(table: Table, quick: bool) -> None:
    """Costs that must not grow with the size of stable memory."""
    small, large = (Bench(wasm(), compiler=Compiler(Engine(), None)) for _ in range(2))
    for bench, wasm_pages in ((small, 1), (large, WASM_PAGES_500_GIB)):
        bench.run("canister_update grow", wasm_pages.to_bytes(8, "little"))
        bench.instance.commit()

    def update(bench: Bench, name: str) -> Callable[[], None]:
        def call() -> None:
            bench.run(f"canister_update {name}")
            bench.instance.commit()

        return call

    for what, name, target in (("does not touch", "heap", 1.2), ("writes one page of", "both", None)):
        runs = {"small": series(update(small, name)), "large": series(update(large, name))}
        best = interleaved(runs, 20 if quick else 100)
        ratio = best["large"] / best["small"]
        table.add(f"an update that {what} stable memory, on 500 GiB of it / on 64 KiB", ratio, "ratio", target)
    scatter = median_ns(update(large, "scatter"), 10) / 1e6
    table.add("1,000 pages written over 400 GiB in one message, committed", scatter, "ms", 30)


def third_memory(table: Table, quick: bool) -> None:
    """An update of a canister with a memory more, which it does not touch."""

    def update(*memories: MemoryKind) -> Callable[[], float]:
        canister = Subnet(instrumentation=Options(memories=memories)).install(wasm())
        canister.update("grow", (1).to_bytes(8, "little"))
        return series(lambda: canister.update("both"), time.process_time_ns)

    runs = {"two": update(), "three": update(MemoryKind("third", "stable", 64))}
    best = interleaved(runs, 20 if quick else 100)
    more_us = (best["three"] - best["two"]) / 100_000
    table.add("an update beside a third memory that is not touched, more than without", more_us, "us", 3)


def upgrades(table: Table, quick: bool) -> None:
    """An upgrade without hooks, and one that passes a heap through stable memory."""
    code = wasm()

    def canister_of(wasm_pages: int) -> Canister:
        canister: Canister = Subnet().install(code)
        canister.update("grow", wasm_pages.to_bytes(8, "little"))
        canister.update("both")
        return canister

    large, small = canister_of(10 * GIB >> 16), canister_of(1)
    runs = {
        "large": lambda: best_ns(lambda: large.upgrade(code), 1),
        "small": lambda: best_ns(lambda: small.upgrade(code), 1),
    }
    best = interleaved(runs, 10 if quick else 40)
    ratio = best["large"] / best["small"]
    table.add("an upgrade without hooks on 10 GiB of stable memory / on 64 KiB", ratio, "ratio", 1.2)
    size_mib = 64 if quick else 1024
    keeper = module("save_restore")
    canister = Subnet().install(keeper)
    canister.update("fill", (size_mib << 20).to_bytes(8, "little"))
    elapsed = best_ns(lambda: canister.upgrade(keeper), 1) / 1e6
    table.add(f"an upgrade whose hooks save and restore {size_mib} MiB", elapsed, "ms")


def start(table: Table, quick: bool) -> None:
    """From nothing to the first reply; each in a fresh compiler or process."""
    code = module("messenger")
    with tempfile.TemporaryDirectory() as directory:
        cache = CompileCache(Path(directory))
        engine = Engine()
        Compiler(engine, cache).compile(code)

        def first_reply() -> None:
            Subnet(compiler=Compiler(engine, cache)).install(code).query("count", b"DIDL\0\0")

        elapsed = median_ns(first_reply, 5 if quick else 20) / 1e6
        table.add(f"a module of {len(code) / 1e6:.1f} MB, cached: install to first reply", elapsed, "ms", 30)
    kv = module("kv32")
    bare = _process_ms(["-c", "pass"], quick)
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        Path("kv.wasm").write_bytes(kv)
        _process_ms(["-m", "perdure", "canister", "install", "kv", "--wasm", "kv.wasm"], quick=True)
        for what, command, target in (
            ("import perdure", ["-c", "import perdure"], 100),
            ("perdure --help", ["-m", "perdure", "--help"], 45),
            ("perdure canister call", ["-m", "perdure", "canister", "call", "kv", "inc"], 160),
        ):
            table.add(
                f"{what}, processor time beyond starting Python", _process_ms(command, quick) - bare, "ms", target
            )


def _process_ms(arguments: list[str], quick: bool) -> float:
    """The least processor time of a process, of its threads and in the system's calls too."""
    # Where bytecode may not be written all would be compiled each time, which no user has.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run() -> float:
        process = os.posix_spawn(
            sys.executable,
            [sys.executable, *arguments],
            environment,
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        )
        _, status, usage = os.wait4(process, 0)
        if status:
            raise SystemExit(f"{shlex.join(arguments)} failed: {status}")
        return (usage.ru_utime + usage.ru_stime) * 1e3

    return min(run() for _ in range(3 if quick else 15))


def measure(quick: bool) -> Table:
    """Measure what a message costs besides the canister's own work."""
    table = Table("message_overhead")
    repeat = 1_000 if quick else 5_000
    public_api(table, repeat)
    engine_alone(table, repeat)
    stable_sizes(table, quick)
    third_memory(table, quick)
    upgrades(table, quick)
    start(table, quick)
    return table


if __name__ == "__main__":
    main(measure)
