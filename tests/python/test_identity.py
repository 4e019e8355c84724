"""What modules are called and where they are, without running any."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from perdure.python.identity import file_of, is_own, module_name, module_of, name_of


class Nested:
    class Inner:
        pass


def test_names() -> None:
    assert name_of(Nested.Inner) == f"{__name__}:Nested.Inner"
    assert module_name("json.decoder") == module_of("json.decoder") == "json.decoder"


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"__file__": "/somewhere/shop.py"}, "shop"),
        ({"__file__": "/somewhere/my-shop.py"}, "__main__"),
        ({}, "__main__"),
    ],
)
def test_a_script_is_called_as_it_is_imported(
    monkeypatch: pytest.MonkeyPatch, facts: dict[str, str], name: str
) -> None:
    main = ModuleType("__main__")
    main.__dict__.update(facts)
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert module_name("__main__") == name
    assert module_of(name) == "__main__"


def test_files_are_found_without_running_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package").mkdir()
    for name in ("lone.py", "package/__init__.py", "package/inner.py"):
        (tmp_path / name).write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert file_of("lone") == tmp_path / "lone.py"
    assert file_of("package") == tmp_path / "package/__init__.py"
    assert file_of("package.inner") == tmp_path / "package/inner.py"
    for name in ("lone.inner", "package.nothing", "no_such_module", "sys"):
        assert file_of(name) is None
    assert not {"lone", "package", "package.inner"} & sys.modules.keys()


def test_folders_without_an_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outermost/inner").mkdir(parents=True)
    (tmp_path / "outermost/inner/shop.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert file_of("outermost.inner.shop") == tmp_path / "outermost/inner/shop.py"
    assert file_of("outermost.nothing.shop") is None
    assert is_own("outermost.other", "outermost.inner.shop")
    for name in [one for one in sys.modules if one.startswith("outermost")]:
        del sys.modules[name]


def test_what_belongs_to_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert is_own("one", "two")
    assert is_own("json.decoder", "json.encoder")
    for other in ("json", "pytest", "perdure.kit", "sys", "no_such_module"):
        assert not is_own("one", other)
    assert not is_own("pytest", "cbor2")  # side by side where packages are installed
