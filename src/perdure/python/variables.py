"""Stable variables: what a class declares, what a state directory keeps of it, and what an upgrade may change.

```
 schema  {1: type definitions as in a .did file, 2: [[name, structure, [memory...], [type...]]...],
          3: "module:Class", where it can be imported, 4: [exported method...]}
```

An upgrade gives stable memory to another class. Nothing in those bytes says of what types keys and values are, so the
declarations of both are compared, variable by variable, before anything is written.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, final

import cbor2

from perdure import cbor
from perdure.candid.types import Value
from perdure.data.catalogue import CATALOGUE_ID
from perdure.data.store import Store
from perdure.errors import MalformedError, PerdureError
from perdure.memory import Memory
from perdure.record import TEXT, Field, Table, nat, row, sequence
from perdure.stable import StableBTreeMap, StableBTreeSet, StableCell, StableLog, StableMinHeap, StableVec
from perdure.stable.access import is_blank
from perdure.stable.types import StorableType
from perdure.values.annotations import Annotations
from perdure.values.candid import CandidNames
from perdure.values.codec import codec
from perdure.values.compatibility import compare_formats
from perdure.values.format import Format
from perdure.values.schema import MemorySchema
from perdure.values.schema import Schema as MemorySchemas

__all__ = [
    "Declared",
    "ModelDeclaration",
    "Schema",
    "Stable",
    "Variable",
    "declared",
    "is_readable",
    "models",
    "objections",
    "stable",
    "structure_of",
]

_STRUCTURES: Final[Mapping[Value, int]] = {
    StableBTreeMap: 1,
    StableBTreeSet: 1,
    StableCell: 1,
    StableLog: 2,
    StableMinHeap: 1,
    StableVec: 1,
}
"""Stable structures, and how many memories each needs."""
_KINDS: Final = {
    "StableBTreeMap": "btreemap",
    "StableBTreeSet": "btreeset",
    "StableCell": "cell",
    "StableLog": "log",
    "StableMinHeap": "minheap",
    "StableVec": "vec",
}
_KEYED: Final = ("StableBTreeMap", "StableBTreeSet")
_ORDERED: Final = (StableBTreeMap, StableBTreeSet, StableMinHeap)
_MAX_MEMORY_ID: Final = CATALOGUE_ID


@final
@dataclass(frozen=True, slots=True)
class Stable:
    """What `stable` has said."""

    memory_id: int | Sequence[int] | None = None
    default: Value = None
    adopt: bool = False


def stable(memory_id: int | tuple[int, int] | None = None, *, default: object = None, adopt: bool = False) -> Value:
    """More about a stable variable than its type says.

        users: StableBTreeMap[Principal, User] = stable(3)

    Args:
        memory_id: which memory of the `MemoryManager` it lives in, a log in two; by default the next free ones in the
            order of the declarations. Say it for what has to survive a change of that order.
        default: what a `StableCell` holds at first.
        adopt: at an upgrade, take over what is in the memory although the code before did not declare it.
    """
    return Stable(memory_id, default, adopt)


class Declared(typing.NamedTuple):
    """A stable variable as it is kept; types by their names."""

    name: str
    structure: str
    memory_ids: tuple[int, ...]
    types: tuple[str, ...]

    @property
    def text(self) -> str:
        """As in a class."""
        return f"{self.structure}[{', '.join(self.types)}]"

    @property
    def place(self) -> str:
        """Its memories, as `stable` takes them."""
        ids = self.memory_ids
        return f"stable({ids[0] if len(ids) == 1 else ids})"


@final
@dataclass(frozen=True, slots=True)
class Variable:
    """A declared stable variable, ready to be opened."""

    name: str
    structure: Value
    memory_ids: tuple[int, ...]
    storables: tuple[StorableType[Value], ...]
    detail: Stable = Stable()

    @property
    def declared(self) -> Declared:
        """As it is kept."""
        types = tuple(one.name for one in self.storables)
        return Declared(self.name, self.structure.__name__, self.memory_ids, types)

    def open(self, memories: Sequence[Memory]) -> Value:
        """What is there, or a new one on blank memories."""
        extra = (self.detail.default,) if self.structure is StableCell else ()
        return self.structure.init(*memories, *self.storables, *extra)

    def load(self, memories: Sequence[Memory]) -> Value:
        """What is there."""
        return self.structure.load(*memories, *self.storables)


def structure_of(
    name: str, hint: object, annotations: Annotations
) -> tuple[Value, tuple[StorableType[Value], ...]] | None:
    """The structure and the types that an annotation says; `None`: it is no stable variable.

    Raises:
        TypeError: a type has no form in stable memory.
    """
    structure = typing.get_origin(hint)
    if structure not in _STRUCTURES:
        return None
    try:
        return structure, tuple(
            annotations.storable(one, is_key=structure in _ORDERED and index == 0)
            for index, one in enumerate(typing.get_args(hint))
        )
    except TypeError as error:
        raise TypeError(f"stable variable {name!r}: {error}") from error


class ModelDeclaration(typing.Protocol):
    """A data model of `perdure.data` as a class declares it."""

    def open(self, store: Store) -> Value:
        """It in a store, made or grown where it has to be."""
        ...


def models(hints: Mapping[str, object], owner: type, annotations: Annotations) -> dict[str, ModelDeclaration]:
    """The data models of a class.

    Raises:
        TypeError: one contradicts itself.
    """
    found = {}
    for name, hint in hints.items():
        origin = typing.get_origin(hint) or hint
        declaration = getattr(origin, "declaration", None)
        if declaration is not None and getattr(origin, "__module__", "").startswith("perdure.data."):
            found[name] = declaration(name, typing.get_args(hint), getattr(owner, name, None), annotations)
    return found


def declared(hints: Mapping[str, object], owner: type, annotations: Annotations) -> dict[str, Variable]:
    """The stable variables of a class.

    Raises:
        TypeError: a type has no form in stable memory, or memories are not as many as are needed, or shared.
    """
    shapes = {name: structure_of(name, hint, annotations) for name, hint in hints.items()}
    said = {name: getattr(owner, name, None) for name, shape in shapes.items() if shape is not None}
    details = {name: one if isinstance(one, Stable) else Stable() for name, one in said.items()}
    taken = {memory_id for one in details.values() for memory_id in _ids(one.memory_id)}
    found: dict[str, Variable] = {}
    for name, shape in shapes.items():
        if shape is None:
            continue
        (structure, storables), detail = shape, details[name]
        count = _STRUCTURES[structure]
        ids = _ids(detail.memory_id) or tuple(_free_ids(taken))[:count]
        taken.update(ids)
        if len(ids) != count or not all(0 <= one <= _MAX_MEMORY_ID for one in ids):
            raise TypeError(
                f"{name}: a {structure.__name__} lives in {count} memories of 0 to {_MAX_MEMORY_ID}, found {ids}"
            )
        found[name] = Variable(name, structure, ids, storables, detail)
    used = [memory_id for one in found.values() for memory_id in one.memory_ids]
    if len(set(used)) < len(used):
        raise TypeError(f"two stable variables share a memory: {sorted(used)}")
    return found


def _ids(memory_id: int | Sequence[int] | None) -> tuple[int, ...]:
    if memory_id is None:
        return ()
    return (memory_id,) if isinstance(memory_id, int) else tuple(memory_id)


def _free_ids(taken: Iterable[int]) -> Iterator[int]:
    known = set(taken)
    return (memory_id for memory_id in range(_MAX_MEMORY_ID + 1) if memory_id not in known)


# -- as it is kept


_VARIABLE = row(
    Declared,
    ("name", TEXT),
    ("structure", TEXT),
    ("memories", sequence(nat(8), tuple)),
    ("types", sequence(TEXT, tuple)),
)
_SCHEMA = Table(
    "schema of a canister in Python",
    Field(1, "definitions", TEXT, ""),
    Field(2, "variables", sequence(_VARIABLE, tuple), []),
    Field(3, "place", TEXT, ""),
    Field(4, "exports", sequence(TEXT, tuple), []),
)


@final
@dataclass(frozen=True)
class Schema:
    """What a class declares, as it is kept.

    Attributes:
        definitions: of the named types, as in a ``.did`` file.
        variables: the stable variables.
        place: ``module:Class``, where it can be imported.
        exports: entry points, as a module names them.
    """

    definitions: str = ""
    variables: tuple[Declared, ...] = ()
    place: str = ""
    exports: tuple[str, ...] = ()
    is_known: bool = field(default=True, compare=False)
    """Whether it was kept; directories of the first revisions of version 1 do not have it."""

    def encode(self) -> bytes:
        """As it is kept."""
        return cbor2.dumps(_SCHEMA.encode(self))

    @classmethod
    def decode(cls, data: bytes) -> Schema:
        """The inverse of `encode`; of nothing, one that is not known.

        Raises:
            MalformedError: it is none.
        """
        if not data:
            return cls(is_known=False)
        try:
            content = cbor.load(data)
        except MalformedError as error:
            raise MalformedError(f"schema of a canister in Python: {error.message}") from error
        return cls(**_SCHEMA.decode(content))

    def memories(self) -> MemorySchemas:
        """The same as ``stable.yaml`` would say it, for those who read stable memory without the class.

        Raises:
            MalformedError: the definitions do not read.
        """
        found = {}
        for one in self.variables:
            label, *data = map(str, one.memory_ids)
            formats = [self.format(text) for text in one.types]
            key = formats.pop(0) if one.structure in _KEYED else None
            found[label] = MemorySchema(
                label,
                name=one.name,
                kind=_KINDS.get(one.structure),
                key=key,
                value=formats[0] if formats else None,
                data=int(data[0]) if data else None,
            )
        return MemorySchemas(found)

    def format(self, text: str) -> Format | None:
        """A format by its name; `None`: it is one of the program's own.

        Raises:
            MalformedError: it is Candid that does not read.
        """
        try:
            return codec(text, CandidNames(self.definitions))
        except ValueError:
            return None


# -- what an upgrade may change


_GROWING: Final = ("candid", "cbor", "flatbuffers", "json", "protobuf")
"""Formats whose own rules say what they may become; any other type has to stay as it was."""


def is_readable(before: Declared, now: Declared, old: Schema, new: Schema) -> bool:
    """Whether values as they were read as they are now: the same types, or Candid that may take their place."""
    return before.structure == now.structure and not _difference(before, now, old, new)


def _difference(before: Declared, now: Declared, old: Schema, new: Schema) -> str:
    """What keeps values as they were from being read as they are now, in words; empty: nothing."""
    for was, is_ in zip(before.types, now.types, strict=False):
        family = was.partition("(")[0]
        if family not in _GROWING or is_.partition("(")[0] != family:
            if was != is_:
                return f"held {', '.join(before.types)} and holds {', '.join(now.types)} now"
            continue
        try:
            found = compare_formats(old.format(was), new.format(is_))
        except PerdureError as error:
            return f"held {was}, which does not read: {error}"
        # An option hides a value of another type: it would read as null, and be gone with the next write.
        if found.verdict not in ("compatible", "one way"):
            return f"held {was} and holds {is_} now ({found.what})"
    return ""


def objections(
    old: Schema,
    new: Mapping[str, Variable],
    declared_now: Schema,
    taken_over: Iterable[str],
    memory_of: typing.Callable[[int], Memory] | None = None,
) -> list[str]:
    """Why a class cannot take over the stable memory of another one; each says which variable, and the way out.

    Args:
        old: of the code before.
        new: the variables of the code to come.
        declared_now: what it declares.
        taken_over: variables of the code before that a migration takes over.
        memory_of: gives a memory of the manager, where variables are compared with what is there, too.
    """
    comparison = _Comparison(old, new, declared_now, frozenset(taken_over))
    found = [text for variable in new.values() for text in comparison.of(variable)]
    if memory_of is not None and not found:
        found = [text for variable in new.values() for text in comparison.with_memory(variable, memory_of)]
    return found


@final
class _Comparison:
    def __init__(self, old: Schema, new: Mapping[str, Variable], schema: Schema, taken_over: frozenset[str]) -> None:
        self._old = {one.name: one for one in old.variables}
        self._is_known = old.is_known
        self._new = new
        self._schemas = old, schema
        self._taken_over = taken_over
        self._at = {memory_id: one for one in old.variables for memory_id in one.memory_ids}
        self._free = _free_ids({*self._at, *(one for variable in new.values() for one in variable.memory_ids)})

    def of(self, variable: Variable) -> Iterator[str]:
        """Against what was declared."""
        now, before = variable.declared, self._old.get(variable.name)
        if before is not None and variable.name not in self._taken_over:
            yield from self._changed(before, now)
            return
        # New, under this name; who lay in its memories?
        for owner in dict.fromkeys(self._at[one] for one in now.memory_ids if one in self._at):
            if not self._is_heir(owner, now):
                yield (
                    f"stable variable {now.name!r} takes memory {_listed(now.memory_ids)}, where {owner.name!r} "
                    f"({owner.text}) lies: give it memory of its own, `{now.name}: ... = {self._elsewhere(now)}`"
                )

    def _is_heir(self, owner: Declared, now: Declared) -> bool:
        """Whether a variable goes on with what another one has left: it was renamed."""
        is_gone = owner.name not in self._new and owner.name not in self._taken_over
        return is_gone and owner.memory_ids == now.memory_ids and self._is_readable(owner, now)

    def _changed(self, before: Declared, now: Declared) -> Iterator[str]:
        name = now.name
        if before.structure != now.structure:
            what = f"was a {before.text} and is a {now.text} now"
        else:
            what = _difference(before, now, *self._schemas)
        if what:
            yield (
                f"stable variable {name!r} {what}, and what is there does not read so: leave it as it was and declare "
                f"a new one, or give the new one memory of its own, `{name}: ... = {self._elsewhere(now)}`, and take "
                f"over what is there in a migration, `@migration def move(self, {name}: <the type it had>)`"
            )
        elif before.memory_ids != now.memory_ids:
            yield (
                f"stable variable {name!r} lay in memory {_listed(before.memory_ids)} and is declared in "
                f"{_listed(now.memory_ids)} now: say where it lies, `{name}: ... = {before.place}`"
            )

    def _is_readable(self, before: Declared, now: Declared) -> bool:
        return is_readable(before, now, *self._schemas)

    def _elsewhere(self, now: Declared) -> str:
        return now._replace(memory_ids=tuple(next(self._free, _MAX_MEMORY_ID) for _ in now.memory_ids)).place

    def with_memory(self, variable: Variable, memory_of: typing.Callable[[int], Memory]) -> Iterator[str]:
        """Against what is there, where nothing that was declared tells."""
        now = variable.declared
        is_old = now.name in self._old and now.name not in self._taken_over
        if self._is_known and (is_old or any(one in self._at for one in now.memory_ids)):
            return
        memories = [memory_of(one) for one in now.memory_ids]
        if all(map(is_blank, memories)):
            return
        ids = _listed(now.memory_ids)
        if self._is_known and not variable.detail.adopt:
            yield (
                f"stable variable {now.name!r} is new and there is something in memory {ids} already: give it "
                f"memory of its own, `{now.name}: ... = {self._elsewhere(now)}`, or, to go on with what is there, "
                f"`{now.place[:-1]}, adopt=True)`"
            )
            return
        try:
            variable.load(memories)
        except (PerdureError, ValueError) as error:
            yield f"stable variable {now.name!r} is no {now.text} in memory {ids}: {error}"


def _listed(memory_ids: Sequence[int]) -> str:
    return " and ".join(map(str, memory_ids))
