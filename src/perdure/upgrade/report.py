"""A rehearsal, judged: findings, verdict, and what was and was not looked at; for people, programs and CI."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, final

from perdure.errors import located
from perdure.inspection.find import Structure
from perdure.units import counted, printable
from perdure.upgrade.check_calls import exercised
from perdure.upgrade.check_hooks import Usage, slices, usage
from perdure.upgrade.checks import CHECKS
from perdure.upgrade.finding import EXIT_CODES, SEVERITIES, Finding, MemoryRow, Verdict, verdict_of
from perdure.upgrade.html import junit, page
from perdure.upgrade.rehearsal import Rehearsal

__all__ = ["MemoryRow", "Report", "gravest_first", "judge"]

_MACHINERY = re.compile(r"panic|backtrace|begin_unwind|ic_trap|assert_failed|unwrap_failed")
"""Frames between a mistake and its trap."""

_PANIC = re.compile(r"(Panicked at |panicked at )?('[^']*', )?[\w./\\-]+\.\w{1,4}:\d+:\d+:? ")
"""Where a panic was, which is the code's; what it says behind that may be the data's."""

REDACTED = "(not shown)"
_CAUSES = frozenset({"structure-recreated", "structure-gone", "entries-lost"})
_CONSEQUENCES = frozenset({"data-lost", "reply-differs", "data-unreadable", "key-type", "structure-abandoned"})


@final
@dataclass(frozen=True)
class Report:
    """What a check came to.

    Attributes:
        source: what was checked.
        findings: gravest first.
        old_hash: SHA-256 of the old module.
        new_hash: of the new one.
        limits: how near the upgrade comes to the network's limits.
        slices: rounds that the upgrade takes.
        memories: structures before and after.
        calls: how many calls were tried of each origin.
        methods: how many methods were tried.
        untried: methods that were not tried, with the reason.
        unexercised: labels of structures that nothing of the new version has read.
        way_back: whether the old module works on the upgraded data; `None`: that was not tried.
        sizes: heap and stable memory before and after, in Wasm pages.
        seed: of what was drawn.
    """

    source: str
    findings: tuple[Finding, ...]
    old_hash: str
    new_hash: str
    limits: tuple[Usage, ...] = ()
    slices: int = 0
    memories: tuple[MemoryRow, ...] = ()
    calls: dict[str, int] = field(default_factory=dict)
    methods: int = 0
    untried: dict[str, str] = field(default_factory=dict)
    unexercised: tuple[str, ...] = ()
    way_back: bool | None = None
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    seed: int = 0
    private: frozenset[str] = field(default=frozenset(), repr=False)
    """Texts that the canister keeps, which are not shown where values are not."""

    @cached_property
    def verdict(self) -> Verdict:
        """``safe``, ``breaking`` or ``not certain``."""
        return verdict_of(self.findings)

    @property
    def exit_code(self) -> int:
        """0 safe, 1 breaking, 3 not certain."""
        return EXIT_CODES[self.verdict]

    def __bool__(self) -> bool:
        """Whether the upgrade is safe."""
        return self.verdict == "safe"

    def of(self, *severities: str) -> list[Finding]:
        """Findings of these severities."""
        return [one for one in self.findings if one.severity in severities]

    @property
    def causes(self) -> list[str]:
        """Codes of the findings that move the verdict, each once."""
        return list(dict.fromkeys(one.code for one in self.of("breaking", "not certain")))

    def redacted(self) -> Report:
        """The same without values that the canister keeps or was sent."""
        return replace(self, findings=tuple(self._redact(one) for one in self.findings))

    def _redact(self, one: Finding) -> Finding:
        what, why = (self._without_private(text, one.values) for text in (one.what, one.why))
        if not one.shows_values:
            return replace(one, what=what, why=why)
        return replace(one, what=what, why=why, old=REDACTED if one.old else "", new=REDACTED if one.new else "")

    def _without_private(self, text: str, values: Iterable[str]) -> str:
        for value in sorted(filter(None, values), key=len, reverse=True):
            where = _PANIC.match(value)
            text = text.replace(value, f"{where[0]}{REDACTED}" if where is not None else REDACTED)
        for secret in sorted(self.private, key=len, reverse=True):
            text = text.replace(secret, "•••")
        return text

    # --- forms

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "source": self.source,
            "old_module_hash": self.old_hash,
            "new_module_hash": self.new_hash,
            "findings": [
                {name: value for name, value in asdict(one).items() if name != "values"} for one in self.findings
            ],
            "limits": [
                {
                    "what": one.what,
                    "used": one.used,
                    "limit": one.limit,
                    "unit": one.unit,
                    "left_percent": round(one.left_percent, 2),
                }
                for one in self.limits
            ],
            "slices": self.slices,
            "sizes_wasm_pages": {name: {"before": old, "after": new} for name, (old, new) in self.sizes.items()},
            "memories": [asdict(one) for one in self.memories],
            "calls": self.calls,
            "methods_tried": self.methods,
            "not_tried": self.untried,
            "not_exercised": list(self.unexercised),
            "way_back": self.way_back,
            "seed": self.seed,
        }

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def to_text(self) -> str:
        """For people: the verdict, what moves it, the rest in short."""
        return "\n".join(self._lines()) + "\n"

    def to_html(self, *, values: bool = False) -> str:
        """One page that asks for nothing from outside; without values unless asked for."""
        return page(self if values else self.redacted())

    def to_junit(self, *, values: bool = False) -> str:
        """A JUnit file: a test case for each check; without values unless asked for."""
        return junit(self if values else self.redacted())

    def __str__(self) -> str:
        return self.to_text()

    def _lines(self) -> Iterator[str]:
        counts = {severity: len(self.of(severity)) for severity in SEVERITIES}
        told = ", ".join(_counted(count, severity) for severity, count in counts.items() if count) or "nothing found"
        yield f"{self.source}: {self.verdict} ({told})"
        for one in self.findings:
            if one.severity != "note":
                yield from _finding_lines(one)
        notes = self.of("note")
        if notes:
            yield ""
            yield from (f"  note: {printable(one.what)}" for one in notes)
        yield ""
        for usage_ in self.limits:
            if usage_.used:
                left = f"{usage_.left_percent:.1f} % left"
                yield f"  {usage_.what}: {usage_.used:,} of {usage_.limit:,} {usage_.unit}, {left}"
        for row in self.memories:
            how = row.exercised or "not exercised"
            yield f"  {row.name or 'memory ' + row.memory}: {_step(row)}; {how}"
        tried = ", ".join(f"{count} {origin}" for origin, count in self.calls.items()) or "none"
        yield f"  calls tried on both versions: {tried} ({self.methods} methods)"
        for name, why in self.untried.items():
            yield f"  not tried: {printable(name)}: {why}"
        if self.way_back is not None:
            yield f"  way back to the old module: {'yes' if self.way_back else 'no'}"


def _step(row: MemoryRow) -> str:
    old = "nothing" if row.old_kind is None else f"{row.old_kind}, {_count(row.old_entries)}"
    new = "nothing" if row.new_kind is None else f"{row.new_kind}, {_count(row.new_entries)}"
    return old if old == new else f"{old} -> {new}"


def _count(entries: int | None) -> str:
    return "size not known" if entries is None else f"{entries:,} entries"


def _counted(count: int, severity: str) -> str:
    """``2 notes``, but ``2 breaking``."""
    return counted(count, severity) if severity in ("note", "warning") else f"{count} {severity}"


def _finding_lines(one: Finding) -> Iterator[str]:
    yield ""
    yield f"  {one.severity.upper()} [{one.code}] {printable(one.what)}"
    for title, text in one.parts:
        yield f"    {title + ':':8}{printable(text)}"
    frames = zip(one.backtrace, located(one.backtrace), strict=False)
    for frame in [frame for name, frame in frames if not _MACHINERY.search(name)][:6]:
        yield f"      at {printable(frame)}"


# -- judging


def judge(found: Rehearsal, source: str) -> Report:
    """All checks over what a rehearsal has collected."""
    findings = gravest_first(_without_consequences([one for check in CHECKS for one in check(found)]))
    calls: dict[str, int] = {}
    for one in found.tries:
        calls[one.call.origin] = calls.get(one.call.origin, 0) + 1
    how = exercised(found)
    after = found.after
    sizes = {}
    if after is not None:
        sizes = {
            "heap": (found.before.heap_wasm_pages, after.heap_wasm_pages),
            "stable": (found.before.stable_wasm_pages, after.stable_wasm_pages),
        }
    return Report(
        source,
        findings,
        found.old.module.module_hash.hex(),
        found.new.module.module_hash.hex() if found.new is not None else "",
        tuple(usage(found)),
        slices(found),
        tuple(_rows(found, how)),
        calls,
        len({one.call.method for one in found.tries}),
        dict(found.untried),
        tuple(label for label, reached in how.items() if not reached),
        None if found.back is None else not any(one.code == "no-way-back" for one in findings),
        sizes,
        found.options.seed,
        frozenset(text for text in found.pool.texts if len(text) > 2),
    )


def gravest_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """In the order in which they are told."""
    return tuple(sorted(findings, key=lambda one: SEVERITIES.index(one.severity)))


def _without_consequences(findings: list[Finding]) -> list[Finding]:
    """Without what follows from another finding about the same structure."""
    causes = {one.memory for one in findings if one.memory and one.code in _CAUSES}
    unread = {one.memory for one in findings if one.memory and one.severity == "breaking"}
    return [
        one
        for one in findings
        if not (one.code in _CONSEQUENCES and one.memory in causes)
        and not (one.code == "not-exercised" and one.memory in unread)
    ]


def _rows(found: Rehearsal, how: dict[str, str]) -> Iterator[MemoryRow]:
    old, new = found.before.structures, {} if found.after is None else found.after.structures
    for label in sorted(old.keys() | new.keys(), key=lambda label: (len(label), label)):
        before, after = old.get(label), new.get(label)
        some = after or before
        assert some is not None
        yield MemoryRow(
            label,
            some.name,
            before and before.kind,
            after and after.kind,
            before and before.entries,
            after and after.entries,
            _bytes(before),
            _bytes(after),
            how.get(label, ""),
        )


def _bytes(one: Structure | None) -> int:
    return 0 if one is None else one.used_bytes if one.used_bytes is not None else one.allocated_bytes
