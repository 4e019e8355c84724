"""Snapshots of a canister: taken, loaded, compared with what there is now, taken home."""

from __future__ import annotations

from pathlib import Path

from perdure.errors import PerdureError
from perdure.explorer.archive import Archive
from perdure.explorer.asked import Asked, Page
from perdure.explorer.changes import changes_between
from perdure.explorer.guard import HEADERS
from perdure.explorer.site import NotFoundError
from perdure.gateway.http import Response

__all__ = ["change", "compare", "download", "snapshots", "take"]


def snapshots(asked: Asked) -> Page:
    """A canister's snapshots."""
    return Page("snapshots.html", {"canister": asked.canister, "snapshots": asked.canister.snapshots(), "done": ""})


def take(asked: Asked) -> Page:
    """Take one."""
    found = asked.canister.take_snapshot()
    return _listed(asked, f"snapshot {found.hex()} was taken")


def change(asked: Asked) -> Page:
    """Load or delete one."""
    canister, snapshot_id, what = asked.canister, _id(asked), asked.parts["what"]
    if what == "load":
        canister.load_snapshot(snapshot_id)
        return _listed(asked, f"snapshot {snapshot_id.hex()} was loaded")
    if what == "delete":
        canister.delete_snapshot(snapshot_id)
        return _listed(asked, f"snapshot {snapshot_id.hex()} was deleted")
    raise NotFoundError(f"a snapshot is loaded or deleted, not {what[:40]!r}")


def _listed(asked: Asked, done: str) -> Page:
    canister = asked.canister
    return Page("_snapshots.html", {"canister": canister, "snapshots": canister.snapshots(), "done": done})


def _id(asked: Asked) -> bytes:
    text = asked.parts["snapshot"]
    known = [one["id"] for one in asked.canister.snapshots()]
    found = next((one for one in known if one.hex() == text), None)
    if found is None:
        raise NotFoundError(f"no snapshot {text[:80]!r} of this canister")
    return bytes(found)


def compare(asked: Asked) -> Page:
    """What a snapshot has, and how what there is now differs from it."""
    canister, snapshot_id = asked.canister, _id(asked)
    with asked.subnet.fork() as before:
        then = before.canister(canister.id)
        then.load_snapshot(snapshot_id)
        changes = changes_between(then, canister)
    return Page("compare.html", {"canister": canister, "snapshot": snapshot_id, "changes": changes})


def download(asked: Asked) -> Response:
    """A snapshot as an archive of the directory that `icp canister snapshot upload` takes."""
    canister, snapshot_id = asked.canister, _id(asked)

    def write(path: Path) -> None:
        try:
            canister.write_snapshot(path, snapshot_id=snapshot_id)
        except KeyError as error:
            raise PerdureError(f"snapshot {snapshot_id.hex()} was deleted meanwhile") from error

    turns = asked.site.downloads
    if not turns.acquire(blocking=False):
        raise ValueError("other downloads are under way: end one, or wait")
    archive = Archive(write, f"snapshot-{snapshot_id.hex()}", turns.release)
    return Response(200, b"", "application/x-tar", _attached(snapshot_id), archive)


def _attached(snapshot_id: bytes) -> tuple[tuple[str, str], ...]:
    return (*HEADERS, ("content-disposition", f'attachment; filename="snapshot-{snapshot_id.hex()}.tar"'))
