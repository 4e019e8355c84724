"""The sessions in the documentation run as they are printed."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


README = (ROOT / "README.md").read_text(encoding="utf-8")
SESSIONS = [block.split("```")[0] for block in README.split("```python\n")[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("session", SESSIONS, ids=range(len(SESSIONS)))
def test_a_session_of_the_readme(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    test = doctest.DocTestParser().get_doctest(session, {}, "README", "README.md", 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test)
    assert runner.summarize(verbose=False) == (0, len(test.examples))


@pytest.mark.slow
def test_the_readmes_test_passes(tmp_path: Path) -> None:
    (tmp_path / "test_readme.py").write_text(README.split("```python test\n")[1].split("```")[0], encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_the_readme_names_files_that_exist() -> None:
    table = README.split("## Read on")[1]
    names = [part for row in table.splitlines() for part in row.split("`")[1::2] if part.endswith(".md")]
    assert [name for name in names if not (ROOT / name).exists()] == []


PAGES = {
    (page, index): block.split("```")[0]
    for page in ("signatures", "outcalls", "explorer", "network", "fleet", "object-storage")
    for index, block in enumerate((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").split("```python\n")[1:])
}


@pytest.mark.slow
@pytest.mark.parametrize("page", ["signatures", "outcalls", "explorer", "network", "fleet", "object-storage"])
def test_the_blocks_of_a_page_run_in_turn(page: str, tmp_path: Path) -> None:
    """In one process: a block has what those before it have defined. Classes of canisters need a file to be in."""
    script = tmp_path / "page.py"
    script.write_text("\n".join(block for (name, _), block in PAGES.items() if name == page), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert ("the threshold keys of a local subnet are public" in done.stderr) == (page == "signatures")
