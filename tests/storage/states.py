"""State directories of the tests: small ones, made by hand."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from perdure.canister import PageDelta
from perdure.storage import CanisterChange, Message, PastCanister, StateDirectory, TemporaryStore, Version

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


def compare_around(state: StateDirectory, version: Version) -> None:
    """The states around a commit are those at both sides of it, as far as its canisters go."""
    sides = state.around(version, lambda: None)
    for found, number in zip(sides, (version.version - 1, version.version), strict=True):
        with closing(found), closing(state.at(number)) as whole:
            for one in version.facts.canisters:
                assert (one in found.canisters) == (one in whole.canisters)
                if one in whole.canisters:
                    assert _content(found.canisters[one]) == _content(whole.canisters[one])


def _content(canister: PastCanister) -> tuple[object, ...]:
    images = {name: image.read(0, image.wasm_pages << 16) for name, image in canister.images.items()}
    return images, canister.module_hash, canister.record, canister.global_values, canister.code, canister.slot


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
