"""What memories a module may have under each policy, and what every policy says to the modules of the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import wasmtime

from perdure.canister import MemoryKind
from perdure.errors import UnsupportedError
from perdure.ic.ic0_ext import checked_extensions
from perdure.instrument import Options, Policy, instrument, validate
from perdure.instrument.memories import MAX_MEMORIES, plan_memories, written_memories
from perdure.wasm import decode

INDEX, NAMED, DECLARED = "memories=index", "memories", "memories=declared"


def module(text: str):
    return decode(bytes(wasmtime.wat2wasm(f"(module {text})")))


def imported(*memories: tuple[str, str, str], heap: str = "(memory 1)") -> str:
    return "".join(f'(import "{source}" "{name}" (memory {kind}))' for source, name, kind in memories) + heap


MODULES = {
    "none": "",
    "a heap": "(memory 1)",
    "an imported heap": '(import "env" "memory" (memory 1))',
    "two declared, the second wide": "(memory 1) (memory i64 0)",
    "two declared": "(memory 1) (memory 1)",
    "three declared": "(memory 1) (memory i64 1) (memory 1)",
    "named": imported(("stable", "users", "i64 1"), ("upgrade", "cache", "1")),
    "named, with two heaps": imported(("stable", "users", "i64 1"), heap="(memory 1) (memory 1)"),
    "from elsewhere": imported(("volatile", "users", "i64 1")),
}
# By module and policy: which memories there are, by index, or what the refusal says.
VERDICTS = {
    ("none", None): ["heap", "stable"],
    ("none", INDEX): ["heap", "stable"],
    ("none", NAMED): ["heap", "stable"],
    ("none", DECLARED): ["heap", "stable"],
    ("a heap", None): ["heap", "stable"],
    ("a heap", INDEX): ["heap", "stable"],
    ("a heap", NAMED): ["heap", "stable"],
    ("a heap", DECLARED): ["heap", "stable"],
    ("an imported heap", None): ["heap", "stable"],
    ("an imported heap", INDEX): ["heap", "stable"],
    ("an imported heap", NAMED): ["heap", "stable"],
    ("an imported heap", DECLARED): ["heap", "stable"],
    ("two declared, the second wide", None): "multiple memories: found 2, expected at most 1.*extension 'memories'",
    ("two declared, the second wide", INDEX): ["heap", "stable"],
    ("two declared, the second wide", NAMED): "'imported by name' does not allow: memory 1 is a second heap",
    ("two declared, the second wide", DECLARED): ["heap", "memory1", "stable"],
    ("two declared", None): "multiple memories",
    ("two declared", INDEX): "'index' does not allow: memory 1 is stable memory, and has 32-bit addresses",
    ("two declared", NAMED): "'imported by name' does not allow: memory 1 is a second heap",
    ("two declared", DECLARED): ["heap", "memory1", "stable"],
    ("three declared", None): "multiple memories: found 3",
    ("three declared", INDEX): "'index' does not allow: it has 3",
    ("three declared", NAMED): "'imported by name' does not allow: memory 1 is a second heap",
    ("three declared", DECLARED): ["heap", "memory1", "memory2", "stable"],
    ("named", None): "memory 'users' from 'stable': it belongs to the extension 'memories'.*--extension memories",
    ("named", INDEX): "'index' does not allow: memory 0 is imported from stable.users",
    ("named", NAMED): ["users", "cache", "heap", "stable"],
    ("named", DECLARED): "'declared' does not allow: memory 0 is imported from stable.users",
    ("named, with two heaps", None): "memory 'users' from 'stable'",
    ("named, with two heaps", INDEX): "'index' does not allow",
    ("named, with two heaps", NAMED): "memory 2 is a second heap; another memory is imported from 'stable', ",
    ("named, with two heaps", DECLARED): "'declared' does not allow: memory 0 is imported from stable.users",
    ("from elsewhere", None): "Only memory imported from env.memory is allowed",
    ("from elsewhere", INDEX): "'index' does not allow: memory 0 is imported from volatile.users",
    ("from elsewhere", NAMED): "memory 'users' is imported from 'volatile' instead of 'stable', 'deprecated', ",
    ("from elsewhere", DECLARED): "'declared' does not allow: memory 0 is imported from volatile.users",
}


def policy(extension: str | None) -> Policy:
    return Policy(extensions=(extension,) if extension else ())


@pytest.mark.parametrize(("name", "extension"), VERDICTS)
def test_every_policy_against_every_module(name: str, extension: str | None) -> None:
    found, expected = module(MODULES[name]), VERDICTS[name, extension]
    if isinstance(expected, list):
        validate(found, policy(extension))
        assert list(plan_memories(found, policy(extension).extensions).names) == expected
    else:
        with pytest.raises(UnsupportedError, match=expected):
            validate(found, policy(extension))


def test_every_pair_is_there() -> None:
    assert set(VERDICTS) == {(name, extension) for name in MODULES for extension in (None, INDEX, NAMED, DECLARED)}


@pytest.mark.parametrize("extension", [INDEX, NAMED, DECLARED])
@pytest.mark.parametrize("name", ["none", "a heap", "an imported heap"])
def test_a_module_without_memories_of_its_own_is_linked_as_before(name: str, extension: str) -> None:
    text = MODULES[name] + '(func (export "canister_update f"))'
    plain, other = instrument(module(text)), instrument(module(text), Options(extensions=(extension,)))
    assert other.module == plain.module


def test_lifetimes_and_widths() -> None:
    text = imported(
        ("stable", "a", "i64 1"), ("upgrade", "b", "1 7"), ("message", "c", "i64 0"), ("deprecated", "d", "1")
    )
    plan = plan_memories(module(text), (NAMED,))
    assert [one.kind for one in plan.own] == [
        MemoryKind("a", "stable", 64),
        MemoryKind("b", "upgrade", 32),
        MemoryKind("c", "message", 64),
        MemoryKind("d", "stable", 32, is_read_only=True),
    ]
    assert [one.limits.maximum for one in plan.own] == [8_192_000, 7, 98_304, 65_536]
    assert (plan.heap, plan.stable, plan.accounting, plan.message) == (4, 5, 6, 7)
    assert plan_memories(module("(memory 1) (memory 1)"), (DECLARED,)).own[0].kind == MemoryKind("memory1", "heap", 32)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["users", "users"], "'users' names two of them"),
        (["heap"], "'heap' is what the network's own memory is called"),
        (["stable"], "'stable' is what"),
        (["Users"], "'Users' is no name for one: expected 1 to 64 of a-z"),
        ([""], "'' is no name"),
        (["../up"], "is no name"),
        (["x" * 65], "is no name"),
    ],
)
def test_names(names: list[str], words: str) -> None:
    text = imported(*(("stable", name, "1") for name in names))
    with pytest.raises(UnsupportedError, match=words):
        validate(module(text), policy(NAMED))


def test_one_name_with_two_lifetimes_collides() -> None:
    with pytest.raises(UnsupportedError, match="'users' names two of them"):
        validate(module(imported(("stable", "users", "1"), ("upgrade", "users", "1"))), policy(NAMED))


@pytest.mark.parametrize("extension", [NAMED, DECLARED])
def test_32_and_no_more(extension: str) -> None:
    def many(count: int) -> str:
        if extension == DECLARED:
            return "(memory 1)" * (count + 1)
        return imported(*(("stable", f"m{number}", "1") for number in range(count)))

    validate(module(many(MAX_MEMORIES)), policy(extension))
    words = "'memory33' is one of 33" if extension == DECLARED else "'m32' is one of 33"
    with pytest.raises(UnsupportedError, match=f"{words} beside the heap, at most 32"):
        validate(module(many(MAX_MEMORIES + 1)), policy(extension))


def test_stable_memory_once() -> None:
    text = '(import "ic0" "stable64_size" (func (result i64))) (memory 1) (memory i64 0)'
    with pytest.raises(UnsupportedError, match=r"so ic0\.stable64_size may not be imported beside it"):
        validate(module(text), policy(INDEX))
    validate(module('(import "ic0" "stable64_size" (func (result i64))) (memory 1)'), policy(INDEX))


def test_a_memory_too_large_to_begin_with() -> None:
    with pytest.raises(UnsupportedError, match="memory 'users' of 9000000 Wasm pages which exceeds the maximum"):
        validate(module(imported(("stable", "users", "i64 9000000"))), policy(NAMED))


def test_data_has_to_fit_its_memory() -> None:
    text = imported(("stable", "users", "i64 1")) + '(data (memory 0) (i64.const 65535) "ab")'
    with pytest.raises(UnsupportedError, match="does not fit the initial users of 0x10000 bytes"):
        instrument(module(text), Options(extensions=(NAMED,)))


def test_one_policy_at_a_time() -> None:
    with pytest.raises(ValueError, match="extensions memories and memories=index: modules have their memories by one"):
        checked_extensions([NAMED], [INDEX])


def test_which_memories_a_body_writes() -> None:
    stores = {
        "(i64.store 1 (i32.const 0) (i64.const 0))": {1},
        "(i32.store8 2 (i32.const 0) (i32.const 0))": {2},
        "(v128.store 1 (i32.const 0) (v128.const i64x2 0 0))": {1},
        "(v128.store8_lane 2 0 (i32.const 0) (v128.const i64x2 0 0))": {2},
        "(memory.fill 1 (i32.const 0) (i32.const 0) (i32.const 0))": {1},
        "(memory.copy 2 1 (i32.const 0) (i32.const 0) (i32.const 0))": {2},
        "(memory.init 1 0 (i32.const 0) (i32.const 0) (i32.const 0))": {1},
        "(drop (i64.load 1 (i32.const 0)))": set(),
        "(i64.store 0 (i32.const 0) (i64.const 0))": {0},
        "(i64.store32 0 offset=64 align=1 (i32.const 0) (i64.const 0))": {0},
        "(v128.store 0 (i32.const 0) (v128.const i64x2 0 0))": {0},
        "(v128.store8_lane 0 0 (i32.const 0) (v128.const i64x2 0 0))": {0},
        "(drop (i64.const 0x7640400a0b))": set(),
    }
    for text, expected in stores.items():
        (code,) = module(f'(memory 1) (memory 1) (memory 1) (data "x") (func {text})').codes
        assert written_memories(code.body, (0, 1, 2)) == expected, text
        assert written_memories(code.body, (1, 2)) == expected - {0}, text


def test_written_is_noted_in_every_encoding() -> None:
    for memory in (0, 1):
        # No locals; an address and a value; a store whose alignment and memory are padded; end.
        body = b"\0" + b"\x42\0\x42\0" + b"\x37\xc3\x80\0" + bytes((0x80 | memory, 0)) + b"\0\x0b"
        assert written_memories(body, (memory,)) == {memory}
    assert written_memories(b"\0\x41\0\x42\0\x37\x83\0\0\x0b", (0,)) == {0}


GROWING = """(module
  (import "stable" "users" (memory $users i64 1 1000)) (import "upgrade" "cache" (memory $cache 1))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (memory $heap 1)
  (func (export "canister_update f")
    (drop (call $grow (i64.load $heap (i32.const 8))))
    (i64.store $heap (i32.const 16) (memory.grow $users (i64.load $heap (i32.const 0))))
    (i64.store $heap (i32.const 24) (i64.extend_i32_s (memory.grow $cache (i32.load $heap (i32.const 32)))))))"""


def test_all_that_stays_shares_the_room_that_can_be_paid_for(link_text: Callable) -> None:
    linked = link_text(GROWING, Options(extensions=(NAMED,)))
    linked.fill(stable_trap_wasm_pages=600, stable_trap_code=10)

    def grow(stable: int, users: int, cache: int) -> tuple[int, int]:
        linked.write("heap", 0, users.to_bytes(8, "little") + stable.to_bytes(8, "little"))
        linked.write("heap", 32, cache.to_bytes(4, "little"))
        linked.fill(stable_trap_wasm_pages=600)
        linked.run()
        found = linked.read("heap", 16, 16)
        return int.from_bytes(found[:8], "little", signed=True), int.from_bytes(found[8:], "little", signed=True)

    assert grow(100, 200, 300) == (1, 1)
    linked.write("heap", 0, (301).to_bytes(8, "little") + (200).to_bytes(8, "little"))
    linked.fill(stable_trap_wasm_pages=600)
    assert linked.traps() == 10
    assert grow(0, 1 << 40, 0) == (-1, 301)  # past its own maximum, which nobody is asked to pay for
    linked.fill(stable_limit_wasm_pages=300)
    assert grow(0, 100, 0) == (-1, 301)
