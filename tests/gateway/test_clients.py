"""Agents as their packages have them, from npm and PyPI, with verification on; the examples of docs/serving.md."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perdure import Subnet
from perdure.gateway import Server

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
WORK = ROOT / "build" / "clients"
CLIENTS = HERE / "clients"
NPM = {
    "@icp-sdk/core": ["@icp-sdk/core@6.1.0"],
    "@dfinity/agent": ["@dfinity/agent@3.4.3", "@dfinity/identity@3.4.3", "@dfinity/principal@3.4.3"],
}
PYPI = ["icp-py-core==2.3.1", "cbor2<6"]
"""With cbor2 6 it takes the signatures of a tagged response, a tuple then, for none."""


def missing(what: str) -> None:
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


def run(*command: object, directory: Path = WORK) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=directory, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def npm_directory(package: str) -> Path:
    """A directory with a pinned package, installed when it is first asked for."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        missing("needs node and npm")
    directory = WORK / package.replace("@", "").replace("/", "-")
    if not (directory / "node_modules" / package).exists():
        directory.mkdir(parents=True, exist_ok=True)
        flags = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-save")
        run("npm", "install", *flags, *NPM[package], directory=directory)
    return directory


@pytest.fixture(scope="module")
def served():
    """A counter that is served."""
    with Subnet() as subnet:
        counter = subnet.install(ROOT / "tests/canisters/modules/motoko_eop_v1.wasm.gz")
        with Server(subnet) as server:
            yield server.url, counter


@pytest.mark.slow
@pytest.mark.parametrize("package", NPM)
def test_javascript(served, package):
    url, counter = served
    directory = npm_directory(package)
    shutil.copy(CLIENTS / "agent.mjs", directory)
    found = json.loads(run("node", "agent.mjs", package, url, counter.id, directory=directory))
    users = ["anonymous", "ed25519", "ecdsa", "delegated", *(["secp256k1"] if package == "@icp-sdk/core" else [])]
    for user in users:
        before, after, seen = found[user]["counted"]
        assert (after, seen, found[user]["is_me"]) == (before + 1, before + 1, True)
    assert found["rounds"] > after
    assert "no such luck" in found["rejected"]
    assert "IC0406" in found["rejected"]
    facts = counter.status()
    assert facts.module_hash is not None
    assert found["status"] == {
        "module_hash": facts.module_hash.hex(),
        "controllers": [str(one) for one in facts.controllers],
        "is_now": True,
        "has_candid": True,
        "nodes": 1,
    }
    assert found["is_synchronised"]


@pytest.mark.slow
def test_python(served):
    url, counter = served
    directory = WORK / "icp-py-core"
    python = directory / "bin" / "python"
    if not (directory / "done").exists():
        run(sys.executable, "-m", "venv", directory, directory=ROOT)
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PYPI, directory=ROOT)
        (directory / "done").touch()
    key = counter._subnet.root_key.hex()
    found = json.loads(run(python, CLIENTS / "icp_py_core.py", url, counter.id, key))
    assert list(found) == ["anonymous", "ed25519", "secp256k1"]
    assert all(after == before + 1 for before, after in found.values())


PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The page's first example in a language."""
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.slow
def test_the_page():
    names: dict[str, object] = {}
    exec(compile(block("python"), "docs/serving.md", "exec"), names)
    subnet, counter = names["subnet"], names["counter"]
    directory = npm_directory("@icp-sdk/core")
    (directory / "page.mjs").write_text(block("js"), encoding="utf-8")
    with subnet.serve() as url:
        assert run("node", "page.mjs", url, counter.id, directory=directory) == "2n 2n\n"
