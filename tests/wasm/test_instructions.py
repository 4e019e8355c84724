"""The opcode table against an assembler, instructions read and written, code moved between modules."""

import re

import pytest
import wasmtime

from perdure.errors import MalformedError
from perdure.wasm import (
    OPCODE_BY_NAME,
    OPCODES,
    Immediate,
    MemArg,
    decode,
    encode_instruction,
    instructions,
    locals_end,
    map_indices,
)
from perdure.wasm.tokens import BR_TABLE, charset, leb_forms, opcode_stream, possessive, skip_labels, token_pattern

# How the text format writes the immediates of each kind.
TEXT = {
    Immediate.BLOCK_TYPE: "",
    Immediate.LABEL: "0",
    Immediate.LABELS: "0 0 0",
    Immediate.FUNCTION: "$f",
    Immediate.TYPE: "(type $t)",
    Immediate.TABLE: "",
    Immediate.LOCAL: "$l",
    Immediate.GLOBAL: "$g",
    Immediate.MEMORY: "",
    Immediate.DATA: "$d",
    Immediate.ELEMENT: "$e",
    Immediate.MEMARG: "offset=300",
    Immediate.I32: "-300",
    Immediate.I64: "-3000000000000",
    Immediate.F32: "1.5",
    Immediate.F64: "2.5",
    Immediate.V128: "i32x4 1 2 3 4",
    Immediate.LANE: "1",
    Immediate.LANES: " ".join(map(str, range(16))),
    Immediate.VAL_TYPES: "(result v128)",
    Immediate.HEAP_TYPE: "extern",
}


def assembled(name: str) -> bytes:
    """The body of a function that holds one instruction, typed by an unreachable before it."""
    opcode = OPCODE_BY_NAME[name]
    written = name.removesuffix("_t") if name == "select_t" else name
    text = " ".join([written, *(TEXT[kind] for kind in opcode.immediates)])
    if name in {"block", "loop", "if"}:
        text += " end"
    elif name == "else":
        text = "if else end"
    elif name == "end":
        text = ""
    module = f"""(module (type $t (func)) (memory 1) (table 1 funcref) (global $g (mut i32) (i32.const 0))
        (data $d "x") (elem $e func $f) (func $f (local $l i32) unreachable {text} unreachable))"""
    return decode(bytes(wasmtime.wat2wasm(module))).codes[0].body


@pytest.mark.parametrize("name", OPCODE_BY_NAME)
def test_the_table_agrees_with_the_assembler(name):
    body = assembled(name)
    found = [OPCODES[item.opcode].name for item in instructions(body, locals_end(body))]
    expected = {"block": [name, "end"], "loop": [name, "end"], "if": [name, "end"], "end": []}.get(name, [name])
    expected = ["if", "else", "end"] if name == "else" else expected
    assert found == ["unreachable", *expected, "unreachable", "end"]


def test_the_table_is_complete():
    plain = {number for number in OPCODES if number < 0x100}
    assert len(plain) == len(range(0x45, 0xC5)) + len(range(0x28, 0x45)) + 28
    assert sum(number >> 8 == 0xFC for number in OPCODES) == 18
    assert sum(number >> 8 == 0xFD for number in OPCODES) == 236


def test_instructions_are_written_as_they_were_read():
    for name in OPCODE_BY_NAME:
        body = assembled(name)
        start = locals_end(body)
        written = b"".join(
            encode_instruction(OPCODES[item.opcode], item.immediates) for item in instructions(body, start)
        )
        assert body[:start] + written == body, name


def test_memory_arguments_name_their_memory():
    load = OPCODE_BY_NAME["i64.load"]
    for argument in (MemArg(3, 0), MemArg(3, 1 << 40, 2), MemArg(0, 300, 130)):
        (found,) = instructions(encode_instruction(load, (argument,)))
        assert found.immediates == (argument,)


def test_moving_code_maps_every_index():
    module = decode(
        bytes(
            wasmtime.wat2wasm("""
    (module (type $a (func)) (type $b (func (param i32) (result i32)))
      (memory 1) (memory $m i64 1) (table 1 funcref) (global $g (mut i64) (i64.const 0)) (global $h i32 (i32.const 1))
      (elem declare func $two)
      (func $one (local i64)
        call $two
        i64.const 5 i64.load $m offset=16 global.set $g
        i64.const 1 memory.grow $m drop
        i32.const 0 block (type $b) end i32.const 0 call_indirect (type $b) drop
        ref.func $two drop
        i64.const 0 i32.const 0 i32.const 1 memory.copy $m 0
        global.get $h drop)
      (func $two))""")
        )
    )
    body = module.codes[0].body
    moved = map_indices(
        body,
        {
            Immediate.FUNCTION: lambda index: index + 200,
            Immediate.GLOBAL: lambda index: index + 10,
            Immediate.MEMORY: lambda index: index + 2,
            Immediate.TYPE: lambda index: index + 64,
        },
        locals_end(body),
    )
    text = [
        (OPCODES[item.opcode].name, *item.immediates)
        for item in instructions(moved, locals_end(moved))
        if item.immediates and "const" not in OPCODES[item.opcode].name
    ]
    assert text == [
        ("call", 201),
        ("i64.load", MemArg(3, 16, 3)),
        ("global.set", 10),
        ("memory.grow", 3),
        ("block", 65),
        ("call_indirect", 65, 0),
        ("ref.func", 201),
        ("memory.copy", 3, 2),
        ("global.get", 11),
    ]
    assert map_indices(body, {}, locals_end(body)) == body


@pytest.mark.parametrize(
    ("code", "offset", "message"),
    [
        (b"\x27", 0, "found bytes 27, expected an instruction"),
        (b"\x01\xfc\x12", 1, "found bytes fc 12, expected an instruction"),
        (b"\xfd\x80\x02", 0, "found bytes fd 80 02, expected an instruction"),
        (b"\x02\x6d", 1, "found 6d, expected a block type"),
        (b"\x02\xc0\x7f", 1, "found c0 7f, expected a block type"),
        (b"\x41\xff\xff\xff\xff\x4f", 1, "expected an i32 of 32 signed bits"),
        (b"\x41\x80\x80\x80\x80\x08", 1, "expected an i32 of 32 signed bits"),
        (b"\x42\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 1, "expected an i64 of 64 signed bits"),
        (b"\x43\0\0\0", 1, "found 3 bytes, expected 4 bytes of an f32"),
        (b"\x28\x80\x01\0", 1, "found alignment 0x80"),
        (b"\x1c\x01\x50", 2, "found byte 0x50, expected a value type"),
        (b"\xd0\x71", 1, "found byte 0x71, expected func"),
        (b"\x0e\xff\xff\x03\0", 1, "found a count of 65535 labels before 1 bytes"),
    ],
)
def test_bad_instructions_are_refused(code, offset, message):
    with pytest.raises(MalformedError, match=message) as caught:
        list(instructions(code, base=0x1000))
    assert caught.value.offset == 0x1000 + offset


@pytest.mark.parametrize(
    "values", [{0}, {1, 5, 127}, {128}, {127, 128, 255, 256}, {300, 16383, 16384, 70000}, {2**32 - 1}]
)
def test_every_form_of_an_integer_is_matched_and_no_other(values):
    pattern = re.compile(leb_forms(values), re.DOTALL)
    near = {value + step for value in values for step in (-1, 0, 1)} | {0, 1, 128}
    for value in near - {-1, 2**32}:
        for form in padded_forms(value):
            assert bool(pattern.fullmatch(form)) == (value in values), (value, form.hex())


def padded_forms(value: int) -> list[bytes]:
    forms = []
    for size in range(1, 6):
        if value >> (7 * size) == 0:
            groups = [value >> (7 * place) & 0x7F for place in range(size)]
            forms.append(bytes(group | 0x80 for group in groups[:-1]) + bytes(groups[-1:]))
    return forms


def test_sets_of_bytes_are_exact():
    assert re.findall(charset([0, 0x5D, 0x5E, 0xFF]), bytes(range(256)), re.DOTALL) == [b"\0", b"]", b"^", b"\xff"]


@pytest.mark.parametrize("vector", [b"", b"\xfd\x0c" + bytes(range(16)) + b"\xfd\xff\x81\0"])
def test_the_stream_of_numbers_is_what_the_reader_sees(vector):
    code = (
        bytes.fromhex("01 41 fd 7e 42 8b 80 7f 44 20 20 20 20 20 20 20 fd 20 85 80 00 28 02 80 01 11 05 00 6a 6a")
        + bytes.fromhex("fc 82 00 fc 07 02 40 d2 03 43 fd fd fd 0b 1c 01 7b 0b")
        + vector
        + bytes.fromhex("28 c0 80 00 02 81 00 0b")
    )
    assert re.fullmatch(possessive(token_pattern(OPCODES.keys() - {BR_TABLE}), b"*"), code, re.DOTALL)
    numbers = [code[item.start : item.start + encoded_size(code, item.start)] for item in instructions(code)]
    assert opcode_stream(b"\x41" + code + b"\x7f", 1, 1 + len(code)) == b"".join(numbers)


def encoded_size(code: bytes, start: int) -> int:
    size = 1
    if code[start] in {0xFC, 0xFD}:
        while code[start + size] >= 0x80:
            size += 1
        size += 1
    return size


def test_labels_are_stepped_over():
    assert skip_labels(b"\x02\x00\x01\x02\x0b", 0) == 4
    assert skip_labels(b"\x82\x00\x00\x81\x80\x00\x02\x0b", 0) == 7
    assert skip_labels(b"\x00\x80\x80\x80\x00", 0) == 5
    for bad in (b"", b"\x80", b"\x02\x00\x01", b"\x01\x80\x80", b"\xff\xff\xff\xff\x0f\x00", b"\x80" * 6 + b"\x00"):
        assert skip_labels(bad, 0) == -1
