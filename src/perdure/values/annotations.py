"""What an annotation says: the Candid type, how values go in and out, how they lie in stable memory.

| annotation | Candid | in stable structures |
|---|---|---|
| ``bool``, ``str``, ``bytes``, ``float``, ``Principal`` | the same; text, blob, float64 | the crate's type |
| ``nat8`` ... ``nat64``, ``int8`` ... ``int64``, ``float32`` | the same | fixed size |
| ``nat128`` | nat | ``u128`` |
| ``int``, ``nat`` | int, nat | one Candid value, not as a key |
| ``T | None`` | opt | ``Option<T>`` |
| ``list[T]``, ``set[T]``, ``dict[K, V]`` | vec T, vec T, vec record { K; V } | one Candid value |
| ``tuple[A, B]`` | record { A; B } | ``(A, B)`` |
| a dataclass | record | one Candid value |
| an ``Enum`` | variant without payloads, by the members' names | one Candid value |
| ``A | B``, both dataclasses | variant { A : ...; B : ... } | one Candid value |
| ``Annotated[T, "variant { ... }"]`` | what the text says, values as they are decoded | one Candid value |
| ``Annotated[T, kept_as("flatbuffers")]``, of a dataclass | as T | that format of its fields |
| ``Annotated[T, stable.types.Blob(32)]``, or a `Format` of your own | as T | that type |
"""

from __future__ import annotations

import dataclasses
import types as python_types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Annotated, Any, Final, TypeAlias, Union, final

from perdure.candid import parse_type
from perdure.candid import types as candid
from perdure.candid.types import Type, Value
from perdure.ic.principal import Principal
from perdure.stable import types as stable
from perdure.values.candid import CandidValue
from perdure.values.declared import KeptAs

__all__ = [
    "Annotations",
    "Shape",
    "float32",
    "int8",
    "int16",
    "int32",
    "int64",
    "nat",
    "nat8",
    "nat16",
    "nat32",
    "nat64",
    "nat128",
]

nat: TypeAlias = Annotated[int, "nat"]
nat8: TypeAlias = Annotated[int, "nat8", stable.u8]
nat16: TypeAlias = Annotated[int, "nat16", stable.u16]
nat32: TypeAlias = Annotated[int, "nat32", stable.u32]
nat64: TypeAlias = Annotated[int, "nat64", stable.u64]
nat128: TypeAlias = Annotated[int, "nat", stable.u128]
int8: TypeAlias = Annotated[int, "int8", stable.i8]
int16: TypeAlias = Annotated[int, "int16", stable.i16]
int32: TypeAlias = Annotated[int, "int32", stable.i32]
int64: TypeAlias = Annotated[int, "int64", stable.i64]
float32: TypeAlias = Annotated[float, "float32", stable.f32]

Annotation: TypeAlias = Any
"""A class, or another form of annotation."""
Convert: TypeAlias = Callable[[Value], Value]


def _same(value: object) -> Value:
    return value


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """A type as Candid has it, and the way there and back.

    Args:
        type: in Candid.
        to_candid: from the value that Python code handles to the one that the codec takes.
        from_candid: the other way.
        storable: the form in stable structures, where it has one of its own.
    """

    type: Type
    to_candid: Convert = _same
    from_candid: Convert = _same
    storable: stable.StorableType[Value] | None = None


_PLAIN: Final[Mapping[Annotation, Shape]] = {
    bool: Shape(candid.Bool, storable=stable.boolean),
    int: Shape(candid.Int),
    str: Shape(candid.Text, storable=stable.text),
    bytes: Shape(candid.Vec(candid.Nat8), storable=stable.raw),
    float: Shape(candid.Float64, float, storable=stable.f64),
    Principal: Shape(candid.PrincipalType, storable=stable.principal),
    type(None): Shape(candid.Null),
}


@final
class Annotations:
    """Reads annotations, and remembers the named types that it has seen.

    Args:
        names: what annotations written as text may name, beside what their module has.
    """

    def __init__(self, names: Mapping[str, object]) -> None:
        self._names = dict(names)
        self._shapes: dict[Annotation, Shape] = {}
        self.named: dict[str, candid.Rec] = {}
        self._complete: dict[str, candid.Rec] = {}

    @property
    def classes(self) -> tuple[type, ...]:
        """The classes among the types that it has seen."""
        return tuple(one for one in self._shapes if isinstance(one, type))

    def hints(self, owner: object) -> dict[str, Annotation]:
        """The annotations of a class or function, resolved.

        Raises:
            TypeError: one of them names what is not there.
        """
        try:
            return typing.get_type_hints(owner, localns=self._names, include_extras=True)
        except NameError as error:
            raise TypeError(f"annotations of {getattr(owner, '__qualname__', owner)}: {error}") from error

    def shape(self, annotation: object) -> Shape:
        """The shape of a type.

        Raises:
            TypeError: it has none.
        """
        found = _PLAIN.get(annotation) if annotation is not None else _PLAIN[type(None)]
        if found is None:
            found = self._shapes.get(annotation)
        if found is None:
            found = self._shapes[annotation] = self._make(annotation)
        return found

    def storable(self, annotation: object, *, is_key: bool = False) -> stable.StorableType[Value]:
        """The form of a type in stable structures.

        Raises:
            TypeError: it has none, or none that can be ordered where it is a key.
        """
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is tuple and 2 <= len(arguments) <= 3 and Ellipsis not in arguments:
            return stable.Tuple(*(self.storable(one, is_key=is_key) for one in arguments))
        if _is_union(origin) and len(arguments) == 2 and type(None) in arguments:
            inner = self.storable(next(one for one in arguments if one is not type(None)), is_key=is_key)
            if not isinstance(inner, CandidValue):
                return stable.Option(inner)
        shape = self.shape(annotation)
        if shape.storable is not None:
            return shape.storable
        if is_key:
            raise TypeError(
                f"{_name(annotation)} has no order in stable memory: as a key take nat64, str, Principal ..."
            )
        return CandidValue(shape.type, shape.to_candid, shape.from_candid)

    def _make(self, annotation: object) -> Shape:  # noqa: PLR0911 -- one return per kind of annotation
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is Annotated:
            return self._annotated(*arguments)
        if _is_union(origin):
            return self._union(arguments)
        if origin in (list, set):
            return self._sequence(arguments[0], origin)
        if origin is tuple:
            return self._sequence(arguments[0], tuple) if Ellipsis in arguments else self._tuple(arguments)
        if origin is dict:
            pairs = self._tuple(arguments)
            return _sequence(pairs, lambda value: value.items(), dict)
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            return self._record(annotation)
        if isinstance(annotation, type) and issubclass(annotation, Enum):
            return self._enum(annotation)
        raise TypeError(f"{_name(annotation)} has no Candid type; see perdure.values.annotations for those that have")

    def _annotated(self, annotation: object, *details: object) -> Shape:
        text = next((one for one in details if isinstance(one, str)), None)
        storable = next((one for one in details if isinstance(one, stable.StorableType)), None)
        if text is not None:
            # A text cannot name what is only being made.
            return Shape(candid.BY_NAME.get(text) or parse_type(text, self._complete), storable=storable)
        kept = next((one for one in details if isinstance(one, KeptAs)), None)
        shape = self.shape(annotation)
        if kept is not None:
            is_class = isinstance(annotation, type) and dataclasses.is_dataclass(annotation)
            storable = kept.format(annotation, self.hints(annotation) if is_class else {}, self.storable)  # type: ignore[arg-type]
        return dataclasses.replace(shape, storable=storable)

    def _union(self, arguments: tuple[object, ...]) -> Shape:
        rest = tuple(one for one in arguments if one is not type(None))
        shape = self.shape(rest[0]) if len(rest) == 1 else self._variant(rest)
        if len(rest) == len(arguments):
            return shape
        return Shape(
            candid.Opt(shape.type),
            lambda value: None if value is None else shape.to_candid(value),
            lambda value: None if value is None else shape.from_candid(value),
        )

    def _variant(self, classes: tuple[Annotation, ...]) -> Shape:
        if not all(isinstance(one, type) and dataclasses.is_dataclass(one) for one in classes):
            raise TypeError(f"a union of {', '.join(map(_name, classes))}: only dataclasses can be a variant's cases")
        cases = {one.__name__: self.shape(one) for one in classes}

        def to_candid(value: object) -> dict[str, Value]:
            tag = type(value).__name__
            if tag not in cases:
                raise TypeError(f"{value!r} is none of {', '.join(cases)}")
            return {tag: cases[tag].to_candid(value)}

        def from_candid(value: dict[str, Value]) -> Value:
            ((tag, payload),) = value.items()
            return cases[tag].from_candid(payload)

        return Shape(candid.Variant.of({tag: case.type for tag, case in cases.items()}), to_candid, from_candid)

    def _sequence(self, element: object, make: Callable[[Value], Value]) -> Shape:
        return _sequence(self.shape(element), _same, make)

    def _tuple(self, annotations: tuple[object, ...]) -> Shape:
        shapes = [self.shape(one) for one in annotations]

        def to_candid(value: Value) -> tuple[Value, ...]:
            return tuple([shape.to_candid(one) for shape, one in zip(shapes, value, strict=True)])

        def from_candid(value: Value) -> tuple[Value, ...]:
            return tuple([shape.from_candid(one) for shape, one in zip(shapes, value, strict=True)])

        return Shape(candid.Record.tuple_of(*(shape.type for shape in shapes)), to_candid, from_candid)

    def _record(self, owner: type) -> Shape:
        name = candid.Rec(owner.__name__, (owner.__doc__ or "") if not _has_generated_doc(owner) else "")
        self._take_name(name)
        fields: dict[str, tuple[str, Shape]] = {}

        def to_candid(value: object) -> dict[str, Value]:
            if not isinstance(value, owner):
                raise TypeError(f"expected {owner.__name__}, found {value!r}")
            return {key: shape.to_candid(getattr(value, attribute)) for attribute, (key, shape) in fields.items()}

        def from_candid(value: Mapping[str, object] | None) -> Value:
            found = value or {}
            return owner(**{attribute: shape.from_candid(found[key]) for attribute, (key, shape) in fields.items()})

        self._shapes[owner] = shape = Shape(name, to_candid, from_candid)
        hints = self.hints(owner)
        # A name that is a keyword in Python has an underscore behind it: ``from_``.
        for one in dataclasses.fields(owner):
            fields[one.name] = one.name.removesuffix("_"), self.shape(hints[one.name])
        name.define(_record({key: inner.type for key, inner in fields.values()}) if fields else candid.Null)
        self._complete[name.name] = name
        return shape if fields else dataclasses.replace(shape, to_candid=lambda value: None)

    def _take_name(self, name: candid.Rec) -> None:
        if name.name in self.named:
            raise TypeError(f"two classes are called {name.name}: a type needs a name of its own")
        self.named[name.name] = name

    def _enum(self, owner: type[Enum]) -> Shape:
        cases: dict[str | int, Type] = dict.fromkeys(owner.__members__, candid.Null)
        name = candid.Rec(owner.__name__)
        self._take_name(name)
        name.define(candid.Variant.of(cases))
        self._complete[name.name] = name
        return Shape(name, lambda value: {value.name: None}, lambda value: owner[next(iter(value))])


def _sequence(element: Shape, items: Convert, make: Callable[[Value], Value]) -> Shape:
    def to_candid(value: object) -> list[Value]:
        return [element.to_candid(one) for one in items(value)]

    def from_candid(value: Value) -> Value:
        return make([element.from_candid(one) for one in value])

    return Shape(candid.Vec(element.type), to_candid, from_candid)


def _record(fields: dict[str | int, Type]) -> Type:
    return candid.Record.of(fields)


def _is_union(origin: object) -> bool:
    return origin in (Union, python_types.UnionType)


def _has_generated_doc(owner: type) -> bool:
    # A dataclass without a docstring gets its signature as one.
    return (owner.__doc__ or "").startswith(f"{owner.__name__}(")


def _name(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
