"""The management canister, by topic: canisters, code, what is known, snapshots; `table` has the methods and calls them.

Spec: "The IC management canister".
"""

from perdure.execution.management.call import ManagementMethod, Who
from perdure.execution.management.elsewhere import BITCOIN_METHODS
from perdure.execution.management.table import (
    METHODS,
    execute_management_call,
    is_allowed_by_ingress,
    management_query,
)

__all__ = [
    "BITCOIN_METHODS",
    "METHODS",
    "ManagementMethod",
    "Who",
    "execute_management_call",
    "is_allowed_by_ingress",
    "management_query",
]
