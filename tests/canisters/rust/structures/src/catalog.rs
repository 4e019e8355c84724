//! The grid: which structure of which types lies in which memory. A log has the memory behind its own for its data.

use crate::storable::{Event, Person, Signed};
use crate::structure::Structure;
use crate::{Base, Memory};
use candid::Principal;
use ic_stable_structures::memory_manager::{MemoryId, MemoryManager};
use ic_stable_structures::storable::{Blob, Bound, Storable};
use ic_stable_structures::{BTreeMap, BTreeSet, Cell, Log, MinHeap, Vec as StableVec};
use std::cmp::Reverse;
use std::fmt::Write;

/// The bounds of a type as `max` or `max!` where it is fixed, `-` where there are none.
fn bound<T: Storable>() -> String {
    match T::BOUND {
        Bound::Unbounded => "-".into(),
        Bound::Bounded { max_size, is_fixed_size } => format!("{max_size}{}", if is_fixed_size { "!" } else { "" }),
    }
}

/// Types that a cell can hold need a value to start with.
trait Start: Storable {
    fn start() -> Self;
}

macro_rules! starts {
    ($($type:ty = $value:expr),* $(,)?) => { $(impl Start for $type { fn start() -> Self { $value } })* };
}

starts! {
    () = (), u8 = 7, u64 = 0, u128 = 1, bool = true, f64 = 0.5, String = "start".into(), Vec<u8> = vec![],
    Principal = Principal::anonymous(), Blob<10> = Blob::default(), [u8; 32] = [7; 32], Option<u64> = None,
    Option<String> = Some("".into()), (u32, u64) = (1, 2), (Blob<5>, u8) = Default::default(),
    (u8, String, Vec<u8>) = Default::default(), Event = Event::default(), Person = Person::default(),
}

macro_rules! catalog {
    (maps { $($map:literal: $key:ty => $value:ty;)* }
     sets { $($set:literal: $member:ty;)* }
     vecs { $($vec:literal: $element:ty;)* }
     heaps { $($heap:literal: $item:ty;)* }
     logs { $($log:literal: $record:ty;)* }
     cells { $($cell:literal: $content:ty;)* }) => {
        /// Opens a structure, or creates it where its memory is empty.
        pub fn open(id: u8, manager: &MemoryManager<Base>) -> Box<dyn Structure> {
            let memory = || -> Memory { manager.get(MemoryId::new(id)) };
            match id {
                $($map => Box::new(BTreeMap::<$key, $value, _>::init(memory())),)*
                $($set => Box::new(BTreeSet::<$member, _>::init(memory())),)*
                $($vec => Box::new(StableVec::<$element, _>::init(memory())),)*
                $($heap => Box::new(MinHeap::<$item, _>::init(memory())),)*
                $($log => Box::new(Log::<$record, _, _>::init(memory(), manager.get(MemoryId::new(id + 1)))),)*
                $($cell => Box::new(Cell::<$content, _>::init(memory(), <$content>::start())),)*
                _ => panic!("there is no structure {id}"),
            }
        }

        /// One line a structure: memory id, kind, types, and the bounds of the types, divided by tabs.
        pub fn list() -> String {
            let mut lines = String::new();
            $(writeln!(lines, "{}\tmap\t{}\t{}\t{}\t{}", $map, stringify!($key), stringify!($value),
                       bound::<$key>(), bound::<$value>()).unwrap();)*
            $(writeln!(lines, "{}\tset\t{}\t\t{}\t", $set, stringify!($member), bound::<$member>()).unwrap();)*
            $(writeln!(lines, "{}\tvec\t\t{}\t\t{}", $vec, stringify!($element), bound::<$element>()).unwrap();)*
            $(writeln!(lines, "{}\theap\t\t{}\t\t{}", $heap, stringify!($item), bound::<$item>()).unwrap();)*
            $(writeln!(lines, "{}\tlog\t\t{}\t\t{}", $log, stringify!($record), bound::<$record>()).unwrap();)*
            $(writeln!(lines, "{}\tcell\t\t{}\t\t{}", $cell, stringify!($content), bound::<$content>()).unwrap();)*
            lines
        }
    };
}

// Each key type with a fixed, a bounded and an unbounded value where that makes a difference, each value type at least
// twice; not the whole product, whose code would fill megabytes.
catalog! {
    maps {
        0: u64 => u64;
        1: u128 => u128;
        2: u8 => ();
        3: u16 => bool;
        4: u32 => u32;
        5: u64 => String;
        6: u64 => Vec<u8>;
        7: bool => u8;
        8: String => String;
        9: String => u64;
        10: Vec<u8> => Vec<u8>;
        11: Vec<u8> => ();
        12: Principal => u64;
        13: Principal => String;
        14: Blob<10> => Blob<10>;
        15: Blob<300> => u32;
        16: [u8; 3] => [u8; 3];
        17: [u8; 32] => Blob<300>;
        18: (u32, u64) => (u32, u64);
        19: (Blob<5>, u8) => (Blob<300>, Blob<3>);
        20: (Principal, u64) => u128;
        21: (u8, String, Vec<u8>) => (u8, String, Vec<u8>);
        22: (u16, u32, Blob<7>) => (u8, u16, u32);
        23: Reverse<u64> => u64;
        24: Reverse<String> => Vec<u8>;
        25: Option<String> => Option<String>;
        26: Option<Blob<4>> => Option<Blob<4>>;
        27: Signed => Signed;
        28: Event => Event;
        29: Person => Person;
        30: () => u64;
        31: u32 => f64;
        32: u32 => f32;
        33: u32 => Principal;
        34: u32 => Option<Vec<u8>>;
        35: u64 => [u8; 1024];
        36: Blob<64> => Person;
        37: (u64, [u8; 3], Principal) => Event;
    }
    sets {
        60: u8;
        61: u64;
        62: u64;
        63: String;
        64: String;
        65: Principal;
        66: Blob<10>;
        67: [u8; 3];
        68: (u32, u64);
        69: (Blob<5>, u8);
        70: Reverse<u32>;
        71: Option<String>;
        72: Signed;
        73: Event;
    }
    vecs {
        90: u8;
        91: u64;
        92: u128;
        93: bool;
        94: f64;
        95: Principal;
        96: Blob<10>;
        97: Blob<300>;
        98: Blob<70000>;
        99: [u8; 32];
        100: (u32, u64);
        101: (Blob<5>, u8);
        102: (u16, u32, Blob<7>);
        103: Person;
        104: Event;
        105: ();
        106: Option<Blob<4>>;
    }
    heaps {
        120: u8;
        121: u64;
        122: u128;
        123: f64;
        124: Principal;
        125: Blob<10>;
        126: Reverse<u64>;
        127: (u32, u64);
        128: Signed;
        129: Event;
        130: Person;
    }
    logs {
        150: u64;
        152: String;
        154: Vec<u8>;
        156: Principal;
        158: Blob<10>;
        160: ();
        162: Option<u64>;
        164: (Blob<5>, u8);
        166: (u8, String, Vec<u8>);
        168: Person;
    }
    cells {
        190: u8;
        191: u64;
        192: u128;
        193: bool;
        194: f64;
        195: String;
        196: Vec<u8>;
        197: Principal;
        198: Blob<10>;
        199: [u8; 32];
        200: Option<u64>;
        201: Option<String>;
        202: (u32, u64);
        203: (Blob<5>, u8);
        204: (u8, String, Vec<u8>);
        205: Event;
        206: Person;
        207: ();
    }
}
