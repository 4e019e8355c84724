"""Copies of state directories: of one in use, of a damaged one, cut off anywhere; and what one takes."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from states import PAGE, A, B, page

from perdure.canister import PageDelta
from perdure.errors import StorageError
from perdure.storage import Answer, CanisterChange, Message, StateDirectory, StorageLimits, backup, salvage, usage


def fill(state: StateDirectory) -> None:
    module = state.put_blob(b"a module")
    for n in range(3):
        change = CanisterChange({"heap": PageDelta(2, [(n * PAGE, page(f"h{n}"))])}, module_hash=module, record=b"r")
        other = CanisterChange({"stable": PageDelta(1, [(0, page(f"s{n}"))])})
        answers = [Answer(bytes([n]), 5, b"yes")]
        state.commit(Message(), {A: change, B: other}, subnet_record=b"subnet", answers=answers, apply=True)
        if n == 1:
            state.checkpoint()


def shown(state: StateDirectory) -> dict[str, Any]:
    return {
        "version": state.version,
        "answers": dict(state.answers),
        "subnet": state.subnet_record,
        "heap": state.canisters[A].memories["heap"].image().read(0, 3 * PAGE),
        "stable": state.canisters[B].memories["stable"].image().read(0, PAGE),
    }


def test_a_directory_in_use_is_copied(tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "state", history=None) as state:
        fill(state)
        assert backup(tmp_path / "state", tmp_path / "copy") == 3
        with StateDirectory.open(tmp_path / "copy") as copy:
            assert shown(copy) == shown(state)
            assert copy.state_hash() == state.state_hash()
            assert copy.verify() == []
            assert [version.version for version in copy.history()] == [3, 2, 1]
            copy.at(1).close()
            fill(copy)
        assert state.version == 3
    with pytest.raises(StorageError, match="is there already"):
        backup(tmp_path / "state", tmp_path / "copy")


def test_a_copy_is_a_whole_state_while_the_owner_writes(tmp_path: Path) -> None:
    limits = StorageLimits(log_bytes=1 << 20)
    with StateDirectory.open(tmp_path / "state", durability="round", limits=limits) as state:
        fill(state)
        stop = threading.Event()

        def write() -> None:
            n = 0
            while not stop.is_set():
                n += 1
                change = CanisterChange({"heap": PageDelta(2, [(0, page(str(n))), (PAGE, page(str(n)))])})
                state.commit(Message(), {A: change}, answers=[Answer(b"n", n, b"")], apply=True)
                state.end_round()

        writer = threading.Thread(target=write)
        writer.start()
        copies = 0
        try:
            while copies < 4:
                place = tmp_path / f"copy{copies}"
                try:
                    backup(tmp_path / "state", place)
                except StorageError as error:
                    if "a checkpoint is being made" not in error.message:
                        raise
                    continue
                copies += 1
                with StateDirectory.open(place, read_only=True) as copy:
                    found = shown(copy)["heap"]
                    number = copy.answers[b"n"].expiry_ns if b"n" in copy.answers else None
                    assert found[:PAGE] == (page("h0") if number is None else page(str(number)))
                    assert copy.verify() == []
        finally:
            stop.set()
            writer.join()


def test_a_copy_within_what_is_copied_is_refused(tmp_path: Path) -> None:
    StateDirectory.open(tmp_path / "state").close()
    (tmp_path / "link").symlink_to(tmp_path / "state")
    before = sorted((tmp_path / "state").iterdir())
    for source, target in (("state", "state/copy"), ("state", "link/copy"), ("link", "state/images/copy")):
        with pytest.raises(StorageError, match="lies within"):
            backup(tmp_path / source, tmp_path / target)
    assert sorted((tmp_path / "state").iterdir()) == before


def test_a_copy_cut_off_anywhere_is_none(simulated_disk: ModuleType) -> None:
    disk = simulated_disk.SimulatedDisk()
    with StateDirectory.open("/state", disk=disk) as state:
        fill(state)
        state.abandon()
    rng = random.Random(7)
    found = []

    def look(_: str) -> None:
        after = disk.crashed(rng)
        found.append(after.exists("/copy"))
        with StateDirectory.open("/state", disk=after) as state:
            assert state.version == 3
        if after.exists("/copy"):
            with StateDirectory.open("/copy", disk=after) as copy:
                assert shown(copy)["version"] == 3
                assert copy.verify() == []

    disk.at_step = look
    backup("/state", "/copy", disk=disk)
    disk.at_step = None
    look("the end")
    assert set(found) == {False, True}
    assert disk.exists("/copy")
    assert not disk.exists("/copy.partial")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    with StateDirectory.open(tmp_path / "state") as state:
        fill(state)
    return tmp_path / "state"


def test_a_sound_directory_is_salvaged_whole(damaged: Path, tmp_path: Path) -> None:
    found = salvage(damaged, tmp_path / "copy")
    assert (found.version, found.canisters, found.lost) == (3, 2, [])
    with StateDirectory.open(tmp_path / "copy") as copy, StateDirectory.open(damaged, read_only=True) as state:
        assert {**shown(copy), "version": 3} == shown(state)
        assert copy.blob(copy.canisters[A].module_hash) == b"a module"


def test_what_is_lost_is_said(damaged: Path, tmp_path: Path) -> None:
    image = next((damaged / "images").glob("0-heap-*.img"))
    data = bytearray(image.read_bytes())
    data[PAGE] ^= 1
    image.write_bytes(data)
    next((damaged / "images").glob("1-stable-*.img")).unlink()
    next((damaged / "blobs").iterdir()).write_bytes(b"another module")
    next((damaged / "answers").iterdir()).write_bytes(b"nothing")
    found = salvage(damaged, tmp_path / "copy")
    text = "\n".join(found.lost)
    for words in (
        f"canister {A.hex()}, heap: the page at 0x1000 is not what was committed",
        f"canister {B.hex()}, stable: all of it",
        "its bytes are others",
        "answers to requests",
    ):
        assert words in text, text
    with StateDirectory.open(tmp_path / "copy") as copy:
        assert copy.subnet_record == b"subnet"
        heap = copy.canisters[A].memories["heap"].image()
        assert heap.read(0, PAGE) == page("h0")
        assert copy.canisters[B].memories["stable"].image().read(0, PAGE) == bytes(PAGE)
        assert copy.verify() == []


def test_a_damaged_log_is_salvaged_up_to_the_damage(tmp_path: Path, simulated_disk: ModuleType) -> None:
    disk = simulated_disk.SimulatedDisk()
    state = StateDirectory.open("/state", disk=disk)
    fill(state)
    for n in range(3):
        state.commit(Message(), {A: CanisterChange(record=b"%d" % n)})
    state.abandon()
    disk.flip("/state/log", 8 * (3 * PAGE + 155))  # behind the first record of three blocks
    with pytest.raises(StorageError, match="the log is damaged"):
        StateDirectory.open("/state", disk=disk)
    found = salvage("/state", "/copy", disk=disk)
    assert found.lost == [f"every commit from version {found.version + 1} on: the log is damaged"]
    with StateDirectory.open("/copy", disk=disk) as copy:
        assert copy.verify() == []


def test_without_a_checkpoint_file_there_is_nothing_to_go_by(damaged: Path, tmp_path: Path) -> None:
    (damaged / "checkpoint").write_bytes(b"nothing")
    with pytest.raises(StorageError, match="bad magic"):
        salvage(damaged, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_usage(damaged: Path) -> None:
    with StateDirectory.open(damaged, read_only=True) as state:
        found = usage(state)
    assert found.memories.keys() == {(A, "heap"), (B, "stable")}
    assert all(size_bytes >= PAGE for size_bytes in found.memories.values())
    assert found.others["blobs"] >= 8
    assert found.others["reserve"] == 1 << 20
    assert found.total_bytes == sum(found.memories.values()) + sum(found.others.values())
