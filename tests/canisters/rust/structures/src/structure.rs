//! One face for all structures: an operation is a number with a key and a value in the bytes of `Storable`.

use crate::{Base, Memory};
use ic_stable_structures::btreemap::BTreeMap;
use ic_stable_structures::memory_manager::{MemoryId, MemoryManager};
use ic_stable_structures::min_heap::MinHeap;
use ic_stable_structures::{BTreeSet, Cell, Log, Storable, Vec as StableVec};
use std::borrow::Cow;

/// Drops the structure and opens it again from its memory; replies nothing.
pub const REOPEN: u8 = 0xff;

const LEN: u8 = 0;
const CLEAR: u8 = 1;
const GET: u8 = 2;
const CONTAINS: u8 = 3;
const INSERT: u8 = 4;
const REMOVE: u8 = 5;
const FIRST: u8 = 6;
const LAST: u8 = 7;
const POP_FIRST: u8 = 8;
const POP_LAST: u8 = 9;
const ITER: u8 = 10;
const ITER_BACK: u8 = 11;
const KEYS: u8 = 12;
const VALUES: u8 = 13;
const RANGE: u8 = 14;
const RANGE_FROM: u8 = 15;
const RANGE_TO: u8 = 16;
const ITER_FROM_PREVIOUS: u8 = 17;
const UNION: u8 = 18;
const INTERSECTION: u8 = 19;
const SYMMETRIC_DIFFERENCE: u8 = 20;
const IS_SUBSET: u8 = 21;
const IS_SUPERSET: u8 = 22;
const IS_DISJOINT: u8 = 23;
const PUSH: u8 = 24;
const POP: u8 = 25;
const PEEK: u8 = 26;
const SET: u8 = 27;
const INDEX_SIZE: u8 = 28;
const DATA_SIZE: u8 = 29;
const RECODE_KEY: u8 = 30;
const RECODE_VALUE: u8 = 31;

pub trait Structure {
    /// Carries out one operation and appends its result to `reply`.
    fn apply(&mut self, opcode: u8, key: &[u8], value: &[u8], reply: &mut Vec<u8>, manager: &MemoryManager<Base>);
}

fn decode<T: Storable>(bytes: &[u8]) -> T {
    T::from_bytes(Cow::Borrowed(bytes))
}

fn index(key: &[u8]) -> u64 {
    u64::from_le_bytes(key.try_into().expect("an index has eight bytes"))
}

fn unknown(opcode: u8) -> ! {
    panic!("this structure has no operation {opcode}")
}

fn put_number(reply: &mut Vec<u8>, number: u64) {
    reply.extend(number.to_le_bytes());
}

fn put_bytes(reply: &mut Vec<u8>, bytes: &[u8]) {
    reply.extend((bytes.len() as u32).to_le_bytes());
    reply.extend(bytes);
}

fn put_optional<T: Storable>(reply: &mut Vec<u8>, value: Option<T>) {
    reply.push(value.is_some() as u8);
    if let Some(value) = value {
        reply.extend(value.into_bytes());
    }
}

fn put_pair<K: Storable, V: Storable>(reply: &mut Vec<u8>, pair: Option<(K, V)>) {
    reply.push(pair.is_some() as u8);
    if let Some((key, value)) = pair {
        put_bytes(reply, &key.to_bytes());
        put_bytes(reply, &value.to_bytes());
    }
}

fn put_all<T: Storable>(reply: &mut Vec<u8>, items: impl Iterator<Item = T>) {
    items.for_each(|item| put_bytes(reply, &item.to_bytes()));
}

fn put_pairs<K: Storable, V: Storable>(reply: &mut Vec<u8>, pairs: impl Iterator<Item = (K, V)>) {
    for (key, value) in pairs {
        put_bytes(reply, &key.to_bytes());
        put_bytes(reply, &value.to_bytes());
    }
}

impl<K: Storable + Ord + Clone, V: Storable> Structure for BTreeMap<K, V, Memory> {
    fn apply(&mut self, opcode: u8, key: &[u8], value: &[u8], reply: &mut Vec<u8>, _: &MemoryManager<Base>) {
        match opcode {
            LEN => put_number(reply, self.len()),
            CLEAR => self.clear_new(),
            GET => put_optional(reply, self.get(&decode(key))),
            CONTAINS => reply.push(self.contains_key(&decode(key)) as u8),
            INSERT => put_optional(reply, self.insert(decode(key), decode(value))),
            REMOVE => put_optional(reply, self.remove(&decode(key))),
            FIRST => put_pair(reply, self.first_key_value()),
            LAST => put_pair(reply, self.last_key_value()),
            POP_FIRST => put_pair(reply, self.pop_first()),
            POP_LAST => put_pair(reply, self.pop_last()),
            ITER => put_pairs(reply, self.iter().map(|entry| entry.into_pair())),
            ITER_BACK => put_pairs(reply, self.iter().rev().map(|entry| entry.into_pair())),
            KEYS => put_all(reply, self.keys()),
            VALUES => put_all(reply, self.values()),
            RANGE => put_pairs(reply, self.range(decode::<K>(key)..decode(value)).map(|entry| entry.into_pair())),
            RANGE_FROM => put_pairs(reply, self.range(decode::<K>(key)..).map(|entry| entry.into_pair())),
            RANGE_TO => put_pairs(reply, self.range(..=decode::<K>(key)).rev().map(|entry| entry.into_pair())),
            ITER_FROM_PREVIOUS => {
                put_pairs(reply, self.iter_from_prev_key(&decode(key)).map(|entry| entry.into_pair()))
            }
            RECODE_KEY => reply.extend(decode::<K>(key).into_bytes()),
            RECODE_VALUE => reply.extend(decode::<V>(value).into_bytes()),
            REOPEN => (),
            _ => unknown(opcode),
        }
    }
}

impl<K: Storable + Ord + Clone> Structure for BTreeSet<K, Memory> {
    fn apply(&mut self, opcode: u8, key: &[u8], value: &[u8], reply: &mut Vec<u8>, manager: &MemoryManager<Base>) {
        // The operations on two sets name the other one by its memory id.
        let other = || BTreeSet::<K, Memory>::init(manager.get(MemoryId::new(key[0])));
        match opcode {
            LEN => put_number(reply, self.len()),
            CLEAR => self.clear(),
            CONTAINS => reply.push(self.contains(&decode(key)) as u8),
            INSERT => reply.push(self.insert(decode(key)) as u8),
            REMOVE => reply.push(self.remove(&decode(key)) as u8),
            FIRST => put_optional(reply, self.first()),
            LAST => put_optional(reply, self.last()),
            POP_FIRST => put_optional(reply, self.pop_first()),
            POP_LAST => put_optional(reply, self.pop_last()),
            ITER => put_all(reply, self.iter()),
            RANGE => put_all(reply, self.range(decode::<K>(key)..decode(value))),
            RANGE_FROM => put_all(reply, self.range(decode::<K>(key)..)),
            UNION => put_all(reply, self.union(&other())),
            INTERSECTION => put_all(reply, self.intersection(&other())),
            SYMMETRIC_DIFFERENCE => put_all(reply, self.symmetric_difference(&other())),
            IS_SUBSET => reply.push(self.is_subset(&other()) as u8),
            IS_SUPERSET => reply.push(self.is_superset(&other()) as u8),
            IS_DISJOINT => reply.push(self.is_disjoint(&other()) as u8),
            RECODE_KEY => reply.extend(decode::<K>(key).into_bytes()),
            REOPEN => (),
            _ => unknown(opcode),
        }
    }
}

impl<T: Storable> Structure for StableVec<T, Memory> {
    fn apply(&mut self, opcode: u8, key: &[u8], value: &[u8], reply: &mut Vec<u8>, _: &MemoryManager<Base>) {
        match opcode {
            LEN => put_number(reply, self.len()),
            GET => put_optional(reply, self.get(index(key))),
            SET => self.set(index(key), &decode(value)),
            PUSH => self.push(&decode(value)),
            POP => put_optional(reply, self.pop()),
            ITER => put_all(reply, self.iter()),
            ITER_BACK => put_all(reply, self.iter().rev()),
            RECODE_VALUE => reply.extend(decode::<T>(value).into_bytes()),
            REOPEN => (),
            _ => unknown(opcode),
        }
    }
}

impl<T: Storable + PartialOrd> Structure for MinHeap<T, Memory> {
    fn apply(&mut self, opcode: u8, _: &[u8], value: &[u8], reply: &mut Vec<u8>, _: &MemoryManager<Base>) {
        match opcode {
            LEN => put_number(reply, self.len()),
            PUSH => self.push(&decode(value)),
            POP => put_optional(reply, self.pop()),
            PEEK => put_optional(reply, self.peek()),
            ITER => put_all(reply, self.iter()),
            RECODE_VALUE => reply.extend(decode::<T>(value).into_bytes()),
            REOPEN => (),
            _ => unknown(opcode),
        }
    }
}

impl<T: Storable> Structure for Log<T, Memory, Memory> {
    fn apply(&mut self, opcode: u8, key: &[u8], value: &[u8], reply: &mut Vec<u8>, _: &MemoryManager<Base>) {
        match opcode {
            LEN => put_number(reply, self.len()),
            GET => put_optional(reply, self.get(index(key))),
            PUSH => put_number(reply, self.append(&decode(value)).expect("the log cannot grow")),
            FIRST => put_optional(reply, self.first()),
            LAST => put_optional(reply, self.last()),
            ITER => put_all(reply, self.iter()),
            INDEX_SIZE => put_number(reply, self.index_size_bytes()),
            DATA_SIZE => put_number(reply, self.data_size_bytes()),
            RECODE_VALUE => reply.extend(decode::<T>(value).into_bytes()),
            REOPEN => (),
            _ => unknown(opcode),
        }
    }
}

impl<T: Storable> Structure for Cell<T, Memory> {
    fn apply(&mut self, opcode: u8, _: &[u8], value: &[u8], reply: &mut Vec<u8>, _: &MemoryManager<Base>) {
        match opcode {
            GET => reply.extend(self.get().to_bytes().as_ref()),
            SET => reply.extend(self.set(decode(value)).into_bytes()),
            RECODE_VALUE => reply.extend(decode::<T>(value).into_bytes()),
            REOPEN => (),
            _ => unknown(opcode),
        }
    }
}
