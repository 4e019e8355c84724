"""Who a subnet is: its root key, its id, and the certificates that it gives; all of them functions of its seed.

A local subnet is the root of its own network, so its id is that of its root key, as clients compute it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache, partial

from perdure.certification import RootKey, data_certificate
from perdure.errors import UnsupportedError
from perdure.execution.world import World
from perdure.ic.principal import Principal

__all__ = ["identify", "root_key"]


@lru_cache(maxsize=64)
def root_key(seed: bytes) -> RootKey:
    """The root key of the subnets that have `seed`.

    Raises:
        UnsupportedError: the ``certification`` extra is not installed.
    """
    return RootKey(seed)


def identify(world: World) -> None:
    """Give a subnet its id, and its key where the ``certification`` extra is installed.

    Without it there are no certificates: ``data_certificate_present`` says so, and the root key is empty. A state that
    has an id keeps it then, and the key that it had where the extra was installed.
    """
    try:
        key = root_key(world.state.seed)
    except UnsupportedError:
        if not world.state.subnet_id:
            world.state.subnet_id = Principal.self_authenticating(hashlib.sha256(world.state.seed).digest()).raw_bytes
    else:
        world.state.root_key = key.public_key_der
        world.state.subnet_id = Principal.self_authenticating(key.public_key_der).raw_bytes
        world.certify = partial(data_certificate, key)
    for canister in world.state.canisters.values():
        canister.facts.subnet_id, canister.facts.root_key = world.state.subnet_id, world.state.root_key
