"""Envelopes: what agents post, from CBOR to checked requests; and the hash that requests are known by.

Spec: "Authentication", "Request ids", "CBOR encoding of requests and responses" in "HTTPS Interface".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple, final

from perdure.certification import encode_nat
from perdure.ic.principal import MAX_PRINCIPAL_BYTES

__all__ = ["MARK", "Content", "Delegation", "Envelope", "Refusal", "decode_cbor", "hash_of_map", "read_envelope"]

MARK: Final = bytes.fromhex("d9d9f7")
"""Tag 55,799: what follows is CBOR."""

_MAX_DEPTH: Final = 16
_MAX_ITEMS: Final = 1 << 12
_MAX_SHORT: Final = 1 << 15
"""Of items, and of short byte strings in arrays, which cost a fifth. A request has a thousand paths at most, or twenty
delegations with a thousand targets each; to read more would keep others waiting."""
_MAX_PARTS: Final = 1000
"""Of an array or map."""
_MAX_LABELS: Final = 5000
"""A thousand paths as deep as paths are."""
_BIGNUM: Final = 2
_INDEFINITE: Final = 31
_BREAK: Final = 0xFF


@final
class Refusal(Exception):  # noqa: N818 -- an answer, not an error of ours
    """Why a request is answered with an HTTP status other than 200, in words for whoever wrote the client."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


# -- CBOR, as far as the interface has it


@final
class _Reader:
    """Numbers, byte strings, texts, arrays, maps: nothing that would be made into anything else.

    A general decoder also makes dates, patterns, fractions and cycles of what anybody may send.
    """

    __slots__ = ("at", "data", "items", "key", "max_depth", "short")

    def __init__(self, data: bytes, key: type, max_depth: int) -> None:
        self.data = data
        self.key = key
        self.max_depth = max_depth
        self.at = 0
        self.items = self.short = 0

    def value(self, depth: int = 0) -> Any:
        data = self.data
        first = data[self.at]
        self.at += 1
        self.items += 1
        if depth > self.max_depth or self.items > _MAX_ITEMS:
            raise ValueError(f"more than {self.max_depth} levels or {_MAX_ITEMS} items")
        return _KINDS[first >> 5](self, first & 31, depth)

    def number(self, small: int, depth: int = 0) -> int:
        if small < 24:
            return small
        if small > 27:
            raise ValueError(f"byte {self.at - 1} begins no number of definite length")
        size = 1 << (small - 24)
        found = self.data[self.at : self.at + size]
        if len(found) != size:
            raise IndexError
        self.at += size
        return int.from_bytes(found, "big")

    def negative(self, small: int, depth: int) -> int:
        return -1 - self.number(small)

    def blob(self, small: int, depth: int) -> bytes:
        if small == _INDEFINITE:
            return b"".join(self.parts(bytes, depth))
        size = self.number(small)
        found = self.data[self.at : self.at + size]
        if len(found) != size:
            raise IndexError
        self.at += size
        return found

    def text(self, small: int, depth: int) -> str:
        if small == _INDEFINITE:
            return "".join(self.parts(str, depth))
        return self.blob(small, depth).decode()

    def parts(self, kind: type, depth: int) -> list[Any]:
        parts = self.array(_INDEFINITE, depth)
        if any(type(part) is not kind for part in parts):
            raise ValueError(f"a {kind.__name__} with parts of another type")
        return parts

    def array(self, small: int, depth: int) -> list[Any]:
        found: list[Any] = []
        data = self.data
        if small == _INDEFINITE:
            while data[self.at] != _BREAK:
                found.append(self.value(depth + 1))
            self.at += 1
            return found
        for _ in range(self.count(small)):
            first = data[self.at]
            if 0x40 <= first < 0x58:  # a short byte string, as all labels and principals are
                start, self.at = self.at + 1, self.at + first - 0x3F
                if self.at > len(data):
                    raise IndexError
                found.append(data[start : self.at])
            else:
                found.append(self.value(depth + 1))
        self.short += len(found)
        if self.short > _MAX_SHORT:
            raise ValueError(f"more than {_MAX_SHORT} parts of arrays")
        return found

    def count(self, small: int) -> int:
        count = self.number(small)
        if count > _MAX_PARTS:
            raise ValueError(f"an array or map of {count} parts, expected at most {_MAX_PARTS}")
        return count

    def map(self, small: int, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        left = -1 if small == _INDEFINITE else self.count(small)
        while left:
            if left < 0 and self.data[self.at] == _BREAK:
                self.at += 1
                break
            key = self.value(depth + 1)
            if type(key) is not self.key:
                raise ValueError(f"a key that is {type(key).__name__}, expected {self.key.__name__}")
            if key in found:
                raise ValueError(f"key {key!r:.40} twice")
            found[key] = self.value(depth + 1)
            left -= 1
        return found

    def tag(self, small: int, depth: int) -> Any:
        number = self.number(small)
        value = self.value(depth + 1)
        if number == _BIGNUM and type(value) is bytes and len(value) <= 64:
            return int.from_bytes(value, "big")
        raise ValueError(f"tag {number}")

    def simple(self, small: int, depth: int) -> bool | None:
        if small not in _SIMPLE:
            raise ValueError(f"byte {self.at - 1} is a float or a simple value")
        return _SIMPLE[small]


_SIMPLE: Final = {20: False, 21: True, 22: None, 23: None}
_KINDS: Final[tuple[Callable[[_Reader, int, int], Any], ...]] = (
    _Reader.number,
    _Reader.negative,
    _Reader.blob,
    _Reader.text,
    _Reader.array,
    _Reader.map,
    _Reader.tag,
    _Reader.simple,
)


def decode_cbor(data: bytes, *, key: type = str, max_depth: int = _MAX_DEPTH) -> Any:
    """The value of one item, marked as CBOR or not, and nothing behind it.

    Args:
        data: the item.
        key: what all maps have for keys.
        max_depth: how deep one part may be in others.

    Raises:
        ValueError: it is none, or has what the interface does not have.
    """
    reader = _Reader(data, key, max_depth)
    reader.at = len(MARK) if data.startswith(MARK) else 0
    try:
        found = reader.value()
    except IndexError as error:
        raise ValueError(f"it ends within an item, after {len(data)} bytes") from error
    if reader.at != len(data):
        raise ValueError(f"{len(data) - reader.at} bytes after the item")
    return found


# -- request ids


def hash_of_map(content: Mapping[str, Any]) -> bytes:
    """The representation-independent hash of a map of numbers, byte strings, texts, arrays and maps.

    Raises:
        ValueError: there is something else in it.
    """
    pairs = [_key_hash(key) + _hash(value) for key, value in content.items() if value is not None]
    pairs.sort()
    return sha256(b"".join(pairs)).digest()


_KEY_HASHES: Final[dict[str, bytes]] = {}
_KEPT_KEY_CHARACTERS: Final = 64


def _key_hash(key: str) -> bytes:
    found = _KEY_HASHES.get(key)
    if found is None:
        found = sha256(key.encode()).digest()
        # Whoever sends them, signed or not: what is kept has an end in both directions.
        if len(_KEY_HASHES) < 256 and len(key) <= _KEPT_KEY_CHARACTERS:
            _KEY_HASHES[key] = found
    return found


def _hash(value: Any) -> bytes:
    kind = type(value)
    if kind is bytes:
        return sha256(value).digest()
    if kind is str:
        return sha256(value.encode()).digest()
    if kind is int and value >= 0:
        return sha256(encode_nat(value)).digest()
    if kind is list:
        return sha256(b"".join(map(_hash, value))).digest()
    if kind is dict:
        return hash_of_map(value)
    raise ValueError(f"{kind.__name__} {value!r:.40} in a request")


# -- the parts of an envelope


class _Field(NamedTuple):
    kind: type
    check: Callable[[Any], bool]
    expected: str
    optional: bool = False


_PRINCIPAL: Final = _Field(bytes, lambda it: len(it) <= MAX_PRINCIPAL_BYTES, "a principal")
_NAT: Final = _Field(int, lambda it: 0 <= it < 1 << 64, "a number below 2^64")
_BLOB: Final = _Field(bytes, lambda it: True, "bytes")
_TEXT: Final = _Field(str, lambda it: True, "a text")
_NONCE: Final = _Field(bytes, lambda it: len(it) <= 32, "at most 32 bytes", optional=True)
_INFO: Final = _Field(dict, lambda it: True, "a map", optional=True)
_PATHS: Final = _Field(
    list,
    lambda it: (
        len(it) <= _MAX_PARTS
        and all(type(p) is list and len(p) <= 127 and set(map(type, p)) <= {bytes} for p in it)
        and sum(map(len, it)) <= _MAX_LABELS
    ),
    f"at most {_MAX_PARTS} paths of at most 127 labels, and {_MAX_LABELS} labels",
)
_TARGETS: Final = _Field(
    list,
    lambda it: len(it) <= _MAX_PARTS and all(type(one) is bytes and len(one) <= MAX_PRINCIPAL_BYTES for one in it),
    f"at most {_MAX_PARTS} principals",
    optional=True,
)
_COMMON: Final = {"sender": _PRINCIPAL, "ingress_expiry": _NAT, "nonce": _NONCE}
_CALL: Final = {
    **_COMMON,
    "canister_id": _PRINCIPAL,
    "method_name": _TEXT,
    "arg": _BLOB,
    "sender_info": _INFO,
}
_CONTENTS: Final = {"call": _CALL, "query": _CALL, "read_state": {**_COMMON, "paths": _PATHS}}
_SENDER_INFO: Final = {"info": _BLOB, "signer": _PRINCIPAL, "sig": _BLOB}
_SIGNED_DELEGATION: Final = {"delegation": _Field(dict, lambda it: True, "a map"), "signature": _BLOB}
_DELEGATION: Final = {
    "pubkey": _BLOB,
    "expiration": _NAT,
    "targets": _TARGETS,
    "permissions": _Field(str, lambda it: it in {"queries", "all"}, "queries or all", optional=True),
}
_ENVELOPE: Final = {
    "content": _Field(dict, lambda it: True, "a map"),
    "sender_pubkey": _BLOB._replace(optional=True),
    "sender_sig": _BLOB._replace(optional=True),
    "sender_delegation": _Field(list, lambda it: len(it) <= _MAX_DELEGATIONS, "at most 20 delegations", optional=True),
}
_MAX_DELEGATIONS: Final = 20


def _check(where: str, found: Any, fields: Mapping[str, _Field]) -> None:
    if type(found) is not dict:
        raise Refusal(f"{where} is {type(found).__name__}, expected a map")
    for name, field in fields.items():
        value = found.get(name)
        if value is None and field.optional:
            continue
        if value is None:
            raise Refusal(f"{where} has no field {name}")
        if type(value) is not field.kind or not field.check(value):
            raise Refusal(f"{where}: {name} is {value!r:.60}, expected {field.expected}")


@final
class Delegation(NamedTuple):
    """One link: what was signed, its hash, and the signature."""

    public_key: bytes
    expiration_ns: int
    targets: tuple[bytes, ...] | None
    permissions: str
    digest: bytes
    signature: bytes


Content = Mapping[str, Any]


@final
class Envelope(NamedTuple):
    """A request whose parts have the types that they should have; nothing is verified."""

    content: Content
    request_id: bytes
    public_key: bytes | None
    signature: bytes | None
    delegations: tuple[Delegation, ...]


def read_envelope(body: bytes, request_type: str) -> Envelope:
    """The request in a body.

    Raises:
        Refusal: there is none of this type.
    """
    try:
        whole = decode_cbor(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"Could not parse body as CBOR: {error}") from error
    _check("the envelope", whole, _ENVELOPE)
    content = whole["content"]
    if content.get("request_type") != request_type:
        raise Refusal(f"request_type is {content.get('request_type')!r:.40}, expected {request_type!r} here")
    _check("the content", content, _CONTENTS[request_type])
    if content.get("sender_info") is not None:
        _check("sender_info", content["sender_info"], _SENDER_INFO)
    links = whole.get("sender_delegation") or ()
    try:
        request_id, delegations = hash_of_map(content), tuple(map(_delegation, links))
    except (ValueError, UnicodeEncodeError) as error:
        raise Refusal(f"a request cannot hold {error}") from error
    return Envelope(content, request_id, whole.get("sender_pubkey"), whole.get("sender_sig"), delegations)


def _delegation(link: Any) -> Delegation:
    _check("a delegation", link, _SIGNED_DELEGATION)
    body = link["delegation"]
    _check("a delegation", body, _DELEGATION)
    targets = body.get("targets")
    return Delegation(
        body["pubkey"],
        body["expiration"],
        None if targets is None else tuple(targets),
        body.get("permissions") or "all",
        hash_of_map(body),
        link["signature"],
    )
