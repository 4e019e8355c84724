"""Answers to requests, kept by id beside the canisters: each is written once in the log and once at a checkpoint.

```
 answers/EPOCH.answers
 ┌─────────┬──────┬────────────────────────────────────────────────────────────────┐
 │ magic   │  4 B │ "PDAN"                                                         │ 0
 │ format  │  u32 │ 1                                                              │ 4
 │ content │      │ CBOR [[request id forgotten...],                               │ 8
 │         │      │       [[request id, expiry in ns, answer]...]]                 │
 └─────────┴──────┴────────────────────────────────────────────────────────────────┘
```

A checkpoint writes what came since the last one into a file of its own; the checkpoint file names them all with their
hashes, and they are read one after the other. When more of them is gone than is left, or there are many, one file with
all that is left takes their place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import final

import cbor2

from perdure.errors import StorageError
from perdure.record import blob, load, row, sequence
from perdure.storage.changes import COUNT, Answer
from perdure.storage.checkpoint import AnswerFile, replace_file
from perdure.storage.disk import Disk, read_whole

__all__ = ["Answers", "encode_answers", "sum_of"]

_HEADER = struct.Struct("<4sI")
_MAGIC = b"PDAN"
_FORMAT = 1
_MAX_FILES = 16
_SPARE = 64
_CONTENT = row(
    lambda *parts: parts,
    ("forgotten", sequence(blob(1), tuple)),
    ("answers", sequence(row(Answer, ("request id", blob(1)), ("expiry", COUNT), ("response", blob())), tuple)),
)


def sum_of(changes: Iterable[tuple[int, Answer]], before: int) -> int:
    """The sum of answers' hashes after some came (1) and went (-1)."""
    for sign, answer in changes:
        before += sign * int.from_bytes(sha256(cbor2.dumps(answer)).digest(), "little")
    return before % (1 << 256)


def encode_answers(forgotten: Sequence[bytes], answers: Sequence[Answer]) -> bytes:
    """The bytes of a file of answers."""
    return _HEADER.pack(_MAGIC, _FORMAT) + cbor2.dumps([list(forgotten), list(answers)])


@final
class Answers:
    """The answers of a directory.

    Args:
        disk: where the files are.
        directory: path of the state directory.
    """

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self._path = f"{directory}/answers"
        self._kept: dict[bytes, Answer] = {}
        self._sum = 0
        self._unsummed: list[tuple[int, Answer]] = []
        self._new: dict[bytes, None] = {}  # since the last checkpoint, in their order
        self._gone: dict[bytes, None] = {}
        self._written: tuple[AnswerFile, ...] = ()

    @property
    def kept(self) -> Mapping[bytes, Answer]:
        """All of them by request id, in the order in which they were given."""
        return MappingProxyType(self._kept)

    def load(self, files: Sequence[AnswerFile]) -> None:
        """Read what a checkpoint names.

        Raises:
            StorageError: a file is not what was written.
            OSError: it cannot be read.
        """
        for file in files:
            path = self._name(file.epoch)
            data = read_whole(self._disk, path)
            if sha256(data).digest() != file.hash:
                raise StorageError("its bytes are not what the checkpoint says", path)
            forgotten, answers = _decode(data, path)
            if len(forgotten) + len(answers) != file.entries:
                raise StorageError(f"{len(forgotten) + len(answers)} entries found, {file.entries} expected", path)
            self.take(forgotten, answers)
        self._written = tuple(files)
        self._new, self._gone = {}, {}

    def take(self, forgotten: Iterable[bytes], answers: Iterable[Answer]) -> None:
        """Forget some, then add others. One for a request that has one replaces it."""
        for request_id in forgotten:
            old = self._kept.pop(request_id, None)
            if old is not None:
                self._unsummed.append((-1, old))
                self._new.pop(request_id, None)
                self._gone[request_id] = None
        for answer in answers:
            old = self._kept.pop(answer.request_id, None)
            if old is not None:
                self._unsummed.append((-1, old))
                self._new.pop(answer.request_id, None)
            self._kept[answer.request_id] = answer
            self._unsummed.append((1, answer))
            self._new[answer.request_id] = None

    def hash(self) -> bytes:
        """A hash of all of them that does not depend on their order: the sum of each one's SHA-256."""
        unsummed, self._unsummed = self._unsummed, []
        self._sum = sum_of(unsummed, self._sum)
        return self._sum.to_bytes(32, "little")

    # -- checkpoints

    def write(self, epoch: int) -> tuple[AnswerFile, ...]:
        """Have everything in files, on the platter; what the checkpoint of that epoch is to name."""
        if not self._new and not self._gone:
            return self._written
        entries = sum(file.entries for file in self._written) + len(self._new) + len(self._gone)
        forgotten, answers, before = list(self._gone), [self._kept[one] for one in self._new], self._written
        if entries > 2 * len(self._kept) + _SPARE or len(self._written) >= _MAX_FILES:
            forgotten, answers, before = [], list(self._kept.values()), ()
        data = encode_answers(forgotten, answers)
        replace_file(self._disk, self._path, f"{epoch:020}.answers", data)
        return (*before, AnswerFile(epoch, len(forgotten) + len(answers), sha256(data).digest()))

    def settle(self, files: Sequence[AnswerFile]) -> None:
        """The checkpoint that names `files` is on the platter: others can go."""
        self._written = tuple(files)
        self._new, self._gone = {}, {}
        named = {f"{file.epoch:020}.answers" for file in files}
        for name in self._disk.list_directory(self._path):
            if name not in named:
                self._disk.remove(f"{self._path}/{name}")

    def problems(self) -> list[str]:
        """What is wrong with the files."""
        found = []
        for file in self._written:
            path = self._name(file.epoch)
            if sha256(read_whole(self._disk, path)).digest() != file.hash:
                found.append(f"answers of epoch {file.epoch}: not what was written")
        return found

    def _name(self, epoch: int) -> str:
        return f"{self._path}/{epoch:020}.answers"


def _decode(data: bytes, path: str) -> tuple[Sequence[bytes], Sequence[Answer]]:
    if len(data) < _HEADER.size or _HEADER.unpack_from(data) != (_MAGIC, _FORMAT):
        raise StorageError(f"begins with {data[: _HEADER.size]!r}, expected {_MAGIC!r} and format {_FORMAT}", path)
    forgotten, answers = _CONTENT.decode(load(data[_HEADER.size :], "answers"), "answers")
    return forgotten, answers
