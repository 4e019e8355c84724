"""Every `ic0` function in every context: allowed by the table it works, elsewhere it traps with the replica's words."""

from __future__ import annotations

import pytest

from perdure.canister import Callback, CanisterFacts, Context, Env, Limits, Reject, Reply, TrapCode
from perdure.ic.ic0 import FUNCTIONS, NON_SPECIFIED
from perdure.ic.ic0_ext import HOSTED
from perdure.memory import WASM_PAGE_BYTES
from perdure.system_api import HOST_FUNCTIONS, CanisterTrap, SystemApi, already_responded, reply_too_large

CANISTER = bytes.fromhex("00000000000000010101")


class Prices:
    def call(self, method_name_bytes, payload_bytes):
        return 1_000 + method_name_bytes + payload_bytes

    def create_canister(self):
        return 500

    def http_request(self, request_bytes, max_response_bytes):
        return request_bytes * 3 + max_response_bytes

    def sign(self, scheme, key_name, algorithm):
        if algorithm > 0:
            raise ValueError(algorithm)
        if key_name != "key_1":
            raise KeyError(key_name)
        return 26_000 + len(scheme)


class FakeMachine:
    """A heap and a stable memory in byte arrays; counts accessed bytes."""

    is_64 = False

    def __init__(self, heap_wasm_pages=1, stable_wasm_pages=0):
        self.heap = bytearray(heap_wasm_pages * WASM_PAGE_BYTES)
        self.stable_pages = stable_wasm_pages
        self.stable = bytearray(min(stable_wasm_pages, 4) * WASM_PAGE_BYTES)

    def heap_bytes(self):
        return len(self.heap)

    def read(self, address, size_bytes):
        return bytes(self.heap[address : address + size_bytes])

    def write(self, address, data):
        assert address + len(data) <= len(self.heap)
        self.heap[address : address + len(data)] = data

    def instructions_used(self):
        return 77

    def stable_wasm_pages(self):
        return self.stable_pages

    def stable_grow(self, wasm_pages):
        old = self.stable_pages
        self.stable_pages += wasm_pages
        self.stable.extend(bytes(min(wasm_pages, 4) * WASM_PAGE_BYTES))
        return old

    def stable_to_heap(self, heap_address, stable_address, size_bytes):
        self.write(heap_address, self.stable[stable_address : stable_address + size_bytes])

    def heap_to_stable(self, stable_address, heap_address, size_bytes):
        self.stable[stable_address : stable_address + size_bytes] = self.read(heap_address, size_bytes)


def environment(context=Context.UPDATE, **changes):
    facts = CanisterFacts(
        canister_id=CANISTER,
        subnet_id=b"subnet",
        root_key=b"root key",
        controllers=frozenset([b"\x04"]),
        version=5,
        environment_variables={"b": "two", "a": "one"},
    )
    values = {
        "time_ns": 99,
        "arg": b"argument",
        "reject_message": "no",
        "cycle_balance": 10_000,
        "liquid_cycle_balance": 8_000,
        "cycles_available": 300,
        "cycles_refunded": 40,
        "certificate": b"certificate",
        "costs": Prices(),
        "method_name": "f",
    }
    values |= changes
    return Env(context, facts, Limits(), **values)


def call(function, *arguments, context=Context.UPDATE, machine=None, api=None, **changes):
    api = api or SystemApi(environment(context, **changes))
    return HOST_FUNCTIONS[function](api, machine or FakeMachine(), *arguments)


ALL = {**FUNCTIONS, **NON_SPECIFIED}
# Arguments with which a function neither traps nor is refused where it is allowed; zeros do for the others.
ARGUMENTS = {
    "env_var_name_exists": (0, 1),
    "env_var_value_size": (0, 1),
    "env_var_value_copy": (0, 1, 8, 0, 1),
    "cost_sign_with_ecdsa": (0, 0, 0, 8),
    "cost_sign_with_schnorr": (0, 0, 0, 8),
    "cost_vetkd_derive_key": (0, 0, 0, 8),
}
NEEDS_CALL = {"call_on_cleanup", "call_data_append", "call_with_best_effort_response", "call_cycles_add128"}
NEEDS_CALL |= {"call_cycles_add", "call_perform"}
ALWAYS_TRAPS = {"trap", *NON_SPECIFIED}


def test_there_is_one_host_function_for_each_row():
    assert HOST_FUNCTIONS.keys() == ALL.keys() | HOSTED.keys()


@pytest.mark.parametrize("name", sorted(ALL))
def test_table_of_contexts(name):
    function = ALL[name]
    for context in Context:
        machine = FakeMachine()
        machine.heap[0:1] = b"a"
        api = SystemApi(environment(context))
        arguments = ARGUMENTS.get(name, (0,) * len(function.parameters))
        if context.value not in function.contexts:
            with pytest.raises(CanisterTrap, match=f'"ic0[_.]{name}" cannot be executed in .* mode') as caught:
                HOST_FUNCTIONS[name](api, machine, *arguments)
            assert caught.value.code is TrapCode.CONTRACT_VIOLATION
            continue
        if name in NEEDS_CALL:
            api.call_new(CANISTER, b"f", Callback(0, 0), Callback(0, 0))
        if name in ALWAYS_TRAPS:
            with pytest.raises(CanisterTrap) as caught:
                HOST_FUNCTIONS[name](api, machine, *arguments)
            assert "cannot be executed in" not in caught.value.message
        else:
            result = HOST_FUNCTIONS[name](api, machine, *arguments)
            assert (result is None) == (function.result is None)
            assert result is None or 0 <= result < 1 << 64


@pytest.mark.parametrize(
    ("context", "method_name", "words"),
    [
        (Context.INIT, "", '"ic0_msg_reply" cannot be executed in init mode'),
        (Context.SYSTEM_TASK, "canister_heartbeat", '"ic0_msg_reply" cannot be executed in heartbeat mode'),
        (Context.SYSTEM_TASK, "canister_global_timer", '"ic0_msg_reply" cannot be executed in global timer mode'),
        (Context.CLEANUP, "", '"ic0_msg_reply" cannot be executed in cleanup mode'),
    ],
)
def test_wording_of_wrong_context(context, method_name, words):
    with pytest.raises(CanisterTrap) as caught:
        call("msg_reply", context=context, method_name=method_name)
    assert caught.value.message == words


BLOBS = {
    "msg_arg_data": (Context.UPDATE, b"argument"),
    "msg_caller": (Context.UPDATE, b"\x04"),
    "msg_caller_info_data": (Context.UPDATE, b"info"),
    "msg_caller_info_signer": (Context.UPDATE, b"signer"),
    "msg_reject_msg": (Context.REJECT, b"no"),
    "canister_self": (Context.UPDATE, CANISTER),
    "subnet_self": (Context.UPDATE, b"subnet"),
    "msg_method_name": (Context.INSPECT_MESSAGE, b"f"),
    "root_key": (Context.UPDATE, b"root key"),
    "data_certificate": (Context.NON_REPLICATED_QUERY, b"certificate"),
}


@pytest.mark.parametrize("name", sorted(BLOBS))
def test_blobs(name):
    context, expected = BLOBS[name]
    extra = {"caller_info_data": b"info", "caller_info_signer": b"signer"}
    assert call(f"{name}_size", context=context, **extra) == len(expected)
    machine = FakeMachine()
    call(f"{name}_copy", 100, 0, len(expected), context=context, machine=machine, **extra)
    assert machine.read(100, len(expected)) == expected
    call(f"{name}_copy", WASM_PAGE_BYTES, len(expected), 0, context=context, machine=machine, **extra)
    last = len(expected) - 1
    call(f"{name}_copy", 50, last, 1, context=context, machine=machine, **extra)
    assert machine.read(50, 2) == expected[-1:] + b"\0"
    for arguments in [(0, 0, len(expected) + 1), (0, len(expected), 1), (WASM_PAGE_BYTES, 0, 1), (0, 1 << 32, 1)]:
        with pytest.raises(CanisterTrap, match=r"exceeds the slice size|out of bounds") as caught:
            call(f"{name}_copy", *arguments, context=context, **extra)
        assert caught.value.code is TrapCode.CONTRACT_VIOLATION


def test_out_of_range_names_the_buffer():
    with pytest.raises(CanisterTrap) as caught:
        call("msg_arg_data_copy", 0, 3, 6)
    assert caught.value.message == "ic0.msg_arg_data_copy payload: src=3 + length=6 exceeds the slice size=8"
    with pytest.raises(CanisterTrap) as caught:
        call("msg_arg_data_copy", 65_535, 0, 2)
    assert caught.value.message == "ic0.msg_arg_data_copy heap: src=65535 + length=2 exceeds the slice size=65536"


class TestResponding:
    def test_reply_is_what_was_appended(self):
        machine, api = FakeMachine(), SystemApi(environment())
        machine.write(0, b"hello world")
        call("msg_reply_data_append", 0, 6, machine=machine, api=api)
        call("msg_reply_data_append", 6, 5, machine=machine, api=api)
        call("msg_reply", api=api)
        assert api.finish().response == Reply(b"hello world")

    def test_data_without_reply_is_forgotten(self):
        api = SystemApi(environment())
        api.msg_reply_data_append(b"x")
        assert api.finish().response is None

    @pytest.mark.parametrize("second", ["msg_reply", "msg_reject", "msg_reply_data_append"])
    def test_a_second_response_traps(self, second):
        api = SystemApi(environment())
        api.msg_reply()
        with pytest.raises(CanisterTrap) as caught:
            call(second, *(0,) * len(FUNCTIONS[second].parameters), api=api)
        assert caught.value.code is TrapCode.ALREADY_RESPONDED
        assert caught.value.message == already_responded(second)

    def test_nobody_waits(self):
        with pytest.raises(CanisterTrap, match="already replied"):
            call("msg_reply", needs_to_respond=False)

    def test_limit(self):
        api = SystemApi(environment())
        api.env.limits.reply_bytes = 10
        api.msg_reply_data_append(bytes(10))
        with pytest.raises(CanisterTrap) as caught:
            # Refused by its size, before memory is looked at.
            call("msg_reply_data_append", 1 << 31, 1, api=api)
        assert caught.value.message == reply_too_large("msg_reply_data_append", 11, 10)
        with pytest.raises(CanisterTrap, match="msg_reject: application payload"):
            call("msg_reject", 0, 11, api=api)

    def test_reject(self):
        api = SystemApi(environment())
        api.msg_reply_data_append(b"lost")
        api.msg_reject("später".encode())
        assert api.finish().response == Reject(4, "später", "IC0406")
        with pytest.raises(CanisterTrap, match="invalid UTF-8"):
            SystemApi(environment()).msg_reject(b"\xff")

    def test_cycles_are_there_until_the_entry_ends(self):
        api = SystemApi(environment())
        assert api.msg_cycles_accept(100) == 100
        assert api.msg_cycles_available() == 200
        api.msg_reply()
        # The specification says 0, 0; the replica refunds when the entry ends.
        assert (api.msg_cycles_available(), api.msg_cycles_accept(50)) == (200, 50)
        assert api.finish().cycles_accepted == 150

    def test_a_context_that_had_responded_before_has_none(self):
        api = SystemApi(environment(cycles_available=0, needs_to_respond=False))
        assert (api.msg_cycles_available(), api.msg_cycles_accept(50)) == (0, 0)


class TestCycles:
    def test_balance_follows_what_the_entry_does(self):
        api = SystemApi(environment(costs=None))
        api.msg_cycles_accept(1 << 100)
        assert api.canister_cycle_balance() == 10_300
        api.call_new(b"", b"f", Callback(0, 0), Callback(0, 0))
        api.call_cycles_add(300)
        assert api.canister_cycle_balance() == 10_000
        assert api.cycles_burn(100) == 100
        assert api.canister_liquid_cycle_balance() == 7_900
        api.call_new(b"", b"f", Callback(0, 0), Callback(0, 0))  # the first call is dropped
        assert api.canister_cycle_balance() == 10_200
        assert api.cycles_burn(1 << 90) == 8_200
        assert api.canister_liquid_cycle_balance() == 0

    def test_below_the_freezing_limit_accepted_cycles_fill_the_gap(self):
        api = SystemApi(environment(liquid_cycle_balance=-200))
        assert api.canister_liquid_cycle_balance() == 0
        api.msg_cycles_accept(300)
        assert api.canister_liquid_cycle_balance() == 100

    def test_64_bit_amounts(self):
        with pytest.raises(CanisterTrap) as caught:
            call("canister_cycle_balance", cycle_balance=1 << 64)
        assert caught.value.code is TrapCode.CYCLES_AMOUNT_TOO_BIG_FOR_64_BIT
        assert call("canister_cycle_balance", cycle_balance=(1 << 64) - 1) == (1 << 64) - 1

    def test_128_bit_amounts(self):
        machine = FakeMachine()
        call("canister_cycle_balance128", 8, machine=machine, cycle_balance=(1 << 100) + 5)
        assert int.from_bytes(machine.read(8, 16), "little") == (1 << 100) + 5
        call("canister_cycle_balance128", 8, machine=machine, cycle_balance=1 << 128)
        assert int.from_bytes(machine.read(8, 16), "little") == (1 << 128) - 1
        with pytest.raises(CanisterTrap, match="ic0_canister_cycle_balance128 failed because dst"):
            call("canister_cycle_balance128", WASM_PAGE_BYTES - 15)


class TestCalls:
    def perform(self, api, callee=b"callee", method=b"f", cycles=0):
        api.call_new(callee, method, Callback(1, 2), Callback(3, 4))
        if cycles:
            api.call_cycles_add(cycles)
        return api.call_perform()

    def test_a_whole_call(self):
        machine, api = FakeMachine(), SystemApi(environment())
        machine.write(0, b"calleename+arg")
        call("call_new", 0, 6, 6, 4, 1, 2, 3, 4, machine=machine, api=api)
        call("call_data_append", 10, 4, machine=machine, api=api)
        call("call_on_cleanup", 5, 6, api=api)
        call("call_with_best_effort_response", 1_000, api=api)
        call("call_cycles_add", 7, api=api)
        assert call("call_perform", api=api) == 0
        (performed,) = api.finish().calls
        assert (performed.callee, performed.method_name, performed.arg) == (b"callee", "name", b"+arg")
        assert (performed.on_reply, performed.on_reject, performed.on_cleanup) == ((1, 2), (3, 4), (5, 6))
        assert (performed.cycles, performed.timeout_seconds) == (7, 300)
        assert api.canister_cycle_balance() == 10_000 - 7 - 1_008

    def test_unperformed_calls_are_dropped(self):
        api = SystemApi(environment())
        api.call_new(b"callee", b"f", Callback(1, 2), Callback(3, 4))
        assert api.finish().calls == ()

    @pytest.mark.parametrize("name", sorted(NEEDS_CALL))
    def test_nothing_under_construction(self, name):
        with pytest.raises(CanisterTrap, match=f"{name} called when no call is under construction"):
            call(name, *(0,) * len(FUNCTIONS[name].parameters))

    def test_performing_ends_construction(self):
        api = SystemApi(environment())
        self.perform(api)
        with pytest.raises(CanisterTrap, match="under construction"):
            api.call_data_append(b"")

    def test_only_once(self):
        api = SystemApi(environment())
        api.call_new(b"callee", b"f", Callback(1, 2), Callback(3, 4))
        api.call_on_cleanup(Callback(0, 0))
        with pytest.raises(CanisterTrap, match="at most once"):
            api.call_on_cleanup(Callback(0, 0))
        api.call_with_best_effort_response(0)
        with pytest.raises(CanisterTrap, match="a timeout is already set"):
            api.call_with_best_effort_response(1)

    def test_cycles_beyond_the_liquid_balance_trap(self):
        api = SystemApi(environment())
        with pytest.raises(CanisterTrap, match="is out of cycles"):
            self.perform(api, cycles=8_001)

    def test_too_poor_to_pay_for_the_call(self):
        api = SystemApi(environment())
        assert self.perform(api, cycles=7_500) == 2
        assert api.canister_cycle_balance() == 10_000
        assert api.finish().calls == ()

    def test_full_queue(self):
        api = SystemApi(environment(costs=None, queue_room={b"callee": 2}))
        assert [self.perform(api) for _ in range(3)] == [0, 0, 2]
        assert self.perform(api, callee=b"other") == 0
        api = SystemApi(environment(costs=None))
        assert [self.perform(api) for _ in range(501)] == [0] * 500 + [2]
        api = SystemApi(environment(costs=None, queue_room={b"callee": 0}))
        assert self.perform(api) == 2

    def test_limits(self):
        api = SystemApi(environment())
        with pytest.raises(CanisterTrap, match="Size of method_name 20001 exceeds the allowed limit of 20000"):
            api.call_new(b"callee", bytes(20_001), Callback(1, 2), Callback(3, 4))
        with pytest.raises(CanisterTrap, match="invalid principal id"):
            api.call_new(bytes(30), b"f", Callback(1, 2), Callback(3, 4))
        api.call_new(b"callee", b"f", Callback(1, 2), Callback(3, 4))
        api.call_data_append(bytes((10 << 20) - 1))
        with pytest.raises(CanisterTrap, match="has a payload size of 10485761, which exceeds the allowed limit"):
            call("call_data_append", 0, 1, api=api)

    def test_composite_queries_pay_nothing(self):
        api = SystemApi(environment(Context.COMPOSITE_QUERY, liquid_cycle_balance=0))
        assert self.perform(api) == 0


class TestStableMemory:
    def test_write_and_read(self):
        machine = FakeMachine(stable_wasm_pages=1)
        machine.write(0, b"stable")
        call("stable64_write", 10, 0, 6, machine=machine)
        call("stable_read", 100, 10, 6, machine=machine)
        assert machine.read(100, 6) == b"stable"
        call("stable_write", 20, 0, 6, machine=machine)
        call("stable64_read", 200, 20, 6, machine=machine)
        assert machine.read(200, 6) == b"stable"

    @pytest.mark.parametrize("name", ["stable_write", "stable64_write", "stable_read", "stable64_read"])
    def test_bounds(self, name):
        end = WASM_PAGE_BYTES
        swapped = name.endswith("read")

        def run(stable, heap, size):
            arguments = (heap, stable, size) if swapped else (stable, heap, size)
            return call(name, *arguments, machine=FakeMachine(stable_wasm_pages=1))

        run(end - 1, end - 1, 1)
        for stable, heap, size, code in [
            (end, 0, 1, TrapCode.STABLE_MEMORY_OUT_OF_BOUNDS),
            ((1 << 32) - 1, 0, 1, TrapCode.STABLE_MEMORY_OUT_OF_BOUNDS),
            (0, end, 1, TrapCode.HEAP_OUT_OF_BOUNDS),
            (0, 0, end + 1, TrapCode.STABLE_MEMORY_OUT_OF_BOUNDS),
        ]:
            with pytest.raises(CanisterTrap) as caught:
                run(stable, heap, size)
            assert caught.value.code is code

    def test_no_bytes_at_a_bad_address(self):
        for name in ("stable64_write", "stable64_read", "stable_read"):
            assert call(name, 1 << 31, 1 << 31, 0) is None
        with pytest.raises(CanisterTrap) as caught:
            call("stable_write", 1 << 31, 1 << 31, 0)
        assert caught.value.code is TrapCode.STABLE_MEMORY_OUT_OF_BOUNDS

    def test_grow(self):
        machine = FakeMachine()
        assert call("stable_grow", 2, machine=machine) == 0
        assert call("stable64_grow", 1, machine=machine) == 2
        assert call("stable_size", machine=machine) == call("stable64_size", machine=machine) == 3
        assert call("stable_grow", 65_534, machine=machine) == (1 << 32) - 1
        assert call("stable64_grow", (1 << 64) - 1, machine=machine) == (1 << 64) - 1

    def test_32_bit_functions_on_a_big_memory(self):
        machine = FakeMachine(stable_wasm_pages=65_537)
        for name, arguments in [
            ("stable_size", ()),
            ("stable_grow", (0,)),
            ("stable_read", (0, 0, 1)),
            ("stable_write", (0, 0, 0)),
        ]:
            with pytest.raises(CanisterTrap) as caught:
                call(name, *arguments, machine=machine)
            assert caught.value.code is TrapCode.STABLE_MEMORY_TOO_BIG_FOR_32_BIT
        call("stable_read", 0, 0, 0, machine=machine)

    def test_grow_limits(self):
        api = SystemApi(environment())
        api.env.limits.stable_wasm_pages = 10
        api.env.limits.stable_trap_wasm_pages = 5
        api.env.limits.stable_trap_code = TrapCode.INSUFFICIENT_CYCLES_IN_MEMORY_GROW
        machine = FakeMachine()
        assert call("stable64_grow", 11, api=api, machine=machine) == (1 << 64) - 1
        assert call("stable64_grow", 5, api=api, machine=machine) == 0
        with pytest.raises(CanisterTrap) as caught:
            call("stable64_grow", 1, api=api, machine=machine)
        assert caught.value.code is TrapCode.INSUFFICIENT_CYCLES_IN_MEMORY_GROW


class TestTheRest:
    def test_inspect_message(self):
        api = SystemApi(environment(Context.INSPECT_MESSAGE))
        assert not api.finish().message_accepted
        api.accept_message()
        assert api.finish().message_accepted
        with pytest.raises(CanisterTrap, match="already called"):
            api.accept_message()

    def test_certified_data(self):
        machine, api = FakeMachine(), SystemApi(environment())
        machine.write(3, bytes(range(32)))
        call("certified_data_set", 3, 32, machine=machine, api=api)
        assert api.finish().certified_data == bytes(range(32))
        with pytest.raises(CanisterTrap, match=r"no larger than 32 bytes\. Found 33 bytes"):
            call("certified_data_set", 0, 33, api=api)
        with pytest.raises(CanisterTrap, match=r"src \+ size is out of bounds"):
            call("certified_data_set", WASM_PAGE_BYTES, 1, api=api)

    def test_certificate_absent(self):
        assert call("data_certificate_present", context=Context.UPDATE) == 0
        assert call("data_certificate_present", context=Context.COMPOSITE_REPLY) == 0
        assert call("data_certificate_present", context=Context.COMPOSITE_QUERY) == 1
        assert call("data_certificate_present", context=Context.COMPOSITE_QUERY, certificate=None) == 0
        with pytest.raises(CanisterTrap, match="data_certificate_size"):
            call("data_certificate_size", context=Context.NON_REPLICATED_QUERY, certificate=None)

    def test_timer(self):
        api = SystemApi(environment(global_timer_ns=7))
        assert (api.global_timer_set(8), api.global_timer_set(0)) == (7, 8)
        assert api.finish().global_timer_ns == 0

    def test_performance_counter(self):
        assert call("performance_counter", 0, call_context_instructions=1_000) == 77
        assert call("performance_counter", 1, call_context_instructions=1_000) == 1_077
        with pytest.raises(CanisterTrap, match="performance counter type 2"):
            call("performance_counter", 2)

    def test_is_controller(self):
        machine = FakeMachine()
        machine.write(0, b"\x04\x05")
        assert call("is_controller", 0, 1, machine=machine) == 1
        assert call("is_controller", 1, 1, machine=machine) == 0
        with pytest.raises(CanisterTrap, match="invalid principal id"):
            call("is_controller", 0, 30)

    def test_replicated(self):
        replicated = {context.value for context in Context if call("in_replicated_execution", context=context)}
        assert replicated == {"I", "G", "U", "RQ", "Ry", "Rt", "C", "T", "s"}

    def test_environment_variables(self):
        machine = FakeMachine()
        machine.write(0, b"b")
        assert call("env_var_count") == 2
        assert call("env_var_name_size", 1) == 1
        call("env_var_name_copy", 1, 9, 0, 1, machine=machine)
        assert machine.read(9, 1) == b"b"
        assert call("env_var_name_exists", 0, 1, machine=machine) == 1
        assert call("env_var_name_exists", 1, 1, machine=machine) == 0
        assert call("env_var_value_size", 0, 1, machine=machine) == 3
        call("env_var_value_copy", 0, 1, 20, 1, 2, machine=machine)
        assert machine.read(20, 2) == b"wo"
        for function, arguments, words in [
            ("env_var_name_size", (2,), "index 2 is out of bounds. The number of environment variables is 2"),
            ("env_var_value_size", (1, 1), "not found"),
            ("env_var_name_exists", (0, 129), "too large"),
            ("env_var_value_copy", (0, 1, 0, 2, 2), "exceeds the slice size=3"),
        ]:
            with pytest.raises(CanisterTrap, match=words):
                call(function, *arguments, machine=machine)
        machine.write(0, b"\xff")
        with pytest.raises(CanisterTrap, match="not a valid UTF-8"):
            call("env_var_name_exists", 0, 1, machine=machine)

    def test_prices(self):
        machine = FakeMachine()
        machine.write(0, b"key_1")
        call("cost_call", 2, 3, 16, machine=machine)
        assert int.from_bytes(machine.read(16, 16), "little") == 1_005
        call("cost_create_canister", 16, machine=machine)
        assert int.from_bytes(machine.read(16, 16), "little") == 500
        call("cost_http_request", 10, 7, 16, machine=machine)
        assert int.from_bytes(machine.read(16, 16), "little") == 37
        for name in ("cost_sign_with_ecdsa", "cost_sign_with_schnorr", "cost_vetkd_derive_key"):
            assert call(name, 0, 5, 0, 32, machine=machine) == 0
            assert call(name, 0, 5, 1, 32, machine=machine) == 1
            assert call(name, 0, 4, 0, 32, machine=machine) == 2
            with pytest.raises(CanisterTrap):
                call(name, 0, 5, 1, WASM_PAGE_BYTES - 8, machine=machine)

    def test_printing_and_trapping(self):
        machine, api = FakeMachine(), SystemApi(environment())
        machine.write(0, b"text\xff")
        call("debug_print", 0, 5, machine=machine, api=api)
        call("debug_print", WASM_PAGE_BYTES, 1, machine=machine, api=api)
        assert api.finish().logs == (b"text\xff", b"(debug_print message out of memory bounds)")
        with pytest.raises(CanisterTrap) as caught:
            call("trap", 0, 5, machine=machine, api=api)
        assert (caught.value.code, caught.value.message) == (TrapCode.CALLED_TRAP, "text�")
        trap = api.fail(caught.value, instructions=9)
        assert (trap.message, trap.instructions, len(trap.logs)) == ("text�", 9, 2)

    def test_minting(self):
        with pytest.raises(CanisterTrap, match="cannot be executed on non Cycles Minting Canister"):
            call("mint_cycles128", 0, 0, 0)
