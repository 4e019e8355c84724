"""What entries read of their heaps: whole Wasm pages, those and no others, whatever is held, uncommitted or grown."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from wasmtime import wat2wasm

from perdure import RejectError, Subnet
from perdure.embedder import shared_engine
from perdure.embedder.pagemap import EveryPage, PageTable, private_pages
from perdure.errors import UnsupportedError
from perdure.instrument import Options
from perdure.subnet import Canister

TOUCHES = """
(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_arg_data_copy" (func $arg (param i32 i32 i32)))
  (memory 40 100)
  (data (i32.const 655360) "ten")
  (func $at (result i32)
    (call $arg (i32.const 0) (i32.const 0) (i32.const 4))
    (i32.load (i32.const 0)))
  (func (export "canister_init"))
  (func (export "canister_update read") (drop (i32.load (call $at))) (call $reply))
  (func (export "canister_query peek") (drop (i32.load (call $at))) (call $reply))
  (func (export "canister_update write") (i32.store (call $at) (i32.const 7)) (call $reply))
  (func (export "canister_update add") (i32.store (call $at) (i32.add (i32.load (call $at)) (i32.const 1)))
    (call $reply))
  (func (export "canister_update grow") (drop (memory.grow (i32.const 3)))
    (i32.store (i32.const 2686976) (i32.const 1)) (call $reply))
  (func (export "canister_update trap") (i32.store (call $at) (i32.const 9)) (unreachable))
  (func (export "canister_update nothing") (call $reply)))
"""
PAGE = 65_536


@pytest.fixture(scope="module")
def module() -> bytes:
    return bytes(wat2wasm(TOUCHES))


def at(page: int, offset: int = 12) -> bytes:
    return (page * PAGE + offset).to_bytes(4, "little")


def touched(subnet: Subnet, act: Callable[[], object]) -> tuple[set[int], set[int]]:
    """Wasm pages of the heap that were accessed, and pages of 4 KiB that were changed."""
    with subnet.heat(heap_reads=True) as heat:
        act()
    tallies = [tally for key, tally in heat._tallies.items() if key.memory == "heap"]
    return {page // 16 for tally in tallies for page in tally.read}, {page for one in tallies for page in one.written}


@pytest.mark.parametrize("kind", ["fresh", "committed", "fork"])
def test_reads_are_those_pages_and_no_others(module: bytes, kind: str) -> None:
    subnet = Subnet()
    canister: Canister = subnet.install(module)
    if kind != "fresh":
        for page in (1, 9, 10, 11, 20, 39):
            canister.update("write", at(page))
    if kind == "fork":
        subnet = subnet.fork()
        canister = subnet.canister(canister.id)
        canister.update("add", at(11))  # a page that the fork's image holds
    assert touched(subnet, lambda: canister.update("nothing", b"")) == (set(), set())
    for page in (10, 11, 20, 39, 30):
        assert touched(subnet, lambda page=page: canister.update("read", at(page))) == ({0, page}, {0})
    assert touched(subnet, lambda: canister.query("peek", at(20))) == ({0, 20}, set())
    assert touched(subnet, lambda: canister.update("add", at(11))) == ({0, 11}, {0, 11 * 16})
    assert touched(subnet, lambda: canister.update("read", at(11, 40_000)))[0] == {0, 11}
    assert touched(subnet, lambda: canister.update("grow"))[0] == {41}
    with pytest.raises(RejectError):
        canister.update("trap", at(12))
    assert canister.memories["heap"].read(11 * PAGE + 12, 1) == bytes([1 if kind == "fresh" else 8 + (kind == "fork")])
    assert canister.memories["heap"].read(10 * PAGE, 3) == b"ten"
    assert canister.memories["heap"].size() == 43


def test_a_trap_reads_and_leaves_no_trace(module: bytes) -> None:
    subnet, plain = Subnet(), Subnet()
    canisters = [one.install(module) for one in (subnet, plain)]
    with subnet.heat(heap_reads=True) as heat:
        for canister in canisters:
            canister.update("write", at(12))
            with pytest.raises(RejectError):
                canister.update("trap", at(12))
            canister.update("add", at(12))
    memories = [canister.memories["heap"].read(0, 40 * PAGE) for canister in canisters]
    assert memories[0] == memories[1]
    assert memories[0][12 * PAGE + 12] == 8
    (use,) = (one for _, method, _, uses in heat.methods() if method == "update trap" for one in uses)
    assert (use.read_pages, use.written_pages) == (32, 0)


def test_nothing_else_becomes_different(module: bytes) -> None:
    def story(subnet: Subnet) -> list[object]:
        canister = subnet.install(module)
        for page in range(1, 30):
            canister.update("write", at(page))
        canister.upgrade(module)
        with subnet.anchor():
            canister.update("add", at(3))
        fork = subnet.fork()
        fork.canister(canister.id).update("add", at(4))
        canister.update("grow")
        return [canister.memories["heap"].read(0, 43 * PAGE), canister.status().cycles, canister.last]

    plain, seen = Subnet(), Subnet()
    expected = story(plain)
    with seen.heat(heap_reads=True), seen.heat(heap_reads=True):
        found = story(seen)
    assert found[:2] == expected[:2]
    assert seen._host.residents.see_reads == 0


def test_the_schedule_that_charges_reads(module: bytes) -> None:
    subnet = Subnet(instrumentation=Options(schedule="2026-07"))
    canister = subnet.install(module)
    canister.update("write", at(20))

    def taken(act: Callable[[], object]) -> int:
        act()
        assert canister.last is not None
        return canister.last.instructions

    plain = taken(lambda: canister.update("read", at(20)))
    asked = taken(lambda: canister.query("peek", at(20)))
    with subnet.heat(heap_reads=True):
        # Two Wasm pages are accessed and one is written, all of each; without: one changed page of 4 KiB at most.
        for act, before in (("update", plain), ("query", asked)):
            call = canister.update if act == "update" else canister.query
            found = taken(lambda call=call, act=act: call("read" if act == "update" else "peek", at(20)))
            assert found - before in (3 * 16 * 5_000, 3 * 16 * 5_000 - 10_000)
    assert taken(lambda: canister.update("read", at(20))) == plain


def test_what_the_portable_ways_see(module: bytes) -> None:
    assert isinstance(private_pages({"PERDURE_PORTABLE": "bytes"}), EveryPage)
    with pytest.raises(UnsupportedError, match="which pages of a heap are read is not seen here: this system has no"):
        private_pages({"PERDURE_PORTABLE": "bytes"}).present(0, 0)
    table, best = private_pages({"PERDURE_PORTABLE": "1"}), shared_engine().private_pages
    assert isinstance(table, PageTable)
    canister = Subnet().install(module)
    canister.update("write", at(20))
    heap = canister._instance.memories["heap"]
    assert table.present(heap.base, heap.size_bytes) == best.present(heap.base, heap.size_bytes) != []
