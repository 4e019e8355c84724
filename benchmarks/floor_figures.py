"""Where the microseconds of an update and of a query go: each layer beside the one under it, from the floor up."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine import FACTS, Bench, interleaved
from figures import Table, main
from floors.message import MessageFloor
from message_overhead import wasm
from perdure import Subnet
from perdure.canister import Context, Env, Limits, Method
from perdure.embedder import Compiler, Engine, WasmInstance
from perdure.execution.query import execute_query
from perdure.execution.scheduler import execute_at_once

UPDATE, QUERY = Method("canister_update both"), Method("canister_query look")
HEAP_ADDRESS, STABLE_ADDRESS = 65_536, 8_192
BATCH = 200


def series(act: Callable[[], object]) -> Callable[[], float]:
    """Processor time of one of a batch, us."""

    def run() -> float:
        begun = time.process_time_ns()
        for _ in range(BATCH):
            act()
        return (time.process_time_ns() - begun) / BATCH / 1_000

    return run


def prepared() -> tuple[Bench, MessageFloor]:
    """An instance whose next entries write what those before have written."""
    bench = Bench(wasm(), compiler=Compiler(Engine(), None))
    bench.run("canister_update grow", (1).to_bytes(8, "little"))
    bench.instance.commit()
    for _ in range(20):
        bench.run(UPDATE.export_name)
        bench.instance.commit()
    return bench, MessageFloor(bench.instance, HEAP_ADDRESS, STABLE_ADDRESS)


def embedded(instance: WasmInstance, method: Method, env: Env, end: Callable[[], object]) -> Callable[[], None]:
    """On the engine alone: run, then commit or roll back."""

    def act() -> None:
        instance.run(method, env)
        end()

    return act


def layers() -> dict[str, Callable[[], object]]:
    """What is measured, by name; each does what the one before it does, and more."""
    floor = prepared()[1]  # of an instance of its own: what it writes nobody commits
    bench = prepared()[0]
    instance = bench.instance
    canister = Subnet().install(wasm())
    canister.update("grow", (1).to_bytes(8, "little"))
    update, query = (Env(context, FACTS, Limits()) for context in (Context.UPDATE, Context.NON_REPLICATED_QUERY))
    world, canister_id = canister._subnet._world, canister.id.raw_bytes
    return {
        "update: the call into Wasm": floor.call(UPDATE, update),
        "update: and which pages are private": floor.scanned(UPDATE, update),
        "update: and two pages into a file (its floor)": floor.written(UPDATE, update),
        "update: in the embedder, committed": embedded(instance, UPDATE, update, instance.commit),
        "update: by the rules, as a transaction": lambda: execute_at_once(world, canister_id, "both", b""),
        "update: through the public API": lambda: canister.update("both"),
        "query: the call into Wasm": floor.call(QUERY, query),
        "query: and which pages are private": floor.scanned(QUERY, query),
        "query: and one of them restored (its floor)": floor.restored(QUERY, query),
        "query: in the embedder, rolled back": embedded(instance, QUERY, query, instance.roll_back),
        "query: by the rules": lambda: execute_query(world, canister_id, "look", b""),
        "query: through the public API": lambda: canister.query("look"),
    }


def measure(quick: bool) -> Table:
    """Measure where the time of a message goes."""
    table = Table("floor_figures")
    found = interleaved({name: series(act) for name, act in layers().items()}, 5 if quick else 40)
    for name, value in found.items():
        table.add(name, value, "us")
    for kind, name in (("update", "two pages into a file"), ("query", "restored")):
        floor = next(value for what, value in found.items() if what.startswith(kind) and name in what)
        table.add(f"{kind}: public API / its floor", found[f"{kind}: through the public API"] / floor, "ratio", 1.3)
    return table


if __name__ == "__main__":
    main(measure)
