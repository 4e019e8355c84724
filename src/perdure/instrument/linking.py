"""Link the native System API to a canister's module.

    Module + kernel ─link▶ Module with four memories, entries, counters    (see `abi`)

Linking only appends: types, functions, memories and globals go to the end of their index spaces, no import is added,
no index of the canister moves. What changes in place: calls of replaced imports (the code is rewritten by `metering`),
the export section (rebuilt), active data segments (emptied and kept beside the module), the start function (kept
aside as an entry).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import count
from typing import NamedTuple, final

from perdure.canister import TrapCode
from perdure.errors import InvalidModuleError
from perdure.ic import ic0_ext
from perdure.ic.ic0 import FUNCTIONS, NON_SPECIFIED, TRANSMISSION_INSTRUCTIONS, SystemFunction
from perdure.instrument import abi
from perdure.instrument.appendix import Appendix, op, redirect_elements
from perdure.instrument.costs import SCHEDULES
from perdure.instrument.coverage import Hits
from perdure.instrument.direct import ReplacedCalls, direct_calls
from perdure.instrument.inline import Inlined
from perdure.instrument.memories import MemoryPlan, is_heap_64, plan_memories
from perdure.instrument.metering import Rewrite, rewrite_codes
from perdure.instrument.named import with_named_memories
from perdure.instrument.own import OwnMemories, own_memories
from perdure.instrument.profile import Hooks, append_hooks, roomy
from perdure.instrument.scanning import Streams
from perdure.instrument.terms import Options
from perdure.memory import WASM_PAGE_BYTES
from perdure.wasm import (
    Code,
    DataSegment,
    Element,
    ElementMode,
    Export,
    ExternKind,
    FuncType,
    Immediate,
    Import,
    MemArg,
    MemoryType,
    Module,
    ValType,
    decode,
    locals_end,
    map_indices,
)
from perdure.wasm.tokens import leb_forms

__all__ = ["Instrumented", "SavedGlobal", "instrument", "kernel_for", "link"]


class SavedGlobal(NamedTuple):
    """A global that is part of the canister's state: mutable, or exported."""

    global_index: int
    val_type: ValType
    mutable: bool


@final
@dataclass(frozen=True, slots=True)
class Instrumented:
    """A linked module and what stands beside it.

    `saved_globals` are in the replica's order: the exported ones in the order of their exports, then the mutable ones
    that are not exported, by index; `global_places` are their places in message memory, one for each global, though
    one that is exported twice is saved twice. `data_segments` are (memory, address in it, bytes), in order, to be
    applied when the memory starts from nothing. `plan` says which memories there are.
    """

    module: Module
    options: Options
    is_64: bool
    methods: frozenset[str]
    saved_globals: tuple[SavedGlobal, ...]
    global_places: tuple[int, ...]
    data_segments: tuple[tuple[str, int, bytes], ...]
    own_function_count: int
    """Functions with a lower index are the canister's; the others were appended."""
    redirected_imports: tuple[str, ...]
    plan: MemoryPlan
    profiled: tuple[tuple[int, str], ...] = ()
    """What a profile counts beside the canister's own functions: numbers and names of imports, and of entries."""
    points: int = 0
    """How many blocks are counted."""
    rewritten: tuple[tuple[Code, ...], Rewrite] | None = None
    """The canister's bodies before they were rewritten, and how: what `perdure.instrument.origins` goes back by."""


def instrument(module: Module, options: Options | None = None, streams: Streams | None = None) -> Instrumented:
    """Meter a validated module and link the shipped kernel to it; `streams`: of its bodies, as far as known."""
    options = options or Options()
    return link(module, kernel_for(is_heap_64(module, options.extensions)), options, streams)


@cache
def kernel_for(is_64: bool) -> Module:
    """The shipped kernel for heaps of this width."""
    name = "kernel64.wasm" if is_64 else "kernel.wasm"
    return decode(files(__package__).joinpath(name).read_bytes())


def link(module: Module, kernel: Module, options: Options, streams: Streams | None = None) -> Instrumented:
    """Append `kernel` to a validated module and make its calls of `ic0` go there.

    Raises:
        InvalidModuleError: a data segment does not fit, globals are too many, or memories not what a module may have.
    """
    module, named = with_named_memories(module, options.extensions)
    plan = plan_memories(module, options.extensions, named)
    methods = [item for item in module.exports if item.kind is ExternKind.FUNCTION and _is_entry(item.name)]
    saved = _saved_globals(module)
    distinct = tuple(dict.fromkeys(saved))
    places = {item.global_index: place for place, item in enumerate(distinct)}
    linked, segments = _keep_data_aside(_own_memories(module, plan), plan)
    first_global = len(module.all_global_types)
    appendix = Appendix(module)
    functions = _append_kernel(appendix, kernel, first_global, distinct, plan)
    replaced = _replace_imports(appendix, module, functions, options, plan)
    redirects = replaced.redirects
    counter = first_global + _exported(kernel, "counter")
    own = own_memories(appendix, plan, functions, first_global + len(kernel.globals))
    hooks_global = first_global + len(kernel.globals) + len(own.globals)
    hooks = append_hooks(appendix, plan.accounting, counter, hooks_global) if options.profile else None
    exports = _append_entries(appendix, module, methods, functions, redirects, (plan, own, hooks))
    hits = Hits(plan.accounting) if options.coverage and options.schedule else None
    rewrite = _rewrite(module, kernel, functions, replaced, (plan, own, options, hits))
    sources = own.guarded(module.codes)
    codes = rewrite_codes(sources, rewrite, streams)
    imports = _without_extensions(linked.imports, appendix)  # may append a type
    linked = replace(
        linked,
        types=tuple(appendix.types),
        imports=imports,
        function_type_indices=module.function_type_indices + tuple(appendix.type_indices),
        codes=own.noting(codes) + tuple(appendix.codes),
        memories=linked.memories + _kernel_memories(kernel, options, plan, hits),
        globals=module.globals + kernel.globals + own.globals + (hooks.globals if hooks is not None else ()),
        elements=redirect_elements(module.elements + _declared(module), redirects),
        exports=exports,
        start=None,
    )
    redirected = {place: item.name for place, item in _imported_functions(module) if place in redirects}
    names = {redirects[place]: name for place, name in redirected.items()}
    return Instrumented(
        module=linked if hooks is None else hooks.wrapped(linked, module, names),
        options=options,
        is_64=plan.is_64,
        methods=frozenset(item.name for item in exports if _is_entry(item.name)),
        saved_globals=saved,
        global_places=tuple(places[item.global_index] for item in saved),
        data_segments=segments,
        own_function_count=module.function_count,
        redirected_imports=tuple(redirected.values()),
        plan=plan,
        profiled=() if hooks is None else hooks.counted(names, exports),
        points=0 if hits is None else hits.points,
        rewritten=(sources, rewrite),
    )


def _rewrite(
    module: Module,
    kernel: Module,
    functions: Mapping[str, int],
    replaced: ReplacedCalls,
    parts: tuple[MemoryPlan, OwnMemories, Options, Hits | None],
) -> Rewrite:
    """What is done to the canister's code."""
    plan, own, options, hits = parts
    first_global = len(module.all_global_types)
    return Rewrite(
        schedule=SCHEDULES[options.schedule] if options.schedule else None,
        counter_global=first_global + _exported(kernel, "counter"),
        out_of_instructions=functions["out_of_instructions"],
        charge_dynamic32=functions["charge_size32"],
        charge_dynamic64=functions["charge_size64"],
        **replaced._asdict(),
        param_counts=[len(module.types[index].params) for index in module.function_type_indices],
        memory_grow=own.grow,
        drop_flag_global=first_global + _exported(kernel, "dropped"),
        is_64=plan.is_64,
        wide_memories=own.wide,
        is_table_64=bool(module.all_tables) and module.all_tables[0].is_64,
        hits=hits,
    )


def _imported_functions(module: Module) -> Iterator[tuple[int, Import]]:
    """The imports that are functions, each with its index."""
    return enumerate(module.imported(ExternKind.FUNCTION))


def _without_extensions(imports: tuple[Import, ...], appendix: Appendix) -> tuple[Import, ...]:
    """Nothing calls an import of an extension any more: each keeps its index as one that the engine knows."""
    if not any(_is_replaced(item) for item in imports):
        return imports
    uncalled = Import("ic0", "msg_reply", ExternKind.FUNCTION, appendix.type_index(FuncType()))
    return tuple(uncalled if _is_replaced(item) else item for item in imports)


def _is_replaced(item: Import) -> bool:
    """Whether code stands for an import of an extension; the host carries out the others."""
    return item.module == ic0_ext.MODULE and item.name not in ic0_ext.HOSTED


def _declared(module: Module) -> tuple[Element, ...]:
    """What ``ref.func`` names has to be declared somewhere, and the exports that did so are not there any more."""
    functions = tuple(sorted(set(module.exported_functions.values())))
    if not functions or not any(b"\xd2" in code.body for code in module.codes):
        return ()
    named = re.compile(rb"\xd2" + leb_forms(functions), re.DOTALL)
    if not any(named.search(code.body) for code in module.codes):
        return ()
    return (Element(ElementMode.DECLARATIVE, ValType.FUNCREF, functions),)


def _is_entry(name: str) -> bool:
    return name.startswith("canister_")


# ------------------------------------------------------------------------------------------------------------- memories


def _own_memories(module: Module, plan: MemoryPlan) -> Module:
    """Imported memories and tables become the module's own, at the same index; a module without a heap gets one."""
    tables = module.all_tables
    imports = tuple(item for item in module.imports if item.kind not in {ExternKind.MEMORY, ExternKind.TABLE})
    return replace(
        module,
        imports=module.imports if len(imports) == len(module.imports) else imports,
        tables=module.tables if len(tables) == len(module.tables) else tables,
        memories=plan.types,
    )


def _kernel_memories(kernel: Module, options: Options, plan: MemoryPlan, hits: Hits | None) -> tuple[MemoryType, ...]:
    stable, accounting, *others = kernel.memories
    accounting = roomy(accounting) if options.profile else accounting
    others = [accounting if hits is None else hits.roomy(accounting), *others]
    if plan.has_native_stable:
        return tuple(others)
    return (MemoryType(stable.limits._replace(maximum=options.max_stable_wasm_pages)), *others)


def _keep_data_aside(module: Module, plan: MemoryPlan) -> tuple[Module, tuple[tuple[str, int, bytes], ...]]:
    """Active data segments become empty passive ones, so that indices and the data count stay."""
    names = plan.names
    active = tuple(
        (names[segment.memory_index], _address(segment, number, plan), segment.init)
        for number, segment in enumerate(module.data)
        if segment.offset is not None
    )
    if not active:
        return module, ()
    data = tuple(segment if segment.offset is None else DataSegment(b"") for segment in module.data)
    return replace(module, data=data), active


def _address(segment: DataSegment, number: int, plan: MemoryPlan) -> int:
    memory = segment.memory_index
    memory_bytes = plan.types[memory].limits.minimum * WASM_PAGE_BYTES
    constant = segment.offset.integer if segment.offset else None
    if constant is None:
        raise InvalidModuleError(f"data segment {number} has no constant offset")
    val_type, value = constant
    address = value % (1 << (32 if val_type is ValType.I32 else 64))
    if address + len(segment.init) > memory_bytes:
        raise InvalidModuleError(
            f"data segment {number} of {len(segment.init)} bytes at address {address:#x} "
            f"does not fit the initial {plan.names[memory]} of {memory_bytes:#x} bytes"
        )
    return address


# -------------------------------------------------------------------------------------------------------------- globals


def _saved_globals(module: Module) -> tuple[SavedGlobal, ...]:
    exported = [item.index for item in module.exports if item.kind is ExternKind.GLOBAL]
    types = module.all_global_types
    shown = set(exported)
    hidden = [index for index, kind in enumerate(types) if kind.mutable and index not in shown]
    if (distinct := len(shown) + len(hidden)) > abi.MAX_SAVED_GLOBALS:
        raise InvalidModuleError(
            f"Wasm module has {distinct} globals that are mutable or exported, which exceeds the maximum number "
            f"allowed {abi.MAX_SAVED_GLOBALS}."
        )
    return tuple(SavedGlobal(index, *types[index]) for index in (*exported, *hidden))


_STORE = {value: f"{value.text}.store" for value in (ValType.I32, ValType.I64, ValType.F32, ValType.F64, ValType.V128)}
_LOAD = {value: f"{value.text}.load" for value in _STORE}


def _save_globals(saved: Sequence[SavedGlobal], message: int) -> bytes:
    return b"".join(
        op("i64.const", 0)
        + op("global.get", item.global_index)
        + op(_STORE[item.val_type], MemArg(0, abi.GLOBALS_CURRENT + abi.GLOBAL_BYTES * slot, message))
        for slot, item in enumerate(saved)
    )


def _load_globals(saved: Sequence[SavedGlobal], message: int) -> bytes:
    return b"".join(
        op("i64.const", 0)
        + op(_LOAD[item.val_type], MemArg(0, abi.GLOBALS_COMMITTED + abi.GLOBAL_BYTES * slot, message))
        + op("global.set", item.global_index)
        for slot, item in enumerate(saved)
        if item.mutable
    )


# ------------------------------------------------------------------------------------------------- what gets appended


def _append_kernel(
    appendix: Appendix, kernel: Module, first_global: int, saved: Sequence[SavedGlobal], plan: MemoryPlan
) -> dict[str, int]:
    """Append the kernel's functions; indices of its exports by name."""
    first = appendix.first_function
    memories = (plan.heap, plan.stable, plan.accounting, plan.message)
    maps: Mapping[Immediate, Callable[[int], int]] = {
        Immediate.FUNCTION: lambda index: first + index,
        Immediate.GLOBAL: lambda index: first_global + index,
        Immediate.TYPE: lambda index: appendix.type_index(kernel.types[index]),
        Immediate.MEMORY: memories.__getitem__,
    }
    generated = {
        _exported(kernel, "save_globals"): _save_globals(saved, plan.message),
        _exported(kernel, "load_globals"): _load_globals(saved, plan.message),
    }
    for index, code in enumerate(kernel.codes):
        if index in generated:
            appendix.append(kernel.function_type(index), generated[index])
        else:
            appendix.append_code(kernel.function_type(index), map_indices(code.body, maps, locals_end(code.body)))
    return {item.name: first + item.index for item in kernel.exports if item.kind is ExternKind.FUNCTION}


def _exported(kernel: Module, name: str) -> int:
    return next(item.index for item in kernel.exports if item.name == name)


def _replace_imports(
    appendix: Appendix, module: Module, functions: Mapping[str, int], options: Options, plan: MemoryPlan
) -> ReplacedCalls:
    """What becomes of the imports that something else stands for, be it a function or code."""
    redirects = _append_imports(appendix, module, functions, options, is_64=plan.is_64)
    # A profile shows each stable access, which has to be a call for that.
    inlines = {} if options.profile else _inlines(module, redirects, functions, appendix)
    direct = direct_calls(
        appendix,
        {place: item.name for place, item in _imported_functions(module) if _is_replaced(item)},
        functions,
        (plan.stable, plan.accounting, plan.message),
        accounting=options.accounting,
    )
    return ReplacedCalls(redirects | direct.redirects, inlines | direct.inlines, direct.instead)


def _append_imports(
    appendix: Appendix, module: Module, functions: Mapping[str, int], options: Options, *, is_64: bool
) -> dict[int, int]:
    """Wrap the imports that need it; for each import that is replaced, the function that stands for it."""
    redirects = {}
    for index, item in _imported_functions(module):
        if _is_replaced(item):
            continue
        row = FUNCTIONS.get(item.name) or NON_SPECIFIED.get(item.name) or ic0_ext.HOSTED[item.name]
        target, body = _replacement(index, row, functions, options, is_64=is_64)
        if body:
            target = appendix.append(module.function_type(index), body)
        if target != index:
            redirects[index] = target
    return redirects


_INLINED = ("stable64_write", "stable64_read", "stable64_write unaccounted", "stable64_read unaccounted")


def _inlines(
    module: Module, redirects: Mapping[int, int], functions: Mapping[str, int], appendix: Appendix
) -> dict[int, Inlined]:
    """Code in place of calls where the call would cost more than the rest: a small access is three times faster so."""
    names = {functions[name] for name in _INLINED if name in functions}
    inlined = {}
    for index, target in redirects.items():
        if target in names:
            body = appendix.codes[target - appendix.first_function].body
            if body[0] == 0:  # no locals of its own; another kernel's bodies may have some
                inlined[index] = Inlined(module.function_type(index), body)
    return inlined


def _replacement(
    index: int, row: SystemFunction, functions: Mapping[str, int], options: Options, *, is_64: bool
) -> tuple[int, bytes]:
    """The function that a call should reach, and the body of a wrapper around it (empty: none is needed)."""
    stable = row.name in abi.NATIVE_STABLE_FUNCTIONS
    parameters = row.params(is_64)
    arguments = b"".join(op("local.get", number) for number in range(len(parameters)))
    charge = _charge(row, parameters, functions) if options.schedule else b""
    if stable and options.native_stable:
        plain = functions[row.name]
        return plain if options.accounting else functions.get(f"{row.name} unaccounted", plain), b""
    if row.name in abi.NATIVE_MESSAGE_FUNCTIONS and options.native_messages:
        target = functions[row.name]
        return target, charge and charge + arguments + op("call", target)
    account = _account(row.name, parameters, functions) if stable and options.accounting else b""
    body = charge + arguments + op("call", index) + account
    return index, body if charge or account else b""


def _charge(row: SystemFunction, parameters: Sequence[str], functions: Mapping[str, int]) -> bytes:
    """Charge the overhead and what the table says of bytes."""
    bytes_charged = b"".join(
        _charged_bytes(charge.parameter, parameters, functions) + _BYTE_CHARGE[charge.kind](functions) + op("i64.add")
        for charge in row.byte_charges
    )
    return op("i64.const", row.instructions) + bytes_charged + op("call", functions["charge"])


def _charged_bytes(parameter: int, parameters: Sequence[str], functions: Mapping[str, int]) -> bytes:
    """A number of bytes, small enough to be multiplied and added up."""
    bounded = b"" if parameters[parameter] == "i32" else op("call", functions["chargeable"])
    return _widened(parameter, parameters) + bounded


# From a number of bytes on the stack to their charge.
_BYTE_CHARGE: Mapping[str, Callable[[Mapping[str, int]], bytes]] = {
    "copy": lambda functions: b"",
    "send": lambda functions: op("i64.const", TRANSMISSION_INSTRUCTIONS) + op("i64.mul"),
    "log": lambda functions: op("call", functions["log_charge"]),
    "print": lambda functions: op("call", functions["print_charge"]),
}


def _account(name: str, parameters: Sequence[str], functions: Mapping[str, int]) -> bytes:
    """Mark the pages of a stable access that a host function carried out."""
    address = {"write": 0, "read": 1}.get(name.rpartition("_")[2])
    if address is None:
        return b""
    function = functions["account_write" if address == 0 else "account_read"]
    return _widened(address, parameters) + _widened(2, parameters) + op("call", function)


def _widened(parameter: int, parameters: Sequence[str]) -> bytes:
    widen = op("i64.extend_i32_u") if parameters[parameter] == "i32" else b""
    return op("local.get", parameter) + widen


_ENTRY = FuncType()


def _append_entries(
    appendix: Appendix,
    module: Module,
    methods: Sequence[Export],
    functions: Mapping[str, int],
    redirects: Mapping[int, int],
    parts: tuple[MemoryPlan, OwnMemories, Hooks | None],
) -> tuple[Export, ...]:
    """Append the entries; the whole export section: the canister's methods first, then what the host needs."""
    plan, own, hooks = parts
    finish = op("call", functions["finish"])
    numbers = count()

    def entry(body: bytes) -> int:
        if hooks is not None:
            body = hooks.entry(next(numbers), body)
        return appendix.append(_ENTRY, op("call", functions["begin"]) + own.begin + body + finish + own.finish)

    def calling(index: int) -> int:
        return entry(op("call", redirects.get(index, index)))

    exports = [Export(item.name, ExternKind.FUNCTION, calling(item.index)) for item in methods]
    if module.start is not None:
        exports.append(Export("canister_start", ExternKind.FUNCTION, calling(module.start)))
    exports.append(Export(abi.CALLBACK, ExternKind.FUNCTION, entry(_callback(appendix, module, functions, plan))))
    finishing = functions["finish"] if hooks is None else appendix.append(_ENTRY, finish + hooks.finish)
    exports.append(Export(abi.FINISH, ExternKind.FUNCTION, finishing))
    exports.append(Export(abi.LOAD_GLOBALS, ExternKind.FUNCTION, functions["load_globals"]))
    places = (plan.heap, plan.stable, plan.accounting, plan.message)
    exports.extend(Export(name, ExternKind.MEMORY, place) for name, place in zip(abi.MEMORY_NAMES, places, strict=True))
    return tuple(exports)


def _callback(appendix: Appendix, module: Module, functions: Mapping[str, int], plan: MemoryPlan) -> bytes:
    """Call the function that the table has at the header's index, with the header's environment."""
    if not module.all_tables or module.all_tables[0].element is not ValType.FUNCREF:
        trap_code = MemArg(0, abi.HEADER["trap_code"].offset, plan.message)
        return (
            op("i64.const", 0)
            + op("i32.const", TrapCode.TABLE_OUT_OF_BOUNDS)
            + op("i32.store", trap_code)
            + op("unreachable")
        )
    pointer = ValType.I64 if plan.is_64 else ValType.I32
    index = functions["callback_index64" if module.all_tables[0].is_64 else "callback_index"]
    return (
        op("call", functions["callback_environment"])
        + op("call", index)
        + op("call_indirect", appendix.type_index(FuncType((pointer,))), 0)
    )
