"""Code that is no Wasm costs those nothing who have none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from perdure.python import blank
from perdure.python.catalogue import AbsentModule, Catalogue


def test_subnets_without_such_canisters_import_nothing_for_them() -> None:
    script = (
        "import sys, perdure.subnet; print([m for m in sys.modules if m.startswith(('perdure.python', 'perdure.st'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "perdure.python.catalogue" in done.stdout
    for name in ("perdure.python.module", "perdure.python.instance", "perdure.stable.btree"):
        assert name not in done.stdout


def test_a_schema_that_does_not_read_leaves_an_absent_module() -> None:
    wasm = blank.empty_module(blank.sections("no_such_module:Class", bytes(32), b"no schema", ""))
    found = Catalogue().find(wasm, look=True)
    assert isinstance(found, AbsentModule)
    assert "there is no module no_such_module" in found.absent
    assert found.exported_methods == frozenset()
    assert Catalogue().find(b"\0asm\1\0\0\0") is None


def test_names_that_are_no_modules() -> None:
    for place in ("../evil:Class", "a..b:Class", ":Class", "shop", "os:system", "antigravity:Fly", "this:Class"):
        wasm = blank.empty_module(blank.sections(place, bytes(32), b"", ""))
        found = Catalogue().find(wasm, look=True)
        assert found is not None
        assert "tried to import" in found.absent
    assert "antigravity" not in sys.modules
    assert "this" not in sys.modules


def test_one_class_is_as_good_as_a_list_of_one() -> None:
    from perdure.kit import canister

    @canister
    class Alone:
        pass

    wasm = Alone.__canister_module__().wasm  # type: ignore[attr-defined]
    for given in (Alone, [Alone]):
        assert Catalogue(given).find(wasm) is Alone.__canister_module__()  # type: ignore[attr-defined]
    for wrong in (object, "Alone"):
        with pytest.raises(TypeError, match=r"is no module, no path, and no class made a canister"):
            Catalogue(wrong)
