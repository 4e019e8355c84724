"""Canisters on the bare engine, without the rules: for benchmarks that compare ways to instrument."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path

from perdure.canister import CanisterFacts, Context, Env, Limits, Method, Return, WasmState
from perdure.embedder import Compiler, Engine, WasmInstance
from perdure.instrument import Options
from perdure.storage import TemporaryImage, TemporaryStore

__all__ = ["ROOT", "Bench", "interleaved", "module"]

ROOT = Path(__file__).parent.parent
FACTS = CanisterFacts()


def module(name: str) -> bytes:
    """A built canister of the test suite, plain."""
    hashes = json.loads((ROOT / "tests" / "canisters" / "hashes.json").read_text(encoding="utf-8"))
    data = (ROOT / hashes[name]["file"]).read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


class Bench:
    """One instance of a canister; what it does is rolled back unless it is committed."""

    def __init__(
        self, wasm: bytes, options: Options | None = None, compiler: Compiler | None = None, *, commit: bool = True
    ) -> None:
        compiler = compiler or Compiler(Engine(), None)
        store = TemporaryStore()
        code = compiler.compile(wasm, options or Options())
        state = WasmState({name: TemporaryImage(store) for name in code.memories})
        self.instance: WasmInstance = code.instantiate(state)
        if "canister_init" in self.instance.module.exported_methods:
            self.run("canister_init", b"DIDL\0\0", Context.INIT)
        if commit:
            self.instance.commit()

    def run(self, export: str, arg: bytes = b"", context: Context = Context.UPDATE) -> Return:
        """Enter an export; a trap is an error."""
        env = Env(context, FACTS, Limits(), arg=arg, needs_to_respond=context is Context.UPDATE)
        result = self.instance.run(Method(export), env)
        if not isinstance(result, Return):
            raise RuntimeError(f"{export}: {result}")
        return result

    def time_run(self, export: str, arg: bytes = b"") -> float:
        """Time of one entry in ns, rolled back afterwards."""
        start = time.perf_counter_ns()
        self.run(export, arg)
        elapsed = time.perf_counter_ns() - start
        self.instance.roll_back()
        return elapsed


def interleaved(runs: dict[str, Callable[[], float]], repeat: int) -> dict[str, float]:
    """The least of `repeat` times of each, taken in turns: a machine that slows down slows all of them."""
    best: dict[str, float] = {}
    for _ in range(repeat):
        for name, run in runs.items():
            elapsed = run()
            best[name] = min(best.get(name, elapsed), elapsed)
    return best
