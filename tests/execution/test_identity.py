"""A subnet's key and certificates: functions of its seed, checked by whoever holds the root key."""

from __future__ import annotations

import sys

import pytest

from perdure import Principal, Subnet
from perdure.certification import Certificate, encode_nat
from perdure.execution import execute_query, identify, root_key
from perdure.execution.state import SubnetState
from perdure.execution.world import World


def certify(api, instance):
    api.certified_data_set(b"certified")


def test_queries_get_certificates_that_verify(world, fakes):
    identify(world.rules)
    show = fakes.reply_with(lambda api, _: api.data_certificate())
    canister = world.install({"canister_init": certify, "canister_query show": show})
    reply = execute_query(world.rules, canister.canister_id, "show", b"")
    certificate = Certificate.decode(reply.data)
    assert certificate.is_signed_by(world.subnet.root_key)
    assert certificate.lookup(b"canister", canister.canister_id, b"certified_data") == b"certified"
    assert certificate.lookup(b"time") == encode_nat(world.subnet.time_ns)


def test_root_key_is_what_canisters_see(world, fakes):
    identify(world.rules)
    canister = world.install({"canister_query q": fakes.reply_with(b"")})
    assert canister.facts.root_key == root_key(b"").public_key_der
    assert canister.facts.subnet_id == Principal.self_authenticating(root_key(b"").public_key_der).raw_bytes


def test_identity_follows_from_the_seed():
    one, same, other = (Subnet(seed=seed)._state for seed in (b"1", b"1", b"2"))
    assert (one.subnet_id, one.root_key) == (same.subnet_id, same.root_key)
    assert one.subnet_id != other.subnet_id
    assert len(one.subnet_id) == 29


def test_canisters_that_exist_are_told(world):
    canister = world.create()
    identify(world.rules)
    assert canister.facts.subnet_id == world.subnet.subnet_id


def test_forks_certify_their_own_state(world, fakes):
    subnet = Subnet()
    fork = subnet.fork()
    assert fork._world.certify is subnet._world.certify
    assert fork._state.root_key == subnet._state.root_key


def test_without_the_extra_there_are_no_certificates(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "py_arkworks_bls12381", None)
    had = world.subnet.subnet_id
    new = World(SubnetState(seed=b"seed"), host=None)
    root_key.cache_clear()
    identify(world.rules)
    identify(new)
    root_key.cache_clear()
    assert world.rules.certify is None
    assert world.subnet.root_key == b""
    assert world.subnet.subnet_id == had  # a state that has an id keeps it
    assert len(new.state.subnet_id) == 29


@pytest.mark.parametrize("seed", [b"", b"seed", bytes(100)])
def test_any_seed(seed):
    subnet = World(SubnetState(seed=seed), host=None)
    identify(subnet)
    certificate = Certificate.decode(subnet.certify(b"id", b"data", 5))
    assert certificate.is_signed_by(subnet.state.root_key)
