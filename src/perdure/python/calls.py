"""What the code of a Python canister says to the network: who calls, what time it is, calls to other canisters.

All of it works only while the network runs the canister; elsewhere it raises `RuntimeError`.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from typing import Final, NamedTuple, NoReturn, final

from perdure.candid import Codec, parse_type
from perdure.candid.types import Func, Value
from perdure.canister import Callback
from perdure.ic.principal import Principal
from perdure.system_api import SystemApi

__all__ = [
    "ON_CLEANUP",
    "ON_REJECT",
    "ON_REPLY",
    "Batch",
    "Call",
    "Entry",
    "Ic",
    "RejectedError",
    "call",
    "entered",
    "gather",
    "ic",
    "notify",
    "perform",
    "reject",
    "trap",
]


ON_REPLY, ON_REJECT, ON_CLEANUP = range(3)
"""Table indexes of the callbacks of every call."""


class Entry(NamedTuple):
    """One entry of the network into a canister."""

    api: SystemApi


_here = threading.local()


@final
class entered:  # noqa: N801 -- reads as what it says in a with statement
    """The context in which `ic` speaks for `entry`."""

    __slots__ = ("_before", "_entry")

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def __enter__(self) -> None:
        self._before: Entry | None = getattr(_here, "entry", None)
        _here.entry = self._entry

    def __exit__(self, *error: object) -> None:
        _here.entry = self._before


def _api() -> SystemApi:
    entry: Entry | None = getattr(_here, "entry", None)
    if entry is None:
        raise RuntimeError("no canister is running: this works only in code that the network has called")
    return entry.api


@final
class RejectedError(Exception):
    """Ends a method with a rejection. What the method did stays, as the interface specification wants it."""


def reject(message: str) -> NoReturn:
    """Reject the call that is being answered. What the method did so far stays; `trap` undoes it."""
    raise RejectedError(message)


def trap(message: str) -> NoReturn:
    """End the method and undo what it did. Value other exception does the same."""
    raise _api().trap(message.encode())


@final
class Ic:
    """The network as the running canister sees it. Times in ns, amounts in cycles."""

    @property
    def caller(self) -> Principal:
        """Who made the call, also after an ``await``."""
        return Principal(_api().msg_caller())

    @property
    def id(self) -> Principal:
        """The canister itself."""
        return Principal(_api().canister_self())

    @property
    def subnet_id(self) -> Principal:
        """The subnet that the canister is on."""
        return Principal(_api().subnet_self())

    @property
    def time_ns(self) -> int:
        """Now, since 1970; the same throughout one entry."""
        return _api().time()

    @property
    def balance(self) -> int:
        """The canister's cycles."""
        return _api().canister_cycle_balance()

    @property
    def cycles_available(self) -> int:
        """Cycles that came with the call and were not accepted."""
        return _api().msg_cycles_available()

    @property
    def cycles_refunded(self) -> int:
        """Cycles that came back with the answer awaited last."""
        return _api().msg_cycles_refunded()

    @property
    def method_name(self) -> str:
        """In ``inspect_message``: the method that is to be called."""
        return _api().msg_method_name().decode()

    @property
    def arg(self) -> bytes:
        """In ``inspect_message``: the argument as it came."""
        return _api().msg_arg_data()

    @property
    def version(self) -> int:
        """Grows with each change of state or settings."""
        return _api().canister_version()

    def accept_cycles(self, at_most: int) -> int:
        """Take cycles that came with the call; how many there were."""
        return _api().msg_cycles_accept(at_most)

    def is_controller(self, principal: Principal) -> bool:
        """Whether `principal` controls the canister."""
        return _api().is_controller(principal.raw_bytes)

    def print(self, *values: object) -> None:
        """Write a line to the canister's log."""
        _api().debug_print(" ".join(map(str, values)).encode())

    def set_timer(self, time_ns: int) -> int:
        """Have the ``@timer`` method called at this time, 0 for never; the time that was set before."""
        return _api().global_timer_set(time_ns)

    def certify(self, data: bytes) -> None:
        """Certify up to 32 bytes."""
        _api().certified_data_set(data)

    @property
    def certificate(self) -> bytes | None:
        """In a query: the certificate of the certified data."""
        api = _api()
        return api.data_certificate() if api.data_certificate_present() else None

    def variable(self, name: str) -> str | None:
        """An environment variable of the canister."""
        api, key = _api(), name.encode()
        return api.env_var_value(key).decode() if api.env_var_name_exists(key) else None


ic: Final = Ic()
"""The network as the running canister sees it."""


@final
class Batch:
    """Calls that are made together; what an ``await`` hands to the machinery. Their results come as a list."""

    __slots__ = ("calls",)

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls


@final
class Call:
    """A call to another canister that is made when it is awaited."""

    def __init__(self, callee: Principal, method: str, arg: bytes, cycles: int, timeout: int | None) -> None:
        self.callee = callee
        self.method = method
        self.arg = arg
        self.cycles = cycles
        self.timeout = timeout
        self.memories: Mapping[str, str] = {}
        self.results: Codec | None = None

    def __await__(self) -> Generator[Batch, list[Value], Value]:
        (answer,) = yield Batch([self])
        return self.value(answer)

    def value(self, answer: bytes | Exception) -> Value:
        """The result in an answer, or its error raised."""
        if isinstance(answer, Exception):
            raise answer
        if self.results is None:
            return answer
        values = self.results.decode(answer)
        return values[0] if len(values) == 1 else (values or None)


def call(
    callee: Principal,
    method: str,
    *args: Value,
    signature: str | None = None,
    cycles: int = 0,
    timeout: int | None = None,
    memories: Mapping[str, str] | None = None,
) -> Call:
    """A call of another canister, made when it is awaited.

        balance = await call(ledger, "balance", alice, signature="(principal) -> (nat)")

    Args:
        callee: the canister.
        method: its name.
        args: values of the types in `signature`; without one, at most one argument, in bytes.
        signature: as in a ``.did`` file; without one, bytes go and bytes come.
        cycles: to send along.
        timeout: seconds after which the call counts as failed (a bounded-wait call); by default it waits.
        memories: what to hand over, an extension: by the name there, ``stable`` or the name of a memory of its own.

    Returns:
        To be awaited: the result, `None`, or a tuple of results. A rejection raises `RejectError` at the ``await``.

    Raises:
        ValueError: the arguments do not fit the signature.
    """
    if signature is None:
        if len(args) > 1 or not all(isinstance(one, bytes) for one in args):
            raise ValueError("a call without a signature takes one argument in bytes")
        made = Call(callee, method, args[0] if args else b"", cycles, timeout)
    else:
        func = parse_type(f"func {signature}")
        if not isinstance(func, Func):
            raise ValueError(f"signature {signature!r} is not that of a function")
        made = Call(callee, method, Codec(func.args).encode(args), cycles, timeout)
        made.results = Codec(func.results)
    made.memories = memories or {}
    return made


@final
class _Gathered:
    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls

    def __await__(self) -> Generator[Batch, list[Value], list[Value]]:
        answers = yield Batch(self._calls)
        return [one.value(answer) for one, answer in zip(self._calls, answers, strict=True)]


def gather(*calls: Call) -> _Gathered:
    """Several calls, made at the same time; awaiting gives their results in order, or raises the first rejection."""
    return _Gathered(calls)


def perform(api: SystemApi, call: Call, environment: int) -> int:
    """Make a call whose callbacks get `environment`; 0, or a reject code: it was not made."""
    api.call_new(
        call.callee.raw_bytes,
        call.method.encode(),
        Callback(ON_REPLY, environment),
        Callback(ON_REJECT, environment),
    )
    api.call_on_cleanup(Callback(ON_CLEANUP, environment))
    api.call_data_append(call.arg)
    if call.cycles:
        api.call_cycles_add(call.cycles)
    for there, name in call.memories.items():
        api.call_memory_add(name, there)
    if call.timeout is not None:
        api.call_with_best_effort_response(call.timeout)
    return api.call_perform()


def notify(callee: Principal, method: str, *args: object, signature: str | None = None, cycles: int = 0) -> None:
    """Make a call and do not wait for its answer; arguments as for `call`."""
    perform(_api(), call(callee, method, *args, signature=signature, cycles=cycles), 0)
