"""Coverage: which functions and lines of canisters have run, over whatever happens within a block or a test session.

    instances count by block ─▶ a number for each block of a module ─line table▶ how often each line has run

Code runs in a form that counts (`perdure.instrument.coverage`); instructions, cycles, state and history are those of a
run without it. Modules without debug sections have functions and blocks only.
"""

from __future__ import annotations

import json
import threading
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import ge
from typing import Any, Final, NamedTuple, final

from perdure.embedder import CompiledModule, WasmInstance, covered_code, readable
from perdure.embedder.hits import HitCounter
from perdure.errors import MalformedError
from perdure.instrument.counted import COUNTER_BYTES
from perdure.instrument.coverage import block_starts
from perdure.measure.paths import one_line
from perdure.subnet import Subnet
from perdure.subnet.residency import CodeForm, Residents
from perdure.wasm import Module, decode
from perdure.wasm.dwarf import LineTable, module_lines
from perdure.wasm.names import module_name

__all__ = ["Coverage", "CoveredFunction", "CoveredModule", "cover_everything", "cover_subnet"]

_VERSION: Final = 1


@final
class CoveredFunction(NamedTuple):
    """One function of a module.

    Args:
        name: as its author wrote it, or ``wasm-function[index]``.
        file: where it begins; empty where that is not known.
        line: of the file, from 1 on; 0 likewise.
        counts: how often each of its blocks has run; the first is the function itself.
    """

    name: str
    file: str
    line: int
    counts: Sequence[int]


@final
class CoveredModule:
    """One module, and how often each of its blocks has run.

    Attributes:
        name: what the module calls itself, else the first digits of its hash.
        module_hash: in hexadecimal digits.
        lines: of each file's lines the blocks that have code of them, a list for each function.
        warning: what of its debug sections could not be read.
    """

    def __init__(self, name: str, module_hash: str) -> None:
        self.name, self.module_hash, self.warning = name, module_hash, ""
        self.counts = array("Q")
        self.lines: dict[str, dict[int, list[list[int]]]] = {}
        self._functions: list[tuple[str, str, int, int]] = []  # name, file, line, number of its first block

    @classmethod
    def of(cls, wasm: bytes, module_hash: bytes, schedule: str) -> CoveredModule:
        """A module whose blocks have not run.

        Args:
            wasm: as uploaded.
            module_hash: of it.
            schedule: by which it was metered.
        """
        module, digits = decode(wasm), module_hash.hex()
        covered = cls(one_line(module_name(module.custom("name") or b"")) or digits[:8], digits)
        starts = block_starts(module, schedule)
        table, addresses = module_lines(module)
        covered.warning = f"{covered.name}: {table.warning}" if table.warning else ""
        covered._lay_out(module, starts, addresses, table)
        return covered

    def _lay_out(
        self, module: Module, starts: Sequence[Sequence[int]], addresses: Sequence[int], table: LineTable
    ) -> None:
        names, first, imported = module.function_names, 0, module.imported_function_count
        for place, blocks in enumerate(starts):
            symbol, file, line = names.get(imported + place), "", 0
            if len(table):
                begins = [addresses[place] + block for block in blocks]
                for row in table.rows(addresses[place], addresses[place] + len(module.codes[place].body)):
                    if not line:
                        file, line = row.file, row.line
                    self._note(row.file, row.line, first, self._blocks_at(begins, row.start, row.end, first))
            name = one_line(readable(symbol)) if symbol else f"wasm-function[{imported + place}]"
            self._functions.append((name, file, line, first))
            first += len(blocks)
        self.counts = array("Q", bytes(first * COUNTER_BYTES))

    @staticmethod
    def _blocks_at(begins: Sequence[int], start: int, end: int, first: int) -> range:
        """Numbers of the blocks that have code within a range of addresses."""
        return range(first + max(0, bisect_right(begins, start) - 1), first + max(1, bisect_right(begins, end - 1)))

    def _note(self, file: str, line: int, first: int, blocks: range) -> None:
        """Have blocks of the function whose blocks begin with `first` be of a line."""
        known = self.lines.setdefault(file, {}).setdefault(line, [])
        if known and known[-1][0] >= first:
            known[-1].extend(block for block in blocks if block not in known[-1])
        else:
            known.append(list(blocks))

    def functions(self) -> Iterator[CoveredFunction]:
        """All of its functions, imports not among them."""
        ends = [first for _, _, _, first in self._functions[1:]] + [len(self.counts)]
        for (name, file, line, first), end in zip(self._functions, ends, strict=True):
            yield CoveredFunction(name, file, line, self.counts[first:end])

    def add(self, counted: int) -> None:
        """Count what instances have counted, as `HitCounter.taken` gives it."""
        total = int.from_bytes(self.counts.tobytes(), "little") + counted
        self.counts = array("Q", total.to_bytes(len(self.counts) * COUNTER_BYTES, "little"))

    def hits(self, file: str) -> dict[int, int]:
        """How often each line of a file has run: in each function as often as the block of it that ran most often."""
        counts = self.counts
        return {
            line: sum(max(counts[block] for block in blocks) for blocks in functions)
            for line, functions in self.lines.get(file, {}).items()
        }

    def plain(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        lines = {file: [[line, *blocks] for line, blocks in found.items()] for file, found in self.lines.items()}
        head = {"name": self.name, "hash": self.module_hash, "warning": self.warning}
        return head | {"functions": self._functions, "counts": self.counts.tolist(), "lines": lines}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> CoveredModule:
        """The inverse of `plain`.

        Raises:
            ValueError: functions or lines have blocks that the module does not have.
        """
        found = cls(str(plain["name"]), str(plain["hash"]))
        found.warning = str(plain["warning"])
        found._functions = [
            (str(name), str(file), int(line), int(first)) for name, file, line, first in plain["functions"]
        ]
        found.counts = array("Q", plain["counts"])
        found.lines = {
            file: {int(line): [list(map(int, blocks)) for blocks in functions] for line, *functions in rows}
            for file, rows in plain["lines"].items()
        }
        found._check()
        return found

    def _check(self) -> None:
        """See that every function has a block, and every line of a function too, which are there."""
        firsts, end = [first for _, _, _, first in self._functions], len(self.counts)
        if firsts and (firsts[0] or any(map(ge, firsts, [*firsts[1:], end]))):
            raise ValueError(f"functions whose blocks do not follow one another, up to {end:,}")
        numbered = [blocks for lines in self.lines.values() for functions in lines.values() for blocks in functions]
        if not all(blocks and 0 <= min(blocks) <= max(blocks) < end for blocks in numbered):
            raise ValueError(f"lines of blocks that are not there, expected numbers below {end:,}")


@final
class Coverage:
    """What has run of which modules; complete once the block around it has ended."""

    def __init__(self) -> None:
        self._modules: dict[str, CoveredModule] = {}

    @property
    def modules(self) -> list[CoveredModule]:
        """All modules that were there, by name."""
        return sorted(self._modules.values(), key=lambda one: (one.name, one.module_hash))

    @property
    def warnings(self) -> list[str]:
        """What could not be read of debug sections."""
        return [one.warning for one in self.modules if one.warning]

    def files(self) -> dict[str, dict[int, int]]:
        """How often each line has run, by path, ascending."""
        found: dict[str, dict[int, int]] = {}
        for module in self.modules:
            for file in module.lines:
                lines = found.setdefault(file, {})
                for line, count in module.hits(file).items():
                    lines[line] = lines.get(line, 0) + count
        return {file: dict(sorted(found[file].items())) for file in sorted(found)}

    def module(self, wasm: bytes, module_hash: bytes, schedule: str) -> CoveredModule:
        """What has run of a module, which is there from now on."""
        found = self._modules.get(module_hash.hex())
        if found is None:
            found = self._modules[module_hash.hex()] = CoveredModule.of(wasm, module_hash, schedule)
        return found

    def add(self, other: Coverage) -> None:
        """Add what somebody else has seen run.

        Raises:
            MalformedError: it has other blocks of a module of the same hash.
        """
        for digits, module in other._modules.items():
            known = self._modules.setdefault(digits, module)
            if known is module:
                continue
            if len(known.counts) != len(module.counts):
                raise MalformedError(
                    f"coverage of module {digits[:8]} has {len(module.counts):,} blocks, expected {len(known.counts):,}"
                )
            known.add(int.from_bytes(module.counts.tobytes(), "little"))

    def dumps(self) -> str:
        """All of it as JSON, for `loads`."""
        return json.dumps({"perdure coverage": _VERSION, "modules": [module.plain() for module in self.modules]})

    @classmethod
    def loads(cls, text: str) -> Coverage:
        """Read what `dumps` has written.

        Raises:
            MalformedError: it has not.
        """
        found = cls()
        try:
            plain = json.loads(text)
            if plain["perdure coverage"] != _VERSION:
                raise MalformedError(f"coverage of version {plain['perdure coverage']!r:.20}, expected {_VERSION}")
            found._modules = {one["hash"]: CoveredModule.from_plain(one) for one in plain["modules"]}
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, AttributeError) as error:
            raise MalformedError(f"no coverage that `perdure coverage` has written: {error!r:.80}") from error
        return found


@contextmanager
def cover_subnet(subnet: Subnet) -> Iterator[Coverage]:
    """See which code runs on a subnet within the block; see `Subnet.coverage`."""
    watcher, found = _Watcher(), Coverage()
    form = watcher.form
    subnet._run_as(form)
    try:
        yield found
    finally:
        subnet._run_as_before(form)
        watcher.add_to(found)


@contextmanager
def cover_everything() -> Iterator[Coverage]:
    """See which code runs on any subnet of this process within the block, forks and all.

    Instances that are there before, of subnets that have run, are not seen.
    """
    watcher, found = _Watcher(), Coverage()
    try:
        with Residents.run_everywhere_as(watcher.form):
            yield found
    finally:
        watcher.add_to(found)


@final
class _Watcher:
    """Gathers what instances have counted, by module: when they are closed, when they are gone without, at the end."""

    def __init__(self) -> None:
        self.form = CodeForm(covered_code, self._begun, self._ended)
        self._lock = threading.Lock()
        self._counters: dict[HitCounter, bytes] = {}
        """Of instances that may be counting, with the hashes of their modules."""
        self._gone: list[HitCounter] = []
        """Of instances that nobody has closed; the garbage collector adds to it, in whatever thread."""
        self._sums: dict[bytes, int] = {}
        self._code: dict[bytes, tuple[bytes, str]] = {}

    def _begun(self, instance: WasmInstance) -> None:
        code, counter = instance.module, instance.calls.hits
        if not counter.points or not isinstance(code, CompiledModule) or code.options.schedule is None:
            return
        weakref.finalize(instance, self._gone.append, counter).atexit = False
        with self._lock:
            self._code.setdefault(code.module_hash, (code.wasm, code.options.schedule))
            self._counters[counter] = code.module_hash
            while self._gone:
                self._take([self._gone.pop()])

    def _ended(self, instance: WasmInstance) -> None:
        with self._lock:
            self._take([instance.calls.hits])

    def _take(self, counters: Iterable[HitCounter]) -> None:
        for counter in counters:
            module_hash = self._counters.pop(counter, None)
            if module_hash is not None:
                self._sums[module_hash] = self._sums.get(module_hash, 0) + counter.taken()

    def add_to(self, found: Coverage) -> None:
        """Add everything."""
        with self._lock:
            self._take(list(self._counters))
        for module_hash, (wasm, schedule) in self._code.items():
            found.module(wasm, module_hash, schedule).add(self._sums.get(module_hash, 0))
