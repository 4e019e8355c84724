"""Build each NAME.wasm from NAME.wat, and NAME64.wasm for 64-bit heaps: tools/build_kernel.py [--check]."""

from __future__ import annotations

import sys
from pathlib import Path

import wasmtime

INSTRUMENT = Path(__file__).parent.parent / "src" / "perdure" / "instrument"
NAMES = ("kernel", "profile", "wasi", "lower")
BOTH_WIDTHS = ("kernel", "lower")

# What each place marked (;I;) becomes where heap addresses are 64-bit; a conversion becomes a block that does nothing.
TO_64_BIT = {
    "(memory $heap 0)) (;I;)": "(memory $heap i64 0))",
    "i32.wrap_i64 (;I;)": "block (result i64)",
    "i64.extend_i32_u (;I;)": "block (result i64)",
    "i64.extend_i32_s (;I;)": "block (result i64)",
    "i32 (;I;)": "i64",
    "0xffffffff (;max;)": "-1",
}


def widen(text: str) -> str:
    """The text for 64-bit heaps."""
    for marked, wide in TO_64_BIT.items():
        text = text.replace(marked, wide)
    for number, line in enumerate(text.splitlines(), 1):
        if "(;I;)" in line.partition(";; ")[0]:
            raise ValueError(f"line {number}: a place marked (;I;) is of no known form: {line.strip()}")
    return text


def build() -> dict[str, bytes]:
    """File names and contents of what is built."""
    texts = {f"{name}.wasm": (INSTRUMENT / f"{name}.wat").read_text(encoding="utf-8") for name in NAMES}
    texts |= {f"{name}64.wasm": widen(texts[f"{name}.wasm"]) for name in BOTH_WIDTHS}
    return {name: bytes(wasmtime.wat2wasm(text)) for name, text in texts.items()}


def main() -> int:
    """Write the files, or with --check compare them."""
    built = build()
    stale = (
        [name for name, wasm in built.items() if (INSTRUMENT / name).read_bytes() != wasm]
        if "--check" in sys.argv
        else []
    )
    for name in stale:
        print(f"{name} is not what its text says: run python tools/build_kernel.py")
    if "--check" not in sys.argv:
        for name, wasm in built.items():
            (INSTRUMENT / name).write_bytes(wasm)
            print(f"{name}: {len(wasm)} bytes")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
