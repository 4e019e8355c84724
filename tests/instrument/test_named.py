"""Function imports that stand for instructions on named memories: every operation, both widths, every use."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import wasmtime

from perdure.errors import UnsupportedError
from perdure.ic.ic0_ext import DIRECT
from perdure.instrument import Options, Policy, validate
from perdure.instrument.memories import plan_memories
from perdure.instrument.named import with_named_memories
from perdure.wasm import decode

ON = Options(extensions=("memories",))
WIDTHS = pytest.mark.parametrize(("memory", "heap"), [("i64", "i32"), ("i32", "i32"), ("i64", "i64"), ("i32", "i64")])


def module(text: str):
    return decode(bytes(wasmtime.wat2wasm(f"(module {text})")))


def imported(operation: str, kind: str, source: str = "stable:users", name: str = "") -> str:
    return f'(import "{source}" "{operation}" (func ${name or operation} {kind}))'


@WIDTHS
def test_every_load_and_store(link_text: Callable, memory: str, heap: str) -> None:
    loads = [access for access in DIRECT.values() if not access.is_store]
    stores = [access for access in DIRECT.values() if access.is_store]
    names = "".join(
        imported(access.instruction, f"(param {memory}) (result {access.value_type})") for access in loads
    ) + "".join(imported(access.instruction, f"(param {memory} {access.value_type})") for access in stores)
    grow = imported("grow", f"(param {memory}) (result {memory})")
    body, at = "", 64
    for access in stores:
        value = f"({access.value_type}.const -2)" if access.value_type[0] == "i" else f"({access.value_type}.const 1.5)"
        body += f"(call ${access.instruction} ({memory}.const {at}) {value})"
        body += f"({access.instruction} ({heap}.const {at}) {value})"
        at += 8
    for access in loads:
        body += f"({access.value_type}.store ({heap}.const {at}) (call ${access.instruction} ({memory}.const 64)))"
        body += f"({access.value_type}.store ({heap}.const {at + 8}) ({access.instruction} ({heap}.const 64)))"
        at += 16
    text = f"""(module {names} {grow} (memory {"i64 " if heap == "i64" else ""}1)
      (func (export "canister_update f") (drop (call $grow ({memory}.const 1))) {body}))"""
    linked = link_text(text, ON)
    linked.run()
    start = 64 + 8 * len(stores)
    for place, access in enumerate(loads):
        found = linked.read("heap", start + 16 * place, 16)
        assert found[:8] == found[8:], access.instruction


@WIDTHS
def test_whole_operations(link_text: Callable, memory: str, heap: str) -> None:
    length = "i64" if memory == heap == "i64" else "i32"
    text = f"""(module
      {imported("grow", f"(param {memory}) (result {memory})")} {imported("size", f"(result {memory})")}
      {imported("copy_in", f"(param {memory} {heap} {length})")}
      {imported("copy_out", f"(param {heap} {memory} {length})")}
      {imported("fill", f"(param {memory} i32 {memory})")}
      (memory {"i64 " if heap == "i64" else ""}1)
      (func (export "canister_update f")
        (if (i32.ne (i32.const 0) ({"i32.wrap_i64" if memory == "i64" else "block (result i32)"} (call $size)))
          (then unreachable))
        (drop (call $grow ({memory}.const 3)))
        (call $copy_in ({memory}.const 70000) ({heap}.const 0) ({length}.const 6))
        (call $fill ({memory}.const 70001) (i32.const 46) ({memory}.const 2))
        (call $copy_out ({heap}.const 16) ({memory}.const 70000) ({length}.const 8))))"""
    linked = link_text(text, ON)
    linked.write("heap", 0, b"abcdef")
    linked.run()
    assert linked.read("heap", 16, 8) == b"a..def\0\0"


def test_through_tables_tail_calls_and_references(link_text: Callable) -> None:
    text = f"""(module {imported("i64.load", "(param i64) (result i64)", name="load")}
      {imported("i64.store", "(param i64 i64)", name="store")}
      {imported("grow", "(param i64) (result i64)")} (memory 1)
      (type $load (func (param i64) (result i64)))
      (table funcref (elem $load)) (elem declare func $store)
      (func $tail (param i64) (result i64) (return_call $load (local.get 0)))
      (func $given (result funcref) (ref.func $store))
      (func (export "canister_update f")
        (drop (call $grow (i64.const 1)))
        (call $store (i64.const 8) (i64.const 77))
        (if (ref.is_null (call $given)) (then unreachable))
        (i64.store (i32.const 0) (call_indirect (type $load) (i64.const 8) (i32.const 0)))
        (i64.store (i32.const 8) (call $tail (i64.const 8)))))"""
    linked = link_text(text, ON)
    linked.run()
    assert linked.read("heap", 0, 16) == (77).to_bytes(8, "little") * 2


def test_an_operation_is_metered_as_the_instruction(link_text: Callable) -> None:
    def instructions(body: str) -> int:
        names = imported("i64.load", "(param i32) (result i64)", name="load")
        linked = link_text(
            f"(module {names} {imported('grow', '(param i32) (result i32)')} (memory 1)"
            f'(func (export "canister_update f") (drop (call $grow (i32.const 1))) {body}))',
            ON,
        )
        linked.run()
        return linked.instructions()

    named, heap = "(drop (call $load (i32.const 0)))", "(drop (i64.load (i32.const 0)))"
    assert instructions(named) == instructions(heap)


def test_one_memory_by_both_kinds_of_imports() -> None:
    text = f"""(import "stable" "users" (memory i64 1 10))
      {imported("i64.load", "(param i64) (result i64)")}
      {imported("grow", "(param i32) (result i32)", "upgrade:cache")} (memory 1)"""
    changed, sources = with_named_memories(module(text), ("memories",))
    plan = plan_memories(changed, ("memories",), sources)
    assert plan.names == ("users", "heap", "cache", "stable")
    assert [one.kind.lifetime for one in plan.own] == ["stable", "upgrade"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            imported("i64.load", "(param i64) (result i32)"),
            r"'i64.load' from 'stable:users': its type is \(i64\) -> \(",
        ),
        (imported("i64.jump", "(param i64)"), "there is no such operation, but i32.load, "),
        (
            imported("i64.load", "(param i64) (result i64)") + imported("i64.store", "(param i32 i64)"),
            "its addresses are i32, those of 'i64.load' are not",
        ),
        (imported("copy_in", "(param i64 i32 i32)"), "the module has no heap to copy from or to"),
        (imported("size", "(param i64)"), r"its type is \(i64\) -> \(\), expected \(\) -> \(i64\)"),
        (imported("size", "(result i64)", "stable:heap"), "'heap' is what the network's own memory is called"),
        (imported("size", "(result i64)", "stable:Users"), "'Users' is no name"),
        (
            imported("size", "(result i64)") + imported("size", "(result i64)", "upgrade:users", "other"),
            "'users' names two of them",
        ),
    ],
)
def test_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        validate(module(text), Policy(extensions=("memories",)))


def test_33_of_them() -> None:
    text = "".join(imported("size", "(result i64)", f"stable:m{number}", f"f{number}") for number in range(33))
    with pytest.raises(UnsupportedError, match="'m32' is one of 33 beside the heap, at most 32"):
        validate(module(text), Policy(extensions=("memories",)))


@pytest.mark.parametrize("extensions", [(), ("memories=index",), ("memories=declared",)])
def test_off_unless_asked_for(extensions: tuple[str, ...]) -> None:
    text = imported("size", "(result i64)") + "(memory 1)"
    with pytest.raises(UnsupportedError, match="'size' from 'stable:users': it belongs to the extension 'memories'"):
        validate(module(text), Policy(extensions=extensions))


def test_other_imports_are_not_touched() -> None:
    found = module('(import "ic0" "time" (func (result i64))) (memory 1)')
    assert with_named_memories(found, ("memories",)) == (found, {})
    with pytest.raises(UnsupportedError, match="'f' from 'volatile:users' that is not exported by the runtime"):
        validate(module('(import "volatile:users" "f" (func)) (memory 1)'), Policy(extensions=("memories",)))
