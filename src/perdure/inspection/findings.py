"""What `fsck` can find: one table of kinds, each with its severity and what to do about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final, final

from perdure.stable.region import Region

__all__ = ["KINDS_OF_DAMAGE", "Finding", "Findings"]

MAX_PER_CODE: Final = 20
"""Findings of one code that are listed for one structure; the rest are counted."""

_RESTORE: Final = "restore a snapshot from before; do not let the canister write"
_REPORT: Final = "harmless for reading"

KINDS_OF_DAMAGE: Final[dict[str, tuple[str, str]]] = {
    # memory manager
    "manager-header": ("error", _RESTORE),
    "manager-overwritten": ("error", "export what can be read, restore a snapshot from before; write no more at 0"),
    "manager-bucket-size": ("error", _RESTORE),
    "manager-bucket-count": ("error", _RESTORE),
    "manager-truncated": ("error", "the dump is incomplete: download it again"),
    "manager-memory-size": ("error", _RESTORE),
    "manager-owner-beyond": ("error", "the next growth hands this bucket out again: restore a snapshot from before"),
    "manager-bucket-hole": ("note", "crate 0.7.1 reclaimed it; 0.7.2 never uses it again"),
    "manager-bucket-surplus": ("note", "crate 0.7.1, or a shrunk size: the bucket holds nothing that counts"),
    "manager-reserved": ("note", _REPORT),
    # what is declared
    "kind-differs": ("error", "the memory holds something else than stable.yaml says: correct one of them"),
    "memory-missing": ("note", "made when it is first used, or never yet; if it has been in use, restore a snapshot"),
    "memory-undeclared": ("note", "add it to stable.yaml, so that nobody takes the id for something else"),
    "memory-retired": ("note", "never reuse the id; `perdure stable drop` gives its buckets back"),
    "memory-removed": ("note", "declared as removed, but it has pages: `perdure stable drop` takes it out"),
    "memory-reserved": ("note", "declared as not in use yet, but it holds something: declare it as active"),
    "key-type": ("error", "the keys are not of the declared type: correct stable.yaml, or restore"),
    "value-type": ("error", "the value is not of the declared type: correct stable.yaml, or restore"),
    # data models
    "catalogue-damaged": ("error", "the trees are there and nobody knows what they are: restore the catalogue's cell"),
    "catalogue-tree": ("error", "the memory holds something else than the catalogue says: restore a snapshot"),
    "index-differs": ("error", "lookups by the index miss rows or find others: `reindex()` builds it from the rows"),
    # maps
    "map-header": ("error", _RESTORE),
    "map-version": ("error", "no released crate reads this version"),
    "map-page-size": ("error", _RESTORE),
    "allocator-header": ("error", _RESTORE),
    "root-length": ("error", _RESTORE),
    "entry-count": ("error", "the crate counts wrong from now on: rebuild the map from its entries"),
    "node-address": ("error", "a part of the map is unreachable: restore a snapshot from before"),
    "node-shared": ("error", "two parents, or a circle: writing to one changes the other; restore"),
    "node-header": ("error", _RESTORE),
    "node-count": ("error", _RESTORE),
    "node-underfull": ("error", "the crate's rebalancing takes at least 5 entries for granted: rebuild the map"),
    "node-past-pages": ("error", "the entries are longer than the node's pages: restore"),
    "leaf-depth": ("error", "leaves differ in depth: rebuild the map"),
    "slot-overflow": ("error", "an entry longer than its version 1 slot overwrote its neighbour: rebuild the map"),
    "key-order": ("error", "lookups miss entries: rebuild the map from its entries"),
    "key-duplicate": ("error", "one of the two is found, the other is not: rebuild the map"),
    "key-order-undeclared": ("note", "not ascending as bytes: declare the key's type, to have its order checked"),
    "key-width-unknown": ("note", "declare the key's type, to have keys and values checked"),
    "overflow-address": ("error", _RESTORE),
    "overflow-shared": ("error", "two nodes, or a circle, share an overflow page: restore"),
    "overflow-header": ("error", _RESTORE),
    "overflow-surplus": ("note", "crates before 0.6.4 left such pages; they go with the next save of the node"),
    "chunk-header": ("error", _RESTORE),
    "chunk-in-use-free": ("error", "in use but marked as free: the next insertion overwrites it; restore"),
    "chunk-double": ("error", "in use and in the free list: the next insertion overwrites it; restore"),
    "free-list-address": ("error", _RESTORE),
    "free-list-circle": ("error", "a chunk would be handed out for ever: restore"),
    "free-list-allocated": ("error", "the crate panics when it comes to this chunk: restore"),
    "free-list-end": ("error", "the list does not end past the last chunk: live chunks would be handed out; restore"),
    "chunk-count": ("error", "the allocator's count differs from the marks: freeing may panic; rebuild the map"),
    "chunk-leak": ("note", "crates before 0.6.4 leaked them (#212); rebuilding the map gives them back"),
    "chunk-lost": ("note", "free, but not in the free list: rebuilding the map gives them back"),
    "map-reserved": ("note", _REPORT),
    "map-page-size-custom": ("note", "not a size that a released crate chooses"),
    # the others
    "array-header": ("error", _RESTORE),
    "array-truncated": ("error", _RESTORE),
    "array-element": ("error", "an element is longer than its slot: restore"),
    "heap-order": ("error", "the heap gives elements in the wrong order: rebuild it"),
    "heap-order-undeclared": ("note", "no heap by bytes: declare the type of its elements, to have the order checked"),
    "cell-header": ("error", _RESTORE),
    "cell-truncated": ("error", _RESTORE),
    "log-header": ("error", _RESTORE),
    "log-index-truncated": ("error", _RESTORE),
    "log-offsets": ("error", "the ends of the entries do not ascend: restore"),
    "log-data-truncated": ("error", _RESTORE),
    "log-alone": ("note", "the other half is in another memory, or gone"),
    # databases
    "sqlite-truncated": ("error", "the dump is incomplete, or the header was written over: download it again"),
    "sqlite-damaged": ("error", "extract it and let `sqlite3 FILE .recover` save what can be read; restore a snapshot"),
    "sqlite-foreign-key": ("note", "rows refer to rows that are not there: `pragma foreign_keys` was off for a while"),
    "sqlite-wal": (
        "note",
        "if its log (-wal) was not empty, what was in it is not here; `pragma journal_mode = delete` before",
    ),
    # space
    "waste": ("note", "a smaller bucket size, or fewer memories, would take less"),
    "unknown": ("note", "nothing that perdure knows: a structure of its own, or overwritten"),
}
"""Code: severity and advice. Errors make the exit status 1; released crates themselves produce notes."""


@final
@dataclass(frozen=True)
class Finding:
    """One thing that `fsck` found.

    Attributes:
        code: a key of `KINDS_OF_DAMAGE`.
        label: of the memory concerned, ``manager`` for the manager.
        address: where, within that memory; ``None`` where no single place is to blame.
        below_address: where, in the stable memory as a whole.
        message: what was found and what was expected.
    """

    code: str
    label: str
    address: int | None
    below_address: int | None
    message: str

    @property
    def severity(self) -> str:
        """``error`` or ``note``."""
        return KINDS_OF_DAMAGE[self.code][0]

    @property
    def advice(self) -> str:
        """What to do about it."""
        return KINDS_OF_DAMAGE[self.code][1]


@final
class Findings:
    """Collects the findings of one memory, `MAX_PER_CODE` of each code; counts all."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.listed: list[Finding] = []
        self.counts: Counter[str] = Counter()

    def add(self, code: str, message: str, address: int | None = None, below_address: int | None = None) -> None:
        """Note one finding."""
        self.counts[code] += 1
        if self.counts[code] <= MAX_PER_CODE:
            self.listed.append(Finding(code, self.label, address, below_address, message))

    def add_in(self, region: Region, code: str, message: str, address: int | None) -> None:
        """Note one finding at an address of `region`."""
        below = -1 if address is None else region.below_address(address)
        self.add(code, message, address, below if below >= 0 else None)

    def skip(self, code: str, count: int) -> None:
        """Count findings that nobody needs to see one by one."""
        if count > 0:
            self.counts[code] += count
