"""A third memory of a canister, which no code of its own knows, goes wherever heap and stable memory go."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import wasmtime
from built_canisters import module

from perdure import RejectError
from perdure.canister import MemoryKind
from perdure.instrument import Options
from perdure.subnet import Canister, Subnet

USERS = MemoryKind("users", "stable", 64)
SCRATCH = MemoryKind("scratch", "heap", 64)
BOTH = Options(memories=(USERS, SCRATCH))
TRAPS = '(module (func (export "canister_post_upgrade") (unreachable)))'
FIVE = struct.pack("<Q", 5)


def put(canister: Canister, data: bytes, name: str = "users", address: int = 70_000) -> None:
    """Write within the message that comes next."""
    memory = canister._instance.memories[name]
    if not memory.size():
        memory.grow(2)
    memory.write(address, data)


def see(canister: Canister, size_bytes: int, name: str = "users", address: int = 70_000) -> bytes:
    memory = canister.memories[name]
    return memory.read(address, size_bytes) if memory.size() else b""


def count(canister: Canister) -> int:
    return int.from_bytes(canister.query("count"), "little")


@pytest.fixture
def canister() -> Canister:
    return Subnet(instrumentation=BOTH).install(module("kv32"), FIVE)


def test_commits_with_a_message_and_goes_with_a_trap(canister: Canister) -> None:
    put(canister, b"kept")
    canister.update("inc")
    put(canister, b"lost")
    with pytest.raises(RejectError):
        canister.update("change_and_trap")
    assert (see(canister, 4), count(canister)) == (b"kept", 6)


def test_what_is_written_from_outside_is_kept(canister: Canister) -> None:
    assert canister.memories["users"].grow(1) == 0
    canister.memories["users"].write(9, b"outside")
    canister.update("inc")
    assert see(canister, 7, address=9) == b"outside"


def test_forks_go_their_own_ways(canister: Canister) -> None:
    put(canister, b"one")
    canister.update("inc")
    twin = canister._subnet.fork().canister(canister.id)
    put(twin, b"two")
    twin.update("inc")
    assert [(see(one, 3), count(one)) for one in (canister, twin)] == [(b"one", 6), (b"two", 7)]


def test_an_anchor_takes_it_back(canister: Canister) -> None:
    put(canister, b"one")
    canister.update("inc")
    with canister._subnet.anchor():
        put(canister, b"two")
        canister.update("inc")
        assert see(canister, 3) == b"two"
    assert (see(canister, 3), count(canister)) == (b"one", 6)


@pytest.mark.parametrize(("mode", "kept"), [("upgrade", b"one"), ("reinstall", b"")])
def test_code_to_come_finds_what_lives_as_long(canister: Canister, mode: str, kept: bytes) -> None:
    put(canister, b"one")
    put(canister, b"heap", "scratch")
    canister.update("inc")
    getattr(canister, mode)(module("kv32"), FIVE)
    assert (see(canister, 3), see(canister, 4, "scratch")) == (kept, b"")


def test_an_upgrade_that_keeps_the_heap_keeps_what_lives_as_long() -> None:
    canister = Subnet(instrumentation=BOTH).install(module("motoko_eop_v1"))
    put(canister, b"heap", "scratch")
    canister.upgrade(module("motoko_eop_v2"), wasm_memory_persistence="keep")
    assert see(canister, 4, "scratch") == b"heap"


def test_a_failed_upgrade_changes_nothing(canister: Canister) -> None:
    put(canister, b"one")
    put(canister, b"heap", "scratch")
    canister.update("inc")
    with pytest.raises(RejectError):
        canister.upgrade(bytes(wasmtime.wat2wasm(TRAPS)))
    assert (see(canister, 3), see(canister, 4, "scratch"), count(canister)) == (b"one", b"heap", 6)


def test_snapshots_have_it(canister: Canister) -> None:
    put(canister, b"one")
    canister.update("inc")
    snapshot = canister.take_snapshot()
    put(canister, b"two")
    canister.update("inc")
    canister.load_snapshot(snapshot)
    assert (see(canister, 3), count(canister)) == (b"one", 6)


def test_a_snapshot_of_the_network_leaves_it_empty(canister: Canister, tmp_path: Path) -> None:
    put(canister, b"one")
    canister.update("inc")
    canister.write_snapshot(tmp_path / "snapshot")
    put(canister, b"two")
    canister.update("inc")
    canister.load_snapshot(canister.upload_snapshot(tmp_path / "snapshot"))
    assert (see(canister, 3), count(canister)) == (b"", 6)


def test_a_canister_over_a_snapshot_directory_has_all_it_needs(tmp_path: Path) -> None:
    Subnet().install(module("kv32"), FIVE).write_snapshot(tmp_path / "snapshot")
    canister = Subnet.open(tmp_path / "snapshot").canisters[0]
    snapshot = canister.take_snapshot()
    canister.update("inc")
    canister.load_snapshot(snapshot)
    assert count(canister) == 5


def on_disk(path: Path, **more: Any) -> Subnet:
    return Subnet(path, **{"instrumentation": BOTH, **more})


def crash(subnet: Subnet) -> None:
    """Let go of the directory as a killed process would: without a checkpoint."""
    subnet._host.directory.abandon()  # type: ignore[union-attr]


def state_hash(subnet: Subnet) -> bytes:
    return subnet._host.directory.state_hash()  # type: ignore[union-attr]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_survives_a_crash(tmp_path: Path, checkpoint: bool) -> None:
    subnet = on_disk(tmp_path / "state")
    canister = subnet.install(module("kv32"), FIVE)
    put(canister, b"first")
    canister.update("inc")
    if checkpoint:
        subnet.checkpoint()
    put(canister, b"second", address=100)
    canister.update("inc")
    put(canister, b"lost")
    with pytest.raises(RejectError):
        canister.update("change_and_trap")
    hash_ = state_hash(subnet)
    crash(subnet)
    for _ in range(2):  # once from the log, once from the images
        with on_disk(tmp_path / "state") as subnet:
            again = subnet.canister(canister.id)
            assert state_hash(subnet) == hash_
            assert (see(again, 5), see(again, 6, address=100), count(again)) == (b"first", b"second", 7)


def test_the_state_hash_is_of_it_too(tmp_path: Path) -> None:
    hashes = []
    for name, data in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        with on_disk(tmp_path / name) as subnet:
            canister = subnet.install(module("kv32"), FIVE)
            put(canister, data)
            canister.update("inc")
            hashes.append(state_hash(subnet))
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_past_has_it(tmp_path: Path) -> None:
    with on_disk(tmp_path / "state", history=None) as subnet:
        canister = subnet.install(module("kv32"), FIVE)
        versions = []
        for data in (b"one", b"two", b"six"):
            put(canister, data)
            canister.update("inc")
            versions.append(subnet._host.directory.version)  # type: ignore[union-attr]
        subnet.checkpoint()
        canister.reinstall(module("kv32"), FIVE)
        past = [subnet.at(version).canister(canister.id) for version in versions]
        assert [see(one, 3) for one in past] == [b"one", b"two", b"six"]
        assert see(canister, 3) == b""
        put(past[1], b"new")
        past[1].update("inc")
        assert [see(one, 3) for one in past] == [b"one", b"new", b"six"]


def test_a_fork_of_what_is_on_disk_changes_no_file(tmp_path: Path) -> None:
    with on_disk(tmp_path / "state") as subnet:
        canister = subnet.install(module("kv32"), FIVE)
        put(canister, b"one")
        canister.update("inc")
        hash_ = state_hash(subnet)
        twin = subnet.fork().canister(canister.id)
        put(twin, b"two")
        twin.update("inc")
        with subnet.anchor():
            put(canister, b"six")
            canister.update("inc")
        assert (see(canister, 3), see(twin, 3), state_hash(subnet)) == (b"one", b"two", hash_)


def test_upgrades_and_snapshots_are_kept(tmp_path: Path) -> None:
    subnet = on_disk(tmp_path / "state")
    canister = subnet.install(module("kv32"), FIVE)
    put(canister, b"one")
    put(canister, b"heap", "scratch")
    canister.update("inc")
    snapshot = canister.take_snapshot()
    put(canister, b"two")
    canister.upgrade(module("kv32"))
    for _ in range(2):
        crash(subnet)
        subnet = on_disk(tmp_path / "state")
        canister = subnet.canister(canister.id)
        assert (see(canister, 3), see(canister, 4, "scratch")) == (b"two", b"")
    canister.load_snapshot(snapshot)
    crash(subnet)
    with on_disk(tmp_path / "state") as subnet:
        canister = subnet.canister(canister.id)
        assert (see(canister, 3), see(canister, 4, "scratch")) == (b"one", b"heap")
        canister.uninstall()
        canister.install(module("kv32"), FIVE)
        assert (see(canister, 3), see(canister, 4, "scratch")) == (b"", b"")


def test_code_with_more_memories_gets_them(tmp_path: Path) -> None:
    more = Options(memories=(USERS, SCRATCH, USERS._replace(name="orders")))
    with on_disk(tmp_path / "state") as subnet:
        canister = subnet.install(module("kv32"), FIVE)
        put(canister, b"one")
        canister.update("inc")
        canister.take_snapshot()
    subnet = on_disk(tmp_path / "state", instrumentation=more)
    canister = subnet.canister(canister.id)
    with pytest.raises(RejectError):
        canister.upgrade(bytes(wasmtime.wat2wasm(TRAPS)))
    canister.upgrade(module("kv32"))
    put(canister, b"two", "orders")
    canister.update("inc")
    crash(subnet)
    subnet = on_disk(tmp_path / "state", instrumentation=more)
    canister = subnet.canister(canister.id)
    assert (see(canister, 3), see(canister, 3, "orders")) == (b"one", b"two")
    canister.load_snapshot(canister.snapshots()[0]["id"])
    assert (see(canister, 3), see(canister, 3, "orders")) == (b"one", b"")
    crash(subnet)
    with on_disk(tmp_path / "state", instrumentation=Options()) as subnet:  # code that knows neither leaves both
        canister = subnet.canister(canister.id)
        canister.upgrade(module("kv32"))
        assert {*canister.memories} == {"heap", "stable", "users", "scratch", "orders"}
        assert (see(canister, 3), see(canister, 3, "orders")) == (b"one", b"")
