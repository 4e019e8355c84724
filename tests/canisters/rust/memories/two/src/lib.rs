//! Memories of a canister's own, by function imports: `c/memories.c` in Rust, version 2.
//!
//! `users` are deprecated and only read; `archive` is what another canister has given.
#![no_std]

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}

#[link(wasm_import_module = "ic0")]
unsafe extern "C" {
    fn msg_reply_data_append(source: *const u8, size: usize);
    fn msg_reply();
}

macro_rules! memory {
    ($name:ident, $from:literal) => {
        mod $name {
            #[link(wasm_import_module = $from)]
            unsafe extern "C" {
                pub fn size() -> u64;
                #[link_name = "i64.load"]
                pub fn load(address: u64) -> u64;
                #[link_name = "i64.store"]
                pub fn store(address: u64, value: u64);
            }
        }
    };
}

memory!(users, "deprecated:users");
memory!(archive, "stable:archive");

#[unsafe(export_name = "canister_query show")]
extern "C" fn query_show() {
    unsafe {
        let numbers = [
            if users::size() > 0 { users::load(8) } else { 0 },
            if archive::size() > 0 { archive::load(8) } else { 0 },
        ];
        msg_reply_data_append(numbers.as_ptr().cast(), size_of_val(&numbers));
        msg_reply();
    }
}

#[unsafe(export_name = "canister_update keep")]
extern "C" fn update_keep() {
    unsafe { msg_reply() }
}

#[unsafe(export_name = "canister_update write")]
extern "C" fn update_write() {
    unsafe {
        users::store(8, 1);
        msg_reply();
    }
}

#[unsafe(export_name = "canister_update add")]
extern "C" fn update_add() {
    unsafe {
        archive::store(8, archive::load(8) + 10);
        msg_reply();
    }
}
