"""The face of `perdure.kit.pocket_ic`: what the `pocket-ic` package offers, in this process."""

from perdure.kit.pocket_ic import (
    Canister,
    CanisterHttpReject,
    CanisterHttpReply,
    CanisterHttpRequest,
    CanisterHttpResponse,
    MockCanisterHttpResponse,
    PocketIC,
    PocketICError,
    PocketICServer,
    Principal,
    SubnetConfig,
    SubnetKind,
)

__all__ = [
    "Canister",
    "CanisterHttpReject",
    "CanisterHttpReply",
    "CanisterHttpRequest",
    "CanisterHttpResponse",
    "MockCanisterHttpResponse",
    "PocketIC",
    "PocketICError",
    "PocketICServer",
    "Principal",
    "SubnetConfig",
    "SubnetKind",
]
