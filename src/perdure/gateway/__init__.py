"""A subnet over HTTP, for agents, browsers and command lines as they are."""

from __future__ import annotations

from perdure.gateway.server import Server, serve

__all__ = ["Server", "serve"]
