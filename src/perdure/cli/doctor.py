"""`perdure doctor`: what perdure finds on this machine, and what to do about what is missing."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final, Literal, NamedTuple

import click

from perdure.cli.terminal import printable
from perdure.units import show_bytes

__all__ = ["doctor"]

State = Literal["good", "slower", "missing", "wrong"]

_WAYS: Final[dict[str, tuple[State, str, str]]] = {
    "PageScan": ("good", "one PAGEMAP_SCAN finds the pages that a message has changed", ""),
    "PageTable": (
        "slower",
        "/proc/self/pagemap finds the pages that a message has changed, one by one",
        "Linux 6.7 has PAGEMAP_SCAN, which takes a message microseconds less",
    ),
    "EveryPage": (
        "slower",
        "every page of a memory is compared after a message",
        "/proc/self/pagemap cannot be read here; large memories are slow without it",
    ),
}
_MAPPINGS: Final = 65_530
_DESCRIPTORS: Final = 1_024
_FREE_BYTES: Final = 1 << 30
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)[^;]*(?:;.*extra == [\'\"]([^\'\"]+))?")


class _Finding(NamedTuple):
    what: str
    state: State
    found: str
    advice: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Only what is not as it should be.")
def doctor(as_json: bool, quiet: bool) -> int:
    """Look at what perdure stands on: Python, kernel, limits, disk, cache, extras. Exit code 1 if it cannot work.

    \b
    Example:
        perdure doctor
    """  # noqa: D301 - click wants the backspace itself
    findings = [*_versions(), *_kernel(), *_limits(), *_disk(), *_cache(), *_extras()]
    if as_json:
        click.echo(json.dumps({"findings": [one._asdict() for one in findings]}, indent=2))
    else:
        width = max(len(one.what) for one in findings)
        for one in findings:
            if not quiet or one.state not in ("good", "missing"):
                click.echo(printable(f"{one.state:<8}{one.what:<{width}}  {one.found}"))
                if one.advice:
                    click.echo(printable(f"{'':<8}{'':<{width}}  {one.advice}"))
    return 1 if any(one.state == "wrong" for one in findings) else 0


def _versions() -> Iterator[_Finding]:
    python = platform.python_version()
    yield _Finding(
        "python", "good", f"{platform.python_implementation()} {python}, {sys.platform} {platform.machine()}"
    )
    for name in ("perdure", "wasmtime"):
        yield _Finding(name, "good", metadata.version(name))


def _kernel() -> Iterator[_Finding]:
    from perdure.embedder.mapping import why_nothing_runs
    from perdure.embedder.pagemap import private_pages

    why = why_nothing_runs()
    if why is not None:
        yield _Finding("system", "wrong", why, "memories, snapshots and dumps can be looked at here all the same")
    state, found, advice = _WAYS[type(private_pages(os.environ)).__name__]
    yield _Finding("changed pages", state, f"{found} ({platform.release()})", advice)
    try:
        mappings = int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return
    few = mappings < _MAPPINGS
    advice = f"many instances at once need more: sysctl vm.max_map_count={_MAPPINGS}" if few else ""
    yield _Finding("mappings", "slower" if few else "good", f"{mappings:,} in a process", advice)


def _limits() -> Iterator[_Finding]:
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY:
        advice = "an instance reserves gigabytes of addresses that it does not use: ulimit -v unlimited"
        yield _Finding("address space", "wrong", f"limited to {show_bytes(space)}", advice)
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = files < _DESCRIPTORS
    advice = f"ulimit -n {_DESCRIPTORS} (at most {hard:,} here)" if few else ""
    yield _Finding("open files", "slower" if few else "good", f"{files:,} in a process", advice)


def _disk() -> Iterator[_Finding]:
    for what, place in (("here", Path.cwd()), ("temporary files", Path(tempfile.gettempdir()))):
        free_bytes = shutil.disk_usage(place).free
        room = f"{show_bytes(free_bytes)} free in {place}"
        few = free_bytes < _FREE_BYTES
        advice = "images of memories are files: make room, or point TMPDIR elsewhere" if few else ""
        if not os.access(place, os.W_OK):
            yield _Finding(what, "slower", f"{place} cannot be written", "go where you may write, or set TMPDIR")
        else:
            yield _Finding(what, "slower" if few else "good", room, advice)


def _cache() -> Iterator[_Finding]:
    from perdure.embedder import CompileCache, cache_directory

    kept = CompileCache(cache_directory(os.environ))
    size_bytes = sum(file.size_bytes for file in kept.files())
    found = f"{show_bytes(size_bytes)} of at most {show_bytes(kept.max_bytes)} in {kept.directory}"
    nearest = next(one for one in (kept.directory, *kept.directory.parents) if one.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK):
        yield _Finding("compile cache", "good", found)
    else:
        advice = "each process compiles anew; PERDURE_CACHE_DIR puts it elsewhere"
        yield _Finding("compile cache", "slower", f"{nearest} cannot be written", advice)


def _extras() -> Iterator[_Finding]:
    """Of each extra what is there, by what the package itself says that it needs."""
    needed: dict[str, list[str]] = defaultdict(list)
    for line in metadata.requires("perdure") or []:
        match = _REQUIREMENT.match(line)
        if match is not None and match[2] not in (None, "all", "dev") and match[1] != "perdure":
            needed[match[2]].append(match[1])
    for extra, names in needed.items():
        versions = {name: _version(name) for name in names}
        absent = [name for name, version in versions.items() if version is None]
        found = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
        if not absent:
            yield _Finding(f"extra {extra}", "good", found)
        else:
            yield _Finding(
                f"extra {extra}", "missing", f"without {', '.join(absent)}", f'pip install "perdure[{extra}]"'
            )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
