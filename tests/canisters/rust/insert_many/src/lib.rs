//! The demo's canister: a map in stable memory, filled by update messages of many entries each.
//!
//! The map lies in the virtual memory 0 of a memory manager, as it does in most canisters, so every access of a
//! B-tree node goes through the manager's bucket table. Nothing lives on the heap: an upgrade needs no hook.

use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};
use ic_stable_structures::{DefaultMemoryImpl, StableBTreeMap};
use std::cell::RefCell;

type Map = StableBTreeMap<u128, u128, VirtualMemory<DefaultMemoryImpl>>;

/// The interface, kept in the module where clients and `canister_metadata` look for it.
#[used]
#[unsafe(link_section = "icp:public candid:service")]
static SERVICE: [u8; include_bytes!("../insert_many.did").len()] = *include_bytes!("../insert_many.did");

thread_local! {
    static MAP: RefCell<Map> = RefCell::new(Map::init(
        MemoryManager::init(DefaultMemoryImpl::default()).get(MemoryId::new(0)),
    ));
}

#[ic_cdk::init]
fn init() {
    MAP.with_borrow(|_| ());
}

#[ic_cdk::update]
fn insert_many(entries: Vec<(u128, u128)>) {
    MAP.with_borrow_mut(|map| {
        for (key, value) in entries {
            map.insert(key, value);
        }
    });
}

#[ic_cdk::query]
fn get(key: u128) -> Option<u128> {
    MAP.with_borrow(|map| map.get(&key))
}

#[ic_cdk::query]
fn len() -> u64 {
    MAP.with_borrow(|map| map.len())
}
