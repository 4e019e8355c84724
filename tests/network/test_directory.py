"""A network in a directory: what is kept, what a crash leaves, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from networks import balanced, call_each_other, counted, cut_off
from walker import Walker

from perdure import Network, StorageError, Subnet
from perdure.candid import encode, parse_types
from perdure.cli import perdure
from perdure.execution.streams import has_new, take_in
from perdure.network import network as network_module
from perdure.storage.topology import Topology

MODULES = Path(__file__).parent.parent / "canisters" / "modules"
NOTHING = encode((), [])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network"


def test_everything_is_there_again(path):
    with Network(["nns", "application"], path=path, seed=b"seed") as network:
        ids = [subnet.install(Walker).id for subnet in network.subnets]
        assert network.canister(ids[0]).actor().walk([ids[1], ids[0]], 10, 1, "", 0) == 2
        names = [subnet.id for subnet in network.subnets]
    found = json.loads((path / "topology.json").read_text())["subnet_configs"]
    assert [one["subnet_config"]["subnet_kind"] for one in found.values()] == ["NNS", "Application"]
    assert sorted(one.name for one in path.iterdir()) == ["0-nns", "1-application", "topology.json"]
    with Network(path=path, code=Walker) as network:
        assert [subnet.id for subnet in network.subnets] == names
        assert network.canister(ids[0]).actor().seen() == [2, 0]
        assert network.canister(ids[0]).actor().walk([ids[1]], 10, 1, "", 0) == 1
        assert balanced(network)
        assert network.sent_cycles == 0
        assert network.subnets[1].create_canister().id not in ids


@pytest.mark.parametrize(
    "command",
    [
        "stable ls {}",
        "stable ls {}:one",
        "state verify {}",
        "state replay {}",
        "state history {}",
        "canister ls --state {}",
    ],
)
def test_where_a_subnets_directory_is_wanted(path, command):
    """Commands for one subnet say which there are, and make nothing in the network's directory."""
    Network(["nns", "application"], path=path).close()
    done = CliRunner().invoke(perdure, command.format(path).split())
    told = str(done.exception) + done.output
    assert done.exit_code
    assert f"name that of one of its subnets, {path}/0-nns, {path}/1-application" in told
    Network(path=path).close()


def test_it_is_read_while_it_is_in_use(path):
    with Network(["nns", "application"], path=path) as network:
        ids = [subnet.install(Walker).id for subnet in network.subnets]
        network.canister(ids[0]).actor().walk([ids[1]], 10, 1, "", 0)
        before = network.state_hash()
        with Network.read(path, code=Walker) as copy:
            assert copy.root.id == network.root.id
            assert copy.canister(ids[1]).actor().walk([ids[0]], 10, 1, "", 0) == 1
            assert [copy.canister(one).actor().seen() for one in ids] == [[2, 0], [2, 0]]
            assert balanced(copy)
        assert network.state_hash() == before
        assert network.canister(ids[0]).actor().seen() == [1, 0]
    with pytest.raises(StorageError, match="not the directory of a network"):
        Network.read(path / "0-nns")


def test_a_subnet_that_is_added_is_kept(path):
    with Network(1, path=path) as network:
        added = network.add_subnet("fiduciary", first_canister_index=7 << 20).create_canister().id
    with Network(path=path) as network:
        assert list(network.kinds.values()) == ["application", "fiduciary"]
        assert added in network
        assert network.subnet_of(added) is network.subnets[1]


def test_one_of_its_subnets_opens_alone(path):
    with Network(2, path=path) as network:
        made = network.subnets[1].install(Walker).id
    with Subnet(path / "1-application", code=Walker) as subnet:
        assert subnet.canister(made).actor().seen() == [0, 0]


@pytest.mark.parametrize("processes", [None, 1])
def test_a_subnet_is_itself_from_the_beginning(path, processes):
    """Whoever opens one alone, before there is anything on it, has the same subnet as the network."""
    with Network(["nns", "application"], path=path, seed=b"seed", processes=processes) as network:
        ids = [subnet.id for subnet in network.subnets]
    made = []
    for name, subnet_id in zip(["0-nns", "1-application"], ids, strict=True):
        with Subnet(path / name) as subnet:
            assert subnet.id == subnet_id
            made.append(subnet.create_canister().id)
    assert str(made[0]) == "rwlgt-iiaaa-aaaaa-aaaaa-cai"
    with Network(path=path) as network:
        assert [network.subnet_of(one) for one in made] == list(network.subnets)


def test_nothing_else_begins_among_its_subnets(path):
    Network(["nns", "application"], path=path).close()
    with pytest.raises(StorageError, match="which has 0-nns, 1-application: name one of them"):
        Subnet(path / "2-application")
    command = ["canister", "create", "one", "--state", str(path / "1-aplication")]
    assert CliRunner().invoke(perdure, command).exit_code
    assert sorted(one.name for one in path.iterdir()) == ["0-nns", "1-application", "topology.json"]


def test_a_subnet_that_a_crash_kept_from_beginning(path, monkeypatch):
    """The network begins it; nobody else does."""
    with monkeypatch.context() as patched:
        patched.setattr(Subnet, "advance_time", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Network(["nns"], path=path)
    with pytest.raises(StorageError, match="no subnet has begun here"):
        Subnet(path / "0-nns")
    Network(path=path).close()
    with Subnet(path / "0-nns") as subnet:
        assert str(subnet.create_canister().id) == "rwlgt-iiaaa-aaaaa-aaaaa-cai"


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(("kinds", "words"), [(["nns", "moon"], "found 'moon'"), (["nns", "nns"], "one nns subnet")])
def test_nothing_is_begun_of_what_cannot_be(path, kinds, words):
    with pytest.raises(ValueError, match=words):
        Network(kinds, path=path)
    assert not path.exists()


def test_a_directory_that_has_something_else(path):
    Subnet(path).close()
    with pytest.raises(StorageError, match="is the state of one subnet, and no network's"):
        Network(2, path=path)
    (path.parent / "other").mkdir()
    (path.parent / "other" / "letter").write_text("dear")
    with pytest.raises(StorageError, match="is not empty, and no network's"):
        Network(2, path=path.parent / "other")


def test_other_subnets_than_there_are(path):
    Network(2, path=path).close()
    with pytest.raises(ValueError, match="has the subnets application, application, asked for nns"):
        Network(["nns"], path=path)
    with Network(2, path=path) as network, pytest.raises(StorageError, match="open in this process already"):
        Network(path=path)
    assert network.kinds


WRONG = [
    ("nonsense", "cannot be read"),
    ("[" * 100_000, "cannot be read"),
    ('{"format": "another"}', "expected 'perdure network 1'"),
    ('{"format": "perdure network 1", "seed": "", "subnet_configs": {}}', "at least one subnet"),
    ('{"format": "perdure network 1", "seed": "no", "subnet_configs": {"0-nns": 5}}', "is not the topology"),
]
ENTRY = '{"subnet_config": {"subnet_kind": "%s"}, "first_canister_index": %s}'
WRONG += [
    (f'{{"format": "perdure network 1", "seed": "", "subnet_configs": {{"{name}": {ENTRY % (kind, index)}}}}}', words)
    for name, kind, index, words in [
        ("../evil", "NNS", "0", "where 0-KIND is expected"),
        ("1-nns", "NNS", "0", "where 0-KIND is expected"),
        ("0-nns", "Moon", "0", "a subnet of kind 'Moon'"),
        ("0-nns", "NNS", "-1", "first_canister_index -1"),
        ("0-nns", "NNS", "true", "first_canister_index True"),
    ]
]


@pytest.mark.parametrize(("content", "words"), WRONG, ids=range(len(WRONG)))
def test_files_that_are_no_topology(path, content, words):
    path.mkdir()
    (path / "topology.json").write_text(content)
    with pytest.raises(StorageError, match=words):
        Network(path=path)
    assert [one.name for one in path.iterdir()] == ["topology.json"]


def test_links_are_not_followed(path, tmp_path):
    Network(1, path=path).close()
    (path / "topology.json").rename(tmp_path / "elsewhere")
    (path / "topology.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError):
        Network(path=path)


def lose(path):
    shutil.rmtree(path / "1-system")


def copy(path):
    lose(path)
    shutil.copytree(path / "0-application", path / "1-system")


def swap(path):
    for one, other in (("0-application", "x"), ("1-system", "0-application"), ("x", "1-system")):
        (path / one).rename(path / other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lose, "has no directory 1-system, in which a subnet of it was kept"),
        (copy, "1-system: is the subnet .*, which 0-application is, too"),
        (swap, "0-application: has a subnet whose canisters' ids begin at"),
    ],
)
def test_directories_in_the_wrong_places(path, change, words):
    """Nothing is made in place of what is lost, and what is there stays as it is."""
    with Network(["application", "system"], path=path) as network:
        ids = [subnet.create_canister().id for subnet in network.subnets]
    shutil.copytree(path, path.parent / "before")
    change(path)
    there = sorted(one.relative_to(path) for one in path.rglob("*"))
    with pytest.raises(StorageError, match=words):
        Network(path=path)
    assert sorted(one.relative_to(path) for one in path.rglob("*")) == there
    shutil.rmtree(path)
    (path.parent / "before").rename(path)
    with Network(path=path) as network:
        assert all(one in network for one in ids)


def test_a_crash_before_the_first_subnet_is_written_down(path, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("perdure.storage.topology.replace_file", crash)
        with pytest.raises(KeyboardInterrupt):
            Network(["nns"], path=path)
    assert [one.name for one in path.iterdir()] == ["0-nns"]
    with Network(["system"], path=path) as network:
        assert list(network.kinds.values()) == ["system"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_crash_before_a_subnet_has_begun(path, monkeypatch, number):
    """All subnets are written down at once: what began the network once begins it again."""
    real = Network._add

    def crash(self, kind, *rest):
        if len(self._subnets) == number:
            raise KeyboardInterrupt
        return real(self, kind, *rest)

    kinds = ["nns", "application", "application"]
    with monkeypatch.context() as patched:
        patched.setattr(Network, "_add", crash)
        with pytest.raises(KeyboardInterrupt):
            Network(kinds, path=path)
    with Network(kinds, path=path) as network, Network(kinds) as fresh:
        assert network.kinds == fresh.kinds
        assert [one.create_canister().id for one in network.subnets] == [
            one.create_canister().id for one in fresh.subnets
        ]


def test_two_who_begin_it_at_once(path, monkeypatch):
    """Whoever comes second has looked when there was nothing, and writes nothing over the first one's subnets."""
    real, made = Topology.add, []

    def add(self, *members):
        if not made:
            made.append(None)
            made[0] = Network(2, path=path)
        real(self, *members)

    monkeypatch.setattr(Topology, "add", add)
    with pytest.raises(StorageError, match="another process begins or changes this network") as caught:
        Network(["nns"], path=path)
    assert caught.value.error_code == "state-in-use"
    made[0].close()
    with Network(path=path) as network:
        assert list(network.kinds.values()) == ["application"] * 2


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([("0-nns", "NNS", 0), ("1-nns", "NNS", 0)], "0-nns and 1-nns both have the ids from 0 on"),
        ([("0-nns", "NNS", 5)], "the ids of 0-nns begin at 5"),
        ([("0-nns", "NNS", 0), ("1-nns", "NNS", 1 << 20)], "0-nns and 1-nns are both of the kind 'NNS', of which a"),
        ([("0-nns", "NNS", 0), ("1-system", "NNS", 1 << 20)], "0-nns and 1-system are both of the kind 'NNS'"),
        ([("0-application", "NNS", 0)], "0-application is of the kind 'NNS', and its directory by its name of another"),
        ([("0-nns", "NNS", 0), ("0-nns", "NNS", 1 << 20)], "'0-nns' is there twice"),
    ],
)
def test_a_file_that_was_changed_by_hand(path, entries, words):
    path.mkdir()
    for name, _, _ in entries:
        (path / name).mkdir(exist_ok=True)
    told = ", ".join(f'"{name}": {ENTRY % (kind, index)}' for name, kind, index in entries)
    (path / "topology.json").write_text(f'{{"format": "perdure network 1", "seed": "", "subnet_configs": {{{told}}}}}')
    for opened in (Network, Network.read):
        with pytest.raises(StorageError, match=words):
            opened(path=path)
    assert not any(any((path / name).iterdir()) for name, _, _ in entries)


def test_a_subnet_that_was_taken_out_of_the_file(path):
    """What is in streams for it would go nowhere, and the next one that is added would be taken for it."""
    Network(["application", "system"], path=path).close()
    told = json.loads((path / "topology.json").read_text())
    del told["subnet_configs"]["1-system"]
    (path / "topology.json").write_text(json.dumps(told))
    for opened in (Network, Network.read):
        with pytest.raises(StorageError, match=r"has 1-system, a subnet that topology.json does not name"):
            opened(path=path)


@pytest.mark.parametrize(
    ("kinds", "kind", "index", "words"),
    [
        (["nns", "system"], "nns", 1 << 20, "one nns subnet, and has it already"),
        (["system"], "nns", 1 << 20, "the ids of the nns subnet begin at 0"),
        (["nns"], "application", 0, "another subnet of the network has the ids from 0 on"),
    ],
)
def test_a_subnet_that_cannot_be_added(path, kinds, kind, index, words):
    with Network(kinds, path=path) as network, pytest.raises(ValueError, match=words):
        network.add_subnet(kind, first_canister_index=index)
    with Network(path=path) as network:
        assert list(network.kinds.values()) == kinds


@pytest.mark.parametrize("processes", [None, 1])
def test_subnets_to_which_nothing_has_come(path, processes):
    """Whoever reads them, or opens one alone, finds the subnets that the network has."""
    with Network(["nns", "application"], path=path, seed=b"some", processes=processes) as network:
        ids = [subnet.id for subnet in network.subnets]
        with Network.read(path) as copy:
            assert [subnet.id for subnet in copy.subnets] == ids
    with Subnet(path / "1-application") as subnet:
        assert subnet.id == ids[1]
        made = subnet.create_canister().id
    with Network(path=path) as network:
        assert network.subnet_of(made).id == ids[1]


def test_a_subnet_of_another_network(path, tmp_path):
    for one, seed in ((path, b"one"), (tmp_path / "other", b"other")):
        Network(2, path=one, seed=seed).close()
    shutil.rmtree(path / "1-application")
    shutil.copytree(tmp_path / "other" / "1-application", path / "1-application")
    for opened in (Network, Network.read):
        with pytest.raises(StorageError, match=r"1-application: has the subnet .* of another network"):
            opened(path=path)


@pytest.fixture
def counters(path):
    """The path of two subnets, and the ids of a counter in Motoko on each."""
    with Network(2, path=path) as network:
        ids = [subnet.install(MODULES / "motoko_eop_v1.wasm.gz").id for subnet in network.subnets]
    return path, ids


def begin(network, ids):
    call_each_other(network, ids)
    for subnet in network.subnets:
        subnet.advance_time(0)  # a commit, so that what was let in is on the disk


def test_a_subnet_that_was_put_back_alone(counters, tmp_path):
    path, ids = counters
    shutil.copytree(path / "1-application", tmp_path / "before")
    with Network(path=path) as network:
        network.canister(ids[0]).update("incOther", encode(parse_types("(principal)"), [ids[1]]))
    shutil.rmtree(path / "1-application")
    shutil.copytree(tmp_path / "before", path / "1-application")
    with pytest.raises(StorageError, match="one of the two was put back to an earlier state"):
        Network(path=path)
    Subnet(path / "0-application").close()  # nobody holds it


def test_nothing_is_taken_in_before_it_is_on_the_platter(counters, monkeypatch):
    path, ids = counters
    checked, versions, slices = [], {}, Network._slices
    with Network(path=path) as network:
        hosts = {subnet._state.subnet_id: subnet._host for subnet in network.subnets}

        def slicing(self, subnets):
            versions.update((one, host.directory.version) for one, host in hosts.items())
            return slices(self, subnets)

        def taking(world, pairs):
            for sender_id, one in pairs:
                assert hosts[sender_id]._waited >= versions[sender_id]
                checked.extend([sender_id] * has_new(world.state, sender_id, one))
            return take_in(world, pairs)

        monkeypatch.setattr(Network, "_slices", slicing)
        monkeypatch.setattr(network_module, "take_in", taking)
        begin(network, ids)
        network.run_until_idle()
    assert len(checked) >= 4


def crash(path, ids, at, *, before):
    """A process that ends at a transaction, before or after it is kept, and one that goes on; how many there were."""
    network = Network(path=path)
    begin(network, ids)
    with cut_off(at, before=before) as count:
        network.run_until_idle()
    network._abandon()
    with Network(path=path) as again:
        again.run_until_idle()
        assert balanced(again)
        assert again.sent_cycles == 0
        return count[0], counted(again, ids)


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_a_crash_at_each_transaction_changes_nothing(counters, tmp_path, before):
    path, ids = counters
    clean = tmp_path / "clean"
    shutil.copytree(path, clean)
    places, expected = crash(clean, ids, -1, before=before)
    assert places > 15
    for at in range(1 if before else 2, places + 1, 2):
        copy = tmp_path / f"{at}"
        shutil.copytree(path, copy)
        assert crash(copy, ids, at, before=before)[1] == expected, at
        shutil.rmtree(copy)
