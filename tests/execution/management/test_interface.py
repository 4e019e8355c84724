"""The management canister's types against what others define: whoever is written for those is understood here."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.candid import parse, subtype
from perdure.execution.management import METHODS
from perdure.execution.management.interface import INTERFACE

FACTS = Path(__file__).parents[2] / "facts"


def methods(text):
    return {method.name: method.type for method in parse(text).service.methods}


OURS = methods(INTERFACE)
TODAY = methods((FACTS / "management.did").read_text())
CALLERS = [
    *((name, TODAY[name]) for name in TODAY),
    *((f"{name} of 2025", type_) for name, type_ in methods((FACTS / "management_2025.did").read_text()).items()),
]


def understood(ours, theirs):
    """Arguments that they send are taken, results that are given are what they expect; queries are updates to some."""
    assert len(ours.args) == len(theirs.args)
    assert len(ours.results) == len(theirs.results)
    taken = [subtype(sent, wanted) for sent, wanted in zip(theirs.args, ours.args, strict=True)]
    given = [subtype(result, expected) for result, expected in zip(ours.results, theirs.results, strict=True)]
    return all(taken) and all(given)


@pytest.mark.parametrize(("name", "theirs"), CALLERS, ids=[name for name, _ in CALLERS])
def test_callers_are_understood(name, theirs):
    assert understood(OURS[name.removesuffix(" of 2025")], theirs)


def test_every_method_is_held_against_them():
    assert TODAY.keys() == OURS.keys() == METHODS.keys()


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("canister_status", "log_memory_limit : nat; "),
        ("canister_status", "log_memory_store_size : nat "),
        ("fetch_canister_logs", "content : blob "),
    ],
)
def test_a_field_less_would_be_noticed(name, without):
    """What a canister of today's crates could not decode."""
    head, field, tail = INTERFACE.rpartition(without)
    assert field
    assert not understood(methods(head + tail)[name], TODAY[name])
