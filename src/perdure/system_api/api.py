"""The meaning of each `ic0` function in values, not addresses, over one entry's `Env`; effects gather in a `Return`.

One `SystemApi` lives for one entry into a canister. Canisters written in Python use it directly; Wasm comes in through
`host_functions`, which copies between memory and these methods. A method called from a context that the `ic0` table
does not allow raises `CanisterTrap`, as does every other rule that says "traps". Stable memory is not here: it belongs
to the machine.

Spec: "System API" and "System imports" in the interface specification.
"""

from __future__ import annotations

from typing import Final, final

from perdure.canister import (
    Callback,
    Context,
    CostTable,
    Env,
    MethodCall,
    Reject,
    Reply,
    Return,
    Trap,
    TrapCode,
)
from perdure.ic.ic0 import FUNCTIONS, NON_SPECIFIED
from perdure.ic.ic0_ext import HOSTED
from perdure.ic.principal import MAX_PRINCIPAL_BYTES, Principal
from perdure.ic.reject import RejectCode
from perdure.system_api.log import EntryLog
from perdure.system_api.wording import (
    CanisterTrap,
    already_responded,
    can_keep,
    cannot_hand_over,
    out_of_range,
    reply_too_large,
    wrong_context,
)

__all__ = [
    "MAX_CERTIFIED_DATA_BYTES",
    "MAX_ENVIRONMENT_VARIABLE_NAME_BYTES",
    "MAX_METHOD_NAME_BYTES",
    "MAX_TRAP_TEXT_BYTES",
    "SystemApi",
]

MAX_CERTIFIED_DATA_BYTES: Final = 32
MAX_ENVIRONMENT_VARIABLE_NAME_BYTES: Final = 128
MAX_METHOD_NAME_BYTES: Final = 20_000
MAX_TRAP_TEXT_BYTES: Final = 16 << 10
"""Longer texts of ``trap`` are cut."""

_CYCLES_MINTING_CANISTER: Final = "rkp4c-7iaaa-aaaaa-aaaca-cai"
_NON_REPLICATED: Final = frozenset(["F", "NRQ", "TQ", "CQ", "CRy", "CRt", "CC"])

_LETTER_BIT: Final = {context.value: context.bit for context in Context}
_ALLOWED: Final = {
    name: sum(_LETTER_BIT[letter] for letter in function.contexts)
    for name, function in {**FUNCTIONS, **NON_SPECIFIED, **HOSTED}.items()
}
_REPLICATED_BITS: Final = sum(bit for letter, bit in _LETTER_BIT.items() if letter not in _NON_REPLICATED)
_COMPOSITE_BITS: Final = sum(_LETTER_BIT[letter] for letter in ("CQ", "CRy", "CRt"))


@final
class SystemApi:
    """The System API of one entry. Amounts of cycles are plain integers."""

    __slots__ = (
        "_accepted",
        "_bit",
        "_burned",
        "_certified_data",
        "_committed_to_calls",
        "_global_timer_ns",
        "_message_accepted",
        "_name_bytes",
        "_pending",
        "_pending_arg",
        "_reply",
        "_responded",
        "calls",
        "env",
        "log",
        "response",
    )

    def __init__(self, env: Env) -> None:
        self.env = env
        self.response: Reply | Reject | None = None
        self.calls: list[MethodCall] | None = None
        self.log: EntryLog | None = None
        self._bit = env.context.bit
        self._responded = not env.needs_to_respond
        self._reply: bytearray | None = None
        self._pending: MethodCall | None = None
        self._pending_arg = bytearray()
        self._name_bytes = 0
        self._accepted = 0
        self._burned = 0
        self._committed_to_calls = 0
        self._certified_data: bytes | None = None
        self._global_timer_ns: int | None = None
        self._message_accepted = False

    # -- the end of an entry

    def finish(self) -> Return:
        """The effects of an entry that returned; the engine adds instructions and pages."""
        return Return(
            response=self.response,
            calls=tuple(self.calls or ()),
            cycles_accepted=self._accepted,
            cycles_burned=self._burned,
            certified_data=self._certified_data,
            global_timer_ns=self._global_timer_ns,
            message_accepted=self._message_accepted,
            logs=() if self.log is None else tuple(self.log.lines),
            log_lines_dropped=0 if self.log is None else self.log.dropped,
        )

    def fail(self, trap: CanisterTrap, *, backtrace: tuple[str, ...] = (), instructions: int = 0) -> Trap:
        """What is left of an entry that trapped: why, and what it logged."""
        return self.keep_log(Trap(trap.code, trap.message, backtrace, instructions))

    def keep_log(self, trap: Trap) -> Trap:
        """Give a trap what the entry had logged."""
        if self.log is not None:
            trap.logs, trap.log_lines_dropped = tuple(self.log.lines), self.log.dropped
        return trap

    def check(self, function: str) -> None:
        """Trap unless `function` may be called in this context."""
        if not self._bit & _ALLOWED[function]:
            raise self._violation(wrong_context(function, self.env.context, self.env.method_name))

    @staticmethod
    def _violation(message: str) -> CanisterTrap:
        return CanisterTrap(TrapCode.CONTRACT_VIOLATION, message)

    # -- method arguments and callers

    def msg_arg_data(self) -> bytes:
        """The argument; in a reply callback the reply."""
        self.check("msg_arg_data_copy")
        return self.env.arg

    def msg_caller(self) -> bytes:
        """The caller's principal; in callbacks that of the call context; the management canister in system tasks."""
        self.check("msg_caller_copy")
        return self.env.caller

    def msg_caller_info_data(self) -> bytes:
        """What the signer of the caller's identity attests, else empty."""
        self.check("msg_caller_info_data_copy")
        return self.env.caller_info_data

    def msg_caller_info_signer(self) -> bytes:
        """The canister that signed for the caller's identity, else empty."""
        self.check("msg_caller_info_signer_copy")
        return self.env.caller_info_signer

    def msg_reject_code(self) -> int:
        """Reject code of the response being handled, 0 for a reply."""
        self.check("msg_reject_code")
        return self.env.reject_code

    def msg_reject_msg(self) -> bytes:
        """Reject text of the response being handled."""
        self.check("msg_reject_msg_copy")
        return self.env.reject_message.encode()

    def msg_deadline(self) -> int:
        """When a bounded-wait call expires, ns; 0: never."""
        self.check("msg_deadline")
        return self.env.deadline_ns

    def msg_method_name(self) -> bytes:
        """The method that the message to be inspected wants to call."""
        self.check("msg_method_name_copy")
        return self.env.method_name.encode()

    def accept_message(self) -> None:
        """Let the inspected message in."""
        self.check("accept_message")
        if self._message_accepted:
            raise self._violation("ic0.accept_message: the function was already called.")
        self._message_accepted = True

    # -- responding

    def check_may_respond(self, function: str) -> None:
        """Trap unless a response may still be given."""
        self.check(function)
        if self._responded:
            raise CanisterTrap(TrapCode.ALREADY_RESPONDED, already_responded(function))

    def check_reply_room(self, size_bytes: int) -> None:
        """Trap unless a reply may be appended to by `size_bytes`."""
        self.check_may_respond("msg_reply_data_append")
        new_bytes = size_bytes if self._reply is None else size_bytes + len(self._reply)
        if new_bytes > self.env.limits.reply_bytes:
            message = reply_too_large("msg_reply_data_append", new_bytes, self.env.limits.reply_bytes)
            raise CanisterTrap(TrapCode.REPLY_TOO_LARGE, message)

    def note_responded(self) -> None:
        """Learn that the entry has responded elsewhere: where ``msg_reply`` runs as Wasm, it does not come by here."""
        self._responded = True

    def msg_reply_data_append(self, data: bytes) -> None:
        """Append to the reply that `msg_reply` will send."""
        self.check_reply_room(len(data))
        if self._reply is None:
            self._reply = bytearray()
        self._reply += data

    def msg_reply(self) -> None:
        """Reply with what was appended."""
        self.check_may_respond("msg_reply")
        self._responded = True
        self.response = Reply(bytes(self._reply) if self._reply else b"")

    def msg_reject(self, message: bytes) -> None:
        """Reject with a text in UTF-8; what was appended is forgotten."""
        self.check_may_respond("msg_reject")
        limit_bytes = self.env.limits.reply_bytes
        if len(message) > limit_bytes:
            text = reply_too_large("msg_reject", len(message), limit_bytes)
            raise CanisterTrap(TrapCode.REPLY_TOO_LARGE, text)
        try:
            text = message.decode()
        except UnicodeDecodeError:
            raise self._violation("ic0.msg_reject: invalid UTF-8 string provided") from None
        self._responded = True
        self.response = Reject(RejectCode.CANISTER_REJECT, text, "IC0406")

    # -- cycles

    def _available(self) -> int:
        # "When the call is responded to (reply or reject), all available cycles are refunded to the caller, and this
        # will return 0." The replica refunds when the entry ends: until then they are there, and can be accepted.
        return self.env.cycles_available - self._accepted

    def _balance_change(self) -> int:
        attached = self._pending.cycles if self._pending is not None else 0
        return self._accepted - self._burned - self._committed_to_calls - attached

    def _liquid(self) -> int:
        return max(0, self.env.liquid_cycle_balance + self._balance_change())

    def msg_cycles_available(self, function: str = "msg_cycles_available128") -> int:
        """Cycles that came with the call and have not been accepted."""
        self.check(function)
        return self._available()

    def msg_cycles_refunded(self, function: str = "msg_cycles_refunded128") -> int:
        """Cycles that came back with the response, already in the balance."""
        self.check(function)
        return self.env.cycles_refunded

    def msg_cycles_accept(self, max_amount: int, function: str = "msg_cycles_accept128") -> int:
        """Move up to `max_amount` from the call to the balance; what was moved."""
        self.check(function)
        amount = min(max_amount, self._available())
        self._accepted += amount
        return amount

    def cycles_burn(self, amount: int) -> int:
        """Burn up to `amount` of the liquid balance; what was burned."""
        self.check("cycles_burn128")
        burned = min(amount, self._liquid())
        self._burned += burned
        return burned

    def canister_cycle_balance(self, function: str = "canister_cycle_balance128") -> int:
        """Balance, less what this entry has already given away."""
        self.check(function)
        return max(0, self.env.cycle_balance + self._balance_change())

    def canister_liquid_cycle_balance(self) -> int:
        """The part of the balance above the freezing limit."""
        self.check("canister_liquid_cycle_balance128")
        return self._liquid()

    def mint_cycles(self, function: str = "mint_cycles128") -> None:
        """Trap: only the cycles minting canister mints, and it is not here."""
        self.check(function)
        canister = Principal(self.env.facts.canister_id)
        raise self._violation(
            "ic0.mint_cycles cannot be executed on non Cycles Minting Canister: "
            f"{canister} != {_CYCLES_MINTING_CANISTER}"
        )

    # -- the canister itself

    def canister_self(self) -> bytes:
        """The canister's own id."""
        self.check("canister_self_copy")
        return self.env.facts.canister_id

    def canister_status(self) -> int:
        """1 running, 2 stopping, 3 stopped."""
        self.check("canister_status")
        return self.env.facts.status

    def canister_version(self) -> int:
        """Grows with each change of state or settings."""
        self.check("canister_version")
        return self.env.facts.version

    def subnet_self(self) -> bytes:
        """The id of the canister's subnet."""
        self.check("subnet_self_copy")
        return self.env.facts.subnet_id

    def root_key(self) -> bytes:
        """The DER-encoded BLS key that certificates are to be checked against."""
        self.check("root_key_copy")
        return self.env.facts.root_key

    def is_controller(self, principal: bytes) -> bool:
        """Whether `principal` controls this canister; traps unless it is one."""
        self.check("is_controller")
        self._check_principal(principal)
        return principal in self.env.facts.controllers

    def _check_principal(self, principal: bytes) -> None:
        if len(principal) > MAX_PRINCIPAL_BYTES:
            raise self._violation("Canister provided invalid principal id")

    # -- calls

    def call_new(self, callee: bytes, method_name: bytes, on_reply: Callback, on_reject: Callback) -> None:
        """Begin a call; one under construction is dropped and its cycles return."""
        self.check("call_new")
        self._pending = None
        self.check_method_name_bytes(len(method_name))
        self._check_principal(callee)
        text = method_name.decode(errors="replace")
        self._name_bytes = len(text.encode())
        self._pending_arg = bytearray()
        self._pending = MethodCall(callee, text, b"", 0, on_reply, on_reject)

    def check_method_name_bytes(self, size_bytes: int) -> None:
        """Trap unless a method may have a name so long."""
        if size_bytes > MAX_METHOD_NAME_BYTES:
            raise self._violation(
                f"Size of method_name {size_bytes} exceeds the allowed limit of {MAX_METHOD_NAME_BYTES}."
            )

    def _construction(self, function: str) -> MethodCall:
        self.check(function)
        if self._pending is None:
            # The two functions that add cycles share code in the replica that names them with an underscore.
            separator = "_" if function.startswith("call_cycles_add") else "."
            raise self._violation(f"ic0{separator}{function} called when no call is under construction.")
        return self._pending

    def call_on_cleanup(self, on_cleanup: Callback) -> None:
        """Name the callback for the case that another callback traps; once per call."""
        call = self._construction("call_on_cleanup")
        if call.on_cleanup is not None:
            raise self._violation(
                "ic0.call_on_cleanup can be called at most once between `ic0.call_new` and `ic0.call_perform`"
            )
        call.on_cleanup = on_cleanup

    def check_payload_room(self, size_bytes: int) -> None:
        """Trap unless the argument of the call may be appended to by `size_bytes`."""
        call = self._construction("call_data_append")
        payload_bytes = self._name_bytes + len(self._pending_arg) + size_bytes
        limit_bytes = self.env.limits.call_payload_bytes
        if payload_bytes > limit_bytes:
            raise self._violation(
                f"Request to {Principal(call.callee)}:{call.method_name} has a payload size of {payload_bytes}, "
                f"which exceeds the allowed limit of {limit_bytes}."
            )

    def call_data_append(self, data: bytes) -> None:
        """Append to the argument of the call."""
        self.check_payload_room(len(data))
        self._pending_arg += data

    def call_with_best_effort_response(self, timeout_seconds: int) -> None:
        """Make it a bounded-wait call, of the longest time allowed at most; once per call."""
        call = self._construction("call_with_best_effort_response")
        if call.timeout_seconds is not None:
            raise self._violation("ic0_call_with_best_effort_response failed because a timeout is already set.")
        call.timeout_seconds = min(timeout_seconds, self.env.limits.call_timeout_seconds)

    def call_cycles_add(self, amount: int, function: str = "call_cycles_add128") -> None:
        """Move `amount` from the balance onto the call; traps beyond the liquid balance."""
        call = self._construction(function)
        if amount > self._liquid():
            raise self._violation(f"Canister {Principal(self.env.facts.canister_id)} is out of cycles")
        call.cycles += amount

    def call_memory_add(self, name: str, there: str) -> None:
        """Hand over a memory with the call, as it will be when this message commits; see `MethodCall.memories`."""
        call = self._construction("call_memory_add")
        refusal = cannot_hand_over(name, there, call.memories, self.env.handing)
        if refusal:
            raise self._violation(refusal)
        call.memories = {**call.memories, there: name}

    def call_perform(self) -> int:
        """Conclude the call: 0 queued, 2 not performed (no callback will run, its cycles are back)."""
        call = self._construction("call_perform")
        self._pending = None
        price = 0
        if not self._bit & _COMPOSITE_BITS and self.env.costs is not None:
            price = self.env.costs.call(self._name_bytes, len(self._pending_arg))
        is_payable = price + call.cycles <= self._liquid() and can_keep(self.env.handing, call, self.calls)
        if not is_payable or not self._has_room(call.callee):
            return RejectCode.SYS_TRANSIENT
        call.arg = bytes(self._pending_arg)
        self._committed_to_calls += price + call.cycles
        if self.calls is None:
            self.calls = []
        self.calls.append(call)
        return 0

    def _has_room(self, callee: bytes) -> bool:
        room = self.env.limits.queue_capacity
        if self.env.queue_room is not None:
            room = self.env.queue_room.get(callee, room)
        if self.calls is None or len(self.calls) < room:
            return room > 0
        return sum(1 for call in self.calls if call.callee == callee) < room

    # -- certified data, time, timer, counters

    def check_certified_data_bytes(self, size_bytes: int) -> None:
        """Trap unless so many bytes may be certified here."""
        self.check("certified_data_set")
        if size_bytes > MAX_CERTIFIED_DATA_BYTES:
            raise self._violation(
                "ic0_certified_data_set failed because the passed data must be no larger than "
                f"{MAX_CERTIFIED_DATA_BYTES} bytes. Found {size_bytes} bytes."
            )

    def certified_data_set(self, data: bytes) -> None:
        """Certify up to 32 bytes once this entry commits."""
        self.check_certified_data_bytes(len(data))
        self._certified_data = bytes(data)

    def data_certificate_present(self) -> bool:
        """Whether there is a certificate to fetch."""
        self.check("data_certificate_present")
        certified = self._bit & _ALLOWED["data_certificate_copy"]
        return bool(certified) and self.env.certificate is not None

    def data_certificate(self, function: str = "data_certificate_copy") -> bytes:
        """The certificate of the certified data; traps when there is none."""
        self.check(function)
        certificate = self.env.certificate
        if certificate is None:
            raise self._violation(wrong_context(function, self.env.context, self.env.method_name))
        if not isinstance(certificate, bytes):
            certificate = self.env.certificate = certificate()
        return certificate

    def time(self) -> int:
        """Now, ns since 1970; the same throughout one entry."""
        self.check("time")
        return self.env.time_ns

    def global_timer_set(self, time_ns: int) -> int:
        """Set the timer, or stop it with 0; the timer that was set before."""
        self.check("global_timer_set")
        previous_ns = self.env.global_timer_ns if self._global_timer_ns is None else self._global_timer_ns
        self._global_timer_ns = time_ns
        return previous_ns

    def performance_counter(self, counter_type: int, instructions: int = 0) -> int:
        """Instructions of this entry (0) or of the whole call context (1).

        Args:
            counter_type: other values than 0 and 1 trap.
            instructions: of this entry so far.
        """
        self.check("performance_counter")
        if counter_type == 0:
            return instructions
        if counter_type == 1:
            return self.env.call_context_instructions + instructions
        raise self._violation(f"Error getting performance counter type {counter_type}")

    def in_replicated_execution(self) -> bool:
        """Whether every node of the subnet runs this entry."""
        self.check("in_replicated_execution")
        return bool(self._bit & _REPLICATED_BITS)

    # -- prices

    def _costs(self, function: str) -> CostTable:
        self.check(function)
        if self.env.costs is None:
            raise self._violation(f"ic0.{function}: there is no cost table in this context")
        return self.env.costs

    def cost_call(self, method_name_bytes: int, payload_bytes: int) -> int:
        """Cycles that an inter-canister call needs, reservations included."""
        return self._costs("cost_call").call(method_name_bytes, payload_bytes)

    def cost_create_canister(self) -> int:
        """Cycles of creating a canister."""
        return self._costs("cost_create_canister").create_canister()

    def cost_http_request(self, request_bytes: int, max_response_bytes: int) -> int:
        """Cycles of an HTTP outcall."""
        return self._costs("cost_http_request").http_request(request_bytes, max_response_bytes)

    def cost_sign(self, function: str, key_name: bytes, algorithm: int) -> tuple[int, int]:
        """What a signature or key derivation costs.

        Args:
            function: ``cost_sign_with_ecdsa``, ``cost_sign_with_schnorr`` or ``cost_vetkd_derive_key``.
            key_name: in UTF-8, else traps.
            algorithm: curve or algorithm by number.

        Returns:
            0 and the cycles; 1 (unknown curve or algorithm) or 2 (unknown key) and 0.
        """
        costs = self._costs(function)
        try:
            name = key_name.decode()
        except UnicodeDecodeError:
            lossy = key_name.decode(errors="replace")
            raise self._violation(f"Failed to decode key name {lossy}") from None
        try:
            return 0, costs.sign(function.removeprefix("cost_"), name, algorithm)
        except ValueError:
            return 1, 0
        except KeyError:
            return 2, 0

    # -- environment variables

    def env_var_count(self) -> int:
        """How many environment variables the canister has."""
        self.check("env_var_count")
        return len(self.env.facts.environment_variables)

    def env_var_name(self, index: int, function: str = "env_var_name_copy") -> bytes:
        """The name at `index` in the sorted list of names."""
        self.check(function)
        names = sorted(name.encode() for name in self.env.facts.environment_variables)
        if index >= len(names):
            raise self._violation(
                f"Environment variable index {index} is out of bounds. "
                f"The number of environment variables is {len(names)}."
            )
        return names[index]

    def check_variable_name_bytes(self, function: str, size_bytes: int) -> None:
        """Trap unless an environment variable may have a name so long."""
        self.check(function)
        if size_bytes > MAX_ENVIRONMENT_VARIABLE_NAME_BYTES:
            raise self._violation(f"ic0.{function}: Variable name is too large.")

    def _variable_name(self, name: bytes, function: str) -> str:
        self.check_variable_name_bytes(function, len(name))
        try:
            return name.decode()
        except UnicodeDecodeError:
            raise self._violation(f"ic0.{function}: Variable name is not a valid UTF-8 string.") from None

    def env_var_name_exists(self, name: bytes) -> bool:
        """Whether there is a variable of this name."""
        return self._variable_name(name, "env_var_name_exists") in self.env.facts.environment_variables

    def env_var_value(self, name: bytes, function: str = "env_var_value_copy") -> bytes:
        """The value of the variable of this name; traps if there is none."""
        text = self._variable_name(name, function)
        value = self.env.facts.environment_variables.get(text)
        if value is None:
            raise self._violation(f"Environment variable {text} not found.")
        return value.encode()

    # -- debugging aids

    def debug_print(self, data: bytes) -> None:
        """Append to the canister's log."""
        if self.log is None:
            self.log = EntryLog(self.env.limits.log_bytes)
        self.log.append(data)

    def trap(self, message: bytes) -> CanisterTrap:
        """What to raise: ``raise api.trap(b"...")``."""
        return CanisterTrap(TrapCode.CALLED_TRAP, message[:MAX_TRAP_TEXT_BYTES].decode(errors="replace"))

    def part(self, what: str, data: bytes, offset: int, size_bytes: int) -> bytes:
        """A slice of a value, trapping where it leaves the value; `what` names it in the message."""
        if offset + size_bytes > len(data):
            raise self._violation(out_of_range(what, offset, size_bytes, len(data)))
        return data[offset : offset + size_bytes]
