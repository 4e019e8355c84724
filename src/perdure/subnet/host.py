"""What the rules need from outside, provided: code from the embedder, memories from storage."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Protocol, final

from perdure.canister import CanisterInstance, CanisterModule, GlobalValue, Image, PageDelta, WasmState
from perdure.embedder.guard import threads
from perdure.errors import InternalError
from perdure.execution.events import Taken
from perdure.execution.journal import Journal
from perdure.execution.state import SnapshotContent, SubnetState
from perdure.memory import WASM_PAGE_BYTES
from perdure.storage import TemporaryStore
from perdure.storage.image import TemporaryImage
from perdure.subnet.gate import Gate
from perdure.subnet.interfaces import Interfaces
from perdure.subnet.memories import StoredContent
from perdure.subnet.residency import ResidentInstance, ResidentModule, Residents

__all__ = ["CompileCode", "MemoryHost", "forked", "resident"]


@cache
def say_once(words: str) -> None:
    """Write a line to standard error, the first time that it is said in this process."""
    with suppress(OSError, ValueError):  # nobody reads it: it is closed, or full
        sys.stderr.write(f"{words}\n")


class CompileCode(Protocol):
    """Compiles a module as uploaded; `known`: one that the state holds already, which no bound refuses any more.

    `extensions`: what it may use beyond the network's rules.
    """

    def __call__(self, wasm: bytes, *, known: bool = False, extensions: tuple[str, ...] = ()) -> CanisterModule:
        """The code."""
        ...


@final
class MemoryHost:
    """Implements `execution.Host` over temporary images: state that lasts as long as the process.

    Args:
        compile_code: compiles a module as uploaded.
        residents: keeps engine instances few.
        store: where pages live; forks share it.
        extensions: what code may use beyond the network's rules.
        interfaces: of canisters, as far as they came with their modules; by default none.
    """

    def __init__(
        self,
        compile_code: CompileCode,
        residents: Residents,
        store: TemporaryStore | None = None,
        extensions: tuple[str, ...] = (),
        interfaces: Interfaces | None = None,
    ) -> None:
        self._compile_code = compile_code
        self.residents = residents
        self.store = store or TemporaryStore()
        self.extensions = extensions
        self.interfaces = interfaces or Interfaces()
        self._modules: dict[int, ResidentModule] = {}
        self._closed = False

    def fork(self, gate: Gate) -> MemoryHost:
        """A host for a second subnet: the same code, pages in the same store, no memories yet."""
        residents = Residents(gate, self.residents.capacity)
        return MemoryHost(self._compile_code, residents, self.store, self.extensions, self.interfaces.fork())

    def compile(self, wasm: bytes, *, known: bool = False) -> ResidentModule:
        """Validate and compile a module; the same code gives the same object while it is in use."""
        return self._resident(self._compile_code(wasm, known=known, extensions=self.extensions))

    def _resident(self, code: CanisterModule) -> ResidentModule:
        found = self._modules.get(id(code))
        if found is None:
            found = self._modules[id(code)] = ResidentModule(code, self.residents)
        return found

    def new_memories(self, canister_id: bytes, names: Iterable[str]) -> WasmState:
        """Empty memories for a canister's first module."""
        return WasmState(self._empty(names))

    def _empty(self, names: Iterable[str]) -> dict[str, Image]:
        return {name: TemporaryImage(self.store) for name in names}

    def add_memories(self, canister_id: bytes, names: Collection[str]) -> Mapping[str, Image]:
        """Empty memories for a canister whose next module has more of them."""
        return self._empty(names)

    def keep(
        self, state: SubnetState, journal: Journal, taken: Taken, arg: bytes, instructions: int, time_ns: int
    ) -> None:
        """Have room for all memories, so that they are committed together or not at all."""
        for instance in journal.commits.values():
            instance.prepare()

    def was_kept(self, journal: Journal) -> bool:
        """No."""
        return False

    def apply(self, state: SubnetState, journal: Journal) -> None:
        """Commit the memories."""
        for instance in journal.commits.values():
            instance.commit()
        for canister_id, content in journal.given.items():
            resident(journal.commits[canister_id]).receive(forked(content))

    def undone(self, journal: Journal) -> None:
        """Nothing was noted."""

    def pause(self) -> None:
        """Let signal handlers run."""
        threads.here.state.pause()

    def say_once(self, words: str) -> None:
        """Write a line to standard error, the first time that it is said in this process."""
        say_once(words)

    def check(self) -> None:
        """Raise `ValueError` once it is closed."""
        if self._closed:
            raise ValueError("the subnet is closed")

    def settle(self, canister_id: bytes | None = None) -> int:
        """An entry ends: keep instances few. What `wait` has to wait for: nothing."""
        self.residents.evict()
        return 0

    def wait(self, version: int, *, leaving: bool = False) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Give all pages back. The store stays for as long as a fork uses it."""
        self._closed = True

    def forget_memory(self, instance: CanisterInstance, name: str) -> None:
        """Let go of a memory of a canister that its code does not have."""
        resident(instance).forget(name)

    def discard(self, canister_id: bytes, instance: CanisterInstance) -> None:
        """Let go of an instance, and give its pages back."""
        resident(instance).discard()

    def hand_over(self, canister_id: bytes, instance: CanisterInstance, names: Mapping[str, str]) -> StoredContent:
        """Keep a copy of memories as they stand: forks, and the pages that this message has changed."""
        one, images = resident(instance), {}
        changes = one.changes().memories
        for there, name in names.items():
            images[there] = one.state.memories[name].fork()
            if name in changes:
                images[there].commit(changes[name])
        return StoredContent(images)

    def take_snapshot(self, canister_id: bytes, instance: CanisterInstance) -> StoredContent:
        """Keep a copy of the committed memories: forks, no bytes."""
        return StoredContent(_forked(resident(instance).state))

    def new_snapshot(self, canister_id: bytes, sizes_bytes: Mapping[str, int]) -> StoredContent:
        """Zeroed memories of these sizes by name, to be filled by an upload."""
        images = self._empty(sizes_bytes)
        for name, size_bytes in sizes_bytes.items():
            images[name].commit(PageDelta(-(-size_bytes // WASM_PAGE_BYTES), []))
        return StoredContent(images)

    def load_snapshot(
        self,
        canister_id: bytes,
        content: SnapshotContent,
        global_values: tuple[GlobalValue, ...],
        names: Iterable[str],
    ) -> WasmState:
        """Memories for a canister with the content of a snapshot, which stays as it is; empty ones of other names."""
        images = {**self._empty(name for name in names if name not in content.memories), **forked(content)}
        return WasmState(images, global_values)

    def adopt(self, instance: ResidentInstance) -> ResidentInstance:
        """An instance over forks of another subnet's memories, made when first used."""
        origin = instance.state
        module = self._resident(instance.module.code)
        return module.instantiate(WasmState(_forked(origin), origin.global_values))


def forked(content: SnapshotContent) -> dict[str, Image]:
    """Images to go on from, of a content that stays as it is."""
    if not isinstance(content, StoredContent):
        raise InternalError(f"a snapshot of another host: {type(content).__name__}")
    return content.fork()


def resident(instance: CanisterInstance) -> ResidentInstance:
    """An instance of a subnet of ours; the rules know it by less."""
    if not isinstance(instance, ResidentInstance):
        raise InternalError(f"an instance of another host: {type(instance).__name__}")
    return instance


def _forked(state: WasmState) -> dict[str, Image]:
    return {name: image.fork() for name, image in state.memories.items()}
