"""Coverage guides generated calls: what lies behind nested conditions is found, and without it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import wasmtime
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import run_state_machine_as_test

from perdure import Principal, RejectError
from perdure.kit import CanisterMachine, canister, nat8, update
from perdure.kit import guide as guiding
from perdure.kit.guide import Call, Guide
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
    return with_interface(*MODULES[name])


def with_interface(text: str, did: bytes) -> bytes:
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
    except FlakyStrategyDefinition:  # what it drew had not failed before there was the story that it begins with now
        return Machine._guides[Machine]._has_failed
    return False


@pytest.mark.slow
def test_what_is_behind_nested_conditions_is_found_by_coverage_alone() -> None:
    """By one of a few seeds: what one draws depends on which modules are imported, whose constants Hypothesis likes.

    All seeds of both modules are tried by ``python tests/kit/test_guide.py``.
    """
    assert any(finds("nested", number, is_guided=True) for number in range(1, 9))
    assert not finds("nested", 1, is_guided=False)


NOTED = f"""(module {HEAD}
  (func (export "canister_update set")
    (call $arg (i32.const 0) (i32.const 10) (i32.const 4))
    (if {IS.format(at=0, value="0x1d")} (then
      (if {IS.format(at=1, value="0x29")} (then
        (if {IS.format(at=2, value="0x33")} (then (unreachable)))))))
    {REPLY}))"""


def test_what_a_guide_begins_with_is_cut_down() -> None:
    """A story of twenty calls, of which one traps by three of the four numbers that it sends."""
    told: list[str] = []

    class Machine(CanisterMachine):
        guided = True
        found_in = None

        @classmethod
        def install(cls, subnet):
            return subnet.install(with_interface(NOTED, b"service : { set : (nat8, nat8, nat8, nat8) -> () }"))

        def keep(self, story: str) -> None:
            told.append(story)

    sender = Machine.senders[0]
    harmless = [Call("set", (number, 1, 2, 3), sender) for number in range(9)]
    guide = Machine._guides[Machine] = Guide()
    guide._stories.append((*harmless, Call("set", (0x1D, 0x29, 0x33, 0x77), sender), *harmless, harmless[0]))
    options = settings(
        max_examples=60, stateful_step_count=8, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    with pytest.raises(RejectError, match="IC0502"):
        run_state_machine_as_test(seed(1)(Machine), settings=options)
    calls = [line.strip() for line in told[-1].splitlines() if "call_raw" in line]
    assert len(calls) == 1
    assert calls[0].endswith("# (29 : nat8, 41 : nat8, 51 : nat8, 0 : nat8)")
    assert len(told[0].splitlines()) > len(told[-1].splitlines())


@pytest.mark.parametrize("needed", [(), (3,), (0, 19), (2, 7, 8), tuple(range(20))])
def test_the_shortest_story_has_what_is_needed(needed: tuple[int, ...]) -> None:
    sender = Principal.from_text("aaaaa-aa")
    story = [Call("set", (number + 1, {"note": "long", "also": number + 1}), sender) for number in range(20)]

    def fails(calls: Sequence[Call]) -> bool:
        there = [call.values[1]["also"] for call in calls]  # type: ignore[call-overload,index]
        return all(number + 1 in there for number in needed)

    left = guiding.shortest(story, fails)
    assert [call.values for call in left] == [(0, {"note": "", "also": number + 1}) for number in needed]
    assert guiding.shortest(story, lambda _: False) == tuple(story)


@pytest.mark.parametrize(
    "value",
    [
        (1, -2, 0.5, "text", b"blob", True, [1, 2]),
        {"a": (7, None), "b": {"tag": 9}},
        (Principal.from_text("aaaaa-aa"),),
    ],
)
def test_the_plain_value_is_of_the_same_type(value: object) -> None:
    plain = guiding._plain(value)
    assert repr(plain) == {
        "(1,": "(0, 0, 0.0, '', b'', False, [])",
        "{'a": "{'a': (0, None), 'b': {'tag': 0}}",
    }.get(repr(value)[:3], repr(value))


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
