//! Rust with all of std for wasm32-wasip1 and no CDK: maps with random keys, printing, time, files, panics.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

#[link(wasm_import_module = "ic0")]
unsafe extern "C" {
    fn msg_arg_data_size() -> usize;
    fn msg_arg_data_copy(destination: *mut u8, offset: usize, size: usize);
    fn msg_reply_data_append(source: *const u8, size: usize);
    fn msg_reply();
    fn stable64_size() -> u64;
    fn stable64_grow(pages: u64) -> u64;
    fn stable64_read(destination: u64, offset: u64, size: u64);
    fn stable64_write(offset: u64, source: u64, size: u64);
}

thread_local! {
    static WORDS: RefCell<HashMap<String, usize>> = RefCell::default();
}

fn argument() -> String {
    let mut data = vec![0; unsafe { msg_arg_data_size() }];
    unsafe { msg_arg_data_copy(data.as_mut_ptr(), 0, data.len()) };
    String::from_utf8(data).expect("the argument is UTF-8")
}

fn reply(text: &str) {
    unsafe {
        msg_reply_data_append(text.as_ptr(), text.len());
        msg_reply();
    }
}

fn counter() -> u64 {
    let mut bytes = [0; 8];
    if unsafe { stable64_size() } > 0 {
        unsafe { stable64_read(bytes.as_mut_ptr() as u64, 0, 8) };
    }
    u64::from_le_bytes(bytes)
}

#[unsafe(export_name = "canister_update inc")]
fn inc() {
    let value = counter() + 1;
    if unsafe { stable64_size() } == 0 {
        unsafe { stable64_grow(1) };
    }
    unsafe { stable64_write(0, value.to_le_bytes().as_ptr() as u64, 8) };
    println!("counted to {value}");
    reply(&value.to_string());
}

#[unsafe(export_name = "canister_query count")]
fn count() {
    reply(&counter().to_string());
}

#[unsafe(export_name = "canister_update words")]
fn words() {
    WORDS.with_borrow_mut(|words| {
        for word in argument().split_whitespace() {
            *words.entry(word.to_owned()).or_default() += 1;
        }
        let mut known: Vec<_> = words.iter().map(|(word, count)| format!("{word}={count}")).collect();
        known.sort();
        eprintln!("{} words, {} of them {:?}", words.len(), known.len(), known);
        reply(&known.join(" "));
    });
}

#[unsafe(export_name = "canister_query world")]
fn world() {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).expect("time is past 1970").as_secs();
    let error = std::fs::read("/etc/hosts").expect_err("there are no files");
    let thread = std::thread::Builder::new().spawn(|| ()).is_err();
    reply(&format!("{seconds} {:?} {} {thread}", error.kind(), std::env::args().count()));
}

#[unsafe(export_name = "canister_update exit")]
fn exit() {
    std::process::exit(9);
}

#[unsafe(export_name = "canister_update panic")]
fn fail() {
    panic!("as asked: {}", argument());
}
