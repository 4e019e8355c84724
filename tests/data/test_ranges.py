"""Ranges of keys against a list of what each key has."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from perdure.data.ranges import Ranges

KEYS = [bytes([one]) for one in range(12)]
BOUND = st.sampled_from([b"", *KEYS])


@given(st.lists(st.tuples(BOUND, st.none() | BOUND, st.integers(0, 2)), max_size=12), BOUND, st.none() | BOUND)
def test_ranges_have_what_they_were_given(
    pieces: list[tuple[bytes, bytes | None, int]], low: bytes, high: bytes | None
) -> None:
    ranges = Ranges.of(pieces, 0)
    model = dict.fromkeys([b"", *KEYS, b"\xff"], 0)
    for first, end, value in pieces:
        model |= {key: value for key in model if first <= key and (end is None or key < end)}
    assert {key: ranges.at(key) for key in model} == model
    found = list(ranges)
    assert (found[0][0], found[-1][1]) == (b"", None)
    assert all(one[1] == other[0] and one[2] != other[2] for one, other in pairwise(found))
    cut = list(ranges.between(low, high))
    if high is not None and low >= high:
        assert cut == []
    else:
        assert (cut[0][0], cut[-1][1]) == (low, high)
        assert all(ranges.at(first) == value for first, _, value in cut)
