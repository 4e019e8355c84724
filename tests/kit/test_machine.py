"""A canister under generated calls: what breaks it is found, made short, and written as a test that fails."""

from __future__ import annotations

import io
import tokenize
from dataclasses import replace

import pytest
import wasmtime
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from perdure import RejectError
from perdure.kit import CanisterMachine, canister, nat8, query, update
from perdure.wasm import decode, encode
from perdure.wasm.module import CustomSection

DID = b"service : { set : (nat8) -> (); get : () -> (nat8) query; }"
BREAKS = """(module
  (import "ic0" "msg_arg_data_copy" (func $arg (param i32 i32 i32)))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (memory 1)
  (data (i32.const 16) "DIDL\\00\\00")
  (data (i32.const 32) "DIDL\\00\\01\\7b")
  (func (export "canister_update set")
    (call $arg (i32.const 0) (i32.const 7) (i32.const 1))
    (if (i32.gt_u (i32.load8_u (i32.const 0)) (i32.const 200)) (then (unreachable)))
    (i32.store8 (i32.const 39) (i32.load8_u (i32.const 0)))
    (call $append (i32.const 16) (i32.const 6)) (call $reply))
  (func (export "canister_query get") (call $append (i32.const 32) (i32.const 8)) (call $reply)))"""
QUICK = settings(
    max_examples=60,
    stateful_step_count=8,
    deadline=None,
    database=None,
    derandomize=True,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)


def module(text: str, did: bytes = DID) -> bytes:
    found = decode(bytes(wasmtime.wat2wasm(text)))
    return encode(replace(found, custom_sections=(CustomSection("icp:public candid:service", did),)))


@canister
class Counter:
    """Counts wrong from 100 on."""

    def __init__(self) -> None:
        self.count = 0

    @update
    def add(self, number: nat8) -> None:
        if number == 0:
            raise ValueError("nothing to add")
        self.count += number if self.count < 100 else 0

    @query
    def total(self) -> int:
        return self.count


class CounterMachine(CanisterMachine):
    found_in = None
    kept: list[str] = []  # noqa: RUF012 - of the class

    @classmethod
    def install(cls, subnet):
        return subnet.install(Counter)

    @invariant()
    def is_right(self):
        added = 0
        for step in self.steps:
            if step.action == "add" and step.outcome == "replied":
                added += int(step.line.split('fromhex("')[1].split('"')[0][-2:], 16)
        assert self.actor.total() == added, "counted wrong"

    def keep(self, story):
        self.kept.append(story)


def test_an_invariant_that_breaks_is_told_with_its_shortest_story():
    with pytest.raises(AssertionError, match="counted wrong"):
        run_state_machine_as_test(CounterMachine, settings=QUICK)
    story = CounterMachine.kept[-1]
    assert "\n# AssertionError: counted wrong" in story
    calls = [line for line in story.splitlines() if line.strip().startswith("machine.call_raw")]
    assert len(calls) == 2  # one that reaches 100, one that is not counted
    namespace: dict[str, object] = {"CounterMachine": CounterMachine}
    lines = [line for line in story.splitlines() if "import CounterMachine" not in line]
    exec("\n".join(lines), namespace)
    with pytest.raises(AssertionError, match="counted wrong"):
        namespace["test_countermachine"]()


class Right(CanisterMachine):
    methods = "get|set"
    upgrade_to = module(BREAKS.replace("200", "255"))
    found_in = None
    seen: set[str] = set()  # noqa: RUF012 - of the class

    @classmethod
    def install(cls, subnet):
        return subnet.install(cls.upgrade_to)

    def teardown(self):
        self.seen.update(step.action for step in self.steps)
        super().teardown()


def test_a_canister_that_nothing_breaks_passes_through_calls_time_and_upgrades():
    run_state_machine_as_test(Right, settings=settings(QUICK, max_examples=15))
    assert Right.seen == {"get", "set", "(wait)", "(upgrade)"}


def test_each_example_begins_from_the_same_state():
    with_one = type("WithOne", (Right,), {"seen": set()})
    first, second = with_one(), with_one()
    first.canister.update("set", b"DIDL\0\1\x7b\7")
    assert (first.actor.get(), second.actor.get()) == (7, 0)
    first.teardown()
    second.teardown()


def test_nothing_to_call_is_said():
    with pytest.raises(ValueError, match=r"nothing to call: 'x\.' is none of get, set"):
        type("Nothing", (Right,), {"methods": "x."})()
    with pytest.raises(NotImplementedError, match="Bare does not say what is tested"):
        type("Bare", (CanisterMachine,), {})()


def test_what_is_found_is_written_where_one_looks_for_it(tmp_path):
    class Breaks(Right):
        upgrade_to = module(BREAKS)
        found_in = tmp_path / "found"

    with pytest.raises(RejectError, match="IC0502"):
        run_state_machine_as_test(Breaks, settings=QUICK)
    told = (tmp_path / "found" / "test_breaks.py").read_text()
    calls = [line for line in told.splitlines() if "machine.call_raw" in line]
    assert len(calls) == 1
    assert "(201 : nat8)" in calls[0]


@pytest.mark.parametrize("head", [None, ["canister = subnet.install(Counter)"]])
def test_what_is_said_while_it_breaks_is_no_code(head):
    class Headed(Right):
        @classmethod
        def head(cls):
            return head

    machine = Headed()
    try:
        # In UTF-7 `+AAo-` ends a line: the second line of a file that says so in its first could be anything.
        story = machine.story(ValueError("-*- coding: utf-7 -*- \0 \x1b[31m +AAo-")).encode()
    finally:
        machine.teardown()
    assert tokenize.detect_encoding(io.BytesIO(story).readline)[0] == "utf-8"
    told = [one.string for one in tokenize.tokenize(io.BytesIO(story).readline) if one.type == tokenize.COMMENT]
    assert told == ["# ValueError: -*- coding: utf-7 -*- \ufffd \ufffd[31m +AAo-"]
