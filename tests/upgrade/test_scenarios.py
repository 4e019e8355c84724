"""Every bad upgrade is found with its cause, and no harmless one is called breaking."""

from __future__ import annotations

import pytest
from scenarios import BAD, HARMLESS, Scenario


def names(rows: list[Scenario]) -> list[str]:
    return [row.name for row in rows]


@pytest.mark.parametrize("row", BAD, ids=names(BAD))
def test_a_bad_upgrade_is_found_with_its_cause(row: Scenario) -> None:
    report = row.check()
    assert report.verdict == row.verdict, str(report)
    assert set(row.causes) <= set(report.causes), str(report)


@pytest.mark.parametrize("row", HARMLESS, ids=names(HARMLESS))
def test_a_harmless_upgrade_is_safe(row: Scenario) -> None:
    report = row.check()
    assert report.verdict == row.verdict, str(report)
