"""What messages cost over many tests: by canister and method, held against budgets that stand in a file."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final, NamedTuple, final

from perdure import yaml_core
from perdure.canister import CanisterInstance, EntryPoint, Env, Return, Trap
from perdure.errors import MalformedError
from perdure.execution.events import Ended, ended
from perdure.execution.world import World
from perdure.memory import PAGE_BYTES
from perdure.units import meant, show_size

__all__ = ["Budget", "Exceeded", "Report", "Row", "StructureRow", "parse_budgets"]

_COLUMNS: Final = ("instructions", "cycles", "accessed_pages", "written_pages")


@final
class Row(NamedTuple):
    """One method of one canister, over all its calls; pages of 4 KiB, of all memories together."""

    canister: str
    method: str
    calls: int
    min_instructions: int
    median_instructions: int
    max_instructions: int
    median_cycles: int
    max_accessed_pages: int
    max_written_pages: int


@final
class StructureRow(NamedTuple):
    """One structure, over all calls of one method; pages of 4 KiB."""

    canister: str
    method: str
    structure: str
    """Memory, label, name and kind, as `perdure heatmap` shows them."""
    read_pages: int
    """Of all calls together."""
    written_pages: int
    max_working_set_pages: int
    """Different pages that the calls of one test accessed."""

    @property
    def is_read_seen(self) -> bool:
        """Whether what is read is seen: where it is, what is written was accessed, too."""
        return self.read_pages > 0 or not self.written_pages


@final
class Budget(NamedTuple):
    """How many instructions one call of a method may take, and why it is so many."""

    instructions: int
    reason: str = ""


@final
class Exceeded(NamedTuple):
    """A method that took more than its budget."""

    row: Row
    budget: Budget

    def __str__(self) -> str:
        over = self.row.max_instructions - self.budget.instructions
        return (
            f"{self.row.canister} {self.row.method}: {self.row.max_instructions:,} instructions, "
            f"{over:,} more than its budget of {self.budget.instructions:,}"
        )


@final
class Report:
    """Counts of entries, by canister and method."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], tuple[array[int], ...]] = {}
        self._structures: dict[tuple[str, str, str], list[int]] = {}
        self._known: dict[str, set[str]] = {}
        """What can be entered of each canister."""
        self.total_instructions = 0

    def watch(self, world: World, name_of: Callable[[bytes], str]) -> None:
        """Count whatever is entered in a world from now on.

        Args:
            world: of a subnet.
            name_of: from a canister's id to its name; empty: the hash of its module is shown.
        """

        def note(instance: CanisterInstance, entry: EntryPoint, env: Env, result: Trap | Return) -> None:
            canister_id = env.facts.canister_id
            name = name_of(canister_id) or instance.module.module_hash.hex()[:8]
            event = ended(canister_id, env.context, result, world.costs_of(instance.module))
            entered = entry.entered
            pages = [0, 0]
            if isinstance(event, Ended):
                pages = [event.stable_accessed_pages, sum(event.written_pages.values())]
            if name not in self._known or entered not in self._known[name]:
                self._known.setdefault(name, set()).update(instance.module.exported_methods, [entered])
            self.add(name, entered.removeprefix("canister_"), event.instructions, event.cycles, *pages)

        world.watchers = (*world.watchers, note)

    def add(self, canister: str, method: str, *values: int) -> None:
        """Count one entry: its instructions, cycles, pages accessed and pages written."""
        columns = self._counts.get((canister, method))
        if columns is None:
            columns = self._counts[canister, method] = tuple(array("q") for _ in _COLUMNS)
        for column, value in zip(columns, values, strict=True):
            column.append(value)
        self.total_instructions += values[0]

    def add_structure(self, canister: str, method: str, structure: str, pages: Sequence[int]) -> None:
        """Count what the calls of one test did to a structure: pages read, written, and its working set."""
        found = self._structures.setdefault((canister, method, structure), [0, 0, 0])
        found[:] = found[0] + pages[0], found[1] + pages[1], max(found[2], pages[2])

    def merge(self, plain: Mapping[str, Any]) -> None:
        """Add what another process has counted."""
        for canister, method, *columns in plain["counts"]:
            for values in zip(*columns, strict=True):
                self.add(canister, method, *values)
        for canister, method, structure, pages in plain["structures"]:
            self.add_structure(canister, method, structure, pages)
        for canister, methods in plain["known"].items():
            self._known.setdefault(canister, set()).update(methods)

    def plain(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return {
            "counts": [[*key, *(column.tolist() for column in columns)] for key, columns in self._counts.items()],
            "structures": [[*key, pages] for key, pages in self._structures.items()],
            "known": {canister: sorted(methods) for canister, methods in self._known.items()},
        }

    def rows(self) -> list[Row]:
        """All methods, by canister and name."""
        found = []
        for (canister, method), (instructions, cycles, accessed, written) in sorted(self._counts.items()):
            middle = (int(median(instructions)), int(median(cycles)))
            counts = (len(instructions), min(instructions), middle[0], max(instructions), middle[1])
            found.append(Row(canister, method, *counts, max(accessed), max(written)))
        return found

    def exceeded(self, budgets: Mapping[tuple[str, str], Budget]) -> list[Exceeded]:
        """Methods that took more than their budgets."""
        rows = {(row.canister, _name(row.method)): row for row in self.rows()}
        return [
            Exceeded(rows[key], budget)
            for key, budget in budgets.items()
            if key in rows and rows[key].max_instructions > budget.instructions
        ]

    def structures(self) -> list[StructureRow]:
        """All structures that somebody has counted, by canister and method, the most read first."""
        rows = (StructureRow(*key, *pages) for key, pages in self._structures.items())
        return sorted(rows, key=lambda row: (row.canister, row.method, -row.read_pages, row.structure))

    def misnamed(self, budgets: Mapping[tuple[str, str], Budget]) -> list[str]:
        """Budgets of methods that their canister does not have, in words."""
        found = []
        for canister, method in budgets:
            if canister in self._known:
                names = {_name(one.removeprefix("canister_")) for one in self._known[canister]} | {"callback"}
                if method not in names:
                    found.append(f"{canister} has no method {method!r}: {meant(method, names)}")
        return found

    def unused(self, budgets: Mapping[tuple[str, str], Budget]) -> list[str]:
        """Canisters that have budgets and were not there, in words: none of their tests ran, or they are misspelt."""
        missing = dict.fromkeys(canister for canister, _ in budgets if canister not in self._known)
        return [f"no canister {canister!r} ran: {meant(canister, self._known)}" for canister in missing]

    def lines(self) -> Iterator[str]:
        """A table for the terminal."""
        rows = self.rows()
        width = max([8, *(len(f"{row.canister} {row.method}") for row in rows)])
        yield (
            f"{'method':{width}} {'calls':>7} {'min':>14} {'median':>14} {'max':>14} {'cycles, median':>16} "
            f"{'read':>7} {'written':>7}"
        )
        for row in rows:
            counts = f"{row.min_instructions:>14,} {row.median_instructions:>14,} {row.max_instructions:>14,}"
            pages = f"{row.max_accessed_pages:>7,} {row.max_written_pages:>7,}"
            name = f"{row.canister} {row.method}"
            yield f"{name:{width}} {row.calls:>7,} {counts} {row.median_cycles:>16,} {pages}"
        yield from self._structure_lines()

    def _structure_lines(self) -> Iterator[str]:
        rows = self.structures()
        if not rows:
            return
        names = [f"{row.canister} {row.method}: {row.structure}" for row in rows]
        width = max([9, *map(len, names)])
        yield ""
        yield f"{'structure':{width}} {'read':>10} {'pages':>9} {'written':>10} {'pages':>9} {'working set, max':>16}"
        for name, row in zip(names, rows, strict=True):
            read, written, working = (show_size(pages * PAGE_BYTES) for pages in row[3:])
            pages_read = f"{read:>10} {row.read_pages:>9,}" if row.is_read_seen else " " * 20
            yield f"{name:{width}} {pages_read} {written:>10} {row.written_pages:>9,} {working:>16}"

    def markdown(self) -> str:
        """The same for a page, or the summary of a job."""
        head = ("canister", "method", "calls", "min", "median", "max", "cycles, median", "pages read", "pages written")
        lines = ["### Instructions and cycles", "", f"| {' | '.join(head)} |", f"|{'---|' * 2}{'---:|' * 7}"]
        for row in self.rows():
            names = (one.replace("|", "\\|") for one in row[:2])
            lines.append(f"| {' | '.join((*names, *(f'{value:,}' for value in row[2:])))} |")
        if self._structures:
            columns = "canister | method | structure | pages read | pages written | working set, max"
            lines += ["", "### Pages by structure", "", f"| {columns} |", f"|{'---|' * 3}{'---:|' * 3}"]
            for found in self.structures():
                names, counts = (one.replace("|", "\\|") for one in found[:3]), [f"{value:,}" for value in found[3:]]
                cells = [*names, counts[0] if found.is_read_seen else "", *counts[1:]]
                lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def _name(method: str) -> str:
    """The name alone, of ``update transfer``."""
    kind, space, name = method.partition(" ")
    return name if space else kind


def parse_budgets(text: str) -> dict[tuple[str, str], Budget]:
    """Budgets of methods, by canister and method.

        ledger:
          transfer: 5_000_000
          settle:
            - instructions: 20_000_000
            - instructions: 25_000_000
              reason: fees are settled too, since version 2

    Of several numbers the last counts, and each that is higher than the one before needs a reason.

    Raises:
        MalformedError: it is none, or a reason is missing.
    """
    try:
        found = yaml_core.load(text)
    except (ValueError, RecursionError) as error:
        raise MalformedError(str(error) or "nested too deeply") from error
    budgets = {}
    for canister, methods in _mapping(found, "the file").items():
        for method, steps in _mapping(methods, f"budgets of {canister}").items():
            budgets[str(canister), str(method)] = _last(steps, f"{canister} {method}")
    return budgets


def _last(steps: object, what: str) -> Budget:
    before: Budget | None = None
    for step in steps if isinstance(steps, list) else [steps]:
        fields = step if isinstance(step, dict) else {"instructions": step}
        instructions = fields.get("instructions")
        if isinstance(instructions, str) and instructions.replace("_", "").isascii():
            instructions = (
                int(instructions.replace("_", "")) if instructions.replace("_", "").isdigit() else instructions
            )
        if not isinstance(instructions, int) or isinstance(instructions, bool) or instructions < 0:
            raise MalformedError(f"the budget of {what} is {instructions!r:.40}, expected a number of instructions")
        budget = Budget(instructions, str(fields.get("reason") or ""))
        if before is not None and budget.instructions > before.instructions and not budget.reason:
            raise MalformedError(
                f"the budget of {what} rises from {before.instructions:,} to {instructions:,} without a reason: "
                "write `reason: ...` beside it"
            )
        before = budget
    if before is None:
        raise MalformedError(f"the budget of {what} is empty")
    return before


def _mapping(value: object, what: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise MalformedError(f"{what} is {value!r:.40}, expected names and what is under them")
    return value
