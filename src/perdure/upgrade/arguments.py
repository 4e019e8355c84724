"""Arguments for calls that nobody recorded: found in the canister's own data where they can be, else made from types.

A key that is there reaches a value; one that is made up reaches none. So keys of structures, and whatever replies to
calls without arguments show, are tried first. All of it follows from the state and a seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Final, final

from perdure.candid.types import (
    Bool,
    Empty,
    Float32,
    Float64,
    Func,
    Int,
    Nat,
    Nat8,
    Opt,
    Prim,
    PrincipalType,
    Record,
    Service,
    Text,
    Type,
    Value,
    Variant,
    Vec,
    is_blob,
    resolve,
)
from perdure.errors import PerdureError
from perdure.ic.principal import Principal
from perdure.inspection.find import Inventory, Structure
from perdure.inspection.rows import KEYED, open_table
from perdure.values.schema import Schema

__all__ = ["Pool", "arguments", "find_values", "made"]

SAMPLE_KEYS: Final = 6
MAX_DEPTH: Final = 4
_BITS: Final = {
    name: int(name.lstrip("nati")) for name in ("nat8", "nat16", "nat32", "nat64", "int8", "int16", "int32", "int64")
}
_INTEGER_BYTES: Final = (1, 2, 4, 8, 16)


@final
@dataclass
class Pool:
    """Values that occur in a canister, by what they can stand for; each kind at most `limit` of them, in order."""

    integers: dict[int, None] = field(default_factory=dict)
    texts: dict[str, None] = field(default_factory=dict)
    blobs: dict[bytes, None] = field(default_factory=dict)
    principals: dict[Principal, None] = field(default_factory=dict)
    limit: int = 24

    def add(self, value: object, depth: int = 0) -> None:
        """Take in a value, and what is in it."""
        if depth > MAX_DEPTH:
            return
        if isinstance(value, bool) or value is None or isinstance(value, float):
            return
        for kind, place in ((int, self.integers), (str, self.texts), (bytes, self.blobs), (Principal, self.principals)):
            if isinstance(value, kind):
                if len(place) < self.limit:
                    place[value] = None  # type: ignore[index]
                return
        if isinstance(value, Mapping):
            value = list(value.values())
        if isinstance(value, list | tuple):
            for one in (*value[:4], *value[-1:]):
                self.add(one, depth + 1)

    def of(self, type_: Type) -> Sequence[Value]:
        """Those that a Candid type may take."""
        type_ = resolve(type_)
        if type_ is Text:
            return list(self.texts)
        if type_ is PrincipalType:
            return list(self.principals)
        if is_blob(type_):
            return list(self.blobs)
        if isinstance(type_, Opt):
            return self.of(type_.content)
        if isinstance(type_, Prim) and (type_ in (Nat, Int) or type_.name in _BITS):
            return [value for value in self.integers if _fits(value, type_)]
        return ()


def _fits(value: int, type_: Prim) -> bool:
    if type_ is Int:
        return True
    if type_ is Nat:
        return value >= 0
    bits = _BITS[type_.name]
    low = -(1 << bits - 1) if type_.name.startswith("int") else 0
    return low <= value < low + (1 << bits)


def find_values(inventory: Inventory | None, schema: Schema | None, pool: Pool) -> None:
    """Add keys and places of structures to a pool."""
    for structure in () if inventory is None else inventory.structures:
        if structure.kind in (*KEYED, "vec", "log") and structure.entries:
            for raw in _keys(structure, schema):
                _add_raw(raw, pool)


def _keys(structure: Structure, schema: Schema | None) -> Iterator[Value]:
    try:
        table = open_table(structure, schema)
        if table.tree is None:
            yield from {0, (structure.entries or 1) - 1, structure.entries or 0}
            return
        for entries in (table.entries(values=False), table.entries(values=False, reverse=True)):
            for key, _ in islice(entries, SAMPLE_KEYS):
                yield key
                for decoded in table.decode_key(key):
                    if decoded != key:
                        yield decoded
    except (PerdureError, ValueError, IndexError, TypeError, ArithmeticError):
        return  # what cannot be read gives nothing


def _add_raw(raw: object, pool: Pool) -> None:
    """A key, as whatever its bytes may stand for."""
    pool.add(raw)
    if not isinstance(raw, bytes):
        return
    if len(raw) in _INTEGER_BYTES:
        pool.add(int.from_bytes(raw, "big"))
        pool.add(int.from_bytes(raw, "little"))
    if len(raw) <= 29:
        pool.add(Principal(raw))
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return
    if text and text.isprintable():
        pool.add(text)


# -- values of a type


def made(type_: Type, random: Random, depth: int = 0) -> Value:
    """A small value of a Candid type; the same for the same state of `random`.

    Raises:
        ValueError: there is none, or none of a few levels.
    """
    type_ = resolve(type_)
    if isinstance(type_, Opt):
        return None if depth >= MAX_DEPTH or random.random() < 0.3 else made(type_.content, random, depth + 1)
    if isinstance(type_, Vec):
        length = 0 if depth >= MAX_DEPTH else random.randrange(3)
        if is_blob(type_):
            return random.randbytes(4 * length)
        return [made(type_.element, random, depth + 1) for _ in range(length)]
    if depth > 4 * MAX_DEPTH or type_ is Empty:
        raise ValueError(f"no small value of type {type_}")
    if isinstance(type_, Record):
        values = {one.label: made(one.type, random, depth + 1) for one in type_.fields}
        return tuple(values.values()) if type_.is_tuple else values
    if isinstance(type_, Variant):
        if not type_.fields:
            raise ValueError("no value of a variant without cases")
        one = (
            random.choice(type_.fields)
            if depth < MAX_DEPTH
            else min(type_.fields, key=lambda case: len(str(case.type)))
        )
        return {one.label: made(one.type, random, depth + 1)}
    return _primitive(type_, random)


def _primitive(type_: Type, random: Random) -> Value:  # noqa: PLR0911 -- one for each type
    if isinstance(type_, Service) or type_ is PrincipalType:
        return Principal(b"\x04") if random.random() < 0.5 else Principal.from_index(random.randrange(1 << 20))
    if isinstance(type_, Func):
        return Principal.from_index(random.randrange(1 << 20)), "callback"
    if type_ is Bool:
        return random.random() < 0.5
    if type_ is Text:
        return "".join(random.choice("abcdefgh") for _ in range(random.randrange(1, 9)))
    if type_ in (Float32, Float64):
        return float(random.randrange(1000))
    if isinstance(type_, Prim) and (type_ in (Nat, Int) or type_.name in _BITS):
        return random.randrange(100 if type_ is not Nat8 else 50)
    return None  # null and reserved


def arguments(
    types: Sequence[Type], pool: Pool, random: Random, *, count: int = 6
) -> Iterator[tuple[str, tuple[Value, ...]]]:
    """Argument lists for a method, each with where it comes from: ``plain``, ``data`` or ``seeded``."""
    if not types:
        yield "plain", ()
        return
    found = [pool.of(one) for one in types]
    rounds = min(count, max(map(len, found)))
    for index in range(rounds):
        try:
            yield (
                "data",
                tuple(
                    values[index % len(values)] if values else made(one, random)
                    for values, one in zip(found, types, strict=True)
                ),
            )
        except (ValueError, RecursionError):
            return
    for _ in range(2):
        try:
            yield "seeded", tuple(made(one, random) for one in types)
        except (ValueError, RecursionError):
            return


def flat(values: Iterable[object], pool: Pool) -> None:
    """Add whatever replies show."""
    for value in values:
        pool.add(value)
