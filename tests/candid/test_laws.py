"""Laws over random types and values: round trips in both forms, subtyping, and its soundness for the decoder."""

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.candid import (
    decode,
    encode,
    equal_types,
    explain,
    parse,
    parse_type,
    parse_values,
    subtype,
    values_to_text,
)
from perdure.candid.types import (
    BY_NAME,
    Bool,
    Empty,
    Field,
    Func,
    Int,
    MethodRef,
    Nat,
    Null,
    Opt,
    PrincipalType,
    Rec,
    Record,
    Reserved,
    Service,
    Some,
    Variant,
    Vec,
    is_blob,
    is_nullable,
    resolve,
)
from perdure.errors import MalformedError
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


def refusal(call, *args):
    """How a call refused its input; None if it did not. Any other exception is a failure of the test."""
    try:
        call(*args)
    except MalformedError as error:
        return error
    return None


def fields_of(types, min_size=0):
    named = st.dictionaries(NAMES, types, min_size=min_size, max_size=4)
    numbered = st.dictionaries(st.integers(0, 5) | st.integers(0, 2**32 - 1), types, min_size=min_size, max_size=4)
    return named | numbered


def composites(types):
    func = st.builds(
        lambda args, results, mode: Func(tuple(args), () if mode == {"oneway"} else tuple(results), frozenset(mode)),
        st.lists(types, max_size=3),
        st.lists(types, max_size=3),
        st.sampled_from([set(), {"query"}, {"oneway"}, {"composite_query"}]),
    )
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


@BOUNDED
@given(typed())
def test_a_value_survives_the_binary_form(pair):
    type_, value = pair
    message = encode([type_], [value])
    assert decode(message, [type_]) == (value,)


@BOUNDED
@given(typed())
def test_a_value_survives_the_binary_form_without_its_type(pair):
    type_, value = pair
    message = encode([type_], [value])
    again = decode(message)
    assert encode([type_], again) == encode([type_], [value])


@BOUNDED
@given(typed())
def test_a_value_survives_the_text_form(pair):
    type_, value = pair
    text = values_to_text([type_], [value])
    assert parse_values(text, [type_])[1] == (value,), text


@BOUNDED
@given(TYPES)
def test_a_type_survives_its_text(type_):
    names = {rec.name: rec for rec in (chain(), tree())}
    assert equal_types(parse_type(str(type_), names), type_)


@BOUNDED
@given(TYPES)
def test_subtyping_is_reflexive_and_bounded_by_empty_and_reserved(type_):
    assert subtype(type_, type_)
    assert explain(type_, type_) == []
    assert subtype(Empty, type_)
    assert subtype(type_, Reserved)
    assert subtype(type_, Opt(Bool))


@BOUNDED
@given(TYPES, TYPES, TYPES)
def test_subtyping_is_transitive(a, b, c):
    if subtype(a, b) and subtype(b, c):
        assert subtype(a, c)


@BOUNDED
@given(st.data())
def test_a_value_decodes_at_every_supertype(data):
    type_ = data.draw(TYPES)
    value = data.draw(values(type_))
    wider = data.draw(supertypes(type_))
    assert subtype(type_, wider), (str(type_), str(wider))
    assert not [one for one in explain(type_, wider) if one.severity == "error"]
    [found] = decode(encode([type_], [value]), [wider], quota=1 << 40)
    assert decode(encode([wider], [found]), [wider], quota=1 << 40) == (found,)


@BOUNDED
@given(TYPES, TYPES)
def test_a_function_reference_decodes_exactly_where_it_is_a_subtype(a, b):
    value = MethodRef(Principal(b"\x01"), "m")
    message = encode([Func((), (a,))], [value])
    [found] = decode(message, [Opt(Func((), (b,)))], quota=1 << 40)
    assert found == (value if subtype(a, b) else None)
    assert subtype(a, b) == (not [one for one in explain(a, b) if one.severity == "error"])


@BOUNDED
@given(typed(), st.data())
def test_a_changed_message_is_read_or_refused(pair, data):
    type_, value = pair
    message = bytearray(encode([type_], [value]))
    position = data.draw(st.integers(0, len(message) - 1))
    message[position] = data.draw(st.integers(0, 255))
    for types in ([type_], None):
        error = refusal(decode, bytes(message), types)
        assert error is None or error.offset is None or 0 <= error.offset <= len(message)


@BOUNDED
@given(typed())
def test_a_message_cut_anywhere_is_refused(pair):
    type_, value = pair
    message = encode([type_], [value])
    for end in range(len(message)):
        error = refusal(decode, message[:end])
        assert error is not None
        assert error.offset is not None
        assert error.offset <= end


@BOUNDED
@given(st.binary(max_size=40))
def test_bytes_that_are_no_message_are_refused_or_read(noise):
    refusal(decode, b"DIDL" + noise)


@BOUNDED
@given(st.text(max_size=40), st.sampled_from(["(%s)", "(record { %s })", '("%s")', "%s"]))
def test_text_that_is_no_value_is_refused_or_read(noise, frame):
    error = refusal(parse_values, frame % noise)
    assert error is None or error.offset is not None


@BOUNDED
@given(st.lists(st.sampled_from([*'(){};:,.="->', "func", "service", "record", "variant", "nat", "opt", "a", "0x1"])))
def test_text_that_is_no_type_is_refused_or_read(noise):
    refusal(parse_type, " ".join(noise))
    refusal(parse, f"type a = {' '.join(noise)}; service : {{ m : a }}")
    refusal(parse, " ".join(["service", *noise]))


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=4)
    | PRINCIPALS
    | st.just(object())
    | st.just(int),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(NAMES | st.integers() | st.tuples(), inner, max_size=2)
        | st.sets(st.integers(), max_size=2)
        | inner.map(Some)
    ),
    max_leaves=6,
)


@BOUNDED
@given(TYPES, ANYTHING)
def test_any_python_value_is_written_or_refused(type_, value):
    try:
        message = encode([type_], [value])
    except ValueError:
        return
    [found] = decode(message, [type_], quota=1 << 40)
    assert encode([type_], [found]) == message
