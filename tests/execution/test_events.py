"""What happens, as data: which records a message leaves in the streams of those who listen."""

from __future__ import annotations

import threading

import pytest
import wasmtime

from perdure import RejectError, Subnet
from perdure.canister import Context, TrapCode
from perdure.execution import submit_ingress
from perdure.execution.events import (
    Answered,
    Begun,
    Checkpointed,
    Committed,
    Delivered,
    Ended,
    Sent,
    Stream,
    Taken,
    Trapped,
)
from perdure.ic.principal import ANONYMOUS, Principal
from perdure.ic.reject import RejectCode

CANISTER = """(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
  (import "ic0" "canister_self_size" (func $self_size (result i32)))
  (import "ic0" "canister_self_copy" (func $self (param i32 i32 i32)))
  (import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "ic0" "call_data_append" (func $append (param i32 i32)))
  (import "ic0" "call_perform" (func $perform (result i32)))
  (memory 1)
  (table funcref (elem $answered))
  (data (i32.const 0) "stable")
  (func $answered (param i32) (call $reply))
  (func (export "canister_update stable")
    (drop (call $grow (i64.const 1))) (call $write (i64.const 4095) (i64.const 0) (i64.const 2))
    (i32.store (i32.const 8192) (i32.const 1)) (call $reply))
  (func (export "canister_update trap") unreachable)
  (func (export "canister_update call")
    (call $self (i32.const 100) (i32.const 0) (call $self_size))
    (call $new (i32.const 100) (call $self_size) (i32.const 0) (i32.const 6)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $append (i32.const 0) (i32.const 5)) (drop (call $perform)))
  (func (export "canister_query look") (call $reply))
  (func (export "canister_heartbeat")))"""


@pytest.fixture(scope="module")
def wasm():
    """A canister that calls itself, with a heartbeat."""
    return bytes(wasmtime.wat2wasm(CANISTER))


@pytest.fixture
def wasm_at_rest():
    """The same without the heartbeat."""
    return bytes(wasmtime.wat2wasm(CANISTER.replace('(func (export "canister_heartbeat"))', "")))


def without(events, *kinds):
    return [event for event in events if not isinstance(event, kinds)]


def test_an_update(wasm_at_rest):
    with Subnet() as subnet:
        canister = subnet.install(wasm_at_rest)
        me = canister.id.raw_bytes
        with subnet.events() as stream:
            before = canister.status().cycles
            canister.update("stable", request_id=b"one")
        taken, begun, ended, answered, committed = stream
    assert taken == Taken("call", me, "stable", ANONYMOUS.raw_bytes, b"one")
    assert begun == Begun(me, "canister_update stable", Context.UPDATE)
    assert ended[:2] == (me, Context.UPDATE)
    assert ended.instructions > 0
    assert 0 < ended.cycles < before - canister._state.cycles  # which has paid for coming in too
    assert ended[4:] == (1, 1, 1, 2, 2, {"heap": 1, "stable": 2})
    assert answered == Answered(b"one", 0, 0)
    assert committed == Committed(0, (me,))


def test_a_trap(wasm_at_rest):
    with Subnet() as subnet:
        canister = subnet.install(wasm_at_rest)
        with subnet.events() as stream, pytest.raises(RejectError) as caught:
            canister.update("trap")
        *_, trapped, answered, committed = stream
    assert isinstance(trapped, Trapped)
    assert (trapped.code, trapped.context, trapped.message) == (TrapCode.UNREACHABLE, Context.UPDATE, "")
    assert answered[1:] == (len(caught.value.message.encode()), RejectCode.CANISTER_ERROR)
    assert committed == Committed(0, (canister.id.raw_bytes,))


def test_a_query_costs_nothing_and_commits_nothing(wasm_at_rest):
    with Subnet() as subnet:
        canister = subnet.install(wasm_at_rest)
        with subnet.events() as stream:
            canister.query("look")
        taken, begun, ended = stream
    assert taken == Taken("query", canister.id.raw_bytes, "look", ANONYMOUS.raw_bytes)
    assert begun.context is ended.context is Context.NON_REPLICATED_QUERY
    assert (ended.instructions > 0, ended.cycles) == (True, 0)


def test_a_call_and_its_response(wasm_at_rest):
    with Subnet() as subnet:
        canister = subnet.install(wasm_at_rest)
        me = canister.id.raw_bytes
        with subnet.events() as stream:
            canister.update("call", request_id=b"one")
        story = without(stream, Ended, Committed)
    assert story == [
        Taken("call", me, "call", ANONYMOUS.raw_bytes, b"one"),
        Begun(me, "canister_update call", Context.UPDATE),
        Sent("call", me, me, "stable", 0, 5),
        Delivered("call", me, me, "stable"),
        Taken("call", me, "stable", me),
        Begun(me, "canister_update stable", Context.UPDATE),
        Sent("response", me, me, "", 0, 0),
        Delivered("response", me, b"", ""),
        Taken("response", me),
        Begun(me, 0, Context.REPLY),
        Answered(b"one", 0, 0),
    ]


def test_tasks_management_calls_and_what_is_done_from_outside(wasm):
    with Subnet() as subnet:
        with subnet.events() as stream:
            canister = subnet.install(wasm)
            subnet.tick()
            canister.stop()
            subnet.advance_time(1)
        taken = [(event.kind, event.method_name) for event in stream if isinstance(event, Taken)]
    heartbeat = ("task", "canister_heartbeat")
    assert [one for one in taken if one != heartbeat] == [
        ("install_code", ""),
        ("management", "stop_canister"),
        ("advance_time", ""),
    ]
    assert heartbeat in taken


def test_versions_and_checkpoints_of_a_state_directory(wasm_at_rest, tmp_path):
    with Subnet(tmp_path / "state") as subnet:
        canister = subnet.install(wasm_at_rest)
        with subnet.events() as stream:
            canister.update("stable")
            first = subnet.version
            subnet.checkpoint()
            canister.update("stable")
        subnet.checkpoint()  # nobody listens any more
        ids = (canister.id.raw_bytes,)
        kept = [event for event in stream if isinstance(event, Committed | Checkpointed)]
    assert kept == [Committed(first, ids), Checkpointed(first), Committed(first + 1, ids)]


def test_history_says_of_a_commit_what_the_stream_says(wasm, tmp_path):
    with Subnet(tmp_path / "state", history=None) as subnet, subnet.events() as stream:
        canister = subnet.install(wasm)
        canister.update("stable", request_id=b"one")
        canister.update("call", request_id=b"two", sender=Principal(b"\1" * 29))
        with pytest.raises(RejectError):
            canister.update("trap")
        with pytest.raises(RejectError):
            canister.upgrade(b"\0asm")
        canister.query("look")
        canister.stable.write(8, b"by hand")
        canister.take_snapshot()
        subnet.create_canister()
        canister.upgrade(wasm)
        submit_ingress(subnet._world, canister.id.raw_bytes, "call", b"")
        subnet.tick()
        canister.stop()
        subnet.advance_time(10**9)
        canister.delete()
        told, instructions, taken = [], 0, None
        for event in stream:
            if isinstance(event, Taken):
                taken, instructions = event, 0
            elif isinstance(event, Ended | Trapped):
                instructions += event.instructions
            elif isinstance(event, Committed) and event.version > len(told):
                told.append((taken, instructions))
        history = [version.message for version in reversed(subnet._host.directory.history())]
    assert len(told) == len(history) > 15
    assert {"call", "response", "task", "management", "stopping"} < {message.kind for message in history}
    for message, (taken, instructions) in zip(history, told, strict=True):
        found = Taken(message.kind, message.canister, message.method, message.caller, message.message_id)
        if taken.kind in ("install_code", "create_canister"):
            taken = taken._replace(canister_id=found.canister_id)  # drawn by then
        elif taken.kind in ("call", "response", "task"):
            assert message.instructions == instructions
        assert found == taken


def test_what_is_undone_is_not_committed(wasm_at_rest):
    with Subnet() as subnet, subnet.events() as stream:
        with pytest.raises(RejectError):
            subnet.install(wasm_at_rest + b"\0")
        assert [type(event) for event in stream] == [Taken]


def test_streams_nest_and_forks_have_none(wasm_at_rest):
    with Subnet() as subnet:
        canister = subnet.install(wasm_at_rest)
        with subnet.events() as outer:
            with subnet.anchor(), subnet.events() as inner:
                canister.update("stable")
            subnet.fork().canister(canister.id).update("stable")
            assert list(outer) == list(inner) != []
            canister.update("stable")
        canister.update("stable")
        assert (len(outer), len(inner)) == (5, 0)
        assert subnet._world.streams == ()


def test_a_block_that_ends_within_an_anchor_ends(wasm_at_rest):
    with Subnet() as subnet:
        canister = subnet.install(wasm_at_rest)
        events = subnet.events()
        stream = events.__enter__()
        with subnet.anchor():
            events.__exit__(None, None, None)
        canister.update("stable")
        assert len(stream) == 0


def test_a_stream_is_bounded_and_counts_what_it_lost():
    stream = Stream(3)
    for version in range(5):
        stream.add(Checkpointed(version))
    assert (len(stream), stream.lost) == (3, 2)
    assert next(iter(stream)) == Checkpointed(2)
    stream.add(Checkpointed(5))
    assert [event.version for event in stream] == [3, 4, 5]
    assert stream.lost == 2
    with pytest.raises(ValueError, match="at least one event, found a capacity of 0"):
        Stream(0)


def test_a_closed_subnet_ends_its_block(wasm_at_rest):
    subnet = Subnet()
    with subnet.events() as stream:
        subnet.install(wasm_at_rest)
        subnet.close()
    assert any(isinstance(event, Committed) for event in stream)


def test_messages_of_several_threads_are_told_apart(wasm_at_rest):
    with Subnet() as subnet:
        canisters = [subnet.install(wasm_at_rest) for _ in range(3)]

        def work(canister):
            for _ in range(20):
                canister.update("stable")

        with subnet.events() as stream:
            threads = [threading.Thread(target=work, args=(canister,)) for canister in canisters]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        events = list(stream)
    for canister in canisters:
        me = canister.id.raw_bytes
        own = [type(event) for event in events if isinstance(event, Taken | Begun | Ended) and event.canister_id == me]
        assert own == [Taken, Begun, Ended] * 20
    assert sum(isinstance(event, Committed) for event in events) == 60
