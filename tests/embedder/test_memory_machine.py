"""Memories of forks against bytearrays: messages, growth, forks, evictions, reinstalls, checkpoints, merges."""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from perdure.canister import PageDelta
from perdure.embedder.memory import ImageMemory
from perdure.embedder.pagemap import PrivatePages, private_pages
from perdure.holes import holes_take_room
from perdure.storage import TemporaryImage, TemporaryStore
from perdure.storage.disk import RealFile
from perdure.storage.pieces import Pieces
from perdure.storage.temporary import Region

PAGE = 4096
WASM_PAGE = 65536
LARGEST = 84 * WASM_PAGE
PLACES = st.sampled_from([None, "/dev/shm"])
RESERVED, GUARD = 1 << 20, 1 << 16  # growing past the reservation moves a memory
PAGES = st.one_of(st.integers(0, 3), st.integers(0, 63))
ENDS = st.sampled_from(["commits", "commits", "traps", "goes on"])
MESSAGES = st.lists(st.tuples(PAGES, st.integers(0, 255), ENDS), min_size=1, max_size=8)


class Mapped:
    """An image, its mapping, and what both should be."""

    def __init__(self, image: TemporaryImage, pages: PrivatePages | None, committed: bytes) -> None:
        self.image = image
        self.pages = pages
        self.committed = committed
        self.current = bytearray(committed)
        self.base: Region | None = None
        self.memory = self.open()

    def open(self, *, fresh: bool = False) -> ImageMemory:
        memory = ImageMemory(self.image, self.pages, fresh=fresh)
        memory.attach(0, RESERVED, GUARD)
        return memory

    def commit(self) -> None:
        delta = self.memory.changes()
        if self.pages is not None:
            assert pages_of(delta) == self.changed_pages(), "canisters are charged for these"
        if delta is not None:
            self.memory.commit(delta)
        self.committed = bytes(self.current)

    def changed_pages(self) -> set[int]:
        if self.memory.fresh:
            return {page for page in range(0, len(self.current), PAGE) if any(self.current[page : page + PAGE])}
        before = self.committed.ljust(len(self.current), b"\0")
        pages = range(0, len(self.current), PAGE)
        return {page for page in pages if self.current[page : page + PAGE] != before[page : page + PAGE]}

    def roll_back(self) -> None:
        self.memory.roll_back()
        self.current = bytearray(self.committed)

    def check(self) -> None:
        assert self.memory.size_bytes == len(self.current)
        assert self.memory.read(0, len(self.current)) == self.current
        assert self.image.read(0, len(self.committed)) == self.committed


def pages_of(delta: PageDelta | None) -> set[int]:
    runs = () if delta is None else delta.runs
    return {page for address, data in runs for page in range(address, address + len(data), PAGE)}


def machine(pages: PrivatePages | None) -> type[RuleBasedStateMachine]:
    """The machine for one way to find changed pages; `None`: the memory is told."""

    class MemoryMachine(RuleBasedStateMachine):
        forks = Bundle("forks")

        @initialize(
            mapping_budget=st.sampled_from([20, 16_384]),
            held_budget=st.sampled_from([30, 8_192, 8_192]),
            places=st.tuples(PLACES, PLACES),
        )
        def start(self, mapping_budget: int, held_budget: int, places: tuple[str | None, str | None]) -> None:
            """`places`: where temporary files lie, and where those of checkpoints do."""
            own, self.place = places
            self.store = TemporaryStore(own, mapping_budget=mapping_budget, held_budget=held_budget)
            self.all: list[Mapped] = []
            self.files: list[RealFile] = []

        def keep(self, entry: Mapped) -> Mapped:
            self.all.append(entry)
            entry.check()
            return entry

        @precondition(lambda self: not self.all)
        @rule(target=forks)
        def create(self) -> MultipleResults[Mapped]:
            image = TemporaryImage(self.store)
            image.commit(PageDelta(2, [(0, bytes(range(256)) * 32)]))
            content = image.read(0, 2 * WASM_PAGE)
            return multiple(*(self.keep(Mapped(one, pages, content)) for one in (image.fork(), image)))

        @precondition(lambda self: 0 < len(self.all) < 4)
        @rule(target=forks, entry=forks)
        def fork(self, entry: Mapped) -> Mapped:
            return self.keep(Mapped(entry.image.fork(), pages, entry.committed))

        @rule(entry=forks, page=PAGES, count=st.sampled_from([1, 1, 1, 2, 3, 20]), byte=st.integers(0, 255))
        def write(self, entry: Mapped, page: int, count: int, byte: int) -> None:
            address, data = page * PAGE + 4090, bytes([byte]) * (PAGE * count - PAGE + 5)
            if address + len(data) <= len(entry.current):
                entry.memory.write(address, data)
                entry.current[address : address + len(data)] = data
            entry.check()

        @rule(entry=forks, wasm_pages=st.sampled_from([1, 2, 20]))
        def grow(self, entry: Mapped, wasm_pages: int) -> None:
            if len(entry.current) < 64 * WASM_PAGE:
                entry.memory.grow(wasm_pages)
                entry.current += bytes(wasm_pages * WASM_PAGE)

        @rule(entry=forks)
        def commit(self, entry: Mapped) -> None:
            entry.commit()
            entry.check()

        @rule(entry=forks, messages=MESSAGES)
        def run(self, entry: Mapped, messages: list[tuple[int, int, str]]) -> None:
            for page, byte, end in messages:
                self.write(entry, page, 1, byte)
                if end == "commits":
                    self.commit(entry)
                elif end == "traps":
                    self.roll_back(entry)

        @rule(entry=forks)
        def run_one_that_writes_much(self, entry: Mapped) -> None:
            self.write(entry, 0, 20, 7)
            self.commit(entry)

        @rule(entry=forks)
        def checkpoint(self, entry: Mapped) -> None:
            """What a state directory does with a memory that stays mapped."""
            with tempfile.TemporaryFile(dir=self.place) as made:
                file = RealFile(os.dup(made.fileno()), "checkpoint")
            self.files.append(file)
            file.truncate(LARGEST)
            takes_room = holes_take_room(file.descriptor)
            entry.base = Region(file, 0, LARGEST, references=1, holes_take_room=takes_room)
            self.write_base(entry, bytes(LARGEST))

        @precondition(lambda self: any(entry.base is not None for entry in self.all))
        @rule(entry=forks)
        def checkpoint_in_its_own_file(self, entry: Mapped) -> None:
            """What a state directory writes into is a file that nobody else reads."""
            base = entry.base
            if base is not None and base.references - 1 == entry.image.references_to(base):
                self.write_base(entry, base.file.pread(LARGEST, 0))

        def write_base(self, entry: Mapped, before: bytes) -> None:
            """Write what differs, and have the image be made of it."""
            assert entry.base is not None
            for at in range(0, len(entry.committed), PAGE):
                if entry.committed[at : at + PAGE] != before[at : at + PAGE]:
                    entry.base.file.pwrite(entry.committed[at : at + PAGE], at)
            entry.image.rebase(Pieces.of(entry.base), len(entry.committed) // WASM_PAGE)
            entry.check()

        @rule(entry=forks)
        def roll_back(self, entry: Mapped) -> None:
            entry.roll_back()
            entry.check()

        @rule(entry=forks)
        def forget_what_was_read(self, entry: Mapped) -> None:
            entry.memory._scan_ns = 1 << 40
            entry.roll_back()
            entry.check()

        @rule(entry=forks)
        def evict(self, entry: Mapped) -> None:
            entry.memory.close()
            entry.current = bytearray(entry.committed)
            entry.memory = entry.open()
            entry.check()

        @rule(entry=forks)
        def merge(self, entry: Mapped) -> None:
            entry.memory.close()
            entry.image.merge()
            entry.current = bytearray(entry.committed)
            entry.memory = entry.open()
            entry.check()

        @rule(entry=forks, wasm_pages=st.integers(0, 3), is_committed=st.booleans())
        def reinstall(self, entry: Mapped, wasm_pages: int, is_committed: bool) -> None:
            entry.roll_back()
            before, entry.memory = entry.memory, entry.open(fresh=True)
            entry.memory.grow(wasm_pages)
            assert not any(entry.memory.read(0, wasm_pages * WASM_PAGE))
            if is_committed:
                entry.current = bytearray(wasm_pages * WASM_PAGE)
                entry.commit()
                before.close()
                entry.base = None
            else:
                entry.memory.close()
                entry.memory = before
            entry.check()

        @rule(entry=consumes(forks))
        def close(self, entry: Mapped) -> None:
            self.all.remove(entry)
            entry.memory.close()
            entry.image.close()

        def teardown(self) -> None:
            for entry in getattr(self, "all", ()):
                entry.check()
                entry.memory.close()
                entry.image.close()
            if hasattr(self, "store"):
                assert (self.store.mappings, self.store.held_pages) == (0, 0)
                self.store.close()
                for file in self.files:
                    file.close()

    return MemoryMachine


@pytest.mark.parametrize("way", ["", "pagemap", "bytes", None], ids=["scan", "pagemap", "bytes", "list"])
def test_memories_of_forks(way: str | None) -> None:
    pages = None if way is None else private_pages({"PERDURE_PORTABLE": way})
    settings_ = settings(max_examples=40, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(machine(pages), settings=settings_)
