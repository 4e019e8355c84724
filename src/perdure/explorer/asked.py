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
        """The subnet.

        Raises:
            NotFoundError: a memory alone is shown.
        """
        if self.site.subnet is None:
            raise NotFoundError("a memory alone has no canister that could do this")
        return self.site.subnet

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
