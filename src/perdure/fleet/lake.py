"""Structures as Delta tables, a version for each snapshot or commit: the first whole, then what `diff` finds.

| a structure that | becomes in the table |
|---|---|
| is there for the first time | all its rows |
| has changed | a merge by key of the entries that differ; what is gone is deleted |
| is the same | a version without rows, so that each source has one |
| is another kind, or has other columns | all its rows, in the place of those before, with their columns |
| is gone | no rows |

Delta has signed integers only: u8 to u32 are the next wider signed ones, u64 is decimal(20, 0).

Each version says which source it is of (``perdure.source``). So an export that was cut off goes on after the last one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, final
from urllib.parse import quote

import pyarrow as pa

from perdure.errors import StorageError, UnsupportedError
from perdure.inspection.arrow import read_batches, schema_of, to_batch
from perdure.inspection.diff import StructureDiff, diff
from perdure.inspection.find import Inventory, find, name_structures
from perdure.inspection.open import open_source
from perdure.inspection.rows import Rows, fitted, open_table
from perdure.inspection.state import canister_id_of, labels_of, source_of_image
from perdure.storage import StateDirectory
from perdure.urls import check_endpoints, is_url, local_path, meant_url, parse_url
from perdure.values.schema import Schema

__all__ = ["State", "Written", "commits_of", "export_delta", "sources_of"]

Opening: TypeAlias = "Callable[[], AbstractContextManager[State]]"
"""Opens a state, in a ``with``."""
Arrow: TypeAlias = Any
"""An object of pyarrow or deltalake, which have no types here."""

_SOURCE: Final = "perdure.source"
_GONE: Final = "perdure gone"
_STORES: Final = ("AWS_", "AZURE_", "GOOGLE_")
_BATCH_ROWS: Final = 1 << 16
_WIDER: Final = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.null(): pa.string(),
}


@final
@dataclass(frozen=True)
class State:
    """One state of a canister's memory.

    Attributes:
        name: which it is, the same when it is exported again.
        inventory: opened.
    """

    name: str
    inventory: Inventory


@final
@dataclass(frozen=True)
class Written:
    """A version of a Delta table.

    Attributes:
        table: its name.
        version: its number.
        source: of which state it is.
        added: rows that came.
        changed: rows that are others.
        removed: rows that went.
    """

    table: str
    version: int
    source: str
    added: int
    changed: int
    removed: int


@contextmanager
def _opened(source: str, schema: Schema | None) -> Iterator[State]:
    with open_source(source) as opened:
        named = name_structures(find(opened), schema if schema is not None else opened.declared())
        yield State(source, named)


def sources_of(sources: Sequence[str], schema: Schema | None) -> Iterator[Opening]:
    """What opens each of some sources, oldest first."""
    for source in sources:
        yield partial(_opened, source, schema)


def commits_of(directory: Path, canister: str, schema: Schema | None) -> Iterator[Opening]:
    """What opens a canister as it was after each kept commit that changed its stable memory, oldest first.

    Raises:
        StorageError: there is no such canister, or nothing is kept.
    """
    canister_id = canister_id_of(directory, canister).raw_bytes
    with StateDirectory.open(directory, read_only=True) as opened:
        kept = opened.history()
        versions = [one.version for one in reversed(kept) if (canister_id, "stable") in one.changed_pages()]
    if not versions:
        raise StorageError(
            "no commit of this canister is kept that changed its stable memory; `perdure state history --keep all` "
            "keeps those to come",
            directory,
        ).coded("version-not-kept")
    for version in versions:
        yield partial(_opened_commit, directory, canister, canister_id, version, schema)


@contextmanager
def _opened_commit(
    directory: Path, canister: str, canister_id: bytes, version: int, schema: Schema | None
) -> Iterator[State]:
    with StateDirectory.open(directory, read_only=True) as opened:
        past = opened.at(version)
        try:
            name = f"{directory}:{canister}@{version}"
            there = past.canisters[canister_id]
            labels = labels_of(opened, canister_id, there.module_hash)
            source = source_of_image(name, there.images["stable"], labels)
            yield State(name, name_structures(find(source), schema if schema is not None else source.declared()))
        finally:
            past.close()


def export_delta(
    states: Iterator[Opening],
    target: str,
    schema: Schema | None,
    structures: Sequence[str] = (),
) -> Iterator[Written]:
    """Write versions of structures into Delta tables, as they come.

    Args:
        states: what opens each state, in a ``with``; oldest first.
        target: a directory, or the URL of one in object storage, in which each structure has a table of its name.
        schema: how keys and values are read.
        structures: names or labels; all that can be read, if none is named.

    Raises:
        UnsupportedError: deltalake is not installed; a structure cannot be read.
        StorageError: a source or a table cannot be read or written, or a table's newest version is of a state that is
            none of these; none of the states has a structure of a name.
        MalformedError: a structure is damaged.
    """
    lake = _Lake(target)
    unread: dict[str, UnsupportedError | None] = dict.fromkeys(structures)
    with ExitStack() as before:
        earlier: State | None = None
        for opening in states:
            with ExitStack() as stack:
                state = stack.enter_context(opening())
                yield from _write_state(lake, earlier, state, schema, structures, unread)
                earlier = state
                before.close()
                before.push(stack.pop_all())
        for name, error in unread.items():
            if error is not None:
                raise error
            if earlier is not None:
                earlier.inventory.structure(name)  # says which there are
    lake.check_all_reached()


def _write_state(
    lake: _Lake,
    earlier: State | None,
    state: State,
    schema: Schema | None,
    structures: Sequence[str],
    unread: dict[str, UnsupportedError | None],
) -> Iterator[Written]:
    tables = _tables(state.inventory, schema, structures, unread)
    differences: dict[str, StructureDiff] = {}
    if earlier is not None:
        differences = {one.label: one for one in diff(earlier.inventory, state.inventory, schema)}
    for label, table in tables.items():
        written = lake.write(table, state.name, earlier.name if earlier else "", differences.get(label))
        if written is not None:
            yield written
    for found in differences.values():
        if found.status == "removed" and lake.has(found.name):
            written = lake.empty(found.name, state.name, earlier.name if earlier else "")
            if written is not None:
                yield written


def _tables(
    inventory: Inventory, schema: Schema | None, structures: Sequence[str], unread: dict[str, UnsupportedError | None]
) -> dict[str, Rows]:
    """The structures that can be read, by label; why one of a name could not be yet, as where nothing is in it."""
    found = {}
    if structures:
        for name in structures:
            if not _has(inventory, name):
                continue
            structure = inventory.structure(name)
            try:
                found[structure.label] = open_table(structure, schema)
            except UnsupportedError as error:
                if name not in unread:
                    raise
                unread[name] = error
            else:
                unread.pop(name, None)
        return found
    for structure in inventory.structures:
        try:
            found[structure.label] = open_table(structure, schema)
        except UnsupportedError:
            continue
    return found


def _has(inventory: Inventory, name: str) -> bool:
    return any(name in (one.name, one.label, one.table_name) for one in inventory.structures)


@final
class _Lake:
    """Delta tables below a directory or URL."""

    def __init__(self, target: str) -> None:
        try:
            import deltalake
            import deltalake.exceptions
        except ImportError as error:
            raise UnsupportedError("Delta tables need the extra: pip install 'perdure[fleet]'").coded(
                "extra-missing"
            ) from error
        self._delta: Any = deltalake
        self._options = None
        if is_url(target) or meant_url(target):
            check_endpoints(parse_url(target).scheme, os.environ)
            self._options = _options(os.environ)
        self._target = (local_path(target) or str(parse_url(target))) if is_url(target) else target
        self._waiting: dict[str, str] = {}  # by table, the source that its newest version is of, until it comes
        self._known: set[str] = set()

    def _place(self, name: str) -> str:
        return f"{self._target.rstrip('/')}/{quote(name, safe='')}"

    def has(self, name: str) -> bool:
        """Whether there is a table of this name."""
        return self._table(name) is not None

    def _table(self, name: str) -> Arrow:
        """A table as it is now; `None`: there is none."""
        place = self._place(name)
        with _told(place):
            try:
                return self._delta.DeltaTable(place, storage_options=self._options)
            except self._delta.exceptions.TableNotFoundError:
                return None

    def _is_due(self, name: str, source: str, before: str) -> bool:
        """Whether a table is to get a version of this source; not until the one it ended with has come."""
        if name not in self._known:
            self._known.add(name)
            if self.has(name):
                self._waiting[name] = self._last(name)
        if name not in self._waiting:
            return True
        if self._waiting[name] == source:
            del self._waiting[name]
        return False

    def _last(self, name: str) -> str:
        place = self._place(name)
        with _told(place):
            history = self._table(name).history(1)
        source = history[0].get(_SOURCE)
        if source is None:
            raise StorageError("its newest version was not written by perdure: name another target", place)
        return str(source)

    def check_all_reached(self) -> None:
        """Refuse to have done nothing for a table whose last source has not come."""
        for name, source in self._waiting.items():
            raise StorageError(
                f"its newest version is of {source}, which is none of the sources: begin with that one, or name "
                "another target",
                self._place(name),
            )

    def write(self, table: Rows, source: str, before: str, found: StructureDiff | None) -> Written | None:
        """Have a version of a structure; `None`: there was one."""
        if not self._is_due(table.name, source, before):
            return None
        place = self._place(table.name)
        table = fitted(table)
        wanted = _delta_schema(schema_of(table))
        if found is None or found.status not in ("same", "changed") or not self.has(table.name):
            return self._overwrite(table, source)
        with _told(place):
            there = pa.schema(self._table(table.name).schema().to_arrow())
        if there.names != wanted.names or [_plain(one) for one in there.types] != [_plain(one) for one in wanted.types]:
            return self._overwrite(table, source)
        if not found.changes:
            return self._append_nothing(table.name, wanted, source)
        return self._merge(table, wanted, source, found)

    def empty(self, name: str, source: str, before: str) -> Written | None:
        """Have a version without rows of a structure that is gone."""
        if not self._is_due(name, source, before):
            return None
        place = self._place(name)
        with _told(place):
            described = pa.schema(self._table(name).schema().to_arrow())
        count = self._count(name)
        version = self._put(name, described.empty_table(), source, mode="overwrite")
        return Written(name, version, source, 0, 0, count)

    def _count(self, name: str) -> int:
        place = self._place(name)
        with _told(place):
            return sum(pa.table(self._table(name).get_add_actions())["num_records"].to_pylist())

    def _overwrite(self, table: Rows, source: str) -> Written:
        removed = self._count(table.name) if self.has(table.name) else 0
        described, batches = read_batches(table, _BATCH_ROWS)
        wanted = _delta_schema(described)
        reader = pa.RecordBatchReader.from_batches(wanted, (_cast(batch, wanted) for batch in batches))
        version = self._put(table.name, reader, source, mode="overwrite", schema_mode="overwrite")
        return Written(table.name, version, source, self._count(table.name), 0, removed)

    def _append_nothing(self, name: str, wanted: Arrow, source: str) -> Written:
        return Written(name, self._put(name, wanted.empty_table(), source, mode="append"), source, 0, 0, 0)

    def _put(self, name: str, content: Arrow, source: str, **how: str) -> int:
        place = self._place(name)
        with _told(place):
            properties = self._properties(source)
            self._delta.write_deltalake(
                place, content, commit_properties=properties, storage_options=self._options, **how
            )
            return int(self._table(name).version())

    def _merge(self, table: Rows, wanted: Arrow, source: str, found: StructureDiff) -> Written:
        older = found.tables[0]
        assert isinstance(older, Rows)
        kept = [(change.key, change.after) for change in found.changes if change.after is not None]
        gone = [(change.key, change.before) for change in found.changes if change.after is None]
        parts = [
            _marked(_cast(to_batch(table, rows), wanted), is_gone)
            for rows, is_gone in ((kept, False), (gone, True))
            if rows
        ]
        changes = pa.Table.from_batches(parts)
        place = self._place(table.name)
        on = " and ".join(f"t.{_quoted(name)} = s.{_quoted(name)}" for name in table.key_columns)
        with _told(place):
            delta = self._table(table.name)
            merge = delta.merge(
                changes, on, source_alias="s", target_alias="t", commit_properties=self._properties(source)
            )
            merge = merge.when_matched_delete(f"s.{_quoted(_GONE)}")
            merge.when_matched_update_all(except_cols=[_GONE]).when_not_matched_insert_all(
                except_cols=[_GONE]
            ).execute()
            version = int(delta.version())
        return Written(
            table.name, version, source, found.count("added"), found.count("changed"), found.count("removed")
        )

    def _properties(self, source: str) -> Arrow:
        return self._delta.CommitProperties(custom_metadata={_SOURCE: source})


@contextmanager
def _told(place: str) -> Iterator[None]:
    """What deltalake says, as an error of ours; of object storage only what kind of error it is."""
    from deltalake.exceptions import DeltaError

    try:
        yield
    except (DeltaError, OSError, ValueError) as error:
        words = type(error).__name__ if is_url(place) else f"{error}".split("\n", 1)[0][:200]
        raise StorageError(f"the Delta table cannot be read or written: {words}", place) from None


def _options(environment: Mapping[str, str]) -> dict[str, str]:
    """What deltalake is to know of a store; by itself it asks the environment in other words than obstore."""
    return {name: value for name, value in environment.items() if name.startswith(_STORES)}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _delta_type(kind: Arrow) -> Arrow:
    """The type that Delta has for one of Arrow's."""
    if pa.types.is_list(kind):
        return pa.list_(_delta_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _delta_type(field.type)) for field in kind])
    return _WIDER.get(kind, kind)


def _delta_schema(described: Arrow) -> Arrow:
    return pa.schema([(field.name, _delta_type(field.type)) for field in described])


def _plain(kind: Arrow) -> str:
    """What two types have in common that differ in how they lie in memory only."""
    return str(kind).replace("large_", "").replace("_view", "").replace("element", "item")


def _cast(batch: Arrow, wanted: Arrow) -> Arrow:
    columns = [column.cast(field.type) for column, field in zip(batch.columns, wanted, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=wanted)


def _marked(batch: Arrow, is_gone: bool) -> Arrow:
    return batch.append_column(_GONE, pa.array([is_gone] * len(batch)))
