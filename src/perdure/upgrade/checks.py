"""The table of checks: each a function from what a rehearsal has collected to findings. To add one, add a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from perdure.upgrade.check_calls import CALL_CHECKS
from perdure.upgrade.check_hooks import HOOK_CHECKS
from perdure.upgrade.check_models import MODEL_CHECKS
from perdure.upgrade.check_modules import MODULE_CHECKS
from perdure.upgrade.check_motoko import MOTOKO_CHECKS
from perdure.upgrade.check_structures import STRUCTURE_CHECKS
from perdure.upgrade.check_way_back import WAY_BACK_CHECKS
from perdure.upgrade.finding import Finding
from perdure.upgrade.rehearsal import Rehearsal

__all__ = ["CHECKS", "Check"]

Check = Callable[[Rehearsal], Iterator[Finding]]

CHECKS: Final[tuple[Check, ...]] = (
    *HOOK_CHECKS,
    *MODULE_CHECKS,
    *STRUCTURE_CHECKS,
    *MODEL_CHECKS,
    *MOTOKO_CHECKS,
    *CALL_CHECKS,
    *WAY_BACK_CHECKS,
)
"""In the order in which their findings are told, within a severity."""
