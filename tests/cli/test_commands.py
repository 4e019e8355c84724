"""The commands run, instrument, demo and state, as a person calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from perdure.cli import perdure as commands

ROOT = Path(__file__).parent.parent.parent
MODULES = ROOT / "tests" / "canisters" / "modules"
KV = str(MODULES / "kv32.wasm")
MAP = str(ROOT / "src" / "perdure" / "demo" / "insert_many.wasm.gz")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def perdure() -> Run:
    def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "perdure", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == code, done.stderr
        return done

    return run


def test_run_takes_the_kind_from_the_export(perdure: Run) -> None:
    done = json.loads(perdure("run", KV, "--init", "0500000000000000", "inc", "inc", "count", "--json").stdout)
    assert [(call["kind"], call["reply"][:2]) for call in done["calls"]] == [
        ("update", "06"),
        ("update", "07"),
        ("query", "07"),
    ]


def test_run_speaks_candid_where_the_module_does(perdure: Run) -> None:
    out = perdure("run", MAP, "insert_many=(vec { record { 1; 2 } })", "len", "get=(1)").stdout
    assert "(1 : nat64)" in out
    assert "(opt (2 : nat))" in out


def test_exit_codes_tell_a_failure_from_what_could_not_be_done(perdure: Run, tmp_path: Path) -> None:
    rejected = perdure("run", KV, "trap=626f6f", code=1)
    assert "IC0503" in rejected.stderr
    assert "'boo'" in rejected.stderr
    assert "update" not in rejected.stdout
    assert "no method 'nope'" in perdure("run", KV, "nope", code=2).stderr
    assert "neither hexadecimal" in perdure("run", KV, "echo=xyz", code=2).stderr
    broken = tmp_path / "broken.wasm"
    broken.write_bytes(b"\0asm\1\0\0\0\xff")
    assert "IC0505" in perdure("run", broken, "x", code=1).stderr
    assert "offset 0x8" in perdure("instrument", broken, code=2).stderr
    perdure("run", tmp_path / "absent.wasm", code=2)


def test_instrument_says_what_was_added_and_writes_it(perdure: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.wasm"
    facts = json.loads(perdure("instrument", KV, "-o", output, "--json").stdout)
    assert facts["instrumented_bytes"] == output.stat().st_size
    assert facts["memories_added"] == 3
    assert "stable64_write" in facts["redirected"]
    assert "canister_update inc" in facts["methods"]
    plain = json.loads(perdure("instrument", KV, "--schedule", "none", "--json").stdout)
    assert plain["instrumented_bytes"] < facts["instrumented_bytes"]


@pytest.mark.slow
def test_the_demo_proves_what_it_says(perdure: Run, tmp_path: Path) -> None:
    picture = tmp_path / "demo.svg"
    small = ("--entries", "200", "--messages", "3")
    facts = json.loads(perdure("demo", "--json", "--plot", picture, *small).stdout)
    assert facts["same_bytes"] is True
    assert facts["survived_upgrade"] is True
    assert (facts["entries_per_message"], facts["host_entries_per_message"], facts["host_messages"]) == (200, 20, 2)
    assert facts["ratio"] == pytest.approx(facts["host_ns_per_entry"] / facts["native_ns_per_entry"])
    assert picture.read_text().startswith("<svg")


def test_state_shows_history_blames_and_verifies(perdure: Run, tmp_path: Path) -> None:
    from perdure.subnet import Subnet

    path = tmp_path / "state"
    with Subnet(path, history=None) as subnet:
        canister = subnet.install(KV, b"\5" + bytes(7))
        canister.update("stable64_grow", (1).to_bytes(8, "little"))
        canister.update("store", (4096).to_bytes(8, "little") + b"who wrote this")
        canister.update("inc")
    rows = json.loads(perdure("state", "history", path, "--json").stdout)
    assert [row["method"] for row in rows][:3] == ["inc", "store", "stable64_grow"]
    blamed = json.loads(perdure("state", "blame", f"{path}:{canister.id}", "--stable", "0x1003", "--json").stdout)
    assert blamed["method"] == "store"
    perdure("state", "blame", f"{path}:{canister.id}", "--stable", "9", code=1)
    perdure("state", "blame", f"{path}:{canister.id}", "--stable", "0x100000", code=2)
    assert "version" in perdure("state", "verify", path).stdout
    perdure("state", "merge", path)
    assert json.loads(perdure("state", "history", path, "--json").stdout) == []
    image = next((path / "images").glob("*-stable*.img"))
    damaged = bytearray(image.read_bytes())
    damaged[4100] ^= 1
    image.write_bytes(damaged)
    assert "stable" in perdure("state", "verify", path, code=1).stderr


def test_state_is_copied_salvaged_and_measured(perdure: Run, tmp_path: Path) -> None:
    from perdure.subnet import Subnet

    path = tmp_path / "state"
    with Subnet(path) as subnet:
        canister = subnet.install(KV, b"\5" + bytes(7))
        canister.update("inc")
        (path / "names.json").write_text(json.dumps({"counter": str(canister.id)}))
        assert json.loads(perdure("state", "backup", path, "-o", tmp_path / "copy", "--json").stdout)["version"]
        canister.update("inc")
    with Subnet(tmp_path / "copy") as copy:
        assert copy.canister(canister.id).query("count") == (6).to_bytes(8, "little")
    perdure("state", "backup", path, "-o", tmp_path / "copy", code=2)
    assert json.loads(perdure("state", "salvage", path, "-o", tmp_path / "saved", "--json").stdout)["lost"] == []
    with Subnet(tmp_path / "saved") as saved:
        assert saved.canister(canister.id).query("count") == (7).to_bytes(8, "little")
    for name in ("copy", "saved"):
        assert json.loads((tmp_path / name / "names.json").read_text()) == {"counter": str(canister.id)}
    taken = json.loads(perdure("state", "du", path, "--json").stdout)
    assert taken["total_bytes"] >= taken["memories"][f"{canister.id} heap"] > 0
    assert "total" in perdure("state", "du", path).stdout


def test_how_much_history_is_kept_belongs_to_the_directory(perdure: Run, tmp_path: Path) -> None:
    from perdure.subnet import Subnet

    path = tmp_path / "state"
    with Subnet(path, history=None) as subnet:
        canister = subnet.install(KV, bytes(8))
        canister.update("inc")
    perdure("canister", "call", "--state", path, canister.id, "inc", "--output", "hex")
    with Subnet(path) as subnet:
        subnet.canister(canister.id).update("inc")
    rows = json.loads(perdure("state", "history", path, "--json").stdout)
    assert [row["version"] for row in rows] == list(range(len(rows), 0, -1))
    assert json.loads(perdure("state", "history", path, "--keep", "1", "--json").stdout)["keep"] == 1
    assert len(json.loads(perdure("state", "history", path, "--json").stdout)) <= 2
    assert "all messages" in perdure("state", "history", path, "--keep", "all").stdout
    perdure("state", "history", path, "--keep", "many", code=2)


def test_state_is_replayed(perdure: Run, tmp_path: Path) -> None:
    from perdure.subnet import Subnet

    path = tmp_path / "state"
    with Subnet(path) as subnet:
        canister = subnet.install(KV, bytes(8))
    assert "keeps no history" in perdure("state", "replay", path, code=2).stderr
    with Subnet(path, history=None) as subnet:
        for _ in range(3):
            subnet.canister(canister.id).update("inc")
        same = subnet.version
    done = json.loads(perdure("state", "replay", path, "--json").stdout)
    assert done == {"start": same - 3, "end": same, "difference": None}
    assert f"versions {same} to {same} are the same" in perdure("state", "replay", path, "--from", same - 1).stdout
    with Subnet(path, history=None) as subnet:
        other = subnet.canister(canister.id)
        other.update("inc")
        other._instance._live.heap.bytes[200] = 1  # type: ignore[union-attr]  # which no message has done
        other.update("inc")
    assert f"version {same + 2} differs: call inc" in perdure("state", "replay", path, code=1).stderr
    difference = json.loads(perdure("state", "replay", path, "--json", code=1).stdout)["difference"]
    assert (difference["version"], difference["method"]) == (same + 2, "inc")


def test_help_names_every_command(perdure: Run) -> None:
    out = perdure("--help").stdout
    for command in ("demo", "run", "instrument", "canister", "stable", "state"):
        assert command in out
        assert "Example" in perdure(command, "--help").stdout


def test_run_says_what_a_method_takes(perdure: Run) -> None:
    asked = perdure("run", MAP, "get", code=2).stderr
    assert "get takes (nat): pass it, in Candid's text form" in asked
    assert (
        "(opt (2 : nat))"
        in perdure("run", MAP, "--init", "()", "insert_many=(vec { record { 1; 2 } })", "get=(1)").stdout
    )


def test_a_call_imports_only_what_it_needs(tmp_path: Path) -> None:
    """A hundred milliseconds are soon gone in what a call does without; see RATIONALE.md."""

    def said(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=300
        )
        return done.stdout.splitlines()[-1]

    def after(*words: str) -> set[str]:
        call = f"import sys, atexit; sys.argv = ['perdure', *{words!r}]; from perdure.cli import main"
        return set(said(f"{call}; atexit.register(lambda: print(*sys.modules)); main()").split())

    after("canister", "install", "kv", "--wasm", KV)
    loaded = after("canister", "call", "kv", "count", "--query", "-o", "hex")
    assert "perdure.subnet.subnet" in loaded
    unwanted = {"tarfile", "html", "fractions", "importlib.resources", "yaml", "numpy", "asyncio", "subprocess"}
    unwanted |= {f"perdure.{name}" for name in ("instrument.linking", "wasm.decoding", "inspection", "kit", "explorer")}
    assert not unwanted & loaded


def options(command: click.Command, path: str = "perdure") -> Iterator[tuple[str, click.Option]]:
    """The options of all commands that help shows, with who has them."""
    context = click.Context(command)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from options(found, f"{path} {name}")
    yield from ((path, one) for one in command.params if isinstance(one, click.Option) and not one.hidden)


def test_every_option_says_what_it_is_and_the_same_one_the_same() -> None:
    found = [*options(commands)]
    assert [(path, one.opts) for path, one in found if not one.help] == []
    said = {one.help for path, one in found if "--json" in one.opts and not one.help.startswith("Print the report")}
    assert said == {"Print JSON, and nothing else, on standard output."}
    assert [path for path, one in found if "--quiet" in one.opts and "-q" not in one.opts] == []
