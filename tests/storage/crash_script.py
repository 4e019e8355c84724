"""A script of commits on a simulated disk, cut anywhere, recovered, and compared with what was acknowledged.

Run as a program for the long form:

    python tests/storage/crash_script.py --cuts 100000 --seed 1
    python tests/storage/crash_script.py --removals --seed 1

The first cuts the power at every write, sync and change of names of the script, over and over with other outcomes,
until there are that many cuts. The second removes one step of the storage code after the other (a sync, a checksum, an
order) and says whether the cuts show it.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from perdure.canister import GlobalValue, PageDelta
from perdure.errors import PerdureError
from perdure.storage import (
    Answer,
    CanisterChange,
    Message,
    PythonCode,
    StateDirectory,
    StorageLimits,
    TemporaryStore,
    checkpoints,
    commit_log,
    layers,
    log,
)
from perdure.storage.changes import Origin

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, module)
    spec.loader.exec_module(module)
    return module


simulated_disk = sys.modules.get("simulated_disk") or _load("simulated_disk")
SimulatedDisk = simulated_disk.SimulatedDisk

PAGE = 4096
WASM_PAGE = 65536
ROOT = "/state"
LIMITS = StorageLimits(log_bytes=160 << 10, check_bytes=1 << 30)
HISTORY: int | None = None
"""All of it; without any, commits take another way through the storage code."""
Level = Literal["message", "round", "checkpoint"]


class BrokenPromiseError(Exception):
    """What was recovered is not what was acknowledged."""


@dataclass
class Model:
    """A whole state in plain Python."""

    canisters: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    subnet: bytes = b""
    answers: dict[bytes, Answer] = field(default_factory=dict)

    def copy(self) -> Model:
        canisters = {name: {**state, "memories": dict(state["memories"])} for name, state in self.canisters.items()}
        return Model(canisters, self.subnet, dict(self.answers))


@dataclass
class Journal:
    """What the script did: the state after every version, and what it was told is kept."""

    models: list[Model] = field(default_factory=lambda: [Model()])
    hashes: dict[int, bytes] = field(default_factory=dict)
    acknowledged: int = 0
    appended: int = 0
    blobs: set[bytes] = field(default_factory=set)


def change_of(rng: random.Random, model: Model, name: bytes, module: bytes | None) -> CanisterChange:
    """A random change of one canister, made in the model too."""
    empty = {"globals": None, "record": b"", "module": b"", "code": PythonCode()}
    state = model.canisters.setdefault(name, {**empty, "memories": {}})
    change = CanisterChange()
    if rng.random() < 0.05 and state["memories"]:
        change.dropped = frozenset(rng.sample(sorted(state["memories"]), 1))
        for gone in change.dropped:
            del state["memories"][gone]
    for kind, chance in (("heap", 0.7), ("stable", 0.5), ("users-1.x", 0.2)):
        if rng.random() < chance:
            change.memories[kind] = delta_of(rng, state["memories"], kind)
    if rng.random() < 0.1:
        change.code = state["code"] = PythonCode("actor", rng.randbytes(32), rng.randbytes(20))
    if rng.random() < 0.5:
        change.global_values = (GlobalValue("i64", rng.randbytes(8)),)
        state["globals"] = change.global_values
    if rng.random() < 0.3:
        change.record = state["record"] = rng.randbytes(rng.randrange(200))
    if module is not None:
        change.module_hash = state["module"] = module
    return change


def copy_into(rng: random.Random, change: CanisterChange, state: dict[str, Any], before: Model) -> None:
    """Have one memory of a canister be a copy of some memory as it was before the commit, perhaps with some changes."""
    places = [(name, kind) for name in sorted(before.canisters) for kind in sorted(before.canisters[name]["memories"])]
    if not places:
        return
    name, kind = rng.choice(places)
    target = rng.choice(("heap", "copy", "copy"))
    copied = before.canisters[name]["memories"][kind]
    state["memories"][target] = copied
    change.origins[target] = Origin(name, kind)
    if rng.random() < 0.5:
        change.memories[target] = PageDelta(len(copied) // WASM_PAGE, ())
    else:
        while (delta := delta_of(rng, dict(state["memories"]), target)).fresh:
            continue
        change.memories[target] = delta
        data = bytearray(copied.ljust(delta.wasm_pages * WASM_PAGE, b"\0"))
        for address, content in delta.runs:
            data[address : address + len(content)] = content
        state["memories"][target] = bytes(data)


def delta_of(rng: random.Random, state: dict[str, Any], kind: str) -> PageDelta:
    fresh = rng.random() < 0.06
    old: bytes = bytes(len(state.get(kind, b""))) if fresh else state.get(kind, b"")
    if fresh and rng.random() < 0.5:
        old = b""
    wasm_pages = max(len(old) // WASM_PAGE, 1) + (rng.random() < 0.05)
    data = bytearray(old.ljust(wasm_pages * WASM_PAGE, b"\0"))
    runs = []
    position = 0
    for _ in range(rng.randrange(1, 4)):
        first = position + rng.randrange(6)
        pages = rng.choice((1, 1, 1, 2))
        if (first + pages) * PAGE > len(data):
            break
        content = rng.choice((rng.randbytes, bytes))(pages * PAGE)
        data[first * PAGE : (first + pages) * PAGE] = content
        runs.append((first * PAGE, content))
        position = first + pages
    state[kind] = bytes(data)
    return PageDelta(wasm_pages, runs, fresh)


def run_script(disk: Any, journal: Journal, *, seed: int, commits: int, level: Level, store: TemporaryStore) -> None:
    """Commits, rounds, checkpoints, forks, deletions and reopenings, the same for the same seed."""
    rng = random.Random(seed)
    state = _open(disk, level, store)
    journal.hashes[0] = state.state_hash()
    while state.version < commits:
        model = journal.models[-1].copy()
        changes: dict[bytes, CanisterChange] = {}
        for name in rng.sample([b"one", b"two", b"three"], rng.choice((1, 1, 2))):
            module = None
            if rng.random() < 0.1:
                module = state.put_blob(rng.randbytes(700))
                journal.blobs.add(module)
            if name in model.canisters and rng.random() < 0.03:
                del model.canisters[name]
                changes[name] = CanisterChange(deleted=True)
            else:
                changes[name] = change_of(rng, model, name, module)
                if rng.random() < 0.15:
                    copy_into(rng, changes[name], model.canisters[name], journal.models[-1])
        subnet = rng.randbytes(rng.choice((50, 3000))) if rng.random() < 0.3 else None
        if subnet is not None:
            model.subnet = subnet
        answers, forgotten = _answers(rng, model)
        journal.models.append(model)
        journal.appended += 1
        wait = rng.random() < 0.7
        state.commit(
            Message(b"%d" % state.version),
            changes,
            subnet_record=subnet,
            answers=answers,
            forgotten=forgotten,
            apply=True,
            wait=wait,
        )
        if HISTORY is None or rng.random() < 0.2:  # a hash that is asked for seldom covers many commits
            journal.hashes[state.version] = state.state_hash()
        if level == "message" and wait:
            journal.acknowledged = state.version
        elif rng.random() < 0.3:
            state.end_round()
            if level == "round":
                journal.acknowledged = state.version
        _now_and_then(rng, state, journal)
        if rng.random() < 0.03:
            state.close()
            journal.acknowledged = journal.appended
            state = _open(disk, level, store)
    state.close()
    journal.acknowledged = journal.appended


def _answers(rng: random.Random, model: Model) -> tuple[list[Answer], list[bytes]]:
    """Some that go and some that come, one of them perhaps for a request that has one."""
    forgotten = [key for key in model.answers if rng.random() < 0.1]
    for key in forgotten:
        del model.answers[key]
    answers = [Answer(rng.randbytes(1), rng.randrange(1 << 60), rng.randbytes(30)) for _ in range(rng.randrange(3))]
    answers = list({answer.request_id: answer for answer in answers}.values())
    for answer in answers:
        model.answers.pop(answer.request_id, None)
        model.answers[answer.request_id] = answer
    return answers, forgotten


def _now_and_then(rng: random.Random, state: StateDirectory, journal: Journal) -> None:
    chance = rng.random()
    if chance < 0.03:
        state.checkpoint()
        journal.acknowledged = state.version
    elif chance < 0.05 and state.canisters:
        forks = [state.fork_image(name, kind) for name, found in state.canisters.items() for kind in found.memories]
        state.checkpoint()
        journal.acknowledged = state.version
        for fork in forks:
            fork.close()


def _open(disk: Any, level: Level, store: TemporaryStore) -> StateDirectory:
    return StateDirectory.open(
        ROOT, durability=level, disk=disk, store=store, limits=LIMITS, history=HISTORY, blobs_of=lambda *_: ()
    )


def check(disk: Any, journal: Journal, store: TemporaryStore, rng: random.Random) -> None:
    """Open what a cut left, and compare it with what was acknowledged. May cut the recovery too."""
    if rng.random() < 0.2:
        disk = _cut_recovery(disk, store, rng)
    try:
        state = _open(disk, "message", store)
    except PerdureError as error:
        raise BrokenPromiseError(f"does not open: {error}") from error
    try:
        _compare(state, journal, rng)
    except PerdureError as error:
        raise BrokenPromiseError(str(error)) from error
    finally:
        state.abandon()


def _cut_recovery(disk: Any, store: TemporaryStore, rng: random.Random) -> Any:
    left = rng.randrange(1, 25)
    found: list[Any] = []

    def cut(_: str) -> None:
        if disk.steps >= left:
            found.append(disk.crashed(rng))
            disk.off = True
            raise simulated_disk.PowerCutError

    disk.at_step = cut
    try:
        _open(disk, "message", store).abandon()
    except simulated_disk.PowerCutError:
        return found[0]
    disk.at_step = None
    return disk


def _compare(state: StateDirectory, journal: Journal, rng: random.Random) -> None:
    version = state.version
    if not journal.acknowledged <= version <= journal.appended:
        raise BrokenPromiseError(f"version {version} recovered, {journal.acknowledged} was acknowledged")
    _compare_state(state, journal.models[version], f"version {version}")
    if journal.hashes.get(version, state.state_hash()) != state.state_hash():
        raise BrokenPromiseError(f"version {version} has another hash than before the cut")
    if problems := state.verify():
        raise BrokenPromiseError(problems[0])
    for canister in state.canisters.values():
        if canister.module_hash:
            state.blob(canister.module_hash)
    if version and HISTORY is None and rng.random() < 0.1:
        past_version = rng.randrange(version)
        past = state.at(past_version)
        model = journal.models[past_version]
        known = past.canisters.keys() == model.canisters.keys() and past.answers == model.answers
        if not known or past.subnet_record != model.subnet:
            raise BrokenPromiseError(f"the past version {past_version} is not what it was")
        for name, canister in past.canisters.items():
            if canister.module_hash:
                state.blob(canister.module_hash)
            expected = model.canisters[name]
            if canister.images.keys() != expected["memories"].keys() or canister.code != expected["code"]:
                raise BrokenPromiseError(f"past version {past_version}: memories or code of {name!r}")
            for kind, image in canister.images.items():
                if image.read(0, image.wasm_pages * WASM_PAGE) != expected["memories"][kind]:
                    raise BrokenPromiseError(f"past version {past_version}: {kind} of {name!r} is not what it was")
        past.close()


def _compare_state(state: StateDirectory, model: Model, what: str) -> None:
    if state.canisters.keys() != model.canisters.keys() or state.subnet_record != model.subnet:
        raise BrokenPromiseError(f"{what}: {sorted(state.canisters)} recovered, {sorted(model.canisters)} committed")
    if list(state.answers.items()) != list(model.answers.items()):
        raise BrokenPromiseError(f"{what}: {len(state.answers)} answers recovered, {len(model.answers)} committed")
    for name, canister in state.canisters.items():
        expected = model.canisters[name]
        found = (canister.global_values, canister.record, canister.module_hash, canister.code)
        if found != (expected["globals"], expected["record"], expected["module"], expected["code"]):
            raise BrokenPromiseError(f"{what}: globals, record or module of {name!r} are not what was committed")
        if canister.memories.keys() != expected["memories"].keys():
            raise BrokenPromiseError(f"{what}: {name!r} has the memories {sorted(canister.memories)}")
        for kind, memory in canister.memories.items():
            image = memory.image()
            if image.read(0, image.wasm_pages * WASM_PAGE) != expected["memories"][kind]:
                raise BrokenPromiseError(f"{what}: {kind} of {name!r} is not what was committed")


def cut_everywhere(
    *,
    seed: int,
    commits: int,
    level: Level,
    every: int = 1,
    prepare: Callable[[Any], None] | None = None,
    limit: int = 0,
    history: int | None = None,
) -> tuple[int, int]:
    """Run the script once; at every `every`-th step, from a seeded offset, recover what a cut there would leave.

    Returns:
        Steps of the script, and cuts made.
    """
    disk = SimulatedDisk()
    disk_rng = random.Random(seed + 1)
    journal = Journal()
    offset = disk_rng.randrange(every)
    cuts = 0
    store = TemporaryStore()
    checks = TemporaryStore()

    def at_step(_: str) -> None:
        nonlocal cuts
        if (disk.steps + offset) % every == 0 and not (limit and cuts >= limit):
            cuts += 1
            check(disk.crashed(disk_rng), journal, checks, disk_rng)

    if prepare is not None:
        prepare(disk)
    disk.at_step = at_step
    try:
        # A short log is copied faster at every cut; small memories are to have layers too.
        with (
            _patched(commit_log, "_FIRST_BYTES", 64 << 10),
            _patched(layers, "_SMALL_BYTES", 0),
            _patched(layers, "_MAX_PIECES", 4),
            _patched(layers, "_FOLD_BYTES", 3 * PAGE),
            _patched(sys.modules[__name__], "HISTORY", history),
        ):
            run_script(disk, journal, seed=seed, commits=commits, level=level, store=store)
            check(disk.crashed(disk_rng), journal, checks, disk_rng)
    finally:
        store.close()
        checks.close()
    return disk.steps, cuts + 1


# -- seeded removals: each takes one step out of the storage code

Removal = Callable[[], Any]


@contextmanager
def _patched(owner: object, name: str, replacement: object) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _ignore(what: str, path: str) -> Callable[[Any], None]:
    def prepare(disk: Any) -> None:
        disk.ignored = (what, path)

    return prepare


def _recycle_early(self: checkpoints.Checkpoints, state_log: commit_log.CommitLog) -> None:
    """The checkpoint with the log used again before the checkpoint file says so."""
    state_log._file.pwrite(bytes(4096), 0)
    _write_checkpoint(self, state_log)


def _unsynced_log(self: checkpoints.Checkpoints, state_log: commit_log.CommitLog) -> None:
    """The checkpoint without the log on the platter first."""
    with _patched(type(state_log), "sync", lambda *_: None):
        _write_checkpoint(self, state_log)


def _collect_early(self: checkpoints.Checkpoints, state_log: commit_log.CommitLog) -> None:
    """Blobs gone before the checkpoint that does not name them."""
    self.collect_blobs()
    _write_checkpoint(self, state_log)


def _collect_the_past(self: checkpoints.Checkpoints, state_log: commit_log.CommitLog) -> None:
    """Blobs gone that only history names."""
    _write_checkpoint(self, state_log)
    self._blobs.collect(tuple)


def _acknowledge_early(self: Any, meta: bytes, pages: Any, **options: Any) -> int:
    """A commit acknowledged when written, not when synced."""
    version: int = _append(self, meta, pages, **options)
    self.durable = version
    return version


def _lasting_seal(self: Any, state_hash: bytes) -> None:
    """A seal that is not waited for."""
    with _patched(type(self), "sync", lambda *_: None):
        _seal(self, state_hash)


def _in_place(disk: Any, path: str, name: str) -> None:
    """A file changed in place instead of replaced."""
    new = disk.open(f"{path}/{name}.new")
    data = new.pread(new.size(), 0)
    file = disk.open(f"{path}/{name}", write=True, create=True)
    file.pwrite(data, 0)
    file.truncate(len(data))
    file.sync()
    disk.sync_directory(path)


_write_checkpoint = checkpoints.Checkpoints._write
_append = commit_log.CommitLog.append
_seal = commit_log.CommitLog.seal

SYNC_REMOVALS: dict[str, tuple[str, str]] = {
    "no sync of the log": ("sync", "/log"),
    "no sync of images": ("sync", ".img"),
    "no sync of hash files": ("sync", ".hash"),
    "no sync of the checkpoint file": ("sync", "/checkpoint.new"),
    "no sync of blobs": ("sync", "/blobs/"),
    "no sync of history": ("sync", "/history/"),
    "no sync of answers": ("sync", "/answers/"),
    "no sync of the parent directory": ("sync directory", "//"),
    "no sync of the directory": ("sync directory", "/state/"),
    "no sync of the images' directory": ("sync directory", "/images/"),
    "no sync of the blobs' directory": ("sync directory", "/blobs/"),
    "no sync of the history's directory": ("sync directory", "/history/"),
    "no sync of the answers' directory": ("sync directory", "/answers/"),
}

CODE_REMOVALS: dict[str, tuple[object, str, object]] = {
    "no check of a record's checksum": (log, "_head_is_whole", lambda *_: True),
    "no check of pages' checksum": (log, "_pages_are_whole", lambda *_: True),
    "acknowledged before the sync": (commit_log.CommitLog, "append", _acknowledge_early),
    "no seal before images change": (commit_log.CommitLog, "seal", lambda self, _: self.sync(self.version)),
    "images changed before the seal is synced": (commit_log.CommitLog, "seal", _lasting_seal),
    "images before the log": (checkpoints.Checkpoints, "_write", _unsynced_log),
    "log used again before the checkpoint": (checkpoints.Checkpoints, "_write", _recycle_early),
    "blobs go before the checkpoint": (checkpoints.Checkpoints, "_write", _collect_early),
    "blobs go that history names": (checkpoints.Checkpoints, "_write", _collect_the_past),
    "files changed in place": (checkpoints, "put_in_place", _in_place),
}


def is_caught(name: str, *, seed: int, commits: int = 200, tries: int = 6) -> str | None:
    """What the cuts say about the removal of one step; `None`: they do not notice."""
    for attempt in range(tries):
        level: Level = ("round", "message", "checkpoint")[attempt % 3]
        history = None if name.startswith("no sync of") else (0, None)[attempt % 2]
        try:
            if name in SYNC_REMOVALS:
                cut_everywhere(seed=seed + attempt, commits=commits, level=level, prepare=_ignore(*SYNC_REMOVALS[name]))
            else:
                with _patched(*CODE_REMOVALS[name]):
                    cut_everywhere(seed=seed + attempt, commits=commits, level=level, history=history)
        except (BrokenPromiseError, PerdureError, IndexError, AssertionError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--removals", action="store_true")
    arguments = parser.parse_args()
    start = time.monotonic()
    if arguments.removals:
        missed = 0
        for name in (*SYNC_REMOVALS, *CODE_REMOVALS):
            found = is_caught(name, seed=arguments.seed)
            missed += found is None
            print(f"{'MISSED' if found is None else 'caught'}  {name}: {found}", flush=True)
        print(f"{missed} of {len(SYNC_REMOVALS) + len(CODE_REMOVALS)} missed, {time.monotonic() - start:.0f} s")
        return 1 if missed else 0
    cuts = runs = 0
    while cuts < arguments.cuts:
        level: Level = ("message", "round", "checkpoint")[runs % 3]
        steps, made = cut_everywhere(
            seed=arguments.seed * 1_000_003 + runs, commits=200, level=level, history=(0, None)[runs % 2]
        )
        cuts += made
        runs += 1
        print(f"run {runs}: {level}, {steps} steps, {cuts} cuts, {time.monotonic() - start:.0f} s", flush=True)
    print(f"{cuts} cuts in {runs} runs of 200 commits from seed {arguments.seed}: nothing lost, nothing half done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
