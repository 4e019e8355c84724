"""Data models before and after: what the catalogue in stable memory says of them, and whether their trees agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from perdure.data.catalogue import Catalogue, Model
from perdure.data.differences import compare_catalogues
from perdure.data.store import read_catalogue
from perdure.errors import PerdureError
from perdure.inspection.find import Inventory
from perdure.inspection.model_check import check_models
from perdure.upgrade.finding import Finding, Severity
from perdure.upgrade.rehearsal import Rehearsal

__all__ = ["MODEL_CHECKS", "changed_models", "models", "models_out_of_step"]

SEVERITIES: Final[dict[str, Severity]] = {"breaking": "breaking", "silently wrong": "breaking", "one way": "warning"}


def models(found: Rehearsal) -> Iterator[Finding]:
    """What the catalogue says of tables, verbs, triples and documents, before and after."""
    if found.after is None:
        return
    before, after = found.before.inventory, found.after.inventory
    yield from changed_models(before, after)
    yield from models_out_of_step(before, after, found.is_unchanged)


def changed_models(before: Inventory, after: Inventory) -> Iterator[Finding]:
    """What became of each model that there was."""
    try:
        old = read_catalogue(before.memory)
    except PerdureError:  # it was damaged before: nothing is known of what there was
        return
    if old is None:
        return
    try:
        new = read_catalogue(after.memory) or Catalogue()
        differences = list(compare_catalogues(old, new))
    except PerdureError as error:
        yield Finding(
            "catalogue-damaged",
            "breaking",
            f"the catalogue does not read any more: {error}",
            "catalogue",
            f"{len(old.models)} models",
            "no catalogue",
            "nobody can say what the trees in stable memory are",
            "write it as docs/formats.md draws it, or leave it alone",
        )
        return
    for one in differences:
        severity = SEVERITIES.get(one.verdict)
        if severity is not None:
            yield Finding(
                "model-changed", severity, one.what, one.place, one.old, one.new, why=one.why, remedy=one.remedy
            )


def models_out_of_step(before: Inventory, after: Inventory, is_unchanged: Callable[[str], bool]) -> Iterator[Finding]:
    """Where rows and indexes say different things that have not done so before.

    Going through rows takes time, so only models are looked at that a hook has changed, or written to.
    """
    try:
        old = read_catalogue(before.memory) or Catalogue()
    except PerdureError:
        old = Catalogue()

    def is_meant(model: Model) -> bool:
        return model != old.model(model.name) or not all(is_unchanged(str(tree.memory_id)) for tree in model.trees)

    known = {(one.label, code) for one in check_models(before, is_meant) for code in one.counts}
    for one in check_models(after, is_meant):
        for code, count in one.counts.items():
            if (one.label, code) in known or code == "catalogue-damaged":
                continue
            examples = [sample.message for sample in one.listed if sample.code == code]
            yield Finding(
                code,
                "breaking",
                f"{count:,} entries of memory {one.label} are not what the catalogue and the rows say",
                f"memory {one.label}",
                new=examples[0] if examples else "",
                why="what is looked up by it is not found, or is found twice",
                remedy="fill it from the rows in post_upgrade, or leave trees to `perdure.data` and its crate",
                memory=one.label,
                shows_values=True,
            )


MODEL_CHECKS = (models,)
