"""Wasmtime, fenced: compile, cache, instantiate, run; memories as private file mappings."""

from __future__ import annotations

from perdure.embedder.cache import CompileCache, cache_directory
from perdure.embedder.engine import Engine, shared_engine, validate_original
from perdure.embedder.instance import WasmInstance
from perdure.embedder.lines import readable
from perdure.embedder.module import (
    CompiledModule,
    Compiler,
    compile_module,
    covered_code,
    profiled_code,
    shared_compiler,
)
from perdure.embedder.patience import Apart

__all__ = [
    "Apart",
    "CompileCache",
    "CompiledModule",
    "Compiler",
    "Engine",
    "WasmInstance",
    "cache_directory",
    "compile_module",
    "covered_code",
    "profiled_code",
    "readable",
    "shared_compiler",
    "shared_engine",
    "validate_original",
]
