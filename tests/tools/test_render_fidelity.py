"""The fidelity page says what the tables say, and every proof that it names exists."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

import pytest

from perdure.execution import SubnetConfig
from perdure.execution.management import METHODS
from perdure.ic.ic0 import FUNCTIONS, NON_SPECIFIED
from perdure.ic.ic0_ext import EXTENSION_FUNCTIONS

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("render_fidelity", ROOT / "tools/render_fidelity.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


@cache
def names_in(path):
    """Names of the tests of a file, ``Class::name`` for methods."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("row", list(tool.rows()), ids=lambda row: row.name)
def test_proofs_exist(row):
    assert row.state in {tool.WORKS, tool.LOCAL, tool.REJECTED, tool.EXTRA}
    assert row.test or row.state == tool.REJECTED, "what works needs a proof"
    if row.test:
        path, _, test = row.test.partition("::")
        assert test.partition("[")[0] in names_in(path)


def test_nothing_is_left_out():
    named = {row.name for row in tool.rows()}
    assert named >= {*FUNCTIONS, *NON_SPECIFIED, *METHODS, *SubnetConfig.__slots__}
    assert named >= {f"ic0_ext.{name}" for name in EXTENSION_FUNCTIONS}


def test_the_page_is_what_the_tables_say():
    page = (ROOT / "docs" / "fidelity.md").read_text()
    assert page == tool.render(), "run: python tools/render_fidelity.py > docs/fidelity.md"
