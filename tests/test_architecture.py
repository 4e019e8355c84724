"""The house, as files: no two import each other, however, and none is too long to read at once.

Layers are import-linter's (`make contracts`); it sees packages, and here are files.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src"
LONG_MODULES = {"perdure.stable.btree"}
"""Whole because a cut would separate what is read together: RATIONALE.md says why."""


@cache
def modules() -> dict[str, Path]:
    """Files by the name under which they are imported."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


def imported(name: str) -> Iterator[str]:
    """What a file imports of perdure: anywhere in it, in functions and for the type checker too."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute here"
            for alias in node.names:
                nested = f"{node.module}.{alias.name}"
                if nested in modules():
                    yield nested
                elif node.module in modules():
                    yield str(node.module)


def test_no_files_import_each_other() -> None:
    graph = {name: set(imported(name)) - {name} for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


def test_no_package_is_imported_by_its_own_files() -> None:
    """A package is the face of its files; one that asked for the face would wait for itself."""
    found = [
        (name, other)
        for name in modules()
        for other in imported(name)
        if name.startswith(f"{other}.") and other != "perdure"
    ]
    assert found == []


def test_modules_can_be_read_at_once() -> None:
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in modules().items()}
    assert {name for name, count in lines.items() if count > 600} - LONG_MODULES == set()


def test_functions_can_be_read_at_once() -> None:
    long = [
        f"{name}.{node.name}: {size}"
        for name in modules()
        for node in ast.walk(tree(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (size := (node.end_lineno or 0) - node.lineno + 1) > 60
    ]
    assert long == []
