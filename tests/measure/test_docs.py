"""The sessions of docs/measuring.md run as they are printed, wherever one is."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/measuring.md").read_text(encoding="utf-8")
SESSIONS = [block.split("```")[0] for block in PAGE.split("```python\n")[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("session", SESSIONS, ids=range(len(SESSIONS)))
def test_a_session(session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(session, {}, "measuring", "measuring.md", 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test)
    assert runner.summarize(verbose=False) == (0, len(test.examples))
