"""What goes from an archive: versions beyond those to be kept, then what no version names.

Nothing goes before a grace time is over: a version that is not kept any more is moved to ``dropped/`` first, and what
it names stays as long as it is there; packs that nobody names stay as long as they are younger, since whoever archives
writes packs before the manifest that names them. The version on which the archive's log goes on
stays, and the log from there on; entries before it go once they are as old. Times are the store's alone: nothing
depends on this machine's clock.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from perdure.errors import StorageError
from perdure.storage.archive import Archive
from perdure.storage.archive_format import Manifest
from perdure.storage.archive_log import ArchiveLog
from perdure.storage.log import BLOCK

__all__ = ["GRACE_SECONDS", "Collected", "collect"]

GRACE_SECONDS: Final = 86_400
_PACK_ID_DIGITS: Final = 32


class Collected(NamedTuple):
    """What went, or would go.

    Attributes:
        kept: versions.
        dropped: versions that are not kept any more, from now on.
        removed_versions: those that had been dropped for the grace time.
        removed_packs: objects that nothing names.
        removed_bytes: of them.
    """

    kept: int
    dropped: int
    removed_versions: int
    removed_packs: int
    removed_bytes: int


def collect(
    url: str, *, keep: int | None = None, grace_seconds: int = GRACE_SECONDS, key: bytes = b"", dry_run: bool = False
) -> Collected:
    """Drop versions, and remove what is not needed any more. May be cut off anywhere, and run beside others.

    Args:
        url: of the archive.
        keep: so many of the newest versions; `None`: all.
        grace_seconds: how long whatever goes stays; longer than archiving takes.
        key: that sealed it.
        dry_run: only say what would go.

    Raises:
        StorageError: there is no archive, or a manifest cannot be read: what it names is not known then, nothing goes.
        ValueError: fewer than one version is to be kept.
    """
    if keep is not None and keep < 1:
        raise ValueError(f"{keep} versions to be kept, expected at least one")
    archive = Archive(url, key)
    now_ns = _store_time(archive)
    versions = archive.sequences()
    log = ArchiveLog(archive)
    last, _ = log.last()
    kept = sorted(versions)[-keep:] if keep is not None else sorted(versions)
    kept += [last.base.sequence] if last.base.sequence in versions and last.base.sequence not in kept else []
    going = [sequence for sequence in versions if sequence not in kept]
    needed = {sequence: archive.manifest(sequence)[0] for sequence in versions}
    if not dry_run:
        _drop(archive, going)
    dropped = archive.sequences("dropped")
    over = {one for one, stat in dropped.items() if now_ns - stat.modified_ns >= grace_seconds * 10**9}
    if not grace_seconds:
        over |= set(going)
    resting = [archive.manifest(one, "dropped")[0] for one in dropped if one not in over]
    named = _packs_named([*(needed[one] for one in versions if one not in going or one not in over), *resting])
    packs = [
        stat
        for stat in archive.objects.list(archive.at("packs"))
        if len(name := stat.key.rpartition("/")[2]) == _PACK_ID_DIGITS
        and name not in named
        and now_ns - stat.modified_ns >= grace_seconds * 10**9
    ]
    entries = [
        stat.key
        for number, stat in log.numbers().items()
        if number < last.base.number
        and stat.size_bytes >= BLOCK  # else a claim: its name is what an owner before finds taken, however late
        and now_ns - stat.modified_ns >= grace_seconds * 10**9
    ]
    if not dry_run:
        gone = [*(stat.key for stat in packs), *(archive.at(f"dropped/{one:020}") for one in over), *entries]
        archive.objects.delete(gone)
    return Collected(len(kept), len(going), len(over), len(packs), sum(stat.size_bytes for stat in packs))


def _drop(archive: Archive, sequences: list[int]) -> None:
    """Move manifests away: first there, then not here."""
    for sequence in sequences:
        name = f"{sequence:020}"
        data, _ = archive.objects.read_whole(archive.at(f"versions/{name}"), 1 << 28)
        archive.objects.put(archive.at(f"dropped/{name}"), data)
        archive.objects.delete([archive.at(f"versions/{name}")])


def _packs_named(manifests: list[Manifest]) -> set[str]:
    return {pack.id.hex() for manifest in manifests for pack in manifest.packs}


def _store_time(archive: Archive) -> int:
    """What time it is by the store's clock, in ns since 1970."""
    key = archive.at("clock")
    archive.objects.put(key, b"")
    stat = archive.objects.stat(key)
    if stat is None:
        raise StorageError("what was written just now is not there", archive.place.under("clock"))
    return stat.modified_ns
