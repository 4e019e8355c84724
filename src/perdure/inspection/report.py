"""The shapes in which findings leave this program as JSON: one thing has one name in all of them.

A memory's label is ``memory``, sizes end in ``_bytes`` or ``_pages``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from perdure.errors import UnsupportedError
from perdure.inspection.find import Inventory, Structure
from perdure.inspection.infer import Draft
from perdure.inspection.overwritten import lost_manager
from perdure.inspection.shape import Width
from perdure.inspection.sqlite import table_kinds
from perdure.values.show import to_json

if TYPE_CHECKING:  # they need the extra "columns"
    from perdure.inspection.diff import ByteRun, Change, StructureDiff
    from perdure.inspection.fsck import Report

__all__ = [
    "Json",
    "diff_json",
    "draft_json",
    "inventory_json",
    "record_of",
    "report_json",
    "structure_json",
    "tables_in",
]

Json: TypeAlias = dict[str, object]
"""An object of JSON."""


def record_of(value: object) -> Json:
    """A value's attributes for JSON, where a memory's label is ``memory`` everywhere."""
    return {"memory" if name == "label" else name: found for name, found in vars(value).items()}


def inventory_json(inventory: Inventory, trees: Mapping[str, Json] | None = None) -> Json:
    """What `find` has found; with ``trees``, the shapes of the maps by label."""
    lost = lost_manager(inventory)
    managers = [
        {
            "wasm_page": manager.wasm_page,
            "version": manager.header.version,
            "bucket_wasm_pages": manager.header.bucket_wasm_pages,
            "allocated_buckets": manager.header.allocated_buckets,
            "is_motoko": manager.is_motoko,
            "trouble": manager.trouble or None,
        }
        for manager in inventory.managers
    ]
    return {
        "source": inventory.label,
        "wasm_pages": inventory.memory.size(),
        "managers": managers,
        "lost_manager": vars(lost) if lost is not None else None,
        "structures": [
            structure_json(structure)
            if trees is None
            else {**structure_json(structure), "tree": trees.get(structure.label)}
            for structure in inventory.structures
        ],
        "variables": [
            {
                "name": one.name,
                "type": str(one.type),
                "is_mutable": one.types.variables[one.name].is_mutable,
                "columns": list(one.columns),
            }
            for one in inventory.variables.tables()
        ],
    }


def structure_json(structure: Structure) -> Json:
    """One structure."""
    return {
        "memory": structure.label,
        "name": structure.name,
        "kind": structure.kind,
        "version": structure.version,
        "entries": structure.entries,
        "key": _width_json(structure.key),
        "value": _width_json(structure.value),
        "wasm_pages": structure.region.size(),
        "used_bytes": structure.used_bytes,
        "allocated_bytes": structure.allocated_bytes,
        "wasted_bytes": structure.wasted_bytes,
        "address": structure.address,
        "data_memory": structure.data_memory_id,
        "note": structure.note or None,
        **(tables_in(structure) or {}),
    }


def tables_in(structure: Structure) -> dict[str, list[str]] | None:
    """Tables and views of an SQLite database; `None` of anything else, and where nobody can look (apsw is not here).

    What a virtual table keeps in tables of its own is left out.
    """
    if structure.kind != "sqlite":
        return None
    try:
        kinds = table_kinds(structure)
    except UnsupportedError:
        return None
    listed = {"tables": ("table", "virtual"), "views": ("view",)}
    return {what: [name for name, kind in kinds.items() if kind in of] for what, of in listed.items()}


def _width_json(width: Width | None) -> Json | None:
    if width is None:
        return None
    return {
        "max_bytes": width.max_bytes,
        "is_fixed": width.is_fixed,
        "is_unbounded": width.is_unbounded,
        "seen_bytes": width.seen,
    }


def report_json(report: Report) -> Json:
    """What `fsck` has found."""
    return {
        "errors": len(report.errors),
        "checked": report.checked,
        "counts": report.counts,
        "findings": [
            {**record_of(finding), "severity": finding.severity, "advice": finding.advice}
            for finding in report.findings
        ],
        "trees": {label: vars(facts) for label, facts in report.facts.items()},
    }


def diff_json(found: StructureDiff, limit: int) -> Json:
    """How a structure differs, with at most `limit` changes; 0: all."""
    shown = found.changes[:limit] if limit else found.changes
    return {
        "memory": found.label,
        "name": found.name,
        "status": found.status,
        "kinds": list(found.kinds),
        **{what: found.count(what) for what in ("added", "removed", "changed")},
        "pages": dict(zip(("all", "compared", "changed"), found.pages, strict=True)),
        "changes": [_change_json(found, change) for change in shown],
        **({"models": [asdict(one) for one in found.models]} if found.models else {}),
        **({"bytes": [_run_json(run) for run in islice(found.byte_runs(), limit or None)]} if found.regions else {}),
    }


def _run_json(run: ByteRun) -> Json:
    return {**run._asdict(), "before": run.before.hex(), "after": run.after.hex()}


def _change_json(found: StructureDiff, change: Change) -> Json:
    sides: Json = {}
    key: Json = {}
    for side, table, data in zip(("before", "after"), found.tables, (change.before, change.after), strict=True):
        assert table is not None
        if data is None:
            sides[side] = None
            continue
        key = dict(zip(table.key_columns, map(to_json, table.decode_key(change.key)), strict=True))
        sides[side] = dict(zip(table.value_columns, map(to_json, table.decode_value(data)), strict=True))
    return {"what": change.what, **key, **sides}


def draft_json(draft: Draft) -> Json:
    """What a memory may be, and how sure that is."""
    return {
        "memory": draft.memory.label,
        **{name: getattr(draft.memory, name) for name in ("name", "kind", "key", "value", "state")},
        "data_memory": draft.memory.data,
        "sampled": draft.sampled,
        "key_guesses": [vars(guess) for guess in draft.key],
        "value_guesses": [vars(guess) for guess in draft.value],
    }
