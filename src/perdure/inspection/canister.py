"""The canister of a source, to be run: of a state directory or a snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from perdure.errors import MalformedError, StorageError
from perdure.ic.principal import MAX_PRINCIPAL_BYTES, Principal
from perdure.inspection.state import no_canister
from perdure.storage.names import Names
from perdure.subnet.subnet import Canister, Subnet
from perdure.urls import is_url

__all__ = ["open_canister"]


@contextmanager
def open_canister(
    source: str, canister_id: Principal | None = None, *, extensions: Sequence[str] = ()
) -> Iterator[Canister]:
    """The canister of a source, on a subnet in memory: the source is only read.

    Args:
        source: ``STATE_DIR:CANISTER``, or the directory of a snapshot; the URL of one in object storage is fetched.
        canister_id: of a snapshot's canister, which does not say it.
        extensions: what it may use beyond the network's rules, and beyond what its state directory says.

    Raises:
        StorageError: there is no such thing, or it has no module.
        ValueError: the extensions do not go with those of its state directory.
    """
    if is_url(source):
        from perdure.inspection.remote import localized  # most sources are on this machine

        with localized(source) as local, open_canister(local, canister_id, extensions=extensions) as canister:
            yield canister
        return
    path = Path(source)
    if path.is_dir():
        if not (path / "metadata.json").exists():
            raise StorageError(f"no snapshot: name a canister of a state directory as {path}:CANISTER", path)
        subnet = Subnet.open(path, canister_id=canister_id, extensions=extensions)
        with subnet:
            yield subnet.canisters[0]
        return
    if path.exists():
        raise StorageError("a dump of stable memory has no module: name a snapshot or a state directory", path)
    place, hash_, _ = source.rpartition("#")
    directory, colon, name = source.rpartition(":")
    if hash_ and (Path(place).exists() or (colon and name not in Names(Path(directory)).ids)):
        raise StorageError(f"a memory does not run, its canister does: {place}", source)
    if not colon or not (Path(directory) / "checkpoint").exists():
        raise StorageError("no such snapshot or state directory", source)
    with Subnet.read(directory, extensions=extensions) as subnet:
        yield _named(subnet, Path(directory), name)


def _named(subnet: Subnet, directory: Path, name: str) -> Canister:
    names = Names(directory)
    try:
        wanted = Principal.from_text(names.ids.get(name, name))
        return subnet.canister(wanted)
    except (MalformedError, KeyError) as error:
        known = [one.id for one in subnet.canisters if len(one.id.raw_bytes) <= MAX_PRINCIPAL_BYTES]
        raise no_canister(name, known, names.ids, directory) from error
