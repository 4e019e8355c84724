"""Which paths of the state tree somebody may ask for: the rules of "Request: Read state", as a table.

Spec: "Request: Read state" in "HTTPS Interface".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from perdure.execution.state import SubnetState
from perdure.gateway.envelope import Refusal
from perdure.gateway.signatures import Authority
from perdure.ic.principal import Principal

__all__ = ["check_paths"]

_PRIVATE: Final = "icp:private "
_STATUS_LEAVES: Final = frozenset([b"status", b"reply", b"reject_code", b"reject_message", b"error_code"])
_MANAGEMENT: Final = b""
"""Calls of the management canister are known by the canister that they are about."""
_CANISTER_LEAVES: Final = frozenset(
    [b"module_hash", b"controllers", b"canister_creation_timestamp", b"last_install_timestamp"]
)


class _Asking(NamedTuple):
    scope: str
    principal: bytes
    authority: Authority
    state: SubnetState


def check_paths(
    paths: Sequence[Sequence[bytes]], scope: str, principal: bytes, authority: Authority, state: SubnetState
) -> None:
    """Refuse paths that cannot be requested.

    Args:
        paths: all that one request asks for.
        scope: ``canister`` or ``subnet``.
        principal: the effective id.
        authority: who asks.
        state: of whom.

    Raises:
        Refusal: with the path.
    """
    asking = _Asking(scope, principal, authority, state)
    for label in (b"request_status", b"canister_ranges"):
        if len({path[1] for path in paths if len(path) > 1 and path[0] == label}) > 1:
            raise Refusal(f"Can only request a single entry of {label.decode()} at a time.")
    for path in paths:
        rule = _RULES.get(path[0]) if path else None
        if rule is None:
            raise _invalid(path)
        rule(path, asking)


def _invalid(path: Sequence[bytes]) -> Refusal:
    told = "/".join(part.decode("ascii", "replace") if part.isascii() else part.hex() for part in path[:6])
    return Refusal(f"Invalid path requested: /{told[:200]}", 404)


def _time(path: Sequence[bytes], asking: _Asking) -> None:
    if len(path) > 1:
        raise _invalid(path)


def _ranges(path: Sequence[bytes], asking: _Asking) -> None:
    if asking.scope != "subnet" or not 2 <= len(path) <= 3:
        raise _invalid(path)


def _subnet(path: Sequence[bytes], asking: _Asking) -> None:
    if len(path) > 2 and path[2] not in {b"public_key", b"type", b"node", b"canister_ranges", b"metrics"}:
        raise _invalid(path)
    if len(path) > 2 and path[2] == b"metrics" and asking.scope != "subnet":
        raise _invalid(path)
    if len(path) > (5 if path[2:3] == [b"node"] else 3):
        raise _invalid(path)


def _boundary_nodes(path: Sequence[bytes], asking: _Asking) -> None:
    if len(path) > 3:
        raise _invalid(path)


def _request(path: Sequence[bytes], asking: _Asking) -> None:
    if not 2 <= len(path) <= 3 or (len(path) == 3 and path[2] not in _STATUS_LEAVES):
        raise _invalid(path)
    owner = asking.state.ingress.owner(path[1])
    if owner is None:
        return
    sender, effective_id = owner
    if sender != asking.authority.sender:
        raise Refusal("The user tries to access Request ID not signed by the caller.", 403)
    if effective_id != asking.principal:
        raise Refusal("The user tries to access Request ID not belonging to the effective id in the URL.", 403)
    targets = asking.authority.targets
    if targets is not None and targets.isdisjoint((effective_id, _MANAGEMENT)):
        raise Refusal(
            "The user tries to access Request ID for a canister that is not one of the delegation targets.", 403
        )


def _canister(path: Sequence[bytes], asking: _Asking) -> None:
    if len(path) < 3 or path[1] != asking.principal or asking.scope != "canister":
        if len(path) >= 3 and len(path[1]) <= 29 and asking.scope == "canister":
            raise Refusal(
                f"Effective canister id in URL {Principal(asking.principal)} does not match requested canister id: "
                f"{Principal(path[1])}"
            )
        raise _invalid(path)
    if len(path) == 3 and path[2] in _CANISTER_LEAVES:
        return
    if len(path) != 4 or path[2] != b"metadata":
        raise _invalid(path)
    _metadata(path, asking)


def _metadata(path: Sequence[bytes], asking: _Asking) -> None:
    try:
        name = path[3].decode()
    except UnicodeDecodeError as error:
        raise Refusal("Invalid path requested: the name of a custom section is UTF-8", 404) from error
    canister = asking.state.canisters.get(path[1])
    module = canister.module if canister is not None else None
    if canister is None or module is None or _PRIVATE + name not in module.custom_sections:
        return
    if asking.authority.sender not in canister.facts.controllers:
        raise Refusal(f"Custom section {name[:100]} can only be requested by the controllers of the canister.", 403)


_RULES: Final[Mapping[bytes, Callable[[Sequence[bytes], _Asking], None]]] = {
    b"api_boundary_nodes": _boundary_nodes,
    b"canister": _canister,
    b"canister_ranges": _ranges,
    b"request_status": _request,
    b"subnet": _subnet,
    b"time": _time,
}
