"""What a project says of its canisters, put into effect: settings, and each other's ids.

As `icp deploy` does it: settings of the manifest are set; controllers are added to those that are there; every
canister of the project finds the ids of all of them in its environment variables ``PUBLIC_CANISTER_ID:name``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from perdure.errors import MalformedError
from perdure.ic.principal import Principal
from perdure.project import Project, ProjectSettings
from perdure.subnet.subnet import Subnet

__all__ = ["BINDING", "configure"]

BINDING = "PUBLIC_CANISTER_ID:"


def configure(subnet: Subnet, project: Project, ids: Mapping[str, Principal], names: Iterable[str]) -> list[str]:
    """Give canisters their settings, and all that are there the ids that they did not know.

    Args:
        subnet: where they are.
        project: what says of them.
        ids: of the canisters that are there, by name.
        names: the canisters whose settings are set.

    Returns:
        The names that are no canisters yet and shall be controllers; ``names`` beside it name who waits for them.

    Raises:
        MalformedError: what the project says of one of `names` cannot be read.
        RejectError: a setting is refused.
    """
    chosen = set(names)
    here = {name: principal for name, principal in ids.items() if name in project.canisters}
    bindings = {f"{BINDING}{name}": str(principal) for name, principal in here.items()}
    waiting: list[str] = []
    for name, principal in here.items():
        canister = subnet.canister(principal)
        found = canister.settings()
        changes: dict[str, Any] = {}
        variables = dict(bindings)
        if name in chosen:
            said = project.canister(name).settings()
            variables = {**said.variables, **bindings}
            changes = _changes(said, found, here)
            waiting += [f"{one} (for {name})" for one in said.controllers if _principal(one, here) is None]
        known = {one["name"]: one["value"] for one in found["environment_variables"]}
        if variables.items() - known.items():
            merged = {**known, **variables}
            changes["environment_variables"] = [{"name": one, "value": merged[one]} for one in sorted(merged)]
        if changes:
            canister.update_settings(**changes)
    return waiting


def _changes(said: ProjectSettings, found: Mapping[str, Any], ids: Mapping[str, Principal]) -> dict[str, Any]:
    """The settings that are otherwise, without environment variables."""
    changes: dict[str, Any] = {name: value for name, value in said.amounts.items() if found.get(name) != value}
    wanted = [one for one in (_principal(text, ids) for text in said.controllers) if one is not None]
    controllers = list(dict.fromkeys((*found["controllers"], *wanted)))
    if controllers != found["controllers"]:
        changes["controllers"] = controllers
    if said.log_visibility is not None:
        visibility = dict(_visibility(said.log_visibility))
        if visibility != found["log_visibility"]:
            changes["log_visibility"] = visibility
    return changes


def _visibility(said: Mapping[str, tuple[str, ...] | None]) -> Iterator[tuple[str, list[Principal] | None]]:
    for kind, viewers in said.items():
        yield kind, None if viewers is None else [Principal.from_text(one) for one in viewers]


def _principal(text: str, ids: Mapping[str, Principal]) -> Principal | None:
    """Whom a controller's name or id means; `None`: a canister that is not there yet."""
    try:
        return Principal.from_text(text)
    except MalformedError:
        return ids.get(text)
