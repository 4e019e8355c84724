"""What random types and values are made of lies in a module of its own."""

from __future__ import annotations

import sys
from pathlib import Path

# Helpers that tests import by name lie beside them; importlib mode puts nothing on the path by itself.
sys.path.insert(0, str(Path(__file__).parent))
