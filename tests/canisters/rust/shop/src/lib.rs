//! Tables and verbs by perdure-data: what a prototype in Python has kept, and what it goes on with.
//!
//! `tests/data/test_rust.py` has the prototype. A first install makes the same models in the same bytes.

use std::cell::RefCell;

use candid::{CandidType, Deserialize, Nat, Principal};
use ic_stable_structures::DefaultMemoryImpl;
use ic_stable_structures::memory_manager::MemoryManager;
use perdure_data::{Column, Model, Store, Table, Value, Verb};
use serde::Serialize;
use serde_bytes::ByteBuf;

/// The interface, kept in the module where clients and `canister_metadata` look for it.
#[used]
#[unsafe(link_section = "icp:public candid:service")]
static SERVICE: [u8; include_bytes!("../shop.did").len()] = *include_bytes!("../shop.did");

#[derive(CandidType, Deserialize)]
struct User {
    id: u64,
    email: String,
    owner: Principal,
    balance: Nat,
    city: Option<String>,
    age: u8,
    score: f64,
    tags: Vec<String>,
}

/// A user as a row: numbers of a fixed size, and a list as its Candid message.
#[derive(Serialize, serde::Deserialize)]
struct Row {
    id: u64,
    email: String,
    owner: Principal,
    balance: u128,
    city: Option<String>,
    age: u8,
    score: f64,
    tags: ByteBuf,
}

impl From<User> for Row {
    fn from(user: User) -> Self {
        let User { id, email, owner, balance, city, age, score, tags } = user;
        let balance = balance.0.try_into().unwrap_or_else(|_| ic_cdk::trap("a balance past 128 bits"));
        let tags = ByteBuf::from(candid::encode_one(tags).expect("texts"));
        Row { id, email, owner, balance, city, age, score, tags }
    }
}

impl From<Row> for User {
    fn from(row: Row) -> Self {
        let Row { id, email, owner, balance, city, age, score, tags } = row;
        let tags = or_trap(candid::decode_one(&tags).map_err(|error| error.to_string()));
        User { id, email, owner, balance: balance.into(), city, age, score, tags }
    }
}

struct Shop {
    users: Table<DefaultMemoryImpl>,
    likes: Verb<DefaultMemoryImpl>,
}

thread_local! {
    static SHOP: RefCell<Shop> = RefCell::new(or_trap(open(false)));
}

fn open(is_new: bool) -> perdure_data::Result<Shop> {
    let manager = MemoryManager::init(DefaultMemoryImpl::default());
    let store = if is_new { create(Store::new(manager)?)? } else { Store::open(manager)? };
    Ok(Shop { users: store.table("users")?, likes: store.verb("trusts")? })
}

fn create(mut store: Store<DefaultMemoryImpl>) -> perdure_data::Result<Store<DefaultMemoryImpl>> {
    let columns = vec![
        Column::new("id", "u64"),
        Column::new("email", "String"),
        Column::new("owner", "Principal"),
        Column::new("balance", "u128"),
        Column::optional("city", "String"),
        Column { default: 18.into(), ..Column::new("age", "u8") },
        Column { default: 0.5.into(), ..Column::new("score", "f64") },
        Column::new("tags", "candid(vec text)"),
    ];
    let indexes: [&[&str]; 2] = [&["city"], &["age", "city"]];
    store.create(Model::table("users", columns, &["id"], &indexes, &[&["email"]])?)?;
    store.create(Model::verb("trusts", "uri", "uri", Some("u8"))?)?;
    Ok(store)
}

fn or_trap<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| ic_cdk::trap(error.to_string()))
}

fn read<T>(work: impl FnOnce(&Shop) -> perdure_data::Result<T>) -> T {
    SHOP.with_borrow(|shop| or_trap(work(shop)))
}

fn write<T>(work: impl FnOnce(&mut Shop) -> perdure_data::Result<T>) -> T {
    SHOP.with_borrow_mut(|shop| or_trap(work(shop)))
}

#[ic_cdk::init]
fn init() {
    or_trap(open(true));
}

#[ic_cdk::update]
fn put(user: User) {
    write(|shop| shop.users.put(&Row::from(user)));
}

#[ic_cdk::update]
fn insert(user: User) {
    write(|shop| shop.users.insert(&Row::from(user)));
}

#[ic_cdk::update]
fn remove(id: u64) -> bool {
    write(|shop| shop.users.remove(&[id.into()]))
}

#[ic_cdk::query]
fn all() -> Vec<User> {
    read(|shop| shop.users.iter::<Row>().map(|row| row.map(User::from)).collect())
}

#[ic_cdk::query]
fn of(city: Option<String>) -> Vec<User> {
    let city = city.map_or(Value::Null, Value::from);
    read(|shop| shop.users.by::<Row>(&["city"], &[city])?.map(|row| row.map(User::from)).collect())
}

#[ic_cdk::query]
fn aged(age: u8) -> Vec<User> {
    read(|shop| shop.users.by::<Row>(&["age", "city"], &[age.into()])?.map(|row| row.map(User::from)).collect())
}

#[ic_cdk::query]
fn by_email(email: String) -> Option<User> {
    read(|shop| shop.users.by::<Row>(&["email"], &[email.into()])?.next().transpose()).map(User::from)
}

/// Something of this canister's own.
fn uri(id: String) -> Value {
    Value::Array(vec![Value::Bytes(ic_cdk::api::canister_self().as_slice().to_vec()), id.into()])
}

fn own_id(uri: Value) -> String {
    uri.into_array().ok().and_then(|mut parts| parts.pop()).and_then(|id| id.into_text().ok()).expect("a text")
}

#[ic_cdk::update]
fn like(subject: String, object: String, weight: Option<u8>) -> bool {
    write(|shop| shop.likes.add(uri(subject), uri(object), weight.map(Value::from)))
}

#[ic_cdk::update]
fn unlike(subject: String, object: String) -> bool {
    write(|shop| shop.likes.remove(&uri(subject), &uri(object)))
}

#[ic_cdk::query]
fn likes(subject: String) -> Vec<String> {
    read(|shop| shop.likes.objects(&uri(subject))?.map(|found| found.map(own_id)).collect())
}

#[ic_cdk::query]
fn liked_by(object: String) -> Vec<String> {
    read(|shop| shop.likes.subjects(&uri(object))?.map(|found| found.map(own_id)).collect())
}
