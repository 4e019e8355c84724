"""Stable memory behind host functions in C, where a compiler is at hand."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from perdure.embedder import Compiler, Engine
from perdure.embedder.c_host import CHostFunctions
from perdure.instrument import Options
from perdure.subnet import Subnet

__all__ = ["c_host_compiler", "c_host_subnets"]


def c_host_subnets() -> Callable[[Options], Subnet] | None:
    """Makes subnets whose canisters reach stable memory through C; `None` without a C compiler."""
    compile_with_c = c_host_compiler()
    if compile_with_c is None:
        return None
    return lambda options: Subnet(instrumentation=options, compiler=compile_with_c)


def c_host_compiler() -> Compiler | None:
    """Compiles canisters whose stable host functions are C; `None` without a C compiler.

    The library is built in a temporary directory and stays loaded until the process ends.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(prefix="perdure-") as directory:
        source, library = Path(directory, "host_functions.c"), Path(directory, "host_functions.so")
        source.write_bytes(files(__package__).joinpath(source.name).read_bytes())
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None  # a compiler without headers is no compiler
        return Compiler(Engine(c_host=CHostFunctions(library)), None)
