"""Motoko's stable types: what the compiler says of two of them, we say too, over a grid of types."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest

from perdure.errors import MalformedError
from perdure.values.motoko_types import compare_stable_types, parse_stable_types

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACKAGE = "motoko@4.10.0"

TYPES = [
    "Nat", "Int", "Nat8", "Nat16", "Float", "Text", "Blob", "Bool", "Char", "Principal", "Any", "None",
    "Null", "Region", "?Nat", "?Int", "??Nat", "[Nat]", "[Int]", "[var Nat]", "[var Int]", "()", "(Nat, Nat)",
    "(Nat, Int)", "(Nat, Nat, Nat)", "{}", "{a : Nat}", "{a : Int}", "{var a : Nat}", "{a : Nat; b : Text}",
    "{a : Nat; b : ?Text}", "{#a}", "{#a; #b}", "{#a : Nat; #b}", "{#a : Int; #b}", "[{a : Nat}]",
    "[var {a : Nat}]", "[var {a : Nat; b : Text}]", "actor {}", "actor {g : shared () -> async ()}",
    "actor {g : shared query () -> async ()}", "shared Nat -> async Int", "shared Int -> async Nat",
    "shared query Nat -> async Int", "shared Nat -> ()", "weak {a : Nat}", "weak {}", "L<Nat>", "L<Int>",
    "Tree", "?(Nat, L<Nat>)", "{l : Tree}",
]  # fmt: skip
HEAD = "// Version: 1.0.0\ntype L<A> = ?(A, L<A>);\ntype Tree = {#leaf; #node : {l : Tree; r : Tree; v : Nat}};\n"


def most(type_: str) -> str:
    return f"{HEAD}actor {{\n  stable var v : {type_}\n}};\n"


def ours(before: str, after: str) -> list[str]:
    return sorted({one.code for one in compare_stable_types(parse_stable_types(before), parse_stable_types(after))})


@pytest.mark.slow
def test_the_compiler_says_the_same_over_a_grid_of_types():
    if shutil.which("node") is None or shutil.which("npm") is None:
        if os.environ.get("CI"):
            pytest.fail("node is missing")
        pytest.skip("needs node")
    directory = ROOT / "build" / "canisters" / ("npm-" + PACKAGE.replace("@", "-"))
    if not (directory / "node_modules" / "motoko").exists():
        directory.mkdir(parents=True, exist_ok=True)
        words = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", PACKAGE]
        subprocess.run(words, cwd=directory, check=True, capture_output=True)
    pairs = [(most(old), most(new)) for old, new in product(TYPES, TYPES)]
    done = subprocess.run(
        ["node", str(HERE / "stable_compatible.cjs")],
        cwd=directory, input=json.dumps(pairs), capture_output=True, text=True, check=True,
    )  # fmt: skip
    theirs = [sorted(set(codes)) for codes in json.loads(done.stdout)]
    differ = []
    for (old, new), (before, after), expected in zip(product(TYPES, TYPES), pairs, theirs, strict=True):
        found = ours(before, after)
        # A type that is no subtype and would lose data besides: the compiler tells the first only.
        told = ["M0170"] if "M0170" in found else found
        if told != expected:
            differ.append((old, new, found, expected))
    assert len(theirs) == len(TYPES) ** 2
    assert differ == []


def test_variables_may_come_and_not_go():
    one, two = "actor { stable a : Nat }", "actor { stable a : Nat; stable var b : Text };"
    assert ours(one, two) == []
    assert ours(two, one) == ["M0169"]


def test_a_migration_takes_what_it_says():
    new = "actor ({ in var x : Nat; stable var z : Text }, { stable var y : Int; stable var z : Text });"
    assert ours("actor { stable var x : Nat; stable z : Text }", new) == []
    assert ours("actor { stable z : Text }", new) == ["M0255"]
    assert ours("actor { stable var x : Nat; stable var w : Nat; stable z : Text }", new) == ["M0169"]


def test_types_are_printed_as_they_are_written():
    types = parse_stable_types(most("{a : [var ?L<Nat>]; var b : {#x; #y : (Nat, Text)}}"))
    assert str(types.variables["v"].type) == "{a : [var ?L<Nat>]; var b : {#x; #y : (Nat, Text)}}"


NONE = [
    "",
    "actor",
    "actor {",
    "actor { stable x }",
    "actor { stable x : }",
    "actor { stable x : " + "?" * 5_000 + "Nat }",
    "type T = T; actor { stable x : T }",
    "actor { stable x : @ }",
    "actor {} {}",
]


@pytest.mark.parametrize("text", NONE)
def test_what_is_none_is_refused(text):
    with pytest.raises(MalformedError):
        _resolved(text)


def _resolved(text):
    types = parse_stable_types(text)
    return types.resolve(types.variables["x"].type)


def test_an_actor_is_kept_whatever_methods_its_type_has():
    def types(type_: str):
        return parse_stable_types(most(type_))

    wide, narrow = "actor {f : shared () -> async (); g : shared () -> async ()}", "actor {f : shared () -> async ()}"
    (fewer,) = compare_stable_types(types(f"?{wide}"), types(f"?{narrow}"))
    assert (fewer.code, fewer.message, fewer.drops_data) == ("M0216", "field g is gone", False)
    (lost,) = compare_stable_types(types("{a : Nat; b : Text}"), types("{a : Nat}"))
    assert lost.drops_data
