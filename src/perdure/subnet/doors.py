"""Doors: what the facade offers from rooms above it, each by the place where it is looked up when it is called.

Imports point down. A canister's database is opened by `inspection`, which is above; a person still finds it at the
canister. This table is the one exception, and a test holds it against what the facade offers.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

__all__ = ["DOORS", "door"]

DOORS: Final = {
    "Canister.check_upgrade": "perdure.upgrade.check:check_canister",
    "Canister.sqlite": "perdure.inspection.sqlite_live:open_canister",
    "Canister.stable_variables": "perdure.inspection.motoko:stable_variables",
    "LiveMemory.tables": "perdure.inspection.live:tables_of",
    "Network.auto_progress": "perdure.network.live:auto_progress",
    "Network.serve": "perdure.gateway.server:serve",
    "Subnet.auto_progress": "perdure.network.live:auto_progress",
    "Subnet.heat": "perdure.measure.heating:heat_of_subnet",
    "Subnet.coverage": "perdure.measure.coverage:cover_subnet",
    "Subnet.profile": "perdure.measure.profile:profile_subnet",
    "Subnet.serve": "perdure.gateway.server:serve",
}
"""Method of the facade: module and function, which takes what the method belongs to before its arguments."""


def door(name: str) -> Any:
    """The function behind a door."""
    module, _, function = DOORS[name].partition(":")
    return getattr(import_module(module), function)
