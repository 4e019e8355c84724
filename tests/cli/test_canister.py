"""`perdure canister`: verbs and flags of icp, exit codes, units, names, what is printed for whom."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from perdure.cli import main
from perdure.cli.canister_state import Names
from perdure.cli.units import CYCLES, DURATION, SIZE, show_bytes, show_cycles
from perdure.errors import StorageError

ROOT = Path(__file__).parents[2]
HASHES = json.loads((ROOT / "tests/canisters/hashes.json").read_text(encoding="utf-8"))
LEDGER_ARGS = '(record { symbol = "TST"; fee = 1; holders = vec { record { principal "2vxsx-fae"; 100 } } })'


def module(name):
    return str(ROOT / HASHES[name]["file"])


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run a command line in an empty directory; the exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["perdure", "canister", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        output = capsys.readouterr()
        return exited.value.code, output.out, output.err

    return run


@pytest.fixture
def fine(run):
    """Run a command that must succeed; its standard output."""

    def fine(*arguments):
        code, out, err = run(*arguments)
        assert code == 0, err
        return out.rstrip("\n")

    return fine


@pytest.fixture
def ledger(fine):
    fine("install", "ledger", "--wasm", module("ledger"), "--args", LEDGER_ARGS)
    return "ledger"


@pytest.fixture
def counter(fine):
    fine("install", "counter", "--wasm", module("motoko_classical_v1"))
    return "counter"


def test_a_counter_outlives_its_process(fine, counter):
    assert fine("call", counter, "inc") == "(1 : nat)"
    assert fine("call", counter, "inc", "()") == "(2 : nat)"
    assert fine("call", counter, "count") == "(2 : nat)"
    assert Path(".perdure/names.json").exists()


def test_arguments_in_every_form(fine, ledger, tmp_path):
    assert fine("call", ledger, "balance_of", '(principal "2vxsx-fae")') == "(100 : nat)"
    assert fine("call", ledger, "balance_of", 'principal "2vxsx-fae"') == "(100 : nat)"
    assert fine("call", ledger, "balance_of", "--args", '(principal "2vxsx-fae")') == "(100 : nat)"
    assert fine("call", ledger, "balance_of", "--argument", '(principal "2vxsx-fae")') == "(100 : nat)"
    message = fine("call", ledger, "balance_of", '(principal "2vxsx-fae")', "-o", "hex")
    assert message == "4449444c00017d64"
    argument = "4449444c000168010104"
    assert fine("call", ledger, "balance_of", argument, "--args-format", "hex") == "(100 : nat)"
    (tmp_path / "arg.bin").write_bytes(bytes.fromhex(argument))
    assert fine("call", ledger, "balance_of", "--args-file", "arg.bin", "--args-format", "bin") == "(100 : nat)"
    (tmp_path / "arg.txt").write_text('(principal "2vxsx-fae")')
    assert fine("call", ledger, "balance_of", "--argument-file", "arg.txt") == "(100 : nat)"


def test_replies_in_every_form(fine, ledger, tmp_path):
    assert fine("call", ledger, "symbol") == '("TST")'
    assert fine("call", ledger, "symbol", "-o", "text") == "TST"
    assert json.loads(fine("call", ledger, "symbol", "--json")) == ["TST"]
    assert json.loads(fine("call", ledger, "symbol", "--output", "json")) == ["TST"]
    assert bytes.fromhex(fine("call", ledger, "symbol", "--output", "raw"))[:4] == b"DIDL"
    (tmp_path / "other.did").write_text("service : { symbol : () -> (reserved) query }")
    assert fine("call", ledger, "symbol", "--candid", "other.did") == "(null : reserved)"
    entries = json.loads(fine("call", ledger, "entries", "(0, 1)", "--json"))
    assert entries[0][0]["to"] == "2vxsx-fae"


def test_a_module_without_an_interface(fine, run):
    fine("install", "kv", "--wasm", module("kv32"))
    code, _, error = run("call", "kv", "nothing")
    assert (code, "has no" in error) == (1, True)


def test_identities(fine, run, ledger):
    transfer = '(record { to = principal "aaaaa-aa"; amount = 5 })'
    code, _, error = run("call", ledger, "transfer", transfer)
    assert (code, error.startswith("perdure: IC0406")) == (1, True)
    assert "InsufficientFunds" in fine("call", ledger, "transfer", transfer, "--identity", "alice")
    fine("install", "counter", "--wasm", module("motoko_classical_v1"))
    alice = fine("call", "counter", "whoami", "--identity", "alice")
    text = alice.removeprefix('(principal "').removesuffix('")')
    assert fine("call", "counter", "whoami", "--impersonate", text) == alice


def test_queries_leave_no_trace_and_updates_do(fine, counter):
    assert fine("call", counter, "incInQuery") == "(1 : nat)"
    assert fine("call", counter, "count") == "(0 : nat)"
    assert fine("call", counter, "count", "--update") == "(0 : nat)"


def test_a_trap_exits_with_1_and_its_backtrace(run, counter):
    code, out, error = run("call", counter, "crash")
    assert (code, out) == (1, "")
    assert "IC0503" in error
    assert "Canister Backtrace:" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ("call", "counter", "inc", "(", "--state", ".perdure"),
        ("call", "nobody", "inc"),
        ("call", "counter", "put", '("a", -1)'),
        ("call", "counter", "inc", "()", "--args", "()"),
        ("call", "counter", "inc", "xyz", "--args-format", "hex"),
        ("call", "counter", "inc", "--args-format", "bin"),
        ("call", "counter"),
        ("install", "counter", "--wasm", "missing.wasm"),
        ("install", "other"),
        ("create", "counter"),
        ("create", "--cycles", "5 potatoes"),
        ("create", "--specified-id", "nonsense"),
        ("settings", "update", "counter"),
        ("settings", "update", "counter", "--add-environment-variable", "x"),
        ("logs", "counter", "--since", "yesterday"),
        ("snapshot", "restore", "counter", "xyz"),
        ("status", "counter", "--state", "elsewhere"),
    ],
)
def test_what_cannot_be_done_exits_with_2(run, counter, arguments):
    code, out, error = run(*arguments)
    assert (code, out) == (2, "")
    assert error
    assert "Traceback" not in error


def test_modes(fine, run, counter):
    fine("call", counter, "inc")
    code, _, error = run("install", counter, "--mode", "install", "--wasm", module("motoko_classical_v1"))
    assert (code, "IC0514" in error) == (1, True)
    assert fine("install", counter, "--wasm", module("motoko_classical_v2")).startswith("upgrade counter")
    assert fine("call", counter, "count") == "(1 : nat)"
    code, _, _ = run("install", counter, "-m", "reinstall", "--wasm", module("motoko_classical_v1"))
    assert code != 0
    fine("install", counter, "-m", "reinstall", "-y", "--wasm", module("motoko_classical_v1"))
    assert fine("call", counter, "count") == "(0 : nat)"


def test_motoko_with_enhanced_persistence_keeps_its_heap(fine):
    fine("install", "eop", "--wasm", module("motoko_eop_v1"))
    fine("call", "eop", "inc")
    fine("install", "eop", "--wasm", module("motoko_eop_v2"))
    assert fine("call", "eop", "count") == "(1 : nat)"


def test_status(fine, counter):
    record = json.loads(fine("status", counter, "--json"))
    assert (record["name"], record["status"], record["controllers"]) == ("counter", "running", ["2vxsx-fae"])
    assert fine("status", "-i") == record["canister_id"]
    text = fine("status")
    assert "Status:        running" in text
    assert "MiB" in text
    fine("create", "empty", "--cycles", "1_500b", "--controller", "alice")
    both = json.loads(fine("status", "--json"))
    assert [one["name"] for one in both] == ["counter", "empty"]
    assert both[1]["cycles"] == 1_500 * 10**9
    assert fine("list").splitlines()[1].endswith("  empty")


def test_settings(fine, counter):
    fine(
        "settings", "update", counter, "--add-controller", "alice", "--freezing-threshold", "90d",
        "--memory-allocation", "1gib", "--wasm-memory-limit", "2GiB", "--compute-allocation", "5",
        "--reserved-cycles-limit", "7t", "--log-visibility", "public", "--add-environment-variable", "A=1",
    )  # fmt: skip
    fine("settings", "update", counter, "--add-environment-variable", "B=2")
    found = json.loads(fine("settings", "show", counter, "--json"))
    assert len(found["controllers"]) == 2
    assert (found["freezing_threshold"], found["memory_allocation"]) == (90 * 86_400, 1 << 30)
    assert found["environment_variables"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    text = fine("settings", "show", counter)
    assert "reserved_cycles_limit: 7 T" in text
    assert "environment_variables: A=1, B=2" in text
    fine("settings", "update", counter, "--remove-controller", "alice")
    assert json.loads(fine("settings", "show", counter, "--json"))["controllers"] == ["2vxsx-fae"]


def test_life(fine, run, counter):
    fine("stop", counter)
    assert run("call", counter, "inc")[0] == 1
    fine("start", counter)
    assert fine("call", counter, "inc") == "(1 : nat)"
    assert run("delete", counter)[0] == 1
    fine("stop", counter)
    fine("delete", counter)
    assert run("status", counter)[0] == 2
    assert fine("list") == ""


def test_logs(fine, run, counter):
    run("call", counter, "crash")
    (record,) = json.loads(fine("logs", counter, "--json"))
    assert "[TRAP]" in record["content"]
    assert fine("logs", counter).startswith("[0. 2021-")
    assert fine("logs", counter, "--since", "2030-01-01T00:00:00Z") == ""
    assert fine("logs", counter, "--until", str(record["timestamp"])) == ""


def test_snapshots(fine, counter, tmp_path):
    fine("call", counter, "inc")
    taken = fine("snapshot", "create", counter)
    fine("call", counter, "inc")
    fine("snapshot", "restore", counter, taken)
    assert fine("call", counter, "count") == "(1 : nat)"
    assert [one["id"] for one in json.loads(fine("snapshot", "list", counter, "--json"))] == [taken]
    assert fine("snapshot", "list", counter).startswith(taken)
    fine("snapshot", "delete", counter, taken)
    assert json.loads(fine("snapshot", "list", counter, "--json")) == []
    fine("snapshot", "download", counter, "-o", "downloaded")
    assert json.loads((tmp_path / "downloaded/metadata.json").read_text())


def test_top_up(fine, counter):
    before = json.loads(fine("status", counter, "--json"))["cycles"]
    assert json.loads(fine("top-up", counter, "--amount", "2t", "--json"))["cycles"] == before + 2 * 10**12


def test_projects(fine, run, tmp_path, monkeypatch):
    (tmp_path / "icp.yaml").write_text(
        f"canisters: [{{name: ledger, build: {{steps: [{{type: pre-built, path: {module('ledger')}}}]}}, "
        f"init_args: '{LEDGER_ARGS}'}}]"
    )
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    fine("install", "ledger")
    assert fine("call", "ledger", "symbol") == '("TST")'
    assert (tmp_path / ".perdure").is_dir()
    canister_id = fine("status", "-i")
    monkeypatch.setenv("ICP_CLI_CID_OTHER", canister_id)
    assert fine("call", "other", "symbol") == '("TST")'
    assert fine("call", canister_id, "symbol") == '("TST")'


def test_quiet(fine, counter):
    assert fine("stop", counter, "-q") == ""
    assert fine("start", counter, "--quiet") == ""


def test_shells_complete_names(fine, counter, tmp_path):
    environment = {
        **os.environ, "_PERDURE_COMPLETE": "bash_complete", "COMP_WORDS": "perdure canister call c", "COMP_CWORD": "3",
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", "from perdure.cli import main; main()"],
        env=environment, capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert run.stdout.split() == ["plain,counter"]


def test_every_command_has_an_example():
    from perdure.cli.canister import canister

    def commands(group, path):
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                yield from commands(command, f"{path} {name}")
            else:
                yield f"{path} {name}", command

    for path, command in commands(canister, "perdure canister"):
        assert path in (command.help or "").partition("Example:")[2], path


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (CYCLES, "2t", 2 * 10**12),
        (CYCLES, "2_000_000", 2_000_000),
        (CYCLES, "1.5B", 1_500_000_000),
        (SIZE, "1.5 KiB", 1536),
        (SIZE, "3gb", 3 * 10**9),
        (DURATION, "2w", 1_209_600),
        (DURATION, "5", 5),
    ],
)
def test_units(kind, text, value):
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(("kind", "text"), [(CYCLES, "2x"), (CYCLES, "-1"), (SIZE, "0.3"), (DURATION, ""), (SIZE, "x")])
def test_units_that_are_none(kind, text):
    with pytest.raises(click.BadParameter):
        kind.convert(text, None, None)


def test_shown_units():
    assert [show_bytes(1), show_bytes(1536), show_bytes(5 << 40)] == ["1 byte", "1.5 KiB", "5 TiB"]
    assert [show_cycles(5), show_cycles(2 * 10**12), show_cycles(1_500_000)] == ["5", "2 T", "1.5 M"]


def test_damaged_names_are_an_error(tmp_path):
    for content in ("{", "[]", '{"a": 5}', "[" * 100_000):
        (tmp_path / "names.json").write_text(content)
        with pytest.raises(StorageError):
            Names(tmp_path)
