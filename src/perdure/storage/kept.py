"""What an open state directory has of each canister, and what it is told and tells when it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Literal, Protocol, final, get_args

import cbor2

from perdure.canister import GlobalValue
from perdure.storage.changes import NO_CODE, CanisterChange, Entry, PythonCode, encode_globals
from perdure.storage.checkpoint import KeptCanister, KeptMemory
from perdure.storage.durable import DurableMemory
from perdure.storage.layers import own_layout
from perdure.units import meant

__all__ = [
    "CanisterState",
    "Durability",
    "KeepHistory",
    "Recovery",
    "StorageLimits",
    "canister_hash",
    "check_kept",
    "facts_hash",
]

Durability = Literal["message", "round", "checkpoint", "never"]

MAX_KEPT: Final = (1 << 62) - 1

KeepHistory = int | Literal["kept"] | None
"""How many commits a directory keeps; `None`: all; ``kept``: as it does so far, a new one none."""


def check_kept(durability: Durability, history: KeepHistory) -> None:
    """Refuse what is neither, as somebody may give it, before it is written: such a directory could not be read.

    Raises:
        ValueError: no such durability, or number of commits.
    """
    known = get_args(Durability)
    if durability not in known:
        raise ValueError(f"durability is {durability!r:.60}, {meant(str(durability), known)}")
    is_number = isinstance(history, int) and not isinstance(history, bool) and 0 <= history <= MAX_KEPT
    if not (is_number or history in (None, "kept")):
        expected = f"0 to 2^{MAX_KEPT.bit_length()}-1 commits, None for all, or 'kept' for what it keeps so far"
        raise ValueError(f"history is {history!r:.60}, expected {expected}")


class Facts(Protocol):
    """What is said of a canister, now or in the past; see `CanisterState`."""

    module_hash: bytes
    global_values: tuple[GlobalValue, ...] | None
    record: bytes
    code: PythonCode


def facts_hash(canister_id: bytes, facts: Facts) -> bytes:
    """The hash of what is said of a canister, its memories apart."""
    globals_ = b"" if facts.global_values is None else cbor2.dumps(encode_globals(facts.global_values))
    parts = (b"perdure canister 1", canister_id, facts.module_hash, globals_, facts.record, cbor2.dumps([*facts.code]))
    return sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).digest()


def canister_hash(facts: bytes, memories: Mapping[str, bytes]) -> bytes:
    """The hash of everything about a canister, of `facts_hash` and its memories' hashes by name."""
    named = [(name.encode(), hash_) for name, hash_ in sorted(memories.items())]
    return sha256(facts + b"".join(len(name).to_bytes(8, "little") + name + hash_ for name, hash_ in named)).digest()


@final
@dataclass(slots=True)
class CanisterState:
    """A canister as committed, its memories apart.

    Attributes:
        module_hash: SHA-256 of the module, a blob of the directory; empty: none is installed.
        global_values: globals; `None`: the module has not run.
        record: what the rules keep about it, opaque here.
        code: what is kept of code that is no Wasm.
        memories: by name.
    """

    slot: int
    module_hash: bytes = b""
    global_values: tuple[GlobalValue, ...] | None = None
    record: bytes = b""
    code: PythonCode = NO_CODE
    memories: dict[str, DurableMemory] = field(default_factory=dict)
    facts_hash: bytes = b""

    @property
    def sizes(self) -> dict[str, int]:
        """Wasm pages of its memories, by name."""
        return {name: memory.wasm_pages for name, memory in self.memories.items()}

    def hash(self, canister_id: bytes) -> bytes:
        """The hash of everything about the canister, over what `facts_hash` keeps until one of them changes."""
        if not self.facts_hash:
            self.facts_hash = facts_hash(canister_id, self)
        return canister_hash(self.facts_hash, {name: memory.hash() for name, memory in self.memories.items()})

    def take(self, change: CanisterChange) -> None:
        """Take over what a commit changes, memories apart."""
        if change.module_hash is not None:
            self.module_hash = change.module_hash
        if change.global_values is not None:
            self.global_values = change.global_values
        if change.record is not None:
            self.record = change.record
        if change.code is not None:
            self.code = change.code

    def replay(self, entry: Entry) -> None:
        """Take over what a record says, memories apart."""
        self.take(
            CanisterChange(
                module_hash=entry.module, global_values=entry.global_values, record=entry.record, code=entry.code
            )
        )

    def kept(self) -> KeptCanister:
        """The canister as a checkpoint that is being made has it."""
        memories, layers = {}, {}
        for name, memory in self.memories.items():
            layout = memory.next_layout
            memories[name] = KeptMemory(layout.generation, memory.wasm_pages, memory.root())
            if layout.files and layout != own_layout(f"{self.slot}-{name}", layout.generation, memory.wasm_pages):
                layers[name] = layout
        return KeptCanister(self.slot, self.module_hash, self.global_values, self.record, self.code, memories, layers)


@final
@dataclass(frozen=True, slots=True)
class StorageLimits:
    """Sizes at which a directory does something, in bytes.

    Attributes:
        log_bytes: a log longer than this leads to a checkpoint.
        check_bytes: an image with at most this much data is compared with its hashes when it is first used.
    """

    log_bytes: int = 64 << 20
    check_bytes: int = 64 << 20


@final
@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening found beyond the last checkpoint.

    Attributes:
        commits: whole records that were replayed.
        torn: whether something that is not a whole record followed them: a commit that a crash cut off, never
            acknowledged if durability was on.
        damaged_version: the first acknowledged version that could not be recovered; `None`: all were.
    """

    commits: int
    torn: bool
    damaged_version: int | None
