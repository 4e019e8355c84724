"""Interrupts what perdure does at one opcode of its own Python code after the other, and tells what became of it.

Run it for every opcode; for every one in each stack of calls; or for every one in one of the actions:

    python tests/subnet/injector.py --where memory
    python tests/subnet/injector.py --where disk --same 1
    python tests/subnet/injector.py --where disk --same 1 --depth 1 --new

An exception is raised by a trace function right before an opcode of a file of perdure is executed; any exception may
come there: a signal handler's, an asynchronous one, `MemoryError`. Then the subnet has to be as before a message or as
after it, and go on; on disk, it may refuse by name instead until it is opened anew, and then be so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
import sys
import tempfile
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from counting import UNIVERSAL, P, count, universal

import perdure
from perdure import PerdureError, StorageError
from perdure.embedder.guard import threads
from perdure.subnet import Canister, Subnet

ROOT = str(Path(perdure.__file__).parent)
WASM = UNIVERSAL.read_bytes()

# Under a trace function, the line that a `with` block returns to at its end is traced once more, before the lock is
# released, where no signal and no asynchronous exception is ever looked for: an exception there keeps the lock.
_EXIT_OF_LOCK = re.compile(r"\s*with (self\.)?_?(gate\.)?_?(lock|mutex):")


class Interruption(BaseException):
    """Comes from anywhere."""


# --- what is interrupted


def _calling(callee: Canister) -> bytes:
    reached = count(1, 0).reply(b"p")
    return bytes(
        count(1, 0).call(
            callee.id.raw_bytes,
            "update",
            reached,
            on_reply=count(2, 4096).reply(b"ok"),
            on_reject=P().reply(b"rejected"),
        )
    )


@dataclass
class Stage:
    """A subnet with two canisters that is about to do something."""

    subnet: Subnet
    a: Canister
    b: Canister
    path: Path | None = None

    @classmethod
    def of(cls, subnet: Subnet, path: Path | None = None) -> Stage:
        a, b = subnet.canisters[:2]
        return cls(subnet, a, b, path)


def prepared(path: Path | None) -> Stage:
    subnet = Subnet(path, durability="message")
    stage = Stage(subnet, subnet.install(WASM, b""), subnet.install(WASM, b""))
    for canister in (stage.a, stage.b):
        canister.update("update", bytes(P().stable64_grow(1).drop().reply(b"")))
        canister.update("update", bytes(count(1, 0).then(count(2, 4096)).reply(b"")))
    subnet.checkpoint()
    return stage


def _set_timer(stage: Stage) -> None:
    hook = universal.Hook.GLOBAL_TIMER
    program = P().hook(hook, count(1, 0)).then(P().global_timer_set(1).drop()).reply(b"")
    stage.a.update("update", bytes(program))


def _snapshot(stage: Stage) -> None:
    stage.a.take_snapshot()


def _load(stage: Stage) -> None:
    stage.a.load_snapshot(stage.a.snapshots()[0]["id"])


def _delete(stage: Stage) -> None:
    stage.a.stop()
    stage.a.delete()


def _open(stage: Stage) -> None:
    if stage.path is None:
        Subnet().close()
    else:  # where the process before was killed
        stage.subnet = Subnet(stage.path, durability="message")
        stage.a, stage.b = stage.subnet.canisters[:2]


ACTIONS: dict[str, tuple[Callable[[Stage], object], Callable[[Stage], object] | None]] = {
    "call": (lambda stage: stage.a.update("update", _calling(stage.b)), None),
    "update": (lambda stage: stage.a.update("update", bytes(count(1, 0).then(count(2, 4096)).reply(b""))), None),
    "query": (lambda stage: stage.a.query("query", bytes(count(1, 0).reply(b""))), None),
    "timer": (lambda stage: stage.subnet.tick(), _set_timer),
    "install": (lambda stage: stage.subnet.install(WASM, b""), None),
    "upgrade": (lambda stage: stage.a.upgrade(WASM, b""), None),
    "snapshot": (_snapshot, None),
    "load": (_load, _snapshot),
    "fork": (lambda stage: stage.subnet.fork().close(), None),
    "checkpoint": (lambda stage: stage.subnet.checkpoint(), None),
    "write": (lambda stage: stage.a.stable.write(9_000, b"by hand"), None),
    "delete": (_delete, None),
    "open": (_open, None),
}
"""What is interrupted, and what prepares it."""


# --- the state, but for clock and numbers


_TIMES = re.compile(r"\b1[67]\d{17}\b")
_DRAWN = re.compile(r"request_id=b'[^']*'")


def fingerprint(subnet: Subnet) -> str:
    """Everything that a message changes, as text, without times and without the numbers of requests."""
    state = subnet._state
    parts = [
        f"{state.minted_cycles} {state.consumed_cycles} {state.lost_cycles} {state.next_canister_index}",
        repr(state.outbox),
        repr(list(state.management_calls)),
    ]
    for canister_id in sorted(state.canisters):
        canister = state.canisters[canister_id]
        handle = Canister(subnet, perdure.Principal(canister_id))
        fields = [
            canister.cycles,
            canister.reserved_cycles,
            canister.facts.version,
            canister.facts.status,
            canister.certified_data,
            canister.hook_status,
            list(canister.inputs),
            canister.contexts,
            canister.open_calls,
            canister.open_calls_to,
            canister.next_context_id,
            canister.next_call_id,
            canister.total_changes,
            sorted(canister.snapshots),
            canister.global_timer_ns == 0,
            canister.module is not None and canister.module.module_hash,
        ]
        parts.append(repr(fields))
        if canister.instance is not None:
            for memory in (handle.heap, handle.stable):
                data = memory.read(0, memory.size() << 16)
                parts.append(f"{len(data)} {hash(data)}")
            parts.append(repr(handle.globals))
    return _DRAWN.sub("", _TIMES.sub("T", "\n".join(parts)))


# --- interrupting


@dataclass
class Injector:
    """Raises before the `place`-th opcode of perdure's own code; `where` says which one it was."""

    place: int
    signals_only: bool = False
    seen: int = 0
    where: str = ""
    lines: dict[str, list[str]] = field(default_factory=dict)
    stacks: dict[int, list[int]] | None = None
    """Where given, the places of each stack of calls are noted."""
    depth: int = 0
    """How many frames of a stack count."""

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(ROOT):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not self.where:
            self._opcode(frame)
        return self

    def _opcode(self, frame: FrameType) -> None:
        if self.signals_only and threads.here.state.depth:
            return
        self.seen += 1
        if self.stacks is not None:
            self.stacks.setdefault(_stack(frame, self.depth), []).append(self.seen)
        if self.seen == self.place and not self._is_left_out(frame):
            code = frame.f_code
            self.where = f"{code.co_filename[len(ROOT) + 1 :]}:{frame.f_lineno} {code.co_name} +{frame.f_lasti}"
            sys.settrace(None)  # which takes as long as all the rest
            raise KeyboardInterrupt if self.signals_only else Interruption

    def _is_left_out(self, frame: FrameType) -> bool:
        """The exit line of a lock; and what Python itself swallows."""
        name = frame.f_code.co_filename
        lines = self.lines.get(name) or self.lines.setdefault(name, Path(name).read_text().split("\n"))
        left_out = bool(_EXIT_OF_LOCK.match(lines[(frame.f_lineno or 1) - 1]))
        caller: FrameType | None = frame
        while caller is not None and not left_out:
            code = caller.f_code
            left_out = code.co_name == "__del__" or code is weakref.finalize.__call__.__code__
            caller = caller.f_back
        self.place += left_out  # the next one then
        return left_out


def _stack(frame: FrameType | None, depth: int) -> int:
    """The opcodes at which a frame and its next callers stand."""
    found: list[object] = []
    while frame is not None and depth:
        found += (id(frame.f_code), frame.f_lasti)  # the hash of code changes as it is specialised
        frame, depth = frame.f_back, depth - 1
    return hash(tuple(found))


@contextmanager
def tracing(injector: Injector) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(injector)
    try:
        yield
    finally:
        sys.settrace(before)


@dataclass
class Scene:
    """One action, in memory or on disk, with the states that it may leave."""

    action: str
    on_disk: bool
    signals_only: bool = False

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="perdure-injector-"))
        self.act, prepare = ACTIONS[self.action]
        stage = prepared(self.folder / "origin" if self.on_disk else None)
        if prepare is not None:
            prepare(stage)
        self.origin = stage
        if self.on_disk:
            self._leave(stage)
        self.allowed = self._allowed()

    def _leave(self, stage: Stage) -> None:
        """Have the directory as a new process finds it."""
        if self.action == "open":  # what it has to recover, and bytes that have to be thrown away
            stage.a.update("update", bytes(count(1, 0).reply(b"")))
            stage.subnet._host.directory.abandon()  # type: ignore[union-attr]
            return
        stage.subnet.close()

    def close(self) -> None:
        if not self.on_disk:
            self.origin.subnet.close()
        shutil.rmtree(self.folder)

    @contextmanager
    def stage(self) -> Iterator[Stage]:
        if not self.on_disk:
            with self.origin.subnet.fork() as subnet:
                yield Stage.of(subnet)
            return
        path = self.folder / "copy"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.folder / "origin", path)
        stage = Stage(Subnet(), None, None, path)  # type: ignore[arg-type]
        if self.action != "open":
            stage = Stage.of(Subnet(path, durability="message"), path)
            if self.action != "query":  # which compares all pages with their hashes
                stage.subnet._host.directory._files.check_bytes = 0  # type: ignore[union-attr]
        try:
            yield stage
        finally:
            try:
                stage.subnet.close()
            except (PerdureError, ValueError):
                stage.subnet._host.directory.abandon()  # type: ignore[union-attr]

    def _allowed(self) -> set[str]:
        """The states between the messages of an action that nobody interrupts."""
        found = set()
        with self.stage() as stage:
            world = stage.subnet._world
            found.add(fingerprint(stage.subnet))
            finish = world.host.pause

            class Watching:
                def __getattr__(self, name: str) -> Any:
                    return getattr(host, name)

                def pause(self) -> None:
                    finish()
                    states.append(world.state)
                    found.add(fingerprint(stage.subnet))

            host, states = world.host, []
            world.host = Watching()  # type: ignore[assignment]
            self.act(stage)
            world.host = host
            found.add(fingerprint(stage.subnet))
        return found

    def count(self) -> int:
        """How many places there are."""
        injector = Injector(0, self.signals_only)
        with self.stage() as stage, tracing(injector):
            self.act(stage)
        return injector.seen

    def places(self, same: int, depth: int, known: set[int]) -> list[int]:
        """The first `same` places of each stack of calls, of which the innermost `depth` frames count.

        So not every turn of every loop is among them. Stacks that are known are left out, the others are known then.
        """
        injector = Injector(0, self.signals_only, stacks={}, depth=depth)
        with self.stage() as stage, tracing(injector):
            self.act(stage)
        found = {stack: places for stack, places in (injector.stacks or {}).items() if stack not in known}
        known.update(found)
        return sorted(place for places in found.values() for place in places[:same])

    def interrupt(self, place: int) -> tuple[bool, str, str]:
        """Interrupt at one place: whether there was one, which, and what is wrong (nothing: an empty text)."""
        with self.stage() as stage:
            injector = Injector(place, self.signals_only)
            error: BaseException | None = None
            try:
                with tracing(injector):
                    self.act(stage)
            except (Interruption, KeyboardInterrupt, RuntimeError) as caught:
                error = caught
            if not injector.where:
                return False, "", ""
            return True, injector.where, self._check(stage, error)

    def _check(self, stage: Stage, error: BaseException | None) -> str:
        try:
            if self.action == "open" and error is not None and self.on_disk:
                if not self.signals_only:  # what was being made then goes with the exception
                    traceback.clear_frames(error.__traceback__)
                _open(stage)
            found = fingerprint(stage.subnet)
        except StorageError as refused:
            if not self.on_disk or self.signals_only:
                return f"refuses: {refused}"
            stage.subnet._host.directory.abandon()  # type: ignore[union-attr]
            return self._reopened()
        except Exception as wrong:  # whatever it is, it is wrong
            return f"live: {wrong!r}"
        if found not in self.allowed:
            return "torn: " + self._difference(found)
        try:
            stage.subnet.run_until_idle()
            canister = stage.b if self.action == "delete" else stage.a
            canister.update("update", bytes(count(1, 0).reply(b"")))
            before = self._counted(canister)
            canister.update("update", bytes(count(1, 0).reply(b"")))
            after = self._counted(canister)
        except StorageError as refused:
            if not self.on_disk or self.signals_only:
                return f"refuses: {refused}"
            stage.subnet._host.directory.abandon()  # type: ignore[union-attr]
            return self._reopened()
        except Exception as wrong:
            return f"not usable: {wrong!r}"
        if after != before + 1:
            return f"counted from {before} to {after}"
        if self.on_disk:
            expected = fingerprint(stage.subnet)
            stage.subnet.close()
            with Subnet(self.folder / "copy", durability="message") as again:
                if fingerprint(again) != expected:
                    return "another state on disk"
        del error
        return ""

    def _reopened(self) -> str:
        with Subnet(self.folder / "copy", durability="message") as again:
            found = fingerprint(again)
            return "" if found in self.allowed else "torn on disk: " + self._difference(found)

    @staticmethod
    def _counted(canister: Canister) -> int:
        return int.from_bytes(canister.stable.read(0, 8), "little")

    def _difference(self, found: str) -> str:
        best: list[str] = []
        for allowed in self.allowed:
            lines = [
                f"{ours} != {theirs}"
                for ours, theirs in zip(found.split("\n"), allowed.split("\n"), strict=False)
                if ours != theirs
            ]
            if not best or len(lines) < len(best):
                best = lines
        return " | ".join(best)[:400]


def survey(scene: Scene, places: Iterable[int]) -> tuple[int, dict[str, str]]:
    """Interrupt at these opcodes, as far as there are so many: how many there were, and what was wrong where."""
    tried, wrong = 0, {}
    for place in places:
        was_there, where, problem = scene.interrupt(place)
        if not was_there:
            break
        tried += 1
        if problem:
            wrong[f"{place} {where}"] = problem
    return tried, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("actions", nargs="*", help=", ".join(ACTIONS))
    parser.add_argument("--every", type=int, default=1, help="interrupt at every N-th place")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--same", type=int, help="interrupt an opcode in the same stack of calls N times at most")
    parser.add_argument("--depth", type=int, default=6, help="how many frames make a stack")
    parser.add_argument("--new", action="store_true", help="leave out what an action before has interrupted")
    parser.add_argument("--where", choices=["memory", "disk", "both"], default="both")
    parser.add_argument("--signals", action="store_true", help="only where signal handlers are not put off")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    report, failed = {}, False
    known: dict[bool, set[int]] = {False: set(), True: set()}
    for action in chosen.actions or ACTIONS:
        for on_disk in (False, True):
            if chosen.where != "both" and on_disk != (chosen.where == "disk"):
                continue
            began = time.monotonic()
            scene = Scene(action, on_disk, chosen.signals)
            places: Iterable[int] = itertools.count(1)
            if chosen.same is not None:
                scene.count()  # what is made once is made
                places = scene.places(chosen.same, chosen.depth, known[on_disk] if chosen.new else set())
            tried, wrong = survey(scene, itertools.islice(places, chosen.first - 1, None, chosen.every))
            scene.close()
            name = f"{action} {'on disk' if on_disk else 'in memory'}"
            report[name] = {"interrupted": tried, "wrong": wrong}
            failed |= bool(wrong)
            if not chosen.json:
                seconds = time.monotonic() - began
                print(f"{name}: interrupted at {tried} places, wrong at {len(wrong)}, {seconds:.0f} s", flush=True)
                for where, problem in list(wrong.items())[:12]:
                    print(f"    {where}: {problem}", flush=True)
    if chosen.json:
        print(json.dumps(report, indent=1))
    sys.exit(failed)


if __name__ == "__main__":
    main()
