"""The schema of what is kept of a subnet's state, version 1: numbered fields, types, and defaults as they are written.

Numbers are for good: a field that goes keeps its number free for ever. A change is a new version with a migration in
`MIGRATIONS`, and a golden directory of the old one stays in the tests. `perdure.record` says how types are written.

Where a mapping's order is state, it is said here: ``ic0.env_var_name_copy`` numbers environment variables in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from perdure.canister import Callback, CanisterStatus, GlobalValue, Reject, Reply
from perdure.execution.messages import CallContext, CallMessage, FromCanister, FromUser, OpenCall, ResponseMessage
from perdure.execution.state import CanisterLog, Change, HookStatus, LogRecord, Settings, StopRequest, Visibility
from perdure.record import (
    BOOL,
    PLAIN,
    TEXT,
    Coder,
    Field,
    Format,
    Migration,
    Table,
    blob,
    integer,
    mapping,
    nat,
    optional,
    row,
    sequence,
    sorted_mapping,
    sorted_set,
    structure,
    union,
)

__all__ = ["CANISTER", "FORMAT", "RESPONSE", "SNAPSHOT", "SUBNET"]

SUBNET, CANISTER, SNAPSHOT = 1, 2, 3
"""Kinds of records."""

_NAT32, _NAT64, _CYCLES = nat(32), nat(64), nat(256)
_BYTES = blob()
_ID = blob(0, 29)
_HASH = blob(32, 32)
_REQUEST_ID = blob(1, 64)
_STATUS = integer(min(CanisterStatus), max(CanisterStatus), CanisterStatus)
_HOOK = integer(min(HookStatus), max(HookStatus), HookStatus)

_VISIBILITY = row(Visibility, ("kind", TEXT), ("viewers", sequence(_ID, tuple)))
_CONTROLLERS_ONLY = ["controllers", []]
_GLOBAL = row(GlobalValue, ("type", TEXT), ("bits", blob(4, 16)))
_CALLBACK = row(Callback, ("table index", _NAT64), ("environment", _NAT64))
_REJECT = row(Reject, ("code", _NAT32), ("message", TEXT), ("error code", TEXT), ("backtrace", sequence(TEXT, tuple)))
RESPONSE: Final[Coder] = union({0: (Reply, row(Reply, ("data", _BYTES))), 1: (Reject, _REJECT)})
"""An answer, as it is kept."""
_ORIGIN = union(
    {
        0: (FromUser, row(FromUser, ("request id", _REQUEST_ID))),
        1: (FromCanister, row(FromCanister, ("canister", _ID), ("call", _NAT64), ("deadline", _NAT64))),
    }
)
_CALL = structure(
    CallMessage,
    Table(
        "call",
        Field(1, "origin", _ORIGIN),
        Field(2, "caller", _ID),
        Field(3, "callee", _ID),
        Field(4, "method_name", TEXT),
        Field(5, "arg", _BYTES, b""),
        Field(6, "cycles", _CYCLES, 0),
        Field(7, "caller_info_data", _BYTES, b""),
        Field(8, "caller_info_signer", _BYTES, b""),
    ),
)
_RESPONSE_MESSAGE = structure(
    ResponseMessage,
    Table(
        "response",
        Field(1, "receiver", _ID),
        Field(2, "call_id", _NAT64),
        Field(3, "response", RESPONSE),
        Field(4, "refund", _CYCLES, 0),
    ),
)
_MESSAGE = union({0: (CallMessage, _CALL), 1: (ResponseMessage, _RESPONSE_MESSAGE)})
_CONTEXT = structure(
    CallContext,
    Table(
        "call context",
        Field(1, "context_id", _NAT64),
        Field(2, "origin", optional(_ORIGIN), None),
        Field(3, "caller", _ID),
        Field(4, "needs_to_respond", BOOL, False),
        Field(5, "available_cycles", _CYCLES, 0),
        Field(6, "caller_info_data", _BYTES, b""),
        Field(7, "caller_info_signer", _BYTES, b""),
        Field(8, "deadline_ns", _NAT64, 0),
        Field(9, "open_calls", _NAT64, 0),
        Field(10, "instructions", _NAT64, 0),
        Field(11, "deleted", BOOL, False),
        Field(12, "trap", optional(_REJECT), None),
    ),
)
_OPEN_CALL = structure(
    OpenCall,
    Table(
        "open call",
        Field(1, "context_id", _NAT64),
        Field(2, "callee", _ID),
        Field(3, "cycles", _CYCLES, 0),
        Field(4, "prepaid_execution", _CYCLES, 0),
        Field(5, "prepaid_transmission", _CYCLES, 0),
        Field(6, "deadline_ns", _NAT64, 0),
        Field(7, "on_reply", _CALLBACK),
        Field(8, "on_reject", _CALLBACK),
        Field(9, "on_cleanup", optional(_CALLBACK), None),
    ),
)
_SETTINGS = structure(
    Settings,
    Table(
        "settings",
        Field(1, "controllers", sequence(_ID, tuple), []),
        Field(2, "compute_allocation", _NAT64, 0),
        Field(3, "memory_allocation", _NAT64, 0),
        Field(4, "freezing_threshold", _NAT64, 2_592_000),
        Field(5, "reserved_cycles_limit", _CYCLES, 5_000_000_000_000),
        Field(6, "minimum_incoming_canister_call_cycles", _CYCLES, 0),
        Field(7, "log_visibility", _VISIBILITY, _CONTROLLERS_ONLY),
        Field(8, "snapshot_visibility", _VISIBILITY, _CONTROLLERS_ONLY),
        Field(9, "status_visibility", _VISIBILITY, _CONTROLLERS_ONLY),
        Field(10, "wasm_memory_limit", _NAT64, 3 << 30),
        Field(11, "wasm_memory_threshold", _NAT64, 0),
        Field(12, "environment_variables", mapping(TEXT, TEXT), []),
        Field(13, "log_memory_limit", _NAT64, 4 << 10),
    ),
)
_STOP_REQUEST = structure(
    StopRequest,
    Table("stop request", Field(1, "origin", _ORIGIN), Field(2, "cycles", _CYCLES, 0), Field(3, "deadline_ns", _NAT64)),
)
_LOG_LINE = row(LogRecord, ("sequence", _NAT64), ("time", _NAT64), ("content", _BYTES))
_LOG = structure(
    CanisterLog,
    Table(
        "log",
        Field(1, "records", sequence(_LOG_LINE, deque), []),
        Field(2, "next_index", _NAT64, 0),
        Field(3, "size_bytes", _NAT64, 0),
    ),
)
_CHANGE = row(
    Change,
    ("time", _NAT64),
    ("canister version", _NAT64),
    ("origin", _ID),
    ("origin version", optional(integer(-1, (1 << 64) - 1))),
    ("details", row(lambda *parts: parts, ("kind", TEXT), ("more", PLAIN))),
)
_STATISTICS = row(
    lambda *parts: list(parts), ("calls", _CYCLES), ("instructions", _CYCLES), ("in", _CYCLES), ("out", _CYCLES)
)

_CANISTER = Table(
    "canister record",
    Field(1, "canister_id", _ID),
    Field(2, "status", _STATUS, attribute="facts.status"),
    Field(3, "canister_version", _NAT64, 0, "facts.version"),
    Field(4, "module_hash", optional(_HASH), None),
    Field(5, "chunk_hashes", sequence(_HASH, tuple), []),
    Field(6, "snapshot_ids", sequence(blob(1, 64), tuple), []),
    Field(7, "settings", _SETTINGS),
    Field(8, "cycles", _CYCLES, 0),
    Field(9, "reserved_cycles", _CYCLES, 0),
    Field(10, "heap_wasm_pages", _NAT64, 0),
    Field(11, "stable_wasm_pages", _NAT64, 0),
    Field(12, "certified_data", blob(0, 32), b""),
    Field(13, "global_timer_ns", _NAT64, 0),
    Field(14, "hook_status", _HOOK, 0),
    Field(15, "inputs", sequence(_MESSAGE, deque), []),
    Field(16, "contexts", sorted_mapping(_NAT64, _CONTEXT), []),
    Field(17, "open_calls", sorted_mapping(_NAT64, _OPEN_CALL), []),
    Field(18, "open_calls_to", sorted_mapping(_ID, _NAT64), []),
    Field(19, "next_context_id", _NAT64, 1),
    Field(20, "next_call_id", _NAT64, 1),
    Field(21, "stop_requests", sequence(_STOP_REQUEST), []),
    Field(22, "log", _LOG, {}),
    Field(23, "history", sequence(_CHANGE), []),
    Field(24, "total_changes", _NAT64, 0),
    Field(25, "next_snapshot", _NAT64, 0),
    Field(26, "charged_until_ns", _NAT64, 0),
    Field(27, "query_statistics", _STATISTICS, [0, 0, 0, 0]),
)
_SUBNET = Table(
    "subnet record",
    Field(1, "subnet_id", _ID, b""),
    Field(2, "root_key", _BYTES, b""),
    Field(3, "time_ns", _NAT64, 1_620_328_630_000_000_000),
    Field(4, "seed", _BYTES, b""),
    Field(5, "random_counter", _NAT64, 0),
    Field(6, "round_number", _NAT64, 0),
    Field(7, "next_canister_index", _NAT64, 0),
    Field(8, "next_request_number", _NAT64, 1),
    Field(9, "outbox", sequence(_MESSAGE), []),
    Field(10, "management_calls", sequence(_CALL, deque), []),
    Field(11, "task_canisters", sorted_set(_ID), []),
    Field(12, "minted_cycles", _CYCLES, 0),
    Field(13, "consumed_cycles", _CYCLES, 0),
    Field(14, "lost_cycles", _CYCLES, 0),
    Field(15, "ingress.callees", sorted_mapping(_REQUEST_ID, _ID), []),
)
_SNAPSHOT = Table(
    "snapshot record",
    Field(1, "snapshot_id", blob(1, 64)),
    Field(2, "taken_at_ns", _NAT64),
    Field(3, "uploaded", BOOL, False),
    Field(4, "wasm", blob(make=bytearray), b""),
    Field(5, "heap_bytes", _NAT64, 0),
    Field(6, "stable_bytes", _NAT64, 0),
    Field(7, "global_values", sequence(_GLOBAL, tuple), []),
    Field(8, "certified_data", blob(0, 32), b""),
    Field(9, "chunk_store", sorted_mapping(_HASH, _BYTES), []),
    Field(10, "canister_version", _NAT64, 0),
    Field(11, "global_timer_ns", optional(_NAT64), None),
    Field(12, "hook_status", optional(_HOOK), None),
)

MIGRATIONS: Final[Mapping[int, Migration]] = {}
"""From each older version to the next; there is none yet."""

FORMAT: Final = Format("record", 1, {SUBNET: _SUBNET, CANISTER: _CANISTER, SNAPSHOT: _SNAPSHOT}, MIGRATIONS)
