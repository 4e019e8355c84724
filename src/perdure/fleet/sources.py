"""What there is to do: patterns, directories and lists of sources, looked through."""

from __future__ import annotations

import glob
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from perdure.errors import PerdureError, StorageError, UnsupportedError
from perdure.fleet.found import DUMP_ENDS, MEMORY_FILES, MODULE_FILE, OWN_MEMORIES, SNAPSHOT_FILE, Found
from perdure.ic.principal import Principal
from perdure.measure.canbench_files import parse_config
from perdure.storage import StateDirectory
from perdure.storage.names import Names
from perdure.urls import is_url, parse_url

__all__ = ["Found", "Kind", "expand", "mark_of_files"]

Kind = Literal["canisters", "memories", "modules", "benches"]
_LOOKED_FOR: Final[dict[Kind, str]] = {
    "canisters": "snapshots and state directories",
    "memories": "snapshots, state directories and dumps (*.bin, *.bin.gz)",
    "modules": "modules (*.wasm, *.wasm.gz)",
    "benches": "directories with a canbench.yml",
}

_MAX_LIST_BYTES: Final = 256 << 20
_MAX_MODULE_BYTES: Final = 128 << 20
"""More is no module, whatever its name says, and perhaps a hole of terabytes."""
_MAX_CONFIG_BYTES: Final = 1 << 20
_MAX_SOURCES: Final = 20_000
_SHOWN_MARKS: Final = 4
_BUILT: Final = frozenset({"target", "node_modules", "__pycache__"})
_STATE: Final = "checkpoint"
_ASKED_AT_ONCE: Final = 16


def expand(given: Iterable[str], kind: Kind) -> list[Found]:
    """The sources that somebody means, each once, in order.

    Args:
        given: of each a source itself; a pattern with ``*``, ``?``, ``[...]`` or ``**``; a directory, which is looked
            through; a state directory, for all its canisters; a URL, which is looked through where it ends with a
            slash or has ``*`` or ``[...]``; ``@FILE``, which has one of these on each line (``@-``: standard input).
        kind: what is looked for in directories: ``canisters`` (snapshots and those of state directories), ``memories``
            (those, and dumps named ``*.bin``, ``*.bin.gz``), ``modules`` (``*.wasm``, ``*.wasm.gz``), ``benches``
            (directories with a ``canbench.yml``).

    A source that is not there is one all the same, so that whoever needs it fails: a campaign goes on with the others.

    Raises:
        StorageError: a list that cannot be read, a pattern or directory in which there is nothing.
        UnsupportedError: a URL that is none, or of what is not taken from object storage.
    """
    texts = list(dict.fromkeys(_listed(given)))
    silent: set[str] = set()
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        remote = {text: pool.submit(list, _remote(text, kind, silent)) for text in texts if is_url(text)}
        try:
            each = (remote[text].result() if text in remote else _expanded(text, kind) for text in texts)
            return list({one.source: one for some in each for one in some}.values())
        finally:
            pool.shutdown(cancel_futures=True)


def mark_of_files(words: Iterable[str]) -> str:
    """Changes with what is in the files among the words of a command: a module, a schema."""
    return " ".join(_hash(word) or _mark([word]) for word in words if _is(Path.is_file, word))


def _listed(given: Iterable[str]) -> Iterator[str]:
    for text in given:
        if not text.startswith("@"):
            yield text
            continue
        for line in _read_list(text[1:]).splitlines():
            if line.strip() and not line.startswith("#"):
                yield line.strip()


def _read_list(name: str) -> str:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(_MAX_LIST_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(_MAX_LIST_BYTES + 1)
        if len(data) > _MAX_LIST_BYTES:
            raise StorageError(f"a list of sources has at most {_MAX_LIST_BYTES} bytes", name)
        return data.decode()
    except OSError as error:
        raise StorageError((error.strerror or str(error)).lower(), name) from error
    except UnicodeDecodeError as error:
        raise StorageError(f"a list of sources is text in UTF-8: {error}", name) from error


def _expanded(text: str, kind: Kind) -> Iterator[Found]:
    is_place = _is(Path.is_dir, text)
    if not (glob.has_magic(text) or is_place) or _is(Path.is_file, text):
        yield _one(text, kind)
        return
    places = [text] if is_place else sorted(glob.glob(text, recursive=True))  # noqa: PTH207 -- Path's begins at a place
    has_any = False
    for place in places:
        for one in _under(place, kind) if Path(place).is_dir() else (_one(place, kind),):
            has_any = True
            yield one
    if not has_any:
        raise StorageError(f"no {kind} found: looked for {_LOOKED_FOR[kind]}", text)


def _remote(url: str, kind: Kind, silent: set[str]) -> Iterator[Found]:
    """The sources of a URL; one that is written wrongly, or with credentials in it, is refused, and not repeated.

    Args:
        url: the URL.
        kind: what is looked for.
        silent: buckets that do not answer, which takes its time: they are not asked for each of many names.
    """
    if kind not in ("canisters", "memories"):
        raise UnsupportedError(f"{kind} are not taken from object storage: give files")
    place = parse_url(url)
    from perdure.fleet.buckets import listed, named  # an extra

    if not url.endswith("/") and "*" not in url and "[" not in url:
        bucket = str(place._replace(key=""))
        found_there = Found(url)
        if bucket not in silent:
            try:
                found_there = named(url)
            except PerdureError as error:  # whoever opens it will say why
                if error.error_code != "object-denied":  # which comes at once
                    silent.add(bucket)
        yield found_there
        return
    found = list(listed(url, with_dumps=kind == "memories"))
    if not found:
        raise StorageError(f"no {kind} found: looked for snapshots{' and dumps' * (kind == 'memories')}", url)
    yield from found


def _under(place: str, kind: Kind) -> Iterator[Found]:
    """The sources in a directory, or the one that it is."""
    for directory, names, files in os.walk(place.rstrip("/") or "/"):
        names.sort()
        here = _IN[kind](directory, set(files))
        yield from here
        if {SNAPSHOT_FILE, _STATE} & set(files):  # what is in it is its own
            names.clear()


def _canisters(directory: str, files: set[str]) -> list[Found]:
    if _STATE in files:
        return list(_of_state(directory))
    return [_snapshot(directory)] if SNAPSHOT_FILE in files else []


def _memories(directory: str, files: set[str]) -> list[Found]:
    if {_STATE, SNAPSHOT_FILE} & files:
        return _canisters(directory, files)
    return [_file(f"{directory}/{one}") for one in sorted(files) if one.endswith(DUMP_ENDS)]


def _modules(directory: str, files: set[str]) -> list[Found]:
    return [_module(f"{directory}/{one}") for one in sorted(files) if one.endswith((".wasm", ".wasm.gz"))]


def _benches(directory: str, files: set[str]) -> list[Found]:
    return [_bench(directory)] if "canbench.yml" in files else []


def _bench(directory: str) -> Found:
    """Benchmarks: what is measured, and of what is built first all that it may be built of."""
    path = f"{directory}/canbench.yml"
    paths, module = [path], ""
    with suppress(PerdureError, OSError, UnicodeDecodeError):  # whoever runs it will say what is wrong
        with Path(path).open("rb") as file:
            config = parse_config(file.read(_MAX_CONFIG_BYTES).decode())
        module = os.path.join(directory, config.wasm_path)  # noqa: PTH118 -- names may be no text
        named = [config.stable_memory, config.env_vars]
        paths += [os.path.join(directory, one) for one in named if one is not None]  # noqa: PTH118
        paths += _sources(directory) if config.build_cmd else [module]
    mark = _mark(paths)
    if len(paths) > _SHOWN_MARKS:
        mark = hashlib.sha256("\n".join([*paths, mark]).encode(errors="surrogateescape")).hexdigest()
    return Found(directory, _hash(module) if module else "", mark=mark)


def _sources(directory: str) -> list[str]:
    """What a build may read: files of a directory, but for what builds and version control put there."""
    found: list[str] = []
    for place, names, files in os.walk(directory):
        names[:] = sorted(one for one in names if not one.startswith(".") and one not in _BUILT)
        found += [f"{place}/{one}" for one in sorted(files) if not one.startswith((".", "canbench_results"))]
        if len(found) > _MAX_SOURCES:
            break
    return [one for one in found[:_MAX_SOURCES] if not one.endswith((".wasm", ".wasm.gz"))]


_IN: Final[dict[Kind, Callable[[str, set[str]], list[Found]]]] = {
    "canisters": _canisters,
    "memories": _memories,
    "modules": _modules,
    "benches": _benches,
}


def _one(text: str, kind: Kind) -> Found:
    """A source that somebody names, there or not."""
    if _is(Path.exists, text):
        return _module(text) if kind == "modules" else _file(text)
    directory, colon, name = text.rpartition(":")
    if colon and _is(Path.is_file, f"{directory}/{_STATE}"):
        with suppress(PerdureError):
            return next((one for one in _of_state(directory, name) if one.source == text), Found(text))
    return Found(text)


def _snapshot(directory: str) -> Found:
    paths = [f"{directory}/{one}" for one in (MODULE_FILE, *MEMORY_FILES)]
    own = sorted(glob.glob(f"{glob.escape(directory)}/{OWN_MEMORIES}/*"))  # noqa: PTH207 -- names may be no text
    paths += own
    return Found(directory, _hash(paths[0]), sum(map(_size, paths)), _mark([*paths, f"{directory}/{SNAPSHOT_FILE}"]))


def _of_state(directory: str, name: str = "") -> Iterator[Found]:
    """The canisters of a state directory, under their names; one that cannot be read is one source, which fails."""
    try:
        state = StateDirectory.open(directory, read_only=True)
    except (PerdureError, OSError):
        yield Found(f"{directory}:{name}")
        return
    try:
        names = Names(Path(directory))
        for raw_id, record in sorted(state.canisters.items()):
            canister_id = Principal(raw_id)
            titles = [names.name_of(canister_id) or str(canister_id)]
            if name:
                titles = [one for one in (str(canister_id), *titles) if one == name][:1]
            size_bytes = sum(one.wasm_pages for one in record.memories.values()) << 16
            for title in titles:
                if record.module_hash or name:
                    yield Found(f"{directory}:{title}", record.module_hash.hex(), size_bytes, str(state.version))
    finally:
        state.close()


def _is(what: Callable[[Path], bool], text: str) -> bool:
    """What a file system says of a name; nothing where it can be none, which whoever opens it will say."""
    try:
        return what(Path(text))
    except (OSError, ValueError):
        return False


def _module(path: str) -> Found:
    return Found(path, _hash(path), _size(path), _mark([path]))


def _file(path: str) -> Found:
    return Found(path, "", _size(path), _mark([path]))


def _hash(path: str) -> str:
    """SHA-256 of a file; nothing where it cannot be read, which whoever needs it will say."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if os.fstat(descriptor).st_size > _MAX_MODULE_BYTES:
                return ""
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _size(path: str) -> int:
    """Bytes of a file on the disk: holes do not count, nobody reads them."""
    try:
        return Path(path).stat().st_blocks * 512
    except OSError:
        return 0


def _mark(paths: Iterable[str]) -> str:
    marks = []
    for path in paths:
        with suppress(OSError):
            status = Path(path).stat()
            marks.append(f"{status.st_size}-{status.st_mtime_ns}")  # not ctime: a campaign may go on in a copy
    return " ".join(marks)
