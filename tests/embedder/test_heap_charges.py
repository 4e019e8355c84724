"""What an entry pays for the pages of the heap that it has changed."""

from __future__ import annotations

import pytest

from perdure.canister import CanisterFacts, Context, Env, Limits, PageDelta, Return
from perdure.embedder.heap_charges import FREE_OF_HEAP, charge_for_heap, pages_of

PAGE = 4096
FACTS = CanisterFacts(canister_id=b"id", controllers=frozenset())
DELTA = PageDelta(2, [(0, b"a" * PAGE + b"b" * PAGE), (5 * PAGE, b"c" * PAGE)])


def charged(delta=DELTA, before=None, page_charges=None, limit=10**9, *, is_64=False):
    """Changed pages and instructions of an entry that has used 7 instructions."""
    result = Return(instructions=7)
    limits = Limits(instructions=limit, dirty_page_instructions=1000)
    env = Env(context=Context.UPDATE, facts=FACTS, limits=limits)
    charge_for_heap(result, env, delta, before, page_charges, is_64=is_64)
    return result.heap_dirty_pages, result.instructions


def test_each_page_is_given_with_its_address():
    assert [(address, data[:1]) for address, data in pages_of(DELTA)] == [(0, b"a"), (PAGE, b"b"), (5 * PAGE, b"c")]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, (3, 3007)),
        ({"is_64": True}, (3, 12007)),
        ({"page_charges": (10, 5)}, (3, 52)),
        ({"page_charges": (10, 5), "is_64": True}, (3, 52)),  # one price for both widths
        ({"limit": 2500}, (3, 2500)),  # it uses the limit up, and does not exceed it
        ({"delta": PageDelta(2, [])}, (0, 7)),
    ],
)
def test_what_a_page_costs(more, expected):
    assert charged(**more) == expected


def test_pages_of_an_entry_before_are_not_paid_again():
    assert charged(before={0: b"a" * PAGE}) == (2, 2007)
    assert charged(before={0: b"A" * PAGE, 9 * PAGE: b"c" * PAGE}) == (3, 3007)


def test_nothing_that_is_only_asked_is_charged():
    free = {context for context in Context if context.bit & FREE_OF_HEAP}
    assert {context.name for context in free} == {
        "NON_REPLICATED_QUERY",
        "REPLICATED_QUERY",
        "TRANSFORM",
        "INSPECT_MESSAGE",
    }
