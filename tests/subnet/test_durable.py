"""A subnet in a state directory: what was answered is there after a crash, and a fork or an anchor changes no file."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from built_canisters import call, module

from perdure import RejectError, StorageError
from perdure.execution.scheduler import round_, submit_ingress
from perdure.storage import CanisterChange, Message, StateDirectory
from perdure.subnet import Canister, Subnet

FIVE = struct.pack("<Q", 5)


def crash(subnet: Subnet) -> None:
    """Let go of the directory as a killed process would: without a checkpoint."""
    subnet._host.directory.abandon()  # type: ignore[union-attr]


def count(canister: Canister) -> int:
    return int.from_bytes(canister.query("count"), "little")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_what_was_answered_survives_a_crash(path: Path) -> None:
    subnet = Subnet(path)
    canister = subnet.install(module("kv32"), FIVE)
    for _ in range(3):
        canister.update("inc")
    canister.update("put", b"\3keyvalue")
    with pytest.raises(RejectError):
        canister.update("change_and_trap")
    crash(subnet)
    again = Subnet(path).canister(canister.id)
    assert (count(again), again.query("get", b"key")) == (8, b"value")
    again.update("inc")
    assert count(again) == 9


@pytest.mark.parametrize("durability", ["message", "round", "checkpoint", "never"])
def test_a_closed_state_opens_as_it_was(path: Path, durability: str) -> None:
    with Subnet(path, durability=durability) as subnet:
        canister = subnet.install(module("motoko_eop_v1"))
        call(canister, "inc()")
        call(canister, 'put("a", 7)')
        canister.upgrade(module("motoko_eop_v2"), wasm_memory_persistence="keep")
        before, time_ns = call(canister, "entries()"), subnet.time_ns
    with Subnet(path) as subnet:
        again = subnet.canister(canister.id)
        assert (call(again, "entries()"), subnet.time_ns) == (before, time_ns)
        call(again, "reset()")


def test_upgrades_snapshots_and_writes_from_outside_are_kept(path: Path) -> None:
    subnet = Subnet(path)
    canister = subnet.install(module("kv32"), FIVE)
    canister.update("stable64_grow", struct.pack("<Q", 2))
    canister.stable.write(70_000, b"from outside")
    snapshot = canister.take_snapshot()
    canister.update("inc")
    canister.upgrade(module("kv32"))
    crash(subnet)
    subnet = Subnet(path)
    canister = subnet.canister(canister.id)
    assert (count(canister), canister.stable.read(70_000, 12)) == (6, b"from outside")
    canister.load_snapshot(snapshot)
    assert count(canister) == 5
    crash(subnet)
    canister = Subnet(path).canister(canister.id)
    assert (count(canister), len(canister.snapshots())) == (5, 1)


def test_a_canister_takes_its_snapshots_along(path: Path) -> None:
    with Subnet(path) as subnet:
        gone, other = (subnet.install(module("kv32"), FIVE) for _ in range(2))
        kept = other.take_snapshot()
        gone.take_snapshot()
        gone.stop()
        gone.delete()
        assert len(subnet._host.directory.canisters) == 2  # type: ignore[union-attr]
    # So far they stayed, in directories that were made by then.
    with StateDirectory.open(path) as directory:
        key = b"snapshot " + gone.id.raw_bytes + bytes(8) + gone.id.raw_bytes
        directory.commit(Message(), {key: CanisterChange(record=b"")})
    with Subnet(path) as subnet:
        assert [item["id"] for item in subnet.canister(other.id).snapshots()] == [kept]
        subnet.canister(other.id).update("inc")
    with Subnet(path) as subnet:
        assert count(subnet.canister(other.id)) == 6


def test_a_module_that_nothing_uses_any_more_takes_no_room(path: Path) -> None:
    """Snapshots have their own copy; the chunks that a canister has stay."""
    with Subnet(path) as subnet:
        canister = subnet.install(module("kv32"), FIVE)
        snapshot = canister.take_snapshot()
        canister._manage("upload_chunk", chunk=b"a chunk")
        canister.reinstall(module("stable_access"))
        old, new, chunk = (
            hashlib.sha256(data).hexdigest() for data in (module("kv32"), module("stable_access"), b"a chunk")
        )
        assert {name.name for name in (path / "blobs").iterdir()} == {old, new, chunk}
    assert {name.name for name in (path / "blobs").iterdir()} == {new, chunk}
    with Subnet(path) as subnet:
        again = subnet.canister(canister.id)
        again.load_snapshot(snapshot)
        assert count(again) == 5
        assert (path / "blobs" / old).exists()
    with Subnet(path) as subnet:
        assert count(subnet.canister(canister.id)) == 5


def test_a_snapshot_directory_goes_out_and_comes_back(path: Path, tmp_path: Path) -> None:
    with Subnet(path) as subnet:
        canister = subnet.install(module("kv32"), FIVE)
        canister.write_snapshot(tmp_path / "snapshot")
        canister.update("inc")
        uploaded = canister.upload_snapshot(tmp_path / "snapshot")
        canister.update("inc")
    with Subnet(path) as subnet:
        canister = subnet.canister(canister.id)
        assert [item["id"] for item in canister.snapshots()] == [uploaded]
        canister.load_snapshot(uploaded)
        assert count(canister) == 5
    with pytest.raises(StorageError, match="globals of types"):
        Subnet.open(_with_other_module(tmp_path / "snapshot"))


def _with_other_module(snapshot: Path) -> Path:
    """The snapshot with code that has other globals."""
    wasm = module("motoko_classical_v1")
    metadata = json.loads((snapshot / "metadata.json").read_text())
    metadata["wasm_module_size"] = len(wasm)
    (snapshot / "metadata.json").write_text(json.dumps(metadata))
    (snapshot / "wasm_module.bin").write_bytes(wasm)
    return snapshot


def test_a_reinstalled_and_a_deleted_canister(path: Path) -> None:
    subnet = Subnet(path)
    canister, other = (subnet.install(module("kv32"), FIVE) for _ in range(2))
    canister.update("put", b"\1ab")
    canister.reinstall(module("kv32"), b"")
    other.stop()
    other.delete()
    crash(subnet)
    subnet = Subnet(path)
    assert [item.id for item in subnet.canisters] == [canister.id]
    assert count(subnet.canister(canister.id)) == 0
    with pytest.raises(RejectError):
        subnet.canister(canister.id).query("get", b"a")


def test_forks_and_anchors_leave_the_directory_alone(path: Path) -> None:
    subnet = Subnet(path)
    canister = subnet.install(module("kv32"), FIVE)
    version = subnet._host.directory.version  # type: ignore[union-attr]
    fork = subnet.fork()
    fork.canister(canister.id).update("inc")
    with subnet.anchor():
        canister.update("inc")
        with subnet.anchor():
            canister.update("inc")
            assert count(canister) == 7
        assert count(canister) == 6
    assert (count(canister), count(fork.canister(canister.id))) == (5, 6)
    assert subnet._host.directory.version == version  # type: ignore[union-attr]


def test_calls_between_canisters_are_kept_whole(path: Path) -> None:
    with Subnet(path) as subnet:
        first, second = (subnet.install(module("motoko_classical_v1")) for _ in range(2))
        call(first, f'incOther(principal "{second.id}")')
    with Subnet(path) as subnet:
        counts = [call(subnet.canister(item.id), "count()") for item in (first, second)]
        assert counts == [b"DIDL\0\1\x7d\2", b"DIDL\0\1\x7d\1"]


def test_a_second_owner_is_told_who_has_it(path: Path) -> None:
    with Subnet(path), pytest.raises(StorageError, match="open in this process already"):
        Subnet(path)


def test_an_evicted_canister_comes_back(path: Path) -> None:
    for subnet in (Subnet(path), Subnet()):
        subnet._host.residents.capacity = 1
        canisters = [subnet.install(module("kv32"), FIVE) for _ in range(4)]
        for _ in range(2):
            for canister in canisters:
                canister.update("inc")
        assert len(subnet._host.residents) <= 2
        assert [count(canister) for canister in canisters] == [7] * 4


WORKER = """
import sys
from perdure.subnet import Subnet
subnet = Subnet(sys.argv[1])
canister = subnet.canisters[0]
while True:
    print(int.from_bytes(canister.update("inc"), "little"), flush=True)
"""


@pytest.mark.slow
def test_a_killed_process_loses_no_reply_that_it_gave(path: Path) -> None:
    source = random.Random(4)
    with Subnet(path) as subnet:
        canister_id = subnet.install(module("kv32"), FIVE).id
    for _ in range(6):
        command = [sys.executable, "-c", WORKER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            replies = [int(worker.stdout.readline()) for _ in range(source.randrange(1, 40))]
            worker.kill()
            replies += [int(line) for line in worker.stdout.read().split("\n")[:-1]]
        with Subnet(path) as subnet:
            found = count(subnet.canister(canister_id))
        # One more message may have been kept than was told, never one less.
        assert found in {replies[-1], replies[-1] + 1}


class FullDisk:
    """A host whose next commit finds no room."""

    def __init__(self, host: Any) -> None:
        self.host = host
        self.is_full = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.host, name)

    def keep(self, *arguments: Any) -> None:
        if self.is_full:
            self.is_full = False
            raise StorageError("commit failed: No space left on device", "log")
        self.host.keep(*arguments)


def test_a_commit_that_finds_no_room_has_not_been_and_the_next_one_is_taken(path: Path) -> None:
    subnet = Subnet(path)
    canister = subnet.install(module("kv32"), FIVE)
    canister.update("inc")
    subnet._world.host = FullDisk(subnet._world.host)
    before = subnet._state.canisters[canister.id.raw_bytes].cycles
    with pytest.raises(StorageError, match="No space left") as raised:
        canister.update("inc")
    assert raised.value.committed is False  # type: ignore[attr-defined]
    assert count(canister) == 6
    assert subnet._state.canisters[canister.id.raw_bytes].cycles == before
    canister.update("inc")
    assert count(canister) == 7
    crash(subnet)
    assert count(Subnet(path).canister(canister.id)) == 7


# --- exceptions that come from elsewhere


class Interrupted(BaseException):
    """A signal handler's, say."""


def raising(*_: object, **__: object) -> None:
    raise Interrupted


def test_an_opening_that_fails_leaves_the_directory_to_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Subnet(path) as subnet:
        subnet.install(module("kv32"), FIVE)
    with monkeypatch.context() as patch:
        patch.setattr("perdure.subnet.subnet.open_state", raising)
        with pytest.raises(Interrupted) as raised:
            Subnet(path)
    with Subnet(path) as subnet:  # while `raised` still has the frames of the one before
        assert count(subnet.canisters[0]) == 5
    assert raised.value


def test_a_wait_for_the_disk_that_is_cut_off_says_that_nobody_knows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Subnet(path) as subnet:
        canister = subnet.install(module("kv32"), FIVE)
        acts = [
            lambda: canister.update("inc", request_id=b"a"),
            lambda: subnet.install(module("kv32"), FIVE),
            lambda: canister.stable.grow(1),
            lambda: canister.add_cycles(1),
            subnet.tick,
        ]
        for act in acts:
            with monkeypatch.context() as patch:
                patch.setattr(StateDirectory, "wait", raising)
                with pytest.raises(Interrupted) as raised:
                    act()
            assert raised.value.committed is None  # type: ignore[attr-defined]
        assert subnet.request_status(b"a") == "replied"
        assert count(canister) == 6


def test_what_was_kept_before_the_exception_is_said_to_be(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Subnet(path) as subnet:
        canister = subnet.install(module("kv32"), FIVE)
        acts = [
            lambda: canister.update("inc", request_id=b"a"),
            lambda: subnet.install(module("kv32"), FIVE),
            lambda: canister.stable.grow(1),
        ]
        for act in acts:
            with monkeypatch.context() as patch:
                patch.setattr("perdure.subnet.durable.DurableHost.pause", raising)
                with pytest.raises(Interrupted) as raised:
                    act()
            assert raised.value.committed is True  # type: ignore[attr-defined]
            log = subnet._durable.directory._log_for_commit()
            assert log.durable == log.version, "said to be kept, and not on the platter yet"
        assert len(subnet.canisters) == 2
        assert count(canister) == 6


def test_of_what_goes_with_the_next_commit_nobody_knows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subnet = Subnet(path)
    canister = subnet.install(module("kv32"), FIVE)
    submit_ingress(subnet._world, canister.id.raw_bytes, "inc", b"")  # so that there is more to do than the update
    with monkeypatch.context() as patch:
        patch.setattr("perdure.execution.scheduler.round_", raising)
        with pytest.raises(Interrupted) as raised:
            canister.update("inc", request_id=b"a")
    assert raised.value.committed is None  # type: ignore[attr-defined]
    assert subnet.request_status(b"a") == "received"
    with monkeypatch.context() as patch:
        patch.setattr("perdure.execution.scheduler.run_until_answered", lambda world, *_: raising(round_(world)))
        with pytest.raises(Interrupted) as raised:
            canister.update("inc", request_id=b"b")
    assert raised.value.committed is True  # type: ignore[attr-defined]
    crash(subnet)
    with Subnet(path) as again:
        assert again.request_status(b"b") == "replied"


def test_an_exception_before_anything_is_begun_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Subnet(path) as subnet:
        canister = subnet.install(module("kv32"), FIVE)
        monkeypatch.setattr("perdure.subnet.gate.Gate.is_busy", property(raising))
        with pytest.raises(Interrupted) as raised:
            canister.update("inc")
        assert raised.value.committed is False  # type: ignore[attr-defined]


def test_a_closing_that_was_cut_off_is_done_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subnet = Subnet(path)
    canister = subnet.install(module("kv32"), FIVE)
    canister.update("inc")
    with monkeypatch.context() as patch:
        patch.setattr("perdure.storage.locks.Locks.release", raising)
        with pytest.raises(Interrupted):
            subnet.close()
    subnet.close()
    with Subnet(path) as again:
        assert count(again.canisters[0]) == 6


def test_closing_after_a_commit_that_was_cut_off_keeps_what_others_committed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subnet = Subnet(path)
    canister = subnet.install(module("kv32"), FIVE)
    with monkeypatch.context() as patch:
        patch.setattr(StateDirectory, "wait", lambda *_: None)  # as if they were still waiting
        for _ in range(3):
            canister.update("inc")
        patch.setattr("perdure.storage.commit_log.CommitLog.append", raising)
        with pytest.raises(Interrupted) as raised:
            canister.update("inc")
        assert raised.value.committed is False  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="a commit was interrupted; open the directory anew"):
        canister.update("inc")
    subnet.close()
    with Subnet(path) as again:
        assert count(again.canisters[0]) == 8
