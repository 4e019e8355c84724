"""Stable memory before and after: structures that are gone, smaller, of another shape, or whose values changed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Any, Final

from perdure.errors import PerdureError
from perdure.inspection.find import Structure
from perdure.inspection.rows import KEYED, Rows, open_table
from perdure.stable.btree import BTree
from perdure.upgrade.finding import Finding
from perdure.upgrade.rehearsal import Rehearsal
from perdure.values.schema import Schema

__all__ = ["SAMPLED", "STRUCTURE_CHECKS", "structures", "values"]

SAMPLED: Final = 1_000
_FINGERPRINT: Final = 64


def structures(found: Rehearsal) -> Iterator[Finding]:
    """What each memory held and holds."""
    if found.after is None:
        return
    old, new = found.before.structures, found.after.structures
    moved = dict(_moved(found))
    gained = sum(max(0, (new[label].entries or 0) - (old[label].entries or 0 if label in old else 0)) for label in new)
    for label, before in old.items():
        after = new.get(label)
        name = _title(before)
        if label in moved:
            yield Finding(
                "content-moved",
                "warning",
                f"what was in {name} is in memory {moved[label]} now",
                f"memory {label}",
                _shape(before),
                "nothing" if after is None else _shape(after),
                "the same content under another id: whoever opens the old id finds something else",
                "make sure that this is meant: the old version does not find it",
                memory=label,
            )
        elif after is None:
            if before.kind == "unknown" and found.old.stable_types is not None:
                continue  # Motoko's runtime passes the heap on through stable memory, and takes it away
            if not _is_retired(found, label) and before.entries != 0:
                yield Finding(
                    "structure-gone",
                    "breaking",
                    f"{name} is gone",
                    f"memory {label}",
                    _shape(before),
                    "nothing",
                    "its entries are lost",
                    "keep the memory, or say in stable.yaml that it is retired",
                    memory=label,
                )
        else:
            yield from _changed(found, before, after, gained)


def _changed(found: Rehearsal, before: Structure, after: Structure, gained: int) -> Iterator[Finding]:
    label, name = before.label, _title(before)
    if before.kind != after.kind and not {before.kind, after.kind} <= set(KEYED):
        yield Finding(
            "structure-kind",
            "breaking" if before.entries != 0 else "warning",
            f"{name} became another kind of structure",
            f"memory {label}",
            _shape(before),
            _shape(after),
            "what was there cannot be read",
            "use another memory id",
        )
        return
    lost = (before.entries or 0) - (after.entries or 0)
    if lost > 0 and before.kind != "unknown":
        is_moved = gained >= lost
        retired = _is_retired(found, label)
        yield Finding(
            "entries-moved" if is_moved else "entries-lost",
            "warning" if is_moved or retired else "breaking",
            f"{name} has {lost:,} entries less" + (", and other structures have as many more" if is_moved else ""),
            f"memory {label}",
            _shape(before),
            _shape(after),
            "the old version does not find them any more" if is_moved else "they are lost",
            "make sure that nothing needs them in the old place"
            if is_moved
            else "look at what post_upgrade does with it",
            memory=label,
        )
    elif _form(before) != _form(after) and before.entries:
        yield Finding(
            "structure-shape",
            "warning",
            f"{name} has another layout",
            f"memory {label}",
            _shape(before),
            _shape(after),
            "the old version may refuse it",
            "try the way back",
        )


def _form(one: Structure) -> tuple[Any, ...]:
    return one.version, str(one.shape.bounds_sum) if one.shape else str(one.value)


def _moved(found: Rehearsal) -> Iterator[tuple[str, str]]:
    """Structures whose content is now under another id, while their own id has something else."""
    after = found.after
    assert after is not None
    prints = {label: _print(one) for label, one in after.structures.items()}
    for label, before in found.before.structures.items():
        mine = _print(before)
        if not mine or prints.get(label) == mine:
            continue
        for other, other_print in prints.items():
            if other_print == mine and other != label and _print(found.before.structures.get(other)) != mine:
                yield label, other
                break


def _print(structure: Structure | None) -> tuple[Any, ...]:
    """The first entries, to recognise content by; nothing where there are few, or they cannot be read."""
    if structure is None or (structure.entries or 0) < 2:
        return ()
    try:
        return (structure.kind, structure.entries, *islice(open_table(structure).entries(), _FINGERPRINT))
    except (PerdureError, ValueError, IndexError):
        return ()


def _is_retired(found: Rehearsal, label: str) -> bool:
    schema = None if found.new is None else found.new.schema
    return schema is not None and schema.of(label).life in ("unused", "removed")


def _title(one: Structure) -> str:
    return f"{one.name} (memory {one.label})" if one.name else f"memory {one.label}"


def _shape(one: Structure) -> str:
    widths = (
        f" of {one.key} to {one.value}" if one.key is not None else f" of {one.value}" if one.value is not None else ""
    )
    entries = "" if one.entries is None else f", {one.entries:,} entries"
    version = "" if one.version is None else f" version {one.version}"
    return f"{one.kind}{version}{widths}{entries}"


# -- values


def values(found: Rehearsal) -> Iterator[Finding]:
    """The entries that are there, read as both schemas say."""
    if found.after is None or found.new is None:
        return
    old_schema, new_schema = found.old.schema, found.new.schema
    for label, after in found.after.structures.items():
        before = found.before.structures.get(label)
        declared = None if new_schema is None else new_schema.of(label)
        if new_schema is None or declared is None or declared.state != "active":
            continue
        if declared.kind is not None and declared.kind != after.kind and not {declared.kind, after.kind} <= set(KEYED):
            yield Finding(
                "schema-untrue",
                "breaking",
                f"{_title(after)} is no {declared.kind}",
                f"memory {label}",
                declared.kind,
                _shape(after),
                "the new version declares something else than there is",
                "correct one of them",
            )
            continue
        yield from _decoded(found, label, before, after, (old_schema, new_schema))


def _decoded(
    found: Rehearsal, label: str, before: Structure | None, after: Structure, schemas: tuple[Schema | None, Schema]
) -> Iterator[Finding]:
    old_schema, new_schema = schemas
    declared = new_schema.of(label)
    if declared.key is None and declared.value is None:
        return
    try:
        table = open_table(after, new_schema)
        old = open_table(before, old_schema) if before is not None and old_schema is not None else None
        entries = list(_sample(table, found, label))
    except (PerdureError, ValueError, IndexError) as error:
        yield Finding(
            "schema-untrue",
            "breaking",
            f"{_title(after)} cannot be read as the new schema says: {error}",
            f"memory {label}",
            new=_shape(after),
            why="the new version declares something else than there is",
            remedy="correct one of them",
        )
        return
    bad, other = 0, 0
    example = ("", "")
    for key, value in entries:
        mine = _values(table, key, value)
        if mine is None:
            bad += 1
            example = example if example[0] else (str(key if isinstance(key, int) else key.hex()), value[:32].hex())
        elif old is not None and found.is_unchanged(label) and (his := _values(old, key, value)) not in (None, mine):
            other += 1
            example = example if example[0] else (str(his), str(mine))
    if bad:
        yield Finding(
            "values-undecodable",
            "breaking",
            f"{bad:,} of {len(entries):,} entries of {_title(after)} are not what the new schema says",
            f"memory {label}",
            *example,
            why="the new version cannot read them",
            remedy="migrate them in post_upgrade, or declare what they are",
            shows_values=True,
        )
    elif other:
        yield Finding(
            "values-differ",
            "breaking",
            f"{other:,} of {len(entries):,} entries of {_title(after)} mean something else by the new schema",
            f"memory {label}",
            *example,
            why="both schemas decode the same bytes, to different values: nothing traps",
            remedy="migrate them, or keep the old format",
            shows_values=True,
        )


def _values(table: Rows, key: Any, value: bytes) -> tuple[Any, ...] | None:
    """The columns of an entry, `None` where they do not decode."""
    try:
        left = () if table.key is None else (table.key.decode(key),)
        return *left, *((table.value.decode(value),) if table.structure.kind != "btreeset" else ())
    except (PerdureError, ValueError):
        return None


def _sample(table: Rows, found: Rehearsal, label: str) -> Iterator[tuple[Any, bytes]]:
    """All entries of what hooks changed and where all are asked for; else a seeded sample."""
    count = len(table)
    if found.options.decode_all or not found.is_unchanged(label) or count <= SAMPLED:
        yield from table.all_entries()
        return
    random = Random(found.options.seed)
    if table.tree is None:
        for place in sorted(random.sample(range(count), SAMPLED)):
            yield place, table.get(place) or b""
        return
    drawn: dict[bytes, bytes] = {}
    for _ in range(SAMPLED):
        drawn.update([_drawn(table.tree, random)])
    yield from drawn.items()


def _drawn(tree: BTree, random: Random) -> tuple[bytes, bytes]:
    """An entry from the end of a random path through a tree: a few nodes are read, however large it is."""
    node = tree.nodes.load(tree.header.root)
    while node.children and random.randrange(len(node.keys) + 8) >= 1:
        node = tree.nodes.load(random.choice(node.children))
    index = random.randrange(len(node.keys))
    return node.keys[index], node.value(index)


STRUCTURE_CHECKS = (structures, values)
