"""Pages to look at canisters with: what they keep, what a call did, what would happen if."""

from __future__ import annotations

from perdure.errors import UnsupportedError

try:
    from perdure.explorer.pages import Explorer
except ModuleNotFoundError as missing:
    raise UnsupportedError("the explorer needs `pip install 'perdure[serve]'`").coded("extra-missing") from missing

__all__ = ["Explorer"]
