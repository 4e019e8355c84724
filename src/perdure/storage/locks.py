"""Who may have a state directory open: one owner that writes, or readers, while no checkpoint is made.

The owner holds ``lock``, whose place and content it looks at before anything is acknowledged: a lock that was removed,
or a directory that was moved, may let a second owner in, and so does a file system that lets go of the locks of a
machine that it does not hear of. Owners are numbered. Each writes its number into the lock before it reads anything
else, so that whoever was the owner before finds that it is not any more. Readers hold ``readers``, shared.

```
 lock   process id, what it is used for, number of the owner: a line each, at most 256 bytes
```
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final, final

from perdure.errors import StorageError
from perdure.storage.disk import Disk, DiskFile

__all__ = ["Locks"]

_LOCK_BYTES: Final = 256


@final
class Locks:
    """The locks that one opening of a directory holds.

    Args:
        disk: where it is.
        path: of the directory.
    """

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._owned = str(Path(f"{path}/lock").absolute())  # wherever this process goes meanwhile
        self._held: list[DiskFile] = []
        self._told = b""
        self._use = ""
        self._owner = 0

    def share(self) -> None:
        """Be one who reads.

        Raises:
            StorageError: a checkpoint is being made.
        """
        if not self._disk.exists(f"{self._path}/readers"):
            return
        readers = self._disk.open(f"{self._path}/readers")
        self._held.append(readers)
        if not readers.lock(exclusive=False):
            raise StorageError("a checkpoint is being made; try again in a moment", self._path)

    def own(self, *, trust_owner: bool) -> int:
        """Be the one who writes; the directory is made where there is none. Its number, for all that is known by now.

        Args:
            trust_owner: also where the directory belongs to another user.

        Raises:
            StorageError: it has an owner, in this process or another, or it belongs to another user.
        """
        if not self._disk.exists(self._path):
            self._disk.make_directory(self._path)
            self._disk.sync_directory(str(Path(self._path).parent))
        owner_id = self._disk.owner(self._path)
        if owner_id != os.geteuid() and not trust_owner:
            raise StorageError(
                f"belongs to user {owner_id}, and this is user {os.geteuid()}: open it with trust_owner=True "
                "(--trust-owner) to write into it nevertheless, or for reading",
                self._path,
            )
        lock = self._disk.open(f"{self._path}/lock", write=True, create=True)
        self._held.append(lock)
        if not lock.lock(exclusive=True):
            told = _is_open(lock.pread(_LOCK_BYTES, 0).decode("ascii", "replace"))
            raise StorageError(told, self._path).coded("state-in-use")
        self._owner = _owner_in(lock.pread(_LOCK_BYTES, 0)) + 1
        self.tell("")
        lock.sync()
        return self._owner

    def claim(self, owner: int) -> int:
        """Be at least the `owner`-th; which one it is."""
        if owner > self._owner:
            self._owner = owner
            self.tell(self._use)
            self._held[0].sync()
        return self._owner

    def tell(self, use: str) -> None:
        """Have others who want the directory told what the owner uses it for, such as *served at URL*."""
        if not self._held:
            return
        self._use = use
        lock, number = self._held[0], f"\n{self._owner}"
        told = f"{os.getpid()}\n{use}".encode("ascii", "replace")[: _LOCK_BYTES - len(number)] + number.encode()
        self._told = told.ljust(_LOCK_BYTES)
        lock.pwrite(self._told, 0)  # at once, so that nobody finds it without a number

    def check_place(self) -> None:
        """Raise `OSError` where a second owner may find no lock, or another one."""
        if not self._held[0].is_at(self._owned):
            raise OSError(errno.ENOLCK, "the lock was removed, or the directory moved", self._owned)

    def check_number(self) -> None:
        """Raise `OSError` where the lock says that there was another owner since."""
        found = self._held[0].pread(_LOCK_BYTES, 0)
        if found != self._told:
            words = f"owner {_owner_in(found)} has it by now, this is owner {self._owner}"
            raise OSError(errno.ENOLCK, words, self._owned)

    def release(self) -> None:
        """Hold nothing any more."""
        for file in self._held:
            file.close()
        self._held = []


def _owner_in(told: bytes) -> int:
    """The number of the owner that has written a lock; 0: before they were counted."""
    lines = told.split(b"\n")
    number = lines[2].strip() if len(lines) > 2 else b""
    return int(number) if number.isdigit() and len(number) < 10 else 0


def _is_open(told: str) -> str:
    """What the owner has written into the lock, for somebody who does not get it."""
    holder, _, rest = told.partition("\n")
    use = rest.partition("\n")[0]
    holder = holder.strip() if holder.strip().isdigit() else ""
    use = use.strip() if use.strip().isprintable() else ""
    if holder == str(os.getpid()):
        return "open in this process already; close it, or open this one for reading"
    where = f"open in another process ({holder or 'unknown'})"
    if not use or not holder:
        return f"{where}; close it, or open this one for reading"
    return (
        f"{where}, {use}: ask it there, as agents and icp do, or end it (kill {holder}); or open this one for reading"
    )
