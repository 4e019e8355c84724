"""The replica's rules for modules, in its words."""

from dataclasses import replace

import pytest
import wasmtime

from perdure.errors import InvalidModuleError, MalformedError
from perdure.ic.ic0 import FUNCTIONS, NON_SPECIFIED, SystemFunction
from perdure.instrument.validation import REPLICA, Policy, validate
from perdure.wasm import (
    OPCODE_BY_NAME,
    Code,
    ConstExpr,
    CustomSection,
    Export,
    ExternKind,
    FuncType,
    Global,
    GlobalType,
    Import,
    Module,
    ValType,
    decode,
    encode_instruction,
)


def module_of(text: str) -> Module:
    return decode(bytes(wasmtime.wat2wasm(f"(module {text})")))


def refused(text: str, policy: Policy = REPLICA) -> str:
    with pytest.raises(InvalidModuleError) as caught:
        validate(module_of(text), policy)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------- imports


def imports_of(functions: dict[str, SystemFunction], *, is_64: bool) -> str:
    def types(keyword: str, names: tuple[str, ...]) -> str:
        return f"({keyword} {' '.join(names)})" if names else ""

    return " ".join(
        f'(import "ic0" "{name}" (func {types("param", row.params(is_64))} {types("result", row.results(is_64))}))'
        for name, row in functions.items()
        if not (is_64 and row.only_32_bit)
    )


@pytest.mark.parametrize("is_64", [False, True])
def test_every_function_may_be_imported_with_its_types(is_64):
    validate(
        module_of(imports_of({**FUNCTIONS, **NON_SPECIFIED}, is_64=is_64) + f"(memory {'i64' if is_64 else ''} 1)")
    )


def test_no_function_may_be_imported_with_other_types():
    for name, row in FUNCTIONS.items():
        wrong = ValType.F32
        for params, results in (
            ((*row.params(False), "f32"), row.results(False)),
            (row.params(False), (*row.results(False), "f32")),
        ):
            kind = FuncType(*(tuple(ValType[item.upper()] for item in side) for side in (params, results)))
            assert wrong in {*kind.params, *kind.results}
            module = Module(types=(kind,), imports=(Import("ic0", name, ExternKind.FUNCTION, 0),))
            with pytest.raises(InvalidModuleError, match=f"Expected (input params|return type) .* for '{name}', got"):
                validate(module)


def test_pointers_are_as_wide_as_the_heap():
    assert refused('(import "ic0" "msg_caller_size" (func (result i32))) (memory i64 1)') == (
        "Wasm module has an invalid function signature. Expected return type [I64] for 'msg_caller_size', got [I32]."
    )
    assert refused('(import "ic0" "debug_print" (func (param i64 i64)))') == (
        "Wasm module has an invalid function signature. "
        "Expected input params [I32, I32] for 'debug_print', got [I64, I64]."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '(import "ic0" "my_func" (func))',
            "Wasm module has an invalid import section. "
            "Module imports function 'my_func' from 'ic0' that is not exported by the runtime.",
        ),
        (
            '(import "ic0" "stable_size" (func (result i32))) (memory i64 1)',
            "Wasm module has an invalid import section. "
            "Module imports function 'stable_size' from 'ic0' that is not exported by the runtime.",
        ),
        (
            '(import "env" "msg_reply" (func))',
            'Wasm module has an invalid import section. Module imports function "msg_reply" from "env", '
            'expected to be imported from one of ["ic0"] instead.',
        ),
        (
            '(import "ic0" "g" (global i32))',
            "Wasm module has an invalid import section. Importing globals is not allowed.",
        ),
        (
            '(import "foo" "memory" (memory 1))',
            "Wasm module has an invalid import section. Only memory imported from env.memory is allowed.",
        ),
        (
            '(import "foo" "table" (table 1 funcref))',
            "Wasm module has an invalid import section. Only tables imported from env.table are allowed.",
        ),
    ],
)
def test_other_imports_are_refused(text, message):
    assert refused(text) == message


def test_env_memory_and_table_are_taken():
    validate(module_of('(import "env" "memory" (memory 1)) (import "env" "table" (table 1 funcref))'))


def test_a_policy_may_allow_fewer_functions():
    few = replace(REPLICA, functions={"msg_reply": FUNCTIONS["msg_reply"]})
    validate(module_of('(import "ic0" "msg_reply" (func))'), few)
    assert "'trap' from 'ic0'" in refused('(import "ic0" "trap" (func (param i32 i32)))', few)


# ------------------------------------------------------------------------------------------------------------- exports

ENTRIES = [
    "canister_init",
    "canister_pre_upgrade",
    "canister_post_upgrade",
    "canister_inspect_message",
    "canister_heartbeat",
    "canister_global_timer",
    "canister_on_low_wasm_memory",
]
METHODS = ("canister_update", "canister_query", "canister_composite_query")


def test_every_entry_point_may_be_exported():
    names = [*ENTRIES, *(f"{kind} m{number}" for number, kind in enumerate(METHODS)), "canister_query ", "other"]
    validate(module_of("(func $f)" + "".join(f'(export "{name}" (func $f))' for name in names)))


@pytest.mark.parametrize("name", [*ENTRIES, *(f"{kind} a b" for kind in METHODS)])
def test_entry_points_take_and_give_nothing(name):
    assert refused(f'(func (export "{name}") (param i32))') == (
        f"Wasm module has an invalid function signature. Expected input params [] for '{name}', got [I32]."
    )
    assert refused(f'(func (export "{name}") (result i64) i64.const 0)') == (
        f"Wasm module has an invalid function signature. Expected return type [] for '{name}', got [I64]."
    )


@pytest.mark.parametrize(
    "name", ["canister_foo", "canister_", "canister_update", "canister_initx", "canister_queryx y"]
)
def test_other_canister_names_are_reserved(name):
    assert refused(f'(func (export "{name}"))') == (
        f"Wasm module has an invalid export section. Exporting reserved function '{name}' with \"canister_\" prefix"
    )


@pytest.mark.parametrize("name", sorted(REPLICA.reserved_exports))
def test_our_own_names_are_reserved_for_everything(name):
    for kind in ("(func", "(global i32 (i32.const 0)) (export", "(memory"):
        text = {
            "(func": f'(func (export "{name}"))',
            "(memory": f'(memory (export "{name}") 1)',
        }.get(kind, f'(global $g i32 (i32.const 0)) (export "{name}" (global $g))')
        assert refused(text) == (
            f"Wasm module has an invalid export section. Exporting reserved symbol {name} not allowed."
        )


def test_a_method_has_one_kind():
    assert refused('(func $f) (export "canister_update go" (func $f)) (export "canister_query go" (func $f))') == (
        "Duplicate function 'go' exported multiple times with different call types: update, query, or composite_query."
    )


def test_other_exports_are_free():
    validate(module_of('(memory (export "canister_init") 1) (func (export "init") (param i32))'))


def methods(names: list[str]) -> Module:
    exports = tuple(Export(f"canister_query {name}", ExternKind.FUNCTION, 0) for name in names)
    return Module(types=(FuncType(),), function_type_indices=(0,), codes=(Code(b"\0\x0b"),), exports=exports)


def test_methods_are_limited_in_number_and_length():
    validate(methods([f"m{number}" for number in range(1_000)]))
    with pytest.raises(InvalidModuleError, match="is 1001 which exceeds 1000"):
        validate(methods([f"m{number}" for number in range(1_001)]))
    validate(methods(["é" * 5_000, "b" * 10_000]))
    with pytest.raises(InvalidModuleError, match="is 20001 which exceeds the allowed limit of 20000"):
        validate(methods(["é" * 5_000, "b" * 10_001]))


# --------------------------------------------------------------------------------- memories, data, globals, functions


def test_one_memory():
    assert "found 2, expected at most 1" in refused("(memory 1) (memory 1)")
    assert "found 2, expected at most 1" in refused('(import "env" "memory" (memory 1)) (memory 1)')


def test_a_64_bit_heap_is_limited():
    validate(module_of("(memory i64 1 98304)"))
    validate(module_of("(memory i64 1)"))
    assert "declares a memory of 98305 Wasm pages" in refused("(memory i64 1 98305)")
    assert "declares a memory of 98305 Wasm pages" in refused("(memory i64 98305)")


def test_tables_are_limited_in_size():
    assert "declares table 1 of 1000001 elements" in refused("(table 1 funcref) (table 1000001 funcref)")
    validate(module_of("(table 1000000 4294967295 funcref)"))


@pytest.mark.parametrize(
    ("tables", "segment", "place"),
    [
        ("(table 1 funcref)", "(elem (i32.const 1) func $f)", "Segment 0 of 1 elements at 1 does not fit table 0"),
        ("(table 1 funcref)", "(elem (i32.const 2) func)", "Segment 0 of 0 elements at 2"),
        ("(table 1 funcref)", "(elem (i32.const -1) func $f)", "at 4294967295"),
        ("(table i64 1 funcref)", "(elem (i64.const -1) func $f)", "at 18446744073709551615"),
        (
            "(table 9 funcref) (table 1 funcref)",
            "(elem (table 1) (i32.const 0) func $f $f)",
            "fit table 1, which has 1",
        ),
        ('(import "env" "table" (table 2 funcref))', "(elem (i32.const 2) funcref (ref.func $f))", "at 2"),
    ],
)
def test_elements_fit_their_table(tables, segment, place):
    assert place in refused(f"{tables} (func $f) {segment}")


def test_elements_up_to_the_end_of_their_table_are_taken():
    validate(
        module_of(
            "(table 3 funcref) (func $f) (elem (i32.const 1) func $f $f) (elem (i32.const 3) func) (elem func $f)"
        )
    )


def test_offsets_of_data_are_single_constants_of_the_right_width():
    validate(module_of('(memory 1) (data (i32.const 5) "x") (data "y")'))
    validate(module_of('(memory i64 1) (data (i64.const 5) "x")'))
    extended = '(memory 1) (data (i32.add (i32.const 1) (i32.const 2)) "x")'
    assert "Invalid offset expression in data segment for 32bit memory: 41 01 41 02 6a 0b" in refused(extended)


def test_extended_constants_are_refused_everywhere():
    assert "constant expression required" in refused("(global i32 (i32.mul (i32.const 1) (i32.const 2)))")
    assert "constant expression required" in refused(
        "(table 1 funcref) (func) (elem (i32.sub (i32.const 1) (i32.const 1)) 0)"
    )
    validate(module_of("(global i32 (i32.const 0x6a)) (global i32 (i32.const -22)) (global i64 (i64.const 0x7c))"))


def test_globals_are_numbers_and_limited():
    assert refused("(global externref (ref.null extern))") == (
        "Wasm module has an invalid global section. Unsupported global type: externref"
    )
    item = Global(GlobalType(ValType.I32), ConstExpr.i32(0))
    validate(Module(globals=(item,) * 1_000))
    with pytest.raises(InvalidModuleError, match="defined 1001 globals which exceeds the maximum number allowed 1000"):
        validate(Module(globals=(item,) * 1_001))


def test_functions_are_limited_in_number():
    def module(count: int) -> Module:
        return Module(types=(FuncType(),), function_type_indices=(0,) * count, codes=(Code(b"\0\x0b"),) * count)

    validate(module(50_000))
    with pytest.raises(InvalidModuleError, match="defined 50001 functions which exceeds"):
        validate(module(50_001))


def module_with(*bodies: bytes) -> Module:
    codes = tuple(Code(b"\0" + body + b"\x0b") for body in bodies)
    return Module(types=(FuncType(),), function_type_indices=(0,) * len(codes), codes=codes)


def test_functions_are_limited_in_size():
    validate(module_with(b"", b"\x01" * 999_999))
    with pytest.raises(InvalidModuleError, match="at index 1 of size 1000001 that exceeds the maximum allowed size"):
        validate(module_with(b"", b"\x01" * 1_000_000), replace(REPLICA, max_function_complexity=2_000_000))


@pytest.mark.parametrize(
    ("instruction", "weight"),
    [
        (b"\x02\x40", 50),
        (b"\x0c\0", 50),
        (b"\x10\0", 50),
        (b"\x40\0", 50),
        (b"\x25\0", 14),
        (b"\xac", 5),
        (b"\x28\0\0", 3),
    ],
)
def test_functions_are_limited_in_complexity(instruction, weight):
    most = (1_000_000 - 1) // weight
    validate(module_with(instruction * most))
    complexity = (most + 1) * weight + 1
    with pytest.raises(InvalidModuleError, match=f"at index 0 with complexity {complexity} which exceeds the maximum"):
        validate(module_with(instruction * (most + 1)))


def test_the_code_section_is_limited():
    tight = replace(REPLICA, max_code_bytes=4)
    validate(module_of("(func)"), tight)
    assert refused("(func nop)", tight) == ("Wasm module code section size of 5 exceeds the maximum allowed size of 4.")


@pytest.mark.parametrize("name", sorted(REPLICA.refused_instructions))
def test_tables_may_not_be_written(name):
    text = {
        "table.set": "i32.const 0 ref.null func table.set 0",
        "table.grow": "ref.null func i32.const 0 table.grow 0 drop",
        "table.fill": "i32.const 0 ref.null func i32.const 0 table.fill 0",
        "table.copy": "i32.const 0 i32.const 0 i32.const 0 table.copy",
        "table.init": "i32.const 0 i32.const 0 i32.const 0 table.init 0",
    }[name]
    module = f"(table 1 funcref) (elem func 0) (func) (func {text})"
    assert refused(module) == (f"Wasm module contains a function at index 1 with unsupported instruction {name}.")
    validate(module_of(module), replace(REPLICA, refused_instructions=frozenset()))


def test_a_table_of_any_index_may_not_be_written():
    tables = "(table 0 funcref)" * 40
    assert "table.set" in refused(f"{tables} (func i32.const 0 ref.null func table.set 37)")
    many = "(table 0 funcref)" * 100 + " (table 0 funcref)" * 60
    assert "table.set" in refused(f"{many} (func i32.const 0 ref.null func table.set 150)")
    padded = module_with(b"\x41\0\xd0\x70\x26\x80\x80\0")
    with pytest.raises(InvalidModuleError, match=r"table\.set"):
        validate(replace(padded, tables=module_of("(table 1 funcref)").tables))


def test_what_only_looks_like_a_table_instruction_is_taken():
    assert encode_instruction(OPCODE_BY_NAME["table.set"], (0,)) == b"\x26\0"
    validate(replace(module_with(b"\x41\x26\0\x41\xa6\0\x1a"), tables=module_of("(table 1 funcref)").tables))


def test_suspect_code_that_is_none_is_malformed():
    with pytest.raises(MalformedError, match="found bytes 27, expected an instruction"):
        validate(replace(module_with(b"\x27\x26\0"), tables=module_of("(table 1 funcref)").tables))


# ------------------------------------------------------------------------------------------------------ custom sections


def with_customs(*sections: tuple[str, bytes]) -> Module:
    return Module(custom_sections=tuple(CustomSection(name, data) for name, data in sections))


def test_scoped_custom_sections_are_taken():
    validate(
        with_customs(("icp:public candid:service", b"x"), ("icp:private a b", b""), ("icp:public ", b""), ("x", b""))
    )
    validate(with_customs(("name", b""), ("name", b"")))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "icp:protected a",
            "Invalid custom section: Custom section 'icp:protected a' has no public/private scope defined.",
        ),
        ("icp:", "Invalid custom section: Custom section 'icp:' has no public/private scope defined."),
        ("icp:public", "'icp:' section names must have a space after the public/private scope"),
    ],
)
def test_other_icp_sections_are_refused(name, message):
    with pytest.raises(InvalidModuleError) as caught:
        validate(with_customs((name, b"")))
    assert str(caught.value) == f"Wasm module has an invalid custom section. {message}"


def test_custom_sections_are_limited():
    with pytest.raises(InvalidModuleError, match="name a already exists"):
        validate(with_customs(("icp:public a", b""), ("icp:private a", b"")))
    validate(with_customs(*((f"icp:public {number}", b"") for number in range(16))))
    with pytest.raises(InvalidModuleError, match="defined 17 custom sections which exceeds"):
        validate(with_customs(*((f"icp:public {number}", b"") for number in range(17))))
    validate(with_customs(("icp:public a", bytes((1 << 20) - 1)), ("other", b"x")))
    with pytest.raises(InvalidModuleError, match="size 1048577 bytes, allowed 1048576 bytes"):
        validate(with_customs(("icp:public a", bytes(1 << 20))))
