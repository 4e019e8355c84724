"""The table of `ic0` functions: names, types, contexts, costs. Code, tests and docs read this one table.

A type is written as the interface specification writes it: ``I`` is `i32`, or `i64` where the module's memory is
64-bit. Contexts are the specification's letters (`perdure.canister.Context`); ``*`` is every context but start.

Spec: "System imports" in the interface specification 0.66.0. Costs: `system_api_complexity.rs` of the replica
(late 2025), instructions of the linked, not native, path. Charges by the byte: its `linker.rs`, the same at 0048d8c4
(2026) as at 6b857d45 (late 2025), so they are the same under every schedule of `instrument.costs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = [
    "ALL_CONTEXTS",
    "FUNCTIONS",
    "LOG_ALLOCATION_INSTRUCTIONS",
    "NON_SPECIFIED",
    "START_CONTEXTS",
    "TRANSMISSION_INSTRUCTIONS",
    "ByteCharge",
    "SystemFunction",
]

ALL_CONTEXTS = frozenset(["I", "G", "U", "RQ", "NRQ", "TQ", "CQ", "Ry", "Rt", "CRy", "CRt", "C", "CC", "F", "T"])
START_CONTEXTS = ALL_CONTEXTS | {"s"}

TRANSMISSION_INSTRUCTIONS = 50
"""For each byte that leaves the canister: in a reply, a reject text, a call's argument, a line of the log."""
LOG_ALLOCATION_INSTRUCTIONS = 2
"""For each byte of a line in the log: once for it, once for the oldest that goes."""


class ByteCharge(NamedTuple):
    """What the bytes of one parameter cost."""

    parameter: int
    """Index of the parameter whose value is the number of bytes."""
    kind: str
    """``copy``: 1 instruction a byte; ``send``: `TRANSMISSION_INSTRUCTIONS`; ``log``: for the log, as much as fits it;
    ``print``: 1 where printing is on."""


class SystemFunction(NamedTuple):
    """One function that a canister may import from ``ic0``."""

    name: str
    parameters: tuple[str, ...]
    result: str | None
    contexts: frozenset[str]
    instructions: int
    byte_charges: tuple[ByteCharge, ...]
    """What is charged by the byte on top."""
    only_32_bit: bool
    specified: bool

    def params(self, is_64: bool) -> tuple[str, ...]:
        """Parameter types, `i32` or `i64`, for a heap of this width."""
        return tuple(_pointer(value_type, is_64) for value_type in self.parameters)

    def results(self, is_64: bool) -> tuple[str, ...]:
        """Result types, none or one."""
        return () if self.result is None else (_pointer(self.result, is_64),)


def _pointer(value_type: str, is_64: bool) -> str:
    return value_type if value_type != "I" else ("i64" if is_64 else "i32")


_MESSAGE = "U RQ NRQ TQ CQ Ry Rt CRy CRt"
_WITH_ARGUMENT = "I U RQ NRQ TQ CQ Ry CRy F"
_CALLER_INFO = "U RQ NRQ CQ Ry Rt CRy CRt C CC F"
_CALLING = "U CQ Ry Rt CRy CRt T"
_REPLICATED = "I G U RQ Ry Rt C T"
_ACCEPTING = "U RQ Rt Ry"

# name, parameters -> result, contexts, instructions, and after each comma a parameter whose bytes are charged, and how
# (copy, where nothing is said).
_TABLE = f"""
msg_arg_data_size               -> I                    | {_WITH_ARGUMENT}      | 500
msg_arg_data_copy               I I I                   | {_WITH_ARGUMENT}      | 500,2
msg_caller_size                 -> I                    | *                     | 500
msg_caller_copy                 I I I                   | *                     | 500,2
msg_caller_info_data_size       -> I                    | {_CALLER_INFO}        | 500
msg_caller_info_data_copy       I I I                   | {_CALLER_INFO}        | 500,2
msg_caller_info_signer_size     -> I                    | {_CALLER_INFO}        | 500
msg_caller_info_signer_copy     I I I                   | {_CALLER_INFO}        | 500,2
msg_reject_code                 -> i32                  | Ry Rt CRy CRt C       | 500
msg_reject_msg_size             -> I                    | Rt CRt                | 500
msg_reject_msg_copy             I I I                   | Rt CRt                | 500,2
msg_deadline                    -> i64                  | {_MESSAGE}            | 500
msg_reply_data_append           I I                     | {_MESSAGE}            | 500,1 send
msg_reply                                               | {_MESSAGE}            | 500
msg_reject                      I I                     | {_MESSAGE}            | 500,1 send
msg_cycles_available128         I                       | {_ACCEPTING}          | 500
msg_cycles_refunded128          I                       | Rt Ry                 | 500
msg_cycles_accept128            i64 i64 I               | {_ACCEPTING}          | 500
cycles_burn128                  i64 i64 I               | {_REPLICATED}         | 500
canister_self_size              -> I                    | *                     | 500
canister_self_copy              I I I                   | *                     | 500,2
canister_cycle_balance128       I                       | *                     | 500
canister_liquid_cycle_balance128 I                      | *                     | 500
canister_status                 -> i32                  | *                     | 500
canister_version                -> i64                  | *                     | 500
subnet_self_size                -> I                    | *                     | 500
subnet_self_copy                I I I                   | *                     | 500,2
msg_method_name_size            -> I                    | F                     | 500
msg_method_name_copy            I I I                   | F                     | 500,2
accept_message                                          | F                     | 500
call_new                        I I I I I I I I         | {_CALLING}            | 1500,1,3
call_on_cleanup                 I I                     | {_CALLING}            | 500
call_data_append                I I                     | {_CALLING}            | 500,1 send
call_with_best_effort_response  i32                     | {_CALLING}            | 500
call_cycles_add128              i64 i64                 | U Ry Rt T             | 500
call_perform                    -> i32                  | {_CALLING}            | 5000
stable64_size                   -> i64                  | * s                   | 0
stable64_grow                   i64 -> i64              | * s                   | 100
stable64_write                  i64 i64 i64             | * s                   | 20,2
stable64_read                   i64 i64 i64             | * s                   | 20,2
root_key_size                   -> I                    | {_REPLICATED}         | 500
root_key_copy                   I I I                   | {_REPLICATED}         | 500,2
certified_data_set              I I                     | I G U Ry Rt T         | 500,1
data_certificate_present        -> i32                  | *                     | 500
data_certificate_size           -> I                    | NRQ CQ                | 500
data_certificate_copy           I I I                   | NRQ CQ                | 500,2
time                            -> i64                  | *                     | 500
global_timer_set                i64 -> i64              | I G U Ry Rt C T       | 500
performance_counter             i32 -> i64              | * s                   | 200
is_controller                   I I -> i32              | * s                   | 1000,1
in_replicated_execution         -> i32                  | * s                   | 500
cost_call                       i64 i64 I               | * s                   | 500
cost_create_canister            I                       | * s                   | 500
cost_http_request               i64 i64 I               | * s                   | 500
cost_sign_with_ecdsa            I I i32 I -> i32        | * s                   | 500,1
cost_sign_with_schnorr          I I i32 I -> i32        | * s                   | 500,1
cost_vetkd_derive_key           I I i32 I -> i32        | * s                   | 500,1
env_var_count                   -> I                    | *                     | 500
env_var_name_size               I -> I                  | *                     | 500
env_var_name_copy               I I I I                 | *                     | 500,3
env_var_name_exists             I I -> i32              | *                     | 500
env_var_value_size              I I -> I                | *                     | 500
env_var_value_copy              I I I I I               | *                     | 500,4
debug_print                     I I                     | * s                   | 100,1 log,1 print
trap                            I I                     | * s                   | 500,1,1 log
"""

_TABLE_32_BIT = f"""
msg_cycles_available            -> i64                  | {_ACCEPTING}          | 500
msg_cycles_refunded             -> i64                  | Rt Ry                 | 500
msg_cycles_accept               i64 -> i64              | {_ACCEPTING}          | 500
canister_cycle_balance          -> i64                  | *                     | 500
call_cycles_add                 i64                     | U Ry Rt T             | 500
stable_size                     -> i32                  | * s                   | 0
stable_grow                     i32 -> i32              | * s                   | 100
stable_write                    i32 i32 i32             | * s                   | 20,2
stable_read                     i32 i32 i32             | * s                   | 20,2
"""

# Linked by the replica or imported by modules in use, but in no specification: each traps when called.
_TABLE_NON_SPECIFIED = """
mint_cycles128                  i64 i64 I               | U Ry Rt T             | 0
cost_http_request_v2            I I I                   | * s                   | 10000
"""
_TABLE_NON_SPECIFIED_32_BIT = """
mint_cycles                     i64 -> i64              | U Ry Rt T             | 0
"""


def _parse(row: str, *, only_32_bit: bool, specified: bool) -> SystemFunction:
    signature, contexts, cost = (cell.strip() for cell in row.split("|"))
    name, _, types = signature.partition(" ")
    parameters, _, result = types.partition("->")
    instructions, *charges = cost.split(",")
    return SystemFunction(
        name=name,
        parameters=tuple(parameters.split()),
        result=result.strip() or None,
        contexts=START_CONTEXTS
        if contexts == "* s"
        else ALL_CONTEXTS
        if contexts == "*"
        else frozenset(contexts.split()),
        instructions=int(instructions),
        byte_charges=tuple(_byte_charge(charge) for charge in charges),
        only_32_bit=only_32_bit,
        specified=specified,
    )


def _byte_charge(text: str) -> ByteCharge:
    parameter, _, kind = text.partition(" ")
    return ByteCharge(int(parameter), kind or "copy")


def _table(text: str, *, only_32_bit: bool = False, specified: bool = True) -> dict[str, SystemFunction]:
    rows = (_parse(row, only_32_bit=only_32_bit, specified=specified) for row in text.strip().splitlines())
    return {row.name: row for row in rows}


FUNCTIONS: Mapping[str, SystemFunction] = {**_table(_TABLE), **_table(_TABLE_32_BIT, only_32_bit=True)}
"""The 74 functions of the specification, in its order, by name."""

NON_SPECIFIED: Mapping[str, SystemFunction] = {
    **_table(_TABLE_NON_SPECIFIED, specified=False),
    **_table(_TABLE_NON_SPECIFIED_32_BIT, only_32_bit=True, specified=False),
}
"""Functions that real modules import and no specification names."""
