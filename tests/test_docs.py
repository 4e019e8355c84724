"""The sessions in the documentation run as they are printed."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_readmes_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    session = text.split("```python\n")[1].split("```")[0]
    test = doctest.DocTestParser().get_doctest(session, {}, "README", "README.md", 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_the_readme_names_files_that_exist() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## Read on")[1]
    names = [part for row in table.splitlines() for part in row.split("`")[1::2] if part.endswith(".md")]
    assert [name for name in names if not (ROOT / name).exists()] == []
