"""Which subnets a network has, in object storage beside their archives: ``topology.json``, as it is in its directory.

What a network is to have is written there first: a subnet that nobody has yet is one that begins.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, final

from perdure.errors import StorageError
from perdure.storage.objects import AlreadyThereError, Objects
from perdure.storage.topology import TOPOLOGY, Topology
from perdure.urls import parse_url

__all__ = ["ArchivedTopology"]

_MAX_BYTES: Final = 16 << 20


@final
class ArchivedTopology:
    """The file in object storage.

    Args:
        url: of the archives of a network.
    """

    def __init__(self, url: str) -> None:
        self._place = parse_url(url).under(TOPOLOGY)
        self._objects = Objects(self._place)

    def topology(self, directory: Path) -> Topology:
        """The file of a network's directory, written as this one says where it is not there; they change together.

        Raises:
            StorageError: one of them cannot be read or written, or they are of different networks.
        """
        found, there = Topology(directory), self._read(directory)
        found.on_change = self._write
        if there is None:
            if found.members:
                found.add()
        elif not found.members:
            found.seed = there.seed
            found.add(*there.members)
        elif (there.seed, there.members[: len(found.members)]) == (found.seed, found.members):
            found.add(*there.members[len(found.members) :])  # a crash came between the two
        else:
            raise StorageError("it has another network than the directory: name another one of the two", self._place)
        for name in found.missing():  # made of its own archive
            (directory / name).mkdir(parents=True)
        return found

    def _read(self, directory: Path) -> Topology | None:
        if self._objects.stat(self._place.key) is None:
            return None
        data, _ = self._objects.read_whole(self._place.key, _MAX_BYTES)
        found = Topology(directory / "in object storage")
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise StorageError(f"cannot be read: {error}", self._place) from error
        found.take(content, self._place)
        return found

    def _write(self, content: bytes) -> None:
        """Have it say the same; only once as the first."""
        there = self._objects.stat(self._place.key)
        try:
            self._objects.put(self._place.key, content, only_new=there is None)
        except AlreadyThereError:
            raise StorageError("another network was begun here just now", self._place) from None
