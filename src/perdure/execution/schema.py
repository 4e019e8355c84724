"""The schema of what is kept of a subnet's state, version 1: numbered fields, types, and defaults as they are written.

Numbers are for good: a field that goes keeps its number free for ever. A change is a new version with a migration in
`MIGRATIONS`, and a golden directory of the old one stays in the tests. `perdure.record` says how types are written.

Where a mapping's order is state, it is said here: ``ic0.env_var_name_copy`` numbers environment variables in it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from hashlib import sha256
from typing import Final, get_args

from perdure.canister import Callback, CanisterStatus, GlobalValue, Lifetime, Reject, Reply, wrong_global
from perdure.errors import MalformedError
from perdure.execution.messages import (
    CallContext,
    CallMessage,
    FromCanister,
    FromUser,
    OpenCall,
    Outcall,
    RefundMessage,
    ResponseMessage,
)
from perdure.execution.state import (
    CanisterLog,
    Change,
    HookStatus,
    LogRecord,
    OwnMemory,
    Settings,
    StopRequest,
    Use,
    Visibility,
    XNetStream,
)
from perdure.ic.reject import RejectCode
from perdure.record import (
    BOOL,
    PLAIN,
    TEXT,
    Coder,
    Field,
    Format,
    Migration,
    Plain,
    Table,
    blob,
    integer,
    mapping,
    nat,
    one_of,
    optional,
    row,
    sequence,
    sorted_mapping,
    sorted_set,
    structure,
    union,
)

__all__ = ["CANISTER", "FORMAT", "OWNER", "RESPONSE", "SLICE", "SNAPSHOT", "SUBNET"]

SUBNET, CANISTER, SNAPSHOT = 1, 2, 3
"""Kinds of records."""

_NAT32, _NAT64, _CYCLES = nat(32), nat(64), nat(256)
_COUNT = nat(62)
"""What is counted up, and times in ns: one more of it fits into 64 bits, whatever is added."""
_PAGES, _BYTE_COUNT = integer(0, 1 << 24), integer(0, 1 << 40)
_BYTES = blob()
_ID = blob(0, 29)
_HASH = blob(32, 32)
_REQUEST_ID = blob(1, 64)
_REJECT_CODE = integer(min(RejectCode), max(RejectCode))
_STATUS = integer(min(CanisterStatus), max(CanisterStatus), CanisterStatus)
_HOOK = integer(min(HookStatus), max(HookStatus), HookStatus)

_VISIBILITY = row(
    Visibility,
    ("kind", one_of("controllers", "public", "allowed_viewers")),
    ("viewers", sequence(_ID, tuple)),
    rules=(lambda it: "viewers of what is not for them" if it.viewers and it.kind != "allowed_viewers" else None,),
)
_CONTROLLERS_ONLY = ["controllers", []]
_GLOBAL = row(GlobalValue, ("type", TEXT), ("bits", _BYTES), rules=(wrong_global,))
_CALLBACK = row(Callback, ("table index", _NAT64), ("environment", _NAT64))
_REJECT = row(
    Reject, ("code", _REJECT_CODE), ("message", TEXT), ("error code", TEXT), ("backtrace", sequence(TEXT, tuple))
)
RESPONSE: Final[Coder] = union({0: (Reply, row(Reply, ("data", _BYTES))), 1: (Reject, _REJECT)})
"""An answer, as it is kept."""
OWNER: Final[Coder] = row(lambda *parts: parts, ("sender", _ID), ("effective canister id", _ID))
"""Who may ask what became of a request."""
_ORIGIN = union(
    {
        0: (FromUser, row(FromUser, ("request id", _REQUEST_ID))),
        1: (FromCanister, row(FromCanister, ("canister", _ID), ("call", _COUNT), ("deadline", _COUNT))),
    }
)


def _sender(call: dict[str, Plain]) -> str | None:
    origin, caller = call["origin"], call["caller"]
    if isinstance(origin, FromCanister) and origin.canister_id != caller:
        return f"sent by {origin.canister_id.hex()}, the caller is {caller.hex()}"
    return None


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
        rules=(_sender,),
    ),
)
_RESPONSE_MESSAGE = structure(
    ResponseMessage,
    Table(
        "response",
        Field(1, "receiver", _ID),
        Field(2, "call_id", _COUNT),
        Field(3, "response", RESPONSE),
        Field(4, "refund", _CYCLES, 0),
    ),
)
_REFUND_MESSAGE = structure(RefundMessage, Table("refund", Field(1, "receiver", _ID), Field(2, "cycles", _CYCLES, 0)))
_INPUT = union({0: (CallMessage, _CALL), 1: (ResponseMessage, _RESPONSE_MESSAGE)})
_MESSAGE = union(
    {0: (CallMessage, _CALL), 1: (ResponseMessage, _RESPONSE_MESSAGE), 2: (RefundMessage, _REFUND_MESSAGE)}
)
_MESSAGES = sequence(_MESSAGE, tuple)
_CONTEXT = structure(
    CallContext,
    Table(
        "call context",
        Field(1, "context_id", _COUNT),
        Field(2, "origin", optional(_ORIGIN), None),
        Field(3, "caller", _ID),
        Field(4, "needs_to_respond", BOOL, False),
        Field(5, "available_cycles", _CYCLES, 0),
        Field(6, "caller_info_data", _BYTES, b""),
        Field(7, "caller_info_signer", _BYTES, b""),
        Field(8, "deadline_ns", _COUNT, 0),
        Field(9, "open_calls", _COUNT, 0),
        Field(10, "instructions", _COUNT, 0),
        Field(11, "deleted", BOOL, False),
        Field(12, "trap", optional(_REJECT), None),
        rules=(
            lambda it: "nobody waits for what is owed" if it["needs_to_respond"] and it["origin"] is None else None,
            lambda it: None if it["open_calls"] else "neither run nor waited for: it has no open calls",
        ),
    ),
)
_OPEN_CALL = structure(
    OpenCall,
    Table(
        "open call",
        Field(1, "context_id", _COUNT),
        Field(2, "callee", _ID),
        Field(3, "cycles", _CYCLES, 0),
        Field(4, "prepaid_execution", _CYCLES, 0),
        Field(5, "prepaid_transmission", _CYCLES, 0),
        Field(6, "deadline_ns", _COUNT, 0),
        Field(7, "on_reply", _CALLBACK),
        Field(8, "on_reject", _CALLBACK),
        Field(9, "on_cleanup", optional(_CALLBACK), None),
    ),
)
_OUTCALL = structure(
    Outcall,
    Table(
        "outcall",
        Field(1, "origin", _ORIGIN),
        Field(2, "caller", _ID),
        Field(3, "method_name", one_of("http_request", "flexible_http_request")),
        Field(4, "arg", _BYTES),
        Field(5, "cycles", _CYCLES, 0),
        Field(6, "deadline_ns", _COUNT),
        rules=(_sender,),
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
    Table("stop request", Field(1, "origin", _ORIGIN), Field(2, "cycles", _CYCLES, 0), Field(3, "deadline_ns", _COUNT)),
)
_LOG_LINE = row(LogRecord, ("sequence", _COUNT), ("time", _COUNT), ("content", _BYTES))


def _log(log: dict[str, Plain]) -> str | None:
    """The lines are those that the log counts, and older than the next one."""
    sequences = [line.sequence for line in log["records"]]
    if sequences != sorted(set(sequences)) or (sequences and sequences[-1] >= log["next_index"]):
        return f"lines {sequences[:5]}, the next one is {log['next_index']}"
    size_bytes = CanisterLog.size_of(log["records"])
    return None if size_bytes == log["size_bytes"] else f"{size_bytes} bytes of lines, {log['size_bytes']} counted"


_LOG = structure(
    CanisterLog,
    Table(
        "log",
        Field(1, "records", sequence(_LOG_LINE, deque), []),
        Field(2, "next_index", _COUNT, 0),
        Field(3, "size_bytes", _COUNT, 0),
        rules=(_log,),
    ),
)
_DETAILS: Final[Mapping[str, Mapping[str, Coder]]] = {
    "creation": {"controllers": sequence(_ID)},
    "code_uninstall": {},
    "code_deployment": {"mode": one_of("install", "reinstall", "upgrade"), "module_hash": _HASH},
    "load_snapshot": {
        "canister_version": _NAT64,
        "snapshot_id": blob(1, 64),
        "taken_at_timestamp": _NAT64,
        "source": one_of("taken_from_canister", "metadata_upload"),
    },
    "controllers_change": {"controllers": sequence(_ID)},
}
"""Kinds of changes, and what goes with each."""


def _decode_details(value: object, where: str) -> tuple[str, dict[str, Plain]]:
    kind, details = _TOLD.decode(value, where)
    parts = _DETAILS[kind]
    if type(details) is not dict or details.keys() != parts.keys():
        raise MalformedError(f"{where} of a {kind} is {str(details)[:80]}, expected {', '.join(parts) or 'nothing'}")
    return kind, {name: parts[name].decode(one, f"{where}.{name}") for name, one in details.items()}


_TOLD = row(lambda *parts: parts, ("kind", one_of(*_DETAILS)), ("more", PLAIN))
_CHANGE = row(
    Change,
    ("time", _COUNT),
    ("canister version", _COUNT),
    ("origin", _ID),
    ("origin version", optional(integer(-1, (1 << 64) - 1))),
    ("details", Coder(_TOLD.encode, _decode_details)),
)
_STATISTICS = row(
    lambda *parts: list(parts), ("calls", _CYCLES), ("instructions", _CYCLES), ("in", _CYCLES), ("out", _CYCLES)
)

_CONSUMED = row(lambda *parts: list(parts), *((use.name.lower(), _CYCLES) for use in Use))


def _contexts(canister: dict[str, Plain]) -> str | None:
    """Contexts and open calls are those of each other, and older than the next ones."""
    contexts, calls = canister["contexts"], canister["open_calls"]
    if any(number != context.context_id for number, context in contexts.items()):
        return "a call context under the number of another one"
    if contexts and max(contexts) >= canister["next_context_id"]:
        return f"call context {max(contexts)}, the next one is {canister['next_context_id']}"
    if calls and max(calls) >= canister["next_call_id"]:
        return f"open call {max(calls)}, the next one is {canister['next_call_id']}"
    counts = Counter(call.context_id for call in calls.values())
    if counts != {number: context.open_calls for number, context in contexts.items()}:
        return f"open calls of contexts {dict(counts)}, which count others"
    callees = Counter(call.callee for call in calls.values())
    if callees != canister["open_calls_to"]:
        return "open calls that are not those counted by callee"
    return None


def _queue(canister: dict[str, Plain]) -> str | None:
    """What is in a canister's queue is for it."""
    own = canister["canister_id"]
    for message in canister["inputs"]:
        receiver = message.callee if isinstance(message, CallMessage) else message.receiver
        if receiver != own:
            return f"a message for {receiver.hex()} in the queue of {own.hex()}"
    return None


def _stopping(canister: dict[str, Plain]) -> str | None:
    status = canister["status"]
    if canister["stop_requests"] and status is not CanisterStatus.STOPPING:
        return "somebody waits for it to stop, and it is not stopping"
    if status is CanisterStatus.STOPPED and (canister["contexts"] or canister["open_calls"]):
        return "stopped, with calls under way"
    return None


def _named(canister: dict[str, Plain]) -> str | None:
    """What lies elsewhere is named once, chunks in the order of their hashes."""
    chunks, snapshots = canister["chunk_hashes"], canister["snapshot_ids"]
    if list(chunks) != sorted(set(chunks)):
        return "chunks that are not ascending"
    return None if len(set(snapshots)) == len(snapshots) else "a snapshot twice"


def _remembered(canister: dict[str, Plain]) -> str | None:
    count, total = len(canister["history"]), canister["total_changes"]
    return None if count <= total else f"{count} changes in the history, {total} in all"


_OWN_MEMORY = row(
    OwnMemory,
    ("lifetime", one_of(*get_args(Lifetime))),
    ("address bits", integer(32, 64)),
    ("Wasm pages", _PAGES),
    rules=(lambda it: None if it.address_bits in {32, 64} else f"addresses of {it.address_bits} bits",),
)
_CANISTER = Table(
    "canister record",
    Field(1, "canister_id", _ID),
    Field(2, "status", _STATUS, attribute="facts.status"),
    Field(3, "canister_version", _COUNT, 0, "facts.version"),
    Field(4, "module_hash", optional(_HASH), None),
    Field(5, "chunk_hashes", sequence(_HASH, tuple), []),
    Field(6, "snapshot_ids", sequence(blob(1, 64), tuple), []),
    Field(7, "settings", _SETTINGS),
    Field(8, "cycles", _CYCLES, 0),
    Field(9, "reserved_cycles", _CYCLES, 0),
    Field(10, "heap_wasm_pages", _PAGES, 0),
    Field(11, "stable_wasm_pages", _PAGES, 0),
    Field(12, "certified_data", blob(0, 32), b""),
    Field(13, "global_timer_ns", _NAT64, 0),
    Field(14, "hook_status", _HOOK, 0),
    Field(15, "inputs", sequence(_INPUT, deque), [], in_place=True),
    Field(16, "contexts", sorted_mapping(_COUNT, _CONTEXT), [], in_place=True),
    Field(17, "open_calls", sorted_mapping(_COUNT, _OPEN_CALL), [], in_place=True),
    Field(18, "open_calls_to", sorted_mapping(_ID, _COUNT), [], in_place=True),
    Field(19, "next_context_id", _COUNT, 1),
    Field(20, "next_call_id", _COUNT, 1),
    Field(21, "stop_requests", sequence(_STOP_REQUEST), [], in_place=True),
    Field(22, "log", _LOG, {}),
    Field(23, "history", sequence(_CHANGE), []),
    Field(24, "total_changes", _COUNT, 0),
    Field(25, "next_snapshot", _COUNT, 0),
    Field(26, "charged_until_ns", _COUNT, 0),
    Field(27, "query_statistics", _STATISTICS, [0, 0, 0, 0]),
    Field(28, "own_memories", sorted_mapping(TEXT, _OWN_MEMORY), []),
    Field(29, "created_at_ns", _COUNT, 0),
    Field(30, "installed_at_ns", _COUNT, 0),
    Field(31, "consumed", _CONSUMED, [0] * len(Use)),
    rules=(_contexts, _queue, _stopping, _named, _remembered),
)


def _management(subnet: dict[str, Plain]) -> str | None:
    wrong = [call.callee.hex() for call in subnet["management_calls"] if call.callee]
    return f"calls of the management canister that are for {', '.join(wrong)}" if wrong else None


def _outcalls(subnet: dict[str, Plain]) -> str | None:
    """Outcalls are of canisters, older than the next one, and say what was asked for."""
    outcalls = subnet["outcalls"]
    if outcalls and max(outcalls) >= subnet["next_outcall_id"]:
        return f"outcall {max(outcalls)}, the next one is {subnet['next_outcall_id']}"
    if any(not isinstance(one.origin, FromCanister) for one in outcalls.values()):
        return "an outcall that no canister waits for"
    return None


_STREAM = row(XNetStream, ("begin", _COUNT), ("messages", _MESSAGES), ("inducted", _COUNT))
SLICE: Final[Coder] = row(lambda *parts: parts, ("first", _COUNT), ("messages", _MESSAGES), ("inducted", _COUNT))
"""A slice of a stream on its way."""
_SUBNET = Table(
    "subnet record",
    Field(1, "subnet_id", _ID, b""),
    Field(2, "root_key", _BYTES, b""),
    Field(3, "time_ns", _COUNT, 1_620_328_630_000_000_000),
    Field(4, "seed", _BYTES, b""),
    Field(5, "random_counter", _COUNT, 0),
    Field(6, "round_number", _COUNT, 0),
    Field(7, "next_canister_index", _COUNT, 0),
    Field(8, "next_request_number", _COUNT, 1),
    Field(9, "outbox", sequence(_MESSAGE), []),
    Field(10, "management_calls", sequence(_CALL, deque), []),
    Field(11, "task_canisters", sorted_set(_ID), []),
    Field(12, "minted_cycles", _CYCLES, 0),
    Field(13, "consumed_cycles", _CYCLES, 0),
    Field(14, "lost_cycles", _CYCLES, 0),
    Field(15, "ingress.callees", sorted_mapping(_REQUEST_ID, _ID), []),
    Field(16, "first_canister_index", _NAT64, 0),
    Field(17, "ingress.owners", sorted_mapping(_REQUEST_ID, OWNER), []),
    Field(18, "outcalls", sorted_mapping(_COUNT, _OUTCALL), []),
    Field(19, "next_outcall_id", _COUNT, 0),
    Field(20, "keeps_origins", BOOL, False),
    Field(21, "keeps_consumption", BOOL, False),
    Field(22, "xnet_streams", sorted_mapping(_ID, _STREAM), []),
    Field(23, "sent_cycles", _CYCLES, 0),
    Field(24, "received_cycles", _CYCLES, 0),
    Field(25, "keeps_refunds", BOOL, False),
    rules=(_management, _outcalls),
)
_SNAPSHOT = Table(
    "snapshot record",
    Field(1, "snapshot_id", blob(1, 64)),
    Field(2, "taken_at_ns", _NAT64),
    Field(3, "uploaded", BOOL, False),
    Field(4, "wasm", blob(make=bytearray), b""),
    Field(5, "heap_bytes", _BYTE_COUNT, 0),
    Field(6, "stable_bytes", _BYTE_COUNT, 0),
    Field(7, "global_values", sequence(_GLOBAL, tuple), []),
    Field(8, "certified_data", blob(0, 32), b""),
    Field(9, "chunk_store", sorted_mapping(_HASH, _BYTES), []),
    Field(10, "canister_version", _NAT64, 0),
    Field(11, "global_timer_ns", optional(_NAT64), None),
    Field(12, "hook_status", optional(_HOOK), None),
    rules=(
        lambda it: (
            None
            if all(sha256(chunk).digest() == hash_ for hash_, chunk in it["chunk_store"].items())
            else "a chunk that is not that of its hash"
        ),
    ),
)

MIGRATIONS: Final[Mapping[int, Migration]] = {}
"""From each older version to the next; there is none yet."""

FORMAT: Final = Format("record", 1, {SUBNET: _SUBNET, CANISTER: _CANISTER, SNAPSHOT: _SNAPSHOT}, MIGRATIONS)
