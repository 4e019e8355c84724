"""What an instance needs of the module whose code it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, final

from perdure.canister import CanisterModule
from perdure.embedder.engine import Engine
from perdure.embedder.facts import ModuleFacts
from perdure.embedder.pagemap import PrivatePages

__all__ = ["NOWHERE", "Code", "Site", "page_scans"]

NOWHERE: Final = -1
"""In place of an offset that nobody knows."""


@final
class Site(NamedTuple):
    """Where a function of the canister's own stands: its index, its symbol or nothing, an offset in its new body.

    The offset may be `NOWHERE`.
    """

    function: int
    symbol: str
    offset: int


class Code(CanisterModule, Protocol):
    """A compiled module.

    Attributes:
        engine: that runs it.
        facts: about the module.
        instance_pre: an owned ``wasmtime_instance_pre_t*``.
        max_seconds: a message that runs longer traps.
    """

    engine: Engine
    facts: ModuleFacts
    instance_pre: int
    max_seconds: float

    def memories_at(self, offset: int) -> tuple[str, ...]:
        """The memories that the instruction at this offset of the instrumented module reaches, by name."""
        ...

    def locator(self, sites: Sequence[Site]) -> Callable[[], tuple[str, ...]] | None:
        """What says where these are, as people read it; `None`: nothing more is known than their names."""
        ...


def page_scans(code: Code) -> Mapping[str, PrivatePages]:
    """How changed pages are found of the memories that code writes by itself; of the others the host knows them."""
    pages = code.engine.private_pages.another()
    accounted = ("heap", *code.facts.noted_memories)
    return dict.fromkeys(accounted if code.facts.accounting else (*accounted, "stable"), pages)
