"""Forks share records until somebody touches one: nobody ever sees what another subnet has done since."""

from __future__ import annotations

import gc
import random
import struct
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest
from built_canisters import module

from perdure import Principal, RejectError, Subnet
from perdure.execution.lending import Borrowed, Loans, own_records
from perdure.network.members import hash_of

MANY = 6


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def count(subnet: Subnet, canister_id: Principal) -> int:
    return int.from_bytes(subnet.canister(canister_id).query("count"), "little")


def copied(subnet: Subnet) -> int:
    """How many records a fork has of its own."""
    return len(own_records(subnet._state.canisters))


@pytest.fixture
def subnet() -> Iterator[Subnet]:
    with Subnet() as subnet:
        for number in range(MANY):
            subnet.install(module("kv32"), words(number))
        yield subnet


def test_a_fork_copies_what_is_touched_and_nothing_else(subnet: Subnet) -> None:
    first, second, third, *_ = (canister.id for canister in subnet.canisters)
    fork = subnet.fork()
    assert [one.id for one in fork.canisters] == [one.id for one in subnet.canisters]
    assert (len(fork._state.canisters), copied(fork)) == (MANY, 0)
    fork.canister(first).update("inc")
    assert copied(fork) == 1
    subnet.canister(second).update("inc")  # before it changes, the fork has it copied
    assert copied(fork) == 2
    subnet.canister(third).query("count")  # it counts queries
    assert copied(fork) == 3
    assert [count(fork, one) for one in (first, second, third)] == [1, 1, 2]
    assert [count(subnet, one) for one in (first, second, third)] == [0, 2, 2]
    with pytest.raises(RejectError):
        fork.canister(second).update("trap")
    assert hash_of(fork) != hash_of(subnet)


def test_a_fork_does_not_hear_of_the_queries_of_its_original(subnet: Subnet) -> None:
    target = subnet.canisters[0]
    target.query("count")
    fork = subnet.fork()
    for _ in range(3):
        target.query("count")
    assert fork.canister(target.id)._state.query_statistics[0] == 1


def test_a_fork_of_a_fork_needs_neither(subnet: Subnet) -> None:
    untouched, touched, *_ = (canister.id for canister in subnet.canisters)
    middle = subnet.fork()
    middle.canister(touched).update("inc")
    last = middle.fork()
    middle.canister(touched).update("inc")
    middle.close()
    del middle
    gc.collect()
    subnet.canister(untouched).update("inc")
    assert (count(last, untouched), count(last, touched)) == (0, 2)
    last.canister(untouched).update("put", bytes([4]) + b"name" + b"value")
    subnet.close()
    assert last.canister(untouched).query("get", b"name") == b"value"
    assert [count(last, one.id) for one in last.canisters] == [0, 2, 2, 3, 4, 5]


def test_forks_go_on_when_their_original_is_closed_without_having_rested(subnet: Subnet) -> None:
    target = subnet.canisters[3].id
    subnet.canister(target).update("inc")
    fork = subnet.fork()
    subnet.close()
    assert count(fork, target) == 4
    fork.canister(target).update("inc")
    assert count(fork, target) == 5


def test_a_fork_made_within_an_anchor_outlives_it(subnet: Subnet) -> None:
    target, other, *_ = (canister.id for canister in subnet.canisters)
    with subnet.anchor():
        subnet.canister(target).update("inc")
        fork = subnet.fork()
        with subnet.anchor():
            subnet.canister(target).update("inc")
            inner = subnet.fork()
        assert count(subnet, target) == 1
    assert [count(one, target) for one in (subnet, fork, inner)] == [0, 1, 2]
    assert [count(one, other) for one in (subnet, fork, inner)] == [1, 1, 1]


def test_many_generations_hold_on_to_none_but_the_first(subnet: Subnet) -> None:
    target = subnet.canisters[0].id
    known, forks = [], subnet
    for generation in range(50):
        forks = forks.fork()
        known.append(weakref.ref(forks._world.state.loans))  # type: ignore[arg-type]
        forks.canister(target).update("inc")
        assert count(forks, target) == generation + 1
    gc.collect()
    assert sum(one() is not None for one in known) == 1
    assert isinstance(forks._state.canisters, Borrowed)
    assert len(forks._state.canisters.lenders) == 1  # the first, whose canisters nobody has touched


def test_canisters_come_and_go_on_either_side(subnet: Subnet) -> None:
    gone, kept, *_ = (canister.id for canister in subnet.canisters)
    fork = subnet.fork()
    subnet.canister(gone).stop()
    subnet.canister(gone).delete()
    fork.canister(kept).stop()
    fork.canister(kept).delete()
    new = fork.install(module("kv32"), words(70)).id
    assert (gone in subnet, gone in fork, kept in subnet, kept in fork) == (False, True, True, False)
    assert new not in subnet
    assert (count(fork, gone), count(subnet, kept), count(fork, new)) == (0, 1, 70)
    assert len(fork.canisters) == len(fork._state.canisters) == MANY
    with pytest.raises(KeyError):
        fork.canister(kept)
    assert fork._state.canisters.get(kept.raw_bytes) is None


def test_memory_written_from_outside_stays_on_its_side(subnet: Subnet) -> None:
    target = subnet.canisters[1]
    target.update("stable64_grow", words(1))
    fork = subnet.fork()
    target.stable.write(0, b"original")
    fork.canister(target.id).stable.write(8, b"its fork")
    assert target.stable.read(0, 16) == b"original" + bytes(8)
    assert fork.canister(target.id).stable.read(0, 16) == bytes(8) + b"its fork"


def test_a_snapshot_and_a_chunk_are_copied_with_their_canister(subnet: Subnet) -> None:
    target = subnet.canisters[2]
    snapshot = target.take_snapshot()
    fork = subnet.fork()
    target.update("inc")
    twin = fork.canister(target.id)
    twin.update("inc")
    twin.update("inc")
    target.load_snapshot(snapshot)
    assert (count(subnet, target.id), count(fork, target.id)) == (2, 4)
    twin.load_snapshot(snapshot)
    assert count(fork, target.id) == 2


@pytest.mark.parametrize("how", ["fork", "anchor"])
def test_a_snapshot_that_is_being_uploaded_goes_on_on_one_side(subnet: Subnet, how: str) -> None:
    """Uploads write into it, where any other snapshot stays as it is and is shared."""
    target = subnet.canisters[0]
    sizes = {"wasm_module_size": 4, "wasm_memory_size": 0, "stable_memory_size": 65_536}
    begun = {"certified_data": b"", "globals": [], "global_timer": None, "on_low_wasm_memory_hook_status": None}
    metadata = {"replace_snapshot": None, **begun, **sizes}
    one = target._manage("upload_canister_snapshot_metadata", **metadata)["snapshot_id"]

    def upload(home: Subnet, chunk: bytes) -> None:
        for kind in ("stable_memory", "wasm_module"):
            place = {"snapshot_id": one, "kind": {kind: {"offset": 0}}, "chunk": chunk}
            home.canister(target.id)._manage("upload_canister_snapshot_data", **place)

    def uploaded(home: Subnet) -> tuple[bytes, bytes]:
        parts = [
            home.canister(target.id)._manage("read_canister_snapshot_data", snapshot_id=one, kind=kind)["chunk"]
            for kind in ({name: {"offset": 0, "size": 4}} for name in ("stable_memory", "wasm_module"))
        ]
        return parts[0], parts[1]

    upload(subnet, b"both")
    if how == "anchor":
        with subnet.anchor():
            upload(subnet, b"here")
            assert uploaded(subnet) == (b"here", b"here")
        assert uploaded(subnet) == (b"both", b"both")
        return
    fork = subnet.fork()
    last = fork.fork()
    upload(subnet, b"here")
    upload(fork, b"fork")
    assert [uploaded(one)[0] for one in (subnet, fork, last)] == [b"here", b"fork", b"both"]
    assert [uploaded(one)[1] for one in (subnet, fork, last)] == [b"here", b"fork", b"both"]


def test_whoever_does_what_in_any_order_each_has_its_own(subnet: Subnet) -> None:
    """Against counters in a dictionary for each subnet."""
    draw, ids = random.Random(2026), [canister.id for canister in subnet.canisters]
    known: list[tuple[Subnet, dict[Principal, int]]] = [(subnet, {one: number for number, one in enumerate(ids)})]
    for _ in range(400):
        which = draw.randrange(len(known))
        one, expected = known[which]
        target = draw.choice(ids)
        step = draw.choice(["fork", "inc", "inc", "trap", "look", "drop"])
        if step == "fork" and len(known) < 12:
            known.append((one.fork(), expected.copy()))
        elif step == "inc":
            one.canister(target).update("inc")
            expected[target] += 1
        elif step == "trap":
            with pytest.raises(RejectError):
                one.canister(target).update("change_and_trap")
        elif step == "drop" and len(known) > 1 and which:
            del known[which]
            if draw.random() < 0.5:
                one.close()
            continue
        assert count(one, target) == expected[target]
    for one, expected in known:
        assert {target: count(one, target) for target in ids} == expected


def test_threads_of_an_original_and_its_forks(subnet: Subnet) -> None:
    ids, faults = [canister.id for canister in subnet.canisters], []
    forks = [subnet.fork() for _ in range(3)]

    def work(one: Subnet, turns: int) -> None:
        try:
            for _ in range(turns):
                for target in ids:
                    one.canister(target).update("inc")
            for number, target in enumerate(ids):
                assert count(one, target) == number + turns
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(one, 3 + at)) for at, one in enumerate((subnet, *forks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_a_fork_is_closed_while_its_original_has_it_copy_records() -> None:
    records = {number.to_bytes(8): number for number in range(20_000)}
    loans = Loans[int]()
    made = loans.lend(records, int)

    def settle_all() -> None:
        for record_id in records:
            loans.settle(record_id)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread = threading.Thread(target=settle_all)
        thread.start()
        found: dict[bytes, int] = {}
        while thread.is_alive():
            found = own_records(made)
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert found.items() <= records.items()
    assert own_records(made) == records


@pytest.mark.parametrize("act", ["delete", "pop", "count", "take another"])
def test_an_exception_between_copied_and_taken(act: str) -> None:
    """The record is there once, and once deleted it is gone: it was still on loan, and came back."""

    class CutOff(dict[bytes, list[int]]):
        armed = True

        def __delitem__(self, record_id: bytes) -> None:
            if self.armed:
                self.armed = False
                raise KeyboardInterrupt
            super().__delitem__(record_id)

    original = {b"a": [1], b"b": [2]}
    made = Loans[list[int]]().lend(original, list)
    made._lent = CutOff(made._lent)
    with pytest.raises(KeyboardInterrupt):
        made[b"a"]
    made[b"a"].append(3)
    if act == "take another":
        assert made[b"b"] == [2]
    if act in ("delete", "pop"):
        assert made.pop(b"a") == [1, 3] if act == "pop" else made.__delitem__(b"a") is None
        assert (b"a" in made, sorted(made), len(made)) == (False, [b"b"], 1)
        assert made.get(b"a") is None
    else:
        assert (len(made), sorted(made), made[b"a"]) == (2, [b"a", b"b"], [1, 3])
    assert original == {b"a": [1], b"b": [2]}
