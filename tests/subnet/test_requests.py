"""Requests by id, as people name them: answered once, asked for later, in forks too."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from built_canisters import module

from perdure import RejectError
from perdure.execution import SubnetConfig
from perdure.execution.ingress import drawn_id
from perdure.subnet import Canister, Subnet

FIVE = struct.pack("<Q", 5)


@pytest.fixture
def counter() -> Canister:
    return Subnet().install(module("kv32"), FIVE)


def count(canister: Canister) -> int:
    return int.from_bytes(canister.query("count"), "little")


def test_a_request_that_comes_again(counter: Canister) -> None:
    subnet = counter._subnet
    assert subnet.request_status(b"once") == "unknown"
    assert subnet.response(b"once") is None
    reply = counter.update("inc", request_id=b"once")
    assert counter.update("inc", request_id=b"once") == reply
    assert subnet.response(b"once") == reply
    assert subnet.request_status(b"once") == "replied"
    assert count(counter) == 6


def test_a_rejection_that_comes_again(counter: Canister) -> None:
    subnet = counter._subnet
    for _ in range(2):
        with pytest.raises(RejectError) as caught:
            counter.update("change_and_trap", request_id=b"once")
    with pytest.raises(RejectError) as told:
        subnet.response(b"once")
    assert str(told.value) == str(caught.value)
    assert subnet.request_status(b"once") == "rejected"


def test_requests_without_a_name_have_one(counter: Canister) -> None:
    subnet = counter._subnet
    number = subnet._state.next_request_number
    reply = counter.update("inc")
    assert subnet.response(drawn_id(number)) == reply
    with pytest.raises(ValueError, match="draws itself"):
        counter.update("inc", request_id=drawn_id(number))
    assert count(counter) == 6


def test_forks_remember_and_go_their_own_ways(counter: Canister) -> None:
    subnet = counter._subnet
    reply = counter.update("inc", request_id=b"before")
    fork = subnet.fork()
    twin = fork.canister(counter.id)
    assert twin.update("inc", request_id=b"before") == reply
    twin.update("inc", request_id=b"on the fork")
    counter.update("inc", request_id=b"at the origin")
    assert [fork.request_status(name) for name in (b"before", b"on the fork", b"at the origin")] == [
        "replied",
        "replied",
        "unknown",
    ]
    assert subnet.request_status(b"on the fork") == "unknown"
    with subnet.anchor():
        counter.update("inc", request_id=b"undone")
        assert subnet.request_status(b"undone") == "replied"
    assert subnet.request_status(b"undone") == "unknown"


@pytest.mark.parametrize("is_killed", [True, False])
def test_answers_outlive_the_process(tmp_path: Path, is_killed: bool) -> None:
    path = tmp_path / "state"
    config = SubnetConfig(ingress_history_max_answers=600)
    subnet = Subnet(path, config=config, durability="checkpoint", history=None)
    counter = subnet.install(module("kv32"), FIVE)
    first = counter.update("inc", request_id=b"first")
    version = subnet.version
    for number in range(1_000):
        counter.update("inc", request_id=b"named %d" % number if number % 2 else None)
    with pytest.raises(RejectError):
        counter.update("change_and_trap", request_id=b"rejected")
    last = counter.update("inc", request_id=b"last")
    known = [b"first", b"named 1", b"named 999", b"rejected", b"last", b"unheard of"]
    statuses = [subnet.request_status(name) for name in known]
    assert statuses == ["done", "done", "replied", "rejected", "replied", "unknown"]
    if is_killed:
        subnet._host.directory.abandon()  # type: ignore[union-attr]
    else:
        subnet.close()
    with Subnet(path, config=config, durability="checkpoint") as subnet:
        again = subnet.canister(counter.id)
        assert [subnet.request_status(name) for name in known] == statuses
        assert again.update("inc", request_id=b"last") == last
        with pytest.raises(RejectError, match="not kept any more"):
            again.update("inc", request_id=b"first")
        assert count(again) == 5 + 1_002
        past = subnet.at(version)
        assert past.response(b"first") == first
        assert past.request_status(b"last") == "unknown"
