"""Every `ic0` function in every context, on Wasm: the table against the engine, for 32- and 64-bit heaps.

What `test_host_functions` proves of the reference semantics is proven here of compiled code, linker and kernel: a
function works where the table allows it and traps with the replica's words elsewhere.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from perdure import Subnet
from perdure.canister import Context, Reply, TrapCode
from perdure.execution import (
    CallMessage,
    FromUser,
    InstallMode,
    InstallOptions,
    execute_ingress,
    execute_query,
    install_code,
    round_,
)
from perdure.execution.events import Ended, Trapped
from perdure.execution.execute import execute_call
from perdure.ic.ic0 import FUNCTIONS
from perdure.system_api import wrong_context

NEEDS_CALL = {"call_on_cleanup", "call_data_append", "call_with_best_effort_response", "call_cycles_add128"}
NEEDS_CALL |= {"call_cycles_add", "call_perform"}
# Not reached by a hook of the universal canister: start, and transforms, which no outcall runs yet.
CONTEXTS = [context for context in Context if context not in (Context.START, Context.TRANSFORM)]


@pytest.fixture
def machine(universal, universal_wasm, answering_wasm):
    """A universal canister, and what each entry into it came to."""
    subnet = Subnet()
    canister = subnet.install(universal_wasm, b"", cycles=10**18)
    answering = subnet.install(answering_wasm, b"")
    canister.update_settings(environment_variables=[{"name": "a", "value": "one"}])
    state = subnet._state
    subnet._world.certify = lambda canister_id, data, time_ns: b"certificate of " + canister_id + data
    with subnet.events() as stream:
        yield SimpleNamespace(
            subnet=state,
            rules=subnet._world,
            canister=state.canisters[canister._state.canister_id],
            answering_id=answering.id.raw_bytes,
            stream=stream,
            wasm=universal_wasm,
            u=universal,
        )


class Runner:
    """Runs a program in a given context and tells what its entry came to."""

    def __init__(self, machine):
        self.machine = machine
        self.subnet, self.rules, self.canister, self.u = machine.subnet, machine.rules, machine.canister, machine.u
        self.id = self.canister.canister_id

    def run(self, context, program):
        self.forget()
        getattr(self, "in_" + context.name.lower())(bytes(program), program)
        ends = [event for event in self.machine.stream if isinstance(event, Ended | Trapped)]
        return next(end for end in ends if end.context is context)

    def forget(self):
        """Let go of what has happened so far."""
        list(self.machine.stream)

    def install(self, mode, arg=b""):
        options = InstallOptions(InstallMode(mode))
        self.rules.begin()
        answer = install_code(self.rules, self.canister, options, self.machine.wasm, arg, b"\x04")
        self.rules.finish()
        return answer

    def update(self, code, method="update"):
        return execute_ingress(self.rules, self.id, method, bytes(code), b"\x04")

    def query(self, code, method="query"):
        return execute_query(self.rules, self.id, method, bytes(code), b"\x04")

    def hook(self, name, program):
        """Set a hook, past the inspection that an earlier one may refuse."""
        code = bytes(self.u.Program().hook(self.u.Hook[name], program).reply())
        execute_call(self.rules, self.canister, CallMessage(FromUser(b"hook"), b"\x04", self.id, "update", code))
        self.rules.finish()
        assert isinstance(self.subnet.ingress.find(b"hook", 0), Reply)
        self.forget()

    def call(self, *, reject=False, **callbacks):
        """A program that calls a query which replies or rejects: of another canister, as composite queries must."""
        method = "reject" if reject else "reply"
        return self.u.Program().call(self.machine.answering_id, method, self.u.Program(), **callbacks)

    def in_init(self, code, program):
        self.install("reinstall", code)

    def in_pre_upgrade(self, code, program):
        self.hook("PRE_UPGRADE", program)
        self.install("upgrade")

    def in_update(self, code, program):
        self.update(code)

    def in_replicated_query(self, code, program):
        self.update(code, "query")

    def in_non_replicated_query(self, code, program):
        self.query(code)

    def in_composite_query(self, code, program):
        self.query(code, "composite_query")

    def in_reply(self, code, program):
        self.update(self.call(on_reply=program))

    def in_reject(self, code, program):
        self.update(self.call(reject=True, on_reject=program))

    def in_composite_reply(self, code, program):
        self.query(self.call(on_reply=program), "composite_query")

    def in_composite_reject(self, code, program):
        self.query(self.call(reject=True, on_reject=program), "composite_query")

    def in_cleanup(self, code, program):
        self.update(self.call(on_reply=self.u.Program().trap("clean up"), on_cleanup=program))

    def in_composite_cleanup(self, code, program):
        self.query(self.call(on_reply=self.u.Program().trap("clean up"), on_cleanup=program), "composite_query")

    def in_inspect_message(self, code, program):
        self.hook("INSPECT_MESSAGE", program)
        self.update(b"")

    def in_system_task(self, code, program):
        self.hook("HEARTBEAT", program)
        round_(self.rules)


def program_for(u, name, context):
    """The shortest call of a function that does not break one of its own rules."""
    program = u.Program()
    if name in NEEDS_CALL and context.value in FUNCTIONS[name].contexts:
        program.call_new(b"", b"", u.Program().number(0).number(0), u.Program().number(0).number(0))
    if name.startswith("env_var_name_exists") or name == "env_var_value_size":
        return getattr(program, name)(b"a")
    if name == "env_var_value_copy":
        return program.env_var_value_copy(b"a", 64, 0, 1)
    return program._function(name, *(0,) * len(FUNCTIONS[name].parameters))


@pytest.mark.slow
@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.value)
def test_table_of_contexts(machine, bits, context):
    runner = Runner(machine)
    task = "canister_heartbeat" if context is Context.SYSTEM_TASK else ""
    for name, function in FUNCTIONS.items():
        if function.only_32_bit and bits == 64:
            continue
        result = runner.run(context, program_for(machine.u, name, context))
        if context.value not in function.contexts:
            assert isinstance(result, Trapped), name
            assert (result.code, result.message) == (
                TrapCode.CONTRACT_VIOLATION,
                wrong_context(name, context, task),
            )
        elif name == "trap":
            assert result.code is TrapCode.CALLED_TRAP
        else:
            assert isinstance(result, Ended), (name, result)


def number(value, size_bytes=8):
    return value.to_bytes(size_bytes, "little")


def values(u, runner):
    """What functions give in an update, as programs that reply with it and the bytes expected."""
    p = u.Program
    canister, subnet = runner.canister, runner.subnet
    costs = runner.rules.costs_of(subnet.canisters[runner.id].module)
    return {
        "msg_arg_data": (p().reply(p().msg_arg_data()), None),
        "msg_caller": (p().reply(p().msg_caller()), b"\x04"),
        "canister_self": (p().reply(p().canister_self()), canister.canister_id),
        "subnet_self": (p().reply(p().subnet_self()), subnet.subnet_id),
        "root_key": (p().reply(p().root_key()), subnet.root_key),
        "canister_status": (p().reply_number(p().canister_status()), number(1)),
        "canister_version": (
            p().reply_number(p().canister_version()),
            number(canister.facts.version + 1),  # the round's heartbeat came first
        ),
        "time": (p().reply_number(p().time()), number(subnet.time_ns + 1)),
        "in_replicated_execution": (p().reply_number(p().in_replicated_execution()), number(1)),
        "data_certificate_present": (p().reply_number(p().data_certificate_present()), number(0)),
        "is_controller": (p().reply_number(p().is_controller(b"\x04")), number(1)),
        "is_no_controller": (p().reply_number(p().is_controller(b"\x05")), number(0)),
        "env_var_count": (p().reply_number(p().env_var_count()), number(1)),
        "env_var_name": (p().reply(p().env_var_name(0)), b"a"),
        "env_var_value": (p().reply(p().env_var_value(b"a")), b"one"),
        "env_var_name_exists": (p().reply_number(p().env_var_name_exists(b"b")), number(0)),
        "global_timer_set": (p().reply_number(p().global_timer_set(0)), number(0)),
        "msg_deadline": (p().reply_number(p().msg_deadline()), number(0)),
        "cost_call": (p().reply(p().call_cost(3, 4)), number(costs.call(3, 4), 16)),
        "cost_create_canister": (p().reply(p().create_canister_cost()), number(500_000_000_000, 16)),
        "cost_http_request": (p().reply(p().http_request_cost(10, 20)), number(costs.http_request(10, 20), 16)),
        "cycles_accept": (p().reply(p().cycles_accept(7)), number(7, 16)),
        "cycles_burn": (p().reply(p().cycles_burn(9)), number(9, 16)),
        "stable64_grow": (p().reply_number(p().stable64_grow(0)), number(0)),
    }


def test_values(machine):
    runner = Runner(machine)
    for name in values(machine.u, runner):
        program, expected = values(machine.u, runner)[name]
        expected = bytes(program) if expected is None else expected
        response = execute_ingress(runner.rules, runner.id, "update", bytes(program), b"\x04", cycles=100)
        assert response == Reply(expected), name


def test_certificate_in_queries(machine):
    runner, p = Runner(machine), machine.u.Program
    runner.update(p().certified_data_set(b" and data").reply())
    program = p().reply(p().data_certificate())
    for method in ("query", "composite_query"):
        assert runner.query(program, method) == Reply(b"certificate of " + runner.id + b" and data")


def test_broken_rules_in_the_replicas_words(machine):
    runner, p = Runner(machine), machine.u.Program
    for program, code, words in [
        (p().reply().reply(), "IC0504", "ic0.msg_reply_data_append: the call is already replied."),
        (
            p().msg_reply().msg_reply(),
            "IC0504",
            "Canister violated contract: ic0.msg_reply: the call is already replied",
        ),
        (p().call_perform(), "IC0504", "ic0.call_perform called when no call is under construction."),
        (p().certified_data_set(bytes(33)), "IC0504", "no larger than 32 bytes. Found 33 bytes."),
        (p().performance_counter(2), "IC0504", "Error getting performance counter type"),
        (p().env_var_value_size(b"none"), "IC0504", "Environment variable none not found."),
        (p().is_controller(bytes(30)), "IC0504", "Canister provided invalid principal id"),
        (p().trap(b"why not"), "IC0503", "Canister called `ic0.trap` with message: 'why not'"),
        (p().unreachable(), "IC0502", "Canister trapped: unreachable"),
        (p().div(1, 0), "IC0502", "Canister trapped: integer division by 0"),
        (p().stable64_read(0, 0, 1), "IC0502", "Canister trapped: stable memory out of bounds"),
        (p().repeat(-1, p()), "IC0522", "Canister exceeded the limit of 5000000000 instructions"),
    ]:
        reject = runner.query(program) if code == "IC0522" else runner.update(program)
        assert reject.error_code == code, (reject, words)
        assert words in reject.message
