"""States of the past: today's, with what later commits replaced put back.

From today on it goes backwards, and of every page it is known where its oldest replaced content lies; images are made
only of what was asked for. A commit that copied a memory (one that was handed over, a snapshot) names where from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TypeVar, final

from perdure.canister import GlobalValue, PageDelta
from perdure.errors import InternalError, StorageError
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES
from perdure.storage.answers import sum_of
from perdure.storage.changes import NO_CODE, Answer, CommitFacts, Entry, MemoryChange, Origin, PythonCode
from perdure.storage.committed import Committed, hash_of_state
from perdure.storage.disk import DiskFile
from perdure.storage.durable import DurableMemory
from perdure.storage.history import Version
from perdure.storage.image import TemporaryImage
from perdure.storage.kept import canister_hash, facts_hash
from perdure.storage.merkle import PageTree, hash_pages, memory_hash

__all__ = ["PastCanister", "PastState", "open_around", "open_past"]

_RUN_PAGES = 1024
_T = TypeVar("_T")


@final
@dataclass(slots=True)
class PastCanister:
    """A canister as it was; see `perdure.storage.CanisterState`."""

    slot: int
    module_hash: bytes
    global_values: tuple[GlobalValue, ...] | None
    record: bytes
    code: PythonCode = NO_CODE
    images: dict[str, TemporaryImage] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Wasm pages of its memories, by name."""
        return {name: image.wasm_pages for name, image in self.images.items()}


@final
@dataclass(slots=True)
class PastState:
    """A state as it was. Its images are temporary: they may be mapped, committed to and forked; nothing is kept."""

    version: int
    state_hash: bytes
    subnet_record: bytes
    canisters: dict[bytes, PastCanister]
    answers: dict[bytes, Answer]
    next_slot: int

    def close(self) -> None:
        """Let go of the images."""
        for canister in self.canisters.values():
            for image in canister.images.values():
                image.close()


def open_past(committed: Committed, versions: Iterator[Version], version: int) -> PastState:
    """The state after `version`, from today's and what later commits replaced."""
    if not isinstance(version, int):
        raise TypeError(f"a version is a number, found {version!r:.80}")
    if not 0 <= version <= committed.version:
        raise StorageError(
            f"there is no version {version}: they go from 0 to {committed.version}", committed.files.directory
        )
    past = _Past(committed)
    kept_hash = committed.state_hash()
    reached = committed.version
    for later in versions:
        kept_hash = later.state_hash if later.version == version else b""
        if later.version <= version:
            break
        if not later.undoable:
            break
        past.undo(later)
        reached = later.version - 1
    if reached != version:
        raise StorageError(f"version {version} is not kept, the oldest is {reached}", committed.files.directory).coded(
            "version-not-kept"
        )
    found = past.state(version)
    found.state_hash = past.state_hash()
    if kept_hash not in (found.state_hash, b""):
        found.close()
        raise StorageError(
            f"version {version} does not give the state hash that was kept: the history is damaged, and so is what it "
            "says of the versions before",
            committed.files.directory,
        )
    return found


def open_around(
    committed: Committed,
    versions: Callable[[Collection[bytes]], Iterator[Version]],
    middle: Version,
    look: Callable[[], None],
) -> tuple[PastState, PastState]:
    """The states before and after a commit, of the canisters that it changed alone, without hashes of the whole.

    Args:
        committed: the state of today.
        versions: gives the kept commits that name one of these canisters, newest first.
        middle: the commit.
        look: called at each step back, of which there may be many; what it raises ends that.

    Raises:
        StorageError: they are not kept.
    """
    facts = middle.facts
    only = {*facts.canisters, *(origin.canister for origin in _origins(facts.before))}
    while True:
        past = _Past(committed, only)
        for later in versions(only):
            if later.version <= middle.version:
                break
            if not later.undoable:
                raise StorageError(
                    f"version {middle.version} is not kept, the oldest is {later.version}", committed.files.directory
                ).coded("version-not-kept")
            look()
            past.undo(later)
        if not past.lacking:
            break
        only |= past.lacking  # memories were copied from there
    after = past.state(middle.version)
    try:
        past.undo(middle)
        return past.state(middle.version - 1), after
    except BaseException:
        after.close()
        raise


def _origins(facts: CommitFacts | None) -> Iterator[Origin]:
    """What memories were copied from."""
    return (origin for entry in (facts.canisters.values() if facts else ()) for origin in entry.origins.values())


@final
class _PastMemory:
    """A memory on the way back.

    Args:
        today: the committed memory that it is; `None`: nothing of one remains.

    Attributes:
        wasm_pages: its size.
        pages: files and offsets of what was put back, by page.
    """

    def __init__(self, today: DurableMemory | None) -> None:
        self.today = today
        self.wasm_pages = 0 if today is None else today.wasm_pages
        self.pages: dict[int, tuple[str, int]] = {}

    def copy(self) -> _PastMemory:
        """The same, which goes its own way."""
        made = _PastMemory(self.today)
        made.wasm_pages, made.pages = self.wasm_pages, self.pages.copy()
        return made

    def put_back(self, version: Version, before: MemoryChange) -> None:
        """Put back what a commit replaced."""
        self.wasm_pages = before.wasm_pages
        for first, count, index in before.runs:
            offset = version.record.pages_offset + index * PAGE_BYTES
            for page in range(count):
                self.pages[first + page] = (version.path, offset + page * PAGE_BYTES)


class _Past:
    """Walks backwards; of every page keeps where its oldest replaced content lies.

    Args:
        committed: today.
        only: of these canisters alone, and no answers; `None`: of all of it.

    Attributes:
        lacking: canisters of whose memories there were copies that are not among these.
    """

    def __init__(self, committed: Committed, only: Collection[bytes] | None = None) -> None:
        self._committed = committed
        self._only = only
        self.lacking: set[bytes] = set()
        self.subnet_record = committed.subnet_record
        self.next_slot = committed.next_slot
        self._canisters = {
            canister_id: PastCanister(state.slot, state.module_hash, state.global_values, state.record, state.code)
            for canister_id, state in self._among(committed.canisters)
        }
        self.answers = dict(committed.answers.kept) if only is None else {}
        self._answers_sum = int.from_bytes(committed.answers.hash(), "little")
        self._hashes: dict[bytes, dict[str, bytes]] = {}
        self._built: dict[bytes, PastCanister] = {}
        self._memories = {
            Origin(canister_id, name): _PastMemory(memory)
            for canister_id, state in self._among(committed.canisters)
            for name, memory in state.memories.items()
        }

    def _among(self, canisters: Mapping[bytes, _T]) -> list[tuple[bytes, _T]]:
        if self._only is None:
            return [*canisters.items()]
        return [(one, canisters[one]) for one in self._only if one in canisters]

    def undo(self, version: Version) -> None:
        """Put back what one commit replaced."""
        before = version.facts.before
        if before is None:
            raise InternalError("a record without what it replaced")
        if before.subnet is not None:
            self.subnet_record = before.subnet
        if self._only is None:
            self._undo_answers(before)
        entries = self._among(before.canisters)
        # Copies are of what was there after the commit.
        origins = {origin for _, entry in entries for origin in entry.origins.values()}
        self.lacking |= {one.canister for one in origins if self._only is not None and one.canister not in self._only}
        if self.lacking:
            return  # all of it is to be done again, with these too
        copied = {origin: self._memories.get(origin) for origin in origins}
        copies = {origin: memory.copy() for origin, memory in copied.items() if memory is not None}
        for canister_id, entry in entries:
            self._undo_canister(version, canister_id, entry, copies)

    def _undo_answers(self, before: CommitFacts) -> None:
        gone = [self.answers.pop(one) for one in before.forgotten if one in self.answers]
        gone += [self.answers[one.request_id] for one in before.answers if one.request_id in self.answers]
        self.answers.update((answer.request_id, answer) for answer in before.answers)
        changes = [*((-1, answer) for answer in gone), *((1, answer) for answer in before.answers)]
        self._answers_sum = sum_of(changes, self._answers_sum)

    def _undo_canister(
        self, version: Version, canister_id: bytes, entry: Entry, copies: Mapping[Origin, _PastMemory]
    ) -> None:
        if entry.new:
            self._canisters.pop(canister_id, None)
            self.next_slot = min(self.next_slot, entry.slot)
            for place in [place for place in self._memories if place.canister == canister_id]:
                del self._memories[place]
            return
        self._canisters[canister_id] = PastCanister(
            entry.slot,
            entry.module or b"",
            None if entry.not_run else entry.global_values,
            entry.record or b"",
            entry.code or NO_CODE,
        )
        for name, change in entry.memories.items():
            place = Origin(canister_id, name)
            if change is None:
                self._memories.pop(place, None)
                continue
            origin = entry.origins.get(name)
            if origin is not None:
                if origin not in copies:
                    raise StorageError(
                        f"version {version.version} copies {origin.name}, which there is not", version.path
                    )
                memory = self._memories[place] = copies[origin].copy()
            elif change.fresh or place not in self._memories:
                memory = self._memories[place] = _PastMemory(None)
            else:
                memory = self._memories[place]
            memory.put_back(version, change)

    def state(self, version: int) -> PastState:
        """Where it is, the canisters with their images."""
        self._hashes = {canister_id: {} for canister_id in self._canisters}
        self._built = {canister_id: replace(one, images={}) for canister_id, one in self._canisters.items()}
        found = PastState(version, b"", self.subnet_record, self._built, self.answers, self.next_slot)
        try:
            for (canister_id, name), memory in sorted(self._memories.items(), key=itemgetter(0)):
                image, self._hashes[canister_id][name] = self._image(memory)
                self._built[canister_id].images[name] = image
        except BaseException:
            found.close()
            raise
        return found

    def state_hash(self) -> bytes:
        """Of what was built: of today's hashes, but for what was put back."""
        tree = PageTree(self.next_slot)
        for canister_id, canister in self._built.items():
            facts = facts_hash(canister_id, canister)
            tree.set_leaves(canister.slot, canister_hash(facts, self._hashes[canister_id]))
        return hash_of_state(tree.root(), self.subnet_record, self._answers_sum.to_bytes(32, "little"))

    def _image(self, memory: _PastMemory) -> tuple[TemporaryImage, bytes]:
        """The memory, and its hash."""
        today = memory.today
        if today is None:
            image, before = TemporaryImage(self._committed.files.store), PageTree()
        else:
            today.check_once()
            image = today.image().fork()
            today.root()
            before = today.tree()
        size = memory.wasm_pages
        if size < image.wasm_pages:
            image.cut(size)
        tree = before.fork(size * WASM_PAGE_BYTES // PAGE_BYTES)
        self._put_back(image, tree, size, memory.pages)
        return image, memory_hash(size, tree.root())

    def _put_back(
        self, image: TemporaryImage, tree: PageTree, wasm_pages: int, pages: dict[int, tuple[str, int]]
    ) -> None:
        limit = wasm_pages * WASM_PAGE_BYTES // PAGE_BYTES
        files: dict[str, DiskFile] = {}
        runs: list[tuple[int, bytes]] = []
        try:
            for page, (path, offset) in sorted(pages.items()):
                if page >= limit:
                    continue
                if path not in files:
                    files[path] = self._committed.files.disk.open(path)
                data = files[path].pread(PAGE_BYTES, offset)
                tree.set_leaves(page, hash_pages(data))
                runs.append((page * PAGE_BYTES, data))
                if len(runs) == _RUN_PAGES:
                    image.commit(PageDelta(wasm_pages, runs))
                    runs = []
            image.commit(PageDelta(wasm_pages, runs))
        finally:
            for file in files.values():
                file.close()
