"""The projects in `examples/` pass their own tests, each in a directory of its own, away from the clone.

Modules that are not committed beside an example are those of the test canisters, which CI builds from the same sources.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
MODULES = ROOT / "tests" / "canisters" / "modules"
BUILT = {
    "game": {},
    "ledger": {},
    "motoko": {"NEW_WASM": "visits_next.wasm.gz"},
    "service": {},
    "site": {},
    "sqlite": {"SQLITE_WASM": "sqlite.wasm.gz"},
}
"""Each example, and the modules that its own commands would build."""
MAX_MODULE_BYTES = 300_000


def run(place: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=place, capture_output=True, text=True, check=False, timeout=240,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def copied(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the example, as somebody takes it."""
    name = request.param
    return Path(shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("target", "state")))


@pytest.mark.slow
@pytest.mark.parametrize("copied", BUILT, indirect=True)
def test_an_example_passes_its_tests(copied: Path) -> None:
    built = {name: str(MODULES / file) for name, file in BUILT[copied.name].items()}
    assert " passed" in run(copied, "-m", "pytest", "-q", "-p", "no:cacheprovider", **built)


@pytest.mark.slow
@pytest.mark.parametrize("copied", ["service"], indirect=True)
def test_the_commands_of_the_service(copied: Path) -> None:
    assert run(copied, "bookings.py", "book", "7", "ada") == "booked, entry 0\n"
    assert run(copied, "bookings.py", "list") == "ada has room 7\n"


@pytest.mark.slow
@pytest.mark.parametrize("copied", ["motoko"], indirect=True)
def test_what_the_workflow_of_the_motoko_actor_does(copied: Path) -> None:
    """Its last steps, as they stand in it; what is compiled is there already."""
    workflow = (copied / ".github" / "workflows" / "upgrade.yml").read_text(encoding="utf-8")
    fill, check = re.findall(r"- run: ((?:python|perdure) .*)", workflow)
    (copied / "build").mkdir()
    shutil.copy(MODULES / "visits_next.wasm.gz", copied / "build" / "visits.wasm")
    run(copied, *fill.split()[1:])
    run(copied, "-m", *check.split())
    assert "safe" in (copied / "report.html").read_text(encoding="utf-8")


def test_modules_that_are_committed_are_small() -> None:
    large = [path for path in EXAMPLES.rglob("*.wasm*") if path.stat().st_size > MAX_MODULE_BYTES]
    assert [path for path in large if "target" not in path.parts] == []


def test_every_example_says_how_it_is_tried() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if (path / "README.md").exists()}
    assert names >= set(BUILT)
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert [name for name in BUILT if f"`examples/{name}`" not in page] == []
