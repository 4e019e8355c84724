"""Plumbing: a durable write that is under way while Python goes on, by Linux AIO on a file opened for direct writes.

A direct, synchronous write (`O_DIRECT | O_DSYNC`) of 12 KiB into space that was written before took 87 us here, of
which 19 us are the submission; through the page cache, `pwrite` and `fdatasync`, it took 103 to 114 us, all of them
waited for. What the kernel or the file system does not offer is an `OSError` when it is first tried.

Facts: io_submit(2), open(2), and ``linux/aio_abi.h`` for the two structures.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, final

__all__ = ["CAPACITY_BYTES", "DirectWriter", "sync_data"]

CAPACITY_BYTES = 1 << 20
"""The most that one write can have."""

Buffer = bytes | bytearray | memoryview


class _Calls(NamedTuple):
    """Numbers of the system calls; the C library has no functions for them."""

    setup: int
    destroy: int
    getevents: int
    submit: int


_LINUX = {"x86_64": _Calls(206, 207, 208, 209), "aarch64": _Calls(0, 1, 4, 2)}
_CALLS = _LINUX.get(platform.machine()) if sys.platform == "linux" else None
_IOCB = struct.Struct("<QIIHhIQQqQII")
_PWRITE = 1
_ONE = ctypes.c_long(1)
_EVENT = struct.Struct("<QQqq")  # data, iocb, result, a second result
_NUMBER = struct.Struct("<Q")
_LOOK = ctypes.create_string_buffer(struct.pack("<qq", 0, 100_000_000))
"""How long one call waits, in seconds and nanoseconds: another thread may have been told of the end."""

if _CALLS is not None:
    _waiting_call = ctypes.CDLL(None, use_errno=True).syscall
    _short_call = ctypes.PyDLL(None, use_errno=True).syscall  # keeps the interpreter: 19 us are no time to hand it over
    _waiting_call.restype = _short_call.restype = ctypes.c_long


def _sync_all(descriptor: int) -> None:
    """As macOS does it: its `os.fsync` leaves bytes in the drive's cache."""
    fcntl.fcntl(descriptor, getattr(fcntl, "F_FULLFSYNC", fcntl.F_GETFD))
    os.fsync(descriptor)


sync_data: Callable[[int], None] = getattr(os, "fdatasync", _sync_all)
"""Returns when a file's bytes are on the platter."""


def _check(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@final
class DirectWriter:
    """Writes to one file, one write at a time.

    An exception may come out of any line (Ctrl-C, an asynchronous one). So whether a write has ended is told by what
    the kernel has left in memory, the number of the write in its event, and by no store that could be missed; `finish`
    may be called again, by several threads too. Where it is not known whether a write was begun, the next one begins
    with waiting until nothing is under way.

    Args:
        descriptor: of the file, which is opened a second time.

    Raises:
        OSError: not to be had here.
    """

    def __init__(self, descriptor: int) -> None:
        if _CALLS is None:
            raise OSError(errno.ENOSYS, "no AIO on this system")
        self._calls = _CALLS
        self._context = ctypes.c_ulong(0)
        self._number = self._under_way = 0  # of the newest write, and of the one that is to be waited for
        self._is_doubtful = False  # whether the newest was begun
        self._size_bytes = self.offset = 0
        self._buffer = mmap.mmap(-1, CAPACITY_BYTES)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        self._iocb = ctypes.create_string_buffer(_IOCB.size)
        self._iocbs = (ctypes.c_void_p * 1)(ctypes.addressof(self._iocb))
        self._event = ctypes.create_string_buffer(_EVENT.size)
        flags = os.O_WRONLY | os.O_DIRECT | os.O_DSYNC | os.O_CLOEXEC
        self._descriptor = -1
        self._descriptor = os.open(f"/proc/self/fd/{descriptor}", flags)
        try:
            _check(_short_call(self._calls.setup, _ONE, ctypes.byref(self._context)))
        except BaseException:
            self.close()
            raise

    def start(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Begin to write `buffers`, which are copied; sizes and `offset` are multiples of 4,096."""
        if self._is_doubtful:
            self._begin_anew()
        elif not self._has_ended():
            self.finish()
        self._is_doubtful = True
        self._under_way = 0
        number = self._number = self._number + 1
        position = 0
        for data in buffers:
            end = position + len(data)
            self._buffer[position:end] = data
            position = end
        self._size_bytes, self.offset = position, offset
        operation = 0, 0, _PWRITE, 0, self._descriptor
        _IOCB.pack_into(self._iocb, 0, number, *operation, self._address, position, offset, 0, 0, 0)
        _check(_short_call(self._calls.submit, self._context, _ONE, self._iocbs))
        self._under_way = number
        self._is_doubtful = False

    def _begin_anew(self) -> None:
        """Wait until nothing is under way, which only the end of the context tells for sure."""
        _waiting_call(self._calls.destroy, self._context)
        context = ctypes.c_ulong(0)
        _check(_short_call(self._calls.setup, _ONE, ctypes.byref(context)))
        self._context = context

    def _has_ended(self) -> bool:
        return not self._under_way or _NUMBER.unpack_from(self._event)[0] == self._under_way

    @property
    def written(self) -> memoryview:
        """What the last `start` was given, for `offset`."""
        return memoryview(self._buffer)[: self._size_bytes]

    def finish(self) -> None:
        """Return when the write is on the platter.

        Raises:
            OSError: it failed.
        """
        while not self._has_ended():
            context = self._context
            got = _waiting_call(self._calls.getevents, context, _ONE, _ONE, self._event, _LOOK)
            if got < 0 and ctypes.get_errno() != errno.EINTR and context is self._context:
                _check(got)
        if self._under_way:
            written = _EVENT.unpack_from(self._event)[2]
            if written < 0:
                raise OSError(-written, os.strerror(-written))
            if written != self._size_bytes:
                raise OSError(errno.EIO, f"wrote {written} of {self._size_bytes} bytes")

    def close(self) -> None:
        """Wait for what is under way, and let go. Again is fine."""
        context, self._context = self._context, ctypes.c_ulong(0)
        if context.value:
            _waiting_call(self._calls.destroy, context)
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.close()
