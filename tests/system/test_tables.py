"""Tables that hold no functions leave a module valid; a callback finds nothing in them."""

from __future__ import annotations

import wasmtime

from perdure.instrument import instrument
from perdure.wasm import decode, encode


def test_a_first_table_of_external_references():
    wasm = wasmtime.wat2wasm("""(module (table 1 externref) (func (export "canister_update f")))""")
    config = wasmtime.Config()
    config.wasm_multi_memory = config.wasm_memory64 = True
    engine = wasmtime.Engine(config)
    wasmtime.Module.validate(engine, encode(instrument(decode(bytes(wasm))).module))
