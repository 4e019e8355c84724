//! An ICRC-1 ledger whose balances and transfers lie in stable memory, so that an upgrade has nothing to save.
//!
//! | memory | structure | what |
//! |---|---|---|
//! | 0 | cell | symbol, name, fee, minting account, number of transfers, total supply |
//! | 1 | map | balances, by owner and subaccount |
//! | 2 | map | what was transferred lately, by time and hash, to answer `Duplicate` |
//!
//! Standard: ICRC-1 of 2023, github.com/dfinity/ICRC-1, with its rules for deduplication.

use candid::{CandidType, Decode, Encode, Nat, Principal};
use ic_cdk::api;
use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};
use ic_stable_structures::storable::Bound;
use ic_stable_structures::{DefaultMemoryImpl, StableBTreeMap, StableCell, Storable};
use serde::Deserialize;
use std::borrow::Cow;
use std::cell::RefCell;

const WINDOW_NANOSECONDS: u64 = 24 * 3600 * 1_000_000_000;
const DRIFT_NANOSECONDS: u64 = 120 * 1_000_000_000;

#[used]
#[unsafe(link_section = "icp:public candid:service")]
static SERVICE: [u8; include_bytes!("../ledger.did").len()] = *include_bytes!("../ledger.did");

#[derive(CandidType, Deserialize, Clone, PartialEq)]
struct Account {
    owner: Principal,
    subaccount: Option<Vec<u8>>,
}

impl Account {
    /// The owner's length and bytes, and the subaccount, which is zeros if it is none: 62 bytes, equal where accounts are.
    fn key(&self) -> Key {
        let owner = self.owner.as_slice();
        let mut key = [0; 62];
        key[0] = owner.len() as u8;
        key[1..=owner.len()].copy_from_slice(owner);
        if let Some(subaccount) = &self.subaccount {
            assert!(subaccount.len() == 32, "a subaccount has 32 bytes");
            key[30..].copy_from_slice(subaccount);
        }
        Key(key)
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key([u8; 62]);

impl Storable for Key {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.0)
    }
    fn into_bytes(self) -> Vec<u8> {
        self.0.to_vec()
    }
    fn from_bytes(bytes: Cow<[u8]>) -> Self {
        Key(bytes.as_ref().try_into().expect("62 bytes"))
    }
    const BOUND: Bound = Bound::Bounded { max_size: 62, is_fixed_size: true };
}

#[derive(CandidType, Deserialize)]
struct Init {
    symbol: String,
    name: String,
    fee: Nat,
    minting_account: Account,
    initial_balances: Vec<(Account, Nat)>,
}

#[derive(CandidType, Deserialize, Clone)]
struct Facts {
    symbol: String,
    name: String,
    fee: Nat,
    minting_account: Option<Account>,
    transfers: u64,
    supply: Nat,
}

impl Storable for Facts {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(Encode!(self).expect("facts are Candid"))
    }
    fn into_bytes(self) -> Vec<u8> {
        Encode!(&self).expect("facts are Candid")
    }
    fn from_bytes(bytes: Cow<[u8]>) -> Self {
        Decode!(&bytes, Facts).expect("facts are Candid")
    }
    const BOUND: Bound = Bound::Unbounded;
}

#[derive(CandidType, Deserialize)]
struct TransferArg {
    from_subaccount: Option<Vec<u8>>,
    to: Account,
    amount: Nat,
    fee: Option<Nat>,
    memo: Option<Vec<u8>>,
    created_at_time: Option<u64>,
}

#[derive(CandidType)]
enum TransferError {
    BadFee { expected_fee: Nat },
    BadBurn { min_burn_amount: Nat },
    InsufficientFunds { balance: Nat },
    TooOld,
    CreatedInFuture { ledger_time: u64 },
    Duplicate { duplicate_of: Nat },
    #[allow(dead_code)]
    TemporarilyUnavailable,
    GenericError { error_code: Nat, message: String },
}

#[derive(CandidType)]
enum Value {
    Nat(Nat),
    Text(String),
}

#[derive(CandidType)]
struct Standard {
    name: String,
    url: String,
}

type Memory = VirtualMemory<DefaultMemoryImpl>;

thread_local! {
    static MEMORIES: RefCell<MemoryManager<DefaultMemoryImpl>> =
        RefCell::new(MemoryManager::init(DefaultMemoryImpl::default()));
    static FACTS: RefCell<StableCell<Facts, Memory>> = RefCell::new(StableCell::init(memory(0), Facts {
        symbol: String::new(), name: String::new(), fee: Nat::default(), minting_account: None, transfers: 0,
        supply: Nat::default(),
    }));
    static BALANCES: RefCell<StableBTreeMap<Key, u128, Memory>> = RefCell::new(StableBTreeMap::init(memory(1)));
    /// By the time that it says and its hash: the number of the transfer. What is too old to come again goes.
    static RECENT: RefCell<StableBTreeMap<(u64, u128), u64, Memory>> = RefCell::new(StableBTreeMap::init(memory(2)));
}

fn memory(id: u8) -> Memory {
    MEMORIES.with_borrow(|memories| memories.get(MemoryId::new(id)))
}

fn facts() -> Facts {
    FACTS.with_borrow(|cell| cell.get().clone())
}

fn amount(value: &Nat) -> Result<u128, TransferError> {
    value.0.clone().try_into().map_err(|_| TransferError::GenericError {
        error_code: Nat::from(1u8),
        message: "amounts have 128 bits".to_string(),
    })
}

fn balance(account: &Key) -> u128 {
    BALANCES.with_borrow(|balances| balances.get(account).unwrap_or(0))
}

fn set(account: Key, value: u128) {
    BALANCES.with_borrow_mut(|balances| {
        if value == 0 { balances.remove(&account) } else { balances.insert(account, value) };
    });
}

#[ic_cdk::init]
fn init(init: Init) {
    let mut supply = 0;
    for (account, value) in &init.initial_balances {
        let value = amount(value).ok().expect("an initial balance has 128 bits");
        supply += value;
        set(account.key(), balance(&account.key()) + value);
    }
    FACTS.with_borrow_mut(|cell| {
        cell.set(Facts {
            symbol: init.symbol, name: init.name, fee: init.fee, minting_account: Some(init.minting_account),
            transfers: 0, supply: Nat::from(supply),
        })
    });
}

#[ic_cdk::post_upgrade]
fn post_upgrade() {
    // Everything is where it was. Touched once, so that what does not fit traps here, where the upgrade is undone.
    FACTS.with_borrow(|_| ());
    BALANCES.with_borrow(|balances| balances.len());
}

/// A number that is the same for the same transfer, and no other in practice: FNV-1a of 128 bits over its Candid.
fn hash(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0x6c62272e07bb014262b821756295c58d, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000000001000000000000000000013B)
    })
}

/// Refuses what was transferred already, or at a time that is none; otherwise what to remember of it.
fn deduplicated(arg: &TransferArg, caller: Principal, now: u64) -> Result<Option<(u64, u128)>, TransferError> {
    let Some(created) = arg.created_at_time else { return Ok(None) };
    if created.saturating_add(WINDOW_NANOSECONDS + DRIFT_NANOSECONDS) < now {
        return Err(TransferError::TooOld);
    }
    if created > now + DRIFT_NANOSECONDS {
        return Err(TransferError::CreatedInFuture { ledger_time: now });
    }
    let key = (created, hash(&Encode!(&caller, arg).expect("a transfer is Candid")));
    match RECENT.with_borrow(|recent| recent.get(&key)) {
        Some(number) => Err(TransferError::Duplicate { duplicate_of: Nat::from(number) }),
        None => Ok(Some(key)),
    }
}

#[ic_cdk::update]
fn icrc1_transfer(arg: TransferArg) -> Result<Nat, TransferError> {
    let (caller, now, mut facts) = (api::msg_caller(), api::time(), facts());
    let from = Account { owner: caller, subaccount: arg.from_subaccount.clone() };
    let minter = facts.minting_account.clone().expect("the ledger has a minting account").key();
    let (from, to) = (from.key(), arg.to.key());
    let (is_mint, is_burn) = (from == minter, to == minter);
    let (value, usual) = (amount(&arg.amount)?, amount(&facts.fee)?);
    let expected = if is_mint || is_burn { 0 } else { usual };
    if arg.fee.as_ref().is_some_and(|fee| *fee != Nat::from(expected)) {
        return Err(TransferError::BadFee { expected_fee: Nat::from(expected) });
    }
    if is_burn && value < usual {
        return Err(TransferError::BadBurn { min_burn_amount: Nat::from(usual) });
    }
    let remember = deduplicated(&arg, caller, now)?;
    if !is_mint {
        let there = balance(&from);
        let Some(left) = value.checked_add(expected).and_then(|charge| there.checked_sub(charge)) else {
            return Err(TransferError::InsufficientFunds { balance: Nat::from(there) });
        };
        set(from, left);
    }
    if !is_burn {
        set(to.clone(), balance(&to).checked_add(value).expect("a balance has 128 bits"));
    }
    if is_mint {
        facts.supply += value;
    }
    facts.supply -= if is_burn { value } else { expected };
    let number = facts.transfers;
    facts.transfers += 1;
    FACTS.with_borrow_mut(|cell| cell.set(facts));
    if let Some(key) = remember {
        RECENT.with_borrow_mut(|recent| {
            recent.insert(key, number);
            let oldest = now.saturating_sub(WINDOW_NANOSECONDS + DRIFT_NANOSECONDS);
            for _ in 0..2 {
                if recent.first_key_value().is_some_and(|((created, _), _)| created < oldest) {
                    recent.pop_first();
                }
            }
        });
    }
    Ok(Nat::from(number))
}

#[ic_cdk::query]
fn icrc1_balance_of(account: Account) -> Nat {
    Nat::from(balance(&account.key()))
}

#[ic_cdk::query]
fn icrc1_total_supply() -> Nat {
    facts().supply
}

#[ic_cdk::query]
fn icrc1_name() -> String {
    facts().name
}

#[ic_cdk::query]
fn icrc1_symbol() -> String {
    facts().symbol
}

#[ic_cdk::query]
fn icrc1_decimals() -> u8 {
    8
}

#[ic_cdk::query]
fn icrc1_fee() -> Nat {
    facts().fee
}

#[ic_cdk::query]
fn icrc1_minting_account() -> Option<Account> {
    facts().minting_account
}

#[ic_cdk::query]
fn icrc1_metadata() -> Vec<(String, Value)> {
    let facts = facts();
    vec![
        ("icrc1:name".to_string(), Value::Text(facts.name)),
        ("icrc1:symbol".to_string(), Value::Text(facts.symbol)),
        ("icrc1:decimals".to_string(), Value::Nat(Nat::from(8u8))),
        ("icrc1:fee".to_string(), Value::Nat(facts.fee)),
    ]
}

#[ic_cdk::query]
fn icrc1_supported_standards() -> Vec<Standard> {
    vec![Standard { name: "ICRC-1".to_string(), url: "https://github.com/dfinity/ICRC-1".to_string() }]
}
