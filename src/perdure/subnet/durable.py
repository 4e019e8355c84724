"""A subnet whose state outlives the process: every message is one commit to a state directory.

While a message runs, nothing of it is final. When the rules say that it is complete (`keep`), its pages, the records of
the canisters that it changed and the subnet's own become one record of the log, and only then (`apply`) do the images
take the pages. So the state found after a crash is always the one between two messages.

A canister's memories are temporary images until the first such commit (an installation, a loaded snapshot); from then
on they are the directory's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, final

from perdure.canister import (
    MEMORY_KINDS,
    CanisterInstance,
    CanisterModule,
    GlobalValue,
    Image,
    PageDelta,
    WasmState,
)
from perdure.errors import InternalError, PerdureError, StorageError
from perdure.execution.config import SubnetConfig, changed_fields
from perdure.execution.events import Taken
from perdure.execution.ingress import IngressHistory, KeptAnswer
from perdure.execution.inputs import encode_inputs
from perdure.execution.journal import Journal
from perdure.execution.records import (
    decode_record,
    encode_record_again,
    encode_response,
    encode_snapshot,
    encode_subnet,
)
from perdure.execution.schema import CANISTER, FORMAT, SNAPSHOT, SUBNET
from perdure.execution.state import CanisterState, Snapshot, SnapshotContent, SubnetState
from perdure.execution.world import World
from perdure.record import NOT_WRITTEN, Written
from perdure.storage import (
    NO_CODE,
    Answer,
    CanisterChange,
    Message,
    Origin,
    PythonCode,
    StateDirectory,
    TemporaryStore,
)
from perdure.subnet.gate import Gate
from perdure.subnet.handed import HANDED, copied, given, handed_change, whole
from perdure.subnet.host import CompileCode, MemoryHost, resident
from perdure.subnet.interfaces import Interfaces
from perdure.subnet.memories import StoredContent
from perdure.subnet.records import SNAPSHOTS, RecordReader
from perdure.subnet.residency import OpenMemories, ResidentInstance, ResidentModule, Residents

if TYPE_CHECKING:
    from perdure.storage.archiving import Archiver

__all__ = ["DurableHost", "blobs_of", "canister_ids", "undecodable"]

_MOST_WRITTEN = 1024
"""Of so many canisters it is known how their records were encoded, 2 KiB each."""


@final
@dataclass(slots=True)
class _Draft:
    """One commit on its way: what changes, and what has to happen to instances and images once it is in the log."""

    journal: Journal
    version: int
    uploading: bool
    changes: dict[bytes, CanisterChange] = field(default_factory=dict)
    moved: dict[bytes, ResidentInstance] = field(default_factory=dict)
    unmapped: list[bytes] = field(default_factory=list)
    added: dict[bytes, CanisterChange] = field(default_factory=dict)
    """Memories that a canister did not have before, or that come in the place of empty ones."""
    handed: frozenset[bytes] = frozenset()
    """Keys of what is on its way."""
    contents: dict[bytes, SnapshotContent] = field(default_factory=dict)
    """Snapshots and memories on their way that the directory has from then on, by key."""


@final
class DurableHost:
    """Implements `execution.Host` over a state directory. New memories start as temporary ones.

    Args:
        directory: an open one; closed with the host.
        compile_code: compiles a module as uploaded.
        residents: keeps engine instances few.
        archiver: has what is committed in an archive, too.
    """

    def __init__(
        self,
        directory: StateDirectory,
        compile_code: CompileCode,
        residents: Residents,
        archiver: Archiver | None = None,
    ) -> None:
        self.directory = directory
        self._archiver = archiver
        known = Interfaces(directory.path, directory.disk)
        self.temporary = MemoryHost(compile_code, residents, directory.store, directory.extensions, known)
        self.residents = residents
        self.watch: Callable[[Message], None] | None = None
        """Called before each commit; what it raises ends the message."""
        self._failed: StorageError | None = None
        self._versions: dict[bytes, int] = {}  # of each canister's last commit
        self._waited = 0
        self._draft: _Draft | None = None
        self._loaded: tuple[Mapping[str, Image], SnapshotContent] | None = None  # by the message under way
        self._handed: frozenset[bytes] = frozenset()
        self._ingress = IngressHistory().kept()  # as of the last commit
        self._written: dict[bytes, Written] = {}  # of canisters

    @property
    def interfaces(self) -> Interfaces:
        """Of canisters, as far as they came with their modules."""
        return self.temporary.interfaces

    @property
    def store(self) -> TemporaryStore:
        """Where pages live that no commit has yet."""
        return self.directory.store

    @property
    def extensions(self) -> tuple[str, ...]:
        """What code may use beyond the network's rules."""
        return self.temporary.extensions

    def compile(self, wasm: bytes, *, known: bool = False) -> ResidentModule:
        """Validate and compile a module."""
        return self.temporary.compile(wasm, known=known)

    def new_memories(self, canister_id: bytes, names: Iterable[str]) -> WasmState:
        """Empty memories, temporary until the message commits."""
        return self.temporary.new_memories(canister_id, names)

    def add_memories(self, canister_id: bytes, names: Collection[str]) -> Mapping[str, Image]:
        """Empty memories for a canister whose next module has more of them, temporary until the message commits."""
        return self.temporary.add_memories(canister_id, names)

    def forget_memory(self, instance: CanisterInstance, name: str) -> None:
        """Let go of a memory; its file goes with the commit that does not have it any more."""
        resident(instance).forget(name)

    def discard(self, canister_id: bytes, instance: CanisterInstance) -> None:
        """Let go of an instance; the directory's memories go with the commit that says so."""
        resident(instance).discard()

    def hand_over(self, canister_id: bytes, instance: CanisterInstance, names: Mapping[str, str]) -> StoredContent:
        """Keep a copy of memories as they stand: of what the directory has, with what the message changes."""
        changes = resident(instance).changes().memories
        content = self.temporary.hand_over(canister_id, instance, names)
        changed = {there: changes[name] for there, name in names.items() if name in changes}
        return self._copy_of(canister_id, instance, names, content, changed)

    def take_snapshot(self, canister_id: bytes, instance: CanisterInstance) -> StoredContent:
        """Keep a copy of the committed memories, of what the directory has."""
        content = self.temporary.take_snapshot(canister_id, instance)
        return self._copy_of(canister_id, instance, {name: name for name in content.memories}, content)

    def _copy_of(
        self,
        canister_id: bytes,
        instance: CanisterInstance,
        names: Mapping[str, str],
        content: StoredContent,
        changed: Mapping[str, PageDelta] = MappingProxyType({}),
    ) -> StoredContent:
        """The content, which says where the directory has it, if it does."""
        known = self.directory.canisters.get(canister_id)
        if known is None or resident(instance).is_temporary or not known.memories.keys() >= {*names.values()}:
            return content
        origins = {there: Origin(canister_id, name) for there, name in names.items()}
        return StoredContent({name: memory.image for name, memory in content.memories.items()}, origins, changed)

    def new_snapshot(self, canister_id: bytes, sizes_bytes: Mapping[str, int]) -> StoredContent:
        """Zeroed memories of these sizes by name."""
        return self.temporary.new_snapshot(canister_id, sizes_bytes)

    def load_snapshot(
        self,
        canister_id: bytes,
        content: SnapshotContent,
        global_values: tuple[GlobalValue, ...],
        names: Iterable[str],
    ) -> WasmState:
        """Memories with the content of a snapshot, temporary until the message commits."""
        loaded = self.temporary.load_snapshot(canister_id, content, global_values, names)
        self._loaded = dict(loaded.memories), content
        return loaded

    def keep(
        self, state: SubnetState, journal: Journal, taken: Taken, arg: bytes, instructions: int, time_ns: int
    ) -> None:
        """Log a message; its pages, the records that it changed and the subnet's own become one commit.

        Raises:
            StorageError: it could not be logged.
        """
        draft = self._drafted(state, taken, journal)
        facts = Message(
            taken.request_id,
            taken.canister_id,
            taken.kind,
            taken.method_name,
            taken.caller,
            hashlib.sha256(arg).digest(),
            instructions,
            time_ns,
            encode_inputs(state.inputs) if state.inputs else b"",
        )
        if self.watch is not None:
            self.watch(facts)
        self._draft = draft
        forgotten, answers = state.ingress.changes(self._ingress)
        self.directory.commit(
            facts,
            draft.changes,
            subnet_record=encode_subnet(state),
            answers=[_stored(answer, owned=state.keeps_origins) for answer in answers],
            forgotten=forgotten,
            wait=False,
        )
        journal.version = draft.version

    def was_kept(self, journal: Journal) -> bool:
        """Whether the log has it."""
        draft = self._draft
        return draft is not None and draft.journal is journal and self.directory.version >= draft.version

    def apply(self, state: SubnetState, journal: Journal) -> None:
        """Give the images what the log has."""
        draft = self._draft
        if draft is None or draft.journal is not journal:
            journal.goes_with = self.directory.version + 1  # nothing was logged for it
            return
        self._versions.update(dict.fromkeys(draft.changes, draft.version))
        for canister_id, change in draft.added.items():
            self.directory.apply(canister_id, change)
        for instance in journal.commits.values():
            instance.commit()
        for key in draft.unmapped:
            self.directory.apply(key, draft.changes[key])
        for canister_id, instance in draft.moved.items():
            instance.move(self._opener(canister_id), instance.global_values)
        for key, content in draft.contents.items():
            if isinstance(content, StoredContent):
                content.is_kept_as(key)
        self._loaded = None
        self._handed = draft.handed
        state.changed.clear()
        if state.inputs:
            state.inputs.clear()
        self._ingress = state.ingress.kept()
        self._draft = None

    def undone(self, journal: Journal) -> None:
        """Forget the commit that was drafted."""
        self._draft = self._loaded = None

    def pause(self) -> None:
        """Let signal handlers run."""
        self.temporary.pause()

    def say_once(self, words: str) -> None:
        """Write a line to standard error, the first time that it is said in this process."""
        self.temporary.say_once(words)

    def check(self) -> None:
        """Raise what a commit has failed with: from then on memory and disk differ. `ValueError` once it is closed."""
        self.temporary.check()
        if self._failed is not None:
            raise StorageError(f"a commit failed, open the state anew: {self._failed.message}", self.directory.path)
        if self._archiver is not None:
            self._archiver.check()
        self.directory.check()

    # --- one commit

    def put_blob(self, data: bytes) -> bytes:
        """Keep a module or a chunk, see `StateDirectory.put_blob`."""
        hash_ = self.directory.put_blob(data)
        if self._archiver is not None:
            self._archiver.take_blob(hash_, data)
        return hash_

    def _drafted(self, state: SubnetState, taken: Taken, journal: Journal) -> _Draft:
        # Only an upload changes a snapshot that is kept already.
        uploading = taken.method_name.startswith("upload_canister_snapshot")
        draft = _Draft(journal, self.directory.version + 1, uploading)
        for canister_id in sorted(state.changed):
            canister = state.canisters.get(canister_id)
            if canister is not None:
                self._add(canister, draft)
            elif canister_id in self.directory.canisters:
                draft.changes[canister_id] = CanisterChange(deleted=True)
                self._drop_snapshots(canister_id, (), draft)
        self._add_handed(state, draft)
        return draft

    def _add_handed(self, state: SubnetState, draft: _Draft) -> None:
        """What calls take along is kept as snapshots are, for as long as they are on their way."""
        kept = {HANDED + key: handed for key, handed in state.handed.items()}
        for key in self._handed - kept.keys():
            if key in self.directory.canisters:
                draft.changes[key] = CanisterChange(deleted=True)
        for key in kept.keys() - self._handed:
            draft.changes[key] = handed_change(kept[key])
            draft.unmapped.append(key)
            draft.contents[key] = kept[key].content
        draft.handed = frozenset(kept)

    def _add(self, canister: CanisterState, draft: _Draft) -> None:
        change = draft.changes[canister.canister_id] = CanisterChange(record=self._record_of(canister))
        known = self.directory.canisters.get(canister.canister_id)
        module_hash = canister.module.module_hash if canister.module is not None else b""
        if known is None or known.module_hash != module_hash:
            change.module_hash = module_hash
            change.code = _kept_code(canister.module)
            if canister.module is not None:
                self.put_blob(canister.module.wasm)
        for chunk in canister.chunk_store.values():
            self.put_blob(chunk)
        self._add_snapshots(canister, draft)
        self._add_memories(canister, change, draft)

    def _record_of(self, canister: CanisterState) -> bytes:
        """Its record, of which only what has changed since it was last encoded is encoded."""
        canister_id, known = canister.canister_id, self._written
        record, written = encode_record_again(canister, known.get(canister_id, NOT_WRITTEN))
        if canister_id not in known and len(known) >= _MOST_WRITTEN:
            known.clear()
        known[canister_id] = written
        return record

    def _add_memories(self, canister: CanisterState, change: CanisterChange, draft: _Draft) -> None:
        canister_id, instance = canister.canister_id, canister.instance
        if not isinstance(instance, ResidentInstance):
            known = self.directory.canisters.get(canister_id)
            if known is None or not known.module_hash:
                return
            change.dropped = frozenset(known.memories)
            change.global_values = ()
        elif instance.is_temporary:
            changed = instance.commit().memories  # into temporary images, which go if this is undone
            state = instance.state
            _add(change, self._loaded_change(state, changed))
            change.memories |= {
                name: whole(image) for name, image in state.memories.items() if name not in change.memories
            }
            _add(change, given(draft.journal, canister_id))
            known = self.directory.canisters.get(canister_id)
            change.dropped = frozenset(known.memories if known is not None else ()) - change.memories.keys()
            change.global_values = state.global_values
            draft.moved[canister_id] = instance
        elif canister_id in draft.journal.commits:
            delta = instance.prepare()
            change.memories = dict(delta.memories)
            change.global_values = delta.global_values
            names = self.directory.canisters[canister_id].memories
            come: Collection[str] = ()
            if draft.journal.given:
                gift = given(draft.journal, canister_id)
                come = gift.memories
                _add(change, gift)
            added = {name: delta for name, delta in change.memories.items() if name not in names or name in come}
            if added:  # temporary until now, in the image of its own that the instance still has
                draft.added[canister_id] = CanisterChange(added)
                draft.moved[canister_id] = instance
            return
        elif gone := self._dropped(canister):
            change.dropped = gone
        else:
            return
        draft.unmapped.append(canister_id)

    def _loaded_change(self, state: WasmState, changed: Mapping[str, PageDelta]) -> CanisterChange:
        """Memories that are a loaded snapshot's, which the directory has."""
        if self._loaded is None:
            return CanisterChange()
        images, content = self._loaded
        found = copied(content) if isinstance(content, StoredContent) and content.origins else CanisterChange()
        same = {
            name
            for name in found.origins
            if state.memories.get(name) is images.get(name) and name in images and name not in changed
        }
        return CanisterChange(
            {name: found.memories[name] for name in same}, origins={name: found.origins[name] for name in same}
        )

    def _dropped(self, canister: CanisterState) -> frozenset[str]:
        """Memories that the directory has of a canister, and the canister has not any more."""
        known = self.directory.canisters[canister.canister_id].memories
        if len(known) <= len(MEMORY_KINDS):
            return frozenset()
        return frozenset(known) - MEMORY_KINDS.keys() - canister.own_memories.keys()

    def _add_snapshots(self, canister: CanisterState, draft: _Draft) -> None:
        if not canister.next_snapshot:
            return  # it never had one, as most: nobody looks through what may be all canisters of a large subnet
        prefix = SNAPSHOTS + canister.canister_id
        kept = {prefix + snapshot.snapshot_id: snapshot for snapshot in canister.snapshots.values()}
        self._drop_snapshots(canister.canister_id, kept, draft)
        for key, snapshot in kept.items():
            if key not in self.directory.canisters or (snapshot.uploaded and draft.uploading):
                draft.changes[key] = _snapshot_change(snapshot)
                draft.unmapped.append(key)
                draft.contents[key] = snapshot.content

    def _drop_snapshots(self, canister_id: bytes, kept: Collection[bytes], draft: _Draft) -> None:
        """Delete what the directory has of a canister's snapshots beyond those that are kept."""
        prefix = SNAPSHOTS + canister_id
        for key in self.directory.canisters:
            if key.startswith(prefix) and key not in kept:
                draft.changes[key] = CanisterChange(deleted=True)

    def _opener(self, canister_id: bytes) -> OpenMemories:
        def open_memories(global_values: tuple[GlobalValue, ...] | None) -> WasmState:
            names = self.directory.canisters[canister_id].memories
            return WasmState({name: self.directory.image(canister_id, name) for name in names}, global_values)

        return open_memories

    # --- states

    def fork(self, gate: Gate) -> MemoryHost:
        """A host for a second subnet, in memory."""
        return self.temporary.fork(gate)

    def settle(self, canister_id: bytes | None = None) -> int:
        """An entry ends: keep instances few.

        Returns:
            The version that has to be on the platter, as far as was asked, before anybody is told what a canister, or
            any of them, has done: see `wait`.
        """
        self.residents.evict()
        return self.directory.version if canister_id is None else self._versions.get(canister_id, 0)

    def wait(self, version: int, *, leaving: bool = False) -> None:
        """Return when a version is as durable as was asked. For any thread at any time: whoever waits shares syncs.

        Args:
            version: that `settle` has given.
            leaving: other subnets are about to have what it sends, so that it must not get lost.

        Raises:
            StorageError: the disk failed, and the subnet must be opened anew; or the archive did, which is tried again.
        """
        if version > self._waited:
            try:
                self.directory.wait(version)
            except StorageError as error:
                self._failed = error
                error.committed = None  # what the platter has is unknown
                raise
            self._waited = max(self._waited, version)
        if self._archiver is not None:
            (self._archiver.keep if leaving else self._archiver.wait)(version)

    def close(self) -> None:
        """Let go of the directory, once the archive has what it has."""
        self.temporary.close()
        try:
            if self._archiver is not None:
                self._archiver.close()
        finally:
            self.directory.close()

    def at(self, version: int, gate: Gate) -> World:
        """The subnet as it was after `version`, in memory.

        Raises:
            StorageError: that version is not kept.
        """
        past = self.directory.at(version)
        host = self.temporary.fork(gate)

        def memories(key: bytes) -> WasmState:
            found = past.canisters[key]
            return WasmState({**found.images}, found.global_values)

        def adopted(key: bytes, module: ResidentModule) -> ResidentInstance:
            return module.instantiate(memories(key))

        reader = RecordReader(host, self.directory, past.canisters, past.answers, adopted, memories)
        return reader.world(past.subnet_record, SubnetConfig(), b"")

    def restore(self, config: SubnetConfig, seed: bytes) -> World:
        """The subnet as it was last committed; a new one where nothing was."""

        def adopted(key: bytes, module: ResidentModule) -> ResidentInstance:
            return module.reopen(self._opener(key), self.directory.canisters[key].global_values)

        def memories(key: bytes) -> WasmState:
            names = self.directory.canisters[key].memories
            return WasmState({name: self.directory.fork_image(key, name) for name in names})

        kept = self.directory.canisters
        reader = RecordReader(self, self.directory, kept, self.directory.answers, adopted, memories)
        world = reader.world(self.directory.subnet_record, config, seed)
        self._ingress = world.state.ingress.kept()
        self._handed = frozenset(HANDED + key for key in world.state.handed)
        if self.directory.keeps_history:
            world.state.inputs = []
            world.state.note("open", changed_fields(config), seed, *world.state.begun_with)
        return world


def blobs_of(key: bytes, record: bytes) -> tuple[bytes, ...]:
    """The chunks that a canister's record names. A snapshot has its module and its chunks in its own, a call none."""
    return () if key.startswith((SNAPSHOTS, HANDED)) else decode_record(record).chunk_hashes


def _kept_code(module: CanisterModule | None) -> PythonCode:
    """What is kept of a canister's code beside its bytes, which stand for it where it is no Wasm."""
    if module is None or not module.name:
        return NO_CODE
    return PythonCode(module.name, module.module_hash, module.schema)


def _snapshot_change(snapshot: Snapshot) -> CanisterChange:
    content = snapshot.content
    if not isinstance(content, StoredContent):
        raise InternalError(f"a snapshot of another host: {type(content).__name__}")
    if snapshot.uploaded:  # which changes it in place
        change = CanisterChange({name: whole(memory.image) for name, memory in content.memories.items()})
    else:
        change = copied(content)
    change.record = encode_snapshot(snapshot)
    return change


def _add(change: CanisterChange, other: CanisterChange) -> None:
    """Have another change's memories in the place of one's own."""
    for name in other.memories:
        change.origins.pop(name, None)
    change.memories |= other.memories
    change.origins |= other.origins


def _stored(answer: KeptAnswer, *, owned: bool) -> Answer:
    """An answer as the directory has it: after its generation; nothing where the request is done."""
    request_id, expiry_ns, generation, response, owner = answer
    told = b"" if response is None else encode_response(response, owner if owned else None)
    content = b"" if response is None else generation.to_bytes(8, "little") + told
    return Answer(request_id, expiry_ns, content)


def canister_ids(directory: StateDirectory) -> list[bytes]:
    """Of the canisters in a directory, beside which it has snapshots and memories on their way."""
    return [key for key in directory.canisters if not key.startswith((SNAPSHOTS, HANDED))]


def undecodable(directory: StateDirectory) -> list[str]:
    """Records whose bytes are what was written and that say what cannot be: opening would stop at the first."""
    kinds = {SNAPSHOT: "snapshot", CANISTER: "canister"}
    records = [("subnet record", SUBNET, directory.subnet_record)] if directory.subnet_record else []
    for key, kept in directory.canisters.items():
        if not key.startswith(HANDED):
            kind = SNAPSHOT if key.startswith(SNAPSHOTS) else CANISTER
            records.append((f"{kinds[kind]} {key.removeprefix(SNAPSHOTS).hex()}", kind, kept.record))
    found = []
    for what, kind, record in records:
        try:
            FORMAT.decode(kind, record)
        except PerdureError as error:
            found.append(f"{what}: {error}")
    return found
