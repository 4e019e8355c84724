//! SQLite by the crate ic-rusqlite: its library for wasm32-wasip1 keeps the database in stable memory.

use ic_rusqlite::with_connection;

#[ic_cdk::init]
fn init() {
    with_connection(|connection| {
        connection
            .execute("create table person (id integer primary key, name text not null, age integer)", ())
            .expect("the table is created");
    });
}

#[ic_cdk::update]
fn add(name: String, age: i64) -> i64 {
    with_connection(|connection| {
        connection
            .execute("insert into person (name, age) values (?1, ?2)", (name, age))
            .expect("the row is added");
        connection.last_insert_rowid()
    })
}

#[ic_cdk::update]
fn fill(count: i64) -> i64 {
    with_connection(|connection| {
        connection
            .execute(
                "with recursive n(i) as (select 1 union all select i + 1 from n where i < ?1)
                 insert into person (name, age) select 'person ' || i, i % 90 from n",
                (count,),
            )
            .expect("the rows are added") as i64
    })
}

/// Added, and then undone by the trap.
#[ic_cdk::update]
fn add_and_trap(name: String) {
    add(name, 0);
    ic_cdk::trap("as asked");
}

#[ic_cdk::query]
fn adults(age: i64) -> i64 {
    with_connection(|connection| {
        connection
            .query_row("select count(*) from person where age >= ?1", (age,), |row| row.get(0))
            .expect("the rows are counted")
    })
}

#[ic_cdk::query]
fn check() -> String {
    with_connection(|connection| {
        connection.query_row("pragma integrity_check", (), |row| row.get(0)).expect("the database is checked")
    })
}

ic_cdk::export_candid!();
