"""Memories of a canister's own: part of every message, of forks, state directories, history and snapshots."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import wasmtime

from perdure import RejectError, Subnet
from perdure.instrument import Options
from perdure.subnet.replay import replay

NAMED = ("memories",)
HEAD = """
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
  (import "ic0" "stable64_grow" (func $grow_stable (param i64) (result i64)))
"""
OUT = """(func $out (param $size i32) (call $append (i32.const 0) (local.get $size)) (call $reply))
  (func $given (result i64) (call $argument (i32.const 0) (i32.const 0) (i32.const 8)) (i64.load $heap (i32.const 0)))
"""


def wasm(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(f"(module {text})"))


def ledger(
    users: str = '(import "stable" "users" (memory $users i64 1 1000))',
    cache: str = '(import "upgrade" "cache" (memory $cache 1 100))',
    more: str = "",
) -> bytes:
    return wasm(f"""{HEAD} {users} {cache}
      (import "message" "scratch" (memory $scratch 1 100))
      (memory $heap 1)
      (data (memory $users) (i64.const 8) "\\07")
      (data (memory $scratch) (i32.const 8) "\\2a")
      {OUT} {more}
      (func $add
        (i64.store $users (i64.const 4096) (i64.add (i64.load $users (i64.const 4096)) (i64.const 1)))
        (i32.store8 $cache (i32.const 64) (i32.add (i32.load8_u $cache (i32.const 64)) (i32.const 1)))
        (i32.store8 $scratch (i32.const 8) (i32.add (i32.load8_u $scratch (i32.const 8)) (i32.const 1)))
        (i32.store8 $heap (i32.const 100) (i32.add (i32.load8_u $heap (i32.const 100)) (i32.const 1))))
      (func $show
        (i64.store8 $heap (i32.const 0) (i64.load $users (i64.const 4096)))
        (i32.store8 $heap (i32.const 1) (i32.load8_u $cache (i32.const 64)))
        (i32.store8 $heap (i32.const 2) (i32.load8_u $scratch (i32.const 8)))
        (i32.store8 $heap (i32.const 3) (i32.load8_u $heap (i32.const 100)))
        (i64.store8 $heap (i32.const 4) (i64.load $users (i64.const 8)))
        (call $out (i32.const 5)))
      (func (export "canister_update add") (call $add) (call $show))
      (func (export "canister_update nothing") (call $reply))
      (func (export "canister_update trap") (call $add) (drop (memory.grow $users (i64.const 3))) (unreachable))
      (func (export "canister_update beyond") (i64.store $users (call $given) (i64.const 1)))
      (func (export "canister_update copy")
        (memory.copy $users $heap (i64.const 65535) (i32.const 0) (i32.const 8)))
      (func (export "canister_update grow")
        (i64.store $heap (i32.const 0) (memory.grow $users (call $given)))
        (drop (memory.grow $scratch (i32.const 1)))
        (call $out (i32.const 8)))
      (func (export "canister_query show") (call $show))
      (func (export "canister_query spoil") (call $add) (call $show))""")


def shown(canister, method: str = "show") -> tuple[int, ...]:
    return tuple(canister.query(method))


@pytest.fixture(params=[Options(), Options(schedule=None, accounting=False)], ids=["metered", "bare"])
def canister(request):
    return Subnet(extensions=NAMED, instrumentation=request.param).install(ledger())


def test_a_message_commits_all_of_them(canister):
    assert shown(canister) == (0, 0, 42, 0, 7)
    assert tuple(canister.update("add")) == (1, 1, 43, 1, 7)
    assert tuple(canister.update("add")) == (2, 2, 43, 2, 7)
    assert shown(canister) == (2, 2, 42, 2, 7)
    assert shown(canister, "spoil") == (3, 3, 43, 3, 7)
    assert shown(canister) == (2, 2, 42, 2, 7)


def test_a_trap_takes_all_of_it_back(canister):
    canister.update("add")
    with pytest.raises(RejectError, match="unreachable"):
        canister.update("trap")
    assert shown(canister) == (1, 1, 42, 1, 7)
    assert canister.memories["users"].size() == 1
    assert tuple(canister.update("add")) == (2, 2, 43, 2, 7)


def test_a_trap_names_the_memory(canister):
    with pytest.raises(RejectError, match="Canister trapped: memory users out of bounds"):
        canister.update("beyond", struct.pack("<Q", 65_529))
    with pytest.raises(RejectError, match="memory users or heap out of bounds"):
        canister.update("copy")
    assert "memory users out of bounds" in canister.logs()[-2].content.decode()


def test_what_an_update_may_have_written_is_noted(canister):
    canister.update("add")
    memories = canister._instance._use()._memories
    canister.update("nothing")
    assert {name: memory.is_untouched for name, memory in memories.noted.items()} == dict.fromkeys(memories.noted, True)


def test_growing_has_a_limit_of_each(canister):
    assert canister.update("grow", struct.pack("<q", 5)) == struct.pack("<q", 1)
    assert canister.memories["users"].size() == 6
    assert canister.update("grow", struct.pack("<q", 995)) == struct.pack("<q", -1)
    assert canister.update("grow", struct.pack("<q", 994)) == struct.pack("<q", 6)
    assert canister.update("grow", struct.pack("<q", -1)) == struct.pack("<q", -1)
    assert shown(canister)[2] == 42
    assert canister.memories["scratch"].size() == 1


def test_they_are_paid_for(canister):
    before = canister._state.memory_bytes()
    canister.update("grow", struct.pack("<q", 10))
    assert canister._state.memory_bytes() - before == 10 << 16
    assert canister._state.own_memories["users"] == ("stable", 64, 11)
    canister.memories["users"].grow(2)
    assert canister._state.own_memories["users"].wasm_pages == 13
    assert canister._state.own_memories["scratch"] == ("message", 32, 0)


def test_changed_pages_are_charged_after_the_fact():
    subnet = Subnet(extensions=NAMED)
    canister = subnet.install(ledger())
    canister.update("add")
    with subnet.events() as stream:
        canister.update("nothing")
        canister.update("add")
    nothing, add = (event.instructions for event in stream if hasattr(event, "instructions"))
    assert 3 * 1000 < add - nothing < 4 * 1000  # a page each of users, cache and the heap; scratch is not kept


def test_an_upgrade_does_what_lifetimes_say(canister):
    for _ in range(3):
        canister.update("add")
    canister.upgrade(ledger())
    assert shown(canister) == (3, 0, 42, 0, 7)
    canister.reinstall(ledger())
    assert shown(canister) == (0, 0, 42, 0, 7)


def test_an_upgrade_that_traps_leaves_them_as_they_were(canister):
    canister.update("add")
    bad = ledger(more='(func (export "canister_post_upgrade") (call $add) (unreachable))')
    with pytest.raises(RejectError, match="unreachable"):
        canister.upgrade(bad)
    assert shown(canister) == (1, 1, 42, 1, 7)
    canister.upgrade(ledger(more='(func (export "canister_post_upgrade") (call $add))'))
    assert shown(canister) == (2, 1, 42, 1, 7)


def test_start_and_init_touch_them():
    more = '(start $add) (func (export "canister_init") (call $add))'
    canister = Subnet(extensions=NAMED).install(ledger(more=more))
    assert shown(canister) == (2, 2, 42, 2, 7)


WITHOUT = wasm(f'{HEAD} (memory $heap 1) {OUT} (func (export "canister_query show") (call $out (i32.const 1)))')


def test_a_memory_that_is_not_named_any_more_is_kept_and_paid_for(tmp_path):
    with Subnet(tmp_path / "s", extensions=NAMED) as subnet:
        canister = subnet.install(ledger())
        canister.update("add")
        canister.upgrade(WITHOUT)
        assert canister.memories["users"].read(4096, 1) == b"\1"
        assert canister._state.own_memories["users"].wasm_pages == 1
    with Subnet(tmp_path / "s") as subnet:
        canister = subnet.canister(canister.id)
        assert canister.memories["users"].read(4096, 1) == b"\1"
        canister.upgrade(ledger())
        assert shown(canister) == (1, 0, 42, 0, 7)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ('(import "stable" "users" (memory $users 1 1000))', "64-bit addresses; the new module has it .* 32-bit"),
        ('(import "upgrade" "users" (memory $users i64 1 1000))', "'stable' and .* with lifetime 'upgrade'"),
        ('(import "message" "users" (memory $users i64 1 1000))', "'stable' and .* with lifetime 'message'"),
    ],
)
def test_a_memory_stays_what_it_is(other, words):
    subnet = Subnet(extensions=NAMED)
    canister = subnet.install(ledger())
    canister.update("add")
    narrow = "i64" not in other
    changed = wasm(f"{HEAD} {other} (memory $heap 1) {OUT}") if narrow else ledger(users=other)
    with pytest.raises(RejectError, match=f"Memory 'users' has lifetime .*{words}"):
        canister.upgrade(changed)
    assert shown(canister) == (1, 1, 42, 1, 7)
    canister.upgrade(WITHOUT)
    with pytest.raises(RejectError, match="Memory 'users' has lifetime"):
        canister.upgrade(changed)
    canister.reinstall(changed)


def test_what_is_deprecated_is_only_read():
    old = Subnet(extensions=NAMED).install(ledger())
    old.update("add")
    users = '(import "deprecated" "users" (memory $users i64 1 1000))'
    old.upgrade(ledger(users=users))
    assert shown(old) == (1, 0, 42, 0, 7)
    for method, argument in (("add", b""), ("grow", bytes(8)), ("copy", b"")):
        with pytest.raises(RejectError, match="memory users is deprecated: it is only read"):
            old.update(method, argument)
    old.upgrade(ledger())
    assert old.update("add")[0] == 2


def test_forks_and_anchors():
    subnet = Subnet(extensions=NAMED)
    canister = subnet.install(ledger())
    canister.update("add")
    fork = subnet.fork()
    fork.canister(canister.id).update("add")
    with subnet.anchor():
        subnet.canister(canister.id).update("add")
    assert shown(canister) == (1, 1, 42, 1, 7)
    assert shown(fork.canister(canister.id)) == (2, 2, 42, 2, 7)


def test_snapshots_of_the_subnet():
    canister = Subnet(extensions=NAMED).install(ledger())
    canister.update("add")
    kept = canister.take_snapshot()
    canister.update("grow", struct.pack("<q", 3))
    canister.update("add")
    canister.load_snapshot(kept)
    assert shown(canister) == (1, 1, 42, 1, 7)
    assert canister._state.own_memories["users"].wasm_pages == 1


def test_a_state_directory_has_them_whole_and_their_past(tmp_path: Path):
    with Subnet(tmp_path / "s", extensions=NAMED, history=None) as subnet:
        canister = subnet.install(ledger())
        for _ in range(3):
            canister.update("add")
        version = subnet.version
        subnet.checkpoint()
        canister.update("grow", struct.pack("<q", 3))
        canister.update("add")
        subnet._world.host.directory.abandon()  # as a crash leaves it
    with Subnet(tmp_path / "s") as subnet:
        canister = subnet.canister(canister.id)
        assert shown(canister) == (4, 4, 42, 4, 7)
        assert canister.memories["users"].size() == 4
        past = subnet.at(version).canister(canister.id)
        assert shown(past) == (3, 3, 42, 3, 7)
        assert past.memories["users"].size() == 1
        canister.upgrade(ledger())
        assert shown(canister) == (4, 0, 42, 0, 7)
    assert replay(tmp_path / "s").difference is None
    assert shown(Subnet.read(tmp_path / "s").canister(canister.id)) == (4, 0, 42, 0, 7)


def test_memory_1_as_stable_memory():
    module = wasm("""
      (import "ic0" "msg_reply" (func $reply))
      (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
      (memory $heap 1) (memory $stable i64 1 10)
      (data (memory $stable) (i64.const 0) "magic")
      (func $out (memory.copy $heap $stable (i32.const 0) (i64.const 0) (i32.const 8))
        (call $append (i32.const 0) (i32.const 8)) (call $reply))
      (func (export "canister_update inc")
        (i64.store8 $stable (i64.const 7) (i64.add (i64.load8_u $stable (i64.const 7)) (i64.const 1))) (call $out))
      (func (export "canister_update grow") (drop (memory.grow $stable (i64.const 2))) (call $reply))
      (func (export "canister_query beyond") (drop (i64.load $stable (i64.const 65530))))
      (func (export "canister_query show") (call $out))""")
    canister = Subnet(extensions=("memories=index",)).install(module)
    canister.update("inc")
    assert canister.update("inc") == b"magic\0\0\2"
    assert canister.stable.read(0, 8) == b"magic\0\0\2"
    with pytest.raises(RejectError, match="stable memory out of bounds"):
        canister.query("beyond")
    canister.update("grow")
    assert (canister.stable.size(), canister.status().stable_bytes) == (3, 3 << 16)
    canister.stable.write(0, b"MAGIC")
    canister.upgrade(module)
    assert canister.query("show") == b"MAGIC\0\0\2"


def test_declared_memories_are_heap():
    text = f"""{HEAD.replace('(import "ic0" "stable64_grow" (func $grow_stable (param i64) (result i64)))', "")}
      (memory $heap 1) (memory $other 1) {OUT}
      (func (export "canister_update inc")
        (i32.store8 $other (i32.const 9) (i32.add (i32.load8_u $other (i32.const 9)) (i32.const 1)))
        (i32.store8 $heap (i32.const 0) (i32.load8_u $other (i32.const 9))) (call $out (i32.const 1)))"""
    canister = Subnet(extensions=("memories=declared",)).install(wasm(text))
    canister.update("inc")
    assert canister.update("inc") == b"\2"
    assert canister.memories["memory1"].read(9, 1) == b"\2"
    canister.upgrade(wasm(text))
    assert canister.update("inc") == b"\1"


def test_the_heap_may_come_last():
    """wasm-merge puts imported memories first: the heap is found by what it is."""
    text = f"""{HEAD} (import "stable" "first" (memory $first i64 1)) (memory $heap 1) {OUT}
      (global $count (mut i32) (i32.const 0))
      (func (export "canister_update inc")
        (global.set $count (i32.add (global.get $count) (i32.const 1)))
        (drop (memory.grow $heap (i32.const 1)))
        (i64.store $first (i64.const 0) (i64.add (i64.load $first (i64.const 0)) (i64.const 1)))
        (memory.copy $heap $first (i32.const 0) (i64.const 0) (i32.const 8))
        (i32.store8 $heap (i32.const 1) (global.get $count))
        (memory.fill $heap (i32.const 2) (i32.const 7) (i32.const 1))
        (call $out (i32.const 3)))"""
    canister = Subnet(extensions=NAMED).install(wasm(text))
    canister.update("inc")
    assert canister.update("inc") == b"\2\2\7"
    assert (canister.heap.size(), canister.memories["first"].size()) == (3, 1)


def test_policies_do_not_mix_in_a_state_directory(tmp_path):
    Subnet(tmp_path / "s", extensions=("memories=index",)).close()
    with pytest.raises(ValueError, match="modules have their memories by one policy"):
        Subnet(tmp_path / "s", extensions=NAMED)
    with Subnet(tmp_path / "s", extensions=("direct",)) as subnet:
        assert subnet.extensions == ("direct", "memories=index")
        with pytest.raises(ValueError, match="by one policy"):
            subnet.fork(extensions=NAMED)


def test_growing_from_python_has_the_same_limits():
    """What `memory.grow` would not do, and what the canister could not pay for; nothing has changed then."""
    wide = '(import "stable" "wide" (memory $wide i64 0))'
    users = '(import "stable" "users" (memory $users i64 1 1000))'
    canister = Subnet(extensions=NAMED).install(ledger(users=wide + users))
    memories = canister.memories
    for name, most in (("users", 1000), ("cache", 100)):
        assert memories[name].kind.most_wasm_pages == most
        assert memories[name].grow(most) == -1
        assert memories[name].size() == 1
        assert memories[name].grow(most - 1) == 1
        assert memories[name].grow(1) == -1
        assert memories[name].grow(0) == most
    assert memories["heap"].grow(1 << 16) == memories["stable"].grow((500 << 30 >> 16) + 1) == -1
    assert memories["wide"].grow(8_000_000) == -1, "nobody could pay for that"
    with pytest.raises(ValueError, match="cannot grow by -1"):
        memories["users"].grow(-1)
    canister.upgrade(wasm("(memory 1)"))
    assert canister.memories["users"].state == "unused"
    assert canister.memories["users"].grow(1) == 1000


@pytest.mark.parametrize(
    ("extension", "memory", "name", "kept"),
    [
        ("memories", '(import "stable" "it" (memory $it i64 1)) (memory $heap 1)', "it", 2),
        ("memories", '(import "upgrade" "it" (memory $it i64 1)) (memory $heap 1)', "it", 1),
        ("memories=index", "(memory $heap 1) (memory $it i64 1)", "stable", 2),
        ("memories=declared", "(memory $heap 1) (memory $it i64 1)", "memory1", 1),
    ],
)
def test_a_start_function_writes_and_grows_memories(extension: str, memory: str, name: str, kept: int) -> None:
    """It runs whenever code is installed; what stays has what it did before, what does not begins anew."""
    code = wasm(f"""{memory} (start $start)
      (func $start (drop (memory.grow $it (i64.const 1)))
        (i64.store8 $it (i64.const 9) (i64.add (i64.load8_u $it (i64.const 9)) (i64.const 1)))
        (i64.store8 $it (i64.const 70000) (i64.const 7)))""")
    subnet = Subnet(extensions=(extension,))
    canister = subnet.install(code)
    assert [canister.memories[name].read(at, 1)[0] for at in (9, 70_000)] == [1, 7]
    canister.upgrade(code)
    assert canister.memories[name].read(9, 1)[0] == kept
    bad = wasm(f"""{memory} (start $start)
      (func $start (i64.store8 $it (i64.const 9) (i64.const 55)) (unreachable))""")
    with pytest.raises(RejectError, match="unreachable"):
        canister.upgrade(bad)
    assert canister.memories[name].read(9, 1)[0] == kept
    with pytest.raises(RejectError):
        subnet.install(bad)


REACHES = {
    "a load": "(drop (i32.load {index} (i32.const 0)))",
    "a store": "(i32.store {index} (i32.const 0) (i32.const 1))",
    "memory.size": "(drop (memory.size {index}))",
    "memory.grow": "(drop (memory.grow {index} (i32.const 1)))",
    "memory.fill": "(memory.fill {index} (i32.const 0) (i32.const 1) (i32.const 1))",
    "memory.copy to it": "(memory.copy {index} 0 (i32.const 0) (i32.const 0) (i32.const 1))",
    "memory.copy from it": "(memory.copy 0 {index} (i32.const 0) (i32.const 0) (i32.const 1))",
    "memory.init": "(memory.init {index} $d (i32.const 0) (i32.const 0) (i32.const 1))",
    "a vector": "(drop (v128.load {index} (i32.const 0)))",
}
OWN = {
    None: ("(memory 1)", 1),
    "memories=index": ("(memory 1) (memory i64 0)", 2),
    "memories": ('(import "stable" "users" (memory 1)) (memory 1)', 2),
    "memories=declared": ("(memory 1) (memory 1)", 2),
}


@pytest.mark.parametrize("extension", OWN)
@pytest.mark.parametrize("how", REACHES)
def test_nobody_reaches_the_kernels_memories_by_index(how: str, extension: str | None) -> None:
    """In the linked module they lie behind a module's own; its code is refused before that."""
    memories, count = OWN[extension]
    for beyond in (0, 1, 2, 40):
        reach = REACHES[how].format(index=count + beyond)
        code = wasm(f'{memories} (data $d "x") (func (export "canister_update f") {reach})')
        with pytest.raises(RejectError, match=r"module is not valid: (unknown memory|malformed memop|zero byte)"):
            Subnet(extensions=(extension,) if extension else ()).install(code)


@pytest.mark.parametrize("extension", OWN)
@pytest.mark.parametrize(
    "part", ['(export "it" (memory {index}))', '(data (memory {index}) (i32.const 0) "x")', '(export "i" (memory 99))']
)
def test_nor_by_an_export_or_data(part: str, extension: str | None) -> None:
    memories, count = OWN[extension]
    code = bytes(wasmtime.wat2wasm(f"(module {memories} {part.format(index=count)})"))
    with pytest.raises(RejectError, match=r"unknown memory|memory index|out of bounds"):
        Subnet(extensions=(extension,) if extension else ()).install(code)
