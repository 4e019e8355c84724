"""Whether the trees of data models are what their catalogue says, and in step with one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from perdure.data import Store, open_tables
from perdure.data.catalogue import Catalogue, Model
from perdure.data.store import read_catalogue
from perdure.errors import PerdureError
from perdure.inspection.find import Inventory, Structure
from perdure.inspection.findings import Findings
from perdure.inspection.rows import KEYED

__all__ = ["check_models"]


def check_models(inventory: Inventory, is_meant: Callable[[Model], bool] = lambda model: True) -> list[Findings]:
    """What is wrong with the catalogue, and with trees that belong together.

    Args:
        inventory: of a stable memory.
        is_meant: of which models the rows are gone through, which takes time; by default of all.
    """
    own = Findings("catalogue")
    try:
        catalogue = read_catalogue(inventory.memory)
        if catalogue is None:
            return []
        catalogue.schema()
    except PerdureError as error:
        own.add("catalogue-damaged", str(error))
        return [own]
    structures = {one.label: one for one in inventory.structures}
    collected = list(_check_kinds(catalogue, structures))
    return [own, *collected] if collected else [own, *_check_tables(inventory, is_meant)]


def _check_kinds(catalogue: Catalogue, structures: dict[str, Structure]) -> Iterator[Findings]:
    for model in catalogue.models:
        for tree in model.trees:
            found = structures.get(str(tree.memory_id))
            if tree.state != "unused" and (found is None or found.kind not in KEYED):
                findings = Findings(str(tree.memory_id))
                kind = "nothing" if found is None else f"a {found.kind}"
                findings.add("catalogue-tree", f"{tree.name} is a tree by the catalogue, and {kind} is there")
                yield findings


def _check_tables(inventory: Inventory, is_meant: Callable[[Model], bool]) -> Iterator[Findings]:
    for table in open_tables(Store.open(inventory.memory)):
        if not is_meant(table.model):
            continue
        by_tree = {tree.name: Findings(str(tree.memory_id)) for tree in table.model.trees}
        try:
            for fault in table.check():
                by_tree[fault.tree].add("index-differs", f"{fault.tree}: {fault.what}: {fault.key!r:.100}")
        except PerdureError:  # a tree that does not read has findings of its own
            continue
        yield from (one for one in by_tree.values() if one.counts)
