"""Which subnets a network has, in a file beside their state directories: ``topology.json``.

```
 { "format": "perdure network 1",
   "seed": hexadecimal,
   "subnet_configs": { NAME: { "subnet_config": { "subnet_kind": "Application" }, "first_canister_index": n } } }
```

`NAME` is that of a state directory beside the file: the subnet's number, and its kind. Kinds are spelled, and mappings
named, as `pocket-ic` does, whose users read this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, final

from perdure.errors import StorageError
from perdure.storage.beside import read_json
from perdure.storage.checkpoint import replace_file
from perdure.storage.disk import Disk, DiskFile, RealDisk

__all__ = ["TOPOLOGY", "Member", "Topology", "refuse_network", "refuse_within_network"]

TOPOLOGY: Final = "topology.json"
_FORMAT: Final = "perdure network 1"
_MAX_BYTES: Final = 16 << 20
_NAME: Final = re.compile(r"(0|[1-9][0-9]{0,5})-[a-z_]{1,40}")


@final
class Member(NamedTuple):
    """A subnet of a network: the name of its state directory, its kind as written, where its canisters' ids begin."""

    name: str
    kind: str
    first_canister_index: int


def refuse_network(path: str, disk: Disk | None = None) -> None:
    """Say of the directory of a network, where that of a subnet is wanted, which subnets there are.

    Raises:
        StorageError: it is one.
    """
    disk = disk or RealDisk()
    if disk.exists(f"{path}/{TOPOLOGY}") and not disk.exists(f"{path}/checkpoint"):
        names = sorted(filter(_NAME.fullmatch, disk.list_directory(path)), key=lambda name: int(name.partition("-")[0]))
        there = ", ".join(f"{path}/{name}" for name in names[:5]) or "none"
        raise StorageError(f"the directory of a network: name that of one of its subnets, {there}", path).coded(
            "no-state"
        )


def refuse_within_network(path: str) -> None:
    """Say where a subnet is to begin by itself among those of a network, which makes all that it has.

    Raises:
        StorageError: it would.
    """
    network = Path(path).absolute().parent
    if (network / TOPOLOGY).is_file():
        names = ", ".join(one.name for one in Topology(network).members[:5])
        words = f"no subnet has begun here, in the directory of a network, which has {names}"
        raise StorageError(f"{words}: name one of them, or open the network, which begins its own", path).coded(
            "no-state"
        )


@final
class Topology:
    """The file of a network's directory.

    Args:
        directory: of the network; made by `add`, which holds a lock on it.
        disk: where it is.

    Attributes:
        directory: of the network.
        members: the subnets, in order; none where there is no file.
        seed: of the network.

    Raises:
        StorageError: the file is there and cannot be read.
    """

    def __init__(self, directory: Path, disk: Disk | None = None) -> None:
        self.directory = directory
        self._directory = str(directory)
        self._file = f"{directory}/{TOPOLOGY}"
        self._outer = disk or RealDisk()
        self.members: Sequence[Member] = ()
        self.seed = b""
        self.on_change: Callable[[bytes], None] = lambda content: None
        """Given what the file will say, before it does."""
        if self._outer.exists(self._directory):
            self._load()

    def _load(self) -> None:
        inner = self._outer.within(self._directory)
        try:
            content = read_json(inner, self._file, _MAX_BYTES)
        finally:
            inner.close()
        if content is not None:
            self.take(content, self._file)

    def take(self, content: Any, where: object) -> None:
        """Be what a file says that lies elsewhere.

        Raises:
            StorageError: it is none.
        """
        try:
            self._take(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StorageError(f"is not the topology of a network: {error!s:.200}", where) from error

    def _take(self, content: Mapping[str, object]) -> None:
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']!r:.60}, expected {_FORMAT!r}")
        configs, seed = content["subnet_configs"], content["seed"]
        if not isinstance(configs, dict) or not isinstance(seed, str) or not configs:
            raise ValueError("subnet_configs is a mapping of at least one subnet, seed is hexadecimal")
        members = []
        for number, (name, one) in enumerate(configs.items()):
            if not _NAME.fullmatch(name) or int(name.partition("-")[0]) != number:
                raise ValueError(f"{name!r:.60} in place {number}, where {number}-KIND is expected")
            kind, index = one["subnet_config"]["subnet_kind"], one["first_canister_index"]
            if not isinstance(kind, str) or type(index) is not int or not 0 <= index < 1 << 64:
                raise ValueError(f"{name} has kind {kind!r:.60} and first_canister_index {index!r:.60}")
            members.append(Member(name, kind, index))
        self.members, self.seed = tuple(members), bytes.fromhex(seed)

    def missing(self) -> list[str]:
        """The names of state directories that the file has and that are not there."""
        return [one.name for one in self.members if not self._outer.exists(f"{self._directory}/{one.name}")]

    def strange(self) -> list[str]:
        """The names of state directories of subnets beside the file that it does not have."""
        known = {one.name for one in self.members}
        there = self._outer.list_directory(self._directory)
        found = [one for one in there if _NAME.fullmatch(one) and one not in known]
        return sorted(one for one in found if self._outer.exists(f"{self._directory}/{one}/checkpoint"))

    def add(self, *added: Member) -> None:
        """Write the file with more subnets, after their directories: what it names and is not there, was lost.

        Raises:
            StorageError: it cannot be written, or somebody else has written it meanwhile.
        """
        try:
            if not self._outer.exists(self._directory):
                self._outer.make_directory(self._directory)
            lock = self._outer.open(self._directory)
            try:
                self._add(lock, added)
            finally:
                lock.close()
        except OSError as error:
            raise StorageError.because("could not be written", error, self._file) from error

    def _add(self, lock: DiskFile, added: Sequence[Member]) -> None:
        # The locks of subnets come later: two who begin a network at once would each write down their own.
        if not lock.lock(exclusive=True) or Topology(self.directory, self._outer).members != self.members:
            raise StorageError("another process begins or changes this network: open it again", self._file).coded(
                "state-in-use"
            )
        for member in added:
            if not self._outer.exists(f"{self._directory}/{member.name}"):
                self._outer.make_directory(f"{self._directory}/{member.name}")
        members = (*self.members, *added)
        self._save(members)
        self.members = members

    def copy(self, directory: Path) -> None:
        """Write the file in another directory, which has its subnets already.

        Raises:
            StorageError: it cannot be written.
        """
        made = Topology(directory, self._outer)
        made.seed = self.seed
        made._save(self.members)

    def _save(self, members: Sequence[Member]) -> None:
        configs = {
            one.name: {"subnet_config": {"subnet_kind": one.kind}, "first_canister_index": one.first_canister_index}
            for one in members
        }
        content = {"format": _FORMAT, "seed": self.seed.hex(), "subnet_configs": configs}
        data = (json.dumps(content, indent=1) + "\n").encode()
        self.on_change(data)
        try:
            inner = self._outer.within(self._directory)
            try:
                replace_file(inner, self._directory, TOPOLOGY, data)
            finally:
                inner.close()
        except OSError as error:
            raise StorageError.because("could not be written", error, self._file) from error
