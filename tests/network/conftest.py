"""Helpers lie beside these tests and beside those of one subnet; importlib mode puts neither on the path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "subnet")]
