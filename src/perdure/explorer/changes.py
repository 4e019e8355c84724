"""How the memory of a canister differs from what it was, or would be: rows for a page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple, final

from perdure.errors import HostError, PerdureError
from perdure.explorer.subject import contents_of, trouble
from perdure.explorer.words import cell
from perdure.inspection.deadline import Deadline
from perdure.inspection.diff import Change, StructureDiff, diff
from perdure.inspection.source import Source
from perdure.subnet.subnet import Canister
from perdure.units import show_bytes

__all__ = ["Differences", "StructureChanges", "changes_between", "patience", "structures_between"]

_ROWS: Final = 20
_SECONDS: Final = 5.0
"""That a page compares."""


@final
class RowChange(NamedTuple):
    """An entry that came, went or is another."""

    what: str
    key: str
    before: str
    after: str


@final
class StructureChanges(NamedTuple):
    """What became of a structure."""

    name: str
    status: str
    added: int
    removed: int
    changed: int
    rows: Sequence[RowChange]
    more: bool


@final
class Differences(NamedTuple):
    """What became of a canister: facts before and after, and structures; `words`: what could not be compared."""

    facts: Sequence[tuple[str, object, object]]
    structures: Sequence[StructureChanges]
    words: str


def patience() -> Deadline:
    """How long a page compares, from now on: what it has until then is shown."""
    return Deadline(_SECONDS)


def changes_between(before: Canister, after: Canister) -> Differences:
    """How a canister differs from another state of it, as far as is found while somebody waits."""
    return Differences(_facts(before, after), *structures_between(before, after, patience()))


def _facts(before: Canister, after: Canister) -> list[tuple[str, object, object]]:
    old, new = before.status(), after.status()
    pairs = (
        ("module", _hash(old.module_hash), _hash(new.module_hash)),
        ("status", old.status, new.status),
        ("cycles", f"{old.cycles:,}", f"{new.cycles:,}"),
        ("stable memory in bytes", f"{old.stable_bytes:,}", f"{new.stable_bytes:,}"),
        ("heap in bytes", f"{old.heap_bytes:,}", f"{new.heap_bytes:,}"),
    )
    return [one for one in pairs if one[1] != one[2]]


def structures_between(
    before: Canister | Source, after: Canister | Source, deadline: Deadline
) -> tuple[list[StructureChanges], str]:
    """How the structures of a stable memory differ, and what is to be said where that cannot be told to the end."""
    shown: list[StructureChanges] = []
    try:
        deadline.look()
        with contents_of(before) as then, contents_of(after) as now:
            found = diff(then.inventory, now.inventory, now.schema or then.schema, deadline=deadline)
            shown.extend(_shown(one) for one in found if one.status != "same")
            return shown, ""
    except HostError as error:
        rest = (
            "what comes here was found until then, more may differ"
            if shown
            else "whether anything differs is not known"
        )
        return shown, f"not compared to the end, {error}: {rest}; perdure stable diff compares all of it"
    except (PerdureError, ValueError, KeyError) as error:
        return shown, trouble(error)


def _hash(found: bytes | None) -> str:
    return "none" if found is None else found.hex()


def _shown(one: StructureDiff) -> StructureChanges:
    rows = [_row(one, change) for change in islice(one.changes, _ROWS)]
    rows += [
        RowChange("changed", f"{run.address:#x}, {show_bytes(run.size_bytes)}", run.before.hex(" "), run.after.hex(" "))
        for run in islice(one.byte_runs(), _ROWS)
    ]
    return StructureChanges(
        one.name,
        one.status,
        one.count("added"),
        one.count("removed"),
        one.count("changed"),
        rows,
        max(len(one.changes), one.run_count) > _ROWS,
    )


def _row(found: StructureDiff, change: Change) -> RowChange:
    sides = []
    key = ""
    for table, data in zip(found.tables, (change.before, change.after), strict=True):
        if data is None or table is None:
            sides.append("")
            continue
        key = ", ".join(map(cell, table.decode_key(change.key)))
        sides.append(", ".join(map(cell, table.decode_value(data))))
    return RowChange(change.what, key, *sides)
