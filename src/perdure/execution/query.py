"""Queries: entries whose effects are dropped, composite ones with calls and callbacks among them.

A composite query's own state lives as long as the query: it is saved while others run and restored for its callbacks.
Calls are made depth first, each over the committed state of its callee.

Spec: "Query call".
"""

from __future__ import annotations

from functools import partial
from typing import Final, final

from perdure.canister import (
    Callback,
    CanisterInstance,
    Context,
    EntryPoint,
    Env,
    Method,
    MethodCall,
    Reject,
    Reply,
    Return,
    StateDelta,
    Trap,
    TrapCode,
)
from perdure.execution.events import Taken
from perdure.execution.execute import clean_instance, growth_limits, out_of_cycles, refuse_call
from perdure.execution.management import management_query
from perdure.execution.messages import Response
from perdure.execution.rejects import as_seen_by_canister, no_such_callback, rejected, trap_reject
from perdure.execution.state import CanisterState
from perdure.execution.world import World
from perdure.ic.principal import MANAGEMENT_CANISTER, Principal
from perdure.ic.reject import ErrorCode

__all__ = ["execute_query", "execute_transform"]

_MANAGEMENT: Final = MANAGEMENT_CANISTER.raw_bytes


def execute_query(
    world: World,
    canister_id: bytes,
    method_name: str,
    arg: bytes,
    sender: bytes = b"\x04",
    caller_info_data: bytes = b"",
    caller_info_signer: bytes = b"",
) -> Response:
    """Execute a query or composite query method; nothing changes but statistics."""
    if canister_id == _MANAGEMENT:
        return management_query(world, sender, method_name, arg)
    canister = world.state.canisters.get(canister_id)
    if canister is None:
        return _not_found(canister_id)
    if world.streams:
        world.tell(Taken("query", canister_id, method_name, sender))
    query = _Query(world, canister_id, (caller_info_data, caller_info_signer))
    try:
        response = query.call(canister, sender, method_name, arg, ())
    except _Ended as ended:
        response = ended.reject
    reply_bytes = len(response.data if isinstance(response, Reply) else response.message.encode())
    world.state.settle(canister)
    calls, instructions, arg_bytes, response_bytes = canister.query_statistics
    canister.query_statistics = [
        calls + 1,
        instructions + query.instructions,
        arg_bytes + len(arg),
        response_bytes + reply_bytes,
    ]
    return response


def execute_transform(world: World, canister_id: bytes, method_name: str, arg: bytes) -> Response:
    """Execute a query method as the management canister, for the response to an outcall; nothing changes."""
    canister = world.state.canisters.get(canister_id)
    if canister is None:
        return _not_found(canister_id)
    module = canister.module
    if module is not None and f"canister_query {method_name}" not in module.exported_methods:
        message = f"Canister has no query method '{method_name}'."
        return trap_reject(canister_id, Trap(TrapCode.METHOD_NOT_FOUND, message))
    return _Query(world, canister_id, (b"", b"")).call(canister, _MANAGEMENT, method_name, arg, ())


def _not_found(canister_id: bytes) -> Reject:
    return rejected(ErrorCode.CANISTER_NOT_FOUND, f"Canister {Principal(canister_id)} not found.")


@final
class _Ended(Exception):  # noqa: N818 -- no error: how a query ends whose calls exceed a limit
    """The whole query is answered, whoever is being called; all entries on the way have been rolled back."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.reject = rejected(code, message)


@final
class _Query:
    """One query with everything that it calls; `instructions` are those of all of it."""

    __slots__ = ("caller_info", "instructions", "root", "world")

    def __init__(self, world: World, root: bytes, caller_info: tuple[bytes, bytes]) -> None:
        self.world = world
        self.root = root
        self.caller_info = caller_info
        self.instructions = 0

    def call(
        self, canister: CanisterState, caller: bytes, method_name: str, arg: bytes, waiting: tuple[bytes, ...]
    ) -> Response:
        """The answer of one method; the canister's state is as it was.

        Args:
            canister: called.
            caller: of it.
            method_name: a query or composite query.
            arg: its argument.
            waiting: ids of the canisters that wait for the answer, the first one first.
        """
        refusal = self._refuse(canister)
        if refusal is not None:
            return refusal
        module = canister.module
        if module is None:
            return trap_reject(canister.canister_id, Trap(TrapCode.WASM_MODULE_NOT_FOUND))
        instance = clean_instance(canister)
        context = Context.NON_REPLICATED_QUERY
        export_name = f"canister_query {method_name}"
        if export_name not in module.exported_methods:
            context, export_name = Context.COMPOSITE_QUERY, f"canister_composite_query {method_name}"
            if export_name not in module.exported_methods:
                message = f"Canister has no query method '{method_name}'."
                return trap_reject(canister.canister_id, Trap(TrapCode.METHOD_NOT_FOUND, message))
        env = self.env_of(canister, context, caller, len(waiting))
        env.arg = arg
        result = self.enter(instance, Method(export_name), env)
        if waiting:
            self.instructions += self.world.config.instruction_overhead_per_query_call
        if isinstance(result, Return) and result.response is None and result.calls:
            return _Composite(self, canister, instance, env, waiting).answer(result)
        instance.roll_back()
        return self.response(canister, result, env)

    def _refuse(self, canister: CanisterState) -> Reject | None:
        refusal = refuse_call(canister)
        if refusal is None and canister.liquid_cycles < 0:
            refusal = out_of_cycles(canister, -canister.liquid_cycles)
        return refusal

    def env_of(self, canister: CanisterState, context: Context, caller: bytes, depth: int) -> Env:
        """What an entry may see; the limits are what is left for the whole query."""
        world = self.world
        limits = growth_limits(world, canister, "query", canister.liquid_cycles)
        limits.instructions = self.instructions_left()
        env = Env(context, canister.facts, limits, world.state.time_ns, caller)
        # One by one, as by keyword they take half of all that an `Env` takes.
        env.cycle_balance, env.liquid_cycle_balance = canister.cycles, canister.liquid_cycles
        env.global_timer_ns = canister.global_timer_ns
        env.costs = world.costs_of(canister.module)
        if depth == 0:
            env.caller_info_data, env.caller_info_signer = self.caller_info
            certify = world.certify
            if certify is not None:
                env.certificate = partial(certify, canister.canister_id, canister.certified_data, world.state.time_ns)
        return env

    def instructions_left(self) -> int:
        """How many instructions the next entry may use."""
        config = self.world.config
        left = config.max_instructions_per_composite_query_call - self.instructions
        return max(0, min(left, config.max_instructions_per_query_message))

    def enter(self, instance: CanisterInstance, entry: EntryPoint, env: Env) -> Trap | Return:
        """Run one entry and count its instructions."""
        result = self.world.enter(instance, entry, env)
        self.instructions += result.instructions
        return result

    def response(self, canister: CanisterState, result: Trap | Return, env: Env) -> Response:
        """What the end of an entry means to whoever waits."""
        if isinstance(result, Trap):
            return trap_reject(canister.canister_id, result, env.limits.instructions)
        if result.response is not None:
            return result.response
        name = Principal(canister.canister_id)
        return rejected(ErrorCode.CANISTER_DID_NOT_REPLY, f"Canister {name} did not produce a response")

    def check(self, waiting: tuple[bytes, ...]) -> None:
        """End the query where its calls are nested too deeply, or no instructions are left for more.

        Args:
            waiting: ids of the canisters above the one that makes calls.
        """
        if len(waiting) >= self.world.config.max_query_call_depth:
            raise _Ended(ErrorCode.QUERY_CALL_GRAPH_TOO_DEEP, "Composite query calls exceeded the maximum call depth.")
        if self.instructions_left() == 0:
            raise _Ended(
                ErrorCode.QUERY_CALL_GRAPH_TOTAL_INSTRUCTION_LIMIT_EXCEEDED,
                "Composite query calls exceeded the instruction limit.",
            )

    def nested(self, caller: CanisterState, call: MethodCall, waiting: tuple[bytes, ...]) -> Response:
        """The answer to a call from a composite query.

        Args:
            caller: who calls.
            call: whom.
            waiting: ids of the canisters that wait, `caller` last.
        """
        if call.callee == _MANAGEMENT:
            return management_query(self.world, caller.canister_id, call.method_name, call.arg)
        if call.callee in waiting:
            raise _Ended(
                ErrorCode.QUERY_CALL_GRAPH_LOOP_DETECTED,
                "Query calls re-entering the same canister are not allowed yet.",
            )
        callee = self.world.state.canisters.get(call.callee)
        if callee is None:
            return _not_found(call.callee)
        return self.call(callee, caller.canister_id, call.method_name, call.arg, waiting)


@final
class _Composite:
    """A composite query method that waits for answers."""

    def __init__(
        self,
        query: _Query,
        canister: CanisterState,
        instance: CanisterInstance,
        env: Env,
        waiting: tuple[bytes, ...],
    ) -> None:
        self.query = query
        self.canister = canister
        self.instance = instance
        self.caller = env.caller
        self.waiting = waiting
        self.context_instructions = 0

    def answer(self, first: Return) -> Response:
        """Run the calls and their callbacks until one of them responds."""
        self.context_instructions = first.instructions
        open_calls = list(first.calls)
        saved = self._put_away()
        while open_calls:
            self.query.check(self.waiting)
            call = open_calls.pop(0)
            response = self.query.nested(self.canister, call, (*self.waiting, self.canister.canister_id))
            self.query.check(self.waiting)
            self.instance.restore(saved)
            env = self._callback_env(response)
            callback = call.on_reply if isinstance(response, Reply) else call.on_reject
            result = self.query.enter(self.instance, callback, env)
            self.context_instructions += result.instructions
            if isinstance(result, Trap):
                self._clean_up(call.on_cleanup, saved, env)
                result = no_such_callback(result, callback.table_index)
                return self.query.response(self.canister, result, env)
            if result.response is not None:
                self.instance.roll_back()
                return result.response
            open_calls[:0] = result.calls
            saved = self._put_away()
        return self.query.response(self.canister, Return(), self._callback_env(Reply(b"")))

    def _put_away(self) -> StateDelta:
        saved = self.instance.save()
        self.instance.roll_back()
        return saved

    def _callback_env(self, response: Response) -> Env:
        is_reply = isinstance(response, Reply)
        context = Context.COMPOSITE_REPLY if is_reply else Context.COMPOSITE_REJECT
        env = self.query.env_of(self.canister, context, self.caller, len(self.waiting))
        # "no certificate available in composite query callbacks"
        env.certificate = None
        env.call_context_instructions = self.context_instructions
        if isinstance(response, Reply):
            env.arg = response.data
        else:
            env.reject_code, env.reject_message = response.code, as_seen_by_canister(response)
        return env

    def _clean_up(self, on_cleanup: Callback | None, saved: StateDelta, env: Env) -> None:
        if on_cleanup is None:
            self.instance.roll_back()
            return
        self.instance.restore(saved)
        env.context, env.arg, env.call_context_instructions = Context.COMPOSITE_CLEANUP, b"", self.context_instructions
        env.limits.instructions = self.query.instructions_left()
        self.query.enter(self.instance, on_cleanup, env)
        self.instance.roll_back()
