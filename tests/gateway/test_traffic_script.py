"""A served subnet in mixed traffic; the long form is `traffic_script.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_it_holds_no_more_in_the_end_than_in_the_beginning():
    command = [sys.executable, "traffic_script.py", "--seconds", "6", "--rate", "30"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
