"""What the pages are about, and what they remember between two requests."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple, final

from perdure.candid.service import ServiceType
from perdure.errors import PerdureError
from perdure.execution.events import Ended, Stream, Trapped
from perdure.ic.principal import Principal
from perdure.inspection.source import Source
from perdure.network import Network
from perdure.subnet.subnet import Canister, Subnet

__all__ = ["Calls", "Entry", "NotFoundError", "Site", "Trial", "entry_of"]

_KEPT_ENTRIES: Final = 500
_KEPT_PICTURES: Final = 16
_DOWNLOADS: Final = 4
"""At once: each has a snapshot in a directory for temporary files."""
_KEPT_INTERFACES: Final = 64
_SHOWN: Final = 100
_SHOWN_DEEDS: Final = 20


class NotFoundError(Exception):
    """There is no such thing here."""


@final
class Entry(NamedTuple):
    """Something that ran."""

    number: int
    canister: str
    context: str
    instructions: int
    cycles: int
    pages: str
    trap: str


@final
class Calls:
    """What the pages remember: the newest entries that ran on the subnet, and pictures by number."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque(maxlen=_KEPT_ENTRIES)
        self._seen = 0
        self._pictures: OrderedDict[int, str] = OrderedDict()
        self._next = 1

    def read(self, streams: Iterable[Stream]) -> list[Entry]:
        """The newest entries, newest first, with those that have come to streams, of each subnet in their order."""
        with self._lock:
            for stream in streams:
                for event in stream:
                    if isinstance(event, Ended | Trapped):
                        self._seen += 1
                        self._entries.append(entry_of(self._seen, event))
            return list(islice(reversed(self._entries), _SHOWN))

    def keep(self, svg: str) -> int:
        """Keep a picture for a while; its number."""
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._pictures[number] = svg
            if len(self._pictures) > _KEPT_PICTURES:
                self._pictures.popitem(last=False)
            return number

    def picture(self, number: int) -> str:
        """A picture by its number.

        Raises:
            NotFoundError: it is not kept any more, or never was.
        """
        with self._lock:
            if number not in self._pictures:
                raise NotFoundError(f"picture {number} is not kept any more")
            return self._pictures[number]


def entry_of(number: int, event: Ended | Trapped) -> Entry:
    """What an event tells, as the pages show it."""
    context = event.context.name.lower().replace("_", " ")
    common = (number, str(Principal(event.canister_id)), context, event.instructions, event.cycles)
    if isinstance(event, Trapped):
        return Entry(*common, "undone", event.message or event.code.name.lower().replace("_", " "))
    return Entry(*common, ", ".join(f"{count:,} {name}" for name, count in event.written_pages.items()), "")


@final
@dataclass
class Trial:
    """A fork of the subnet, in which one canister is tried.

    Attributes:
        subnet: the fork.
        canister: in it.
        begun_ns: the subnet's time at the fork.
        done: what has been done at last, in words; `done_count` is of all of it.
    """

    subnet: Subnet
    canister: Canister
    begun_ns: int
    done: deque[str] = field(default_factory=lambda: deque(maxlen=_SHOWN_DEEDS))
    done_count: int = 0
    modules: list[tuple[bytes, str | None]] = field(default_factory=list)
    """That were installed, to be installed for real."""

    def note(self, deed: str) -> None:
        """Remember what has been done."""
        self.done.append(deed)
        self.done_count += 1

    def close(self) -> None:
        """Drop it."""
        self.subnet.close()


@final
class Site:
    """A subnet, a network of them, or a memory alone; arguments as of `perdure.explorer.Explorer`."""

    def __init__(
        self,
        what: Subnet | Network | None,
        memory: Source | None,
        title: str,
        names: Callable[[], Mapping[str, str]],
    ) -> None:
        self.what = what
        self.memory = memory
        self.title = title
        self.calls = Calls()
        self.interfaces: OrderedDict[bytes, ServiceType] = OrderedDict()
        """That canisters were asked for, by hash of the module; to be kept with `keep_interface`."""
        self.trials: dict[bytes, Trial] = {}
        self.lock = threading.Lock()
        self.downloads = threading.BoundedSemaphore(_DOWNLOADS)
        self._names = names
        self._streams: dict[Subnet, Stream] = {}
        self._stack = ExitStack()

    @property
    def names(self) -> Mapping[str, str]:
        """What people call canisters, by id; nothing where that cannot be read at the moment."""
        try:
            return self._names()
        except (PerdureError, OSError):
            return {}

    @property
    def subnets(self) -> tuple[Subnet, ...]:
        """The subnets, in their order; none where a memory alone is shown."""
        if isinstance(self.what, Network):
            return self.what.subnets
        return () if self.what is None else (self.what,)

    def subnet_of(self, canister_id: Principal) -> Subnet | None:
        """The subnet that has a canister."""
        return next((one for one in self.subnets if canister_id in one), None)

    def streams(self) -> list[Stream]:
        """What happens on each subnet from the first visit on."""
        with self.lock:
            for subnet in self.subnets:
                if subnet not in self._streams:
                    self._streams[subnet] = self._stack.enter_context(subnet.events(10_000))
            return list(self._streams.values())

    def keep_interface(self, module_hash: bytes, service: ServiceType) -> None:
        """Remember what a canister answered that was asked for its interface."""
        with self.lock:
            self.interfaces[module_hash] = service
            if len(self.interfaces) > _KEPT_INTERFACES:
                self.interfaces.popitem(last=False)

    def close(self) -> None:
        """End what has been begun; the subnet stays open."""
        with self.lock:
            for trial in self.trials.values():
                trial.close()
            self.trials.clear()
            self._stack.close()
