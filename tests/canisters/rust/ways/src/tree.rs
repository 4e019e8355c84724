//! An ordered tree and a hash table whose entries are read and written where they lie in stable memory.
//!
//! Both keep what they know of themselves in stable memory, so an upgrade has nothing to do.
//!
//! ```text
//! tree   word 0: address of the root, word 1: end of the last node; nodes of 64 words from byte 512 on
//! leaf   count << 1 | 1, then 12 keys, then 12 times 4 words
//! inner  count << 1, then 31 keys, then 32 addresses: what is under address n is less than key n
//! table  word 0: slots, a power of two; from byte 512 on slots of 6 words: 1 where it is taken, the key, 4 words
//! ```

use crate::direct::{Words, reserve};
use std::marker::PhantomData;

pub const FIELDS: u64 = 4;

const FIRST: u64 = 512;
const NODE: u64 = 512;
const LEAF_KEYS: u64 = 12;
const INNER_KEYS: u64 = 31;
const STEP: u64 = 64 * NODE;

/// Where the fields of an entry lie, by its key.
pub trait Keyed {
    fn prepare(entries: u64);
    /// The address of the fields, of an entry that is made where there is none.
    fn place(key: u64) -> u64;
    fn find(key: u64) -> Option<u64>;
    /// The addresses of the fields of all entries, by key where there is an order.
    fn each(run: &mut dyn FnMut(u64));
}

pub struct Tree<W>(PhantomData<W>);

impl<W: Words> Tree<W> {
    fn head(node: u64) -> (u64, bool) {
        let word = W::word(node);
        (word >> 1, word & 1 == 1)
    }

    fn key(node: u64, at: u64) -> u64 {
        W::word(node + 8 + at * 8)
    }

    fn child_address(node: u64, at: u64) -> u64 {
        node + 8 + (INNER_KEYS + at) * 8
    }

    fn fields(node: u64, at: u64) -> u64 {
        node + 8 + (LEAF_KEYS + at * FIELDS) * 8
    }

    /// How many of the keys are less than one, or equal to it as well.
    fn rank(node: u64, count: u64, key: u64, or_equal: bool) -> u64 {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = (low + high) / 2;
            let found = Self::key(node, middle);
            if found < key || (or_equal && found == key) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn made() -> u64 {
        let node = W::word(8);
        W::set(8, node + NODE);
        if (node - FIRST) % STEP == 0 {
            reserve(node + STEP);
        }
        node
    }

    fn moved(to: u64, from: u64, words: u64) {
        if to < from {
            (0..words).for_each(|at| W::set(to + at * 8, W::word(from + at * 8)));
        } else {
            (0..words).rev().for_each(|at| W::set(to + at * 8, W::word(from + at * 8)));
        }
    }

    fn under(node: u64, run: &mut dyn FnMut(u64)) {
        let (count, is_leaf) = Self::head(node);
        if is_leaf {
            (0..count).for_each(|at| run(Self::fields(node, at)));
        } else {
            (0..=count).for_each(|at| Self::under(W::word(Self::child_address(node, at)), run));
        }
    }

    fn is_full(node: u64) -> bool {
        let (count, is_leaf) = Self::head(node);
        count == if is_leaf { LEAF_KEYS } else { INNER_KEYS }
    }

    /// Split the full child number `at` of a node that has room.
    fn split(parent: u64, at: u64) {
        let child = W::word(Self::child_address(parent, at));
        let (count, is_leaf) = Self::head(child);
        let (left, right, middle) = (count / 2, Self::made(), Self::key(child, count / 2));
        // The middle key of a leaf stays in it; that of an inner node goes up.
        let first = if is_leaf { left } else { left + 1 };
        let kept = count - first;
        Self::moved(right + 8, child + 8 + first * 8, kept);
        if is_leaf {
            Self::moved(Self::fields(right, 0), Self::fields(child, first), kept * FIELDS);
        } else {
            Self::moved(Self::child_address(right, 0), Self::child_address(child, first), kept + 1);
        }
        W::set(right, kept << 1 | is_leaf as u64);
        W::set(child, left << 1 | is_leaf as u64);
        let (above, _) = Self::head(parent);
        Self::moved(parent + 8 + (at + 1) * 8, parent + 8 + at * 8, above - at);
        Self::moved(Self::child_address(parent, at + 2), Self::child_address(parent, at + 1), above - at);
        W::set(parent + 8 + at * 8, middle);
        W::set(Self::child_address(parent, at + 1), right);
        W::set(parent, (above + 1) << 1);
    }
}

impl<W: Words> Keyed for Tree<W> {
    fn prepare(_entries: u64) {
        reserve(FIRST + STEP);
        W::set(8, FIRST);
        let root = Self::made();
        W::set(root, 1);
        W::set(0, root);
    }

    fn place(key: u64) -> u64 {
        let mut node = W::word(0);
        if Self::is_full(node) {
            let root = Self::made();
            W::set(root, 0);
            W::set(Self::child_address(root, 0), node);
            W::set(0, root);
            Self::split(root, 0);
            node = root;
        }
        loop {
            let (count, is_leaf) = Self::head(node);
            if is_leaf {
                let at = Self::rank(node, count, key, false);
                if at == count || Self::key(node, at) != key {
                    Self::moved(node + 8 + (at + 1) * 8, node + 8 + at * 8, count - at);
                    Self::moved(Self::fields(node, at + 1), Self::fields(node, at), (count - at) * FIELDS);
                    W::set(node + 8 + at * 8, key);
                    W::set(node, (count + 1) << 1 | 1);
                }
                return Self::fields(node, at);
            }
            let mut at = Self::rank(node, count, key, true);
            if Self::is_full(W::word(Self::child_address(node, at))) {
                Self::split(node, at);
                at += (Self::key(node, at) <= key) as u64;
            }
            node = W::word(Self::child_address(node, at));
        }
    }

    fn find(key: u64) -> Option<u64> {
        let mut node = W::word(0);
        loop {
            let (count, is_leaf) = Self::head(node);
            if is_leaf {
                let at = Self::rank(node, count, key, false);
                return (at < count && Self::key(node, at) == key).then(|| Self::fields(node, at));
            }
            node = W::word(Self::child_address(node, Self::rank(node, count, key, true)));
        }
    }

    fn each(run: &mut dyn FnMut(u64)) {
        Self::under(W::word(0), run);
    }
}

/// Open addressing, half of the slots taken at most.
pub struct Table<W>(PhantomData<W>);

const SLOT: u64 = 8 * (2 + FIELDS);

impl<W: Words> Table<W> {
    fn slot(key: u64) -> (u64, bool) {
        let slots = W::word(0);
        let mut at = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
        loop {
            let address = FIRST + (at & (slots - 1)) * SLOT;
            let is_taken = W::word(address) == 1;
            if !is_taken || W::word(address + 8) == key {
                return (address, is_taken);
            }
            at = at.wrapping_add(1);
        }
    }
}

impl<W: Words> Keyed for Table<W> {
    fn prepare(entries: u64) {
        let slots = (2 * entries).next_power_of_two();
        reserve(FIRST + slots * SLOT);
        W::set(0, slots);
    }

    fn place(key: u64) -> u64 {
        let (address, is_taken) = Self::slot(key);
        if !is_taken {
            W::set(address, 1);
            W::set(address + 8, key);
        }
        address + 16
    }

    fn find(key: u64) -> Option<u64> {
        let (address, is_taken) = Self::slot(key);
        is_taken.then_some(address + 16)
    }

    fn each(run: &mut dyn FnMut(u64)) {
        let all = (0..W::word(0)).map(|at| FIRST + at * SLOT);
        all.filter(|at| W::word(*at) == 1).for_each(|at| run(at + 16));
    }
}
