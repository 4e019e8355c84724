"""A canister that hands a call on from one to the next, for tests of calls between subnets."""

from __future__ import annotations

from perdure import Principal, RejectError
from perdure.kit import call, canister, ic, nat64, query, update

WALK = "(vec principal, nat64, nat64, text, nat64) -> (nat64)"


@canister
class Walker:
    """Counts who came by; what is left of a path goes on."""

    visits: int
    rejected: int

    def __init__(self) -> None:
        self.visits = 0
        self.rejected = 0

    @update
    async def walk(self, path: list[Principal], cycles: nat64, keep: nat64, end: str, timeout: nat64) -> nat64:
        """How many came after this one; it keeps some of what it got, and sends some on."""
        self.visits += 1
        ic.accept_cycles(keep)
        if not path:
            if end == "trap":
                raise ValueError("the end of the path")
            return 0
        arg = path[1:], cycles, keep, end, timeout
        sent = call(path[0], "walk", *arg, signature=WALK, cycles=cycles, timeout=timeout or None)
        try:
            return 1 + await sent
        except RejectError:
            self.rejected += 1
            if end == "pass":
                raise
            return 0

    @query
    def seen(self) -> list[nat64]:
        """Visits, and calls that were rejected."""
        return [self.visits, self.rejected]
