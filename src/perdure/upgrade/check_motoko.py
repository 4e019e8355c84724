"""Motoko's stable variables themselves, before and after: what a type cannot say, a hook may have done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from perdure.errors import PerdureError
from perdure.inspection.motoko import stable_variables
from perdure.memory import WASM_PAGE_BYTES
from perdure.upgrade.finding import Finding
from perdure.upgrade.rehearsal import Rehearsal
from perdure.upgrade.replies import is_less
from perdure.upgrade.stage import Stage
from perdure.values.show import json_text

__all__ = ["MOTOKO_CHECKS", "variables"]

MAX_BYTES: Final = 64 << 20
"""Of heap and stable memory together: more is left to replies."""


def variables(found: Rehearsal) -> Iterator[Finding]:
    """Stable variables of both versions that have less in them after the upgrade."""
    pair = _both(found)
    if pair is None:
        return
    before, after = pair
    for name, old in before.items():
        if name not in after or not _is_less(old, after[name]) or _is_emptied_anyway(found, name, old):
            continue
        yield Finding(
            "variable-less",
            "warning",
            f"the stable variable {name} has less in it after the upgrade",
            f"stable variable {name}",
            _shown(old),
            _shown(after[name]),
            "the new version's hook or its type has dropped something",
            "make sure that this is meant",
            shows_values=True,
        )


def keeps_variables(found: Rehearsal) -> bool:
    """Whether both versions keep their state in stable variables, and each has the value that it had."""
    pair = _both(found)
    if pair is None:
        return False
    before, after = pair
    return all(name in after and _is_same(old, after[name]) for name, old in before.items())


def _both(found: Rehearsal) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The variables of both versions, where both say their types and there is not too much to read."""
    if found.after is None or found.new is None or found.old.stable_types is None or found.new.stable_types is None:
        return None
    if (found.after.heap_wasm_pages + found.after.stable_wasm_pages) * WASM_PAGE_BYTES > MAX_BYTES:
        return None
    before, after = _read(found.old_stage), _read(found.new_stage)
    return None if before is None or after is None else (before, after)


def _is_same(old: Any, new: Any) -> bool:
    try:
        return bool(_unrolled(old) == _unrolled(new))
    except RecursionError:
        return json_text(old) == json_text(new)


def _is_less(old: Any, new: Any) -> bool:
    """As `is_less`, of lists as long as one likes: they are as deep."""
    try:
        return is_less(_unrolled(old), _unrolled(new))
    except RecursionError:
        return len(json_text(new)) < len(json_text(old))


def _unrolled(value: Any) -> Any:
    """The elements of a list that is pairs of an element and the rest; anything else as it is."""
    found, rest = [], value
    while isinstance(rest, tuple) and len(rest) == 2 and (rest[1] is None or isinstance(rest[1], tuple)):
        found.append(rest[0])
        rest = rest[1]
    return found if found and rest is None else value


def _shown(value: Any) -> str:
    try:
        return repr(value)[:200]
    except RecursionError:
        return json_text(value)[:200]


def _read(stage: Stage) -> Mapping[str, Any] | None:
    try:
        return stable_variables(stage.canister).values
    except (PerdureError, RecursionError):
        return None


def _is_emptied_anyway(found: Rehearsal, name: str, old: Any) -> bool:
    """Whether an upgrade of the old version to itself empties it too."""
    again = None if found.again is None else _read(found.again)
    return again is not None and _is_less(old, again.get(name))


MOTOKO_CHECKS = (variables,)
