"""The state of a subnet as one value: canisters, messages in flight, the clock. Rules change it; nothing else does.

Spec: "The system state" in the interface specification.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, unique
from typing import Any, Final, NamedTuple, Protocol, final

from perdure.canister import (
    MEMORY_KINDS,
    CanisterFacts,
    CanisterInstance,
    CanisterModule,
    GlobalValue,
    Lifetime,
    Limits,
    MemoryKind,
)
from perdure.execution.cycles import CostSchedule
from perdure.execution.ingress import IngressHistory
from perdure.execution.inputs import Clock, Input
from perdure.execution.lending import Loans
from perdure.execution.messages import (
    CallContext,
    CallMessage,
    CallOrigin,
    Message,
    OpenCall,
    Outcall,
    ResponseMessage,
    cycles_of,
)
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.system_api import LINE_OVERHEAD_BYTES

__all__ = [
    "CHANGED_IN_PLACE",
    "CONTROLLERS_ONLY",
    "FIRST_CANISTER_INDEX",
    "LAST_TIME_NS",
    "NO_STREAM",
    "RANGE_BITS",
    "CanisterLog",
    "CanisterState",
    "Change",
    "Handed",
    "HookStatus",
    "LogRecord",
    "OwnMemory",
    "Settings",
    "Snapshot",
    "SnapshotContent",
    "StopRequest",
    "SubnetState",
    "Use",
    "Visibility",
    "XNetStream",
    "handed_key",
]

DEFAULT_TIME_NS: Final = 1_620_328_630_000_000_000
"""Where the virtual clock starts: 6 May 2021, the day before Genesis."""

LAST_TIME_NS: Final = 1 << 62
"""Where it ends: what is added to a time stays within 64 bits."""

RANGE_BITS: Final = 20
"""A subnet has 2^20 ids of canisters, one after another."""

FIRST_CANISTER_INDEX: Final = 0xFFFF_FFFF_FFE0_0000
"""Where a new subnet's canisters begin: ``lxzze-o7777-77777-aaaaa-cai``, as those of an application subnet of PocketIC,
far from the network's own canisters, which the smallest numbers name."""

_HISTORY_CHANGE_BYTES: Final = 64
_LINE_OVERHEAD_BYTES: Final = 20
_LOG_STORE_BYTES: Final = 8 << 10
"""Header and index of a canister's log, beside its lines."""


@unique
class HookStatus(IntEnum):
    """State of the low-memory hook."""

    CONDITION_NOT_SATISFIED = 0
    READY = 1
    EXECUTED = 2


class Visibility(NamedTuple):
    """Who may see something: the controllers, everybody, or the controllers and a list."""

    kind: str = "controllers"
    """``controllers``, ``public`` or ``allowed_viewers``."""
    viewers: tuple[bytes, ...] = ()


CONTROLLERS_ONLY: Final = Visibility()


@final
@dataclass(slots=True)
class Settings:
    """What controllers can set. Amounts in cycles, sizes in bytes, times in seconds."""

    controllers: tuple[bytes, ...] = ()
    compute_allocation: int = 0
    memory_allocation: int = 0
    freezing_threshold: int = 2_592_000
    reserved_cycles_limit: int = 5_000_000_000_000
    minimum_incoming_canister_call_cycles: int = 0
    log_visibility: Visibility = CONTROLLERS_ONLY
    snapshot_visibility: Visibility = CONTROLLERS_ONLY
    status_visibility: Visibility = CONTROLLERS_ONLY
    wasm_memory_limit: int = 3 << 30
    wasm_memory_threshold: int = 0
    environment_variables: dict[str, str] = field(default_factory=dict)
    log_memory_limit: int = 4 << 10
    """What the log may hold; 0: nothing is logged."""


class LogRecord(NamedTuple):
    """One line that a canister left."""

    sequence: int
    time_ns: int
    content: bytes


@final
@dataclass(slots=True)
class CanisterLog:
    """The newest lines, at most so many bytes of them; indices go on after old lines are dropped.

    A line takes its own bytes and `_LINE_OVERHEAD_BYTES`, as in the replica's store of 2026 (``log_memory_store``).
    """

    records: deque[LogRecord] = field(default_factory=deque)
    next_index: int = 0
    size_bytes: int = 0

    def append(self, time_ns: int, content: bytes, max_bytes: int) -> None:
        """Add a line, cut to what fits, and drop the oldest ones beyond `max_bytes`."""
        if not max_bytes:
            return
        content = content[: max(0, max_bytes - LINE_OVERHEAD_BYTES)]
        self.records.append(LogRecord(self.next_index, time_ns, content))
        self.next_index += 1
        self.size_bytes += len(content) + _LINE_OVERHEAD_BYTES
        self.limit(max_bytes)

    def limit(self, max_bytes: int) -> None:
        """Drop the oldest lines beyond `max_bytes`."""
        while self.size_bytes > max_bytes:
            self.size_bytes -= len(self.records.popleft().content) + _LINE_OVERHEAD_BYTES

    @staticmethod
    def size_of(records: Iterable[LogRecord]) -> int:
        """What lines take."""
        return sum(len(record.content) + _LINE_OVERHEAD_BYTES for record in records)

    def copy(self) -> CanisterLog:
        """A log with the same lines, to be added to."""
        return CanisterLog(self.records.copy(), self.next_index, self.size_bytes)

    def purged(self) -> CanisterLog:
        """A log without lines that goes on with the numbering."""
        return CanisterLog(next_index=self.next_index)


class Change(NamedTuple):
    """One entry of a canister's history.

    `details` has the kind of change first: ``creation``, ``code_uninstall``, ``code_deployment``, ``load_snapshot`` or
    ``controllers_change``, then what goes with it, as the interface specification's record of that name.
    `origin_version` is `None` for a user, -1 for a canister that did not tell its version.
    """

    time_ns: int
    canister_version: int
    origin: bytes
    origin_version: int | None
    details: tuple[str, dict[str, Any]]


class SnapshotContent(Protocol):
    """The memories of a snapshot, kept by the host. Writable until first loaded, when it was uploaded."""

    @property
    def memories(self) -> Mapping[str, Memory]:
        """The memories by name."""
        ...


@final
@dataclass(slots=True)
class Snapshot:
    """A canister's state at some time, or one being uploaded."""

    snapshot_id: bytes
    taken_at_ns: int
    uploaded: bool
    wasm: bytearray
    module: CanisterModule | None
    content: SnapshotContent
    heap_bytes: int
    stable_bytes: int
    global_values: tuple[GlobalValue, ...]
    certified_data: bytes
    chunk_store: dict[bytes, bytes]
    canister_version: int
    global_timer_ns: int | None
    hook_status: HookStatus | None

    @property
    def total_bytes(self) -> int:
        """What the snapshot takes, as charged and as listed."""
        chunks = sum(len(chunk) for chunk in self.chunk_store.values())
        return self.heap_bytes + self.stable_bytes + len(self.wasm) + chunks + len(self.certified_data)


@final
@dataclass(slots=True)
class StopRequest:
    """Somebody who waits for a canister to stop."""

    origin: CallOrigin
    cycles: int
    deadline_ns: int


@unique
class Use(IntEnum):
    """What a canister's cycles go for: their places in `CanisterState.consumed`, by the names of ``canister_metrics``.

    Nothing is ever taken for an uninstallation here. Fees of signatures come out of what a call brings along, and are
    nobody's in those figures, as on the network.
    """

    MEMORY = 0
    COMPUTE_ALLOCATION = 1
    INGRESS_INDUCTION = 2
    INSTRUCTIONS = 3
    TRANSMISSION = 4
    UNINSTALL = 5
    CANISTER_CREATION = 6
    HTTP_OUTCALLS = 7
    BURNED_CYCLES = 8


_INGRESS_INDUCTION: Final = Use.INGRESS_INDUCTION


class OwnMemory(NamedTuple):
    """A memory of a canister's that the network does not know; unused where its module does not name it."""

    lifetime: Lifetime
    address_bits: int
    wasm_pages: int


@final
@dataclass(slots=True)
class Handed:
    """Memories on their way with a call, as they were when the caller's message was committed."""

    callee: bytes
    content: SnapshotContent
    """By the names that the callee shall have them under."""
    memories: Mapping[str, OwnMemory]

    @property
    def wasm_pages(self) -> int:
        """What the caller is charged for meanwhile."""
        return sum(one.wasm_pages for one in self.memories.values())


@final
@dataclass(slots=True)
class CanisterState:
    """All there is about one canister but its memories, which its instance keeps."""

    facts: CanisterFacts
    settings: Settings
    cycles: int = 0
    reserved_cycles: int = 0
    module: CanisterModule | None = None
    instance: CanisterInstance | None = None
    heap_wasm_pages: int = 0
    stable_wasm_pages: int = 0
    own_memories: Mapping[str, OwnMemory] = field(default_factory=dict)
    """Memories beside heap and stable memory, by name; replaced by a change, never changed."""
    handed_wasm_pages: int = 0
    """Of what it has handed over and no callee has yet: the sum over `SubnetState.handed`, in no record."""
    certified_data: bytes = b""
    global_timer_ns: int = 0
    hook_status: HookStatus = HookStatus.CONDITION_NOT_SATISFIED
    inputs: deque[CallMessage | ResponseMessage] = field(default_factory=deque)
    contexts: dict[int, CallContext] = field(default_factory=dict)
    open_calls: dict[int, OpenCall] = field(default_factory=dict)
    open_calls_to: dict[bytes, int] = field(default_factory=dict)
    next_context_id: int = 1
    next_call_id: int = 1
    stop_requests: list[StopRequest] = field(default_factory=list)
    log: CanisterLog = field(default_factory=CanisterLog)
    history: list[Change] = field(default_factory=list)
    total_changes: int = 0
    chunk_store: dict[bytes, bytes] = field(default_factory=dict)
    snapshots: dict[bytes, Snapshot] = field(default_factory=dict)
    next_snapshot: int = 0
    charged_until_ns: int = 0
    created_at_ns: int = 0
    """When it was created; 0: before that was kept."""
    installed_at_ns: int = 0
    """When it got the code that it has, or a snapshot; 0: there is none, or it was before that was kept."""
    query_statistics: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    """Calls, instructions, argument bytes and reply bytes of non-replicated queries."""
    consumed: list[int] = field(default_factory=lambda: [0] * len(Use))
    """Cycles by `Use`; replaced by a change, never changed. See `SubnetState.keeps_consumption`."""
    freezing_limit: int = 0
    """Cycles that the canister burns by existing for its freezing threshold; see `refresh`."""
    limits: dict[str, Limits] = field(default_factory=dict)
    """Limits by kind of entry, made when first needed; see `refresh`."""

    @property
    def canister_id(self) -> bytes:
        """The canister's id."""
        return self.facts.canister_id

    @property
    def module_hash(self) -> bytes | None:
        """SHA-256 of its module; `None`: it has none."""
        return None if self.module is None else self.module.module_hash

    @property
    def chunk_hashes(self) -> tuple[bytes, ...]:
        """SHA-256 of each chunk that it has stored, ascending."""
        return tuple(sorted(self.chunk_store))

    @property
    def snapshot_ids(self) -> tuple[bytes, ...]:
        """Its snapshots, oldest first."""
        return tuple(self.snapshots)

    @property
    def liquid_cycles(self) -> int:
        """Cycles that may be spent; negative: frozen."""
        frozen = self.freezing_limit - self.reserved_cycles
        return self.cycles - frozen if frozen > 0 else self.cycles

    def history_bytes(self) -> int:
        """What the history takes."""
        return len(self.history) * _HISTORY_CHANGE_BYTES

    def log_store_bytes(self) -> int:
        """What the log takes: its whole capacity, for as long as there is a module that may print."""
        limit_bytes = self.settings.log_memory_limit
        return _LOG_STORE_BYTES + limit_bytes if limit_bytes and self.module is not None else 0

    def memory_bytes(self) -> int:
        """Everything of the canister that takes memory and is paid for."""
        return (
            (self.heap_wasm_pages + self.stable_wasm_pages + self.handed_wasm_pages) * WASM_PAGE_BYTES
            + (sum(one.wasm_pages for one in self.own_memories.values()) * WASM_PAGE_BYTES if self.own_memories else 0)
            + (len(self.module.wasm) if self.module is not None else 0)
            + self.history_bytes()
            + sum(len(chunk) for chunk in self.chunk_store.values())
            + sum(snapshot.total_bytes for snapshot in self.snapshots.values())
            + self.log_store_bytes()
        )

    def know_memories(self, sizes: Mapping[str, int]) -> None:
        """Take note of the memories beside heap and stable memory that code and instance have.

        Args:
            sizes: Wasm pages by name, of all memories.
        """
        named, before = self.module.memories if self.module is not None else {}, self.own_memories
        found = {}
        for name, wasm_pages in sizes.items():
            if name in MEMORY_KINDS:
                continue
            kind = named.get(name) or before.get(name) or MemoryKind(name, "stable", 64)
            # What lives no longer than an entry takes nothing in between.
            kept_wasm_pages = wasm_pages if kind.lifetime != "message" else 0
            found[name] = OwnMemory(kind.lifetime, kind.address_bits, kept_wasm_pages)
        self.own_memories = found

    def refresh(self, costs: CostSchedule) -> None:
        """Compute anew what follows from settings and memory sizes; call it after a change of either."""
        memory_bytes = max(self.memory_bytes(), self.settings.memory_allocation)
        per_second = costs.storage_per_second(memory_bytes, self.settings.compute_allocation)
        self.freezing_limit = per_second * self.settings.freezing_threshold
        self.limits.clear()


CHANGED_IN_PLACE: Final = (
    "inputs",
    "contexts",
    "open_calls",
    "open_calls_to",
    "stop_requests",
    "chunk_store",
    "snapshots",
)
"""Fields of `CanisterState` that rules change in place, one level deep. Others they replace, but for `facts`, `limits`.

All of them are empty most of the time: what mostly is not (the history, statistics) is replaced when it changes.
"""


def handed_key(caller: bytes, call_id: int) -> bytes:
    """What `SubnetState.handed` has the memories of a call under."""
    return caller + call_id.to_bytes(8, "big")


@final
class XNetStream(NamedTuple):
    """What goes to another subnet, and how far its own stream has come in: see `perdure.execution.streams`."""

    begin: int = 0
    """The number of the first message that is kept."""
    messages: tuple[Message, ...] = ()
    inducted: int = 0

    @property
    def end(self) -> int:
        """The number of the next message that will be sent."""
        return self.begin + len(self.messages)


NO_STREAM: Final = XNetStream()


@final
@dataclass(slots=True)
class SubnetState:
    """A whole subnet, and nothing of what runs it; that is `World`."""

    subnet_id: bytes = b""
    root_key: bytes = b""
    time_ns: int = DEFAULT_TIME_NS
    seed: bytes = b""
    random_counter: int = 0
    round_number: int = 0
    canisters: dict[bytes, CanisterState] = field(default_factory=dict)
    first_canister_index: int = FIRST_CANISTER_INDEX
    """Where the range begins out of which canisters get their ids."""
    next_canister_index: int = 0
    """Of the next id, within the range."""
    keeps_origins: bool = True
    """Whether it says when canisters were made and installed, and whose requests are. What was written before goes on
    without, so that its history is replayed to the same states."""
    keeps_consumption: bool = True
    """Whether canisters say what their cycles went for, which for older states is as `keeps_origins` is."""
    keeps_refunds: bool = True
    """Whether the cycles of a bounded-wait call come back after its time; in older states they are lost."""
    next_request_number: int = 1
    ingress: IngressHistory = field(default_factory=IngressHistory)
    outbox: list[Message] = field(default_factory=list)
    """What this round has sent and no canister has in its inputs yet."""
    management_calls: deque[CallMessage] = field(default_factory=deque)
    outcalls: dict[int, Outcall] = field(default_factory=dict)
    """Requests to servers outside that nobody has answered yet, in the order in which they were made."""
    next_outcall_id: int = 0
    handed: Mapping[bytes, Handed] = field(default_factory=dict)
    """What calls on their way take along, by `handed_key`; replaced by a change, never changed."""
    xnet_streams: Mapping[bytes, XNetStream] = field(default_factory=dict)
    """By the id of the other subnet; replaced by a change, never changed."""
    strays: frozenset[bytes] = frozenset()
    """Canisters with ids of other ranges than the subnet's, in no record; replaced by a change, never changed."""
    ready: dict[bytes, None] = field(default_factory=dict)
    """Canisters with inputs, in no particular order."""
    task_canisters: set[bytes] = field(default_factory=set)
    """Canisters with a heartbeat, a timer that is set, or a low-memory hook that is due."""
    deadlines: dict[tuple[bytes, int], int] = field(default_factory=dict)
    """Open bounded-wait calls: caller and number, and when they expire."""
    stopping: set[bytes] = field(default_factory=set)
    changed: set[bytes] = field(default_factory=set)
    """Canisters whose record changed since somebody last cleared the set; deleted ones included."""
    loans: Loans[CanisterState] | None = None
    """What forks have of `canisters`; `None`: there are none."""
    inputs: list[Input] | None = None
    """What came from outside since the last commit; `None`: nobody wants to know."""
    minted_cycles: int = 0
    consumed_cycles: int = 0
    """Cycles paid for resources or burned on purpose."""
    sent_cycles: int = 0
    """Cycles that have left for other subnets: minted and received is always sent and what `total_cycles` says."""
    received_cycles: int = 0
    lost_cycles: int = 0
    """Cycles of responses that nobody could take: of deleted canisters, and see `keeps_refunds`."""

    @property
    def begun_with(self) -> tuple[int, bool, bool, bool]:
        """What a state is begun with and goes on with, so that its history can be done again."""
        return self.first_canister_index, self.keeps_origins, self.keeps_consumption, self.keeps_refunds

    def settle(self, canister: CanisterState) -> None:
        """Have forks copy a record that they share with this subnet, before it is changed."""
        if self.loans is not None:
            self.loans.settle(canister.facts.canister_id)

    def note_place(self, canister_id: bytes, *, exists: bool) -> None:
        """Have `strays` say of a canister that comes or goes whether its id is of another range."""
        if canister_id[8:] == b"\1\1":
            place = int.from_bytes(canister_id[:8]) >> RANGE_BITS
            if place == self.first_canister_index >> RANGE_BITS:
                return
        changed = frozenset((canister_id,))
        self.strays = self.strays | changed if exists else self.strays - changed

    def kept_time_ns(self) -> int:
        """What is noted of a canister that is made or installed now; 0: nothing."""
        return self.time_ns if self.keeps_origins else 0

    def consume(self, canister: CanisterState, cycles: int, use: Use, induction: int = 0) -> None:
        """Count cycles that a canister has used and that are out of its balance, or of what it was sent.

        Args:
            canister: the canister.
            cycles: used in one way.
            use: which.
            induction: for having been let in, with them: that is how most come, and a copy of the counts less.
        """
        self.consumed_cycles += cycles + induction
        if self.keeps_consumption and (cycles or induction):
            canister.consumed = consumed = canister.consumed.copy()
            consumed[use] += cycles
            consumed[_INGRESS_INDUCTION] += induction

    def note(self, kind: str, *fields: object) -> None:
        """Say what is about to be done, or is about to be committed, because somebody outside asked for it."""
        if self.inputs is not None:
            clock = Clock(self.time_ns, self.round_number, self.next_request_number)
            self.inputs.append(Input(kind, clock, fields))

    def note_round(self) -> None:
        """Say that a round begins. Rounds in which nothing is committed do not add up."""
        count = 0
        if self.inputs and self.inputs[-1].kind == "rounds":
            (count,) = self.inputs.pop().fields
        self.note("rounds", count + 1)

    def random_bytes(self, size_bytes: int = 32) -> bytes:
        """The next bytes of the subnet's randomness, a function of seed and counter alone."""
        self.random_counter += 1
        counter = self.random_counter.to_bytes(8, "big")
        return hashlib.shake_256(b"perdure randomness" + self.seed + counter).digest(size_bytes)

    def total_cycles(self) -> int:
        """Every cycle there is: minted and received is always this, plus consumed, plus lost, plus sent."""
        total = sum(map(cycles_of, (*self.outbox, *self.management_calls)))
        total += sum(outcall.cycles for outcall in self.outcalls.values())
        for canister in self.canisters.values():
            total += canister.cycles + canister.reserved_cycles
            total += sum(context.available_cycles for context in canister.contexts.values())
            total += sum(call.prepaid_execution + call.prepaid_transmission for call in canister.open_calls.values())
            total += sum(request.cycles for request in canister.stop_requests)
            total += sum(map(cycles_of, canister.inputs))
        return total
