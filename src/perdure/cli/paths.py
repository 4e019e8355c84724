"""`LocalPath`: a file or directory that an option or argument names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perdure.errors import UnsupportedError

__all__ = ["LocalPath"]


if TYPE_CHECKING:
    _PathType = click.Path[Path]
else:
    _PathType = click.Path


class LocalPath(_PathType):
    """`click.Path` that refuses a URL of object storage, of which a directory ``s3:`` would be made here."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; a usage error where it is a URL, or nearly one."""
        from perdure.urls import refuse_url  # most commands get no path

        try:
            refuse_url(str(value))
        except UnsupportedError as error:
            self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx)
