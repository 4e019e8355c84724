"""Records: what is decoded goes on as if nothing had happened; bytes that are none are refused."""

from __future__ import annotations

from dataclasses import replace

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.canister import GlobalValue, Reply
from perdure.errors import MalformedError
from perdure.execution import Visibility, apply_settings, round_, run_until_idle, submit_ingress
from perdure.execution.records import (
    adopt,
    decode_record,
    decode_snapshot,
    decode_subnet,
    encode_record,
    encode_snapshot,
    encode_subnet,
)
from perdure.execution.snapshots import take
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
    callee.chunk_store[b"h" * 32] = b"chunk"
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
    assert second.data.startswith(b"reject:3:IC0301")
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
        (lambda content: content.pop("settings"), "lacks its settings"),
        (lambda content: content.pop("status"), "lacks 'status'"),
        (lambda content: content.update(status=9), "expected CanisterStatus"),
        (lambda content: content.update(cycles="many"), "expected int"),
        (lambda content: content.update(inputs=[["Nobody", {}]]), "expected one of CallMessage, ResponseMessage"),
        (lambda content: content.update(contexts=[[1]]), "expected a pair of 2 parts"),
        (lambda content: content.update(stop_requests=[{}]), "lacks a field"),
    ],
)
def test_wrong_fields(busy, change, words):
    version, content = cbor2.loads(encode_record(next(iter(busy.subnet.canisters.values()))))
    change(content)
    with pytest.raises(MalformedError, match=words):
        decode_record(cbor2.dumps([version, content]))


def test_unknown_fields_and_versions(busy):
    version, content = cbor2.loads(encode_record(next(iter(busy.subnet.canisters.values()))))
    decode_record(cbor2.dumps([version, {**content, "from the future": 1}]))
    with pytest.raises(MalformedError, match="record of version 99"):
        decode_record(cbor2.dumps([99, content]))


@given(st.binary(max_size=40))
def test_any_bytes(data):
    with pytest.raises(MalformedError):
        decode_record(data)
