"""Many canisters, large memories, forks of forks: what they cost the process stays bounded, what they keep is right."""

from __future__ import annotations

import gc
import struct
from pathlib import Path

import pytest
from built_canisters import module

from perdure.subnet import Canister, Subnet

GIB = 1 << 30
LIMIT_WASM_PAGES = 8_192_000
LIMIT_BYTES = LIMIT_WASM_PAGES << 16


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def count(canister: Canister) -> int:
    return int.from_bytes(canister.query("count"), "little")


def descriptors() -> int:
    gc.collect()  # what other tests have left open
    return len(list(Path("/proc/self/fd").iterdir()))


def mappings() -> int:
    return Path("/proc/self/maps").read_text(encoding="utf-8").count("\n")


# --- many canisters


@pytest.mark.slow
def test_thousands_of_canisters_need_few_mappings_and_no_files() -> None:
    code, capacity = module("kv32"), 64
    subnet = Subnet()
    subnet._host.residents.capacity = capacity  # type: ignore[union-attr]
    canisters = [subnet.install(code, words(index)) for index in range(capacity)]
    files, maps = descriptors(), mappings()
    canisters += [subnet.install(code, words(index)) for index in range(capacity, 2_000)]
    assert descriptors() <= files
    assert mappings() < maps + 2 * capacity
    assert len(subnet._host.residents) <= capacity
    assert [count(canister) for canister in canisters[::97]] == list(range(0, 2_000, 97))
    subnet.close()


@pytest.mark.slow
def test_canisters_that_were_evicted_go_on_where_they_were() -> None:
    subnet = Subnet()
    subnet._host.residents.capacity = 100  # type: ignore[union-attr]
    code = module("kv32")
    canisters = [subnet.install(code, words(5)) for _ in range(1_000)]
    for canister in canisters:
        canister.update("inc")
    maps = mappings()
    for index, canister in enumerate(canisters):
        canister.update("put", bytes([4]) + index.to_bytes(4, "little") + b"value")
    assert mappings() < maps + 200
    twin = subnet.fork()
    for index, canister in enumerate(canisters[::50]):
        assert canister.query("get", (50 * index).to_bytes(4, "little")) == b"value"
        assert count(twin.canister(canister.id)) == 6
    twin.close()
    subnet.close()


@pytest.mark.slow
def test_hundreds_of_canisters_in_a_state_directory(tmp_path: Path) -> None:
    code, capacity = module("kv32"), 16
    with Subnet(tmp_path / "state", durability="never") as subnet:
        subnet._host.residents.capacity = capacity  # type: ignore[union-attr]
        canisters = [subnet.install(code, words(index)) for index in range(200)]
        for canister in canisters:
            canister.update("inc")
        assert len(subnet._host.residents) <= capacity
        maps, files = mappings(), descriptors()
        for canister in canisters:
            canister.update("inc")
        assert descriptors() <= files + 2 * capacity
        assert mappings() <= maps + 8 * capacity
    before = descriptors()
    with Subnet(tmp_path / "state", durability="never") as subnet:
        assert descriptors() < before + 16, "files are opened when they are needed"
        assert [count(canister) for canister in subnet.canisters] == [index + 2 for index in range(200)]


# --- stable memory to its limit


@pytest.mark.parametrize("where", ["memory", "directory"])
def test_500_gib_of_stable_memory(tmp_path: Path, where: str) -> None:
    code = module("stable_access")
    path = tmp_path / "state" if where == "directory" else None
    subnet = Subnet(path)
    canister = subnet.install(code, cycles=10**20)  # growth is refused to whoever cannot pay for it
    assert canister.update("reserve", words(LIMIT_WASM_PAGES)) == words(LIMIT_WASM_PAGES)
    assert canister.update("reserve", words(LIMIT_WASM_PAGES + 1)) == words(LIMIT_WASM_PAGES), "that is all there is"
    canister.update("write_blocks", words(LIMIT_BYTES // GIB, 0, 8, GIB))
    canister.stable.write(LIMIT_BYTES - 1, b"\xff")
    canister.upgrade(code)
    subnet.checkpoint()
    canister.update("write_blocks", words(1, GIB - 8, 8, GIB))  # after the checkpoint
    if path is not None:
        subnet.close()
        subnet = Subnet(path)
        canister = subnet.canister(canister.id)
    assert canister.status().stable_bytes == LIMIT_BYTES
    stable = canister.stable
    assert [int.from_bytes(stable.read(at, 8), "little") for at in range(0, LIMIT_BYTES, GIB)] == [*range(1, 501)]
    assert stable.read(LIMIT_BYTES - 8, 8) == bytes(7) + b"\xff"
    assert stable.read(GIB - 8, 16) == words(1, 2)
    last = int.from_bytes(canister.update("read_blocks", words(1, LIMIT_BYTES - 8, 8, 8)), "little")
    assert last == 0xFF << 56
    subnet.close()
    if path is not None:
        allocated = sum(file.stat().st_blocks * 512 for file in path.rglob("*"))
        assert allocated < GIB, "sparse"


@pytest.mark.slow
def test_more_memories_of_500_gib_than_there_are_addresses_for() -> None:
    subnet = Subnet()
    for _ in range(300):
        canister = subnet.install(module("stable_access"), cycles=10**20)
        assert canister.update("reserve", words(LIMIT_WASM_PAGES)) == words(LIMIT_WASM_PAGES)
        canister.update("write_blocks", words(1, LIMIT_BYTES - 8, 8, 8))
    assert all(canister.stable.read(LIMIT_BYTES - 8, 8) == words(1) for canister in subnet.canisters)
    subnet.close()


# --- forks


def test_forks_of_forks_go_their_own_ways() -> None:
    first = Subnet()
    canister = first.install(module("kv32"), words(0))
    subnets = [first]
    for depth in range(1, 20):
        subnets.append(subnets[-1].fork())
        subnets[-1].canister(canister.id).update("put", bytes([1, depth]) + bytes([depth]))
        subnets[-1].canister(canister.id).update("inc")
    for depth, subnet in enumerate(subnets):
        twin = subnet.canister(canister.id)
        assert (count(twin), int.from_bytes(twin.query("entries"), "little")) == (depth, depth)
    for subnet in subnets[::2]:
        subnet.close()
    for depth, subnet in list(enumerate(subnets))[1::2]:
        twin = subnet.canister(canister.id)
        twin.update("inc")
        assert count(twin) == depth + 1
        assert twin.query("get", bytes([depth])) == bytes([depth])


def test_a_fork_shares_no_part_of_the_rules_state() -> None:
    subnet = Subnet()
    canister = subnet.install(module("kv32"), words(0))
    canister.update("debug_print", b"before")
    snapshot = canister.take_snapshot()
    twin = subnet.fork().canister(canister.id)
    twin.update("debug_print", b"after")
    twin.update_settings(environment_variables=[{"name": "a", "value": "b"}])
    twin.add_cycles(1_000)
    twin.delete_snapshot(snapshot)
    assert [line.content for line in canister.logs()] == [b"before"]
    assert [line.content for line in twin.logs()] == [b"before", b"after"]
    assert canister.settings()["environment_variables"] != twin.settings()["environment_variables"]
    assert (len(canister.snapshots()), len(twin.snapshots())) == (1, 0)
    assert canister.status().version < twin.status().version


@pytest.mark.parametrize("where", ["memory", "directory"])
def test_an_anchor_over_many_changes(tmp_path: Path, where: str) -> None:
    subnet = Subnet(tmp_path / "state" if where == "directory" else None)
    canister = subnet.install(module("stable_access"))
    canister.update("reserve", words(16_384))
    canister.update("write_blocks", words(500, 0, 4_096, 2 << 20))
    before = [canister.stable.read(at, 4_096) for at in range(0, GIB, 4 << 20)]
    maps = mappings()
    for turn in range(3):
        with subnet.anchor():
            for start in range(8):
                canister.update("write_blocks", words(500, start << 17, 4_096, (2 << 20) - (turn << 12)))
            with subnet.anchor():
                canister.upgrade(module("stable_access"))
                canister.update("touch")
            assert canister.stable.read(1 << 17, 8) == words(1)
    assert [canister.stable.read(at, 4_096) for at in range(0, GIB, 4 << 20)] == before
    assert mappings() < maps + 200
    subnet.close()
