"""The tree of page hashes: the same as hashing everything, whatever the order of changes."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.storage.merkle import (
    NODE_BYTES,
    ZERO_PAGE_HASH,
    Node,
    PageTree,
    hash_pages,
    memory_hash,
    node_offset,
)

PAGE = 4096


SIZE = 1 << 28


def plain_root(pages: dict[int, bytes], levels: int = 7) -> bytes:
    """The root by the definition: sixteen at a time, a level after the other, zero subtrees by their known hash."""
    hashes = {index: sha256(data).digest() for index, data in pages.items()}
    zero = sha256(bytes(PAGE)).digest()
    for _ in range(levels):
        nodes = {index // 16 for index in hashes}
        hashes = {n: sha256(b"".join(hashes.get(16 * n + c, zero) for c in range(16))).digest() for n in nodes}
        zero = sha256(zero * 16).digest()
    return hashes.get(0, zero)


PAGES = st.dictionaries(
    st.sampled_from([0, 1, 15, 16, 17, 255, 256, 4097, 131_071_999, (1 << 28) - 1]),
    st.sampled_from([b"a" * PAGE, b"b" * PAGE, bytes(PAGE)]),
    max_size=8,
)


@given(st.lists(PAGES, max_size=4))
def test_root_is_that_of_the_definition(steps: list[dict[int, bytes]]) -> None:
    tree = PageTree(SIZE)
    pages: dict[int, bytes] = {}
    for step in steps:
        pages.update(step)
        for index, data in step.items():
            tree.set_leaves(index, hash_pages(data))
        assert tree.root() == plain_root(pages)
    assert dict(tree.leaves()) == {i: sha256(d).digest() for i, d in pages.items() if any(d)}


@given(PAGES, PAGES)
def test_continues_from_a_hash_file(first: dict[int, bytes], second: dict[int, bytes]) -> None:
    stored: dict[int, bytes] = {}

    def fetch(node: Node) -> bytes:
        return stored.get(node_offset(node), b"")

    tree = PageTree(SIZE)
    for pages in (first, second):
        for index, data in pages.items():
            tree.set_leaves(index, hash_pages(data))
        for node, content in tree.changed_nodes():
            assert len(content) == NODE_BYTES
            stored[node_offset(node)] = content
        tree.settle(fetch)
    both = first | second
    assert PageTree(SIZE, fetch).root() == tree.root() == plain_root(both)
    moved = PageTree(SIZE, fetch)
    moved.load_all()
    stored = {node_offset(node): content for node, content in moved.changed_nodes()}
    assert PageTree(SIZE, fetch).root() == plain_root(both)


@given(
    st.lists(st.tuples(st.sampled_from([16, 17, 256, 4096, 5000, 70_000]), st.integers(0, 15)), min_size=1, max_size=6)
)
def test_height_follows_the_size(steps: list[tuple[int, int]]) -> None:
    tree = PageTree(1)
    pages: dict[int, bytes] = {}
    stored: dict[Node, bytes] = {}
    for size, index in sorted(steps):
        tree.resize(size)
        page = size - 1 - index
        pages[page] = bytes([index + 1]) * PAGE
        tree.set_leaves(page, hash_pages(pages[page]))
        levels = next(n for n in range(1, 8) if 16**n >= size)
        assert tree.root() == plain_root(pages, levels)
        stored.update(tree.changed_nodes())
        tree.settle(lambda node: stored.get(node, b""))
        assert PageTree(size, lambda node: stored.get(node, b"")).root() == tree.root()


def test_nodes_have_places_of_their_own() -> None:
    nodes = [(level, index) for level in range(7) for index in range(min(16 ** (6 - level), 2000))]
    assert len({node_offset(node) for node in nodes}) == len(nodes)
    assert node_offset((0, 16)) < 16 << 10


def test_size_is_part_of_a_memory_hash() -> None:
    root = PageTree().root()
    assert memory_hash(1, root) != memory_hash(2, root)


def test_hash_pages() -> None:
    assert hash_pages(bytes(2 * PAGE)) == ZERO_PAGE_HASH * 2
    assert hash_pages(memoryview(b"x" * PAGE)) == sha256(b"x" * PAGE).digest()


def test_zero_memory_costs_nothing() -> None:
    tree = PageTree(SIZE)
    assert list(tree.leaves()) == []
    assert tree.root() == plain_root({})
    with pytest.raises(StopIteration):
        next(tree.leaves())


@pytest.mark.parametrize("pages", [0, 1, 15, 16, 17, 255, 256, 257, 4095, 4096, 5000])
@pytest.mark.parametrize("cut", [0, 1, 15, 16, 17, 100, 256, 300, 4096, 5000, 70_000])
def test_a_fork_has_what_is_below_its_size_and_changes_alone(pages: int, cut: int) -> None:
    hashes = [sha256(number.to_bytes(8, "little")).digest() for number in range(pages)]
    whole = PageTree(pages)
    whole.set_leaves(0, b"".join(hashes))
    root = whole.root()
    fork = whole.fork(cut)
    expected = PageTree(cut)
    expected.set_leaves(0, b"".join(hashes[:cut]))
    assert fork.root() == expected.root()
    if cut:
        for tree in (fork, expected):
            tree.set_leaves(cut - 1, hashes[0] if hashes else bytes(32))
            tree.set_leaves(cut // 2, bytes(32))
        assert fork.root() == expected.root()
    assert whole.root() == root
