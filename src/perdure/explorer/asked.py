"""A request for a page, as the pages' rooms get it, and what they give back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, final

from perdure.errors import MalformedError
from perdure.explorer.site import NotFoundError, Site
from perdure.gateway.http import Request, Response
from perdure.ic.principal import Principal
from perdure.inspection.source import Source
from perdure.subnet.subnet import Canister, Subnet

__all__ = ["MEMORY", "PREFIX", "Asked", "Page", "Shown"]

PREFIX: Final = "/_/"
MEMORY: Final = "memory"
"""In paths, the id of a memory that has no canister."""


@final
class Page(NamedTuple):
    """A template and what it shows."""

    template: str
    facts: Mapping[str, object] = {}
    status: int = 200


Shown = Page | Response


@final
@dataclass(frozen=True)
class Asked:
    """What was asked for.

    Attributes:
        site: what the pages are about.
        request: what came.
        parts: of the path, by name.
        values: of the query and of the form; the last one of a name.
    """

    site: Site
    request: Request
    parts: Mapping[str, str]
    values: Mapping[str, str]

    @property
    def subnet(self) -> Subnet:
        """The subnet: the one of the canister that is named, else the one whose id is given, else the first one.

        Raises:
            NotFoundError: a memory alone is shown, or there is no such subnet.
        """
        subnets, named = self.site.subnets, self.parts.get("id") or self.values.get("c")
        if not subnets:
            raise NotFoundError("a memory alone has no canister that could do this")
        if named and len(subnets) > 1:
            try:
                return self.site.subnet_of(Principal.from_text(named)) or subnets[0]
            except (MalformedError, ValueError):
                return subnets[0]  # where there is no such canister either
        wanted = self.values.get("subnet", "")
        found = next((one for one in subnets if str(one.id) == wanted), None) if wanted else subnets[0]
        if found is None:
            raise NotFoundError(f"no subnet {wanted[:80]!r} here")
        return found

    @property
    def canister(self) -> Canister:
        """The canister that the path names.

        Raises:
            NotFoundError: there is none.
        """
        text = self.parts["id"]
        try:
            return self.subnet.canister(Principal.from_text(text))
        except (MalformedError, ValueError, KeyError) as error:
            raise NotFoundError(f"no canister {text[:80]!r} here") from error

    @property
    def subject(self) -> Canister | Source:
        """The canister, or the memory alone."""
        if self.parts["id"] == MEMORY and self.site.memory is not None:
            return self.site.memory
        return self.canister

    @property
    def subject_or_none(self) -> str | None:
        """The id in the path."""
        return self.parts.get("id")

    def number(self, name: str, default: int = 0) -> int:
        """A number from the query, not below 0."""
        text = self.values.get(name, "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else default
