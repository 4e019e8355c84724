"""Which pages of memories messages read and write: by method, by structure, and over the map of the memory.

All of it is the accounting that there is anyway: an instance's lists of the pages of stable memory that its last entry
accessed and wrote, and of the heap that it changed. Lists are counted page by page; whose pages they are is asked once,
at the end, of the memory as it is then.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, final

from perdure.ic.principal import MAX_PRINCIPAL_BYTES, Principal
from perdure.measure.heat_map import PageHeat, draw, draw_terminal
from perdure.measure.structures import OTHER, Layout, Owner
from perdure.memory import PAGE_BYTES
from perdure.picture import Picture, one_line
from perdure.units import show_size

__all__ = ["STABLE", "Heat", "MessagePages", "MessageUse", "Tally", "Use", "principal_text"]

_MOST_PAGES: Final = 400_000
"""That are counted one by one, of all methods together: about 60 MB. Of more, neighbours are counted together."""
_MOST_KEPT_PAGES: Final = 1 << 20
"""Of the newest messages, where somebody wants to know what each of them did."""
_MOST_WAITING: Final = 1 << 16
"""Pages of messages that wait to be counted: to count many at once takes less time."""
STABLE: Final = "stable"
"""The memory of which structures are known."""


@final
class Use(NamedTuple):
    """What messages did to one structure, or to one memory of which no more is known. Pages are of 4 KiB."""

    canister: str
    memory: str
    """``stable``, ``heap``, or the name of one of the canister's own."""
    structure: str
    """Its label, as ``perdure stable ls`` shows it; ``other``: nobody's, or nobody knows; empty: a heap, or
    a memory of one's own without structures."""
    name: str
    """From a schema, a catalogue, a class in Python; of a database, the table or index."""
    kind: str
    read_pages: int | None
    """Pages that messages accessed, those among them that they wrote: each message counts a page once; `None`: what is
    only read is not seen."""
    written_pages: int
    working_set_pages: int
    """Different pages that were accessed, or written where no more is seen."""
    written_set_pages: int
    """Different pages that were written."""
    changed_bytes: int | None
    """Bytes that have another value than before the message; `None`: not compared."""

    @property
    def read_bytes(self) -> int | None:
        """Of the pages that messages accessed."""
        return None if self.read_pages is None else self.read_pages * PAGE_BYTES

    @property
    def written_bytes(self) -> int:
        """Of the pages that messages wrote: what a commit hands on."""
        return self.written_pages * PAGE_BYTES

    @property
    def title(self) -> str:
        """The structure in a few words."""
        return one_line(" ".join(filter(None, (self.memory, self.structure, self.name, self.kind))))

    @property
    def write_amplification(self) -> float | None:
        """Bytes of pages written for each byte that changed; `None`: not compared, or none did."""
        return self.written_bytes / self.changed_bytes if self.changed_bytes else None

    def to_json(self) -> dict[str, Any]:
        """As an object."""
        more = {name: getattr(self, name) for name in ("read_bytes", "written_bytes", "write_amplification")}
        return {**self._asdict(), **more}


@final
class Tally:
    """Pages of one memory that one method's messages have touched. `shift`: so many neighbours are one, as a power."""

    __slots__ = ("_read", "_written", "changed", "read", "shift", "written")

    def __init__(self, shift: int) -> None:
        self.read: Counter[int] = Counter()
        self.written: Counter[int] = Counter()
        self.changed: Counter[int] = Counter()
        self.shift = shift
        self._read, self._written = array("I"), array("I")

    def add(self, read: array[int], written: array[int]) -> None:
        """Have a message's pages wait to be counted."""
        self._read.extend(read)
        self._written.extend(written)

    def fold(self) -> int:
        """Count what waits for it; how many pages, or groups of them, there are."""
        for pending, counts in ((self._read, self.read), (self._written, self.written)):
            counts.update(pending if not self.shift else (page >> self.shift for page in pending))
        self._read, self._written = array("I"), array("I")
        return len(self.read) + len(self.written) + len(self.changed)

    def coarsen(self, shift: int) -> None:
        """Count more neighbours together."""
        self.fold()
        self.read, self.written, self.changed = (
            _shifted(counts, shift - self.shift) for counts in (self.read, self.written, self.changed)
        )
        self.shift = shift


def _shifted(counts: Counter[int], by: int) -> Counter[int]:
    found: Counter[int] = Counter()
    for page, count in counts.items():
        found[page >> by] += count
    return found


@final
class MessageUse(NamedTuple):
    """What one message did."""

    number: int
    """Of a history, the version that it made; else counted from 1 in the block."""
    canister: str
    method: str
    structures: list[Use]
    """Without `Use.changed_bytes`."""


MessagePages = tuple[int, tuple[bytes, str], Mapping[str, "tuple[array[int], array[int]]"]]
"""Number of a message, canister's id and method, and the pages that it accessed and wrote, by memory."""


class _Key(NamedTuple):
    canister_id: bytes
    method: str
    memory: str


@final
class Heat:
    """Pages that messages touched; what there is to see is there once the block has ended.

    Attributes:
        messages: entries, by canister's id and method.
        page_bytes: what was counted together: 4 KiB, or more where very many pages were touched.
    """

    def __init__(self, *, is_compared: bool = False, sees_reads: bool = True, newest: int = 0) -> None:
        self.messages: Counter[tuple[bytes, str]] = Counter()
        self.is_compared = is_compared
        self.sees_reads = sees_reads
        """Whether accesses are known at all: a history keeps what was written."""
        self._newest: deque[MessagePages] = deque()
        self._most_kept, self._kept_pages = newest, 0
        self._shift = self._waiting = 0
        self._tallies: dict[_Key, Tally] = {}
        self._layouts: dict[tuple[bytes, str], Layout] = {}
        self._names: dict[bytes, str] = {}

    # --- counted

    def tally(self, canister_id: bytes, method: str, memory: str) -> Tally:
        """Where pages of a memory are counted."""
        key = _Key(canister_id, method, memory)
        found = self._tallies.get(key)
        if found is None:
            found = self._tallies[key] = Tally(self._shift)
        return found

    def add(self, tally: Tally, read: array[int], written: array[int]) -> None:
        """Count the pages of a message."""
        tally.add(read, written)
        self._waiting += len(read) + len(written)
        if self._waiting > _MOST_WAITING:
            self._fold()

    def add_changed(self, tally: Tally, page: int, changed_bytes: int) -> None:
        """Count the bytes of a page that have changed."""
        tally.changed[page >> self._shift] += changed_bytes

    def keep(self, message: MessagePages) -> None:
        """Have a message among those that `newest` tells, in the place of older ones."""
        self._newest.append(message)
        self._kept_pages += _page_count(message)
        while len(self._newest) > 1 and (len(self._newest) > self._most_kept or self._kept_pages > _MOST_KEPT_PAGES):
            self._kept_pages -= _page_count(self._newest.popleft())

    def _fold(self) -> None:
        self._waiting = 0
        while sum(tally.fold() for tally in self._tallies.values()) > _MOST_PAGES:
            self._shift += 1
            for tally in self._tallies.values():
                tally.coarsen(self._shift)

    def settle(self, layout_of: Callable[[bytes, str], Layout]) -> None:
        """Have everything counted, and know whose pages they are: of the memories, by canister's id and name."""
        self._fold()
        for key in self._tallies:
            memory = (key.canister_id, key.memory)
            if memory not in self._layouts:
                self._layouts[memory] = layout_of(*memory)

    # --- looked at

    @property
    def page_bytes(self) -> int:
        """Bytes of what is counted as one."""
        return PAGE_BYTES << self._shift

    @property
    def total_messages(self) -> int:
        """Entries of all canisters."""
        return sum(self.messages.values())

    @property
    def memories(self) -> list[tuple[str, str]]:
        """Canisters and memories that were touched, the most touched first."""
        counts: Counter[tuple[bytes, str]] = Counter()
        for key, tally in self._tallies.items():
            counts[key.canister_id, key.memory] += tally.read.total() + tally.written.total()
        return [(self._name(canister_id), memory) for (canister_id, memory), count in counts.most_common() if count]

    def structures(self) -> list[Use]:
        """What was done to each structure, the most accessed first."""
        return self._uses(self._tallies.items())

    def newest(self) -> list[MessageUse]:
        """What each of the last messages did, the newest first: so many as was asked for, fewer if they are large."""
        found = []
        for number, (canister_id, method), memories in reversed(self._newest):
            tallies = []
            for memory, pages in memories.items():
                tally = Tally(self._shift)
                tally.add(*pages)
                tally.fold()
                tallies.append((_Key(canister_id, method, memory), tally))
            uses = [use._replace(changed_bytes=None) for use in self._uses(tallies)]
            found.append(MessageUse(number, self._name(canister_id), method, uses))
        return found

    def methods(self) -> list[tuple[str, str, int, list[Use]]]:
        """Canister, method, how many messages, and what they did to each structure, by canister and method."""
        tallies: dict[tuple[bytes, str], list[tuple[_Key, Tally]]] = {}
        for key, tally in self._tallies.items():
            tallies.setdefault(key[:2], []).append((key, tally))
        return [
            (self._name(canister_id), method, count, self._uses(tallies.get((canister_id, method), ())))
            for (canister_id, method), count in sorted(self.messages.items())
        ]

    def uses_of_methods(self) -> Iterator[tuple[str, str, str, tuple[int, int, int]]]:
        """Canister, method, structure, and its pages read, written, and in the working set, of all methods."""
        for canister, method, _, uses in self.methods():
            for use in uses:
                yield canister, method, use.title, (use.read_pages or 0, use.written_pages, use.working_set_pages)

    def name(self, names: Mapping[bytes, str]) -> None:
        """Call canisters by these names."""
        self._names.update(names)

    def _uses(self, tallies: Iterable[tuple[_Key, Tally]]) -> list[Use]:
        sums: dict[tuple[bytes, str, Owner], _Sums] = {}
        for key, tally in tallies:
            layout = self._layouts.get(key[::2])
            owner_of = _remembered(layout, self._shift, is_stable=key.memory == STABLE)
            for place, counts in enumerate((tally.read, tally.written, tally.changed)):
                for page, count in counts.items():
                    found = sums.setdefault((key.canister_id, key.memory, owner_of(page)), _Sums())
                    found.counts[place] += count
                    if place < 2:
                        found.pages[place].add(page)
        uses = (self._use(*key, found) for key, found in sums.items())
        return sorted(uses, key=lambda one: (-(one.read_pages or 0), -one.written_pages, one[:5]))

    def _use(self, canister_id: bytes, memory: str, owner: Owner, found: _Sums) -> Use:
        read, written, changed = found.counts
        together = 1 << self._shift
        working = found.pages[0] | found.pages[1]
        return Use(
            self._name(canister_id),
            memory,
            *owner,
            None if written and not read else read,  # where reads are seen, what is written was accessed
            written,
            len(working) * together,
            len(found.pages[1]) * together,
            changed if self.is_compared else None,
        )

    def _name(self, canister_id: bytes) -> str:
        return self._names.get(canister_id) or principal_text(canister_id)

    def table(self, rows: int = 30) -> str:
        """What was done to each structure, and by which methods, as text."""
        return "".join(f"{line}\n" for line in self._lines(rows))

    def _lines(self, rows: int) -> Iterator[str]:
        uses = self.structures()
        group = "" if not self._shift else f"; {show_size(self.page_bytes)} are counted as one"
        yield f"{_count(self.total_messages)}; pages of 4 KiB{group}"
        yield ""
        yield from _rows(uses[:rows], self.is_compared)
        if len(uses) > rows:
            yield f"... and {len(uses) - rows} more"
        for canister, method, count, some in self.methods()[:rows]:
            yield ""
            yield f"{canister} {method}: {_count(count)}"
            yield from _rows(some[:rows], self.is_compared, indent="  ")
        for number, canister, method, some in self.newest():
            yield ""
            yield f"message {number:,}: {canister} {method}"
            yield from _rows(some[:rows], False, indent="  ")

    def to_json(self) -> dict[str, Any]:
        """Everything as an object."""
        return {
            "messages": self.total_messages,
            "page_bytes": self.page_bytes,
            "sees_reads": self.sees_reads,
            "structures": [use.to_json() for use in self.structures()],
            "methods": [
                {
                    "canister": canister,
                    "method": method,
                    "messages": count,
                    "structures": [one.to_json() for one in some],
                }
                for canister, method, count, some in self.methods()
            ],
            "newest": [
                {**message._asdict(), "structures": [one.to_json() for one in message.structures]}
                for message in self.newest()
            ],
        }

    def svg(self, canister: str | None = None, memory: str | None = None) -> str:
        """A heatmap over the map of a memory: which parts were read and written, by how many messages.

        Args:
            canister: its id or name; by default that whose memory was touched most.
            memory: by default the one that was touched most, of stable memory if it was.

        Raises:
            LookupError: nothing of that was touched.
        """
        return self.picture(canister, memory).svg()

    def picture(self, canister: str | None = None, memory: str | None = None) -> Picture:
        """The same as a picture, which is a file as SVG or PNG; arguments and errors as of `svg`."""
        return draw(*self._drawn(canister, memory))

    def terminal(self, canister: str | None = None, memory: str | None = None, columns: int = 64) -> list[str]:
        """The same in letters; arguments and errors as of `svg`."""
        return draw_terminal(*self._drawn(canister, memory), columns)

    def _drawn(self, canister: str | None, memory: str | None) -> tuple[str, Layout, dict[int, PageHeat], int]:
        known = [(found, name) for found, name in self.memories if canister in (None, found) and memory in (None, name)]
        known.sort(key=lambda one: memory is None and one[1] != STABLE)
        if not self.memories and canister is None and memory is None:
            return f"no page of a memory was touched, {_count(self.total_messages)}", Layout.plain(0), {}, 0
        if not known:
            there = ", ".join(f"{found} {name}" for found, name in self.memories) or "none"
            raise LookupError(
                f"nothing was touched of {canister or 'any canister'}'s {memory or 'memories'}: found {there}"
            )
        name, kind = known[0]
        heat: dict[int, PageHeat] = {}
        layout = Layout.plain(0)
        for key, tally in self._tallies.items():
            if (self._name(key.canister_id), key.memory) == (name, kind):
                layout = self._layouts[key.canister_id, kind]
                for place, counts in enumerate((tally.read, tally.written)):
                    for page, count in counts.items():
                        found = heat.get(page, (0, 0))
                        heat[page] = (found[0] + count, found[1]) if place == 0 else (found[0], found[1] + count)
        title = f"{name}, {kind} memory, {_count(self.total_messages)}"
        return title, layout, heat, self._shift


def _page_count(message: MessagePages) -> int:
    return sum(len(read) + len(written) for read, written in message[2].values())


class _Sums:
    """What there is of one structure, while it is counted."""

    def __init__(self) -> None:
        self.counts = [0, 0, 0]
        self.pages: tuple[set[int], set[int]] = (set(), set())


def _remembered(layout: Layout | None, shift: int, *, is_stable: bool) -> Callable[[int], Owner]:
    if layout is None or layout.owners is None:
        nobody = OTHER if is_stable else Owner("", "", "")
        return lambda page: nobody
    return lambda page: layout.owner(page << shift)


def _rows(uses: list[Use], is_compared: bool, indent: str = "") -> Iterator[str]:
    names = [f"{indent}{use.title}" for use in uses]
    width = max([len(indent) + 9, *map(len, names)])
    more = f" {'changed':>10} {'amplified':>9}" if is_compared else ""
    yield (
        f"{indent + 'structure':{width}} {'read':>10} {'pages':>9} {'written':>10} {'pages':>9} "
        f"{'working set':>11} {'rewritten':>9}{more}"
    )
    for name, use in zip(names, uses, strict=True):
        again = f"{use.written_pages / use.written_set_pages:.1f}x" if use.written_set_pages else ""
        read = ("", "") if use.read_pages is None else (show_size(use.read_pages * PAGE_BYTES), f"{use.read_pages:,}")
        more = ""
        if is_compared:
            amplified = use.write_amplification
            more = f" {show_size(use.changed_bytes or 0):>10} {'' if amplified is None else f'{amplified:,.1f}x':>9}"
        yield (
            f"{name:{width}} {read[0]:>10} {read[1]:>9} {show_size(use.written_bytes):>10} {use.written_pages:>9,} "
            f"{show_size(use.working_set_pages * PAGE_BYTES):>11} {again:>9}{more}"
        )


def _count(messages: int) -> str:
    return f"{messages:,} message{'s' * (messages != 1)}"


def principal_text(canister_id: bytes) -> str:
    """A canister's id as people write it."""
    return str(Principal(canister_id)) if len(canister_id) <= MAX_PRINCIPAL_BYTES else canister_id.hex()
