"""Stand-ins for the network's own canisters that `icp` talks to: two ledgers, and the one that mints cycles.

They do what a local network needs, by the real ones' interfaces: balances, transfers, allowances, cycles for ICP,
canisters for cycles. Left out is what vouches on the network: transactions are not deduplicated, blocks are not chained
or certified, and whoever is anonymous is rich. Their state is in stable memory, so that a new version of perdure takes
it over.

Interfaces: ICRC-1 and ICRC-2; dfinity/cycles-ledger; dfinity/ic (``rs/ledger_suite/icp``, ``rs/nns/cmc``).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from hashlib import sha224
from typing import Annotated, Any, Final

from perdure.ic.principal import ANONYMOUS, MANAGEMENT_CANISTER, Principal
from perdure.python.calls import call, ic, reject
from perdure.python.module import canister, query, update
from perdure.stable import StableBTreeMap
from perdure.subnet.subnet import Subnet
from perdure.values.annotations import nat, nat8, nat64, nat128

__all__ = ["STAND_INS", "CyclesLedger", "CyclesMinting", "IcpLedger", "provide"]

_MINTING: Final = Principal.from_text("rkp4c-7iaaa-aaaaa-aaaca-cai")
_CYCLES: Final = Principal.from_text("um5iw-rqaaa-aaaaq-qaaba-cai")
_ICP: Final = Principal.from_text("ryjl3-tyaaa-aaaaa-aaaba-cai")
_RICH_CYCLES: Final = (1 << 127) - 1
_RICH_E8S: Final = 10**17
_RESERVE_CYCLES: Final = 10**30
"""What the stand-ins have to give out: no balance of theirs is a limit."""
PERMYRIAD_PER_ICP: Final = 35_200
"""XDR for an ICP, in ten thousandths: 3.52 trillion cycles."""
_MINT, _CREATE = 0x544E494D, 0x41455243

ACCOUNT: Final = "record { owner : principal; subaccount : opt blob }"
TRANSFER: Final = (
    f"record {{ to : {ACCOUNT}; amount : nat; memo : opt blob; fee : opt nat; from_subaccount : opt blob;"
    " created_at_time : opt nat64 }"
)
_ERRORS: Final = (
    "BadFee : record { expected_fee : nat }; InsufficientFunds : record { balance : nat };"
    " GenericError : record { message : text; error_code : nat }"
)
TRANSFERRED: Final = f"variant {{ Ok : nat; Err : variant {{ {_ERRORS} }} }}"
APPROVE: Final = (
    f"record {{ from_subaccount : opt blob; spender : {ACCOUNT}; amount : nat; expected_allowance : opt nat;"
    " expires_at : opt nat64; fee : opt nat; memo : opt blob; created_at_time : opt nat64 }"
)
APPROVED: Final = (
    f"variant {{ Ok : nat; Err : variant {{ {_ERRORS}; AllowanceChanged : record {{ current_allowance : nat }};"
    " Expired : record { ledger_time : nat64 } } }"
)
ASKED: Final = f"record {{ account : {ACCOUNT}; spender : {ACCOUNT} }}"
ALLOWANCE: Final = "record { allowance : nat; expires_at : opt nat64 }"
TRANSFER_FROM: Final = (
    f"record {{ spender_subaccount : opt blob; from : {ACCOUNT}; to : {ACCOUNT}; amount : nat; fee : opt nat;"
    " memo : opt blob; created_at_time : opt nat64 }"
)
SPENT: Final = (
    f"variant {{ Ok : nat; Err : variant {{ {_ERRORS}; InsufficientAllowance : record {{ allowance : nat }} }} }}"
)
STANDARDS: Final = "vec record { name : text; url : text }"
METADATA: Final = "vec record { text; variant { Nat : nat; Int : int; Text : text; Blob : blob } }"
SETTINGS: Final = """record {
  controllers : opt vec principal; compute_allocation : opt nat; memory_allocation : opt nat;
  freezing_threshold : opt nat; reserved_cycles_limit : opt nat; wasm_memory_limit : opt nat;
  wasm_memory_threshold : opt nat; log_memory_limit : opt nat;
  log_visibility : opt variant { controllers; public; allowed_viewers : vec principal };
  environment_variables : opt vec record { name : text; value : text } }"""
CREATE: Final = f"(record {{ settings : opt {SETTINGS} }}) -> (record {{ canister_id : principal }})"
SELECTION: Final = "opt variant { Subnet : record { subnet : principal }; Filter : record { subnet_type : opt text } }"
NEW_CANISTER: Final = (
    "record { from_subaccount : opt blob; created_at_time : opt nat64; amount : nat;"
    f" creation_args : opt record {{ subnet_selection : {SELECTION}; settings : opt {SETTINGS} }} }}"
)
CREATED: Final = (
    "variant { Ok : record { block_id : nat; canister_id : principal }; Err : variant {"
    " InsufficientFunds : record { balance : nat };"
    " FailedToCreate : record { error : text; refund_block : opt nat; fee_block : opt nat } } }"
)
WITHDRAW: Final = "record { amount : nat; from_subaccount : opt blob; to : principal; created_at_time : opt nat64 }"
WITHDRAWN: Final = (
    f"variant {{ Ok : nat; Err : variant {{ {_ERRORS}; InvalidReceiver : record {{ receiver : principal }};"
    " FailedToWithdraw : record { fee_block : opt nat; rejection_reason : text; rejection_code : variant { NoError;"
    " CanisterError; SysTransient; DestinationInvalid; Unknown; SysFatal; CanisterReject } } } }"
)
DEPOSIT: Final = f"record {{ to : {ACCOUNT}; memo : opt blob }}"
DEPOSITED: Final = "record { balance : nat; block_index : nat }"
PAY: Final = (
    "record { to : blob; fee : record { e8s : nat64 }; memo : nat64; from_subaccount : opt blob;"
    " created_at_time : opt record { timestamp_nanos : nat64 }; amount : record { e8s : nat64 } }"
)
PAID: Final = (
    "variant { Ok : nat64; Err : variant { BadFee : record { expected_fee : record { e8s : nat64 } };"
    " InsufficientFunds : record { balance : record { e8s : nat64 } } } }"
)
NOTIFIED_ERROR: Final = (
    "variant { Refunded : record { block_index : opt nat64; reason : text }; InvalidTransaction : text;"
    " Other : record { error_message : text; error_code : nat64 }; Processing; TransactionTooOld : nat64 }"
)
NOTIFY_MINT: Final = "record { block_index : nat64; deposit_memo : opt blob; to_subaccount : opt blob }"
MINTED: Final = (
    f"variant {{ Ok : record {{ balance : nat; block_index : nat; minted : nat }}; Err : {NOTIFIED_ERROR} }}"
)
NOTIFY_CREATE: Final = (
    "record { block_index : nat64; controller : principal;"
    f" subnet_selection : {SELECTION}; settings : opt {SETTINGS} }}"
)
NOTIFIED_CREATE: Final = f"variant {{ Ok : principal; Err : {NOTIFIED_ERROR} }}"
RATE: Final = (
    "record { data : record { xdr_permyriad_per_icp : nat64; timestamp_seconds : nat64 };"
    " hash_tree : blob; certificate : blob }"
)


def account_id(owner: Principal, subaccount: bytes | None) -> bytes:
    """The 32 bytes that the ICP ledger knows an account by."""
    digest = sha224(b"\x0aaccount-id" + owner.raw_bytes + _padded(subaccount)).digest()
    return zlib.crc32(digest).to_bytes(4, "big") + digest


def _padded(subaccount: bytes | None) -> bytes:
    found = bytes(32) if subaccount is None else bytes(subaccount)
    if len(found) != 32:
        reject(f"a subaccount has 32 bytes, found {len(found)}")
    return found


def _key(account: dict[str, Any]) -> bytes:
    return account_id(account["owner"], account["subaccount"])


@dataclass
class Block:
    """A transfer, as far as others ask for it."""

    to: bytes
    amount: nat128
    memo: nat64
    is_notified: bool


@dataclass
class Allowance:
    """What one account may spend of another."""

    amount: nat128
    expires_at: nat64 | None


class _Ledger:
    """What is common to both: ICRC-1 and ICRC-2. Accounts go by their identifiers."""

    NAME = SYMBOL = ""
    DECIMALS = FEE = RICH = 0

    balances: StableBTreeMap[bytes, nat128]
    blocks: StableBTreeMap[nat64, Block]
    allowances: StableBTreeMap[bytes, Allowance]

    def _balance(self, account: bytes) -> int:
        rich = self.RICH if account == account_id(ANONYMOUS, None) else 0
        return self.balances.get(account, rich)

    def _block(self, to: bytes, amount: int, memo: int = 0) -> int:
        index = len(self.blocks)
        self.blocks[index] = Block(to, amount, memo, False)
        return index

    def _move(self, source: bytes, to: bytes, amount: int, fee: int | None, memo: int = 0) -> dict[str, Any]:
        if fee is not None and fee != self.FEE:
            return {"Err": {"BadFee": {"expected_fee": self.FEE}}}
        balance = self._balance(source)
        if balance < amount + self.FEE:
            return {"Err": {"InsufficientFunds": {"balance": balance}}}
        self.balances[source] = balance - amount - self.FEE
        self._add(to, amount)
        return {"Ok": self._block(to, amount, memo)}

    def _add(self, to: bytes, amount: int) -> None:
        balance = self._balance(to) + amount
        if balance >= 1 << 128:
            reject("a balance of more than 2^128")
        self.balances[to] = balance

    @query
    def icrc1_name(self) -> str:
        return self.NAME

    @query
    def icrc1_symbol(self) -> str:
        return self.SYMBOL

    @query
    def icrc1_decimals(self) -> nat8:
        return self.DECIMALS

    @query
    def icrc1_fee(self) -> nat:
        return self.FEE

    @query
    def icrc1_total_supply(self) -> nat:
        known = dict(self.balances.items())
        known.setdefault(account_id(ANONYMOUS, None), self.RICH)
        return sum(known.values())

    @query
    def icrc1_minting_account(self) -> Annotated[Any, f"opt {ACCOUNT}"]:
        return None

    @query
    def icrc1_metadata(self) -> Annotated[Any, METADATA]:
        return [
            ("icrc1:name", {"Text": self.NAME}),
            ("icrc1:symbol", {"Text": self.SYMBOL}),
            ("icrc1:decimals", {"Nat": self.DECIMALS}),
            ("icrc1:fee", {"Nat": self.FEE}),
        ]

    @query
    def icrc1_supported_standards(self) -> Annotated[Any, STANDARDS]:
        place = "https://github.com/dfinity/ICRC-1/tree/main/standards/"
        return [{"name": name, "url": place + name} for name in ("ICRC-1", "ICRC-2")]

    @query
    def icrc1_balance_of(self, account: Annotated[Any, ACCOUNT]) -> nat:
        return self._balance(_key(account))

    @update
    def icrc1_transfer(self, asked: Annotated[Any, TRANSFER]) -> Annotated[Any, TRANSFERRED]:
        source = account_id(ic.caller, asked["from_subaccount"])
        return self._move(source, _key(asked["to"]), asked["amount"], asked["fee"])

    @update
    def icrc2_approve(self, asked: Annotated[Any, APPROVE]) -> Annotated[Any, APPROVED]:
        source, spender = account_id(ic.caller, asked["from_subaccount"]), _key(asked["spender"])
        if asked["fee"] not in (None, self.FEE):
            return {"Err": {"BadFee": {"expected_fee": self.FEE}}}
        if asked["expires_at"] is not None and asked["expires_at"] < ic.time_ns:
            return {"Err": {"Expired": {"ledger_time": ic.time_ns}}}
        allowed = self._allowed(source, spender)
        if asked["expected_allowance"] not in (None, allowed):
            return {"Err": {"AllowanceChanged": {"current_allowance": allowed}}}
        balance = self._balance(source)
        if balance < self.FEE:
            return {"Err": {"InsufficientFunds": {"balance": balance}}}
        self.balances[source] = balance - self.FEE
        amount = min(asked["amount"], (1 << 128) - 1)
        self.allowances[source + spender] = Allowance(amount, asked["expires_at"])
        return {"Ok": self._block(source, 0)}

    def _allowed(self, source: bytes, spender: bytes) -> int:
        found = self.allowances.get(source + spender)
        is_over = found is None or (found.expires_at is not None and found.expires_at < ic.time_ns)
        return 0 if is_over or found is None else found.amount

    @query
    def icrc2_allowance(self, asked: Annotated[Any, ASKED]) -> Annotated[Any, ALLOWANCE]:
        source, spender = _key(asked["account"]), _key(asked["spender"])
        allowed = self._allowed(source, spender)
        found = self.allowances.get(source + spender) if allowed else None
        return {"allowance": allowed, "expires_at": None if found is None else found.expires_at}

    @update
    def icrc2_transfer_from(self, asked: Annotated[Any, TRANSFER_FROM]) -> Annotated[Any, SPENT]:
        source, spender = _key(asked["from"]), account_id(ic.caller, asked["spender_subaccount"])
        allowed, needed = self._allowed(source, spender), asked["amount"] + self.FEE
        if source != spender and allowed < needed:
            return {"Err": {"InsufficientAllowance": {"allowance": allowed}}}
        moved = self._move(source, _key(asked["to"]), asked["amount"], asked["fee"])
        if source != spender and "Ok" in moved:
            expires_at = self.allowances[source + spender].expires_at
            self.allowances[source + spender] = Allowance(allowed - needed, expires_at)
        return moved


@canister
class IcpLedger(_Ledger):
    """ICP: beside ICRC-1 and ICRC-2 the ledger's first interface, by identifiers of accounts."""

    NAME, SYMBOL, DECIMALS, FEE, RICH = "Internet Computer", "ICP", 8, 10_000, _RICH_E8S

    balances: StableBTreeMap[bytes, nat128]
    blocks: StableBTreeMap[nat64, Block]
    allowances: StableBTreeMap[bytes, Allowance]

    @update
    def transfer(self, asked: Annotated[Any, PAY]) -> Annotated[Any, PAID]:
        source, to = account_id(ic.caller, asked["from_subaccount"]), bytes(asked["to"])
        if len(to) != 32 or zlib.crc32(to[4:]).to_bytes(4, "big") != to[:4]:
            reject(f"{to.hex()} is no identifier of an account")
        moved = self._move(source, to, asked["amount"]["e8s"], asked["fee"]["e8s"], asked["memo"])
        error = moved.get("Err", {})
        if "BadFee" in error:
            return {"Err": {"BadFee": {"expected_fee": {"e8s": self.FEE}}}}
        if "InsufficientFunds" in error:
            return {"Err": {"InsufficientFunds": {"balance": {"e8s": error["InsufficientFunds"]["balance"]}}}}
        return moved

    @query
    def account_balance(
        self, asked: Annotated[Any, "record { account : blob }"]
    ) -> Annotated[Any, "record { e8s : nat64 }"]:
        return {"e8s": self._balance(bytes(asked["account"]))}

    @query
    def account_identifier(self, account: Annotated[Any, ACCOUNT]) -> bytes:
        return _key(account)

    @update
    def perdure_take(self, index: nat64, to: bytes, memo: nat64) -> nat64:
        """For the cycles minting canister: the e8s of a transfer to an account, once; 0: there is none."""
        found = self.blocks.get(index)
        if ic.caller != _MINTING or found is None or (found.to, found.memo, found.is_notified) != (to, memo, False):
            return 0
        self.blocks[index] = Block(found.to, found.amount, found.memo, True)
        return found.amount


@canister
class CyclesLedger(_Ledger):
    """Cycles that principals own, and what they buy: canisters, and cycles for canisters."""

    NAME, SYMBOL, DECIMALS, FEE, RICH = "Trillion Cycles", "TCYCLES", 12, 100_000_000, _RICH_CYCLES

    balances: StableBTreeMap[bytes, nat128]
    blocks: StableBTreeMap[nat64, Block]
    allowances: StableBTreeMap[bytes, Allowance]

    def _take(self, subaccount: bytes | None, amount: int) -> tuple[bytes, int | None]:
        """The caller's account, and its balance where that is too small."""
        source = account_id(ic.caller, subaccount)
        balance = self._balance(source)
        if balance < amount + self.FEE:
            return source, balance
        self.balances[source] = balance - amount - self.FEE
        return source, None

    @update
    async def create_canister(self, asked: Annotated[Any, NEW_CANISTER]) -> Annotated[Any, CREATED]:
        caller, amount = ic.caller, asked["amount"]
        source, missing = self._take(asked["from_subaccount"], amount)
        if missing is not None:
            return {"Err": {"InsufficientFunds": {"balance": missing}}}
        settings = dict((asked["creation_args"] or {}).get("settings") or {})
        settings["controllers"] = settings.get("controllers") or [caller]
        try:
            made = await call(
                MANAGEMENT_CANISTER, "create_canister", {"settings": settings}, signature=CREATE, cycles=amount
            )
        except Exception as error:
            self._add(source, amount)
            told = {"error": str(error), "refund_block": self._block(source, amount), "fee_block": None}
            return {"Err": {"FailedToCreate": told}}
        return {"Ok": {"block_id": self._block(b"", amount), "canister_id": made["canister_id"]}}

    @update
    async def withdraw(self, asked: Annotated[Any, WITHDRAW]) -> Annotated[Any, WITHDRAWN]:
        amount = asked["amount"]
        source, missing = self._take(asked["from_subaccount"], amount)
        if missing is not None:
            return {"Err": {"InsufficientFunds": {"balance": missing}}}
        signature = "(record { canister_id : principal }) -> ()"
        try:
            await call(
                MANAGEMENT_CANISTER, "deposit_cycles", {"canister_id": asked["to"]}, signature=signature, cycles=amount
            )
        except Exception as error:
            self._add(source, amount)
            told = {"fee_block": None, "rejection_reason": str(error), "rejection_code": {"CanisterError": None}}
            return {"Err": {"FailedToWithdraw": told}}
        return {"Ok": self._block(b"", amount)}

    @update
    def deposit(self, asked: Annotated[Any, DEPOSIT]) -> Annotated[Any, DEPOSITED]:
        amount = ic.accept_cycles(ic.cycles_available)
        if amount <= self.FEE:
            reject(f"a deposit of {amount} cycles, expected more than the fee of {self.FEE}")
        to = _key(asked["to"])
        self._add(to, amount - self.FEE)
        return {"balance": self._balance(to), "block_index": self._block(to, amount - self.FEE)}


@canister
class CyclesMinting:
    """Makes cycles, and canisters, of ICP that was sent to it."""

    @query
    def get_default_subnets(self) -> list[Principal]:
        return [ic.subnet_id]

    @query
    def get_subnet_types_to_subnets(self) -> Annotated[Any, "record { data : vec record { text; vec principal } }"]:
        return {"data": []}

    @query
    def get_icp_xdr_conversion_rate(self) -> Annotated[Any, RATE]:
        data = {"xdr_permyriad_per_icp": PERMYRIAD_PER_ICP, "timestamp_seconds": ic.time_ns // 10**9}
        return {"data": data, "hash_tree": b"", "certificate": b""}

    @update
    async def notify_mint_cycles(self, asked: Annotated[Any, NOTIFY_MINT]) -> Annotated[Any, MINTED]:
        caller = ic.caller
        cycles = await self._paid(asked["block_index"], caller, _MINT)
        if not cycles:
            return _invalid(asked["block_index"], caller)
        to = {"to": {"owner": caller, "subaccount": asked["to_subaccount"]}, "memo": asked["deposit_memo"]}
        found = await call(_CYCLES, "deposit", to, signature=f"({DEPOSIT}) -> ({DEPOSITED})", cycles=cycles)
        return {"Ok": {**found, "minted": cycles}}

    @update
    async def notify_create_canister(self, asked: Annotated[Any, NOTIFY_CREATE]) -> Annotated[Any, NOTIFIED_CREATE]:
        caller = ic.caller
        cycles = await self._paid(asked["block_index"], asked["controller"], _CREATE)
        if not cycles:
            return _invalid(asked["block_index"], caller)
        settings = dict(asked["settings"] or {})
        settings["controllers"] = settings.get("controllers") or [asked["controller"]]
        made = await call(
            MANAGEMENT_CANISTER, "create_canister", {"settings": settings}, signature=CREATE, cycles=cycles
        )
        return {"Ok": made["canister_id"]}

    async def _paid(self, index: int, payer: Principal, memo: int) -> int:
        """The cycles for what somebody has sent, once."""
        to = account_id(ic.id, bytes([len(payer.raw_bytes)]) + payer.raw_bytes.ljust(31, b"\0"))
        e8s = await call(_ICP, "perdure_take", index, to, memo, signature="(nat64, blob, nat64) -> (nat64)")
        return int(e8s) * PERMYRIAD_PER_ICP


def _invalid(index: int, payer: Principal) -> dict[str, Any]:
    words = f"block {index} is no transfer of {payer} to this canister with the right memo, or was notified before"
    return {"Err": {"InvalidTransaction": words}}


STAND_INS: Final = {_ICP: IcpLedger, _MINTING: CyclesMinting, _CYCLES: CyclesLedger}


def provide(subnet: Subnet) -> None:
    """Install those that are not there yet."""
    for canister_id, code in STAND_INS.items():
        if canister_id not in subnet:
            subnet.install(code, canister_id=canister_id, controllers=[canister_id], cycles=_RESERVE_CYCLES)
