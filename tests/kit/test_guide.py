"""Coverage guides generated calls: what lies behind nested conditions is found, and without it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import wasmtime
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from perdure import RejectError
from perdure.kit import CanisterMachine, canister, nat8, update
from perdure.wasm import decode, encode
from perdure.wasm.module import CustomSection

REPLY = "(call $append (i32.const 16) (i32.const 6)) (call $reply)"
HEAD = """(import "ic0" "msg_arg_data_copy" (func $arg (param i32 i32 i32)))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (memory 1) (data (i32.const 16) "DIDL\\00\\00")"""
IS = "(i32.eq (i32.and (i32.load8_u (i32.const {at})) (i32.const 63)) (i32.const {value}))"
NESTED = f"""(module {HEAD}
  (func (export "canister_update set")
    (call $arg (i32.const 0) (i32.const 9) (i32.const 3))
    (if {IS.format(at=0, value="0x1d")} (then
      (if {IS.format(at=1, value="0x29")} (then
        (if {IS.format(at=2, value="0x33")} (then (unreachable)))))))
    {REPLY}))"""
IN_ORDER = f"""(module {HEAD} (global $stage (mut i32) (i32.const 0))
  (func (export "canister_update aim")
    (call $arg (i32.const 0) (i32.const 7) (i32.const 1))
    (if {IS.format(at=0, value="0x1d")} (then (global.set $stage (i32.const 1))))
    {REPLY})
  (func (export "canister_update load")
    (call $arg (i32.const 0) (i32.const 7) (i32.const 1))
    (if (i32.eq (global.get $stage) (i32.const 1)) (then
      (if {IS.format(at=0, value="0x29")} (then (global.set $stage (i32.const 2))))))
    {REPLY})
  (func (export "canister_update fire")
    (call $arg (i32.const 0) (i32.const 7) (i32.const 1))
    (if (i32.eq (global.get $stage) (i32.const 2)) (then
      (if {IS.format(at=0, value="0x33")} (then (unreachable)))))
    {REPLY}))"""
MODULES = {
    "nested": (NESTED, b"service : { set : (nat8, nat8, nat8) -> () }"),
    "in order": (IN_ORDER, b"service : { aim : (nat8) -> (); load : (nat8) -> (); fire : (nat8) -> () }"),
}


def module(name: str) -> bytes:
    text, did = MODULES[name]
    found = decode(bytes(wasmtime.wat2wasm(text)))
    return encode(replace(found, custom_sections=(CustomSection("icp:public candid:service", did),)))


def finds(name: str, number: int, *, is_guided: bool) -> bool:
    """Whether a trap is found within so many examples, which begin with this number."""

    class Machine(CanisterMachine):
        guided = is_guided
        found_in = None

        @classmethod
        def install(cls, subnet):
            return subnet.install(module(name))

    options = settings(
        max_examples=250,
        stateful_step_count=30,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    try:
        run_state_machine_as_test(seed(number)(Machine), settings=options)
    except RejectError as error:
        return error.error_code == "IC0502"
    return False


@pytest.mark.slow
def test_what_is_behind_nested_conditions_is_found_by_coverage_alone() -> None:
    """By one of a few seeds: what one draws depends on which modules are imported, whose constants Hypothesis likes.

    All seeds of both modules are tried by ``python tests/kit/test_guide.py``.
    """
    assert any(finds("nested", number, is_guided=True) for number in range(1, 9))
    assert not finds("nested", 1, is_guided=False)


@canister
class Plain:
    """Counts no blocks."""

    @update
    def set(self, number: nat8) -> None:
        pass


def test_canisters_in_python_are_tried_without_a_guide() -> None:
    class Machine(CanisterMachine):
        guided = True
        found_in = None

        @classmethod
        def install(cls, subnet):
            return subnet.install(Plain)

    run_state_machine_as_test(Machine, settings=settings(max_examples=3, stateful_step_count=3, database=None))
    assert Machine._guides[Machine].blocks == 0


if __name__ == "__main__":
    for chosen in MODULES:
        for is_guided in (True, False):
            found = [number for number in range(1, 9) if finds(chosen, number, is_guided=is_guided)]
            print(f"{chosen}, {'guided' if is_guided else 'unguided'}: found by seeds {found} of 1 to 8", flush=True)
