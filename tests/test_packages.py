"""The wheel and the source distribution, as somebody gets them: installed in an empty environment, away from the clone.

Two versions of Python are wanted, 3.11 and 3.13; where CI finds fewer, that is a failure. What of it takes how long is
said in docs/platforms.md.
"""

from __future__ import annotations

import email
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.test_pages import INSTALLING, commands, written

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSIONS = ("3.11", "3.13")
WORKFLOWS = ROOT / ".github" / "workflows"
MAX_INSTALLED_BYTES = 55_000_000
"""With bytecode, what it depends on included; RATIONALE.md says of what it is made."""
NOT_OURS = (
    "pip",
    "setuptools",
    "_distutils",
    "pkg_",
    "_pytest",
    "pytest",
    "py.py",
    "pluggy",
    "iniconfig",
    "packaging",
    "pygments",
)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PERDURE"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False, timeout=300,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def interpreters(version: str) -> Iterator[Path]:
    """Where a version may be: this one, uv's and pyenv's, and what is on the path."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        yield Path(sys.base_prefix) / "bin" / "python3"
    if found := shutil.which("uv"):
        told = subprocess.run([found, "python", "find", version], capture_output=True, text=True, check=False)
        if told.returncode == 0:
            yield Path(told.stdout.strip())
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(root.glob(f"versions/{version}.*/bin/python"))
    if found := shutil.which(f"python{version}"):
        yield Path(found)


def interpreter(version: str) -> Path:
    for path in interpreters(version):
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        if said.returncode == 0 and said.stdout.startswith(f"Python {version}."):
            return path
    why = f"Python {version} is not here"
    if os.environ.get("CI"):
        raise AssertionError(why)
    pytest.skip(why)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source distribution, built from what is here."""
    directory = tmp_path_factory.mktemp("packages")
    run(sys.executable, "-m", "hatchling", "build", "-d", directory, cwd=ROOT)
    (wheel,), (source,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    return wheel, source


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_wheel_in_an_empty_environment(version: str, packages: tuple[Path, Path], tmp_path: Path) -> None:
    python = interpreter(version)
    wheel, _ = packages
    run(python, "-m", "venv", tmp_path / "venv")
    programs, place = tmp_path / "venv" / "bin", tmp_path / "empty"
    place.mkdir()
    run(programs / "python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:", wheel, "pytest", cwd=place)
    size_bytes = installed_bytes(tmp_path / "venv")
    assert size_bytes < MAX_INSTALLED_BYTES, f"{size_bytes:,} bytes are installed, bytecode included"
    told = run(programs / "perdure", "demo", "--messages", "2", "--entries", "2000", "--json", cwd=place)
    assert json.loads(told)
    said = dict(follow("docs/index.md", programs, place))
    assert "1 passed" in said["python -m pytest -q test_first.py"]
    assert "btreemap" in said["perdure stable ls my-snapshot"]
    assert said["python visits.py"] == "2\n"
    assert run(programs / "perdure", "--version").strip().endswith(PROJECT["version"])


def follow(page: str, programs: Path, place: Path) -> Iterator[tuple[str, str]]:
    """What a page says, done with what is installed and no more: its files are written, its commands are run.

    Yields:
        each command and what it printed.
    """
    for name, body in written(page):
        (place / name).write_text(body, encoding="utf-8")
    for line in commands(page):
        program, *words = shlex.split(line.text, comments=True)
        if program not in INSTALLING and words != ["demo"]:
            yield line.text, run(programs / program, *words, cwd=place)


def installed_bytes(environment: Path) -> int:
    """Of an environment's packages, but for pytest and those that it was made with."""
    (packages,) = environment.glob("lib/python*/site-packages")
    mine = [path for path in packages.iterdir() if not path.name.startswith(NOT_OURS)]
    files = (file for path in mine for file in (path.rglob("*") if path.is_dir() else [path]))
    return sum(file.stat(follow_symlinks=False).st_size for file in files if file.is_file())


@pytest.mark.slow
def test_the_source_distribution_makes_the_same_wheel(packages: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, source = packages
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again", cwd=unpacked)
    (again,) = (tmp_path / "again").iterdir()
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert {item.filename: item.CRC for item in one.infolist()} == {
            item.filename: item.CRC for item in other.infolist()
        }
    assert {"tests", "docs", "examples", "Makefile", "CHANGELOG.md"} <= {path.name for path in unpacked.iterdir()}


def test_what_the_wheel_says_of_itself(packages: tuple[Path, Path]) -> None:
    wheel, _ = packages
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        said = email.message_from_bytes(archive.read(metadata))
    assert said["Requires-Python"] == PROJECT["requires-python"]
    assert {"perdure/py.typed", "perdure/cli/errors.md"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "docs", "examples"))]


def test_all_leaves_out_what_is_for_fleets_and_developers() -> None:
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(everything.removeprefix("perdure[").removesuffix("]").split(","))
    assert named == set(extras) - {"all", "dev", "docs", "fleet", "pocket-ic"}


def test_addresses_are_of_places_that_exist() -> None:
    """The project has no public address yet, and none is invented; where one is added, it is added here, too."""
    assert PROJECT.get("urls", {}) == {}


def test_actions_are_named_by_their_commits() -> None:
    """A tag can be moved by whoever has the action; one of its releases stands beside the commit, for people."""
    uses = [
        line for path in sorted(WORKFLOWS.glob("*.yml")) for line in path.read_text().splitlines() if "uses:" in line
    ]
    assert uses
    pinned = re.compile(r"\s+- uses: [\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)+")
    assert [line.split()[-1] for line in uses if not pinned.fullmatch(line)] == [
        "pypa/gh-action-pypi-publish@release/v1"
    ]
