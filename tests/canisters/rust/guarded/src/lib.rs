//! A canister that refuses an upgrade itself: what it declares lies in its data, where a test writes something else.

mod guard;

use std::cell::RefCell;

use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};
use ic_stable_structures::{DefaultMemoryImpl, StableBTreeMap};

#[link(wasm_import_module = "ic0")]
unsafe extern "C" {
    fn msg_reply_data_append(from: usize, size: usize);
    fn msg_reply();
    fn trap(from: usize, size: usize) -> !;
}

const SIZE: usize = 512;

#[used]
static GUARD: [u8; SIZE] = {
    let text = b"perdure:schema 1\n= 0 users: btreemap, key u64, value u64\n";
    let mut padded = [b' '; SIZE];
    let mut index = 0;
    while index < text.len() {
        padded[index] = text[index];
        index += 1;
    }
    padded
};

type Memory = VirtualMemory<DefaultMemoryImpl>;

thread_local! {
    static MANAGER: MemoryManager<DefaultMemoryImpl> = MemoryManager::init(DefaultMemoryImpl::default());
    static USERS: RefCell<StableBTreeMap<u64, u64, Memory>> = RefCell::new(StableBTreeMap::init(memory(0)));
}

fn memory(id: u8) -> Memory {
    MANAGER.with(|manager| manager.get(MemoryId::new(id)))
}

fn check() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        unsafe { trap(text.as_ptr() as usize, text.len()) }
    }));
    // Volatile, so that the compiler does not believe what it sees.
    let guard = unsafe { core::ptr::read_volatile(&GUARD) };
    guard::check(&memory(254), std::str::from_utf8(&guard).unwrap());
}

#[unsafe(export_name = "canister_init")]
extern "C" fn init() {
    check();
}

#[unsafe(export_name = "canister_post_upgrade")]
extern "C" fn post_upgrade() {
    check();
    USERS.with_borrow_mut(|users| users.insert(7, 7)); // a mark of what comes after the check
}

#[unsafe(export_name = "canister_update add")]
extern "C" fn add() {
    USERS.with_borrow_mut(|users| users.insert(users.len(), 1));
    unsafe { msg_reply() };
}

#[unsafe(export_name = "canister_query count")]
extern "C" fn count() {
    let count = USERS.with_borrow(|users| users.len()).to_le_bytes();
    unsafe {
        msg_reply_data_append(count.as_ptr() as usize, count.len());
        msg_reply();
    }
}
