"""From creation to deletion: canisters get code, new code, no code; start, stop and go.

Whoever may do these things is decided in `management`; here is what they do. An upgrade runs the new code over the old
memories before anything is final, and undoes all of it when one of its steps traps.

Spec: "IC Management Canister: Code installation, upgrade, uninstallation, Stopping a canister, Canister deletion".
"""

from __future__ import annotations

from enum import Enum, unique
from typing import Final, NamedTuple, final

from perdure.canister import (
    MAX_OWN_MEMORIES,
    MEMORY_KINDS,
    CanisterFacts,
    CanisterInstance,
    CanisterModule,
    CanisterStatus,
    Context,
    Env,
    Method,
    Reject,
    Reply,
    Return,
    Trap,
)
from perdure.errors import InternalError, MalformedError, NoMemoryError, UnsupportedError
from perdure.execution.declared import SCHEMA, refuse_declared
from perdure.execution.effects import (
    check_hook,
    commit,
    compile_instructions,
    log_entry,
    pay,
    pay_for_compiling,
    record_change,
    respond,
)
from perdure.execution.execute import clean_instance, growth_limits
from perdure.execution.messages import CallOrigin
from perdure.execution.rejects import canister_error, rejected, trap_reject
from perdure.execution.state import CanisterState, HookStatus, Settings, StopRequest, Use
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.ic.reject import ErrorCode, RejectCode

__all__ = [
    "EMPTY_REPLY",
    "InstallMode",
    "InstallOptions",
    "add_canister",
    "apply_settings",
    "can_finish_stopping",
    "delete_canister",
    "drop_memory",
    "finish_stopping",
    "install_code",
    "start_canister",
    "stop_canister",
    "uninstall_code",
]

EMPTY_REPLY: Final = Reply(b"")
_PERSISTENCE_SECTION: Final = "icp:private enhanced-orthogonal-persistence"


@unique
class InstallMode(Enum):
    """What happens to the memories; the names are Candid's."""

    INSTALL = "install"
    REINSTALL = "reinstall"
    UPGRADE = "upgrade"


@final
class InstallOptions(NamedTuple):
    """How code is to be installed."""

    mode: InstallMode = InstallMode.INSTALL
    skip_pre_upgrade: bool = False
    wasm_memory_persistence: str | None = None
    """``keep``, ``replace`` or not said."""


# -- creation and settings


def add_canister(
    world: World,
    settings: Settings,
    cycles: int,
    canister_id: bytes | None = None,
    origin: tuple[bytes, int | None] = (b"", None),
) -> CanisterState:
    """A new canister without code, holding `cycles`.

    Args:
        world: gets the canister.
        settings: its settings; checked before.
        cycles: its balance.
        canister_id: `None`: the next free one.
        origin: who created it, and that canister's version.

    Raises:
        ValueError: there is a canister of this id.
    """
    if canister_id is None:
        canister_id = _next_id(world)
    elif canister_id in world.state.canisters:
        raise ValueError(f"canister {Principal(canister_id)} exists already")
    facts = CanisterFacts(canister_id=canister_id, subnet_id=world.state.subnet_id, root_key=world.state.root_key)
    now_ns = world.state.time_ns
    created_at_ns = world.state.kept_time_ns()
    canister = CanisterState(facts, settings, cycles, charged_until_ns=now_ns, created_at_ns=created_at_ns)
    world.touch(canister)
    world.state.canisters[canister_id] = canister
    world.state.note_place(canister_id, exists=True)
    apply_settings(world, canister, settings)
    facts.version = 0
    record_change(world, canister, origin, "creation", controllers=list(settings.controllers))
    return canister


def _next_id(world: World) -> bytes:
    while True:
        index = world.state.first_canister_index + world.state.next_canister_index
        canister_id = Principal.from_index(index % (1 << 64)).raw_bytes
        world.state.next_canister_index += 1
        if canister_id not in world.state.canisters:
            return canister_id


def apply_settings(world: World, canister: CanisterState, settings: Settings) -> None:
    """Make `settings` those of the canister."""
    world.touch(canister)
    canister.settings = settings
    canister.log = canister.log.copy()  # a journal may have the one before
    canister.log.limit(settings.log_memory_limit)
    canister.facts.controllers = frozenset(settings.controllers)
    canister.facts.environment_variables = dict(settings.environment_variables)
    canister.refresh(world.costs)
    check_hook(world, canister)


# -- code


def install_code(
    world: World,
    canister: CanisterState,
    options: InstallOptions,
    wasm: bytes,
    arg: bytes,
    sender: bytes,
    sender_version: int | None = None,
) -> Reply | Reject:
    """Give a canister code, or other code.

    Args:
        world: the canister's.
        canister: as it stands; unchanged but for cycles and logs when the answer is a `Reject`.
        options: mode, and how to upgrade.
        wasm: the module as uploaded.
        arg: for ``canister_init`` or ``canister_post_upgrade``.
        sender: whoever asks; the caller that the hooks see.
        sender_version: of a sender that is a canister.
    """
    refusal = _refuse_install(canister, options) or _refuse_size(world, canister, wasm)
    if refusal is not None:
        return refusal
    try:
        module = world.host.compile(wasm)
        if module.absent:
            raise UnsupportedError(module.absent)
    except (MalformedError, UnsupportedError) as error:
        # What does not compile is charged by its bytes.
        pay_for_compiling(world, canister, len(wasm), world.costs)
        return canister_error(
            canister.canister_id, ErrorCode.CANISTER_INVALID_WASM, f"Canister's Wasm module is not valid: {error}"
        )
    refusal = _check_persistence(canister, options, module) or _check_memories(canister, options, module)
    if refusal is None and SCHEMA in world.host.extensions:
        refusal = refuse_declared(canister, module, is_upgrade=options.mode is InstallMode.UPGRADE)
    if refusal is not None:
        return refusal
    return _Installation(world, canister, options, module, sender).run(arg, sender_version)


def _refuse_install(canister: CanisterState, options: InstallOptions) -> Reject | None:
    name = Principal(canister.canister_id)
    if options.mode is InstallMode.INSTALL and canister.module is not None:
        return rejected(
            ErrorCode.CANISTER_NON_EMPTY,
            f"Canister {name} cannot be installed because the canister is not empty. "
            "Try installing with mode='reinstall' instead.",
        )
    if options.mode is InstallMode.UPGRADE and canister.module is None:
        return canister_error(
            canister.canister_id,
            ErrorCode.CANISTER_WASM_MODULE_NOT_FOUND,
            "Attempted to execute a message, but the canister contains no Wasm module",
            "Please install code to this canister before calling it. See documentation: "
            "https://internetcomputer.org/docs/current/references/execution-errors#wasm-module-not-found",
        )
    return None


def _refuse_size(world: World, canister: CanisterState, wasm: bytes) -> Reject | None:
    limit_bytes = world.config.wasm_max_size_bytes
    if len(wasm) <= limit_bytes:
        return None
    return canister_error(
        canister.canister_id,
        ErrorCode.CANISTER_INVALID_WASM,
        f"Canister's Wasm module is not valid: Wasm module is too large: {len(wasm)} bytes, at most {limit_bytes}",
    )


def _check_persistence(canister: CanisterState, options: InstallOptions, module: CanisterModule) -> Reject | None:
    if options.mode is not InstallMode.UPGRADE or canister.module is None:
        return None
    code = ErrorCode.CANISTER_CONTRACT_VIOLATION
    if options.wasm_memory_persistence is None and _PERSISTENCE_SECTION in canister.module.custom_sections:
        return canister_error(
            canister.canister_id,
            code,
            "Missing upgrade option: Enhanced orthogonal persistence requires the `wasm_memory_persistence` upgrade "
            "option.",
        )
    if options.wasm_memory_persistence == "keep" and _PERSISTENCE_SECTION not in module.custom_sections:
        return canister_error(
            canister.canister_id,
            code,
            "Invalid upgrade option: The `wasm_memory_persistence: opt Keep` upgrade option requires that the new "
            "canister module supports enhanced orthogonal persistence.",
        )
    return None


def _check_memories(canister: CanisterState, options: InstallOptions, module: CanisterModule) -> Reject | None:
    """A memory that is there stays what it is, as long as what is in it may stay."""
    if options.mode is not InstallMode.UPGRADE:
        return None
    for name, kind in module.memories.items():
        known = canister.own_memories.get(name)
        if known is not None and known[:2] != (kind.lifetime, kind.address_bits):
            return canister_error(
                canister.canister_id,
                ErrorCode.CANISTER_CONTRACT_VIOLATION,
                f"Memory '{name}' has lifetime '{known.lifetime}' and {known.address_bits}-bit addresses; the new "
                f"module has it with lifetime '{kind.lifetime}' and {kind.address_bits}-bit addresses",
                "Give it another name, or reinstall, which empties all memories.",
            )
    named = module.memories.keys() - MEMORY_KINDS.keys()
    unused = sorted(canister.own_memories.keys() - named)
    count = len(unused) + len(named)
    if count > max(MAX_OWN_MEMORIES, len(canister.own_memories)):
        return canister_error(
            canister.canister_id,
            ErrorCode.CANISTER_CONTRACT_VIOLATION,
            f"It would have {count} memories of its own, at most {MAX_OWN_MEMORIES}: the new module has "
            f"{len(named)}, and {len(unused)} that it does not name are kept: {', '.join(unused):.400}",
            "Drop those that nobody needs: `perdure memory drop`, canister.memories[name].drop().",
        )
    return None


_STAYS: Final = {"stable": True, "upgrade": False, "message": False}
"""Whether an upgrade keeps what is in a memory, by its lifetime; of a heap the upgrade's options say it."""


@final
class _Installation:
    """One ``install_code`` on its way: up to three entries over a shared budget of instructions."""

    def __init__(
        self,
        world: World,
        canister: CanisterState,
        options: InstallOptions,
        module: CanisterModule,
        sender: bytes,
    ) -> None:
        self.world = world
        self.canister = canister
        self.options = options
        self.module = module
        self.sender = sender
        self.instructions = 0
        self.certified_data = canister.certified_data if options.mode is InstallMode.UPGRADE else b""
        self.global_timer_ns = 0
        self.left: CanisterInstance | None = None  # whose memories go with it

    def run(self, arg: bytes, sender_version: int | None) -> Reply | Reject:
        world, canister = self.world, self.canister
        costs = world.costs_of(self.module)
        prepaid = costs.execution(world.config.max_instructions_per_install_code)
        missing = prepaid - canister.liquid_cycles
        if missing > 0:
            return rejected(
                ErrorCode.CANISTER_OUT_OF_CYCLES,
                f"Canister installation failed with `Canister {Principal(canister.canister_id)} is out of cycles: "
                f"please top up the canister with at least {missing} additional cycles`.",
            )
        world.touch(canister)
        canister.cycles -= prepaid
        result = self._enter_all(arg)
        used = min(costs.execution(self.instructions), prepaid)
        canister.cycles += prepaid - used
        world.state.consume(canister, used, Use.INSTRUCTIONS)
        if isinstance(result, Trap):
            limit = world.config.max_instructions_per_install_code
            return trap_reject(canister.canister_id, result, limit)
        self._finish(result, sender_version)
        return EMPTY_REPLY

    def _enter_all(self, arg: bytes) -> Trap | CanisterInstance:
        """The steps that the mode asks for; on a trap everything is as it was."""
        old = None if self.canister.instance is None else clean_instance(self.canister)
        if old is not None and self._leaves_memories(old):
            self.left, old = old, None
        upgrading = self.options.mode is InstallMode.UPGRADE
        if upgrading and old is not None and not self.options.skip_pre_upgrade:
            trap = self._enter(old, "canister_pre_upgrade", Context.PRE_UPGRADE, b"")
            if trap is not None:
                old.roll_back()
                return trap
        self.instructions = min(
            self.instructions + compile_instructions(self.world, self.module.operators),
            self.world.config.max_instructions_per_install_code,
        )
        new = self._new_instance(old)
        hook = "canister_post_upgrade" if upgrading else "canister_init"
        # Whatever the mode, the new code sees the version that it makes.
        self.canister.facts.version += 1
        # A reinstalled canister gets the timer and certified data of its own init only.
        for export, context, payload in (("canister_start", Context.START, b""), (hook, Context.INIT, arg)):
            trap = self._enter(new, export, context, payload)
            if trap is not None:
                self._undo(new, old)
                return trap
        self.canister.facts.version -= 1
        return new

    def _new_instance(self, old: CanisterInstance | None) -> CanisterInstance:
        host, canister_id, kinds = self.world.host, self.canister.canister_id, self.module.memories
        if old is None:
            instance = self.module.instantiate(host.new_memories(canister_id, kinds))
            self.world.made(lambda: host.discard(canister_id, instance))
            return instance
        kept = self._kept(old)
        # Another engine can go on with bytes, and not with memories that are there to be emptied.
        is_other_engine = bool(self.module.name) is not bool(old.module.name)
        missing = kinds.keys() - (kept if is_other_engine else old.memories.keys())
        added = host.add_memories(canister_id, sorted(missing)) if missing else {}
        heir = old.successor(self.module, keep=kept, added=added)
        self.world.made(heir.roll_back)
        return heir

    def _leaves_memories(self, old: CanisterInstance) -> bool:
        """Whether there are memories that nothing is in any more, and that the new code does not name: they go."""
        if self.options.mode is not InstallMode.REINSTALL:
            return False
        return not old.memories.keys() <= self.module.memories.keys() | MEMORY_KINDS.keys()

    def _kept(self, old: CanisterInstance) -> frozenset[str]:
        """The memories that go on as they are."""
        if self.options.mode is not InstallMode.UPGRADE:
            return frozenset()
        named, left = self.module.memories, old.module.memories
        keeps_heap = self.options.wasm_memory_persistence == "keep"

        def stays(name: str) -> bool:
            if name in named:
                return _STAYS.get(named[name].lifetime, keeps_heap)
            # What the old module did not name either was stable when one before it did.
            return name not in left or left[name].lifetime == "stable"

        return frozenset(filter(stays, old.memories))

    def _undo(self, new: CanisterInstance, old: CanisterInstance | None) -> None:
        new.roll_back()
        if old is None:
            self.world.host.discard(self.canister.canister_id, new)
        self.canister.facts.version -= 1

    def _enter(self, instance: CanisterInstance, export: str, context: Context, arg: bytes) -> Trap | None:
        """Run one step, if the module has it; why it trapped."""
        if export not in instance.module.exported_methods:
            return None
        canister, world = self.canister, self.world
        limits = growth_limits(world, canister, "install", canister.liquid_cycles)
        limits.instructions = world.config.max_instructions_per_install_code - self.instructions
        env = Env(
            context,
            canister.facts,
            limits,
            time_ns=world.state.time_ns,
            caller=self.sender,
            arg=arg,
            needs_to_respond=False,
            cycle_balance=canister.cycles,
            liquid_cycle_balance=canister.liquid_cycles,
            global_timer_ns=self.global_timer_ns if context is not Context.PRE_UPGRADE else canister.global_timer_ns,
            costs=world.costs_of(instance.module),
        )
        result = world.enter(instance, Method(export), env)
        self.instructions += result.instructions
        log_entry(world, canister, result)
        if isinstance(result, Trap):
            return result
        pay(world, canister, result.cycles_burned, Use.BURNED_CYCLES)
        if result.certified_data is not None:
            self.certified_data = result.certified_data
        if result.global_timer_ns is not None and context is not Context.PRE_UPGRADE:
            self.global_timer_ns = result.global_timer_ns
        return None

    def _finish(self, instance: CanisterInstance, sender_version: int | None) -> None:
        world, canister = self.world, self.canister
        if self.options.mode is InstallMode.REINSTALL:
            canister.log = canister.log.purged()
        if (left := self.left) is not None:
            world.afterwards(lambda: world.host.discard(canister.canister_id, left))
        canister.module, canister.instance = self.module, instance
        canister.installed_at_ns = world.state.kept_time_ns()
        canister.certified_data = self.certified_data
        canister.global_timer_ns = self.global_timer_ns
        canister.hook_status = HookStatus.CONDITION_NOT_SATISFIED
        # Certified data and timer were taken over step by step above.
        sizes = {name: memory.size() for name, memory in instance.memories.items()}
        heap, stable = sizes["heap"], sizes["stable"]
        canister.know_memories(sizes)
        commit(world, canister, Return(heap_wasm_pages=heap, stable_wasm_pages=stable))
        canister.refresh(world.costs)
        check_hook(world, canister)
        canister.facts.version += 1
        if self.global_timer_ns or "canister_heartbeat" in self.module.exported_methods:
            world.state.task_canisters.add(canister.canister_id)
        record_change(
            world,
            canister,
            (self.sender, sender_version),
            "code_deployment",
            mode=self.options.mode.value,
            module_hash=self.module.module_hash,
        )


def drop_memory(world: World, canister: CanisterState, name: str) -> None:
    """Take away a memory that the canister's code does not name any more, and all that is in it.

    Raises:
        NoMemoryError: it has no such memory.
        ValueError: its code has it.
    """
    if name not in canister.own_memories and name not in MEMORY_KINDS:
        known = ", ".join(canister.own_memories) or "none of its own"
        raise NoMemoryError(f"no memory {name!r}, there is {known}").coded("no-memory")
    if canister.module is not None and name in canister.module.memories:
        raise ValueError(f"memory {name!r} is used: upgrade to a module that does not name it, then drop it")
    instance = clean_instance(canister)
    world.touch(canister)
    canister.own_memories = {other: one for other, one in canister.own_memories.items() if other != name}
    canister.refresh(world.costs)
    world.afterwards(lambda: world.host.forget_memory(instance, name))


def uninstall_code(world: World, canister: CanisterState, origin: tuple[bytes, int | None] = (b"", None)) -> None:
    """Take code and memories away; whoever waits for the canister is refused."""
    world.touch(canister)
    _drop_code(world, canister)
    canister.chunk_store.clear()
    canister.facts.version += 1
    record_change(world, canister, origin, "code_uninstall")
    canister.refresh(world.costs)


def _drop_code(world: World, canister: CanisterState) -> None:
    if (instance := canister.instance) is not None:
        world.afterwards(lambda: world.host.discard(canister.canister_id, instance))
    canister.module = canister.instance = None
    canister.heap_wasm_pages = canister.stable_wasm_pages = 0
    canister.own_memories = {}
    canister.certified_data = b""
    canister.global_timer_ns = canister.installed_at_ns = 0
    canister.hook_status = HookStatus.CONDITION_NOT_SATISFIED
    canister.log = canister.log.purged()
    world.state.task_canisters.discard(canister.canister_id)
    refusal = rejected(ErrorCode.CANISTER_REJECTED_MESSAGE, "Canister has been uninstalled.")._replace(
        code=RejectCode.CANISTER_REJECT
    )
    for context in list(canister.contexts.values()):
        context.deleted = True
        if context.needs_to_respond and context.origin is not None:
            context.needs_to_respond = False
            refund, context.available_cycles = context.available_cycles, 0
            respond(world, context.origin, refusal, refund)


# -- start, stop, delete


def start_canister(world: World, canister: CanisterState) -> None:
    """Run again; whoever waits for it to stop is refused."""
    world.touch(canister)
    for request in canister.stop_requests:
        name = Principal(canister.canister_id)
        refusal = rejected(ErrorCode.CANISTER_STOPPING_CANCELLED, f"Canister {name}'s stop request was cancelled.")
        respond(world, request.origin, refusal, request.cycles)
    canister.stop_requests.clear()
    canister.facts.status = CanisterStatus.RUNNING
    world.state.stopping.discard(canister.canister_id)


def stop_canister(world: World, canister: CanisterState, origin: CallOrigin, cycles: int) -> None:
    """Take no more calls; answer once nothing is left open."""
    world.touch(canister)
    if canister.facts.status is CanisterStatus.STOPPED:
        respond(world, origin, _NO_VALUES, cycles)
        return
    canister.facts.status = CanisterStatus.STOPPING
    deadline_ns = world.state.time_ns + world.config.stop_canister_timeout_ns
    canister.stop_requests.append(StopRequest(origin, cycles, deadline_ns))
    world.state.stopping.add(canister.canister_id)
    finish_stopping(world)


_NO_VALUES: Final = Reply(b"DIDL\x00\x00")
"""A Candid reply without values."""


def can_finish_stopping(world: World) -> bool:
    """Whether a canister that is to stop has nothing left open, or a request to stop one has waited too long."""
    stopping = map(world.state.canisters.__getitem__, world.state.stopping)
    return any(
        _has_nothing_open(canister)
        or any(request.deadline_ns <= world.state.time_ns for request in canister.stop_requests)
        for canister in stopping
    )


def _has_nothing_open(canister: CanisterState) -> bool:
    return not canister.contexts and not canister.open_calls


def finish_stopping(world: World) -> None:
    """Stop the canisters that have nothing left open, and give up on requests that waited too long."""
    for canister_id in sorted(world.state.stopping):
        canister = world.state.canisters[canister_id]
        if _has_nothing_open(canister):
            world.touch(canister)
            canister.facts.status = CanisterStatus.STOPPED
            world.state.stopping.discard(canister_id)
            for request in canister.stop_requests:
                respond(world, request.origin, _NO_VALUES, request.cycles)
            canister.stop_requests.clear()
            continue
        late = [request for request in canister.stop_requests if request.deadline_ns <= world.state.time_ns]
        for request in late:
            world.touch(canister)
            canister.stop_requests.remove(request)
            refusal = rejected(ErrorCode.STOP_CANISTER_REQUEST_TIMEOUT, "Stop canister request timed out")
            respond(world, request.origin, refusal, request.cycles)


def delete_canister(world: World, canister: CanisterState) -> Reject | None:
    """Remove a stopped canister for ever, its cycles too; `None`: done."""
    name = Principal(canister.canister_id)
    if canister.facts.status is not CanisterStatus.STOPPED:
        return rejected(
            ErrorCode.CANISTER_NOT_STOPPED,
            f"Canister {name} must be stopped before it is deleted.\nStop the canister before trying to delete it. "
            "See documentation: https://internetcomputer.org/docs/current/references/execution-errors"
            "#delete-canister-not-stopped",
        )
    if canister.inputs:
        return rejected(
            ErrorCode.CANISTER_QUEUE_NOT_EMPTY,
            f"Canister {name} has messages in its queues and cannot be deleted now. Please retry after some time",
        )
    if canister.contexts or canister.open_calls:
        raise InternalError("a stopped canister has something open")
    world.touch(canister)
    _drop_code(world, canister)
    world.state.consumed_cycles += canister.cycles + canister.reserved_cycles
    del world.state.canisters[canister.canister_id]
    world.state.note_place(canister.canister_id, exists=False)
    world.state.ready.pop(canister.canister_id, None)
    return None
