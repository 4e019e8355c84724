"""A served subnet that is killed; the long form is `kill_script.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_what_was_acknowledged_is_there_once():
    script = "import sys; sys.path.insert(0, sys.argv[1]); import kill_script; print(kill_script.run(3, 5, 0.4))"
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
