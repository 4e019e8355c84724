"""The specification's behaviour stories on Wasm: universal canisters of either width call each other.

The same stories run on Python canisters in `test_execute`; here engine, kernel and rules are together.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import wasmtime

from perdure import Subnet, candid
from perdure.canister import CanisterStatus, Reply
from perdure.execution import (
    FromUser,
    InstallMode,
    InstallOptions,
    execute_ingress,
    execute_query,
    install_code,
    round_,
    run_until_idle,
    start_canister,
    stop_canister,
    submit_ingress,
    uninstall_code,
)

CANISTERS = Path(__file__).parents[1] / "canisters"


@pytest.fixture(scope="module")
def u():
    spec = importlib.util.spec_from_file_location("stories_universal", CANISTERS / "universal" / "universal.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["stories_universal"] = module
    spec.loader.exec_module(module)
    return module


class Stage:
    """Two universal canisters, `a` with a 32-bit and `b` with a 64-bit heap."""

    def __init__(self):
        self.facade = Subnet()
        self.rules = self.facade._world
        self.subnet = self.rules.state
        self.wasm = [(CANISTERS / "modules" / f"universal{bits}.wasm").read_bytes() for bits in (32, 64)]
        self.a, self.b = (self.facade.install(wasm, b"", cycles=10**15)._state for wasm in self.wasm)

    def update(self, canister, program, method="update"):
        return execute_ingress(self.rules, canister.canister_id, method, bytes(program))

    def submit(self, canister, program):
        return submit_ingress(self.rules, canister.canister_id, "update", bytes(program))

    def query(self, canister, program, method="query"):
        return execute_query(self.rules, canister.canister_id, method, bytes(program))

    def install(self, canister, mode, **options):
        self.rules.begin()
        answer = install_code(
            self.rules, canister, InstallOptions(InstallMode(mode), **options), self.wasm[0], b"", b"\x04"
        )
        self.rules.finish()
        return answer

    def balanced(self):
        subnet = self.subnet
        return subnet.minted_cycles == subnet.total_cycles() + subnet.consumed_cycles + subnet.lost_cycles


@pytest.fixture
def stage():
    return Stage()


@pytest.fixture
def p(u):
    return u.Program


class TestCalls:
    def test_reply(self, stage, p):
        program = p().call(stage.b.canister_id, "update", p().reply(p().msg_caller()))
        assert stage.update(stage.a, program) == Reply(stage.a.canister_id)
        assert stage.balanced()

    def test_reject_and_code(self, stage, p):
        on_reject = p().append_number(p().msg_reject_code()).append(p().msg_reject_msg()).msg_reply()
        program = p().call(stage.b.canister_id, "update", p().reject("no"), on_reject=on_reject)
        assert stage.update(stage.a, program) == Reply((4).to_bytes(8, "little") + b"no")

    def test_trap_of_the_callee(self, stage, p):
        on_reject = p().append_number(p().msg_reject_code()).append(p().msg_reject_msg()).msg_reply()
        program = p().call(stage.b.canister_id, "update", p().trap("why"), on_reject=on_reject)
        reply = stage.update(stage.a, program)
        assert reply.data[:8] == (5).to_bytes(8, "little")
        assert reply.data[8:].startswith(b"IC0503: Error from Canister ")
        assert b"Canister called `ic0.trap` with message: 'why'" in reply.data

    def test_cycles(self, stage, p):
        callee = p().cycles_accept(300).then(p().drop().drop()).reply()
        on_reply = p().reply(p().cycles_refunded())
        program = p().call(stage.b.canister_id, "update", callee, cycles=1_000, on_reply=on_reply)
        assert stage.update(stage.a, program) == Reply((700).to_bytes(16, "little"))
        assert stage.balanced()

    def test_trap_after_the_call_drops_it(self, stage, p):
        program = p().call(stage.b.canister_id, "update", p().stable64_grow(1).drop().reply(), cycles=5).trap("late")
        assert stage.update(stage.a, program).error_code == "IC0503"
        run_until_idle(stage.rules)
        assert stage.b.stable_wasm_pages == 0
        assert stage.balanced()

    def test_self_call(self, stage, p):
        program = p().call(p().canister_self(), "update", p().reply(b"me"))
        assert stage.update(stage.a, program) == Reply(b"me")

    def test_there_and_back_and_there(self, stage, p):
        inner = p().call(stage.a.canister_id, "update", p().reply(b"deep"))
        assert stage.update(stage.a, p().call(stage.b.canister_id, "update", inner)) == Reply(b"deep")
        assert not stage.a.contexts
        assert not stage.b.contexts
        assert stage.balanced()

    def test_missing_method_and_canister(self, stage, p):
        on_reject = p().reply(p().msg_reject_msg())
        nobody = p().call(b"\xff\xff\xff\xff\xff\xe0\x09\x09\x01\x01", "update", on_reject=on_reject)
        assert stage.update(stage.a, nobody).data.startswith(b"IC0301")
        nothing = p().call(stage.b.canister_id, "nothing", on_reject=on_reject)
        assert stage.update(stage.a, nothing).data.startswith(b"IC0536")

    def test_queue_of_500(self, stage, u, p):
        stage.a.cycles += 10**17
        stage.subnet.minted_cycles += 10**17
        numbers = p().number(0).number(0)
        one = p().call_new(stage.b.canister_id, "nothing", numbers, numbers).call_perform().drop()
        full = p().call_new(stage.b.canister_id, "nothing", numbers, numbers).reply_number(p().call_perform())
        assert stage.update(stage.a, p().repeat(500, one).then(full)) == Reply((2).to_bytes(8, "little"))
        run_until_idle(stage.rules)
        assert stage.balanced()


class TestCallbacks:
    def test_cleanup_over_the_state_before(self, stage, p):
        start = (
            p()
            .set(1, 1)
            .call(
                stage.b.canister_id,
                "update",
                p().reply(),
                on_reply=p().set(1, 2).set(2, 2).reply().trap("in the callback"),
                on_cleanup=p().set(3, p().add(p().get(1), 40)),
            )
        )
        reject = stage.update(stage.a, start)
        assert "in the callback" in reject.message
        registers = p().append_number(p().get(1)).append_number(p().get(2)).append_number(p().get(3)).msg_reply()
        assert stage.query(stage.a, registers) == Reply(b"".join(n.to_bytes(8, "little") for n in (1, 0, 41)))
        assert stage.balanced()

    def test_cleanup_that_traps(self, stage, p):
        start = p().call(
            stage.b.canister_id, "update", p().reply(), on_reply=p().trap("one"), on_cleanup=p().set(1, 5).trap("two")
        )
        reject = stage.update(stage.a, start)
        assert "call_on_cleanup also failed" in reject.message
        assert stage.query(stage.a, p().reply_number(p().get(1))) == Reply(bytes(8))

    def test_no_such_callback(self, stage, p):
        numbers = p().number(4_000).number(0)
        start = p().call_new(stage.b.canister_id, "query", numbers, numbers).call_perform().drop()
        reject = stage.update(stage.a, start)
        assert (reject.code, reject.error_code) == (5, "IC0513")
        assert "non-existent Wasm function 4000 from table 0" in reject.message

    def test_mistyped_callback(self, stage, p):
        numbers = p().mistyped().number(0)
        start = p().call_new(stage.b.canister_id, "query", numbers, numbers).call_perform().drop()
        assert stage.update(stage.a, start).error_code == "IC0502"

    def test_counter_of_the_context_grows(self, stage, p):
        on_reply = p().append_number(p().get(1)).append_number(p().performance_counter(1)).msg_reply()
        start = p().call(stage.b.canister_id, "update", p().reply(), on_reply=on_reply)
        start.set(1, p().performance_counter(1))
        data = stage.update(stage.a, start).data
        first, second = (int.from_bytes(data[at : at + 8], "little") for at in (0, 8))
        assert 0 < first < second

    def test_uninstalled_meanwhile(self, stage, p):
        request = stage.submit(stage.a, p().call(stage.b.canister_id, "update", p().reply(), cycles=1_000))
        round_(stage.rules)
        uninstall_code(stage.rules, stage.a)
        assert stage.subnet.ingress.find(request, 0).code == 4
        run_until_idle(stage.rules)
        assert not stage.a.open_calls
        assert stage.balanced()

    def test_upgraded_meanwhile(self, stage, p):
        """Callbacks are table indices: the new code's function runs, over a heap that knows of nothing."""
        request = stage.submit(stage.a, p().call(stage.b.canister_id, "update", p().reply(b"late")))
        round_(stage.rules)
        assert stage.install(stage.a, "upgrade") == Reply(b"")
        run_until_idle(stage.rules)
        assert stage.subnet.ingress.find(request, 0).code == 5
        assert not stage.a.contexts
        assert stage.balanced()

    def test_expired(self, stage, p):
        on_reject = p().reply_number(p().msg_reject_code())
        program = p().call(stage.b.canister_id, "update", p().reply(), on_reject=on_reject, timeout_seconds=1, cycles=9)
        request = stage.submit(stage.a, program)
        round_(stage.rules)
        stage.subnet.time_ns += 2_000_000_000
        run_until_idle(stage.rules)
        assert stage.subnet.ingress.find(request, 0) == Reply((6).to_bytes(8, "little"))
        assert stage.balanced()


class TestQueries:
    def test_composite_keeps_its_state_between_calls(self, stage, p):
        on_reply = p().append_number(p().get(1)).append(p().msg_arg_data()).msg_reply()
        start = (
            p()
            .set(1, 7)
            .stable64_grow(3)
            .drop()
            .call(stage.b.canister_id, "query", p().reply(b"leaf"), on_reply=on_reply)
        )
        assert stage.query(stage.a, start, "composite_query") == Reply((7).to_bytes(8, "little") + b"leaf")
        seen = p().append_number(p().get(1)).append_number(p().stable64_size()).msg_reply()
        assert stage.query(stage.a, seen) == Reply(bytes(16))

    def test_composite_does_not_call_itself(self, stage, p):
        start = p().set(1, 7).call(p().canister_self(), "query", p().reply(), on_reject=p().reply(b"told"))
        assert stage.query(stage.a, start, "composite_query").error_code == "IC0517"
        assert stage.query(stage.a, p().reply_number(p().get(1))) == Reply(bytes(8))

    def test_composite_composites(self, stage, p):
        leaf = stage.facade.install(stage.wasm[0], b"", cycles=10**15)
        inner = p().call(leaf.id.raw_bytes, "query", p().reply(b"leaf"))
        start = p().call(stage.b.canister_id, "composite_query", inner)
        assert stage.query(stage.a, start, "composite_query") == Reply(b"leaf")

    def test_composite_trap_leaves_nothing(self, stage, p):
        start = p().set(1, 7).call(stage.b.canister_id, "query", p().reply(), on_reply=p().trap("no"))
        assert stage.query(stage.a, start, "composite_query").error_code == "IC0503"
        assert stage.query(stage.a, p().reply_number(p().get(1))) == Reply(bytes(8))

    def test_replicated_query(self, stage, p):
        assert stage.update(stage.a, p().set(1, 7).reply(b"x"), "query") == Reply(b"x")
        assert stage.query(stage.a, p().reply_number(p().get(1))) == Reply(bytes(8))


class TestLifecycle:
    def test_stop_waits_for_answers(self, stage, p):
        request = stage.submit(stage.a, p().call(stage.b.canister_id, "update", p().reply(b"late")))
        round_(stage.rules)
        stop_canister(stage.rules, stage.a, FromUser(999), 0)
        assert stage.a.facts.status is CanisterStatus.STOPPING
        run_until_idle(stage.rules)
        assert stage.subnet.ingress.find(request, 0) == Reply(b"late")
        assert stage.a.facts.status is CanisterStatus.STOPPED
        assert stage.query(stage.a, p().reply()).error_code == "IC0508"
        start_canister(stage.rules, stage.a)
        assert stage.query(stage.a, p().reply()) == Reply(b"")

    def test_upgrade_keeps_stable_memory_and_loses_the_heap(self, stage, p):
        stage.update(stage.a, p().set(1, 7).stable64_grow(1).drop().stable64_write(3, b"kept").reply())
        assert stage.install(stage.a, "upgrade") == Reply(b"")
        assert stage.query(stage.a, p().reply(p().stable_read_span(3, 4))) == Reply(b"kept")
        assert stage.query(stage.a, p().reply_number(p().get(1))) == Reply(bytes(8))

    def test_pre_upgrade_that_traps_undoes_the_upgrade(self, stage, u, p):
        hook = p().stable64_grow(2).drop().trap("not now")
        stage.update(stage.a, p().set(1, 7).hook(u.Hook.PRE_UPGRADE, hook).reply())
        assert stage.install(stage.a, "upgrade").error_code == "IC0503"
        assert stage.query(stage.a, p().reply_number(p().get(1))) == Reply((7).to_bytes(8, "little"))
        assert stage.a.stable_wasm_pages == 0
        assert stage.install(stage.a, "upgrade", skip_pre_upgrade=True) == Reply(b"")

    def test_reinstall_wipes(self, stage, p):
        stage.update(stage.a, p().stable64_grow(1).drop().certified_data_set(b"x").reply())
        assert stage.a.certified_data == b"x"
        assert stage.install(stage.a, "reinstall") == Reply(b"")
        assert (stage.a.certified_data, stage.a.stable_wasm_pages) == (b"", 0)

    def test_timer(self, stage, u, p):
        timer = p().set(1, p().add(p().get(1), 1))
        stage.update(
            stage.a, p().hook(u.Hook.GLOBAL_TIMER, timer).global_timer_set(p().add(p().time(), 1_000)).drop().reply()
        )
        stage.subnet.time_ns += 2_000
        run_until_idle(stage.rules)
        round_(stage.rules)
        assert stage.query(stage.a, p().reply_number(p().get(1))) == Reply((1).to_bytes(8, "little"))

    def test_heartbeat_that_traps(self, stage, u, p):
        stage.update(stage.a, p().hook(u.Hook.HEARTBEAT, p().set(1, 1).trap("no")).reply())
        round_(stage.rules)
        assert stage.query(stage.a, p().reply_number(p().get(1))) == Reply(bytes(8))
        assert stage.a.log.records[-1].content.startswith(b"[TRAP]: no")


def test_the_same_messages_give_the_same_state(p, u):
    from perdure.execution.records import encode_record, encode_subnet

    def play():
        stage = Stage()
        for number in range(4):
            inner = p().set(1, number).cycles_burn(5).drop().drop().reply()
            stage.update(stage.a, p().set(2, number).call(stage.b.canister_id, "update", inner, cycles=number))
        records = [encode_record(canister) for canister in (stage.a, stage.b)]
        return encode_subnet(stage.subnet), records, stage.a.cycles, stage.b.cycles

    assert play() == play()


@pytest.mark.parametrize(
    "text",
    ["(module (table 1000001 funcref))", "(module (table 1 funcref) (func $f) (elem (i32.const 1) func $f))"],
)
def test_a_module_that_cannot_be_instantiated_is_refused_to_the_canister_that_installs_it(stage, u, text):
    """It once stopped the subnet: the message that installs it was done again in every round, and raised each time."""
    target = stage.facade.create_canister(controllers=[stage.facade.canisters[0].id], cycles=10**15)
    mode = "mode : variant { install }; canister_id : principal; wasm_module : blob; arg : blob"
    value = {"mode": {"install": None}, "canister_id": target.id, "wasm_module": wasmtime.wat2wasm(text), "arg": b""}
    arg = candid.encode([candid.parse_type(f"record {{ {mode} }}")], [value])
    told = u.Program().reply(u.Program().msg_reject_msg())
    caller = stage.facade.canisters[0]
    answer = caller.update("update", bytes(u.Program().call(b"", "install_code", arg, on_reject=told)))
    assert b"Canister's Wasm module is not valid: Wasm module" in answer
    assert caller.update("update", bytes(u.Program().reply(b"on it goes"))) == b"on it goes"
