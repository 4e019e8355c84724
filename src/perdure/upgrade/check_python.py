"""An upgrade of a canister in Python, tried on a fork: what it declares against what is there, with names old and new.

Calls are not compared, as they are of Wasm: code in Python has no limits that a rehearsal could see it come near.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from perdure.errors import RejectError
from perdure.inspection.find import find_in_memory
from perdure.inspection.labels import ModuleLabels
from perdure.subnet.subnet import Canister
from perdure.upgrade.check_models import changed_models
from perdure.upgrade.check_modules import declarations, services
from perdure.upgrade.finding import Finding
from perdure.upgrade.report import Report, gravest_first
from perdure.values.schema import Schema

__all__ = ["check_python"]

_SAID: Final = re.compile(r"with message: '(.*)'\.?(\n|$)", re.DOTALL)
"""What a trap has said, among what the network says of it."""


def check_python(canister: Canister, new: type, arg: Any, title: str) -> Report:
    """Whether a canister in Python may become another class; the canister is not touched.

    Args:
        canister: in Python.
        new: the class that is to come.
        arg: of the upgrade.
        title: what the report calls it.
    """
    untouched, tried = (canister._subnet.fork().canister(canister.id) for _ in range(2))
    before = find_in_memory(untouched.stable)
    findings: list[Finding] = []
    try:
        tried.upgrade(new, arg)
    except RejectError as error:
        findings.append(_refused(error))
    else:
        after = find_in_memory(tried.stable)
        findings += services(untouched.service(), tried.service())
        findings += _declarations(untouched, tried)
        findings += changed_models(before, after)
    old_hash, new_hash = (one.module.module_hash.hex() if one.module else "" for one in (untouched, tried))
    sizes = {"stable": (untouched.stable.size(), tried.stable.size())}
    return Report(title, gravest_first(findings), old_hash, new_hash, sizes=sizes)


def _declarations(untouched: Canister, tried: Canister) -> Iterator[Finding]:
    """What both say of stable variables; trees of data models are in the catalogue."""
    old, new = (_declared(one) for one in (untouched, tried))
    if old is not None and new is not None:
        yield from declarations(old, new)


def _declared(canister: Canister) -> Schema | None:
    module = canister.module
    return None if module is None else ModuleLabels(lambda: module.wasm).declared()


def _refused(error: RejectError) -> Finding:
    """The new code's own words: names old and new, and the way out, or what a hook has raised."""
    said = _SAID.search(error.message)
    text = said[1] if said is not None else error.message
    return Finding(
        "upgrade-refused",
        "breaking",
        f"the upgrade traps and changes nothing: {text}",
        "upgrade",
        why="what is there does not become what the new code declares, or a hook or a migration raises",
        remedy="do as it says, and try again",
        values=(text,),
    )
