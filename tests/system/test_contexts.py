"""Every `ic0` function in every context, entered as the network enters it, natively and behind host calls.

Generated from the table: where it allows a function, the function runs; elsewhere it traps with the replica's words.
Both kinds of code must come to the same result and count the same instructions.
"""

from __future__ import annotations

import pytest
import wasmtime
from system_machine import HOST_CALLS, NATIVE, WAYS

from perdure import RejectError, Subnet
from perdure.canister import Context, TrapCode
from perdure.execution.events import Ended, Trapped
from perdure.ic.ic0 import FUNCTIONS

NEEDS_CALL = {"call_on_cleanup", "call_data_append", "call_with_best_effort_response", "call_cycles_add128"}
NEEDS_CALL |= {"call_cycles_add", "call_perform"}
NEEDS_NAME = {"env_var_name_exists", "env_var_value_size", "env_var_value_copy"}
# As the replica spells them; `root_key_copy` and `subnet_self_copy` alone have a full stop.
DOTTED = {"root_key_copy", "subnet_self_copy"}
MODES = {
    "init": "init",
    "post_upgrade": "init",
    "pre_upgrade": "pre upgrade",
    "update": "update",
    "replicated query": "replicated query",
    "query": "non replicated query",
    "transform": "non replicated query",
    "composite query": "composite query",
    "reply": "reply callback",
    "reject": "reject callback",
    "cleanup": "cleanup",
    "composite reply": "composite reply callback",
    "composite reject": "composite reject callback",
    "composite cleanup": "composite cleanup",
    "inspect_message": "inspect message",
    "heartbeat": "heartbeat",
    "global_timer": "global timer",
    "on_low_wasm_memory": "on low Wasm memory",
}
# The caller of these learns that the entry trapped.
TOLD = {"init", "post_upgrade", "pre_upgrade", "update", "replicated query", "query", "composite query"}
TOLD |= {"reply", "reject", "composite reply", "composite reject"}


def words(name, mode):
    return f'"ic0{"." if name in DOTTED else "_"}{name}" cannot be executed in {mode} mode'


def functions(bits):
    return {name: function for name, function in FUNCTIONS.items() if bits == 32 or not function.only_32_bit}


def probe(machine, name, allowed):
    """The shortest call of a function that does not break one of its own rules."""
    program = machine.program()
    if name in NEEDS_CALL and allowed:
        nothing = machine.program().number(0).number(0)
        program.call_new(machine.id, b"query", nothing, nothing)
    if name in NEEDS_NAME:
        rest = (64, 0, 1) if name == "env_var_value_copy" else ()
        return getattr(program, name)(b"a", *rest)
    return program._function(name, *(0,) * len(FUNCTIONS[name].parameters))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_function(machines, bits, way):
    context = WAYS[way][0]
    for name, function in functions(bits).items():
        allowed = context.value in function.contexts
        native, host_calls = (machine.run(way, probe(machine, name, allowed)) for machine in machines)
        assert native == host_calls, name
        assert machines[0].left() == machines[1].left(), name
        if not allowed:
            assert isinstance(native, Trapped), name
            assert (native.code, native.message) == (TrapCode.CONTRACT_VIOLATION, words(name, MODES[way])), name
            if way in TOLD:
                assert machines[0].error.error_code == "IC0504", name
                assert words(name, MODES[way]) in machines[0].error.message, name
        elif name == "trap":
            assert native.code is TrapCode.CALLED_TRAP
        else:
            assert isinstance(native, Ended), (name, native)


def start_module(bits):
    """A module whose start function calls the function that the first byte of stable memory numbers, from 1."""
    table = functions(bits)
    imports, calls = [], []
    for name, function in table.items():
        params = "".join(f" (param {value_type})" for value_type in function.params(bits == 64))
        results = "".join(f" (result {value_type})" for value_type in function.results(bits == 64))
        imports.append(f'(import "ic0" "{name}" (func ${name}{params}{results}))')
        zeros = " ".join(f"({value_type}.const 0)" for value_type in function.params(bits == 64))
        call = f"(call ${name} {zeros})"
        calls.append(f"(drop {call})" if function.result else call)
    blocks = "(block " * (len(table) + 1)
    cases = " ".join(f") {call} (return)" for call in calls)
    labels = " ".join(str(index) for index in range(len(table) + 1))
    heap = "i64" if bits == 64 else "i32"
    return wasmtime.wat2wasm(f"""(module {" ".join(imports)}
        (memory {"i64 " if bits == 64 else ""}1)
        (func (export "canister_update any"))
        (func $start
          (if (i64.eqz (call $stable64_size)) (then (return)))
          (call $stable64_read (i64.const 100) (i64.const 0) (i64.const 1))
          {blocks}
          (br_table {labels} (i32.sub (i32.load8_u ({heap}.const 100)) (i32.const 1)))
          {cases} )
        )
        (start $start))""")


@pytest.mark.slow
@pytest.mark.parametrize("options", [NATIVE, HOST_CALLS], ids=["native", "host-calls"])
def test_every_function_in_start(bits, options):
    wasm = start_module(bits)
    with Subnet(instrumentation=options) as subnet:
        canister = subnet.install(wasm)
        canister.stable.grow(1)
        for number, (name, function) in enumerate(functions(bits).items(), 1):
            canister.stable.write(0, bytes([number]))
            allowed = Context.START.value in function.contexts
            if allowed and name != "trap":
                canister.upgrade(wasm)
                continue
            with pytest.raises(RejectError) as caught:
                canister.upgrade(wasm)
            if allowed:
                assert caught.value.error_code == "IC0503"
            else:
                assert caught.value.error_code == "IC0504", name
                assert words(name, "start") in caught.value.message, name
