"""Golden directories: what versions of the format wrote is read for good, verifies, and goes on.

`golden/make.py` made them, once. They are not to be made again: a test that fails here says that the code does not read
what people have.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from perdure import Network, Principal, RejectError, Subnet, UnsupportedError, rejects
from perdure.canister import GlobalValue
from perdure.kit import canister, nat64, stable
from perdure.stable import StableCell, StableVec
from perdure.storage import Answer, PythonCode, StateDirectory
from perdure.storage.checkpoint import decode_checkpoint
from perdure.subnet import Canister
from perdure.subnet.replay import replay

GOLDEN = Path(__file__).with_name("golden")
MODULES = Path(__file__).parents[1] / "canisters" / "modules"
Program: Any = runpy.run_path(str(MODULES.parent / "universal" / "universal.py"))["Program"]
PAGE = 4096
NETWORK = "v1-network"
NAMES = sorted({path.stem for path in GOLDEN.glob("*.json")} - {NETWORK})


def unpack(name: str, target: Path) -> dict[str, Any]:
    """Lay a golden directory out; what is in it."""
    with tarfile.open(GOLDEN / f"{name}.tar.xz") as archive:
        archive.extractall(target, filter="data")
    facts: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return facts


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def test_every_version_is_there() -> None:
    assert {
        "v1-busy",
        "v1-kept",
        "v1-plain",
        "v1-python",
        "v1-python-early",
        "v1-memories",
        "v1-range",
        "v1-copies",
        "v2-plain",
        "v2-range",
    } <= set(NAMES)
    assert (GOLDEN / f"{NETWORK}.json").exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("read_only", [True, False])
def test_opens_and_verifies(tmp_path: Path, name: str, read_only: bool) -> None:
    facts = unpack(name, tmp_path / "state")
    for _ in range(2):
        with StateDirectory.open(tmp_path / "state", read_only=read_only) as state:
            assert state.version == facts["version"]
            assert state.state_hash().hex() == facts["state_hash"]
            assert len(state.answers) == facts["answers"]
            assert state.verify() == []


def registers_of(canister: Canister, **numbers: int) -> dict[str, int]:
    """What a universal canister has in its registers."""

    def ask(register: int) -> bytes:
        program = Program()
        return canister.query("query", bytes(program.reply_number(Program().get(register))))

    return {name: number(ask(register)) for name, register in numbers.items()}


def test_a_network_opens_verifies_and_goes_on(tmp_path: Path) -> None:
    facts, path = unpack(NETWORK, tmp_path / "net"), tmp_path / "net"
    for name, one in facts["members"].items():
        with StateDirectory.open(path / name, read_only=True) as state:
            found = {"version": state.version, "state_hash": state.state_hash().hex(), "answers": len(state.answers)}
            assert found == one
            assert state.verify() == []
        assert replay(path / name).difference is None
    with Network(path=path) as network:
        near, far = (network.canister(Principal.from_text(facts[name])) for name in ("near", "far"))
        assert list(network.kinds.values()) == ["nns", "application"]
        assert network.sent_cycles == facts["sent_cycles"] == 1_000 + 2_000 + 3_000 + 4_000 + 5_000
        assert far._state.open_calls
        network.run_until_idle()
        assert network.sent_cycles == 0
        network.subnets[1].advance_time("11s")
        network.tick()
        network.run_until_idle()
        seen = {one.id: registers_of(one, made=1, answered=2, reached=3, rejected=4) for one in (near, far)}
        assert seen[near.id] == {"made": 2, "reached": 1, "answered": 2, "rejected": 0}
        assert seen[far.id] == {"made": 3, "reached": 2, "answered": 1, "rejected": 2}
        states = [subnet._state for subnet in network.subnets]
        assert sum(state.lost_cycles for state in states) == 0
        assert not any(canister._state.open_calls for canister in network.canisters)
        for state in states:
            known = state.total_cycles() + state.consumed_cycles + state.sent_cycles
            assert state.minted_cycles + state.received_cycles == known
    for name in facts["members"]:
        assert replay(path / name).difference is None


def test_what_was_in_flight_goes_on(tmp_path: Path) -> None:
    facts = unpack("v1-busy", tmp_path / "state")
    with Subnet(tmp_path / "state") as subnet:
        kv, one = (subnet.canister(Principal.from_text(facts[name])) for name in ("kv", "one"))
        request = bytes.fromhex(facts["request"])
        assert subnet.request_status(request) == "processing"
        assert subnet.request_status(b"a named request") == "replied"
        assert number(kv.query("count")) == 7
        assert kv.stable.read(4096, 12) == b"golden bytes"
        assert kv.settings()["freezing_threshold"] == 10_000
        variables = kv.settings()["environment_variables"]
        assert [variable["name"] for variable in variables] == ["a", "z"]
        assert [chunk["hash"] for chunk in one._manage("stored_chunks")] == [hashlib.sha256(b"a chunk").digest()]
        subnet.run_until_idle()
        assert subnet.response(request) == b"from far"
        subnet.advance_time(2 * 86_400 * 10**9)
        subnet.run_until_idle()
        assert [record.content for record in one.logs()] == [b"set", b"the timer"]
        assert [entry["id"].hex() for entry in kv.snapshots()] == [facts["snapshot"]]
        kv.load_snapshot(bytes.fromhex(facts["snapshot"]))
        assert number(kv.query("count")) == 6
        assert number(kv.update("inc")) == 7
    with Subnet(tmp_path / "state") as subnet:
        kv = subnet.canister(Principal.from_text(facts["kv"]))
        assert number(kv.query("count")) == 7
        kv.upgrade(MODULES / "kv32.wasm")
        assert kv.stable.read(4096, 12) == b"golden bytes"
        past = subnet.at(facts["version"])
        assert number(past.canister(kv.id).query("count")) == 7
        past.close()
        past = subnet.at(3)
        assert number(past.canister(kv.id).query("count")) == 5
        past.close()
        # The directory is of a time when canisters' ids began at 0, and its range stays the same.
        assert subnet.create_canister().id == Principal.from_index(4)
    with StateDirectory.open(tmp_path / "state", read_only=True) as state:
        assert state.verify() == []
        assert state.history_kept is None
        assert [version.version for version in state.history()] == list(range(state.version, 0, -1))


def test_all_that_it_has_kept_is_replayed_to_the_same_states(tmp_path: Path) -> None:
    """Named requests among it: whose they were became part of an answer's bytes later."""
    unpack("v1-busy", tmp_path / "state")
    replayed = replay(tmp_path / "state")
    assert replayed.difference is None
    assert replayed.end == 25


def test_ids_go_on_in_the_range_of_the_directory(tmp_path: Path) -> None:
    facts = unpack("v1-range", tmp_path / "state")
    assert facts["canister"] == "lxzze-o7777-77777-aaaaa-cai"
    with Subnet(tmp_path / "state") as subnet:
        assert number(subnet.canister(Principal.from_text(facts["canister"])).query("count")) == 1
        assert str(subnet.create_canister().id) == "lqy7q-dh777-77777-aaaaq-cai"
    assert replay(tmp_path / "state").difference is None


def test_what_is_in_the_log_only_goes_on(tmp_path: Path) -> None:
    facts = unpack("v1-plain", tmp_path / "state")
    with Subnet(tmp_path / "state") as subnet:
        kv = subnet.canister(Principal.from_text(facts["kv"]))
        assert number(kv.query("count")) == 3
        assert number(kv.update("inc")) == 4
    with Subnet(tmp_path / "state") as subnet:
        assert number(subnet.canister(kv.id).query("count")) == 4


@pytest.mark.parametrize(("name", "owner"), [("v1-plain", 0), ("v1-range", 0), ("v2-plain", 1), ("v2-range", 1)])
def test_owners_are_counted_from_format_2_on(tmp_path: Path, name: str, owner: int) -> None:
    unpack(name, tmp_path / "state")
    assert decode_checkpoint((tmp_path / "state" / "checkpoint").read_bytes()).owner == owner
    for number in (owner + 1, owner + 2):
        with Subnet(tmp_path / "state") as subnet:
            assert subnet._host.directory.owner == number  # type: ignore[union-attr]
            subnet.canisters[0].update("inc")
        assert decode_checkpoint((tmp_path / "state" / "checkpoint").read_bytes()).owner == number


def test_what_no_canister_uses_yet(tmp_path: Path) -> None:
    unpack("v1-kept", tmp_path / "state")
    page = b"golden".ljust(PAGE, b".")
    with StateDirectory.open(tmp_path / "state") as state:
        assert (state.history_kept, state.extensions, state.subnet_record) == (10, ("memories", "schema"), b"s")
        found = state.canisters[b"actor"]
        assert found.code == PythonCode("counter", bytes(range(32)), b"a schema")
        assert (found.global_values, found.record) == ((GlobalValue("i64", bytes(8)),), b"changed")
        images = {name: memory.image() for name, memory in found.memories.items()}
        assert images.keys() == {"heap", "users-1.x"}
        assert images["heap"].read(0, 2 * PAGE) == page + page
        assert list(state.answers.values()) == [
            *(Answer(bytes([n]), 10**18 + n, b"answer %d" % n) for n in (0, 1, 3)),
            Answer(b"\4", 1, b"anew"),
        ]
        past = state.at(1)
        assert past.canisters[b"actor"].images.keys() == {"heap", "log", "users-1.x"}
        assert past.canisters[b"actor"].images["log"].read(0, PAGE) == page
        assert len(past.answers) == 5
        past.close()


def test_memories_of_a_canisters_own_go_on(tmp_path: Path) -> None:
    facts = unpack("v1-memories", tmp_path / "state")
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.extensions == ("memories",)
        canister = subnet.canister(Principal.from_text(facts["canister"]))
        assert number(canister.update("add")) == 4
        found = {name: number(memory.read(0, 8)) for name, memory in canister.memories.items() if name != "stable"}
        assert found == {"heap": 4, "users": 0, "old": 2, "new": 4, "cache": 4, "scratch": 0}
        assert canister._state.own_memories == {
            "users": ("stable", 64, 1),
            "old": ("stable", 32, 1),
            "new": ("stable", 32, 1),
            "cache": ("upgrade", 32, 1),
            "scratch": ("message", 32, 0),
        }
        past = subnet.at(2)
        assert number(past.canister(canister.id).update("add")) == 2
        past.close()


def test_copies_go_on(tmp_path: Path) -> None:
    facts = unpack("v1-copies", tmp_path / "state")
    with Subnet(tmp_path / "state") as subnet:
        directory = subnet._host.directory  # type: ignore[union-attr]
        assert any(len(memory.layout.files) > 1 for memory in directory._committed.memories())
        one, other = (subnet.canister(Principal.from_text(facts[name])) for name in ("one", "other"))

        def users(canister: Any, name: str = "users") -> tuple[int, bytes]:
            memory = canister.memories[name]
            return number(memory.read(8, 8)), memory.read(70_000, 4)

        filled = (bytes(range(1, 256)) * 275)[70_000:70_004]
        assert (users(one), users(other, "archive")) == ((1, filled), (11, filled))
        one.load_snapshot(bytes.fromhex(facts["second"]))
        assert users(one) == (2, filled)
        one.load_snapshot(bytes.fromhex(facts["first"]))
        assert users(one) == (0, filled)
        other.update("add")
        assert users(other, "archive")[0] == 21
        for version in range(1, facts["version"]):
            subnet.at(version).close()  # compared with its hash
        assert directory.verify() == []
    assert replay(tmp_path / "state").difference is None


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> type:
    """The class of the canisters in Python."""
    monkeypatch.syspath_prepend(str(GOLDEN))
    monkeypatch.delitem(sys.modules, "keeper", raising=False)
    found: type = importlib.import_module("keeper").Keeper
    return found


def test_canisters_in_python_go_on(tmp_path: Path, keeper: type) -> None:
    facts = unpack("v1-python", tmp_path / "state")
    with Subnet(tmp_path / "state", code=[keeper], changed_code="refuse") as subnet:
        kept = subnet.canister(Principal.from_text(facts["keeper"]))
        assert kept.status().module_hash == bytes.fromhex(facts["module_hash"])
        assert kept.actor().facts() == (2, 2, "Bob", ["Ada", "Bob"])
        subnet.run_until_idle()
        with rejects(match="the method that made this call is gone"):
            subnet.response(bytes.fromhex(facts["request"]))
        kept.load_snapshot(bytes.fromhex(facts["snapshot"]))
        assert kept.actor().facts() == (1, 1, "Ada", ["Ada"])
        past = subnet.at(4)
        assert past.canister(kept.id).actor().facts() == (1, 1, "Ada", ["Ada"])
        past.close()
    assert replay(tmp_path / "state", code=[keeper]).difference is None


def test_canisters_in_python_that_had_no_schema_yet(tmp_path: Path, keeper: type) -> None:
    """Their class is another one now: a name, no schema. They are upgraded, against what is in stable memory."""
    facts = unpack("v1-python-early", tmp_path / "state")
    with Subnet(tmp_path / "state", code=[keeper]) as subnet:
        kept = subnet.canister(Principal.from_text(facts["keeper"]))
        assert kept.actor().facts() == (2, 0, "", ["Ada", "Bob"])
        subnet.run_until_idle()
        with rejects(match="the method that made this call is gone"):
            subnet.response(bytes.fromhex(facts["request"]))
        kept.load_snapshot(bytes.fromhex(facts["snapshot"]))
        assert kept.actor().facts() == (1, 0, "", ["Ada"])
    with StateDirectory.open(tmp_path / "state", read_only=True) as state:
        assert {canister.code.name for canister in state.canisters.values()} == {"keeper:Keeper", ""}
        assert state.verify() == []


def test_what_is_there_is_held_against_a_class_where_nothing_was_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "keeper", raising=False)
    facts = unpack("v1-python-early", tmp_path / "state")

    @canister(name="keeper:Keeper")
    class Other:
        users: StableVec[nat64]
        total: StableCell[nat64] = stable(1)

    with pytest.raises(RejectError, match=r"stable variable 'users' is no StableVec\[u64\] in memory 0: bad magic"):
        Subnet(tmp_path / "state", code=[Other])
    with Subnet(tmp_path / "state", code=[]) as subnet:
        kept = subnet.canister(Principal.from_text(facts["keeper"]))
        assert kept.stable.read(0, 3) == b"MGR"
        with pytest.raises(UnsupportedError, match="tried to import Keeper from keeper: there is no module keeper"):
            kept.actor().facts()


def test_the_same_state_hash_under_any_hash_seed(tmp_path: Path) -> None:
    code = "import make, pathlib, sys; print(make.busy(pathlib.Path(sys.argv[1]))['state_hash'])"
    found = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / seed)],
            cwd=GOLDEN,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1
