"""Which subnets `pocket-ic` can be asked for, and what stands where it has its server."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Final, final

from perdure.errors import MalformedError, StorageError, UnsupportedError
from perdure.execution.config import SubnetConfig as Limits
from perdure.execution.cycles import FREE
from perdure.execution.management import METHODS
from perdure.execution.management.interface import codecs
from perdure.execution.records import RECORDS
from perdure.execution.state import RANGE_BITS
from perdure.ic.principal import Principal
from perdure.network import Network
from perdure.network.kinds import KINDS
from perdure.storage import StateDirectory
from perdure.storage.topology import Topology
from perdure.subnet import Subnet

__all__ = [
    "PocketICServer",
    "SubnetConfig",
    "SubnetKind",
    "effective",
    "is_on_nns",
    "kinds_of",
    "named_in",
    "network_of",
    "range_of",
]


class SubnetKind(Enum):
    """The kind of a subnet."""

    APPLICATION = "Application"
    BITCOIN = "Bitcoin"
    FIDUCIARY = "Fiduciary"
    II = "II"
    NNS = "NNS"
    SNS = "SNS"
    SYSTEM = "System"
    VERIFIED_APPLICATION = "VerifiedApplication"


@final
class SubnetConfig:
    """Which subnets there are. `state_dir` keeps their states there, and brings those that it has."""

    def __init__(  # noqa: PLR0913, PLR0917 -- the package's
        self,
        application: int = 0,
        bitcoin: bool = False,
        fiduciary: bool = False,
        ii: bool = False,
        nns: bool = False,
        sns: bool = False,
        system: int = 0,
        verified_application: int = 0,
        state_dir: str | None = None,
    ) -> None:
        self.application = application
        self.bitcoin = bitcoin
        self.fiduciary = fiduciary
        self.ii = ii
        self.nns = nns
        self.sns = sns
        self.system = system
        self.verified_application = verified_application
        self.state_dir = state_dir
        self.states: list[tuple[SubnetKind, Path]] = []

    def validate(self) -> None:
        """Check that there is a subnet.

        Raises:
            ValueError: there is none.
        """
        directory = Path(self.state_dir) if self.state_dir else None
        is_kept = directory is not None and directory.is_dir() and any(directory.iterdir())
        if not (kinds_of(self) or self.states or is_kept):
            raise ValueError("At least one subnet or a non-empty state directory must be configured.")

    def add_subnet_with_state(self, subnet_type: SubnetKind, state_dir_path: str) -> None:
        """Have a subnet in memory that begins with the state of a directory, which stays as it is.

        Args:
            subnet_type: its kind.
            state_dir_path: a state directory of perdure's, as there is one for each subnet in a `state_dir`.

        Raises:
            UnsupportedError: it is none: a replica's state cannot be read.
        """
        path = Path(state_dir_path)
        try:
            StateDirectory.open(path, read_only=True, records=RECORDS).close()
        except StorageError as error:
            raise UnsupportedError(f"{path} is no state of perdure's, and those of a replica cannot be read") from error
        self.states.append((subnet_type, path))

    def __repr__(self) -> str:
        return f"SubnetConfig({', '.join(kind.value for kind in kinds_of(self))})"


@final
class PocketICServer:
    """Stands where the package has its server: the instances of this process."""

    def __init__(self) -> None:
        self._instances: list[str] = []

    def new_instance(self) -> int:
        """Count a new instance; its number."""
        self._instances.append("Available")
        return len(self._instances) - 1

    def list_instances(self) -> list[str]:
        """``Available`` or ``Deleted`` for each instance."""
        return list(self._instances)

    def delete_instance(self, instance_id: int) -> None:
        """Mark an instance as deleted."""
        self._instances[instance_id] = "Deleted"


_FREE: Final = frozenset(SubnetKind[name.upper()] for name, kind in KINDS.items() if kind.is_free)


def network_of(config: SubnetConfig) -> Network:
    """The subnets that a configuration asks for.

    Raises:
        ValueError: other subnets than the state directory has, or states and a state directory at once.
        StorageError: the state directory cannot be opened.
    """
    names, directory = [kind.name.lower() for kind in kinds_of(config)], config.state_dir
    if config.states:
        if names or directory or len(config.states) > 1:
            raise ValueError("a subnet that begins with a state is the only one")
        ((kind, path),) = config.states
        return Network.of(Subnet.read(path), kind.name.lower())
    if directory is None or len(names) > 1 or Topology(Path(directory)).members:
        return Network(names or None, path=directory)
    kind = SubnetKind[names[0].upper()] if names else SubnetKind.APPLICATION
    # PocketIC has keys by the production names on these.
    limits = Limits(production_key_names=kind in (SubnetKind.II, SubnetKind.FIDUCIARY))
    return Network.of(Subnet(directory, config=limits, costs=FREE if kind in _FREE else None), kind.name.lower())


def effective(principal: Mapping[str, str] | None) -> Principal | None:
    """The subnet or canister that a call of the management canister is sent to, as ``{"SubnetId": Base64}``.

    Raises:
        ValueError: it is something else.
    """
    if principal is None:
        return None
    ((kind, text),) = principal.items()
    if kind not in ("SubnetId", "CanisterId"):
        raise ValueError(f"an effective principal is a SubnetId or a CanisterId, found {kind!r:.60}")
    return Principal(base64.b64decode(text))


def named_in(method_name: str, payload: bytes) -> Principal | None:
    """The canister that an argument of the management canister names, if it does."""
    method = METHODS.get(method_name)
    if method is None or not method.target:
        return None
    try:
        (arg,) = codecs()[method_name][0].decode(payload)
    except MalformedError:
        return None  # whoever executes it will say so
    found: Principal = arg[method.target]
    return found


def is_on_nns(canister_id: Principal) -> bool:
    """Whether the NNS's subnet has the id."""
    return canister_id.raw_bytes[8:] == b"\1\1" and range_of(canister_id) == 0


def range_of(canister_id: Principal) -> int:
    """The first index of the range that an id is in.

    Raises:
        ValueError: it is no id that a subnet gives to a canister.
    """
    raw = canister_id.raw_bytes
    if len(raw) != 10 or raw[8:] != b"\1\1":
        raise ValueError(f"{canister_id} is no id that a subnet gives to a canister")
    return int.from_bytes(raw[:8]) >> RANGE_BITS << RANGE_BITS


def kinds_of(config: SubnetConfig) -> list[SubnetKind]:
    """The kinds of the subnets that a configuration asks for, one for each subnet."""
    return [kind for kind in SubnetKind for _ in range(int(getattr(config, kind.name.lower())))]
