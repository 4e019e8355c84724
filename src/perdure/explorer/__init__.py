"""Pages to look at canisters with: what they keep, what a call did, what would happen if."""

from __future__ import annotations

from perdure.explorer.pages import Explorer

__all__ = ["Explorer"]
