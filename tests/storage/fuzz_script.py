"""State directories and snapshots that lie, with every checksum right: an error of ours or the right answer, no more.

A bounded run belongs to the tests; docs/reliability.md records the long form::

    python tests/storage/fuzz_script.py --count 100000 --seed 1
    python tests/storage/fuzz_script.py --seed 1 --only NUMBER    one of them again

First each number is put to its minimum and its maximum and each length is made one more and one less, one after the
other (`edges`); then fields are exchanged, dropped, doubled and replaced at random. `second_decoder` repairs lengths,
checksums and hashes, and says what an opened mutant must be. What is checked:

- opening gives a directory or a `StorageError`, soon and in bounded memory;
- what opens passes `verify`, or `verify` says what is wrong with its files;
- what passes is what the second decoder says: version, hash, canisters, globals, records, answers and pages;
- each part is encoded as the same bytes;
- the rules take it up or refuse it with a `StorageError`; what they take up encodes its records as the same bytes.

Every so often what the rules took up is laid out on a disk, and runs.
"""

from __future__ import annotations

import argparse
import copy
import json
import pickle
import random
import resource
import signal
import sys
import tarfile
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, final

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import second_decoder as second  # noqa: E402
from simulated_disk import Inode, SimulatedDisk, SimulatedFile  # noqa: E402

from perdure import Subnet  # noqa: E402
from perdure.canister import PageDelta  # noqa: E402
from perdure.embedder import shared_compiler  # noqa: E402
from perdure.errors import PerdureError, StorageError  # noqa: E402
from perdure.execution.config import SubnetConfig  # noqa: E402
from perdure.execution.records import encode_record, encode_response, encode_snapshot, encode_subnet  # noqa: E402
from perdure.instrument import Options  # noqa: E402
from perdure.python import blank  # noqa: E402
from perdure.python.variables import Schema  # noqa: E402
from perdure.storage import (  # noqa: E402
    CanisterChange,
    Message,
    PythonCode,
    Snapshot,
    StateDirectory,
    TemporaryStore,
)
from perdure.storage.checkpoint import decode_checkpoint, encode_checkpoint  # noqa: E402
from perdure.subnet.gate import Gate  # noqa: E402
from perdure.subnet.opening import open_state  # noqa: E402

GOLDEN = HERE / "golden"
NAMES = ("v1-busy", "v1-plain", "v1-kept")
SECONDS = 10
"""Of this process's processor time, which others on the machine do not take."""
STUCK_SECONDS = 60 * SECONDS
"""By the clock: who waits for what never comes takes no processor time."""
GROWTH_BYTES = 300 << 20
RUN_EVERY = 40

NUMBERS = (-1, 0, 1, 2, 23, 24, 255, 1 << 16, 1 << 24, (1 << 28) + 1, 1 << 31, 1 << 32, 1 << 40, 1 << 48, (1 << 62) - 1)
NUMBERS = (*NUMBERS, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 63), 1 << 128, 1 << 256, 1 << 300)
ODD = (None, True, False, 1.5, "", "heap", "../../x", "x" * 65, b"", b"\4", bytes(10), bytes(29), bytes(30), bytes(32))
ODD = (*ODD, b"snapshot ", [], [[]], [0], [0, []], {}, {1: 0}, {0: 0}, {"a": 1}, [[b"", 0], [b"", 0]])

_compile: Any = None


class TooLongError(BaseException):
    """It hangs."""


# -------------------------------------------------------------------------------------------------------- mutations


@cache
def golden(name: str) -> dict[str, bytes]:
    """The files of a golden directory; the log without the zeros that it grows ahead with."""
    files = {}
    with tarfile.open(GOLDEN / f"{name}.tar.xz") as archive:
        for member in archive:
            source = archive.extractfile(member)
            if source is not None:
                files[member.name.removeprefix("./")] = source.read()
    files["log"] = files["log"].rstrip(b"\0") + bytes(2 * second.PAGE)
    return files


@cache
def parsed(name: str) -> second.Directory:
    return second.parse(golden(name))


Path_ = tuple[Any, ...]
"""How to get somewhere in a directory: attributes, places in lists, keys."""


def _inside(value: Any, path: Path_) -> Iterator[Path_]:
    if isinstance(value, second.Embedded):
        yield (*path, "tree")
        yield from _inside(value.tree, (*path, "tree"))
    elif isinstance(value, list | tuple | dict):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield (*path, key)
            yield from _inside(value[key], (*path, key))


@cache
def paths(name: str) -> list[Path_]:
    """To everything in a golden directory that can be something else."""
    directory = parsed(name)
    found: list[Path_] = [("zero",), *_inside(directory.body, ("body",)), *_inside(directory.answers, ("answers",))]
    logs: list[tuple[Path_, list[second.Record]]] = [(("log",), directory.log)]
    logs += [(("segments", key, 1), records) for key, (_, records) in directory.segments.items()]
    for log, records in logs:
        for index, record in enumerate(records):
            found += [
                (*log, index, field)
                for field in ("kind", "epoch", "version", "durable", "zero", "pages", "has_hash", "meta")
            ]
            found += _inside(record.meta, (*log, index, "meta"))
    for key, (start, _) in directory.segments.items():
        found += _inside(start, ("segments", key, 0))
    return found


@cache
def alike(name: str) -> dict[type, list[Path_]]:
    """Paths by the type of what they lead to."""
    found: dict[type, list[Path_]] = {}
    for path in paths(name):
        found.setdefault(type(get((parsed(name), path))), []).append(path)
    return found


@cache
def _pickled(name: str, *, is_past: bool) -> bytes:
    directory = parsed(name)
    return pickle.dumps(replace(directory, files={}, segments=directory.segments if is_past else {}))


def fresh(name: str, *, is_past: bool) -> second.Directory:
    """A golden directory to be changed: its past, or the rest of it."""
    past = {} if is_past else {name: data for name, data in golden(name).items() if name.startswith("history/")}
    found: second.Directory = pickle.loads(_pickled(name, is_past=is_past))
    return replace(found, files={**parsed(name).files, **past})


Place = tuple[Any, Path_]
"""An object, and a path from there."""


def _step(holder: Any, key: Any) -> Any:
    return holder[key] if isinstance(holder, list | tuple | dict) else getattr(holder, key)


def get(place: Place) -> Any:
    holder, path = place
    for key in path:
        holder = _step(holder, key)
    return holder


def put(place: Place, value: Any) -> None:
    holder, path = place
    for key in path[:-1]:
        holder = _step(holder, key)
    if isinstance(holder, list | dict):
        holder[path[-1]] = value
    else:
        setattr(holder, path[-1], value)


def edges(value: Any) -> list[Any]:
    """A value at its minimum and maximum, as far as any format could have it, and one longer and one shorter."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [0, value - 1, value + 1, (1 << 62) - 1, (1 << 64) - 1, (1 << 256) - 1]
    if isinstance(value, bytes):
        return [b"", value[:-1], value + b"\0", bytes(len(value)), b"\xff" * len(value)]
    if isinstance(value, str):
        return ["", value[:-1], value + "x", "x" * 100_000]
    if isinstance(value, list):
        return [[], value[:-1], [*value, *value[-1:]], value[::-1], [*value, None]]
    if isinstance(value, dict):
        return [
            {},
            {**value, 99: 0},
            dict(reversed(value.items())),
            *({k: v for k, v in value.items() if k != key} for key in value),
        ]
    if isinstance(value, second.Embedded):
        return [b"", value.encoded() + b"\0", value.encoded()[:-1]]
    return [0, b"", [], False]


def mutate(name: str, rng: random.Random) -> tuple[second.Directory, str]:
    """Change something, or two or three things; what."""
    done = []
    path = rng.choice(paths(name))
    directory = fresh(name, is_past=path[0] == "segments")
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = path if not done else rng.choice(paths(name))
        try:
            value = get((directory, path))
        except (KeyError, IndexError, AttributeError, TypeError):
            continue  # it went with what was changed before
        how = rng.randrange(8)
        if how == 0:
            new = rng.choice(NUMBERS)
        elif how == 1:
            new = copy.deepcopy(rng.choice(ODD))
        elif how in {2, 3}:
            new = rng.choice(edges(value) or [0])
        elif how == 4 and type(value) is int:
            new = value ^ 1 << rng.randrange(64)
        elif how == 5 and isinstance(value, bytes) and value:
            changed = bytearray(value)
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            new = bytes(changed)
        else:
            others = alike(name).get(type(value), [path])
            new = copy.deepcopy(get((parsed(name), rng.choice(others))))
        done.append(f"{_named(path)}: {_short(value)} -> {_short(new)}")
        put((directory, path), new)
    return directory, "; ".join(done)


def _named(path: Path_) -> str:
    return ".".join(key.hex() if isinstance(key, bytes) else str(key) for key in path)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}..."


def damage(files: dict[str, bytes], rng: random.Random) -> str:
    """Change bytes of a file whose checksum is not repaired."""
    name = rng.choice(sorted(files))
    data = files[name]
    how = rng.randrange(4)
    if how == 0:
        del files[name]
    elif how == 1:
        files[name] = data[: rng.randrange(len(data) + 1)]
    elif how == 2:
        files[name] = data + bytes(rng.choice((1, 4096, 65536)))
    elif data:
        changed = bytearray(data)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        files[name] = bytes(changed)
    return f"{name}: damage {how}"


# ----------------------------------------------------------------------------------------------------------- checks


class WrongError(AssertionError):
    """What must not be."""


def _require(holds: bool, what: object) -> None:
    if not holds:
        raise WrongError(what)


class SparseFile(SimulatedFile):
    """One whose pages of zeros are holes."""

    def data_ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        data = self._inode.data
        if isinstance(data, bytearray):
            yield from super().data_ranges(start, end)
            return
        for page in second.pages_of(data):
            low, high = max(start, page * second.PAGE), min(end, (page + 1) * second.PAGE)
            if low < high:
                yield low, high


class SparseDisk(SimulatedDisk):
    """A simulated disk of files with holes."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> SimulatedFile:
        file = super().open(path, write=write, create=create)
        return SparseFile(self, file._inode, path, writable=write)


def disk_of(files: dict[str, bytes]) -> SimulatedDisk:
    names: dict[str, Inode | None] = {"/": None, "/state": None}
    for directory in ("images", "blobs", "answers", "history"):
        names[f"/state/{directory}"] = None
    for name, data in files.items():
        names[f"/state/{name}"] = Inode(data)
    return SparseDisk(names)


def check(files: dict[str, bytes], tree: second.Directory | None, store: TemporaryStore, *, write: bool) -> str:
    """Open it and compare; what became of it."""
    disk = disk_of(files)
    try:
        opened = StateDirectory.open("/state", disk=disk, store=store, read_only=not write)
    except StorageError as error:
        return f"refused: {_kind(error)}"
    try:
        return _judge(opened, files, tree)
    finally:
        opened.abandon()


def _judge(state: StateDirectory, files: dict[str, bytes], tree: second.Directory | None) -> str:
    if tree is not None and tree.segments:
        return _judge_past(state)
    try:
        problems = state.verify()
        found = _content(state)
        if tree is None:
            state.history()
    except StorageError as error:
        return f"opened, refused later: {_kind(error)}"
    if problems:
        return "opened, verify says what is wrong"
    if tree is not None:
        _agree(found, second.interpret(tree)[-1])
    body = files.get("checkpoint")
    if body is not None:
        _require(encode_checkpoint(decode_checkpoint(body)) == body, "the checkpoint is encoded otherwise")
    return _take_up(state)


def _judge_past(state: StateDirectory) -> str:
    try:
        versions = state.history()
        for canister_id, kept in state.canisters.items():
            if kept.sizes.get("heap"):
                state.blame(canister_id, "heap", 0)
        if versions:
            state.at(versions[-1].version).close()
    except StorageError as error:
        return f"opened, refused later: {_kind(error)}"
    numbers = [version.version for version in versions]
    _require(numbers == list(range(state.version, state.version - len(numbers), -1)), ("versions", numbers))
    return "opened, with a past"


def _kind(error: StorageError) -> str:
    text = error.message
    for mark in ("'", "[", ":", "0x"):
        text = text.partition(mark)[0]
    return " ".join(word for word in text.split() if not any(digit in word for digit in "0123456789"))[:60]


def _content(state: StateDirectory) -> second.State:
    canisters = {}
    for key, kept in state.canisters.items():
        canister = second.Canister(
            kept.slot,
            kept.module_hash,
            None if kept.global_values is None else [list(value) for value in kept.global_values],
            kept.record,
            list(kept.code),
        )
        for name, memory in kept.memories.items():
            image = memory.image()
            pages = {}
            for start, end in image.data_ranges():
                for at in range(start, end, second.PAGE):
                    data = image.read(at, second.PAGE)
                    if data != second.ZEROS:
                        pages[at // second.PAGE] = data
            canister.memories[name] = second.Memory(memory.wasm_pages, None, pages)
        canisters[key] = canister
    answers = {key: list(answer) for key, answer in state.answers.items()}
    return second.State(state.version, state.subnet_record, state.next_slot, canisters, answers, state.state_hash())


def _agree(found: second.State, expected: second.State) -> None:
    _require(found.version == expected.version, ("version", found.version, expected.version))
    _require(found.subnet == expected.subnet, "the subnet's record")
    _require(list(found.answers.items()) == list(expected.answers.items()), "answers")
    _require(found.canisters.keys() == expected.canisters.keys(), "canisters")
    for key, canister in expected.canisters.items():
        other = found.canisters[key]
        for name in ("slot", "module", "globals", "record", "code"):
            _require(getattr(other, name) == getattr(canister, name), (key, name))
        _require(other.memories.keys() == canister.memories.keys(), (key, "names of memories"))
        for name, memory in canister.memories.items():
            same = (other.memories[name].wasm_pages, other.memories[name].pages) == (memory.wasm_pages, memory.pages)
            _require(same, (key, name))
    _require(found.kept_hash == expected.compute_hash(), "state hash")


def _compile_code(wasm: bytes, *, known: bool = False, extensions: tuple[str, ...] = ()) -> Any:
    return shared_compiler().compile(wasm, Options(extensions=extensions), known=known)


def _take_up(state: StateDirectory) -> str:
    try:
        world = open_state(state, _compile_code, SubnetConfig(), b"", Gate())
    except StorageError as error:
        return f"refused by the rules: {_kind(error)}"
    if not state.subnet_record:
        return "opened, no subnet"
    _require(encode_subnet(world.state) == state.subnet_record, "the subnet's record is encoded otherwise")
    for key, canister in world.state.canisters.items():
        _require(encode_record(canister) == state.canisters[key].record, (key, "the record is encoded otherwise"))
        for snapshot_id, snapshot in canister.snapshots.items():
            kept = state.canisters[b"snapshot " + key + snapshot_id]
            _require(encode_snapshot(snapshot) == kept.record, (key, "a snapshot is encoded otherwise"))
    for request_id, (_, response) in world.state.ingress.answers():
        again = encode_response(response, world.state.ingress.owner(request_id))
        _require(again == state.answers[request_id].response[8:], "an answer is encoded otherwise")
    return "opened"


def run(files: dict[str, bytes]) -> str:
    """On a disk: whatever is asked of a canister gets an answer or an error of ours."""
    with tempfile.TemporaryDirectory(dir=_fast()) as directory:
        for name, data in files.items():
            path = Path(directory, "state", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for name in ("images", "blobs", "answers", "history"):
            Path(directory, "state", name).mkdir(exist_ok=True)
        try:
            with Subnet(Path(directory, "state"), durability="never") as subnet:
                for canister in subnet.canisters:
                    for action in (
                        canister.status,
                        canister.logs,
                        canister.settings,
                        canister.snapshots,
                        lambda canister=canister: canister.query("count"),
                        lambda canister=canister: canister.update("inc"),
                        lambda canister=canister: subnet.management.update("canister_info", b""),
                    ):
                        try:
                            action()
                        except PerdureError:
                            continue
                subnet.run_until_idle()
                past = subnet._durable.directory.history()
                if past:
                    with suppress(StorageError):
                        subnet.at(past[-1].version)
            with Subnet(Path(directory, "state")) as subnet:
                _require(subnet._durable.directory.verify() == [], "verify after it ran")
        except StorageError as error:
            return f"ran: {_kind(error)}"
    return "ran"


def _fast() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


# -------------------------------------------------------------------------------------------------------- snapshots


def snapshot_files(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


SNAPSHOT_ODD = (*NUMBERS, *(one for one in ODD if not isinstance(one, bytes)), 1e308, -0.0, float("nan"), float("inf"))
SNAPSHOT_ODD = (
    *(one for one in SNAPSHOT_ODD if one != {1: 0} and one != {0: 0} and one != [[b"", 0], [b"", 0]]),
    {"i32": 1 << 40},
    {"active": -1},
    {"hash": [0] * 32},
    {"v128": [1 << 32]},
    "10" * 5000,
)


def mutate_snapshot(files: dict[str, bytes], rng: random.Random) -> str:
    if rng.random() < 0.2:
        return damage(files, rng)
    tree = [json.loads(files["metadata.json"])]
    done = []
    for _ in range(rng.choice((1, 1, 2))):
        path = rng.choice(list(_inside(tree, ())))
        value = get((tree, path))
        choices = [one for one in edges(value) if not _has_bytes(one)] or [0]
        new = copy.deepcopy(rng.choice(SNAPSHOT_ODD) if rng.random() < 0.5 else rng.choice(choices))
        done.append(f"{_named(path)}: {_short(value)} -> {_short(new)}")
        put((tree, path), new)
    files["metadata.json"] = json.dumps(tree[0]).encode()
    return "; ".join(done)


def _has_bytes(value: Any) -> bool:
    if isinstance(value, dict):
        return any(not isinstance(key, str) or _has_bytes(one) for key, one in value.items())
    return isinstance(value, bytes) or (isinstance(value, list) and any(map(_has_bytes, value)))


def check_snapshot(files: dict[str, bytes], *, runs: bool) -> str:
    with tempfile.TemporaryDirectory(dir=_fast()) as directory:
        for name, data in files.items():
            path = Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        try:
            snapshot = Snapshot.open(directory)
            again = type(snapshot.metadata).from_json(snapshot.metadata.to_json())
            _require(again == snapshot.metadata, "the metadata are encoded otherwise")
            snapshot.chunks()
            snapshot.close()
        except PerdureError as error:
            return f"snapshot refused: {type(error).__name__}"
        if not runs:
            return "snapshot opened"
        try:
            with Subnet.open(directory) as subnet:
                (canister,) = subnet.canisters
                for action in (canister.status, lambda: canister.query("count"), lambda: canister.update("inc")):
                    try:
                        action()
                    except PerdureError:
                        continue
                subnet.run_until_idle()
        except PerdureError as error:
            return f"snapshot refused by the rules: {type(error).__name__}"
    return "snapshot ran"


# -------------------------------------------------------------------------------------------- canisters in Python

PYTHON_NAMES = ("v1-python", "v1-python-early")


@cache
def keeper() -> type:
    """The class of the golden canisters in Python."""
    sys.path.insert(0, str(GOLDEN))
    try:
        return import_module("keeper").Keeper  # type: ignore[no-any-return]
    finally:
        sys.path.remove(str(GOLDEN))  # other tests want it to be nowhere


def _unpacked(name: str, target: Path) -> None:
    for file, data in golden(name).items():
        path = target / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for directory in ("images", "blobs", "answers", "history"):
        (target / directory).mkdir(exist_ok=True)


def _bent(data: bytes, rng: random.Random) -> bytes:
    """Bytes of some length that somebody else made."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        how = rng.randrange(4)
        if how == 0 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif how == 1:
            changed[at:at] = rng.choice(_PICKLED)
        elif how == 2:
            del changed[at : at + rng.choice((1, 4, 100))]
        else:
            changed[at:at] = changed[: rng.randrange(40)]
    return bytes(changed)


_PICKLED = (
    *(b"r\xff\xff\xff\xff", b"r\xff\xff\xff\x0f", b"\x96\xff\xff\xff\xff\x00\x00\x00\x00", b"\x8b\xff\xff\xff\x7f"),
    *(
        b"K\x01.",
        b"]q\x00h\x00a.",
        b"cos\nsystem\n",
        b"c__builtin__\nbytearray\n",
        b"\x8e\xff\xff\xff\xff\0\0\0\0",
        b"(" * 50,
    ),
    *(
        b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R",
        b"ccollections\ndeque\n)R",
        b"cbuiltins\nset\nK\x01\x85R",
        b"R",
        b"b",
        b"}",
    ),
)
"""Parts of pickles, some of which ask for much memory or call something."""


def _tree(section: bytes) -> Any:
    return second.load(section) if section else {}


def mutate_python(name: str, target: Path, rng: random.Random) -> str:
    """Lay a golden directory out and have its next commit say something else of a canister in Python; what."""
    _unpacked(name, target)
    with StateDirectory.open(target, durability="never", trust_owner=True) as state:
        key, kept = next((key, kept) for key, kept in state.canisters.items() if len(key) < 30 and kept.memories)
        code = state.blob(kept.module_hash)
        sections = dict(blank.read(code).sections)  # type: ignore[union-attr]
        change = CanisterChange()
        if rng.random() < 0.5:
            what = rng.choice(list(sections))
            if what == "perdure:schema":
                tree = [_tree(sections[what])]
                places = list(_inside(tree, ()))
                for _ in range(rng.choice((1, 1, 2))):
                    path = rng.choice(places)
                    with suppress(KeyError, IndexError, TypeError, AttributeError):
                        value = get((tree, path))
                        put((tree, path), copy.deepcopy(rng.choice([*edges(value), *ODD, rng.choice(NUMBERS)])))
                try:
                    sections[what] = second.dump(tree[0])
                except (TypeError, ValueError, OverflowError):
                    sections[what] = b"\xff"
            else:
                sections[what] = _bent(sections[what], rng)
            wasm = blank.empty_module(sections)
            change.module_hash = state.put_blob(wasm)
            change.record = kept.record.replace(kept.module_hash, change.module_hash)
            if kept.code.name:
                found = blank.read(wasm)
                named = kept.code.name if found is None or rng.random() < 0.1 else found.name
                schema = sections.get("perdure:schema", b"")
                change.code = PythonCode(named, change.module_hash, schema) if named else PythonCode()
            what = f"section {what} {_short(sections[what])}"
        else:
            what = rng.choice(["heap", "heap", "stable"])
            image = kept.memories[what].image()
            data = image.read(0, second.PAGE)
            size = int.from_bytes(data[:8], "little")
            if what == "heap" and rng.random() < 0.7:
                body = _bent(data[8 : 8 + size], rng)[: second.PAGE - 8]
                data = len(body).to_bytes(8, "little") + body
            elif what == "heap":
                data = (rng.choice(NUMBERS) % (1 << 64)).to_bytes(8, "little") + data[8:]
            else:
                data = _bent(data, rng)[: second.PAGE]
            change.memories[what] = PageDelta(image.wasm_pages, [(0, data.ljust(second.PAGE, b"\0"))])
            what = f"{what} {_short(data)}"
        state.commit(Message(b"crafted", key), {key: change}, apply=True)
    return f"{name} {what}"


def _ask(canister: Any, method: str, *args: object) -> None:
    """Call a method, if the interface that is there has it."""
    if method in canister.service().methods:
        getattr(canister.actor(), method)(*args)


def check_python(path: Path, *, upgrades: bool) -> str:
    """Open it with its class and do what people do; each is done, or an error of ours."""
    ways: list[dict[str, Any]] = [{"code": [keeper()], "changed_code": "upgrade" if upgrades else "keep"}, {"code": []}]
    outcome = ""
    for options in ways:
        try:
            with Subnet(path, durability="never", trust_owner=True, **options) as subnet:
                for canister in subnet.canisters:
                    for action in (
                        canister.status,
                        canister.snapshots,
                        lambda canister=canister: _ask(canister, "facts"),
                        lambda canister=canister: _ask(canister, "add", "Eve"),
                        lambda canister=canister: canister.stable.read(0, 16),
                        lambda canister=canister: Schema.decode(canister.module.schema).memories(),
                        lambda canister=canister: canister.service(),
                        lambda canister=canister: canister.upgrade(keeper()),
                        lambda canister=canister: _ask(canister, "facts"),
                    ):
                        with suppress(PerdureError):
                            action()
                with suppress(PerdureError):
                    subnet.run_until_idle()
            outcome = outcome or "python ran"
        except StorageError as error:
            outcome = outcome or f"python refused: {_kind(error)}"
        except PerdureError as error:
            outcome = outcome or f"python refused: {type(error).__name__}"
    with StateDirectory.open(path, read_only=True, trust_owner=True) as state:
        _require(state.verify() == [], "verify")
    return outcome


# ------------------------------------------------------------------------------------------------------------- runs


@cache
def all_edges(name: str) -> list[tuple[int, int]]:
    """Place and edge, for each that there is."""
    return [
        (number, index)
        for number, path in enumerate(paths(name))
        for index, _ in enumerate(edges(get((parsed(name), path))))
    ]


def edge_count() -> int:
    return sum(len(all_edges(name)) for name in NAMES)


def mutant(seed: int, number: int) -> tuple[dict[str, bytes], second.Directory | None, str]:
    """The files, what is in them where that is known, and what was done. The first ones are the edges."""
    rng = random.Random(f"{seed} {number}")
    for name in NAMES:
        known = all_edges(name)
        if number < len(known):
            path = paths(name)[known[number][0]]
            directory = fresh(name, is_past=path[0] == "segments")
            value = get((directory, path))
            new = edges(value)[known[number][1]]
            put((directory, path), new)
            return *_built(directory), f"{name} {_named(path)}: {_short(value)} -> {_short(new)}"
        number -= len(known)
    name = rng.choice(NAMES)
    if rng.random() < 0.1:
        files = dict(golden(name))
        return files, None, f"{name} {damage(files, rng)}"
    directory, what = mutate(name, rng)
    return *_built(directory), f"{name} {what}"


def _built(directory: second.Directory) -> tuple[dict[str, bytes], second.Directory | None]:
    """The files; what cannot even be written with right hashes is written with wrong ones, or not at all."""
    try:
        return second.build(directory), directory
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, MemoryError, struct_error):
        return _unrepaired(directory), None


struct_error = second.struct.error


def _unrepaired(directory: second.Directory) -> dict[str, bytes]:
    """With right checksums, while nobody knows the state and its hash."""
    files = dict(directory.files)
    try:
        body = second.dump(directory.body)
        head = second.struct.pack("<8sIIQ", b"PERDURE1", 1, 0, len(body))
        checksum = sha256(head + body).digest()
        files["checkpoint"] = head + checksum + body
        files["log"] = second._build_records(directory.log, checksum, bytes(second.PAGE))
        for name, tree in directory.answers.items():
            files[name] = second.struct.pack("<4sI", b"PDAN", 1) + second.dump(tree)
    except (TypeError, ValueError, AttributeError, OverflowError, struct_error):
        files.setdefault("checkpoint", b"")
        files.setdefault("log", b"")
    return files


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def examine(seed: int, number: int, store: TemporaryStore, *, write: bool = False) -> tuple[str, str]:
    """One mutant; what was done, and what became of it. Raises what must not come."""
    files, tree, what = mutant(seed, number)
    with _limited(what, SECONDS):
        outcome = check(files, tree, store, write=write)
        if outcome == "opened" and number % RUN_EVERY == 0:
            outcome = run(files)
    return what, outcome


def examine_snapshot(seed: int, number: int, original: dict[str, bytes]) -> tuple[str, str]:
    files = dict(original)
    what = mutate_snapshot(files, random.Random(f"{seed} {number}"))
    with _limited(what, SECONDS):
        return what, check_snapshot(files, runs=number % 10 == 0)


def examine_python(seed: int, number: int) -> tuple[str, str]:
    rng = random.Random(f"{seed} {number}")
    with tempfile.TemporaryDirectory(dir=_fast()) as directory:
        what = mutate_python(rng.choice(PYTHON_NAMES), Path(directory, "state"), rng)
        with _limited(what, 6 * SECONDS):  # for twenty things that are done
            return what, check_python(Path(directory, "state"), upgrades=rng.random() < 0.5)


def a_snapshot(directory: Path) -> dict[str, bytes]:
    """One with a chunk, globals and both memories."""
    with Subnet() as subnet:
        module = HERE.parents[1] / "tests" / "canisters" / "modules" / "kv32.wasm"
        canister = subnet.install(module, bytes(8))
        canister.update("stable64_grow", (1).to_bytes(8, "little"))
        canister._manage("upload_chunk", chunk=b"a chunk")
        canister.write_snapshot(directory / "snapshot")
    return snapshot_files(directory / "snapshot")


@contextmanager
def _limited(what: str, seconds: float) -> Iterator[None]:
    """What is done to a mutant, for so long; an error has a note of what the mutant is."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, STUCK_SECONDS)
    try:
        yield
    except BaseException as error:
        error.add_note(what)
        raise
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


TOO_LONG = (signal.SIGPROF, signal.SIGALRM)


def too_long(*_: object) -> None:
    """The handler of both."""
    raise TooLongError


@final
class Tally:
    """What became of mutants."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failures = 0
        self._peak_bytes = _peak_bytes()

    def add(self, name: str, examined: Callable[[], tuple[str, str]]) -> None:
        """Examine one; what must not come is printed and counted."""
        try:
            _, outcome = examined()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            outcome = f"FAILURE {type(error).__name__}"
            where = traceback.format_exception(error)[-2].strip().replace("\n", " | ")
            self.fail(f"{name}: {getattr(error, '__notes__', '')}\n   {where} {error!r:.200}")
        self.outcomes[outcome] += 1
        if self.outcomes.total() % 100 == 0:
            grown = _peak_bytes() - self._peak_bytes
            if grown > GROWTH_BYTES:
                self.fail(f"{grown:,} bytes more at one of the hundred before {name}")
            self._peak_bytes += grown

    def fail(self, text: str) -> None:
        self.failures += 1
        if self.failures <= 40:
            print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--snapshots", type=int, default=10_000)
    parser.add_argument("--python", type=int, default=5_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--only", type=int)
    arguments = parser.parse_args()
    for number in TOO_LONG:
        signal.signal(number, too_long)
    store = TemporaryStore(_fast())
    if arguments.only is not None:
        print(*examine(arguments.seed, arguments.only, store, write=arguments.only % 3 == 0), sep="\n")
        return 0
    tally, started = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(dir=_fast()) as directory:
        original = a_snapshot(Path(directory))
    last = arguments.first + arguments.count
    for number in range(arguments.first, last):
        if time.monotonic() > started + 60 * arguments.minutes:
            last = number
            break
        tally.add(str(number), lambda: examine(arguments.seed, number, store, write=number % 3 == 0))  # noqa: B023
        if number * arguments.snapshots // arguments.count != (number + 1) * arguments.snapshots // arguments.count:
            tally.add(f"snapshot {number}", lambda: examine_snapshot(arguments.seed, number, original))  # noqa: B023
        if number * arguments.python // arguments.count != (number + 1) * arguments.python // arguments.count:
            tally.add(f"python {number}", lambda: examine_python(arguments.seed, number))  # noqa: B023
        if number % 2_500 == 0:
            print(f"{number:,} after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    for outcome, count in tally.outcomes.most_common(60):
        print(f"{count:8,} {outcome}")
    print(
        f"{tally.outcomes.total():,} mutants, {arguments.first:,} to {last:,} with snapshots, {edge_count():,} edges "
        f"and others, {time.monotonic() - started:.0f} s, seed {arguments.seed}: {tally.failures} failures"
    )
    return bool(tally.failures)


if __name__ == "__main__":
    sys.exit(main())
