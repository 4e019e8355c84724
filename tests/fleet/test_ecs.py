"""The example of an entity component system says of ticks what it is there to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "ecs" / "world.py"


@pytest.mark.slow
def test_components_of_their_own_touch_fewer_pages() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "600"], capture_output=True, text=True, check=True, timeout=300)
    found = json.loads(done.stdout)
    assert (found["positions"], found["moved"]) == (600, 60)
    assert found["wide"]["moved"] == found["components"]["moved"] == sum(one["moved"] for one in found["sharded"]) == 60
    assert 0 < found["components"]["touched"] < found["wide"]["touched"]
    assert max(one["touched"] for one in found["sharded"]) < found["components"]["touched"]
