//! One user in each format of a value: written, read, one number of it read, from the heap and from stable memory.

use crate::direct::{Copied, Direct, Words, read, reserve, write};
use candid::{CandidType, Deserialize, decode_one, encode_one};
use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, Table, Vector};
use prost::Message;
use serde::Serialize;

#[derive(CandidType, Serialize, Deserialize, Clone, PartialEq, Message)]
struct User {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint32, tag = "3")]
    age: u32,
    #[prost(string, tag = "4")]
    email: String,
    #[prost(uint64, tag = "5")]
    balance: u64,
    #[prost(string, repeated, tag = "6")]
    tags: Vec<String>,
}

/// The balance alone, as a type that has nothing else: what decoders by name or number skip the rest for.
#[derive(CandidType, Deserialize, Clone, PartialEq, Message)]
struct Part {
    #[prost(uint64, tag = "5")]
    balance: u64,
}

fn user(number: u64) -> User {
    User {
        id: number,
        name: format!("user {number:06}"),
        age: (number % 90) as u32,
        email: format!("user{number:06}@example.com"),
        balance: number * 1_000_003,
        tags: vec!["admin".into(), "tester".into()],
    }
}

/// Where fields lie: slots of the flatbuffers table, bytes of the fixed struct (id, age, balance, texts of set width).
const BALANCE_SLOT: u16 = 12;
const BALANCE_AT: u64 = 12;
const TEXTS: [(usize, usize); 4] = [(20, 24), (44, 32), (76, 8), (84, 8)];

fn flat(user: &User) -> Vec<u8> {
    let mut made = FlatBufferBuilder::with_capacity(256);
    let tags: Vec<_> = user.tags.iter().map(|one| made.create_string(one)).collect();
    let (tags, name, email) =
        (made.create_vector(&tags), made.create_string(&user.name), made.create_string(&user.email));
    let table = made.start_table();
    made.push_slot::<u64>(4, user.id, 0);
    made.push_slot_always(6, name);
    made.push_slot::<u32>(8, user.age, 0);
    made.push_slot_always(10, email);
    made.push_slot::<u64>(BALANCE_SLOT, user.balance, 0);
    made.push_slot_always(14, tags);
    let end = made.end_table(table);
    made.finish_minimal(end);
    made.finished_data().to_vec()
}

fn flat_table(data: &[u8]) -> Table<'_> {
    let root = u32::from_le_bytes(data[..4].try_into().unwrap());
    // The benchmark reads what it has written itself.
    unsafe { Table::new(data, root as usize) }
}

fn unflat(data: &[u8]) -> User {
    let table = flat_table(data);
    unsafe {
        let text = |slot| table.get::<ForwardsUOffset<&str>>(slot, None).unwrap().to_string();
        let tags = table.get::<ForwardsUOffset<Vector<ForwardsUOffset<&str>>>>(14, None).unwrap();
        User {
            id: table.get::<u64>(4, Some(0)).unwrap(),
            name: text(6),
            age: table.get::<u32>(8, Some(0)).unwrap(),
            email: text(10),
            balance: table.get::<u64>(BALANCE_SLOT, Some(0)).unwrap(),
            tags: tags.iter().map(str::to_string).collect(),
        }
    }
}

fn fixed(user: &User) -> Vec<u8> {
    let mut made = Vec::with_capacity(92);
    made.extend(user.id.to_le_bytes());
    made.extend(user.age.to_le_bytes());
    made.extend(user.balance.to_le_bytes());
    for (text, (at, width)) in [&user.name, &user.email, &user.tags[0], &user.tags[1]].into_iter().zip(TEXTS) {
        made.extend(text.as_bytes());
        made.resize(at + width, 0);
    }
    made
}

fn unfixed(data: &[u8]) -> User {
    let text = |which: usize| {
        let (at, width) = TEXTS[which];
        let bytes = &data[at..at + width];
        let end = bytes.iter().position(|one| *one == 0).unwrap_or(width);
        std::str::from_utf8(&bytes[..end]).unwrap().to_string()
    };
    User {
        id: u64::from_le_bytes(data[..8].try_into().unwrap()),
        age: u32::from_le_bytes(data[8..12].try_into().unwrap()),
        balance: u64::from_le_bytes(data[12..20].try_into().unwrap()),
        name: text(0),
        email: text(1),
        tags: vec![text(2), text(3)],
    }
}

fn encoded(format: u32, user: &User) -> Vec<u8> {
    match format {
        0 => encode_one(user).unwrap(),
        1 => user.encode_to_vec(),
        2 => serde_json::to_vec(user).unwrap(),
        3 => {
            let mut made = Vec::new();
            ciborium::into_writer(user, &mut made).unwrap();
            made
        }
        4 => flat(user),
        5 => fixed(user),
        _ => panic!("no format {format}"),
    }
}

fn decoded(format: u32, data: &[u8]) -> User {
    match format {
        0 => decode_one(data).unwrap(),
        1 => User::decode(data).unwrap(),
        2 => serde_json::from_slice(data).unwrap(),
        3 => ciborium::from_reader(data).unwrap(),
        4 => unflat(data),
        _ => unfixed(data),
    }
}

fn balance(format: u32, data: &[u8]) -> u64 {
    match format {
        0 => decode_one::<Part>(data).unwrap().balance,
        1 => Part::decode(data).unwrap().balance,
        2 => serde_json::from_slice::<Part>(data).unwrap().balance,
        3 => ciborium::from_reader::<Part, _>(data).unwrap().balance,
        4 => unsafe { flat_table(data).get::<u64>(BALANCE_SLOT, Some(0)).unwrap() },
        _ => u64::from_le_bytes(data[BALANCE_AT as usize..][..8].try_into().unwrap()),
    }
}

/// The balance of a value that lies at an address, no more than it needs of it read.
fn balance_at<W: Words>(format: u32, at: u64) -> u64 {
    if format == 5 {
        return W::word(at + BALANCE_AT);
    }
    assert_eq!(format, 4, "a format that is read from its beginning");
    let table = at + W::half(at) as u64;
    let slots = table.wrapping_sub(W::half(table) as i32 as i64 as u64);
    match W::quarter(slots + BALANCE_SLOT as u64) {
        0 => 0, // a default is left out
        field => W::word(table + field as u64),
    }
}

/// A value's place in stable memory, behind its length.
const PLACE: u64 = 256;

fn stored(at: u64) -> Vec<u8> {
    let mut data = vec![0; Copied::half(at) as usize];
    read(at + 4, &mut data);
    data
}

/// 0 write, 1 read, 2 the balance; of stable memory: 3 copied and read, 4 copied and the balance, 5 the balance by small
/// copies, 6 by direct loads.
pub fn measured(format: u32, what: u32, count: u64) -> (u64, u64, u64) {
    let users: Vec<User> = (0..count).map(user).collect();
    let values: Vec<Vec<u8>> = users.iter().map(|one| encoded(format, one)).collect();
    assert!(users.iter().zip(&values).all(|(one, data)| decoded(format, data) == *one), "what was written is not read");
    reserve(count * PLACE);
    for (at, data) in values.iter().enumerate() {
        write(at as u64 * PLACE, &(data.len() as u32).to_le_bytes());
        write(at as u64 * PLACE + 4, data);
    }
    let each = |run: &dyn Fn(usize, u64) -> u64| {
        crate::counted(|| (0..count).map(|one| run(one as usize, one * PLACE)).sum::<u64>())
    };
    let (instructions, sum) = match what {
        0 => each(&|one, _| encoded(format, &users[one]).len() as u64),
        1 => each(&|one, _| decoded(format, &values[one]).balance),
        2 => each(&|one, _| balance(format, &values[one])),
        3 => each(&|_, at| decoded(format, &stored(at)).balance),
        4 => each(&|_, at| balance(format, &stored(at))),
        5 => each(&|_, at| balance_at::<Copied>(format, at + 4)),
        6 => each(&|_, at| balance_at::<Direct>(format, at + 4)),
        _ => panic!("nothing {what} to measure"),
    };
    (instructions, values.iter().map(|one| one.len() as u64).sum(), sum)
}
