"""What the binary format forbids, each with its place; truncation at every byte."""

import pytest
import wasmtime

from perdure.errors import MalformedError
from perdure.wasm import decode, encode

HEADER = b"\0asm\x01\0\0\0"
TYPE = b"\x01\x04\x01\x60\0\0"
FUNCTION = b"\x03\x02\x01\0"
CODE = b"\x0a\x04\x01\x02\0\x0b"
MEMORY = b"\x05\x03\x01\0\x01"
TABLE = b"\x04\x04\x01\x70\0\x01"


def section(number: int, contents: bytes) -> bytes:
    return bytes((number, len(contents))) + contents


@pytest.mark.parametrize(
    ("wasm", "offset", "message"),
    [
        (b"", 0, r"found magic b'', expected b'\\x00asm'"),
        (b"\0asn\x01\0\0\0", 0, "found magic"),
        (b"(module)", 0, "found Wasm's text format, expected a binary module: assemble it"),
        (b"\n ;; by hand\n(module)", 0, "found Wasm's text format"),
        (b"\0asm\x0d\0\x01\0", 4, "found a component, expected a core module"),
        (b"\0asm\x02\0\0\0", 4, "found version"),
        (HEADER + b"\x0d\0", 8, "found section id 13, expected 0 to 12"),
        (HEADER + b"\x01", 9, "a section size"),
        (HEADER + b"\x01\x05\0", 10, "found a section of 5 bytes before 1, expected it to fit"),
        (HEADER + b"\x01\x85\x80\x80\x80\x80\x00", 9, "LEB128 of more than 5 bytes"),
        (HEADER + b"\x01\x80\x80\x80\x80\x10", 9, "found 0x100000000, expected a section size of 32 bits"),
        (HEADER + TYPE + TYPE, 14, "found a type section after the type section, expected it before"),
        (HEADER + FUNCTION + TYPE, 8 + 3, "expected one below 0"),
        (HEADER + TYPE + MEMORY + FUNCTION, 19, "found a function section after the memory section"),
        (HEADER + section(10, b"\0") + section(12, b"\0"), 11, "found a data count section after the code section"),
        (HEADER + section(1, b"\0\0"), 11, "found 1 bytes more in the type section, expected its end"),
        (HEADER + section(1, b"\x7f"), 10, "found a count of 127 types before 0 bytes"),
        (HEADER + section(1, b"\x01\x5f\0\0"), 11, "found byte 0x5f, expected a function type"),
        (HEADER + section(1, b"\x01\x60\x01\x77"), 13, "found byte 0x77, expected a value type"),
        (HEADER + section(0, b"\x02\xff\xff"), 11, "found bytes ff in a custom section's name, expected UTF-8"),
        (HEADER + section(0, b"\x05a"), 11, "found 1 bytes, expected 5 bytes of a custom section's name"),
        (
            HEADER + section(2, b"\x01\x01a\x01b\x04\0"),
            15,
            "found kind 0x04, expected function, table, memory or global",
        ),
        (HEADER + section(2, b"\x01\x01a\x01b\0\0"), 16, "found type index 0, expected one below 0"),
        (HEADER + section(4, b"\x01\x7f\0\0"), 11, "found byte 0x7f, expected a reference type"),
        (HEADER + section(5, b"\x01\x03\x01\x02"), 11, "found a shared memory, expected one that is not"),
        (HEADER + section(5, b"\x01\x08\x01"), 11, "found memory flags 0x08, expected 0, 1, 4 or 5"),
        (HEADER + section(5, b"\x01\x01\x02\x01"), 11, "found a memory of at least 2 and at most 1"),
        (HEADER + section(5, b"\x01\0\x81\x80\x04"), 11, "found a memory of 65537 pages, expected at most 65536"),
        (HEADER + section(6, b"\x01\x7f\x02\x41\0\x0b"), 12, "expected a mutability of 0 or 1"),
        (HEADER + section(6, b"\x01\x7f\0\x23\0\x0b"), 14, "found global index 0, expected one below 0"),
        (HEADER + section(6, b"\x01\x7f\0\x45\x0b\0"), 13, "found instruction 45, expected a constant instruction"),
        (HEADER + section(6, b"\x01\x70\0\xd2\0\x0b"), 14, "found function index 0, expected one below 0"),
        (HEADER + section(7, b"\x01\x01a\0\0"), 14, "found function index 0, expected one below 0"),
        (HEADER + MEMORY + section(7, b"\x02\x01a\x02\0\x01a\x02\0"), 20, "found a second export named 'a'"),
        (HEADER + section(8, b"\0"), 10, "found function index 0, expected one below 0"),
        (
            HEADER + section(9, b"\x01\0\x41\0\x0b\0"),
            12,
            "found an active element segment, expected none without a table",
        ),
        (HEADER + section(9, b"\x01\x08\0"), 11, "found element segment flags 0x8, expected 0 to 7"),
        (HEADER + section(9, b"\x01\x01\x01\0"), 12, "expected an element kind of 0"),
        (HEADER + TABLE + section(9, b"\x01\x02\x01\x41\0\x0b\0\0"), 18, "found table index 1, expected one below 1"),
        (HEADER + TYPE + FUNCTION, 18, "found 0 function bodies, expected 1"),
        (HEADER + CODE, 14, "found 1 function bodies, expected 0"),
        (HEADER + TYPE + FUNCTION + section(10, b"\x01\x03\0\x0b"), 22, "found a function body of 3 bytes before 2"),
        (HEADER + TYPE + FUNCTION + section(10, b"\x01\x01\x0b"), 20, "found a count of 1 function bodies before 2"),
        (HEADER + TYPE + FUNCTION + section(10, b"\x01\x02\0\0"), 23, "found byte 0x00 at the end of a body"),
        (HEADER + section(12, b"\x01"), 11, "found 0 data segments, expected 1"),
        (HEADER + section(11, b"\x01\x03\0"), 11, "found data segment flags 0x3, expected 0, 1 or 2"),
        (
            HEADER + section(11, b"\x01\0\x41\0\x0b\0"),
            11,
            "found an active data segment, expected none without a memory",
        ),
        (HEADER + MEMORY + section(11, b"\x01\x01\x02a"), 18, "found 1 bytes, expected 2 bytes of a data segment"),
    ],
)
def test_malformed_modules_are_refused_with_their_place(wasm, offset, message):
    with pytest.raises(MalformedError, match=message) as caught:
        decode(wasm)
    assert caught.value.offset == offset


RICH = """
(module
  (type $f (func (param i32 i64 f32 f64 v128) (result i32 i64)))
  (import "ic0" "stable64_read" (func (param i64 i64 i64)))
  (import "env" "memory" (memory 1 2))
  (table 3 funcref)
  (global (mut i32) (i32.const -70000))
  (global v128 (v128.const i64x2 1 2))
  (export "canister_update x" (func 1))
  (elem (i32.const 1) 1)
  (elem funcref (ref.null func) (ref.func 1))
  (func (local i32 i32 i64) block local.get 0 br_if 0 end (data.drop 1))
  (data (i32.const 1024) "hello") (data "kept"))
"""


def test_truncation_at_every_byte_is_refused():
    wasm = bytes(wasmtime.wat2wasm(RICH))
    assert encode(decode(wasm)) == wasm
    places, whole = [], []
    for size in range(len(wasm)):
        try:
            module = decode(wasm[:size])
        except MalformedError as error:
            places.append((error.offset, size))
        else:  # the header alone, and a prefix that ends with a section
            whole.append(size)
            assert encode(module) == wasm[:size]
    assert all(offset is not None and offset <= size for offset, size in places)
    assert whole[0] == 8
    assert len(whole) < 10


def test_every_byte_flipped_is_refused_or_round_trips():
    wasm = bytearray(wasmtime.wat2wasm(RICH))
    refused = 0
    for place in range(len(wasm)):
        for flip in (0x01, 0x80, 0xFF):
            wasm[place] ^= flip
            try:
                assert encode(decode(bytes(wasm))) == wasm
            except MalformedError:
                refused += 1
            wasm[place] ^= flip
    assert refused > len(wasm)


def test_padded_forms_are_read():
    padded_type = b"\x01\x86\x80\x00\x81\x00\x60\x80\x80\x00\x00"
    padded_memory = b"\x05\x08\x01\x01\x81\x80\x00\x82\x80\x00"
    module = decode(HEADER + padded_type.replace(b"\x86", b"\x87") + padded_memory)
    assert module.types == (((), ()),)
    assert module.memories[0].limits == (1, 2, False)


def test_counts_that_lie_allocate_nothing():
    for number in (1, 2, 3, 4, 5, 6, 7, 9, 10, 11):
        with pytest.raises(MalformedError, match="found a count of 4294967295"):
            decode(HEADER + section(number, b"\xff\xff\xff\xff\x0f"))
    with pytest.raises(MalformedError, match=r"found a function body of 4294967295 bytes"):
        decode(HEADER + TYPE + FUNCTION + section(10, b"\x01\xff\xff\xff\xff\x0f"))


@pytest.mark.parametrize(
    ("section", "most", "what"),
    [
        (1, 200_000, "types"),
        (2, 200_000, "imports"),
        (6, 200_000, "globals"),
        (7, 200_000, "exports"),
        (9, 100_000, "element segments"),
        (11, 100_000, "data segments"),
    ],
)
def test_items_are_counted_before_they_are_read(section, most, what):
    """100 MiB of globals, which the replica refuses by their number, took minutes to read."""
    contents = leb(most + 1) + bytes(4 * most + 4)
    with pytest.raises(MalformedError, match=f"found {most + 1} {what}, expected at most {most}"):
        decode(b"\0asm\1\0\0\0" + bytes([section]) + leb(len(contents)) + contents)


def test_custom_sections_are_counted_as_they_come():
    with pytest.raises(MalformedError, match="found 100001 custom sections, expected at most 100000"):
        decode(b"\0asm\1\0\0\0" + b"\0\1\0" * 1_000_000)


def leb(value):
    """LEB128, unsigned."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
