"""Plumbing: the `ic0` functions as Wasm sees them, addresses and numbers in, copies between memory and `SystemApi`.

`HOST_FUNCTIONS` has one callable for each function of the `ic0` table: ``f(api, machine, *arguments)``, all arguments
unsigned integers of the widths that the table says, the result an unsigned integer or None. Nothing is charged here:
the linked module charges the table's instructions before it calls out. Where a function runs as Wasm instead (stable
memory, the message functions), these are the reference that it must equal.

Spec: "Blob-typed arguments and results" in the interface specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from perdure.canister import MAX_CYCLES, Callback, TrapCode
from perdure.memory import WASM_PAGE_BYTES
from perdure.system_api.api import MAX_TRAP_TEXT_BYTES, SystemApi
from perdure.system_api.wording import CanisterTrap, out_of_range, reply_too_large

__all__ = ["HOST_FUNCTIONS", "HostFunction", "Machine"]

MAX_MEMORY_NAME_BYTES: Final = 64

_MAX_STABLE_WASM_PAGES_32: Final = 65_536
_CYCLES_64_LIMIT: Final = 1 << 64


class Machine(Protocol):
    """What a running instance offers to host functions."""

    @property
    def is_64(self) -> bool:
        """Whether the heap has 64-bit addresses."""
        ...

    def heap_bytes(self) -> int:
        """Size of the heap as it is now."""
        ...

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of heap bytes; the range has been checked."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Write to the heap; the range has been checked."""
        ...

    def instructions_used(self) -> int:
        """Instructions of this entry so far."""
        ...

    def stable_wasm_pages(self) -> int:
        """Size of stable memory as it is now."""
        ...

    def stable_grow(self, wasm_pages: int) -> int:
        """Grow stable memory within limits that have been checked; the old size, or -1 where the host cannot."""
        ...

    def stable_to_heap(self, heap_address: int, stable_address: int, size_bytes: int) -> None:
        """Copy, with page accounting; both ranges have been checked.

        Raises:
            CanisterTrap: a page limit of the message.
        """
        ...

    def heap_to_stable(self, stable_address: int, heap_address: int, size_bytes: int) -> None:
        """Copy, with page accounting and charges; both ranges have been checked.

        Raises:
            CanisterTrap: a page limit of the message.
        """
        ...


HostFunction = Callable[..., int | None]


def _check_heap(what: str, machine: Machine, address: int, size_bytes: int) -> None:
    if address + size_bytes > machine.heap_bytes():
        message = out_of_range(what, address, size_bytes, machine.heap_bytes())
        raise CanisterTrap(TrapCode.CONTRACT_VIOLATION, message)


def _read(what: str, machine: Machine, address: int, size_bytes: int) -> bytes:
    _check_heap(what, machine, address, size_bytes)
    return machine.read(address, size_bytes)


def _write_cycles(function: str, machine: Machine, address: int, amount: int) -> None:
    if address + 16 > machine.heap_bytes():
        raise CanisterTrap(
            TrapCode.CONTRACT_VIOLATION,
            f"{function} failed because dst + size is out of bounds.Found dst = {address} and size = 16 "
            f"while must be <= {machine.heap_bytes()}",
        )
    machine.write(address, min(amount, MAX_CYCLES).to_bytes(16, "little"))  # as the replica, whose sums saturate


def _fits_64(amount: int) -> int:
    if amount >= _CYCLES_64_LIMIT:
        raise CanisterTrap(TrapCode.CYCLES_AMOUNT_TOO_BIG_FOR_64_BIT)
    return amount


# -- blobs that the canister reads: one `_size` and one `_copy` each


def _size(function: str, blob: Callable[[SystemApi], bytes]) -> HostFunction:
    def size(api: SystemApi, machine: Machine) -> int:
        api.check(function)
        return len(blob(api))

    return size


def _copy(function: str, part_name: str, blob: Callable[[SystemApi], bytes]) -> HostFunction:
    heap_name, value_name = f"ic0.{function} heap", f"ic0.{function} {part_name}"

    def copy(api: SystemApi, machine: Machine, destination: int, offset: int, size_bytes: int) -> None:
        data = blob(api)
        _check_heap(heap_name, machine, destination, size_bytes)
        machine.write(destination, api.part(value_name, data, offset, size_bytes))

    return copy


def _data_certificate_copy(api: SystemApi, machine: Machine, destination: int, offset: int, size_bytes: int) -> None:
    certificate = api.data_certificate()
    for name, start, limit in (("offset", offset, len(certificate)), ("dst", destination, machine.heap_bytes())):
        if start + size_bytes > limit:
            raise CanisterTrap(
                TrapCode.CONTRACT_VIOLATION,
                f"ic0_data_certificate_copy failed because {name} + size is out of bounds. Found {name} = {start} "
                f"and size = {size_bytes} while {name} + size must be <= {limit}",
            )
    machine.write(destination, certificate[offset : offset + size_bytes])


_BLOBS: Final[tuple[tuple[str, str, Callable[[SystemApi], bytes]], ...]] = (
    ("msg_arg_data", "payload", SystemApi.msg_arg_data),
    ("msg_caller", "id", SystemApi.msg_caller),
    ("msg_caller_info_data", "info data", SystemApi.msg_caller_info_data),
    ("msg_caller_info_signer", "signer", SystemApi.msg_caller_info_signer),
    ("msg_reject_msg", "msg", SystemApi.msg_reject_msg),
    ("canister_self", "id", SystemApi.canister_self),
    ("subnet_self", "id", SystemApi.subnet_self),
    ("msg_method_name", "payload", SystemApi.msg_method_name),
    ("root_key", "bytes", SystemApi.root_key),
)


# -- responding, calling, printing


def _msg_reply_data_append(api: SystemApi, machine: Machine, source: int, size_bytes: int) -> None:
    api.check_reply_room(size_bytes)
    api.msg_reply_data_append(_read("msg.reply", machine, source, size_bytes))


def _msg_reject(api: SystemApi, machine: Machine, source: int, size_bytes: int) -> None:
    api.check_may_respond("msg_reject")
    if size_bytes > api.env.limits.reply_bytes:
        message = reply_too_large("msg_reject", size_bytes, api.env.limits.reply_bytes)
        raise CanisterTrap(TrapCode.REPLY_TOO_LARGE, message)
    api.msg_reject(_read("ic0.msg_reject", machine, source, size_bytes))


def _call_new(  # noqa: PLR0913, PLR0917 -- the specification's own parameters
    api: SystemApi,
    machine: Machine,
    callee_source: int,
    callee_bytes: int,
    name_source: int,
    name_bytes: int,
    reply_function: int,
    reply_environment: int,
    reject_function: int,
    reject_environment: int,
) -> None:
    api.check("call_new")
    api.check_method_name_bytes(name_bytes)
    name = _read("ic0.call_new method_name", machine, name_source, name_bytes)
    callee = _read("ic0.call_new callee_src", machine, callee_source, callee_bytes)
    on_reply = Callback(reply_function, reply_environment)
    api.call_new(callee, name, on_reply, Callback(reject_function, reject_environment))


def _call_memory_add(
    api: SystemApi, machine: Machine, source: int, size_bytes: int, there_source: int, there_bytes: int
) -> None:
    api.check("call_memory_add")
    names = []
    for at, length in ((source, size_bytes), (there_source, there_bytes)):
        if length > MAX_MEMORY_NAME_BYTES:
            raise CanisterTrap(
                TrapCode.CONTRACT_VIOLATION,
                f"ic0_ext.call_memory_add: a name of {length} bytes, at most {MAX_MEMORY_NAME_BYTES} expected",
            )
        names.append(_read("ic0_ext.call_memory_add", machine, at, length).decode("utf-8", "replace"))
    api.call_memory_add(*names)


def _call_data_append(api: SystemApi, machine: Machine, source: int, size_bytes: int) -> None:
    api.check_payload_room(size_bytes)
    api.call_data_append(_read("ic0.call_data_append", machine, source, size_bytes))


def _certified_data_set(api: SystemApi, machine: Machine, source: int, size_bytes: int) -> None:
    api.check_certified_data_bytes(size_bytes)
    if source + size_bytes > machine.heap_bytes():
        raise CanisterTrap(
            TrapCode.CONTRACT_VIOLATION,
            "ic0_certified_data_set failed because src + size is out of bounds. "
            f"Found src = {source} and size = {size_bytes} while src + size must be <= {machine.heap_bytes()}",
        )
    api.certified_data_set(machine.read(source, size_bytes))


def _debug_print(api: SystemApi, machine: Machine, source: int, size_bytes: int) -> None:
    # "This function never traps, even if the src+size exceeds the size of the memory (in which case system-generated
    # data are used instead)."
    if source + size_bytes > machine.heap_bytes():
        api.debug_print(b"(debug_print message out of memory bounds)")
    else:
        api.debug_print(machine.read(source, min(size_bytes, api.env.limits.log_bytes)))


def _trap(api: SystemApi, machine: Machine, source: int, size_bytes: int) -> None:
    size_bytes = min(size_bytes, MAX_TRAP_TEXT_BYTES)
    if source + size_bytes > machine.heap_bytes():
        raise api.trap(b"(trap message out of memory bounds)")
    raise api.trap(machine.read(source, size_bytes))


def _is_controller(api: SystemApi, machine: Machine, source: int, size_bytes: int) -> int:
    api.check("is_controller")
    return int(api.is_controller(_read("ic0.is_controller", machine, source, size_bytes)))


# -- prices and environment variables


def _cost_sign(function: str) -> HostFunction:
    def cost(api: SystemApi, machine: Machine, source: int, size_bytes: int, algorithm: int, destination: int) -> int:
        api.check(function)
        key_name = _read(f"ic0.{function} heap", machine, source, size_bytes)
        # "These system calls trap if src + size or dst + 16 exceed the size of the WebAssembly memory."
        _check_heap(f"ic0.{function} heap", machine, destination, 16)
        status, cycles = api.cost_sign(function, key_name, algorithm)
        if status == 0:
            _write_cycles(f"ic0_{function}", machine, destination, cycles)
        return status

    return cost


def _env_var_name_copy(
    api: SystemApi, machine: Machine, index: int, destination: int, offset: int, size_bytes: int
) -> None:
    name = api.env_var_name(index)
    _check_heap("ic0.env_var_name_copy heap", machine, destination, size_bytes)
    machine.write(destination, api.part("ic0.env_var_name_copy name", name, offset, size_bytes))


def _variable_name(function: str, part_name: str, api: SystemApi, machine: Machine, at: tuple[int, int]) -> bytes:
    source, size_bytes = at
    api.check_variable_name_bytes(function, size_bytes)
    return _read(f"ic0.{function} {part_name}", machine, source, size_bytes)


def _env_var_name_exists(api: SystemApi, machine: Machine, source: int, size_bytes: int) -> int:
    name = _variable_name("env_var_name_exists", "heap", api, machine, (source, size_bytes))
    return int(api.env_var_name_exists(name))


def _env_var_value_size(api: SystemApi, machine: Machine, source: int, size_bytes: int) -> int:
    name = _variable_name("env_var_value_size", "heap", api, machine, (source, size_bytes))
    return len(api.env_var_value(name, "env_var_value_size"))


def _env_var_value_copy(
    api: SystemApi, machine: Machine, source: int, name_bytes: int, destination: int, offset: int, size_bytes: int
) -> None:
    name = _variable_name("env_var_value_copy", "name", api, machine, (source, name_bytes))
    value = api.env_var_value(name)
    _check_heap("ic0.env_var_value_copy heap", machine, destination, size_bytes)
    machine.write(destination, api.part("ic0.env_var_value_copy value", value, offset, size_bytes))


# -- stable memory: the bodies of the replica, edge cases included


def _check_fits_32(machine: Machine) -> None:
    if machine.stable_wasm_pages() > _MAX_STABLE_WASM_PAGES_32:
        raise CanisterTrap(TrapCode.STABLE_MEMORY_TOO_BIG_FOR_32_BIT)


def _check_copy(machine: Machine, stable_address: int, heap_address: int, size_bytes: int) -> None:
    if stable_address + size_bytes > machine.stable_wasm_pages() * WASM_PAGE_BYTES:
        raise CanisterTrap(TrapCode.STABLE_MEMORY_OUT_OF_BOUNDS)
    if heap_address + size_bytes > machine.heap_bytes():
        raise CanisterTrap(TrapCode.HEAP_OUT_OF_BOUNDS)


def _stable_size(api: SystemApi, machine: Machine) -> int:
    api.check("stable_size")
    _check_fits_32(machine)
    return machine.stable_wasm_pages()


def _grow(api: SystemApi, machine: Machine, wasm_pages: int, failure: int) -> int:
    limits = api.env.limits
    new_wasm_pages = machine.stable_wasm_pages() + wasm_pages
    if new_wasm_pages > limits.stable_wasm_pages:
        return failure
    if new_wasm_pages > limits.stable_trap_wasm_pages:
        raise CanisterTrap(TrapCode(limits.stable_trap_code))
    old_wasm_pages = machine.stable_grow(wasm_pages)
    if old_wasm_pages < 0:
        raise CanisterTrap(TrapCode.STABLE_GROW_FAILED)
    return old_wasm_pages


def _stable_grow(api: SystemApi, machine: Machine, wasm_pages: int) -> int:
    api.check("stable_grow")
    _check_fits_32(machine)
    failure = (1 << 32) - 1
    if machine.stable_wasm_pages() + wasm_pages > _MAX_STABLE_WASM_PAGES_32:
        return failure
    return _grow(api, machine, wasm_pages, failure)


def _stable_write(api: SystemApi, machine: Machine, offset: int, source: int, size_bytes: int) -> None:
    # The 32-bit write checks its range before it looks at the size; the other three do nothing for no bytes.
    api.check("stable_write")
    _check_fits_32(machine)
    if offset + size_bytes > machine.stable_wasm_pages() * WASM_PAGE_BYTES:
        raise CanisterTrap(TrapCode.STABLE_MEMORY_OUT_OF_BOUNDS)
    _copy_to_stable(machine, offset, source, size_bytes)


def _stable_read(api: SystemApi, machine: Machine, destination: int, offset: int, size_bytes: int) -> None:
    api.check("stable_read")
    if size_bytes:
        _check_fits_32(machine)
        _copy_to_heap(machine, destination, offset, size_bytes)


def _copy_to_stable(machine: Machine, offset: int, source: int, size_bytes: int) -> None:
    if size_bytes:
        _check_copy(machine, offset, source, size_bytes)
        machine.heap_to_stable(offset, source, size_bytes)


def _copy_to_heap(machine: Machine, destination: int, offset: int, size_bytes: int) -> None:
    if size_bytes:
        _check_copy(machine, offset, destination, size_bytes)
        machine.stable_to_heap(destination, offset, size_bytes)


def _stable64_size(api: SystemApi, machine: Machine) -> int:
    api.check("stable64_size")
    return machine.stable_wasm_pages()


def _stable64_grow(api: SystemApi, machine: Machine, wasm_pages: int) -> int:
    api.check("stable64_grow")
    return _grow(api, machine, wasm_pages, (1 << 64) - 1)


def _stable64_write(api: SystemApi, machine: Machine, offset: int, source: int, size_bytes: int) -> None:
    api.check("stable64_write")
    _copy_to_stable(machine, offset, source, size_bytes)


def _stable64_read(api: SystemApi, machine: Machine, destination: int, offset: int, size_bytes: int) -> None:
    api.check("stable64_read")
    _copy_to_heap(machine, destination, offset, size_bytes)


# -- numbers


def _cycles(function: str, amount: Callable[[SystemApi], int]) -> HostFunction:
    def write(api: SystemApi, machine: Machine, destination: int) -> None:
        _write_cycles(f"ic0_{function}", machine, destination, amount(api))

    return write


def _moved_cycles(function: str, move: Callable[[SystemApi, int], int]) -> HostFunction:
    def write(api: SystemApi, machine: Machine, high: int, low: int, destination: int) -> None:
        _write_cycles(f"ic0_{function}", machine, destination, move(api, high << 64 | low))

    return write


def _priced(function: str, price: Callable[[SystemApi, int, int], int]) -> HostFunction:
    def write(api: SystemApi, machine: Machine, first: int, second: int, destination: int) -> None:
        _write_cycles(f"ic0_{function}", machine, destination, price(api, first, second))

    return write


def _number(value: Callable[..., int | None]) -> HostFunction:
    """A function that needs no memory: its arguments go straight to a method of `SystemApi`."""

    def call(api: SystemApi, machine: Machine, *arguments: int) -> int | None:
        result = value(api, *arguments)
        return None if result is None else int(result)

    return call


def _unspecified(function: str) -> HostFunction:
    def refuse(api: SystemApi, machine: Machine, *arguments: int) -> None:
        api.check(function)
        raise CanisterTrap(TrapCode.CONTRACT_VIOLATION, f"ic0.{function} is in no specification and not offered")

    return refuse


HOST_FUNCTIONS: Final[Mapping[str, HostFunction]] = {
    **{f"{name}_size": _size(f"{name}_size", blob) for name, _, blob in _BLOBS},
    **{f"{name}_copy": _copy(f"{name}_copy", part_name, blob) for name, part_name, blob in _BLOBS},
    "msg_reject_code": _number(SystemApi.msg_reject_code),
    "msg_deadline": _number(SystemApi.msg_deadline),
    "msg_reply_data_append": _msg_reply_data_append,
    "msg_reply": _number(SystemApi.msg_reply),
    "msg_reject": _msg_reject,
    "msg_cycles_available128": _cycles("msg_cycles_available128", SystemApi.msg_cycles_available),
    "msg_cycles_refunded128": _cycles("msg_cycles_refunded128", SystemApi.msg_cycles_refunded),
    "msg_cycles_accept128": _moved_cycles("msg_cycles_accept128", SystemApi.msg_cycles_accept),
    "cycles_burn128": _moved_cycles("cycles_burn128", SystemApi.cycles_burn),
    "canister_cycle_balance128": _cycles("canister_cycle_balance128", SystemApi.canister_cycle_balance),
    "canister_liquid_cycle_balance128": _cycles(
        "canister_liquid_cycle_balance128", SystemApi.canister_liquid_cycle_balance
    ),
    "canister_status": _number(SystemApi.canister_status),
    "canister_version": _number(SystemApi.canister_version),
    "accept_message": _number(SystemApi.accept_message),
    "call_new": _call_new,
    "call_on_cleanup": _number(lambda api, function, environment: api.call_on_cleanup(Callback(function, environment))),
    "call_data_append": _call_data_append,
    "call_with_best_effort_response": _number(SystemApi.call_with_best_effort_response),
    "call_cycles_add128": _number(lambda api, high, low: api.call_cycles_add(high << 64 | low)),
    "call_perform": _number(SystemApi.call_perform),
    "call_memory_add": _call_memory_add,
    "stable64_size": _stable64_size,
    "stable64_grow": _stable64_grow,
    "stable64_write": _stable64_write,
    "stable64_read": _stable64_read,
    "certified_data_set": _certified_data_set,
    "data_certificate_present": _number(SystemApi.data_certificate_present),
    "data_certificate_size": _number(lambda api: len(api.data_certificate("data_certificate_size"))),
    "data_certificate_copy": _data_certificate_copy,
    "time": _number(SystemApi.time),
    "global_timer_set": _number(SystemApi.global_timer_set),
    "performance_counter": lambda api, machine, counter_type: api.performance_counter(
        counter_type, machine.instructions_used()
    ),
    "is_controller": _is_controller,
    "in_replicated_execution": _number(SystemApi.in_replicated_execution),
    "cost_call": _priced("cost_call", SystemApi.cost_call),
    "cost_create_canister": _cycles("cost_create_canister", SystemApi.cost_create_canister),
    "cost_http_request": _priced("cost_http_request", SystemApi.cost_http_request),
    "cost_sign_with_ecdsa": _cost_sign("cost_sign_with_ecdsa"),
    "cost_sign_with_schnorr": _cost_sign("cost_sign_with_schnorr"),
    "cost_vetkd_derive_key": _cost_sign("cost_vetkd_derive_key"),
    "env_var_count": _number(SystemApi.env_var_count),
    "env_var_name_size": _number(lambda api, index: len(api.env_var_name(index, "env_var_name_size"))),
    "env_var_name_copy": _env_var_name_copy,
    "env_var_name_exists": _env_var_name_exists,
    "env_var_value_size": _env_var_value_size,
    "env_var_value_copy": _env_var_value_copy,
    "debug_print": _debug_print,
    "trap": _trap,
    "msg_cycles_available": _number(lambda api: _fits_64(api.msg_cycles_available("msg_cycles_available"))),
    "msg_cycles_refunded": _number(lambda api: _fits_64(api.msg_cycles_refunded("msg_cycles_refunded"))),
    "msg_cycles_accept": _number(lambda api, most: api.msg_cycles_accept(most, "msg_cycles_accept")),
    "canister_cycle_balance": _number(lambda api: _fits_64(api.canister_cycle_balance("canister_cycle_balance"))),
    "call_cycles_add": _number(lambda api, amount: api.call_cycles_add(amount, "call_cycles_add")),
    "stable_size": _stable_size,
    "stable_grow": _stable_grow,
    "stable_write": _stable_write,
    "stable_read": _stable_read,
    "mint_cycles128": lambda api, machine, high, low, destination: api.mint_cycles("mint_cycles128"),
    "mint_cycles": lambda api, machine, amount: api.mint_cycles("mint_cycles"),
    "cost_http_request_v2": _unspecified("cost_http_request_v2"),
}
"""By name: the 74 functions of the specification and those of `NON_SPECIFIED`."""
