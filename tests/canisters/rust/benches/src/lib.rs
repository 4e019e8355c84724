//! Benchmarks by canbench: growth of both memories, scopes that repeat and nest, a map, what is printed, what fails.

use canbench_rs::{BenchResult, bench, bench_fn, bench_scope};
use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};
use ic_stable_structures::{DefaultMemoryImpl, StableBTreeMap};
use std::cell::RefCell;
use std::hint::black_box;

type Map = StableBTreeMap<u64, u64, VirtualMemory<DefaultMemoryImpl>>;

thread_local! {
    static GREETING: RefCell<String> = const { RefCell::new(String::new()) };
    static MAP: RefCell<Map> = RefCell::new(Map::init(
        MemoryManager::init(DefaultMemoryImpl::default()).get(MemoryId::new(7)),
    ));
}

#[ic_cdk::init]
fn init(greeting: Option<String>) {
    GREETING.set(greeting.unwrap_or_default());
}

#[bench]
fn nothing() {}

#[bench]
fn grow_heap() {
    black_box(vec![1u8; 1_000_000]);
}

#[bench(raw)]
fn grow_stable() -> BenchResult {
    ic_cdk::stable::stable_grow(3).unwrap();
    bench_fn(|| ic_cdk::stable::stable_grow(5).unwrap())
}

#[bench]
fn insert() {
    MAP.with_borrow_mut(|map| {
        for key in 0..1_000u64 {
            map.insert(key.wrapping_mul(0x9e37_79b9_7f4a_7c15), key);
        }
    });
}

#[bench]
fn scopes() {
    for round in 0..10u64 {
        let _scope = bench_scope("round");
        black_box((0..round * 100).sum::<u64>());
        let _inner = bench_scope("a scope: with # signs");
        black_box((0..round).product::<u64>());
    }
    descend(8);
}

fn descend(depth: u32) {
    if depth > 0 {
        let _scope = bench_scope("descend");
        descend(depth - 1);
        black_box(depth);
    }
}

#[bench]
fn greets() {
    GREETING.with_borrow(|text| {
        ic_cdk::api::debug_print(format!("greeting: {text}"));
        assert_eq!(text, "hello");
    });
}

#[bench]
fn environment() {
    assert_eq!(ic_cdk::api::env_var_value("COLOUR"), "blue");
}

#[bench]
fn stable_file() {
    let mut bytes = [0; 6];
    ic_cdk::stable::stable_read(0, &mut bytes);
    assert_eq!(&bytes, b"ABCDE\0");
}

#[unsafe(export_name = "canister_query __canbench__silent")]
fn silent() {}
