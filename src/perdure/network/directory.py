"""What the directory of a network has to be like, and which subnets are asked for."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.errors import StorageError
from perdure.execution.cycles import FREE
from perdure.execution.state import FIRST_CANISTER_INDEX, NO_STREAM, RANGE_BITS
from perdure.ic.principal import Principal
from perdure.network.kinds import KINDS, kind_of
from perdure.storage.topology import TOPOLOGY, Member, Topology
from perdure.subnet.gate import Gate
from perdure.subnet.opening import archive_place
from perdure.subnet.subnet import Subnet
from perdure.urls import refuse_url

if TYPE_CHECKING:
    from perdure.storage import ArchiveTo

__all__ = [
    "all_planned",
    "check_places",
    "check_streams",
    "open_topology",
    "options_of",
    "planned",
    "read_members",
    "refuse_missing",
    "seed_of",
    "wanted_kinds",
]


def open_topology(path: str | os.PathLike[str], archive: str | ArchiveTo | None) -> Topology:
    """The file of a network's directory; where it has an archive, the same is there, and is fetched from there.

    Raises:
        StorageError: one of the two cannot be read or written, or they are of different networks.
    """
    refuse_url(str(path))
    place = archive_place(archive, path)
    if place is None:
        return Topology(Path(path))
    from perdure.storage.archived_topology import ArchivedTopology  # which object storage comes with

    return ArchivedTopology(place.url).topology(Path(path))


def options_of(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Those of a subnet of a network, of those of all."""
    archive = options["archive"]
    return {**options, "archive": None if archive is None else archive.under(name)}


def planned(kind: str, first_canister_index: int | None, others: Sequence[str], taken: Container[int]) -> Member:
    """One more subnet.

    Args:
        kind: of it.
        first_canister_index: where its range begins; `None`: where there is room, or where one of its kind has it.
        others: the kinds of those that there are.
        taken: numbers of ranges that they have.

    Raises:
        ValueError: there is no such kind or range, or another subnet has it.
    """
    found = kind_of(kind)
    if found.is_unique and kind in others:
        raise ValueError(f"a network has one {kind} subnet, and has it already")
    if first_canister_index is None:
        first_canister_index = found.first_canister_index
    if found.is_unique and first_canister_index != found.first_canister_index:
        words = f"the ids of the {kind} subnet begin at {found.first_canister_index}"
        raise ValueError(f"{words}, as on the network, asked for {first_canister_index}")
    if first_canister_index is None:
        place = FIRST_CANISTER_INDEX >> RANGE_BITS
        while place in taken:
            place -= 1
        first_canister_index = place << RANGE_BITS
    if first_canister_index % (1 << RANGE_BITS) or not 0 <= first_canister_index < 1 << 64:
        raise ValueError(f"a range begins at a multiple of 2^20 below 2^64, found {first_canister_index}")
    if first_canister_index >> RANGE_BITS in taken:
        raise ValueError(f"another subnet of the network has the ids from {first_canister_index} on")
    return Member(f"{len(others)}-{kind}", found.title, first_canister_index)


def all_planned(kinds: Sequence[str]) -> list[Member]:
    """The subnets of a network that begins; raises as `planned`."""
    members: list[Member] = []
    taken: set[int] = set()
    for number, kind in enumerate(kinds):
        members.append(planned(kind, None, kinds[:number], taken))
        taken.add(members[-1].first_canister_index >> RANGE_BITS)
    return members


def seed_of(network_seed: bytes, number: int) -> bytes:
    """The seed of a network's subnet."""
    return b"%s subnet %d" % (network_seed, number) if number else network_seed


def check_places(subnets: Sequence[Subnet], topology: Topology, seed: bytes) -> None:
    """Refuse state directories that were put in each other's place, or come from another network.

    Raises:
        StorageError: two are the same subnet, or one has another range of ids or seed than is written down.
    """
    places: dict[Principal, str] = {}
    for number, (subnet, member) in enumerate(zip(subnets, topology.members, strict=True)):
        twin = places.setdefault(subnet.id, member.name)
        begin, wanted = subnet._state.first_canister_index, member.first_canister_index
        words = None
        if twin != member.name:
            words = f"is the subnet {subnet.id}, which {twin} is, too: one of them is a copy of the other one"
        elif begin != wanted:
            words = f"has a subnet whose canisters' ids begin at {begin}, in the place of one of those from {wanted} on"
        elif subnet._state.seed != seed_of(seed, number):
            words = f"has the subnet {subnet.id} of another network, whose seed is not the one in topology.json"
        if words is not None:
            raise StorageError(
                f"{words}; put back the directories of the network as they were", topology.directory / member.name
            )


def check_streams(subnets: Sequence[Subnet], directory: Path) -> None:
    """Refuse subnets that cannot have been so at one time.

    Raises:
        StorageError: one has taken in what another one has not sent, or has let go of what is still to come.
    """
    for sender, receiver in permutations(subnets, 2):
        sent = sender._state.xnet_streams.get(receiver._state.subnet_id, NO_STREAM)
        inducted = receiver._state.xnet_streams.get(sender._state.subnet_id, NO_STREAM).inducted
        if not sent.begin <= inducted <= sent.end:
            words = (
                f"subnet {sender.id} has messages {sent.begin} to {sent.end} for "
                f"{receiver.id}, which expects {inducted}: one of the two was put back to an earlier state; put "
                "back all subnets of the network together. (Where they are only read, they may have gone on meanwhile)"
            )
            raise StorageError(words, directory)


def read_members(topology: Topology, gate: Gate, options: Mapping[str, Any]) -> list[Subnet]:
    """The subnets of a network in memory, as their directories have them.

    Args:
        topology: of the network.
        gate: of all of them.
        options: as of `Subnet.read`.

    Raises:
        StorageError: it is no network's directory, or its subnets cannot be read, or not as of one time.
    """
    if not topology.members:
        raise StorageError("is not the directory of a network: it has no topology.json", topology.directory)
    refuse_missing(topology)
    found: list[Subnet] = []
    try:
        for kind, member in zip(wanted_kinds(None, topology), topology.members, strict=True):
            found.append(Subnet.read(topology.directory / member.name, gate=gate, **options))
            if KINDS[kind].is_free:
                found[-1]._world.costs = FREE
        check_places(found, topology, topology.seed)
        check_streams(found, topology.directory)
    except BaseException:
        for subnet in found:
            subnet.close()
        raise
    return found


def _is_empty(path: Path) -> bool:
    """Whether it is a directory without anything, as one that was made just before a crash."""
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def refuse_missing(topology: Topology) -> None:
    """Refuse a network one of whose subnets is not there any more.

    Raises:
        StorageError: names them.
    """
    missing = topology.missing()
    if missing:
        raise StorageError(
            f"has no directory {', '.join(missing[:5])}, in which a subnet of it was kept; put it back",
            topology.directory,
        )


def _check_members(topology: Topology, by_title: Mapping[str, str]) -> None:
    """Refuse a file that somebody has changed into one that no network has written."""
    seen: dict[int, str] = {}
    unique: dict[str, str] = {}
    for member in topology.members:
        index, kind = member.first_canister_index, by_title[member.kind]
        twin = seen.setdefault(index, member.name)
        another = unique.setdefault(kind, member.name) if KINDS[kind].is_unique else member.name
        words = None
        if twin != member.name:
            words = f"{twin} and {member.name} both have the ids from {index} on"
        elif index % (1 << RANGE_BITS):
            words = f"the ids of {member.name} begin at {index}, a multiple of 2^20 is expected"
        elif another != member.name:
            words = f"{another} and {member.name} are both of the kind {member.kind!r}, of which a network has one"
        elif member.name.partition("-")[2] != kind:
            words = f"{member.name} is of the kind {member.kind!r}, and its directory by its name of another"
        if words is not None:
            raise StorageError(f"{words}; put back {TOPOLOGY} as it was", topology.directory)
    strange = topology.strange()
    if strange:
        words = f"has {', '.join(strange[:5])}, a subnet that {TOPOLOGY} does not name"
        raise StorageError(f"{words}; put back {TOPOLOGY} as it was, or take the directory away", topology.directory)


def wanted_kinds(subnets: int | Iterable[str] | None, topology: Topology | None) -> list[str]:
    """The kinds that a network is to have.

    Raises:
        ValueError: none, or others than it has.
        StorageError: it has some of a kind that there is not.
    """
    if isinstance(subnets, str) or not isinstance(subnets, int | Iterable | None):
        words = "subnets are their number, or a kind of each, as ['nns', 'application']"
        raise ValueError(f"{words}, found {subnets!r:.60}")
    asked = None if subnets is None else ["application"] * subnets if isinstance(subnets, int) else list(subnets)
    if topology is not None and topology.members:
        by_title = {kind.title: name for name, kind in KINDS.items()}
        unknown = [one.kind for one in topology.members if one.kind not in by_title]
        if unknown:
            raise StorageError(
                f"a subnet of kind {unknown[0]!r:.60}, expected {', '.join(by_title)}", topology.directory
            )
        _check_members(topology, by_title)
        there = [by_title[one.kind] for one in topology.members]
        if asked is not None and asked != there:
            raise ValueError(f"{topology.directory} has the subnets {', '.join(there)}, asked for {', '.join(asked)}")
        return there
    if topology is not None and topology.directory.is_dir() and not all(map(_is_empty, topology.directory.iterdir())):
        what = "is the state of one subnet" if (topology.directory / "checkpoint").exists() else "is not empty"
        raise StorageError(
            f"{what}, and no network's: it has no topology.json; name another directory for a network",
            topology.directory,
        )
    if asked is None:
        return ["application"] * 2
    if not asked:
        raise ValueError("a network has at least one subnet, found none")
    for kind in asked:  # before any has begun: a directory would keep those that came first
        if kind_of(kind).is_unique and asked.count(kind) > 1:
            raise ValueError(f"a network has one {kind} subnet, found {asked.count(kind)}")
    return asked
