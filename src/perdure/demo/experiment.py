"""The experiment: the same messages to the same canister, stable memory reached in different ways.

The canister keeps a `StableBTreeMap<u128, u128>` in a virtual memory; ``insert_many`` takes a vector of pairs, and each
message is as large as an ingress message may be. After as many messages every run must have left the same bytes.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from statistics import median
from typing import final

from perdure.candid import Type, encode, parse_type
from perdure.instrument import Options
from perdure.memory import WASM_PAGE_BYTES
from perdure.subnet import Canister, Subnet

__all__ = ["ENTRIES_PER_MESSAGE", "Run", "insert_messages", "prove_upgrade", "run_series", "stable_digest", "wasm"]

ENTRIES_PER_MESSAGE = 55_000
"""Pairs of random 128-bit numbers take up to 38 bytes each: 2.06 MB of the 2 MiB that a message may have."""


def wasm() -> bytes:
    """The canister's module, gzip, as shipped."""
    return files(__package__).joinpath("insert_many.wasm.gz").read_bytes()


def insert_messages(count: int, *, entries: int = ENTRIES_PER_MESSAGE, seed: int = 2023) -> list[bytes]:
    """Arguments of ``insert_many``, the same for the same seed."""
    source = random.Random(seed)
    types: tuple[Type, ...] = (parse_type("vec record { nat; nat }"),)

    def message() -> bytes:
        pairs = [{0: source.getrandbits(128), 1: source.getrandbits(128)} for _ in range(entries)]
        return encode(types, (pairs,))

    return [message() for _ in range(count)]


@final
@dataclass
class Run:
    """One series: milliseconds of each message, and the digest of stable memory after it."""

    name: str
    entries_per_message: int
    milliseconds: list[float] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    survived_upgrade: bool = False

    @property
    def median_milliseconds(self) -> float:
        """Median time of a message."""
        return median(self.milliseconds)

    @property
    def ns_per_entry(self) -> float:
        """Median time of an inserted entry."""
        return self.median_milliseconds * 1e6 / self.entries_per_message


def run_series(
    name: str,
    messages: Sequence[bytes],
    options: Options,
    *,
    entries: int = ENTRIES_PER_MESSAGE,
    make_subnet: Callable[[Options], Subnet] | None = None,
    progress: Callable[[str, int], None] = lambda name, done: None,
) -> Run:
    """Send `messages` to a fresh canister, upgrade it in the middle, and time each message.

    Args:
        name: of the series.
        messages: arguments of ``insert_many``.
        options: how stable memory is reached.
        entries: in each message.
        make_subnet: by default an ordinary one.
        progress: told after each message.
    """
    subnet = make_subnet(options) if make_subnet else Subnet(instrumentation=options)
    canister = subnet.install(wasm())
    run = Run(name, entries)
    for number, message in enumerate(messages):
        if number == max(1, len(messages) // 2):
            run.survived_upgrade = prove_upgrade(canister)
        start = time.perf_counter_ns()
        canister.update("insert_many", message)
        run.milliseconds.append((time.perf_counter_ns() - start) / 1e6)
        run.digests.append(stable_digest(canister))
        progress(name, number + 1)
    return run


def prove_upgrade(canister: Canister) -> bool:
    """Upgrade, and see whether the map is what it was: its length, and every byte of stable memory."""
    before = canister.query("len", b"DIDL\0\0"), stable_digest(canister)
    canister.upgrade(wasm())
    return (canister.query("len", b"DIDL\0\0"), stable_digest(canister)) == before


def stable_digest(canister: Canister) -> str:
    """SHA-256 of the whole stable memory."""
    memory = canister.stable
    return hashlib.sha256(memory.view(0, memory.size() * WASM_PAGE_BYTES)).hexdigest()
