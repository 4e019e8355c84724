"""What the management canister has others answer, and what it says of a subnet that is one machine.

Calls of ``bitcoin_*`` go to a Bitcoin canister under the id that it has on the network, where there is one.

Spec: "IC Bitcoin API", "IC method subnet_info", "IC method node_metrics_history".
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from perdure.candid import Codec, parse_types
from perdure.canister import Reject
from perdure.errors import MalformedError
from perdure.execution.management.call import Call, Values
from perdure.execution.messages import CallMessage
from perdure.execution.rejects import rejected
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.ic.reject import ErrorCode, RejectCode

__all__ = ["BITCOIN_CANISTERS", "BITCOIN_METHODS", "bitcoin_canister", "node_id", "node_metrics_history", "subnet_info"]

BITCOIN_METHODS: Final = (
    "bitcoin_get_balance",
    "bitcoin_get_utxos",
    "bitcoin_send_transaction",
    "bitcoin_get_current_fee_percentiles",
    "bitcoin_get_block_headers",
)
_TESTNET: Final = Principal.from_text("g4xu7-jiaaa-aaaan-aaaaq-cai")
BITCOIN_CANISTERS: Final = {
    "mainnet": Principal.from_text("ghsi2-tqaaa-aaaan-aaaca-cai"),
    "testnet": _TESTNET,
    "regtest": _TESTNET,
}
"""By network, the id of the canister that has it."""

REPLICA_VERSION: Final = "perdure"


@lru_cache(maxsize=1)
def _network() -> Codec:
    """Of each argument there the one field that says where it goes."""
    return Codec(tuple(parse_types("(record { network : variant { mainnet; testnet; regtest } })")))


def bitcoin_canister(world: World, message: CallMessage) -> bytes | Reject:
    """The id of the canister that answers a call, or why none does."""
    try:
        ((network,),) = (one["network"] for one in _network().decode(message.arg))
    except MalformedError as error:
        return rejected(ErrorCode.INVALID_MANAGEMENT_PAYLOAD, f"Error decoding candid: {error}")._replace(
            code=RejectCode.CANISTER_ERROR
        )
    canister_id = BITCOIN_CANISTERS[network]
    raw_id = canister_id.raw_bytes
    if raw_id in world.state.canisters or (world.route is not None and world.route(raw_id) is not None):
        return raw_id
    words = f"{message.method_name}: there is no Bitcoin canister of {network} here; install one as {canister_id}"
    return rejected(ErrorCode.CANISTER_REJECTED_MESSAGE, words)


def node_id(index: int) -> Principal:
    """Of a node that is imagined, by its number from 0."""
    return Principal.self_authenticating(b"perdure node %d" % index)


def _other_subnet(call: Call) -> Reject | None:
    asked: Principal = call.arg["subnet_id"]
    ours = Principal(call.world.state.subnet_id)
    if asked == ours:
        return None
    return rejected(ErrorCode.SUBNET_NOT_FOUND, f"there is one subnet here, {ours}, asked for {asked}")


def subnet_info(call: Call) -> Values | Reject:
    """Versions of a subnet that has no replica and no registry."""
    return _other_subnet(call) or [{"replica_version": REPLICA_VERSION, "registry_version": 1}]


def node_metrics_history(call: Call) -> Values | Reject:
    """What the nodes that are imagined would have proposed so far, each as many blocks: one record, of now."""
    refusal, state, nodes = _other_subnet(call), call.world.state, call.world.costs.nodes
    if refusal is not None:
        return refusal
    if call.arg["start_at_timestamp_nanos"] > state.time_ns:
        return [[]]
    metrics = [
        {
            "node_id": node_id(index),
            "num_blocks_proposed_total": (state.round_number + nodes - 1 - index) // nodes,
            "num_block_failures_total": 0,
        }
        for index in range(nodes)
    ]
    return [[{"timestamp_nanos": state.time_ns, "node_metrics": metrics}]]
