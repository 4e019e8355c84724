"""A module of which one function alone is asked, for an address: everything else of it cannot be entered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from perdure.instrument.appendix import Appendix, op
from perdure.wasm import ConstExpr, FuncType, Global, GlobalType, Module, ValType

__all__ = ["probe_of"]

_ADDRESSES: Final[Mapping[tuple[ValType, ...], ConstExpr]] = {
    (ValType.I32,): ConstExpr.i32(0),
    (ValType.I64,): ConstExpr.i64(0),
}


def probe_of(module: Module, export: str) -> Module | None:
    """A module whose start function calls an export that returns an address, and keeps that in its last global.

    As a start function it may call nothing of ic0 that tells or changes anything. `None`: it has no such export.
    """
    index = module.exported_functions.get(export)
    if index is None:
        return None
    func_type = module.function_type(index)
    initial = _ADDRESSES.get(func_type.results)
    if func_type.params or initial is None:
        return None
    appendix = Appendix(module)
    address = len(module.all_global_types)
    start = appendix.append(FuncType(), op("call", index) + op("global.set", address))
    return replace(
        module,
        types=tuple(appendix.types),
        function_type_indices=(*module.function_type_indices, *appendix.type_indices),
        globals=(*module.globals, Global(GlobalType(func_type.results[0], mutable=True), initial)),
        exports=(),
        start=start,
        codes=(*module.codes, *appendix.codes),
        custom_sections=(),
    )
