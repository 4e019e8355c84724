"""Records: what is decoded goes on as if nothing had happened; bytes that are none are refused."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.canister import GlobalValue, Reject, Reply
from perdure.errors import MalformedError, UnsupportedError
from perdure.execution import Visibility, apply_settings, round_, run_until_idle, submit_ingress
from perdure.execution.management.snapshots import take
from perdure.execution.records import (
    adopt,
    decode_record,
    decode_response,
    decode_snapshot,
    decode_subnet,
    encode_record,
    encode_response,
    encode_snapshot,
    encode_subnet,
)
from perdure.execution.state import HookStatus


@pytest.fixture
def busy(world, fakes):
    """A world in the middle of something: open calls, queued messages, logs, settings."""

    def start(api, instance):
        api.debug_print(b"calling")
        fakes.call(api, api.msg_arg_data(), "answer", b"x", cycles=5, timeout=100, cleanup=1)

    callee = world.install({"canister_update answer": fakes.reply_with(b"answer")})
    caller = world.install({"canister_update start": start}, [fakes.on_reply, fakes.on_reject])
    settings = replace(
        callee.settings,
        log_visibility=Visibility("allowed_viewers", (b"viewer",)),
        environment_variables={"name": "value"},
    )
    apply_settings(world.rules, callee, settings)
    callee.hook_status = HookStatus.EXECUTED
    callee.chunk_store[sha256(b"chunk").digest()] = b"chunk"
    submit_ingress(world.rules, caller.canister_id, "start", callee.canister_id)
    submit_ingress(world.rules, caller.canister_id, "start", b"nobody")
    round_(world.rules)
    submit_ingress(world.rules, callee.canister_id, "answer", b"")
    return world


def revive(world):
    """The same world from its records; code and memories are handed over as they are."""
    old = world.subnet
    subnet = decode_subnet(encode_subnet(old))
    for canister in old.canisters.values():
        record = decode_record(encode_record(canister))
        state = record.state
        assert record.module_hash == canister.module.module_hash
        assert record.chunk_hashes == tuple(canister.chunk_store)
        state.module, state.instance, state.chunk_store = canister.module, canister.instance, canister.chunk_store
        adopt(subnet, state, world.rules.costs)
    return subnet


def test_everything_comes_back(busy):
    subnet = revive(busy)
    old = busy.subnet
    assert encode_subnet(subnet) == encode_subnet(old)
    for canister_id, canister in old.canisters.items():
        revived = subnet.canisters[canister_id]
        for name in canister.__slots__:
            if name != "limits":
                assert getattr(revived, name) == getattr(canister, name), name
    for name in ("ready", "deadlines", "stopping", "task_canisters", "outbox"):
        assert getattr(subnet, name) == getattr(old, name), name
    assert subnet.ingress.callees == old.ingress.callees != {}
    assert subnet.total_cycles() == old.total_cycles()


def test_goes_on_as_if_nothing_had_happened(busy):
    subnet = revive(busy)
    run_until_idle(replace(busy.rules, state=subnet))
    first, second, third = (answer[1] for _, answer in sorted(subnet.ingress.answers()))
    assert first == Reply(b"reply:answer")
    assert second.data.startswith(b"reject:3:No route to canister")
    assert third == Reply(b"answer")


def test_snapshots(busy):
    canister = next(iter(busy.subnet.canisters.values()))
    canister.instance.global_values = (GlobalValue("i64", bytes(8)),)
    take(busy.rules, canister, {"replace_snapshot": None})
    (snapshot,) = canister.snapshots.values()
    revived = decode_snapshot(encode_snapshot(snapshot), snapshot.content, snapshot.module)
    assert revived == snapshot
    assert decode_record(encode_record(canister)).snapshot_ids == tuple(canister.snapshots)


def test_truncated_records(busy):
    encoded = encode_record(next(iter(busy.subnet.canisters.values())))
    for length in range(len(encoded)):
        with pytest.raises(MalformedError):
            decode_record(encoded[:length])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop(7), r"canister record lacks settings \(field 7\)"),
        (lambda content: content.pop(2), r"canister record lacks status \(field 2\)"),
        (lambda content: content.update({2: 9}), "canister record.status is int '9', expected an integer of 1 to 3"),
        (lambda content: content.update({8: "many"}), "canister record.cycles is str 'many', expected an integer of 0"),
        (lambda content: content.update({8: -1}), "canister record.cycles is int '-1'"),
        (
            lambda content: content.update({12: bytes(33)}),
            "canister record.certified_data is .* expected 0 to 32 bytes",
        ),
        (
            lambda content: content.update({15: [[7, {}]]}),
            r"canister record.inputs\[0\] is .* tagged with one of \[0, 1\]",
        ),
        (
            lambda content: content.update({16: [[1]]}),
            "canister record.contexts is list '.1.', expected a list of pairs",
        ),
        (lambda content: content.update({18: [[b"b", 1], [b"a", 1]]}), "open_calls_to is not ascending"),
        (lambda content: content.update({21: [{}]}), r"canister record.stop_requests\[0\] lacks origin"),
        (lambda content: content[7].update({99: 1}), "canister record.settings has a field 99"),
        (lambda content: content.update({"cycles": 1}), "canister record has a field 'cycles'"),
    ],
)
def test_wrong_fields(busy, change, words):
    version, kind, content = cbor2.loads(encode_record(next(iter(busy.subnet.canisters.values()))))
    change(content)
    with pytest.raises(MalformedError, match=words):
        decode_record(cbor2.dumps([version, kind, content]))


def test_other_versions_and_kinds(busy):
    version, kind, content = cbor2.loads(encode_record(next(iter(busy.subnet.canisters.values()))))
    assert (version, kind) == (1, 2)
    with pytest.raises(UnsupportedError, match="record: version 99 found; this version of perdure reads 1"):
        decode_record(cbor2.dumps([99, kind, content]))
    with pytest.raises(MalformedError, match="kind is int '1', expected 2"):
        decode_record(encode_subnet(busy.subnet))


def test_answers():
    for response in (Reply(b"x"), Reject(4, "no", "IC0406", ("a", "b"))):
        assert decode_response(encode_response(response)) == (response, None)
        owner = b"sender", b"canister"
        assert decode_response(encode_response(response, owner)) == (response, owner)
    for wrong in (
        b"",
        encode_response(Reply(b"x"))[:-1],
        cbor2.dumps([2, [b""]]),
        cbor2.dumps([0, [b"", 1]]),
        cbor2.dumps([0, [b""], b"", 1]),
    ):
        with pytest.raises(MalformedError):
            decode_response(wrong)


@given(st.binary(max_size=40))
def test_any_bytes(data):
    with pytest.raises((MalformedError, UnsupportedError)):
        decode_record(data)
