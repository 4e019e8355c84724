"""The ledger's rules. Each test has a ledger of its own, forked from one that was made once."""

from pathlib import Path

import pytest

from perdure import Principal

HERE = Path(__file__).parent.parent
BUILT = HERE / "target" / "wasm32-unknown-unknown" / "release" / "icrc_ledger.wasm"
MODULE = BUILT if BUILT.exists() else HERE / "ledger.wasm.gz"
MINTER, ALICE, BOB = (Principal.self_authenticating(name) for name in (b"minter", b"alice", b"bob"))
FEE = 10
INIT = {
    "symbol": "TST",
    "name": "Test",
    "fee": FEE,
    "minting_account": {"owner": MINTER, "subaccount": None},
    "initial_balances": [({"owner": ALICE, "subaccount": None}, 1_000)],
}

pytestmark = pytest.mark.canister("ledger", wasm=MODULE, args=(INIT,))


def account(owner, subaccount=None):
    return {"owner": owner, "subaccount": subaccount}


def transfer(ledger, sender, to, amount, **more):
    argument = {
        "from_subaccount": None, "to": to if isinstance(to, dict) else account(to), "amount": amount, "fee": None, "memo": None,
        "created_at_time": None, **more,
    }  # fmt: skip
    return ledger.actor(sender).icrc1_transfer(argument)


def balances(ledger, *owners):
    return [ledger.actor().icrc1_balance_of(account(owner)) for owner in owners]


def test_a_transfer_costs_its_fee(canister):
    ledger = canister("ledger")
    assert transfer(ledger, ALICE, BOB, 100) == {"Ok": 0}
    assert balances(ledger, ALICE, BOB) == [1_000 - 100 - FEE, 100]
    assert ledger.actor().icrc1_total_supply() == 1_000 - FEE


def test_nobody_spends_what_is_not_there(canister):
    ledger = canister("ledger")
    assert transfer(ledger, ALICE, BOB, 1_000) == {"Err": {"InsufficientFunds": {"balance": 1_000}}}
    assert transfer(ledger, ALICE, BOB, 2**128 - 1) == {"Err": {"InsufficientFunds": {"balance": 1_000}}}
    assert transfer(ledger, ALICE, BOB, 1, fee=FEE + 1) == {"Err": {"BadFee": {"expected_fee": FEE}}}
    assert balances(ledger, ALICE, BOB) == [1_000, 0]


def test_the_minter_mints_and_burns(canister):
    ledger = canister("ledger")
    assert transfer(ledger, MINTER, BOB, 500) == {"Ok": 0}
    assert transfer(ledger, BOB, MINTER, 200) == {"Ok": 1}
    assert transfer(ledger, BOB, MINTER, 1) == {"Err": {"BadBurn": {"min_burn_amount": FEE}}}
    assert balances(ledger, BOB, MINTER) == [300, 0]
    assert ledger.actor().icrc1_total_supply() == 1_300


def test_the_same_transfer_is_made_once(canister, subnet):
    ledger = canister("ledger")
    now = subnet.time_ns
    assert transfer(ledger, ALICE, BOB, 5, created_at_time=now) == {"Ok": 0}
    assert transfer(ledger, ALICE, BOB, 5, created_at_time=now) == {"Err": {"Duplicate": {"duplicate_of": 0}}}
    assert transfer(ledger, ALICE, BOB, 5, created_at_time=now, memo=b"another") == {"Ok": 1}
    subnet.advance_time("25h")
    assert transfer(ledger, ALICE, BOB, 5, created_at_time=now) == {"Err": {"TooOld": None}}


def test_subaccounts_are_accounts(canister):
    ledger = canister("ledger")
    savings = account(ALICE, bytes(31) + b"\1")
    assert transfer(ledger, ALICE, savings, 100) == {"Ok": 0}
    assert ledger.actor().icrc1_balance_of(savings) == 100
    assert ledger.actor().icrc1_balance_of(account(ALICE, bytes(32))) == 890, "zeros are the account without one"


def test_an_upgrade_keeps_balances_where_they_are(canister):
    ledger = canister("ledger")
    transfer(ledger, ALICE, BOB, 100)
    before = ledger.stable.read(0, ledger.stable.size() * 65_536)
    ledger.upgrade(MODULE)
    assert balances(ledger, ALICE, BOB) == [890, 100]
    assert ledger.stable.read(0, ledger.stable.size() * 65_536) == before
    rows = list(ledger.stable.tables["memory_1"])
    assert len(rows) == 2, "the balances, as they lie in stable memory"
