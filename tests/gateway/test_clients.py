"""Clients as their packages have them, from npm, PyPI and crates.io, with verification on; the examples of the pages.

    CLIENTS=1 python -m pytest tests/gateway/test_clients.py

also runs what takes minutes: the agent in Rust, and a network that icp starts itself.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from perdure import Network, Principal, Subnet
from perdure.gateway import Server

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
WORK = ROOT / "build" / "clients"
CLIENTS = HERE / "clients"
NPM = {
    "@icp-sdk/core": ["@icp-sdk/core@6.1.0"],
    "@dfinity/agent": ["@dfinity/agent@3.4.3", "@dfinity/identity@3.4.3", "@dfinity/principal@3.4.3"],
    "@dfinity/assets": [
        *(f"@dfinity/{name}@3.4.3" for name in ("assets", "agent", "candid", "identity", "principal")),
        *("@dfinity/response-verification@3.0.3", "@noble/hashes@1.8.0"),
    ],
    "@icp-sdk/icp-cli-linux-x64": ["@icp-sdk/icp-cli-linux-x64@1.5.0"],
    "vite": ["vite@8.4.0", "@icp-sdk/core@6.1.0"],
}
PYPI = ["icp-py-core==2.3.1", "cbor2<6"]
"""With cbor2 6 it takes the signatures of a tagged response, a tuple then, for none."""


def missing(what: str) -> None:
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


def run(*command: object, directory: Path = WORK, env: dict[str, str] | None = None, seconds: float = 300) -> str:
    words = [str(word) for word in command]
    env = {**os.environ, **(env or {})}
    done = subprocess.run(words, cwd=directory, env=env, capture_output=True, text=True, check=False, timeout=seconds)
    assert done.returncode == 0, done.stderr[-4000:] or done.stdout[-4000:]
    return done.stdout


def in_the_long_run() -> None:
    if not os.environ.get("CLIENTS"):
        pytest.skip("asked for with CLIENTS=1")


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


COUNTER = ROOT / "tests/canisters/modules/motoko_eop_v1.wasm.gz"


@pytest.fixture(scope="module")
def served():
    """A counter that is served."""
    with Subnet() as subnet:
        counter = subnet.install(COUNTER)
        with Server(subnet) as server:
            yield server.url, counter


@pytest.fixture(scope="module")
def served_in_a_network():
    """A counter on a subnet that the NNS vouches for."""
    with Network(["nns", "application"]) as network:
        counter = network.subnets[1].install(COUNTER)
        with network.serve() as url:
            yield url, counter


@pytest.mark.slow
@pytest.mark.parametrize("package", ["@icp-sdk/core", "@dfinity/agent"])
@pytest.mark.parametrize("where", ["served", "served_in_a_network"])
def test_javascript(request, where, package):
    url, counter = request.getfixturevalue(where)
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


def python_with_an_agent() -> Path:
    """An interpreter that has icp-py-core, installed when it is first asked for."""
    directory = WORK / "icp-py-core"
    python = directory / "bin" / "python"
    if not (directory / "done").exists():
        run(sys.executable, "-m", "venv", directory, directory=ROOT)
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PYPI, directory=ROOT)
        (directory / "done").touch()
    return python


@pytest.mark.slow
def test_python(served):
    url, counter = served
    python = python_with_an_agent()
    key = counter._subnet.root_key.hex()
    found = json.loads(run(python, CLIENTS / "icp_py_core.py", url, counter.id, key))
    assert list(found) == ["anonymous", "ed25519", "secp256k1"]
    assert all(after == before + 1 for before, after in found.values())


@pytest.mark.slow
def test_a_page_is_uploaded_as_the_page_says():
    directory = npm_directory("@dfinity/assets")
    (directory / "page.mjs").write_text(block("networks.md", "mjs"), encoding="utf-8")
    with Subnet() as subnet:
        assets = subnet.install(ROOT / "tests/canisters/modules/assets.wasm.gz", "(null)")
        with subnet.serve() as url:
            assert run("node", "page.mjs", url, assets.id, directory=directory) == "[ '/index.html' ]\n"
            with urllib.request.urlopen(f"{url}/?canisterId={assets.id}") as shown:
                assert shown.read() == b"<h1>a page</h1>"


@pytest.mark.slow
def test_rust(served):
    in_the_long_run()
    url, counter = served
    environment = runpy.run_path(str(ROOT / "tests/candid/build_referee.py"))["cargo_environment"]()
    command = ("cargo", "run", "--quiet", "--locked", "--target-dir", WORK / "ic-agent", "--", url, counter.id)
    found = json.loads(run(*command, directory=CLIENTS / "ic_agent", env=environment, seconds=3600))
    for user in ("anonymous", "ed25519", "secp256k1", "p256", "delegated"):
        before, after, seen = found[user]["counted"]
        assert (after, seen, found[user]["is_me"]) == (before + 1, before + 1, True)
    first, second = found["sent_twice"]["replies"]
    assert (first, found["sent_twice"]["is_replied"]) == (second, True)
    assert found["rounds"] > first
    assert "no such luck" in found["rejected"]
    assert "IC0406" in found["rejected"]
    facts = counter.status()
    assert facts.module_hash is not None
    assert found["facts"] == {
        "module_hash": facts.module_hash.hex(),
        "controllers": [str(one) for one in facts.controllers],
        "has_candid": True,
        "canisters": len(counter._subnet.canisters),
        "is_in_range": True,
        "nodes": 1,
        "health": "healthy",
    }


@pytest.mark.slow
def test_assets():
    """The asset canister, filled by the package for that, its pages verified by the gateway and in JavaScript."""
    directory, seed = npm_directory("@dfinity/assets"), bytes(range(32))
    shutil.copy(CLIENTS / "assets.mjs", directory)
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    uploader = Principal.self_authenticating(bytes.fromhex("302a300506032b6570032100") + key)
    with Subnet() as subnet:
        assets = subnet.install(ROOT / "tests/canisters/modules/assets.wasm.gz", "(null)")
        assets.actor(candid="service : { authorize : (principal) -> () }").authorize(uploader)
        with subnet.serve() as url:
            found = json.loads(run("node", "assets.mjs", url, assets.id, seed.hex(), directory=directory))
    assert found["listed"] == ["/.well-known/ic-domains", "/deep/style.css", "/index.html", "/large.bin"]
    assert found["is_written"]
    page, large = found["digests"]["page"], found["digests"]["large"]
    shown = found["shown"]
    assert shown["index"] == shown["fallback"] == shown["named"] == [200, "version 2", page]
    assert shown["raw"] == [200, "raw", page]
    assert shown["large"] == [200, "version 2", large]
    assert shown["style"][:2] == [200, "version 2"]
    assert found["verified"] == {"index": [200, 2], "fallback": [200, 2]}


# -- icp

PROJECT = """canisters:
  - name: counter
    build:
      steps: [{type: pre-built, path: counter.wasm.gz}]
"""


class Icp:
    """The binary, with a home and a project of its own."""

    def __init__(self, directory: Path) -> None:
        self.binary = npm_directory("@icp-sdk/icp-cli-linux-x64") / "node_modules/@icp-sdk/icp-cli-linux-x64/bin/icp"
        self.directory = directory / "project"
        self.directory.mkdir()
        shutil.copy(ROOT / "tests/canisters/modules/motoko_eop_v1.wasm.gz", self.directory / "counter.wasm.gz")
        (self.directory / "icp.yaml").write_text(PROJECT, encoding="utf-8")
        launcher = Path(sys.executable).with_name("perdure-network-launcher")
        self.env = {"HOME": str(directory), "DO_NOT_TRACK": "1", "ICP_CLI_NETWORK_LAUNCHER_PATH": str(launcher)}

    def __call__(self, *words: str) -> str:
        return run(self.binary, *words, directory=self.directory, env=self.env).strip()


@contextmanager
def network(directory: Path) -> Iterator[dict[str, str]]:
    """What the launcher tells of a network whose state is in a directory; killed in the end."""
    command = [sys.executable, "-m", "perdure", "network-launcher", "--json"]
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_icp_keeps_a_canister_over_a_kill(tmp_path):
    icp = Icp(tmp_path)
    with network(tmp_path) as told:
        kept = f"networks: [{{name: kept, mode: connected, url: '{told['url']}', root-key: '{told['root_key']}'}}]\n"
        (icp.directory / "icp.yaml").write_text(
            f"{kept}environments: [{{name: kept, network: kept}}]\n{PROJECT}", encoding="utf-8"
        )
        icp("deploy", "-e", "kept")
        assert icp("canister", "call", "-e", "kept", "counter", "inc", "()") == "(1 : nat)"
        icp("identity", "new", "bob", "--storage", "plaintext")
        bob = icp("identity", "principal", "--identity", "bob")
        icp("token", "transfer", "1.5", bob, "-e", "kept")
        icp("cycles", "mint", "--icp", "1", "-e", "kept", "--identity", "bob")
    with network(tmp_path) as again:
        assert (again["url"], again["root_key"]) == (told["url"], told["root_key"])
        assert icp("canister", "call", "-e", "kept", "counter", "count", "()") == "(1 : nat)"
        assert "3_519_900_000_000" in icp("cycles", "balance", "-e", "kept", "--identity", "bob")
        with pytest.raises(AssertionError, match="IC0512"):
            icp("canister", "stop", "-e", "kept", "counter", "--identity", "bob")
        icp("canister", "settings", "update", "-e", "kept", "counter", "--add-controller", bob)
        icp("canister", "stop", "-e", "kept", "counter", "--identity", "bob")
        icp("canister", "snapshot", "create", "-e", "kept", "counter")
        icp("canister", "start", "-e", "kept", "counter")
        icp("deploy", "-e", "kept")
        assert icp("canister", "call", "-e", "kept", "counter", "inc", "()") == "(2 : nat)"


@pytest.mark.slow
def test_icp_starts_and_stops_a_network(tmp_path):
    in_the_long_run()
    icp = Icp(tmp_path)
    icp("network", "start", "-d")
    try:
        icp("deploy")
        assert icp("canister", "call", "counter", "inc", "()") == "(1 : nat)"
        assert "Balance" in icp("cycles", "balance")
    finally:
        icp("network", "stop")


# -- the pages' examples


def block(page: str, language: str) -> str:
    """A page's first example in a language."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.slow
def test_the_page():
    names: dict[str, object] = {}
    exec(compile(block("serving.md", "python"), "docs/serving.md", "exec"), names)
    subnet, counter = names["subnet"], names["counter"]
    directory = npm_directory("@icp-sdk/core")
    (directory / "page.mjs").write_text(block("serving.md", "js"), encoding="utf-8")
    with subnet.serve() as url:
        assert run("node", "page.mjs", url, counter.id, directory=directory) == "2n 2n\n"
        python, script = python_with_an_agent(), WORK / "page.py"
        script.write_text(block("serving.md", "py"), encoding="utf-8")
        assert run(python, script, url, counter.id, subnet.root_key.hex()) == "3 3\n"


@pytest.mark.slow
def test_a_development_server_hands_on_what_is_for_the_network(served, tmp_path):
    url, counter = served
    directory = npm_directory("vite")
    config = block("networks.md", "js").replace("http://127.0.0.1:8000", url)
    (directory / "vite.config.mjs").write_text(config, encoding="utf-8")
    (directory / "index.html").write_text("<h1>a page</h1>", encoding="utf-8")
    shutil.copy(CLIENTS / "agent.mjs", directory)
    command = ["node", "node_modules/vite/bin/vite.js", "--port", "0", "--host", "127.0.0.1"]
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        plain = (re.sub("\x1b\\[[0-9;]*m", "", line) for line in process.stdout)
        page = next(found[0] for line in plain if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        assert b"a page" in urllib.request.urlopen(page).read()
        found = json.loads(run("node", "agent.mjs", "@icp-sdk/core", page, counter.id, directory=directory))
        assert found["ed25519"]["is_me"]
    finally:
        process.terminate()
        process.communicate()
