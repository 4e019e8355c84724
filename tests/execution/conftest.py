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
)
from perdure.execution import InstallMode, InstallOptions, Settings, SubnetState, add_canister, install_code
from perdure.execution import World as RulesWorld
from perdure.memory import BytesMemory
from perdure.system_api import CanisterTrap, SystemApi

ANONYMOUS = b"\x04"
OWNER = b"owner"


class FakeInstance:
    """Runs functions `f(api, instance)`; `state` is a dictionary that stands for the heap's content."""

    def __init__(self, module, heap=None, stable=None, global_values=()):
        self.module = module
        self.heap = heap or BytesMemory()
        self.stable = stable or BytesMemory()
        self.global_values = global_values
        self.committed = self.copy()
        self.closed = False

    def copy(self):
        return bytes(self.heap.data), bytes(self.stable.data)

    def set(self, saved):
        self.heap.data[:], self.stable.data[:] = saved

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

    def changes(self):
        heap, stable = self.copy()
        return StateDelta(
            PageDelta(self.heap.size(), [(0, heap)]) if heap != self.committed[0] else None,
            PageDelta(self.stable.size(), [(0, stable)]) if stable != self.committed[1] else None,
            None,
        )

    def commit(self):
        delta = self.changes()
        self.committed = self.copy()
        return delta

    def roll_back(self):
        self.set(self.committed)

    def save(self):
        heap, stable = self.copy()
        return StateDelta(PageDelta(0, [(0, heap)]), PageDelta(0, [(0, stable)]), None)

    def restore(self, saved):
        self.set((saved.heap.runs[0][1], saved.stable.runs[0][1]))

    def successor(self, module, *, keep_heap, keep_stable):
        heap = BytesMemory(self.heap.data if keep_heap else b"")
        stable = BytesMemory(self.stable.data if keep_stable else b"")
        new = FakeInstance(module, heap, stable)

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

    def __init__(self, methods, table=(), custom_sections=None, name="fake"):
        self.methods = dict(methods)
        self.table = list(table)
        self.custom_sections = custom_sections or {}
        self.wasm = b"\0asm" + name.encode()
        self.module_hash = hashlib.sha256(self.wasm).digest()
        self.exported_methods = frozenset(self.methods)
        self.is_64 = False

    def instantiate(self, state):
        if state.heap is None:
            return FakeInstance(self)
        return FakeInstance(self, state.heap, state.stable, state.global_values or ())


class FakeHost:
    """Compiles names of modules; keeps snapshots as copies."""

    def __init__(self):
        self.modules = {}
        self.commits = []

    def add(self, module):
        self.modules[module.wasm] = module
        return module.wasm

    def compile(self, wasm):
        return self.modules[wasm]

    def new_memories(self, canister_id):
        return WasmState(None, None)

    def committed(self, canister_id, delta):
        self.commits.append(canister_id)

    def executed(self, state, message):
        pass

    def discarded(self, canister_id):
        pass

    def take_snapshot(self, canister_id, instance):
        return SimpleNamespace(heap=BytesMemory(instance.heap.data), stable=BytesMemory(instance.stable.data))

    def new_snapshot(self, canister_id, heap_bytes, stable_bytes):
        return SimpleNamespace(heap=BytesMemory(bytes(heap_bytes)), stable=BytesMemory(bytes(stable_bytes)))

    def load_snapshot(self, canister_id, content, global_values):
        assert all(isinstance(value, GlobalValue) for value in global_values)
        return WasmState(BytesMemory(content.heap.data), BytesMemory(content.stable.data), global_values)


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
        self.answer = install_code(self.rules, canister, options, self.host.add(module), arg, OWNER)
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
