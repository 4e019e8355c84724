"""Used, deprecated, unused, dropped: what becomes of a memory from version to version."""

from __future__ import annotations

import pytest
import wasmtime

from perdure import RejectError, Subnet
from perdure.errors import NoMemoryError

EXTENSIONS = ("memories",)


def wasm(*memories: str, more: str = "") -> bytes:
    imported = "".join(memories)
    return bytes(
        wasmtime.wat2wasm(f"""(module (import "ic0" "msg_reply" (func $reply)) {imported} (memory $heap 1)
          (global $count (mut i32) (i32.const 0))
          (func (export "canister_update f")
            (global.set $count (i32.add (global.get $count) (i32.const 1)))
            (i32.store $heap (i32.const 0) (global.get $count)) {more} (call $reply)))""")
    )


def users(source: str = "stable") -> str:
    return f'(import "{source}" "users" (memory $users i64 1))'


STORE = "(i64.store $users (i64.const 8) (i64.const 7))"
WITH, WITHOUT = wasm(users(), more=STORE), wasm()


@pytest.fixture(params=["in memory", "in a directory"])
def canister(request, tmp_path):
    path = tmp_path / "s" if request.param == "in a directory" else None
    with Subnet(path, extensions=EXTENSIONS, history=None if path else "kept") as subnet:
        canister = subnet.install(WITH)
        canister.update("f")
        yield canister


def states(canister) -> dict[str, str]:
    return {name: memory.state for name, memory in canister.memories.items()}


def test_states_follow_the_versions(canister):
    assert states(canister) == {"heap": "used", "stable": "used", "users": "used"}
    canister.upgrade(wasm(users("deprecated"), more=STORE))
    assert states(canister)["users"] == "deprecated"
    with pytest.raises(RejectError, match="memory users is deprecated: it is only read"):
        canister.update("f")
    canister.upgrade(WITHOUT)
    users_ = canister.memories["users"]
    assert (users_.state, users_.lifetime, users_.kind.address_bits) == ("unused", "stable", 64)
    canister.upgrade(WITH)
    assert states(canister)["users"] == "used"
    assert canister.memories["users"].read(8, 1) == b"\7"


def test_dropped_by_hand(canister):
    canister.upgrade(WITHOUT)
    canister.update("f")
    canister.update("f")
    before = canister._state.memory_bytes()
    canister.memories["users"].drop()
    assert states(canister) == {"heap": "used", "stable": "used"}
    assert before - canister._state.memory_bytes() == 1 << 16
    canister.update("f")
    assert canister.heap.read(0, 1) == b"\3"  # heap and globals went on
    canister.upgrade(WITH)
    assert canister.memories["users"].read(8, 1) == b"\0"
    canister.update("f")
    assert canister.memories["users"].read(8, 1) == b"\7"


def test_only_what_is_unused(canister):
    with pytest.raises(ValueError, match="memory 'users' is used: upgrade to a module that does not name it"):
        canister.memories["users"].drop()
    with pytest.raises(ValueError, match="memory 'stable' is used"):
        canister.stable.drop()
    canister.upgrade(WITHOUT)
    memory = canister.memories["users"]
    memory.drop()
    with pytest.raises(KeyError, match="users"):
        memory.drop()
    assert canister.update("f") == b""


def test_a_name_that_there_is_not(canister):
    with pytest.raises(NoMemoryError, match=r"^no memory 'user': did you mean 'users'[?]") as raised:
        canister.memories["user"]
    assert isinstance(raised.value, KeyError)
    assert raised.value.error_code == "no-memory"
    assert canister.memories.get("user") is None
    empty = canister._subnet.create_canister()
    with pytest.raises(NoMemoryError, match="has no code and so no memories") as raised:
        _ = empty.memories
    assert isinstance(raised.value, ValueError)


def test_an_anchor_undoes_it(canister):
    canister.upgrade(WITHOUT)
    subnet = canister._subnet
    with subnet.anchor():
        subnet.canister(canister.id).memories["users"].drop()
        assert "users" not in subnet.canister(canister.id).memories
    assert canister.memories["users"].read(8, 1) == b"\7"


def test_a_snapshot_has_it_still(canister):
    canister.upgrade(WITHOUT)
    kept = canister.take_snapshot()
    canister.memories["users"].drop()
    canister.load_snapshot(kept)
    assert (states(canister)["users"], canister.memories["users"].read(8, 1)) == ("unused", b"\7")


def test_a_state_directory_forgets_the_file_and_history_has_it(tmp_path):
    with Subnet(tmp_path / "s", extensions=EXTENSIONS, history=None) as subnet:
        canister = subnet.install(WITH)
        canister.update("f")
        canister.upgrade(WITHOUT)
        version = subnet.version
        canister.memories["users"].drop()
        assert subnet.at(version).canister(canister.id).memories["users"].read(8, 1) == b"\7"
    with Subnet(tmp_path / "s") as subnet:
        canister = subnet.canister(canister.id)
        assert "users" not in canister.memories
        canister.update("f")
        assert subnet.at(version).canister(canister.id).memories["users"].read(8, 1) == b"\7"


def many(letter: str, count: int) -> bytes:
    return wasm(*(f'(import "stable" "{letter}{index}" (memory i64 1))' for index in range(count)))


def test_versions_that_name_others_do_not_add_up_without_a_bound(canister):
    canister.upgrade(many("a", 31))
    with pytest.raises(
        RejectError, match=r"would have 33 .* at most 32: .* has 1, and 32 that it does not name are kept"
    ):
        canister.upgrade(many("b", 1))
    assert states(canister)["a30"] == "used"
    canister.memories["users"].drop()
    canister.upgrade(many("b", 1))
    assert len(canister.memories) == 34


def test_a_reinstallation_leaves_no_memories_behind(canister):
    canister.upgrade(many("a", 31))
    kept = canister.take_snapshot()
    with pytest.raises(RejectError, match="unreachable"):
        canister.reinstall(wasm(more='(call $reply)) (func (export "canister_init") (unreachable)'))
    assert canister.memories["users"].read(8, 1) == b"\7"
    fork = canister._subnet.fork().canister(canister.id)
    canister.reinstall(many("b", 32))
    assert set(canister.memories) == {"heap", "stable", *(f"b{index}" for index in range(32))}
    assert fork.memories["users"].read(8, 1) == b"\7"
    canister.load_snapshot(kept)
    assert (states(canister)["users"], canister.memories["users"].read(8, 1)) == ("unused", b"\7")
