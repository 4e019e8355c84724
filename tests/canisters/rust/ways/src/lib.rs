//! What data is kept in, and as: one workload in each of the ways to keep it, one user in each format of a value.
//!
//! `benchmarks/ways_figures.py` and `benchmarks/cell_figures.py` drive it. Numbers are the replica's instructions,
//! counted around the loop alone, so neither the message nor its Candid is in them.

mod direct;
mod formats;
mod tree;
mod ways;

/// The interface, kept in the module where clients and `canister_metadata` look for it.
#[used]
#[unsafe(link_section = "icp:public candid:service")]
static SERVICE: [u8; include_bytes!("../ways.did").len()] = *include_bytes!("../ways.did");

#[ic_cdk::update]
fn prepare(way: u32, entries: u64) {
    ways::prepare(way, entries);
}

#[ic_cdk::update]
fn insert(way: u32, first: u64, count: u64) -> u64 {
    counted(|| ways::insert(way, first, count)).0
}

#[ic_cdk::update]
fn read(way: u32, entries: u64, first: u64, count: u64) -> (u64, u64) {
    counted(|| ways::read(way, entries, first..first + count))
}

#[ic_cdk::update]
fn bump(way: u32, entries: u64, first: u64, count: u64) -> (u64, u64) {
    counted(|| ways::bump(way, entries, first..first + count))
}

#[ic_cdk::update]
fn scan(way: u32) -> (u64, u64) {
    counted(|| ways::scan(way))
}

#[ic_cdk::update]
fn format(format: u32, what: u32, count: u64) -> (u64, u64, u64) {
    formats::measured(format, what, count)
}

#[ic_cdk::pre_upgrade]
fn save() {
    ways::save();
}

#[ic_cdk::post_upgrade]
fn restore() {
    ways::restore();
}

fn counted<T>(run: impl FnOnce() -> T) -> (u64, T) {
    let start = ic_cdk::api::performance_counter(0);
    let made = run();
    (ic_cdk::api::performance_counter(0) - start, made)
}
