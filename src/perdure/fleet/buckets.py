"""What there is to do in object storage: snapshots and dumps below a URL, found by one listing."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from perdure.fleet.found import DUMP_ENDS, MEMORY_FILES, MODULE_FILE, SNAPSHOT_FILE, Found
from perdure.storage.objects import Objects, Stat
from perdure.urls import parse_url

__all__ = ["listed"]


def listed(url: str, *, with_dumps: bool) -> Iterator[Found]:
    """The sources below a URL that ends with a slash, or those whose own URLs match one with ``*`` or ``[...]``.

    Modules are told apart by their objects' entity tags: nothing is read.

    Args:
        url: of a directory, or a pattern.
        with_dumps: objects named as dumps, too.

    Raises:
        UnsupportedError: no URL that is taken, or the extra is not installed.
        StorageError: the store refuses, or does not answer.
    """
    place = parse_url(url)
    magic = min((place.key.find(one) for one in "*[" if one in place.key), default=-1)
    prefix = place.key if magic < 0 else place.key[:magic].rpartition("/")[0]
    directories: dict[str, dict[str, Stat]] = {}
    for stat in Objects(place).list(prefix):
        directory, _, name = stat.key.rpartition("/")
        directories.setdefault(directory, {})[name] = stat
    for directory, there in sorted(directories.items()):
        for key, stats in _sources(directory, there, with_dumps):
            if magic < 0 or fnmatchcase(key, place.key):
                yield Found(
                    str(place._replace(key=key)),
                    there[MODULE_FILE].tag if MODULE_FILE in there else "",
                    sum(stat.size_bytes for stat in stats),
                    " ".join(f"{stat.tag}-{stat.modified_ns}" for stat in stats),
                )


def _sources(directory: str, there: dict[str, Stat], with_dumps: bool) -> Iterator[tuple[str, list[Stat]]]:
    """Keys of sources in a directory, each with its objects."""
    if SNAPSHOT_FILE in there:
        names = (SNAPSHOT_FILE, MODULE_FILE, *MEMORY_FILES)
        yield directory, [there[name] for name in names if name in there]
    elif with_dumps:
        for name, stat in sorted(there.items()):
            if name.endswith(DUMP_ENDS):
                yield stat.key, [stat]
