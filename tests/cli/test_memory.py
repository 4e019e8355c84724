"""`perdure memory`, as a person calls it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
import wasmtime

from perdure import Principal, Subnet
from perdure.cli import main
from perdure.storage import salvage

Run = Callable[..., tuple[str, str]]


def wasm(memory: str) -> bytes:
    text = f"""(module (import "ic0" "msg_reply" (func $reply)) {memory} (memory $heap 1)
      (func (export "canister_update f") (call $reply)))"""
    return bytes(wasmtime.wat2wasm(text))


@pytest.fixture
def state(tmp_path: Path) -> tuple[Path, str]:
    with Subnet(tmp_path / "s", extensions=("memories",)) as subnet:
        canister = subnet.install(
            wasm('(import "stable" "users" (memory i64 1)) (data (memory 0) (i64.const 8) "Ada")')
        )
        return tmp_path / "s", str(canister.id)


@pytest.fixture
def perdure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, state: tuple[Path, str]) -> Run:
    def run(command: str, *arguments: str | Path, code: int = 0) -> tuple[str, str]:
        words = ["perdure", "memory", command, state[1], "--state", str(state[0]), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == code, printed.err
        return printed.out, printed.err

    return run


def test_ls(perdure: Run) -> None:
    text, _ = perdure("ls")
    assert [line.split()[0] for line in text.splitlines()] == ["heap", "stable", "users"]
    rows = json.loads(perdure("ls", "--json")[0])["memories"]
    assert rows[2] == {
        "memory": "users",
        "lifetime": "stable",
        "address_bits": 64,
        "state": "used",
        "size_bytes": 65_536,
    }


def test_show(perdure: Run) -> None:
    text, _ = perdure("show", "users", "--address", "8", "--bytes", "3")
    assert text.split() == ["000000000008", "41", "64", "61", "Ada"]
    assert json.loads(perdure("show", "users", "--address", "65535", "--json")[0])["data"] == "00"
    _, errors = perdure("show", "nobody", code=2)
    assert "no memory 'nobody': expected one of: heap, stable, users" in errors
    assert not perdure("show", "users", "--address", "65536")[0].strip()
    _, errors = perdure("show", "users", "--address", "65537", code=2)
    assert "--address 0x10001 lies behind the end of users, which has 0x10000 bytes" in errors
    _, errors = perdure("export", "heap#1", "-o", "none", code=2)
    assert "no memory manager is in heap: " in errors


def test_a_question_that_nobody_answers(
    perdure: Run, state: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "two").write_bytes(b"two")
    monkeypatch.setattr(sys, "stdin", StringIO())
    _, errors = perdure("import", "users", tmp_path / "two", code=2)
    assert "nobody answers" in errors
    with Subnet(state[0]) as subnet:
        assert subnet.canisters[0].memories["users"].read(8, 3) == b"Ada"


def test_export(perdure: Run, tmp_path: Path) -> None:
    perdure("export", "users", "-o", tmp_path / "users.bin")
    data = (tmp_path / "users.bin").read_bytes()
    assert (len(data), data[8:11]) == (65_536, b"Ada")
    _, errors = perdure("export", "users", "-o", tmp_path / "users.bin", code=2)
    assert "exists already" in errors


def test_of_a_snapshot(run: Callable[..., dict], state: tuple[Path, str], tmp_path: Path) -> None:
    with Subnet(state[0]) as subnet:
        subnet.canisters[0].write_snapshot(tmp_path / "kept")
    run("memory", "export", tmp_path / "kept", "users", "-o", tmp_path / "users.bin")
    assert (tmp_path / "users.bin").read_bytes()[8:11] == b"Ada"
    assert "no memory 'nobody'" in run("memory", "show", tmp_path / "kept", "nobody", code=2)["error"]


def test_drop(perdure: Run, state: tuple[Path, str]) -> None:
    _, errors = perdure("drop", "users", "--no-snapshot", code=2)
    assert "memory 'users' is used: upgrade to a module that does not name it first" in errors
    with Subnet(state[0]) as subnet:
        (canister,) = subnet.canisters
        canister.upgrade(wasm(""))
    taken = json.loads(perdure("drop", "users", "--snapshot", "--json")[0])
    assert taken["dropped"] == "users"
    with Subnet(state[0]) as subnet:
        (canister,) = subnet.canisters
        assert [*canister.memories] == ["heap", "stable"]
        canister.load_snapshot(bytes.fromhex(taken["snapshot_id"]))
        assert canister.memories["users"].read(8, 3) == b"Ada"


# ------------------------------------------------------------------------------------------- lowered, and moving data

WORDS = """(module
  (import "ic0" "msg_reply" (func $reply)) (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
  (import "ic0" "msg_arg_data_size" (func $size (result i32)))
  (import "stable:words" "grow" (func $grow (param i64) (result i64)))
  (import "stable:words" "copy_in" (func $keep (param i64 i32 i32)))
  (import "stable:words" "copy_out" (func $get (param i32 i64 i32)))
  (import "stable:more" "grow" (func $grow_more (param i64) (result i64)))
  (memory 1)
  (func (export "canister_init") (drop (call $grow (i64.const 3))) (drop (call $grow_more (i64.const 1))))
  (func (export "canister_update keep")
    (call $argument (i32.const 0) (i32.const 0) (call $size))
    (call $keep (i64.const 131070) (i32.const 0) (call $size)) (call $reply))
  (func (export "canister_query get")
    (call $get (i32.const 0) (i64.const 131070) (i32.const 6))
    (call $append (i32.const 0) (i32.const 6)) (call $reply)))"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """One command, and what it printed as JSON, or said was wrong."""

    def called(*words: str | Path, code: int = 0) -> dict:
        monkeypatch.setattr(sys, "argv", ["perdure", *map(str, words), "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == code, printed.err
        return json.loads(printed.out) if code == 0 else {"error": printed.err}

    return called


@pytest.fixture
def two_forms(run: Callable[..., dict], tmp_path: Path) -> dict[str, str]:
    """One source, installed here and as for the network, in one state directory."""
    (tmp_path / "words.wasm").write_bytes(bytes(wasmtime.wat2wasm(WORDS)))
    lowered = run(
        "instrument", "--lower", tmp_path / "words.wasm", "-o", tmp_path / "network.wasm", "--memory-id", "words=5"
    )
    assert lowered["memory_ids"] == {"more": 0, "words": 5}
    with Subnet(tmp_path / "s", extensions=("memories",)) as subnet:
        return {name: str(subnet.install(tmp_path / f"{name}.wasm").id) for name in ("words", "network")}


def test_data_moves_between_the_two_forms(run: Callable[..., dict], two_forms: dict[str, str], tmp_path: Path) -> None:
    here, network, state = two_forms["words"], two_forms["network"], ("--state", tmp_path / "s")
    with Subnet(tmp_path / "s") as subnet:
        subnet.canister(Principal.from_text(here)).update("keep", b"native")
    run("memory", "export", here, "words", "-o", tmp_path / "1.bin", *state)
    assert run("memory", "import", network, "stable#5", tmp_path / "1.bin", "--no-snapshot", *state) == {
        "memory": "stable#5",
        "size_bytes": 3 << 16,
        "snapshot_id": None,
    }
    with Subnet(tmp_path / "s") as subnet:
        assert subnet.canister(Principal.from_text(network)).query("get") == b"native"
        subnet.canister(Principal.from_text(network)).update("keep", b"lower!")
        subnet.canister(Principal.from_text(network)).write_snapshot(tmp_path / "snapshot")
    shown = run("memory", "show", network, "stable#5", "--address", "131070", "--bytes", "6", *state)
    assert bytes.fromhex(shown["data"]) == b"lower!"
    for source, name in ((network, "2.bin"), (tmp_path / "snapshot", "3.bin")):
        run("memory", "export", source, "stable#5", "-o", tmp_path / name, *state)
    assert (tmp_path / "2.bin").read_bytes() == (tmp_path / "3.bin").read_bytes()
    taken = run("memory", "import", here, "words", tmp_path / "3.bin", "--snapshot", *state)["snapshot_id"]
    with Subnet(tmp_path / "s") as subnet:
        assert subnet.canister(Principal.from_text(here)).query("get") == b"lower!"
        subnet.canister(Principal.from_text(here)).load_snapshot(bytes.fromhex(taken))
        assert subnet.canister(Principal.from_text(here)).query("get") == b"native"


def test_what_is_imported_is_all_there_is(run: Callable[..., dict], two_forms: dict[str, str], tmp_path: Path) -> None:
    here, state = two_forms["words"], ("--state", tmp_path / "s")
    with Subnet(tmp_path / "s") as subnet:
        subnet.canister(Principal.from_text(here)).update("keep", b"native")
    (tmp_path / "short.bin").write_bytes(b"short")
    run("memory", "import", here, "words", tmp_path / "short.bin", "--no-snapshot", *state)
    with Subnet(tmp_path / "s") as subnet:
        words = subnet.canister(Principal.from_text(here)).memories["words"]
        assert (words.size(), words.read(0, 3 << 16).rstrip(b"\0")) == (3, b"short")
    (tmp_path / "long.bin").write_bytes(bytes((3 << 16) + 1))
    run("memory", "import", here, "words", tmp_path / "long.bin", "--no-snapshot", *state)
    with Subnet(tmp_path / "s") as subnet:
        assert subnet.canister(Principal.from_text(here)).memories["words"].size() == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody", "no memory 'nobody': expected one of: heap, more, stable, words"),
        ("stable#x", "an id is 0 to 254, found 'x'"),
        ("stable#255", "an id is 0 to 254, found '255'"),
    ],
)
def test_names_that_name_nothing(
    run: Callable[..., dict], two_forms: dict[str, str], tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    where = ("--state", tmp_path / "s")
    assert words in run("memory", "import", two_forms["words"], name, tmp_path / "file", *where, code=2)["error"]
    assert words in run("memory", "export", two_forms["words"], name, "-o", tmp_path / "out", *where, code=2)["error"]
    assert not (tmp_path / "out").exists()


def test_an_id_that_nothing_has(run: Callable[..., dict], two_forms: dict[str, str], tmp_path: Path) -> None:
    error = run(
        "memory", "export", two_forms["network"], "stable#7", "-o", tmp_path / "out", "--state", tmp_path / "s", code=2
    )["error"]
    assert "no memory 'stable#7', the memory manager in stable has 0, 5" in error


def test_what_lower_refuses(run: Callable[..., dict], tmp_path: Path) -> None:
    source = tmp_path / "words.wasm"
    source.write_bytes(bytes(wasmtime.wat2wasm(WORDS)))
    for words, expected in (
        (("--lower", "--memory-id", "words"), "expected NAME=ID, found 'words'"),
        (("--lower", "--memory-id", "word=1"), "no memory is named 'word': there is more, words"),
        (("--memory-id", "words=1"), "--memory-id goes with --lower"),
        (("--lower", "--host-stable"), "--wasi and --lower make a module for the network"),
    ):
        assert expected in run("instrument", source, *words, code=2)["error"]


def test_ls_of_a_snapshot_and_of_a_dump(perdure: Run, run: Callable[..., dict], tmp_path: Path) -> None:
    with Subnet(extensions=("memories",)) as subnet:
        canister = subnet.install(wasm('(import "stable" "users" (memory i64 1)) (import "upgrade" "u" (memory 2))'))
        canister.upgrade(wasm('(import "stable" "users" (memory i64 1))'))
        canister.write_snapshot(tmp_path / "snapshot")
    rows = run("memory", "ls", tmp_path / "snapshot")["memories"]
    assert [(row["memory"], row["lifetime"], row["address_bits"], row["state"]) for row in rows] == [
        ("heap", "heap", 32, "used"),
        ("stable", "stable", 64, "used"),
        ("users", "stable", 64, "used"),
        ("u", "upgrade", 32, "unused"),
    ]
    assert [row["size_bytes"] >> 16 for row in rows] == [1, 0, 1, 0]  # an upgrade has emptied it
    (tmp_path / "dump").write_bytes(bytes(65_536))
    assert run("memory", "ls", tmp_path / "dump")["memories"] == [
        {"memory": "stable", "lifetime": "stable", "address_bits": 64, "state": "unknown", "size_bytes": 65_536}
    ]


def test_a_snapshot_whose_module_does_not_compile(run: Callable[..., dict], tmp_path: Path) -> None:
    with Subnet() as subnet:
        canister = subnet.install(wasm(""))
        canister.write_snapshot(tmp_path / "snapshot")
    module = tmp_path / "snapshot" / "wasm_module.bin"
    module.write_bytes(bytes(module.stat().st_size))
    rows = run("memory", "ls", tmp_path / "snapshot")["memories"]
    assert [(row["memory"], row["address_bits"], row["state"]) for row in rows] == [
        ("heap", None, "unknown"),
        ("stable", 64, "unknown"),
    ]


def test_a_lost_module_hides_no_memory(perdure: Run, state: tuple[Path, str], tmp_path: Path) -> None:
    """What `perdure state salvage` leaves of a directory whose module is lost can be listed, shown and taken out."""
    for blob in (state[0] / "blobs").iterdir():
        blob.unlink()
    assert salvage(state[0], tmp_path / "salvaged").lost
    where = ("--state", str(tmp_path / "salvaged"))
    rows = json.loads(perdure("ls", "--json", *where)[0])["memories"]
    assert [(row["memory"], row["address_bits"], row["state"], row["size_bytes"]) for row in rows] == [
        ("heap", None, "unknown", 65_536),
        ("stable", 64, "unknown", 0),
        ("users", 64, "unknown", 65_536),
    ]
    assert "?-bit" in perdure("ls", *where)[0]
    assert "Ada" in perdure("show", "users", *where)[0]
    perdure("export", "users", "-o", tmp_path / "users.bin", *where)
    assert (tmp_path / "users.bin").read_bytes()[8:11] == b"Ada"
