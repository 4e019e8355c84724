"""Upgrades of Motoko's drun programs, judged before they happen: ``make conformance SUITE=drun_upgrades DIR=PATH``.

    python tests/conformance/drun_upgrades.py DIR [NAME ...]

DIR is the directory ``test/run-drun`` of github.com/dfinity/motoko. Each script is run as `drun` runs it. Before each
of its upgrades the canister is checked; then the upgrade is done. One that is refused or traps has to have been called
breaking, one that goes through may not have been, unless it is one of `LOSSES`. Exits 1 if one was judged wrongly.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from drun import Program, Refused, Runner, argument, compile_all, module_path, programs

from perdure.errors import PerdureError

LOSSES: dict[str, str] = {
    "upgrade-to-any": "its method asserts that garbage was collected, which a call of the runtime's does in between",
}
"""Upgrades that go through and are rightly called breaking: by name of the program, and why."""


class Judge(Runner):
    """A runner that checks each upgrade first; `judged` has what was said, and whether it went through."""

    def __init__(self, canister_id: str, *, fees: bool) -> None:
        super().__init__(canister_id, fees=fees)
        self.judged: list[tuple[str, str, list[str], bool]] = []

    def upgrade(self, name: str, source: str, arg: str) -> str:
        wasm = module_path(source).read_bytes()
        persistence = "keep" if b"icp:private enhanced-orthogonal-persistence" in wasm else None
        report = self.canister.check_upgrade(wasm, argument(arg), wasm_memory_persistence=persistence)
        try:
            reply = super().upgrade(name, source, arg)
        except PerdureError:
            self.judged.append((source, report.verdict, report.causes, False))
            raise
        self.judged.append((source, report.verdict, report.causes, True))
        return reply


def judged(entry: Program) -> list[tuple[str, str, list[str], bool]]:
    """What was said of each upgrade of a program."""
    judge = Judge(entry.canister_id, fees=entry.is_on_application_subnet)
    try:
        for command in entry.commands():
            judge.execute(command)
    except Refused:
        pass
    except Exception as error:  # whatever is raised is a failure of this program
        judge.judged.append((entry.file, f"RAISED {type(error).__name__}: {error}", [], True))
    finally:
        judge.subnet.close()
    return judge.judged


def main(suite: Path, names: list[str]) -> int:
    """Compile, run, judge, count."""
    entries = [one for one in programs(suite, names) if not one.is_for_others and "upgrade" in one.text]
    compile_all(suite, entries)
    entries = [one for one in entries if all(module_path(source).exists() for source in one.sources)]
    counts: Counter[str] = Counter()
    wrong = 0
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 2)) as pool:
        for entry, found in zip(entries, pool.map(judged, entries), strict=True):
            for source, verdict, causes, went in found:
                is_right = (verdict == "breaking") is not went or entry.name in LOSSES
                if verdict.startswith("RAISED"):
                    is_right = False
                wrong += not is_right
                counts[f"{'went through' if went else 'refused or trapped'}: {verdict[:40]}"] += 1
                if not is_right or verdict == "not certain":
                    outcome = "went through" if went else "failed"
                    print(
                        f"{'    ok' if is_right else ' WRONG'}  {entry.name}: to {source} {outcome}: {verdict} {causes}"
                    )
    for what, count in sorted(counts.items()):
        print(f"drun_upgrades: {count} {what}")
    return 1 if wrong or not counts else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
