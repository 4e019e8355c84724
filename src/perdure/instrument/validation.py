"""`validate`: what the Internet Computer asks of a module beyond being Wasm, in the replica's words and order.

The engine validates the Wasm itself, of the original module, with multi-memory off; nothing here looks at types of
instructions.

Source: ``validation.rs`` and ``errors.rs`` of the replica, 2025; "Canister module format" in the interface
specification.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NoReturn

from perdure.errors import InvalidModuleError
from perdure.ic import ic0_ext
from perdure.ic.ic0 import SystemFunction
from perdure.instrument.memories import LIFETIMES, has_own_memories, is_heap_64, plan_memories
from perdure.instrument.named import has_named_memories, with_named_memories
from perdure.instrument.scanning import opcode_histogram
from perdure.instrument.terms import REPLICA, Policy
from perdure.wasm import (
    OPCODE_BY_NAME,
    OPCODES,
    Code,
    ConstExpr,
    Export,
    ExternKind,
    FuncType,
    Immediate,
    Import,
    Module,
    SectionId,
    ValType,
    instructions,
)
from perdure.wasm.tokens import INDEX, leb_forms

__all__ = ["validate"]


_METHOD_KINDS = ("canister_query", "canister_composite_query", "canister_update")
_ENTRY_POINTS = frozenset(
    {
        "canister_init",
        "canister_pre_upgrade",
        "canister_post_upgrade",
        "canister_inspect_message",
        "canister_heartbeat",
        "canister_global_timer",
        "canister_on_low_wasm_memory",
    }
)
_NUMERIC = frozenset({ValType.I32, ValType.I64, ValType.F32, ValType.F64, ValType.V128})


def validate(module: Module, policy: Policy = REPLICA) -> None:
    """Check a decoded module against `policy`.

    Raises:
        InvalidModuleError: a rule is broken; the first in the replica's order is told.
        MalformedError: something in the code is no instruction.
    """
    _check_code_size(module, policy)
    is_64 = is_heap_64(module, policy.extensions)
    for item in module.imports:
        _check_import(module, item, policy, is_64=is_64)
    _check_exports(module, policy)
    _check_data(module)
    _check_globals(module, policy)
    if len(module.function_type_indices) > policy.max_functions:
        _refuse_many("functions", len(module.function_type_indices), policy.max_functions)
    _check_memories(module, policy)
    _check_tables(module, policy)
    _check_constants(module)
    _check_functions(module, policy)
    _check_custom_sections(module, policy)


def _refuse_many(what: str, defined: int, allowed: int) -> NoReturn:
    raise InvalidModuleError(
        f"Wasm module defined {defined} {what} which exceeds the maximum number allowed {allowed}."
    )


def _check_code_size(module: Module, policy: Policy) -> None:
    size = sum(len(code.body) for code in module.codes)
    if original := module.originals.get(SectionId.CODE):
        size_bytes = next(place for place, byte in enumerate(original.raw[1:], 1) if byte < 0x80)
        size = len(original.raw) - 1 - size_bytes
    if size > policy.max_code_bytes:
        raise InvalidModuleError(
            f"Wasm module code section size of {size} exceeds the maximum allowed size of {policy.max_code_bytes}."
        )


# -------------------------------------------------------------------------------------------------- imports and exports


def _check_import(module: Module, item: Import, policy: Policy, *, is_64: bool) -> None:
    match item.kind:
        case ExternKind.FUNCTION:
            assert isinstance(item.type, int)
            _check_function_import(item, module.types[item.type], policy, is_64=is_64)
        case ExternKind.TABLE if item.module != "env":
            _refuse_import("Only tables imported from env.table are allowed.")
        case ExternKind.MEMORY if item.module != "env" and not has_own_memories(policy.extensions):
            _refuse_memory(item)
        case ExternKind.GLOBAL:
            _refuse_import("Importing globals is not allowed.")
        case _:
            pass


def _refuse_memory(item: Import) -> NoReturn:
    if item.module in LIFETIMES:
        allow = ic0_ext.how_to_allow("memories")
        _refuse_import(f"Module imports memory '{item.name}' from '{item.module}': {allow}.")
    _refuse_import("Only memory imported from env.memory is allowed.")


def _refuse_import(message: str) -> NoReturn:
    raise InvalidModuleError(f"Wasm module has an invalid import section. {message}")


def _check_function_import(item: Import, found: FuncType, policy: Policy, *, is_64: bool) -> None:
    if item.module == ic0_ext.MODULE and item.name in ic0_ext.EXTENSION_FUNCTIONS:
        extension, function = ic0_ext.EXTENSION_FUNCTIONS[item.name]
        if extension not in policy.extensions:
            _refuse_import(
                f"Module imports function '{item.name}' from '{item.module}': {ic0_ext.how_to_allow(extension)}."
            )
        _check_signature(item.name, found, _signature(function, is_64=is_64))
        return
    if has_named_memories(item):
        return  # with the memories
    _check_network_import(item, found, policy, is_64=is_64)


def _check_network_import(item: Import, found: FuncType, policy: Policy, *, is_64: bool) -> None:
    function = policy.functions.get(item.name)
    if function is None or (is_64 and function.only_32_bit):
        _refuse_import(
            f"Module imports function '{item.name}' from '{item.module}' that is not exported by the runtime."
        )
    if item.module != "ic0":
        _refuse_import(
            f'Module imports function "{item.name}" from "{item.module}", '
            'expected to be imported from one of ["ic0"] instead.'
        )
    _check_signature(item.name, found, _signature(function, is_64=is_64))


def _signature(function: SystemFunction, *, is_64: bool) -> FuncType:
    return FuncType(_types(function.params(is_64)), _types(function.results(is_64)))


def _types(names: Iterable[str]) -> tuple[ValType, ...]:
    return tuple(ValType[name.upper()] for name in names)


def _check_signature(name: str, found: FuncType, expected: FuncType) -> None:
    for what, found_types, expected_types in (
        ("input params", found.params, expected.params),
        ("return type", found.results, expected.results),
    ):
        if found_types != expected_types:
            raise InvalidModuleError(
                f"Wasm module has an invalid function signature. Expected {what} {_listed(expected_types)} "
                f"for '{name}', got {_listed(found_types)}."
            )


def _listed(types: tuple[ValType, ...]) -> str:
    return "[" + ", ".join(item.name for item in types) + "]"


def _check_exports(module: Module, policy: Policy) -> None:
    methods: set[str] = set()
    for export in module.exports:
        if export.name in policy.reserved_exports:
            _refuse_export(f"Exporting reserved symbol {export.name} not allowed.")
        if export.kind is ExternKind.FUNCTION:
            _check_function_export(module, export, methods)
    if len(methods) > policy.max_exported_methods:
        raise InvalidModuleError(
            "The number of exported functions called `canister_update <name>`, `canister_query <name>`, or "
            f"`canister_composite_query <name>` is {len(methods)} which exceeds {policy.max_exported_methods}."
        )
    total = sum(len(name.encode()) for name in methods)
    if total > policy.max_method_name_bytes:
        raise InvalidModuleError(
            "The sum of `<name>` lengths in exported functions called `canister_update <name>`, "
            f"`canister_query <name>`, or `canister_composite_query <name>` is {total} "
            f"which exceeds the allowed limit of {policy.max_method_name_bytes}."
        )


def _refuse_export(message: str) -> NoReturn:
    raise InvalidModuleError(f"Wasm module has an invalid export section. {message}")


def _check_function_export(module: Module, export: Export, methods: set[str]) -> None:
    kind, space, method = export.name.partition(" ")
    if space and kind in _METHOD_KINDS:
        if method in methods:
            raise InvalidModuleError(
                f"Duplicate function '{method}' exported multiple times "
                "with different call types: update, query, or composite_query."
            )
        methods.add(method)
    elif not export.name.startswith("canister_"):
        return
    elif export.name not in _ENTRY_POINTS:
        _refuse_export(f"Exporting reserved function '{export.name}' with \"canister_\" prefix")
    _check_signature(export.name, module.function_type(export.index), FuncType())


# ------------------------------------------------------------------------------------------- memories, data and globals


def _check_data(module: Module) -> None:
    for segment in module.data:
        memories = module.all_memories
        is_64 = segment.memory_index < len(memories) and memories[segment.memory_index].is_64
        bits, expected = (64, ValType.I64) if is_64 else (32, ValType.I32)
        constant = segment.offset.integer if segment.offset else (expected, 0)
        if constant is None or constant[0] is not expected:
            assert segment.offset is not None
            raise InvalidModuleError(
                "Wasm module has an invalid data section. Invalid offset expression in data segment "
                f"for {bits}bit memory: {segment.offset.code.hex(' ')}"
            )


def _check_globals(module: Module, policy: Policy) -> None:
    if len(module.globals) > policy.max_globals:
        _refuse_many("globals", len(module.globals), policy.max_globals)
    for item in module.globals:
        if item.type.val_type not in _NUMERIC:
            raise InvalidModuleError(
                f"Wasm module has an invalid global section. Unsupported global type: {item.type.val_type.text}"
            )


def _check_memories(module: Module, policy: Policy) -> None:
    plan = plan_memories(*_with_named(module, policy.extensions))
    if plan.is_64:
        limits = module.all_memories[plan.heap].limits
        declared = limits.minimum if limits.maximum is None else limits.maximum
        if declared > policy.max_heap_wasm_pages_64:
            raise InvalidModuleError(
                f"Wasm module declares a memory of {declared} Wasm pages "
                f"which exceeds the maximum allowed {policy.max_heap_wasm_pages_64}."
            )
    for index, kind in enumerate(module.all_memories):  # those as uploaded
        most = plan.types[index].limits.maximum or 0
        if index != plan.heap and kind.limits.minimum > most:
            raise InvalidModuleError(
                f"Wasm module declares memory {plan.names[index]!r} of {kind.limits.minimum} Wasm pages "
                f"which exceeds the maximum allowed {most}."
            )


def _with_named(
    module: Module, extensions: tuple[str, ...]
) -> tuple[Module, tuple[str, ...], Mapping[int, tuple[str, str]]]:
    named = with_named_memories(module, extensions)
    return named.module, extensions, named.sources


def _check_tables(module: Module, policy: Policy) -> None:
    """Whatever instantiating would fail by is known before: a module that is taken can be instantiated."""
    tables = module.all_tables
    for number, table in enumerate(tables):
        if table.limits.minimum > policy.max_table_elements:
            raise InvalidModuleError(
                f"Wasm module declares table {number} of {table.limits.minimum} elements "
                f"which exceeds the maximum allowed {policy.max_table_elements}."
            )
    for number, element in enumerate(module.elements):
        constant = element.offset.integer if element.offset else None
        if constant is None or element.table_index >= len(tables):
            continue
        val_type, value = constant
        offset, size = (
            value % (1 << (32 if val_type is ValType.I32 else 64)),
            tables[element.table_index].limits.minimum,
        )
        if offset + len(element.items) > size:
            raise InvalidModuleError(
                f"Wasm module has an invalid element section. Segment {number} of {len(element.items)} elements at "
                f"{offset} does not fit table {element.table_index}, which has {size}."
            )


def _check_constants(module: Module) -> None:
    """Extended constant expressions are off in the replica but not in every engine."""
    expressions: list[ConstExpr] = [item.init for item in module.globals]
    for element in module.elements:
        expressions += [element.offset] if element.offset else []
        expressions += [item for item in element.items if isinstance(item, ConstExpr)]
    for expression in expressions:
        if expression.code[-2:-1] in _ARITHMETIC and not _is_single(expression):
            raise InvalidModuleError(
                "Wasmtime failed to validate wasm module wasmtime::Module::validate() failed with "
                f"constant expression required: {expression.code.hex(' ')}"
            )


_ARITHMETIC = frozenset({b"\x6a", b"\x6b", b"\x6c", b"\x7c", b"\x7d", b"\x7e"})


def _is_single(expression: ConstExpr) -> bool:
    return sum(1 for _ in instructions(expression.code)) == 2  # itself and end


# ------------------------------------------------------------------------------------------------------------ functions


def _check_functions(module: Module, policy: Policy) -> None:
    suspect = _suspects(policy.refused_instructions, len(module.all_tables))
    # A byte of code is at most one instruction, and weighs at most half of the greatest weight.
    safe_bytes = min(policy.max_function_instructions, policy.max_function_complexity * 2 // max(_WEIGHTS.values()))
    for index, code in enumerate(module.codes):
        if len(code.body) > safe_bytes or suspect.search(code.body):
            _check_function(index, code, policy)


def _suspects(names: Iterable[str], tables: int) -> re.Pattern[bytes]:
    """Found in every valid body that has one of these instructions, and in few others."""
    table = leb_forms(range(tables)) if 0 < tables < 0x80 else INDEX
    alternatives = []
    for opcode in (OPCODE_BY_NAME[name] for name in names):
        prefix, number = divmod(opcode.number, 0x100)
        following = table if opcode.immediates == (Immediate.TABLE,) else b""
        head = b"\\x%02x" % prefix + leb_forms([number]) if prefix else b"\\x%02x" % number
        alternatives.append(head + following)
    return re.compile(b"|".join(alternatives) or b"(?!)", re.DOTALL)


def _check_function(index: int, code: Code, policy: Policy) -> None:
    histogram = opcode_histogram(code)
    for number in histogram:
        name = OPCODES[number].name
        if name in policy.refused_instructions:
            raise InvalidModuleError(
                f"Wasm module contains a function at index {index} with unsupported instruction {name}."
            )
    complexity = sum(_WEIGHTS.get(OPCODES[number].name, 1) * count for number, count in histogram.items())
    if complexity > policy.max_function_complexity:
        raise InvalidModuleError(
            f"Wasm module contains a function at index {index} with complexity {complexity} "
            f"which exceeds the maximum complexity allowed {policy.max_function_complexity}."
        )
    size = sum(histogram.values())
    if size > policy.max_function_instructions:
        raise InvalidModuleError(
            f"Wasm module contains a function at index {index} of size {size} "
            f"that exceeds the maximum allowed size of {policy.max_function_instructions}."
        )


_WEIGHTS: Mapping[str, int] = {
    name: weight
    for weight, names in {
        50: "block loop if br br_if br_table call call_indirect memory.grow",
        14: "table.get",
        8: "ref.func",
        6: "ref.is_null",
        5: """
            i32.trunc_f32_s i32.trunc_f32_u i32.trunc_f64_s i32.trunc_f64_u i64.extend_i32_s i64.extend_i32_u
            i64.trunc_f32_s i64.trunc_f32_u i64.trunc_f64_s i64.trunc_f64_u f32.convert_i32_s f32.convert_i32_u
            f32.convert_i64_s f32.convert_i64_u f32.demote_f64 f64.convert_i32_s f64.convert_i32_u f64.convert_i64_s
            f64.convert_i64_u
        """,
        4: "f32.neg f32.abs f64.neg f64.abs memory.copy",
        3: """
            f32.copysign f64.copysign f64.eq i32.rem_u i32.rem_s i64.rem_u i64.rem_s i32.div_u i32.div_s i64.div_u
            i64.div_s memory.fill i32.load i64.load f32.load f64.load i32.load8_s i32.load8_u i32.load16_s i32.load16_u
            i64.load8_s i64.load8_u i64.load16_s i64.load16_u i64.load32_s i64.load32_u i32.trunc_sat_f32_s
            i32.trunc_sat_f32_u i32.trunc_sat_f64_s i32.trunc_sat_f64_u i64.trunc_sat_f32_s i64.trunc_sat_f32_u
            i64.trunc_sat_f64_s i64.trunc_sat_f64_u
        """,
        2: """
            global.get i32.popcnt i64.popcnt select memory.size i32.store i32.store16 i32.store8 i64.store i64.store32
            i64.store16 i64.store8 f64.store f32.store i32.eqz i32.eq i32.ne i32.lt_s i32.lt_u i32.gt_s i32.gt_u
            i32.le_s i32.le_u i32.ge_s i32.ge_u i64.eqz i64.eq i64.ne i64.lt_s i64.lt_u i64.gt_s i64.gt_u i64.le_s
            i64.le_u i64.ge_s i64.ge_u f32.eq f32.ne f32.lt f32.gt f32.le f32.ge f64.ne f64.lt f64.gt f64.le f64.ge
            f32.ceil f64.ceil f32.floor f64.floor f32.sqrt f64.sqrt f32.trunc f64.trunc i32.reinterpret_f32
            i64.reinterpret_f64 f32.reinterpret_i32 f64.reinterpret_i64 i32.wrap_i64 i32.extend8_s i32.extend16_s
            i64.extend8_s i64.extend16_s i64.extend32_s f64.promote_f32
        """,
    }.items()
    for name in names.split()
}
"""How complex the replica finds an instruction; those absent weigh 1."""


# ------------------------------------------------------------------------------------------------------ custom sections


def _check_custom_sections(module: Module, policy: Policy) -> None:
    seen: set[str] = set()
    total = 0
    for section in module.custom_sections:
        if not section.name.startswith("icp:"):
            continue
        name = _scoped_name(section.name)
        if name in seen:
            _refuse_custom(f"Invalid custom section: name {name} already exists")
        seen.add(name)
        total += len(section.data) + len(name.encode())
        if total > policy.max_custom_bytes:
            _refuse_custom(
                "Invalid custom sections: total size of the custom sections exceeds the maximum allowed: "
                f"size {total} bytes, allowed {policy.max_custom_bytes} bytes"
            )
        if len(seen) > policy.max_custom_sections:
            _refuse_many("custom sections", len(seen), policy.max_custom_sections)


def _scoped_name(full: str) -> str:
    scope, space, name = full.partition(" ")
    if scope not in {"icp:public", "icp:private"}:
        _refuse_custom(f"Invalid custom section: Custom section '{full}' has no public/private scope defined.")
    if not space:
        _refuse_custom("'icp:' section names must have a space after the public/private scope")
    return name


def _refuse_custom(message: str) -> NoReturn:
    raise InvalidModuleError(f"Wasm module has an invalid custom section. {message}")
