"""Copies of the whole directory of a network as of one time, also while it goes on.

Each subnet commits by itself. What several directories hold when they are opened one after the other need not go
together: one may have taken in what another one, opened before, had not sent yet. So all are pinned first, which takes
nobody's turn, and then those that are too new are taken back, commit by commit, until no message is in two states, or
in none. When the first one was pinned the network was in such a state, and the logs still have it: what is pinned makes
no checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, final

from perdure.errors import StorageError
from perdure.execution.records import decode_subnet
from perdure.execution.state import NO_STREAM, XNetStream
from perdure.network.directory import refuse_missing, wanted_kinds
from perdure.storage import StateDirectory, StorageLimits, backup
from perdure.storage.backup import refuse_within
from perdure.storage.beside import DirectoryDraft
from perdure.storage.checkpoints import SUBDIRECTORIES
from perdure.storage.disk import Disk, RealDisk
from perdure.storage.topology import Topology

__all__ = ["backup_network"]

_TRIES: Final = 20
_NOT_CHECKED: Final = StorageLimits(check_bytes=0)  # whoever opens the copy compares its pages


def backup_network(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, disk: Disk | None = None
) -> dict[str, int]:
    """Copy the directory of a network as it was at one time, also while it is in use; it is a network's as any other.

    No message between subnets is lost or there twice in it, and no cycles. Each subnet is copied as of a commit that
    was its last one when this began, or came later. Until its copy is made a subnet makes no checkpoint.

    Args:
        source: the directory.
        target: where there is nothing; all of it is there when this returns, or none.
        disk: where both are.

    Returns:
        The version of each subnet, by the name of its directory.

    Raises:
        StorageError: there is something at the target, or one of them cannot be read, written or trusted.
    """
    disk = disk or RealDisk()
    refuse_within(source, target)
    for _ in range(_TRIES):
        topology = Topology(Path(source), disk)
        wanted_kinds(None, _there(topology))  # which looks at what somebody may have changed
        refuse_missing(topology)
        with ExitStack() as stack:
            readers = _pinned(stack, topology, disk)
            # One that was added meanwhile may have sent something already.
            if Topology(Path(source), disk).members != topology.members:
                continue
            versions = _cut(readers)
            if versions is not None:
                _copy(topology, target, readers, versions, disk)
                return versions
    raise StorageError(f"makes checkpoints faster than its subnets can be opened, {_TRIES} times: try again", source)


def _there(topology: Topology) -> Topology:
    if not topology.members:
        raise StorageError("is not the directory of a network: it has no topology.json", topology.directory)
    return topology


def _pinned(stack: ExitStack, topology: Topology, disk: Disk) -> dict[str, StateDirectory]:
    """The subnets' directories, open for reading, by name."""
    found = {}
    for member in topology.members:
        path = topology.directory / member.name
        opened = StateDirectory.open(path, read_only=True, limits=_NOT_CHECKED, disk=disk)
        found[member.name] = stack.enter_context(opened)
    return found


@final
class _Past:
    """A subnet on the way back through what its log has.

    Attributes:
        version: where it is.
        subnet_id: whose.
        streams: what it has for others, and of them, there.
    """

    def __init__(self, reader: StateDirectory) -> None:
        self._records = reader.subnet_records()
        self.version = 0
        self.subnet_id = b""
        self.streams: Mapping[bytes, XNetStream] = {}
        self.step_back()

    def step_back(self) -> bool:
        """Go back to the newest state with another subnet's record; whether there is one in the log."""
        found = next(self._records, None)
        if found is None:
            return False
        self.version, record = found
        if record:
            state = decode_subnet(record)
            self.subnet_id, self.streams = state.subnet_id, state.xnet_streams
        else:
            self.streams = {}  # as before its first commit
        return True


def _cut(readers: Mapping[str, StateDirectory]) -> dict[str, int] | None:
    """The newest versions that go together; `None`: the logs do not have them any more."""
    members = {name: _Past(reader) for name, reader in readers.items()}
    by_id = {one.subnet_id: one for one in members.values()}
    pairs = _pairs(members.values())
    is_done = False
    while not is_done:
        is_done = True
        for sender_id, receiver_id in pairs:
            if sender_id not in by_id or receiver_id not in by_id:
                continue
            sender, receiver = by_id[sender_id], by_id[receiver_id]
            sent = sender.streams.get(receiver_id, NO_STREAM)
            inducted = receiver.streams.get(sender_id, NO_STREAM).inducted
            if sent.begin <= inducted <= sent.end:
                continue
            # Either one has taken in what is not sent yet, or one has let go of what is still to come.
            if not (receiver if inducted > sent.end else sender).step_back():
                return None
            is_done = False
    return {name: one.version for name, one in members.items()}


def _pairs(members: Iterable[_Past]) -> list[tuple[bytes, bytes]]:
    """Who may have sent to whom. The way back only takes from that."""
    return sorted(
        {pair for one in members for other in one.streams for pair in ((one.subnet_id, other), (other, one.subnet_id))}
    )


def _copy(
    topology: Topology,
    target: str | os.PathLike[str],
    readers: Mapping[str, StateDirectory],
    versions: Mapping[str, int],
    disk: Disk,
) -> None:
    names = [name for member in topology.members for name in (f"{member.name}.partial", member.name)]
    inner = [place for name in names for place in (*(f"{name}/{one}" for one in SUBDIRECTORIES), name)]
    refusal = "is there already; a copy is made where there is nothing"
    with DirectoryDraft(disk, os.fspath(target), inner, refusal) as made:
        for name, version in versions.items():
            backup(topology.directory / name, f"{made}/{name}", newest=version, disk=disk)
            readers[name].close()
        topology.copy(Path(made))
