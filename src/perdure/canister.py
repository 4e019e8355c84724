"""The hinge: what the rules and the engine say to each other.

The rules (`execution`) run a canister through `CanisterModule` and `CanisterInstance` and get back `Return` or `Trap`;
they know no engine. The engine (`embedder`) and canisters written in Python implement these protocols; they know no
rules. `Image` is what a memory is made of, see `perdure.image`.

Spec: "Abstract canisters" in the interface specification.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, unique
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, final, runtime_checkable

from perdure.image import (
    MAX_OWN_MEMORIES,
    MEMORY_KINDS,
    MEMORY_NAME,
    NO_FILE,
    Extent,
    Image,
    Lifetime,
    MemoryKind,
    PageDelta,
    memory_kinds,
)
from perdure.memory import Memory

__all__ = [
    "MAX_CYCLES",
    "MAX_OWN_MEMORIES",
    "MEMORY_KINDS",
    "MEMORY_NAME",
    "NO_CHANGE",
    "NO_FILE",
    "UNLIMITED",
    "Callback",
    "CanisterFacts",
    "CanisterInstance",
    "CanisterModule",
    "CanisterStatus",
    "Context",
    "Env",
    "Extent",
    "GlobalValue",
    "Handing",
    "HasModule",
    "Image",
    "Lifetime",
    "Limits",
    "MemoryKind",
    "Method",
    "MethodCall",
    "PageDelta",
    "Reject",
    "Reply",
    "Return",
    "StateDelta",
    "Trap",
    "TrapCode",
    "WasmState",
    "memory_kinds",
]

UNLIMITED = (1 << 63) - 1
MAX_CYCLES: Final = (1 << 128) - 1
"""The most that an amount of cycles or a balance can be."""
"""A limit that is never reached."""


@unique
class Context(Enum):
    """In which role a canister is entered; the letters are the interface specification's."""

    START = "s"
    INIT = "I"
    PRE_UPGRADE = "G"
    UPDATE = "U"
    REPLICATED_QUERY = "RQ"
    NON_REPLICATED_QUERY = "NRQ"
    TRANSFORM = "TQ"
    COMPOSITE_QUERY = "CQ"
    REPLY = "Ry"
    REJECT = "Rt"
    COMPOSITE_REPLY = "CRy"
    COMPOSITE_REJECT = "CRt"
    CLEANUP = "C"
    COMPOSITE_CLEANUP = "CC"
    INSPECT_MESSAGE = "F"
    SYSTEM_TASK = "T"

    bit: int
    """One each, so that a set of contexts is an integer: the kernel asks what is in one with an `and`."""


for _index, _context in enumerate(Context):
    _context.bit = 1 << _index


@unique
class CanisterStatus(IntEnum):
    """Numbers as `ic0.canister_status` returns them."""

    RUNNING = 1
    STOPPING = 2
    STOPPED = 3


class Method(NamedTuple):
    """An entry point by export name, such as ``canister_update transfer`` or ``canister_init``."""

    export_name: str

    @property
    def entered(self) -> str:
        """What it is called where entries are counted."""
        return self.export_name


class Callback(NamedTuple):
    """An entry point by table index, with the environment value that the canister gave."""

    table_index: int
    environment: int

    @property
    def entered(self) -> str:
        """As of a method: all callbacks are one, whose indices nobody knows."""
        return "callback"


EntryPoint = Method | Callback


@final
@dataclass(slots=True)
class CanisterFacts:
    """What a canister can ask about itself; changes rarely, so messages share one."""

    canister_id: bytes = b""
    subnet_id: bytes = b""
    root_key: bytes = b""
    controllers: frozenset[bytes] = frozenset()
    status: CanisterStatus = CanisterStatus.RUNNING
    version: int = 0
    environment_variables: Mapping[str, str] = field(default_factory=dict)


@final
@dataclass(slots=True)
class Limits:
    """Bounds of one message, all inclusive, and what its pages cost.

    A stable grow past `stable_wasm_pages` returns -1; past `stable_trap_wasm_pages` (a freezing or reservation limit)
    it traps. A heap grow past `heap_wasm_pages` traps.
    """

    instructions: int = UNLIMITED
    stable_accessed_pages: int = UNLIMITED
    stable_dirty_pages: int = UNLIMITED
    stable_wasm_pages: int = 8_192_000
    stable_trap_wasm_pages: int = UNLIMITED
    stable_trap_code: int = 0
    heap_wasm_pages: int = UNLIMITED
    heap_trap_code: int = 0
    reply_bytes: int = 2 << 20
    dirty_page_instructions: int = 1_000
    call_payload_bytes: int = 10 << 20
    call_timeout_seconds: int = 300
    queue_capacity: int = 500
    """Calls from this canister to another that may be open at a time."""
    log_bytes: int = 4 << 10
    """What the canister's log can hold; an entry keeps no more of what it prints."""
    print_instructions: int = 1
    """For each byte of ``debug_print``, beside the log: 0 where nobody sees what is printed."""


class Handing(NamedTuple):
    """What a call may take along."""

    wasm_pages: Mapping[str, int]
    """Sizes of the canister's memories, by name."""
    room_wasm_pages: int
    """How much the canister can keep beside what it has: until a callee has it, it is charged for."""


@final
@dataclass(slots=True)
class Env:
    """Everything that one entry into a canister may read. Times in ns, cycles and instructions in units."""

    context: Context
    facts: CanisterFacts
    limits: Limits
    time_ns: int = 0
    caller: bytes = b"\x04"
    arg: bytes = b""
    method_name: str = ""
    caller_info_data: bytes = b""
    caller_info_signer: bytes = b""
    reject_code: int = 0
    reject_message: str = ""
    deadline_ns: int = 0
    needs_to_respond: bool = True
    cycle_balance: int = 0
    liquid_cycle_balance: int = 0
    """Balance above the freezing limit; negative below it, so that cycles accepted later first fill the gap."""
    cycles_available: int = 0
    cycles_refunded: int = 0
    global_timer_ns: int = 0
    certificate: bytes | Callable[[], bytes] | None = None
    """Certificate of the certified data; a function makes it when it is first asked for, as signing is slow."""
    call_context_instructions: int = 0
    """Instructions that this call context has used before this execution, for ``performance_counter(1)``."""
    costs: CostTable | None = None
    """What ``cost_*`` answers; `None` makes them trap."""
    handing: Handing | None = None
    """What `SystemApi.call_memory_add` may hand over; `None`: nothing."""
    queue_room: Mapping[bytes, int] | None = None
    """Free places to callees whose queue is nearly full, for ``call_perform``; `None`: there is always room."""


class CostTable(Protocol):
    """Prices that a canister can ask for, in cycles.

    Raises:
        KeyError: an unknown key name.
        ValueError: an unknown curve or algorithm.
    """

    def call(self, method_name_bytes: int, payload_bytes: int) -> int:
        """Cycles of an inter-canister call, the largest response included."""
        ...

    def create_canister(self) -> int:
        """Cycles of creating a canister."""
        ...

    def http_request(self, request_bytes: int, max_response_bytes: int) -> int:
        """Cycles of an HTTP outcall."""
        ...

    def sign(self, scheme: str, key_name: str, algorithm: int) -> int:
        """Cycles of one ``sign_with_ecdsa``, ``sign_with_schnorr`` or ``vetkd_derive_key``, as `scheme` says."""
        ...


class Reply(NamedTuple):
    """The canister replied with these bytes."""

    data: bytes


class Reject(NamedTuple):
    """The canister (code 4) or the system rejected the call."""

    code: int
    message: str
    error_code: str = ""
    """``IC0xxx``; ``IC0406`` where the canister itself rejected."""
    backtrace: tuple[str, ...] = ()


@final
@dataclass(slots=True)
class MethodCall:
    """A call that a canister has performed, not yet sent."""

    callee: bytes
    method_name: str
    arg: bytes
    cycles: int
    on_reply: Callback
    on_reject: Callback
    on_cleanup: Callback | None = None
    timeout_seconds: int | None = None
    memories: Mapping[str, str] = field(default_factory=dict)
    """Memories that are handed over: by the name there, the name here."""


@final
@dataclass(slots=True)
class Return:
    """The entry returned. Nothing is part of the state until the rules commit it."""

    response: Reply | Reject | None = None
    calls: tuple[MethodCall, ...] = ()
    cycles_accepted: int = 0
    cycles_burned: int = 0
    certified_data: bytes | None = None
    global_timer_ns: int | None = None
    message_accepted: bool = False
    instructions: int = 0
    logs: tuple[bytes, ...] = ()
    """The newest lines that it printed, within `Limits.log_bytes`."""
    log_lines_dropped: int = 0
    """How many it printed before those."""
    heap_wasm_pages: int = 0
    stable_wasm_pages: int = 0
    stable_accessed_pages: int = 0
    stable_dirty_pages: int = 0
    heap_dirty_pages: int = 0
    """Pages of the heap whose bytes differ from before; charged, but not counted where changes are dropped anyway."""
    own_wasm_pages: Mapping[str, int] = field(default_factory=dict)
    """Sizes of the memories of its own that its module has, by name."""
    own_dirty_pages: Mapping[str, int] = field(default_factory=dict)
    """Pages of those whose bytes differ from before, by name, counted as those of the heap."""

    @property
    def written_pages(self) -> Mapping[str, int]:
        """Pages of 4 KiB that it wrote, by memory: ``heap``, ``stable``, and those of its own that there are any of."""
        found = {"heap": self.heap_dirty_pages, "stable": self.stable_dirty_pages}
        for name, count in self.own_dirty_pages.items():
            found[name] = found.get(name, 0) + count
        return found


@unique
class TrapCode(IntEnum):
    """Why an entry did not return. 1 to 6 are the replica's `InternalErrorCode`; the kernel writes them as numbers."""

    UNKNOWN = 0
    HEAP_OUT_OF_BOUNDS = 1
    STABLE_MEMORY_OUT_OF_BOUNDS = 2
    STABLE_MEMORY_TOO_BIG_FOR_32_BIT = 3
    MEMORY_WRITE_LIMIT_EXCEEDED = 4
    MEMORY_ACCESS_LIMIT_EXCEEDED = 5
    STABLE_GROW_FAILED = 6
    INSTRUCTION_LIMIT_EXCEEDED = 7
    WASM_MEMORY_LIMIT_EXCEEDED = 8
    OUT_OF_MEMORY = 9
    INSUFFICIENT_CYCLES_IN_MEMORY_GROW = 10
    RESERVED_CYCLES_LIMIT_EXCEEDED_IN_MEMORY_GROW = 11
    REPLY_TOO_LARGE = 12
    ALREADY_RESPONDED = 13
    ARGUMENT_OUT_OF_BOUNDS = 14
    UNREACHABLE = 32
    STACK_OVERFLOW = 33
    TABLE_OUT_OF_BOUNDS = 34
    INDIRECT_CALL_TO_NULL = 35
    BAD_SIGNATURE = 36
    INTEGER_OVERFLOW = 37
    INTEGER_DIVISION_BY_ZERO = 38
    BAD_CONVERSION_TO_INTEGER = 39
    INTERRUPTED = 40
    CYCLES_AMOUNT_TOO_BIG_FOR_64_BIT = 41
    READ_ONLY_MEMORY = 42
    CALLED_TRAP = 64
    CONTRACT_VIOLATION = 65
    """The message says which rule of which `ic0` function was broken."""
    METHOD_NOT_FOUND = 66
    WASM_MODULE_NOT_FOUND = 67


@final
@dataclass(slots=True)
class Trap:
    """The entry trapped; whatever it did to the state is to be rolled back.

    `message` is the canister's own text (``ic0.trap``) or what the broken rule says, without the replica's wrapping.
    `backtrace` has the innermost frame first, named from the name section where there is one.
    """

    code: TrapCode
    message: str = ""
    backtrace: tuple[str, ...] = ()
    instructions: int = 0
    logs: tuple[bytes, ...] = ()
    log_lines_dropped: int = 0


GLOBAL_BYTES: Final[Mapping[str, int]] = {"i32": 4, "i64": 8, "f32": 4, "f64": 8, "v128": 16}
"""Sizes of the values that a global may have."""


class GlobalValue(NamedTuple):
    """A global that is mutable or exported: its type (``i32 i64 f32 f64 v128``) and its bits, little-endian."""

    value_type: str
    bits: bytes


def wrong_global(value: GlobalValue) -> str | None:
    """What is wrong with a global that was read; `None`: nothing."""
    expected = GLOBAL_BYTES.get(value.value_type)
    if expected is None:
        return f"a global of type {value.value_type!r:.20}, expected one of {', '.join(GLOBAL_BYTES)}"
    found = len(value.bits)
    return None if found == expected else f"{found} bytes of a global of type {value.value_type}, expected {expected}"


class StateDelta(NamedTuple):
    """What one message changed in a canister's state: its memories by name, and all globals or, unchanged, `None`.

    A memory that is missing did not change.
    """

    memories: Mapping[str, PageDelta]
    global_values: tuple[GlobalValue, ...] | None = None


NO_CHANGE: Final = StateDelta(MappingProxyType({}))
"""What a message changed that changed nothing."""


@final
@dataclass(slots=True)
class WasmState:
    """The state of a canister, and nothing else: its memories, and globals that are mutable or exported.

    `memories` has all those that its module names, and those that an earlier module left.
    """

    memories: dict[str, Image]
    global_values: tuple[GlobalValue, ...] | None = None
    """`None`: a module that has never run; its own initial values, its data segments not yet applied."""


class CanisterModule(Protocol):
    """A canister's code: validated, ready to be instantiated any number of times."""

    @property
    def module_hash(self) -> bytes:
        """SHA-256 of the module as uploaded (compressed, if it was)."""
        ...

    @property
    def wasm(self) -> bytes:
        """The module as uploaded."""
        ...

    @property
    def exported_methods(self) -> frozenset[str]:
        """Names of exported entry points: ``canister_init``, ``canister_query get``, ``canister_start``..."""
        ...

    @property
    def custom_sections(self) -> Mapping[str, bytes]:
        """Custom sections by full name, ``icp:public candid:service``."""
        ...

    @property
    def is_64(self) -> bool:
        """Whether its heap has 64-bit addresses; its instructions then cost more cycles."""
        ...

    @property
    def operators(self) -> int:
        """Operators of the module as the replica instruments it, which compiling is charged by; 0: not Wasm."""
        ...

    @property
    def memories(self) -> Mapping[str, MemoryKind]:
        """The memories that its instances have, by name, always in the same order."""
        ...

    @property
    def global_types(self) -> tuple[str, ...]:
        """Types of the globals that are state, in the network's order."""
        ...

    @property
    def name(self) -> str:
        """What code that is no Wasm is called in all of its versions; empty: it is Wasm."""
        ...

    @property
    def schema(self) -> bytes:
        """What code that is no Wasm declares of its state, in a form of its own."""
        ...

    @property
    def absent(self) -> str:
        """Why it cannot be run: it is not here. Its memories can be read, and given to other code. Empty: it can."""
        ...

    def instantiate(self, state: WasmState) -> CanisterInstance:
        """An instance over `state`. Start code does not run; a fresh state gets its data segments applied."""
        ...


@runtime_checkable
class HasModule(Protocol):
    """Something that stands for a canister's code, as ``os.PathLike`` stands for a path: a class in Python."""

    def __canister_module__(self) -> CanisterModule:
        """The code."""
        ...


class CanisterInstance(Protocol):
    """A canister's code and state, kept between messages.

    After `run` the state is uncommitted until `commit` or `roll_back`. One thread at a time.
    """

    @property
    def module(self) -> CanisterModule:
        """The code."""
        ...

    @property
    def memories(self) -> Mapping[str, Memory]:
        """All memories of its state by name, as they stand, uncommitted changes included."""
        ...

    @property
    def global_values(self) -> tuple[GlobalValue, ...]:
        """Globals that are mutable or exported, in the replica's order, as committed."""
        ...

    def run(self, entry_point: EntryPoint, env: Env) -> Trap | Return:
        """Enter the canister. A missing `Method` is `Trap(METHOD_NOT_FOUND)`, a bad `Callback` traps as Wasm says."""
        ...

    @property
    def is_dirty(self) -> bool:
        """Whether anything is uncommitted, or may be: `run` came out with an exception, or nobody ended its message."""
        ...

    @property
    def is_waiting(self) -> bool:
        """Whether it holds what no image has, so that none can take its place: a method in an ``await``."""
        ...

    def changes(self) -> StateDelta:
        """What is uncommitted. The runs are views, valid until the next `run`, `commit` or `roll_back`."""
        ...

    def prepare(self) -> StateDelta:
        """What `commit` is going to commit, having room for it; the runs are views, as those of `changes`.

        Raises:
            StorageError: there is no room; nothing has changed.
        """
        ...

    def commit(self) -> StateDelta:
        """Make the uncommitted state the committed one: hand its pages to the images. Returns what changed."""
        ...

    def roll_back(self) -> None:
        """Drop everything uncommitted, globals included."""
        ...

    def save(self) -> StateDelta:
        """Copy what is uncommitted, for `restore`; composite queries need several uncommitted states at once."""
        ...

    def restore(self, saved: StateDelta) -> None:
        """Roll back, then apply `saved`, uncommitted."""
        ...

    def successor(
        self, module: CanisterModule, *, keep: Collection[str], added: Mapping[str, Image]
    ) -> CanisterInstance:
        """An instance of `module` that takes over the memories, uncommitted changes included (upgrade, reinstall).

        What `keep` does not name starts empty; globals start at the module's initial values. `added` has images for
        the memories that the predecessor does not have. The predecessor must not run meanwhile. `commit` on the
        successor makes the change final; `roll_back` on the successor discards it, and the predecessor is again what
        was last committed.
        """
        ...

    def close(self) -> None:
        """Let go of memories and engine; the images stay."""
        ...
