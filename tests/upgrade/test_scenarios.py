"""Every bad upgrade is found with its cause, and no harmless one is called breaking."""

from __future__ import annotations

import pytest
import wasmtime
from scenarios import BAD, HARMLESS, Scenario

from perdure import Subnet


def names(rows: list[Scenario]) -> list[str]:
    return [row.name for row in rows]


@pytest.mark.parametrize("row", BAD, ids=names(BAD))
def test_a_bad_upgrade_is_found_with_its_cause(row: Scenario) -> None:
    report = row.check()
    assert report.verdict == row.verdict, str(report)
    assert set(row.causes) <= set(report.causes), str(report)


@pytest.mark.parametrize("row", HARMLESS, ids=names(HARMLESS))
def test_a_harmless_upgrade_is_safe(row: Scenario) -> None:
    report = row.check()
    assert report.verdict == row.verdict, str(report)


def test_what_neither_version_has_exported_is_no_loss():
    """ic-cdk's `candid_method` leaves such names in an interface."""
    row = next(one for one in BAD if one.name == "a method removed, and still declared")
    canister = Subnet().install(row.new())
    assert canister.check_upgrade(row.new()).verdict == "safe"


COUNTED = """(module (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "stable64_size" (func $size (result i64)))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "stable64_read" (func $read (param i64 i64 i64)))
  (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
  (memory 1) (data (i32.const 0) "DIDL\\00\\02\\7b\\7b")
  (@custom "icp:public candid:service" "service : { put : () -> (); show : () -> (nat8, nat8) query }")
  (func $load (if (i64.ne (call $size) (i64.const 0)) (then (call $read (i64.const 8) (i64.const 0) (i64.const 2)))))
  (func $save
    (if (i64.eqz (call $size)) (then (drop (call $grow (i64.const 1)))))
    (call $write (i64.const 0) (i64.const 8) (i64.const 2)))
  (func (export "canister_post_upgrade") HOOK)
  (func (export "canister_update put")
    (call $load) (i32.store8 (i32.const 9) (i32.const 7)) (call $save)
    (call $append (i32.const 16) (i32.const 0)) (call $reply))
  (func (export "canister_query show") SHOW (call $append (i32.const 0) (i32.const 10)) (call $reply)))"""
COUNT = "(call $load) (i32.store8 (i32.const 8) (i32.add (i32.load8_u (i32.const 8)) (i32.const 1))) (call $save)"


def test_a_reply_that_any_upgrade_changes_is_lost_only_where_nothing_is_left_of_it():
    old, new = (
        bytes(wasmtime.wat2wasm(COUNTED.replace("HOOK", hook).replace("SHOW", show)))
        for hook, show in ((COUNT, "(call $load)"), ("", ""))
    )
    canister = Subnet().install(old)
    canister.update("put")
    report = canister.check_upgrade(new)
    assert "show answers as if there were no data" in [one.what for one in report.of("breaking")]
    assert canister.check_upgrade(old).verdict == "safe"
