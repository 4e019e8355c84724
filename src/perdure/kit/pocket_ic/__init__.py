"""What the `pocket-ic` package offers, in this process: no server, no binary, no port.

    from perdure.pocket_ic import PocketIC          # instead of: from pocket_ic import PocketIC

Code written for `pocket-ic` 3.1.2 runs as it is. Where `ic-py` is installed, principals and canisters
are its own; where it is not, they are classes of this package that look the same: an ``opt`` is a list, a ``blob`` a
list of numbers. What the package lacks is here too: upgrades, settings, status, logs, snapshots, forks.
"""

from perdure.kit.pocket_ic.ic_py import Principal
from perdure.kit.pocket_ic.instance import Canister, PocketIC, PocketICError
from perdure.kit.pocket_ic.outcalls import (
    CanisterHttpReject,
    CanisterHttpReply,
    CanisterHttpRequest,
    CanisterHttpResponse,
    MockCanisterHttpResponse,
)
from perdure.kit.pocket_ic.subnets import PocketICServer, SubnetConfig, SubnetKind

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
