"""Canisters by name from ``icp.yaml`` and ``dfx.json``."""

from __future__ import annotations

import json

import pytest

from perdure.errors import MalformedError, StorageError
from perdure.subnet.project import Project

ICP = """
canisters:
  - name: inline
    build:
      steps:
        - {type: script, commands: [make]}
        - {type: pre-built, path: dist/inline.wasm}
    init_args: "(5)"
  - name: cooked
    recipe:
      type: "@dfinity/rust@v3.4.0"
      configuration: {package: my-crate, candid: cooked.did}
    init_args: {value: "4449444c0000", format: hex}
  - services/*
networks: []
"""


def write(directory, name, text=""):
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def icp(tmp_path):
    write(tmp_path, "icp.yaml", ICP)
    write(tmp_path, "services/first/canister.yaml", "name: first\nbuild: {steps: [{type: pre-built, path: a.wasm}]}")
    write(tmp_path, "services/first/a.wasm")
    write(tmp_path, "services/readme.txt")
    (tmp_path / "services/readme.txt").unlink()
    return tmp_path


def test_icp(icp):
    project = Project.find(icp / "services/first")
    assert project.directory == icp
    assert list(project.canisters) == ["inline", "cooked", "first"]
    assert project.canister("inline").init_args == "(5)"
    assert project.canister("cooked").init_args == b"DIDL\0\0"
    assert project.canister("cooked").candid == icp / "cooked.did"
    assert project.canister("first").wasm() == icp / "services/first/a.wasm"
    with pytest.raises(StorageError, match="build the project first"):
        project.canister("inline").wasm()
    built = write(icp, "dist/inline.wasm.gz")
    assert project.canister("inline").wasm() == built
    built = write(icp, "target/wasm32-unknown-unknown/release/my_crate.wasm")
    assert project.canister("cooked").wasm() == built
    built = write(icp, ".icp/cache/artifacts/cooked")
    assert project.canister("cooked").wasm() == built
    with pytest.raises(KeyError, match="no canister 'none', it has inline, cooked, first"):
        project.canister("none")


def test_dfx(tmp_path):
    content = {
        "canisters": {
            "custom": {"type": "custom", "wasm": "out.wasm", "candid": "out.did", "init_arg": "(1)"},
            "remote": {"type": "custom", "wasm": "https://example.org/x.wasm", "candid": "https://example.org/x.did"},
            "crate": {"type": "rust", "package": "my-crate", "init_arg_file": "args.txt"},
            "odd": 5,
        }
    }
    write(tmp_path, "dfx.json", json.dumps(content))
    write(tmp_path, "args.txt", "(2)")
    project = Project.find(tmp_path)
    assert list(project.canisters) == ["custom", "remote", "crate"]
    assert (project.canister("custom").candid, project.canister("custom").init_args) == (tmp_path / "out.did", "(1)")
    assert project.canister("crate").init_args == "(2)"
    assert project.canister("remote").candid is None
    built = write(tmp_path, ".dfx/local/canisters/remote/remote.wasm")
    assert project.canister("remote").wasm() == built


def test_nearest_manifest_wins(icp):
    write(icp, "inner/dfx.json", "{}")
    assert Project.find(icp / "inner/deep").manifest == icp / "inner/dfx.json"
    assert Project.load(icp / "inner/dfx.json").canisters == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("icp.yaml", "- a list"),
        ("icp.yaml", "a: ["),
        ("icp.yaml", "\0"),
        ("icp.yaml", "canisters: [{name: a, init_args: {value: xy, format: hex}}]"),
        ("dfx.json", "{"),
        ("dfx.json", "[" * 100_000),
        ("dfx.json", "5"),
    ],
)
def test_manifests_that_cannot_be_read(tmp_path, name, text):
    write(tmp_path, name, text)
    with pytest.raises(MalformedError):
        Project.find(tmp_path)
