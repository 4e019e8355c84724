"""Records: the state of canisters and subnets as bytes, for whoever keeps it; memories, modules, chunks are elsewhere.

A record is a CBOR array ``[version, fields]``; fields go by name, and one that is missing has its class's default: it
had it when the record was written (most have, and a record is written with every message), or the record is older than
the field. So a default is part of the format. Canister record: everything of `CanisterState` but its code and memories;
chunks and snapshots by name only. The encoding follows from the classes' own annotations.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable
from dataclasses import MISSING, fields
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple, Union, get_args, get_origin, get_type_hints

import cbor2

from perdure.canister import CanisterFacts, CanisterModule, CanisterStatus
from perdure.errors import InternalError, MalformedError
from perdure.execution.cycles import CostSchedule
from perdure.execution.state import CanisterState, Snapshot, SnapshotContent, SubnetState

__all__ = [
    "CanisterRecord",
    "adopt",
    "decode_record",
    "decode_snapshot",
    "decode_subnet",
    "encode_record",
    "encode_snapshot",
    "encode_subnet",
]

VERSION: Final = 1

_CANISTER_ELSEWHERE: Final = frozenset(
    ["facts", "module", "instance", "limits", "freezing_limit", "chunk_store", "snapshots"]
)
_SUBNET_ELSEWHERE: Final = frozenset(["canisters", "ingress", "ready", "deadlines", "stopping", "changed"])
_SNAPSHOT_ELSEWHERE: Final = frozenset(["module", "content"])


class _Coder(NamedTuple):
    """How values of one type become plain CBOR values, and back."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


class CanisterRecord(NamedTuple):
    """A canister read from its record: its code and memories are for the reader to find."""

    state: CanisterState
    module_hash: bytes | None
    chunk_hashes: tuple[bytes, ...]
    snapshot_ids: tuple[bytes, ...]


def _wrong(expected: str, found: object) -> MalformedError:
    return MalformedError(f"record has {type(found).__name__} {str(found)[:40]!r}, expected {expected}")


def _same(value: Any) -> Any:
    return value


def _scalar(kind: type) -> _Coder:
    def decode(value: Any) -> Any:
        if type(value) is not kind:
            raise _wrong(kind.__name__, value)
        return value

    return _Coder(_same, decode)


def _enumeration(kind: type[IntEnum]) -> _Coder:
    def decode(value: Any) -> Any:
        try:
            return kind(value)
        except ValueError:
            raise _wrong(kind.__name__, value) from None

    return _Coder(int, decode)


def _items(value: Any, expected: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(expected, value)
    return value


def _sequence(make: Callable[[Any], Any], item: _Coder) -> _Coder:
    each = item.encode

    def encode(value: Any) -> list[Any]:
        return [each(one) for one in value]

    def encode_sorted(value: Any) -> list[Any]:
        return sorted(map(each, value))  # in memory its order is another one in every process

    def decode(value: Any) -> Any:
        return make(item.decode(one) for one in _items(value, "a list"))

    if make is set:
        return _Coder(encode_sorted, decode)
    return _Coder(list if each is _same else encode, decode)


def _row(make: Callable[..., Any], parts: tuple[_Coder, ...], name: str) -> _Coder:
    encoders = [part.encode for part in parts]

    def encode(value: Any) -> list[Any]:
        return [each(one) for each, one in zip(encoders, value, strict=True)]

    def decode(value: Any) -> Any:
        found = _items(value, name)
        if len(found) != len(parts):
            raise _wrong(f"{name} of {len(parts)} parts", value)
        return make(*(part.decode(one) for part, one in zip(parts, found, strict=True)))

    return _Coder(list if all(each is _same for each in encoders) else encode, decode)


def _pairs(key: _Coder, value: _Coder) -> _Coder:
    pair = _row(lambda *both: both, (key, value), "a pair")

    def encode(content: Any) -> list[Any]:
        return [pair.encode(one) for one in content.items()]

    def decode(content: Any) -> dict[Any, Any]:
        return dict(pair.decode(one) for one in _items(content, "a list of pairs"))

    return _Coder(encode, decode)


def _union(options: tuple[type, ...]) -> _Coder:
    """A class by its name before its content; `None` as it is."""
    coders = {option.__name__: (option, _coder(option)) for option in options if option is not types.NoneType}
    plain = len(coders) == 1 and types.NoneType in options

    def encode(value: Any) -> Any:
        if value is None:
            return None
        if plain:
            return next(iter(coders.values()))[1].encode(value)
        name = type(value).__name__
        return [name, coders[name][1].encode(value)]

    def decode(value: Any) -> Any:
        if value is None and types.NoneType in options:
            return None
        if plain:
            return next(iter(coders.values()))[1].decode(value)
        found = _items(value, "a tagged value")
        if len(found) != 2 or found[0] not in coders:
            raise _wrong(f"one of {', '.join(coders)}", value)
        return coders[found[0]][1].decode(found[1])

    return _Coder(encode, decode)


@lru_cache(maxsize=64)
def _parts(kind: type, without: frozenset[str]) -> dict[str, _Coder]:
    hints = get_type_hints(kind)
    return {field.name: _coder(hints[field.name]) for field in fields(kind) if field.name not in without}


_REQUIRED: Final = object()


@lru_cache(maxsize=64)
def _plan(kind: Any, without: frozenset[str]) -> list[tuple[str, Callable[[Any], Any] | None, Any]]:
    """Name, encoder (`None`: the value as it is) and default of each field."""
    plan = []
    for field in fields(kind):
        if field.name in without:
            continue
        encode = _parts(kind, without)[field.name].encode
        default: Any = _REQUIRED if field.default is MISSING else field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        plan.append((field.name, encode if encode is not _same else None, default))
    return plan


def _encode_fields(value: object, without: frozenset[str]) -> dict[str, Any]:
    kind: type = type(value)
    content = {}
    for name, encode, default in _plan(kind, without):
        one = getattr(value, name)
        if one != default:
            content[name] = one if encode is None else encode(one)
    return content


def _decode_fields(kind: type, without: frozenset[str], value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(kind.__name__, value)
    parts = _parts(kind, without)
    return {name: parts[name].decode(one) for name, one in value.items() if name in parts}


def _make(kind: Callable[..., Any], known: dict[str, Any]) -> Any:
    try:
        return kind(**known)
    except TypeError as error:
        raise MalformedError(f"record lacks a field: {error}") from error


def _structure(kind: type) -> _Coder:
    nothing: frozenset[str] = frozenset()
    return _Coder(
        lambda value: _encode_fields(value, nothing),
        lambda value: _make(kind, _decode_fields(kind, nothing, value)),
    )


_SCALARS: Final = (int, str, bytes, bool, float)


@lru_cache(maxsize=256)
def _coder(kind: Any) -> _Coder:  # noqa: PLR0911 -- one return per kind of type
    if kind is Any:
        return _Coder(_same, _same)
    if kind in _SCALARS:
        return _scalar(kind)
    if kind is bytearray:
        return _Coder(bytes, lambda value: bytearray(_scalar(bytes).decode(value)))
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if origin in (list, deque, set):
        return _sequence(origin, _coder(arguments[0]))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return _sequence(tuple, _coder(arguments[0]))
        return _row(lambda *parts: parts, tuple(map(_coder, arguments)), "a row")
    if origin is dict:
        return _pairs(_coder(arguments[0]), _coder(arguments[1]))
    if issubclass(kind, IntEnum):
        return _enumeration(kind)
    if hasattr(kind, "__dataclass_fields__"):
        return _structure(kind)
    if issubclass(kind, tuple):
        return _row(kind, tuple(map(_coder, get_type_hints(kind).values())), kind.__name__)
    raise InternalError(f"records cannot hold {kind}")


def _dump(content: dict[str, Any]) -> bytes:
    return cbor2.dumps([VERSION, content])


def _load(data: bytes) -> dict[str, Any]:
    try:
        found = cbor2.loads(data)
    except (cbor2.CBORDecodeError, RecursionError, OverflowError, MemoryError, ValueError, TypeError) as error:
        raise MalformedError(f"record is not CBOR: {error}") from error
    if not (isinstance(found, list) and len(found) == 2 and isinstance(found[1], dict)):
        raise _wrong("a version and fields", found)
    if found[0] != VERSION:
        raise MalformedError(f"record of version {found[0]!r}, expected {VERSION}")
    content: dict[str, Any] = found[1]
    return content


# -- canisters


def encode_record(canister: CanisterState) -> bytes:
    """Everything about a canister but its code, memories, chunks and snapshots, which it names."""
    content = _encode_fields(canister, _CANISTER_ELSEWHERE)
    content["canister_id"] = canister.canister_id
    content["status"] = int(canister.facts.status)
    content["canister_version"] = canister.facts.version
    content["module_hash"] = canister.module.module_hash if canister.module is not None else None
    content["chunk_hashes"] = sorted(canister.chunk_store)
    content["snapshot_ids"] = list(canister.snapshots)
    return _dump(content)


_NAMED: Final[tuple[tuple[str, Any], ...]] = (
    ("canister_id", bytes),
    ("status", CanisterStatus),
    ("canister_version", int),
    ("module_hash", bytes | None),
    ("chunk_hashes", tuple[bytes, ...]),
    ("snapshot_ids", tuple[bytes, ...]),
)


def decode_record(data: bytes) -> CanisterRecord:
    """A canister without code, and what names its code, chunks and snapshots.

    Put those in, then add it to a subnet with `adopt`.

    Raises:
        MalformedError: no such record.
    """
    content = _load(data)
    try:
        named = {name: _coder(kind).decode(content[name]) for name, kind in _NAMED}
    except KeyError as error:
        raise MalformedError(f"record of a canister lacks {error}") from error
    known = _decode_fields(CanisterState, _CANISTER_ELSEWHERE, content)
    if "settings" not in known:
        raise MalformedError("record of a canister lacks its settings")
    settings = known["settings"]
    facts = CanisterFacts(
        canister_id=named["canister_id"],
        controllers=frozenset(settings.controllers),
        status=named["status"],
        version=named["canister_version"],
        environment_variables=dict(settings.environment_variables),
    )
    state = CanisterState(facts, **known)
    return CanisterRecord(state, named["module_hash"], named["chunk_hashes"], named["snapshot_ids"])


def adopt(subnet: SubnetState, canister: CanisterState, costs: CostSchedule) -> None:
    """Add a canister that was decoded, its code and memories in place, to a subnet that was decoded."""
    canister.facts.subnet_id, canister.facts.root_key = subnet.subnet_id, subnet.root_key
    canister.refresh(costs)
    canister_id = canister.canister_id
    subnet.canisters[canister_id] = canister
    if canister.inputs:
        subnet.ready[canister_id] = None
    if canister.facts.status is CanisterStatus.STOPPING:
        subnet.stopping.add(canister_id)
    for call_id, call in canister.open_calls.items():
        if call.deadline_ns:
            subnet.deadlines[canister_id, call_id] = call.deadline_ns


# -- snapshots and subnets


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Everything about a snapshot but its memories."""
    return _dump(_encode_fields(snapshot, _SNAPSHOT_ELSEWHERE))


def decode_snapshot(data: bytes, content: SnapshotContent, module: CanisterModule | None = None) -> Snapshot:
    """A snapshot whose memories are `content`.

    Raises:
        MalformedError: no such record.
    """
    known = _decode_fields(Snapshot, _SNAPSHOT_ELSEWHERE, _load(data))
    snapshot: Snapshot = _make(Snapshot, {**known, "content": content, "module": module})
    return snapshot


def encode_subnet(subnet: SubnetState) -> bytes:
    """Everything about a subnet but its canisters, answers, limits and prices."""
    content = _encode_fields(subnet, _SUBNET_ELSEWHERE)
    if subnet.ingress.callees:
        content["requests"] = list(map(list, subnet.ingress.callees.items()))
    return _dump(content)


def decode_subnet(data: bytes) -> SubnetState:
    """A subnet without canisters and answers; `adopt` adds the former.

    Raises:
        MalformedError: no such record.
    """
    content = _load(data)
    subnet: SubnetState = _make(SubnetState, _decode_fields(SubnetState, _SUBNET_ELSEWHERE, content))
    subnet.ingress.callees = _coder(dict[bytes, bytes]).decode(content.get("requests", []))
    return subnet
