"""Random types and values of Candid, for the laws and for the reference implementation."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from perdure.candid import MethodRef, Some
from perdure.candid.types import (
    BY_NAME,
    Empty,
    Field,
    Func,
    Int,
    Nat,
    Null,
    Opt,
    PrincipalType,
    Rec,
    Record,
    Reserved,
    Service,
    Variant,
    Vec,
    is_blob,
    is_nullable,
    resolve,
)
from perdure.ic.principal import Principal

#: `CANDID_EXAMPLES=5000 pytest tests/candid/test_laws.py` is the long form.
EXAMPLES = int(os.environ.get("CANDID_EXAMPLES", "0"))
BOUNDED = settings(
    max_examples=EXAMPLES or 40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=not EXAMPLES,
)

NAMES = st.sampled_from(["a", "b", "foo", "bar", "type", "nat", "☃", "with space", "_x", "Ok", "Err"])
INHABITED = st.sampled_from([prim for prim in BY_NAME.values() if prim is not Empty])


def fields_of(types, min_size=0):
    named = st.dictionaries(NAMES, types, min_size=min_size, max_size=4)
    numbered = st.dictionaries(st.integers(0, 5) | st.integers(0, 2**32 - 1), types, min_size=min_size, max_size=4)
    return named | numbered


def functions(types):
    return st.builds(
        lambda args, results, mode: Func(tuple(args), () if mode == {"oneway"} else tuple(results), frozenset(mode)),
        st.lists(types, max_size=3),
        st.lists(types, max_size=3),
        st.sampled_from([set(), {"query"}, {"oneway"}, {"composite_query"}]),
    )


def composites(types):
    func = functions(types)
    return st.one_of(
        types.map(Opt),
        types.map(Vec),
        fields_of(types).map(Record.of),
        fields_of(types, min_size=1).map(Variant.of),
        st.lists(types, min_size=1, max_size=3).map(lambda some: Record.tuple_of(*some)),
        func,
        st.dictionaries(NAMES, func, max_size=2).map(Service.of),
    )


def chain():
    rec = Rec("Chain")
    rec.define(Opt(Record.of({"head": Nat, "tail": rec})))
    return rec


def tree():
    rec = Rec("Tree")
    rec.define(Variant.of({"leaf": Int, "node": Vec(rec)}))
    return rec


TYPES = st.recursive(INHABITED | st.sampled_from([chain(), tree()]), composites, max_leaves=8)
PRINCIPALS = st.binary(max_size=29).map(Principal)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
INTEGERS = {
    "nat": st.integers(0, 300) | st.integers(0, 1 << 300),
    "int": st.integers(-300, 300) | st.integers(-(1 << 300), 1 << 300),
    **{f"nat{bits}": st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    **{f"int{bits}": st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
}
SCALARS = {
    **INTEGERS,
    "bool": st.booleans(),
    "null": st.none(),
    "reserved": st.none(),
    "text": TEXTS,
    "principal": PRINCIPALS,
    "float32": st.floats(width=32, allow_nan=False),
    "float64": st.floats(allow_nan=False),
}


@st.composite
def values(draw, type_, depth=0):
    found = resolve(type_)
    inner = lambda one: draw(values(one, depth + 1))  # noqa: E731
    match found:
        case Opt(content):
            if depth > 6 or draw(st.booleans()):
                return None
            value = inner(content)
            return Some(value) if is_nullable(content) else value
        case Vec(element):
            if is_blob(found):
                return draw(st.binary(max_size=8))
            size = 0 if depth > 3 else draw(st.integers(0, 3))
            return [inner(element) for _ in range(size)]
        case Record(fields):
            if found.is_tuple:
                return tuple(inner(one.type) for one in fields)
            return {one.label: inner(one.type) for one in fields}
        case Variant(fields):
            one = draw(st.sampled_from(fields))
            return {one.label: inner(one.type)}
        case Func():
            return MethodRef(draw(PRINCIPALS), draw(TEXTS))
        case Service():
            return draw(PRINCIPALS)
    return draw(SCALARS[found.name])


@st.composite
def typed(draw):
    type_ = draw(TYPES)
    return type_, draw(values(type_))


@st.composite
def supertypes(draw, type_, depth=0):
    """A supertype by the rules, other than by chance."""
    found = resolve(type_)
    choice = draw(st.integers(0, 9))
    if choice == 0:
        return Reserved
    if choice == 1:
        return Opt(draw(TYPES))
    if choice == 2 and not is_nullable(found):
        return Opt(found)
    if depth > 4 or isinstance(type_, Rec):
        return type_
    inner = lambda one: draw(supertypes(one, depth + 1))  # noqa: E731
    match found:
        case Opt(content):
            return Opt(inner(content))
        case Vec(element):
            return Vec(inner(element))
        case Record(fields):
            kept = [Field(one.id, inner(one.type), one.name) for one in fields if draw(st.booleans())]
            return Record.of([*kept, *draw(new_fields(fields, TYPES.map(Opt) | st.just(Null)))])
        case Variant(fields):
            kept = [Field(one.id, inner(one.type), one.name) for one in fields]
            return Variant.of([*kept, *draw(new_fields(fields, TYPES))])
        case Service():
            return PrincipalType
    return Int if found is Nat else type_


@st.composite
def new_fields(draw, fields, types):
    known = {one.id for one in fields}
    ids = draw(st.sets(st.integers(10**6, 10**6 + 3), max_size=2))
    return [Field(id_, draw(types)) for id_ in sorted(ids - known)]
