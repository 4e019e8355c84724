"""Other people's upgrades: ``make conformance SUITE=upgrades DIR=PATH``.

PATH has a directory for each upgrade, with ``old.wasm``, ``new.wasm`` and ``scenario.json``::

    {"verdict": "breaking", "causes": ["ids-swapped"], "init": "()", "arg": "()",
     "calls": [{"method": "add", "args": "(\\"Ada\\")"}, {"method": "raw", "arg_hex": "00"}],
     "options": {"require_way_back": true}}

All but ``verdict`` may be left out. What is called happens before the check, on the old version.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from perdure import Subnet
from perdure.errors import PerdureError
from perdure.upgrade.recorded import _call
from perdure.upgrade.version import Version


def judged(directory: Path) -> tuple[bool, str]:
    """Whether the verdict of one upgrade is the expected one, with its causes; and what was found."""
    scenario = json.loads((directory / "scenario.json").read_text(encoding="utf-8"))
    canister = Subnet().install((directory / "old.wasm").read_bytes(), scenario.get("init"))
    assert canister.module is not None
    version = Version(canister.module)
    for line in scenario.get("calls", ()):
        call = _call(line, version)
        (canister.query if call.kind == "query" else canister.update)(call.method, call.arg)
    options = scenario.get("options", {})
    report = canister.check_upgrade((directory / "new.wasm").read_bytes(), scenario.get("arg"), **options)
    is_right = report.verdict == scenario["verdict"] and set(scenario.get("causes", ())) <= set(report.causes)
    return is_right, f"{report.verdict} {', '.join(report.causes)}"


def main() -> int:
    """Judge them all; the exit status is 1 where one is judged wrongly."""
    wrong = 0
    for path in sorted(Path(sys.argv[1]).glob("*/scenario.json")):
        try:
            is_right, found = judged(path.parent)
        except (PerdureError, ValueError, OSError) as error:
            is_right, found = False, f"{type(error).__name__}: {error}"
        wrong += not is_right
        print(f"{'right' if is_right else 'WRONG'}  {path.parent.name}: {found}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
