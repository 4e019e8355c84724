"""A memory beside the engine's own, which only the host reads and writes, is part of every transaction."""

from __future__ import annotations

import pytest

from perdure.canister import MEMORY_KINDS, NO_CHANGE, MemoryKind, Return, Trap, WasmState, memory_kinds
from perdure.embedder import Compiler, WasmInstance
from perdure.embedder.cache import CompileCache
from perdure.instrument import Options
from perdure.storage import TemporaryImage

USERS = MemoryKind("users", "stable", 64)
SCRATCH = MemoryKind("scratch", "heap", 32)
COUNTER = """(module
  (import "ic0" "msg_reply" (func $reply))
  (memory 1)
  (func $inc (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1))))
  (func (export "canister_update inc") (call $inc) (call $reply))
  (func (export "canister_update trap") (call $inc) (unreachable))
  (func (export "canister_query look") (call $reply)))"""


@pytest.fixture
def code(any_harness):
    return any_harness.compile(COUNTER, Options(memories=(USERS, SCRATCH)))


@pytest.fixture
def counter(any_harness, code):
    state = WasmState({name: TemporaryImage(any_harness.store) for name in code.memories})
    return any_harness.fresh(code, state)


def put(instance: WasmInstance, address: int, data: bytes, name: str = "users") -> None:
    memory = instance.memories[name]
    missing = -(-(address + len(data)) // 65_536) - memory.size()
    if missing > 0:
        assert memory.grow(missing) >= 0
    memory.write(address, data)


def number(instance: WasmInstance) -> int:
    return int.from_bytes(instance.heap.read(0, 4), "little")


def test_a_module_says_which_memories_it_has(any_harness, code):
    heap = MEMORY_KINDS["heap"]._replace(max_wasm_pages=65_536)  # by the embedder, where the module says nothing
    assert [*code.memories.values()] == [*({**MEMORY_KINDS, "heap": heap}).values(), USERS, SCRATCH]
    wide = any_harness.compile('(module (memory i64 1) (func (export "canister_init")))')
    assert [kind.address_bits for kind in wide.memories.values()] == [64, 64]


def test_names_are_unique():
    with pytest.raises(ValueError, match="names of their own"):
        memory_kinds([USERS, USERS])
    with pytest.raises(ValueError, match="names of their own"):
        memory_kinds([USERS._replace(name="heap")])


def test_the_compile_cache_keeps_them(any_harness, code, tmp_path):
    for _ in range(2):
        compiler = Compiler(any_harness.engine, CompileCache(tmp_path))
        assert compiler.compile(code.wasm, Options(memories=(USERS,))).memories["users"] == USERS
    assert "users" not in Compiler(any_harness.engine, CompileCache(tmp_path)).compile(code.wasm).memories


def test_commits_with_the_message(any_harness, counter):
    put(counter, 70_000, b"abc")
    assert isinstance(any_harness.run(counter, "inc"), Return)
    delta = counter.commit()
    assert [*delta.memories] == ["heap", "users"]
    assert [(address, len(data)) for address, data in delta.memories["users"].runs] == [(69_632, 4096)]
    assert delta.memories["users"].wasm_pages == 2
    assert counter.memories["users"].image.read(70_000, 3) == b"abc"
    assert counter.commit() == NO_CHANGE


def test_what_the_host_writes_by_itself_is_a_change(counter):
    put(counter, 0, b"abc")
    assert [*counter.changes().memories] == ["users"]
    assert [*counter.commit().memories] == ["users"]
    assert counter.memories["users"].grow(1) == 1
    assert counter.commit().memories["users"].wasm_pages == 2
    assert counter.commit() == NO_CHANGE


def test_a_trap_takes_it_back(any_harness, counter):
    put(counter, 0, b"committed")
    counter.commit()
    put(counter, 0, b"spoilt")
    put(counter, 200_000, b"grown")
    assert isinstance(any_harness.run(counter, "trap"), Trap)
    assert counter.commit() == NO_CHANGE
    assert counter.memories["users"].size() == 1
    assert counter.memories["users"].read(0, 9) == b"committed"
    assert isinstance(any_harness.run(counter, "inc"), Return)
    assert [*counter.commit().memories] == ["heap"]


def test_rolls_back_without_an_entry(counter):
    put(counter, 0, b"spoilt")
    counter.roll_back()
    assert counter.commit() == NO_CHANGE
    assert counter.memories["users"].size() == 0


def test_saved_and_restored(any_harness, counter):
    put(counter, 0, b"one")
    any_harness.run(counter, "inc")
    saved = counter.save()
    counter.roll_back()
    put(counter, 0, b"two")
    counter.commit()
    counter.restore(saved)
    assert (counter.memories["users"].read(0, 3), number(counter)) == (b"one", 1)
    assert [*counter.commit().memories] == ["heap", "users"]


def test_an_instance_over_committed_images_has_it(any_harness, counter):
    put(counter, 300_000, b"abc")
    counter.commit()
    images = {name: memory.image.fork() for name, memory in counter.memories.items()}
    other = any_harness.fresh(counter.module, WasmState(images, counter.global_values))
    assert other.memories["users"].read(300_000, 3) == b"abc"
    put(other, 300_000, b"xyz")
    other.commit()
    assert counter.memories["users"].read(300_000, 3) == b"abc"


def test_a_successor_keeps_what_is_named(any_harness, code, counter):
    put(counter, 0, b"stays")
    put(counter, 0, b"goes", "scratch")
    counter.commit()
    put(counter, 8, b"hook")
    heir = counter.successor(code, keep={"stable", "users"}, added={})
    any_harness.instances.append(heir)
    delta = heir.commit()
    assert {name: changed.fresh for name, changed in delta.memories.items()} == {
        "heap": True,
        "users": False,
        "scratch": True,
    }
    assert heir.memories["users"].read(0, 12) == b"stays\0\0\0hook"
    assert heir.memories["scratch"].size() == 0
    assert heir.memories["scratch"].image.wasm_pages == 0


def test_a_successor_rolled_back_leaves_the_predecessor(any_harness, code, counter):
    put(counter, 0, b"stays")
    put(counter, 0, b"stays too", "scratch")
    counter.commit()
    heir = counter.successor(code, keep={"stable", "users"}, added={})
    any_harness.instances.append(heir)
    put(heir, 0, b"spoilt")
    put(heir, 0, b"spoilt", "scratch")
    heir.roll_back()
    heir.close()
    assert counter.memories["users"].read(0, 5) == b"stays"
    assert counter.memories["scratch"].read(0, 9) == b"stays too"
    assert counter.commit() == NO_CHANGE


def test_a_successor_may_have_more_and_name_fewer(any_harness, counter):
    put(counter, 0, b"left behind")
    counter.commit()
    code = any_harness.compile(COUNTER, Options(memories=(USERS._replace(name="orders"),)))
    added = {"orders": TemporaryImage(any_harness.store)}
    heir = counter.successor(code, keep={"stable", "users"}, added=added)
    any_harness.instances.append(heir)
    put(heir, 0, b"new", "orders")
    delta = heir.commit()
    assert delta.memories["orders"].fresh
    assert [*heir.memories] == ["heap", "stable", "users", "scratch", "orders"]
    assert heir.memories["users"].read(0, 11) == b"left behind"
    assert added["orders"].read(0, 3) == b"new"
