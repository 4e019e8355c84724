"""Kill a process before and after each statement that moves messages between subnets: nothing else comes out.

    python tests/network/stream_faults.py

The places are read from the source: every statement of every function that writes what streams keep (`STATE`), or that
calls what sends, slices and takes in (`PLUMBING`). So a write that is added is a place, and a run that does not come by
it fails. A forked child opens a network's directory in which calls have been begun, and SIGKILL comes as it is about to
run the statement, or has just run it; the next process goes on. What comes out has to be what comes out without. Each
commit is on the disk at once then, as where threads wait for theirs, and the first times also where rounds alone sync.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from counting import UNIVERSAL, P, count

import perdure
from perdure.execution import submit_ingress
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.network import Network
from perdure.subnet.durable import DurableHost

SOURCE = Path(perdure.__file__).parent
ROOMS = ("execution", "network", "subnet")
STATE = frozenset(["xnet_streams", "sent_cycles", "received_cycles"])
"""What streams are kept in."""
PLUMBING = frozenset(["send", "slice_for", "take_in"])
"""Of `perdure.execution.streams`."""
MUTATORS = frozenset(["append", "clear", "extend", "insert", "pop", "remove"])
WITHIN = "execution/streams.py", "outbox"
"""Where a write to this counts, too: what has been taken out of a stream."""
ELSEWHERE = {
    "network/worker.py": "worker processes, which tests/network/test_workers.py kills",
    "network/workers.py": "the same",
    "network/process.py": "the same: what the network knows of them",
    "subnet/replay.py": "a history that is done again, in a directory that is gone afterwards",
}
CYCLES = 1_000
_MAX_SECONDS = 120


class Place(NamedTuple):
    """A statement: its file below the package, function, first and last line, and what it is."""

    file: str
    function: str
    first: int
    last: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.first} {self.function}: {self.what}"


class Fault(NamedTuple):
    """When a process ends: at one of the times that it comes by a place, before that or after it."""

    place: Place
    time: int
    is_before: bool

    def __str__(self) -> str:
        return f"{'before' if self.is_before else 'after'} {self.place}, time {self.time}"


# --- the places


def _names(node: ast.AST, called: frozenset[str], within: bool) -> Iterator[str]:
    """What a statement writes of streams, and which plumbing it calls, of what its file has of it."""
    for one in ast.walk(node):
        targets: list[ast.expr] = []
        if isinstance(one, ast.Assign):
            targets = one.targets
        elif isinstance(one, ast.AugAssign | ast.AnnAssign):
            targets = [one.target]
        elif isinstance(one, ast.Call):
            name = one.func
            if isinstance(name, ast.Name) and name.id in called:
                yield f"{name.id}()"
            if isinstance(name, ast.Attribute) and name.attr in MUTATORS:
                targets = [name.value]
        for target in targets:
            written = target.value if isinstance(target, ast.Subscript) else target
            if isinstance(written, ast.Attribute) and written.attr in (STATE | {WITHIN[1]} if within else STATE):
                yield written.attr


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for one in body:
        yield one
        for name in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(one, name, []))


def _head(statement: ast.stmt) -> tuple[int, int]:
    """Its lines, without those of what is within it."""
    inner = getattr(statement, "body", None)
    last = inner[0].lineno - 1 if inner else statement.end_lineno
    return statement.lineno, max(statement.lineno, last or 0)


def places(source: Path = SOURCE) -> list[Place]:
    """Every statement of the functions that move messages between subnets."""
    found = []
    for path in sorted(one for room in ROOMS for one in (source / room).glob("*.py")):
        file = path.relative_to(source).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = _plumbing_in(tree, file)
        for function in (one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)):
            if file not in ELSEWHERE and any(_names(function, called, file == WITHIN[0])):
                found += _places_of(function, called, file)
    return found


def _plumbing_in(tree: ast.Module, file: str) -> frozenset[str]:
    if file == WITHIN[0]:
        return PLUMBING
    imports = (one for one in ast.walk(tree) if isinstance(one, ast.ImportFrom))
    names = (name for one in imports if one.module == "perdure.execution.streams" for name in one.names)
    return frozenset(name.asname or name.name for name in names if name.name in PLUMBING)


def _places_of(function: ast.FunctionDef, called: frozenset[str], file: str) -> Iterator[Place]:
    for statement in _statements(function.body):
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # what the function is for
        first, last = _head(statement)
        alone = ast.Module(body=[statement], type_ignores=[])
        kept = getattr(statement, "body", None)
        names = "" if kept else ", ".join(dict.fromkeys(_names(alone, called, file == WITHIN[0])))
        yield Place(file, function.name, first, last, names or type(statement).__name__.lower())


# --- a run, and a process that ends in it


class Tracer:
    """Counts how often each place is come by, and ends the process where it is to end.

    Args:
        found: the places.
        fault: where; `None`: nowhere.
    """

    def __init__(self, found: list[Place], fault: Fault | None = None) -> None:
        self.counts: Counter[Place] = Counter()
        self._fault = fault
        self._by_file: dict[str, dict[int, Place]] = {}
        for place in found:
            lines = self._by_file.setdefault(str(SOURCE / place.file), {})
            lines |= dict.fromkeys(range(place.first, place.last + 1), place)
        self._functions = {(str(SOURCE / place.file), place.function) for place in found}
        self._at: dict[int, Place] = {}

    def _is_traced(self, code: CodeType) -> bool:
        return (code.co_filename, code.co_name) in self._functions

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        """For `sys.settrace`."""
        if event == "call":
            return self if self._is_traced(frame.f_code) else None
        if event not in ("line", "return"):
            return self
        before = self._at.pop(id(frame), None)
        now = self._by_file[frame.f_code.co_filename].get(frame.f_lineno) if event == "line" else None
        if before is not None and before != now:
            self._passed(before, is_before=False)
        if now is not None:
            self._at[id(frame)] = now
            if now != before:
                self.counts[now] += 1
                self._passed(now, is_before=True)
        return self

    def _passed(self, place: Place, *, is_before: bool) -> None:
        if self._fault == (place, self.counts[place], is_before):
            os.kill(os.getpid(), signal.SIGKILL)


def _calling(callee: bytes, **more: Any) -> bytes:
    """An update that counts, has another canister count, and counts what came of it."""
    reached, done, refused = count(3, 8192).reply(b""), count(2, 4096).reply(b""), count(4, 12288).reply(b"")
    return bytes(count(1, 0).call(callee, "update", reached, on_reply=done, on_reject=refused, **more))


def prepare(path: Path) -> None:
    """A network in which calls are begun: some are answered, one is refused, one comes too late; cycles come back."""
    with Network(["system", "system"], path=path, history=None) as network:
        made = [subnet.install(UNIVERSAL.read_bytes(), b"") for subnet in network.subnets]
        for one in made:
            one.update("update", bytes(P().stable64_grow(1).drop().reply(b"")))
        near, far = (one.id.raw_bytes for one in made)
        gone = Principal.from_index(int.from_bytes(far[:8]) + 9).raw_bytes
        network.subnets[1].advance_time("1h")  # so that what expires within it has, once it is there
        programs = [
            (near, _calling(far, cycles=CYCLES)),
            (far, _calling(near, cycles=CYCLES)),
            (near, _calling(gone, cycles=CYCLES)),
            (near, _calling(far, cycles=CYCLES, timeout_seconds=10)),
            (near, _calling(far)),
        ]
        for own, program in programs:
            world = network.canister(Principal(own))._subnet._world
            assert isinstance(submit_ingress(world, own, "update", program), bytes)
        for subnet in network.subnets:
            subnet.advance_time(0)  # a commit, so that what was let in is on the disk


def outcome(path: Path) -> tuple[Any, ...]:
    """What comes out once everything has been answered; the books are right."""
    with Network(path=path) as network:
        network.run_until_idle()
        network.subnets[0].advance_time("11s")
        network.tick()
        network.run_until_idle()
        states = [subnet._state for subnet in network.subnets]
        for state in states:
            known = state.total_cycles() + state.consumed_cycles + state.lost_cycles + state.sent_cycles
            assert state.minted_cycles + state.received_cycles == known, "cycles were made or lost"
        assert network.sent_cycles == sum(state.lost_cycles for state in states) == 0
        assert not any(canister._state.open_calls for canister in network.canisters)

        return (
            [[one.stable.read(address, 8)[0] for address in (0, 4096, 8192, 12288)] for one in network.canisters],
            [one._state.cycles for one in network.canisters],
        )


def _sync_always(finish: Callable[..., None]) -> Callable[..., None]:
    """Have each commit on the disk at once, as threads may have it that wait for others; else rounds sync."""

    def synced(world: World, *args: Any, **more: Any) -> None:
        finish(world, *args, **more)
        assert isinstance(world.host, DurableHost)
        world.host.wait(world.host.settle())

    return synced


def run(path: Path, tracer: Tracer, *, is_synced: bool = False) -> None:
    """Open a network and go on until nothing is left to do; `is_synced`: each commit is on the disk at once."""
    finish = World.finish
    if is_synced:
        World.finish = _sync_always(finish)  # type: ignore[method-assign]
    sys.settrace(tracer)
    try:
        network = Network(path=path)
        network.run_until_idle()
    finally:
        sys.settrace(None)
        World.finish = finish  # type: ignore[method-assign]
    network.close()


def killed(template: Path, found: list[Place], fault: Fault, *, is_synced: bool) -> tuple[Any, ...]:
    """What comes out after a process was killed there.

    Raises:
        AssertionError: it was not, or what is left cannot go on.
    """
    with tempfile.TemporaryDirectory(prefix="perdure-faults-") as folder:
        path = Path(folder) / "net"
        shutil.copytree(template, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of the engine's: the child compiles nothing
            child = os.fork()
        if not child:
            signal.alarm(_MAX_SECONDS)
            try:
                run(path, Tracer(found, fault), is_synced=is_synced)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert is_killed, f"no process came by {fault}: status {status}"
        return outcome(path)


def faults(counts: Counter[Place], *, every_time: bool) -> list[Fault]:
    """Before and after each place, the first time or each time."""
    return [
        Fault(place, time_, is_before)
        for place, many in counts.items()
        for time_ in (range(1, many + 1) if every_time else (1,))
        for is_before in (True, False)
    ]


def main() -> int:
    """Kill at each place, each time, and say what that came to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--first", action="store_true", help="the first time that a place is come by, alone")
    arguments = parser.parse_args()
    found = places()
    with tempfile.TemporaryDirectory(prefix="perdure-faults-") as folder:
        template = Path(folder) / "net"
        prepare(template)
        clean = Path(folder) / "clean"
        shutil.copytree(template, clean)
        tracer = Tracer(found)
        run(clean, tracer)
        expected = outcome(clean)
        missed = [place for place in found if not tracer.counts[place]]
        for place in missed:
            print(f"not come by: {place}")
        first = faults(tracer.counts, every_time=False)
        every = first if arguments.first else faults(tracer.counts, every_time=True)
        wanted = [(fault, True) for fault in every] + [(fault, False) for fault in first]
        begun = time.monotonic()
        wrong = 0
        for fault, is_synced in wanted:
            if killed(template, found, fault, is_synced=is_synced) != expected:
                wrong += 1
                print(f"another result: {fault}, {'each commit' if is_synced else 'rounds'} synced")
        print(f"{len(found)} places, {len(wanted)} kills, {wrong} other results, {time.monotonic() - begun:.0f} s")
    return 1 if wrong or missed else 0


if __name__ == "__main__":
    sys.exit(main())
