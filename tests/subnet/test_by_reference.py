"""Memories that are handed over, and snapshots, in a state directory: no page is written again."""

from __future__ import annotations

from pathlib import Path

import pytest
from built_canisters import load_file
from test_handing import HEAD, NAMED, PLAIN, crash, give, number, wasm

from perdure import Canister, Subnet
from perdure.storage import layers
from perdure.subnet.replay import replay

WASM_PAGES = 32
SIZE = WASM_PAGES << 16
FEW = SIZE // 4


def holder() -> bytes:
    """Has two MiB with something in every page, and gives them to the canister that its argument names."""
    return wasm(f"""{HEAD}
      (import "stable" "users" (memory $users i64 {WASM_PAGES} 100))
      (memory $heap 1) (table funcref (elem $done))
      (data (memory $heap) (i32.const 0) "userstheirstake")
      (func $done (param i32) (call $reply))
      (func (export "canister_update fill") (local $at i64)
        (loop $next (i64.store $users offset=16 (local.get $at) (i64.sub (i64.const -1) (local.get $at)))
          (br_if $next (i64.lt_u (local.tee $at (i64.add (local.get $at) (i64.const 4096))) (i64.const {SIZE}))))
        (call $reply))
      (func (export "canister_update give")
        (call $argument (i32.const 512) (i32.const 0) (call $size))
        (call $new (i32.const 512) (call $size) (i32.const 11) (i32.const 4)
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
        (call $add (i32.const 0) (i32.const 5) (i32.const 5) (i32.const 6))
        (i64.store $users (i64.const 8) (i64.add (i64.load $users (i64.const 8)) (i64.const 1)))
        (drop (call $perform)))
      (func (export "canister_update change")
        (i64.store $users (i64.const 8) (i64.add (i64.load $users (i64.const 8)) (i64.const 1))) (call $reply))
      (func (export "canister_query get")
        (i64.store $heap (i32.const 0) (i64.load $users (i64.const 8)))
        (call $append (i32.const 0) (i32.const 8)) (call $reply))""")


TAKER = wasm(
    f"""{HEAD} (import "stable" "theirs" (memory $theirs i64 0)) (memory $heap 1)
  (func (export "canister_update take") (call $reply))
  (func (export "canister_update change")
    (i64.store $theirs (i64.const 8) (i64.add (i64.load $theirs (i64.const 8)) (i64.const 10))) (call $reply))
  (func (export "canister_query get")
    (i64.store $heap (i32.const 0) (i64.load $theirs (i64.const 8)))
    (call $append (i32.const 0) (i32.const 8)) (call $reply))"""
)


def used(path: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in (path / "images").iterdir())


def logged(subnet: Subnet) -> int:
    return subnet._host.directory._log_for_commit().position  # type: ignore[union-attr]


def checkpoint(subnet: Subnet) -> None:
    subnet._host.directory.checkpoint()  # type: ignore[union-attr]


def verify(subnet: Subnet) -> list[str]:
    return subnet._host.directory.verify()  # type: ignore[union-attr]


def filled(path: Path, **more: object) -> tuple[Subnet, Canister]:
    subnet = Subnet(path, extensions=NAMED, **more)  # type: ignore[arg-type]
    one = subnet.install(holder())
    one.update("fill")
    checkpoint(subnet)
    return subnet, one


@pytest.mark.slow
@pytest.mark.parametrize("history", [0, None])
def test_handed_over_no_page_is_written_again(tmp_path: Path, history: int | None) -> None:
    subnet, one = filled(tmp_path / "s", history=history)
    before, position = used(tmp_path / "s"), logged(subnet)
    other = subnet.install(TAKER)
    give(one, other)
    assert logged(subnet) - position < FEW
    checkpoint(subnet)
    assert used(tmp_path / "s") - before < FEW
    one.update("change")
    other.update("change")
    assert (number(one), number(other)) == (2, 11)
    checkpoint(subnet)
    assert used(tmp_path / "s") - before < FEW
    assert verify(subnet) == []
    size = one.memories["users"].read(0, SIZE)
    assert size[4096:] == other.memories["theirs"].read(0, SIZE)[4096:]
    crash(subnet)
    with Subnet(tmp_path / "s") as again:
        ones, others = again.canister(one.id), again.canister(other.id)
        assert (number(ones), number(others)) == (2, 11)
        others.update("change")
        assert (number(ones), number(others)) == (2, 21)
        assert verify(again) == []


def test_the_past_of_what_was_handed_over(tmp_path: Path) -> None:
    subnet, one = filled(tmp_path / "s", history=None)
    other = subnet.install(TAKER)
    give(one, other)
    arrived = subnet.version
    other.update("change")
    one.update("change")
    checkpoint(subnet)
    with subnet.at(arrived) as past:
        assert (number(past.canister(one.id)), number(past.canister(other.id))) == (1, 1)
    for version in range(1, subnet.version):
        subnet.at(version).close()  # which compares it with the hash that it had
    with subnet.fork() as fork:
        fork.canister(other.id).update("change")
        assert number(fork.canister(other.id)) == 21
    assert number(other) == 11
    assert other.memories["theirs"].read(16 + 4096, 8) == (2**64 - 1 - 4096).to_bytes(8, "little")
    subnet.close()
    assert replay(tmp_path / "s").difference is None


@pytest.mark.slow
def test_snapshots_take_no_room_until_something_changes(tmp_path: Path) -> None:
    subnet, one = filled(tmp_path / "s", history=None)
    before, position = used(tmp_path / "s"), logged(subnet)
    first = one.take_snapshot()
    one.update("change")
    second = one.take_snapshot()
    assert logged(subnet) - position < FEW
    checkpoint(subnet)
    assert used(tmp_path / "s") - before < FEW
    one.update("change")
    position = logged(subnet)
    one.load_snapshot(first)
    assert number(one) == 0
    assert logged(subnet) - position < FEW
    one.update("change")
    one.load_snapshot(second)
    assert number(one) == 1
    version = subnet.version
    one.delete_snapshot(first)
    assert logged(subnet) - position < FEW
    checkpoint(subnet)
    assert used(tmp_path / "s") - before < FEW
    assert verify(subnet) == []
    crash(subnet)
    with Subnet(tmp_path / "s") as again:
        ones = again.canister(one.id)
        assert [entry["id"] for entry in ones.snapshots()] == [second]
        ones.update("change")
        ones.load_snapshot(second)
        assert number(ones) == 1
        with again.at(version) as past:
            there = past.canister(one.id)
            there.load_snapshot(first)
            assert number(there) == 0


def test_an_uploaded_snapshot_is_written_as_bytes_come(tmp_path: Path) -> None:
    subnet, one = filled(tmp_path / "s")
    one.write_snapshot(tmp_path / "snapshot")
    snapshot = one.upload_snapshot(tmp_path / "snapshot")
    one.update("change")
    one.load_snapshot(snapshot)
    assert number(one) == 0
    checkpoint(subnet)
    assert verify(subnet) == []
    crash(subnet)
    with Subnet(tmp_path / "s") as again:
        assert number(again.canister(one.id)) == 0


@pytest.mark.slow
def test_a_canister_that_gets_one_and_hands_it_on(tmp_path: Path) -> None:
    """From one to the next, through checkpoints, whoever goes meanwhile."""
    subnet, one = filled(tmp_path / "s", history=None)
    before = used(tmp_path / "s")
    takers = []
    for turn in range(6):
        other = subnet.install(PLAIN)
        give(one, other)
        takers.append(other)
        if turn % 2:
            checkpoint(subnet)
        if turn == 3:
            takers[0].stop()
            takers[0].delete()
    checkpoint(subnet)
    assert used(tmp_path / "s") - before < SIZE
    assert [other.memories["theirs"].read(8, 1)[0] for other in takers[1:]] == [2, 3, 4, 5, 6]
    one.stop()
    one.delete()
    checkpoint(subnet)
    assert [other.memories["theirs"].read(8, 1)[0] for other in takers[1:]] == [2, 3, 4, 5, 6]
    assert verify(subnet) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [300, 301])
def test_at_random(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """The long form is `copies_script.py`."""
    for name, value in (("_SMALL_BYTES", 0), ("_MAX_PIECES", 6), ("_FOLD_BYTES", 16 * 4096)):
        monkeypatch.setattr(layers, name, value)
    load_file(Path(__file__).with_name("copies_script.py")).run(seed, 40)
