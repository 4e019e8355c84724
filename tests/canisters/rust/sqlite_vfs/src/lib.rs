//! SQLite by the crate ic-sqlite-vfs: a database behind a page of the crate's own, in one virtual memory.

use std::cell::RefCell;

use ic_sqlite_vfs::{Db, DefaultMemoryImpl, MemoryId, MemoryManager, params};

thread_local! {
    static MANAGER: RefCell<MemoryManager<DefaultMemoryImpl>> = RefCell::new(
        MemoryManager::init_strict(DefaultMemoryImpl::default()).expect("stable memory is empty, or managed"),
    );
}

fn open() {
    MANAGER.with(|manager| Db::init(manager.borrow().get(MemoryId::new(120))).expect("the database is opened"));
}

#[ic_cdk::init]
fn init() {
    open();
    Db::update(|connection| {
        connection.execute("create table person (id integer primary key, name text not null, age integer)", params![])
    })
    .expect("the table is created");
}

#[ic_cdk::post_upgrade]
fn post_upgrade() {
    open();
}

#[ic_cdk::update]
fn fill(count: i64) {
    Db::update(|connection| {
        connection.execute(
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < ?1)
             insert into person (name, age) select 'person ' || i, i % 90 from n",
            params![count],
        )
    })
    .expect("the rows are added");
}

#[ic_cdk::update]
fn add(name: String, age: i64) {
    Db::update(|connection| {
        connection.execute("insert into person (name, age) values (?1, ?2)", params![name, age])
    })
    .expect("the row is added");
}

/// Added, and then undone by the trap.
#[ic_cdk::update]
fn add_and_trap(name: String) {
    add(name, 0);
    ic_cdk::trap("as asked");
}

#[ic_cdk::query]
fn adults(age: i64) -> i64 {
    Db::query(|connection| {
        let mut statement = connection.prepare("select count(*) from person where age >= ?1")?;
        statement.query_optional_scalar::<i64>(params![age])
    })
    .expect("the rows are counted")
    .expect("there is a count")
}

#[ic_cdk::query]
fn check() -> String {
    Db::query(|connection| {
        let mut statement = connection.prepare("pragma integrity_check")?;
        statement.query_optional_scalar::<String>(params![])
    })
    .expect("the database is checked")
    .expect("there is a verdict")
}
