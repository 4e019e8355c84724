"""Which subnets `pocket-ic` can be asked for, and what stands where it has its server."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import final

from perdure.errors import UnsupportedError

__all__ = ["PocketICServer", "SubnetConfig", "SubnetKind", "kinds_of"]


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
    """Which subnet there is. One of any kind; `state_dir` keeps its state there."""

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

    def validate(self) -> None:
        """Check that there is one subnet.

        Raises:
            ValueError: there is none.
            UnsupportedError: there are several.
        """
        kinds = kinds_of(self)
        if len(kinds) > 1:
            names = ", ".join(kind.value for kind in kinds)
            raise UnsupportedError(f"perdure runs one subnet, asked for {len(kinds)}: {names}")
        directory = Path(self.state_dir) if self.state_dir else None
        if not kinds and (directory is None or not directory.is_dir() or not any(directory.iterdir())):
            raise ValueError("At least one subnet or a non-empty state directory must be configured.")

    def add_subnet_with_state(self, subnet_type: SubnetKind, state_dir_path: str) -> None:
        """Refuse: the state of a replica's subnet cannot be read. A `state_dir` of ours can.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(f"{state_dir_path} is the state of a replica; perdure opens state_dir of its own")

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


def kinds_of(config: SubnetConfig) -> list[SubnetKind]:
    """The kinds of the subnets that a configuration asks for, one for each subnet."""
    return [kind for kind in SubnetKind for _ in range(int(getattr(config, kind.name.lower())))]
