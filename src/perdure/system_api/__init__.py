"""What each `ic0` function means, as rules over one message's environment and effects."""

from __future__ import annotations

from perdure.system_api.api import (
    MAX_CALL_PAYLOAD_BYTES,
    MAX_CALL_TIMEOUT_SECONDS,
    MAX_CERTIFIED_DATA_BYTES,
    MAX_ENVIRONMENT_VARIABLE_NAME_BYTES,
    MAX_METHOD_NAME_BYTES,
    QUEUE_CAPACITY,
    SystemApi,
)
from perdure.system_api.host_functions import HOST_FUNCTIONS, HostFunction, Machine
from perdure.system_api.wording import CanisterTrap, already_responded, out_of_range, reply_too_large, wrong_context

__all__ = [
    "HOST_FUNCTIONS",
    "MAX_CALL_PAYLOAD_BYTES",
    "MAX_CALL_TIMEOUT_SECONDS",
    "MAX_CERTIFIED_DATA_BYTES",
    "MAX_ENVIRONMENT_VARIABLE_NAME_BYTES",
    "MAX_METHOD_NAME_BYTES",
    "QUEUE_CAPACITY",
    "CanisterTrap",
    "HostFunction",
    "Machine",
    "SystemApi",
    "already_responded",
    "out_of_range",
    "reply_too_large",
    "wrong_context",
]
