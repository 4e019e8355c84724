"""Blobs of a state directory: modules and chunks, each in a file named by its SHA-256.

A blob is on the platter before the commit that names it, and goes at the first checkpoint that finds it named by
nothing any more: neither by what is committed nor, where history is kept, by a commit of the past.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import final

from perdure.errors import MalformedError, StorageError, UnsupportedError
from perdure.storage.changes import CommitFacts
from perdure.storage.checkpoint import replace_file
from perdure.storage.committed import Committed
from perdure.storage.disk import read_whole
from perdure.storage.history import Version

__all__ = ["Blobs", "NamedBlobs"]

_NAME = re.compile(r"[0-9a-f]{64}")

NamedBlobs = Callable[[bytes, bytes], Iterable[bytes]]
"""Given a canister's id and its record, the blobs that the record names, by their SHA-256."""


@final
class Blobs:
    """The blobs of a directory.

    Args:
        committed: what names them.
        named_by: what blobs a record names, which only the rules know; where they do not say, nothing ever goes.
    """

    def __init__(self, committed: Committed, named_by: NamedBlobs | None) -> None:
        self._named_by = named_by
        self._committed = committed
        self._disk = committed.files.disk
        self._path = f"{committed.files.directory}/blobs"
        self._new: set[bytes] = set()  # for a commit that is still to come, which may begin with a checkpoint

    def put(self, data: bytes) -> bytes:
        """Keep a blob, on the platter when this returns; its SHA-256."""
        hash_ = sha256(data).digest()
        if not self._disk.exists(f"{self._path}/{hash_.hex()}"):
            replace_file(self._disk, self._path, hash_.hex(), data)
        else:
            self._disk.sync_directory(self._path)  # its name may have failed to be synced before
        self._new.add(hash_)
        return hash_

    def settle(self, meta: bytes) -> None:
        """A commit was logged: what it names is needed for as long as it is named."""
        if self._new:
            self._new -= {hash_ for hash_ in self._new if hash_ in meta}

    def read(self, hash_: bytes) -> bytes:
        """A blob by its SHA-256.

        Raises:
            StorageError: it is damaged.
            OSError: it is not there, or cannot be read.
        """
        path = f"{self._path}/{hash_.hex()}"
        data = read_whole(self._disk, path)
        if sha256(data).digest() != hash_:
            raise StorageError("its bytes are not those of its name", path)
        return data

    def problems(self) -> Iterator[str]:
        """Blobs whose bytes are not those of their names."""
        for name in self._disk.list_directory(self._path):
            whole = not name.endswith(".new")  # else a crash cut it off before anything named it
            if whole and sha256(read_whole(self._disk, f"{self._path}/{name}")).hexdigest() != name:
                yield f"blob {name}: its bytes are not those of its name"

    def collect(self, past: Callable[[], Iterable[Version]]) -> None:
        """Remove what nothing names. What is committed must be in the checkpoint on the platter.

        Args:
            past: reads what is kept of the past; asked only where something might go.
        """
        found = self._disk.list_directory(self._path)
        for name in found:
            if name.endswith(".new"):
                self._disk.remove(f"{self._path}/{name}")
        unnamed = {bytes.fromhex(name) for name in found if _NAME.fullmatch(name)} - self._new
        try:
            unnamed -= self._named_in_all(unnamed, past)
        except (MalformedError, UnsupportedError):
            return  # what cannot be read may name anything
        for name in sorted(hash_.hex() for hash_ in unnamed):
            self._disk.remove(f"{self._path}/{name}")

    def _named_in_all(self, candidates: set[bytes], past: Callable[[], Iterable[Version]]) -> set[bytes]:
        """What is named, as far as it takes to find all of the candidates."""
        if self._named_by is None:
            return candidates
        states = self._committed.canisters
        named = {state.module_hash for state in states.values()}
        for canister_id, state in states.items() if candidates - named else ():
            named.update(self._named_by(canister_id, state.record) if state.record else ())
        for version in past() if candidates - named else ():
            named |= self._named_in(version.facts)
        return named

    def _named_in(self, facts: CommitFacts) -> set[bytes]:
        # What came from outside may name code that no canister got, and is opaque here.
        inputs = facts.message.inputs
        named = {inputs[at : at + 32] for at in range(len(inputs) - 31)}
        for canister_id, entry in facts.canisters.items():
            named.add(entry.module or b"")
            named.update(self._named_by(canister_id, entry.record) if self._named_by and entry.record else ())
        return named if facts.before is None else named | self._named_in(facts.before)
