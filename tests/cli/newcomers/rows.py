"""Where newcomers stumbled, by the numbers of their list: what the user sees there now.

`test_newcomers.py` runs these from a wheel, in an empty directory. `PERDURE_SOURCE` has test modules and pages.
"""

from __future__ import annotations

import enum
import gzip
import importlib
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest
import wasmtime

import perdure
from perdure import RejectError, StorageError, Subnet
from perdure.candid import encode
from perdure.candid.types import Nat, Record, Text
from perdure.cli import main, progress
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager, StableBTreeMap, types
from perdure.values.schema import load_schema

SOURCE = Path(os.environ["PERDURE_SOURCE"])
MODULES = SOURCE / "tests/canisters/modules"
MOTOKO = MODULES / "motoko_eop_v1.wasm.gz"
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
    """Runs the command in an empty directory with a module in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("todo.wasm").write_bytes(wasmtime.wat2wasm(TODO))

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["perdure", *map(str, words)])
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return code if isinstance(code, int) else int(code is not None), out, err

    return command


@pytest.fixture
def todo(run: Run) -> str:
    assert run("canister", "install", "todo", "--wasm", "todo.wasm")[0] == 0
    return "todo"


def test_it_is_the_wheel_that_runs():
    assert Path(perdure.__file__).is_relative_to(os.environ["PYTHONPATH"])


SHOP = """from perdure.kit import canister, nat64, query, update
from perdure.stable import StableBTreeMap, StableVec


@canister
class Shop:
    prices: StableBTreeMap[str, nat64]
    log: StableVec[nat64]

    @update
    def put(self, name: str, price: nat64) -> None:
        if price == 0:
            raise ValueError("nothing is free")
        self.prices[name] = price
        self.log.append(price)

    @query
    def get(self, name: str) -> nat64:
        return self.prices[name]
"""


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Saves a canister's source, and imports it as a new process would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def save(text: str) -> ModuleType:
        Path("newcomers_shop.py").write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop("newcomers_shop", None)
        return importlib.import_module("newcomers_shop")

    return save


def test_1_a_comment_in_a_python_canister_is_an_upgrade_like_any_other(edited):
    with Subnet("state") as subnet:
        subnet.install(edited(SHOP).Shop).actor().put("tea", 3)
    shop = edited(SHOP.replace("    @query", "    # a comment\n    @query")).Shop
    with Subnet("state", code=shop) as subnet:
        actor = subnet.canisters[0].actor()
        actor.put("milk", 2)
        assert (actor.get("tea"), actor.get("milk")) == (3, 2)


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


def test_4_upgrade_check_has_help(run):
    code, out, _ = run("upgrade-check", "--help")
    assert code == 0
    assert out.startswith("Usage: perdure upgrade-check")
    assert "Traceback" not in out


POINTED = """(module (import "ic0" "msg_reply" (func $reply)) (import "ic0" "debug_print" (func $print (param i32 i32)))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (memory 1) (data (i32.const 0) "DIDL\\00\\01\\79\\07\\00\\00\\00")
  (data (i32.const 64) "service : { size : () -> (nat32) query }\\00")
  (func (export "get_candid_pointer") (result i32) (i32.const 64))
  (func (export "canister_query size") (call $append (i32.const 0) (i32.const 11)) (call $reply))
  (data (i32.const 32) "tea is out")
  (func (export "canister_update say") (call $print (i32.const 32) (i32.const 10)) (call $reply))
  (func $_RNvCs1234_4shop5order unreachable)
  (func $_ZN4core9panicking5panic17h0123456789abcdefE.llvm.123 call $_RNvCs1234_4shop5order)
  (func (export "canister_update go") call $_ZN4core9panicking5panic17h0123456789abcdefE.llvm.123))"""
PROJECT = """
import pytest


@pytest.fixture(scope="module")
def shared(install):
    return install("shop.wasm")


def test_5(install, canister):
    assert install("shop.wasm").actor().size() == 7
    assert canister("shop").actor().size() == 7


def test_12(install):
    install("shop.wasm").update("go")


def test_13(install):
    shop = install("shop.wasm")
    shop.update("say")
    assert shop.actor().size() == 8


def test_29(shared):
    pass
"""


@pytest.fixture(scope="module")
def pytest_output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a user's own tests print."""
    place = tmp_path_factory.mktemp("project")
    (place / "shop.wasm").write_bytes(wasmtime.wat2wasm(POINTED))
    (place / "test_shop.py").write_text(PROJECT)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--import-mode=prepend", "--rootdir=.", "."]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=300).stdout


def section(output: str, name: str) -> str:
    """What pytest says of one failed test."""
    return re.split(r"\n_+ (?:ERROR at setup of )?\w+ _+\n|\n=+ ", output.partition(f" {name} _")[2])[0]


def test_5_a_plain_cargo_build_says_its_methods(pytest_output):
    assert "FAILED test_shop.py::test_5" not in pytest_output
    assert "1 passed" in pytest_output


def test_6_a_change_that_callers_would_notice_is_told_at_the_upgrade(run, todo):
    Path("next.wasm").write_bytes(
        wasmtime.wat2wasm(TODO.replace("size : () -> (nat32) query", "size : () -> (text) query"))
    )
    code, _, err = run("canister", "install", todo, "--wasm", "next.wasm")
    assert code == 0
    assert "perdure: upgrade of todo: breaking" in err
    assert "size" in err


def test_7_fields_have_the_names_that_the_module_beside_them_has(run):
    did = "type user = record { age : nat; name : text }; service : { get : () -> (user) query }"
    module = wasmtime.wat2wasm(f'(module (memory 1) (@custom "icp:public candid:service" "{did}"))')
    canister = Subnet().install(module)
    users = StableBTreeMap.create(memory := BytesMemory(), types.u64, types.raw)
    users[1] = encode([Record.of({"age": Nat, "name": Text})], [{"age": 36, "name": "bob"}])
    canister.stable.grow(memory.size())
    canister.stable.write(0, memory.data)
    canister.write_snapshot("users")
    Path("stable.yaml").write_text('memories: {"page:0": {name: users, kind: btreemap, key: u64, value: candid}}')
    code, out, _ = run("stable", "rows", "users", "users", "--nl")
    assert code == 0
    assert json.loads(out) == {"key": 1, "value": {"age": 36, "name": "bob"}}


def test_8_names_are_known_everywhere(run, todo):
    assert run("stable", "ls", ".perdure:todo")[0] == 0
    assert run("stable", "fsck", ".perdure:todo")[0] == 0
    code, _, err = run("stable", "ls", ".perdure:todos")
    assert code == 2
    assert "no canister 'todos' in it, found" in err
    assert "(todo)" in err


def test_8_what_is_measured_goes_by_the_name_that_it_was_built_under(run, todo):
    built = Path("target/wasm32-unknown-unknown/release/shop.wasm")
    built.parent.mkdir(parents=True)
    built.write_bytes(Path("todo.wasm").read_bytes())
    for command in ("profile", "heatmap", "coverage", "run"):
        assert run(command, "shop", "size")[0] == 0
    code, _, err = run("profile", "shopp", "size")
    assert (code, "'shopp': no such file, snapshot or state directory, and no module of this name" in err) == (2, True)


def test_9_a_call_without_arguments_says_which(run, todo):
    code, _, err = run("canister", "call", todo, "add")
    assert code == 2
    assert "add takes (text, nat32): pass it, in Candid's text form" in err


def test_a_snapshot_in_the_place_of_a_module_says_where_its_module_is(run):
    with Subnet() as subnet:
        subnet.install(Path("todo.wasm").read_bytes()).write_snapshot("taken")
    code, _, err = run("run", "taken", "size")
    assert (code, "taken is a snapshot: its module is taken/wasm_module.bin" in err) == (2, True)
    assert run("heatmap", "taken", "size") == (0, "no page of a memory was touched, 1 message\n", "")


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


def test_11_a_rust_panic_has_readable_names(run):
    Path("shop.wasm").write_bytes(wasmtime.wat2wasm(POINTED))
    code, _, err = run("run", "shop.wasm", "go")
    assert code == 1
    assert "Canister Backtrace:\nshop::order\ncore::panicking::panic\n" in err
    assert not re.search(r"_R|_ZN|llvm", err)


def test_12_an_error_ends_in_the_users_test_and_is_told_once(pytest_output):
    told = section(pytest_output, "test_12")
    assert "Canister backtrace, innermost first:" in told
    assert "shop::order" in told
    assert "/perdure/" not in told
    assert told.count("test_shop.py:") == 1
    assert told.count("\nE ") <= told.count("\n")
    assert told.count("RejectError: ") == 1


def test_13_what_the_canister_printed_is_a_section(pytest_output):
    told = section(pytest_output, "test_13")
    assert "Captured canister log" in told
    assert ": tea is out" in told


def test_14_the_clock_has_a_verb(run, todo):
    code, out, _ = run("canister", "advance", "1d")
    assert code == 0
    assert out.startswith("it is 2021-05-07T19:17:10")


def test_15_times_are_taken_as_python_has_them():
    subnet = Subnet()
    before = subnet.time_ns
    subnet.advance_time(timedelta(seconds=90))
    subnet.advance_time("90s")
    assert subnet.time_ns - before == 180 * 10**9
    subnet.set_time(datetime(2030, 1, 1, tzinfo=UTC))
    assert "2030-01-01 00:00:00 UTC" in repr(subnet)


TIMER = """(module (import "ic0" "msg_reply" (func $reply)) (import "ic0" "time" (func $time (result i64)))
  (import "ic0" "global_timer_set" (func $set (param i64) (result i64)))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (memory 1) (global $n (mut i32) (i32.const 0))
  (func (export "canister_update arm")
    (drop (call $set (i64.add (call $time) (i64.const 60000000000)))) (call $reply))
  (func (export "canister_global_timer") (global.set $n (i32.add (global.get $n) (i32.const 1))))
  (func (export "canister_update poke") (call $reply))
  (func (export "canister_query fired")
    (i32.store (i32.const 0) (global.get $n)) (call $append (i32.const 0) (i32.const 1)) (call $reply)))"""


def test_16_a_timer_that_is_due_runs_with_the_next_update_and_never_with_a_query():
    subnet = Subnet()
    canister = subnet.install(wasmtime.wat2wasm(TIMER))
    canister.update("arm")
    subnet.advance_time("61s")
    assert canister.query("fired") == b"\0"
    canister.update("poke")
    assert canister.query("fired") == b"\1"
    canister.update("arm")
    subnet.advance_time("61s")
    subnet.tick()
    assert canister.query("fired") == b"\2"


class Colour(enum.Enum):
    red = enum.auto()
    green = enum.auto()


def test_17_an_enum_goes_in_as_it_comes_out():
    did = "service : { paint : (variant { red; green }) -> () }"
    canister = Subnet().install(
        wasmtime.wat2wasm(TODO.replace(DID, did).replace("canister_update fill", "canister_update paint"))
    )
    assert canister.actor().paint(Colour.green) is None


def test_18_the_exception_of_a_python_canister_is_the_cause(edited):
    shop = Subnet().install(edited(SHOP).Shop)
    with pytest.raises(RejectError) as caught:
        shop.actor().put("air", 0)
    assert repr(caught.value.__cause__) == "ValueError('nothing is free')"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("    log: StableVec[nat64]\n", "", "variable 'log'"),
        (
            "StableBTreeMap[str, nat64]",
            "StableBTreeMap[nat64, nat64]",
            "variable 'prices' held String, u64 and holds u64, u64 now",
        ),
        ("StableVec[nat64]", "StableVec[str]", "variable 'log' held u64 and holds String now"),
    ],
)
def test_19_a_variable_that_cannot_be_read_any_more_is_named_at_the_upgrade(edited, before, after, said):
    with Subnet("state") as subnet:
        subnet.install(edited(SHOP).Shop).actor().put("tea", 3)
    text = SHOP.replace(before, after)
    if not after:  # the other one first
        text = text.replace("    prices: ", "    log: StableVec[nat64]\n    prices: ")
    with pytest.raises(StorageError, match=re.escape(said)):
        Subnet("state", code=edited(text).Shop)


def test_20_a_structure_that_is_not_there_yet_is_a_note(run):
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u64, types.text)[1] = "ada"
    Path("dump.bin").write_bytes(memory.data)
    Path("stable.yaml").write_text(
        'memories: {"page:0": {kind: btreemap, key: u64, value: text}, 5: {name: later, kind: vec, value: u64}}'
    )
    code, out, _ = run("stable", "fsck", "dump.bin")
    assert code == 0
    assert "memory-missing" in out
    assert "0 errors" in out


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


def test_23_an_incompatible_motoko_upgrade_names_the_variable(run):
    assert run("canister", "install", "guests", "--wasm", MODULES / "upgraded_eop_1.wasm.gz")[0] == 0
    assert run("canister", "call", "guests", "add", '("ada", 36)')[0] == 0
    _, _, err = run("canister", "install", "guests", "--wasm", MODULES / "upgraded_eop_3.wasm.gz")
    assert "upgrade of guests: breaking" in err
    assert "people" in err


def test_24_a_long_export_says_how_far_it_is(run, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    users = StableBTreeMap.create(memory := BytesMemory(), types.u64, types.raw)
    message = encode([Text], ["ada"])
    users.update(dict.fromkeys(range(2000), message))
    Path("users.bin").write_bytes(memory.data)
    Path("stable.yaml").write_text('memories: {"page:0": {name: users, kind: btreemap, key: u64, value: candid(text)}}')
    monkeypatch.setattr(progress, "_PATIENCE_SECONDS", 0)
    for name in ("users.db", "users.parquet", "users.ndjson"):
        monkeypatch.setattr(sys, "stderr", terminal := Terminal())
        code, out, _ = run("stable", "export", "users.bin", "-o", name)
        assert (code, out) == (0, "users: 2000 rows\n")
        assert "2,000/2,000" in terminal.getvalue()


def test_25_the_list_fits_80_columns(run, guests):
    for source in (guests, ".perdure:todo"):
        assert all(len(line) <= 80 for line in run("stable", "ls", source)[1].splitlines())


def test_26_a_picture_is_named_by_what_it_is(run, guests):
    assert run("stable", "map", guests, "-o", "map.png") == (0, "written to map.png\n", "")
    assert Path("map.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    code, _, err = run("stable", "map", guests, "-o", "map.jpg")
    assert code == 2
    assert "a picture is an SVG or a PNG: name it map.svg or map.png" in err
    assert not Path("map.jpg").exists()


def test_27_objects_can_be_looked_at():
    assert not hasattr(Subnet(), "no_such_thing")
    assert dict(inspect.getmembers(Subnet()))["version"] is None


def test_28_a_schema_is_loaded_by_its_path(run):
    Path("stable.yaml").write_text("memories: {0: {name: users, kind: btreemap, key: u64, value: text}}")
    assert load_schema("stable.yaml").memories["0"].name == "users"


def test_29_a_fixture_of_a_wider_scope_is_told_what_to_do(pytest_output):
    told = section(pytest_output, "test_29")
    assert "ScopeMismatch" in told
    assert "perdure_baseline" in told
    assert 'perdure_scope = "module"' in told


def test_30_the_compile_cache_can_be_seen_and_bounded(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PERDURE_CACHE_DIR", str(tmp_path / "cache"))
    code, out, _ = run("cache", "ls")
    assert (code, out) == (0, f"0 modules in {tmp_path}/cache/modules: 0 bytes of at most 2 GiB\n")
    assert run("cache", "limit", "1MiB")[0] == 0
    assert "of at most 1 MiB" in run("cache", "ls")[1]
    assert run("cache", "clear")[0] == 0


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
    [("shop.py", "it is Python: its class is what is installed"), ("dump.zst", "it is packed by zstd")],
)
def test_31_nor_are_they_modules(run, name, said):
    Path(name).write_bytes(b"from perdure import kit\n")
    code, _, err = run("run", name)
    assert code == 2
    assert said in err


def test_32_sections_4_and_5_of_the_tutorial_run_as_written(run, tmp_path):
    page = (SOURCE / "docs/tutorial.md").read_text(encoding="utf-8").partition("## 4. ")[2]
    block = re.compile(r"```python file=(\S+)\n(.*?)```|^    \$ ([^\n]+)$", re.DOTALL | re.MULTILINE)
    for name, content, command in block.findall(page):
        program, *words = shlex.split(command) or ["", ""]
        if name:
            Path(name).write_text(content)
        elif program == "perdure":
            code, _, err = run(*words)
            assert code == 0, f"{command}: {err}"
        elif program == "python":
            exec(compile(Path(words[0]).read_text(), words[0], "exec"), {"__name__": "__main__"})
    assert Path("counter.wasm").exists()


def built(name: str) -> Path:
    """Where cargo leaves a module of this name."""
    place = Path(f"target/wasm32-unknown-unknown/release/{name}.wasm")
    place.parent.mkdir(parents=True)
    Path("Cargo.toml").write_text(f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2021"\n')
    Path("todo.wasm").rename(place)
    return place


@pytest.mark.parametrize(
    "words",
    [
        ("run", "todo", "size"),
        ("bindgen", "todo", "-o", "made.py"),
        ("explain-cost", "todo", "fill=(1)"),
    ],
)
def test_a_module_that_was_built_is_taken_by_its_name(run, words):
    built("todo")
    code, _, err = run(*words)
    assert code == 0, err
    _, _, err = run(*("todos" if word == "todo" else word for word in words))
    assert "'todos' does not exist" in err


def test_a_file_goes_before_what_was_built(run):
    built("todo")
    Path("todo").write_text("text")
    assert "todo is no Wasm module" in run("run", "todo", "size")[2]


def test_rows_name_no_structure_where_there_is_one(run):
    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=1)
    for label in (3, 5):
        StableBTreeMap.init(manager.get(label), types.u64, types.text).update({n: "x" * n for n in range(40)})
        Path(f"{label}.bin").write_bytes(memory.read(0, memory.size() << 16))
    named = run("stable", "rows", "3.bin", "3")
    assert named[0] == 0
    assert run("stable", "rows", "3.bin") == named
    assert "name the structure whose rows are wanted, found 3, 5" in run("stable", "rows", "5.bin")[2]
    Path("empty.bin").write_bytes(b"")
    assert "name the structure whose rows are wanted, and none was found" in run("stable", "rows", "empty.bin")[2]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("princpal", "there is no format 'princpal', did you mean 'principal'?"),
        (
            "(u64, princpal)",
            "'princpal' in '(u64, princpal)' is no storable type of the crate, did you mean 'Principal'?",
        ),
        ("qqq", "there is no format 'qqq', expected one of: (), Blob, BoundedVecN"),
    ],
)
def test_a_type_that_nobody_has_is_told_with_those_that_there_are(run, wrong, said):
    Path("one.bin").write_bytes(bytes(65536))
    Path("one.yaml").write_text(f"memories:\n  0: {{name: one, kind: btreemap, key: '{wrong}', value: text}}\n")
    code, _, err = run("stable", "ls", "one.bin", "--schema", "one.yaml")
    assert code != 0
    assert said in " ".join(err.split())
