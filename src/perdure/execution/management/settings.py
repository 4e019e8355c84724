"""Settings of canisters: from Candid, to Candid, and which ones cannot be.

Spec: "IC method update_settings", "IC method create_canister".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from perdure.candid.types import Value
from perdure.canister import Reject
from perdure.execution.rejects import rejected
from perdure.execution.state import Settings, Visibility
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.ic.reject import ErrorCode, RejectCode

__all__ = ["changed_settings", "refuse_lists", "settings_record", "validate_settings"]


def _visibility(value: dict[str, Value]) -> Visibility:
    ((kind, viewers),) = value.items()
    return Visibility(kind, tuple(viewer.raw_bytes for viewer in viewers or ()))


def changed_settings(settings: Settings, wanted: dict[str, Value] | None) -> Settings:
    """`settings` with what Candid's ``canister_settings`` asks to be otherwise."""
    changes: dict[str, Value] = {}
    for name, value in (wanted or {}).items():
        if value is None:
            continue
        if name == "controllers":
            changes[name] = tuple(dict.fromkeys(controller.raw_bytes for controller in value))
        elif name.endswith("visibility"):
            changes[name] = _visibility(value)
        elif name == "environment_variables":
            changes[name] = {variable["name"]: variable["value"] for variable in value}
        else:
            changes[name] = value
    return replace(settings, **changes)


def settings_record(settings: Settings) -> dict[str, Value]:
    """`settings` as Candid's ``definite_canister_settings``."""
    record: dict[str, Value] = {name: getattr(settings, name) for name in Settings.__slots__}
    record["controllers"] = [Principal(controller) for controller in settings.controllers]
    for name in ("log_visibility", "snapshot_visibility", "status_visibility"):
        visibility: Visibility = record[name]
        listed = visibility.kind == "allowed_viewers"
        record[name] = {visibility.kind: [Principal(viewer) for viewer in visibility.viewers] if listed else None}
    variables = settings.environment_variables
    record["environment_variables"] = [{"name": name, "value": variables[name]} for name in sorted(variables)]
    return record


_RANGES: Final = {
    "memory_allocation": (1 << 48, "[0..2^48]"),
    "wasm_memory_limit": (1 << 48, "[0..2^48]"),
    "wasm_memory_threshold": (1 << 48, "[0..2^48]"),
    "freezing_threshold": ((1 << 64) - 1, "[0..2^64-1]"),
    "reserved_cycles_limit": ((1 << 128) - 1, "[0..2^128-1]"),
    "minimum_incoming_canister_call_cycles": ((1 << 128) - 1, "[0..2^128-1]"),
}
"""The most that a number may be, "inclusively"."""


def refuse_lists(world: World, wanted: dict[str, Value] | None) -> Reject | None:
    """Why lists cannot be as they were sent: what is in them twice counts twice."""
    lists = wanted or {}
    controllers, variables = lists.get("controllers") or (), lists.get("environment_variables") or ()
    most = world.config.max_controllers
    if len(controllers) > most:
        text = f"Invalid settings: 'controllers' length exceeds maximum size allowed of {most}."
        return rejected(ErrorCode.INVALID_MANAGEMENT_PAYLOAD, f"{text} Found {len(controllers)}.")._replace(
            code=RejectCode.CANISTER_ERROR
        )
    names = [variable["name"] for variable in variables]
    if len(names) > world.config.max_environment_variables:
        return rejected(
            ErrorCode.CANISTER_CONTRACT_VIOLATION,
            f"Too many environment variables: {len(names)}, allowed {world.config.max_environment_variables}",
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        return rejected(
            ErrorCode.CANISTER_CONTRACT_VIOLATION,
            f"Duplicate environment variables are not allowed: {twice!r} is there more than once",
        )
    return None


def validate_settings(world: World, settings: Settings) -> Reject | None:
    """Why `settings` cannot be; `None`: they can."""
    config = world.config
    payload = ErrorCode.CANISTER_CONTRACT_VIOLATION
    for name, (most, text) in _RANGES.items():
        found = getattr(settings, name)
        if found > most:
            return rejected(payload, f"Invalid settings: {name} expected to be in the range of {text}, got {found}")
    low, high = config.min_log_memory_limit_bytes, config.max_log_memory_limit_bytes
    if settings.log_memory_limit and not low <= settings.log_memory_limit <= high:
        return rejected(
            payload,
            f"Invalid settings: log_memory_limit expected to be 0 or in the range of [{low}..{high}], "
            f"got {settings.log_memory_limit}",
        )
    lists = (settings.log_visibility, settings.snapshot_visibility, settings.status_visibility)
    if any(len(visibility.viewers) > config.max_allowed_viewers for visibility in lists):
        return rejected(payload, f"Invalid settings: at most {config.max_allowed_viewers} allowed viewers")
    if settings.compute_allocation > 100:
        return rejected(
            payload,
            f"ComputeAllocation expected to be in the range [0..100], got {settings.compute_allocation}",
        )
    return _validate_variables(world, settings)


def _validate_variables(world: World, settings: Settings) -> Reject | None:
    config, variables = world.config, settings.environment_variables
    code = ErrorCode.CANISTER_CONTRACT_VIOLATION
    if len(variables) > config.max_environment_variables:
        return rejected(
            code, f"Too many environment variables: {len(variables)}, allowed {config.max_environment_variables}"
        )
    for name, value in variables.items():
        if len(name.encode()) > config.max_environment_variable_name_bytes:
            return rejected(code, f"Environment variable name too long: {name}")
        if len(value.encode()) > config.max_environment_variable_value_bytes:
            return rejected(code, f"Environment variable value too long: {name}")
    return None
