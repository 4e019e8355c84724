"""The rules of the Internet Computer, one message at a time."""

from __future__ import annotations

from perdure.execution.clock import advance_time
from perdure.execution.config import SubnetConfig
from perdure.execution.cycles import CYCLES_2026_08, CostSchedule
from perdure.execution.identity import identify, root_key
from perdure.execution.ingress import Answer, IngressHistory
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
from perdure.execution.management import METHODS, execute_management_call, management_query
from perdure.execution.management.settings import validate_settings
from perdure.execution.messages import CallContext, CallMessage, FromCanister, FromUser, Response, ResponseMessage
from perdure.execution.query import execute_query
from perdure.execution.scheduler import (
    execute_ingress,
    has_work,
    request_status,
    round_,
    run_until_idle,
    submit_ingress,
    submit_request,
)
from perdure.execution.state import (
    CanisterState,
    HookStatus,
    Settings,
    Snapshot,
    SnapshotContent,
    SubnetState,
    Visibility,
)
from perdure.execution.world import Host, World

__all__ = [
    "CYCLES_2026_08",
    "METHODS",
    "Answer",
    "CallContext",
    "CallMessage",
    "CanisterState",
    "CostSchedule",
    "FromCanister",
    "FromUser",
    "HookStatus",
    "Host",
    "IngressHistory",
    "InstallMode",
    "InstallOptions",
    "Response",
    "ResponseMessage",
    "Settings",
    "Snapshot",
    "SnapshotContent",
    "SubnetConfig",
    "SubnetState",
    "Visibility",
    "World",
    "add_canister",
    "advance_time",
    "apply_settings",
    "delete_canister",
    "execute_ingress",
    "execute_management_call",
    "execute_query",
    "has_work",
    "identify",
    "install_code",
    "management_query",
    "request_status",
    "root_key",
    "round_",
    "run_until_idle",
    "start_canister",
    "stop_canister",
    "submit_ingress",
    "submit_request",
    "uninstall_code",
    "validate_settings",
]
