"""Mutated modules through decode, validate, instrument and encode: a clear error or a valid module, nothing else.

A bounded run belongs to the suite. The long form, whose last run docs/fuzzing.md records::

    python tests/wasm/test_fuzz_mutations.py --count 100000 --seed 1

Each mutant is made from a seed and a number, so that one can be made again alone (``--only NUMBER``). What is checked:

- every step answers with a value or with one of our own errors, never with `InternalError`;
- a module that decodes is encoded as the same bytes;
- what the engine takes and our rules allow instruments to something that the engine takes as well;
- what the engine takes, our decoder takes.
"""

import argparse
import gzip
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import wasmtime

from perdure.embedder.engine import validate_original
from perdure.errors import InternalError, InvalidModuleError, MalformedError, PerdureError
from perdure.instrument import Options, instrument, validate
from perdure.wasm import Code, CustomSection, Module, decode, encode

MODULES = Path(__file__).parents[1] / "canisters" / "modules"
SMALL_BYTES = 20_000
SUITE_COUNT = 1_600

TEXTS = (
    """(module (type $t (func (param i32) (result i32)))
      (import "ic0" "msg_reply" (func $reply)) (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
      (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
      (memory 1 5) (table 2 funcref) (global $g (mut i64) (i64.const -1))
      (elem (i32.const 0) func $f $f) (elem declare func $f)
      (data (i32.const 16) "active") (data $passive "passive")
      (func $f (type $t) (local i64 f32)
        (block (loop (br_if 1 (i32.eqz (local.get 0))) (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br 0)))
        (if (result i32) (local.get 0) (then (call_indirect (type $t) (i32.const 1) (local.get 0)))
          (else (memory.grow (i32.const 1)))))
      (func (export "canister_update go")
        (drop (call $grow (i64.const 1))) (call $write (i64.const 0) (i64.const 0) (i64.const 8))
        (memory.init $passive (i32.const 0) (i32.const 0) (i32.const 7)) (data.drop $passive)
        (memory.fill (i32.const 0) (i32.const 1) (i32.const 2)) (memory.copy (i32.const 0) (i32.const 1) (i32.const 2))
        (block (block (br_table 0 1 0 (i32.wrap_i64 (global.get $g))))) (return_call $reply))
      (start $nothing) (func $nothing))""",
    """(module (import "ic0" "msg_arg_data_copy" (func $copy (param i64 i64 i64))) (memory (export "memory") i64 1)
      (table i64 1 funcref) (global (export "v") (mut v128) (v128.const i64x2 1 2)) (global f64 (f64.const nan))
      (func (export "canister_query q") (local v128)
        (call $copy (i64.const 0) (i64.const 0) (i64.const 8))
        (local.set 0 (i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 (local.get 0) (v128.load (i64.const 8))))
        (v128.store8_lane 3 (i64.const 0) (local.get 0)) (f32.store (i64.const 4) (f32.const 1.5))
        (drop (i64x2.all_true (i32x4.add (local.get 0) (local.get 0)))) (drop (i64.trunc_sat_f64_u (f64.const 2)))
        (drop (select (result i64) (i64.const 1) (i64.const 2) (i32.const 3)))
        (drop (memory.grow (i64.const 1))) (memory.fill (i64.const 1) (i32.const 2) (i64.const 3)) unreachable))""",
)

INTERESTING = (0x00, 0x01, 0x0B, 0x0E, 0x10, 0x40, 0x41, 0x60, 0x70, 0x7F, 0x80, 0xC0, 0xFC, 0xFD, 0xFF)


@cache
def corpus() -> tuple[bytes, ...]:
    """The modules that mutants are made from."""
    texts = [bytes(wasmtime.wat2wasm(text)) for text in TEXTS]
    files = [path.read_bytes() for path in sorted(MODULES.glob("*.wasm"))]
    named = CustomSection("icp:public candid:service", b"service : {}")
    with_custom = encode(replace(decode(texts[0]), custom_sections=(*decode(texts[0]).custom_sections, named)))
    return (*texts, with_custom, *(file for file in files if len(file) <= SMALL_BYTES))


# ---------------------------------------------------------------------------------------------------------- mutations


def flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.choice(INTERESTING)


def insert(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data) + 1)
    data[place:place] = bytes(rng.choice(INTERESTING) for _ in range(rng.randrange(1, 6)))


def delete(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    del data[place : place + rng.choice((1, 1, 2, 5, 40))]


def repeat(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    data[place:place] = data[place : place + rng.randrange(1, 30)] * rng.choice((1, 1, 2, 50))


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def widen(data: bytearray, rng: random.Random) -> None:
    """Pad what may be an integer."""
    place = rng.randrange(len(data))
    if data[place] < 0x80:
        data[place : place + 1] = bytes((data[place] | 0x80, *([0x80] * rng.randrange(4)), rng.choice((0, 0, 0x10))))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip,
    overwrite,
    insert,
    delete,
    repeat,
    truncate,
    widen,
)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """`data` after one to four mutations."""
    mutant = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if mutant:
            rng.choice(MUTATIONS)(mutant, rng)
    return bytes(mutant)


def mutant_of(wasm: bytes, rng: random.Random) -> bytes:
    """A mutant: of the file, of one body within an intact frame, or of one section's value."""
    match rng.randrange(10):
        case 0 | 1 | 2 | 3:
            return mutate(wasm, rng)
        case 4:
            return gzip.compress(mutate(wasm, rng), 1) if rng.random() < 0.5 else mutate(gzip.compress(wasm, 1), rng)
        case 5:
            return encode(shuffled(decode(wasm), rng))
        case _:
            return encode(with_mutated_body(decode(wasm), rng))


def with_mutated_body(module: Module, rng: random.Random) -> Module:
    """One function's body changed, its size right and an `end` behind it, so that the decoder does not see it."""
    if not module.codes:
        return module
    place = rng.randrange(len(module.codes))
    codes = list(module.codes)
    codes[place] = Code(mutate(codes[place].body, rng) + b"\x0b")
    return replace(module, codes=tuple(codes))


def shuffled(module: Module, rng: random.Random) -> Module:
    """Whole values dropped, repeated or exchanged in one section."""
    name = rng.choice(("types", "imports", "tables", "memories", "globals", "exports", "elements", "data", "codes"))
    values = list(getattr(module, name))
    if values:
        values[rng.randrange(len(values))] = rng.choice(values)
        if rng.random() < 0.5:
            values.insert(rng.randrange(len(values)), rng.choice(values))
        if rng.random() < 0.3:
            values.pop()
    return replace(module, **{name: tuple(values)})


# ---------------------------------------------------------------------------------------------------------- one mutant


@cache
def multi_memory_engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.wasm_multi_memory = True
    config.wasm_memory64 = True
    return wasmtime.Engine(config)


def engine_takes(wasm: bytes) -> bool:
    try:
        validate_original(wasm)
    except MalformedError:
        return False
    return True


def check(data: bytes) -> str:
    """Run one module through every step; what became of it.

    Raises:
        AssertionError: a law is broken.
    """
    try:
        module = decode(data)
    except MalformedError:
        assert data[:3] == b"\x1f\x8b\x08" or not engine_takes(data), "the engine takes what the decoder refuses"
        return "malformed"
    wasm = encode(module)
    assert data[:3] == b"\x1f\x8b\x08" or wasm == data, "the round trip changed the module"
    valid = engine_takes(wasm)
    try:
        validate(module)
        instrumented = [encode(instrument(module, options).module) for options in (Options(), Options(schedule=None))]
    except InternalError:
        if valid:
            raise
        return "refused"  # the embedder asks the engine first
    except InvalidModuleError:
        return "refused"
    except PerdureError:
        assert not valid, "code that the engine takes does not instrument"
        return "malformed code"
    if not valid:
        return "invalid"
    for linked in instrumented:
        wasmtime.Module.validate(multi_memory_engine(), linked)
    return "instrumented"


def make(seed: int, number: int) -> bytes:
    """The mutant of that number."""
    rng = random.Random(f"{seed} {number}")
    return mutant_of(rng.choice(corpus()), rng)


# --------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_mutated_modules(part):
    outcomes = Counter(check(make(20261120, number)) for number in range(part, SUITE_COUNT, 4))
    assert outcomes.keys() == {"malformed", "malformed code", "refused", "invalid", "instrumented"}


@pytest.mark.parametrize("index", [0, 1])
def test_truncation_at_every_byte(index):
    wasm = corpus()[index]
    outcomes = Counter(check(wasm[:size]) for size in range(len(wasm)))
    assert outcomes["malformed"] > len(wasm) * 0.9
    assert check(wasm) == "instrumented"


def main() -> int:
    """The long form."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one mutant, by its number")
    arguments = parser.parse_args()
    numbers = range(arguments.count) if arguments.only is None else [arguments.only]
    outcomes: Counter[str] = Counter()
    slowest = (0.0, 0)
    failures = 0
    for number in numbers:
        data = make(arguments.seed, number)
        start = time.process_time()
        try:
            outcomes[check(data)] += 1
        except Exception as error:
            failures += 1
            print(f"mutant {number} of {len(data)} bytes: {type(error).__name__}: {str(error)[:200]}", flush=True)
        slowest = max(slowest, (time.process_time() - start, number))
    print(f"{sum(outcomes.values())} mutants of seed {arguments.seed}: {dict(outcomes.most_common())}")
    print(f"slowest: {slowest[0]:.2f} s of processor time, mutant {slowest[1]}; failures: {failures}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
