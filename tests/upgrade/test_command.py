"""`perdure upgrade-check`, and what `perdure canister install` says before an upgrade."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from html import unescape
from pathlib import Path

import pytest
from scenarios import filled, interface, listed, motoko, rust, without_export

from perdure import Subnet
from perdure.cli import main
from perdure.subnet import Canister


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "swapped.wasm").write_bytes(rust("c")())
    (tmp_path / "fine.wasm").write_bytes(rust("r")())
    return tmp_path


@pytest.fixture
def state(tmp_path: Path) -> tuple[Path, Canister]:
    path = tmp_path / "state"
    with Subnet(path) as subnet:
        canister = subnet.install(rust("a")())
        filled(canister)
    return path, canister


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["perdure", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    code = ended.value.code
    return code if isinstance(code, int) else 0, out, err


def digest(path: Path) -> dict[str, str]:
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def test_a_state_directory_is_checked_and_not_touched(capsys, monkeypatch, files, state):
    path, canister = state
    before = digest(path)
    html, junit = files / "report.html", files / "report.xml"
    source = f"{path}:{canister.id}"
    code, out, _ = run(
        capsys, monkeypatch, "upgrade-check", source, files / "swapped.wasm", "--json", "--html", html, "--junit", junit
    )
    assert code == 1
    report = json.loads(out)
    assert report["verdict"] == "breaking"
    assert report["findings"][0]["code"] == "ids-swapped"
    assert digest(path) == before
    page = html.read_text(encoding="utf-8")
    assert "user 1" not in page
    assert "<dt>before<dd>memory 1<dt>after<dd>memory 2" in page
    assert "http:" not in page
    assert "https:" not in page
    assert "<script" not in page
    suites = ET.parse(junit).getroot()
    assert suites[0].get("failures") == "2"
    assert run(capsys, monkeypatch, "upgrade-check", source, files / "fine.wasm")[0] == 0


@pytest.mark.parametrize(
    ("letter", "value", "options"),
    [
        ("e", "(68, 73) right: (120, 20)", ()),
        ("o", "cannot decode a user", ("--require-way-back",)),
    ],
)
def test_pages_show_what_data_says_only_if_asked_to(capsys, monkeypatch, tmp_path, state, letter, value, options):
    path, canister = state
    (tmp_path / "new.wasm").write_bytes(rust(letter)())
    words = ("upgrade-check", f"{path}:{canister.id}", tmp_path / "new.wasm", "--quiet", *options)
    for shown in ((), ("--show-values",)):
        files = "--html", tmp_path / "page.html", "--junit", tmp_path / "report.xml"
        assert run(capsys, monkeypatch, *words, *files, *shown) == (1, "", "")
        page, junit = Path(files[1]).read_text(encoding="utf-8"), Path(files[3]).read_text(encoding="utf-8")
        for text in (unescape(page), unescape(junit)):
            assert (value in text) == bool(shown)
            assert "user 0" not in text or shown
            assert "(not shown)" in text or shown
            assert "upgraded/src/maps.rs:" in text


def test_a_snapshot_is_checked(capsys, monkeypatch, files, tmp_path):
    canister = Subnet().install(rust("a")())
    filled(canister)
    snapshot = tmp_path / "snapshot"
    canister.write_snapshot(snapshot)
    code, out, _ = run(capsys, monkeypatch, "upgrade-check", snapshot, files / "swapped.wasm")
    assert code == 1
    assert "get_order reads memory 2 now, and its data is in memory 1" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere", "fine.wasm"), "no such snapshot or state directory"),
        (("state:nobody", "fine.wasm"), "no canister 'nobody' in it, found"),
        (("fine.wasm", "fine.wasm"), "has no module"),
        (("state", "fine.wasm"), "name a canister of a state directory"),
        (("state:X", "missing.wasm"), "does not exist"),
    ],
)
def test_what_cannot_be_checked_is_an_error_of_its_own(capsys, monkeypatch, files, state, words, said):
    monkeypatch.chdir(files)
    code, _, err = run(capsys, monkeypatch, "upgrade-check", *words)
    assert code == 2
    assert said in err


def test_an_upgrade_says_what_it_may_break_and_goes_on(capsys, monkeypatch, files, state):
    path, canister = state
    words = ("canister", "install", str(canister.id), "--wasm", files / "swapped.wasm", "--state", path)
    code, out, err = run(capsys, monkeypatch, *words, "--mode", "upgrade")
    assert code == 0
    assert out.startswith("upgrade ")
    assert "breaking: get_order reads memory 2 now" in err
    code, _, err = run(capsys, monkeypatch, *words, "--mode", "upgrade", "--no-check")
    assert (code, err) == (0, "")


def test_a_fixture_fails_the_test(files):
    canister = Subnet().install(rust("a")())
    filled(canister)
    canister.write_snapshot(files / "snapshot")
    (files / "test_it.py").write_text(
        "def test_fine(check_upgrade):\n"
        "    assert check_upgrade('snapshot', 'fine.wasm').verdict == 'safe'\n\n"
        "def test_swapped(check_upgrade):\n"
        "    check_upgrade('snapshot', 'swapped.wasm')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(files), str(files)]
    done = subprocess.run(command, cwd=files, capture_output=True, text=True, check=False, timeout=300)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "ids-swapped" in done.stdout


def test_what_is_no_module_no_interface_or_in_python_is_not_checked(capsys, monkeypatch, files, state):
    path, canister = state
    source = f"{path}:{canister.id}"
    (files / "no.wasm").write_bytes(b"hello")
    (files / "empty.wasm").write_bytes(b"")
    (files / "no.did").write_text("hello")
    for new, *options in (("no.wasm",), ("empty.wasm",), ("fine.wasm", "--candid"), ("fine.wasm", "--old-candid")):
        given = [*options, files / "no.did"] if options else []
        code, out, err = run(capsys, monkeypatch, "upgrade-check", source, files / new, *given)
        assert (code, out) == (2, "")
        assert ("interface" if options else "no Wasm module") in err
    (files / "shop.py").write_text(
        "from perdure.kit import canister, update\n@canister\nclass Shop:\n    @update\n"
        "    def hello(self) -> str:\n        return 'hello'\n"
    )
    monkeypatch.syspath_prepend(str(files))
    import shop

    with Subnet(files / "shops") as subnet:
        made = subnet.install(shop.Shop)
    code, _, err = run(capsys, monkeypatch, "upgrade-check", f"{files / 'shops'}:{made.id}", files / "fine.wasm")
    assert code == 2
    assert "a canister in Python is not rehearsed" in err


def test_what_a_module_declares_is_embedded_and_held_against_the_next_one(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    users = "memories: {0: {name: users, kind: btreemap, key: u64, value: text}}"
    Path("one.yaml").write_text(users)
    Path("two.yaml").write_text(users.replace("text", "u64"))
    Path("plain.wasm").write_bytes(rust("a")())
    for name in ("one", "two"):
        code, out, _ = run(capsys, monkeypatch, "stable", "embed", f"{name}.yaml", "plain.wasm", "-o", f"{name}.wasm")
        assert code == 0
        assert "icp:public perdure:schema" in out
    again = run(capsys, monkeypatch, "stable", "embed", "one.yaml", "two.wasm", "-o", "again.wasm", "--quiet")
    assert again == (0, "", "")
    assert Path("again.wasm").read_bytes() == Path("one.wasm").read_bytes()
    install = ("canister", "install", "shop", "--state", "state", "--no-check", "--wasm")
    assert run(capsys, monkeypatch, *install, "one.wasm", "--extension", "schema")[0] == 0
    code, _, err = run(capsys, monkeypatch, *install, "two.wasm")
    assert code == 1
    assert "it was btreemap, key u64, value text, it is btreemap, key u64, value u64" in err
    assert run(capsys, monkeypatch, *install, "again.wasm")[0] == 0
    code, out, _ = run(capsys, monkeypatch, "upgrade-check", "state:shop", "two.wasm")
    assert code == 1
    assert "[upgrade-refused]" in out
    assert "[schema]" in out
    code, out, _ = run(capsys, monkeypatch, "stable", "guard", "one.wasm", "--after", "one.yaml")
    assert (code, out) == (0, "perdure:schema 1\n= 0 users: btreemap, key u64, value text\n")
    code, out, err = run(capsys, monkeypatch, "stable", "guard", "two.yaml", "--after", "one.wasm")
    assert code != 0
    assert out == ""
    assert "cannot be upgraded to: 0" in err
    code, _, err = run(capsys, monkeypatch, "stable", "guard", "plain.wasm")
    assert code != 0
    assert "neither a section perdure:schema nor motoko:stable-types" in err
    Path("one.most").write_text("// Version: 1.0.0\nactor { stable var people : [Text] };\n")
    assert run(capsys, monkeypatch, "stable", "guard", "one.most")[1].endswith("= people var: [Text]\n")


@pytest.mark.parametrize("seconds", ["0", "-1", "soon"])
def test_a_time_limit_is_a_positive_number(capsys, monkeypatch, files, state, seconds):
    path, canister = state
    words = ("upgrade-check", f"{path}:{canister.id}", files / "fine.wasm", "--time-limit", seconds)
    assert run(capsys, monkeypatch, *words)[0] == 2


def test_4_the_check_is_a_command(capsys, monkeypatch):
    """The numbers are those of the list of what newcomers stumbled over; this one is fault F5 too."""
    assert "upgrade-check" in run(capsys, monkeypatch, "--help")[1]
    code, out, err = run(capsys, monkeypatch, "upgrade-check", "--help")
    assert (code, err) == (0, "")
    assert "Rehearse the upgrade of SOURCE to NEW.wasm on a fork of its data" in out


PUSH = "  push : (nat64) -> ();\n"


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (rust("c"), "breaking: get_order reads memory 2 now, and its data is in memory 1"),
        (rust("e"), "breaking: get_user traps on memory 0"),
        (rust("a", without_export("canister_update push", interface(PUSH, ""))), "push"),
    ],
    ids=["ids", "values", "method"],
)
def test_6_a_bad_change_is_said_at_the_upgrade(capsys, monkeypatch, tmp_path, state, new, said):
    """This one is fault G3 too: exit code 0, and nothing was said."""
    path, canister = state
    (tmp_path / "new.wasm").write_bytes(new())
    words = ("canister", "install", str(canister.id), "--wasm", tmp_path / "new.wasm", "--state", path)
    code, _, err = run(capsys, monkeypatch, *words, "--mode", "upgrade")
    assert code == 0
    assert said in err


@pytest.mark.parametrize("old", ["classical_1", "eop_1"])
def test_23_an_incompatible_motoko_upgrade_names_the_variable(capsys, monkeypatch, tmp_path, old):
    canister = Subnet().install(motoko(old)())
    listed(canister)
    canister.write_snapshot(tmp_path / "guests")
    (tmp_path / "new.wasm").write_bytes(motoko(old.replace("1", "2"))())
    code, out, _ = run(capsys, monkeypatch, "upgrade-check", tmp_path / "guests", tmp_path / "new.wasm")
    assert code == 1
    assert "[stable-types]" in out
    assert "where:  stable variable people" in out
