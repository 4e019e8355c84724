"""The old module over the upgraded data: whether there is a way back."""

from __future__ import annotations

from collections.abc import Iterator

from perdure.upgrade.finding import Finding, Severity
from perdure.upgrade.rehearsal import Rehearsal, Try
from perdure.upgrade.stage import Outcome

__all__ = ["WAY_BACK_CHECKS", "way_back"]


def way_back(found: Rehearsal) -> Iterator[Finding]:
    """Whether the old module can be installed again on the upgraded data, and answers as before."""
    if found.back is None:
        return
    severity: Severity = "breaking" if found.options.require_way_back else "note"
    reason, values = "", tuple[str, ...]()
    if found.back.reject is not None:
        reason, values = f"the old module cannot be installed again: {found.back.words}", (found.back.words,)
    else:
        for one, back in found.back_tries:
            reason, *values_found = _back_differs(found, one, back)
            values = tuple(values_found)
            if reason:
                break
    if reason:
        yield Finding(
            "no-way-back",
            severity,
            reason,
            "the way back",
            why="once upgraded, there is no return to the old version",
            remedy="take a snapshot before the upgrade; migrate in two steps",
            shows_values=True,
            values=values,
        )


def _back_differs(found: Rehearsal, one: Try, back: Outcome) -> tuple[str, ...]:
    """How the old module answers otherwise, empty: it does not; behind it what of that are values."""
    if back.reject is not None:
        return f"back on the old module, {one.call.method} traps: {back.words}", back.words
    if one.old.reply is None or back.reply is None or one.old.reply == back.reply:
        return ("",)
    old, new = found.reply(one.call, one.old.reply), found.reply(one.call, back.reply)
    if old == new or found.is_volatile(one.call) or found.is_lost_anyway(one.call):
        return ("",)
    return f"back on the old module, {one.call.method} answers {new} instead of {old}", str(new), str(old)


WAY_BACK_CHECKS = (way_back,)
