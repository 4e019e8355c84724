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
from tests.test_pages import OTHERS

from perdure import Principal, Subnet

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
MODULES = ROOT / "tests" / "canisters" / "modules"
BUILT: dict[str, dict[str, Path]] = {
    "ecs": {},
    "game": {},
    "ledger": {"target/wasm32-unknown-unknown/release/icrc_ledger.wasm": EXAMPLES / "ledger" / "ledger.wasm.gz"},
    "motoko": {"build/visits.wasm": MODULES / "visits_next.wasm.gz"},
    "service": {},
    "shards": {"target/wasm32-unknown-unknown/release/shard.wasm": MODULES / "shard.wasm.gz"},
    "site": {},
    "sqlite": {"sqlite.wasm": MODULES / "sqlite.wasm.gz"},
}
"""Each example, and the modules that its own commands would build."""
ELSEWHERE = ("cargo ", "npx ", "sh build.sh", "pip ")
"""What compiles, and what installs: other tests do."""
MAX_MODULE_BYTES = 300_000
NOBODY = {"owner": Principal.self_authenticating(b"minter"), "subaccount": None}
LEDGER = {"symbol": "TST", "name": "Test", "fee": 10, "minting_account": NOBODY, "initial_balances": []}


def programs(place: Path) -> Path:
    """A directory for the path, with the two commands that READMEs name."""
    place.mkdir()
    for name, arguments in {"perdure": "-m perdure", "python": ""}.items():
        (place / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (place / name).chmod(0o755)
    return place


@pytest.fixture
def copied(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the example, as somebody takes it."""
    name = request.param
    return Path(shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("target", "state")))


@pytest.mark.slow
@pytest.mark.parametrize("copied", BUILT, indirect=True)
def test_what_an_example_says_is_done_as_it_stands(copied: Path, tmp_path: Path) -> None:
    """The commands of its README, its tests among them; what is served ends with its input."""
    for name, module in BUILT[copied.name].items():
        (copied / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(module, copied / name)
    if copied.name == "ledger":  # what somebody has downloaded
        Subnet().install(copied / "ledger.wasm.gz", (LEDGER,)).write_snapshot(copied / "my-snapshot")
    lines = re.findall(r"^ {4}(\S.*)$", (copied / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    mine = [line for line in lines if not line.startswith(ELSEWHERE)]
    assert "python -m pytest -q" in mine
    environment = {
        "PYTEST_ADDOPTS": f"-p no:cacheprovider{OTHERS}",
        "PATH": f"{programs(tmp_path / 'bin')}{os.pathsep}{os.environ['PATH']}",
    }
    for line in mine:
        done = subprocess.run(
            ["bash", "-c", re.sub(r" 8000$", " 0", line)], cwd=copied, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, timeout=240, env={**os.environ, **environment},
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout[-4000:]}{done.stderr[-2000:]}"


def test_the_workflow_of_the_motoko_actor_does_what_its_readme_says() -> None:
    lines = (EXAMPLES / "motoko" / "README.md").read_text(encoding="utf-8").splitlines()
    workflow = (EXAMPLES / "motoko" / ".github" / "workflows" / "upgrade.yml").read_text(encoding="utf-8")
    steps = re.findall(r"- run: ((?:npx|python|perdure) .*)", workflow)
    assert len(steps) == 4
    assert [step for step in steps if not any(line.strip().startswith(step) for line in lines)] == []


def test_modules_that_are_committed_are_small() -> None:
    large = [path for path in EXAMPLES.rglob("*.wasm*") if path.stat().st_size > MAX_MODULE_BYTES]
    assert [path for path in large if "target" not in path.parts] == []


def test_every_example_says_how_it_is_tried() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if (path / "README.md").exists()}
    assert names >= set(BUILT)
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert [name for name in BUILT if f"`examples/{name}`" not in page] == []
