"""Interrupts what perdure does at one opcode of its own Python code after the other, and tells what became of it.

Run it for every opcode each time that it is executed; for a sample of these; for every one in each stack of calls; or
for every one in one of the actions:

    python tests/subnet/injector.py --where memory
    python tests/subnet/injector.py --where disk --sample 1000 --seed 1
    python tests/subnet/injector.py --where disk --same 1
    python tests/subnet/injector.py --where disk --same 1 --depth 1 --new

On disk it is mostly syncs that take the time: a directory for temporary files in memory (`TMPDIR=/dev/shm`) has none.

An exception is raised by a trace function right before an opcode of a file of perdure is executed; any exception may
come there: a signal handler's, an asynchronous one, `MemoryError`. Then the subnet has to be as before a message or as
after it, and go on; on disk, it may refuse by name instead until it is opened anew, and then be so.
"""

from __future__ import annotations

import argparse
import json
import linecache
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

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


class Place(NamedTuple):
    """An opcode, and the how many-th time that it is about to be executed."""

    code: CodeType
    offset: int
    occurrence: int

    def __str__(self) -> str:
        code = self.code
        line = next(line for start, end, line in code.co_lines() if start <= self.offset < end)
        name = f"{code.co_filename[len(ROOT) + 1 :]}:{line} {code.co_name} +{self.offset}"
        return f"{name}, time {self.occurrence}"


@dataclass
class Survey:
    """Traces every opcode of perdure's own code, and notes the places that there are."""

    signals_only: bool = False
    depth: int = 0
    """How many frames of a stack of calls count; 0: all places are of one stack."""
    count: int = 0
    stacks: dict[int, list[Place]] = field(default_factory=dict)
    _times: Counter[tuple[int, int]] = field(default_factory=Counter)

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(ROOT):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            key = id(code), frame.f_lasti  # the hash of code changes as it is specialised
            self._times[key] += 1
            if not (self.signals_only and threads.here.state.depth):
                self.count += 1
                place = Place(code, frame.f_lasti, self._times[key])
                self.stacks.setdefault(_stack(frame, self.depth), []).append(place)
        return self


@dataclass
class Injector:
    """Raises at one place; `where` says which that was. No other code is traced, which would take most of the time."""

    place: Place
    signals_only: bool = False
    where: str = ""
    seen: int = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code is not self.place.code:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and frame.f_lasti == self.place.offset and not self.where:
            self.seen += 1
            if self.seen >= self.place.occurrence and not self._is_left_out(frame):
                self.where = str(self.place)
                sys.settrace(None)
                raise KeyboardInterrupt if self.signals_only else Interruption
        return self

    def _is_left_out(self, frame: FrameType) -> bool:
        """Where handlers are put off, if it is about signals; the exit line of a lock; what Python itself swallows."""
        if self.signals_only and threads.here.state.depth:
            return True
        if _EXIT_OF_LOCK.match(linecache.getline(frame.f_code.co_filename, frame.f_lineno or 1)):
            return True
        caller: FrameType | None = frame
        while caller is not None:
            code = caller.f_code
            if code.co_name == "__del__" or code is weakref.finalize.__call__.__code__:
                return True
            caller = caller.f_back
        return False


def _stack(frame: FrameType | None, depth: int) -> int:
    """The opcodes at which a frame and its next callers stand."""
    found: list[object] = []
    while frame is not None and depth:
        found += (id(frame.f_code), frame.f_lasti)
        frame, depth = frame.f_back, depth - 1
    return hash(tuple(found))


def _let_go(error: BaseException | None) -> None:
    """Free now what the interrupted frames held, so that nothing of it is left to another test's collector."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


@contextmanager
def tracing(injector: Injector | Survey) -> Iterator[None]:
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

    def places(self, same: int | None = None, depth: int = 0, known: set[int] | None = None) -> list[Place]:
        """All places there are, in their order of stacks; or the first `same` ones of each stack of calls.

        Of a stack the innermost `depth` frames count, so not every turn of every loop is among them. Stacks that are
        known are left out, the others are known then.
        """
        known = set() if known is None else known
        survey = Survey(self.signals_only, depth)
        for _ in range(2):  # what a process makes once is made in the first run
            survey = Survey(self.signals_only, depth)
            with self.stage() as stage, tracing(survey):
                self.act(stage)
        found = {stack: places for stack, places in survey.stacks.items() if stack not in known}
        known.update(found)
        return [place for places in found.values() for place in places[:same]]

    def interrupt(self, place: Place) -> tuple[bool, str, str]:
        """Interrupt at one place: whether there was one, which, and what is wrong (nothing: an empty text)."""
        with self.stage() as stage:
            injector = Injector(place, self.signals_only)
            error: BaseException | None = None
            try:
                with tracing(injector):
                    self.act(stage)
            except (Interruption, KeyboardInterrupt, RuntimeError) as caught:
                error = caught
            try:
                return (True, injector.where, self._check(stage, error)) if injector.where else (False, "", "")
            finally:
                _let_go(error)

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


def survey(scene: Scene, places: Iterable[Place]) -> tuple[int, int, dict[str, str]]:
    """Interrupt at these places: at how many, how many were not there any more, and what was wrong where."""
    tried = gone = 0
    wrong = {}
    with warnings.catch_warnings():
        # Between the making of a file and its `with`, nothing but its end closes it, of which Python warns.
        warnings.simplefilter("ignore", ResourceWarning)
        for place in places:
            was_there, where, problem = scene.interrupt(place)
            tried += was_there
            gone += not was_there
            if problem:
                wrong[where] = problem
    return tried, gone, wrong


def _report(scene: Scene, places: list[Place], *, as_json: bool) -> dict[str, Any]:
    began = time.monotonic()
    tried, gone, wrong = survey(scene, places)
    if not as_json:
        where, seconds = "on disk" if scene.on_disk else "in memory", time.monotonic() - began
        facts = f"interrupted at {tried} of {len(places)} places, {gone} not there any more, wrong at {len(wrong)}"
        print(f"{scene.action} {where}: {facts}, {seconds:.0f} s", flush=True)
        for name, problem in list(wrong.items())[:12]:
            print(f"    {name}: {problem}", flush=True)
    return {"places": len(places), "interrupted": tried, "gone": gone, "wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("actions", nargs="*", help=", ".join(ACTIONS))
    parser.add_argument("--every", type=int, default=1, help="interrupt at every N-th place")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--sample", type=int, help="interrupt at so many places of each action, drawn at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--same", type=int, help="interrupt an opcode in the same stack of calls N times at most")
    parser.add_argument("--depth", type=int, default=6, help="how many frames make a stack")
    parser.add_argument("--new", action="store_true", help="leave out the places that an action before has")
    parser.add_argument("--where", choices=["memory", "disk", "both"], default="both")
    parser.add_argument("--signals", action="store_true", help="only where signal handlers are not put off")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    report: dict[str, Any] = {}
    for on_disk in [where == "disk" for where in ("memory", "disk") if chosen.where in (where, "both")]:
        known: set[int] = set()
        for action in ACTIONS:
            is_chosen = not chosen.actions or action in chosen.actions
            if not is_chosen and not chosen.new:
                continue
            scene = Scene(action, on_disk, chosen.signals)
            depth = chosen.depth if chosen.same is not None else 0
            places = scene.places(chosen.same, depth, known if chosen.new else None)[chosen.first - 1 :: chosen.every]
            if chosen.sample is not None and chosen.sample < len(places):
                places = random.Random(f"{chosen.seed} {action}").sample(places, chosen.sample)
            if is_chosen:
                report[f"{action} {'on disk' if on_disk else 'in memory'}"] = _report(
                    scene, places, as_json=chosen.json
                )
            scene.close()
    if chosen.json:
        print(json.dumps(report, indent=1))
    sys.exit(any(found["wrong"] for found in report.values()))


if __name__ == "__main__":
    main()
