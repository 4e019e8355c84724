"""What is known about a canister."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from perdure.candid.types import Value
from perdure.canister import CanisterStatus, Reject
from perdure.execution.management.call import Call, Values
from perdure.execution.management.settings import settings_record
from perdure.execution.rejects import rejected
from perdure.execution.state import Change, LogRecord, Use
from perdure.ic.principal import Principal
from perdure.ic.reject import ErrorCode
from perdure.memory import WASM_PAGE_BYTES
from perdure.system_api import LINE_OVERHEAD_BYTES

__all__ = [
    "canister_info",
    "canister_metadata",
    "canister_metrics",
    "canister_status",
    "fetch_canister_logs",
    "list_canisters",
]


def canister_status(call: Call) -> Values:
    """All that its controllers may know."""
    canister, costs = call.canister, call.world.costs
    wasm = canister.module.wasm if canister.module is not None else b""
    sections = canister.module.custom_sections if canister.module is not None else {}
    memory_bytes = canister.memory_bytes()
    per_second = costs.storage_per_second(
        max(memory_bytes, canister.settings.memory_allocation), canister.settings.compute_allocation
    )
    names = ("num_calls", "num_instructions", "request_payload_bytes", "response_payload_bytes")
    status = {CanisterStatus.RUNNING: "running", CanisterStatus.STOPPING: "stopping", CanisterStatus.STOPPED: "stopped"}
    return [
        {
            "status": {status[canister.facts.status]: None},
            "ready_for_migration": False,
            "version": canister.facts.version,
            "settings": settings_record(canister.settings),
            "module_hash": canister.module.module_hash if canister.module is not None else None,
            "memory_size": memory_bytes,
            "memory_metrics": {
                "wasm_memory_size": canister.heap_wasm_pages * WASM_PAGE_BYTES,
                "stable_memory_size": canister.stable_wasm_pages * WASM_PAGE_BYTES,
                "global_memory_size": 8 * len(canister.instance.global_values) if canister.instance is not None else 0,
                "wasm_binary_size": len(wasm),
                "custom_sections_size": sum(len(name) + len(section) for name, section in sections.items()),
                "canister_history_size": canister.history_bytes(),
                "wasm_chunk_store_size": sum(len(chunk) for chunk in canister.chunk_store.values()),
                "snapshots_size": sum(snapshot.total_bytes for snapshot in canister.snapshots.values()),
                "log_memory_store_size": canister.log_store_bytes(),
            },
            "cycles": canister.cycles,
            "reserved_cycles": canister.reserved_cycles,
            "idle_cycles_burned_per_day": per_second * 86_400,
            "query_stats": {
                f"{name}_total": value for name, value in zip(names, canister.query_statistics, strict=True)
            },
        }
    ]


_METRICS: Final = {"request_and_response_transmission": Use.TRANSMISSION} | {
    use.name.lower(): use for use in Use if use is not Use.TRANSMISSION
}


def canister_metrics(call: Call) -> Values | Reject:
    """What its cycles went for, since it was created."""
    if not call.world.state.keeps_consumption:
        words = "canister_metrics: this state was begun by a perdure that did not count what cycles go for"
        return rejected(ErrorCode.CANISTER_REJECTED_MESSAGE, words)
    consumed = call.canister.consumed
    return [{"cycles_consumed": {name: consumed[use] for name, use in _METRICS.items()}}]


def list_canisters(call: Call) -> Reject:
    """For administrators of a subnet alone, and there are none, as of most subnets of the network."""
    words = f"Caller {Principal(call.message.caller)} is not allowed to call list_canisters: it is no administrator"
    return rejected(ErrorCode.CANISTER_REJECTED_MESSAGE, f"{words} of this subnet, which has none")


def _details_record(kind: str, details: dict[str, Value]) -> Value:
    if "controllers" in details:
        record = {"controllers": [Principal(controller) for controller in details["controllers"]]}
        return {**record, "environment_variables_hash": None} if kind == "creation" else record
    if kind == "code_deployment":
        return {"mode": {details["mode"]: None}, "module_hash": details["module_hash"]}
    if kind == "load_snapshot":
        return {**details, "from_canister_id": None, "source": {details["source"]: None}}
    return None


def _change_record(change: Change) -> dict[str, Value]:
    kind, details = change.details
    origin: dict[str, Value] = {"from_user": {"user_id": Principal(change.origin)}}
    if change.origin_version is not None:
        version = None if change.origin_version < 0 else change.origin_version
        origin = {"from_canister": {"canister_id": Principal(change.origin), "canister_version": version}}
    return {
        "timestamp_nanos": change.time_ns,
        "canister_version": change.canister_version,
        "origin": origin,
        "details": {kind: _details_record(kind, details)},
    }


def canister_info(call: Call) -> Values:
    """Its module, controllers and newest changes."""
    canister, wanted = call.canister, call.arg["num_requested_changes"] or 0
    changes = canister.history[max(0, len(canister.history) - wanted) :] if wanted else []
    return [
        {
            "total_num_changes": canister.total_changes,
            "recent_changes": [_change_record(change) for change in changes],
            "module_hash": canister.module.module_hash if canister.module is not None else None,
            "controllers": [Principal(controller) for controller in canister.settings.controllers],
        }
    ]


def canister_metadata(call: Call) -> Values | Reject:
    """A custom section of its module that the caller may see."""
    canister, name = call.canister, call.arg["name"]
    sections = canister.module.custom_sections if canister.module is not None else {}
    allowed = ["icp:public "]
    if call.message.caller in canister.facts.controllers or call.message.caller == canister.canister_id:
        allowed.append("icp:private ")
    for visibility in allowed:
        if visibility + name in sections:
            return [{"value": sections[visibility + name]}]
    return rejected(
        ErrorCode.CANISTER_CONTRACT_VIOLATION,
        f"Canister {Principal(canister.canister_id)} has no metadata section with name {name}.",
    )


def fetch_canister_logs(call: Call) -> Values:
    """The newest lines that a response holds; of a range the oldest."""
    records: list[LogRecord] = list(call.canister.log.records)
    if call.arg["filter"] is None:
        found = _fitting(reversed(records), call.world.config.max_fetch_canister_logs_bytes)[::-1]
    else:
        ((by, bounds),) = call.arg["filter"].items()
        place = {"by_idx": "sequence", "by_timestamp_nanos": "time_ns"}[by]
        asked_for = (record for record in records if bounds["start"] <= getattr(record, place) < bounds["end"])
        found = _fitting(asked_for, call.world.config.max_fetch_canister_logs_bytes)
    return [
        {
            "canister_log_records": [
                {"idx": record.sequence, "timestamp_nanos": record.time_ns, "content": record.content}
                for record in found
            ]
        }
    ]


def _fitting(records: Iterable[LogRecord], max_bytes: int) -> list[LogRecord]:
    kept = list(records)
    sizes = accumulate(len(record.content) + LINE_OVERHEAD_BYTES for record in kept)
    return [record for record, size in zip(kept, sizes, strict=True) if size <= max_bytes]
