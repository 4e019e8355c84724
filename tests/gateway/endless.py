"""A canister that never answers."""

from __future__ import annotations

from perdure import Principal
from perdure.kit import call, canister, nat64, update


@canister(name="tests:Endless")
class Endless:
    """Never answers, and always has something to do."""

    @update
    def step(self) -> nat64:
        """One step."""
        return nat64(1)

    @update
    async def loop(self, own: Principal) -> nat64:
        """All steps there are."""
        while True:
            await call(own, "step", signature="() -> (nat64)")
