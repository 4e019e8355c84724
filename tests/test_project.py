"""Canisters by name from ``icp.yaml`` and ``dfx.json``."""

from __future__ import annotations

import json

import pytest

from perdure.errors import MalformedError, StorageError, UnsupportedError
from perdure.project import Project, check_name

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
    write(tmp_path, "services/readme.txt", "not yaml: [")
    write(tmp_path, "services/empty/readme.txt")
    write(tmp_path, "services/interface.did", "service : {\n  a : () -> ();\n}")
    return tmp_path


def test_icp(icp):
    project = Project.find(icp / "services/first")
    assert project.directory == icp
    assert list(project.canisters) == ["inline", "cooked", "first"]
    assert project.canister("inline").init_args() == "(5)"
    assert project.canister("cooked").init_args() == b"DIDL\0\0"
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
    assert list(project.canisters) == ["custom", "remote", "crate", "odd"]
    with pytest.raises(MalformedError, match=r"canister 'odd' of dfx.json: int found, a mapping expected"):
        project.canister("odd")
    assert (project.canister("custom").candid, project.canister("custom").init_args()) == (tmp_path / "out.did", "(1)")
    assert project.canister("crate").init_args() == "(2)"
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
        ("icp.yaml", "canisters: 5"),
        ("icp.yaml", "canisters: [{name: a, name: b}]"),
        ("icp.yaml", "!!python/object:os.system {}"),
        ("icp.yaml", "environments: 5"),
        ("icp.yaml", "environments: [5]"),
        ("icp.yaml", "environments: [missing.yaml]"),
        ("icp.yaml", "environments: [/dev/zero]"),
        ("dfx.json", '{"canisters": []}'),
        ("dfx.json", "{"),
        ("dfx.json", "[" * 100_000),
        ("dfx.json", "5"),
    ],
)
def test_manifests_that_cannot_be_read(tmp_path, name, text):
    write(tmp_path, name, text)
    with pytest.raises(MalformedError):
        Project.find(tmp_path)


FINE = "- {name: fine, build: {steps: [{type: pre-built, path: fine.wasm}]}}"


@pytest.mark.parametrize(
    ("entry", "name", "message"),
    [
        ("- missing", "missing", "there is no missing/canister.yaml"),
        ("- {name: 'a b'}", "a b", "canister name 'a b' is not of 1 to 109 letters"),
        ("- {name: ''}", "", "canister name '' is not of 1 to 109"),
        ("- {name: --help}", "--help", "'-' not first"),
        ("- {name: aaaaa-aa}", "aaaaa-aa", "is a principal"),
        ("- {build: {}}", "[1]", "it has no name"),
        ("- 5", "[1]", "int found, a mapping expected"),
        ("- broken", "broken", "canister.yaml cannot be read"),
        ("- listed", "listed", "canister.yaml holds list, expected a mapping"),
        ("- '**x/*'", "**x/*", "is no pattern"),
        ("- {name: twice}\n- {name: twice}", "twice", "declares it twice"),
    ],
)
def test_a_broken_entry_is_trouble_of_its_own(tmp_path, entry, name, message):
    write(tmp_path, "broken/canister.yaml", "a: [")
    write(tmp_path, "listed/canister.yaml", "[]")
    write(tmp_path, "icp.yaml", f"canisters:\n{FINE}\n{entry}\n")
    project = Project.find(tmp_path)
    assert sorted(project.canisters) == sorted(["fine", name])
    assert project.canister("fine").settings().amounts == {}
    with pytest.raises(MalformedError, match=f"canister .*{message.replace('*', '.').replace('[', '.')}"):
        project.canister(name)


@pytest.mark.parametrize(
    ("init_args", "error", "message"),
    [
        ("{path: gen/args.bin, format: bin}", StorageError, "init_args of canister 'a': no such file or directory"),
        ("{path: ., format: bin}", StorageError, "init_args of canister 'a': not a file of at most 4194304 bytes"),
        ("{path: /dev/zero, format: bin}", StorageError, "not a file of at most 4194304 bytes"),
        ("{value: xy, format: hex}", MalformedError, "init_args of canister 'a' are not hexadecimal: 'xy'"),
        ("{value: '()', format: bin}", MalformedError, "have neither a value nor a path"),
        ("{value: '()', format: idl}", MalformedError, "format 'idl', expected candid, hex or bin"),
        ("[x]", MalformedError, "list found, a text or mapping expected"),
        ("{value: '()', format: [x]}", MalformedError, "format list, expected candid"),
        ("{}", MalformedError, "have neither a value nor a path"),
    ],
)
def test_init_args_that_cannot_be_read_are_said_when_they_are_asked_for(tmp_path, init_args, error, message):
    write(tmp_path, "icp.yaml", f"canisters:\n{FINE}\n- {{name: a, init_args: {init_args}}}")
    project = Project.find(tmp_path)
    assert project.canister("fine").init_args() is None
    with pytest.raises(error, match=message):
        project.canister("a").init_args()


def test_a_missing_argument_file_of_dfx(tmp_path):
    write(tmp_path, "dfx.json", '{"canisters": {"a": {"init_arg_file": "gen/arg.did"}, "b": {}}}')
    project = Project.find(tmp_path)
    assert project.canister("b").init_args() is None
    with pytest.raises(StorageError, match=r"init_args of canister 'a': no such file"):
        project.canister("a").init_args()


SETTINGS = """
      compute_allocation: 5
      memory_allocation: 4gib
      freezing_threshold: 30d
      reserved_cycles_limit: 4.3t
      wasm_memory_limit: 1_073_741_824
      log_visibility: {allowed_viewers: [2vxsx-fae]}
      controllers: [other, 2vxsx-fae]
      environment_variables: {LEVEL: info, COUNT: 5, ON: true, NO: off, TIME: 12:30, MODE: 0755, KEY: {path: key.txt}}
"""


def test_settings(tmp_path):
    write(tmp_path, "icp.yaml", f"canisters:\n  - name: a\n    settings:{SETTINGS}")
    write(tmp_path, "key.txt", "secret\n")
    settings = Project.find(tmp_path).canister("a").settings()
    assert settings.amounts == {
        "compute_allocation": 5,
        "memory_allocation": 4 << 30,
        "freezing_threshold": 30 * 86_400,
        "reserved_cycles_limit": 4_300_000_000_000,
        "wasm_memory_limit": 1 << 30,
    }
    assert settings.variables == {
        "LEVEL": "info", "COUNT": "5", "ON": "true", "NO": "off", "TIME": "12:30", "MODE": "0755", "KEY": "secret",
    }  # fmt: skip
    assert settings.controllers == ("other", "2vxsx-fae")
    assert settings.log_visibility == {"allowed_viewers": ("2vxsx-fae",)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("5", "int found, a mapping expected"),
        ("{memory_alocation: 5}", "no setting 'memory_alocation', expected some of compute_allocation, memory_alloc"),
        ("{memory_allocation: 5 potatoes}", "'5 potatoes' is not a number, and one of b, kb"),
        ("{freezing_threshold: 0.3}", "is not a whole number"),
        ("{compute_allocation: [5]}", "list is not a number with a unit"),
        ("{log_visibility: everybody}", "log_visibility 'everybody', expected controllers, public"),
        ("{controllers: me}", "'me' is not a list of principals or names"),
        ("{environment_variables: [A]}", "environment_variables: list found"),
        ("{environment_variables: {A: {file: x}}}", "expected a text or {path: FILE}"),
    ],
)
def test_settings_that_are_none(tmp_path, settings, message):
    write(tmp_path, "icp.yaml", f"canisters:\n{FINE}\n- {{name: a, settings: {settings}}}")
    with pytest.raises(MalformedError) as caught:
        Project.find(tmp_path).canister("a").settings()
    assert caught.value.message.startswith("settings of canister 'a': ")
    assert message in caught.value.message


def test_settings_of_dfx(tmp_path):
    write(tmp_path, "dfx.json", '{"canisters": {"a": {"initialization_values": {"memory_allocation": "2 GiB"}}}}')
    assert Project.find(tmp_path).canister("a").settings().amounts == {"memory_allocation": 2 << 30}


ENVIRONMENTS = """
canisters:
  - {name: a, init_args: "(1)", settings: {compute_allocation: 5, environment_variables: {A: "1", B: "1"}}}
  - {name: b}
networks:
  - {name: testnet, mode: connected, url: "https://example.org"}
environments:
  - name: staging
    canisters: [a]
    settings: {a: {freezing_threshold: 2, environment_variables: {B: "2"}}}
    init_args: {a: "(2)"}
  - {name: production, network: ic}
  - {name: test, network: testnet}
  - more.yaml
"""


def test_environments(tmp_path):
    write(tmp_path, "icp.yaml", ENVIRONMENTS)
    write(tmp_path, "more.yaml", "name: more")
    assert list(Project.find(tmp_path).canisters) == ["a", "b"]
    assert list(Project.find(tmp_path, "more").canisters) == ["a", "b"]
    staging = Project.find(tmp_path, "staging")
    assert list(staging.canisters) == ["a"]
    settings = staging.canister("a").settings()
    assert settings.amounts == {"compute_allocation": 5, "freezing_threshold": 2}
    assert settings.variables == {"A": "1", "B": "2"}
    assert staging.canister("a").init_args() == "(2)"
    for name, network in (("production", "ic"), ("ic", "ic"), ("test", "testnet")):
        with pytest.raises(UnsupportedError, match=f"is on the network '{network}', and perdure runs canisters here"):
            Project.find(tmp_path, name)
    with pytest.raises(MalformedError, match="no environment 'stagin', it has local, staging, production, test, more"):
        Project.find(tmp_path, "stagin")


@pytest.mark.parametrize(
    "name", ["", "\n", "a\n", "a b", "--help", "-e", "x" * 110, "a/b", "../a", "a:b", "é", "2vxsx-fae"]
)
def test_names_that_are_none(name):
    with pytest.raises(MalformedError, match="canister name"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "internet_identity", "my-canister", "x" * 109, "0"])
def test_names(name):
    assert check_name(name) == name


def test_aliases_do_not_make_messages_endless(tmp_path):
    lines = "".join(f"- &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 40))
    write(
        tmp_path,
        "icp.yaml",
        f"x:\n- &a0 [0]\n{lines}canisters:\n- {{name: a, settings: *a39, init_args: *a39}}\n- *a39\n",
    )
    project = Project.find(tmp_path)
    with pytest.raises(MalformedError, match="settings of canister 'a': list found"):
        project.canister("a").settings()
    with pytest.raises(MalformedError, match="list found"):
        project.canister("a").init_args()
    with pytest.raises(MalformedError, match="list found"):
        project.canister("[1]")
