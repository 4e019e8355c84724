"""The stand-ins for the network's own canisters, by the interfaces that icp uses."""

from __future__ import annotations

import pytest

from perdure import ANONYMOUS, Principal, RejectError, Subnet
from perdure.gateway.standins import (
    STAND_INS,
    Allowance,
    Block,
    CyclesLedger,
    CyclesMinting,
    IcpLedger,
    _Ledger,
    account_id,
    provide,
)
from perdure.kit import canister, nat64, nat128, query
from perdure.stable import StableBTreeMap

ALICE, BOB = Principal(b"\1" * 29), Principal(b"\2" * 29)
IDS = {code: canister_id for canister_id, code in STAND_INS.items()}
MINTING = IDS[CyclesMinting]
MINT, CREATE = 0x544E494D, 0x41455243


@pytest.fixture(scope="module")
def _network():
    with Subnet() as subnet:
        provide(subnet)
        yield subnet


@pytest.fixture
def network(_network):
    fork = _network.fork()
    yield {code: fork.canister(canister_id) for code, canister_id in IDS.items()}
    fork.close()


def account(owner, subaccount=None):
    return {"owner": owner, "subaccount": subaccount}


def transfer(to, amount, **others):
    return {
        "to": account(to),
        "amount": amount,
        **dict.fromkeys(["memo", "fee", "from_subaccount", "created_at_time"]),
        **others,
    }


def pay(to, e8s, memo=0, fee=10_000):
    amounts = {"amount": {"e8s": e8s}, "fee": {"e8s": fee}}
    return {"to": to, **amounts, "memo": memo, "from_subaccount": None, "created_at_time": None}


def test_identifiers_of_accounts():
    # The anonymous principal's account as ic-ledger-types writes it.
    assert account_id(ANONYMOUS, None).hex() == "1c7a48ba6a562aa9eaa2481a9049cdf0433b9738c992d698c31d8abf89cadc79"


@pytest.mark.parametrize("code", [IcpLedger, CyclesLedger])
def test_transfers(network, code):
    ledger = network[code]
    anyone, alice = ledger.actor(), ledger.actor(ALICE)
    fee, rich = anyone.icrc1_fee(), anyone.icrc1_balance_of(account(ANONYMOUS))
    assert anyone.icrc1_transfer(transfer(ALICE, 10 * fee, fee=fee)) == {"Ok": 0}
    assert anyone.icrc1_balance_of(account(ANONYMOUS)) == rich - 11 * fee
    assert alice.icrc1_transfer(transfer(BOB, 4 * fee)) == {"Ok": 1}
    assert alice.icrc1_transfer(transfer(BOB, 5 * fee)) == {"Err": {"InsufficientFunds": {"balance": 5 * fee}}}
    assert alice.icrc1_transfer(transfer(BOB, 1, fee=1)) == {"Err": {"BadFee": {"expected_fee": fee}}}
    assert alice.icrc1_transfer(transfer(ALICE, fee)) == {"Ok": 2}
    assert [anyone.icrc1_balance_of(account(owner)) for owner in (ALICE, BOB)] == [4 * fee, 4 * fee]
    assert anyone.icrc1_total_supply() == rich - 3 * fee
    with pytest.raises(RejectError, match="a subaccount has 32 bytes"):
        alice.icrc1_transfer(transfer(BOB, 1, from_subaccount=b"short"))


def test_allowances(network):
    ledger = network[CyclesLedger]
    anyone, bob, fee = ledger.actor(), ledger.actor(BOB), 100_000_000
    nothing = dict.fromkeys(["from_subaccount", "expected_allowance", "expires_at", "fee", "memo", "created_at_time"])
    approve = {**nothing, "spender": account(BOB), "amount": 10 * fee}
    spend = {"from": account(ANONYMOUS), "to": account(ALICE), "amount": 4 * fee}
    spend |= dict.fromkeys(["spender_subaccount", "fee", "memo", "created_at_time"])
    assert bob.icrc2_transfer_from(spend) == {"Err": {"InsufficientAllowance": {"allowance": 0}}}
    assert "Ok" in anyone.icrc2_approve(approve)
    assert "AllowanceChanged" in anyone.icrc2_approve({**approve, "expected_allowance": 1})["Err"]
    assert "Expired" in anyone.icrc2_approve({**approve, "expires_at": 1})["Err"]
    assert "Ok" in bob.icrc2_transfer_from(spend)
    asked = {"account": account(ANONYMOUS), "spender": account(BOB)}
    assert anyone.icrc2_allowance(asked) == {"allowance": 5 * fee, "expires_at": None}
    assert "Ok" in bob.icrc2_transfer_from(spend)
    assert "InsufficientAllowance" in bob.icrc2_transfer_from(spend)["Err"]


def subaccount(payer):
    return account_id(MINTING, bytes([len(payer.raw_bytes)]) + payer.raw_bytes.ljust(31, b"\0"))


def test_minting(network):
    icp, minting, cycles = (network[code] for code in (IcpLedger, CyclesMinting, CyclesLedger))
    icp.actor().transfer(pay(account_id(ALICE, None), 10**10))
    block = icp.actor(ALICE).transfer(pay(subaccount(ALICE), 10**8, MINT))["Ok"]
    notify = {"block_index": block, "deposit_memo": None, "to_subaccount": None}
    assert "InvalidTransaction" in minting.actor(BOB).notify_mint_cycles(notify)["Err"]
    minted = minting.actor(ALICE).notify_mint_cycles(notify)["Ok"]
    rate = minting.actor().get_icp_xdr_conversion_rate()["data"]["xdr_permyriad_per_icp"]
    assert minted["minted"] == rate * 10**8
    assert cycles.actor().icrc1_balance_of(account(ALICE)) == minted["balance"] == minted["minted"] - 10**8
    assert "InvalidTransaction" in minting.actor(ALICE).notify_mint_cycles(notify)["Err"]
    assert icp.actor(ALICE).perdure_take(block, subaccount(ALICE), MINT) == 0


def test_canisters_for_cycles_and_for_icp(network):
    icp, minting, cycles = (network[code] for code in (IcpLedger, CyclesMinting, CyclesLedger))
    new = {"from_subaccount": None, "created_at_time": None, "amount": 10**12, "creation_args": None}
    poor = cycles.actor(ALICE).create_canister(new)
    assert poor == {"Err": {"InsufficientFunds": {"balance": 0}}}
    before = cycles.actor().icrc1_balance_of(account(ANONYMOUS))
    made = cycles.actor().create_canister(new)["Ok"]["canister_id"]
    assert cycles.actor().icrc1_balance_of(account(ANONYMOUS)) == before - 10**12 - 10**8
    few = cycles.actor().create_canister({**new, "amount": 1})["Err"]["FailedToCreate"]
    assert "500000000000" in few["error"].replace("_", "").replace(",", "")
    assert cycles.actor().icrc1_balance_of(account(ANONYMOUS)) == before - 10**12 - 2 * 10**8
    withdrawn = {"amount": 5, "from_subaccount": None, "to": made, "created_at_time": None}
    assert "Ok" in cycles.actor().withdraw(withdrawn)
    assert "FailedToWithdraw" in cycles.actor().withdraw({**withdrawn, "to": Principal.from_index(5)})["Err"]
    block = icp.actor().transfer(pay(subaccount(ANONYMOUS), 10**8, CREATE))["Ok"]
    notify = {"block_index": block, "controller": ANONYMOUS, "subnet_selection": None, "settings": None}
    assert isinstance(minting.actor().notify_create_canister(notify)["Ok"], Principal)
    assert "InvalidTransaction" in minting.actor().notify_create_canister(notify)["Err"]


def test_identifiers_that_are_none(network):
    with pytest.raises(RejectError, match="is no identifier of an account"):
        network[IcpLedger].actor().transfer(pay(bytes(32), 1))


def test_balances_outlive_a_new_version(tmp_path):
    with Subnet(tmp_path / "state") as subnet:
        provide(subnet)
        assert subnet.canister(IDS[IcpLedger]).actor().icrc1_transfer(transfer(ALICE, 7)) == {"Ok": 0}

    @canister(name=f"{IcpLedger.__module__}:IcpLedger")
    class Newer(_Ledger):
        NAME, SYMBOL, DECIMALS, FEE, RICH = "Newer", "ICP", 8, 20_000, 0
        balances: StableBTreeMap[bytes, nat128]
        blocks: StableBTreeMap[nat64, Block]
        allowances: StableBTreeMap[bytes, Allowance]

        @query
        def version(self) -> str:
            return "newer"

    with Subnet(tmp_path / "state", code=[Newer]) as subnet:
        provide(subnet)
        ledger = subnet.canister(IDS[IcpLedger]).actor()
        assert (ledger.version(), ledger.icrc1_balance_of(account(ALICE))) == ("newer", 7)
