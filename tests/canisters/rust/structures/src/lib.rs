//! Every structure of ic-stable-structures over a grid of key and value types, driven by a binary protocol.
//!
//! The heap keeps nothing but where the memory manager lies: each message opens the structures that it touches and
//! drops them at its end. So whatever is changed in stable memory between two messages, from outside, is what the
//! next message finds. `README.md` beside the sources describes the protocol.

mod catalog;
mod storable;
mod structure;

use ic_stable_structures::memory_manager::{MemoryManager, VirtualMemory};
use ic_stable_structures::{DefaultMemoryImpl, MAX_PAGES, RestrictedMemory};
use std::cell::Cell;
use std::collections::HashMap;
use structure::Structure;

type Base = RestrictedMemory<DefaultMemoryImpl>;
type Memory = VirtualMemory<Base>;

const DEFAULT_BUCKET_PAGES: u16 = 128;

thread_local! {
    /// Bucket size for a new memory manager, and the page of stable memory at which the manager starts.
    static LAYOUT: Cell<(u16, u64)> = const { Cell::new((DEFAULT_BUCKET_PAGES, 0)) };
}

fn manager() -> MemoryManager<Base> {
    let (bucket_pages, first_page) = LAYOUT.get();
    let base = RestrictedMemory::new(DefaultMemoryImpl::default(), first_page..MAX_PAGES);
    MemoryManager::init_with_bucket_size(base, bucket_pages)
}

/// Reads the request from front to back; a request that ends too early is a trap.
struct Request<'a>(&'a [u8]);

impl<'a> Request<'a> {
    fn bytes(&mut self, size: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at_checked(size).expect("the request ends in the middle of an operation");
        self.0 = rest;
        front
    }

    fn byte(&mut self) -> u8 {
        self.bytes(1)[0]
    }

    fn sized(&mut self) -> &'a [u8] {
        let size = u32::from_le_bytes(self.bytes(4).try_into().unwrap());
        self.bytes(size as usize)
    }
}

/// Carries out a row of operations; the reply is the row of their results.
fn execute(argument: Vec<u8>) -> Vec<u8> {
    let manager = manager();
    let mut open: HashMap<u8, Box<dyn Structure>> = HashMap::new();
    let mut request = Request(&argument);
    let mut reply = Vec::new();
    while !request.0.is_empty() {
        let (id, opcode) = (request.byte(), request.byte());
        let (key, value) = (request.sized(), request.sized());
        if opcode == structure::REOPEN {
            open.remove(&id);
        }
        let structure = open.entry(id).or_insert_with(|| catalog::open(id, &manager));
        let start = reply.len();
        reply.extend([0; 4]);
        structure.apply(opcode, key, value, &mut reply, &manager);
        let size = (reply.len() - start - 4) as u32;
        reply[start..start + 4].copy_from_slice(&size.to_le_bytes());
    }
    reply
}

fn set_layout(argument: Vec<u8>) {
    let mut request = Request(&argument);
    if !request.0.is_empty() {
        let bucket_pages = u16::from_le_bytes(request.bytes(2).try_into().unwrap());
        LAYOUT.set((bucket_pages, u64::from_le_bytes(request.bytes(8).try_into().unwrap())));
    }
}

fn raw(argument: Vec<u8>) -> Vec<u8> {
    argument
}

#[ic_cdk::init(decode_with = "raw")]
fn init(argument: Vec<u8>) {
    set_layout(argument);
    manager();
}

#[ic_cdk::post_upgrade(decode_with = "raw")]
fn post_upgrade(argument: Vec<u8>) {
    set_layout(argument);
    manager();
}

#[ic_cdk::update(decode_with = "raw", encode_with = "raw")]
fn update(argument: Vec<u8>) -> Vec<u8> {
    execute(argument)
}

#[ic_cdk::query(decode_with = "raw", encode_with = "raw")]
fn query(argument: Vec<u8>) -> Vec<u8> {
    execute(argument)
}

#[ic_cdk::query(decode_with = "raw", encode_with = "raw", name = "catalog")]
fn list(_argument: Vec<u8>) -> Vec<u8> {
    catalog::list().into_bytes()
}
