"""A universal canister, the ways into each of its contexts, and what every entry came to."""

from __future__ import annotations

from perdure.canister import Context, Env, Limits, Method, Reply
from perdure.errors import RejectError
from perdure.execution import CallMessage, FromUser
from perdure.execution.events import Ended, Trapped
from perdure.execution.execute import execute_call
from perdure.instrument import Options

NATIVE = Options()
HOST_CALLS = Options(native_stable=False, native_messages=False)


class Machine:
    """Drives one canister; `events` are those of what was last done, `stream` has those since."""

    def __init__(self, subnet, canister_id, answering_id, universal, wasm, stream):
        self.subnet, self.universal, self.wasm = subnet, universal, wasm
        self.canister = subnet.canister(canister_id)
        self.id = canister_id.raw_bytes
        self.answering_id = answering_id.raw_bytes
        self.stream, self.events = stream, []
        self.error = None

    def look(self):
        """Have in `events` what has happened since the last look."""
        self.events = list(self.stream)

    def end(self, context):
        """What the first entry in a context came to."""
        ends = (event for event in self.events if isinstance(event, Ended | Trapped))
        return next(end for end in ends if end.context is context)

    def left(self):
        """What entries have left behind, memories apart."""
        state = self.canister._state
        return state.cycles, state.certified_data, state.global_timer_ns, state.open_calls, self.canister.logs()

    def program(self):
        return self.universal.Program()

    def update(self, program, method="update", **options):
        return self.canister.update(method, bytes(program), **options)

    def query(self, program, method="query", **options):
        return self.canister.query(method, bytes(program), **options)

    def run(self, way, program):
        """Run a program in the context that `way` leads to; what its entry came to."""
        self.look()
        self.error = None
        context, enter = WAYS[way]
        try:
            enter(self, program)
        except RejectError as error:
            self.error = error
        self.look()
        return self.end(context)

    def hook(self, name, program):
        """Set a hook, past the inspection that an earlier one may refuse."""
        state = self.subnet._state
        code = bytes(self.program().hook(self.universal.Hook[name], program).reply())
        call = CallMessage(FromUser(b"hook"), b"\x04", self.id, "update", code)
        execute_call(self.subnet._world, state.canisters[self.id], call)
        self.subnet._world.finish()
        assert isinstance(state.ingress.find(b"hook", 0), Reply)
        self.look()

    def call(self, *, rejected=False, **callbacks):
        """A program that calls a query which replies or rejects: of another canister, as composite queries must."""
        method = "reject" if rejected else "reply"
        return self.program().call(self.answering_id, method, self.program(), **callbacks)

    def trapping(self):
        return self.program().trap("clean up")


def _init(machine, program):
    machine.canister.reinstall(machine.wasm, bytes(program))


def _post_upgrade(machine, program):
    machine.canister.upgrade(machine.wasm, bytes(program))


def _pre_upgrade(machine, program):
    machine.hook("PRE_UPGRADE", program)
    machine.canister.upgrade(machine.wasm)


def _inspect_message(machine, program):
    machine.hook("INSPECT_MESSAGE", program)
    machine.update(b"")


def _heartbeat(machine, program):
    machine.hook("HEARTBEAT", program)
    machine.subnet.tick()


def _global_timer(machine, program):
    machine.hook("GLOBAL_TIMER", program)
    machine.hook("HEARTBEAT", machine.program())
    machine.update(machine.program().global_timer_set(1).drop().reply())
    machine.look()
    machine.subnet.tick()


def _on_low_wasm_memory(machine, program):
    machine.hook("ON_LOW_WASM_MEMORY", program)
    limit = 1 << 30
    machine.canister.update_settings(wasm_memory_limit=limit, wasm_memory_threshold=0)
    machine.look()
    machine.canister.update_settings(wasm_memory_threshold=limit)  # its round runs the hook before other tasks


def _transform(machine, program):
    """No outcall runs transforms yet: at the engine's seam."""
    state = machine.subnet._state
    canister = state.canisters[machine.id]
    env = Env(
        Context.TRANSFORM,
        canister.facts,
        Limits(),
        time_ns=state.time_ns,
        arg=bytes(program),
        costs=machine.subnet._world.costs,
    )
    machine.subnet._world.enter(canister.instance, Method("canister_query query"), env)
    canister.instance.roll_back()


def _in_callback(method, name, **how):
    def enter(machine, program):
        if name == "on_cleanup":
            call = machine.call(on_reply=machine.trapping(), on_cleanup=program)
        else:
            call = machine.call(**how, **{name: program})
        send = machine.update if method == "update" else machine.query
        send(call, method)

    return enter


WAYS = {
    "init": (Context.INIT, _init),
    "post_upgrade": (Context.INIT, _post_upgrade),
    "pre_upgrade": (Context.PRE_UPGRADE, _pre_upgrade),
    "update": (Context.UPDATE, Machine.update),
    "replicated query": (Context.REPLICATED_QUERY, lambda machine, program: machine.update(program, "query")),
    "query": (Context.NON_REPLICATED_QUERY, Machine.query),
    "transform": (Context.TRANSFORM, _transform),
    "composite query": (
        Context.COMPOSITE_QUERY,
        lambda machine, program: machine.query(program, "composite_query"),
    ),
    "reply": (Context.REPLY, _in_callback("update", "on_reply")),
    "reject": (Context.REJECT, _in_callback("update", "on_reject", rejected=True)),
    "cleanup": (Context.CLEANUP, _in_callback("update", "on_cleanup")),
    "composite reply": (Context.COMPOSITE_REPLY, _in_callback("composite_query", "on_reply")),
    "composite reject": (Context.COMPOSITE_REJECT, _in_callback("composite_query", "on_reject", rejected=True)),
    "composite cleanup": (Context.COMPOSITE_CLEANUP, _in_callback("composite_query", "on_cleanup")),
    "inspect_message": (Context.INSPECT_MESSAGE, _inspect_message),
    "heartbeat": (Context.SYSTEM_TASK, _heartbeat),
    "global_timer": (Context.SYSTEM_TASK, _global_timer),
    "on_low_wasm_memory": (Context.SYSTEM_TASK, _on_low_wasm_memory),
}
"""How to get a program into a context, and the context."""


class Both:
    """A machine with native functions and one behind host calls that must do the same, instruction by instruction."""

    def __init__(self, machines):
        self.machines = machines
        self.id = machines[0].id
        self.program = machines[0].program

    def _same(self, act):
        outcomes = []
        for machine in self.machines:
            machine.look()
            try:
                outcome = act(machine)
            except RejectError as error:
                outcome = (error.code, error.error_code, error.message, error.backtrace)
            machine.look()
            outcomes.append((outcome, machine.events, machine.left()))
        assert outcomes[0] == outcomes[1]
        return outcomes[0][0]

    def update(self, program, method="update", **options):
        """The reply, or the reject as (code, error code, message, backtrace)."""
        return self._same(lambda machine: machine.update(program, method, **options))

    def query(self, program, method="query", **options):
        """As `update`."""
        return self._same(lambda machine: machine.query(program, method, **options))

    def do(self, act):
        """Do something else to both, which has a result that can be compared."""
        return self._same(act)
