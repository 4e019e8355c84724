"""Processes that are killed while messages move between subnets: a few places here, `stream_faults.py` has all."""

from __future__ import annotations

import ast
import shutil

import pytest
from stream_faults import ELSEWHERE, SOURCE, Fault, Tracer, faults, killed, outcome, places, prepare, run

WRITES = {"xnet_streams", "sent_cycles", "received_cycles", "outbox", "send()", "take_in()", "slice_for()"}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The path of a network in which calls are begun, the places that a run comes by, and what comes out of it."""
    path = tmp_path_factory.mktemp("faults")
    prepare(path / "net")
    shutil.copytree(path / "net", path / "clean")
    tracer = Tracer(places())
    run(path / "clean", tracer)
    return path / "net", tracer.counts, outcome(path / "clean")


def test_a_run_comes_by_every_place(network):
    assert [str(place) for place in places() if not network[1][place]] == [], "have `prepare` begin what comes by it"


def test_a_write_that_is_added_is_a_place(tmp_path):
    for room in ("execution", "subnet"):
        (tmp_path / room).mkdir()
    added = "def hide(state):\n    if state:\n        state.xnet_streams[b''] = 1\n    other = state.outbox\n"
    (tmp_path / "subnet" / "new.py").write_text(added)
    taking = "from perdure.execution.streams import take_in as put\n\n\ndef put_in(world):\n    put(world, ())\n"
    (tmp_path / "execution" / "new.py").write_text(taking)
    (tmp_path / "execution" / "else.py").write_text(taking.replace("streams", "handing"))
    found = [(place.file, place.first, place.what) for place in places(tmp_path)]
    assert found == [
        ("execution/new.py", 5, "put()"),
        ("subnet/new.py", 2, "if"),
        ("subnet/new.py", 3, "xnet_streams"),
        ("subnet/new.py", 4, "assign"),
    ]


def test_what_is_left_to_others_is_there():
    assert all(ast.parse((SOURCE / file).read_text(encoding="utf-8")).body for file in ELSEWHERE)
    assert {place.file for place in places()} == {"execution/delivery.py", "execution/streams.py", "network/network.py"}


@pytest.mark.slow
def test_killed_at_each_write(network):
    """Before one and after the next: all of them, both ways, and each time that they come, are minutes."""
    path, counts, expected = network
    kept = [one for one in faults(counts, every_time=False) if WRITES & set(one.place.what.split(", "))]
    assert {name for one in kept for name in one.place.what.split(", ")} == WRITES
    for number, fault in enumerate(kept):
        if number % 4 in (0, 3):
            assert killed(path, places(), fault, is_synced=number % 3 > 0) == expected, str(fault)
    (taken_in,) = [one for one in kept if one.place.function == "_turn" and not one.is_before]
    assert killed(path, places(), taken_in, is_synced=True) == expected, str(taken_in)


def test_a_fault_that_is_never_come_by_is_told(network):
    path, counts, _ = network
    place, many = next(iter(counts.items()))
    with pytest.raises(AssertionError, match="no process came by before"):
        killed(path, places(), Fault(place, many + 1, is_before=True), is_synced=False)
