"""Histories of a network's subnets, done again one by one: what came from others is in each subnet's own."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from click.testing import CliRunner
from counting import UNIVERSAL, P, count
from stream_faults import prepare
from walker import Walker

from perdure import Network, Principal, RejectError, Subnet
from perdure.candid import encode, parse_types
from perdure.cli.state import state as state_command
from perdure.execution import submit_ingress
from perdure.subnet.replay import replay

MODULES = Path(__file__).parent.parent / "canisters" / "modules"
COUNTER = MODULES / "motoko_eop_v1.wasm.gz"
NOTHING = encode((), [])


def check(path, start=None, **options):
    """Everything that is kept of each subnet comes out as it was."""
    members = sorted(one for one in path.iterdir() if one.is_dir())
    found = [replay(member, start=start, **options) for member in members]
    assert [one.difference for one in found] == [None] * len(members)
    return found


def other(network, ids, one, another):
    network.canister(ids[one]).update("incOther", encode(parse_types("(principal)"), [ids[another]]))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net"


@pytest.mark.parametrize("processes", [None, 2])
def test_calls_across(path, processes):
    with Network(["nns", "application"], path=path, history=None, processes=processes) as network:
        ids = [subnet.install(COUNTER).id for subnet in network.subnets]
        for one in (0, 1):
            other(network, ids, one, 1 - one)
        network.advance_time("20s")
        network.tick()
        other(network, ids, 0, 1)
    found = check(path)
    assert all(one.end > one.start + 8 for one in found)
    kinds = {version.message.kind for version in history(path / "1-application")}
    assert {"slices", "sent", "call", "response", "install_code"} <= kinds


def history(path):
    with Subnet(path) as subnet:
        return list(subnet._durable.directory.history())


def test_what_is_begun_refused_late_and_halted(path):
    prepare(path)
    with Network(path=path) as network:
        network.run_until_idle()
        network.halt(network.subnets[1])
        network.subnets[0].advance_time("11s")
        network.tick()
        network.run_until_idle()
        network.resume(network.subnets[1])
        network.run_until_idle()
    check(path)


def test_from_a_version_on_and_after_other_subnets_have_come(path):
    with Network(["system", "application"], path=path, history=None) as network:
        ids = [subnet.install(COUNTER).id for subnet in network.subnets]
        other(network, ids, 0, 1)
        middle = min(subnet.version for subnet in network.subnets)
        added = network.add_subnet()
        ids.append(added.install(COUNTER, canister_id=Principal.from_index(5 << 20)).id)
        other(network, ids, 0, 2)
        other(network, ids, 2, 1)
    with Network(path=path) as network:
        other(network, ids, 1, 2)
    check(path)
    for start in (middle, middle + 3):
        for name in ("0-system", "1-application"):
            assert replay(path / name, start=start).difference is None


def test_a_subnet_that_was_opened_alone_in_between(path):
    with Network(2, path=path, history=None) as network:
        ids = [subnet.install(COUNTER).id for subnet in network.subnets]
        other(network, ids, 0, 1)
    with Subnet(path / "0-application") as alone:
        arg = encode(parse_types("(principal)"), [ids[1]])
        with pytest.raises(RejectError):  # no route
            alone.canister(ids[0]).update("incOther", arg)
        assert alone._state.root_key != b""
    with Network(path=path) as network:
        other(network, ids, 1, 0)
    check(path)


def test_cut_off_and_opened_again(path):
    drawn = random.Random(1)
    with Network(["nns", "application"], path=path, history=None) as network:
        ids = [subnet.install(UNIVERSAL.read_bytes(), b"").id for subnet in network.subnets]
        for one in ids:
            network.canister(one).update("update", bytes(P().stable64_grow(1).drop().reply(b"")))
    for _ in range(4):
        network = Network(path=path)
        for _ in range(3):
            near, far = drawn.sample(ids, 2)
            program = count(1, 0).call(far.raw_bytes, "update", count(3, 8192).reply(b""), cycles=drawn.randrange(99))
            submit_ingress(network.canister(near)._subnet._world, near.raw_bytes, "update", bytes(program))
            for _ in range(drawn.randrange(4)):
                network.tick()
        network._abandon()
    with Network(path=path) as network:
        network.run_until_idle()
    check(path)


def test_canisters_in_python(path):
    with Network(2, path=path, history=None) as network:
        ids = [subnet.install(Walker).id for subnet in network.subnets]
        network.canister(ids[0]).actor().walk([ids[1], ids[0]], 10, 1, "", 0)
    check(path, code=[Walker])


def test_another_slice_is_another_history(path, monkeypatch):
    with Network(2, path=path, history=None) as network:
        ids = [subnet.install(COUNTER).id for subnet in network.subnets]
        other(network, ids, 0, 1)
    monkeypatch.setattr("perdure.subnet.replay.take_in", lambda *_: 0)
    found = replay(path / "1-application")
    assert found.difference is not None
    assert found.difference.message.kind == "slices"


def test_the_command(path):
    with Network(["nns", "application"], path=path, history=None) as network:
        ids = [subnet.install(COUNTER).id for subnet in network.subnets]
        other(network, ids, 0, 1)
    done = CliRunner().invoke(state_command, ["replay", str(path / "0-nns")])
    assert done.exit_code == 0, done.output
