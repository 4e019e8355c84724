"""CBOR that somebody else wrote: whatever it is, it is read or refused at once, and shown in bounded time."""

from contextlib import suppress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import cbor
from perdure.errors import MalformedError

REFERENCE, MARKED = b"\xd8\x1d", b"\xd8\x1c"


def folded(levels: int) -> bytes:
    """A list whose item is twice a list whose item is twice..., in five bytes a level."""
    marks = b"".join(MARKED + b"\x82" for _ in range(levels))
    return marks + b"\x00\x00" + b"".join(REFERENCE + cbor2.dumps(level) for level in range(levels - 1, 0, -1))


ENDLESS = {
    "a list in itself": MARKED + b"\x81" + REFERENCE + b"\x00",
    "a map in itself": MARKED + b"\xa1\x61a" + REFERENCE + b"\x00",
    "under a tag": MARKED + b"\x81\xd9\x03\xe8" + REFERENCE + b"\x00",
    "the number of the tag in two bytes": MARKED + b"\x81\xd9\x00\x1d\x00",
    "the number of the tag in eight bytes": MARKED + b"\x81\xdb" + (29).to_bytes(8, "big") + b"\x00",
    "doubled sixty times": folded(60),
    "a text a thousand times": b"\xd9\x01\x00\x99\x03\xe8" + cbor2.dumps("x" * 5_000) + b"\xd8\x19\x00" * 999,
}


@pytest.mark.parametrize("what", ENDLESS)
def test_what_would_not_end_when_written_out(what):
    with pytest.raises(MalformedError, match="refers to itself, or unfolds"):
        cbor.load(ENDLESS[what])


def test_a_little_is_shared():
    assert cbor.load(b"\x82" + MARKED + b"\x82\x01\x02" + REFERENCE + b"\x00") == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00",
        b"\x81" * 100_000,
        b"\xc1" * 100_000,
        b"\x9b" + b"\xff" * 8,
        b"\x5b\x7f" + b"\xff" * 7,
        b"\x63\xed\xa0\x80",
    ],
)
def test_what_is_no_item(data):
    with pytest.raises(MalformedError, match="no CBOR"):
        cbor.load(data)


def test_the_rest_of_some_bytes():
    assert cbor.load(b"\xd9\xd9\xf7\x05", 3) == 5
    with pytest.raises(MalformedError, match="1 bytes after the item") as error:
        cbor.load(b"\xd9\xd9\xf7\x05\x06", 3)
    assert error.value.offset == 4


@given(st.recursive(st.integers() | st.binary() | st.text() | st.none(), st.lists, max_leaves=20))
def test_items_come_back(value):
    assert cbor.load(cbor2.dumps(value)) == value


@given(st.binary().map(lambda data: b"\x82\xd8\x1d" + data) | st.binary())
def test_any_bytes(data):
    with suppress(MalformedError):
        repr(cbor.load(data))
