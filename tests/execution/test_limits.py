"""Limits and prices: what the engine is told, what the rules refuse, what existing costs."""

from __future__ import annotations

import pytest

from perdure.canister import Reply, Trap, TrapCode
from perdure.errors import MalformedError
from perdure.execution import (
    CYCLES_2026_08,
    InstallMode,
    InstallOptions,
    SubnetConfig,
    advance_time,
    execute_ingress,
    execute_query,
    install_code,
    round_,
    run_until_idle,
    submit_ingress,
)
from perdure.execution.config import GIB


def spy(canister):
    """Record the limits of every entry."""
    seen, run = {}, canister.instance.run

    def spying(entry_point, env):
        limits = env.limits
        seen[env.context.value] = limits.instructions, limits.stable_accessed_pages, limits.stable_dirty_pages
        return run(entry_point, env)

    canister.instance.run = spying
    return seen


class TestEntries:
    def test_install(self, world, fakes, monkeypatch):
        seen = {}

        def init(api, instance):
            seen.update(instructions=api.env.limits.instructions, pages=api.env.limits.stable_dirty_pages)

        world.install({"canister_start": lambda *_: None, "canister_init": init})
        # The steps of an install share one budget; the fake's start used 1,000 instructions.
        assert seen == {"instructions": 300_000_000_000 - 1_000, "pages": 2_097_152}

    def test_inspect(self, world, fakes):
        methods = {
            "canister_inspect_message": lambda api, _: api.accept_message(),
            "canister_update f": fakes.reply_with(b""),
        }
        canister = world.install(methods)
        seen = spy(canister)
        execute_ingress(world.rules, canister.canister_id, "f", b"")
        assert seen["F"] == (200_000_000, 262_144, 262_144)

    def test_callbacks_keep_some_back_for_cleanup(self, world, fakes):
        leaf = world.install({"canister_update leaf": fakes.reply_with(b"")})

        def start(api, instance):
            fakes.call(api, leaf.canister_id, "leaf", cleanup=1)

        def fail(api, instance, environment):
            raise api.trap(b"")

        canister = world.install({"canister_update start": start}, [fail, lambda *_: None])
        seen = spy(canister)
        execute_ingress(world.rules, canister.canister_id, "start", b"")
        assert seen["Ry"][0] == 38_000_000_000
        assert seen["C"][0] == 40_000_000_000 - 1_000

    def test_heap_limit(self, world, fakes):
        canister = world.install(
            {"canister_update f": fakes.reply_with(b""), "canister_query f2": fakes.reply_with(b"")}
        )
        seen, run = [], canister.instance.run

        def spying(entry_point, env):
            seen.append((env.limits.heap_wasm_pages, env.limits.heap_trap_code, env.limits.stable_wasm_pages))
            return run(entry_point, env)

        canister.instance.run = spying
        canister.cycles = 10**18
        execute_ingress(world.rules, canister.canister_id, "f", b"")
        assert seen == [(49_152, TrapCode.WASM_MEMORY_LIMIT_EXCEEDED, 8_192_000)]

    def test_out_of_instructions_is_named(self, world):
        canister = world.install({"canister_update f": None})
        canister.instance.run = lambda *_: Trap(TrapCode.INSTRUCTION_LIMIT_EXCEEDED, instructions=41_000_000_000)
        before = canister.cycles
        reject = execute_ingress(world.rules, canister.canister_id, "f", b"")
        assert reject.error_code == "IC0522"
        assert "Canister exceeded the limit of 40000000000 instructions for single message execution." in reject.message
        # Never more than was set aside.
        assert before - canister.cycles == 40_005_000_000 + 1_202_000
        assert world.balanced()


class TestCompiling:
    """The modules here have no operators of their own; what they would cost is told to them."""

    @staticmethod
    def module(fakes, methods, operators):
        module = fakes.Module(methods, name=f"{operators} operators")
        module.operators = operators
        return module

    def test_install(self, world, fakes):
        seen = []
        init = {"canister_init": lambda api, _: seen.append(api.env.limits.instructions)}
        canister = world.install(self.module(fakes, init, 1_000))
        assert isinstance(world.answer, Reply)
        # 6,000 instructions an operator, on top of the 1,000 of init, within the same limit.
        assert seen == [300_000_000_000 - 6_000_000]
        assert world.FUND - canister.cycles == 5_000_000 + 6_000_000 + 1_000
        assert world.balanced()

    def test_once_for_each_module_whatever_was_compiled_before(self, world, fakes):
        module = self.module(fakes, {"canister_init": lambda *_: None, "canister_post_upgrade": lambda *_: None}, 500)
        canister = world.install(module)
        for mode in ("reinstall", "upgrade"):
            before = canister.cycles
            world.install(module, canister=canister, mode=mode)
            assert before - canister.cycles == 5_000_000 + 3_000_000 + 1_000

    def test_pre_upgrade_runs_before_anything_is_compiled(self, world, fakes):
        seen = []

        def note(api, _):
            seen.append(api.env.limits.instructions)

        canister = world.install(self.module(fakes, {"canister_pre_upgrade": note}, 0))
        world.install(self.module(fakes, {"canister_post_upgrade": note}, 100), canister=canister, mode="upgrade")
        assert seen == [300_000_000_000, 300_000_000_000 - 1_000 - 600_000]

    def test_no_more_than_the_limit(self, world, fakes):
        canister = world.install(self.module(fakes, {}, 10**9))
        assert isinstance(world.answer, Reply)
        assert world.FUND - canister.cycles == 5_000_000 + 300_000_000_000

    def test_what_does_not_compile_is_charged_by_its_bytes(self, world, fakes):
        canister = world.create()
        world.host.modules[b"broken"] = None
        compile_ = world.host.compile

        def refuse(wasm):
            if wasm == b"broken":
                raise MalformedError("no module")
            return compile_(wasm)

        world.host.compile = refuse
        options = InstallOptions(InstallMode.INSTALL)
        answer = install_code(world.rules, canister, options, b"broken", b"", b"owner")
        assert answer.error_code == "IC0505"
        assert world.FUND - canister.cycles == 5_000_000 + 6 * 6_000
        assert world.balanced()

    def test_price_is_configuration(self, fakes):
        world = fakes.World(config=SubnetConfig(cost_to_compile_wasm_instruction=7))
        canister = world.install(self.module(fakes, {}, 1_000))
        assert world.FUND - canister.cycles == 5_000_000 + 7_000


class TestRounds:
    def test_a_round_ends_when_its_instructions_are_used_up(self, fakes):
        world = fakes.World(config=SubnetConfig(max_instructions_per_round=2_500))
        canister = world.install({"canister_update f": fakes.reply_with(b"")})
        for _ in range(7):
            submit_ingress(world.rules, canister.canister_id, "f", b"")
        answered = []
        for _ in range(3):
            round_(world.rules)
            answered.append(world.subnet.ingress.count)
        assert answered == [3, 6, 7]

    def test_time_goes_on(self, world):
        before = world.subnet.time_ns
        round_(world.rules)
        assert world.subnet.time_ns == before + 1

    def test_order_of_canisters_is_that_of_their_ids(self, world, fakes):
        order = []
        canisters = [
            world.install({"canister_update f": lambda api, _: (order.append(api.canister_self()), api.msg_reply())})
            for _ in range(3)
        ]
        for canister in reversed(canisters):
            submit_ingress(world.rules, canister.canister_id, "f", b"")
        round_(world.rules)
        assert order == [canister.canister_id for canister in canisters]


class TestQueries:
    def test_composite_budget(self, fakes):
        world = fakes.World(config=SubnetConfig(max_instructions_per_composite_query_call=120_000_000))

        leaf = world.install({"canister_query leaf": fakes.reply_with(b"")})

        def wide(api, instance):
            for _ in range(4):
                fakes.call(api, leaf.canister_id, "leaf")

        def count(api, instance, environment):
            answered.append(api.msg_arg_data())
            if len(answered) == enough:
                api.msg_reply()

        canister = world.install({"canister_composite_query wide": wide}, [count, lambda *_: None])
        answered, enough = [], 2
        assert execute_query(world.rules, canister.canister_id, "wide", b"") == Reply(b"")
        answered, enough = [], 3
        answer = execute_query(world.rules, canister.canister_id, "wide", b"")
        assert (answer.error_code, len(answered)) == ("IC0526", 2)


class TestCallTerms:
    def test_minimum_cycles_of_incoming_calls(self, world, fakes):
        callee = world.install({"canister_update f": fakes.reply_with(b"")})
        callee.settings.minimum_incoming_canister_call_cycles = 100

        def start(api, instance):
            fakes.call(api, callee.canister_id, "f", cycles=int(api.msg_arg_data()))

        caller = world.install({"canister_update start": start}, [fakes.on_reply, fakes.on_reject])
        refused = execute_ingress(world.rules, caller.canister_id, "start", b"99")
        assert refused.data.startswith(b"reject:5:")
        assert execute_ingress(world.rules, caller.canister_id, "start", b"100") == Reply(b"reply:")
        assert execute_ingress(world.rules, callee.canister_id, "f", b"") == Reply(b"")
        assert world.balanced()

    def test_limits_of_calls_are_configuration(self, fakes):
        config = SubnetConfig(max_local_request_payload_bytes=10, max_call_timeout_seconds=2, queue_capacity=3)
        world = fakes.World(config=config)
        callee = world.install(
            {"canister_update f": lambda api, _: (deadlines.append(api.msg_deadline()), api.msg_reply())}
        )
        deadlines, codes = [], []

        def many(api, instance):
            codes.extend(fakes.call(api, callee.canister_id, "f", timeout=100) for _ in range(5))
            api.msg_reply()

        def large(api, instance):
            fakes.call(api, callee.canister_id, "f", bytes(10))

        caller = world.install({"canister_update many": many, "canister_update large": large}, [lambda *_: None] * 2)
        called_at = world.subnet.time_ns + 1
        assert execute_ingress(world.rules, caller.canister_id, "many", b"") == Reply(b"")
        assert codes == [0, 0, 0, 2, 2]
        run_until_idle(world.rules)
        assert deadlines == [called_at + 2 * 10**9] * 3
        reject = execute_ingress(world.rules, caller.canister_id, "large", b"")
        assert "has a payload size of 11, which exceeds the allowed limit of 10." in reject.message

    def test_too_poor_to_be_called(self, world, fakes):
        canister = world.install({"canister_update f": fakes.reply_with(b"")}, cycles=400_000_000_000)
        world.subnet.minted_cycles -= canister.cycles - 30_000_000_000
        canister.cycles = 30_000_000_000
        reject = execute_ingress(world.rules, canister.canister_id, "f", b"")
        assert reject.error_code == "IC0207"
        assert "is out of cycles: please top up the canister with at least " in reject.message


class TestStorage:
    def test_a_gib_for_a_second(self, world, fakes):
        canister = world.install({})
        canister.stable_wasm_pages = 16_384
        cycles, memory_bytes = canister.cycles, canister.memory_bytes()
        advance_time(world.rules, 100 * 10**9)
        assert cycles - canister.cycles == memory_bytes * 127_000 * 100 // GIB
        assert world.balanced()

    def test_charged_at_most_every_ten_seconds(self, world):
        canister = world.install({})
        cycles = canister.cycles
        advance_time(world.rules, 9 * 10**9)
        assert canister.cycles == cycles
        advance_time(world.rules, 10**9)
        assert cycles - canister.cycles == canister.memory_bytes() * 127_000 * 10 // GIB

    def test_memory_allocation_is_paid_for(self, world):
        canister = world.create(memory_allocation=GIB)
        cycles = canister.cycles
        advance_time(world.rules, 10 * 10**9)
        assert cycles - canister.cycles == 1_270_000

    def test_who_cannot_pay_loses_the_code(self, world, fakes):
        canister = world.install({"canister_update f": fakes.reply_with(b"")})
        canister.stable_wasm_pages = 16_384
        world.subnet.minted_cycles -= canister.cycles - 1_000
        canister.cycles = 1_000
        version = canister.facts.version
        advance_time(world.rules, 100 * 10**9)
        assert (canister.cycles, canister.module, canister.history) == (0, None, [])
        assert canister.facts.version == version + 1
        assert canister.total_changes == 3
        assert world.balanced()

    def test_reserved_cycles_go_first(self, world):
        canister = world.create(memory_allocation=GIB)
        canister.reserved_cycles, canister.cycles = 1_000_000, canister.cycles - 1_000_000
        cycles = canister.cycles
        advance_time(world.rules, 10 * 10**9)
        assert (canister.reserved_cycles, cycles - canister.cycles) == (0, 270_000)
        assert world.balanced()

    def test_time_does_not_go_back(self, world):
        with pytest.raises(ValueError, match="does not go back"):
            advance_time(world.rules, -1)


class TestPrices:
    """Figures of the developer documentation for 13 nodes."""

    def test_published_figures(self):
        costs = CYCLES_2026_08
        assert costs.execution(10**9) == 1_005_000_000
        assert costs.ingress(10) == 1_220_000
        assert costs.request(4, 6) == 270_000
        assert costs.storage_per_second(GIB, 1) == 127_000 + 10_000_000
        assert costs.http_request(0, 0) == 49_140_000
        assert costs.http_request(1, 1) == 49_140_000 + 5_200 + 10_400
        assert costs.create_canister() == 500_000_000_000

    def test_a_call_costs_what_is_set_aside(self, world, fakes):
        seen = {}

        def start(api, instance):
            before = api.canister_cycle_balance()
            seen["price"] = api.cost_call(4, 3)
            fakes.call(api, b"nobody", "four", b"arg")
            seen["paid"] = before - api.canister_cycle_balance()
            api.msg_reply()

        canister = world.install({"canister_update start": start}, [lambda *_: None] * 2)
        balance = canister.cycles
        request = submit_ingress(world.rules, canister.canister_id, "start", b"")
        round_(world.rules)
        assert world.subnet.ingress.find(request, 0) == Reply(b"")
        assert seen["price"] == seen["paid"]
        assert balance - canister.cycles == seen["price"] + 5_001_000 + 1_200_000 + 5 * 2_000

    def test_instructions_of_64_bit_heaps_cost_twice_as_much(self, world, fakes):
        narrow, wide = CYCLES_2026_08, CYCLES_2026_08.wasm64
        assert narrow.execution(10**9) == 5_000_000 + 10**9
        assert wide.execution(10**9) == 5_000_000 + 2 * 10**9
        assert wide.wasm64 is not wide
        seen = {}

        def ask(api, instance):
            before = api.canister_cycle_balance()
            seen["price"] = api.cost_call(4, 3)
            fakes.call(api, b"nobody", "four", b"arg")
            seen["paid"] = before - api.canister_cycle_balance()
            api.msg_reply()

        for module_is_64, costs in ((False, narrow), (True, wide)):
            canister = world.install({"canister_update ask": ask}, [lambda *_: None] * 2)
            canister.module.is_64 = module_is_64
            balance = canister.cycles
            request = submit_ingress(world.rules, canister.canister_id, "ask", b"")
            round_(world.rules)
            assert world.subnet.ingress.find(request, 0) == Reply(b"")
            assert seen["price"] == seen["paid"] == costs.call(4, 3)
            # A fake uses 1,000 instructions.
            assert balance - canister.cycles == costs.call(4, 3) + costs.execution(1_000) + 1_200_000 + 3 * 2_000
            round_(world.rules)
            assert world.balanced()

    def test_signing(self):
        costs = CYCLES_2026_08
        assert costs.sign("sign_with_ecdsa", "key_1", 0) == 26_153_846_153
        assert costs.sign("sign_with_schnorr", "test_key_1", 1) == 10_000_000_000
        with pytest.raises(ValueError, match="unknown curve"):
            costs.sign("sign_with_ecdsa", "key_1", 2)
        with pytest.raises(KeyError):
            costs.sign("vetkd_derive_key", "nobody", 0)
