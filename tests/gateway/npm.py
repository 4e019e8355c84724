"""Packages of npm, each set in a folder under ``build``. Without npm: a failure in CI, a skipped test elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "build" / "npm"


def npm_folder(name: str, *packages: str) -> Path:
    """A folder in which some packages are installed, pinned by the test and without their scripts."""
    folder = BUILD / name
    told = folder / "installed.txt"
    wanted = "\n".join(packages)
    if told.exists() and told.read_text() == wanted:
        return folder
    missing = [tool for tool in ("node", "npm") if shutil.which(tool) is None]
    why = f"needs {' and '.join(missing)}" if missing else ""
    if not missing:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}\n")
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *packages]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
        why = f"npm cannot install {wanted}: {done.stderr[-500:]}" if done.returncode else ""
    if why:
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    told.write_text(wanted)
    return folder
