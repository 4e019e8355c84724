//! One workload, each way to keep its data: accounts of four numbers by a key of 64 bits.

use crate::direct::{Copied, Direct, Words};
use crate::tree::{FIELDS, Keyed, Table, Tree};
use candid::{CandidType, Deserialize, decode_one, encode_one};
use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};
use ic_stable_structures::storable::{Bound, Storable};
use ic_stable_structures::{DefaultMemoryImpl, Memory, StableBTreeMap};
use prost::Message;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

#[derive(CandidType, Deserialize, Clone, PartialEq, Message)]
pub struct Account {
    #[prost(uint64, tag = "1")]
    balance: u64,
    #[prost(uint64, tag = "2")]
    age: u64,
    #[prost(uint64, tag = "3")]
    visits: u64,
    #[prost(uint64, tag = "4")]
    city: u64,
}

#[derive(PartialEq, Message)]
struct Saved {
    #[prost(fixed64, repeated, tag = "1")]
    keys: Vec<u64>,
    #[prost(message, repeated, tag = "2")]
    accounts: Vec<Account>,
}

/// What a cell holds, and as what.
#[derive(Clone)]
struct AsCandid(Account);
#[derive(Clone)]
struct AsProtobuf(Account);
#[derive(Clone)]
struct AsFixed(Account);

impl Storable for AsCandid {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(encode_one(&self.0).unwrap())
    }
    fn into_bytes(self) -> Vec<u8> {
        encode_one(&self.0).unwrap()
    }
    fn from_bytes(bytes: Cow<[u8]>) -> Self {
        Self(decode_one(&bytes).unwrap())
    }
    const BOUND: Bound = Bound::Unbounded;
}

impl Storable for AsProtobuf {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.0.encode_to_vec())
    }
    fn into_bytes(self) -> Vec<u8> {
        self.0.encode_to_vec()
    }
    fn from_bytes(bytes: Cow<[u8]>) -> Self {
        Self(Account::decode(&*bytes).unwrap())
    }
    const BOUND: Bound = Bound::Unbounded;
}

impl Storable for AsFixed {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        let Account { balance, age, visits, city } = self.0;
        Cow::Owned([balance, age, visits, city].iter().flat_map(|one| one.to_le_bytes()).collect())
    }
    fn into_bytes(self) -> Vec<u8> {
        self.to_bytes().into_owned()
    }
    fn from_bytes(bytes: Cow<[u8]>) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at * 8..][..8].try_into().unwrap());
        Self(Account { balance: word(0), age: word(1), visits: word(2), city: word(3) })
    }
    const BOUND: Bound = Bound::Bounded { max_size: 32, is_fixed_size: true };
}

impl From<Account> for AsCandid {
    fn from(account: Account) -> Self {
        Self(account)
    }
}
impl From<Account> for AsProtobuf {
    fn from(account: Account) -> Self {
        Self(account)
    }
}
impl From<Account> for AsFixed {
    fn from(account: Account) -> Self {
        Self(account)
    }
}
impl AsMut<Account> for AsCandid {
    fn as_mut(&mut self) -> &mut Account {
        &mut self.0
    }
}
impl AsMut<Account> for AsProtobuf {
    fn as_mut(&mut self) -> &mut Account {
        &mut self.0
    }
}
impl AsMut<Account> for AsFixed {
    fn as_mut(&mut self) -> &mut Account {
        &mut self.0
    }
}

type Virtual = VirtualMemory<DefaultMemoryImpl>;

thread_local! {
    static MANAGER: RefCell<MemoryManager<DefaultMemoryImpl>> =
        RefCell::new(MemoryManager::init_with_bucket_size(DefaultMemoryImpl::default(), 16));
    static HEAP: RefCell<BTreeMap<u64, Account>> = const { RefCell::new(BTreeMap::new()) };
    static HASHED: RefCell<HashMap<u64, Account>> = RefCell::new(HashMap::new());
    static CANDID: RefCell<StableBTreeMap<u64, AsCandid, Virtual>> = RefCell::new(StableBTreeMap::init(memory(0)));
    static PROTOBUF: RefCell<StableBTreeMap<u64, AsProtobuf, Virtual>> =
        RefCell::new(StableBTreeMap::init(memory(0)));
    static FIXED: RefCell<StableBTreeMap<u64, AsFixed, Virtual>> = RefCell::new(StableBTreeMap::init(memory(0)));
    static WAY: Cell<u32> = const { Cell::new(0) };
}

/// Where hooks keep what the heap had.
const SAVED: u8 = 9;

fn memory(id: u8) -> Virtual {
    MANAGER.with_borrow(|manager| manager.get(MemoryId::new(id)))
}

/// A key that no other number has; neighbours lie far apart.
fn key(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn account(number: u64) -> Account {
    Account { balance: number * 7, age: number % 90, visits: 0, city: number % 4 }
}

/// What all ways can do.
trait Way {
    fn prepare(&self, _entries: u64) {}
    fn insert(&self, key: u64, account: Account);
    fn age(&self, key: u64) -> Option<u64>;
    fn bump(&self, key: u64) -> Option<u64>;
    /// The ages of all entries, added up.
    fn ages(&self) -> u64;
}

struct Heap;
struct Hashed;
struct InPlace<K, W>(std::marker::PhantomData<(K, W)>);
struct Cells<V: Storable + 'static>(&'static std::thread::LocalKey<RefCell<StableBTreeMap<u64, V, Virtual>>>);

impl Way for Heap {
    fn insert(&self, key: u64, account: Account) {
        HEAP.with_borrow_mut(|map| map.insert(key, account));
    }
    fn age(&self, key: u64) -> Option<u64> {
        HEAP.with_borrow(|map| map.get(&key).map(|one| one.age))
    }
    fn bump(&self, key: u64) -> Option<u64> {
        HEAP.with_borrow_mut(|map| map.get_mut(&key).map(bumped))
    }
    fn ages(&self) -> u64 {
        HEAP.with_borrow(|map| map.values().map(|one| one.age).sum())
    }
}

impl Way for Hashed {
    fn insert(&self, key: u64, account: Account) {
        HASHED.with_borrow_mut(|map| map.insert(key, account));
    }
    fn age(&self, key: u64) -> Option<u64> {
        HASHED.with_borrow(|map| map.get(&key).map(|one| one.age))
    }
    fn bump(&self, key: u64) -> Option<u64> {
        HASHED.with_borrow_mut(|map| map.get_mut(&key).map(bumped))
    }
    fn ages(&self) -> u64 {
        HASHED.with_borrow(|map| map.values().map(|one| one.age).sum())
    }
}

impl<V: Storable + From<Account> + AsMut<Account>> Way for Cells<V> {
    fn insert(&self, key: u64, account: Account) {
        self.0.with_borrow_mut(|map| map.insert(key, account.into()));
    }
    fn age(&self, key: u64) -> Option<u64> {
        self.0.with_borrow(|map| map.get(&key).map(|mut one| one.as_mut().age))
    }
    fn bump(&self, key: u64) -> Option<u64> {
        self.0.with_borrow_mut(|map| {
            let mut one = map.get(&key)?;
            let visits = bumped(one.as_mut());
            map.insert(key, one);
            Some(visits)
        })
    }
    fn ages(&self) -> u64 {
        self.0.with_borrow(|map| map.values().map(|mut one| one.as_mut().age).sum())
    }
}

impl<K: Keyed, W: Words> Way for InPlace<K, W> {
    fn prepare(&self, entries: u64) {
        K::prepare(entries);
    }
    fn insert(&self, key: u64, account: Account) {
        let at = K::place(key);
        let fields: [u64; FIELDS as usize] = [account.balance, account.age, account.visits, account.city];
        (0..FIELDS).for_each(|one| W::set(at + one * 8, fields[one as usize]));
    }
    fn age(&self, key: u64) -> Option<u64> {
        K::find(key).map(|at| W::word(at + 8))
    }
    fn bump(&self, key: u64) -> Option<u64> {
        K::find(key).map(|at| {
            let visits = W::word(at + 16) + 1;
            W::set(at + 16, visits);
            visits
        })
    }
    fn ages(&self) -> u64 {
        let mut sum = 0;
        K::each(&mut |at| sum += W::word(at + 8));
        sum
    }
}

fn bumped(account: &mut Account) -> u64 {
    account.visits += 1;
    account.visits
}

/// Run with a way, which the compiler knows in each: no call through a table is in the numbers.
fn with<T>(way: u32, run: impl FnOnce(&dyn Run) -> T) -> T {
    match way {
        0 | 2 | 3 => run(&Heap),
        1 => run(&Hashed),
        4 => run(&Cells(&CANDID)),
        5 => run(&Cells(&PROTOBUF)),
        6 => run(&Cells(&FIXED)),
        7 => run(&InPlace::<Tree<Copied>, Copied>(Default::default())),
        8 => run(&InPlace::<Table<Copied>, Copied>(Default::default())),
        9 => run(&InPlace::<Tree<Direct>, Direct>(Default::default())),
        10 => run(&InPlace::<Table<Direct>, Direct>(Default::default())),
        _ => panic!("no way {way}"),
    }
}

/// Whole loops, so that a way is chosen once for each message.
trait Run {
    fn prepared(&self, entries: u64);
    fn inserted(&self, first: u64, count: u64);
    fn read(&self, entries: u64, at: Range<u64>) -> u64;
    fn bumped(&self, entries: u64, at: Range<u64>) -> u64;
    fn scanned(&self) -> u64;
}

impl<T: Way> Run for T {
    fn prepared(&self, entries: u64) {
        self.prepare(entries);
    }
    fn inserted(&self, first: u64, count: u64) {
        (first..first + count).for_each(|number| self.insert(key(number), account(number)));
    }
    fn read(&self, entries: u64, at: Range<u64>) -> u64 {
        at.map(|at| self.age(key(picked(at, entries))).expect("an entry")).sum()
    }
    fn bumped(&self, entries: u64, at: Range<u64>) -> u64 {
        at.map(|at| self.bump(key(picked(at, entries))).expect("an entry")).sum()
    }
    fn scanned(&self) -> u64 {
        self.ages()
    }
}

fn picked(at: u64, entries: u64) -> u64 {
    at.wrapping_mul(7_919) % entries
}

pub fn prepare(way: u32, entries: u64) {
    WAY.set(way);
    with(way, |one| one.prepared(entries));
}

pub fn insert(way: u32, first: u64, count: u64) {
    with(way, |one| one.inserted(first, count));
}

pub fn read(way: u32, entries: u64, at: Range<u64>) -> u64 {
    with(way, |one| one.read(entries, at))
}

pub fn bump(way: u32, entries: u64, at: Range<u64>) -> u64 {
    with(way, |one| one.bumped(entries, at))
}

pub fn scan(way: u32) -> u64 {
    with(way, |one| one.scanned())
}

/// The hooks of ways 2 and 3: everything is written, and read.
pub fn save() {
    let data = HEAP.with_borrow(|map| match WAY.get() {
        2 => encode_one(map.iter().map(|(key, one)| (*key, one.clone())).collect::<Vec<_>>()).unwrap(),
        3 => Saved { keys: map.keys().copied().collect(), accounts: map.values().cloned().collect() }.encode_to_vec(),
        _ => Vec::new(),
    });
    if data.is_empty() {
        return;
    }
    let (kept, head) = (memory(SAVED), [WAY.get() as u64, data.len() as u64].map(u64::to_le_bytes).concat());
    kept.grow((data.len() as u64 + 16).div_ceil(65_536).saturating_sub(kept.size()));
    kept.write(0, &head);
    kept.write(16, &data);
}

pub fn restore() {
    let mut magic = [0; 3];
    if crate::direct::size() > 0 {
        crate::direct::read(0, &mut magic);
    }
    if magic != *b"MGR" || memory(SAVED).size() == 0 {
        return;
    }
    let (kept, mut head) = (memory(SAVED), [0; 16]);
    kept.read(0, &mut head);
    let mut data = vec![0; u64::from_le_bytes(head[8..].try_into().unwrap()) as usize];
    kept.read(16, &mut data);
    WAY.set(head[0].into());
    let made: BTreeMap<u64, Account> = if head[0] == 2 {
        decode_one::<Vec<(u64, Account)>>(&data).unwrap().into_iter().collect()
    } else {
        let saved = Saved::decode(&*data).unwrap();
        saved.keys.into_iter().zip(saved.accounts).collect()
    };
    HEAP.set(made);
}
