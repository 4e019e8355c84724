"""The management canister: a table of methods, who may call them, and what each does.

Arguments and results are Candid values (dictionaries, see `perdure.candid.types`). A handler returns the result values,
or a `Reject`; `None` when the answer will come later. What asks about subnets is answered for this
one.

Spec: "The IC management canister".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from perdure.candid.types import Value
from perdure.canister import CanisterFacts, Reject, Reply
from perdure.errors import MalformedError
from perdure.execution import lifecycle
from perdure.execution.effects import respond
from perdure.execution.management import canisters, code, elsewhere, knowledge, outcalls, signatures, snapshots
from perdure.execution.management.call import Call, ManagementMethod, Values, Who, not_controller
from perdure.execution.management.interface import codecs
from perdure.execution.messages import CallMessage, FromCanister, FromUser, Response
from perdure.execution.rejects import rejected
from perdure.execution.state import CanisterState, Settings, Visibility
from perdure.execution.world import World
from perdure.ic.reject import ErrorCode, RejectCode

__all__ = ["METHODS", "ManagementMethod", "Who", "execute_management_call", "is_allowed_by_ingress", "management_query"]

# -- snapshots


def _snapshot(function: Callable[[World, CanisterState, dict[str, Value]], Value]) -> Callable[[Call], Value]:
    def handle(call: Call) -> Values | Reject:
        answer: Values | Reject = function(call.world, call.canister, call.arg)
        return answer

    return handle


def _take_snapshot(call: Call) -> Values | Reject:
    answer = snapshots.take(call.world, call.canister, call.arg)
    if not isinstance(answer, Reject) and call.arg["uninstall_code"]:
        lifecycle.uninstall_code(call.world, call.canister, call.origin)
    return answer


def _load_snapshot(call: Call) -> Values | Reject:
    return snapshots.load(call.world, call.canister, call.arg, call.origin)


METHODS: Final[dict[str, ManagementMethod]] = {
    "create_canister": ManagementMethod(Who.CANISTERS, canisters.create_canister, ingress=False, target=""),
    "provisional_create_canister_with_cycles": ManagementMethod(
        Who.ANYBODY, canisters.provisional_create_canister_with_cycles, target=""
    ),
    "provisional_top_up_canister": ManagementMethod(Who.ANYBODY, canisters.provisional_top_up_canister),
    "update_settings": ManagementMethod(Who.CONTROLLERS, canisters.update_settings),
    "upload_chunk": ManagementMethod(Who.SELF_OR_CONTROLLERS, code.upload_chunk),
    "clear_chunk_store": ManagementMethod(Who.SELF_OR_CONTROLLERS, code.clear_chunk_store),
    "stored_chunks": ManagementMethod(Who.SELF_OR_CONTROLLERS, code.stored_chunks),
    "install_code": ManagementMethod(Who.CONTROLLERS, code.install_code),
    "install_chunked_code": ManagementMethod(Who.CONTROLLERS, code.install_chunked_code, target="target_canister"),
    "uninstall_code": ManagementMethod(Who.CONTROLLERS, code.uninstall_code),
    "start_canister": ManagementMethod(Who.CONTROLLERS, canisters.start_canister),
    "stop_canister": ManagementMethod(Who.CONTROLLERS, canisters.stop_canister),
    "delete_canister": ManagementMethod(Who.CONTROLLERS, canisters.delete_canister),
    "deposit_cycles": ManagementMethod(Who.CANISTERS, canisters.deposit_cycles, ingress=False),
    "raw_rand": ManagementMethod(Who.CANISTERS, canisters.raw_rand, ingress=False, target=""),
    "canister_status": ManagementMethod(Who.STATUS_VIEWERS, knowledge.canister_status, query=True),
    "canister_metrics": ManagementMethod(Who.CONTROLLERS, knowledge.canister_metrics, query=True),
    "list_canisters": ManagementMethod(
        Who.ADMINISTRATORS, knowledge.list_canisters, ingress=False, query=True, update=False, target=""
    ),
    "canister_info": ManagementMethod(Who.CANISTERS, knowledge.canister_info, ingress=False),
    "canister_metadata": ManagementMethod(Who.CANISTERS, knowledge.canister_metadata, ingress=False),
    "fetch_canister_logs": ManagementMethod(
        Who.LOG_VIEWERS, knowledge.fetch_canister_logs, ingress=False, query=True, update=False
    ),
    "take_canister_snapshot": ManagementMethod(Who.CONTROLLERS, _take_snapshot),
    "load_canister_snapshot": ManagementMethod(Who.CONTROLLERS, _load_snapshot),
    "list_canister_snapshots": ManagementMethod(Who.SNAPSHOT_VIEWERS, _snapshot(snapshots.list_all)),
    "delete_canister_snapshot": ManagementMethod(Who.CONTROLLERS, _snapshot(snapshots.delete)),
    "read_canister_snapshot_metadata": ManagementMethod(Who.SNAPSHOT_VIEWERS, _snapshot(snapshots.read_metadata)),
    "read_canister_snapshot_data": ManagementMethod(Who.SNAPSHOT_VIEWERS, _snapshot(snapshots.read_data)),
    "upload_canister_snapshot_metadata": ManagementMethod(Who.CONTROLLERS, _snapshot(snapshots.upload_metadata)),
    "upload_canister_snapshot_data": ManagementMethod(Who.CONTROLLERS, _snapshot(snapshots.upload_data)),
    **{
        handler.__name__: ManagementMethod(Who.CANISTERS, handler, ingress=False, target="")
        for handler in (
            signatures.ecdsa_public_key,
            signatures.sign_with_ecdsa,
            signatures.schnorr_public_key,
            signatures.sign_with_schnorr,
            signatures.vetkd_public_key,
            signatures.vetkd_derive_key,
            outcalls.http_request,
            outcalls.flexible_http_request,
            elsewhere.subnet_info,
            elsewhere.node_metrics_history,
        )
    },
}
"""Every method that works here."""


# -- calling


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
        Who.ADMINISTRATORS: True,
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
    return rejected(ErrorCode.UNKNOWN_MANAGEMENT_MESSAGE, f"Management canister has no method '{method_name}'")


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
        return not_controller(canister, message.method_name)
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
    method, is_bitcoins = METHODS.get(message.method_name), message.method_name in elsewhere.BITCOIN_METHODS
    if method is None and not is_bitcoins:
        return _unknown(message.method_name)
    if method is None or not method.ingress:
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
