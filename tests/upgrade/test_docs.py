"""The story of docs/upgrades.md runs as it is printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from scenarios import ROOT, filled, listed, motoko, rust

from perdure import Principal, Subnet
from perdure.cli import main
from perdure.storage.names import Names

TEXT = (ROOT / "docs" / "upgrades.md").read_text(encoding="utf-8") if (ROOT / "docs" / "upgrades.md").exists() else ""
BUILDS = {"v2": "r", "swapped": "c", "encoding": "e", "recreated": "f", "oneway": "o", "argument": "j"}
"""What the page calls a build, and the version of the test canister that it is."""
SCHEMAS = {
    "stable-1.yaml": "memories: {0: {name: users, kind: btreemap, key: u64, value: cbor}}",
    "stable-2.yaml": "memories: {0: {name: people, kind: btreemap, key: u64, value: cbor},"
    " 1: {name: events, kind: vec, value: u64}}",
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The canister of the page, in .perdure, and the builds that it may be upgraded to."""
    monkeypatch.chdir(tmp_path)
    with Subnet(".perdure", history=None) as subnet:
        canister = subnet.install(rust("a")(), canister_id=Principal.from_index(0))
        filled(canister)
    names = Names(tmp_path / ".perdure")
    names.ids["shop"] = str(canister.id)
    names.save()
    for name, text in SCHEMAS.items():
        (tmp_path / name).write_text(text)
    for name, letter in BUILDS.items():
        (tmp_path / f"{name}.wasm").write_bytes(rust(letter)())
    (life,) = re.findall(r"^```yaml life\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    (tmp_path / "life.yaml").write_text(life)
    return tmp_path


@pytest.fixture
def guests(shop: Path) -> None:
    """The snapshot of a Motoko canister."""
    canister = Subnet().install(motoko("eop_1")())
    listed(canister)
    canister.write_snapshot(shop / "guests")


def examples() -> list[tuple[str, str, int]]:
    """Command, expected output and exit code of each example."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, rest = example.partition("\n")
            expected, _, code = rest.partition("(exit code ")
            found.append((command, expected.rstrip("\n"), int(code.rstrip(")\n") or 0)))
    return found


def test_the_commands_print_what_the_page_says(shop, guests, capsys, monkeypatch):
    shown = examples()
    assert len(shown) >= 5
    for command, expected, code in shown:
        words = shlex.split(command)
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        out = "\n".join(line.rstrip() for line in capsys.readouterr().out.rstrip("\n").split("\n"))
        assert (out, int(ended.value.code or 0)) == (expected, code), command


def test_the_python_runs(shop):
    for block in re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        exec(block, {})


def test_the_workflow_and_the_recording_are_what_they_look_like(shop):
    (workflow,) = re.findall(r"^```yaml workflow\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    (step,) = yaml.safe_load(workflow)
    assert step["run"].startswith("perdure upgrade-check")
    (lines,) = re.findall(r"^```json recording\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    (shop / "calls.jsonl").write_text(lines)
    from perdure.upgrade import check

    report = check(".perdure:shop", "v2.wasm", replay="calls.jsonl")
    assert report.calls["replay"] == 2
    assert report.verdict == "safe"
    assert check(".perdure:shop", "v2.wasm", replay="history").calls["replay"] == 122


def test_the_guards_are_those_that_the_test_canisters_are_built_from():
    rust_text = (ROOT / "tests/canisters/rust/guarded/src/guard.rs").read_text(encoding="utf-8")
    motoko_text = (ROOT / "tests/canisters/motoko/guarded_eop_1.mo").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^```(rust|motoko) guard\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
    assert shown["rust"] == rust_text
    assert shown["motoko"] in motoko_text
