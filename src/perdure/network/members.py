"""What a network does with each of its subnets, in whatever process that is."""

from __future__ import annotations

from hashlib import sha256

from perdure.execution.records import encode_record, encode_response, encode_subnet
from perdure.ic.principal import Principal
from perdure.subnet.canister import Canister
from perdure.subnet.durable import DurableHost
from perdure.subnet.subnet import Subnet

__all__ = ["begin_at", "hash_of"]

_PIECE_BYTES = 1 << 20


def begin_at(subnet: Subnet, first_canister_index: int, time_ns: int | None) -> None:
    """Give a subnet that nothing was kept of its range of ids, and the time of the others.

    In a directory it is kept at once: whoever opened that alone, before anything happened on it, would begin another
    subnet there.
    """
    host = subnet._host
    if not isinstance(host, DurableHost) or not host.directory.subnet_record:
        state = subnet._state
        state.first_canister_index = first_canister_index
        if time_ns is not None:
            state.time_ns = time_ns
        for number, one in enumerate(state.inputs or ()):
            if one.kind == "open" and state.inputs is not None:  # it was noted with another range
                config, seed, *_ = one.fields
                state.inputs[number] = one._replace(fields=(config, seed, *state.begun_with))
        if isinstance(host, DurableHost):
            subnet.advance_time(0)


def hash_of(subnet: Subnet) -> bytes:
    """The SHA-256 of a subnet's state: records, memories and answers, wherever it is and however it is kept."""
    state, total = subnet._state, sha256(encode_subnet(subnet._state))
    for canister_id in sorted(state.canisters):
        canister = state.canisters[canister_id]
        total.update(encode_record(canister))
        if canister.instance is None:
            continue
        memories = Canister(subnet, Principal(canister_id)).memories
        for name in sorted(memories):
            size_bytes = memories[name].size() << 16
            total.update(b"%d %s " % (size_bytes, name.encode()))
            for address in range(0, size_bytes, _PIECE_BYTES):
                total.update(memories[name].read(address, min(_PIECE_BYTES, size_bytes - address)))
    for request_id, (expiry_ns, response) in state.ingress.answers():
        total.update(request_id + expiry_ns.to_bytes(8) + encode_response(response))
    return total.digest()
