//! One canister in many versions: which one a module is, a letter in its data says, so that a single build gives all of
//! them. `tests/upgrade/scenarios.py` writes the letter, and lists what each version does.

mod maps;
mod system;

use std::cell::RefCell;

use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};
use ic_stable_structures::{DefaultMemoryImpl, StableBTreeMap, StableCell, StableVec};

use maps::{Cbor, Map, Plain, Said, User, Wide};
use system::{Arguments, Reply};

type Memory = VirtualMemory<DefaultMemoryImpl>;

#[used]
static VERSION: [u8; 17] = *b"perdure-version:a";

fn version() -> char {
    // Volatile, so that the compiler does not believe what it sees.
    unsafe { core::ptr::read_volatile(&VERSION[16]) as char }
}

struct State {
    users: Box<dyn Map<String>>,
    orders: Box<dyn Map<u64>>,
    refunds: Box<dyn Map<u64>>,
    old: StableBTreeMap<u64, Plain, Memory>,
    points: StableVec<u64, Memory>,
    config: StableCell<String, Memory>,
}

thread_local! {
    static MANAGER: MemoryManager<DefaultMemoryImpl> = MemoryManager::init(DefaultMemoryImpl::default());
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
    static HEAP: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn memory(id: u8) -> Memory {
    MANAGER.with(|manager| manager.get(MemoryId::new(id)))
}

/// What each version makes of the memories.
fn open() -> State {
    let swapped = version() == 'b';
    let exchanged = version() == 'c';
    let users: Box<dyn Map<String>> = match version() {
        'd' => Box::new(StableBTreeMap::<u32, User, Memory>::init(memory(0))),
        'e' => Box::new(StableBTreeMap::<u64, Cbor, Memory>::init(memory(0))),
        'f' => Box::new(StableBTreeMap::<u64, User, Memory>::new(memory(0))),
        'h' => Box::new(std::collections::BTreeMap::<u64, User>::new()),
        'o' => Box::new(StableBTreeMap::<u64, Cbor, Memory>::init(memory(0))),
        'q' => Box::new(StableBTreeMap::<u64, User, Memory>::init(memory(10))),
        'w' => Box::new(StableBTreeMap::<u64, User, Memory>::init(memory(11))),
        _ => Box::new(StableBTreeMap::<u64, User, Memory>::init(memory(if swapped { 1 } else { 0 }))),
    };
    let orders: Box<dyn Map<u64>> = match version() {
        's' => Box::new(StableBTreeMap::<u64, Wide, Memory>::init(memory(1))),
        'g' => Box::new(StableBTreeMap::<u64, Wide, Memory>::init(memory(1))),
        'x' => Box::new(StableBTreeMap::<u64, Said, Memory>::init(memory(1))),
        _ => Box::new(StableBTreeMap::<u64, Plain, Memory>::init(memory(if swapped {
            0
        } else if exchanged {
            2
        } else {
            1
        }))),
    };
    State {
        users,
        orders,
        refunds: Box::new(StableBTreeMap::<u64, Plain, Memory>::init(memory(if exchanged { 1 } else { 2 }))),
        old: StableBTreeMap::init(memory(5)),
        points: StableVec::init(memory(3)),
        config: StableCell::init(memory(4), String::from("none")),
    }
}

fn with<R>(act: impl FnOnce(&mut State) -> R) -> R {
    STATE.with_borrow_mut(|state| act(state.get_or_insert_with(open)))
}

#[unsafe(export_name = "canister_global_timer")]
extern "C" fn timer() {
    system::set_timer(3600);
}

#[unsafe(export_name = "canister_init")]
extern "C" fn init() {
    system::begin();
    system::set_timer(3600);
    system::certify(b"root of the users");
}

#[unsafe(export_name = "canister_pre_upgrade")]
extern "C" fn before() {
    system::begin();
    if version() == 'k' {
        // Fine while there are few: quadratic in what there is.
        let count = with(|state| state.points.len());
        let mut sum = 0u64;
        for i in 0..count {
            for j in 0..count {
                sum = sum.wrapping_add(with(|state| state.points.get(i).unwrap() ^ state.points.get(j).unwrap()));
            }
        }
        HEAP.with_borrow_mut(|heap| heap.push(sum as u8));
    }
}

#[unsafe(export_name = "canister_post_upgrade")]
extern "C" fn after() {
    system::begin();
    if version() != 'l' {
        system::set_timer(3600);
    }
    if version() != 'm' {
        system::certify(b"root of the users");
    }
    match version() {
        'i' => panic!("the config has 1 part, expected 3"),
        'j' => {
            let limit = Arguments::new().number();
            HEAP.with_borrow_mut(|heap| heap.push(limit as u8));
        }
        'n' => system::call_management("raw_rand"),
        'o' => {
            let users = StableBTreeMap::<u64, User, Memory>::init(memory(0));
            let all: Vec<(u64, String)> = users.iter().map(|entry| (*entry.key(), entry.value().name)).collect();
            let mut fresh = StableBTreeMap::<u64, Cbor, Memory>::new(memory(0));
            for (key, name) in all {
                fresh.insert(key, Cbor { name });
            }
        }
        'q' => {
            let mut users = StableBTreeMap::<u64, User, Memory>::init(memory(0));
            let mut fresh = StableBTreeMap::<u64, User, Memory>::init(memory(10));
            while let Some((key, user)) = users.pop_first() {
                fresh.insert(key, user);
            }
        }
        'u' => HEAP.with_borrow_mut(|heap| heap.resize(40 << 20, 0)),
        'v' => {
            with(|state| state.config.set(String::from("none")));
        }
        'y' => loop {
            HEAP.with_borrow_mut(|heap| heap.push(1));
            HEAP.with_borrow_mut(|heap| heap.clear());
        },
        'z' => with(|state| while state.points.pop().is_some() {}),
        _ => {}
    }
}

macro_rules! methods {
    ($($export:literal $name:ident ($arguments:ident) $body:expr;)*) => {$(
        #[unsafe(export_name = $export)]
        extern "C" fn $name() {
            system::begin();
            #[allow(unused_mut, unused_variables)]
            let mut $arguments = Arguments::new();
            Reply::send(&$body);
        }
    )*};
}

methods! {
    "canister_query revision" revision (args) format!("version {}", version());
    "canister_query user_count" user_count (args) with(|state| state.users.count());
    "canister_query get_user" get_user (args) { let id = args.number(); with(|state| state.users.find(id)) };
    "canister_query get_order" get_order (args) { let id = args.number(); with(|state| state.orders.find(id)) };
    "canister_query get_refund" get_refund (args) { let id = args.number(); with(|state| state.refunds.find(id)) };
    "canister_query total" total (args) with(|state| state.points.iter().sum::<u64>());
    "canister_query config" config (args) with(|state| state.config.get().clone());
    "canister_query now" now (args) system::time();
    "canister_update put_user" put_user (args) {
        let (id, name) = (args.number(), args.text());
        with(|state| state.users.put(id, name))
    };
    "canister_update put_order" put_order (args) {
        let (id, amount) = (args.number(), args.number());
        with(|state| state.orders.put(id, amount))
    };
    "canister_update put_refund" put_refund (args) {
        let (id, amount) = (args.number(), args.number());
        with(|state| state.refunds.put(id, amount))
    };
    "canister_update push" push (args) { let point = args.number(); with(|state| state.points.push(&point)) };
    "canister_update set_config" set_config (args) {
        let text = args.text();
        with(|state| { state.config.set(text); })
    };
    "canister_update archive" archive (args) {
        let (id, amount) = (args.number(), args.number());
        with(|state| state.old.insert(id, Plain(amount)).map(|before| before.0))
    };
}

#[unsafe(link_section = "icp:public candid:service")]
pub static INTERFACE: [u8; include_bytes!("../upgraded.did").len()] = *include_bytes!("../upgraded.did");
