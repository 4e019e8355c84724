"""What a check says: findings, each with its cause and its remedy, and the verdict that follows from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, final

__all__ = ["EXIT_CODES", "Finding", "MemoryRow", "Severity", "Verdict", "verdict_of"]

Severity = Literal["breaking", "not certain", "warning", "note"]
"""``breaking`` and ``not certain`` move the verdict; ``warning`` and ``note`` are said."""

Verdict = Literal["safe", "breaking", "not certain"]

EXIT_CODES: Final[dict[str, int]] = {"safe": 0, "breaking": 1, "not certain": 3}
"""2 is for what could not be checked, which is an error and no verdict."""

SEVERITIES: Final[tuple[Severity, ...]] = ("breaking", "not certain", "warning", "note")


@final
@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        code: which check found it, a name that stays.
        severity: see `Severity`.
        what: in a sentence.
        where: a method, a memory, a hook, a type.
        old: what it was.
        new: what it is.
        why: why it matters.
        remedy: what to do.
        memory: label of the structure that it is about, where it is about one.
        shows_values: whether `old` and `new` have values that the canister keeps, or was sent.
        values: texts within `what`, `why` and `new` that may: what a reply holds, what the canister said as it trapped.
        backtrace: of a trap, innermost frame first.
    """

    code: str
    severity: Severity
    what: str
    where: str = ""
    old: str = ""
    new: str = ""
    why: str = ""
    remedy: str = ""
    memory: str = ""
    shows_values: bool = False
    values: tuple[str, ...] = field(default=(), repr=False)
    backtrace: tuple[str, ...] = ()

    @property
    def parts(self) -> list[tuple[str, str]]:
        """What there is to say beyond the sentence, each with its title."""
        said = ("where", self.where), ("before", self.old), ("after", self.new), ("why", self.why), ("do", self.remedy)
        return [(title, text) for title, text in said if text]


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """The verdict that findings come to."""
    severities = {finding.severity for finding in findings}
    if "breaking" in severities:
        return "breaking"
    return "not certain" if "not certain" in severities else "safe"


@final
@dataclass(frozen=True)
class MemoryRow:
    """One structure before and after; sizes in bytes, 0 where it is not there."""

    memory: str
    name: str | None
    old_kind: str | None
    new_kind: str | None
    old_entries: int | None
    new_entries: int | None
    old_bytes: int
    new_bytes: int
    exercised: str
