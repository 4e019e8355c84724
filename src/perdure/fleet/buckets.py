"""What there is to do in object storage: snapshots and dumps below a URL, found by one listing, or named one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import islice
from typing import Final

from perdure.fleet.found import DUMP_ENDS, MEMORY_FILES, MODULE_FILE, OWN_MEMORIES, SNAPSHOT_FILE, Found
from perdure.inspection.remote import archived_canister
from perdure.storage.objects import Objects, Stat
from perdure.urls import Place, parse_url

__all__ = ["listed", "named"]

_VERSIONS: Final = "versions"
_MAX_LISTED: Final = 20_000
"""Objects of one snapshot, or versions of an archive."""


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
    directories = _directories(Objects(place).list(prefix))
    for directory, there in sorted(directories.items()):
        for key, stats in _sources(directory, directories, with_dumps):
            if magic < 0 or fnmatchcase(key, place.key):
                yield _found(str(place._replace(key=key)), there, stats)


def named(url: str) -> Found:
    """The source that a URL names: a dump, a snapshot, or a canister of an archive, whose mark is the newest version's.

    One that is not there has no mark.

    Raises:
        UnsupportedError: no URL that is taken, or the extra is not installed.
        StorageError: the store refuses, or does not answer.
    """
    text = url.partition("#")[0]
    archived = archived_canister(text)
    if archived is not None:
        return _found(url, {}, _newest(archived[0]))
    place = parse_url(text)
    objects = Objects(place)
    stat = objects.stat(place.key) if place.key else None
    if stat is not None:
        return _found(url, {}, [stat])
    directories = _directories(islice(objects.list(place.key), _MAX_LISTED))
    key = place.key.rstrip("/")
    return next(
        (_found(url, directories[key], stats) for _, stats in _sources(key, directories, with_dumps=False)), Found(url)
    )


def _newest(archive: Place) -> list[Stat]:
    """The newest version of an archive, if there is one: what its canisters hold changes with that only."""
    place = archive.under(_VERSIONS)
    return sorted(Objects(place).list(place.key), key=lambda stat: stat.key)[-1:]


def _directories(stats: Iterable[Stat]) -> dict[str, dict[str, Stat]]:
    """Objects by their directory and name."""
    found: dict[str, dict[str, Stat]] = {}
    for stat in stats:
        directory, _, name = stat.key.rpartition("/")
        found.setdefault(directory, {})[name] = stat
    return found


def _found(source: str, there: dict[str, Stat], stats: list[Stat]) -> Found:
    return Found(
        source,
        there[MODULE_FILE].tag if MODULE_FILE in there else "",
        sum(stat.size_bytes for stat in stats),
        " ".join(f"{stat.tag}-{stat.modified_ns}" for stat in stats),
    )


def _sources(
    directory: str, directories: dict[str, dict[str, Stat]], with_dumps: bool
) -> Iterator[tuple[str, list[Stat]]]:
    """Keys of sources in a directory, each with its objects."""
    there = directories.get(directory, {})
    if SNAPSHOT_FILE in there:
        names = (SNAPSHOT_FILE, MODULE_FILE, *MEMORY_FILES)
        own = directories.get(f"{directory}/{OWN_MEMORIES}", {})
        yield directory, [there[name] for name in names if name in there] + [own[name] for name in sorted(own)]
    elif with_dumps:
        for name, stat in sorted(there.items()):
            if name.endswith(DUMP_ENDS):
                yield stat.key, [stat]
