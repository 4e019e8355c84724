"""`perdure cache`: what is kept so that a module is compiled once, and a block of object storage fetched once."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from perdure.cli.lazy import Group
from perdure.cli.terminal import printable
from perdure.cli.units import SIZE
from perdure.units import show_bytes

if TYPE_CHECKING:
    from perdure.embedder import CompileCache
    from perdure.storage.block_cache import BlockCache

__all__ = ["cache"]


def _cache() -> CompileCache:
    from perdure.embedder import CompileCache, cache_directory

    return CompileCache(cache_directory(os.environ))


def _blocks() -> BlockCache:
    from perdure.embedder import cache_directory
    from perdure.storage.block_cache import BlockCache

    return BlockCache(cache_directory(os.environ) / "objects")


@click.group(cls=Group)
def cache() -> None:
    """See, empty and bound what is kept: compiled code, blocks of objects. `PERDURE_CACHE_DIR` puts it elsewhere.

    \b
    Example:
        perdure cache ls
    """  # noqa: D301 - click wants the backspace itself


@cache.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Only the entries.")
def ls(as_json: bool, quiet: bool) -> None:
    """List what is compiled, the last used first, with the sum and the limit, and how much of object storage is kept.

    \b
    Example:
        perdure cache ls
    """  # noqa: D301
    kept = _cache()
    files = kept.files()
    total = sum(file.size_bytes for file in files)
    blocks_bytes = _blocks().size_bytes()
    if as_json:
        entries = [{"key": file.name, "size_bytes": file.size_bytes, "used_ns": file.used_ns} for file in files]
        facts = {"directory": str(kept.directory), "size_bytes": total, "limit_bytes": kept.max_bytes}
        click.echo(json.dumps({**facts, "blocks_bytes": blocks_bytes, "files": entries}, indent=2))
        return
    for file in files:
        used = datetime.fromtimestamp(file.used_ns // 10**9, UTC)
        click.echo(f"{printable(file.name[:16])}  {show_bytes(file.size_bytes):>10}  used {used:%Y-%m-%d %H:%M} UTC")
    if not quiet:
        limit = show_bytes(kept.max_bytes)
        click.echo(f"{len(files)} modules in {kept.directory}: {show_bytes(total)} of at most {limit}")
        if blocks_bytes:
            click.echo(f"blocks of object storage: {show_bytes(blocks_bytes)}")


@cache.command("clear")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def clear(as_json: bool, quiet: bool) -> None:
    """Remove all compiled code and blocks of object storage. It is made and fetched anew when it is needed.

    \b
    Example:
        perdure cache clear
    """  # noqa: D301
    kept = _cache()
    total = sum(file.size_bytes for file in kept.files())
    count = kept.clear()
    blocks = _blocks()
    blocks_bytes = blocks.size_bytes()
    blocks.clear()
    if as_json:
        click.echo(json.dumps({"removed": count, "size_bytes": total, "blocks_bytes": blocks_bytes}))
    elif not quiet:
        click.echo(f"{count} modules removed, {show_bytes(total)}")
        if blocks_bytes:
            click.echo(f"blocks of object storage removed, {show_bytes(blocks_bytes)}")


@cache.command("limit")
@click.argument("size", type=SIZE, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def limit(size: int | None, as_json: bool, quiet: bool) -> None:
    """Keep at most SIZE of compiled code, from now on; without SIZE, say how much that is. The last used stays longest.

    \b
    Example:
        perdure cache limit 500MiB
    """  # noqa: D301
    kept = _cache()
    if size is not None:
        kept.limit(size)
    if as_json:
        click.echo(json.dumps({"limit_bytes": kept.max_bytes}))
    elif not quiet:
        click.echo(f"at most {show_bytes(kept.max_bytes)} in {kept.directory}")
