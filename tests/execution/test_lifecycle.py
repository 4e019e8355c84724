"""Install, reinstall, upgrade, uninstall, start, stop, delete: what each keeps; a failed one changes nothing."""

from __future__ import annotations

import pytest

from perdure.canister import CanisterStatus, MemoryKind, Reject, Reply
from perdure.execution import (
    FromUser,
    InstallMode,
    InstallOptions,
    Settings,
    add_canister,
    delete_canister,
    execute_ingress,
    install_code,
    round_,
    run_until_idle,
    start_canister,
    stop_canister,
    submit_ingress,
    uninstall_code,
)
from perdure.execution.ingress import drawn_id
from perdure.execution.state import FIRST_CANISTER_INDEX
from perdure.ic.principal import Principal

PERSISTENCE = {"icp:private enhanced-orthogonal-persistence": b""}


def write(byte, stable=True):
    def method(api, instance, environment=0):
        memory = instance.stable if stable else instance.heap
        if memory.size() == 0:
            memory.grow(1)
        memory.data[0] = byte

    return method


def trap(api, instance):
    raise api.trap(b"no")


def contents(canister):
    heap, stable = canister.instance.heap, canister.instance.stable
    return heap.data[0] if heap.size() else None, stable.data[0] if stable.size() else None


@pytest.fixture
def full(world):
    """A canister with something in both memories, certified data and a timer."""

    def init(api, instance):
        write(1)(api, instance)
        write(2, stable=False)(api, instance)
        api.certified_data_set(b"certified")
        api.global_timer_set(1 << 62)
        api.debug_print(b"init")

    return world.install({"canister_init": init, "canister_pre_upgrade": write(3)})


class TestInstall:
    def test_init_gets_argument_and_caller(self, world):
        seen = []
        canister = world.install(
            {"canister_init": lambda api, instance: seen.append((api.msg_arg_data(), api.msg_caller()))}, arg=b"a"
        )
        assert world.answer == Reply(b"")
        assert seen == [(b"a", b"owner")]
        assert canister.facts.version == 1
        assert [change.details[0] for change in canister.history] == ["creation", "code_deployment"]
        assert world.balanced()

    def test_start_runs_first_and_knows_nothing(self, world):
        order = []

        def start(api, instance):
            order.append("start")
            with pytest.raises(Exception, match="in start mode"):
                api.time()

        world.install({"canister_start": start, "canister_init": lambda *_: order.append("init")})
        assert order == ["start", "init"]

    @pytest.mark.parametrize("hook", ["canister_init", "canister_start"])
    def test_a_trap_leaves_the_canister_empty(self, world, hook):
        canister = world.install({hook: trap})
        assert world.answer.error_code == "IC0503"
        assert canister.module is None
        assert canister.instance is None
        assert canister.facts.version == 0
        assert world.balanced()

    def test_only_over_nothing(self, world, full):
        world.install({}, canister=full)
        assert world.answer.error_code == "IC0514"

    def test_invalid_module(self, world):
        from perdure.errors import MalformedError

        def compile_(wasm):
            raise MalformedError("bad magic b'x', expected b'\\x00asm'", 0)

        world.host.compile = compile_
        answer = install_code(world.rules, world.create(), InstallOptions(), b"x", b"", b"owner")
        assert answer.error_code == "IC0505"
        assert "Canister's Wasm module is not valid: bad magic" in answer.message

    def test_too_large(self, world):
        answer = install_code(world.rules, world.create(), InstallOptions(), bytes((100 << 20) + 1), b"", b"owner")
        assert answer.error_code == "IC0505"

    def test_needs_cycles_for_the_longest_install(self, world):
        world.install({}, cycles=1_000_000_000)
        assert world.answer.error_code == "IC0207"


class TestUpgrade:
    def test_default_keeps_stable_memory_and_certified_data(self, world, full):
        seen = []

        def post(api, instance):
            seen.append((contents_of(instance), api.msg_arg_data(), api.canister_version()))

        def contents_of(instance):
            return instance.heap.size(), instance.stable.data[0]

        version = full.facts.version
        world.install({"canister_post_upgrade": post}, canister=full, mode="upgrade", arg=b"new")
        assert world.answer == Reply(b"")
        assert seen == [((0, 3), b"new", version + 1)]
        assert contents(full) == (None, 3)
        assert full.certified_data == b"certified"
        assert full.global_timer_ns == 0
        assert full.facts.version == version + 1
        assert (full.heap_wasm_pages, full.stable_wasm_pages) == (0, 1)
        assert len(full.log.records) == 1

    def test_skip_pre_upgrade(self, world, full):
        world.install({}, canister=full, mode="upgrade", skip_pre_upgrade=True)
        assert contents(full) == (None, 1)

    def test_pre_upgrade_sees_the_old_version(self, world):
        versions = []
        canister = world.install(
            {"canister_pre_upgrade": lambda api, instance: versions.append(api.canister_version())}
        )
        world.install({}, canister=canister, mode="upgrade")
        assert versions == [1]

    def test_keep(self, world, full, fakes):
        new = fakes.Module({}, custom_sections=PERSISTENCE)
        world.install(new, canister=full, mode="upgrade", wasm_memory_persistence="keep")
        assert contents(full) == (2, 3)
        assert full.heap_wasm_pages == 1

    def test_guards(self, world, full, fakes):
        world.install({}, canister=full, mode="upgrade", wasm_memory_persistence="keep")
        assert world.answer.error_code == "IC0504"
        assert (
            "Invalid upgrade option: The `wasm_memory_persistence: opt Keep` upgrade option requires that the new "
            "canister module supports enhanced orthogonal persistence." in world.answer.message
        )
        persistent = world.install(fakes.Module({}, custom_sections=PERSISTENCE, name="eop"))
        world.install({}, canister=persistent, mode="upgrade")
        assert world.answer.error_code == "IC0504"
        assert (
            "Missing upgrade option: Enhanced orthogonal persistence requires the `wasm_memory_persistence` upgrade "
            "option." in world.answer.message
        )
        world.install({}, canister=persistent, mode="upgrade", wasm_memory_persistence="replace")
        assert world.answer == Reply(b"")

    @pytest.mark.parametrize("hook", ["canister_start", "canister_post_upgrade"])
    def test_a_trap_undoes_everything(self, world, full, hook):
        before = contents(full), full.certified_data, full.global_timer_ns, full.facts.version, full.module

        def spoil(api, instance):
            write(9)(api, instance)
            raise api.trap(b"no")

        world.install({hook: spoil}, canister=full, mode="upgrade")
        assert isinstance(world.answer, Reject)
        assert (contents(full), full.certified_data, full.global_timer_ns, full.facts.version, full.module) == before
        assert [record.content for record in full.log.records] == [b"init", b"[TRAP]: no"]
        assert execute_ingress(world.rules, full.canister_id, "none", b"").error_code == "IC0536"
        assert world.balanced()

    def test_pre_upgrade_that_traps(self, world):
        canister = world.install({"canister_pre_upgrade": trap, "canister_init": write(1)})
        old = canister.module
        world.install({}, canister=canister, mode="upgrade")
        assert world.answer.error_code == "IC0503"
        assert canister.module is old
        assert contents(canister) == (None, 1)

    def test_nothing_to_upgrade(self, world):
        canister = world.create()
        world.install({}, canister=canister, mode="upgrade")
        assert world.answer.error_code == "IC0537"

    def test_certified_data_set_by_hooks(self, world):
        canister = world.install({"canister_pre_upgrade": lambda api, instance: api.certified_data_set(b"pre")})
        world.install({}, canister=canister, mode="upgrade")
        assert canister.certified_data == b"pre"


class TestReinstallAndUninstall:
    def test_reinstall_wipes(self, world, full):
        assert (full.heap_wasm_pages, full.stable_wasm_pages) == (1, 1)
        world.install({}, canister=full, mode="reinstall")
        assert contents(full) == (None, None)
        assert (full.heap_wasm_pages, full.stable_wasm_pages) == (0, 0)
        assert (full.certified_data, full.global_timer_ns) == (b"", 0)
        assert not full.log.records
        assert full.log.next_index == 1

    def test_a_reinstall_that_traps(self, world, full):
        before = contents(full)
        world.install({"canister_init": trap}, canister=full, mode="reinstall")
        assert isinstance(world.answer, Reject)
        assert contents(full) == before
        assert full.certified_data == b"certified"

    def test_uninstall(self, world, full):
        full.chunk_store[b"hash"] = b"chunk"
        uninstall_code(world.rules, full)
        assert full.module is None
        assert (full.certified_data, full.global_timer_ns, full.chunk_store) == (b"", 0, {})
        assert execute_ingress(world.rules, full.canister_id, "f", b"").error_code == "IC0537"
        assert full.history[-1].details[0] == "code_uninstall"


class TestStopping:
    def stop(self, world, canister, request_id=b"99"):
        stop_canister(world.rules, canister, FromUser(request_id), 0)
        return world.subnet.ingress.find(request_id, 0)

    def test_at_once(self, world, full):
        assert self.stop(world, full) == Reply(b"DIDL\0\0")
        assert full.facts.status is CanisterStatus.STOPPED
        assert self.stop(world, full, 100) == Reply(b"DIDL\0\0")
        start_canister(world.rules, full)
        assert full.facts.status is CanisterStatus.RUNNING

    @pytest.fixture
    def waiting(self, world, fakes):
        """A canister with a call open, whose callee has not run yet."""
        callee = world.install({"canister_update f": fakes.reply_with(b"late")})

        def start(api, instance):
            fakes.call(api, callee.canister_id, "f")

        caller = world.install({"canister_update start": start}, [fakes.on_reply])
        submit_ingress(world.rules, caller.canister_id, "start", b"")
        round_(world.rules)
        return caller

    def test_waits_for_open_calls(self, world, waiting):
        assert self.stop(world, waiting) is None
        assert waiting.facts.status is CanisterStatus.STOPPING
        assert execute_ingress(world.rules, waiting.canister_id, "start", b"").error_code == "IC0509"
        run_until_idle(world.rules)
        assert waiting.facts.status is CanisterStatus.STOPPED
        assert world.subnet.ingress.find(b"99", 0) == Reply(b"DIDL\0\0")
        assert world.subnet.ingress.find(drawn_id(1), 0) == Reply(b"reply:late")

    def test_start_cancels(self, world, waiting):
        self.stop(world, waiting)
        start_canister(world.rules, waiting)
        assert world.subnet.ingress.find(b"99", 0).error_code == "IC0511"
        run_until_idle(world.rules)
        assert waiting.facts.status is CanisterStatus.RUNNING

    def test_times_out(self, world, fakes, waiting):
        del world.subnet.canisters[next(iter(world.subnet.canisters))].inputs[0]  # the callee never answers
        self.stop(world, waiting)
        world.subnet.time_ns += 301_000_000_000
        round_(world.rules)
        assert world.subnet.ingress.find(b"99", 0).error_code == "IC0206"
        assert waiting.facts.status is CanisterStatus.STOPPING

    def test_delete(self, world, full):
        assert delete_canister(world.rules, full).error_code == "IC0510"
        self.stop(world, full)
        assert delete_canister(world.rules, full) is None
        assert full.canister_id not in world.subnet.canisters
        assert world.balanced()


def test_ids_are_given_out_in_order(world):
    taken = Principal.from_index(FIRST_CANISTER_INDEX + 1).raw_bytes
    add_canister(world.rules, Settings(), 0, canister_id=taken)
    found = [Principal(add_canister(world.rules, Settings(), 0).canister_id) for _ in range(2)]
    assert [str(one) for one in found] == ["lxzze-o7777-77777-aaaaa-cai", "lz3um-vp777-77777-aaaba-cai"]
    with pytest.raises(ValueError, match="exists already"):
        add_canister(world.rules, Settings(), 0, canister_id=taken)


def test_ids_begin_anew_behind_the_last_one(world):
    world.subnet.next_canister_index = (1 << 64) - 1 - FIRST_CANISTER_INDEX
    found = [Principal(add_canister(world.rules, Settings(), 0).canister_id) for _ in range(2)]
    assert found == [Principal.from_index((1 << 64) - 1), Principal.from_index(0)]


def test_install_modes_are_candids_names():
    assert [mode.value for mode in InstallMode] == ["install", "reinstall", "upgrade"]


class TestNamedMemories:
    """Which memories of its own a canister takes along into other code."""

    KINDS = (MemoryKind("users", "stable", 64), MemoryKind("scratch", "heap", 64))

    @pytest.fixture
    def written(self, world, fakes):
        def init(api, instance):
            for name in ("heap", "users", "scratch"):
                instance.memories[name].grow(1)
                instance.memories[name].write(0, b"x")

        return world.install(fakes.Module({"canister_init": init}, memories=self.KINDS))

    def install(self, world, fakes, canister, memories, mode="upgrade", name="next", **options):
        module = fakes.Module({}, memories=memories, custom_sections=PERSISTENCE, name=name)
        world.install(module, canister=canister, mode=mode, **options)
        assert world.answer == Reply(b"")
        return {name for name, memory in canister.instance.memories.items() if memory.size()}

    def test_an_upgrade_keeps_what_is_stable(self, world, fakes, written):
        assert self.install(world, fakes, written, self.KINDS) == {"users"}

    def test_keeping_the_heap_keeps_what_lives_as_long(self, world, fakes, written):
        kept = self.install(world, fakes, written, self.KINDS, wasm_memory_persistence="keep")
        assert kept == {"heap", "users", "scratch"}

    def test_a_reinstallation_keeps_nothing(self, world, fakes, written):
        assert self.install(world, fakes, written, self.KINDS, "reinstall") == set()

    def test_what_is_stable_waits_for_code_that_names_it_again(self, world, fakes, written):
        assert self.install(world, fakes, written, (), wasm_memory_persistence="keep") == {"heap", "users"}
        assert self.install(world, fakes, written, (), wasm_memory_persistence="replace") == {"users"}
        others = (*self.KINDS[:1], MemoryKind("orders", "stable", 64))
        assert self.install(world, fakes, written, others, wasm_memory_persistence="replace") == {"users"}
        assert [*written.instance.memories] == ["heap", "stable", "users", "scratch", "orders"]
        assert self.install(world, fakes, written, (), "reinstall") == set()
