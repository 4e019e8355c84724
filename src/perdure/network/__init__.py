"""Several subnets with one clock: calls across, in this process or in others, and what goes on by itself."""

from perdure.network.backup import backup_network
from perdure.network.network import Network

__all__ = ["Network", "backup_network"]
