"""The management canister through its Candid interface: by users, by canisters, by queries."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from perdure.candid import encode, parse_types
from perdure.candid.types import resolve
from perdure.canister import CanisterStatus, GlobalValue, Reject, Reply
from perdure.execution import METHODS, advance_time, execute_ingress, execute_query, run_until_idle, submit_ingress
from perdure.execution.lifecycle import add_canister
from perdure.execution.management import BITCOIN_METHODS, Who
from perdure.execution.management.elsewhere import BITCOIN_CANISTERS
from perdure.execution.management.interface import codecs
from perdure.execution.management.settings import settings_record
from perdure.execution.state import Settings, Use
from perdure.ic.principal import Principal
from perdure.threshold import KEYS_ARE_PUBLIC, master_key

OWNER = b"owner"
STRANGER = b"stranger"


class Management:
    """Calls methods by name with Python values, as a user or from a canister."""

    def __init__(self, world, fakes):
        self.world = world
        self.rules, self.subnet = world.rules, world.subnet

        def forward(api, instance):
            name, _, rest = api.msg_arg_data().partition(b" ")
            cycles, _, argument = rest.partition(b" ")
            fakes.call(api, b"", name.decode(), argument, cycles=int(cycles))

        def back(api, instance, environment):
            api.msg_reply_data_append(b"%d " % api.msg_cycles_refunded() + api.msg_arg_data())
            api.msg_reply()

        def back_reject(api, instance, environment):
            api.msg_reply_data_append(b"%d " % api.msg_cycles_refunded() + api.msg_reject_msg())
            api.msg_reject(b"%d:" % api.msg_reject_code() + api.msg_reject_msg())

        self.proxy = world.install({"canister_update forward": forward}, [back, back_reject])

    def decode(self, method, response):
        if isinstance(response, Reject):
            return response
        values = codecs()[method][1].decode(response.data)
        return values[0] if values else None

    def encode(self, method, arg):
        codec = codecs()[method][0]
        if not codec.types:
            return codec.encode([])
        known = {field.name for field in resolve(codec.types[0]).fields}
        return codec.encode([{name: value for name, value in arg.items() if name in known}])

    def user(self, method, arg=None, sender=OWNER):
        return self.decode(method, execute_ingress(self.rules, b"", method, self.encode(method, arg), sender))

    def query(self, method, arg=None, sender=OWNER):
        return self.decode(method, execute_query(self.rules, b"", method, self.encode(method, arg), sender))

    def canister(self, method, arg=None, cycles=0):
        """From the proxy canister; the result and the refund."""
        argument = b"%s %d " % (method.encode(), cycles) + self.encode(method, arg)
        response = execute_ingress(self.rules, self.proxy.canister_id, "forward", argument, OWNER)
        if isinstance(response, Reject):
            return response, 0
        refund, _, data = response.data.partition(b" ")
        return self.decode(method, Reply(data)), int(refund)

    def about(self, canister, **more):
        return {"canister_id": Principal(canister.canister_id), **more}


@pytest.fixture
def management(world, fakes):
    return Management(world, fakes)


@pytest.fixture
def target(world):
    return world.install({})


def test_every_method_has_an_interface_and_nothing_is_both():
    assert set(METHODS) == set(codecs())


class TestCreation:
    def test_by_a_canister_for_cycles(self, management):
        result, refund = management.canister(
            "create_canister", {"settings": None, "sender_canister_version": None}, 700_000_000_000
        )
        created = management.subnet.canisters[result["canister_id"].raw_bytes]
        assert refund == 0
        assert created.cycles == 200_000_000_000
        assert created.settings.controllers == (management.proxy.canister_id,)
        assert management.world.balanced()

    def test_too_few_cycles(self, management):
        result, _ = management.canister("create_canister", {"settings": None}, 1_000)
        assert "Creating a canister requires a fee of 500000000000" in result.message
        assert management.world.balanced()

    def test_not_by_users(self, management):
        result = management.user("create_canister", {"settings": None})
        assert result.error_code == "IC0406"
        assert "can not be called via ingress" in result.message

    def test_provisional(self, management):
        wanted = Principal.from_index(500)
        arg = {"amount": 5_000, "specified_id": wanted, "settings": {"controllers": [Principal(STRANGER)]}}
        assert management.user("provisional_create_canister_with_cycles", arg) == {"canister_id": wanted}
        created = management.subnet.canisters[wanted.raw_bytes]
        assert (created.cycles, created.settings.controllers) == (5_000, (STRANGER,))
        assert management.user("provisional_create_canister_with_cycles", arg).error_code == "IC0205"
        management.user("provisional_top_up_canister", {"canister_id": wanted, "amount": 7})
        assert created.cycles == 5_007
        assert management.world.balanced()

    def test_no_room(self, management):
        config = management.rules.config
        management.rules.config = replace(config, max_canisters=len(management.subnet.canisters))
        assert management.user("provisional_create_canister_with_cycles", {}).error_code == "IC0102"

    def test_default_amount(self, management):
        result = management.user("provisional_create_canister_with_cycles", {})
        assert management.subnet.canisters[result["canister_id"].raw_bytes].cycles == 100_000_000_000_000


class TestSettings:
    def test_update(self, management, target):
        settings = {
            "controllers": [Principal(STRANGER), Principal(OWNER)],
            "freezing_threshold": 10,
            "log_visibility": {"allowed_viewers": [Principal(STRANGER)]},
            "environment_variables": [{"name": "b", "value": "2"}, {"name": "a", "value": "1"}],
        }
        version = target.facts.version
        assert management.user("update_settings", management.about(target, settings=settings)) is None
        assert target.facts.controllers == {STRANGER, OWNER}
        assert target.facts.environment_variables == {"a": "1", "b": "2"}
        assert target.facts.version == version + 1
        status = management.user("canister_status", management.about(target), STRANGER)
        assert status["settings"]["environment_variables"][0] == {"name": "a", "value": "1"}
        assert status["settings"]["log_visibility"] == {"allowed_viewers": [Principal(STRANGER)]}
        assert status["settings"]["wasm_memory_limit"] == 3 << 30

    @pytest.mark.parametrize(
        "settings",
        [
            {"controllers": [Principal(bytes([index])) for index in range(11)]},
            {"controllers": [Principal(OWNER)] * 11},
            {"compute_allocation": 101},
            {"memory_allocation": (1 << 48) + 1},
            {"wasm_memory_limit": (1 << 48) + 1},
            {"wasm_memory_threshold": (1 << 48) + 1},
            {"wasm_memory_threshold": 1 << 70},
            {"reserved_cycles_limit": 1 << 128},
            {"minimum_incoming_canister_call_cycles": 1 << 128},
            {"log_memory_limit": (4 << 10) - 1},
            {"log_memory_limit": (2 << 20) + 1},
            {"environment_variables": [{"name": "A", "value": "x"}, {"name": "A", "value": "y"}]},
            {"log_visibility": {"allowed_viewers": [Principal(bytes([index])) for index in range(11)]}},
            {"freezing_threshold": 1 << 64},
            {"environment_variables": [{"name": str(index), "value": ""} for index in range(21)]},
            {"environment_variables": [{"name": "n" * 129, "value": ""}]},
            {"environment_variables": [{"name": "n", "value": "v" * 129}]},
        ],
    )
    def test_refused(self, management, target, settings):
        before = target.settings
        result = management.user("update_settings", management.about(target, settings=settings))
        assert result.code == 5
        assert target.settings == before

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("memory_allocation", 1 << 48),
            ("wasm_memory_limit", 1 << 48),
            ("wasm_memory_threshold", 1 << 48),
            ("freezing_threshold", (1 << 64) - 1),
            ("reserved_cycles_limit", (1 << 128) - 1),
            ("minimum_incoming_canister_call_cycles", (1 << 128) - 1),
            ("log_memory_limit", 0),
            ("log_memory_limit", 4 << 10),
            ("log_memory_limit", 2 << 20),
            ("environment_variables", [{"name": "", "value": "x"}]),
        ],
    )
    def test_ranges(self, management, target, name, value):
        arg = management.about(target, settings={name: value})
        assert management.user("update_settings", arg) is None
        found = settings_record(target.settings)[name]
        assert found == value

    def test_lists_are_refused_at_creation_too(self, management):
        twice = {"environment_variables": [{"name": "A", "value": "x"}] * 2}
        result = management.user("provisional_create_canister_with_cycles", {"settings": twice})
        assert (result.code, result.error_code) == (5, "IC0504")
        assert "'A' is there more than once" in result.message

    def test_idle_burn_and_freezing_limit(self, management, target):
        management.user("update_settings", management.about(target, settings={"compute_allocation": 1}))
        status = management.user("canister_status", management.about(target))
        assert status["idle_cycles_burned_per_day"] >= 10_000_000 * 86_400
        assert target.freezing_limit >= 10_000_000 * 2_592_000


class TestWho:
    @pytest.mark.parametrize(
        "name", [name for name, method in METHODS.items() if method.who is Who.CONTROLLERS and method.target]
    )
    def test_controllers_only(self, management, target, name):
        arg = {
            "canister_id": Principal(target.canister_id),
            "target_canister": Principal(target.canister_id),
            "settings": {},
            "mode": {"reinstall": None},
            "wasm_module": b"",
            "arg": b"",
            "chunk_hashes_list": [],
            "wasm_module_hash": b"",
            "snapshot_id": b"",
            "wasm_module_size": 0,
            "globals": [],
            "wasm_memory_size": 0,
            "stable_memory_size": 0,
            "certified_data": b"",
            "kind": {"wasm_chunk": None},
            "chunk": b"",
        }
        result = management.user(name, arg, STRANGER)
        assert (result.code, result.error_code) == (5, "IC0512")
        assert (
            result.message
            == f"Only controllers of canister {Principal(target.canister_id)} can call ic00 method {name}"
        )

    def test_unknown_method_bad_candid_missing_canister(self, management, target):
        rules = management.rules
        assert execute_ingress(rules, b"", "nope", b"", OWNER).error_code == "IC0407"
        reject = execute_ingress(rules, b"", "start_canister", b"nonsense", OWNER)
        assert reject.error_code == "IC0408"
        assert reject.message.startswith("Error decoding candid: ")
        assert management.user("start_canister", {"canister_id": Principal.from_index(99)}).error_code == "IC0301"

    def test_unknown_methods(self, management):
        reject = execute_ingress(management.rules, b"", "none", b"", OWNER)
        assert reject.error_code == "IC0407"
        assert "no method 'none'" in reject.message

    def test_administrators(self, management):
        for caller in (OWNER, STRANGER):
            reject = management.query("list_canisters", sender=caller)
            assert "is no administrator of this subnet, which has none" in reject.message
        assert execute_ingress(management.rules, b"", "list_canisters", b"", OWNER).error_code == "IC0406"

    def test_only_canisters(self, management, target):
        for name in ("raw_rand", "deposit_cycles", "canister_info", "canister_metadata"):
            assert METHODS[name].ingress is False
            assert execute_ingress(management.rules, b"", name, b"", OWNER).error_code == "IC0406"


class TestCode:
    def test_install_upgrade_reinstall(self, management, fakes):
        world = management.world
        target = world.create()
        wasm = world.host.add(fakes.Module({"canister_query f": fakes.reply_with(b"one")}, name="one"))
        arg = management.about(target, mode={"install": None}, wasm_module=wasm, arg=b"")
        assert management.user("install_code", arg) is None
        assert execute_query(world.rules, target.canister_id, "f", b"") == Reply(b"one")
        two = world.host.add(fakes.Module({"canister_query f": fakes.reply_with(b"two")}, name="two"))
        upgrade = {"skip_pre_upgrade": True, "wasm_memory_persistence": {"replace": None}}
        arg = management.about(target, mode={"upgrade": upgrade}, wasm_module=two, arg=b"")
        assert management.user("install_code", arg) is None
        assert execute_query(world.rules, target.canister_id, "f", b"") == Reply(b"two")
        assert management.user("install_code", {**arg, "mode": {"install": None}}).error_code == "IC0514"
        assert management.user("uninstall_code", management.about(target)) is None
        assert target.module is None

    def test_chunks(self, management, fakes):
        world = management.world
        target, store = world.create(), world.create()
        wasm = world.host.add(fakes.Module({}, name="x" * 100))
        hashes = [
            management.user("upload_chunk", management.about(store, chunk=chunk)) for chunk in (wasm[:50], wasm[50:])
        ]
        assert management.user("stored_chunks", management.about(store)) == sorted(hashes, key=lambda one: one["hash"])
        arg = {
            "mode": {"install": None},
            "target_canister": Principal(target.canister_id),
            "store_canister": Principal(store.canister_id),
            "chunk_hashes_list": hashes,
            "wasm_module_hash": hashlib.sha256(wasm).digest(),
            "arg": b"",
        }
        assert (
            "hash mismatch" in management.user("install_chunked_code", {**arg, "wasm_module_hash": bytes(32)}).message
        )
        missing = {**arg, "chunk_hashes_list": [{"hash": b"no"}]}
        assert "was not found" in management.user("install_chunked_code", missing).message
        assert management.user("install_chunked_code", arg) is None
        assert target.module.wasm == wasm
        assert management.user("clear_chunk_store", management.about(store)) is None
        assert store.chunk_store == {}

    def test_chunk_limits(self, management, target):
        result = management.user("upload_chunk", management.about(target, chunk=bytes((1 << 20) + 1)))
        assert "exceeds the maximum chunk size of 1048576" in result.message
        target.chunk_store.update({bytes([index]): b"" for index in range(100)})
        result = management.user("upload_chunk", management.about(target, chunk=b"one more"))
        assert "maximum capacity" in result.message


class TestRunning:
    def test_stop_and_start(self, management, target):
        assert management.user("stop_canister", management.about(target)) is None
        assert target.facts.status is CanisterStatus.STOPPED
        assert management.user("canister_status", management.about(target))["status"] == {"stopped": None}
        assert management.user("start_canister", management.about(target)) is None
        assert management.user("delete_canister", management.about(target)).error_code == "IC0510"
        management.user("stop_canister", management.about(target))
        assert management.user("delete_canister", management.about(target)) is None
        assert target.canister_id not in management.subnet.canisters

    def test_stop_by_a_canister_returns_its_cycles(self, management, target):
        target.facts.controllers = frozenset([management.proxy.canister_id])
        assert management.canister("stop_canister", management.about(target), cycles=9) == (None, 9)
        assert management.world.balanced()

    def test_a_canister_that_stops_itself_waits(self, management):
        proxy = management.proxy
        proxy.facts.controllers = frozenset([proxy.canister_id])
        argument = b"stop_canister 0 " + management.encode("stop_canister", management.about(proxy))
        request = submit_ingress(management.rules, proxy.canister_id, "forward", argument, OWNER)
        run_until_idle(management.rules)
        assert proxy.facts.status is CanisterStatus.STOPPING
        assert management.subnet.ingress.find(request, 0) is None

    def test_deposit(self, management, target):
        before = target.cycles
        assert management.canister("deposit_cycles", management.about(target), cycles=1_000) == (None, 0)
        assert target.cycles == before + 1_000
        assert management.world.balanced()

    def test_raw_rand(self, management):
        first, second = (management.canister("raw_rand")[0] for _ in range(2))
        assert len(first) == len(second) == 32
        assert first != second


class TestMetrics:
    def consumed(self, management, canister):
        found = management.query("canister_metrics", management.about(canister))
        return {name: cycles for name, cycles in found["cycles_consumed"].items() if cycles}

    def test_what_cycles_went_for(self, management, fakes):
        def spend(api, instance):
            api.cycles_burn(7)
            arg = management.encode("canister_status", management.about(canister))
            fakes.call(api, b"", "canister_status", arg)

        canister = management.world.install({"canister_update spend": spend}, [lambda api, *_: api.msg_reply()] * 2)
        assert self.consumed(management, canister) == {"instructions": 5_000_000}
        before = canister.cycles
        execute_ingress(management.rules, canister.canister_id, "spend", b"", OWNER)
        found = self.consumed(management, canister)
        assert before - canister.cycles == sum(found.values()) - 5_000_000
        assert found["burned_cycles"] == 7
        assert found["ingress_induction"] == 1_200_000 + 5 * 2_000
        assert found["request_and_response_transmission"] > 260_000 + len("canister_status") * 1_000
        assert set(found) == {"burned_cycles", "ingress_induction", "instructions", "request_and_response_transmission"}
        assert management.user("canister_metrics", management.about(canister))["cycles_consumed"]["uninstall"] == 0
        assert management.query("canister_metrics", management.about(canister), STRANGER).error_code == "IC0512"

    def test_storage_by_what_is_kept_and_what_is_reserved(self, management, target):
        settings = {"compute_allocation": 1, "memory_allocation": 1 << 30}
        management.user("update_settings", management.about(target, settings=settings))
        before, used = target.cycles, sum(target.consumed)
        advance_time(management.rules, 10**9 * 100)
        found = self.consumed(management, target)
        assert (found["compute_allocation"], found["memory"]) == (1_000_000_000, 12_700_000)
        assert before - target.cycles == sum(target.consumed) - used
        target.cycles = 5
        advance_time(management.rules, 10**9 * 100)
        assert self.consumed(management, target)["memory"] == 12_700_005
        assert (target.cycles, target.module) == (0, None)

    def test_of_a_canister_that_creates_and_one_that_was_created(self, management):
        arg = {"settings": None, "sender_canister_version": None}
        made, _ = management.canister("create_canister", arg, 600_000_000_000)
        created = management.subnet.canisters[made["canister_id"].raw_bytes]
        assert created.consumed == [500_000_000_000 * (use is Use.CANISTER_CREATION) for use in Use]
        assert management.proxy.consumed[Use.CANISTER_CREATION] == 0
        total = sum(sum(one.consumed) for one in management.subnet.canisters.values())
        assert total == management.subnet.consumed_cycles

    def test_a_state_that_was_begun_before(self, management, target):
        management.subnet.keeps_consumption, target.consumed = False, [0] * len(Use)
        management.user("canister_status", management.about(target))
        assert not any(target.consumed)
        reject = management.query("canister_metrics", management.about(target))
        assert "this state was begun by a perdure that did not count" in reject.message


class TestKnowledge:
    def test_status(self, management, target):
        status = management.user("canister_status", management.about(target))
        assert status["module_hash"] == target.module.module_hash
        assert status["cycles"] == target.cycles
        assert status["version"] == target.facts.version
        assert management.query("canister_status", management.about(target))["status"] == {"running": None}
        assert management.query("canister_status", management.about(target), STRANGER).error_code == "IC0512"

    def test_info(self, management, target):
        arg = management.about(target, num_requested_changes=10)
        info, _ = management.canister("canister_info", arg)
        assert info["total_num_changes"] == 2
        assert [next(iter(change["details"])) for change in info["recent_changes"]] == ["creation", "code_deployment"]
        assert info["recent_changes"][1]["origin"] == {"from_user": {"user_id": Principal(OWNER)}}
        assert info["controllers"] == [Principal(OWNER)]
        one, _ = management.canister("canister_info", {**arg, "num_requested_changes": 1})
        assert len(one["recent_changes"]) == 1

    def test_history_of_a_canister_that_creates(self, management):
        result, _ = management.canister(
            "create_canister", {"settings": None, "sender_canister_version": 1}, 600_000_000_000
        )
        info, _ = management.canister("canister_info", {**result, "num_requested_changes": 5})
        origin = info["recent_changes"][0]["origin"]["from_canister"]
        assert origin == {"canister_id": Principal(management.proxy.canister_id), "canister_version": 1}

    def test_history_is_cut(self, management, target):
        for number in range(25):
            settings = {"controllers": [Principal(OWNER), Principal(bytes([number]))]}
            management.user("update_settings", management.about(target, settings=settings))
        arg = management.about(target, num_requested_changes=100)
        info, _ = management.canister("canister_info", arg)
        assert (info["total_num_changes"], len(info["recent_changes"])) == (27, 20)

    def test_metadata(self, management, fakes):
        sections = {"icp:public candid:service": b"service", "icp:private secret": b"secret"}
        target = management.world.install(fakes.Module({}, custom_sections=sections))
        arg = management.about(target, name="candid:service")
        assert management.canister("canister_metadata", arg)[0] == {"value": b"service"}
        secret = management.about(target, name="secret")
        assert "has no metadata section with name secret" in management.canister("canister_metadata", secret)[0].message
        target.facts.controllers = frozenset([management.proxy.canister_id])
        assert management.canister("canister_metadata", secret)[0] == {"value": b"secret"}

    def test_logs(self, management, fakes):
        def talk(api, instance):
            api.debug_print(b"hello")
            raise api.trap(b"bye")

        target = management.world.install({"canister_update talk": talk})
        execute_ingress(management.rules, target.canister_id, "talk", b"")
        records = management.query("fetch_canister_logs", management.about(target))["canister_log_records"]
        assert [(record["idx"], record["content"]) for record in records] == [(0, b"hello"), (1, b"[TRAP]: bye")]
        assert management.query("fetch_canister_logs", management.about(target), STRANGER).error_code == "IC0512"
        visible = {"log_visibility": {"public": None}}
        management.user("update_settings", management.about(target, settings=visible))
        assert len(management.query("fetch_canister_logs", management.about(target), STRANGER)) == 1
        assert management.user("fetch_canister_logs", management.about(target)).error_code == "IC0406"

    def test_composite_queries_may_ask(self, management, fakes):
        def ask(api, instance):
            arg = management.encode("canister_status", {"canister_id": Principal(api.canister_self())})
            fakes.call(api, b"", "canister_status", arg)

        asker = management.world.install({"canister_composite_query ask": ask}, [fakes.on_reply, fakes.on_reject])
        reply = execute_query(management.rules, asker.canister_id, "ask", b"")
        assert reply.data.startswith(b"reply:DIDL")


class TestLogs:
    @pytest.fixture
    def talker(self, management):
        def talk(api, instance):
            count, size = map(int, api.msg_arg_data().split())
            for number in range(count):
                api.debug_print(b"%d " % number + bytes(size))
            api.msg_reply()

        return management.world.install({"canister_update talk": talk, "canister_update boom": boom})

    @staticmethod
    def say(management, talker, count, size):
        reply = execute_ingress(management.rules, talker.canister_id, "talk", b"%d %d" % (count, size))
        assert isinstance(reply, Reply)

    @staticmethod
    def fetch(management, talker, **filters):
        arg = management.about(talker, filter=filters or None)
        return [line["idx"] for line in management.query("fetch_canister_logs", arg)["canister_log_records"]]

    def test_old_lines_go(self, management, talker):
        for _ in range(10):
            self.say(management, talker, 1, 1_000)
        # Each takes 20 bytes beside its own.
        assert [record.sequence for record in talker.log.records] == [6, 7, 8, 9]
        assert talker.log.size_bytes == 4 * (20 + 2 + 1_000)

    def test_lines_that_one_message_dropped_keep_their_numbers(self, management, talker):
        self.say(management, talker, 10, 1_000)
        assert self.fetch(management, talker) == [7, 8, 9]
        self.say(management, talker, 1, 0)
        assert self.fetch(management, talker) == [7, 8, 9, 10]

    def test_default_and_store_size(self, management, talker):
        status = management.user("canister_status", management.about(talker))
        assert status["settings"]["log_memory_limit"] == 4_096
        # Header, index and capacity, for as long as there is a module.
        assert status["memory_metrics"]["log_memory_store_size"] == 8_192 + 4_096
        empty = management.world.create()
        status = management.user("canister_status", management.about(empty))
        assert status["memory_metrics"]["log_memory_store_size"] == 0

    def test_the_parts_of_memory_make_the_whole(self, management, talker):
        self.say(management, talker, 1, 100)
        status = management.user("canister_status", management.about(talker))
        metrics = status["memory_metrics"]
        metrics.pop("global_memory_size")
        metrics.pop("custom_sections_size")
        assert sum(metrics.values()) == status["memory_size"]

    def test_a_larger_limit_keeps_more_and_a_smaller_one_less(self, management, talker):
        wide = management.about(talker, settings={"log_memory_limit": 64 << 10})
        assert management.user("update_settings", wide) is None
        self.say(management, talker, 50, 1_000)
        assert self.fetch(management, talker) == list(range(50))
        narrow = management.about(talker, settings={"log_memory_limit": 4 << 10})
        assert management.user("update_settings", narrow) is None
        assert self.fetch(management, talker) == [46, 47, 48, 49]

    def test_no_limit_no_log(self, management, talker):
        self.say(management, talker, 3, 10)
        none = management.about(talker, settings={"log_memory_limit": 0})
        assert management.user("update_settings", none) is None
        self.say(management, talker, 3, 10)
        execute_ingress(management.rules, talker.canister_id, "boom", b"")
        assert self.fetch(management, talker) == []
        status = management.user("canister_status", management.about(talker))
        assert status["memory_metrics"]["log_memory_store_size"] == 0

    def test_ranges_of_numbers_and_times(self, management, talker):
        self.say(management, talker, 5, 10)
        assert self.fetch(management, talker, by_idx={"start": 1, "end": 3}) == [1, 2]
        now = management.subnet.time_ns
        assert self.fetch(management, talker, by_timestamp_nanos={"start": now + 1, "end": now + 2}) == []
        assert len(self.fetch(management, talker, by_timestamp_nanos={"start": 0, "end": now + 2})) == 5

    def test_no_more_than_a_response_holds(self, management, talker):
        wide = management.about(talker, settings={"log_memory_limit": 64 << 10})
        assert management.user("update_settings", wide) is None
        self.say(management, talker, 10, 998)
        management.rules.config = replace(management.rules.config, max_fetch_canister_logs_bytes=3 * 1_040)
        assert self.fetch(management, talker) == [7, 8, 9]
        assert self.fetch(management, talker, by_idx={"start": 1, "end": 9}) == [1, 2, 3]


def boom(api, instance):
    raise api.trap(b"boom")


class TestSnapshots:
    def snapshot(self, management, target, **more):
        arg = management.about(target, replace_snapshot=None, uninstall_code=None, **more)
        return management.user("take_canister_snapshot", arg)

    @pytest.fixture
    def written(self, management):
        def init(api, instance):
            instance.heap.grow(1)
            instance.stable.grow(2)
            instance.heap.data[:4] = b"heap"
            instance.stable.data[:6] = b"stable"
            api.certified_data_set(b"certified")

        def spoil(api, instance):
            instance.stable.data[:6] = b"spoilt"
            api.msg_reply()

        target = management.world.install({"canister_init": init, "canister_update spoil": spoil})
        target.instance.global_values = (GlobalValue("i64", (5).to_bytes(8, "little")), GlobalValue("v128", bytes(16)))
        return target

    def test_take_and_load(self, management, written):
        taken = self.snapshot(management, written)
        execute_ingress(management.rules, written.canister_id, "spoil", b"")
        written.certified_data = b""
        version = written.facts.version
        arg = management.about(written, snapshot_id=taken["id"])
        assert management.user("load_canister_snapshot", arg) is None
        assert bytes(written.instance.stable.data[:6]) == b"stable"
        assert bytes(written.instance.heap.data[:4]) == b"heap"
        assert written.certified_data == b"certified"
        assert written.facts.version == version + 1
        execute_ingress(management.rules, written.canister_id, "spoil", b"")
        assert management.user("load_canister_snapshot", arg) is None
        assert bytes(written.instance.stable.data[:6]) == b"stable"

    def test_list_delete_limit(self, management, written):
        taken = [self.snapshot(management, written) for _ in range(10)]
        assert management.user("list_canister_snapshots", management.about(written)) == taken
        assert "maximum number of snapshots" in self.snapshot(management, written).message
        assert (
            management.user("delete_canister_snapshot", management.about(written, snapshot_id=taken[0]["id"])) is None
        )
        arg = management.about(written, snapshot_id=taken[0]["id"])
        assert management.user("delete_canister_snapshot", arg).error_code == "IC0305"
        replaced = management.user("take_canister_snapshot", management.about(written, replace_snapshot=taken[1]["id"]))
        assert replaced["id"] in written.snapshots
        assert taken[1]["id"] not in written.snapshots

    def test_download_and_upload_to_another_canister(self, management, written, fakes):
        taken = self.snapshot(management, written)
        one = management.about(written, snapshot_id=taken["id"])
        metadata = management.user("read_canister_snapshot_metadata", one)
        assert metadata["globals"] == [{"i64": 5}, {"v128": 0}]
        assert metadata["source"] == {"taken_from_canister": None}
        kinds = {
            "wasm_module": metadata["wasm_module_size"],
            "wasm_memory": metadata["wasm_memory_size"],
            "stable_memory": metadata["stable_memory_size"],
        }
        parts = {
            kind: management.user("read_canister_snapshot_data", {**one, "kind": {kind: {"offset": 0, "size": size}}})[
                "chunk"
            ]
            for kind, size in kinds.items()
        }
        assert parts["stable_memory"][:6] == b"stable"
        too_much = {**one, "kind": {"wasm_memory": {"offset": 1, "size": 65_536}}}
        assert management.user("read_canister_snapshot_data", too_much).code == 5
        other = management.world.create()
        begun = management.user(
            "upload_canister_snapshot_metadata",
            {**metadata, "canister_id": Principal(other.canister_id), "replace_snapshot": None},
        )
        place = management.about(other, **begun)
        for kind, chunk in parts.items():
            arg = {**place, "kind": {kind: {"offset": 0}}, "chunk": chunk}
            assert management.user("upload_canister_snapshot_data", arg) is None
        beyond = {**place, "kind": {"wasm_memory": {"offset": 65_536}}, "chunk": b"x"}
        assert management.user("upload_canister_snapshot_data", beyond).code == 5
        assert management.user("load_canister_snapshot", place) is None
        assert bytes(other.instance.stable.data[:6]) == b"stable"
        assert other.module.wasm == written.module.wasm
        assert management.user("upload_canister_snapshot_data", beyond).message.endswith("is not mutable")

    def test_upload_limits(self, management, target):
        metadata = {
            "wasm_module_size": 1,
            "globals": [],
            "wasm_memory_size": 65_536,
            "stable_memory_size": 0,
            "certified_data": b"",
        }
        for change in (
            {"wasm_module_size": 1 << 40},
            {"stable_memory_size": 1 << 50},
            {"wasm_memory_size": 7},
            {"certified_data": bytes(33)},
        ):
            arg = management.about(target, **{**metadata, **change})
            assert "not valid" in management.user("upload_canister_snapshot_metadata", arg).message

    def test_empty_canister(self, management):
        empty = management.world.create()
        assert "Failed to create snapshot for empty canister" in self.snapshot(management, empty).message

    def test_visibility(self, management, written):
        self.snapshot(management, written)
        assert management.user("list_canister_snapshots", management.about(written), STRANGER).error_code == "IC0512"
        settings = {"snapshot_visibility": {"allowed_viewers": [Principal(STRANGER)]}}
        management.user("update_settings", management.about(written, settings=settings))
        assert len(management.user("list_canister_snapshots", management.about(written), STRANGER)) == 1


class TestSignatures:
    ECDSA = ("ecdsa", {"curve": {"secp256k1": None}, "name": "test_key_1"})
    P256 = ("ecdsa", {"curve": {"secp256r1": None}, "name": "test_key_1"})
    BIP340 = ("schnorr", {"algorithm": {"bip340secp256k1": None}, "name": "dfx_test_key"})
    ED25519 = ("schnorr", {"algorithm": {"ed25519": None}, "name": "test_key_1"})
    VETKD = ("vetkd", {"curve": {"bls12_381_g2": None}, "name": "test_key_1"})
    TRANSPORT = bytes.fromhex(
        "911969d56f42875d37a92d7eaa5d43293eff9f9a20ba4c60523e70a695eaeadeb721659b52a49d74e67841ad19033a12"
    )
    FEE = 10_000_000_000

    def arg(self, key, **more):
        plain = {"canister_id": None, "message": b"message", "message_hash": bytes(32), "aux": None}
        return {**plain, "derivation_path": [b"path"], "key_id": key[1], **more}

    @pytest.mark.parametrize("key", [ECDSA, P256, BIP340, ED25519], ids=["ecdsa", "p256", "bip340", "ed25519"])
    def test_sign(self, management, key):
        """The facts are in tests/threshold; here whose key it is and what it costs."""
        ours, refund = management.canister(f"{key[0]}_public_key", self.arg(key))
        named, _ = management.canister(
            f"{key[0]}_public_key", self.arg(key, canister_id=Principal(management.proxy.canister_id))
        )
        others, _ = management.canister(f"{key[0]}_public_key", self.arg(key, canister_id=Principal(b"other")))
        (algorithm,) = (one for part in ("curve", "algorithm") for one in key[1].get(part, ()))
        expected = master_key(key[0], algorithm, key[1]["name"])
        assert (ours["public_key"], ours["chain_code"]) == expected.public_key(management.proxy.canister_id, [b"path"])
        assert ours == named != others
        assert len(ours["public_key"]) == (32 if key is self.ED25519 else 33)
        assert refund == 0
        sign = f"sign_with_{key[0]}"
        signed, refund = management.canister(sign, self.arg(key), self.FEE + 5)
        message = bytes(32) if key[0] == "ecdsa" else b"message"
        assert signed == {"signature": expected.sign(management.proxy.canister_id, [b"path"], message)}
        assert refund == 5
        assert management.canister(sign, self.arg(key), self.FEE)[0] == signed
        assert management.canister(sign, self.arg(key, derivation_path=[]), self.FEE)[0] != signed
        reject, refund = management.canister(sign, self.arg(key), self.FEE - 1)
        assert f"{sign} request sent with 9999999999 cycles, but 10000000000 cycles are required." in reject.message
        assert management.world.balanced()
        assert set(management.world.host.said) == {KEYS_ARE_PUBLIC}

    def test_taproot(self, management):
        key, root = self.BIP340, bytes(range(32))
        whose = management.proxy.canister_id, [b"path"], b"message"
        for merkle_root in (b"", root):
            aux = {"bip341": {"merkle_root_hash": merkle_root}}
            signed, _ = management.canister("sign_with_schnorr", self.arg(key, aux=aux), self.FEE)
            expected = master_key("schnorr", "bip340secp256k1", "dfx_test_key").sign(*whose, merkle_root)
            assert signed["signature"] == expected
        for key, wrong in ((self.BIP340, root[1:]), (self.ED25519, root)):
            aux = {"bip341": {"merkle_root_hash": wrong}}
            reject, _ = management.canister("sign_with_schnorr", self.arg(key, aux=aux), self.FEE)
            assert "0 or 32 are expected" in reject.message or "the key is of ed25519" in reject.message
            assert management.world.balanced()

    def test_vetkd(self, management):
        arg = {"canister_id": None, "context": b"context", "key_id": self.VETKD[1], "input": b"input"}
        arg["transport_public_key"] = self.TRANSPORT
        public, _ = management.canister("vetkd_public_key", arg)
        assert len(public["public_key"]) == 96
        derived, refund = management.canister("vetkd_derive_key", arg, self.FEE + 1)
        assert (len(derived["encrypted_key"]), refund) == (192, 1)
        assert management.canister("vetkd_derive_key", arg, self.FEE)[0] == derived
        assert management.canister("vetkd_derive_key", {**arg, "context": b""}, self.FEE)[0] != derived
        for wrong in (b"", self.TRANSPORT[1:], b"\xff" * 48):
            reject, refund = management.canister(
                "vetkd_derive_key", {**arg, "transport_public_key": wrong}, self.FEE + 1
            )
            assert "transport_public_key: " in reject.message
            assert management.world.balanced()
        reject, _ = management.canister("vetkd_derive_key", arg)
        assert "but 10000000000 cycles are required" in reject.message

    @pytest.mark.parametrize(
        ("method", "more", "words"),
        [
            ("sign_with_ecdsa", {"message_hash": bytes(31)}, "message_hash has 31 bytes, 32 are expected"),
            ("sign_with_ecdsa", {"derivation_path": [b""] * 1_000}, "derivation_path has 1000 elements, at most 255"),
            ("ecdsa_public_key", {"derivation_path": [b""] * 256}, "derivation_path has 256 elements, at most 255"),
            (
                "sign_with_ecdsa",
                {"key_id": {**ECDSA[1], "name": "none"}},
                "unknown threshold key: ecdsa:secp256k1:none",
            ),
            ("ecdsa_public_key", {"key_id": {**ECDSA[1], "name": "x" * 9_999}}, "unknown threshold key"),
            ("ecdsa_public_key", {"key_id": {**ECDSA[1], "name": "key_1"}}, "production_key_names=True"),
        ],
    )
    def test_wrong_arguments(self, management, method, more, words):
        reject, _ = management.canister(method, self.arg(self.ECDSA, **more), self.FEE)
        assert words in reject.message
        assert len(reject.message) < 500
        assert management.world.balanced()

    def test_the_longest_path(self, management):
        found, _ = management.canister("ecdsa_public_key", self.arg(self.ECDSA, derivation_path=[b"x"] * 255))
        assert len(found["public_key"]) == 33

    def test_production_names_are_an_option(self, management):
        management.rules.config = replace(management.rules.config, production_key_names=True)
        key = ("ecdsa", {**self.ECDSA[1], "name": "key_1"})
        arg = self.arg(key)
        found, _ = management.canister("ecdsa_public_key", arg)
        assert len(found["public_key"]) == 33
        reject, _ = management.canister("sign_with_ecdsa", arg, self.FEE)
        assert "but 26153846153 cycles are required" in reject.message

    @pytest.mark.parametrize("method", ["ecdsa_public_key", "sign_with_schnorr", "vetkd_derive_key"])
    def test_not_by_users(self, management, method):
        reject = execute_ingress(management.rules, b"", method, b"", OWNER)
        assert "can not be called via ingress" in reject.message


class TestElsewhere:
    def call(self, management, network="testnet", method="bitcoin_get_balance", cycles=5):
        arg = encode(
            parse_types("(record { network : variant { mainnet; testnet; regtest }; address : text })"),
            [{"network": {network: None}, "address": "tb1"}],
        )
        data = b"%s %d " % (method.encode(), cycles) + arg
        return execute_ingress(management.rules, management.proxy.canister_id, "forward", data, OWNER), arg

    @pytest.mark.parametrize("method", BITCOIN_METHODS)
    def test_an_installed_bitcoin_canister_answers(self, management, world, method):
        def answer(api, instance):
            api.msg_reply_data_append(api.msg_caller() + api.msg_arg_data())
            api.msg_cycles_accept(api.msg_cycles_available() - 1)
            api.msg_reply()

        for network, canister_id in BITCOIN_CANISTERS.items():
            if canister_id.raw_bytes not in world.subnet.canisters:
                world.subnet.minted_cycles += 10**15
                made = add_canister(world.rules, Settings(controllers=(OWNER,)), 10**15, canister_id.raw_bytes)
                world.install({f"canister_update {method}": answer}, canister=made)
            response, arg = self.call(management, network, method)
            assert response.data == b"1 " + management.proxy.canister_id + arg
            assert world.balanced()

    def test_none_is_installed(self, management):
        response, _ = self.call(management, "mainnet")
        words = "there is no Bitcoin canister of mainnet here; install one as ghsi2-tqaaa-aaaan-aaaca-cai"
        assert words in response.message
        assert management.world.balanced()
        data = b"bitcoin_get_balance 5 nonsense"
        response = execute_ingress(management.rules, management.proxy.canister_id, "forward", data, OWNER)
        assert "Error decoding candid" in response.message
        reject = execute_ingress(management.rules, b"", "bitcoin_get_balance", b"", OWNER)
        assert "can not be called via ingress" in reject.message

    def test_subnet_info(self, management):
        ours = {"subnet_id": Principal(management.subnet.subnet_id)}
        found, _ = management.canister("subnet_info", ours)
        assert found == {"replica_version": "perdure", "registry_version": 1}
        reject, _ = management.canister("subnet_info", {"subnet_id": Principal(b"other")})
        assert "there is one subnet here" in reject.message

    def test_node_metrics_history(self, management):
        ours = {"subnet_id": Principal(management.subnet.subnet_id), "start_at_timestamp_nanos": 0}
        (found,), _ = management.canister("node_metrics_history", ours)
        nodes = found["node_metrics"]
        assert len({one["node_id"] for one in nodes}) == 13
        assert sum(one["num_blocks_proposed_total"] for one in nodes) <= management.subnet.round_number
        assert management.canister("node_metrics_history", {**ours, "start_at_timestamp_nanos": 1 << 63})[0] == []
        reject, _ = management.canister("node_metrics_history", {**ours, "subnet_id": Principal(b"other")})
        assert "there is one subnet here" in reject.message
