"""Copies of networks that go on meanwhile: what comes out of one is what comes out of the network."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from networks import NOTHING, balanced
from stream_faults import outcome, prepare

from perdure import Network, StorageError, Subnet
from perdure.cli import perdure
from perdure.network import backup as module
from perdure.network import backup_network
from perdure.storage import StateDirectory

pytestmark = pytest.mark.slow

MODULES = Path(__file__).parent.parent / "canisters" / "modules"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("networks") / "net"
    prepare(path)
    return path


@pytest.fixture(scope="module")
def expected(template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    path = tmp_path_factory.mktemp("networks") / "clean"
    shutil.copytree(template, path)
    return outcome(path)


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "net")
    return tmp_path / "net"


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Have something done whenever a subnet has been pinned."""
    real = StateDirectory.open

    def does(act: Callable[[], object]) -> None:
        class Pinning:
            @staticmethod
            def open(*args: Any, **more: Any) -> StateDirectory:
                opened = real(*args, **more)
                act()
                return opened

        monkeypatch.setattr(module, "StateDirectory", Pinning)

    return does


@pytest.mark.parametrize("is_reversed", [False, True])
def test_rounds_between_two_that_are_pinned(path, tmp_path, expected, between, monkeypatch, is_reversed):
    """What was pinned later has taken in, and let go of, what the one before does not know of yet: it goes back."""
    taken_back = []
    step_back = module._Past.step_back
    monkeypatch.setattr(module._Past, "step_back", lambda self: taken_back.append(self) or step_back(self))
    pinned = module._pinned

    def reversed_(stack, topology, disk):
        topology.members = topology.members[::-1]
        found = pinned(stack, topology, disk)
        topology.members = topology.members[::-1]
        return dict(reversed(found.items()))

    if is_reversed:
        monkeypatch.setattr(module, "_pinned", reversed_)
    with Network(path=path) as network:

        def go_on():
            for _ in range(3):
                network.tick()

        between(go_on)
        for number in range(4):
            copied = tmp_path / f"copy {number}"
            taken_back.clear()
            versions = backup_network(path, copied)
            assert list(versions) == ["0-system", "1-system"]
            assert number or len(taken_back) > 2  # each once, to begin with
            assert outcome(copied) == expected
    assert outcome(path) == expected


def test_nothing_is_missing_of_a_network_that_stands_still(path, tmp_path, expected):
    with Network(path=path) as network:
        network.tick()
        versions = backup_network(path, tmp_path / "copy")
        assert list(versions.values()) == [one._host.directory.version for one in network.subnets]
        assert sorted(one.name for one in tmp_path.iterdir()) == ["copy", "net"]
        with Network(path=tmp_path / "copy") as copy:
            assert copy.state_hash() == Network.read(path).state_hash()
            assert copy.kinds == network.kinds
    assert outcome(tmp_path / "copy") == expected


@pytest.mark.parametrize("processes", [None, 2])
def test_a_network_that_is_busy(tmp_path, processes):
    path, is_done = tmp_path / "net", threading.Event()
    with Network(2, path=path, processes=processes) as network:
        counters = [subnet.install(MODULES / "motoko_eop_v1.wasm.gz") for subnet in network.subnets]
        ids = [one.id for one in counters]

        def go_on(number: int) -> None:
            arg = counters[0].service().methods["incOther"].encode([ids[1 - number]])
            while not is_done.is_set():
                counters[number].update("incOther", arg)

        threads = [threading.Thread(target=go_on, args=(number,)) for number in range(2)]
        for one in threads:
            one.start()
        try:
            copies = [tmp_path / f"copy {number}" for number in range(6)]
            for copied in copies:
                backup_network(path, copied)
        finally:
            is_done.set()
            for one in threads:
                one.join()
    counts = []
    for copied in copies:
        with Network(path=copied) as copy:
            copy.run_until_idle()
            assert balanced(copy)
            assert copy.sent_cycles == 0
            found = [copy.canister(one) for one in ids]
            assert not any(one._state.open_calls for one in found)
            counts.append([one.query("count", NOTHING) for one in found])
    assert counts == sorted(counts)


def test_a_checkpoint_before_all_are_pinned(path, tmp_path, expected, between):
    """Then the logs do not go back far enough, and it begins anew."""
    count = 0
    with Network(path=path) as network:

        def go_on():
            nonlocal count
            count += 1
            if count == 1:
                for _ in range(6):
                    network.tick()
                network.subnets[1]._host.directory.checkpoint()

        between(go_on)
        backup_network(path, tmp_path / "copy")
        assert count == 4
    assert outcome(tmp_path / "copy") == expected


def test_a_subnet_that_is_added_meanwhile(path, tmp_path, between):
    count = 0
    with Network(path=path) as network:

        def go_on():
            nonlocal count
            count += 1
            if count == 2:
                network.add_subnet("system")

        between(go_on)
        assert list(backup_network(path, tmp_path / "copy")) == ["0-system", "1-system", "2-system"]
    with Network(path=tmp_path / "copy") as copy:
        assert len(copy.subnets) == 3


def test_checkpoints_without_end(path, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_cut", lambda _: None)
    with pytest.raises(StorageError, match="makes checkpoints faster"):
        backup_network(path, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_all_of_it_or_nothing(path, tmp_path, monkeypatch):
    real, target = module.backup, tmp_path / "copy"

    def fails(source, *rest, **more):
        if "1-system" in str(source):
            real(source, *rest, **more)
            raise KeyboardInterrupt
        return real(source, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(module, "backup", fails)
        with pytest.raises(KeyboardInterrupt):
            backup_network(path, target)
    assert [one.name for one in tmp_path.iterdir()] == ["net"]
    backup_network(path, target)
    with pytest.raises(StorageError, match="is there already"):
        backup_network(path, target)
    with pytest.raises(StorageError, match=r"no topology.json"):
        backup_network(tmp_path / "copy" / "0-system", tmp_path / "other")
    with pytest.raises(StorageError, match=r"lies within .*net, which is to be copied"):
        backup_network(path, path / "2-system")
    shutil.rmtree(path / "1-system")
    with pytest.raises(StorageError, match="has no directory 1-system"):
        backup_network(path, tmp_path / "other")


def test_what_was_copied_is_put_back_by_copying_it(path, tmp_path, expected):
    """By the command, both ways."""
    run = CliRunner().invoke
    found = run(perdure, ["state", "backup", str(path), "-o", str(tmp_path / "copy")])
    assert found.exit_code == 0, found.output
    assert "0-system at version" in found.output
    with Network(path=path) as network:
        network.run_until_idle()
    shutil.rmtree(path)
    found = run(perdure, ["state", "backup", str(tmp_path / "copy"), "-o", str(path), "--json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.output)
    assert told["target"] == str(path)
    assert list(told["subnets"]) == ["0-system", "1-system"]
    assert outcome(path) == expected


def test_versions_that_a_log_has(tmp_path):
    """A directory is read as of each of them; to write, it is opened as it is."""
    path = tmp_path / "state"
    with Subnet(path) as subnet:
        counter = subnet.install(MODULES / "motoko_eop_v1.wasm.gz")
        hashes = {}
        for _ in range(3):
            counter.update("inc", NOTHING)
            hashes[subnet._host.directory.version] = subnet._host.directory.state_hash()
        with StateDirectory.open(path, read_only=True) as reader:
            found = dict(reader.subnet_records())
            first, last = min(found), reader.version
            assert max(found) == last
        for version in hashes:
            with StateDirectory.open(path, read_only=True, newest=version) as reader:
                assert (reader.version, reader.state_hash()) == (version, hashes[version])
                assert next(reader.subnet_records())[0] == version
        for version in (first - 1, last + 1):
            with pytest.raises(StorageError, match="is not in the log"):
                StateDirectory.open(path, read_only=True, newest=version)
    with pytest.raises(ValueError, match="only read"):
        StateDirectory.open(path, newest=1)
