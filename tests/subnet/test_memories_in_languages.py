"""What the seeds hoped for of memories beyond the network's, each in two languages: modules from `tests/canisters`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from built_canisters import module

from perdure import Canister, RejectError, Subnet
from perdure.instrument import lower
from perdure.wasm import decode, encode

LANGUAGES = pytest.mark.parametrize("language", ["c", "rust"])
COUNTERS = pytest.mark.parametrize("source", ["two_memories_c", "two_memories_wat"])


def numbers(reply: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(reply) // 8}Q", reply)


def version(language: str, number: int) -> bytes:
    return module(f"memories_{language}_{number}")


@pytest.fixture(params=["memory", "disk"])
def subnet(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Subnet]:
    return lambda extension: Subnet(tmp_path / "s" if request.param == "disk" else None, extensions=(extension,))


# --------------------------------------------------------------------------------------------------- imported by name


@LANGUAGES
def test_lifetimes_by_what_a_memory_is_imported_from(subnet: Callable[[str], Subnet], language: str) -> None:
    canister = subnet("memories").install(version(language, 1))
    assert numbers(canister.update("add")) == (1, 1, 1)
    assert numbers(canister.update("add")) == (2, 2, 1), "scratch is new in each entry"
    with pytest.raises(RejectError, match="unreachable"):
        canister.update("trap")
    assert numbers(canister.query("show")) == (2, 2, 0)
    canister.upgrade(version(language, 1))
    assert numbers(canister.query("show")) == (2, 0, 0)
    kinds = {name: memory.lifetime for name, memory in canister.memories.items()}
    assert kinds == {"heap": "heap", "stable": "stable", "users": "stable", "cache": "upgrade", "scratch": "message"}


@LANGUAGES
def test_what_is_deprecated_is_read_and_a_store_traps_with_its_name(
    subnet: Callable[[str], Subnet], language: str
) -> None:
    canister = subnet("memories").install(version(language, 1))
    canister.update("add")
    canister.upgrade(version(language, 2))
    assert numbers(canister.query("show")) == (1, 0)
    assert {name: one.state for name, one in canister.memories.items() if name in {"users", "cache"}} == {
        "users": "deprecated",
        "cache": "unused",
    }
    with pytest.raises(RejectError, match="users"):
        canister.update("write")
    assert numbers(canister.query("show")) == (1, 0)
    canister.memories["cache"].drop()
    assert "cache" not in canister.memories
    with pytest.raises(ValueError, match="is used"):
        canister.memories["users"].drop()


@pytest.mark.parametrize(("giver", "taker"), [("c", "rust"), ("rust", "c")])
def test_handed_from_one_language_to_the_other(subnet: Callable[[str], Subnet], giver: str, taker: str) -> None:
    made = subnet("memories")
    one, other = made.install(version(giver, 1)), made.install(version(taker, 2))
    one.update("add")
    one.update("give", other.id.raw_bytes)
    one.update("add")
    other.update("add")
    assert (numbers(one.query("show"))[0], numbers(other.query("show"))) == (2, (0, 11))
    with made.fork() as fork:
        fork.canister(other.id).update("add")
        assert numbers(fork.canister(other.id).query("show")) == (0, 21)
    assert numbers(other.query("show")) == (0, 11)


@LANGUAGES
def test_the_same_source_for_the_network(language: str) -> None:
    """Handing over has no lowered form; what goes without is the second version."""
    with pytest.raises(Exception, match="call_memory_add"):
        lower(decode(version(language, 1)), {})
    made = lower(decode(version(language, 2)), {"users": 1, "archive": 2})
    canister = Subnet().install(encode(made.module))
    assert numbers(canister.query("show")) == (0, 0)
    with pytest.raises(RejectError, match="users"):
        canister.update("write")


# --------------------------------------------------------------------------------------------------- index and declared


@COUNTERS
def test_memory_1_is_stable_memory(subnet: Callable[[str], Subnet], source: str) -> None:
    canister = subnet("memories=index").install(module(source))
    assert [numbers(canister.update("inc")) for _ in range(2)] == [(1,), (2,)]
    with pytest.raises(RejectError):
        canister.update("trap")
    canister.upgrade(module(source))
    assert numbers(canister.query("get")) == (2,)
    assert canister.stable.read(8, 1) == b"\2"


@COUNTERS
def test_memory_1_is_more_heap(subnet: Callable[[str], Subnet], source: str) -> None:
    canister = subnet("memories=declared").install(module(source))
    assert [numbers(canister.update("inc")) for _ in range(2)] == [(1,), (2,)]
    with pytest.raises(RejectError):
        canister.update("trap")
    assert (numbers(canister.query("get")), canister.stable.size()) == ((2,), 0)
    assert canister.memories["memory1"].lifetime == "heap"
    canister.upgrade(module(source))
    assert numbers(canister.query("get")) == (0,)


@COUNTERS
@pytest.mark.parametrize("extension", ["memories", None])
def test_no_other_policy_takes_it(source: str, extension: str | None) -> None:
    with pytest.raises(RejectError, match=r"second heap|multiple memories"):
        Subnet(extensions=(extension,) if extension else ()).install(module(source))


@LANGUAGES
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("extension", ["memories=index", "memories=declared", None])
def test_functions_from_a_memory_need_the_policy_of_names(language: str, number: int, extension: str | None) -> None:
    with pytest.raises(RejectError, match=r"memories"):
        Subnet(extensions=(extension,) if extension else ()).install(version(language, number))


# ------------------------------------------------------------------------------------------------ one with the other


@LANGUAGES
def test_hash_history_time_travel_and_blame_know_them(tmp_path: Path, language: str) -> None:
    with Subnet(tmp_path / "s", extensions=("memories",), history=None) as subnet:
        canister: Canister = subnet.install(version(language, 1))
        seen: dict[int, int] = {}
        hashes = set()
        for _ in range(3):
            canister.update("add")
            assert subnet.version is not None
            seen[subnet.version] = numbers(canister.query("show"))[0]
            hashes.add(subnet._host.directory.state_hash())  # type: ignore[union-attr]
        assert len(hashes) == 3
        for at, count in seen.items():
            with subnet.at(at) as past:
                assert numbers(past.canister(canister.id).query("show"))[0] == count
        found = subnet._host.directory.blame(canister.id.raw_bytes, "users", 8)  # type: ignore[union-attr]
        assert found is not None
        assert (found.version, found.message.method) == (max(seen), "add")
