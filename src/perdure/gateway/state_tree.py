"""The state tree of a subnet, kept from one certificate to the next: what has not changed has its digest.

| path below the root | is |
|---|---|
| ``canister/ID/...`` | module hash, controllers, metadata, certified data, times |
| ``canister_ranges/SUBNET/FIRST`` | the ids that canisters here may have |
| ``request_status/ID/...`` | what became of a request |
| ``subnet/SUBNET/...`` | key, type, ranges; of the subnet itself also nodes and metrics |
| ``time`` | ns since 1970 |

Spec: "The system state tree" in the interface specification.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, final

import cbor2

from perdure.canister import Reply
from perdure.certification import HashTree, Labeled, Leaf, Tree, encode_nat, encode_ranges, tree
from perdure.certification.hash_tree import fork_together
from perdure.certification.labels import Labels
from perdure.execution.ingress import Keeping
from perdure.execution.messages import Response
from perdure.execution.scheduler import request_status
from perdure.execution.state import CanisterState, SubnetState
from perdure.execution.world import World
from perdure.gateway.envelope import MARK
from perdure.network.delegations import Neighbour

__all__ = ["Node", "State", "StateTree", "alone"]

_SECTIONS: Final = ("icp:public ", "icp:private ")


class Node(NamedTuple):
    """Who signs the answers to queries: its id, and its key in DER."""

    node_id: bytes
    public_key_der: bytes


class State(NamedTuple):
    """A state tree: `content` is the same for as long as nothing changes but the time."""

    tree: HashTree
    content: bytes
    time_ns: int


def alone(state: SubnetState) -> tuple[Neighbour, ...]:
    """The network of a subnet that is its own: all canisters are there."""
    everything = ((bytes(8) + b"\1\1", b"\xff" * 8 + b"\1\1"),)
    return (Neighbour(state.subnet_id, state.root_key, everything, "application"),)


def _canister_tree(canister: CanisterState) -> HashTree:
    content: dict[bytes, Tree | bytes] = {
        b"certified_data": canister.certified_data,
        b"controllers": MARK + cbor2.dumps(sorted(canister.facts.controllers)),
    }
    for label, time_ns in (
        (b"canister_creation_timestamp", canister.created_at_ns),
        (b"last_install_timestamp", canister.installed_at_ns),
    ):
        if time_ns:
            content[label] = encode_nat(time_ns)
    module = canister.module
    if module is not None:
        content[b"module_hash"] = module.module_hash
        metadata = {
            name[len(prefix) :].encode(): bytes(section)
            for name, section in module.custom_sections.items()
            for prefix in _SECTIONS
            if name.startswith(prefix)
        }
        if metadata:
            content[b"metadata"] = metadata
    return tree(content)


def _answer_tree(response: Response) -> HashTree:
    if isinstance(response, Reply):
        return tree({b"status": b"replied", b"reply": response.data})
    content = {
        b"status": b"rejected",
        b"reject_code": encode_nat(response.code),
        b"reject_message": response.message.encode(),
    }
    if response.error_code:
        content[b"error_code"] = response.error_code.encode()
    return tree(content)


def _status_tree(status: str) -> HashTree:
    return tree({b"status": status.encode()})


_PROCESSING: Final = _status_tree("processing")
_DONE: Final = _status_tree("done")


@final
class StateTree:
    """Follows one subnet. Everything is called while its lock is held.

    Args:
        node: the one that there is.
        neighbours: the subnets of the network, this one included.
    """

    def __init__(self, node: Node, neighbours: Callable[[], tuple[Neighbour, ...]]) -> None:
        self._node = node
        self._neighbours = neighbours
        self._world: World | None = None
        self._canisters = self._requests = Labels()
        self._progress: set[bytes] = set()
        self._kept: Keeping | None = None
        self._subnet: tuple[tuple[bytes, bytes, int], HashTree, HashTree, int] | None = None

    def tree(
        self, world: World, preparing: set[bytes], asked: bytes | None = None, *, is_subnet_asked: bool = False
    ) -> State:
        """The tree as the subnet now is.

        Args:
            world: the subnet.
            preparing: requests that are here and not in the subnet yet.
            asked: a request whose status has to be exact: of others in progress nobody is shown how far they are.
            is_subnet_asked: whether metrics have to be exact, too.
        """
        self._follow(world, preparing)
        state = world.state
        requests = self._requests
        if asked in self._progress:
            status = "received" if asked in preparing else request_status(world, asked)
            requests = requests.with_tree(asked, _status_tree(status))
        ranges, subnet, count = self._subnet_trees(state, is_subnet_asked)
        parts = [
            (b"canister", self._canisters.tree, self._canisters.count),
            (b"canister_ranges", ranges, count),
            (b"request_status", requests.tree, requests.count),
            (b"subnet", subnet, count),
        ]
        labeled = [Labeled(label, content) for label, content, count in parts if count]
        content = b"".join(part.digest for part in labeled)
        time = Labeled(b"time", Leaf(encode_nat(state.time_ns)))
        return State(fork_together([*labeled, time]), content, state.time_ns)

    def _follow(self, world: World, preparing: set[bytes]) -> None:
        if world is not self._world or world.touched is None or self._kept is None:
            self._begin(world)
        state = world.state
        touched = world.touched
        while touched:
            self._take(state, touched.pop())
        self._follow_requests(state, preparing)

    def _begin(self, world: World) -> None:
        """Take up a subnet, or the copy of it that an anchor has put in its place."""
        self._world = world
        world.touched = set(world.state.canisters)
        self._canisters = self._requests = Labels()
        self._progress = set()
        ingress = world.state.ingress
        for request_id, (_, response) in ingress.answers():
            self._requests = self._requests.with_tree(request_id, _answer_tree(response))
        for request_id in ingress.done:
            self._requests = self._requests.with_tree(request_id, _DONE)
        self._kept = ingress.kept()

    def _take(self, state: SubnetState, canister_id: bytes) -> None:
        canister = state.canisters.get(canister_id)
        if canister is None:
            self._canisters = self._canisters.without(canister_id)
            return
        new, old = _canister_tree(canister), self._canisters.get(canister_id)
        if old is None or old.digest != new.digest:
            self._canisters = self._canisters.with_tree(canister_id, new)

    def _follow_requests(self, state: SubnetState, preparing: set[bytes]) -> None:
        ingress, requests = state.ingress, self._requests
        assert self._kept is not None
        progress = {*ingress.callees, *ingress.begun, *preparing}
        for request_id in self._progress - progress:
            requests = requests.without(request_id)
        for request_id in progress - self._progress:
            requests = requests.with_tree(request_id, _PROCESSING)
        forgotten, answers = ingress.changes(self._kept)
        for request_id in forgotten:
            requests = requests.without(request_id)
        for answer in answers:
            response = answer.response
            requests = requests.with_tree(answer.request_id, _DONE if response is None else _answer_tree(response))
        self._requests, self._progress, self._kept = requests, progress, ingress.kept()

    def _subnet_trees(self, state: SubnetState, is_asked: bool) -> tuple[HashTree, HashTree, int]:
        key = (state.subnet_id, state.root_key, len(state.canisters))
        if is_asked or self._subnet is None or self._subnet[0] != key:
            subnets = self._neighbours()
            self._subnet = (
                key,
                tree({one.subnet_id: {one.ranges[0][0]: encode_ranges(one.ranges)} for one in subnets}),
                tree({one.subnet_id: self._about(one, state) for one in subnets}),
                len(subnets),
            )
        return self._subnet[1:]

    def _about(self, one: Neighbour, state: SubnetState) -> Tree:
        told: Tree = {
            b"canister_ranges": encode_ranges(one.ranges),
            b"public_key": one.public_key_der,
            b"type": one.subnet_type.encode(),
        }
        if one.subnet_id != state.subnet_id:
            return told
        return {
            **told,
            b"metrics": MARK + cbor2.dumps(_metrics(state)),
            b"node": {self._node.node_id: {b"public_key": self._node.public_key_der}},
        }


def _metrics(state: SubnetState) -> dict[int, object]:
    """Canisters, bytes, consumed cycles by halves, transactions: fields are numbered."""
    total_bytes = sum(canister.memory_bytes() for canister in state.canisters.values())
    low, high = state.consumed_cycles & ((1 << 64) - 1), state.consumed_cycles >> 64
    cycles = {0: low, 1: high} if high else {0: low}
    return {0: len(state.canisters), 1: total_bytes, 2: cycles, 3: state.next_request_number - 1}
