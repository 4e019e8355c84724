"""What a message costs besides the canister's own work, in counts: they are the same on any machine at any load.

Where one has grown with good reason, its bound grows with it, in the same commit. Times are in `benchmarks/`.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import wasmtime

from perdure import Canister, Subnet
from perdure.memory import PAGE_BYTES

CANISTER = (Path(__file__).parent / "a_page_each.wat").read_text(encoding="utf-8")
"""An update writes a page of the heap and one of stable memory."""

WARM_UP, MESSAGES = 20, 100

pytestmark = pytest.mark.slow  # and so not on the portable path, which has other bounds


class Bounds(NamedTuple):
    """Of one message.

    Calls are those of CPython 3.11; later versions have fewer. 242, 132, 553 and 137 were counted; the rest is for what
    depends on time: looking for new signal handlers, and waiting for the disk.
    """

    update_calls: int
    query_calls: int
    update_blocks: int
    """What Python keeps for an update: its answer, and on disk what history says of it."""
    writes: float
    written_bytes: float
    """On disk the log is mostly written asynchronously, into room that is written beforehand, 1 MiB at a time."""


BOUNDS = {"memory": Bounds(252, 140, 6, 2, 2 * PAGE_BYTES), "disk": Bounds(600, 147, 8, 2.1, 8 * PAGE_BYTES)}


@pytest.fixture(params=BOUNDS)
def where(request: pytest.FixtureRequest) -> str:
    place: str = request.param
    return place


@pytest.fixture
def canister(where: str, tmp_path: Path) -> Iterator[Canister]:
    with Subnet(tmp_path / "state" if where == "disk" else None) as subnet:
        canister = subnet.install(bytes(wasmtime.wat2wasm(CANISTER)))
        for _ in range(WARM_UP):
            canister.update("both")
            canister.query("look")
        yield canister


def repeat(act: Callable[[], object]) -> None:
    for _ in range(MESSAGES):
        act()


def calls_of(act: Callable[[], object]) -> float:
    """Calls of Python's functions, and from Python into C, for one of many; the least of three tries.

    (Now and then a message does what only one in many has to do: it looks at all signals, or begins a generation.)
    """
    found = []
    for _ in range(3):
        calls = 0

        def profile(_frame: object, event: str, _arg: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(profile)
        try:
            repeat(act)
        finally:
            sys.setprofile(None)
        found.append(calls / MESSAGES)
    return min(found)


FILE_CALLS = {"memory": {"pwrite": 2}, "disk": {"stat": 1, "pread": 1}}
"""Functions of the module `os` that an update calls, each of which lets the interpreter go. On disk it looks at the
lock before it is acknowledged; what is called while others wait for the directory keeps the interpreter."""


def test_which_files_a_message_uses(canister: Canister, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.storage.commit_log._LOOKED_SECONDS", 3600.0)  # however long a message takes here
    done = threading.Event()
    other = threading.Thread(target=done.wait)  # alone, a thread may let the interpreter go
    other.start()
    canister.update("both")
    found: Counter[str] = Counter()

    def profile(_frame: object, event: str, function: object) -> None:
        if event == "c_call" and getattr(function, "__module__", "") == "posix":
            found[getattr(function, "__name__", "")] += 1

    sys.setprofile(profile)
    try:
        repeat(lambda: canister.update("both"))
    finally:
        sys.setprofile(None)
        done.set()
        other.join()
    calls = {name: round(count / MESSAGES) for name, count in found.items()}
    assert {name: count for name, count in calls.items() if count} == FILE_CALLS[where]


def written() -> tuple[int, int]:
    """Calls of this process that write, and their bytes, so far."""
    words = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines())
    return int(words["syscw"]), int(words["wchar"])


def test_calls_of_a_message(canister: Canister, where: str) -> None:
    update = calls_of(lambda: canister.update("both"))
    query = calls_of(lambda: canister.query("look"))
    assert update <= BOUNDS[where].update_calls
    assert query <= BOUNDS[where].query_calls


def test_what_a_message_writes(canister: Canister, where: str) -> None:
    before = written()
    repeat(lambda: canister.query("look"))
    assert written() == before
    repeat(lambda: canister.update("both"))
    calls, size_bytes = (now - then for now, then in zip(written(), before, strict=True))
    assert calls <= BOUNDS[where].writes * MESSAGES
    assert size_bytes <= BOUNDS[where].written_bytes * MESSAGES


def blocks() -> int:
    gc.collect()  # which empties the lists of free objects, too
    return sys.getallocatedblocks()


def test_what_a_message_leaves_behind(canister: Canister, where: str) -> None:
    before = blocks()
    repeat(lambda: canister.query("look"))
    assert blocks() - before < MESSAGES // 10
    before = blocks()
    repeat(lambda: canister.update("both"))
    assert blocks() - before <= BOUNDS[where].update_blocks * MESSAGES
