"""Where newcomers stumbled: each row of their list is a test of `newcomers/rows.py`, named by its number.

They run from a wheel, which is built here, in an empty directory: as those who have nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = range(1, 33)


@pytest.mark.slow
def test_every_row_from_the_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    shutil.copy(Path(__file__).parent / "newcomers/rows.py", tmp_path / "empty")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-rA", "-q", "rows.py"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PERDURE_SOURCE": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = {int(number) for number in re.findall(r"^PASSED rows\.py::test_(\d+)_", done.stdout, re.MULTILINE)}
    assert passed == {*ROWS}
