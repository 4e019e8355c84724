//! Balances on the heap, saved by the upgrade hooks as one Candid value at the start of stable memory.
//!
//! The older way to keep state, and still a common one: each upgrade reads and writes all of it. Ingress messages of
//! anonymous callers are refused by inspection.

use candid::{CandidType, Nat, Principal};
use ic_cdk::api;
use serde::Deserialize;
use std::cell::RefCell;
use std::collections::BTreeMap;

const LONGEST_MEMO_BYTES: usize = 32;

#[used]
#[unsafe(link_section = "icp:public candid:service")]
static SERVICE: [u8; include_bytes!("../ledger.did").len()] = *include_bytes!("../ledger.did");

#[derive(CandidType, Deserialize)]
struct Arguments {
    symbol: String,
    fee: Nat,
    holders: Vec<(Principal, Nat)>,
}

#[derive(CandidType, Deserialize)]
struct Transfer {
    to: Principal,
    amount: Nat,
    memo: Option<Vec<u8>>,
}

#[derive(CandidType)]
enum Error {
    InsufficientFunds { balance: Nat },
    TooLong { most: u64 },
    SelfTransfer,
}

#[derive(CandidType, Deserialize, Clone)]
struct Entry {
    from: Option<Principal>,
    to: Principal,
    amount: Nat,
    memo: Option<Vec<u8>>,
    time: u64,
}

#[derive(CandidType, Deserialize, Default)]
struct Ledger {
    symbol: String,
    fee: Nat,
    balances: BTreeMap<Principal, Nat>,
    entries: Vec<Entry>,
    upgrades: u32,
}

thread_local! {
    static LEDGER: RefCell<Ledger> = RefCell::default();
}

impl Ledger {
    fn balance(&self, holder: &Principal) -> Nat {
        self.balances.get(holder).cloned().unwrap_or_default()
    }

    /// Books an entry on its receiver and keeps it; the sender has been charged.
    fn book(&mut self, entry: Entry) -> u64 {
        *self.balances.entry(entry.to).or_default() += entry.amount.clone();
        self.entries.push(entry);
        self.entries.len() as u64 - 1
    }

    fn transfer(&mut self, from: Principal, transfer: Transfer, time: u64) -> Result<u64, Error> {
        if transfer.memo.as_ref().is_some_and(|memo| memo.len() > LONGEST_MEMO_BYTES) {
            return Err(Error::TooLong { most: LONGEST_MEMO_BYTES as u64 });
        }
        if transfer.to == from {
            return Err(Error::SelfTransfer);
        }
        let (balance, charge) = (self.balance(&from), transfer.amount.clone() + self.fee.clone());
        if balance < charge {
            return Err(Error::InsufficientFunds { balance });
        }
        self.balances.insert(from, balance - charge);
        Ok(self.book(Entry { from: Some(from), to: transfer.to, amount: transfer.amount, memo: transfer.memo, time }))
    }
}

#[ic_cdk::init]
fn init(arguments: Arguments) {
    LEDGER.with_borrow_mut(|ledger| {
        (ledger.symbol, ledger.fee) = (arguments.symbol, arguments.fee);
        for (to, amount) in arguments.holders {
            ledger.book(Entry { from: None, to, amount, memo: None, time: api::time() });
        }
    });
}

#[ic_cdk::pre_upgrade]
fn pre_upgrade() {
    ic_cdk::storage::stable_save((LEDGER.take(),)).expect("the ledger fits into stable memory");
}

#[ic_cdk::post_upgrade]
fn post_upgrade() {
    let (mut ledger,): (Ledger,) = ic_cdk::storage::stable_restore().expect("a ledger was saved");
    ledger.upgrades += 1;
    LEDGER.set(ledger);
}

#[ic_cdk::inspect_message]
fn inspect_message() {
    if api::msg_caller() != Principal::anonymous() {
        api::accept_message();
    }
}

#[ic_cdk::update]
fn transfer(transfer: Transfer) -> Result<u64, Error> {
    LEDGER.with_borrow_mut(|ledger| ledger.transfer(api::msg_caller(), transfer, api::time()))
}

#[ic_cdk::query]
fn balance_of(holder: Principal) -> Nat {
    LEDGER.with_borrow(|ledger| ledger.balance(&holder))
}

#[ic_cdk::query]
fn total() -> Nat {
    LEDGER.with_borrow(|ledger| ledger.balances.values().fold(Nat::default(), |sum, balance| sum + balance.clone()))
}

#[ic_cdk::query]
fn symbol() -> String {
    LEDGER.with_borrow(|ledger| ledger.symbol.clone())
}

#[ic_cdk::query]
fn entries(start: u64, most: u64) -> Vec<Entry> {
    LEDGER.with_borrow(|ledger| ledger.entries.iter().skip(start as usize).take(most as usize).cloned().collect())
}

#[ic_cdk::query]
fn upgrades() -> u32 {
    LEDGER.with_borrow(|ledger| ledger.upgrades)
}
