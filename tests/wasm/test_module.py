"""Round trips, replacement and the questions a module answers."""

import gzip
from dataclasses import replace

import pytest
import wasmtime

from perdure.errors import MalformedError
from perdure.wasm import (
    Code,
    ConstExpr,
    CustomSection,
    DataSegment,
    Element,
    ElementMode,
    Export,
    ExternKind,
    FuncType,
    Global,
    GlobalType,
    Import,
    Limits,
    MemoryType,
    Module,
    SectionId,
    TableType,
    ValType,
    decode,
    encode,
)

EVERYTHING = """
(module
  (type $unary (func (param i32) (result i32)))
  (import "ic0" "msg_reply" (func $reply))
  (import "env" "t" (table 1 funcref))
  (import "env" "g" (global $imported i32))
  (table $other i64 2 9 externref)
  (memory $heap 1 4)
  (memory $big i64 1)
  (global $plain (mut i64) (i64.const -5))
  (global $copied i32 (global.get $imported))
  (export "canister_query a" (func $a))
  (export "heap" (memory $heap))
  (start $begin)
  (elem (table 0) (i32.const 0) func $a $begin)
  (elem func $a)
  (elem declare func $begin)
  (elem externref (ref.null extern))
  (elem (table 0) (i32.const 0) funcref (ref.func $a) (ref.null func))
  (func $a (param i32) (result i32) local.get 0)
  (func $begin call $reply)
  (data (i32.const 8) "active")
  (data (memory $big) (i64.const 16) "in the second memory")
  (data "passive"))
"""


@pytest.fixture(scope="module")
def wasm() -> bytes:
    return bytes(wasmtime.wat2wasm(EVERYTHING))


def test_every_section_is_decoded(wasm):
    module = decode(wasm)
    assert module.types[0] == FuncType((ValType.I32,), (ValType.I32,))
    assert module.imports[0] == Import("ic0", "msg_reply", ExternKind.FUNCTION, 1)
    assert module.imports[1] == Import("env", "t", ExternKind.TABLE, TableType(ValType.FUNCREF, Limits(1)))
    assert module.imports[2] == Import("env", "g", ExternKind.GLOBAL, GlobalType(ValType.I32))
    assert module.function_type_indices == (0, 1)
    assert module.tables == (TableType(ValType.EXTERNREF, Limits(2, 9, is_64=True)),)
    assert module.memories == (MemoryType(Limits(1, 4)), MemoryType(Limits(1, None, is_64=True)))
    assert module.globals[0] == Global(GlobalType(ValType.I64, mutable=True), ConstExpr.i64(-5))
    assert module.exports == (
        Export("canister_query a", ExternKind.FUNCTION, 1),
        Export("heap", ExternKind.MEMORY, 0),
    )
    assert module.start == 2
    assert [element.mode for element in module.elements] == [
        ElementMode.ACTIVE,
        ElementMode.PASSIVE,
        ElementMode.DECLARATIVE,
        ElementMode.PASSIVE,
        ElementMode.ACTIVE,
    ]
    assert module.elements[0] == Element(ElementMode.ACTIVE, ValType.FUNCREF, (1, 2), 0, ConstExpr.i32(0))
    assert module.data_count in {None, 3}
    assert module.codes[0].body == b"\x00\x20\x00\x0b"
    assert wasm[module.codes[0].offset :].startswith(module.codes[0].body)
    assert module.data == (
        DataSegment(b"active", ConstExpr.i32(8)),
        DataSegment(b"in the second memory", ConstExpr.i64(16), 1),
        DataSegment(b"passive"),
    )
    assert module.function_names == {0: "reply", 1: "a", 2: "begin"}


def test_index_spaces_start_with_imports(wasm):
    module = decode(wasm)
    assert module.imported_function_count == 1
    assert module.function_count == 3
    assert [module.function_type(index).params for index in range(3)] == [(), (ValType.I32,), ()]
    assert [table.is_64 for table in module.all_tables] == [False, True]
    assert [kind.val_type for kind in module.all_global_types] == [ValType.I32, ValType.I64, ValType.I32]
    assert module.imported_memories == ()
    assert not module.is_64
    assert decode(wasmtime.wat2wasm("(module (memory i64 1))")).is_64


def test_encode_returns_the_same_bytes(wasm):
    assert encode(decode(wasm)) == wasm
    assert encode(decode(gzip.compress(wasm))) == wasm


def test_every_section_written_anew_means_the_same(wasm):
    module = decode(wasm)
    customs = tuple(section._replace(raw=b"") for section in module.custom_sections)
    fresh = replace(module, originals={}, custom_sections=customs)
    again = decode(encode(fresh))
    assert replace(again, codes=(), custom_sections=()) == replace(module, codes=(), custom_sections=())
    assert [code.body for code in again.codes] == [code.body for code in module.codes]
    assert [section[:3] for section in again.custom_sections] == [section[:3] for section in module.custom_sections]


def test_padded_integers_are_kept_until_their_section_changes():
    padded = b"\0asm\x01\0\0\0" + b"\x01\x84\x80\x80\x80\x00" + b"\x01\x60\x00\x00" + b"\x00\x82\x00\x01a"
    module = decode(padded)
    assert module.types == (FuncType(),)
    assert module.custom_sections == (CustomSection("a", b"", SectionId.TYPE, b"\x00\x82\x00\x01a"),)
    assert encode(module) == padded
    longer = replace(module, types=(*module.types, FuncType((ValType.I64,))))
    assert encode(longer) == b"\0asm\x01\0\0\0" + b"\x01\x08\x02\x60\x00\x00\x60\x01\x7e\x00" + b"\x00\x82\x00\x01a"
    assert encode(replace(longer, types=module.types)) == padded


def test_empty_sections_are_kept():
    wasm = b"\0asm\x01\0\0\0" + b"\x01\x01\x00" + b"\x06\x01\x00" + b"\x0c\x01\x00"
    module = decode(wasm)
    assert (module.types, module.globals, module.data_count) == ((), (), 0)
    assert encode(module) == wasm
    assert encode(replace(module, data_count=None)) == wasm[:-3]


def test_custom_sections_keep_their_places(wasm):
    module = decode(wasm)
    first = CustomSection("icp:public candid:service", b"service : {}", SectionId.CUSTOM)
    middle = CustomSection("note", b"", SectionId.START)
    encoded = encode(replace(module, custom_sections=(first, *module.custom_sections, middle)))
    again = decode(encoded)
    assert encoded.startswith(b"\0asm\x01\0\0\0\x00\x26\x19icp:public")
    assert [section.name for section in again.custom_sections] == [first.name, "note", "name"]
    assert again.custom("icp:public candid:service") == b"service : {}"
    assert again.custom("absent") is None
    assert again.custom_sections[1].after is SectionId.START
    assert wasmtime.Module.validate(wasmtime.Engine(), encoded) is None


def test_appending_moves_no_index(wasm):
    module = decode(wasm)
    grown = replace(
        module,
        types=(*module.types, FuncType((), (ValType.I64,))),
        function_type_indices=(*module.function_type_indices, len(module.types)),
        codes=(*module.codes, Code(b"\x00\x42\x07\x0b")),
        memories=(*module.memories, MemoryType(Limits(0, None, is_64=True))),
        exports=(*module.exports, Export("seven", ExternKind.FUNCTION, module.function_count)),
        data=tuple(segment._replace(offset=None, init=b"", memory_index=0) for segment in module.data),
        start=None,
    )
    encoded = encode(grown)
    again = decode(encoded)
    assert again.function_type(module.function_count).results == (ValType.I64,)
    assert again.start is None
    assert again.codes[0].body == module.codes[0].body
    assert again.data == (DataSegment(b""),) * 3
    wasmtime.Module.validate(wasmtime.Engine(), encoded)


def test_constant_expressions_tell_their_integer():
    assert ConstExpr.i32(-1).integer == (ValType.I32, -1)
    assert ConstExpr.i64(1 << 62).integer == (ValType.I64, 1 << 62)
    assert ConstExpr.ref_func(300).integer is None
    assert ConstExpr(b"\x41\x01\x41\x01\x6a\x0b").integer is None


def test_a_damaged_name_section_names_what_it_can():
    module = Module(custom_sections=(CustomSection("name", b"\x01\x0a\x02\x00\x01a\x01\x7fbc"),))
    assert module.function_names == {0: "a"}
    assert Module().function_names == {}


def test_gzip_is_bounded_and_whole():
    bomb = gzip.compress(b"\0asm\x01\0\0\0" + bytes(1 << 22))
    with pytest.raises(MalformedError, match="found a gzipped module of more than 65536 bytes"):
        decode(bomb, max_bytes=1 << 16)
    packed = gzip.compress(b"\0asm\x01\0\0\0")
    for size in range(3, len(packed)):
        with pytest.raises(MalformedError, match="gzip"):
            decode(packed[:size])
    with pytest.raises(MalformedError, match="data after the gzip stream"):
        decode(packed + b"!")
    with pytest.raises(MalformedError, match="at most 8 "):
        decode(b"\0asm\x01\0\0\0\0", max_bytes=8)
