"""An update that writes one page of the heap and one of stable memory, and a query, without rules or transaction.

What has to happen: C is called from Python and calls into Wasm; the kernel says which pages of the heap are private;
two pages are written to a file. A query writes none, and gives the page that it has changed its bytes back.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

from perdure.canister import Env, Method
from perdure.embedder import WasmInstance
from perdure.embedder.guard import threads
from perdure.embedder.header import OUT, OUT_OFFSET, fill
from perdure.embedder.pagemap import PageScan
from perdure.memory import PAGE_BYTES

__all__ = ["MessageFloor"]

_HEADER_BYTES = OUT_OFFSET + OUT.size


class MessageFloor:
    """Over an instance that has run: its entries, called with what the last message left in the header."""

    def __init__(self, instance: WasmInstance, heap_address: int, stable_address: int) -> None:
        self._instance = instance
        self._heap, self._stable = instance.heap, instance.stable
        self._addresses = heap_address, stable_address
        self._state = threads.here.state
        self._scan = PageScan(os.open("/proc/self/pagemap", os.O_RDONLY))
        with tempfile.TemporaryFile(buffering=0) as file:
            self._file = os.dup(file.fileno())

    def call(self, method: Method, env: Env) -> Callable[[], object]:
        """Just the call into Wasm, with the header as it was before an entry."""
        store, view = self._instance._store, self._instance._view
        assert store is not None
        fill(view, env, None, 0, 0)
        entry, state, header = store.function(method.export_name), self._state, view[:_HEADER_BYTES].tobytes()

        def act() -> None:
            view[:_HEADER_BYTES] = header
            if store.call(entry, state) is not None:
                raise RuntimeError(f"{method.export_name} trapped")

        return act

    def scanned(self, method: Method, env: Env) -> Callable[[], object]:
        """The same, and which pages of the heap are private then: all that a query needs but for undoing them."""
        call, runs, heap = self.call(method, env), self._scan.runs, self._heap

        def act() -> None:
            call()
            runs(heap.base, heap.size_bytes)

        return act

    def restored(self, method: Method, env: Env) -> Callable[[], object]:
        """A query's floor."""
        scanned, view, address = self.scanned(method, env), self._heap.bytes, self._addresses[0]
        before = view[address : address + PAGE_BYTES].tobytes()

        def act() -> None:
            scanned()
            view[address : address + PAGE_BYTES] = before

        return act

    def written(self, method: Method, env: Env) -> Callable[[], object]:
        """An update's floor."""
        scanned, file = self.scanned(method, env), self._file
        heap, stable = (
            memory.bytes[address : address + PAGE_BYTES]
            for memory, address in zip((self._heap, self._stable), self._addresses, strict=True)
        )

        def act() -> None:
            scanned()
            os.pwrite(file, heap, 0)
            os.pwrite(file, stable, PAGE_BYTES)

        return act
