from __future__ import annotations

import pytest
import wasmtime

from perdure.embedder import Engine, validate_original
from perdure.errors import InvalidModuleError, MalformedError
from perdure.instrument import Options

EMPTY = b"\0asm\1\0\0\0"


@pytest.mark.parametrize(
    "text",
    [
        "(module (memory 1) (func (result v128) (v128.load (i32.const 0))))",
        "(module (memory i64 1) (func (drop (i32.load (i64.const 0)))))",
        "(module (func (result i32 i64) (i32.const 1) (i64.const 2)))",
        "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0))))",
        "(module (func $f (return_call $f)))",
        "(module (table i64 1 funcref))",
    ],
    ids=["simd", "memory64", "multi-value", "bulk", "tail-call", "table64"],
)
def test_what_a_canister_may_use(text):
    validate_original(bytes(wasmtime.wat2wasm(text)))


@pytest.mark.parametrize(
    "text",
    [
        "(module (memory 1) (memory 1))",
        "(module (memory 1 1 shared))",
        "(module (func (param v128 v128) (result v128) (i8x16.relaxed_swizzle (local.get 0) (local.get 1))))",
        "(module (type (struct)))",
        "(module (tag))",
    ],
    ids=["multi-memory", "threads", "relaxed-simd", "gc", "exceptions"],
)
def test_what_a_canister_may_not_use(text):
    with pytest.raises(MalformedError) as caught:
        validate_original(bytes(wasmtime.wat2wasm(text)))
    assert caught.value.offset is not None


def test_index_that_appending_would_make_valid_is_refused(harness):
    """Memory 1 does not exist in the original; in the linked module it is stable memory."""
    text = "(module (memory 1) (memory 1) (func (drop (i32.load 1 (i32.const 0)))))"
    two = bytes(wasmtime.wat2wasm(text))
    one = two.replace(b"\x05\x05\x02\x00\x01\x00\x01", b"\x05\x03\x01\x00\x01")
    assert one != two
    with pytest.raises(MalformedError):
        harness.compiler.compile(one)


def test_truncated_module_is_refused_or_whole(harness):
    """A module may end after any section that the next does not need."""
    wasm = bytes(wasmtime.wat2wasm('(module (memory 1) (func (export "canister_init")))'))
    whole = []
    for length in range(len(wasm)):
        try:
            harness.compiler.compile(wasm[:length])
            whole.append(length)
        except (MalformedError, InvalidModuleError):
            pass
    assert whole == [len(EMPTY), len(EMPTY) + 6]  # nothing, and the type section


def test_import_that_is_not_ic0_is_refused(harness):
    with pytest.raises(InvalidModuleError):
        harness.compile('(module (import "env" "f" (func)))')


def test_settings_are_the_same_for_every_engine():
    assert Engine(portable="bytes").settings == Engine().settings


def test_compiler_remembers(harness):
    text = '(module (func (export "canister_init")))'
    assert harness.compile(text) is harness.compile(text)
    assert harness.compile(text) is not harness.compile(text, Options(schedule=None))
