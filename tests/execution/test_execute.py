"""Updates, queries, traps, callbacks: what commits, what rolls back, who is told what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perdure.canister import CanisterStatus, Reply, TrapCode
from perdure.execution import apply_settings, execute_ingress, execute_query, round_, run_until_idle, submit_ingress
from perdure.ic.principal import Principal


def bump(api, instance):
    instance.heap.grow(1) if instance.heap.size() == 0 else None
    instance.heap.data[0] = (instance.heap.data[0] + 1) % 256
    api.msg_reply_data_append(bytes(instance.heap.data[:1]))
    api.msg_reply()


def bump_and_trap(api, instance):
    bump(api, instance)
    raise api.trap(b"on purpose")


def get(api, instance):
    bump(api, instance)


COUNTER = {"canister_update bump": bump, "canister_update bump_and_trap": bump_and_trap, "canister_query get": get}


def update(world, canister, method, arg=b"", **options):
    return execute_ingress(world.rules, canister.canister_id, method, arg, **options)


def query(world, canister, method, arg=b"", **options):
    return execute_query(world.rules, canister.canister_id, method, arg, **options)


class TestOneCanister:
    def test_update_commits(self, world):
        canister = world.install(COUNTER)
        assert [update(world, canister, "bump") for _ in range(2)] == [Reply(b"\x01"), Reply(b"\x02")]
        assert canister.heap_wasm_pages == 1
        assert world.balanced()

    def test_query_changes_nothing(self, world):
        canister = world.install(COUNTER)
        version = canister.facts.version
        assert query(world, canister, "get") == query(world, canister, "get") == Reply(b"\x01")
        assert canister.facts.version == version
        assert canister.query_statistics[0] == 2
        assert canister.heap_wasm_pages == 0

    def test_replicated_query_keeps_no_state(self, world):
        canister = world.install(COUNTER)
        assert update(world, canister, "get") == update(world, canister, "get") == Reply(b"\x01")
        assert world.balanced()

    def test_trap_rolls_back_and_costs(self, world):
        canister = world.install(COUNTER)
        update(world, canister, "bump")
        version, cycles = canister.facts.version, canister.cycles
        reject = update(world, canister, "bump_and_trap")
        assert (reject.code, reject.error_code) == (5, "IC0503")
        name = Principal(canister.canister_id)
        assert reject.message == (
            f"Error from Canister {name}: Canister called `ic0.trap` with message: 'on purpose'.\n"
            "Consider gracefully handling failures from this canister or altering the canister to handle exceptions. "
            "See documentation: https://internetcomputer.org/docs/current/references/execution-errors"
            "#trapped-explicitly"
        )
        assert canister.facts.version == version
        assert canister.cycles < cycles
        assert [record.content for record in canister.log.records] == [b"[TRAP]: on purpose"]
        assert update(world, canister, "bump") == Reply(b"\x02")
        assert world.balanced()

    def test_no_reply_keeps_the_state(self, world):
        def quiet(api, instance):
            instance.stable.grow(1)

        canister = world.install({"canister_update quiet": quiet})
        reject = update(world, canister, "quiet")
        assert (reject.code, reject.error_code) == (5, "IC0506")
        assert reject.message.endswith("did not reply to the call")
        assert canister.stable_wasm_pages == 1

    def test_reject(self, world):
        canister = world.install({"canister_update no": lambda api, instance: api.msg_reject(b"no")})
        reject = update(world, canister, "no")
        assert (reject.code, reject.message, reject.error_code) == (4, "no", "IC0406")

    def test_unknown_method(self, world):
        canister = world.install(COUNTER)
        assert update(world, canister, "nope").error_code == "IC0536"
        reject = query(world, canister, "nope")
        assert reject.code == 5
        assert "Canister has no query method 'nope'." in reject.message

    def test_no_code_no_canister(self, world):
        canister = world.create()
        assert update(world, canister, "bump").error_code == query(world, canister, "bump").error_code == "IC0537"
        unknown = Principal.from_index(99).raw_bytes
        assert execute_query(world.rules, unknown, "f", b"").error_code == "IC0301"
        assert execute_ingress(world.rules, unknown, "f", b"").error_code == "IC0301"

    @pytest.mark.parametrize(
        ("status", "code"), [(CanisterStatus.STOPPED, "IC0508"), (CanisterStatus.STOPPING, "IC0509")]
    )
    def test_not_running(self, world, status, code):
        canister = world.install(COUNTER)
        canister.facts.status = status
        assert update(world, canister, "bump").error_code == query(world, canister, "get").error_code == code

    def test_frozen(self, world):
        canister = world.install(COUNTER)
        world.subnet.minted_cycles -= canister.cycles - 1
        canister.cycles = 1
        canister.freezing_limit = 2
        reject = update(world, canister, "bump")
        assert (reject.code, reject.error_code) == (2, "IC0207")
        assert query(world, canister, "get").error_code == "IC0207"

    def test_environment(self, world, fakes):
        seen = {}

        def look(api, instance):
            seen.update(caller=api.msg_caller(), arg=api.msg_arg_data(), id=api.canister_self(), time=api.time())
            seen.update(balance=api.canister_cycle_balance(), version=api.canister_version())
            api.msg_reply()

        canister = world.install({"canister_update look": look})
        balance = canister.cycles
        assert update(world, canister, "look", b"arg", sender=b"someone") == Reply(b"")
        assert seen["caller"] == b"someone"
        assert seen["arg"] == b"arg"
        assert seen["id"] == canister.canister_id
        assert seen["time"] == world.subnet.time_ns
        assert seen["balance"] == balance - 1_200_000 - 7 * 2_000 - 40_005_000_000
        assert canister.cycles == balance - 1_200_000 - 7 * 2_000 - 5_000_000 - 1_000

    def test_caller_info(self, world, fakes):
        info = fakes.reply_with(lambda api, _: api.msg_caller_info_data() + b" by " + api.msg_caller_info_signer())
        canister = world.install({"canister_update info": info, "canister_query info2": info})
        request = submit_ingress(world.rules, canister.canister_id, "info", b"", caller_info=(b"attested", b"signer"))
        round_(world.rules)
        assert world.subnet.ingress.find(request, 0) == Reply(b"attested by signer")
        assert execute_query(
            world.rules, canister.canister_id, "info2", b"", caller_info_data=b"a", caller_info_signer=b"s"
        ) == Reply(b"a by s")

    def test_wrong_context_in_todays_words(self, world):
        canister = world.install({"canister_query q": lambda api, instance: api.certified_data_set(b"")})
        reject = query(world, canister, "q")
        assert reject.error_code == "IC0504"
        assert '"ic0_certified_data_set" cannot be executed in non replicated query mode' in reject.message
        assert reject.message.endswith("#calling-a-system-api-from-the-wrong-mode")

    def test_certificate_is_made_when_asked_for(self, world):
        asked = []

        def certificate(api, instance):
            assert api.data_certificate_present()
            api.msg_reply_data_append(api.data_certificate() + api.data_certificate())
            api.msg_reply()

        canister = world.install({"canister_query c": certificate, "canister_query q": get})
        world.rules.certify = lambda canister_id, data, time_ns: asked.append(canister_id) or b"certificate"
        query(world, canister, "q")
        assert asked == []
        assert query(world, canister, "c") == Reply(b"certificatecertificate")
        assert asked == [canister.canister_id]

    def test_burning(self, world):
        def burn(api, instance):
            assert api.cycles_burn(1_000) == 1_000
            api.msg_reply()

        canister = world.install({"canister_update burn": burn, "canister_query burn": burn})
        before = world.subnet.consumed_cycles
        assert update(world, canister, "burn") == Reply(b"")
        assert world.subnet.consumed_cycles - before > 1_000
        assert world.balanced()

    def test_wasm_memory_limit(self, world):
        canister = world.install(COUNTER)
        update(world, canister, "bump")
        canister.settings.wasm_memory_limit = 100
        assert update(world, canister, "bump").error_code == "IC0539"
        assert query(world, canister, "get") == Reply(b"\x02")

    def test_ingress_too_large(self, world):
        canister = world.install(COUNTER)
        assert update(world, canister, "bump", bytes((2 << 20) + 1)).code == 4


class TestInspection:
    def test_absent_means_accepted(self, world):
        assert update(world, world.install(COUNTER), "bump") == Reply(b"\x01")

    def test_decides(self, world):
        def inspect(api, instance):
            instance.stable.grow(1)
            if api.msg_arg_data() == b"please":
                api.accept_message()
            elif api.msg_method_name() != b"bump":
                raise api.trap(b"what?")

        canister = world.install({**COUNTER, "canister_inspect_message": inspect})
        assert update(world, canister, "bump", b"please") == Reply(b"\x01")
        reject = update(world, canister, "bump")
        assert (reject.code, reject.error_code) == (4, "IC0406")
        assert reject.message.endswith("Canister rejected the message")
        assert update(world, canister, "other").error_code == "IC0503"
        assert canister.stable_wasm_pages == 0
        assert query(world, canister, "get") == Reply(b"\x02")


class TestCalls:
    def caller(self, world, fakes, callee, table=None, **options):
        def start(api, instance):
            fakes.call(api, callee.canister_id, options.pop("method", "bump"), **options)

        return world.install({"canister_update start": start}, table or [fakes.on_reply, fakes.on_reject])

    def test_reply(self, world, fakes):
        callee = world.install(COUNTER)
        caller = self.caller(world, fakes, callee)
        assert update(world, caller, "start") == Reply(b"reply:\x01")
        assert not caller.contexts
        assert not caller.open_calls
        assert not caller.open_calls_to
        assert world.balanced()

    def test_trap_of_the_callee_is_told_with_its_code(self, world, fakes):
        caller = self.caller(world, fakes, world.install(COUNTER), method="bump_and_trap")
        assert update(world, caller, "start").data.startswith(b"reject:5:IC0503: Error from Canister ")

    def test_explicit_reject_is_passed_as_it_is(self, world, fakes):
        callee = world.install({"canister_update bump": lambda api, instance: api.msg_reject(b"no")})
        assert update(world, self.caller(world, fakes, callee), "start") == Reply(b"reject:4:no")

    def test_missing_canister(self, world, fakes):
        callee = world.install(COUNTER)
        caller = self.caller(world, fakes, callee)
        del world.subnet.canisters[callee.canister_id]
        assert update(world, caller, "start").data.startswith(b"reject:3:IC0301: Canister ")

    def test_cycles_travel_and_return(self, world, fakes):
        def take(api, instance):
            assert api.msg_cycles_available() == 1_000_000
            assert api.msg_cycles_accept(400_000) == 400_000
            api.msg_reply()

        def back(api, instance, environment):
            assert api.msg_cycles_refunded() == 600_000
            api.msg_reply()

        callee = world.install({"canister_update bump": take})
        caller = self.caller(world, fakes, callee, [back], cycles=1_000_000)
        callee_before, caller_before = callee.cycles, caller.cycles
        assert update(world, caller, "start") == Reply(b"")
        assert callee.cycles == callee_before + 400_000 - 5_000_000 - 1_000
        fees = 1_200_000 + 5 * 2_000 + 2 * 5_001_000 + 260_000 + 4 * 1_000
        assert caller.cycles == caller_before - 400_000 - fees
        assert world.balanced()

    def test_trap_after_accepting_gives_the_cycles_back(self, world, fakes):
        def take(api, instance):
            api.msg_cycles_accept(400_000)
            raise api.trap(b"")

        def back(api, instance, environment):
            assert api.msg_cycles_refunded() == 1_000_000
            api.msg_reply()

        callee = world.install({"canister_update bump": take})
        caller = self.caller(world, fakes, callee, [None, back], cycles=1_000_000)
        assert update(world, caller, "start") == Reply(b"")
        assert world.balanced()

    def test_trap_drops_the_calls(self, world, fakes):
        callee = world.install(COUNTER)

        def start(api, instance):
            fakes.call(api, callee.canister_id, "bump", cycles=5)
            raise api.trap(b"after the call")

        caller = world.install({"canister_update start": start}, [fakes.on_reply, fakes.on_reject])
        assert update(world, caller, "start").error_code == "IC0503"
        run_until_idle(world.rules)
        assert update(world, callee, "bump") == Reply(b"\x01")
        assert world.balanced()

    def test_reply_before_the_callback(self, world, fakes):
        callee, seen = world.install(COUNTER), []

        def start(api, instance):
            fakes.call(api, callee.canister_id, "bump")
            api.msg_reply()

        def later(api, instance, environment):
            seen.append(api.msg_arg_data())
            with pytest.raises(Exception, match="already replied"):
                api.msg_reply()

        caller = world.install({"canister_update start": start}, [later])
        assert update(world, caller, "start") == Reply(b"")
        run_until_idle(world.rules)
        assert seen == [b"\x01"]
        assert not caller.contexts

    def test_self_call(self, world, fakes):
        def start(api, instance):
            fakes.call(api, api.canister_self(), "bump")

        canister = world.install({**COUNTER, "canister_update start": start}, [fakes.on_reply])
        assert update(world, canister, "start") == Reply(b"reply:\x01")

    def test_calls_of_one_message_go_out_in_order(self, world, fakes):
        order = []

        def note(api, instance):
            order.append(api.msg_arg_data())
            api.msg_reply()

        callee = world.install({"canister_update note": note})

        def start(api, instance):
            for number in range(5):
                fakes.call(api, callee.canister_id, "note", b"%d" % number)
            api.msg_reply()

        caller = world.install({"canister_update start": start}, [lambda *_: None])
        update(world, caller, "start")
        run_until_idle(world.rules)
        assert order == [b"0", b"1", b"2", b"3", b"4"]

    def test_queue_of_500(self, world, fakes):
        callee = world.install(COUNTER)
        codes = []

        def start(api, instance):
            codes.extend(fakes.call(api, callee.canister_id, "bump") for _ in range(501))
            api.msg_reply()

        caller = world.install(
            {"canister_update start": start}, [lambda *_: None, lambda *_: None], cycles=100 * world.FUND
        )
        assert update(world, caller, "start") == Reply(b"")
        assert codes == [0] * 500 + [2]
        run_until_idle(world.rules)
        assert world.balanced()

    def test_full_queue_is_seen_by_the_next_message(self, world, fakes):
        callee = world.install(COUNTER)

        def start(api, instance):
            count = int(api.msg_arg_data())
            done = [fakes.call(api, callee.canister_id, "bump") for _ in range(count)]
            api.msg_reply_data_append(b"%d" % done.count(0))
            api.msg_reply()

        caller = world.install({"canister_update start": start}, [lambda *_: None] * 2, cycles=100 * world.FUND)
        first = submit_ingress(world.rules, caller.canister_id, "start", b"400")
        second = submit_ingress(world.rules, caller.canister_id, "start", b"400")
        round_(world.rules)
        answers = {request: answer[1] for request, answer in world.subnet.ingress.answers()}
        assert answers == {first: Reply(b"400"), second: Reply(b"100")}


class TestCallbacks:
    def test_cleanup_runs_over_the_state_before_the_callback(self, world, fakes):
        callee, seen = world.install(COUNTER), []

        def start(api, instance):
            instance.stable.grow(1)
            instance.stable.data[0] = 1
            fakes.call(api, callee.canister_id, "bump", cleanup=2)

        def spoil(api, instance, environment):
            instance.stable.data[0] = 2
            api.msg_reply()
            raise api.trap(b"in the callback")

        def cleanup(api, instance, environment):
            seen.append(instance.stable.data[0])
            instance.stable.data[1] = 9

        caller = world.install({"canister_update start": start}, [spoil, spoil, cleanup])
        reject = update(world, caller, "start")
        assert reject.error_code == "IC0503"
        assert "in the callback" in reject.message
        assert seen == [1]
        assert bytes(caller.instance.stable.data[:2]) == b"\x01\x09"
        assert world.balanced()

    def test_cleanup_that_traps(self, world, fakes):
        callee = world.install(COUNTER)

        def start(api, instance):
            instance.stable.grow(1)
            fakes.call(api, callee.canister_id, "bump", cleanup=1)

        def spoil(api, instance, environment):
            instance.stable.data[0] = 2
            raise api.trap(b"again")

        caller = world.install({"canister_update start": start}, [spoil, spoil])
        reject = update(world, caller, "start")
        assert "call_on_cleanup also failed" in reject.message
        assert caller.instance.stable.data[0] == 0

    def test_bad_table_index(self, world, fakes):
        callee = world.install(COUNTER)

        def start(api, instance):
            fakes.call(api, callee.canister_id, "bump", on_reply=77)

        reject = update(world, world.install({"canister_update start": start}), "start")
        assert reject.error_code == "IC0513"
        assert "Canister requested to invoke a non-existent Wasm function 77 from table 0." in reject.message

    def test_performance_counter_of_the_context(self, world, fakes):
        callee = world.install(COUNTER)

        def start(api, instance):
            assert api.performance_counter(1, 5) == 5
            fakes.call(api, callee.canister_id, "bump")

        def count(api, instance, environment):
            api.msg_reply_data_append(b"%d" % api.performance_counter(1, 5))
            api.msg_reply()

        caller = world.install({"canister_update start": start}, [count])
        assert update(world, caller, "start") == Reply(b"1005")

    def test_uninstalled_meanwhile(self, world, fakes):
        from perdure.execution import uninstall_code

        callee = world.install(COUNTER)

        def start(api, instance):
            fakes.call(api, callee.canister_id, "bump", cycles=1_000)

        caller = world.install({"canister_update start": start}, [fakes.on_reply])
        request = submit_ingress(world.rules, caller.canister_id, "start", b"", cycles=0)
        round_(world.rules)
        uninstall_code(world.rules, caller)
        assert world.subnet.ingress.find(request, 0).code == 4
        run_until_idle(world.rules)
        assert not caller.contexts
        assert not caller.open_calls
        assert world.balanced()


class TestBoundedWait:
    @pytest.mark.parametrize("rounds_before", [1, 2])
    @pytest.mark.parametrize(("keeps_refunds", "lost"), [(True, 0), (False, 1_000)], ids=["now", "in older states"])
    def test_expires(self, world, fakes, rounds_before, keeps_refunds, lost):
        world.subnet.keeps_refunds = keeps_refunds
        silent = world.create()

        def start(api, instance):
            fakes.call(api, silent.canister_id, "wait", cycles=1_000, timeout=2)

        def wait(api, instance):
            assert rounds_before == 2, "an expired request is not begun"
            assert api.msg_deadline() > api.time()
            fakes.call(api, silent.canister_id, "wait_more")

        world.install({"canister_update wait": wait}, [fakes.on_reply, fakes.on_reject], canister=silent)
        caller = world.install({"canister_update start": start}, [fakes.on_reply, fakes.on_reject])
        request = submit_ingress(world.rules, caller.canister_id, "start", b"")
        for _ in range(rounds_before):
            round_(world.rules)
        world.subnet.time_ns += 3_000_000_000
        round_(world.rules)
        run_until_idle(world.rules)
        reply = world.subnet.ingress.find(request, 0)
        assert reply.data.startswith(b"reject:6:Call deadline has expired.")
        assert not world.subnet.deadlines
        assert world.subnet.lost_cycles == lost
        assert world.balanced()


class TestTasks:
    def test_timer_fires_once_and_is_cleared_before(self, world):
        fired = []

        def arm(api, instance):
            api.global_timer_set(world.subnet.time_ns + 1_000)
            api.msg_reply()

        def fire(api, instance):
            fired.append(api.time())
            assert api.global_timer_set(0) == 0
            assert api.msg_caller() == b""

        canister = world.install({"canister_update arm": arm, "canister_global_timer": fire})
        update(world, canister, "arm")
        run_until_idle(world.rules)
        assert fired == []
        world.subnet.time_ns += 2_000
        run_until_idle(world.rules)
        assert len(fired) == 1
        assert canister.global_timer_ns == 0
        assert not world.subnet.task_canisters

    def test_heartbeat_every_round(self, world):
        beats = []
        canister = world.install({"canister_heartbeat": lambda api, instance: beats.append(1)})
        for _ in range(3):
            round_(world.rules)
        assert len(beats) == 3
        canister.facts.status = CanisterStatus.STOPPED
        round_(world.rules)
        assert len(beats) == 3

    def test_low_memory_hook_once_per_crossing(self, world):
        ran = []

        def grow(api, instance):
            instance.heap.grow(1)
            api.msg_reply()

        methods = {"canister_update grow": grow, "canister_on_low_wasm_memory": lambda *_: ran.append(1)}
        canister = world.install(methods)
        canister.settings.wasm_memory_limit, canister.settings.wasm_memory_threshold = 4 * 65_536, 2 * 65_536
        for _ in range(4):
            update(world, canister, "grow")
            run_until_idle(world.rules)
        assert ran == [1]

    def test_a_timer_that_cannot_run_is_no_work(self, world):
        from perdure.execution import has_work

        canister = world.install(
            {"canister_init": lambda api, _: api.global_timer_set(1), "canister_global_timer": bump}
        )
        assert has_work(world.rules)
        canister.facts.status = CanisterStatus.STOPPED
        assert not has_work(world.rules)
        assert run_until_idle(world.rules) == 0
        canister.facts.status = CanisterStatus.RUNNING
        assert run_until_idle(world.rules) == 1

    def test_settings_can_make_the_hook_due(self, world):
        ran = []
        canister = world.install({"canister_on_low_wasm_memory": lambda *_: ran.append(1)})
        settings = replace(canister.settings, wasm_memory_limit=10, wasm_memory_threshold=20)
        apply_settings(world.rules, canister, settings)
        run_until_idle(world.rules)
        assert ran == [1]

    def test_a_task_that_traps_changes_nothing(self, world):
        def fail(api, instance):
            instance.stable.grow(1)
            raise api.trap(b"no")

        canister = world.install({"canister_heartbeat": fail})
        round_(world.rules)
        assert canister.stable_wasm_pages == 0
        assert not canister.contexts
        assert world.balanced()


class TestCompositeQueries:
    def test_calls_queries_and_sees_its_own_changes(self, world, fakes):
        leaf = world.install({"canister_query leaf": fakes.reply_with(lambda api, instance: b"<" + api.msg_arg_data())})

        def start(api, instance):
            instance.stable.grow(1)
            instance.stable.data[0] = 7
            fakes.call(api, leaf.canister_id, "leaf", b"x")

        def join(api, instance, environment):
            assert instance.stable.data[0] == 7
            api.msg_reply_data_append(api.msg_arg_data() + b">")
            api.msg_reply()

        root = world.install({"canister_composite_query start": start}, [join])
        assert query(world, root, "start") == Reply(b"<x>")
        assert root.stable_wasm_pages == 0
        assert root.instance.stable.size() == 0

    @pytest.mark.parametrize("around", [False, True])
    def test_no_canister_is_entered_again(self, world, fakes, around):
        """The whole query ends; nobody is told of a reject."""

        def start(api, instance):
            fakes.call(api, api.msg_arg_data() or api.canister_self(), "back")

        root = world.install({"canister_composite_query start": start}, [fakes.on_reply, fakes.on_reject])

        def back(api, instance):
            fakes.call(api, root.canister_id, "start")

        between = world.install({"canister_composite_query back": back}, [fakes.on_reply, fakes.on_reject])
        answer = query(world, root, "start", between.canister_id if around else b"")
        assert answer.error_code == "IC0517"
        assert answer.message == "Query calls re-entering the same canister are not allowed yet."

    def test_only_as_a_query(self, world, fakes):
        root = world.install({"canister_composite_query start": fakes.reply_with(b"")})
        assert update(world, root, "start").error_code == "IC0527"

    def test_updates_cannot_be_called(self, world, fakes):
        callee = world.install(COUNTER)

        def start(api, instance):
            fakes.call(api, callee.canister_id, "bump")

        root = world.install({"canister_composite_query start": start}, [fakes.on_reply, fakes.on_reject])
        assert query(world, root, "start").data.startswith(b"reject:5:IC0536")

    def test_depth(self, world, fakes):
        """Seven in a row are taken if the last one answers at once; where it asks further, the whole query ends."""

        def down(api, instance):
            rest = api.msg_arg_data()
            fakes.call(api, rest[:10], "down" if len(rest) > 10 else "leaf", rest[10:])

        methods = {"canister_composite_query down": down, "canister_query leaf": fakes.reply_with(b"end")}
        row = [world.install(methods, [fakes.on_reply, fakes.on_reject]) for _ in range(8)]
        ids = [canister.canister_id for canister in row]
        assert query(world, row[0], "down", b"".join(ids[1:7])).data == b"reply:" * 6 + b"end"
        answer = query(world, row[0], "down", b"".join(ids[1:]))
        assert answer.error_code == "IC0525"
        assert answer.message == "Composite query calls exceeded the maximum call depth."

    def test_no_instructions_left_end_the_whole_query(self, world, fakes):
        leaf = world.install({"canister_query leaf": fakes.reply_with(b"")})

        def start(api, instance):
            for _ in range(101):  # each has an overhead of 50 million, together 5 billion
                fakes.call(api, leaf.canister_id, "leaf")

        root = world.install({"canister_composite_query start": start}, [lambda *_: None] * 2)
        answer = query(world, root, "start")
        assert answer.error_code == "IC0526"
        assert answer.message == "Composite query calls exceeded the instruction limit."

    def test_silence_of_those_that_are_called(self, world, fakes):
        quiet = world.install({"canister_query quiet": lambda *_: None})

        def start(api, instance):
            fakes.call(api, quiet.canister_id, "quiet")

        told = world.install({"canister_composite_query start": start}, [fakes.on_reply, fakes.on_reject])
        silence = f"IC0506: Canister {Principal(quiet.canister_id)} did not produce a response"
        assert query(world, told, "start").data == f"reject:5:{silence}".encode()
        deaf = world.install({"canister_composite_query start": start}, [lambda *_: None] * 2)
        assert query(world, deaf, "start").message.endswith(f"{Principal(deaf.canister_id)} did not produce a response")

    def test_callback_trap_and_cleanup(self, world, fakes):
        leaf = world.install({"canister_query leaf": fakes.reply_with(b"")})
        cleaned = []

        def start(api, instance):
            fakes.call(api, leaf.canister_id, "leaf", cleanup=1)

        def fail(api, instance, environment):
            assert not api.data_certificate_present()
            raise api.trap(b"no")

        root = world.install({"canister_composite_query start": start}, [fail, lambda *_: cleaned.append(1)])
        assert query(world, root, "start").error_code == "IC0503"
        assert cleaned == [1]


def test_engine_sees_no_more_than_the_limits(world):
    canister = world.install(COUNTER)
    seen = {}
    run = canister.instance.run

    def spy(entry_point, env):
        seen[env.context] = env.limits.instructions, env.limits.stable_accessed_pages, env.limits.reply_bytes
        return run(entry_point, env)

    canister.instance.run = spy
    update(world, canister, "bump")
    update(world, canister, "get")
    query(world, canister, "get")
    assert {context.value: limits for context, limits in seen.items()} == {
        "U": (40_000_000_000, 524_288, 2 << 20),
        "RQ": (40_000_000_000, 262_144, 2 << 20),
        "NRQ": (5_000_000_000, 262_144, 3 << 20),
    }


def test_memory_growth_is_bounded_by_cycles(world):
    canister = world.install(COUNTER, cycles=400_000_000_000)
    limits = {}
    run = canister.instance.run

    def spy(entry_point, env):
        limits["now"] = env.limits.stable_trap_wasm_pages, env.limits.stable_trap_code
        return run(entry_point, env)

    canister.instance.run = spy
    assert update(world, canister, "bump") == Reply(b"\x01")
    pages, code = limits["now"]
    assert code == TrapCode.INSUFFICIENT_CYCLES_IN_MEMORY_GROW
    # About 360e9 cycles keep 360e9 / (127_000 * 2_592_000) GiB for thirty days.
    assert pages == pytest.approx(360e9 / (127_000 * 2_592_000) * 16_384, rel=0.01)


class TestAsTheReplicaShowsIt:
    def test_cycles_after_the_reply_can_be_accepted(self, world, fakes):
        seen = []

        def reply_first(api, instance):
            api.msg_reply()
            seen.append((api.msg_cycles_available(), api.msg_cycles_accept(300_000), api.msg_cycles_available()))

        callee = world.install({"canister_update f": reply_first})

        def ask(api, instance):
            fakes.call(api, callee.canister_id, "f", cycles=1_000_000)

        def answered(api, instance, environment):
            seen.append(api.msg_cycles_refunded())
            api.msg_reply()

        caller = world.install({"canister_update ask": ask}, [answered, fakes.on_reject])
        assert isinstance(execute_ingress(world.rules, caller.canister_id, "ask", b""), Reply)
        assert seen == [(1_000_000, 300_000, 700_000), 700_000]
        assert world.balanced()

    def test_no_route_outside_of_the_subnet(self, world, fakes):
        def ask(api, instance):
            fakes.call(api, api.msg_arg_data(), "f")

        caller = world.install({"canister_update ask": ask}, [fakes.on_reply, fakes.on_reject])
        first = world.subnet.first_canister_index
        inside, outside = (Principal.from_index(first + index).raw_bytes for index in (77, 1 << 20))
        said = [execute_ingress(world.rules, caller.canister_id, "ask", callee).data for callee in (inside, outside)]
        assert said[0].startswith(b"reject:3:IC0301")
        assert said[1] == b"reject:3:No route to canister %s" % str(Principal(outside)).encode()

    @pytest.mark.parametrize("kind", ["update", "query"])
    def test_silence_as_canisters_hear_of_it(self, world, fakes, kind):
        quiet = world.install({f"canister_{kind} quiet": lambda *_: None})

        def start(api, instance):
            fakes.call(api, quiet.canister_id, "quiet")

        caller = world.install({"canister_update start": start}, [fakes.on_reply, fakes.on_reject])
        assert update(world, caller, "start").data == b"reject:5:No response"

    def test_silence_of_queries_and_updates(self, world):
        methods = {f"canister_{kind} {kind}": lambda *_: None for kind in ("update", "query", "composite_query")}
        canister = world.install(methods)
        said = [
            execute_query(world.rules, canister.canister_id, "query", b""),
            execute_query(world.rules, canister.canister_id, "composite_query", b""),
            execute_ingress(world.rules, canister.canister_id, "query", b""),
            execute_ingress(world.rules, canister.canister_id, "update", b""),
        ]
        assert {reject.error_code for reject in said} == {"IC0506"}
        endings = [reject.message.partition(f"Canister {Principal(canister.canister_id)} ")[2] for reject in said]
        assert endings == [*["did not produce a response"] * 2, *["did not reply to the call"] * 2]
