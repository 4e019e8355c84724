"""A linked module on a bare engine, so that the kernel can be tested without the embedder."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
import wasmtime

from perdure.canister import UNLIMITED, Context
from perdure.instrument import Options, abi, instrument
from perdure.wasm import decode, encode

MEMORIES = dict(zip(("heap", "stable", "accounting", "message"), abi.MEMORY_NAMES, strict=True))


def engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.wasm_multi_memory = True
    config.wasm_memory64 = True
    config.memory_reservation = 16 << 30  # growing past it copies the whole memory
    return wasmtime.Engine(config)


class Linked:
    """A module from text, linked and instantiated; every import that is really called traps."""

    def __init__(self, text: str, options: Options | None = None) -> None:
        module = decode(bytes(wasmtime.wat2wasm(text)))
        self.instrumented = instrument(module, options or Options())
        shared = engine()
        compiled = wasmtime.Module(shared, encode(self.instrumented.module))
        self.store = wasmtime.Store(shared)
        imports = [
            wasmtime.Func(self.store, item.type, self._refuse(item.name))
            for item in compiled.imports
            if isinstance(item.type, wasmtime.FuncType)
        ]
        self.exports = wasmtime.Instance(self.store, compiled, imports).exports(self.store)
        self.fill(context=Context.UPDATE.bit, instruction_limit=UNLIMITED)
        self.fill(accessed_page_limit=UNLIMITED, dirty_page_limit=UNLIMITED, dirty_page_instructions=1000)
        self.fill(stable_limit_wasm_pages=8_192_000, stable_trap_wasm_pages=UNLIMITED, heap_limit_wasm_pages=UNLIMITED)
        self.fill(reply_limit_bytes=2 << 20)

    @staticmethod
    def _refuse(name: str | None) -> Callable[..., None]:
        def called(*_: int) -> None:
            raise AssertionError(f"host function {name} was called")

        return called

    def memory(self, name: str) -> wasmtime.Memory:
        memory = self.exports[MEMORIES[name]]
        assert isinstance(memory, wasmtime.Memory)
        return memory

    def fill(self, **fields: int | bytes) -> None:
        for name, value in fields.items():
            field = abi.HEADER[name]
            self.memory("message").write(self.store, struct.pack("<" + field.format, value), field.offset)

    def field(self, name: str) -> int:
        field = abi.HEADER[name]
        data = self.memory("message").read(self.store, field.offset, field.offset + field.size_bytes)
        return struct.unpack("<" + field.format, bytes(data))[0]

    def read(self, memory: str, address: int, size_bytes: int) -> bytes:
        return bytes(self.memory(memory).read(self.store, address, address + size_bytes))

    def write(self, memory: str, address: int, data: bytes) -> None:
        self.memory(memory).write(self.store, data, address)

    def run(self, entry: str = "canister_update f") -> None:
        function = self.exports[entry]
        assert isinstance(function, wasmtime.Func)
        function(self.store)

    def traps(self, entry: str = "canister_update f") -> int:
        """Run, expect a trap; the kernel's trap code, 0 if Wasm trapped by itself."""
        with pytest.raises(wasmtime.Trap):
            self.run(entry)
        self.run(abi.FINISH)
        return self.field("trap_code")

    def instructions(self) -> int:
        return self.field("instruction_limit") - self.field("instructions_left")

    def pages(self, which: str) -> list[int]:
        start = {"touched": abi.TOUCHED_LIST, "written": abi.WRITTEN_LIST}[which]
        count = (self.field(f"{which}_end") - start) // 4
        return list(struct.unpack(f"<{count}I", self.read("accounting", start, 4 * count)))


@pytest.fixture
def link_text() -> Callable[..., Linked]:
    return Linked
