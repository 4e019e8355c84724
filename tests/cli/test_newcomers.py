"""Where newcomers stumbled, by the numbers of their list: what the commands say there now."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import wasmtime

from perdure import Subnet
from perdure.cli import main
from perdure.values.schema import load_schema

MOTOKO = Path(__file__).parents[1] / "canisters" / "modules" / "motoko_eop_v1.wasm.gz"
DID = "service : { add : (title : text, nat32) -> (); fill : (nat32) -> (); size : () -> (nat32) query }"
TODO = f"""(module (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (memory 1) (data (i32.const 0) "DIDL\\00\\00DIDL\\00\\01\\79\\07\\00\\00\\00")
  (@custom "icp:public candid:service" "{DID}")
  (func (export "canister_update add") (call $append (i32.const 0) (i32.const 6)) (call $reply))
  (func (export "canister_update fill") (call $append (i32.const 0) (i32.const 6)) (call $reply))
  (func (export "canister_query size") (call $append (i32.const 6) (i32.const 11)) (call $reply)))"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `perdure` in an empty directory with a module in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("todo.wasm").write_bytes(wasmtime.wat2wasm(TODO))

    def perdure(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["perdure", *map(str, words)])
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return code if isinstance(code, int) else int(code is not None), out, err

    return perdure


@pytest.fixture
def todo(run: Run) -> str:
    assert run("canister", "install", "todo", "--wasm", "todo.wasm")[0] == 0
    return "todo"


def test_2_history_is_the_directorys(run, todo):
    assert run("state", "history", ".perdure", "--keep", "all")[0] == 0
    for _ in range(3):
        assert run("canister", "call", todo, "fill", "(1)")[0] == 0
    with Subnet(".perdure"):
        pass
    listed = json.loads(run("state", "history", ".perdure", "--json")[1])
    assert [one["method"] for one in listed].count("fill") == 3


def test_3_a_directory_without_history_says_how_to_keep_one(run, todo):
    with Subnet(".perdure"):  # a checkpoint at its end
        pass
    code, out, _ = run("state", "history", ".perdure")
    assert code == 0
    assert "`perdure state history .perdure --keep all`" in out


def test_8_names_are_known_everywhere(run, todo):
    assert run("stable", "ls", ".perdure:todo")[0] == 0
    assert run("stable", "fsck", ".perdure:todo")[0] == 0
    code, _, err = run("stable", "ls", ".perdure:todos")
    assert code == 2
    assert "no canister 'todos' in it, found" in err
    assert "(todo)" in err


def test_9_a_call_without_arguments_says_which(run, todo):
    code, _, err = run("canister", "call", todo, "add")
    assert code == 2
    assert "add takes (text, nat32): pass it, in Candid's text form" in err


def test_10_a_run_without_arguments_says_which(run):
    code, _, err = run("run", "todo.wasm", "fill")
    assert code == 2
    assert "fill takes (nat32): pass it, in Candid's text form" in err
    assert "size  (7 : nat32)" in run("run", "todo.wasm", "fill=(3)", "size")[1]


def test_a_method_that_is_not_there_is_taken_for_the_one_that_is_like_it(run, todo):
    code, _, err = run("canister", "call", todo, "sise")
    assert code == 2
    assert "no method 'sise', did you mean 'size'?" in err
    code, _, err = run("run", "todo.wasm", "delete")
    assert code == 2
    assert "no method 'delete', expected one of: add, fill, size" in err


def test_21_the_schema_that_is_applied_is_named(run, tmp_path):
    Path("stable.yaml").write_text("memories: {0: {name: users, kind: btreemap, key: u64, value: text}}")
    Path("other.bin").write_bytes(bytes(65_536))
    assert "names and types are those of ./stable.yaml" in run("stable", "ls", "other.bin")[2]


@pytest.fixture
def guests(run: Run) -> str:
    Subnet().install(MOTOKO).write_snapshot("guests")
    return "guests"


def test_22_a_motoko_snapshot_shows_its_variables(run, guests):
    code, out, _ = run("stable", "ls", guests)
    assert code == 0
    assert "counter     Nat" in out
    code, out, _ = run("stable", "rows", guests, "counter")
    assert code == 0
    assert out.split() == ["value", "0"]


def test_25_the_list_fits_80_columns(run, guests):
    for source in (guests, ".perdure:todo"):
        assert all(len(line) <= 80 for line in run("stable", "ls", source)[1].splitlines())


def test_26_a_picture_is_named_by_what_it_is(run, guests):
    code, _, err = run("stable", "map", guests, "-o", "map.png")
    assert code == 2
    assert "the picture is an SVG: name it map.svg" in err
    assert not Path("map.png").exists()


def test_28_a_schema_is_loaded_by_its_path(run):
    Path("stable.yaml").write_text("memories: {0: {name: users, kind: btreemap, key: u64, value: text}}")
    assert load_schema("stable.yaml").memories["0"].name == "users"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("shop.py", b"from perdure.kit import canister\n", "a text, not a stable memory"),
        ("shop.wasm", wasmtime.wat2wasm("(module)"), "a Wasm module, not a stable memory"),
        ("shop.wasm.gz", gzip.compress(wasmtime.wat2wasm("(module)")), "a Wasm module, not a stable memory"),
        ("stable.yaml", b"memories: {}\n", "a text, not a stable memory"),
        ("dump.zst", b"\x28\xb5\x2f\xfd\x00", "packed by zstd, to be unpacked first, not a stable memory"),
    ],
)
def test_31_files_of_other_kinds_are_told_for_what_they_are(run, name, content, said):
    Path(name).write_bytes(content)
    code, _, err = run("stable", "ls", name)
    assert code == 2
    assert said in err


@pytest.mark.parametrize(
    ("name", "said"),
    [("shop.py", "it is Python: see docs/python-canisters.md"), ("dump.zst", "it is packed by zstd")],
)
def test_31_nor_are_they_modules(run, name, said):
    Path(name).write_bytes(b"from perdure import kit\n")
    code, _, err = run("run", name)
    assert code == 2
    assert said in err
