"""The management canister: a table of methods, who may call them, and what each does.

Arguments and results are Candid values (dictionaries, see `perdure.candid.types`). A handler returns the result values,
or a `Reject`; `None` when the answer will come later. What needs the network beyond one subnet is refused by name.

Spec: "The IC management canister".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from enum import Enum, unique
from itertools import accumulate
from typing import Any, Final, NamedTuple, final

from perdure.canister import CanisterFacts, CanisterStatus, Reject, Reply
from perdure.errors import MalformedError
from perdure.execution import snapshots
from perdure.execution.effects import record_change, respond
from perdure.execution.interface import codecs
from perdure.execution.lifecycle import (
    InstallMode,
    InstallOptions,
    add_canister,
    apply_settings,
    delete_canister,
    install_code,
    start_canister,
    stop_canister,
    uninstall_code,
)
from perdure.execution.messages import CallMessage, FromCanister, FromUser, Response
from perdure.execution.rejects import rejected
from perdure.execution.settings import changed_settings, refuse_lists, settings_record, validate_settings
from perdure.execution.state import CanisterState, Change, LogRecord, Settings, Visibility
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.ic.reject import ErrorCode, RejectCode
from perdure.memory import WASM_PAGE_BYTES
from perdure.system_api import LINE_OVERHEAD_BYTES

__all__ = ["METHODS", "ManagementMethod", "Who", "execute_management_call", "is_allowed_by_ingress", "management_query"]

Values = Sequence[Any]


@unique
class Who(Enum):
    """Who may call a method of the management canister."""

    ANYBODY = "anybody"
    CANISTERS = "canisters"
    CONTROLLERS = "controllers of the canister"
    SELF_OR_CONTROLLERS = "the canister itself and its controllers"
    STATUS_VIEWERS = "the canister itself and whom its status visibility lets see"
    SNAPSHOT_VIEWERS = "whom the snapshot visibility lets see"
    LOG_VIEWERS = "whom the log visibility lets see"


@final
class Call(NamedTuple):
    """One call of a method, its argument decoded. `canister` is the one that the argument names, if it does."""

    world: World
    message: CallMessage
    arg: dict[str, Any]
    canister: CanisterState

    @property
    def origin(self) -> tuple[bytes, int | None]:
        """Who asks, for the canister's history."""
        if self.message.caller not in self.world.state.canisters:
            return self.message.caller, None
        version = self.arg.get("sender_canister_version")
        return self.message.caller, -1 if version is None else version


@final
class ManagementMethod(NamedTuple):
    """A row of the table."""

    who: Who
    handler: Callable[[Call], Values | Reject | None]
    ingress: bool = True
    query: bool = False
    """Also as a query, and then not as anything else if `update` is false."""
    update: bool = True
    target: str = "canister_id"
    """The field of the argument that names the canister; empty: none does."""


# -- settings


def _new_settings(call: Call) -> Settings | Reject:
    config = call.world.config
    settings = Settings(
        controllers=(call.message.caller,),
        freezing_threshold=config.default_freezing_threshold_seconds,
        reserved_cycles_limit=config.default_reserved_cycles_limit,
        wasm_memory_limit=config.default_wasm_memory_limit_bytes,
        log_memory_limit=config.default_log_memory_limit_bytes,
    )
    if len(call.world.state.canisters) >= config.max_canisters:
        return rejected(
            ErrorCode.MAX_NUMBER_OF_CANISTERS_REACHED,
            f"Subnet has reached the allowed canister limit of {config.max_canisters} canisters. "
            "Retry creating the canister.",
        )
    wanted = call.arg["settings"]
    settings = changed_settings(settings, wanted)
    return refuse_lists(call.world, wanted) or validate_settings(call.world, settings) or settings


def _create_canister(call: Call) -> Values | Reject:
    settings = _new_settings(call)
    if isinstance(settings, Reject):
        return settings
    fee, cycles = call.world.costs.create_canister(), call.message.cycles
    if cycles < fee:
        return rejected(
            ErrorCode.INSUFFICIENT_CYCLES_FOR_CREATE_CANISTER,
            f"Creating a canister requires a fee of {fee} that is deducted from the canister's initial balance but "
            f"only {cycles} cycles were received with the create_canister request.",
        )
    call.message.cycles = 0
    call.world.state.consumed_cycles += fee
    canister = add_canister(call.world, settings, cycles - fee, origin=call.origin)
    return [{"canister_id": Principal(canister.canister_id)}]


def _provisional_create(call: Call) -> Values | Reject:
    settings = _new_settings(call)
    if isinstance(settings, Reject):
        return settings
    world, wanted = call.world, call.arg["specified_id"]
    if wanted is not None and wanted.raw_bytes in world.state.canisters:
        return rejected(ErrorCode.CANISTER_ID_ALREADY_EXISTS, f"Canister {wanted} is already installed")
    amount = call.arg["amount"]
    cycles = world.config.default_provisional_cycles if amount is None else amount
    world.state.minted_cycles += cycles
    canister = add_canister(world, settings, cycles, None if wanted is None else wanted.raw_bytes, call.origin)
    return [{"canister_id": Principal(canister.canister_id)}]


def _provisional_top_up(call: Call) -> Values:
    call.canister.cycles += call.arg["amount"]
    call.world.state.minted_cycles += call.arg["amount"]
    return []


def _update_settings(call: Call) -> Values | Reject:
    wanted = call.arg["settings"]
    settings = changed_settings(call.canister.settings, wanted)
    refusal = refuse_lists(call.world, wanted) or validate_settings(call.world, settings)
    if refusal is not None:
        return refusal
    before = call.canister.settings.controllers
    apply_settings(call.world, call.canister, settings)
    call.canister.facts.version += 1
    if settings.controllers != before or call.arg["settings"]["controllers"] is not None:
        record_change(
            call.world, call.canister, call.origin, "controllers_change", controllers=list(settings.controllers)
        )
    return []


# -- code


def _options(mode: dict[str, Any]) -> InstallOptions:
    ((name, upgrade),) = mode.items()
    if not upgrade:
        return InstallOptions(InstallMode(name))
    persistence = upgrade["wasm_memory_persistence"]
    return InstallOptions(
        InstallMode(name), bool(upgrade["skip_pre_upgrade"]), None if persistence is None else next(iter(persistence))
    )


def _install(call: Call, wasm: bytes) -> Values | Reject:
    sender, version = call.origin
    options, arg = _options(call.arg["mode"]), call.arg["arg"]
    answer = install_code(call.world, call.canister, options, wasm, arg, sender, version)
    return answer if isinstance(answer, Reject) else []


def _install_code(call: Call) -> Values | Reject:
    return _install(call, call.arg["wasm_module"])


def _install_chunked_code(call: Call) -> Values | Reject:
    store = call.canister
    if call.arg["store_canister"] is not None:
        found = call.world.state.canisters.get(call.arg["store_canister"].raw_bytes)
        if found is None:
            return rejected(ErrorCode.CANISTER_NOT_FOUND, f"Canister {call.arg['store_canister']} not found.")
        store = found
    caller = call.message.caller
    if caller != store.canister_id and caller not in store.facts.controllers:
        return _not_controller(store, "install_chunked_code")
    wasm = bytearray()
    for chunk_hash in call.arg["chunk_hashes_list"]:
        chunk = store.chunk_store.get(chunk_hash["hash"])
        if chunk is None:
            return _chunk_error(f"Chunk hash {chunk_hash['hash'].hex()} was not found")
        wasm += chunk
        if len(wasm) > call.world.config.wasm_max_size_bytes:
            return _chunk_error("Error from Wasm chunk store: Wasm module too large")
    found_hash = hashlib.sha256(wasm).digest()
    if found_hash != call.arg["wasm_module_hash"]:
        expected = call.arg["wasm_module_hash"].hex()
        return _chunk_error(
            f"Error from Wasm chunk store: Wasm module hash mismatch. Expected {expected} but found {found_hash.hex()}",
        )
    return _install(call, bytes(wasm))


def _chunk_error(what: str) -> Reject:
    return rejected(ErrorCode.CANISTER_CONTRACT_VIOLATION, what)


def _upload_chunk(call: Call) -> Values | Reject:
    chunk, store, config = call.arg["chunk"], call.canister.chunk_store, call.world.config
    if len(chunk) > config.wasm_chunk_bytes:
        return _chunk_error(
            f"Error from Wasm chunk store: Wasm chunk size {len(chunk)} exceeds the maximum chunk size of "
            f"{config.wasm_chunk_bytes}.",
        )
    chunk_hash = hashlib.sha256(chunk).digest()
    if chunk_hash not in store and len(store) >= config.wasm_chunk_store_max_chunks:
        return _chunk_error(
            "Error from Wasm chunk store: Wasm chunk store has already reached maximum capacity of "
            f"{config.wasm_chunk_store_max_chunks * config.wasm_chunk_bytes} bytes.",
        )
    store[chunk_hash] = chunk
    call.canister.refresh(call.world.costs)
    return [{"hash": chunk_hash}]


def _clear_chunk_store(call: Call) -> Values:
    call.canister.chunk_store.clear()
    call.canister.refresh(call.world.costs)
    return []


def _stored_chunks(call: Call) -> Values:
    return [[{"hash": chunk_hash} for chunk_hash in sorted(call.canister.chunk_store)]]


def _uninstall_code(call: Call) -> Values:
    uninstall_code(call.world, call.canister, call.origin)
    return []


# -- running state


def _start_canister(call: Call) -> Values:
    start_canister(call.world, call.canister)
    return []


def _stop_canister(call: Call) -> None:
    message = call.message
    stop_canister(call.world, call.canister, message.origin, message.cycles)


def _delete_canister(call: Call) -> Values | Reject:
    if call.message.caller == call.canister.canister_id:
        return rejected(
            ErrorCode.CANISTER_INVALID_CONTROLLER, f"Canister {Principal(call.message.caller)} cannot delete itself."
        )
    return delete_canister(call.world, call.canister) or []


def _deposit_cycles(call: Call) -> Values:
    call.canister.cycles += call.message.cycles
    call.message.cycles = 0
    return []


def _raw_rand(call: Call) -> Values:
    return [call.world.state.random_bytes(32)]


# -- what is known about a canister


def _canister_status(call: Call) -> Values:
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


def _details_record(kind: str, details: dict[str, Any]) -> Any:
    if "controllers" in details:
        record = {"controllers": [Principal(controller) for controller in details["controllers"]]}
        return {**record, "environment_variables_hash": None} if kind == "creation" else record
    if kind == "code_deployment":
        return {"mode": {details["mode"]: None}, "module_hash": details["module_hash"]}
    if kind == "load_snapshot":
        return {**details, "from_canister_id": None, "source": {details["source"]: None}}
    return None


def _change_record(change: Change) -> dict[str, Any]:
    kind, details = change.details
    origin: dict[str, Any] = {"from_user": {"user_id": Principal(change.origin)}}
    if change.origin_version is not None:
        version = None if change.origin_version < 0 else change.origin_version
        origin = {"from_canister": {"canister_id": Principal(change.origin), "canister_version": version}}
    return {
        "timestamp_nanos": change.time_ns,
        "canister_version": change.canister_version,
        "origin": origin,
        "details": {kind: _details_record(kind, details)},
    }


def _canister_info(call: Call) -> Values:
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


def _canister_metadata(call: Call) -> Values | Reject:
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


def _fetch_canister_logs(call: Call) -> Values:
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


# -- snapshots


def _snapshot(function: Callable[[World, CanisterState, dict[str, Any]], Any]) -> Callable[[Call], Any]:
    def handle(call: Call) -> Values | Reject:
        answer: Values | Reject = function(call.world, call.canister, call.arg)
        return answer

    return handle


def _take_snapshot(call: Call) -> Values | Reject:
    answer = snapshots.take(call.world, call.canister, call.arg)
    if not isinstance(answer, Reject) and call.arg["uninstall_code"]:
        uninstall_code(call.world, call.canister, call.origin)
    return answer


def _load_snapshot(call: Call) -> Values | Reject:
    return snapshots.load(call.world, call.canister, call.arg, call.origin)


METHODS: Final[dict[str, ManagementMethod]] = {
    "create_canister": ManagementMethod(Who.CANISTERS, _create_canister, ingress=False, target=""),
    "provisional_create_canister_with_cycles": ManagementMethod(Who.ANYBODY, _provisional_create, target=""),
    "provisional_top_up_canister": ManagementMethod(Who.ANYBODY, _provisional_top_up),
    "update_settings": ManagementMethod(Who.CONTROLLERS, _update_settings),
    "upload_chunk": ManagementMethod(Who.SELF_OR_CONTROLLERS, _upload_chunk),
    "clear_chunk_store": ManagementMethod(Who.SELF_OR_CONTROLLERS, _clear_chunk_store),
    "stored_chunks": ManagementMethod(Who.SELF_OR_CONTROLLERS, _stored_chunks),
    "install_code": ManagementMethod(Who.CONTROLLERS, _install_code),
    "install_chunked_code": ManagementMethod(Who.CONTROLLERS, _install_chunked_code, target="target_canister"),
    "uninstall_code": ManagementMethod(Who.CONTROLLERS, _uninstall_code),
    "start_canister": ManagementMethod(Who.CONTROLLERS, _start_canister),
    "stop_canister": ManagementMethod(Who.CONTROLLERS, _stop_canister),
    "delete_canister": ManagementMethod(Who.CONTROLLERS, _delete_canister),
    "deposit_cycles": ManagementMethod(Who.CANISTERS, _deposit_cycles, ingress=False),
    "raw_rand": ManagementMethod(Who.CANISTERS, _raw_rand, ingress=False, target=""),
    "canister_status": ManagementMethod(Who.STATUS_VIEWERS, _canister_status, query=True),
    "canister_info": ManagementMethod(Who.CANISTERS, _canister_info, ingress=False),
    "canister_metadata": ManagementMethod(Who.CANISTERS, _canister_metadata, ingress=False),
    "fetch_canister_logs": ManagementMethod(
        Who.LOG_VIEWERS, _fetch_canister_logs, ingress=False, query=True, update=False
    ),
    "take_canister_snapshot": ManagementMethod(Who.CONTROLLERS, _take_snapshot),
    "load_canister_snapshot": ManagementMethod(Who.CONTROLLERS, _load_snapshot),
    "list_canister_snapshots": ManagementMethod(Who.SNAPSHOT_VIEWERS, _snapshot(snapshots.list_all)),
    "delete_canister_snapshot": ManagementMethod(Who.CONTROLLERS, _snapshot(snapshots.delete)),
    "read_canister_snapshot_metadata": ManagementMethod(Who.SNAPSHOT_VIEWERS, _snapshot(snapshots.read_metadata)),
    "read_canister_snapshot_data": ManagementMethod(Who.SNAPSHOT_VIEWERS, _snapshot(snapshots.read_data)),
    "upload_canister_snapshot_metadata": ManagementMethod(Who.CONTROLLERS, _snapshot(snapshots.upload_metadata)),
    "upload_canister_snapshot_data": ManagementMethod(Who.CONTROLLERS, _snapshot(snapshots.upload_data)),
}
"""Every method that works here."""

REFUSED: Final[dict[str, str]] = {
    **dict.fromkeys(
        ("ecdsa_public_key", "sign_with_ecdsa", "schnorr_public_key", "sign_with_schnorr"),
        "threshold signatures are not offered by this local subnet yet",
    ),
    **dict.fromkeys(
        ("vetkd_public_key", "vetkd_derive_key"), "threshold key derivation is not offered by this local subnet yet"
    ),
    "http_request": "HTTP outcalls are not offered by this local subnet yet",
    "flexible_http_request": "HTTP outcalls are not offered by this local subnet yet",
    "canister_metrics": "canister metrics are not kept by this local subnet",
    **dict.fromkeys(
        (
            "bitcoin_get_balance",
            "bitcoin_get_utxos",
            "bitcoin_send_transaction",
            "bitcoin_get_current_fee_percentiles",
            "bitcoin_get_block_headers",
        ),
        "there is no Bitcoin network here",
    ),
    "node_metrics_history": "there are no nodes here",
    "subnet_info": "there is no registry here",
    "list_canisters": "there is no subnet administrator here",
}
"""Every method that is refused, and why."""


# -- calling


def _not_controller(canister: CanisterState, method_name: str) -> Reject:
    name = Principal(canister.canister_id)
    return rejected(
        ErrorCode.CANISTER_INVALID_CONTROLLER,
        f"Only controllers of canister {name} can call ic00 method {method_name}",
    )


def _sees(visibility: Visibility, canister: CanisterState, caller: bytes) -> bool:
    return (
        visibility.kind == "public"
        or caller in canister.facts.controllers
        or (visibility.kind == "allowed_viewers" and caller in visibility.viewers)
    )


def _may(who: Who, canister: CanisterState, caller: bytes) -> bool:
    settings, controls = canister.settings, caller in canister.facts.controllers
    may: dict[Who, bool] = {
        Who.ANYBODY: True,
        Who.CANISTERS: True,
        Who.CONTROLLERS: controls,
        Who.SELF_OR_CONTROLLERS: controls or caller == canister.canister_id,
        Who.STATUS_VIEWERS: caller == canister.canister_id or _sees(settings.status_visibility, canister, caller),
        Who.SNAPSHOT_VIEWERS: _sees(settings.snapshot_visibility, canister, caller),
        Who.LOG_VIEWERS: _sees(settings.log_visibility, canister, caller),
    }
    return may[who]


_NOBODY: Final = CanisterState(CanisterFacts(), Settings())
"""Stands for the canister where a method concerns none."""


def _unknown(method_name: str) -> Reject:
    reason = REFUSED.get(method_name)
    words = f"Management canister has no method '{method_name}'"
    return rejected(ErrorCode.UNKNOWN_MANAGEMENT_MESSAGE, words if reason is None else f"{words}: {reason}")


def _prepare(world: World, message: CallMessage) -> tuple[ManagementMethod, Call] | Reject:
    """Find the method, decode the argument, check the caller."""
    method = METHODS.get(message.method_name)
    if method is None:
        return _unknown(message.method_name)
    try:
        values = codecs()[message.method_name][0].decode(message.arg)
    except MalformedError as error:
        return rejected(ErrorCode.INVALID_MANAGEMENT_PAYLOAD, f"Error decoding candid: {error}")._replace(
            code=RejectCode.CANISTER_ERROR
        )
    arg = values[0] if values else {}
    if not method.target:
        return method, Call(world, message, arg, _NOBODY)
    canister = world.state.canisters.get(arg[method.target].raw_bytes)
    if canister is None:
        return rejected(ErrorCode.CANISTER_NOT_FOUND, f"Canister {arg[method.target]} not found.")
    if not _may(method.who, canister, message.caller):
        return _not_controller(canister, message.method_name)
    return method, Call(world, message, arg, canister)


def _answer(prepared: tuple[ManagementMethod, Call]) -> Response | None:
    method, call = prepared
    if call.canister is not _NOBODY:
        call.world.touch(call.canister)
    answer = method.handler(call)
    if answer is None or isinstance(answer, Reject):
        return answer
    return Reply(codecs()[call.message.method_name][1].encode(answer))


def is_allowed_by_ingress(world: World, message: CallMessage) -> Reject | None:
    """Why a user's call of the management canister does not even come in; `None`: it comes in."""
    method = METHODS.get(message.method_name)
    if method is None:
        return _unknown(message.method_name)
    if not method.ingress:
        return rejected(
            ErrorCode.CANISTER_REJECTED_MESSAGE, f"ic00 method {message.method_name} can not be called via ingress"
        )
    prepared = _prepare(world, message)
    return prepared if isinstance(prepared, Reject) else None


_REJECTED_WITHOUT_CODE: Final = frozenset(["install_code", "install_chunked_code"])
"""Canisters get the words of these without ``IC0xxx`` in front; seen in the expected output of Motoko's suite."""


def execute_management_call(world: World, message: CallMessage) -> None:
    """Execute a call of the management canister and answer it, unless the answer comes later."""
    message = replace(message)  # methods take its cycles; the one in the queue stays what it was, should this be undone
    method = METHODS.get(message.method_name)
    is_canister = isinstance(message.origin, FromCanister)
    if method is not None and not (method.update and (is_canister or method.ingress)):
        refusal: Response | None = rejected(
            ErrorCode.CANISTER_REJECTED_MESSAGE,
            f"{message.method_name} API is only accessible to "
            + ("end users in non-replicated mode" if not method.update else "canisters"),
        )
    else:
        prepared = _prepare(world, message)
        refusal = prepared if isinstance(prepared, Reject) else _answer(prepared)
    if refusal is not None:
        if is_canister and isinstance(refusal, Reject) and message.method_name in _REJECTED_WITHOUT_CODE:
            refusal = refusal._replace(error_code="")
        respond(world, message.origin, refusal, message.cycles)


def management_query(world: World, caller: bytes, method_name: str, arg: bytes) -> Response:
    """Answer a query, or a composite query's call, of the management canister."""
    method = METHODS.get(method_name)
    if method is None or not method.query:
        return rejected(ErrorCode.CANISTER_METHOD_NOT_FOUND, f"Query method {method_name} not found.")
    prepared = _prepare(world, CallMessage(FromUser(b""), caller, b"", method_name, arg))
    if isinstance(prepared, Reject):
        return prepared
    return _answer(prepared) or rejected(ErrorCode.CANISTER_DID_NOT_REPLY, f"{method_name} did not reply")
