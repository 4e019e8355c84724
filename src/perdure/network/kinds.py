"""Kinds of subnets, as the network and `pocket-ic` have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, final

__all__ = ["KINDS", "Kind", "kind_of"]


@final
class Kind(NamedTuple):
    """What differs between kinds of subnets.

    Attributes:
        title: as `pocket-ic` spells it, and the file of a network's directory.
        is_free: nothing costs cycles.
        has_production_keys: threshold keys by the network's names for those that hold value.
        first_canister_index: where its ids begin; `None`: in a range that no other subnet has.
        subnet_type: as state trees have it.
    """

    title: str
    is_free: bool = False
    has_production_keys: bool = False
    first_canister_index: int | None = None
    subnet_type: str = "application"

    @property
    def is_unique(self) -> bool:
        """Whether a network has one of them at most."""
        return self.first_canister_index is not None


KINDS: Final[Mapping[str, Kind]] = {
    "application": Kind("Application"),
    "verified_application": Kind("VerifiedApplication", subnet_type="verified_application"),
    "system": Kind("System", is_free=True, subnet_type="system"),
    "nns": Kind("NNS", is_free=True, first_canister_index=0, subnet_type="system"),
    "sns": Kind("SNS"),
    "ii": Kind("II", is_free=True, has_production_keys=True, subnet_type="system"),
    "fiduciary": Kind("Fiduciary", has_production_keys=True),
    "bitcoin": Kind("Bitcoin", is_free=True, subnet_type="system"),
}
"""Kinds of subnets by name."""


def kind_of(name: str) -> Kind:
    """The kind of this name.

    Raises:
        ValueError: there is none.
    """
    found = KINDS.get(name)
    if found is None:
        raise ValueError(f"a subnet is one of {', '.join(KINDS)}, found {name!r:.60}")
    return found
