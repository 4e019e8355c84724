"""Wires rules, engine and files together; the one mutable reference."""

from perdure.subnet.subnet import Canister, Status, Subnet

__all__ = ["Canister", "Status", "Subnet"]
