"""Stable memory without accounting leaves bounds to the engine where it can: the answers are those with accounting."""

from __future__ import annotations

import itertools
import struct

import pytest
import wasmtime

from perdure import RejectError, Subnet
from perdure.instrument import Options

PAGE = 65_536
ACCESS = """(module
  (import "ic0" "stable64_read" (func $read (param i64 i64 i64)))
  (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "msg_arg_data_copy" (func $argument (param {word} {word} {word})))
  (import "ic0" "msg_reply_data_append" (func $append (param {word} {word})))
  (import "ic0" "msg_reply" (func $reply))
  (memory {kind} 1)
  (func $begin (call $argument ({word}.const 0) ({word}.const 0) ({word}.const 24)))
  (func $done (call $append ({word}.const 0) ({word}.const 65536)) (call $reply))
  (func $fill (param $to i64) (local $at i64) (local $place {word})
    (loop $next
      (local.set $place {place})
      (i64.store ({word}.add (local.get $place) ({word}.const 64))
        (i64.mul (local.get $at) (i64.const 0x9e3779b97f4a7c15)))
      (br_if $next (i64.lt_u (local.tee $at (i64.add (local.get $at) (i64.const 8))) (local.get $to)))))
  (func (export "canister_init")
    (drop (call $grow (i64.const 1))) (call $fill (i64.const 60000))
    (call $write (i64.const 0) (i64.const 0) (i64.const 65536)))
  (func (export "canister_query read") (call $begin)
    (call $read (i64.load ({word}.const 0)) (i64.load ({word}.const 8)) (i64.load ({word}.const 16))) (call $done)))"""
WIDTHS = {
    32: {"word": "i32", "kind": "", "place": "(i32.wrap_i64 (local.get $at))"},
    64: {"word": "i64", "kind": "i64", "place": "(local.get $at)"},
}
SIZES = (0, 1, 3, 4, 7, 8, 9, 17)


def edges(size: int) -> tuple[int, ...]:
    """Of a Wasm page, where an access of this size just lies within, does not, and wraps."""
    return PAGE - size, PAGE - size + 1, PAGE + 1, -size % (1 << 64)


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_the_same_answers_at_every_edge(width: int) -> None:
    wasm = bytes(wasmtime.wat2wasm(ACCESS.format(**WIDTHS[width])))
    ways = [Options(), Options(accounting=False)]
    canisters = [Subnet(instrumentation=options).install(wasm) for options in ways]
    traps = set()
    for size in SIZES:
        for heap, stable in itertools.product(edges(size), edges(size)):
            answers: list[bytes | str] = []
            for canister in canisters:
                try:
                    answers.append(canister.query("read", struct.pack("<QQQ", heap, stable, size)))
                except RejectError as error:
                    answers.append(error.message.replace(str(canister.id), ""))
                    traps.add(error.message.partition("\n")[0].rpartition(": ")[2])
            assert answers[0] == answers[1], (heap, stable, size)
    assert {"heap out of bounds.", "stable memory out of bounds."} == traps
