//! Maps from numbers, whatever their keys and values are written as.

use std::borrow::Cow;

use ic_stable_structures::storable::Bound;
use ic_stable_structures::{Memory, StableBTreeMap, Storable};

pub trait Map<T> {
    fn find(&self, id: u64) -> Option<T>;
    fn put(&mut self, id: u64, value: T);
    fn count(&self) -> u64;
}

pub trait As<T>: Storable {
    fn of(value: T) -> Self;
    fn out(self) -> T;
}

macro_rules! map {
    ($key:ty) => {
        impl<T, V: As<T>, M: Memory> Map<T> for StableBTreeMap<$key, V, M> {
            fn find(&self, id: u64) -> Option<T> {
                self.get(&(id as $key)).map(V::out)
            }
            fn put(&mut self, id: u64, value: T) {
                self.insert(id as $key, V::of(value));
            }
            fn count(&self) -> u64 {
                self.len()
            }
        }
    };
}
map!(u64);
map!(u32);

impl Map<String> for std::collections::BTreeMap<u64, User> {
    fn find(&self, id: u64) -> Option<String> {
        self.get(&id).map(|user| user.name.clone())
    }
    fn put(&mut self, id: u64, name: String) {
        self.insert(id, User { name });
    }
    fn count(&self) -> u64 {
        self.len() as u64
    }
}

/// A name as Candid has it: `record { name : text }`.
pub struct User {
    pub name: String,
}

const RECORD: &[u8] = b"DIDL\x01\x6c\x01\xcb\xe4\xfd\xc7\x04\x71\x01\x00";

impl Storable for User {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        let mut bytes = RECORD.to_vec();
        bytes.push(self.name.len() as u8);
        bytes.extend_from_slice(self.name.as_bytes());
        Cow::Owned(bytes)
    }
    fn into_bytes(self) -> Vec<u8> {
        self.to_bytes().into_owned()
    }
    fn from_bytes(bytes: Cow<'_, [u8]>) -> Self {
        assert!(bytes.starts_with(RECORD), "cannot decode a user");
        User { name: String::from_utf8(bytes[RECORD.len() + 1..].to_vec()).expect("a name") }
    }
    const BOUND: Bound = Bound::Unbounded;
}

impl As<String> for User {
    fn of(name: String) -> Self {
        User { name }
    }
    fn out(self) -> String {
        self.name
    }
}

/// A name as CBOR has it, if it is short: one byte of length.
pub struct Cbor {
    pub name: String,
}

impl Storable for Cbor {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        let mut bytes = vec![0x78, self.name.len() as u8];
        bytes.extend_from_slice(self.name.as_bytes());
        Cow::Owned(bytes)
    }
    fn into_bytes(self) -> Vec<u8> {
        self.to_bytes().into_owned()
    }
    fn from_bytes(bytes: Cow<'_, [u8]>) -> Self {
        assert_eq!((bytes[0], bytes[1] as usize), (0x78, bytes.len() - 2), "no CBOR text");
        Cbor { name: String::from_utf8(bytes[2..].to_vec()).expect("a name") }
    }
    const BOUND: Bound = Bound::Unbounded;
}

impl As<String> for Cbor {
    fn of(name: String) -> Self {
        Cbor { name }
    }
    fn out(self) -> String {
        self.name
    }
}

macro_rules! number {
    ($name:ident, $bytes:expr, $fixed:expr, $write:expr, $read:expr) => {
        pub struct $name(pub u64);
        impl Storable for $name {
            fn to_bytes(&self) -> Cow<'_, [u8]> {
                Cow::Owned($write(self.0))
            }
            fn into_bytes(self) -> Vec<u8> {
                $write(self.0)
            }
            fn from_bytes(bytes: Cow<'_, [u8]>) -> Self {
                $name($read(&bytes))
            }
            const BOUND: Bound = Bound::Bounded { max_size: $bytes, is_fixed_size: $fixed };
        }
        impl As<u64> for $name {
            fn of(value: u64) -> Self {
                $name(value)
            }
            fn out(self) -> u64 {
                self.0
            }
        }
    };
}

fn big(value: u64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn little(value: u64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn read_big(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("8 bytes"))
}

fn read_little(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}

number!(Plain, 8, false, big, read_big);
number!(Wide, 16, false, big, read_big);
number!(Said, 8, false, little, read_little);
