"""Who a subnet is: its key, its id, and the certificates that it gives; all of them functions of its seed.

A subnet that is alone is the root of its own network; its id is that of its key, as clients compute the root's. In a
network another one may be the root (`subordinate`): canisters and clients then know that one's key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache, partial

from perdure.certification import Delegation, RootKey, data_certificate
from perdure.errors import UnsupportedError
from perdure.execution.world import World
from perdure.ic.principal import Principal

__all__ = ["identify", "root_key", "subordinate"]


@lru_cache(maxsize=1024)
def root_key(seed: bytes) -> RootKey:
    """The key of the subnets that have `seed`, each of them the root where it is alone.

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
    _tell_canisters(world)


def subordinate(world: World, root_key_der: bytes, delegation: Callable[[bytes], Delegation]) -> None:
    """Have a subnet that has an identity know another one as its root, which vouches for it.

    Args:
        world: the subnet.
        root_key_der: of the root; empty without the ``certification`` extra: there are no certificates then.
        delegation: what the root says of the subnet as the one of a canister.
    """
    world.state.root_key = root_key_der
    if world.certify is not None:
        world.certify = partial(data_certificate, root_key(world.state.seed), delegation=delegation)
    _tell_canisters(world)


def _tell_canisters(world: World) -> None:
    for canister in world.state.canisters.values():
        world.state.settle(canister)
        canister.facts.subnet_id, canister.facts.root_key = world.state.subnet_id, world.state.root_key
