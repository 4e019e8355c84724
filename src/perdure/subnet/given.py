"""What callers give from outside, as the rules take it, or a `TypeError` or `ValueError` that says what to give.

The rules are sure of their types, and commit what they are given: a fraction of a nanosecond would stay in the clock.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from perdure.canister import MAX_CYCLES
from perdure.execution.config import SubnetConfig
from perdure.execution.state import Settings
from perdure.ic.principal import ANONYMOUS, Principal
from perdure.units import DURATIONS, parse_amount

__all__ = [
    "amount_of_cycles",
    "call",
    "first_settings",
    "nanoseconds",
    "nanoseconds_since_1970",
    "principal",
    "principals",
]

_DURATIONS_NS: Final = {name: seconds * 10**9 for name, seconds in DURATIONS.items()}
_MICROSECOND: Final = timedelta(microseconds=1)
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def nanoseconds(duration: int | timedelta | str) -> int:
    """A duration in nanoseconds; as a text with its unit, ``90s`` or ``1d``, as `perdure canister advance` takes it.

    Raises:
        TypeError: it is neither a whole number of nanoseconds nor a `timedelta` nor a text.
        ValueError: a text that is no duration, or has no unit.
    """
    if isinstance(duration, str):
        if duration.strip()[-1:].isdecimal():
            raise ValueError(f"{duration!r:.60} has no unit, expected one of {', '.join(filter(None, DURATIONS))}")
        return parse_amount(duration, _DURATIONS_NS)
    if isinstance(duration, timedelta):
        return duration // _MICROSECOND * 1000
    return _whole(duration, "a duration", " of nanoseconds, a timedelta, or a text such as '90s'")


def nanoseconds_since_1970(time: int | datetime) -> int:
    """A point in time in nanoseconds since 1970.

    Raises:
        TypeError: it is neither a whole number of nanoseconds nor a `datetime`.
        ValueError: a `datetime` without a time zone.
    """
    if not isinstance(time, datetime):
        return _whole(time, "a time", " of nanoseconds, or a datetime")
    if time.tzinfo is None:
        raise ValueError(f"{time!r} has no time zone: add tzinfo=datetime.UTC, or the one that is meant")
    return (time - _EPOCH) // _MICROSECOND * 1000


def _whole(value: object, what: str, other: str) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        raise TypeError(f"{value!r} is a {type(value).__name__}: {what} is an int{other}") from None


def amount_of_cycles(cycles: int) -> int:
    """Cycles.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is negative, or above 2^128-1.
    """
    amount = _whole(cycles, "an amount of cycles", "")
    if not 0 <= amount <= MAX_CYCLES:
        raise ValueError(f"{amount} cycles: expected 0 to 2^128-1")
    return amount


def principal(value: object, what: str) -> Principal:
    """A principal; one of another library (ic-py, `perdure.pocket_ic`), which says its bytes and its text, as ours.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, Principal):
        return value
    raw_bytes = getattr(value, "bytes", None)
    if isinstance(raw_bytes, bytes) and hasattr(value, "to_str"):
        return Principal(raw_bytes)
    raise TypeError(f"{what} is a Principal, found {value!r:.80}: Principal.from_text reads a text")


def principals(values: object, what: str) -> list[Principal]:
    """Several principals.

    Raises:
        TypeError: they are none.
    """
    if isinstance(values, Principal | str) or not isinstance(values, Iterable):
        raise TypeError(f"{what} are several Principals, found {values!r:.80}: a list of one is [it]")
    return [principal(item, f"each of {what}") for item in values]


def first_settings(config: SubnetConfig, controllers: Iterable[Principal]) -> Settings:
    """The settings of a new canister.

    Raises:
        TypeError: they are no principals.
        ValueError: there are too many.
    """
    raw_ids = tuple(item.raw_bytes for item in principals(controllers, "controllers"))
    if len(raw_ids) > config.max_controllers:
        raise ValueError(f"{len(raw_ids)} controllers: at most {config.max_controllers} are allowed")
    return Settings(
        controllers=raw_ids or (ANONYMOUS.raw_bytes,),
        freezing_threshold=config.default_freezing_threshold_seconds,
        reserved_cycles_limit=config.default_reserved_cycles_limit,
        wasm_memory_limit=config.default_wasm_memory_limit_bytes,
        log_memory_limit=config.default_log_memory_limit_bytes,
    )


def is_text(name: str) -> bool:
    """Whether it can be written as UTF-8, as all that is kept and sent."""
    return name.isascii() or not any("\ud800" <= one <= "\udfff" for one in name)


def call(method: str, arg: bytes, sender: Principal, cycles: int) -> tuple[str, bytes, Principal, int]:
    """What makes a call.

    Raises:
        TypeError: one of it has another type.
        ValueError: a wrong amount of cycles.
    """
    if not isinstance(method, str):
        raise TypeError(f"the method is named by a str, found {method!r:.80}")
    if not is_text(method):
        raise ValueError(f"the method {method!r:.80} has half of a surrogate pair: such text is on no network")
    if not isinstance(arg, bytes | bytearray | memoryview):
        raise TypeError(
            f"the argument is bytes, found {arg!r:.80}: perdure.candid.encode makes them of values, and "
            "canister.actor() takes values"
        )
    return method, bytes(arg), principal(sender, "the sender"), amount_of_cycles(cycles)
