"""Motoko's stable variables as tables, beside structures and tables of databases: by name, read when one is asked for.

| type | rows |
|---|---|
| ``[T]``, ``[var T]`` | the elements: ``position`` and the columns of ``T`` |
| ``List = ?(T, List)`` | the same, from its head on |
| anything else | one row: the columns of the type |

The columns of a record are its fields, those of a tuple ``part_0``, ``part_1``..., of anything else ``value``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, final

from perdure.errors import UnsupportedError
from perdure.inspection.looking import Looked
from perdure.stable.kind import BOOL, BYTES, DOCUMENT, PRINCIPAL, TEXT, UNIT, Kind, integer, option
from perdure.values.motoko_types import (
    Array,
    Object,
    Option,
    Primitive,
    StableTypes,
    Tuple,
    Type,
    VariantType,
    parse_stable_types,
)

if TYPE_CHECKING:
    from perdure.values.motoko_state import MotokoState

__all__ = ["NO_VARIABLES", "VariableTable", "Variables"]

POSITION: Final = "position"


@final
class Variables:
    """The stable variables of a source.

    Args:
        text: gives the stable types as the module has them; ``None``: it is not Motoko's.
        read: gives all values. It may run the module's pre-upgrade hook, on a fork.
    """

    def __init__(self, text: Callable[[], str | None], read: Callable[[StableTypes], MotokoState]) -> None:
        self._text = text
        self._read = read

    def __repr__(self) -> str:
        return "<stable variables>"

    @cached_property
    def types(self) -> StableTypes | None:
        """What the module says of them; ``None``: nothing, as all but Motoko's.

        Raises:
            MalformedError: its types cannot be read.
        """
        text = self._text()
        return None if text is None else parse_stable_types(text)

    @cached_property
    def state(self) -> MotokoState:
        """All values.

        Raises:
            UnsupportedError: there are none.
            RejectError: the pre-upgrade hook traps.
            MalformedError: they do not fit their types.
        """
        return _nothing(StableTypes({}, {}, {})) if self.types is None else self._read(self.types)

    def tables(self) -> list[VariableTable]:
        """One for each variable, by name; no value is read yet."""
        types = self.types
        if types is None:
            return []
        return [VariableTable(self, one.name, one.type, types) for one in sorted(types.variables.values())]


def _nothing(_: StableTypes) -> MotokoState:
    raise UnsupportedError("no stable variables of Motoko here")


NO_VARIABLES: Final = Variables(lambda: None, _nothing)


@final
@dataclass(frozen=True)
class VariableTable(Looked):
    """A stable variable as a table.

    Attributes:
        variables: of which it is one.
        name: its name.
        type: its type, as the module says it.
    """

    variables: Variables
    name: str
    type: Type
    types: StableTypes

    @cached_property
    def _element(self) -> Type | None:
        """The type of the elements; ``None`` where there is one row."""
        type_ = self.types.resolve(self.type)
        if isinstance(type_, Array):
            return self.types.resolve(type_.element)
        head = self._head(type_)
        return None if head is None else self.types.resolve(head)

    def _head(self, type_: Type) -> Type | None:
        """The type of the elements of a list."""
        pair = self.types.resolve(type_.content) if isinstance(type_, Option) else None
        is_list = isinstance(pair, Tuple) and len(pair.parts) == 2 and self.types.resolve(pair.parts[1]) == type_
        return pair.parts[0] if is_list and isinstance(pair, Tuple) else None

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """What names a row; nothing where there is one."""
        return () if self._element is None else (POSITION,)

    @property
    def is_numbered(self) -> bool:
        """Whether rows are named by a number."""
        return bool(self.keys)

    @cached_property
    def value_columns(self) -> tuple[str, ...]:
        """The columns of an element, or of the variable."""
        type_ = self._element or self.types.resolve(self.type)
        if isinstance(type_, Object) and not type_.sort and type_.members:
            taken = {*self.keys}
            return tuple(f"value_{one.name}" if one.name in taken else one.name for one in type_.members)
        if isinstance(type_, Tuple) and type_.parts:
            return tuple(f"part_{index}" for index in range(len(type_.parts)))
        return ("value",)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return (*self.keys, *self.value_columns)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """What is in the columns."""
        type_ = self._element or self.types.resolve(self.type)
        kinds = [integer(64)] * len(self.keys)
        names = self.value_columns
        if names == ("value",):
            return (*kinds, _kind(type_, self.types, ()))
        parts = [one.type for one in type_.members] if isinstance(type_, Object) else getattr(type_, "parts", ())
        return (*kinds, *(_kind(part, self.types, (type_,)) for part in parts))

    def count(self) -> int:
        """How many rows there are."""
        return sum(1 for _ in self.rows())

    def rows(self, low: object = None, high: object = None, *, reverse: bool = False) -> Iterator[tuple[Any, ...]]:
        """Rows from position `low` to `high`, both within."""
        if (low is not None or high is not None or reverse) and not self.keys:
            raise UnsupportedError(f"the variable {self.name} has one row and no positions")
        for bound in (low, high):
            if bound is not None and (not isinstance(bound, int) or bound < 0):
                raise UnsupportedError(f"{bound!r} is no position in {self.name}, expected a number from 0 on")
        value = self.variables.state.values.get(self.name)
        if not self.keys:
            yield self._parts(self.types.resolve(self.type), value)
            return
        assert self._element is not None
        start = low if isinstance(low, int) else 0
        stop = high + 1 if isinstance(high, int) else None
        numbered = islice(enumerate(_elements(value)), start, stop)
        for position, element in reversed(list(numbered)) if reverse else numbered:
            yield (position, *self._parts(self._element, element))

    def _tuples(self) -> Iterator[tuple[Any, ...]]:
        return self.rows()

    def _parts(self, type_: Type, value: Any) -> tuple[Any, ...]:
        names = self.value_columns
        if names == ("value",):
            return (value,)
        if isinstance(value, dict) and isinstance(type_, Object):
            return tuple(value.get(one.name) for one in type_.members)
        if isinstance(value, tuple) and len(value) == len(names):
            return value
        return (value, *[None] * (len(names) - 1))  # a reference to what was met before


_PLAIN: Final = {
    "Blob": BYTES,
    "Bool": BOOL,
    "Char": TEXT,
    "Float": Kind("float", 64),
    "Int": integer(0, is_signed=True),
    "Nat": integer(0),
    "Principal": PRINCIPAL,
    "Text": TEXT,
    **{f"Nat{bits}": integer(bits) for bits in (8, 16, 32, 64)},
    **{f"Int{bits}": integer(bits, is_signed=True) for bits in (8, 16, 32, 64)},
}


def _kind(type_: Type, types: StableTypes, within: tuple[Type, ...]) -> Kind:  # noqa: PLR0911 -- one for each kind
    """What values of a type are. What contains itself or can be a reference is a document."""
    type_ = types.resolve(type_)
    if type_ in within:
        return DOCUMENT
    inner = (*within, type_)
    match type_:
        case Primitive(name):
            return _PLAIN.get(name, DOCUMENT)
        case Option(content):
            kind = _kind(content, types, inner)
            return DOCUMENT if kind.name in ("option", "unit") else option(kind)
        case Array(element, False):
            return Kind("list", parts=(_kind(element, types, inner),))
        case Tuple(()):
            return UNIT
        case Tuple(parts):
            return Kind("tuple", parts=tuple(_kind(part, types, inner) for part in parts))
        case Object(members, "") | VariantType(members) if members and not any(one.is_mutable for one in members):
            name = "record" if isinstance(type_, Object) else "variant"
            kinds = tuple(_kind(one.type, types, inner) for one in members)
            return Kind(name, labels=tuple(one.name for one in members), parts=kinds)
        case _:
            return DOCUMENT


def _elements(value: Any) -> Iterator[Any]:
    """The elements of an array or a list; one, where it is a reference."""
    if isinstance(value, list):
        yield from value
        return
    while value is not None:
        if not isinstance(value, tuple):
            yield value
            return
        element, value = value
        yield element
