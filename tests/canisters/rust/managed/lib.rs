//! Whatever virtual memories a memory manager has: read all of them, grow all of them, by the crate's own code.
//!
//! One source for three versions of the crate; nothing is kept on the heap between messages.

use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};
use ic_stable_structures::{DefaultMemoryImpl, Memory, StableBTreeMap};

#[link(wasm_import_module = "ic0")]
unsafe extern "C" {
    fn msg_arg_data_size() -> usize;
    fn msg_arg_data_copy(to: usize, offset: usize, size: usize);
    fn msg_reply_data_append(from: usize, size: usize);
    fn msg_reply();
    fn trap(from: usize, size: usize) -> !;
}

const PAGE: u64 = 65_536;

fn argument() -> Vec<u8> {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        unsafe { trap(text.as_ptr() as usize, text.len()) }
    }));
    let mut bytes = vec![0; unsafe { msg_arg_data_size() }];
    unsafe { msg_arg_data_copy(bytes.as_mut_ptr() as usize, 0, bytes.len()) };
    bytes
}

fn reply(bytes: &[u8]) {
    unsafe {
        msg_reply_data_append(bytes.as_ptr() as usize, bytes.len());
        msg_reply();
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

type Part = VirtualMemory<DefaultMemoryImpl>;

/// Each memory that has pages, with its id.
fn memories() -> Vec<(u8, Part)> {
    let manager = MemoryManager::init(DefaultMemoryImpl::default());
    (0..255).map(|id| (id, manager.get(MemoryId::new(id)))).filter(|(_, memory)| memory.size() > 0).collect()
}

/// All bytes of a memory in one number: FNV-1a by words of 8 bytes.
fn digest(memory: &Part) -> u64 {
    let mut page = vec![0; PAGE as usize];
    let mut found = 0xcbf2_9ce4_8422_2325_u64;
    for at in 0..memory.size() {
        memory.read(at * PAGE, &mut page);
        for word in page.chunks(8) {
            found = (found ^ number(word)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    found
}

/// Id, pages, digest of each memory.
#[unsafe(export_name = "canister_query read")]
pub extern "C" fn read() {
    argument();
    let mut found = Vec::new();
    for (id, memory) in memories() {
        found.push(id);
        found.extend(memory.size().to_le_bytes());
        found.extend(digest(&memory).to_le_bytes());
    }
    reply(&found);
}

/// Grow each memory by a number of pages, which have to be zeros; leave a mark at both ends of what is new.
#[unsafe(export_name = "canister_update grow")]
pub extern "C" fn grow() {
    let pages = number(&argument());
    let mut grown = Vec::new();
    for (id, memory) in memories() {
        let old = memory.grow(pages);
        assert!(old >= 0, "memory {id} does not grow");
        let mut page = vec![0; PAGE as usize];
        for at in old as u64..memory.size() {
            memory.read(at * PAGE, &mut page);
            assert!(page.iter().all(|byte| *byte == 0), "page {at} of memory {id} is not zero");
        }
        memory.write(old as u64 * PAGE, &[id]);
        memory.write(memory.size() * PAGE - 1, &[id]);
        grown.push(id);
    }
    reply(&grown);
}

fn map(id: u8) -> StableBTreeMap<u64, u64, Part> {
    StableBTreeMap::init(MemoryManager::init(DefaultMemoryImpl::default()).get(MemoryId::new(id)))
}

/// How many entries a map has, and the sum of the values of 0, 1...
#[unsafe(export_name = "canister_query map")]
pub extern "C" fn entries() {
    let map = map(argument()[0]);
    let sum = (0..map.len()).fold(0_u64, |sum, key| sum.wrapping_add(map.get(&key).expect("a key is missing")));
    reply(&[map.len().to_le_bytes(), sum.to_le_bytes()].concat());
}

/// Put keys from 0 on into a map: id, how many, and what each value is more than its key.
#[unsafe(export_name = "canister_update fill")]
pub extern "C" fn fill() {
    let bytes = argument();
    let mut map = map(bytes[0]);
    for key in 0..number(&bytes[1..9]) {
        map.insert(key, key + number(&bytes[9..17]));
    }
    reply(&map.len().to_le_bytes());
}
