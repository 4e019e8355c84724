"""The canisters of these tests: built modules by name, calls from Candid text."""

from __future__ import annotations

import sys
from pathlib import Path

# Helpers that tests import by name lie beside them; importlib mode puts nothing on the path by itself.
sys.path.insert(0, str(Path(__file__).parent))
