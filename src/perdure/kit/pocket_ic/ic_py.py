"""Principals and values as ic-py has them: its own where it is installed, else others that look the same.

An ``opt`` is a list, a ``blob`` a list of numbers, a tuple a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, final

from perdure.candid import MethodRef
from perdure.candid import types as candid_types
from perdure.candid.types import Type, Value, resolve
from perdure.errors import UnsupportedError
from perdure.ic import principal as ic_principal

__all__ = ["IcPyPrincipal", "Identity", "Principal", "argument", "from_ic_py", "ic_py", "own", "theirs", "to_ic_py"]

_NO_VALUES: Final = b"DIDL\0\0"

try:
    import ic as ic_py  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    ic_py = None


@final
class OwnPrincipal:
    """A principal that looks like ic-py's."""

    def __init__(self, bytes: bytes = b"") -> None:  # noqa: A002 -- ic-py's name
        self._principal = ic_principal.Principal(bytes)

    @staticmethod
    def management_canister() -> OwnPrincipal:
        """The management canister."""
        return OwnPrincipal()

    @staticmethod
    def anonymous() -> OwnPrincipal:
        """Nobody in particular."""
        return OwnPrincipal(b"\x04")

    @staticmethod
    def self_authenticating(pubkey: bytes | str) -> OwnPrincipal:
        """The holder of a DER-encoded key, in bytes or hexadecimal."""
        der = bytes.fromhex(pubkey) if isinstance(pubkey, str) else pubkey
        return OwnPrincipal(ic_principal.Principal.self_authenticating(der).raw_bytes)

    @staticmethod
    def from_str(s: str) -> OwnPrincipal:
        """The principal written as `s`."""
        return OwnPrincipal(ic_principal.Principal.from_text(s).raw_bytes)

    @staticmethod
    def from_hex(s: str) -> OwnPrincipal:
        """The principal of these bytes."""
        return OwnPrincipal(bytes.fromhex(s))

    @property
    def bytes(self) -> bytes:
        """Its bytes."""
        return self._principal.raw_bytes

    @property
    def len(self) -> int:
        """How many there are."""
        return len(self._principal.raw_bytes)

    @property
    def hex(self) -> str:
        """Its bytes in hexadecimal, upper case."""
        return self._principal.raw_bytes.hex().upper()

    def to_str(self) -> str:
        """Its textual form."""
        return str(self._principal)

    def __str__(self) -> str:
        return self.to_str()

    def __repr__(self) -> str:
        return f"Principal({self.to_str()})"

    def __eq__(self, other: object) -> bool:
        return getattr(other, "bytes", None) == self.bytes

    def __hash__(self) -> int:
        return hash(self._principal)


class IcPyPrincipal(Protocol):
    """What a principal of ic-py, or one that looks the same, shows of itself."""

    @property
    def bytes(self) -> bytes:
        """Its bytes."""
        ...

    def to_str(self) -> str:
        """Its textual form."""
        ...


Identity: TypeAlias = IcPyPrincipal | ic_principal.Principal | str | bytes
"""What a principal may be given as."""

Principal: Any = OwnPrincipal if ic_py is None else ic_py.Principal
"""ic-py's class where it is installed."""


def own(principal: Identity) -> ic_principal.Principal:
    """A principal of ours, from ic-py's, from text, or from bytes."""
    if isinstance(principal, ic_principal.Principal):
        return principal
    if isinstance(principal, str):
        return ic_principal.Principal.from_text(principal)
    return ic_principal.Principal(principal if isinstance(principal, bytes) else principal.bytes)


def theirs(principal: ic_principal.Principal) -> IcPyPrincipal:
    """A principal of ic-py's, from ours."""
    found: IcPyPrincipal = Principal(principal.raw_bytes)
    return found


def argument(arg: bytes | Sequence[Value]) -> bytes:
    """An argument, from bytes or from ic-py's list of types and values.

    Raises:
        UnsupportedError: it is such a list, and ic-py is not installed.
    """
    if isinstance(arg, bytes | bytearray | memoryview):
        return bytes(arg)
    if not arg:
        return _NO_VALUES
    if ic_py is None:
        raise UnsupportedError("arguments with ic-py's types need ic-py; pass bytes")
    return bytes(ic_py.encode(arg))


def from_ic_py(type_: Type, value: Value) -> Value:  # noqa: PLR0911 -- one return per kind of type
    """A value in ic-py's conventions as our codec takes it."""
    kind = resolve(type_)
    if isinstance(kind, candid_types.Opt):
        return None if value is None or len(value) == 0 else from_ic_py(kind.content, value[0])
    if isinstance(kind, candid_types.Vec):
        if candid_types.is_blob(kind):
            return bytes(value)
        return [from_ic_py(kind.element, one) for one in value]
    if isinstance(kind, candid_types.Record):
        if kind.is_tuple and not isinstance(value, Mapping):
            return tuple(from_ic_py(one.type, part) for one, part in zip(kind.fields, value, strict=True))
        found = {one.label: from_ic_py(one.type, value[_key(one)]) for one in kind.fields}
        return tuple(found.values()) if kind.is_tuple else found
    if isinstance(kind, candid_types.Variant):
        ((tag, payload),) = value.items()
        case = next(one for one in kind.fields if _key(one) == tag)
        return {case.label: from_ic_py(case.type, payload)}
    return _reference_from_ic_py(kind, value)


def _reference_from_ic_py(kind: Type, value: Value) -> Value:
    if kind == candid_types.PrincipalType or isinstance(kind, candid_types.Service):
        return own(value)
    if isinstance(kind, candid_types.Func):
        return MethodRef(own(value[0]), value[1])
    return value


def _key(field: candid_types.Field) -> str:
    """A field's name in ic-py, where number 0 is ``_0``."""
    return field.name if field.name is not None else f"_{field.id}"


def to_ic_py(type_: Type, value: Value) -> Value:  # noqa: PLR0911 -- one return per kind of type
    """A value of our codec in ic-py's conventions."""
    kind = resolve(type_)
    if isinstance(kind, candid_types.Opt):
        inner = value.value if isinstance(value, candid_types.Some) else value
        is_there = isinstance(value, candid_types.Some) or value is not None
        return [to_ic_py(kind.content, inner)] if is_there else []
    if isinstance(kind, candid_types.Vec):
        return [to_ic_py(kind.element, one) for one in value]
    if isinstance(kind, candid_types.Record):
        if kind.is_tuple:
            return [to_ic_py(one.type, part) for one, part in zip(kind.fields, value, strict=True)]
        return {_key(one): to_ic_py(one.type, value[one.label]) for one in kind.fields}
    if isinstance(kind, candid_types.Variant):
        ((tag, payload),) = value.items()
        case = next(one for one in kind.fields if one.label == tag)
        return {_key(case): to_ic_py(case.type, payload)}
    if isinstance(value, ic_principal.Principal):
        return theirs(value)
    if isinstance(value, MethodRef):
        return [theirs(value.principal), value.method]
    return value
