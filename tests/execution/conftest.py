"""Canisters written in Python over the hinge's protocols, and a host that keeps everything in memory."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest

from perdure.canister import (
    Callback,
    GlobalValue,
    Method,
    PageDelta,
    StateDelta,
    Trap,
    TrapCode,
    WasmState,
    memory_kinds,
)
from perdure.execution import InstallMode, InstallOptions, Settings, SubnetState, add_canister, install_code
from perdure.execution import World as RulesWorld
from perdure.memory import BytesMemory
from perdure.system_api import CanisterTrap, SystemApi

ANONYMOUS = b"\x04"
OWNER = b"owner"


class FakeInstance:
    """Runs functions `f(api, instance)`; `state` is a dictionary that stands for the heap's content."""

    def __init__(self, module, memories, global_values=()):
        self.module = module
        self.memories = memories
        self.heap, self.stable = memories["heap"], memories["stable"]
        self.global_values = global_values
        self.committed = self.copy()
        self.closed = False

    def copy(self):
        return {name: bytes(memory.data) for name, memory in self.memories.items()}

    def set(self, saved):
        for name, data in saved.items():
            self.memories[name].data[:] = data

    def run(self, entry_point, env):
        api = SystemApi(env)
        try:
            if isinstance(entry_point, Method):
                function = self.module.methods.get(entry_point.export_name)
                if function is None:
                    return Trap(TrapCode.METHOD_NOT_FOUND)
                function(api, self)
            else:
                if entry_point.table_index >= len(self.module.table):
                    return Trap(TrapCode.TABLE_OUT_OF_BOUNDS)
                self.module.table[entry_point.table_index](api, self, entry_point.environment)
        except CanisterTrap as trap:
            return api.fail(trap, instructions=1_000)
        result = api.finish()
        result.instructions = 1_000
        result.heap_wasm_pages, result.stable_wasm_pages = self.heap.size(), self.stable.size()
        return result

    @property
    def is_dirty(self):
        return self.copy() != self.committed

    def changes(self):
        changed = {name: data for name, data in self.copy().items() if data != self.committed[name]}
        return StateDelta({name: PageDelta(len(data) >> 16, [(0, data)]) for name, data in changed.items()})

    def commit(self):
        delta = self.changes()
        self.committed = self.copy()
        return delta

    def roll_back(self):
        self.set(self.committed)

    def save(self):
        return StateDelta({name: PageDelta(0, [(0, data)]) for name, data in self.copy().items()})

    def restore(self, saved):
        self.set({name: delta.runs[0][1] for name, delta in saved.memories.items()})

    def successor(self, module, *, keep, added):
        kept = {name: BytesMemory(one.data if name in keep else b"") for name, one in self.memories.items()}
        new = FakeInstance(module, {**kept, **added})

        def roll_back():
            self.roll_back()

        new.roll_back = roll_back
        original_commit = new.commit

        def commit():
            del new.roll_back, new.commit
            return original_commit()

        new.commit = commit
        return new

    def close(self):
        self.closed = True


class FakeModule:
    """A module of Python functions by export name; `table` has the callbacks, called with their environment too."""

    def __init__(self, methods, table=(), custom_sections=None, name="fake", memories=()):
        self.methods = dict(methods)
        self.table = list(table)
        self.custom_sections = custom_sections or {}
        self.wasm = b"\0asm" + name.encode()
        self.module_hash = hashlib.sha256(self.wasm).digest()
        self.exported_methods = frozenset(self.methods)
        self.is_64 = False
        self.operators = 0
        self.memories = memory_kinds(memories)
        self.global_types = ()
        self.name, self.schema, self.absent = "", b"", ""

    def instantiate(self, state):
        return FakeInstance(self, state.memories, state.global_values or ())


def copies(memories):
    return {name: BytesMemory(memory.data) for name, memory in memories.items()}


class FakeHost:
    """Compiles names of modules; keeps snapshots as copies."""

    extensions = ()

    def __init__(self):
        self.modules = {}
        self.commits = []
        self.said = []

    def add(self, module):
        self.modules[module.wasm] = module
        return module.wasm

    def compile(self, wasm):
        return self.modules[wasm]

    def new_memories(self, canister_id, names):
        return WasmState(self.add_memories(canister_id, names))

    def add_memories(self, canister_id, names):
        return {name: BytesMemory() for name in names}

    def keep(self, state, journal, *message):
        pass

    def was_kept(self, journal):
        return False

    def apply(self, state, journal):
        for canister_id, instance in journal.commits.items():
            instance.commit()
            self.commits.append(canister_id)

    def undone(self, journal):
        pass

    def pause(self):
        pass

    def say_once(self, words):
        self.said.append(words)

    def discard(self, canister_id, instance):
        instance.close()

    def take_snapshot(self, canister_id, instance):
        return SimpleNamespace(memories=copies(instance.memories))

    def new_snapshot(self, canister_id, sizes_bytes):
        return SimpleNamespace(memories={name: BytesMemory(bytes(size)) for name, size in sizes_bytes.items()})

    def load_snapshot(self, canister_id, content, global_values, names):
        assert all(isinstance(value, GlobalValue) for value in global_values)
        return WasmState({**self.add_memories(canister_id, names), **copies(content.memories)}, global_values)


class World:
    """A subnet over a fake host, and the shortest way to put canisters into it."""

    FUND = 1_000_000_000_000_000

    def __init__(self, **state):
        self.host = FakeHost()
        wiring = {name: state.pop(name) for name in ("config", "costs") if name in state}
        self.rules = RulesWorld(SubnetState(subnet_id=b"subnet", **state), self.host, **wiring)

    @property
    def subnet(self):
        return self.rules.state

    def create(self, cycles=FUND, **settings):
        self.subnet.minted_cycles += cycles
        return add_canister(self.rules, Settings(controllers=(OWNER,), **settings), cycles)

    def install(self, methods, table=(), *, canister=None, mode="install", cycles=FUND, arg=b"", **options):
        module = methods if isinstance(methods, FakeModule) else FakeModule(methods, table, name=str(id(methods)))
        canister = canister or self.create(cycles)
        options = InstallOptions(InstallMode(mode), **options)
        self.rules.begin()
        self.answer = install_code(self.rules, canister, options, self.host.add(module), arg, OWNER)
        self.rules.finish()
        return canister

    def balanced(self):
        subnet = self.subnet
        return subnet.minted_cycles == subnet.total_cycles() + subnet.consumed_cycles + subnet.lost_cycles


def reply_with(data):
    """A method that replies with `data`, or with what `data(api, instance)` gives."""

    def method(api, instance, environment=0):
        api.msg_reply_data_append(data(api, instance) if callable(data) else data)
        api.msg_reply()

    return method


def call(api, callee, method, arg=b"", *, on_reply=0, on_reject=1, cleanup=None, cycles=0, timeout=None):
    api.call_new(callee, method.encode(), Callback(on_reply, 0), Callback(on_reject, 0))
    api.call_data_append(arg)
    if cleanup is not None:
        api.call_on_cleanup(Callback(cleanup, 0))
    if timeout is not None:
        api.call_with_best_effort_response(timeout)
    if cycles:
        api.call_cycles_add(cycles)
    return api.call_perform()


def on_reply(api, instance, environment=0):
    api.msg_reply_data_append(b"reply:" + api.msg_arg_data())
    api.msg_reply()


def on_reject(api, instance, environment=0):
    api.msg_reply_data_append(b"reject:%d:" % api.msg_reject_code() + api.msg_reject_msg())
    api.msg_reply()


@pytest.fixture
def world():
    return World()


@pytest.fixture
def fakes():
    """Everything of this file, for tests that need more than a world."""
    return SimpleNamespace(
        Module=FakeModule, World=World, reply_with=reply_with, call=call, on_reply=on_reply, on_reject=on_reject
    )
