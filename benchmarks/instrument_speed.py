"""From a module's bytes to the instrumented module's, against compiling the result; and the worst code made by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_size_t, c_void_p
from dataclasses import replace
from pathlib import Path

from figures import Table, best_ns, main
from perdure.embedder.bindings import check, function
from perdure.embedder.engine import Engine
from perdure.instrument import SCHEDULES, instrument, validate
from perdure.instrument.metering import Rewrite, rewrite_codes
from perdure.wasm import Code, Module, decode, encode, inflate

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


def large_modules() -> list[tuple[str, bytes]]:
    """Real modules over 1 MB, inflated, by name."""
    files = sorted(path for path in MODULES.iterdir() if ".wasm" in path.suffixes)
    modules = ((path.name.partition(".")[0], inflate(path.read_bytes())) for path in files)
    return [(name, wasm) for name, wasm in modules if len(wasm) > LARGE_BYTES]


def instrumented(wasm: bytes) -> bytes:
    """What the embedder does before it compiles."""
    module = decode(wasm)
    validate(module)
    return encode(instrument(module).module)


def compiler(engine: Engine, wasm: bytes) -> Callable[[], None]:
    """Compiles `wasm` with the shipped settings and throws the code away."""

    def run() -> None:
        code = c_void_p()
        check(_module_new(engine.pointer, wasm, len(wasm), byref(code)), "compile")
        _module_delete(code)

    return run


def code_bytes(module: Module) -> int:
    return sum(len(code.body) for code in module.codes)


def hand_made() -> dict[str, list[Code]]:
    codes = {name: [Code(b"\0" + text * (HAND_MADE_BYTES // len(text)) + b"\x0b")] for name, text in HAND_MADE.items()}
    tiny = (Code(b"\0\x41" + bytes(pair) + b"\x1a\x0b") for pair in itertools.product(range(128, 256), range(128)))
    return codes | {"functions of six bytes": list(tiny)}


def measure(quick: bool) -> Table:
    """Instrumentation against compilation, on real modules over 1 MB and on code made by hand."""
    table = Table("instrument_speed")
    engine = Engine()
    repeat = 3 if quick else 7
    for name, wasm in large_modules():
        module = decode(wasm)
        code_mb = code_bytes(module) / 1e6
        front = best_ns(lambda wasm=wasm: instrumented(wasm), repeat)
        compiling = best_ns(compiler(engine, instrumented(wasm)), 1 if quick else 3)
        table.add(f"{name}: decode to encode / compile", front / compiling, "ratio", 0.25)
        table.add(f"{name}: decode to encode", 1000 * code_mb / front * 1e6, "MB/s", better="higher")
        table.add(f"{name}: decode alone", best_ns(lambda wasm=wasm: decode(wasm), repeat) / 1e6, "ms")
        table.add(f"{name}: compile", compiling / 1e6, "ms")
    rewrite = Rewrite(SCHEDULES["2025"], 1, 2, 3, 4, redirects={0: 5}, memory_grow=6, drop_flag_global=7)
    speeds = {}
    for name, codes in hand_made().items():
        size_mb = sum(len(code.body) for code in codes) / 1e6
        speeds[name] = size_mb * 1e9 / best_ns(lambda codes=codes: rewrite_codes(codes, rewrite), repeat)
    for name, speed in sorted(speeds.items(), key=lambda item: item[1])[: 3 if quick else None]:
        table.add(f"metering, made by hand: {name}", speed, "MB/s", 4, better="higher")
    unmetered = replace(rewrite, schedule=None)
    codes = [code for _, wasm in large_modules() for code in decode(wasm).codes]
    size_mb = sum(len(code.body) for code in codes) / 1e6
    for what, chosen in (("metering", rewrite), ("redirecting alone", unmetered)):
        speed = size_mb * 1e9 / best_ns(lambda chosen=chosen: rewrite_codes(codes, chosen), repeat)
        table.add(f"{what}, all large modules", speed, "MB/s", 10 if what == "metering" else None, better="higher")
    return table


if __name__ == "__main__":
    main(measure)
