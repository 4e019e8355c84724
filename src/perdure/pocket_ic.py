"""The face of `perdure.kit.pocket_ic`: what the `pocket-ic` package offers, in this process."""

from perdure.kit.pocket_ic import (
    Canister,
    PocketIC,
    PocketICError,
    PocketICServer,
    Principal,
    SubnetConfig,
    SubnetKind,
)

__all__ = ["Canister", "PocketIC", "PocketICError", "PocketICServer", "Principal", "SubnetConfig", "SubnetKind"]
