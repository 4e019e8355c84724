"""Python out of Candid: what type checkers take, whatever the names are, and what does the calls."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mypy import api

from perdure import Principal, Subnet
from perdure.candid.service import load
from perdure.candid.subtyping import equal_types
from perdure.kit.bindgen import bindings, interface_text

WILD = """
type list = record { bytes : blob; "class" : text; "two words" : opt nat; list : opt list; __secret : nat8 };
type Result = variant { Ok : record { id : nat; who : principal }; Err : text; "9" };
type Tree = variant { leaf; node : record { left : Tree; right : Tree } };
type Pair = record { text; vec Pair };
type Nested = opt opt nat;
type Callback = func (nat) -> (nat) query;
type Empty = variant {};
type DID = nat; type str = int; type Any = reserved;
service : (list, opt Result) -> {
  list : (list) -> (vec list) query;
  "def" : (from : principal, "to" : nat64, nat) -> (Result);
  "say \\"hi\\" \\\\" : () -> (text, nat, Pair) composite_query;
  as_ : (Tree, Nested, Callback, Any) -> (DID, str);
  install : (record { 0 : nat; 7 : nat }) -> () oneway;
  __init__ : (Empty) -> ();
  odd : (variant { a : record { b : variant { c; d : float64 } } }) -> (service { x : () -> () });
}
"""


STUB = """
from typing import Any
class Principal:
    def __init__(self, raw_bytes: bytes) -> None: ...
ANONYMOUS: Principal
class Canister:
    def actor(self, sender: Principal = ..., *, candid: str | None = None) -> Any: ...
class Subnet:
    def install(self, wasm: Any, arg: Any = None) -> Canister: ...
"""


def imported(text: str, name: str) -> ModuleType:
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(text, name, "exec"), module.__dict__)
    return module


@pytest.mark.slow
def test_type_checkers_take_whatever_names_there_are(tmp_path, monkeypatch):
    (tmp_path / "wild.py").write_text(bindings(load(WILD), 'wild "names"', "Wild"))
    (tmp_path / "use.py").write_text(
        """
from perdure import Principal, Subnet
from wild import Wild

found = Wild.install(Subnet(), b"", {"bytes": b"", "class": "", "two words": 1, "list": None, "__secret": 1}, None)
found.list({"bytes": b"", "class": "", "two words": 1, "list": None, "__secret": 1})[0]["bytes"].hex()
result = found.def_(Principal(b""), 5, 6)
number: int = result["Ok"]["id"]  # not of every case
found.def_("nobody", 5, 6)
found.as_(Principal(b"")).odd({"a": {"b": {"d": 1.5}}})
"""
    )
    # What the module needs of perdure, in a few lines: mypy would take a minute for all of it.
    (tmp_path / "perdure" / "candid").mkdir(parents=True)
    (tmp_path / "perdure" / "__init__.pyi").write_text(STUB)
    (tmp_path / "perdure" / "candid" / "__init__.pyi").write_text("class MethodRef: ...\nclass Some: ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MYPYPATH", str(tmp_path))
    options = ["--strict", "--no-error-summary", "--config-file", "", "--cache-dir", str(tmp_path / "cache")]
    told, errors, _ = api.run([*options, "wild.py", "use.py"])
    assert errors == ""
    lines = [line.split(":")[:2] for line in told.splitlines() if "error" in line]
    assert {tuple(line) for line in lines} == {("use.py", "8"), ("use.py", "9")}, told


@pytest.mark.slow
def test_pyright_takes_them_too(tmp_path, npm_folder):
    pyright = npm_folder("pyright", "pyright@1.1.414") / "node_modules" / ".bin" / "pyright"
    use = """
from perdure import Principal, Subnet
from wild import Wild

found = Wild.install(Subnet(), b"", {"bytes": b"", "class": "", "two words": 1, "list": None, "__secret": 1}, None)
found.list({"bytes": b"", "class": "", "two words": 1, "list": None, "__secret": 1})[0]["bytes"].hex()
found.def_("nobody", 5, 6)
found.as_(Principal(b"")).odd({"a": {"b": {"d": 1.5}}})
"""
    (tmp_path / "wild.py").write_text(bindings(load(WILD), "wild", "Wild"))
    (tmp_path / "use.py").write_text(use)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    command = [pyright, "--outputjson", "--pythonpath", sys.executable, "-p", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    told = json.loads(done.stdout)["generalDiagnostics"]
    found = {(Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["severity"]) for one in told}
    assert found == {("use.py", 7, "error")}, told


def test_the_interface_is_the_same():
    service = load(WILD)
    again = load(interface_text(service))
    assert equal_types(service.type, again.type)
    assert len(again.init) == 2


def test_calls_go_to_the_canister(built):
    from perdure.candid.service import load as load_did

    with Subnet() as subnet:
        installed = subnet.install(built("motoko_classical_v1"))
        module = imported(bindings(installed.service(), "counter", "Counter"), "typed_counter")
        alice = Principal.self_authenticating(b"alice")
        counter = module.Counter(installed)
        assert counter.inc() == 1
        assert counter.put("a", 5) is None
        assert counter.get("a") == 5
        assert counter.as_(alice).whoami() == alice
        second = module.Counter.install(subnet, built("motoko_classical_v1"))
        assert second.inc() == 1
        assert load_did(module.DID).methods.keys() == installed.service().methods.keys()


OWN = ("_actor", "_b", "_os", "_perdure", "_t", "_MethodRef", "_Some", "result_")
"""What the module's own code is written with."""


@pytest.mark.slow
def test_no_name_hides_what_the_module_is_made_with(tmp_path, monkeypatch):
    fields = "; ".join(f"{name} : opt bool" for name in OWN)
    named = ", ".join(f"{name} : bool" for name in OWN)
    methods = "; ".join(f"{name} : ({named}) -> (R, opt record {{ {name} : bool }})" for name in OWN)
    methods += '; "class" : (class, install) -> ()'
    types = f"type R = record {{ {fields}; m : func () -> () }}; type install = opt R; type class = vec R"
    text = f"{types}; service : ({named}) -> {{ {methods} }}"
    (tmp_path / "hiding.py").write_text(bindings(load(text), "hiding", "Hiding"))
    (tmp_path / "perdure" / "candid").mkdir(parents=True)
    (tmp_path / "perdure" / "__init__.pyi").write_text(STUB)
    (tmp_path / "perdure" / "candid" / "__init__.pyi").write_text("class MethodRef: ...\nclass Some: ...\n")
    monkeypatch.setenv("MYPYPATH", str(tmp_path))
    options = ["--strict", "--no-error-summary", "--config-file", "", "--cache-dir", str(tmp_path / "cache")]
    told, errors, code = api.run([*options, str(tmp_path / "hiding.py")])
    assert (told, errors, code) == ("", "", 0)


def test_fields_are_keys_as_they_are_written():
    module = imported(
        bindings(load('service : { f : (record { "ﬁ" : nat; fi : nat }) -> () }'), "", "Any"), "typed_keys"
    )
    (keys,) = (one.__annotations__.keys() for one in vars(module).values() if hasattr(one, "__total__"))
    assert sorted(keys) == ["fi", "ﬁ"]


def test_a_method_called_as_the_actor_is():
    module = imported(bindings(load("service : { _actor : () -> (nat) }"), "", "Any"), "typed_own")

    class Fake:
        def actor(self, sender, candid):
            return {"_actor": lambda: 5}

    assert module.Any(Fake())._actor_() == 5


NAMES = st.text(min_size=1, max_size=12)


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True), NAMES, NAMES)
@settings(max_examples=60, deadline=None)
def test_no_name_breaks_out(methods, label, docs):
    quoted = [f'"{_escaped(name)}" : (record {{ "{_escaped(label)}" : nat }}) -> (text)' for name in methods]
    comment = "".join(char for char in docs if char.isprintable())
    text = f"// {comment}\nservice : {{ {'; '.join(quoted)} }}"
    tree = ast.parse(bindings(load(text), docs, "Any"))
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.bases]
    functions = [node.name for node in found.body if isinstance(node, ast.FunctionDef)]
    assert len(functions) == len(set(functions)) == len(methods) + 3
    outside = (ast.ImportFrom, ast.Import, ast.ClassDef, ast.Assign, ast.AnnAssign)
    assert all(isinstance(node, outside) or ast.unparse(node).startswith(("'", '"')) for node in tree.body)


def _escaped(name: str) -> str:
    return "".join(f"\\u{{{ord(char):x}}}" for char in name)


def test_a_did_file(tmp_path):
    path = Path(tmp_path / "kv.did")
    path.write_text("service : { get : (text) -> (opt nat) query }")
    text = bindings(load(path.read_text()), "kv", "Kv")
    assert "def get(self, arg0: str) -> int | None:" in text
