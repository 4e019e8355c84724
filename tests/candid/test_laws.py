"""Laws over random types and values: round trips in both forms, subtyping, and its soundness for the decoder."""

from generated_values import BOUNDED, NAMES, PRINCIPALS, TYPES, chain, supertypes, tree, typed, values
from hypothesis import given
from hypothesis import strategies as st

from perdure.candid import (
    MethodRef,
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
from perdure.candid.types import Bool, Empty, Func, Opt, Reserved, Some
from perdure.errors import MalformedError
from perdure.ic.principal import Principal


def refusal(call, *args):
    """How a call refused its input; None if it did not. Any other exception is a failure of the test."""
    try:
        call(*args)
    except MalformedError as error:
        return error
    return None


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
