"""`perdure stable`, command by command, and every example of docs/stable.md."""

import gzip
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from perdure.cli import perdure
from perdure.cli.stable import stable
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager, StableBTreeMap, StableCell, StableLog, types

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "stable" / "vectors"
COMMANDS = (
    *("ls", "tree", "rows", "get", "schema", "infer", "query", "diff", "export", "extract", "patch", "fsck", "map"),
    *("drop", "compact", "lifecycle"),
)
ELSEWHERE = ("embed", "guard")
"""Shown by docs/upgrades.md."""


class Answer:
    """Exit code and what went to each stream, as `perdure.cli.main` gives them."""

    def __init__(self, *arguments: str, stdin: bytes | None = None) -> None:
        import perdure.cli as cli

        result = CliRunner().invoke(perdure, ["stable", *arguments], input=stdin, standalone_mode=False)
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr
        if isinstance(result.return_value, int):
            self.code = result.return_value
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            self.code = _code_of(cli, result.exception)
            self.err += str(result.exception)

    @property
    def json(self):
        return json.loads(self.out)


def _code_of(cli, error) -> int:
    import click

    if isinstance(error, click.ClickException):
        return cli.COULD_NOT
    return cli._explain(error)


@pytest.fixture(scope="module")
def dump(tmp_path_factory) -> str:
    """A canister's stable memory: users, names, a log, settings."""
    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=2)
    users = StableBTreeMap.create(manager.get(0), types.u64, types.text)
    users.update((number, f"user {number}") for number in range(100))
    log = StableLog.create(manager.get(1), manager.get(2), types.text)
    log.extend(f"line {number}" for number in range(30))
    StableCell.create(manager.get(3), types.text, '{"open": true}')
    path = tmp_path_factory.mktemp("dump") / "canister.bin"
    path.write_bytes(memory.data)
    return str(path)


@pytest.fixture(scope="module")
def schema(dump) -> str:
    path = Path(dump).with_name("schema.yaml")
    path.write_text(
        "memories:\n  0: {name: users, kind: btreemap, key: u64, value: text}\n"
        "  1: {name: events, kind: log, data: 2, value: text}\n  3: {name: settings, kind: cell, value: json}\n"
    )
    return str(path)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")


def test_ls(dump, schema):
    found = Answer("ls", dump, "--schema", schema)
    assert found.code == 0
    assert "memory manager: version 1, 4 buckets of 2 Wasm pages" in found.out
    assert "users" in found.out
    structures = Answer("ls", dump, "--json").json["structures"]
    assert [(found["memory"], found["kind"], found["entries"]) for found in structures] == [
        ("0", "btreemap", 100),
        ("1", "log", 30),
        ("3", "cell", 1),
    ]
    assert structures[0]["key"] == {"max_bytes": 8, "is_fixed": True, "is_unbounded": False, "seen_bytes": [8, 8]}
    assert Answer("ls", dump, "-q", "--schema", schema).out == "users\nevents\nsettings\n"


def manifest_maps():
    return json.loads((VECTORS / "manifest.json").read_text())["maps"]


@pytest.mark.parametrize("name", manifest_maps())
def test_ls_of_the_vectors(name):
    said = manifest_maps()[name]
    (found,) = Answer("ls", "--json", str(VECTORS / "maps" / f"{name}.bin.gz")).json["structures"]
    assert (found["version"], found["entries"]) == (said["header_version"], said["len"])
    assert (found["key"]["max_bytes"], found["key"]["is_fixed"]) == (said["key_max"], said["key_fixed"])
    assert found["value"]["max_bytes"] == said["value_max"]


def test_ls_from_standard_input(dump):
    packed = gzip.compress(Path(dump).read_bytes())
    assert Answer("ls", "-", "-q", stdin=packed).out == "0\n1\n3\n"


def test_tree(dump):
    assert "nodes v2: " in Answer("tree", dump).out
    nested = Answer("tree", dump, "--json").json
    assert nested["structures"][0]["tree"]["entries"] == 100
    assert nested["structures"][1]["tree"] is None
    assert "nodes" not in Answer("tree", dump, "-q").out


def test_rows(dump, schema):
    assert Answer("rows", dump, "users", "--limit", "2", "--schema", schema, "--json").json == [
        {"key": 0, "value": "user 0"},
        {"key": 1, "value": "user 1"},
    ]
    found = Answer("rows", dump, "users", "--from", "97", "--reverse", "--nl", "--schema", schema)
    assert [json.loads(line)["key"] for line in found.out.splitlines()] == [99, 98, 97]
    assert Answer("rows", dump, "events", "--to", "1", "--csv", "--schema", schema).out == (
        "position,value\n0,line 0\n1,line 1\n"
    )
    assert Answer("rows", dump, "0", "--limit", "1", "-q").out == "0000000000000000\t757365722030\n"
    assert len(Answer("rows", dump, "0", "--limit", "0", "--nl").out.splitlines()) == 100
    assert "user 19" in Answer("rows", dump, "memory_0", "--schema", schema).out


def test_rows_that_cannot_be(dump, schema):
    assert Answer("rows", dump, "nobody").code == 2
    assert Answer("rows", dump, "users", "--from", "x", "--schema", schema).code == 2
    assert Answer("rows", "nowhere.bin", "0").code == 2
    assert "no such file" in Answer("rows", "nowhere.bin", "0").err


def test_get(dump, schema):
    assert Answer("get", dump, "users", "7", "--schema", schema).out == "user 7\n"
    assert Answer("get", dump, "users", "7", "--schema", schema, "--json").json == {"key": 7, "value": "user 7"}
    assert Answer("get", dump, "users", "7", "--raw").code == 2
    assert Answer("get", dump, "0", "0000000000000007", "--raw").out == "user 7"
    assert Answer("get", dump, "settings", "--schema", schema, "--json").json == {"value": {"open": True}}
    missing = Answer("get", dump, "users", "700", "--schema", schema)
    assert (missing.code, missing.out) == (1, "")
    assert "no entry" in missing.err
    assert Answer("get", dump, "users", "--schema", schema).code == 2


def test_schema(dump, schema):
    assert "create table users (key /* u64 */, value /* text */);" in Answer("schema", dump, "--schema", schema).out
    assert [found["name"] for found in Answer("schema", dump, "--json").json] == ["memory_0", "memory_1", "memory_3"]


def test_query(dump, schema):
    sql = "select value from users where key = :k"
    assert Answer("query", dump, sql, "-p", "k", "7", "--schema", schema, "--json").json == [{"value": "user 7"}]
    assert Answer("query", dump, sql, "-p", "k", "07", "--schema", schema, "--json").json == []
    assert Answer("query", dump, "select count(*) as n from users", "--schema", schema, "--csv").out == "n\n100\n"
    assert Answer("query", dump, "select key from users where key > 500", "--schema", schema, "--json").json == []
    assert Answer("query", dump, "select nope").code == 2
    assert "no such column" in Answer("query", dump, "select nope").err
    assert Answer("query", dump, "select :missing").code == 2


def test_infer(dump, tmp_path):
    found = Answer("infer", dump)
    assert "0: {name: btreemap_0, kind: btreemap, key: u64, value: text}" in found.out
    assert "sure" in found.out
    assert "#" not in Answer("infer", dump, "-q").out
    assert Answer("infer", dump, "--json").json[0]["key_guesses"][0]["name"] == "u64"
    path = tmp_path / "stable.yaml"
    assert Answer("infer", dump, "-o", str(path)).code == 0
    assert Answer("infer", dump, "-o", str(path)).code == 2
    assert "btreemap_0" in Answer("ls", dump).out  # ./stable.yaml is used


def changed(dump: str, tmp_path: Path) -> str:
    memory = BytesMemory(Path(dump).read_bytes())
    users = StableBTreeMap.load(MemoryManager.load(memory).get(0), types.u64, types.text)
    users[7], users[500] = "renamed", "new"
    del users[9]
    path = tmp_path / "later.bin"
    path.write_bytes(memory.data)
    return str(path)


def test_diff(dump, schema, tmp_path):
    later = changed(dump, tmp_path)
    found = Answer("diff", dump, later, "--schema", schema)
    assert found.code == 1
    assert found.out.splitlines() == [
        "users (btreemap): 1 added, 1 removed, 1 changed",
        "  ~ 7: user 7 -> renamed",
        "  - 9: user 9",
        "  + 500: new",
    ]
    assert Answer("diff", dump, later, "-q").out == ""
    assert "and 2 more" in Answer("diff", dump, later, "--limit", "1").out
    users = Answer("diff", dump, later, "--schema", schema, "--json", "--full-scan").json[0]
    assert (users["added"], users["removed"], users["changed"]) == (1, 1, 1)
    assert users["changes"][0] == {
        "what": "changed", "key": 7, "before": {"value": "user 7"}, "after": {"value": "renamed"}
    }  # fmt: skip
    assert (Answer("diff", dump, dump).code, Answer("diff", dump, dump).out) == (0, "")


def test_export(dump, schema, tmp_path):
    assert (
        Answer("export", dump, "-o", "all.db", "--schema", schema).out
        == "users: 100 rows\nevents: 30 rows\nsettings: 1 rows\n"
    )
    with closing(sqlite3.connect(tmp_path / "all.db")) as connection:
        assert connection.execute("select value from users where key = 3").fetchall() == [("user 3",)]
    assert Answer("export", dump, "-o", "all.db").code == 2
    assert Answer("export", dump, "users", "-o", "users.csv", "--schema", schema, "--json").json == {"users": 100}
    assert (tmp_path / "users.csv").read_text().startswith("key,value\n0,user 0\n")
    assert Answer("export", dump, "-o", "many", "--format", "parquet", "-q", "--schema", schema).out == ""
    assert {path.name for path in (tmp_path / "many").iterdir()} == {
        "users.parquet", "events.parquet", "settings.parquet"
    }  # fmt: skip
    assert Answer("export", dump, "-o", "what").code == 2


def test_fsck(dump, schema, tmp_path):
    sound = Answer("fsck", dump, "--schema", schema)
    assert sound.code == 0
    assert "3 memories checked: 0 errors" in sound.out
    data = bytearray(Path(dump).read_bytes())
    at = data.index(b"BTN")
    data[at + 5] = 12
    broken = tmp_path / "broken.bin"
    broken.write_bytes(data)
    found = Answer("fsck", str(broken))
    assert found.code == 1
    assert "error node-count: memory 0 at 0x" in found.out
    report = Answer("fsck", str(broken), "--json").json
    assert report["errors"] >= 1
    assert report["findings"][0]["below_address"] == at
    assert report["findings"][0]["advice"]
    assert (Answer("fsck", str(broken), "-q").code, Answer("fsck", str(broken), "-q").out) == (1, "")
    assert Answer("fsck", str(broken), "--schema", "nowhere.yaml").code == 2


def test_damage_in_rows_is_exit_code_1(dump, tmp_path):
    data = bytearray(Path(dump).read_bytes())
    root = data.index(b"BTR") + int.from_bytes(data[data.index(b"BTR") + 12 :][:8], "little")
    child = data.index(b"BTR") + int.from_bytes(data[root + 15 : root + 23], "little")
    data[child] = 0
    broken = tmp_path / "broken.bin"
    broken.write_bytes(data)
    found = Answer("rows", str(broken), "0")
    assert found.code == 1
    assert "bad magic" in found.err


def test_map(dump, tmp_path):
    drawn = Answer("map", dump).out
    assert "#" in drawn
    assert "A 0: btreemap" in drawn
    assert "A 0" not in Answer("map", dump, "-q").out
    spans = Answer("map", dump, "--json").json
    assert spans[0] == {"start": 0, "end": 65536, "memory": "manager", "use": "manager"}
    assert Answer("map", dump, "-o", "map.svg").code == 0
    assert (tmp_path / "map.svg").read_text().startswith("<svg")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    found = Answer(command, "--help")
    assert found.code == 0
    assert f"perdure stable {command}" in found.out
    assert "--json" in found.out
    assert "--quiet" in found.out


def test_the_list_of_commands_is_whole():
    assert set(stable.list_commands(click.Context(stable))) == {*COMMANDS, *ELSEWHERE}


def test_bad_schemas_are_exit_code_2(dump, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("memories: {0: {kind: tree}}")
    found = Answer("ls", dump, "--schema", str(path))
    assert found.code == 2
    assert "unknown kind 'tree'" in found.err


def test_a_broken_stream_is_exit_code_2():
    assert Answer("ls", "-", stdin=b"\x1f\x8bnonsense").code == 2


def test_a_missing_extra_is_named(dump, monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)
    for module in [
        name
        for name in sys.modules
        if name.startswith(("perdure.inspection.tree", "perdure.stable.bulk", "perdure.stable.gather"))
    ]:
        monkeypatch.delitem(sys.modules, module)
    found = Answer("fsck", dump)
    assert found.code == 2
    assert "perdure[columns]" in found.err


def test_importing_the_commands_is_cheap():
    code = "import sys, perdure.cli.stable; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "apsw", "pyarrow", "yaml"} & set(found.stdout.split())


def test_numbers_stand_at_the_right_and_values_keep_their_letters(tmp_path, monkeypatch):
    """Of a text that a terminal would obey, only those letters are written out that it would."""
    monkeypatch.chdir(tmp_path)
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u64, types.text).update({7: "日本\x1b[2J\n", 1000: "é" * 100_000})
    Path("dump.bin").write_bytes(memory.data)
    Path("stable.yaml").write_text('memories: {"page:0": {name: users, kind: btreemap, key: u64, value: text}}')
    shown = f" key  value\n   7  日本\\x1b[2J\\n\n1000  {'é' * 77}...\n"
    assert Answer("rows", "dump.bin", "users").out == shown
    assert Answer("query", "dump.bin", "select key, null as none, 'x' as text from users limit 1").out == (
        "key  none  text\n  7        x\n"
    )


def test_json_and_csv_on_a_terminal_are_obeyed_by_none(tmp_path, monkeypatch):
    """JSON says the same in other letters, wherever it goes; CSV is as it is for files and programs alone."""
    monkeypatch.chdir(tmp_path)
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u64, types.text)[1] = (evil := "\x1b[2J\x9b2J\x7f\u202e日本")
    Path("dump.bin").write_bytes(memory.data)
    Path("stable.yaml").write_text('memories: {"page:0": {name: users, kind: btreemap, key: u64, value: text}}')
    for option in ("--json", "--nl"):
        shown = Answer("rows", "dump.bin", option).out
        assert shown.replace("\n", "").isprintable()
        assert "日本" in shown
        (row,) = found if isinstance(found := json.loads(shown), list) else [found]
        assert row["value"] == evil
    assert evil in Answer("rows", "dump.bin", "--csv").out
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "perdure", "stable", "rows", "dump.bin", "--csv", "-q"]
    with os.fdopen(ours, "rb") as terminal:
        with os.fdopen(theirs, "wb") as end:
            subprocess.run(command, stdout=end, check=True)
        assert os.read(terminal.fileno(), 1000).decode() == r"1,\u{1b}[2J\u{9b}2J\u{7f}\u{202e}日本" + "\r\n"


def test_of_an_empty_memory_there_is_no_table(tmp_path):
    (tmp_path / "empty.bin").write_bytes(b"")
    found = Answer("ls", str(tmp_path / "empty.bin"))
    assert "Wasm pages" in found.out
    assert "\nmemory\n" not in found.out


def test_the_name_of_a_canister_here_is_told_how_to_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ".perdure:ledger" not in Answer("ls", "ledger").err
    Path(".perdure").mkdir()
    assert "a canister of the state here is .perdure:ledger" in Answer("ls", "ledger").err
    assert "a canister of the state here" not in Answer("ls", "./ledger").err


# The documentation


def doc_blocks() -> list[tuple[str, str]]:
    """The code blocks of docs/stable.md in order: language and text."""
    text = (ROOT / "docs" / "stable.md").read_text(encoding="utf-8")
    return re.findall(r"^```(python|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def examples(block: str) -> list[tuple[str, str, int]]:
    """Command, expected output and exit code of each example in a console block."""
    found = []
    for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, rest = example.partition("\n")
        expected, _, code = rest.partition("(exit code ")
        found.append((command, expected.rstrip("\n"), int(code.rstrip(")\n") or 0)))
    return found


def test_the_documentation_says_what_happens(capsys):
    for language, block in doc_blocks():
        if language == "python":
            exec(block, {})
            continue
        for command, expected, code in examples(block):
            words = shlex.split(command)
            assert words[:2] == ["perdure", "stable"], command
            found = Answer(*words[2:])
            shown = "\n".join(line.rstrip() for line in found.out.rstrip("\n").split("\n"))
            assert (shown, found.code) == (expected, code), command


def test_every_command_has_an_executed_example():
    commands = [
        command for language, block in doc_blocks() if language == "console" for command, _, _ in examples(block)
    ]
    assert {shlex.split(command)[2] for command in commands} == set(COMMANDS)


def test_the_documentation_lists_every_finding():
    from perdure.inspection.findings import KINDS_OF_DAMAGE

    text = (ROOT / "docs" / "stable.md").read_text(encoding="utf-8")
    for code, (severity, advice) in KINDS_OF_DAMAGE.items():
        assert f"| `{code}` | {severity} | {advice} |" in text


# What must not be lost or misread


def test_a_schema_that_lies_in_the_directory_is_named(dump, schema, tmp_path):
    (tmp_path / "stable.yaml").write_text(Path(schema).read_text())
    found = Answer("ls", dump)
    assert "names and types are those of ./stable.yaml" in found.err
    assert Answer("ls", dump, "--json").json["structures"][0]["name"] == "users"
    assert Answer("ls", dump, "-q").err == ""
    assert "stable.yaml" not in Answer("ls", dump, "--schema", schema).err


def test_memories_that_are_made_when_first_used_are_no_error(dump, schema):
    path = Path(schema).with_name("more.yaml")
    path.write_text(Path(schema).read_text() + "  9: {name: later, kind: vec}\n")
    found = Answer("fsck", dump, "--schema", str(path), "--json")
    assert found.code == 0
    assert [one["code"] for one in found.json["findings"] if one["memory"] == "schema"] == ["memory-missing"]


def test_json_calls_a_memory_memory_everywhere(dump):
    assert {one["memory"] for one in Answer("map", dump, "--json").json} >= {"manager", "0", "1", "3"}
    assert [one["memory"] for one in Answer("infer", dump, "--json").json] == ["0", "1", "3"]


def test_another_kind_than_the_schema_says_is_not_read(dump, tmp_path):
    (tmp_path / "other.yaml").write_text("memories:\n  0: {name: users, kind: vec, value: text}\n")
    found = Answer("rows", dump, "users", "--schema", "other.yaml")
    assert (found.code, "memory 0 holds a btreemap, the schema says vec" in found.err) == (2, True)
    (tmp_path / "other.yaml").write_text("memories:\n  0: {name: users, kind: btreemap, key: u32, value: text}\n")
    found = Answer("rows", dump, "users", "--schema", "other.yaml")
    assert (found.code, "memory 0: keys declared as u32 of 4 bytes" in found.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("map", "-o", "map.jpg"), "a picture is an SVG or a PNG: name it map.svg or map.png"),
        (("infer", "-o", "schema.json"), "a schema is YAML: name it schema.yaml"),
        (
            ("export", "-o", "many.parquet"),
            "many.parquet holds one structure, name which, or a directory for all:",
        ),
        (("export", "-o", "many.csv"), "many.csv holds one structure"),
        (("export", "0", "-o", "x.csv", "--format", "parquet"), "x.csv is the name of csv, not of parquet"),
        (("export", "-o", "there.db"), "there.db: exists already"),
        (("export", "0", "-o", "there.csv"), "there.csv: exists already"),
        (("export", "0", "-o", "there.parquet"), "there.parquet: exists already"),
        (("query", "select * from user"), "no such table: user; there is memory_0, memory_1, memory_3"),
    ],
)
def test_what_would_be_lost_or_not_what_its_name_says(dump, tmp_path, arguments, message):
    for name in ("there.db", "there.csv", "there.parquet"):
        (tmp_path / name).write_text("mine")
    found = Answer(arguments[0], dump, *arguments[1:])
    assert (found.code, message in found.err) == (2, True), found.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.csv", "there.db", "there.parquet"]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine"}


def test_an_export_that_fails_leaves_no_file(tmp_path):
    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=2)
    users = StableBTreeMap.create(manager.get(0), types.u64, types.text)
    users.update((number, f"user {number}") for number in range(1000))
    data = bytearray(memory.data)
    at = data.rindex(b"BTN")
    data[at : at + 3] = b"XXX"
    (tmp_path / "damaged.bin").write_bytes(data)
    for name in ("out.csv", "out.parquet", "out.db"):
        assert Answer("export", "damaged.bin", "0", "-o", name).code != 0
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.bin"]


@pytest.fixture
def motoko(tmp_path):
    from perdure import Subnet

    canister = Subnet().install(ROOT / "tests/canisters/modules/motoko_eop_v1.wasm.gz")
    canister.write_snapshot(tmp_path / "motoko")
    return "motoko"


def test_a_motoko_snapshot_shows_its_variables(motoko, tmp_path):
    assert "ticks       Nat" in Answer("ls", motoko).out
    assert Answer("ls", motoko, "--json").json["note"] is None
    assert Answer("get", motoko, "ticks").out == "0\n"
    assert Answer("export", motoko, "ticks", "-o", "x.csv").code == 0
    assert (tmp_path / "x.csv").read_text() == "value\n0\n"


def test_one_without_stable_types_is_said_to_be_motokos(motoko, tmp_path):
    from perdure.wasm import decode, encode

    path = tmp_path / "motoko" / "wasm_module.bin"
    module = decode(gzip.decompress(path.read_bytes()))
    sections = tuple(one for one in module.custom_sections if not one.name.endswith("stable-types"))
    path.write_bytes(encode(replace(module, custom_sections=sections)))
    said = "a Motoko canister without stable types in its module keeps its variables in the heap"
    assert said in Answer("ls", motoko).out
    assert said in Answer("ls", motoko, "--json").json["note"]
    assert said in Answer("map", motoko).out
    for output in (("x.db",), ("x.csv",), ("x.parquet",), ("many", "--format", "csv")):
        found = Answer("export", motoko, "-o", *output)
        assert (found.code, "nothing to export: no structure" in found.err, said in found.err) == (2, True, True)
    assert [path.name for path in tmp_path.iterdir()] == ["motoko"]


def test_an_interrupted_download_is_not_read(motoko, tmp_path):
    (tmp_path / "motoko/stable_memory.bin").write_bytes(bytes(65536))
    (tmp_path / "motoko/.download_progress.json").write_text("{}")
    for command in ("ls", "fsck", "tree", "infer", "map"):
        for source in ("motoko", "motoko/stable_memory.bin"):
            found = Answer(command, source)
            assert (found.code, "the download is not complete" in found.err) == (2, True)
            assert "icp canister snapshot download --resume" in found.err


def test_canisters_of_a_state_directory_go_by_name(tmp_path):
    from perdure import Subnet
    from perdure.storage.names import Names

    with Subnet(tmp_path / "state") as subnet:
        canister = subnet.install(ROOT / "tests/canisters/modules/structures.wasm.gz", b"")
        names = Names(tmp_path / "state")
        names.ids["registry"] = str(canister.id)
        names.save()
    by_name, by_id = (Answer("ls", f"state:{one}", "--json").json for one in ("registry", canister.id))
    assert by_name["structures"] == by_id["structures"]
    found = Answer("ls", "state:register")
    assert (found.code, f"no canister 'register' in it, found {canister.id} (registry)" in found.err) == (2, True)


def test_a_state_directory_alone_is_its_canisters(tmp_path):
    from perdure import Subnet
    from perdure.storage.names import Names

    with Subnet(tmp_path / "state") as subnet:
        canister = subnet.install(ROOT / "tests/canisters/modules/structures.wasm.gz", b"")
        empty = subnet.create_canister()
        names = Names(tmp_path / "state")
        names.ids["registry"] = str(canister.id)
        names.save()
    assert Answer("ls", "state", "-q").out.split() == ["state:registry", f"state:{empty.id}"]
    assert [one["wasm_pages"] for one in Answer("ls", "state", "--json").json["canisters"]] == [1, 0]
    assert str(canister.id) in Answer("ls", "state").out
    found = Answer("rows", "state")
    assert (found.code, f"found state:registry, state:{empty.id}" in found.err) == (2, True)


@pytest.mark.parametrize("command", ["ls", "tree", "map", "fsck", "infer"])
def test_a_canister_without_code_has_an_empty_memory(tmp_path, command):
    from perdure import Subnet

    with Subnet(tmp_path / "state") as subnet:
        empty = subnet.create_canister()
    assert Answer(command, f"state:{empty.id}").code == 0
    found = Answer(command, f"state:{empty.id}#heap")
    assert (found.code, "has no memory 'heap': expected one of: stable" in found.err) == (2, True)


# SQL reads, and nothing else


@pytest.mark.parametrize(
    "sql",
    [
        "attach 'x.db' as x", "attach ':memory:' as x", "vacuum into 'x.db'", "vacuum", "detach main",
        "create table x(a)", "create temp table x(a)", "create view x as select 1", "create index x on memory_0(key)",
        "create virtual table x using fts5(a)", "insert into memory_0 values (1, 2)", "update memory_0 set value = 1",
        "delete from memory_0", "drop table memory_0", "alter table memory_0 rename to x", "analyze",
        "pragma journal_mode = wal", "pragma temp_store_directory = '.'", "pragma writable_schema = 1",
        "pragma temp_store = file", "select load_extension('x')", "select readfile('/etc/passwd')",
        "select writefile('x.db', 'x')", "select fts3_tokenizer('x')", "update sqlite_master set sql = ''",
        "select 1; attach 'x.db' as x",
    ],
)  # fmt: skip
def test_sql_changes_nothing_and_reaches_no_file(dump, tmp_path, sql):
    found = Answer("query", dump, sql)
    assert (found.code, found.out) in ((2, ""), (2, "1\n1\n")), found.out
    assert "SQL" in found.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from memory_0", "select * from memory_0 order by value desc",
        "with recursive t(x) as (select 1 union all select x + 1 from t where x < 5) select sum(x) from t",
        "select value, count(*) from memory_0 group by value having count(*) > 0 limit 3",
        "pragma table_info(memory_0)",
        "select name from pragma_table_list", "select json_extract('[1]', '$[0]'), value from json_each('[1]')",
        "explain query plan select * from memory_0", "select sql from sqlite_master", "select upper('x') || 'y'",
    ],
)  # fmt: skip
def test_sql_that_reads(dump, tmp_path, sql):
    assert Answer("query", dump, sql).code == 0
    assert list(tmp_path.iterdir()) == []


def test_sql_without_end_can_be_interrupted(dump):
    sql = "with recursive t(x) as (select 1 union all select x + 1 from t) select count(*) from t"
    command = [sys.executable, "-c", "from perdure.cli import main; main()", "stable", "query", dump, sql]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while dump not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
        assert "interrupted" in process.stderr.read()


def test_ls_breaks_no_name_in_a_narrow_terminal(dump):
    ours, theirs = os.openpty()
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-c", "from perdure.cli import main; main()", "stable", "ls", dump]
    subprocess.run(command, stdout=theirs, env=environment, check=True)
    os.close(theirs)
    lines = os.read(ours, 1 << 16).decode().splitlines()[2:]
    assert any(line.split()[:2] == ["0", "btreemap"] for line in lines), lines
    assert max(map(len, lines)) <= 80
