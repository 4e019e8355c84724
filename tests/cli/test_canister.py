"""`perdure canister`: verbs and flags of icp, exit codes, units, names, what is printed for whom."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
import wasmtime

from perdure import Principal, Subnet
from perdure.cli import main
from perdure.cli.units import CYCLES, DURATION, SIZE
from perdure.errors import StorageError
from perdure.storage.names import Names
from perdure.units import show_bytes, show_cycles

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
    envelope = {
        "response_bytes": "4449444c00017103545354",
        "response_text": None,
        "response_candid": '("TST")',
        "response_json": ["TST"],
    }
    assert json.loads(fine("call", ledger, "symbol", "--json")) == envelope
    assert json.loads(fine("call", ledger, "symbol", "--output", "json")) == envelope
    assert bytes.fromhex(fine("call", ledger, "symbol", "--output", "raw"))[:4] == b"DIDL"
    (tmp_path / "other.did").write_text("service : { symbol : () -> (reserved) query }")
    assert fine("call", ledger, "symbol", "--candid", "other.did") == "(null : reserved)"
    entries = json.loads(fine("call", ledger, "entries", "(0, 1)", "--json"))
    assert entries["response_json"][0][0]["to"] == "2vxsx-fae"


def test_what_a_method_takes_is_said_where_nothing_is_given(run, ledger):
    code, out, error = run("call", ledger, "balance_of")
    assert (code, out) == (2, "")
    assert "balance_of takes (principal): pass it, in Candid's text form" in error
    code, _, error = run("install", "other", "--wasm", module("ledger"))
    assert code == 2
    assert "takes (record { fee : nat; holders : vec record" in error
    assert "no argument was given: pass --args" in error


def test_an_argument_from_standard_input(fine, ledger, monkeypatch):
    for option in ("--argument-file", "--args-file"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'(principal "2vxsx-fae")')))
        assert fine("call", ledger, "balance_of", option, "-") == "(100 : nat)"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes.fromhex("4449444c000168010104"))))
    assert fine("call", ledger, "balance_of", "--argument-file", "-", "--argument-type", "bin") == "(100 : nat)"


def test_an_interface_with_imports(fine, counter, tmp_path):
    (tmp_path / "types.did").write_text("type Number = nat")
    (tmp_path / "main.did").write_text('import "types.did"; service : { count : () -> (Number) query }')
    assert fine("call", counter, "count", "--candid", "main.did") == "(0 : nat)"


def test_the_management_canister(fine, run, counter):
    canister_id = fine("id", counter)
    status = fine("call", "aaaaa-aa", "canister_status", f'(record {{ canister_id = principal "{canister_id}" }})')
    assert "status = variant { running }" in status
    assert "freezing_threshold = 2_592_000 : nat" in status
    stop = ("call", "aaaaa-aa", "stop_canister", f'(record {{ canister_id = principal "{canister_id}" }})')
    code, _, error = run(*stop, "--identity", "alice")
    assert (code, "IC0512" in error) == (1, True)
    assert fine(*stop) == "()"
    assert json.loads(fine("status", counter, "--json"))["status"] == "stopped"


def test_a_module_without_an_interface(fine, run):
    fine("install", "kv", "--wasm", module("kv32"))
    code, _, error = run("call", "kv", "nothing")
    assert (code, "no method 'nothing'" in error) == (2, True)


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
        ("snapshot", "download", "counter", "00", "-o", "x"),
        ("create", ""),
        ("create", "new\nline"),
        ("create", "x" * 5000),
        ("create", "2vxsx-fae"),
        ("create", "--", "--help"),
        ("create", "--all"),
        ("install", "--all"),
        ("install", "../counter", "--wasm", module("motoko_classical_v1")),
        ("install", "counter", "--all"),
        ("start",),
        ("start", "counter", "--all"),
        ("metadata", "counter", "nothing"),
        ("call", "counter", "put"),
        ("call", "counter", "inc", "--network", "ic"),
        ("call", "counter", "inc", "-n", "https://example.org"),
        ("call", "counter", "inc", "--ic"),
        ("--network", "ic", "call", "counter", "inc"),
        ("--ic", "status"),
        ("call", "counter", "inc", "-e", "../x"),
        ("settings", "update", "counter", "--remove-environment-variable", "A"),
        ("settings", "update", "counter", "--log-visibility", "public", "--add-log-viewer", "alice"),
        ("settings", "sync"),
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


def test_variables_and_viewers(fine, run, counter):
    fine("update-settings", counter, "--add-environment-variable", "A=1", "--add-environment-variable", "B=2")
    fine("settings", "update", counter, "--remove-environment-variable", "A", "--add-log-viewer", "alice", "-y")
    fine("settings", "update", counter, "--add-log-viewer", "bob", "--remove-log-viewer", "alice")
    found = json.loads(fine("settings", "show", counter, "--json"))
    assert found["environment_variables"] == [{"name": "B", "value": "2"}]
    bob = str(Principal.self_authenticating(b"bob"))
    assert found["log_visibility"] == {"allowed_viewers": [bob]}
    assert f"log_visibility: allowed_viewers {bob}" in fine("settings", "show", counter)
    fine("settings", "update", counter, "--set-log-viewer", "2vxsx-fae")
    assert json.loads(fine("settings", "show", counter, "--json"))["log_visibility"] == {
        "allowed_viewers": ["2vxsx-fae"]
    }


def test_what_dfx_calls_otherwise(fine, counter):
    canister_id = fine("status", counter, "-i")
    assert fine("id", counter) == canister_id
    assert json.loads(fine("id", counter, "--json")) == {counter: canister_id}
    hash_ = json.loads(fine("status", counter, "--json"))["module_hash"]
    assert fine("info", counter) == f"Controllers: 2vxsx-fae\nModule hash: 0x{hash_}"
    assert fine("metadata", counter, "candid:service").startswith("service : {")
    assert json.loads(fine("metadata", counter, "candid:service", "--json"))["value"].startswith("service : {")
    before = json.loads(fine("status", counter, "--json"))["cycles"]
    fine("deposit-cycles", "2t", counter)
    assert json.loads(fine("status", counter, "--json"))["cycles"] == before + 2 * 10**12
    assert fine("--network", "local", "call", counter, "count") == "(0 : nat)"
    fine("uninstall-code", counter)
    assert fine("info", counter).endswith("Module hash: None")
    fine("stop", counter)
    fine("delete", counter, "-y")


SPELLINGS = {
    # By verb: options as icp or dfx spell them, which are taken after CANISTER.
    "create": ["--detached --compute-allocation 0 --memory-allocation 1gib --freezing-threshold 30d --cycles 3t",
               "--reserved-cycles-limit 1t --subnet x --no-wallet --controller alice", "--next-to x --with-cycles 3t"],
    "call": ["count --query", "count -c main.did", "count --candid-file main.did --args () --args-format candid",
             "count --output idl --type idl --argument () -n local"],
    "install": ["--mode upgrade -y", "-m upgrade --yes --upgrade-unchanged", "--argument () --argument-type idl"],
    "status": ["-i", "--id-only", "--json", "-p", "--public", "-e local"],
    "logs": ["--tail 2", "--since 0 --until 5 --since-index 0 --until-index 9"],
    "metadata": ["candid:service"],
    "settings show": ["-i", "--json"],
    "settings update": [
        "-f --add-controller bob --remove-controller bob",
        "-y --log-memory-limit 8kib",
        "--add-environment-variable A=1 --add-log-viewer bob --remove-log-viewer alice",
        "--set-log-viewer bob",
    ],
    "update-settings": ["--set-controller anonymous --yes", "--freezing-threshold 1 --memory-allocation 0",
                        "--confirm-very-short-freezing-threshold --freezing-threshold 1"],
    "snapshot create": [""],
    "snapshot list": ["--json"],
    "top-up": ["--amount 2t"],
    "stop": [""],
    "start": [""],
    "uninstall-code": ["-y", "--yes", ""],
}  # fmt: skip


@pytest.mark.parametrize("verb", SPELLINGS)
def test_every_verb_takes_the_options_of_icp_and_dfx(fine, run, counter, verb, tmp_path):
    (tmp_path / "main.did").write_text("service : { count : () -> (nat) query }")
    for options in SPELLINGS[verb]:
        for everywhere in ("", "--identity alice -k 30", "--identity anonymous --root-key 30 --network local"):
            given = f"{options} {everywhere}".split()
            name = [] if verb == "create" else [counter]
            wasm = ["--wasm", module("motoko_classical_v1")] if verb == "install" else []
            if verb == "install":
                wasm.append("--no-check")
            code, _, error = run(*verb.split(), *name, *given, *wasm)
            assert code == 0, (given, error)


def test_who_creates_controls(fine, counter):
    fine("create", "mine", "--identity", "alice")
    fine("--identity", "bob", "create", "his")
    fine("create", "shared", "--identity", "alice", "--controller", "bob")
    alice, bob = (str(Principal.self_authenticating(name)) for name in (b"alice", b"bob"))
    for name, controllers in (("mine", [alice]), ("his", [bob]), ("shared", [bob]), (counter, ["2vxsx-fae"])):
        assert json.loads(fine("status", name, "--json"))["controllers"] == controllers


def test_snapshots_as_dfx_spells_them(fine, counter):
    taken = fine("snapshot", "create", counter)
    fine("call", counter, "inc")
    fine("snapshot", "download", counter, taken, "--dir", "there")
    fine("snapshot", "load", counter, taken)
    assert fine("call", counter, "count") == "(0 : nat)"
    assert len(fine("snapshot", "upload", counter, "--dir", "there")) > 20


def test_the_last_lines_of_a_log(fine, run, counter):
    for _ in range(3):
        run("call", counter, "crash")
    assert [one["index"] for one in json.loads(fine("logs", counter, "--tail", "2", "--json"))] == [1, 2]
    assert fine("logs", counter, "--tail", "0") == ""
    assert fine("logs", counter, "--tail", "9").count("[TRAP]") == 3


def test_settings_of_several(fine, counter):
    fine("create", "other")
    fine("update-settings", "--all", "--freezing-threshold", "7d")
    assert [
        json.loads(fine("settings", "show", one, "--json"))["freezing_threshold"] for one in (counter, "other")
    ] == [7 * 86_400] * 2


def test_several_at_once(fine, run, counter):
    fine("create", "other")
    fine("stop", "--all")
    assert [one["status"] for one in json.loads(fine("status", "--all", "--json"))] == ["stopped", "stopped"]
    fine("start", counter, "other")
    assert [one["status"] for one in json.loads(fine("status", "--json"))] == ["running", "running"]
    fine("stop", "--all")
    assert fine("delete", "--all").splitlines() == [f"deleted {counter}", "deleted other"]


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


def test_logs_are_followed(fine, run, counter, tmp_path):
    run("call", counter, "crash")
    command = [sys.executable, "-m", "perdure", "canister", "logs", counter, "--follow", "--json", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["index"] == 0
        while run("call", counter, "crash")[0] == 2:
            pass  # the one that follows has the directory just now
        assert json.loads(process.stdout.readline())["index"] == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
    assert [one["index"] for one in json.loads(fine("logs", counter, "--json", "--since-index", "1"))] == [1]
    assert [one["index"] for one in json.loads(fine("logs", counter, "--json", "--until-index", "1"))] == [0]


def test_a_snapshot_is_downloaded_by_its_id(fine, run, counter, tmp_path):
    fine("call", counter, "inc")
    taken = fine("snapshot", "create", counter)
    fine("call", counter, "inc")
    fine("snapshot", "download", counter, taken, "-o", "then")
    fine("snapshot", "download", counter, "-o", "now")
    for name, count in (("then", 1), ("now", 2)):
        found = Subnet.open(tmp_path / name)
        assert found.canisters[0].actor().count() == count
    assert run("snapshot", "download", counter, "-o", "now")[0] == 2
    fine("snapshot", "download", counter, "-o", "now", "--resume")
    (tmp_path / "now/metadata.json").unlink()
    assert run("snapshot", "download", counter, "-o", "now", "--resume")[0] == 2


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


PROJECT = """
canisters:
  - name: first
    build: {steps: [{type: pre-built, path: MODULE}]}
    settings: {environment_variables: {LEVEL: info}, log_visibility: public, wasm_memory_limit: 1gib}
  - name: second
    build: {steps: [{type: pre-built, path: MODULE}]}
    settings: {controllers: [first]}
  - {name: broken, build: {steps: [{type: pre-built, path: missing.wasm}]}, init_args: {path: gen/args.bin}}
  - broken/entry
environments:
  - name: staging
    canisters: [first]
    settings: {first: {environment_variables: {LEVEL: debug}}}
  - {name: production, network: ic}
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "icp.yaml").write_text(PROJECT.replace("MODULE", module("motoko_classical_v1")))


def variables(fine, name, *options):
    found = json.loads(fine("settings", "show", name, "--json", *options))["environment_variables"]
    return {one["name"]: one["value"] for one in found}


def test_a_project_gives_settings_and_ids(fine, run, project):
    code, _, error = run("install", "second")
    assert (code, error) == (0, "no canister yet: controller first (for second), set when it is created\n")
    fine("install", "first")
    ids = {f"PUBLIC_CANISTER_ID:{name}": fine("id", name) for name in ("first", "second")}
    assert variables(fine, "first") == {"LEVEL": "info", **ids}
    assert variables(fine, "second") == ids
    shown = json.loads(fine("settings", "show", "first", "--json"))
    assert (shown["log_visibility"], shown["wasm_memory_limit"]) == ({"public": None}, 1 << 30)
    fine("settings", "update", "first", "--wasm-memory-limit", "2gib", "--add-environment-variable", "MINE=1")
    fine("settings", "sync")
    assert variables(fine, "first") == {"LEVEL": "info", "MINE": "1", **ids}
    assert json.loads(fine("settings", "show", "first", "--json"))["wasm_memory_limit"] == 1 << 30
    controllers = json.loads(fine("settings", "show", "second", "--json"))["controllers"]
    assert controllers == ["2vxsx-fae", ids["PUBLIC_CANISTER_ID:first"]]


def test_a_broken_entry_stops_no_other(fine, run, project):
    fine("install", "first")
    assert fine("call", "first", "count") == "(0 : nat)"
    code, _, error = run("install", "broken")
    assert (code, "no module of canister 'broken'" in error) == (2, True)
    code, _, error = run("install", "entry")
    assert (code, "there is no broken/entry/canister.yaml" in error) == (2, True)


def test_all_of_a_project(fine, run, project):
    code, out, error = run("install", "--all")
    assert code == 1
    assert [line.split()[:2] for line in out.splitlines()] == [["install", "first"], ["install", "second"]]
    assert "no module of canister 'broken' in it: build the project first; looked for missing.wasm, " in error
    assert "perdure: entry: canister 'entry' of icp.yaml: there is no broken/entry/canister.yaml" in error
    code, _, error = run("create", "--all")
    assert (code, "perdure: entry: canister 'entry'" in error, "broken:" in error) == (1, True, False)
    assert variables(fine, "first").keys() > {"PUBLIC_CANISTER_ID:second", "PUBLIC_CANISTER_ID:broken"}


def test_create_all(fine, run, project):
    code, out, error = run("create", "--all", "--cycles", "2t")
    assert (code, [line.split()[1] for line in out.splitlines()]) == (1, ["first", "second", "broken"])
    assert error.count("perdure: ") == 1
    assert [one["cycles"] for one in json.loads(fine("status", "--json"))] == [2 * 10**12] * 3
    assert variables(fine, "broken").keys() == {f"PUBLIC_CANISTER_ID:{one}" for one in ("first", "second", "broken")}


def test_environments(fine, run, project, monkeypatch, tmp_path):
    fine("install", "first", "-e", "staging")
    assert variables(fine, "first", "-e", "staging")["LEVEL"] == "debug"
    assert (tmp_path / ".perdure-staging").is_dir()
    assert run("status", "first")[0] == 2
    monkeypatch.setenv("ICP_ENVIRONMENT", "staging")
    assert fine("call", "first", "count") == "(0 : nat)"
    monkeypatch.setenv("ICP_ENVIRONMENT", "production")
    code, _, error = run("call", "first", "inc")
    assert (code, "is on the network 'ic'" in error) == (2, True)


def test_the_fixture_gives_settings_and_ids_too(project, tmp_path):
    (tmp_path / "test_it.py").write_text(
        "def test_it(canister):\n"
        "    second = canister('second'); first = canister('first')\n"
        "    found = {one['name']: one['value'] for one in second.settings()['environment_variables']}\n"
        "    assert found == {'PUBLIC_CANISTER_ID:first': str(first.id), 'PUBLIC_CANISTER_ID:second': str(second.id)}\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_quiet(fine, counter):
    assert fine("stop", counter, "-q") == ""
    assert fine("start", counter, "--quiet") == ""


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


@pytest.mark.parametrize("name", ["names.json", "names.json.new"])
def test_names_are_not_written_through_links(tmp_path, name):
    (tmp_path / "state").mkdir()
    (tmp_path / "precious").write_text("{}")
    (tmp_path / "state" / name).symlink_to(tmp_path / "precious")
    if name == "names.json":
        with pytest.raises(StorageError, match="symbolic link"):
            Names(tmp_path / "state")
    else:
        names = Names(tmp_path / "state")
        names.ids["kv"] = "aaaaa-aa"
        names.save()
        assert Names(tmp_path / "state").ids == names.ids
    assert (tmp_path / "precious").read_text() == "{}"


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202edesrever\rhidden"
SAYS = """(module (import "ic0" "debug_print" (func $print (param i32 i32))) (import "ic0" "msg_reply" (func $reply))
  (memory 1) (data (i32.const 0) "{text}") (data (i32.const 4000) "x")
  (func (export "canister_update say") (call $print (i32.const 0) (i32.const {size})) (call $reply))
  (func (export "canister_update much") (call $print (i32.const 4000) (i32.const 3000)) (call $reply)))"""


@pytest.fixture
def hostile(tmp_path):
    text = "".join(f"\\{byte:02x}" for byte in HOSTILE.encode())
    path = tmp_path / "hostile.wasm"
    path.write_bytes(wasmtime.wat2wasm(SAYS.format(text=text, size=len(HOSTILE.encode()))))
    return path


def test_what_a_canister_prints_does_not_reach_the_terminal_as_it_is(fine, run, capsys, monkeypatch, hostile):
    """Escape codes rename windows, clear screens and hide lines; JSON has its own way to write them."""
    fine("install", "it", "--wasm", hostile)
    fine("call", "it", "say")
    shown = r"\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}desrever\u{d}hidden"
    assert fine("logs", "it").endswith(f": {shown}")
    (record,) = json.loads(fine("logs", "it", "--json"))
    assert record["content"] == HOSTILE
    monkeypatch.setattr(sys, "argv", ["perdure", "run", str(hostile), "say"])
    with pytest.raises(SystemExit):
        main()
    assert f"log  {shown}\n" in capsys.readouterr().out


def test_run_shows_what_is_printed_after_the_log_has_been_full(capsys, monkeypatch, hostile):
    monkeypatch.setattr(sys, "argv", ["perdure", "run", str(hostile), "much", "much", "much", "say"])
    with pytest.raises(SystemExit):
        main()
    lines = capsys.readouterr().out.splitlines()
    assert [line[:6] for line in lines if not line.startswith("installed")] == [
        *["log  x", "update"] * 3,
        "log  \\",
        "update",
    ]


@pytest.mark.parametrize(
    ("name", "canister_id"),
    [("", "aaaaa-aa"), ("--help", "aaaaa-aa"), ("a\nb", "aaaaa-aa"), ("x" * 5000, "aaaaa-aa"), ("kv", "nobody")],
)
def test_names_that_nobody_could_have_given_are_refused(tmp_path, name, canister_id):
    (tmp_path / "names.json").write_text(json.dumps({name: canister_id}))
    with pytest.raises(StorageError, match=r"names\.json"):
        Names(tmp_path)


def test_14_time_passes_and_timers_run(fine, run, tmp_path):
    """The number is that of the list of what newcomers stumbled over."""
    text = """(module (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
      (import "ic0" "msg_reply" (func $reply)) (import "ic0" "global_timer_set" (func $set (param i64) (result i64)))
      (import "ic0" "time" (func $time (result i64))) (memory 1) (global $ran (mut i32) (i32.const 0))
      (func $in_an_hour (drop (call $set (i64.add (call $time) (i64.const 3600000000000)))))
      (func (export "canister_init") (call $in_an_hour))
      (func (export "canister_global_timer")
        (global.set $ran (i32.add (global.get $ran) (i32.const 1))) (call $in_an_hour))
      (func (export "canister_query ran") (i32.store (i32.const 0) (global.get $ran))
        (call $append (i32.const 0) (i32.const 1)) (call $reply)))"""
    path = tmp_path / "timer.wasm"
    path.write_bytes(wasmtime.wat2wasm(text))
    fine("install", "timer", "--wasm", path)
    for duration, ran in (("59m", "00"), ("60", "01"), ("2h", "02")):
        told = json.loads(fine("advance", duration, "--json"))
        assert fine("call", "timer", "ran") == ran
    assert told["time_ns"] // 10**9 == 1_620_328_630 + 3 * 3600
    assert fine("advance", "1d").startswith("it is 2021-05-07T")
    assert run("advance", "yesterday")[0] == 2


def test_a_state_of_another_user(run, fine, counter, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    code, _, error = run("call", counter, "inc")
    assert code != 0
    assert "--trust-owner" in error
    fine("call", counter, "inc", "--trust-owner")
    fine("--trust-owner", "call", counter, "inc")


def test_a_canister_that_is_not_there_is_answered_by_those_that_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def said():
        monkeypatch.setattr(sys, "argv", ["perdure", "canister", "status", "legder"])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().err

    with Subnet(".perdure"):
        pass
    assert "no canister 'legder' in" in (error := said())
    assert "`perdure canister install` installs one" in error
    with Subnet(".perdure") as subnet:
        made = subnet.create_canister()
    assert f"expected one of: {made.id}" in said()
    names = Names(Path(".perdure"))
    names.ids["ledger"] = str(made.id)
    names.save()
    assert "did you mean 'ledger'?" in said()
