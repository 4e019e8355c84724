"""`os.fork` beside running threads: the child refuses its parent's subnets by name, has its own, and never hangs."""

from __future__ import annotations

import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from built_canisters import module

from perdure import UnsupportedError
from perdure.errors import StorageError
from perdure.subnet import Subnet

FIVE = struct.pack("<Q", 5)
_PATIENCE_SECONDS = 300


def in_child(act: Callable[[], object]) -> str:
    """What `act` returns or raises in a forked child; a child that hangs is killed."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(_PATIENCE_SECONDS)
        try:
            said = repr(act())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write_end, said.encode())
        os._exit(0)
    os.close(write_end)
    said = b"".join(iter(lambda: os.read(read_end, 4096), b"")).decode()
    os.close(read_end)
    _, status = os.waitpid(child, 0)
    return said if not status else f"{said}, ended with {status}"


@contextmanager
def beside(*acts: Callable[[], object]) -> Iterator[None]:
    """Do these over and over, each on a thread of its own."""
    is_over = threading.Event()

    def repeat(act: Callable[[], object]) -> None:
        while not is_over.is_set():
            act()

    threads = [threading.Thread(target=repeat, args=(act,), daemon=True) for act in acts]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join(_PATIENCE_SECONDS)


def changed(wasm: bytes) -> bytes:
    """The same code as another module, so that no cache has it."""
    salt = os.urandom(8)
    return wasm + bytes([0, 2 + len(salt), 1]) + b"x" + salt


@pytest.mark.slow
def test_a_child_refuses_the_parents_subnets_and_makes_its_own(tmp_path: Path) -> None:
    wasm = module("kv32")
    with Subnet() as in_memory, Subnet(tmp_path / "state") as on_disk:
        canisters = [subnet.install(changed(wasm), FIVE) for subnet in (in_memory, on_disk)]

        def checkpoint() -> None:
            with suppress(StorageError):  # a child that has not ended has what this process had open
                on_disk.checkpoint()

        acts: list[Callable[[], object]] = [lambda: [canister.update("inc") for canister in canisters]]
        acts += [lambda: canisters[1].stable.read(0, 0), lambda: canisters[0].query("count"), in_memory.fork]
        with beside(*(lambda canister=canister: canister.update("inc") for canister in canisters), checkpoint):
            for act in acts:
                assert in_child(act).startswith(f"{UnsupportedError.__name__}: this subnet belongs to the process")
            own = in_child(lambda: Subnet().install(changed(wasm), FIVE).query("count"))
        assert own == repr(FIVE)  # compiled anew, without the threads that the parent has for it


def test_a_child_does_not_keep_the_parents_directory_locked(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    said_end, say_end = os.pipe()
    subnet = Subnet(tmp_path / "state")
    child = os.fork()
    if not child:
        os.close(write_end)
        os.write(say_end, b"!")
        os.read(read_end, 1)  # as long as the parent likes
        os._exit(0)
    try:
        assert os.read(said_end, 1) == b"!"
        subnet.close()
        with Subnet(tmp_path / "state") as again:
            assert again.canisters == ()
    finally:
        for end in (write_end, read_end, said_end, say_end):
            os.close(end)
        os.waitpid(child, 0)
