"""From a module's bytes to the instrumented module's, against compiling the result; and the worst code made by hand."""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_size_t, c_void_p
from dataclasses import replace
from pathlib import Path

from figures import Table, main
from perdure.embedder import Compiler
from perdure.embedder.bindings import check, function
from perdure.embedder.engine import Engine
from perdure.instrument import SCHEDULES, Bounds, counts_of, instrument, validate
from perdure.instrument.metering import Rewrite, rewrite_codes
from perdure.wasm import Code, decode, encode, inflate

MODULES = Path(__file__).parent.parent / "tests" / "canisters" / "modules"
LARGE_BYTES = 1_000_000
HAND_MADE_BYTES = 300_000

_module_new = function("wasmtime_module_new", c_void_p, c_void_p, c_char_p, c_size_t, POINTER(c_void_p))
_module_delete = function("wasmtime_module_delete", None, c_void_p)

#: One instruction sequence repeated; each is hard on another part of the metering.
HAND_MADE = {
    "nop": b"\x01",
    "i32.eqz": b"\x45",
    "unreachable": b"\x00",
    "end of a block": b"\x02\x40\x0b",
    "loop": b"\x03\x40\x0b",
    "if": b"\x20\x00\x04\x40\x0b",
    "br_if": b"\x20\x00\x0d\x00",
    "br": b"\x0c\x00",
    "br_table": b"\x0e\x00\x00",
    "br_table with long labels": b"\x0e\x02\x80\x00\x80\x00\x80\x00",
    "call of a replaced import": b"\x10\x00",
    "memory.copy": b"\xfc\x0a\x00\x00",
    "data.drop": b"\xfc\x09\x00",
    "short vector instruction": b"\xfd\x0f",
    "long vector instruction": b"\xfd\xff\x01",
}

FUNCTIONS = "16,384 functions of six bytes"


def large_modules() -> list[tuple[str, bytes]]:
    """Real modules over 1 MB, inflated, by name."""
    files = sorted(path for path in MODULES.iterdir() if ".wasm" in path.suffixes)
    modules = ((path.name.partition(".")[0], inflate(path.read_bytes())) for path in files)
    return [(name, wasm) for name, wasm in modules if len(wasm) > LARGE_BYTES]


def instrumented(wasm: bytes) -> bytes:
    """What the embedder does before it compiles, the engine's own look at the module apart."""
    module, streams = decode(wasm), {}
    validate(module)
    counts_of(module, Bounds(), streams)
    return encode(instrument(module, streams=streams).module)


def compiler(engine: Engine, wasm: bytes) -> Callable[[], None]:
    """Compiles `wasm` with the shipped settings and throws the code away."""

    def run() -> None:
        code = c_void_p()
        check(_module_new(engine.pointer, wasm, len(wasm), byref(code)), "compile")
        _module_delete(code)

    return run


def used_seconds() -> float:
    """Processor time so far, of processes that have ended too."""
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + others.ru_utime + others.ru_stime


def best_ms(run: Callable[[], object], repeat: int) -> float:
    """Best of `repeat` runs, in processor time of all threads and of those that compile: others want the machine."""

    def seconds() -> float:
        start = used_seconds()
        run()
        return used_seconds() - start

    return 1e3 * min(seconds() for _ in range(repeat))


def megabytes_a_second(run: Callable[[], object], size_bytes: int, repeat: int) -> float:
    """Best of `repeat` runs, in processor time."""
    return size_bytes / 1e3 / best_ms(run, repeat)


def hand_made() -> dict[str, list[Code]]:
    codes = {name: [Code(b"\0" + text * (HAND_MADE_BYTES // len(text)) + b"\x0b")] for name, text in HAND_MADE.items()}
    tiny = (Code(b"\0\x41" + bytes(pair) + b"\x1a\x0b") for pair in itertools.product(range(128, 256), range(128)))
    return codes | {FUNCTIONS: list(tiny)}


def measure(quick: bool) -> Table:
    """Instrumentation against compilation, on real modules over 1 MB and on code made by hand."""
    table = Table("instrument_speed")
    engine = Engine()
    repeat = 3 if quick else 7
    for name, wasm in large_modules():
        front = best_ms(lambda wasm=wasm: instrumented(wasm), repeat)
        compiling = best_ms(compiler(engine, instrumented(wasm)), 1 if quick else 3)
        original = best_ms(compiler(engine, wasm), 1 if quick else 3)
        cold = best_ms(lambda wasm=wasm: Compiler(engine, None).compile(wasm), 1 if quick else 3)
        table.add(f"{name}: decode to encode, counting included / compile", front / compiling, "ratio", 0.15)
        table.add(f"{name}: cold, all of it / compile of the original", cold / original, "ratio", 1.5)
        table.add(f"{name}: decode to encode, counting included", front, "ms")
        table.add(f"{name}: decode alone", best_ms(lambda wasm=wasm: decode(wasm), repeat), "ms")
        table.add(f"{name}: compile", compiling, "ms")
    rewrite = Rewrite(SCHEDULES["2025"], 1, 2, 3, 4, redirects={0: 5}, memory_grow={0: 6}, drop_flag_global=7)
    speeds = {}
    for name, codes in hand_made().items():
        size = sum(len(code.body) for code in codes)
        speeds[name] = megabytes_a_second(lambda codes=codes: rewrite_codes(codes, rewrite), size, repeat)
    for name, speed in sorted(speeds.items(), key=lambda item: item[1])[: 4 if quick else None]:
        target = None if name == FUNCTIONS else 4
        table.add(f"metering, made by hand: {name}", speed, "MB/s", target, better="higher")
    codes = [code for _, wasm in large_modules() for code in decode(wasm).codes]
    size = sum(len(code.body) for code in codes)
    for what, chosen, target in (("metering", rewrite, 10), ("redirecting", replace(rewrite, schedule=None), None)):
        speed = megabytes_a_second(lambda chosen=chosen: rewrite_codes(codes, chosen), size, repeat)
        table.add(f"{what} alone, all large modules", speed, "MB/s", target, better="higher")
    return table


if __name__ == "__main__":
    main(measure)
