"""What each `ic0` function means, as rules over one message's environment and effects."""

from __future__ import annotations

from perdure.system_api.api import (
    MAX_CERTIFIED_DATA_BYTES,
    MAX_ENVIRONMENT_VARIABLE_NAME_BYTES,
    MAX_METHOD_NAME_BYTES,
    SystemApi,
)
from perdure.system_api.host_functions import HOST_FUNCTIONS, HostFunction, Machine
from perdure.system_api.log import LINE_OVERHEAD_BYTES, EntryLog
from perdure.system_api.wording import CanisterTrap, already_responded, out_of_range, reply_too_large, wrong_context

__all__ = [
    "HOST_FUNCTIONS",
    "LINE_OVERHEAD_BYTES",
    "MAX_CERTIFIED_DATA_BYTES",
    "MAX_ENVIRONMENT_VARIABLE_NAME_BYTES",
    "MAX_METHOD_NAME_BYTES",
    "CanisterTrap",
    "EntryLog",
    "HostFunction",
    "Machine",
    "SystemApi",
    "already_responded",
    "out_of_range",
    "reply_too_large",
    "wrong_context",
]
