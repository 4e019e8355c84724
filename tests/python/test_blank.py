"""The bytes that stand for a class: read back, and told from any other."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.python.blank import empty_module, read, sections


@settings(max_examples=40)
@given(st.text(min_size=1), st.binary(max_size=64), st.text())
def test_there_and_back(name: str, schema: bytes, candid: str) -> None:
    found = read(empty_module(sections(name, bytes(32), schema, candid)))
    assert found is not None
    assert (found.name, found.schema) == (name, schema)
    assert found.sections["icp:public candid:service"] == candid.encode()


def test_what_the_first_revisions_wrote() -> None:
    found = read(empty_module({"icp:public candid:service": b"", "perdure:python": b"shop:Counter " + b"0" * 64}))
    assert found is not None
    assert (found.name, found.schema) == ("shop:Counter", b"")


GOOD = empty_module(sections("shop:Counter", bytes(32), b"schema", "service : {}"))


@pytest.mark.parametrize(
    "wasm",
    [
        b"",
        b"\0asm\1\0\0\0",
        GOOD[:-1],
        GOOD + b"\1\1\0",  # a section of types
        GOOD + b"\0\xff\xff\xff\xff\x0f",
        GOOD.replace(b"perdure:python", b"perdure:pytho\xff"),
        GOOD.replace(b"shop:Counter", b"shop:Count\xff\xff"),
        GOOD.replace(b"perdure:python", b"perdure:pythom"),
        b"\x1f\x8b" + GOOD,
    ],
)
def test_what_is_none(wasm: bytes) -> None:
    assert read(wasm) is None


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_nothing_crashes_it(data: bytes) -> None:
    read(b"\0asm\1\0\0\0\0" + data)
