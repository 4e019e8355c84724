from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from perdure.errors import MalformedError, UnsupportedError
from perdure.memory import WASM_PAGE_BYTES, BytesMemory, Memory, ReadOnlyMemory, ViewableMemory
from perdure.stable import MemoryManager, RestrictedMemory
from perdure.stable.access import MAX_WASM_PAGES, UndoLog, is_blank, view_or_none, write_growing


class ManagerMachine(RuleBasedStateMachine):
    """Each virtual memory behaves as a memory of its own, through one manager or several."""

    @initialize(bucket_wasm_pages=st.integers(1, 3))
    def create(self, bucket_wasm_pages):
        self.memory = BytesMemory()
        manager = MemoryManager.create(self.memory, bucket_wasm_pages=bucket_wasm_pages)
        self.managers = [manager, MemoryManager.load(self.memory)]
        self.handles = [{memory_id: manager.get(memory_id) for memory_id in (0, 7, 254)} for manager in self.managers]
        self.models = {memory_id: BytesMemory() for memory_id in (0, 7, 254)}

    which = st.tuples(st.sampled_from([0, 1]), st.sampled_from([0, 7, 254]))

    @rule(which=which, wasm_pages=st.integers(0, 4))
    def grow(self, which, wasm_pages):
        assert self.handles[which[0]][which[1]].grow(wasm_pages) == self.models[which[1]].grow(wasm_pages)

    @rule(
        which=which,
        address=st.integers(0, 5 * WASM_PAGE_BYTES),
        text=st.binary(max_size=6),
        repeat=st.sampled_from([1, 30_000]),
    )
    def write(self, which, address, text, repeat):
        data, virtual, model = text * repeat, self.handles[which[0]][which[1]], self.models[which[1]]
        if address + len(data) <= len(model.data):
            virtual.write(address, data)
            model.write(address, data)
        else:
            with pytest.raises(IndexError, match="lie outside"):
                virtual.write(address, data)

    @rule(which=which, address=st.integers(0, 5 * WASM_PAGE_BYTES), size=st.integers(0, 200_000))
    def read(self, which, address, size):
        virtual, model = self.handles[which[0]][which[1]], self.models[which[1]]
        if address + size <= len(model.data):
            expected = model.read(address, size)
            assert virtual.read(address, size) == bytes(virtual.view(address, size)) == expected
        else:
            for access in (virtual.read, virtual.view):
                with pytest.raises(IndexError, match="lie outside"):
                    access(address, size)

    @invariant()
    def agrees(self):
        if hasattr(self, "models"):
            for memory_id, model in self.models.items():
                assert self.handles[1][memory_id].size() == model.size()
            assert self.managers[1].memory_ids() == [key for key, model in self.models.items() if model.size()]

    def teardown(self):
        if hasattr(self, "models"):
            loaded = MemoryManager.load(self.memory)
            for memory_id, model in self.models.items():
                assert loaded.get(memory_id).read(0, len(model.data)) == bytes(model.data)


ManagerMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestManager = ManagerMachine.TestCase


def manager_with(*grown, bucket_wasm_pages=1, memory=None):
    memory = BytesMemory() if memory is None else memory
    manager = MemoryManager.create(memory, bucket_wasm_pages=bucket_wasm_pages)
    for memory_id, wasm_pages in grown:
        manager.get(memory_id).grow(wasm_pages)
    return memory, manager


def test_virtual_memory_is_a_memory():
    _, manager = manager_with()
    assert isinstance(manager.get(0), Memory)
    assert isinstance(manager.get(0), ViewableMemory)


def test_buckets_and_holes():
    memory, _ = manager_with((3, 1), (9, 1), (3, 2))
    memory.write(2080 + 2, b"\xff")
    memory.write(40 + 8 * 3, (2).to_bytes(8, "little"))
    loaded = MemoryManager.load(memory)
    assert [(bucket.index, bucket.memory_id, bucket.address) for bucket in loaded.buckets()] == [
        (0, 3, 0x10000), (1, 9, 0x20000), (2, None, 0x30000), (3, 3, 0x40000),
    ]  # fmt: skip
    loaded.get(3).write(WASM_PAGE_BYTES, b"second bucket")
    assert memory.read(0x40000, 13) == b"second bucket"
    assert loaded.get(9).grow(1) == 1
    assert loaded.buckets()[4].memory_id == 9


def test_views_without_a_copy_where_buckets_are_neighbours():
    memory, manager = manager_with((0, 3), (1, 1), (0, 1))
    first = manager.get(0)
    view = first.view(0, 3 * WASM_PAGE_BYTES)
    assert not first.is_contiguous()
    assert manager.get(1).is_contiguous()
    memory.data[WASM_PAGE_BYTES] = 77
    assert view[0] == 77
    copied = first.view(0, 4 * WASM_PAGE_BYTES)
    memory.data[WASM_PAGE_BYTES] = 78
    assert copied[0] == 77
    view.release()


def test_limits():
    memory, manager = manager_with(memory=BytesMemory(max_wasm_pages=10), bucket_wasm_pages=4)
    before = bytes(memory.data)
    assert manager.get(0).grow(9) == -1
    assert manager.get(0).grow(-1) == -1
    assert bytes(memory.data) == before
    assert manager.get(0).grow(8) == 0
    for memory_id in (-1, 255):
        with pytest.raises(ValueError, match="0 to 254"):
            manager.get(memory_id)
    for size in (0, 65_536):
        with pytest.raises(ValueError, match="1 to 65535"):
            MemoryManager.create(BytesMemory(), bucket_wasm_pages=size)


def test_bucket_table_can_be_filled():
    class Endless:
        """A memory that holds its first page only."""

        def __init__(self):
            self.page, self.wasm_pages = BytesMemory(bytes(WASM_PAGE_BYTES)), 1

        def size(self):
            return self.wasm_pages

        def grow(self, wasm_pages):
            self.wasm_pages += wasm_pages
            return self.wasm_pages - wasm_pages

        def read(self, address, size_bytes):
            return self.page.read(address, size_bytes)

        def write(self, address, data):
            self.page.write(address, data)

    manager = MemoryManager.create(Endless(), bucket_wasm_pages=2)
    assert manager.get(5).grow(2 * 32_767) == 0
    assert manager.get(6).grow(3) == -1
    assert manager.get(6).grow(2) == 0
    assert manager.get(5).grow(1) == -1
    assert MemoryManager.load(manager.memory).get(5).size() == 65_534


def test_manager_at_another_page():
    inner, _ = manager_with((4, 2))
    memory = BytesMemory(b"its own header".ljust(WASM_PAGE_BYTES, b"\0") + bytes(inner.data))
    with pytest.raises(MalformedError, match="bad magic b'its'"):
        MemoryManager.load(memory)
    manager = MemoryManager.load(memory, base_wasm_page=1)
    manager.get(4).write(0, b"here")
    assert memory.read(2 * WASM_PAGE_BYTES, 4) == b"here"
    assert manager.get(4).grow(1) == 2
    assert memory.size() == 5


@pytest.mark.parametrize(
    ("address", "damage", "error", "message"),
    [
        (0, b"MGX", MalformedError, "bad magic b'MGX', expected b'MGR'"),
        (3, b"\x02", UnsupportedError, "layout version 2, expected 1"),
        (6, b"\0\0", MalformedError, "bucket size 0"),
        (6, b"\xff\xff", MalformedError, "3 buckets of 65535 Wasm pages do not fit into 4"),
        (4, b"\xff\xff", MalformedError, "65535 buckets allocated, expected at most 32768"),
        (4, b"\x01\0", MalformedError, "bucket 1 is owned by memory 9, only 1 are allocated"),
        (2080 + 40, b"\x05", MalformedError, "bucket 40 is owned by memory 5, only 3 are allocated"),
        (40 + 8 * 9, b"\xff", MalformedError, "memory 9 has 255 Wasm pages but owns 1 buckets of 1"),
        (2080, b"\xff", MalformedError, "memory 3 has 2 Wasm pages but owns 1 buckets"),
    ],
)
def test_damaged_manager(address, damage, error, message):
    memory, _ = manager_with((3, 1), (9, 1), (3, 1))
    memory.write(address, damage)
    with pytest.raises(error, match=message):
        MemoryManager.load(memory)


def test_manager_of_motoko_is_named():
    memory, _ = manager_with((0, 2), (1, 1))
    for start, size in ((4, 2), (6, 2), (40, 8), (48, 8)):
        memory.data[start : start + size] = memory.data[start : start + size][::-1]
    with pytest.raises(UnsupportedError, match="MotokoStableBTree"):
        MemoryManager.load(memory)


def test_load_never_creates_and_create_never_overwrites():
    empty, foreign = BytesMemory(), BytesMemory(b"foreign")
    with pytest.raises(MalformedError, match="lies outside"):
        MemoryManager.load(empty)
    for make in (MemoryManager.create, MemoryManager.load, MemoryManager.init):
        with pytest.raises((ValueError, MalformedError), match=r"holds|bad magic"):
            make(foreign)
    assert (empty.size(), foreign.read(0, 7)) == (0, b"foreign")
    MemoryManager.create(foreign, overwrite=True)
    assert MemoryManager.init(foreign).bucket_wasm_pages == 128
    assert MemoryManager.init(empty, bucket_wasm_pages=2).bucket_wasm_pages == 2


def test_restricted_memory():
    below = BytesMemory(bytes(2 * WASM_PAGE_BYTES))
    window = RestrictedMemory(below, 4, 6)
    assert window.size() == 0
    assert window.grow(3) == -1
    assert below.size() == 2
    assert window.grow(1) == 0
    assert below.size() == 5
    assert window.grow(1) == 1
    assert window.grow(1) == -1
    assert window.grow(0) == window.size() == 2
    window.write(5, b"inside")
    assert below.read(4 * WASM_PAGE_BYTES + 5, 6) == window.read(5, 6) == bytes(window.view(5, 6)) == b"inside"
    below.grow(1)
    assert window.size() == 2
    assert window.grow(0) == 2
    for access in (window.read, window.view):
        with pytest.raises(IndexError, match="lie outside"):
            access(2 * WASM_PAGE_BYTES, 1)
    with pytest.raises(IndexError, match="lie outside"):
        window.write(2 * WASM_PAGE_BYTES - 1, b"12")
    for start, end in ((-1, 2), (3, 3), (0, MAX_WASM_PAGES + 1)):
        with pytest.raises(ValueError, match="no window"):
            RestrictedMemory(below, start, end)


def test_growing_write_grows_by_what_lacks():
    memory = BytesMemory()
    write_growing(memory, 0, b"")
    assert memory.size() == 0
    write_growing(memory, WASM_PAGE_BYTES, b"")
    assert memory.size() == 1
    write_growing(memory, WASM_PAGE_BYTES - 1, b"12")
    assert memory.size() == 2


def test_undo_log_restores_on_errors_only():
    memory = BytesMemory(b"before")
    undo = UndoLog(memory)
    with undo:
        undo.write(0, b"after!")
    assert memory.read(0, 6) == b"after!"
    with pytest.raises(KeyboardInterrupt), undo:  # noqa: PT012 (the write is what is undone)
        undo.write(0, b"third!")
        undo.write(2, b"xx")
        raise KeyboardInterrupt
    assert memory.read(0, 6) == b"after!"


def test_blank():
    assert is_blank(BytesMemory())
    assert is_blank(BytesMemory(bytes(10)))
    assert not is_blank(BytesMemory(bytes(65_000) + b"\x01"))


def test_view_or_none():
    class Plain:
        def size(self):
            return 1

    assert view_or_none(Plain(), 0, 1) is None
    assert view_or_none(ReadOnlyMemory(b"x"), 0, 1) == b"x"
    assert view_or_none(ReadOnlyMemory(b"x"), 0, 1 << 40) is None
