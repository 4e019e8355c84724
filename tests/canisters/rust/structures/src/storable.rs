//! Types of the kind that applications write: their own order, their own bounds.

use ic_stable_structures::{Storable, storable::Bound};
use std::borrow::Cow;

/// A signed number in two's complement, big-endian: its order is not that of its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signed(pub i64);

impl Storable for Signed {
    const BOUND: Bound = Bound::Bounded { max_size: 8, is_fixed_size: true };

    fn to_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.0.to_be_bytes().to_vec())
    }

    fn into_bytes(self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    fn from_bytes(bytes: Cow<[u8]>) -> Self {
        Self(i64::from_be_bytes(bytes.as_ref().try_into().unwrap()))
    }
}

/// A struct of fixed width with little-endian fields, ordered by `time` and then `id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    pub time: u64,
    pub id: u32,
}

impl Storable for Event {
    const BOUND: Bound = Bound::Bounded { max_size: 12, is_fixed_size: true };

    fn to_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.into_bytes())
    }

    fn into_bytes(self) -> Vec<u8> {
        let mut bytes = self.id.to_le_bytes().to_vec();
        bytes.extend(self.time.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: Cow<[u8]>) -> Self {
        let (id, time) = bytes.split_at(4);
        Self { time: u64::from_le_bytes(time.try_into().unwrap()), id: u32::from_le_bytes(id.try_into().unwrap()) }
    }
}

/// A record with a bound that it rarely fills: age in one byte, then the name, at most 40 bytes in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Person {
    pub age: u8,
    pub name: String,
}

impl Storable for Person {
    const BOUND: Bound = Bound::Bounded { max_size: 40, is_fixed_size: false };

    fn to_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.clone().into_bytes())
    }

    fn into_bytes(self) -> Vec<u8> {
        let mut bytes = vec![self.age];
        bytes.extend(self.name.into_bytes());
        bytes
    }

    fn from_bytes(bytes: Cow<[u8]>) -> Self {
        Self { age: bytes[0], name: String::from_utf8(bytes[1..].to_vec()).unwrap() }
    }
}
