"""Exact profiles: instructions by call path, of whatever canisters do within a block.

The code of all canisters is exchanged for one that counts by call path (`perdure.instrument.profile`), and exchanged
back at the end. Nothing else differs: instructions, cycles, state and history are those of a run without it.
"""

from __future__ import annotations

import threading
import weakref
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, final

from perdure.embedder import CompiledModule, WasmInstance, profiled_code, readable
from perdure.embedder.call_tree import AFTERWARDS, CallCounter, CallTree
from perdure.ic.principal import Principal
from perdure.measure.flame import svg
from perdure.measure.formats import folded, pprof, speedscope, table
from perdure.measure.paths import Paths, one_line
from perdure.subnet import Subnet
from perdure.subnet.residency import CodeForm, Residents
from perdure.wasm import decode
from perdure.wasm.dwarf import module_lines
from perdure.wasm.names import module_name

__all__ = ["ENDS", "Profile", "content_of", "profile_everything", "profile_subnet"]

_ENTRY: Final = "canister_"
_OWN_NAMES: Final = {"perdure callback": "callback"}


@final
class Profile(Paths):
    """What ran, by call path, and its instructions: as people and other programs want it."""

    def table(self, rows: int = 30) -> str:
        """The dearest functions, and what the kinds of cost come to, as text."""
        return table(self, rows)

    def folded(self) -> str:
        """One line for each call path, frames with semicolons between them, and its own instructions."""
        return folded(self)

    def speedscope(self, name: str = "perdure") -> str:
        """JSON for speedscope."""
        return speedscope(self, name)

    def pprof(self) -> bytes:
        """A compressed profile for ``go tool pprof``."""
        return pprof(self)

    def svg(self, title: str = "Instructions") -> str:
        """A flame graph to look at in a browser: click to come closer, search by regular expression."""
        return svg(self, title)


ENDS: Final[dict[str, Callable[[Profile], str | bytes]]] = {
    ".svg": Profile.svg,
    ".folded": Profile.folded,
    ".txt": Profile.table,
    ".json": Profile.speedscope,
    ".pb.gz": Profile.pprof,
}
"""What is written to a file, by the end of its name."""


def content_of(profile: Profile, file_name: str) -> bytes:
    """A profile in the format that a file's name ends with, one of `ENDS`."""
    content = next(made for end, made in ENDS.items() if file_name.endswith(end))(profile)
    return content if isinstance(content, bytes) else content.encode(errors="replace")


@contextmanager
def profile_subnet(subnet: Subnet) -> Iterator[Profile]:
    """Count what runs on a subnet within the block; see `Subnet.profile`."""
    profiler, found = _Profiler(), Profile()
    subnet._run_as(profiler.form)
    try:
        yield found
    finally:
        subnet._run_as_before(profiler.form)
        profiler.add_to(found)


@contextmanager
def profile_everything() -> Iterator[Profile]:
    """Count what runs on any subnet of this process within the block, by module.

    Instances that are there before, of subnets that have run, are not seen.
    """
    profiler, found = _Profiler(by_module=True), Profile()
    try:
        with Residents.run_everywhere_as(profiler.form):
            yield found
    finally:
        profiler.add_to(found)


@final
class _Profiler:
    """Gathers what instances have counted, by canister or module: when they are closed, when they are gone without."""

    def __init__(self, *, by_module: bool = False) -> None:
        self.form = CodeForm(profiled_code, self._begun, self._ended)
        self._by_module = by_module
        self._lock = threading.Lock()
        self._counters: dict[CallCounter, CompiledModule] = {}
        self._gone: list[CallCounter] = []
        """Of instances that nobody has closed; the garbage collector adds to it, in whatever thread."""
        self._found: dict[str, Paths] = {}
        self._names: dict[bytes, _Names] = {}

    def _begun(self, instance: WasmInstance) -> None:
        code, counter = instance.module, instance.calls
        if counter.tree is None or not isinstance(code, CompiledModule):
            return
        weakref.finalize(instance, self._gone.append, counter).atexit = False
        with self._lock:
            self._counters[counter] = code
            while self._gone:
                self._take(self._gone.pop())

    def _ended(self, instance: WasmInstance) -> None:
        with self._lock:
            self._take(instance.calls)

    def _take(self, counter: CallCounter) -> None:
        code = self._counters.pop(counter, None)
        if code is None or counter.tree is None:
            return
        counter.take()
        names = self._names.get(code.module_hash)
        if names is None:
            names = self._names[code.module_hash] = _Names(code)
        group = names.module if self._by_module else str(Principal(counter.canister_id))
        if len(counter.tree) > 1:
            _add(counter.tree, names, self._found.setdefault(group, Paths()))

    def add_to(self, found: Paths) -> None:
        """Add everything; of several canisters, each below its own frame."""
        with self._lock:
            for counter in list(self._counters):
                self._take(counter)
        for group, paths in self._found.items():
            found.add(paths, under=group if len(self._found) > 1 or self._by_module else "")
        for names in self._names.values():
            found.places = names.places | found.places
            found.warnings += [names.warning] if names.warning else []


def _add(tree: CallTree, name: Callable[[int], str], paths: Paths) -> None:
    places = array("I", [0])
    for node in range(1, len(tree)):
        parent = tree.parents[node]
        place = paths.child(places[parent], name(tree.functions[node]))
        places.append(place)
        paths.count(place, tree.calls[node], tree.instructions[node], tree.bytes[node])
        paths.self_instructions[places[parent]] -= tree.instructions[node]
    paths.self_instructions[0] = 0
    paths.lost_calls += tree.lost_calls


@final
class _Names:
    """From a function's number to its name."""

    def __init__(self, code: CompiledModule) -> None:
        module = decode(code.wasm)
        self._given = module.function_names
        self._known = {
            number: _OWN_NAMES.get(name) or one_line(name.removeprefix(_ENTRY)) for number, name in code.facts.profiled
        }
        self._known[AFTERWARDS] = "heap page charges"
        self._imported = module.imported_function_count
        self._lines, self._addresses = module_lines(module)
        self.module = one_line(module_name(module.custom("name") or b"")) or code.module_hash.hex()[:8]
        self.warning = f"{self.module}: {self._lines.warning}" if self._lines.warning else ""
        self.places: dict[str, tuple[str, int]] = {}
        """Where functions begin that were asked for."""

    def __call__(self, number: int) -> str:
        found = self._known.get(number)
        if found is None:
            symbol = self._given.get(number)
            found = self._known[number] = one_line(readable(symbol)) if symbol else f"wasm-function[{number}]"
            place = number - self._imported
            if len(self._lines) and 0 <= place < len(self._addresses) - 1:
                row = next(self._lines.rows(self._addresses[place], self._addresses[place + 1]), None)
                if row is not None:
                    self.places.setdefault(found, (one_line(row.file), row.line))
        return found
