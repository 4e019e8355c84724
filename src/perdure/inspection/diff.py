"""Compares two stable memories by key.

First the pages: what is equal byte for byte needs no decoding. Nodes that both trees reach at the same address, none of
whose pages changed, hold the same entries in both; only the entries of all other nodes are compared. That gives the
same answer as comparing all entries, because a key is in a tree once: if it is in such a common node of one tree, it is
in the same node of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple, final

from perdure.data.catalogue import Catalogue
from perdure.data.differences import ModelDifference, compare_catalogues
from perdure.errors import HostError, MalformedError, PerdureError, UnsupportedError
from perdure.inspection.deadline import NO_HURRY, Deadline
from perdure.inspection.find import Inventory, Structure
from perdure.inspection.rows import KEYED, Rows, load_tree, open_table, tree_key, tree_order
from perdure.memory import PAGE_BYTES
from perdure.stable import types
from perdure.stable.btree import BTree
from perdure.stable.headers import ArrayHeader, magic_of
from perdure.stable.layout import MAX_DEPTH
from perdure.stable.region import Region
from perdure.values.format import Value
from perdure.values.schema import Schema
from perdure.values.show import json_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from perdure.inspection.pages import ChangedPages
    from perdure.stable.bulk import NodeReader

    Addresses = npt.NDArray[np.int64]

__all__ = ["ByteRun", "Change", "StructureDiff", "diff"]

_MAnyNODES: Final = 20_000
"""From so many changed nodes on, decoding everything at once is faster."""


@final
@dataclass(frozen=True)
class Change:
    """One entry that differs: `before` or `after` is ``None`` where it is not there.

    Key and values are encoded as the table decodes them: bytes, or of a table of SQLite, tuples.
    """

    key: Value
    before: Value
    after: Value

    @property
    def what(self) -> str:
        """``added``, ``removed`` or ``changed``."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"


_SHOWN_BYTES: Final = 16


@final
class ByteRun(NamedTuple):
    """Bytes that differ, of a memory of which no more is known: from the first to the last in pages side by side."""

    address: int
    """Within the structure's memory."""
    size_bytes: int
    before: bytes
    """The first 16; fewer where the memory ended there."""
    after: bytes


@final
@dataclass(frozen=True)
class RowsOf:
    """How rows of SQLite are shown, which need no decoding; as far as changes are concerned, a `Rows`."""

    key_columns: tuple[str, ...]
    value_columns: tuple[str, ...]

    def decode_key(self, key: tuple[object, ...]) -> tuple[Value, ...]:
        """The key."""
        return key

    def decode_value(self, value: tuple[object, ...]) -> tuple[Value, ...]:
        """The row."""
        return value


@final
@dataclass
class StructureDiff:
    """How one structure differs.

    Attributes:
        label: of its memory.
        name: from the schema, else as tables are called; of a database, its table.
        status: ``same``, ``changed``, ``added``, ``removed``, ``replaced`` (another kind or shape), ``unread`` (bytes
            differ, and nobody knows what they mean).
        kinds: kind before and after.
        changes: of the entries, in the structure's order.
        tables: before and after, to decode the changes with.
        pages: 4 KiB pages of the memory, those that had to be read, those that differ.
        models: of the catalogue of data models, what becomes of them.
        regions: before and after, where no more than their bytes is known.
        ranges: pages that differ there, as `ChangedPages.ranges`.
    """

    label: str
    name: str
    status: str
    kinds: tuple[str | None, str | None]
    changes: list[Change] = field(default_factory=list)
    tables: tuple[Rows | RowsOf | None, Rows | RowsOf | None] = field(default=(None, None), repr=False)
    pages: tuple[int, int, int] = (0, 0, 0)
    models: list[ModelDifference] = field(default_factory=list)
    regions: tuple[Region, Region] | None = field(default=None, repr=False)
    ranges: Addresses | None = field(default=None, repr=False)

    def byte_runs(self) -> Iterator[ByteRun]:
        """What differs where ``unread``, by address; each reads a page or two of either side."""
        if self.regions is not None and self.ranges is not None:
            for first, end in self.ranges:
                yield _byte_run(*self.regions, int(first) * PAGE_BYTES, int(end) * PAGE_BYTES)

    @property
    def run_count(self) -> int:
        """How many `byte_runs` there are."""
        return 0 if self.ranges is None else len(self.ranges)

    def count(self, what: str) -> int:
        """How many entries were ``added``, ``removed`` or ``changed``."""
        return sum(change.what == what for change in self.changes)


def diff(
    before: Inventory,
    after: Inventory,
    schema: Schema | None = None,
    *,
    full_scan: bool = False,
    deadline: Deadline = NO_HURRY,
) -> Iterator[StructureDiff]:
    """How each structure differs, by label.

    Args:
        before: the older state.
        after: the newer state.
        schema: how keys and values are read.
        full_scan: decode and compare every entry, not only those near changed pages. The answer is the same.
        deadline: how long it may take.

    Raises:
        HostError: it took longer; what it has given until then is right.
        MalformedError: while comparing, where a structure is damaged.
    """
    olds = {structure.label: structure for structure in before.structures}
    news = {structure.label: structure for structure in after.structures}
    for label in sorted(olds.keys() | news.keys(), key=lambda label: (len(label), label)):
        old, new = olds.get(label), news.get(label)
        if old is None or new is None:
            yield _one_sided(old, new)
        elif old.kind == new.kind == "sqlite":
            yield from _diff_databases(old, new, before, after, deadline, full_scan=full_scan)
        else:
            found = _diff_structure(old, new, before, after, schema, deadline, full_scan=full_scan)
            if old.kind == "cell" and found.status != "same":
                found.models = _diff_models(found)
            yield found
    yield from _diff_variables(before, after, deadline)


def _diff_models(found: StructureDiff) -> list[ModelDifference]:
    """What becomes of data models, where a cell is their catalogue."""
    for change in found.changes:
        if change.before is not None and change.after is not None:
            try:
                pair = (Catalogue.decode(bytes(one)) for one in (change.before, change.after))
                return list(compare_catalogues(*pair))
            except (PerdureError, TypeError):  # it is another cell, or damaged, which `fsck` says
                continue
    return []


def _diff_variables(before: Inventory, after: Inventory, deadline: Deadline) -> Iterator[StructureDiff]:
    """How each of Motoko's stable variables differs, by position where it is an array or a list."""
    olds, news = ({one.name: one for one in side.variables.tables()} for side in (before, after))
    for name in sorted(olds.keys() | news.keys()):
        deadline.look()
        old, new = olds.get(name), news.get(name)
        kinds = (old and str(old.type), new and str(new.type))
        found = StructureDiff(name, name, "same", kinds)
        if old is None or new is None:
            found.status = "removed" if old else "added"
        elif old.columns != new.columns:
            found.status = "replaced"
        else:
            width = len(old.keys)
            sides = [{row[:width]: row[width:] for row in deadline.watched(table.rows())} for table in (old, new)]
            keys = sorted(sides[0].keys() | sides[1].keys())
            pairs = ((key, sides[0].get(key), sides[1].get(key)) for key in keys)
            found.changes = [Change(key, one, other) for key, one, other in pairs if not _equal(one, other)]
            rows = RowsOf(old.keys, old.value_columns)
            found.tables, found.status = (rows, rows), "changed" if found.changes else "same"
        yield found


def _equal(one: object, other: object) -> bool:
    """Also of values that are deeper than Python compares."""
    try:
        return one == other
    except RecursionError:
        return json_text(one) == json_text(other)


def _one_sided(old: Structure | None, new: Structure | None) -> StructureDiff:
    structure = old or new
    assert structure is not None
    kinds = (old.kind if old else None, new.kind if new else None)
    return StructureDiff(structure.label, _name(structure), "removed" if old else "added", kinds)


def _name(structure: Structure) -> str:
    return structure.name or structure.table_name


def _diff_databases(
    old: Structure, new: Structure, before: Inventory, after: Inventory, deadline: Deadline, *, full_scan: bool
) -> Iterator[StructureDiff]:
    """One for each table that differs, or one for the database where none does."""
    from perdure.inspection.pages import changed_pages
    from perdure.inspection.sqlite_diff import diff_databases  # apsw only where it is needed

    kinds = (old.kind, new.kind)
    pages = changed_pages(old.region, new.region, before.extents, after.extents, before.layers, after.layers, deadline)
    counted = (pages.total, pages.compared, pages.count)
    same = StructureDiff(old.label, _name(new), "same", kinds, pages=counted)
    if not (pages.count or full_scan or old.region.size_bytes != new.region.size_bytes):
        yield same
        return
    found = [table for table in diff_databases(old, new, deadline) if table.status != "same"]
    for table in found:
        rows = RowsOf(table.keys, table.columns)
        changes = [Change(*change) for change in table.changes]
        yield StructureDiff(old.label, table.name, table.status, kinds, changes, (rows, rows), counted)
    if not found:
        yield same


def _diff_structure(
    old: Structure,
    new: Structure,
    before: Inventory,
    after: Inventory,
    schema: Schema | None,
    deadline: Deadline,
    *,
    full_scan: bool,
) -> StructureDiff:
    from perdure.inspection.pages import changed_pages  # NumPy only where it is needed

    found = StructureDiff(old.label, _name(new), "same", (old.kind, new.kind))
    below = (before.extents, after.extents, before.layers, after.layers, deadline)
    pages = changed_pages(old.region, new.region, *below)
    extra = 0
    if old.data is not None and new.data is not None:
        extra = changed_pages(old.data, new.data, *below).count
    found.pages = (pages.total, pages.compared, pages.count + extra)
    if pages.count + extra == 0 and not full_scan and old.region.size_bytes == new.region.size_bytes:
        return found
    if old.kind != new.kind and {old.kind, new.kind} - set(KEYED):
        found.status = "replaced"
        return found
    if old.kind not in (*KEYED, "vec", "minheap", "log", "cell"):
        return _unread(found, old, new, pages)
    old, new = _explain_each_other(old, new)
    try:
        tables = (open_table(old, schema), open_table(new, schema))
    except UnsupportedError:
        return _unread(found, old, new, pages)
    found.tables = tables
    found.changes = _changes(tables, pages, full_scan, deadline)
    found.status = "changed" if found.changes else "same"
    return found


def _unread(found: StructureDiff, old: Structure, new: Structure, pages: ChangedPages) -> StructureDiff:
    found.status = "unread"
    found.regions, found.ranges = (old.region, new.region), pages.ranges
    return found


def _byte_run(old: Region, new: Region, start: int, end: int) -> ByteRun:
    """From the first to the last byte that differ in pages all of which do."""
    one, other = (_read(side, start, start + PAGE_BYTES) for side in (old, new))
    first = start + next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))
    one, other = (_read(side, end - PAGE_BYTES, end).ljust(PAGE_BYTES, b"\0") for side in (old, new))
    same = next((at for at in range(PAGE_BYTES) if one[-1 - at] != other[-1 - at]), 0)
    until = min(first + _SHOWN_BYTES, end - same)
    return ByteRun(first, end - same - first, _read(old, first, until), _read(new, first, until))


def _read(region: Region, start: int, end: int) -> bytes:
    """As far as there is any."""
    end = min(end, region.size_bytes)
    return region.read(start, end - start) if start < end else b""


def _explain_each_other(old: Structure, new: Structure) -> tuple[Structure, Structure]:
    """Where the bytes of one state tell how wide keys are and those of the other do not, let the one speak for both."""
    shapes = old.shape, new.shape
    if shapes[0] is not None and shapes[1] is not None and shapes[0].bounds_sum == shapes[1].bounds_sum:
        if shapes[0].is_readable and not shapes[1].is_readable:
            return old, replace(new, shape=shapes[0])
        if shapes[1].is_readable and not shapes[0].is_readable:
            return replace(old, shape=shapes[1]), new
    return old, new


def _changes(tables: tuple[Rows, Rows], pages: ChangedPages, full_scan: bool, deadline: Deadline) -> list[Change]:
    old, new = tables
    if old.structure.kind not in KEYED:
        return _diff_positions(old, new, None if full_scan else pages, deadline)
    trees = (load_tree(old.structure, _key(old)), load_tree(new.structure, _key(new)))
    entries = None if full_scan or not _same_grid(*trees) else _entries_near_changes(trees, pages, deadline)
    if entries is None:
        entries = (_all_entries(trees[0], deadline), _all_entries(trees[1], deadline))
    return _diff_entries(*entries, tree_order(trees[1]), deadline)


def _key(table: Rows) -> Value:
    assert table.key is not None
    return table.key


def _same_grid(old: BTree, new: BTree) -> bool:
    """Whether equal bytes at equal addresses mean the same entries in both."""
    return (old.header.page_bytes, old.header.slots, old.nodes.key_bytes) == (
        new.header.page_bytes,
        new.header.slots,
        new.nodes.key_bytes,
    )


def _diff_entries(
    old: dict[bytes, bytes], new: dict[bytes, bytes], order: Callable[[bytes], Value], deadline: Deadline
) -> list[Change]:
    changes = [
        Change(key, before, new.get(key)) for key, before in deadline.watched(old.items()) if new.get(key) != before
    ]
    changes += [Change(key, None, after) for key, after in deadline.watched(new.items()) if key not in old]
    return sorted(changes, key=lambda change: order(change.key))


# Maps, every entry


_MOST_IN_A_HURRY: Final = 1_000_000
"""Entries that are decoded in one step where somebody waits: about two seconds."""


def _all_entries(tree: BTree, deadline: Deadline) -> dict[bytes, bytes]:
    """All entries of a tree, in bulk."""
    deadline.look()
    if deadline.seconds is not None and tree.header.length > _MOST_IN_A_HURRY:
        raise HostError(f"{tree.header.length:,} entries are not compared within {deadline.seconds:g} s")
    from perdure.stable.columns import read_columns

    columns = read_columns(tree, tree_key(tree), types.raw)
    return dict(zip(columns.keys.raws(), columns.values.raws(), strict=True))


# Maps, what changed


def _entries_near_changes(
    trees: tuple[BTree, BTree], pages: ChangedPages, deadline: Deadline
) -> tuple[dict[bytes, bytes], dict[bytes, bytes]] | None:
    """The entries of all nodes but those common to both trees and unchanged; ``None`` where those are too many."""
    import numpy as np

    old, new = (_reachable(tree, deadline) for tree in trees)
    common, in_old, _ = np.intersect1d(old[0], new[0], assume_unique=True, return_indices=True)
    touched = _differ(trees, common, pages, deadline)
    touched |= _chain_touched(trees, old[1][in_old], ~touched, pages, deadline)
    unchanged = common[~touched]
    apart = [np.setdiff1d(addresses, unchanged, assume_unique=True) for addresses, _ in (old, new)]
    if max(map(len, apart)) > _MAnyNODES:
        return None
    found = tuple(_entries_of(tree, addresses, deadline) for tree, addresses in zip(trees, apart, strict=True))
    return found[0], found[1]


def _entries_of(tree: BTree, addresses: Addresses, deadline: Deadline) -> dict[bytes, bytes]:
    entries: dict[bytes, bytes] = {}
    for address in deadline.watched(addresses.tolist()):
        node = tree.nodes.load(address)
        entries.update(zip(node.keys, node.values, strict=True))
    return entries


def _reachable(tree: BTree, deadline: Deadline) -> tuple[Addresses, Addresses]:
    """Addresses of all nodes of a tree, and their links to overflow pages. Leaves are not read but for their head.

    Raises:
        MalformedError: a node is no node, or is reached twice.
    """
    import numpy as np

    reader = _reader(tree)
    level = np.array([tree.header.root] if tree.header.root else [], dtype=np.int64)
    found, links = [level[:0]], [level[:0]]
    for _ in range(MAX_DEPTH):
        if not len(level):
            break
        deadline.look()
        heads = reader.heads(level)
        found.append(heads.addresses)
        links.append(heads.links)
        level, _ = reader.children(heads)
    addresses = np.concatenate(found)
    order = np.argsort(addresses)
    addresses = addresses[order]
    if (addresses[1:] == addresses[:-1]).any():
        raise MalformedError("a node is reached twice", tree.header.root)
    return addresses, np.concatenate(links)[order]


def _reader(tree: BTree) -> NodeReader:
    from perdure.stable.bulk import NodeReader, Strict
    from perdure.stable.gather import Gather

    return NodeReader(Gather(tree.memory), tree.header, Strict(tree.header.allocator.capacity(tree.memory)))


def _differ(trees: tuple[BTree, BTree], addresses: Addresses, pages: ChangedPages, deadline: Deadline) -> Value:
    """Which chunks differ: those in changed pages, compared byte by byte."""
    from perdure.stable.gather import BLOCK_BYTES, Gather

    page_bytes = trees[0].header.page_bytes
    differs = pages.touches(addresses, page_bytes)
    places = differs.nonzero()[0]
    old, new = (Gather(tree.memory) for tree in trees)
    block = max(1, BLOCK_BYTES // page_bytes)
    for start in range(0, len(places), block):
        deadline.look()
        part = places[start : start + block]
        rows = (gather.rows(addresses[part], page_bytes) for gather in (old, new))
        differs[part] = (next(rows) != next(rows)).any(axis=1)
    return differs


def _chain_touched(
    trees: tuple[BTree, BTree], links: Addresses, asked: object, pages: ChangedPages, deadline: Deadline
) -> Value:
    """Which of the asked nodes have an overflow page that changed. Unchanged pages link on alike in both."""
    import numpy as np

    from perdure.stable.gather import refuse

    reader, other = (_reader(tree) for tree in trees)
    touched = np.zeros(len(links), dtype=bool)
    active = np.flatnonzero(asked & (links != 0))
    current = links[active]
    while len(active):
        refuse(current, ~other.is_body(current), "an overflow page of one state lies past the memory of the other")
        _, following = reader.follow(current)
        hit = _differ(trees, current, pages, deadline)
        touched[active[hit]] = True
        active, following = active[~hit], following[~hit]
        active, current = active[following != 0], following[following != 0]
    return touched


# Arrays, logs, cells


def _diff_positions(old: Rows, new: Rows, pages: ChangedPages | None, deadline: Deadline) -> list[Change]:
    changes = []
    for place in deadline.watched(_places(old, new, pages)):
        before, after = old.get(place), new.get(place)
        if before != after:
            changes.append(Change(place, before, after))
    return changes


def _places(old: Rows, new: Rows, pages: ChangedPages | None) -> Iterator[int]:
    """Positions that may differ: of a vec or heap those whose slot lies in a changed page, else all."""
    most = max(len(old), len(new))
    if pages is None or old.structure.kind not in ("vec", "minheap") or old.structure.value != new.structure.value:
        yield from range(most)
        return
    longer = max(old, new, key=len).structure.region
    header = ArrayHeader.read(longer, magic_of(longer))
    following = 0
    for first, end in pages.ranges.tolist():
        slots = header.slots_in(first * PAGE_BYTES, end * PAGE_BYTES)
        yield from range(max(following, slots.start), min(slots.stop, most))
        following = max(following, slots.stop)
    yield from range(max(following, min(len(old), len(new))), most)
