"""Which subnets a network has, in object storage beside their archives, as the ``topology.json`` of its directory says.

```
 ARCHIVE/topology/NUMBER    what the file says with so many subnets, 6 digits; written only where there is none
                            and "written_by": random, of the network as it was open
```

The one of the highest number counts. What a network is to have is written there first: a subnet that nobody has yet is
one that begins. A name is taken once, as in `perdure.storage.archive_log`: of two owners who add a subnet, one does.
"""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Final, final

from perdure.errors import StorageError
from perdure.storage.objects import AlreadyThereError, Objects
from perdure.storage.topology import Topology
from perdure.urls import parse_url

__all__ = ["ArchivedTopology"]

_MAX_BYTES: Final = 16 << 20
_NUMBER: Final = re.compile("[0-9]{6}")


@final
class ArchivedTopology:
    """The objects of a network.

    Args:
        url: of the archives of a network.
    """

    def __init__(self, url: str) -> None:
        self._place = parse_url(url).under("topology")
        self._objects = Objects(self._place)
        self._token = secrets.token_hex(16)

    def topology(self, directory: Path) -> Topology:
        """The file of a network's directory, written as this one says where it is not there; they change together.

        Raises:
            StorageError: one of them cannot be read or written, or they are of different networks.
        """
        found, there = Topology(directory), self._read(directory)
        if there is None:
            if found.members:
                found.on_change = self._write
                found.add()
        elif not found.members:
            found.seed = there.seed
            self._add(found, there)
        elif (there.seed, there.members[: len(found.members)]) == (found.seed, found.members):
            self._add(found, there)  # a crash came between the two
        else:
            raise StorageError("it has another network than the directory: name another one of the two", self._place)
        found.on_change = self._write
        for name in found.missing():  # made of its own archive
            (directory / name).mkdir(parents=True)
        return found

    def _add(self, found: Topology, there: Topology) -> None:
        added = there.members[len(found.members) :]
        if added:
            found.add(*added)

    def _read(self, directory: Path) -> Topology | None:
        names = [stat.key.rpartition("/")[2] for stat in self._objects.list(self._place.key)]
        numbers = filter(_NUMBER.fullmatch, names)
        newest = max(numbers, default=None)
        if newest is None:
            return None
        place = self._place.under(newest)
        data, _ = self._objects.read_whole(place.key, _MAX_BYTES)
        found = Topology(directory / "in object storage")
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise StorageError(f"cannot be read: {error}", place) from error
        found.take(content, place)
        if len(found.members) != int(newest):
            raise StorageError(f"it has {len(found.members)} subnets, and not as many as its name says", place)
        return found

    def _write(self, content: bytes) -> None:
        """Have it say the same, if nobody else has written one with as many subnets, or more."""
        facts = json.loads(content)
        place = self._place.under(f"{len(facts['subnet_configs']):06}")
        written = (json.dumps({**facts, "written_by": self._token}, indent=1) + "\n").encode()
        try:
            self._objects.put(place.key, written, only_new=True)
        except AlreadyThereError:
            there, _ = self._objects.read_whole(place.key, _MAX_BYTES)
            if there != written:  # else it was written, and the answer got lost
                raise StorageError(
                    "another one has begun or changed this network just now: open it again", self._place
                ).coded("archive-owner") from None
