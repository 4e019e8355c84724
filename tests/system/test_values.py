"""What the functions of `ic0` do where they are allowed, natively and behind host calls at once."""

from __future__ import annotations

import pytest
from system_machine import WAYS

from perdure import ANONYMOUS, Principal
from perdure.canister import Context
from perdure.execution import submit_ingress
from perdure.execution.cycles import CYCLES_2026_08

MANAGEMENT = b""
REPLICATED = {"I", "G", "U", "RQ", "Ry", "Rt", "C", "T"}
ALICE = Principal(b"alice" + b"\x01")


def number(value, size_bytes=8):
    return value.to_bytes(size_bytes, "little")


def numbers(reply, size_bytes=8):
    return [int.from_bytes(reply[at : at + size_bytes], "little") for at in range(0, len(reply), size_bytes)]


def balance(both):
    return both.do(lambda machine: machine.canister.status().cycles)


class TestArguments:
    @pytest.mark.parametrize("size_bytes", [0, 1, 4_095, 70_000])
    def test_whole(self, both, size_bytes):
        p = both.program
        # What a method gets is a program; after its end lies data that the machine never reads.
        program = p().set(0, p().msg_arg_data_size()).reply(p().msg_arg_data())
        callee = p().reply(p().fill(7, size_bytes))
        assert both.update(p().call(both.id, "query", callee, on_reply=program)) == b"\x07" * size_bytes

    def test_part(self, both):
        p = both.program
        part = p().set(0, p().alloc(4)).msg_arg_data_copy(p().get(0), 2, 3).reply(p().span(p().get(0), 3))
        assert both.update(p().call(both.id, "query", p().reply(b"abcdef"), on_reply=part)) == b"cde"

    @pytest.mark.parametrize(("offset", "size"), [(0, 1 << 20), (1 << 31, 1), (1, 1 << 31)])
    def test_beyond_its_end(self, both, offset, size):
        _, error_code, message, _ = both.update(both.program().msg_arg_data_copy(0, offset, size))
        assert error_code in {"IC0502", "IC0504"}
        assert "msg_arg_data_copy" in message or "heap out of bounds" in message

    def test_where_the_heap_ends(self, both):
        p = both.program
        end = p().mul(p().memory_size(), 65_536)
        reply = both.update(p().msg_arg_data_copy(p().sub(end, 1), 0, 1).reply(p().span(p().sub(end, 1), 1)))
        assert len(reply) == 1
        assert both.update(p().msg_arg_data_copy(end, 0, 1))[1] in {"IC0502", "IC0504"}


class TestIdentity:
    def test_caller(self, both):
        program = both.program().reply(both.program().msg_caller())
        assert both.update(program, sender=ALICE) == ALICE.raw_bytes
        assert both.query(program, sender=ALICE) == ALICE.raw_bytes

    def test_callbacks_see_the_callee_of_their_own_context(self, both):
        p = both.program
        tell = p().reply(p().msg_caller())
        assert both.update(p().call(both.id, "query", p().reply(), on_reply=tell), sender=ALICE) == ALICE.raw_bytes
        assert both.update(p().call(both.id, "query", tell), sender=ALICE) == both.id

    def test_tasks_are_called_by_the_management_canister(self, both):
        p = both.program
        note = p().set(0, p().add(p().msg_caller_size(), 100))
        for machine in both.machines:
            machine.hook("HEARTBEAT", note)
            machine.subnet.tick()
        assert both.update(p().reply_number(p().get(0))) == number(100)

    def test_self_subnet_and_root_key(self, both):
        p = both.program
        assert both.query(p().reply(p().canister_self())) == both.id
        state = both.machines[0].subnet._state
        assert both.query(p().reply(p().subnet_self())) == state.subnet_id
        assert both.update(p().reply(p().root_key())) == state.root_key
        assert len(state.root_key) == 133

    def test_no_information_about_the_caller(self, both):
        p = both.program
        assert both.update(p().append(p().msg_caller_info_data()).reply(p().msg_caller_info_signer())) == b""

    def test_controllers(self, both):
        p = both.program

        def asked(principal):
            return numbers(both.query(p().reply_number(p().is_controller(principal))))[0]

        both.do(lambda machine: machine.canister.update_settings(controllers=[ANONYMOUS, ALICE]))
        assert [asked(principal) for principal in (b"\x04", ALICE.raw_bytes, b"bob", b"")] == [1, 1, 0, 0]
        assert "invalid principal id" in both.query(p().is_controller(bytes(30)))[2]


class TestTime:
    def test_one_time_for_one_entry(self, both):
        p = both.program
        for machine in both.machines:
            machine.subnet.set_time(2_000_000_000_000_000_000)
        spin = p().repeat(100, p().number(0).drop())
        first, second = numbers(both.query(p().append_number(p().time()).then(spin).reply_number(p().time())))
        assert first == second == 2_000_000_000_000_000_000

    def test_counter_of_this_entry_and_of_the_call_context(self, both):
        p = both.program
        counters = p().append_number(p().performance_counter(0)).append_number(p().performance_counter(1)).msg_reply()
        own, all_of_it = numbers(both.update(counters))
        assert own < all_of_it < 2 * own + 2_000
        own, all_of_it = numbers(both.update(p().call(both.id, "query", p().reply(), on_reply=counters)))
        assert all_of_it - own > both.machines[0].end(Context.UPDATE).instructions

    def test_what_counts_is_what_is_charged(self, both):
        p = both.program
        count = both.update(p().reply_number(p().performance_counter(0)))
        assert 0 < numbers(count)[0] < both.machines[1].end(Context.UPDATE).instructions

    def test_no_other_counter(self, both):
        assert "performance counter type" in both.query(both.program().performance_counter(2))[2]

    def test_timer_gives_back_what_it_was(self, both):
        p = both.program
        reply = both.update(p().append_number(p().global_timer_set(5)).reply_number(p().global_timer_set(0)))
        assert numbers(reply) == [0, 5]

    def test_version_grows(self, both):
        p = both.program
        seen = [numbers(both.update(p().reply_number(p().canister_version())))[0] for _ in range(3)]
        assert seen == sorted(set(seen))
        note = p().stable64_grow(1).drop().stable64_write(0, p().u64(p().canister_version()))
        both.do(lambda machine: machine.canister.upgrade(machine.wasm, bytes(note)))
        (after,) = numbers(both.query(p().reply(p().stable_read_span(0, 8))))
        assert after > seen[-1]

    def test_status(self, both):
        p = both.program
        assert numbers(both.query(p().reply_number(p().canister_status()))) == [1]
        note = p().stable64_grow(1).drop().stable64_write(0, p().u64(p().canister_status()))

        def upgrade_stopped(machine):
            machine.canister.stop()
            machine.canister.upgrade(machine.wasm, bytes(note))
            machine.canister.start()

        both.do(upgrade_stopped)
        assert numbers(both.query(p().reply(p().stable_read_span(0, 8)))) == [3]


class TestEnvironment:
    def test_sorted_names_and_values(self, both):
        p = both.program
        program = p().append_number(p().env_var_count())
        for index, name in enumerate([b"a", b"b"]):
            program.append(p().env_var_name(index)).append(p().env_var_value(name))
        assert both.query(program.msg_reply()) == number(2) + b"aeinsbzwei"

    def test_unknown(self, both):
        p = both.program
        exists = p().append_number(p().env_var_name_exists("b")).reply_number(p().env_var_name_exists("c"))
        assert numbers(both.query(exists)) == [1, 0]
        assert "Environment variable c not found" in both.query(p().env_var_value_size("c"))[2]
        assert both.query(p().env_var_name_size(2))[1] == "IC0504"
        assert both.query(p().env_var_name_exists(b"\xff"))[1] == "IC0504"
        assert both.query(p().env_var_name_exists(bytes(129)))[1] == "IC0504"


class TestCertification:
    def test_certificate_of_what_was_set(self, both):
        p, data = both.program, bytes(range(32))
        assert both.update(p().certified_data_set(data).reply()) == b""
        tell = p().append_number(p().data_certificate_present()).reply(p().data_certificate())
        for method in ("query", "composite_query"):
            reply = both.query(tell, method)
            assert reply[:8] == number(1)
            assert reply[8:11] == b"\xd9\xd9\xf7"  # CBOR, with the tag that says so
            assert data in reply
        assert both.update(p().reply_number(p().data_certificate_present())) == number(0)
        assert both.update(p().reply_number(p().data_certificate_present()), "query") == number(0)

    def test_a_trap_sets_nothing(self, both):
        p = both.program
        both.update(p().certified_data_set(b"first").reply())
        assert both.update(p().certified_data_set(b"second").trap("no"))[1] == "IC0503"
        certificate = both.query(p().reply(p().data_certificate()))
        assert b"first" in certificate
        assert b"second" not in certificate

    def test_at_most_32_bytes(self, both):
        assert "Found 33 bytes" in both.update(both.program().certified_data_set(bytes(33)))[2]

    @pytest.mark.parametrize("way", WAYS)
    def test_replicated_execution_by_context(self, machines, way):
        p = machines[0].program
        # A trap tells, as hardly any context can reply.
        ask = p().if_(p().in_replicated_execution(), p().trap("replicated"), p().trap("not replicated"))
        for machine in machines:
            expected = "replicated" if WAYS[way][0].value in REPLICATED else "not replicated"
            assert machine.run(way, ask).message == expected


class TestResponses:
    def test_parts_of_a_reply(self, both):
        p = both.program
        assert both.update(p().append("a").append("").append("b" * 5_000).msg_reply()) == b"a" + b"b" * 5_000

    def test_parts_without_a_reply_are_forgotten(self, both):
        p = both.program
        program = p().append("lost").call(both.id, "query", p().reply(), on_reply=p().reply("kept"))
        assert both.update(program) == b"kept"

    def test_reject_discards_the_parts(self, both):
        reject = both.update(both.program().append("lost").reject("no, grüezi"))
        assert reject[:3] == (4, "IC0406", "no, grüezi")

    def test_reject_text_is_unicode(self, both):
        assert both.update(both.program().reject(b"\xff"))[1] == "IC0504"

    @pytest.mark.parametrize("second", ["reply", "reject", "append"])
    def test_only_one(self, both, second):
        program = getattr(both.program().reply("first"), second)(b"second")
        assert "the call is already replied" in both.update(program)[2]

    def test_none_at_all(self, both):
        assert both.update(both.program())[:2] == (5, "IC0506")

    def test_too_large(self, both):
        p = both.program
        assert len(both.update(p().reply(p().fill(1, 2 << 20)))) == 2 << 20
        assert both.update(p().reply(p().fill(1, (2 << 20) + 1)))[1] == "IC0504"
        assert len(both.query(p().reply(p().fill(1, 3 << 20)))) == 3 << 20
        assert both.query(p().reply(p().fill(1, (3 << 20) + 1)))[1] == "IC0504"

    def test_reject_code_and_message(self, both):
        p = both.program
        tell = p().append_number(p().msg_reject_code()).reply(p().msg_reject_msg())
        assert both.update(p().call(both.id, "query", p().reject("no"), on_reject=tell)) == number(4) + b"no"
        nobody = both.update(p().call(b"nobody", "query", on_reject=tell))
        assert nobody[:8] == number(3)
        assert nobody[8:].startswith(b"No route to canister ")
        trapped = both.update(p().call(both.id, "query", p().trap("oh"), on_reject=tell))
        assert trapped[:8] == number(5)
        assert b"with message: 'oh'" in trapped
        fine = p().call(both.id, "query", p().reply(), on_reply=p().reply_number(p().msg_reject_code()))
        assert both.update(fine) == number(0)


class TestCycles:
    def test_accept(self, both):
        p = both.program
        accept = p().append(p().cycles_available()).append(p().cycles_accept(30)).append(p().cycles_accept(1 << 100))
        before = balance(both)
        reply = both.update(accept.append(p().cycles_available()).reply(), cycles=100)
        assert numbers(reply, 16) == [100, 30, 70, 0]
        assert balance(both) < before + 100

    def test_balance_moves_within_the_message(self, both):
        p = both.program
        program = p().append(p().balance()).append(p().cycles_accept(40)).append(p().balance())
        reply = both.update(program.append(p().cycles_burn(15)).append(p().balance()).msg_reply(), cycles=100)
        start, accepted, middle, burned, end = numbers(reply, 16)
        assert (accepted, burned) == (40, 15)
        assert (middle - start, end - middle) == (40, -15)

    def test_liquid_is_above_the_freezing_limit(self, both):
        p = both.program
        whole, liquid = numbers(both.query(p().append(p().balance()).append(p().liquid_balance()).msg_reply()), 16)
        assert 0 < liquid < whole
        burned, left = numbers(
            both.update(p().append(p().cycles_burn(1 << 120)).append(p().liquid_balance()).msg_reply()), 16
        )
        assert burned > 0
        assert left == 0

    def test_refund(self, both):
        p = both.program
        tell = p().reply(p().cycles_refunded())
        accept = p().cycles_accept(300).drop().drop().reply()
        reply = both.update(p().call(both.id, "update", accept, on_reply=tell, cycles=1_000))
        assert numbers(reply, 16) == [700]

    def test_more_than_there_is(self, both):
        p = both.program
        program = p().call_new(both.id, b"query", p().number(0).number(0), p().number(0).number(0))
        assert both.update(program.call_cycles_add128(1 << 62, 0))[1] == "IC0504"

    def test_64_bits(self, both, bits):
        if bits == 64:
            return
        p = both.program
        accept = p().append_number(p().msg_cycles_available()).append_number(p().msg_cycles_accept(30))
        assert numbers(both.update(accept.reply_number(p().msg_cycles_available()), cycles=100)) == [100, 30, 70]
        accepting = p().msg_cycles_accept(1).drop().reply()
        call = p().call(both.id, "update", accepting, on_reply=p().reply_number(p().msg_cycles_refunded()), cycles=9)
        assert numbers(both.update(call)) == [8]
        assert numbers(both.query(p().reply_number(p().canister_cycle_balance())))[0] == balance(both)

    def test_call_costs_what_it_says(self, both):
        p = both.program
        nothing = p().number(0).number(0)
        program = p().append(p().call_cost(len("query"), 11)).append(p().balance())
        program.call_new(both.id, b"query", nothing, nothing).call_data_append(b"hello world")
        program.call_perform().drop().append(p().balance()).msg_reply()
        cost, before, after = numbers(both.update(program), 16)
        assert before - after == cost > 0

    def test_creation_costs_what_it_says(self, both):
        p, attached = both.program, 3 * 10**12
        (cost,) = numbers(both.query(p().reply(p().create_canister_cost())), 16)
        empty_record = b"DIDL\x01\x6c\x00\x01\x00"
        reply = both.update(p().call(MANAGEMENT, "create_canister", empty_record, cycles=attached))
        new = Principal(reply[-10:])
        assert cost == 500_000_000_000
        assert both.do(lambda machine: machine.subnet.canister(new).status().cycles) == attached - cost

    def test_published_prices(self, both):
        p = both.program
        (outcall,) = numbers(both.query(p().reply(p().http_request_cost(10, 20))), 16)
        assert outcall == (3_000_000 + 60_000 * 13 + 400 * 10 + 800 * 20) * 13 == CYCLES_2026_08.http_request(10, 20)
        for name, known, bad in [("sign_with_ecdsa", 0, 2), ("sign_with_schnorr", 1, 2), ("vetkd_derive_key", 0, 1)]:
            cost = getattr(p(), f"{name}_cost")
            reply = both.query(p().reply(cost("key_1", known)))
            assert numbers(reply, 4)[-1] == 0
            assert int.from_bytes(reply[:16], "little") == 26_153_846_153
            assert both.query(p().reply(getattr(p(), f"{name}_cost")("key_1", bad)))[16:] == number(1, 4)
            assert both.query(p().reply(getattr(p(), f"{name}_cost")("key_9", known)))[16:] == number(2, 4)


class TestStableMemory:
    def test_grow_write_read(self, both):
        p = both.program
        program = p().append_number(p().stable64_grow(2)).append_number(p().stable64_size())
        program.stable64_write(65_530, b"across a page").append(p().stable_read_span(65_528, 17)).msg_reply()
        assert both.update(program) == number(0) + number(2) + b"\0\0across a page\0\0"
        assert both.query(p().reply(p().stable_read_span(65_530, 6))) == b"across"

    def test_grow_too_far(self, both):
        p = both.program
        assert numbers(both.update(p().reply_number(p().stable64_grow(1 << 40)))) == [(1 << 64) - 1]
        assert numbers(both.update(p().reply_number(p().stable64_grow((1 << 64) - 1)))) == [(1 << 64) - 1]

    @pytest.mark.parametrize(("offset", "size"), [(65_536, 1), (65_535, 2), ((1 << 64) - 1, 2), (0, 65_537)])
    def test_out_of_bounds(self, both, offset, size):
        p = both.program
        both.update(p().stable64_grow(1).drop().reply())
        assert both.query(p().stable64_read(0, offset, size))[1] == "IC0502"
        assert both.update(p().stable64_write(offset, p().span(0, size)))[1] == "IC0502"

    def test_32_bits(self, both, bits):
        if bits == 64:
            return
        p = both.program
        program = p().append_number(p().stable_grow(1)).append_number(p().stable_size()).stable_write(3, b"abc")
        program.set(0, p().alloc(3)).stable_read(p().get(0), 3, 3).append(p().span(p().get(0), 3)).msg_reply()
        assert both.update(program) == number(0) + number(1) + b"abc"
        assert numbers(both.update(p().reply_number(p().stable_grow(65_536))))[0] & 0xFFFF_FFFF == 0xFFFF_FFFF
        reject = both.update(p().stable64_grow(65_536).drop().stable_size())
        assert "32 bit stable memory api used on a memory larger than 4GB" in reject[2]

    def test_a_trap_and_a_query_change_nothing(self, both):
        p = both.program
        both.update(p().stable64_grow(1).drop().stable64_write(0, b"kept").reply())
        both.update(p().stable64_grow(1).drop().stable64_write(0, b"lost").trap("no"))
        both.query(p().stable64_grow(1).drop().stable64_write(0, b"lost").reply())
        assert both.query(p().append(p().stable_read_span(0, 4)).reply_number(p().stable64_size())) == b"kept" + number(
            1
        )


class TestCalls:
    def test_argument_in_parts(self, both):
        p = both.program
        code = bytes(p().reply("put together"))
        on_reply = p().callback(p().reply(p().msg_arg_data()))
        program = p().call_new(both.id, "query", on_reply, on_reply)
        program.call_data_append(code[:5]).call_data_append(code[5:]).call_perform()
        assert both.update(program.drop()) == b"put together"

    def test_a_new_call_drops_the_one_begun(self, both):
        p = both.program
        program = p().call_new(b"nobody", "lost", p().number(0).number(0), p().number(0).number(0))
        program.call_cycles_add128(0, 500).append(p().balance())
        assert both.update(program.call(both.id, "query", p().reply("second"))) == b"second"

    @pytest.mark.parametrize("name", ["call_perform", "call_on_cleanup", "call_data_append"])
    def test_nothing_begun(self, both, name):
        program = both.program()._function(name, *(0,) * (0 if name == "call_perform" else 2))
        assert "no call is under construction" in both.update(program)[2]

    def test_cleanup_runs_on_the_state_before_the_callback(self, both):
        p = both.program
        callback = p().set(1, 7).trap("undone")
        cleanup = p().set(2, p().add(p().get(1), 100))
        program = p().set(1, 1).call(both.id, "query", p().reply(), on_reply=callback, on_cleanup=cleanup)
        assert both.update(program)[1] == "IC0503"
        assert numbers(both.query(p().append_number(p().get(1)).reply_number(p().get(2)))) == [1, 101]

    def test_a_trap_in_cleanup_undoes_it_too(self, both):
        p = both.program
        cleanup = p().set(2, 9).trap("second")
        reject = both.update(p().call(both.id, "query", p().reply(), on_reply=p().trap("first"), on_cleanup=cleanup))
        trapped = "Canister called `ic0.trap` with message: "
        assert reject[2].endswith(f"{trapped}'first'\n\ncall_on_cleanup also failed:\n\n{trapped}'second'")
        assert numbers(both.query(p().reply_number(p().get(2)))) == [0]

    def test_only_one_cleanup(self, both):
        p = both.program
        nothing = p().number(0).number(0)
        program = p().call_new(both.id, "query", nothing, nothing)
        assert both.update(program.call_on_cleanup(nothing).call_on_cleanup(nothing))[1] == "IC0504"

    def test_install_code_is_refused_without_its_code(self, both):
        p = both.program
        arg = b"no Candid"
        tell = p().reply(p().msg_reject_msg())
        assert not both.update(p().call(MANAGEMENT, "install_code", arg, on_reject=tell)).startswith(b"IC0")
        assert both.update(p().call(MANAGEMENT, "start_canister", arg, on_reject=tell)).startswith(b"IC0")

    @pytest.mark.parametrize("how", ["index", "type"])
    def test_callback_that_is_none(self, both, how):
        p = both.program
        callback = p().number(1 << 20).number(0) if how == "index" else p().mistyped().number(0)
        program = p().call_new(both.id, "query", callback, callback).call_data_append(bytes(p().reply()))
        assert both.update(program.call_perform().drop())[0] == 5

    def test_deadline(self, both):
        p = both.program
        tell = p().append_number(p().time()).reply_number(p().msg_deadline())
        assert numbers(both.update(p().call(both.id, "query", tell)))[1] == 0
        for timeout, expected in [(20, 20), (1_000, 300)]:
            now, deadline = numbers(both.update(p().call(both.id, "query", tell, timeout_seconds=timeout)))
            assert abs(deadline - now - expected * 10**9) <= 10

    def test_a_wait_that_ends(self, both):
        p = both.program
        again = p().load(0).run(both.machines[0].universal.STACK)
        forever = p().call(both.id, "query", p().reply(), on_reply=again)
        tell = p().append_number(p().msg_reject_code()).reply(p().msg_reject_msg())
        program = p().save(0, bytes(forever)).call(both.id, "update", again, on_reject=tell, timeout_seconds=10)

        def run(machine):
            state = machine.subnet._state
            request = submit_ingress(machine.subnet._world, machine.id, "update", bytes(program), b"\x04", 0)
            for _ in range(5):
                machine.subnet.tick()
            assert state.ingress.find(request, 0) is None
            machine.subnet.advance_time(11 * 10**9)
            for _ in range(5):
                machine.subnet.tick()
            return state.ingress.find(request, 0).data

        reply = both.do(run)
        assert reply == number(6) + b"Call deadline has expired."


class TestInspection:
    def test_name_argument_and_caller(self, both):
        p = both.program
        named = p().equal(p().msg_method_name(), "update")
        known = p().equal(p().msg_caller(), ALICE.raw_bytes)
        accept = p().if_(named, p().if_(known, p().accept_message()))
        for machine in both.machines:
            machine.hook("INSPECT_MESSAGE", accept)
        program = p().reply("in")
        assert both.update(program, sender=ALICE) == b"in"
        assert both.update(program)[1] == "IC0406"
        assert both.update(program, "query", sender=ALICE)[1] == "IC0406"
        assert both.query(program) == b"in"

    def test_accepting_twice(self, both):
        for machine in both.machines:
            machine.hook("INSPECT_MESSAGE", both.program().accept_message().accept_message())
        assert both.update(both.program().reply())[1] == "IC0504"


class TestTexts:
    def test_trap_text_is_cut(self, both):
        message = both.update(both.program().trap(both.program().fill(ord("#"), 40_000)))[2]
        assert "'" + "#" * 16_384 + "'" in message

    def test_trap_text_of_any_bytes(self, both):
        assert "with message: 'a\N{REPLACEMENT CHARACTER}b'" in both.update(both.program().trap(b"a\xffb"))[2]

    def test_trap_text_beyond_the_heap(self, both):
        p = both.program
        reject = both.update(p().trap(p().span(1 << 31, 5)))
        assert reject[1] == "IC0503"
        assert "'(trap message out of memory bounds)'" in reject[2]

    def test_prints_never_trap(self, both):
        p = both.program
        program = p().debug_print("seen").debug_print(b"\xff\xfe").debug_print("")
        for address, size in [(1 << 31, 5), ((1 << 31) - 1, (1 << 31) - 1)]:
            program.debug_print(p().span(address, size))
        assert both.update(program.reply("done")) == b"done"
        logs = both.do(lambda machine: [record.content for record in machine.canister.logs()])
        assert logs == [b"seen", b"\xff\xfe", b"", *[b"(debug_print message out of memory bounds)"] * 2]

    def test_a_trap_is_logged(self, both):
        both.update(both.program().debug_print("before").trap("after"))
        logs = both.do(lambda machine: [record.content for record in machine.canister.logs()])
        assert logs[0] == b"before"
        assert logs[1].splitlines()[0] == b"[TRAP]: after"


def test_ingress_for_a_canister_without_code(both):
    both.do(lambda machine: machine.canister.uninstall())
    assert both.update(b"")[:3] == (5, "IC0537", "Requested canister has no wasm module")
