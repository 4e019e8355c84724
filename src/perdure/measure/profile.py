"""Exact profiles: instructions by call path, of whatever canisters do within a block.

The code of all canisters is exchanged for one that counts by call path (`perdure.instrument.profile`), and exchanged
back at the end. Nothing else differs: instructions, cycles, state and history are those of a run without it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, final

from perdure.embedder import CompiledModule, WasmInstance, demangled, profiled_code
from perdure.embedder.call_tree import AFTERWARDS, CallTree
from perdure.ic.principal import Principal
from perdure.measure.flame import svg
from perdure.measure.formats import folded, pprof, speedscope, table
from perdure.measure.paths import Paths
from perdure.subnet import Subnet
from perdure.subnet.residency import CodeForm
from perdure.wasm import decode

__all__ = ["Profile", "profile_subnet"]

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


@contextmanager
def profile_subnet(subnet: Subnet) -> Iterator[Profile]:
    """Count what runs on a subnet within the block; see `Subnet.profile`."""
    profiler, found = _Profiler(), Profile()
    form = CodeForm(profiled_code, ended=profiler.ended)
    subnet._run_as(form)
    try:
        yield found
    finally:
        subnet._run_as_before(form)
        profiler.add_to(found)


@final
class _Profiler:
    """Gathers what instances have counted, by canister, with the names of functions."""

    def __init__(self) -> None:
        self._by_canister: dict[bytes, Paths] = {}
        self._names: dict[bytes, Callable[[int], str]] = {}

    def ended(self, instance: WasmInstance) -> None:
        """Take what an instance has counted that goes."""
        tree, code = instance.calls.tree, instance.module
        if tree is None or len(tree) == 1 or not isinstance(code, CompiledModule):
            return
        paths = self._by_canister.setdefault(instance.calls.canister_id, Paths())
        _add(tree, self._names.setdefault(code.module_hash, _naming(code)), paths)

    def add_to(self, found: Paths) -> None:
        """Add everything; of several canisters, each below its own frame."""
        for canister_id, paths in self._by_canister.items():
            found.add(paths, under=str(Principal(canister_id)) if len(self._by_canister) > 1 else "")


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


def _naming(code: CompiledModule) -> Callable[[int], str]:
    """From a function's number to its name."""
    given = decode(code.wasm).function_names
    known = {number: _OWN_NAMES.get(name, name.removeprefix(_ENTRY)) for number, name in code.facts.profiled}
    known[AFTERWARDS] = "heap page charges"

    def name(number: int) -> str:
        found = known.get(number)
        if found is None:
            symbol = given.get(number)
            found = known[number] = demangled(symbol) if symbol else f"wasm-function[{number}]"
        return found

    return name
