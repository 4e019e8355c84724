"""Know before the upgrade: a rehearsal on a fork of the real data, and a verdict.

    >>> report = canister.check_upgrade("new.wasm")                 # doctest: +SKIP
    >>> report.verdict
    'safe'

`rehearsal` does it, `checks` is the table of what is looked for, `report` is what comes out.
"""

from perdure.inspection.motoko import stable_variables
from perdure.upgrade.check import check, check_canister
from perdure.upgrade.finding import Finding
from perdure.upgrade.report import Report

__all__ = ["Finding", "Report", "check", "check_canister", "stable_variables"]
