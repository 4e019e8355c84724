"""The committed modules are what the recipes say, and the universal canister and its builder agree on every opcode."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


def load(path: Path) -> ModuleType:
    """A module that lies beside the tests and is no package."""
    spec = importlib.util.spec_from_file_location(f"canisters_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = load(HERE / "build.py")
universal = load(HERE / "universal" / "universal.py")
HASHES = json.loads((HERE / "hashes.json").read_text())


def plain(name: str) -> bytes:
    return build.committed(build.ROOT / HASHES[name]["file"])


def test_every_recipe_is_recorded_and_nothing_else_is_committed() -> None:
    assert sorted(HASHES) == sorted(recipe.name for recipe in build.RECIPES)
    files = {path.relative_to(build.ROOT).as_posix() for path in HERE.glob("modules*/*")}
    assert files == {entry["file"] for entry in HASHES.values() if "tests/" in entry["file"]}


@pytest.mark.parametrize("name", sorted(HASHES))
def test_module_has_the_recorded_hash_and_imports_what_it_may(name: str) -> None:
    module = plain(name)
    (recipe,) = (recipe for recipe in build.RECIPES if recipe.name == name)
    assert (len(module), hashlib.sha256(module).hexdigest()) == (HASHES[name]["size_bytes"], HASHES[name]["sha256"])
    assert {("ic0", 0)} <= {(space, kind) for space, _, kind in build.imports(module)} <= {*product(recipe.imports, [0])}


def test_no_module_holds_a_path_of_the_machine_that_built_it() -> None:
    for name in HASHES:
        assert str(build.ROOT).encode() not in plain(name), name


def test_readme_names_every_module() -> None:
    readme = (HERE / "README.md").read_text()
    named = set(re.findall(r"`(\w+)`", readme.split("## Toolchains")[0]))
    named |= {f"{name}_v2" for name in ("motoko_classical", "motoko_eop")}
    assert set(HASHES) <= named


def listed_functions() -> list[str]:
    text = (HERE / "universal" / "functions.h").read_text()
    return re.findall(r"^FUNCTION(?:32)?\((\w+),", text, re.MULTILINE)


def test_builder_and_machine_list_the_same_functions() -> None:
    assert list(universal.FUNCTIONS) == listed_functions()
    assert len(set(universal.FUNCTIONS)) == 74


def test_builder_and_machine_number_the_same_instructions() -> None:
    source = (HERE / "universal" / "universal.c").read_text()
    body = re.sub(r"/\*.*?\*/", "", source.split("enum instruction {")[1].split("}")[0], flags=re.DOTALL)
    names = [name.strip() for name in body.split(",")]
    assert names == [*universal.Instruction.__members__, "INSTRUCTIONS"]


@pytest.mark.parametrize(("name", "missing"), [("universal32", frozenset()), ("universal64", universal.FUNCTIONS_32)])
def test_universal_canister_imports_all_functions_of_its_heap(name: str, missing: frozenset[str]) -> None:
    assert {field for _, field, _ in build.imports(plain(name))} == set(universal.FUNCTIONS) - missing


def test_each_function_has_a_method_that_ends_in_its_opcode() -> None:
    for position, name in enumerate(universal.FUNCTIONS):
        operands = [0] * (getattr(universal.Program, name).__code__.co_argcount - 1)
        assert bytes(getattr(universal.Program(), name)(*operands))[-1] == universal.FIRST_FUNCTION + position


def test_driver_and_structures_canister_number_the_same_operations() -> None:
    driver = load(HERE / "rust" / "structures" / "structures.py")
    source = (HERE / "rust" / "structures" / "src" / "structure.rs").read_text()
    constants = re.findall(r"^(?:pub )?const (\w+): u8 = (\w+);", source, re.MULTILINE)
    assert {name: int(value, 0) for name, value in constants} == dict(driver.Opcode.__members__)


def test_driver_splits_what_it_puts_together() -> None:
    driver = load(HERE / "rust" / "structures" / "structures.py")
    sized = driver.operation(7, driver.Opcode.INSERT, b"key", b"value")[2:]
    assert driver.pairs(sized) == [(b"key", b"value")]
    assert driver.optional_pair(b"\1" + sized) == (b"key", b"value")
    assert driver.optional_pair(b"\0") is None
