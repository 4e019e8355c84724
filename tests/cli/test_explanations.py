"""Every code of an error has a page, and the page's example makes that error."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from perdure import PerdureError
from perdure.cli.explanations import explanations

EXPLANATIONS = explanations()
ROOT = Path(__file__).parents[2]


def codes_in(text: str) -> set[str]:
    """What a file gives to `coded`, or to an error's class."""
    return {*re.findall(r"\.coded\(\s*\"([^\"]+)\"", text), *re.findall(r"^ +error_code = \"([^\"]+)\"", text, re.M)}


def test_every_code_has_a_page_and_every_page_a_code():
    used = set().union(*(codes_in(path.read_text(encoding="utf-8")) for path in (ROOT / "src").rglob("*.py")))
    assert {code for code in EXPLANATIONS if not code.startswith("IC")} == used


@pytest.fixture
def modules():
    """Those that are there, as before at the end."""
    before = dict(sys.modules)
    yield
    for name in {*sys.modules} - {*before}:
        if name.startswith("explained_"):
            del sys.modules[name]
    sys.modules.update({name: one for name, one in before.items() if sys.modules.get(name) is None})


@pytest.mark.parametrize("code", [code for code in EXPLANATIONS if code != "bug"])
def test_the_example_makes_the_error(code, tmp_path, monkeypatch, modules):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    importlib.invalidate_caches()
    names: dict[str, object] = {"__name__": "__main__"}
    with pytest.raises(PerdureError) as caught:
        exec(compile(EXPLANATIONS[code].example, code, "exec"), names)
    assert caught.value.error_code == code
    if getattr(caught.value, "__notes__", None):
        assert caught.value.__notes__ == [f"`perdure explain {code}` says more"]


def test_only_a_bug_has_no_example():
    assert [code for code, one in EXPLANATIONS.items() if not one.example] == ["bug"]


def test_the_page_is_what_is_rendered():
    spec = importlib.util.spec_from_file_location("render_errors", ROOT / "tools/render_errors.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (ROOT / "docs/errors.md").read_text(encoding="utf-8") == tool.render()


def test_the_command(perdure):
    out, _ = perdure("explain", "no-interface")
    assert "no-interface: Nobody says which methods the canister has" in out
    assert "To do: Add `ic_cdk::export_candid!()`" in out
    assert json.loads(perdure("explain", "ic0503", "--json")[0])["title"] == EXPLANATIONS["IC0503"].title
    assert "Canister queue full." in perdure("explain", "IC0201")[0]
    assert list(json.loads(perdure("explain", "--json")[0])) == [*EXPLANATIONS]
    assert len(perdure("explain")[0].splitlines()) == len(EXPLANATIONS)
    assert "no code 'no-interfaces', did you mean 'no-interface'?" in perdure("explain", "no-interfaces", code=2)[1]


def test_a_command_that_fails_names_the_page(perdure):
    Path("shop.py").write_text("from perdure import Subnet\n")
    _, err = perdure("stable", "ls", "shop.py", code=2)
    assert err.endswith("\n  `perdure explain not-a-memory` says more\n")
