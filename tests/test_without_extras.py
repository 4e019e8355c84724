"""An installation without extras can be looked at: imported by star, listed, read with `help`.

What needs an extra is not among a package's names there, or says which one it needs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = r"""
import importlib, json, pkgutil, pydoc, sys

ABSENT = set(json.loads(sys.argv[1]))
sys.modules.update(dict.fromkeys(ABSENT))  # as if they were not installed
import perdure
from perdure.errors import UnsupportedError

wrong, looked_at = [], []

def names():
    found = ["perdure"]
    for package in found:
        yield package
        try:
            path = getattr(importlib.import_module(package), "__path__", ())
        except (UnsupportedError, ModuleNotFoundError):
            continue
        found += [f"{package}.{one.name}" for one in pkgutil.iter_modules(path) if not one.name.startswith("_")]

for name in names():
    try:
        module = importlib.import_module(name)
    except UnsupportedError as error:
        if "pip install" not in str(error):
            wrong.append((name, repr(error)))
        continue
    except ModuleNotFoundError as error:
        if name in FACES or error.name.split(".")[0] not in ABSENT:
            wrong.append((name, repr(error)))
        continue
    looked_at.append(name)
    try:
        exec(f"from {name} import *", {})
        for one in dir(module):
            getattr(module, one)
        pydoc.render_doc(module)
    except Exception as error:
        wrong.append((name, repr(error)))
print(json.dumps({"wrong": wrong, "looked_at": looked_at}))
"""
EXTRAS = [
    "apsw",
    "numpy",
    "pyarrow",
    "cryptography",
    "py_arkworks_bls12381",
    "zstandard",
    "google",
    "flatbuffers",
    "networkx",
    "rdflib",
    "starlette",
    "uvicorn",
    "httptools",
    "jinja2",
    "nacl",
    "coincurve",
    "httpx",
    "hypothesis",
    "pytest",
    "duckdb",
    "pandas",
    "polars",
]
"""Top-level modules of what the extras install, and of what perdure works with where it is there."""
FACES = [
    "perdure",
    "perdure.candid",
    "perdure.data",
    "perdure.explorer",
    "perdure.gateway",
    "perdure.inspection",
    "perdure.kit",
    "perdure.measure",
    "perdure.pocket_ic",
    "perdure.stable",
    "perdure.subnet",
    "perdure.upgrade",
    "perdure.values",
]
"""What the documentation imports from."""


def _seen(absent: list[str], directory: Path) -> dict[str, list[object]]:
    script = f"FACES = {FACES}\n{SCRIPT}"
    command = [sys.executable, "-c", script, json.dumps(absent)]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True, timeout=300)
    found: dict[str, list[object]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_whatever_is_public_can_be_looked_at(tmp_path: Path) -> None:
    found = _seen(EXTRAS, tmp_path)
    assert found["wrong"] == []
    assert {"perdure", "perdure.kit", "perdure.stable", "perdure.inspection", "perdure.data"} <= {*found["looked_at"]}
    assert len(found["looked_at"]) > 400


def test_without_hypothesis_the_kit_has_the_rest(tmp_path: Path) -> None:
    script = """
import sys; sys.modules["hypothesis"] = None
from perdure.kit import *
canister, stable, nat64
assert "CanisterMachine" not in globals()
from perdure.errors import UnsupportedError
try:
    from perdure.kit import CanisterMachine
except UnsupportedError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout == "CanisterMachine needs `pip install 'perdure[fuzz]'`\n"
