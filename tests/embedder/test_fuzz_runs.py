"""Mutated canisters on the engine, natively and through host functions: the same answers and bytes, and no crash.

A bounded run belongs to the suite. The long form::

    python tests/embedder/test_fuzz_runs.py --count 20000 --seed 1

Each mutant is made from a seed and a number, so that one can be made again alone (``--only NUMBER``).
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from perdure.canister import CanisterFacts, Context, Env, Limits, Method, Return, Trap, TrapCode, WasmState
from perdure.embedder import Compiler, WasmInstance, shared_engine
from perdure.errors import InternalError, PerdureError
from perdure.instrument import Options
from perdure.storage import TemporaryImage, TemporaryStore

MODULES = Path(__file__).parents[1] / "canisters" / "modules"
SUITE_COUNT = 80
FACTS = CanisterFacts(canister_id=b"\0\0\0\0\0\0\0\x01\x01\x01")
INSTRUCTIONS = 3_000_000
SEEN_BYTES = 4 << 20
MODES = (Options(), Options(native_stable=False, native_messages=False))

# Host calls are charged otherwise, and a copy past the heap's end is a Wasm trap natively, a broken rule in the host.
LOOSE = {TrapCode.INSTRUCTION_LIMIT_EXCEEDED, TrapCode.INTERRUPTED}
OUT_OF_HEAP = {TrapCode.HEAP_OUT_OF_BOUNDS, TrapCode.CONTRACT_VIOLATION}


def make(seed: int, number: int) -> bytes:
    """A mutant of a small canister, mostly of its code."""
    source = random.Random(seed << 32 | number)
    name = ("kv32", "kv64", "stable_access", "save_restore")[number % 4]
    data = bytearray((MODULES / f"{name}.wasm").read_bytes())
    for _ in range(source.choice((1, 1, 2, 3))):
        at = source.randrange(8, len(data))
        data[at] = source.choice((source.randrange(256), data[at] ^ 1 << source.randrange(8), 0, 0x7F, 0x41))
    return bytes(data)


def tell(instance: WasmInstance, source: random.Random) -> list[object]:
    """What a few calls answer, until something happens that need not be the same."""
    told: list[object] = []
    methods = sorted(instance.module.exported_methods)
    for name in source.sample(methods, min(8, len(methods))):
        query = name.startswith("canister_query")
        context = Context.NON_REPLICATED_QUERY if query else Context.INIT if name == "canister_init" else Context.UPDATE
        arg = source.choice((b"", source.randbytes(8), (65536).to_bytes(8, "little") * 3, source.randbytes(40)))
        env = Env(context, FACTS, Limits(INSTRUCTIONS), arg=arg, needs_to_respond=context is not Context.INIT)
        outcome = instance.run(Method(name), env)
        if isinstance(outcome, Trap):
            instance.roll_back()
            if outcome.code in LOOSE:
                return [*told, "loose"]
            told.append((name, "out of heap" if outcome.code in OUT_OF_HEAP else (outcome.code, outcome.message)))
            continue
        assert isinstance(outcome, Return)
        instance.roll_back() if query else instance.commit()
        told.append((name, outcome.response, outcome.logs, outcome.stable_dirty_pages, outcome.heap_wasm_pages))
    memories = (instance.heap, instance.stable)
    return told + [(item.size_bytes, item.read(0, min(item.size_bytes, SEEN_BYTES))) for item in memories]


def check(seed: int, number: int) -> str:
    """Run one mutant in every mode; the name of what came of it."""
    wasm = make(seed, number)
    stories = []
    for mode in MODES:
        store = TemporaryStore()
        try:
            module = Compiler(shared_engine(), None).compile(wasm, mode)
            instance = module.instantiate(WasmState({name: TemporaryImage(store) for name in ("heap", "stable")}))
        except InternalError:
            raise
        except PerdureError as error:
            return type(error).__name__
        instance.commit()
        stories.append(tell(instance, random.Random(number)))
        instance.close()
    native, host = stories
    if "loose" in (native[-1], host[-1]):
        shared = min(len(native), len(host)) - 1
        native, host = native[:shared], host[:shared]
    assert native == host
    return "same"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_mutated_canisters_do_the_same_in_every_mode(part):
    outcomes = Counter(check(20261120, number) for number in range(part, SUITE_COUNT, 4))
    assert outcomes["same"] > 0
    assert outcomes.keys() <= {"same", "MalformedError", "InvalidModuleError", "UnsupportedError"}


def main() -> int:
    """The long form."""
    faulthandler.enable()
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one mutant, by its number")
    arguments = parser.parse_args()
    outcomes: Counter[str] = Counter()
    failures = 0
    for number in range(arguments.count) if arguments.only is None else [arguments.only]:
        try:
            outcomes[check(arguments.seed, number)] += 1
        except (AssertionError, InternalError) as error:
            failures += 1
            print(f"mutant {number}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    print(f"{outcomes.total()} mutants of seed {arguments.seed}: {dict(outcomes.most_common())}; failures: {failures}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
