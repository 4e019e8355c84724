"""The drop-in for the `pocket-ic` package, where ic-py is not installed."""

from __future__ import annotations

import base64
import gzip
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from perdure import Principal as Id
from perdure import RejectError, StorageError, UnsupportedError
from perdure.candid import decode, encode, parse_types
from perdure.kit import canister, query
from perdure.pocket_ic import (
    CanisterHttpReject,
    CanisterHttpReply,
    MockCanisterHttpResponse,
    PocketIC,
    PocketICError,
    Principal,
    SubnetConfig,
    SubnetKind,
)

EMPTY = b"\0asm\1\0\0\0"
NO_VALUES = b"DIDL\0\0"
ALICE, BOB = Principal(b"A"), Principal(b"B")
LEDGER = (
    "type Error = variant { InsufficientFunds : record { balance : nat }; TooLong : record { most : nat64 }; "
    "SelfTransfer };"
    "service : (record { symbol : text; fee : nat; holders : vec record { principal; nat } }) -> {"
    "transfer : (record { to : principal; amount : nat; memo : opt blob }) -> (variant { Ok : nat64; Err : Error });"
    "balance_of : (principal) -> (nat) query;"
    "entries : (nat64, nat64) -> (vec record { from : opt principal; to : principal; amount : nat; memo : opt blob;"
    " time : nat64 }) query }"
)


@pytest.fixture
def pic():
    with PocketIC() as made:
        yield made


@pytest.fixture
def counter(pic, built):
    canister_id = pic.create_canister()
    pic.install_code(canister_id, built("motoko_classical_v1").read_bytes(), [])
    return canister_id


def nat(reply):
    assert reply[:7] == b"DIDL\0\1\x7d"
    return reply[7]


def test_counter(pic, counter):
    assert nat(pic.update_call(counter, "inc", NO_VALUES)) == 1
    assert nat(pic.query_call(counter, "count", NO_VALUES)) == 1


def test_replies_that_are_no_candid(pic):
    @canister
    class Raw:
        @query(raw=True)
        def read(self, data: bytes) -> bytes:
            return data

    made = pic.subnet.install(Raw)
    assert pic.query_call(Principal(made.id.raw_bytes), "read", bytes([5, 0, 0, 0])) == [5, 0, 0, 0]


def test_canisters_with_their_interface(pic, built):
    holders = [(ALICE.to_str(), 1_000)]
    ledger = pic.create_and_install_canister_with_candid(
        LEDGER, built("ledger").read_bytes(), {"symbol": "TST", "fee": 1, "holders": holders}
    )
    pic.set_sender(ALICE)
    assert ledger.balance_of(ALICE.to_str()) == [1_000]
    assert ledger.transfer({"to": BOB.bytes, "amount": 5, "memo": [b"hi"]}) == [{"Ok": 1}]
    assert ledger.transfer({"to": BOB.bytes, "amount": 10**6, "memo": []}) == [
        {"Err": {"InsufficientFunds": {"balance": 994}}}
    ]
    minted, sent = ledger.entries(0, 10)[0]
    assert minted["from"] == []
    assert (sent["from"], sent["to"], sent["memo"]) == ([ALICE], BOB, [[104, 105]])
    with pytest.raises(ValueError, match="Arguments length not match"):
        ledger.balance_of()
    with pytest.raises(AttributeError, match="no method 'nothing'"):
        ledger.nothing()


def test_rejections_are_value_errors(pic, counter):
    with pytest.raises(ValueError, match=r"reject code 5, (.|\n)*error code CanisterCalledTrap") as rejected:
        pic.update_call(counter, "crash", NO_VALUES)
    assert rejected.value.backtrace
    empty = pic.create_canister()
    with pytest.raises(PocketICError, match="CanisterWasmModuleNotFound"):
        pic.query_call(empty, "foo", b"")
    with pytest.raises(PocketICError, match="CanisterMethodNotFound"):
        pic.query_call(counter, "foo", b"")
    with pytest.raises(ConnectionError, match="does not belong to any subnet"):
        pic.query_call(Principal.anonymous(), "foo", b"")


def test_time(pic):
    pic.set_time(1_704_067_199_999_999_999)
    assert pic.get_time() == {"nanos_since_epoch": 1_704_067_199_999_999_999}
    pic.advance_time(1_000_000_000)
    assert pic.get_time() == {"nanos_since_epoch": 1_704_067_200_999_999_999}
    assert pic.tick() is None


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_stable_memory(pic, compression):
    canister_id = pic.create_canister()
    pic.install_code(canister_id, EMPTY, [])
    text = b"Stays here."
    pic.set_stable_memory(canister_id, gzip.compress(text * 9_000) if compression else text * 9_000, compression)
    pic.set_stable_memory(canister_id, text)
    memory = pic.get_stable_memory(canister_id)
    assert memory == text + bytes(2 * 65_536 - len(text))
    with pytest.raises(ValueError, match="compression"):
        pic.set_stable_memory(canister_id, text, "zip")


def test_one_subnet(pic):
    ((subnet_id, kind),) = pic.topology().items()
    assert kind is SubnetKind.APPLICATION
    canister_id = pic.create_canister(subnet=subnet_id)
    assert pic.get_subnet(canister_id) == subnet_id
    assert pic.get_subnet(ALICE) is None
    assert pic.get_root_key() is None
    with pytest.raises(ValueError, match=r"there is no subnet .*, there is"):
        pic.create_canister(subnet=ALICE)
    with pytest.raises(ValueError, match="At least one subnet"):
        PocketIC(SubnetConfig())
    with pytest.raises(UnsupportedError, match="those of a replica cannot be read"):
        SubnetConfig().add_subnet_with_state(SubnetKind.NNS, "somewhere")


class TestTopologies:
    @pytest.fixture
    def several(self):
        with PocketIC(SubnetConfig(application=2, nns=True, bitcoin=True, system=3)) as made:
            yield made

    def of_kind(self, pic, kind):
        return [subnet_id for subnet_id, one in pic.topology().items() if one is kind]

    def test_kinds(self, several):
        assert len(several.topology()) == 7
        assert len(self.of_kind(several, SubnetKind.APPLICATION)) == 2
        assert len(self.of_kind(several, SubnetKind.SYSTEM)) == 3
        assert several.kind is SubnetKind.APPLICATION
        assert several.get_root_key()

    def test_canisters_are_where_they_were_asked_for(self, several, built):
        code = built("motoko_classical_v1").read_bytes()
        made = {}
        for subnet_id in several.topology():
            made[subnet_id] = several.create_canister(subnet=subnet_id)
            several.install_code(made[subnet_id], code, [])
            assert several.get_subnet(made[subnet_id]) == subnet_id
        first, *_, last = made.values()
        other = encode(parse_types("(principal)"), [Id(last.bytes)])
        assert nat(several.update_call(first, "incOther", other)) == 1
        assert nat(several.query_call(last, "count", NO_VALUES)) == 1
        twin = several.fork()
        assert nat(twin.update_call(first, "incOther", other)) == 2
        assert nat(several.query_call(last, "count", NO_VALUES)) == 1
        twin.close()
        several.tick()
        call_id = several.submit_call(last, several.sender, "inc", NO_VALUES)
        assert nat(several.await_call(call_id)) == 2

    def test_the_management_canister_is_that_of_the_right_subnet(self, several):
        (nns,) = self.of_kind(several, SubnetKind.NNS)
        types = parse_types("(record { specified_id : opt principal; amount : opt nat })")
        arg = encode(types, [{"specified_id": None, "amount": None}])
        where = {"SubnetId": base64.b64encode(nns.bytes).decode()}
        reply = several.update_call_with_effective_principal(
            None, where, "provisional_create_canister_with_cycles", arg
        )
        (made,) = decode(bytes(reply), parse_types("(record { canister_id : principal })"))
        assert several.get_subnet(Principal(made["canister_id"].raw_bytes)) == nns
        about = encode(parse_types("(record { canister_id : principal })"), [made])
        several.update_call(None, "stop_canister", about)
        assert several.canister_status(made["canister_id"])["status"] == "stopped"
        with pytest.raises(ValueError, match="SubnetId or a CanisterId, found 'None'"):
            several.update_call_with_effective_principal(None, {"None": ""}, "raw_rand", b"")

    def test_an_id_that_no_subnet_has_brings_one(self):
        wanted = Principal.from_str("zzztf-6qaaa-aaaah-qfsaa-cai")
        with PocketIC(SubnetConfig(nns=True)) as pic:
            assert pic.create_canister(canister_id=wanted) == wanted
            assert len(pic.topology()) == 2
            assert pic.create_canister(canister_id=Principal.from_str("rwlgt-iiaaa-aaaaa-aaaaa-cai"))
            with pytest.raises(ValueError, match="CanisterAlreadyInstalled"):
                pic.create_canister(canister_id=wanted)
            with pytest.raises(ValueError, match="is no id that a subnet gives"):
                pic.create_canister(canister_id=ALICE)

    def test_the_network_takes_its_principals(self):
        with PocketIC(SubnetConfig(nns=True, application=1)) as pic:
            made, network = pic.create_canister(), pic.network
            assert made in network
            assert network.subnet_of(made).canister(made).id == network.canister(made).id
            installed = network.subnets[1].install(EMPTY, controllers=[made])
            assert [one.raw_bytes for one in installed.status().controllers] == [made.bytes]
            with pytest.raises(RejectError, match="no update method"):
                installed.update("absent", sender=made)
            with pytest.raises(
                TypeError, match=r"a canister's id is a Principal, found 'aaaaa-aa': Principal.from_text"
            ):
                network.canister("aaaaa-aa")

    def test_states(self, tmp_path):
        path = str(tmp_path / "state")
        with PocketIC(SubnetConfig(application=1, nns=True, state_dir=path)) as pic:
            (application,) = self.of_kind(pic, SubnetKind.APPLICATION)
            made = pic.create_canister(subnet=application)
            pic.install_code(made, EMPTY, [])
            pic.set_stable_memory(made, b"kept")
        with PocketIC(SubnetConfig(state_dir=path)) as pic:
            assert len(pic.topology()) == 2
            assert pic.get_stable_memory(made).startswith(b"kept")
        found = json.loads((tmp_path / "state" / "topology.json").read_text())["subnet_configs"]
        (name,) = [name for name, one in found.items() if one["subnet_config"]["subnet_kind"] == "Application"]
        config = SubnetConfig()
        config.add_subnet_with_state(SubnetKind.APPLICATION, f"{path}/{name}")
        with PocketIC(config) as pic:
            assert list(pic.topology().values()) == [SubnetKind.APPLICATION]
            assert pic.get_stable_memory(made).startswith(b"kept")
            pic.set_stable_memory(made, b"gone")
        with PocketIC(SubnetConfig(state_dir=path)) as pic:
            assert pic.get_stable_memory(made).startswith(b"kept")

    def test_a_state_directory_of_one_subnet_stays_one(self, tmp_path):
        path = str(tmp_path / "state")
        PocketIC(SubnetConfig(nns=True, state_dir=path)).close()
        with PocketIC(SubnetConfig(nns=True, state_dir=path)) as pic, pytest.raises(UnsupportedError, match="has one"):
            pic.create_canister(canister_id=Principal.from_str("zzztf-6qaaa-aaaah-qfsaa-cai"))
        with pytest.raises(StorageError, match=r"no topology.json"):
            PocketIC(SubnetConfig(application=2, state_dir=path))


def test_ids_can_be_chosen_where_the_kind_of_subnet_allows_it(pic):
    wanted = Principal.from_str("rwlgt-iiaaa-aaaaa-aaaaa-cai")
    with pytest.raises(ValueError, match="cannot be chosen"):
        pic.create_canister(canister_id=wanted)
    with PocketIC(SubnetConfig(nns=True)) as nns:
        assert nns.create_canister(canister_id=wanted) == wanted
        with pytest.raises(ValueError, match="CanisterAlreadyInstalled"):
            nns.create_canister(canister_id=wanted)
        assert nns.create_canister() != wanted
        assert nns.get_root_key()


def test_time_goes_on_by_itself():
    with PocketIC() as pic:
        before = pic.get_time()["nanos_since_epoch"]
        pic.auto_progress()
        pic.auto_progress()
        assert pic.auto_progress_enabled()
        assert pic.url() is None
        after = pic.get_time()["nanos_since_epoch"]
        assert after > before
        pic.stop_progress()
        assert not pic.auto_progress_enabled()
        assert pic.fork().url() is None


def test_it_is_served_while_it_is_live(counter, pic):
    url = pic.make_live()
    assert pic.make_live() == pic.url() == url
    with urllib.request.urlopen(f"{url}api/v2/status") as response:
        assert response.status == 200
    assert nat(pic.update_call(counter, "inc", NO_VALUES)) == 1
    pic.stop_live()
    assert pic.url() is None
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}api/v2/status")
    pic.make_live()  # ended with the instance


def test_all_subnets_go_on_and_are_served(built):
    with PocketIC(SubnetConfig(nns=True, application=1, system=1)) as pic:
        made = [pic.create_canister(subnet=one) for one in pic.topology()]
        for one in made:
            pic.add_cycles(one, 10**13)
            pic.install_code(one, built("motoko_eop_v1").read_bytes())
        before = pic.get_time()["nanos_since_epoch"]
        pic.auto_progress()
        assert pic.get_time()["nanos_since_epoch"] > before
        arg = encode(parse_types("(principal)"), [Id(made[2].bytes)])
        request, until = pic.submit_call(made[1], pic.sender, "incOther", arg), time.monotonic() + 120
        subnet = pic.network.subnets[1]
        request_id = request.removeprefix(subnet.id.raw_bytes)
        while subnet.request_status(request_id) != "replied":
            assert time.monotonic() < until, subnet.request_status(request_id)
            time.sleep(0.005)
        assert nat(subnet.response(request_id)) == 1
        with urllib.request.urlopen(f"{pic.make_live()}api/v2/status") as response:
            assert pic.get_root_key() in response.read()


def test_a_state_directory(tmp_path):
    config = SubnetConfig(application=1, state_dir=str(tmp_path / "state"))
    with PocketIC(config) as first:
        canister_id = first.create_canister()
        first.install_code(canister_id, EMPTY, [])
        first.set_stable_memory(canister_id, b"Hello")
    with PocketIC(SubnetConfig(state_dir=str(tmp_path / "state"))) as second:
        assert second.get_stable_memory(canister_id)[:5] == b"Hello"


def test_settings_and_cycles(pic):
    canister_id = pic.create_canister(settings={"controllers": [[ALICE.bytes]], "freezing_threshold": [5]})
    assert pic.get_controllers(canister_id) == [ALICE]
    assert pic.canister_status(canister_id)["settings"]["freezing_threshold"] == 5
    before = pic.get_cycles_balance(canister_id)
    assert pic.add_cycles(canister_id, 6_666) == before + 6_666 == pic.cycle_balance(canister_id)


def test_what_the_package_lacks(pic, counter, built):
    pic.update_call(counter, "inc", NO_VALUES)
    pic.upgrade_canister(counter, built("motoko_classical_v2").read_bytes())
    assert nat(pic.query_call(counter, "count", NO_VALUES)) == 1
    taken = pic.take_canister_snapshot(counter)
    fork = pic.fork()
    assert nat(fork.update_call(counter, "inc", NO_VALUES)) == 2
    assert nat(pic.query_call(counter, "count", NO_VALUES)) == 1
    pic.update_call(counter, "inc", NO_VALUES)
    pic.load_canister_snapshot(counter, taken["id"])
    assert nat(pic.query_call(counter, "count", NO_VALUES)) == 1
    assert pic.list_canister_snapshots(counter) == [taken]
    pic.delete_canister_snapshot(counter, taken["id"])
    pic.reinstall_canister(counter, built("motoko_classical_v1").read_bytes())
    assert nat(pic.query_call(counter, "count", NO_VALUES)) == 0
    with pytest.raises(PocketICError):
        pic.update_call(counter, "crash", NO_VALUES)
    assert b"[TRAP]" in pic.fetch_canister_logs(counter)[0]["content"]
    pic.stop_canister(counter)
    assert pic.canister_status(counter)["status"] == "stopped"
    with pytest.raises(PocketICError, match="CanisterStopped"):
        pic.update_call(counter, "inc", NO_VALUES)
    pic.start_canister(counter)
    pic.uninstall_canister(counter)
    pic.stop_canister(counter)
    pic.delete_canister(counter)
    assert not pic.canister_exists(counter)


def test_snapshot_directories(pic, counter, tmp_path):
    pic.canister_snapshot_download(counter, tmp_path / "snapshot")
    assert (tmp_path / "snapshot/metadata.json").exists()


def test_the_management_canister(pic):
    with pytest.raises(PocketICError, match="can not be called via ingress"):
        pic.update_call(None, "raw_rand", NO_VALUES)
    (request,) = parse_types("(record { settings : opt record {} })")
    assert pic.update_call(None, "provisional_create_canister_with_cycles", encode([request], [{"settings": None}]))


def test_principals_look_like_ic_pys():
    principal = Principal.from_str("2vxsx-fae")
    assert (principal.bytes, principal.len, principal.hex, principal.to_str()) == (b"\4", 1, "04", "2vxsx-fae")
    assert (str(principal), repr(principal)) == ("2vxsx-fae", "Principal(2vxsx-fae)")
    assert principal == Principal.anonymous() == Principal.from_hex("04")
    assert Principal.management_canister().bytes == b""
    assert Principal.self_authenticating("00").bytes == Principal.self_authenticating(b"\0").bytes
    assert len({principal, Principal.anonymous()}) == 1


def test_instances_are_counted(pic):
    server, before = pic.server, pic.server.list_instances().count("Deleted")
    PocketIC().close()
    assert server.list_instances().count("Deleted") == before + 1


def test_arguments_with_ic_pys_types_need_ic_py(pic):
    with pytest.raises(UnsupportedError, match="need ic-py"):
        pic.install_code(pic.create_canister(), EMPTY, [{"type": 5, "value": 5}])


class TestOutcalls:
    @pytest.fixture
    def oracle(self, pic):
        sys.path.insert(0, str(Path(__file__).parents[1] / "subnet"))
        try:
            from oracle import Oracle
        finally:
            sys.path.pop(0)
        return Principal(pic.subnet.install(Oracle).id.raw_bytes)

    def ask(self, pic, oracle):
        call_id = pic.submit_call(oracle, ALICE, "fetch", encode(parse_types("(text)"), ["https://a.example/x"]))
        for _ in range(3):
            pic.tick()
        return call_id

    def test_by_pocket_ics_names(self, pic, oracle):
        call_id = self.ask(pic, oracle)
        (request,) = pic.get_canister_http()
        assert (request.http_method, request.url, request.max_response_bytes) == ("GET", "https://a.example/x", 100_000)
        reply = CanisterHttpReply(200, [("date", "now")], b"12.5")
        wrong = CanisterHttpReply(status=200, headers=[], body=5)
        with pytest.raises(TypeError, match="a body is bytes, found int"):
            pic.mock_canister_http_response(MockCanisterHttpResponse(request.subnet_id, request.request_id, wrong))
        pic.mock_canister_http_response(MockCanisterHttpResponse(request.subnet_id, request.request_id, reply))
        assert pic.get_canister_http() == []
        assert pic.await_call(call_id) == encode(parse_types("(text)"), ["200 12.5"])
        with pytest.raises(KeyError):
            pic.mock_canister_http_response(MockCanisterHttpResponse(request.subnet_id, request.request_id, reply))

    def test_rejects_and_each_nodes(self, pic, oracle):
        call_id = self.ask(pic, oracle)
        (request,) = pic.get_canister_http()
        reject = CanisterHttpReject(2, "no route")
        pic.mock_canister_http_response(MockCanisterHttpResponse(None, request.request_id, reject))
        with pytest.raises(PocketICError, match="no route"):
            pic.await_call(call_id)
        call_id = self.ask(pic, oracle)
        (request,) = pic.get_canister_http()
        good, bad = CanisterHttpReply(200, [], b"good"), CanisterHttpReply(200, [], b"bad")
        many = MockCanisterHttpResponse(None, request.request_id, good, [good] * 7 + [bad] * 5)
        pic.mock_canister_http_response(many)
        with pytest.raises(PocketICError, match="No consensus could be reached"):
            pic.await_call(call_id)

    def test_not_answered(self, pic, oracle):
        call_id = self.ask(pic, oracle)
        with pytest.raises(PocketICError, match="the call was taken and is not answered"):
            pic.await_call(call_id)
        with pytest.raises(PocketICError, match="has no update method 'none'"):
            pic.await_call(pic.submit_call(oracle, ALICE, "none", b""))
