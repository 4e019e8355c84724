"""The catalogue: what every tree of a data model is, in one cell, so that its bytes are read without its program.

```
 cell value  "PDCT", version u8 = 1, then CBOR {1: [model...], 2: [move...]}
 model       {1: name, 2: kind, 3: [column...], 4: [tree...], 5: type definitions as in a .did file, 6: state}
 column      {1: name, 2: type, 3: may be null, 4: default, 5: state}
 tree        {1: name, 2: memory id, 3: [column index... of the key], 4: [column index... of the value],
              5: how many of these it is looked up by, 6: no two entries have the same of them, 7: state}
 move        {1: migration, 2: table, 3: the last key that it has taken}
```

A tree is a `StableBTreeMap` in its memory of the memory manager. Its keys are `packed` tuples of the key's columns, its
values `cbor` arrays of the value's columns, nothing where it has none. Columns and trees are never taken out of the
lists, so that an index goes on meaning what it meant: what is gone says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, final

import cbor2

from perdure.candid.types import spelled_out
from perdure.errors import MalformedError, UnsupportedError
from perdure.record import BOOL, PLAIN, TEXT, Field, Table, blob, load, nat, one_of, sequence, structure
from perdure.values.candid import CandidNames, CandidValue
from perdure.values.cbor import CborArray
from perdure.values.codec import codec
from perdure.values.format import Format, Value
from perdure.values.packed import Packed
from perdure.values.schema import MemorySchema, Schema

__all__ = ["CATALOGUE_ID", "KINDS", "MAGIC", "Catalogue", "Column", "Model", "Move", "Tree", "name_in_sql"]

MAGIC: Final = b"PDCT"
_VERSION: Final = 1
CATALOGUE_ID: Final = 254
"""The memory of the manager in which programs in Python keep it, the last there is. Readers know it by its magic."""

MAX_MEMORY_ID: Final = 254

KINDS: Final = ("table", "verb", "triples", "documents")
STATES: Final = ("active", "deprecated", "unused")


@final
@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        name: unique among those that are not unused.
        type: name of its format.
        is_optional: whether it may be null.
        default: of rows from before it was there, as CBOR has it.
        state: ``active``, ``deprecated`` (read, never written), or ``unused``: no version names it any more.
    """

    name: str
    type: str
    is_optional: bool = False
    default: Value = None
    state: str = "active"


@final
@dataclass(frozen=True, slots=True)
class Tree:
    """A tree of a model; the first one of each model is the one that has everything.

    Attributes:
        name: how SQL and commands call it.
        memory_id: of the memory manager.
        key: indexes of the columns in its keys, in their order.
        value: those in its values.
        width: how many columns of the key it is looked up by; the others only tell its entries apart.
        is_unique: whether no two entries have the same of them.
        state: as of a column; the memory of one that is unused is free for the model's next one.
    """

    name: str
    memory_id: int
    key: tuple[int, ...]
    value: tuple[int, ...] = ()
    width: int = 0
    is_unique: bool = False
    state: str = "active"

    def __post_init__(self) -> None:
        if not self.width:
            object.__setattr__(self, "width", len(self.key))

    @property
    def own(self) -> tuple[int, ...]:
        """The columns that it is looked up by."""
        return self.key[: self.width]


@final
@dataclass(frozen=True)
class Model:
    """A table, verb, set of triples or collection of documents."""

    name: str
    kind: str
    columns: tuple[Column, ...]
    trees: tuple[Tree, ...]
    definitions: str = ""
    state: str = "active"

    def format(self, column: int) -> Format:
        """The format of a column.

        Raises:
            MalformedError: its type does not read.
        """
        return _format(self.columns[column].type, self.definitions)

    def key_format(self, tree: Tree) -> Format:
        """The format of a tree's keys."""
        parts = {self.columns[one].name: self.format(one) for one in tree.key}
        return Packed(f"packed({_listed(self, tree.key)})", parts)

    def value_format(self, tree: Tree) -> Format | None:
        """The format of a tree's values; `None`: they are empty."""
        if not tree.value:
            return None
        labels = {one: self._label(one) for one in tree.value}
        parts = {labels[one]: self.format(one) for one in tree.value}
        defaults = {labels[one]: self.columns[one].default for one in tree.value}
        return CborArray(f"cbor({_listed(self, tree.value)})", parts, defaults)

    def _label(self, index: int) -> str:
        """A column's name; an unused one's may have been given away since."""
        column = self.columns[index]
        return column.name if column.state != "unused" else f"{column.name}_unused_{index}"


@final
@dataclass(frozen=True, slots=True)
class Move:
    """Rows of a table of the code before, on their way to where a migration in steps takes them.

    Attributes:
        migration: the name of the method.
        table: of the code before; its rows stay as they are.
        after: the last packed key that it has taken; empty: none.
    """

    migration: str
    table: str
    after: bytes = b""


def name_in_sql(name: str) -> str:
    """What SQLite tells names apart by: the letters of ASCII have no case."""
    return name.encode().lower().decode()


def _about(model: Model, tree: Tree) -> str:
    """What a tree is for."""
    if tree is model.trees[0]:
        return f"the {model.kind}"
    unique = "unique " if tree.is_unique else ""
    columns = ", ".join(model.columns[one].name for one in tree.own)
    kept = f"{', '.join(model.columns[one].name for one in tree.value)} of" if tree.value else f"{unique}index of"
    return f"{kept} {model.name} by {columns}"


def _listed(model: Model, indexes: tuple[int, ...]) -> str:
    return ", ".join(f"{model.columns[one].name}: {model.columns[one].type}" for one in indexes)


@lru_cache(256)
def _format(text: str, definitions: str) -> Format:
    try:
        return codec(text, CandidNames(definitions))
    except ValueError as error:
        raise MalformedError(f"catalogue: a column of type {text!r}: {error}") from error


def _spelled_out(model: Model) -> Model:
    if not model.definitions:
        return model
    columns = []
    for index, column in enumerate(model.columns):
        model.format(index)  # which says what is wrong with it
        named = _Named(CandidNames(model.definitions))
        codec(column.type, named)
        text = column.type
        for name, one in named.found.items():
            found = spelled_out(one.type) if isinstance(one, CandidValue) else None
            text = text.replace(name, "candid" if found is None else f"candid({found})")
        columns.append(replace(column, type=text))
    return replace(model, columns=tuple(columns), definitions="")


class _Named(Mapping[str, Format]):
    """Formats that have names, which remembers those that were asked for."""

    def __init__(self, names: CandidNames) -> None:
        self._names = names
        self.found: dict[str, Format] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Format:
        return self.found.setdefault(name, self._names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def __bool__(self) -> bool:
        return True


# -- as it is kept

_STATE: Final = one_of(*STATES)
_INDEX: Final = nat(16)
_COLUMN: Final = Table(
    "column",
    Field(1, "name", TEXT),
    Field(2, "type", TEXT),
    Field(3, "is_optional", BOOL, False),
    Field(4, "default", PLAIN, None),
    Field(5, "state", _STATE, "active"),
)
_TREE: Final = Table(
    "tree",
    Field(1, "name", TEXT),
    Field(2, "memory_id", nat(8)),
    Field(3, "key", sequence(_INDEX, tuple)),
    Field(4, "value", sequence(_INDEX, tuple), []),
    Field(5, "width", _INDEX),
    Field(6, "is_unique", BOOL, False),
    Field(7, "state", _STATE, "active"),
)


def _named_apart(content: Value) -> str | None:
    """What makes columns and memories none."""
    names = [one.name for one in content["columns"] if one.state != "unused"]
    if len(set(names)) < len(names) or "" in names:
        return "two columns of one name, or one without a name"
    if any(tree.memory_id > MAX_MEMORY_ID for tree in content["trees"]):
        return f"a tree in a memory past {MAX_MEMORY_ID}"
    return None


def _places(content: Value) -> str | None:
    """What does not belong together in a model."""
    columns, trees = content["columns"], content["trees"]
    if not trees:
        return "no tree"
    if any(one >= len(columns) for tree in trees for one in (*tree.key, *tree.value)):
        return f"a tree of a column that is not there, of {len(columns)}"
    if any(not 0 < tree.width <= len(tree.key) for tree in trees):
        return "a tree that is looked up by nothing, or by more than its key"
    if any(len({*tree.key, *tree.value}) < len(tree.key) + len(tree.value) for tree in trees):
        return "a tree that has a column twice"
    return None


_MODEL: Final = Table(
    "model",
    Field(1, "name", TEXT),
    Field(2, "kind", one_of(*KINDS)),
    Field(3, "columns", sequence(structure(Column, _COLUMN), tuple)),
    Field(4, "trees", sequence(structure(Tree, _TREE), tuple)),
    Field(5, "definitions", TEXT, ""),
    Field(6, "state", _STATE, "active"),
    rules=(_named_apart, _places),
)


_MOVE: Final = Table(
    "move",
    Field(1, "migration", TEXT),
    Field(2, "table", TEXT),
    Field(3, "after", blob(), b""),
)


def _apart(content: Value) -> str | None:
    models, moves = content["models"], content["moves"]
    names = [one.name for one in models]
    ids = [tree.memory_id for one in models for tree in one.trees if tree.state != "unused"]
    if len(set(names)) < len(names):
        return "two models of one name"
    if not {one.table for one in moves} <= {one.name for one in models if one.kind == "table"}:
        return "a move of a table that is not there"
    if len({one.migration for one in moves}) < len(moves):
        return "two moves by one migration"
    return "two trees in one memory" if len(set(ids)) < len(ids) else None


_CATALOGUE: Final = Table(
    "catalogue",
    Field(1, "models", sequence(structure(Model, _MODEL), tuple), []),
    Field(2, "moves", sequence(structure(Move, _MOVE), tuple), []),
    rules=(_apart,),
)


@final
@dataclass(frozen=True)
class Catalogue:
    """All models of a memory manager.

    Attributes:
        models: in the order in which they were declared first.
        moves: of rows, that are under way.
    """

    models: tuple[Model, ...] = ()
    moves: tuple[Move, ...] = ()

    def encode(self) -> bytes:
        """As it is kept."""
        return MAGIC + bytes((_VERSION,)) + cbor2.dumps(_CATALOGUE.encode(self))

    @classmethod
    def decode(cls, data: bytes) -> Catalogue:
        """The inverse of `encode`.

        Raises:
            MalformedError: it is none.
            UnsupportedError: it has a newer version.
        """
        if data[:4] != MAGIC:
            raise MalformedError(f"bad magic {data[:4]!r}, expected {MAGIC!r}")
        if data[4:5] != bytes((_VERSION,)):
            raise UnsupportedError(f"catalogue: version {data[4:5].hex() or 'none'}; this version of perdure reads 1")
        return cls(**_CATALOGUE.decode(load(data[5:], "catalogue")))

    def model(self, name: str) -> Model | None:
        """The model of a name."""
        return next((one for one in self.models if one.name == name), None)

    def with_model(self, model: Model) -> Catalogue:
        """With a model in place of the one of its name, or behind the others."""
        if self.model(model.name) is None:
            return replace(self, models=(*self.models, model))
        return replace(self, models=tuple(model if one.name == model.name else one for one in self.models))

    def spelled_out(self) -> Catalogue:
        """The same without names of Candid types, which have no definitions in a ``stable.yaml``.

        A type that is within itself is read as each message says itself.

        Raises:
            MalformedError: a type does not read.
        """
        return replace(self, models=tuple(_spelled_out(one) for one in self.models))

    def schema(self, catalogue_id: int = CATALOGUE_ID) -> Schema:
        """The trees, and the cell of the catalogue itself, as ``stable.yaml`` would declare them.

        Raises:
            MalformedError: a type does not read.
        """
        own = str(catalogue_id)
        found = {own: MemorySchema(own, name="catalogue", kind="cell", about="what the other trees are")}
        for model in self.models:
            for tree in model.trees:
                label = str(tree.memory_id)
                if tree.state == "unused" and label in found:
                    continue
                state = "active" if "unused" not in (model.state, tree.state) else "retired"
                value = model.value_format(tree)
                found[label] = MemorySchema(
                    label,
                    name=tree.name,
                    kind="btreemap" if value else "btreeset",
                    key=model.key_format(tree),
                    value=value,
                    state=state,
                    about=_about(model, tree),
                )
        return Schema(found)
