"""Modules with several memories as the network takes them: they do what they do here, byte for byte."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest
import wasmtime

from perdure import Canister, RejectError, Subnet
from perdure.errors import UnsupportedError
from perdure.ic.ic0_ext import DIRECT
from perdure.instrument import lower, validate
from perdure.stable import MemoryManager
from perdure.wasm import OPCODES, Module, decode, encode
from perdure.wasm.names import function_names

PAGE = 65_536
NATIVE = ("direct", "memories")
HEAD = """
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
"""
PLAIN = bytes(wasmtime.wat2wasm("(module (memory 1))"))


def module(text: str) -> Module:
    return decode(bytes(wasmtime.wat2wasm(f"(module {text})")))


def lowered(text: str, ids: dict[str, int] | None = None) -> bytes:
    """What comes out is valid under the network's rules, and needs nothing else than it has."""
    made = lower(module(text), ids).module
    validate(made)
    return encode(made)


def native_canister(text: str) -> Canister:
    return Subnet(extensions=NATIVE).install(encode(module(text)))


def narrow_buckets(canister: Canister, others: int = 0) -> None:
    """A manager with buckets of one Wasm page, and bytes of somebody else between any two of a memory's."""
    manager = MemoryManager.create(canister.stable, bucket_wasm_pages=1)
    if others:
        manager.get(77).grow(others)


def lowered_canister(text: str, ids: dict[str, int] | None = None, *, narrow: bool = False) -> Canister:
    canister = Subnet().install(PLAIN)
    if narrow:
        narrow_buckets(canister, 3)
    canister.upgrade(lowered(text, ids))
    return canister


def said(canister: Canister, method: str, argument: bytes = b"") -> bytes | str:
    try:
        return canister.update(method, argument)
    except RejectError as error:
        return "trap: " + error.message


# ------------------------------------------------------------------------------------------------- every instruction


def _accesses() -> Iterator[tuple[str, str]]:
    """Every load and store, those of vectors included: its name, and the lane where it has one."""
    for opcode in OPCODES.values():
        if (".load" in opcode.name or ".store" in opcode.name) and opcode.number < 0xFE00:
            yield opcode.name, " 0" if opcode.name.endswith("_lane") else ""


@pytest.mark.parametrize(
    ("width", "heap", "narrow"),
    [("i32", "i32", True), ("i64", "i64", True), ("i64", "i32", False), ("i32", "i64", True)],
)
def test_every_load_and_store(width: str, heap: str, narrow: bool) -> None:
    values = {"i32": "(i32.const -2)", "i64": "(i64.const -3)", "f32": "(f32.const 1.5)", "f64": "(f64.const -2.5)"}
    values["v128"] = "(v128.const i64x2 0x0102030405060708 0x1112131415161718)"
    body, place = "", 0
    for name, lane in _accesses():
        kind = name.partition(".")[0]
        # Around the end of a bucket, with the offset on either side of it.
        address, offset = PAGE - 9 + place % 17, place % 5
        if ".store" in name:
            body += f"({name} $own offset={offset}{lane} ({width}.const {address}) {values[kind]})"
        else:
            operand = values["v128"] if lane else ""
            body += f"""({kind}.store $heap ({heap}.const {1024 + 16 * place})
              ({name} $own offset={offset}{lane} ({width}.const {address}) {operand}))"""
        place += 1
    wide, wide_heap = (" i64" if one == "i64" else "" for one in (width, heap))
    append = f'(import "ic0" "msg_reply_data_append" (func $append (param {heap} {heap})))'
    text = f"""(import "ic0" "msg_reply" (func $reply)) {append}
      (import "stable" "own" (memory $own{wide} 2 4)) (memory $heap{wide_heap} 1)
      (data (memory $heap) ({heap}.const 0) "what is here is not lost")
      (func (export "canister_update f") {body} {body}
        (call $append ({heap}.const 0) ({heap}.const {1024 + 16 * place})) (call $reply))"""
    found = lowered_canister(text, narrow=narrow)
    expected = native_canister(text)
    assert found.update("f") == expected.update("f")
    manager = MemoryManager.load(found.stable)
    assert manager.get(0).read(0, 2 * PAGE) == expected.memories["own"].read(0, 2 * PAGE)


def test_direct_accesses_stay_where_they_are() -> None:
    imports, body, at = "", "", 64
    for access in DIRECT.values():
        kind = access.value_type
        shape = f"(param i64 {kind})" if access.is_store else f"(param i64) (result {kind})"
        imports += f'(import "ic0_ext" "{access.name}" (func ${access.name} {shape}))'
        value = f"({kind}.const -2)" if kind[0] == "i" else f"({kind}.const 1.5)"
        if access.is_store:
            body += f"(call ${access.name} (i64.const {at}) {value})"
        else:
            body += f"({kind}.store (i32.const {1024 + at}) (call ${access.name} (i64.const {at % 100})))"
        at += 8
    text = f"""{HEAD} {imports} (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
      (memory 1) (data (i32.const 0) "not lost")
      (func (export "canister_init") (drop (call $grow (i64.const 1))))
      (func (export "canister_update beyond") (call $stable64_store_i64 (i64.const {PAGE - 7}) (i64.const 1)))
      (func (export "canister_update f") {body} (call $append (i32.const 0) (i32.const 4096)) (call $reply))"""
    assert lower(module(text)).memory_ids == {}
    found, expected = Subnet().install(lowered(text)), native_canister(text)
    assert found.update("f") == expected.update("f")
    assert found.stable.read(0, PAGE) == expected.stable.read(0, PAGE)
    for one in (found, expected):
        assert "stable memory out of bounds" in said(one, "beyond")


# --------------------------------------------------------------------------------------------- anything, by the dozen

NAMES = ("a", "b", "c", "d", "heap")
WIDE = ("a", "c")


def _universal() -> str:
    """A method for every instruction on every memory, and pair of them, with operands out of the argument."""

    def operand(place: int, width: str) -> str:
        load = f"(i64.load $heap (i32.const {1024 + 8 * place}))"
        return load if width == "i64" else f"(i32.wrap_i64 {load})"

    def address(name: str, place: int) -> str:
        return operand(place, "i64" if name in WIDE else "i32")

    def method(name: str, body: str) -> str:
        return f"""(func (export "canister_update {name}")
          (call $argument (i32.const 1024) (i32.const 0) (i32.const 24))
          {body} (call $append (i32.const 1056) (i32.const 8)) (call $reply))"""

    def result(code: str, width: str) -> str:
        return f"({width}.store $heap (i32.const 1056) {code})"

    text = f"""{HEAD}
      (import "stable" "a" (memory $a i64 1 40)) (import "stable:b" "grow" (func $grow_b (param i32) (result i32)))
      (import "stable" "b" (memory $b 1 30)) (import "upgrade" "c" (memory $c i64 1 20))
      (import "message" "d" (memory $d 2 10)) (memory $heap 1 5)
      (data $bytes "some bytes of a passive segment that are longer than one word, and more")
      (data (memory $a) (i64.const 65530) "at end") (data (memory $d) (i32.const 7) "scratch")
      (data (memory $c) (i64.const 0) "cache")"""
    for name in NAMES:
        width = "i64" if name in WIDE else "i32"
        text += method(f"size_{name}", result(f"(memory.size ${name})", width))
        text += method(f"grow_{name}", result(f"(memory.grow ${name} {address(name, 0)})", width))
        text += method(
            f"fill_{name}", f"(memory.fill ${name} {address(name, 0)} {operand(1, 'i32')} {address(name, 2)})"
        )
        text += method(
            f"init_{name}", f"(memory.init ${name} $bytes {address(name, 0)} {operand(1, 'i32')} {operand(2, 'i32')})"
        )
        text += method(f"load_{name}", result(f"(i64.load ${name} offset=3 {address(name, 0)})", "i64"))
        text += method(f"store_{name}", f"(i64.store ${name} offset=5 {address(name, 0)} {operand(1, 'i64')})")
        for other in NAMES:
            length = operand(2, "i64" if {name, other} <= set(WIDE) else "i32")
            text += method(
                f"copy_{name}_{other}",
                f"(memory.copy ${name} ${other} {address(name, 0)} {address(other, 1)} {length})",
            )
    return text


UNIVERSAL = _universal()
IDS = {"a": 3, "b": 0, "c": 254, "d": 7}


def _contents(canister: Canister) -> dict[str, bytes]:
    kept = ("a", "b", "c")
    if "a" in canister.memories:
        return {name: canister.memories[name].read(0, canister.memories[name].size() * PAGE) for name in kept}
    manager = MemoryManager.load(canister.stable)
    return {name: manager.get(IDS[name]).read(0, manager.get(IDS[name]).size() * PAGE) for name in kept}


def _operands(choose: random.Random, operation: str) -> tuple[int, int, int]:
    near, far = [0, 1, 120, 4090, PAGE - 3, PAGE, 2 * PAGE - 100], [3 * PAGE, 2**31, 2**32 - 1, 2**64 - 2]
    address = choose.choice(far if choose.random() < 0.05 else near)
    if operation.startswith("grow"):
        return choose.choice([0, 1, 1, 2, 3, 40, 2**31]), 0, 0
    length = choose.choice([0, 1, 7, 64, 127, 128, 129, 300, 1000, 3000])
    if operation.startswith("init"):
        return address, choose.randrange(75), choose.randrange(75)
    if operation.startswith("copy"):
        return address, choose.choice([address, address + 5, max(0, address - 40), 0, PAGE - 5, 77]), length
    return address, choose.randrange(1 << 64), length


@pytest.mark.parametrize("seed", range(2))
def test_random_stories_are_the_same_in_both_forms(seed: int) -> None:
    choose = random.Random(seed)
    expected, found = native_canister(UNIVERSAL), lowered_canister(UNIVERSAL, IDS, narrow=bool(seed % 2))
    operations = [item.name.split()[1] for item in module(UNIVERSAL).exports]
    for name in ("a", "b", "c", "d"):
        for one in (expected, found):
            one.update(f"grow_{name}", struct.pack("<3Q", 3, 0, 0))
    for step in range(70):
        if step == 35:
            expected.upgrade(encode(module(UNIVERSAL)))
            found.upgrade(lowered(UNIVERSAL, IDS))
        operation = choose.choice(operations)
        operands = _operands(choose, operation)
        argument = struct.pack("<3Q", *(one % (1 << 64) for one in operands))
        answers = [said(one, operation, argument) for one in (expected, found)]
        if isinstance(answers[0], str) or isinstance(answers[1], str):
            assert isinstance(answers[0], str) == isinstance(answers[1], str), (operation, operands, answers)
        else:
            assert answers[0] == answers[1], (operation, operands)
        assert expected.heap.read(0, 2048) == found.heap.read(0, 2048), (operation, operands)
    assert _contents(expected) == _contents(found)
    assert not [*MemoryManager.load(found.stable).header.faults(found.stable.size())]


# ----------------------------------------------------------------------------------------------------------- lifetimes


def test_a_memory_for_a_message_is_new_for_each_entry_callbacks_included() -> None:
    text = f"""{HEAD}
      (import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
      (import "ic0" "call_perform" (func $perform (result i32)))
      (import "ic0" "canister_self_copy" (func $self (param i32 i32 i32)))
      (import "ic0" "canister_self_size" (func $self_size (result i32)))
      (import "message" "scratch" (memory $scratch 1 3)) (import "stable" "seen" (memory $seen 1))
      (memory $heap 1) (table funcref (elem $first $second))
      (data (memory $scratch) (i32.const 0) "a") (data (memory $heap) (i32.const 0) "nothing")
      (func $note (param $at i32)  ;; the scratch byte, and how large scratch is; then both change
        (i32.store8 $seen (local.get $at) (i32.load8_u $scratch (i32.const 0)))
        (i32.store8 $seen offset=1 (local.get $at) (memory.size $scratch))
        (i32.store8 $scratch (i32.const 0) (i32.const 0x7a))
        (drop (memory.grow $scratch (i32.const 1))))
      (func $call (param $callback i32)
        (call $self (i32.const 64) (i32.const 0) (call $self_size))
        (call $new (i32.const 64) (call $self_size) (i32.const 0) (i32.const 7)
          (local.get $callback) (i32.const 0) (local.get $callback) (i32.const 0))
        (drop (call $perform)))
      (func $first (param i32) (call $note (i32.const 2)) (call $call (i32.const 1)))
      (func $second (param i32)
        (call $note (i32.const 4))
        (memory.copy $heap $seen (i32.const 0) (i32.const 0) (i32.const 6))
        (call $append (i32.const 0) (i32.const 6)) (call $reply))
      (func (export "canister_update nothing") (call $note (i32.const 8)) (call $reply))
      (func (export "canister_update f") (call $note (i32.const 0)) (call $call (i32.const 0)))"""
    for canister in (native_canister(text), lowered_canister(text)):
        assert canister.update("f") == b"a\1a\1a\1"
        assert canister.update("f") == b"a\1a\1a\1"


def test_what_was_in_an_emptied_memory_does_not_come_back() -> None:
    text = f"""{HEAD} (import "upgrade" "cache" (memory $cache 0 9)) (memory 1)
      (func (export "canister_update write")
        (drop (memory.grow $cache (i32.const 3)))
        (memory.fill $cache (i32.const 0) (i32.const 0x55) (i32.const 196608)) (call $reply))
      (func (export "canister_update grow")
        (drop (memory.grow $cache (i32.const 1))) (call $reply))
      (func (export "canister_query last")
        (memory.copy 1 $cache (i32.const 0) (i32.sub (i32.shl (memory.size $cache) (i32.const 16)) (i32.const 8))
          (i32.const 8))
        (call $append (i32.const 0) (i32.const 8)) (call $reply))"""
    canister, code = lowered_canister(text), lowered(text)
    canister.update("write")
    canister.upgrade(code)
    canister.update("grow")
    assert canister.query("last") == bytes(8)
    canister.upgrade(code)  # after which less is in use than was written to two versions ago
    for _ in range(3):
        canister.update("grow")
        assert canister.query("last") == bytes(8)
    assert len(MemoryManager.load(canister.stable).buckets()) == 1


def test_what_is_deprecated_is_only_read() -> None:
    def text(source: str) -> str:
        return f"""{HEAD} (import "{source}" "users" (memory $users 1)) (memory 1)
          (func (export "canister_update write") (i32.store8 $users (i32.const 9) (i32.const 7)) (call $reply))
          (func (export "canister_update grow") (drop (memory.grow $users (i32.const 1))) (call $reply))
          (func (export "canister_update fill")
            (memory.fill $users (i32.const 0) (i32.const 7) (i32.const 1)) (call $reply))
          (func (export "canister_query read")
            (memory.copy 1 $users (i32.const 0) (i32.const 9) (i32.const 1))
            (call $append (i32.const 0) (i32.const 1)) (call $reply))"""

    canister = lowered_canister(text("stable"))
    canister.update("write")
    canister.upgrade(lowered(text("deprecated")))
    assert canister.query("read") == b"\7"
    for method in ("write", "grow", "fill"):
        assert "memory users is deprecated: it is only read" in said(canister, method)


def test_memories_are_there_before_a_start_function() -> None:
    text = f"""{HEAD} (import "stable" "users" (memory $users 1)) (memory 1)
      (data (memory $users) (i32.const 0) "n") (start $start)
      (func $start (i32.store8 $users (i32.const 1) (i32.add (i32.load8_u $users (i32.const 0)) (i32.const 1))))
      (func (export "canister_query f")
        (memory.copy 1 $users (i32.const 0) (i32.const 0) (i32.const 2))
        (call $append (i32.const 0) (i32.const 2)) (call $reply))"""
    assert lowered_canister(text).query("f") == b"no"


# ---------------------------------------------------------------------------------------------- beside stable memory

BESIDE = f"""{HEAD}
  (import "ic0" "stable64_size" (func $size (result i64)))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "stable64_read" (func $read (param i64 i64 i64)))
  (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
  (import "ic0_ext" "stable64_load8_u_i32" (func $load (param i64) (result i32)))
  (import "stable:users" "grow" (func $grow_users (param i64) (result i64)))
  (import "stable:users" "i32.store8" (func $store (param i64 i32)))
  (memory 1) (data (i32.const 8) "stable") (table funcref (elem $read))
  (type $read_type (func (param i64 i64 i64)))
  (func (export "canister_init")
    (drop (call $grow (i64.const 1))) (drop (call $grow_users (i64.const 1)))
    (call $store (i64.const 5) (i32.const 0x75))
    (call $write (i64.const 4) (i64.const 8) (i64.const 6)))
  (func (export "canister_query f")
    (call_indirect (type $read_type) (i64.const 0) (i64.const 4) (i64.const 6) (i32.const 0))
    (i32.store8 (i32.const 6) (call $load (i64.const 5)))
    (i32.store8 (i32.const 7) (i32.wrap_i64 (call $size)))
    (call $append (i32.const 0) (i32.const 8)) (call $reply))"""


def test_stable_memory_itself_is_one_of_them() -> None:
    canister = Subnet().install(lowered(BESIDE))
    assert canister.query("f") == native_canister(BESIDE).query("f") == b"stablet\1"
    manager = MemoryManager.load(canister.stable)
    assert lower(module(BESIDE)).memory_ids == {"stable": 0, "users": 1}
    assert (manager.get(0).read(4, 6), manager.get(1).read(5, 1)) == (b"stable", b"u")


def test_a_manager_that_is_there_goes_on() -> None:
    text = f"""{HEAD} (import "stable" "users" (memory $users 1)) (memory 1)
      (func (export "canister_update f")
        (memory.copy 1 $users (i32.const 0) (i32.const 0) (i32.const 5))
        (call $append (i32.const 0) (i32.const 5)) (call $reply))"""
    canister = Subnet().install(PLAIN)
    manager = MemoryManager.create(canister.stable, bucket_wasm_pages=7)
    for number in (4, 9):
        manager.get(number).grow(8)
        manager.get(number).write(0, b"mem %d" % number)
    canister.upgrade(lowered(text, {"users": 9}))
    assert canister.update("f") == b"mem 9"


def test_other_bytes_are_not_overwritten() -> None:
    canister = Subnet().install(PLAIN)
    canister.stable.grow(1)
    canister.stable.write(0, b"SQLite format 3")
    with pytest.raises(RejectError, match="stable memory holds something else than a memory manager"):
        canister.upgrade(lowered('(import "stable" "users" (memory 1))'))
    assert canister.stable.read(0, 6) == b"SQLite"


def test_a_manager_that_contradicts_itself_traps() -> None:
    text = f"""{HEAD} (import "stable" "users" (memory $users i64 1)) (memory 1)
      (func (export "canister_update f") (i64.store $users (i64.const 65536) (i64.const 1)) (call $reply))"""
    canister = Subnet().install(lowered(text))
    canister.stable.write(40, (1 << 40).to_bytes(8, "little"))  # many pages, one bucket
    canister.update("f")
    canister.stable.write(2080, b"\xff")
    canister.upgrade(lowered(text))
    assert "memory users out of bounds" in said(canister, "f")
    canister.stable.write(6, b"\0\0")
    with pytest.raises(RejectError, match="something else than a memory manager"):
        canister.upgrade(lowered(text))


# -------------------------------------------------------------------------------------------------------- what it says


def test_names_of_functions_stay_theirs() -> None:
    text = f"""{HEAD} (import "stable" "users" (memory $users 1)) (memory 1)
      (func $inner (param $x i32) (i32.store8 $users (local.get $x) (i32.const 1)))
      (func $outer (export "canister_update f") (call $inner (i32.const 99999)))"""
    made = lower(module(text)).module
    section = next(one.data for one in made.custom_sections if one.name == "name")
    names = function_names(section)
    assert {names[made.exported_functions["canister_update f"]], *names.values()} >= {"outer", "inner", "reply"}
    assert names[made.exported_functions["canister_update f"]] == "outer"
    canister = Subnet().install(encode(made))
    with pytest.raises(RejectError, match=r"memory users out of bounds(.|\n)*inner(.|\n)*outer"):
        canister.update("f")


def test_nothing_to_lower_is_the_same_module() -> None:
    one = module('(import "ic0" "stable64_size" (func (result i64))) (memory 1)')
    assert lower(one) == (one, {})


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ({"nobody": 1}, "no memory is named 'nobody': there is orders, users"),
        ({"users": 255}, "memory 'users': an id is 0 to 254, found 255"),
        ({"users": 3, "orders": 3}, "'users' and 'orders' are both given the id 3"),
    ],
)
def test_ids_that_cannot_be(ids: dict[str, int], words: str) -> None:
    text = '(import "stable" "users" (memory 1)) (import "stable" "orders" (memory 1)) (memory 1)'
    with pytest.raises(ValueError, match=words):
        lower(module(text), ids)
    assert lower(module(text), {"users": 0}).memory_ids == {"orders": 1, "users": 0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '(import "ic0" "stable_read" (func (param i32 i32 i32))) (import "stable" "users" (memory 1)) (memory 1)',
            "imports ic0.stable_read beside memories of its own: only the 64-bit functions",
        ),
        ('(import "ic0_ext" "call_memory_add" (func)) (memory 1)', "ic0_ext.call_memory_add: only loads and stores"),
        ('(import "volatile" "users" (memory 1)) (memory 1)', "is imported from 'volatile'"),
        (
            '(import "stable" "users" (memory 1)) (memory 1) (data (memory 0) (i32.const 65536) "x")',
            "does not fit the initial users",
        ),
    ],
)
def test_what_cannot_be_lowered_is_refused(text: str, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        lower(module(text))
