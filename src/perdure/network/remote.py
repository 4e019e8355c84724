"""Subnets and canisters that are in a worker process, by the names that they have in this one.

What cannot cross is there and says so: see `docs/network.md`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, final

from perdure.candid.service import ServiceType
from perdure.canister import HasModule
from perdure.errors import UnsupportedError
from perdure.ic.principal import ANONYMOUS, MANAGEMENT_CANISTER, Principal
from perdure.memory import WASM_PAGE_BYTES, check_range
from perdure.network.frames import ClassBytes, Code, decode_value, encode_value
from perdure.network.process import Place
from perdure.network.workers import Workers
from perdure.subnet import given
from perdure.subnet.actor import Actor
from perdure.subnet.canister import Canister
from perdure.subnet.interface import service_of
from perdure.subnet.management import management_service
from perdure.subnet.memories import LiveMemory
from perdure.subnet.subnet import Subnet

__all__ = ["RemoteCanister", "RemoteMemory", "RemoteSubnet"]

_READ_BYTES: Final = 8 << 20
_OF_SUBNETS: Final[Mapping[str, bool]] = MappingProxyType(
    dict.fromkeys(
        (
            "advance_time",
            "checkpoint",
            "create_canister",
            "install",
            "reject_management_call",
            "request_status",
            "response",
            "run_until_idle",
            "set_time",
            "tick",
        ),
        True,
    )
    | dict.fromkeys(("canisters", "extensions", "is_anchored", "time_ns", "version"), False)
)
"""What crosses: methods, and attributes."""
_OF_CANISTERS: Final[Mapping[str, bool]] = MappingProxyType(
    dict.fromkeys(
        (
            "add_cycles",
            "delete",
            "delete_snapshot",
            "install",
            "load_snapshot",
            "logs",
            "query",
            "reinstall",
            "settings",
            "snapshots",
            "start",
            "status",
            "stop",
            "take_snapshot",
            "uninstall",
            "update",
            "update_settings",
            "upgrade",
            "upload_snapshot",
            "write_snapshot",
        ),
        True,
    )
    | dict.fromkeys(("globals", "last", "open_call_contexts"), False)
)
_OF_MEMORIES: Final[Mapping[str, bool]] = MappingProxyType(
    {"drop": True, "grow": True, "size": True, "write": True, "lifetime": False, "state": False}
)
_FILES: Final = frozenset({"wasm", "path", "candid"})
"""Arguments that may be paths, which mean the same wherever a process is."""
_FIRST_IS_FILE: Final = frozenset({"install", "reinstall", "upgrade", "write_snapshot", "upload_snapshot"})


class _Remote:
    """Something in a worker."""

    _names: Mapping[str, bool]
    _local: type[Subnet | Canister | LiveMemory]
    _workers: Workers
    _number: int
    _path: tuple[bytes | None, str | None]

    def _ask(self, name: str, *args: object, **keywords: object) -> Any:
        return self._call(name, True, args, keywords)

    def _call(self, name: str, is_method: bool, args: tuple[object, ...], keywords: Mapping[str, object]) -> Any:
        places = [encode_value(one, f"argument {place} of {name}") for place, one in enumerate(args, 1)]
        named = {key: encode_value(one, f"{key} of {name}") for key, one in keywords.items()}
        found = self._workers.call(self._number, *self._path, name, is_method, places, named)
        return decode_value(found, self._made)

    def _made(self, canister_id: Principal) -> RemoteCanister:
        return RemoteCanister(self._workers, self._number, canister_id)

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            if not self._names[name]:
                return self._call(name, False, (), {})
            return self._method(name)
        if not name.startswith("_") and hasattr(self._local, name):
            raise _RefusedError(
                f"{self._local.__name__}.{name} does not cross to a worker process: make the network without processes"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _method(self, name: str) -> Callable[..., Any]:
        @wraps(getattr(self._local, name))
        def method(*args: object, **keywords: object) -> Any:
            if name in _FIRST_IS_FILE and args:
                args = (_as_file(args[0]), *args[1:])
            keywords = {key: _as_file(one) if key in _FILES else one for key, one in keywords.items()}
            return self._call(name, True, args, keywords)

        return method

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._names})


class _RefusedError(UnsupportedError, AttributeError):
    """Also what Python expects of an attribute that is not there."""


def _as_file(given_: object) -> object:
    """A module, an interface or a path as it crosses: of a class what stands for it, of an interface its text."""
    if isinstance(given_, str | os.PathLike) and not (isinstance(given_, str) and ":" in given_):
        return Path(given_)
    return ClassBytes(given_.__canister_module__().wasm) if isinstance(given_, HasModule) else given_


@final
class RemoteSubnet(_Remote):
    """A subnet of a network in worker processes: `Subnet`, as far as that crosses.

    Args:
        workers: of the network.
        place: what is known of it there.
    """

    _names = _OF_SUBNETS
    _local: type[Subnet | Canister | LiveMemory] = Subnet
    _host = None

    def __init__(self, workers: Workers, place: Place) -> None:
        self._workers = workers
        self._place = place
        self._number = place.number
        self._path = None, None
        self.id = Principal(place.subnet_id)
        """The principal of the subnet."""
        self.root_key = place.root_key
        """The key that certificates are checked with, in DER."""

    @property
    def _state(self) -> Place:
        """How it is, as far as the network asks."""
        self._workers.know()
        return self._place

    def canister(self, canister_id: Principal) -> RemoteCanister:
        """The handle of a canister of this subnet.

        Raises:
            KeyError: there is none of this id.
        """
        canister_id = given.principal(canister_id, "a canister's id")
        if canister_id not in self:
            raise KeyError(f"no canister {canister_id} on this subnet")
        return self._made(canister_id)

    def __contains__(self, canister_id: Principal) -> bool:
        """Whether there is a canister of this id."""
        return bool(self._ask("_has", given.principal(canister_id, "a canister's id")))

    @property
    def management(self) -> RemoteCanister:
        """The management canister, for calls as users make them."""
        return self._made(MANAGEMENT_CANISTER)

    def __repr__(self) -> str:
        return f"<subnet {self.id} in a worker process>"


@final
class RemoteCanister(_Remote):
    """A canister of a subnet in a worker process: `Canister`, as far as that crosses.

    Args:
        workers: of the network.
        number: of the subnet.
        canister_id: its id.
    """

    _names = _OF_CANISTERS
    _local: type[Subnet | Canister | LiveMemory] = Canister

    def __init__(self, workers: Workers, number: int, canister_id: Principal) -> None:
        self._workers = workers
        self._number = number
        self.id = canister_id
        self._raw_id = canister_id.raw_bytes
        self._path = self._raw_id, None

    def actor(
        self, sender: Principal = ANONYMOUS, *, candid: str | os.PathLike[str] | None = None, cycles: int = 0
    ) -> Actor:
        """The canister by its Candid methods, as one sender sees it: see `Canister.actor`."""
        return Actor(self, self.service(candid), given.principal(sender, "the sender"), cycles=cycles)

    def service(self, candid: str | os.PathLike[str] | None = None) -> ServiceType:
        """The Candid interface, from a ``.did`` file or its text, else from the module; raises as `actor`."""
        if self.id == MANAGEMENT_CANISTER:
            return management_service() if candid is None else service_of("the management canister", None, candid)
        known, args = self._ask("_interface")
        return service_of(f"canister {self.id}", None, candid or known, args)

    @property
    def module(self) -> Code | None:
        """The code: hash, exported methods, custom sections, name."""
        found: Code | None = self._ask("_code")
        return None if found is None else found._replace(exported_methods=frozenset(found.exported_methods))

    @property
    def stable(self) -> RemoteMemory:
        """Stable memory. Reads show it as it stands; a write is committed at once."""
        return RemoteMemory(self, "stable")

    @property
    def heap(self) -> RemoteMemory:
        """The heap. Reads show it as it stands; a write is committed at once."""
        return RemoteMemory(self, "heap")

    @property
    def memories(self) -> Mapping[str, RemoteMemory]:
        """All memories by name, ``heap`` and ``stable`` among them."""
        return {name: RemoteMemory(self, name) for name in self._ask("_memory_names")}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RemoteCanister) or other._workers is not self._workers:
            return False
        return (other._number, other._raw_id) == (self._number, self._raw_id)

    def __hash__(self) -> int:
        return hash((self._number, self._raw_id))

    def __repr__(self) -> str:
        return f"<Canister {self.id} in a worker process>"


@final
class RemoteMemory(_Remote):
    """A memory of a canister in a worker process, for whatever reads a `Memory`.

    Args:
        canister: whose it is.
        name: of the memory.
    """

    _names = _OF_MEMORIES
    _local: type[Subnet | Canister | LiveMemory] = LiveMemory

    def __init__(self, canister: RemoteCanister, name: str) -> None:
        self._workers = canister._workers
        self._number = canister._number
        self._path = canister._raw_id, name
        self._canister = canister

    def size(self) -> int:
        """Size in Wasm pages."""
        return int(self._ask("size"))

    def grow(self, wasm_pages: int) -> int:
        """Grow by zero pages; the old size."""
        return int(self._ask("grow", wasm_pages))

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address`."""
        if size_bytes > _READ_BYTES:
            check_range(address, size_bytes, self.size() * WASM_PAGE_BYTES)
        return b"".join(self._pieces(address, size_bytes))

    def _pieces(self, address: int, size_bytes: int) -> Iterator[bytes]:
        for start in range(0, max(size_bytes, 1), _READ_BYTES):
            yield self._ask("read", address + start, min(_READ_BYTES, size_bytes - start))

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write `data` at `address`."""
        self._ask("write", address, bytes(data))

    def __repr__(self) -> str:
        return f"<{self._path[1]} of {self._canister!r}>"
