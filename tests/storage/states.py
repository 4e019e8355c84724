"""State directories of the tests: small ones, made by hand."""

from __future__ import annotations

from typing import Any

from perdure.canister import PageDelta
from perdure.storage import CanisterChange, Message, StateDirectory, TemporaryStore

PAGE = 4096
A = b"canister a"
B = b"canister b"


def page(text: str) -> bytes:
    return text.encode().ljust(PAGE, b".")


def heap(*runs: tuple[int, bytes], wasm_pages: int = 1, fresh: bool = False) -> CanisterChange:
    return CanisterChange({"heap": PageDelta(wasm_pages, [(index * PAGE, data) for index, data in runs], fresh)})


def commit(state: StateDirectory, *runs: tuple[int, bytes], name: bytes = A, message: bytes = b"", **more: Any) -> int:
    return state.commit(Message(message, name), {name: heap(*runs, **more)}, apply=True)


def read(state: StateDirectory, index: int, name: bytes = A, kind: str = "heap") -> bytes:
    return state.canisters[name].memories[kind].image().read(index * PAGE, PAGE)


def opened(disk: Any, store: TemporaryStore, **more: Any) -> StateDirectory:
    return StateDirectory.open("/state", disk=disk, store=store, **more)


def some_state(disk: Any, store: TemporaryStore) -> dict[int, bytes]:
    """A directory with images, a log of three commits, a blob; state hashes by version."""
    state = opened(disk, store, history=None)
    hashes = {0: state.state_hash()}
    module = state.put_blob(b"module" * 100)
    for number in range(1, 6):
        change = heap((number, page(str(number))), (number + 4, page("x")))
        change.module_hash = module
        state.commit(Message(), {A: change}, apply=True)
        hashes[number] = state.state_hash()
        if number == 2:
            state.checkpoint()
    state.abandon()
    return hashes
