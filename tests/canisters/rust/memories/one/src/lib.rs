//! Memories of a canister's own, by function imports: `c/memories.c` in Rust, version 1.
//!
//! `users` stays, `cache` is emptied by an upgrade, `scratch` is gone after an entry; `users` can be given away.
#![no_std]

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}

#[link(wasm_import_module = "ic0")]
unsafe extern "C" {
    fn msg_arg_data_size() -> usize;
    fn msg_arg_data_copy(target: *mut u8, offset: usize, size: usize);
    fn msg_reply_data_append(source: *const u8, size: usize);
    fn msg_reply();
    fn call_new(
        callee: *const u8,
        callee_size: usize,
        name: *const u8,
        name_size: usize,
        reply: extern "C" fn(usize),
        reply_env: usize,
        reject: extern "C" fn(usize),
        reject_env: usize,
    );
    fn call_perform() -> u32;
}

#[link(wasm_import_module = "ic0_ext")]
unsafe extern "C" {
    fn call_memory_add(name: *const u8, name_size: usize, there: *const u8, there_size: usize);
}

macro_rules! memory {
    ($name:ident, $from:literal) => {
        mod $name {
            #[link(wasm_import_module = $from)]
            unsafe extern "C" {
                pub fn grow(pages: u64) -> u64;
                pub fn size() -> u64;
                #[link_name = "i64.load"]
                pub fn load(address: u64) -> u64;
                #[link_name = "i64.store"]
                pub fn store(address: u64, value: u64);
            }
        }
    };
}

memory!(users, "stable:users");
memory!(cache, "upgrade:cache");
memory!(scratch, "message:scratch");

unsafe fn show() {
    unsafe {
        let numbers = [
            users::load(8),
            if cache::size() > 0 { cache::load(8) } else { 0 },
            if scratch::size() > 0 { scratch::load(8) } else { 0 },
        ];
        msg_reply_data_append(numbers.as_ptr().cast(), size_of_val(&numbers));
        msg_reply();
    }
}

unsafe fn add() {
    unsafe {
        if cache::size() == 0 {
            cache::grow(1);
        }
        if scratch::size() == 0 {
            scratch::grow(1);
        }
        users::store(8, users::load(8) + 1);
        cache::store(8, cache::load(8) + 1);
        scratch::store(8, scratch::load(8) + 1);
    }
}

#[unsafe(export_name = "canister_init")]
extern "C" fn init() {
    unsafe { users::grow(1) };
}

#[unsafe(export_name = "canister_update add")]
extern "C" fn update_add() {
    unsafe {
        add();
        show();
    }
}

#[unsafe(export_name = "canister_update trap")]
extern "C" fn update_trap() {
    unsafe { add() };
    panic!()
}

#[unsafe(export_name = "canister_query show")]
extern "C" fn query_show() {
    unsafe { show() }
}

extern "C" fn given(_: usize) {
    unsafe { msg_reply() }
}

#[unsafe(export_name = "canister_update give")]
extern "C" fn update_give() {
    let mut callee = [0; 32];
    unsafe {
        let size = msg_arg_data_size();
        msg_arg_data_copy(callee.as_mut_ptr(), 0, size);
        call_new(callee.as_ptr(), size, "keep".as_ptr(), 4, given, 0, given, 0);
        call_memory_add("users".as_ptr(), 5, "archive".as_ptr(), 7);
        call_perform();
    }
}
