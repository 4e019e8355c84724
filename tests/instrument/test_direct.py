"""Direct loads and stores: every instruction, every edge, accounting, limits, and wherever a function can stand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.canister import TrapCode
from perdure.ic.ic0_ext import DIRECT, EXTENSION_FUNCTIONS, MODULE, checked_extensions
from perdure.instrument import Options

PAGE = 4096
WASM_PAGE = 65_536
ON = Options(extensions=("direct",))
WAYS = {
    "accounted": ON,
    "unmetered": Options(schedule=None, extensions=ON.extensions),
    "unaccounted": Options(accounting=False, extensions=ON.extensions),
    "behind host calls": Options(native_stable=False, extensions=ON.extensions),
}
BITS = {"i32": "i32.const -559038737", "i64": "i64.const -2401053088876216593"}
BITS |= {
    "f32": "f32.reinterpret_i32 (i32.const -559038737)",
    "f64": "f64.reinterpret_i64 (i64.const 0x3ff123456789abcd)",
}


def imports(*names: str) -> str:
    found = []
    for name in names:
        _, row = EXTENSION_FUNCTIONS[name]
        result = f"(result {row.result})" if row.result else ""
        found.append(f'(import "{MODULE}" "{name}" (func ${name} (param {" ".join(row.parameters)}) {result}))')
    return " ".join(found)


def module(body: str, *names: str, heap: str = "(memory 1)", more: str = "") -> str:
    return f'(module {imports(*names)} {heap} {more} (func (export "canister_update f") {body}))'


def of_stable(link_text: Callable, text: str, options: Options = ON, wasm_pages: int = 2):
    linked = link_text(text, options)
    if wasm_pages:
        linked.memory("stable").grow(linked.store, wasm_pages)
    return linked


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("heap", ["(memory 1)", "(memory i64 1)"], ids=["32", "64"])
def test_a_load_is_what_wasm_loads_of_the_same_bytes(link_text: Callable, heap: str, way: str) -> None:
    zero = "i64.const" if "i64" in heap else "i32.const"
    loads = [access for access in DIRECT.values() if not access.is_store]
    body = "".join(
        f"({access.value_type}.store ({zero} {1024 + 16 * place}) (call ${access.name} (i64.const 100)))"
        f"({access.value_type}.store ({zero} {1032 + 16 * place}) ({access.instruction} ({zero} 16)))"
        for place, access in enumerate(loads)
    )
    linked = of_stable(link_text, module(body, *(access.name for access in loads), heap=heap), WAYS[way])
    for data in (bytes(range(0x81, 0x89)), bytes(range(1, 9))):
        linked.write("stable", 100, data)
        linked.write("heap", 16, data)
        linked.run()
        for place, access in enumerate(loads):
            found = linked.read("heap", 1024 + 16 * place, 16)
            assert found[:8] == found[8:] != bytes(8), access.name


@pytest.mark.parametrize("way", WAYS)
def test_a_store_is_what_wasm_stores(link_text: Callable, way: str) -> None:
    stores = [access for access in DIRECT.values() if access.is_store]
    body = ""
    for place, access in enumerate(stores):
        value = f"({BITS[access.value_type]})"
        body += f"(call ${access.name} (i64.const {100 + 16 * place}) {value})"
        body += f"({access.instruction} (i32.const {100 + 16 * place}) {value})"
    linked = of_stable(link_text, module(body, *(access.name for access in stores)), WAYS[way])
    linked.write("stable", 96, b"\x55" * 256)
    linked.write("heap", 96, b"\x55" * 256)
    for _ in range(2):  # to a page that is not marked yet, and to one that is
        linked.run()
    assert linked.read("stable", 96, 256) == linked.read("heap", 96, 256)
    assert linked.read("stable", 96, 4) == b"\x55" * 4


# (size of stable memory in Wasm pages, address) -> whether 8 bytes from there lie in it
EDGES = [
    ((0, 0), False),
    ((1, 0), True),
    ((1, WASM_PAGE - 8), True),
    ((1, WASM_PAGE - 7), False),
    ((1, WASM_PAGE), False),
    ((1, (1 << 64) - 1), False),
    ((1, (1 << 64) - 8), False),
    ((1, 1 << 39), False),
    ((1, 1 << 63), False),
]


@pytest.mark.parametrize("way", ["accounted", "unaccounted"])
@pytest.mark.parametrize("name", ["stable64_load_i64", "stable64_store_f64"])
def test_every_edge(link_text: Callable, name: str, way: str) -> None:
    def access(at: str) -> str:
        value = "(f64.const 1)" if DIRECT[name].is_store else ""
        call = f"(call ${name} {at} {value})"
        return call if DIRECT[name].is_store else f"(drop {call})"

    given = access("(i64.load (i32.const 0))")
    warm = access("(i64.const 0)") + access(f"(i64.const {WASM_PAGE - 8})") + given
    linked = of_stable(
        link_text, module(given, name, more=f'(func (export "canister_update warm") {warm})'), WAYS[way], 0
    )
    # Without accounting the engine checks by itself; the embedder knows by the place which memory it was.
    code = TrapCode.STABLE_MEMORY_OUT_OF_BOUNDS if way == "accounted" else 0
    for (wasm_pages, address), is_inside in EDGES:
        missing = wasm_pages - linked.memory("stable").size(linked.store)
        linked.memory("stable").grow(linked.store, missing)
        linked.write("heap", 0, address.to_bytes(8, "little"))
        for entry in ("canister_update f", "canister_update warm"):
            if is_inside:
                linked.run(entry)
            else:
                assert linked.traps(entry) == code, (address, entry)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(sorted(DIRECT)), st.integers(0, 2 * WASM_PAGE - 8)), max_size=12))
def test_accounting_knows_exactly_the_pages_touched(link_text: Callable, accesses: list[tuple[str, int]]) -> None:
    body, touched, written = "", [], []
    for name, address in accesses:
        access = DIRECT[name]
        pages = range(address // PAGE, (address + access.size_bytes - 1) // PAGE + 1)
        touched += [page for page in pages if page not in touched]
        if access.is_store:
            written += [page for page in pages if page not in written]
            body += f"(call ${name} (i64.const {address}) ({BITS[access.value_type]}))"
        else:
            body += f"(drop (call ${name} (i64.const {address})))"
    linked = of_stable(link_text, module(body, *sorted({name for name, _ in accesses})))
    linked.run()
    assert linked.pages("touched") == touched
    assert linked.pages("written") == written


@pytest.mark.parametrize(("address", "pages"), [(0, 1), (PAGE - 4, 2)])
def test_an_access_costs_its_call_and_the_pages_that_it_touches_first(
    link_text: Callable, address: int, pages: int
) -> None:
    text = module(f"(call $stable64_store_i64 (i64.const {address}) (i64.const 1))", "stable64_store_i64")
    linked = of_stable(link_text, text)
    linked.run()
    # The function, two constants, the call; a page written 1,000.
    assert linked.instructions() == 1 + 2 + 5 + 1_000 * pages
    nothing = link_text('(module (memory 1) (func (export "canister_update f")))')
    nothing.run()
    assert nothing.instructions() == 1


@pytest.mark.parametrize(
    ("limit", "body", "code"),
    [
        ("accessed_page_limit", "(drop (call $stable64_load_i64 (i64.const 4092)))", 5),
        ("dirty_page_limit", "(call $stable64_store_i64 (i64.const 4092) (i64.const 1))", 4),
    ],
)
def test_limits_of_pages(link_text: Callable, limit: str, body: str, code: int) -> None:
    linked = of_stable(link_text, module(body, "stable64_load_i64", "stable64_store_i64"))
    linked.fill(**{limit: 1})
    assert linked.traps() == code
    linked.fill(**{limit: 2})
    linked.run()


def test_instructions_run_out_at_a_page(link_text: Callable) -> None:
    text = module("(call $stable64_store_i64 (i64.const 0) (i64.const 1))", "stable64_store_i64")
    linked = of_stable(link_text, text)
    linked.fill(instruction_limit=500)
    assert linked.traps() == TrapCode.INSTRUCTION_LIMIT_EXCEEDED
    assert linked.pages("written") == [0]  # listed before it was written, so that a rollback finds it


@pytest.mark.parametrize("way", WAYS)
def test_through_tables_tail_calls_and_references(link_text: Callable, way: str) -> None:
    text = f"""(module {imports("stable64_load_i64", "stable64_store_i64")} (memory 1)
      (type $load (func (param i64) (result i64)))
      (table funcref (elem $stable64_load_i64)) (elem declare func $stable64_store_i64)
      (func $tail (param i64) (result i64) (return_call $stable64_load_i64 (local.get 0)))
      (func $given (result funcref) (ref.func $stable64_store_i64))
      (func (export "canister_update f")
        (call $stable64_store_i64 (i64.const 8) (i64.const 77))
        (if (ref.is_null (call $given)) (then unreachable))
        (i64.store (i32.const 0) (call_indirect (type $load) (i64.const 8) (i32.const 0)))
        (i64.store (i32.const 8) (call $tail (i64.const 8)))))"""
    linked = of_stable(link_text, text, WAYS[way])
    linked.run()
    assert linked.read("heap", 0, 16) == (77).to_bytes(8, "little") * 2


@pytest.mark.parametrize("way", WAYS)
def test_within_each_other_beside_the_networks_own_and_without_room_for_locals(link_text: Callable, way: str) -> None:
    # Pointers in stable memory are followed as deep as calls are nested; `f` has no room for scratch locals.
    chase = "(i64.const 16)"
    for _ in range(3):
        chase = f"(call $stable64_load_i64 {chase})"
    body = f"(call $w (i64.const 48) (i64.const 8) (i64.const 8)) (call $stable64_store_i64 (i64.const 56) {chase})"
    own = """(import "ic0" "stable64_write" (func $w (param i64 i64 i64)))"""
    names = imports("stable64_load_i64", "stable64_store_i64")
    text = f"""(module {own} {names} (memory 1)
      (func $small {body}) (func $full (local {"i32 " * 49_998}) {body})
      (func (export "canister_update f") (call $small)) (func (export "canister_update g") (call $full)))"""
    for entry in ("canister_update f", "canister_update g"):
        linked = of_stable(link_text, text, WAYS["accounted"] if way == "behind host calls" else WAYS[way])
        for at, to in ((16, 24), (24, 32), (32, 99)):
            linked.write("stable", at, to.to_bytes(8, "little"))
        linked.write("heap", 8, b"networks")
        linked.run(entry)
        assert linked.read("stable", 48, 16) == b"networks" + (99).to_bytes(8, "little")


def test_a_module_without_them_is_linked_as_before(link_text: Callable) -> None:
    text = """(module (import "ic0" "stable64_read" (func $r (param i64 i64 i64))) (memory 1)
      (func (export "canister_update f") (call $r (i64.const 0) (i64.const 0) (i64.const 8))))"""
    assert link_text(text, ON).instrumented.module == link_text(text).instrumented.module


def test_names_of_extensions() -> None:
    assert checked_extensions(["direct", "direct"]) == ("direct",)
    assert checked_extensions("direct") == ("direct",)
    with pytest.raises(ValueError, match="no extension is named 'teleport': there are direct"):
        checked_extensions(["teleport"])
