"""Labels as a tree: a mapping, in order, whose hash says what is in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.certification import Empty, Leaf, Missing, lookup, prune, root_hash
from perdure.certification.labels import Labels

LABELS = st.binary(max_size=3)


@given(st.lists(st.tuples(LABELS, st.binary(min_size=1, max_size=2) | st.none())))
def test_it_is_a_mapping(changes):
    expected: dict[bytes, bytes] = {}
    found = Labels()
    for label, value in changes:
        before = found, dict(expected)
        if value is None:
            expected.pop(label, None)
            found = found.without(label)
        else:
            expected[label] = value
            found = found.with_tree(label, Leaf(value))
        assert list(before[0]) == sorted(before[1])
    assert list(found) == sorted(expected)
    assert found.count == len(expected)
    assert {label: found.get(label) for label in expected} == {label: Leaf(one) for label, one in expected.items()}
    assert found.get(b"none") is None
    again = Labels()
    for label in sorted(expected, reverse=True):
        again = again.with_tree(label, Leaf(expected[label]))
    assert root_hash(again.tree) == root_hash(found.tree)
    for label in (*expected, b"\1\1"):
        shown = prune(found.tree, [(label,)])
        assert root_hash(shown) == root_hash(found.tree)
        assert lookup((label,), shown) == expected.get(label, Missing.ABSENT)


def test_nothing():
    assert Labels().tree == Empty()
    assert Labels().without(b"a").count == 0
