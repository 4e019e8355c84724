"""Groups whose commands are imported when they are asked for: a command pays for itself, not for its neighbours."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, final

import click

__all__ = ["Group", "LazyGroup", "collector_paused", "imported"]


@contextmanager
def collector_paused() -> Iterator[None]:
    """For imports: what they make stays, and looking for garbage among it is a tenth of a short command's time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def imported(place: str) -> click.Command:
    """The command that stands at ``module:name``."""
    module, _, attribute = place.partition(":")
    with collector_paused():
        command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command)
    return command


class Group(click.Group):
    """A group that says of a command which it has not what may have been meant."""

    def resolve_command(  # noqa: D102 - click's
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in (known := self.list_commands(ctx)) and not name.startswith("-") and not ctx.resilient_parsing:
            from perdure.units import meant

            if self.get_command(ctx, name) is None:  # some are not listed
                ctx.fail(f"No such command {name!r:.100}: {meant(name, known)}")
        return super().resolve_command(ctx, args)


@final
class LazyGroup(Group):
    """A group of commands by name; its `--help` imports them all.

    Args:
        places: where each stands, as ``module:name``.
        options: what a group of click takes.
    """

    def __init__(self, *, places: Mapping[str, str], **options: Any) -> None:
        super().__init__(**options)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: D102 - click's
        return sorted(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: D102 - click's
        return imported(self._places[cmd_name]) if cmd_name in self._places else None
