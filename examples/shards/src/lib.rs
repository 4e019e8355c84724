//! A shard in Rust: some of the rows of a `perdure.data.ShardedTable`, beside shards in Python.
//!
//! Each key has one owner at any time, or none while it is on its way:
//!
//! ```text
//! giver    owns [a, z)                                     taker
//!          1. `moving` = chunk [c, d), number n, to taker
//!          2. shard_take(c, d, n, rows) ───────────────▶   3. n is new: puts the rows, owns [c, d), `taken[giver]` = n
//!          4. deletes the rows, [c, d) is the taker's  ◀── yes     (n is not new: yes, and nothing else)
//! ```
//!
//! 1 is committed before 2 leaves, as an `await` ends a message. What is cut off is sent again under the same number.
//!
//! What a key and a value mean is the client's: packed columns, and the others as an array in CBOR.

use candid::{CandidType, Decode, Encode, Principal};
use ic_cdk::api::{canister_self, is_controller, msg_caller};
use ic_cdk::call::Call;
use ic_cdk::{query, trap, update};
use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};
use ic_stable_structures::storable::Bound as Size;
use ic_stable_structures::{DefaultMemoryImpl, StableBTreeMap, StableCell, Storable};
use serde::Deserialize;
use serde_bytes::ByteBuf;
use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Bound;

/// Of keys and values in one message: calls across subnets have 2 MiB.
const CHUNK_BYTES: usize = 1 << 20;
/// What a row takes in a message beside key and value, at most.
const ROW_BYTES: usize = 16;
/// Of a chunk that is one large row: its key is in the message three times.
const MAX_CHUNK_BYTES: usize = (2 << 20) - 4_096;

type Memory = VirtualMemory<DefaultMemoryImpl>;

/// Keys from `low` up to `high`, or on without end, and who has them as far as this shard knows.
#[derive(CandidType, Deserialize, Clone)]
struct Piece {
    low: ByteBuf,
    high: Option<ByteBuf>,
    holder: Option<Principal>,
}

/// What is on its way.
#[derive(CandidType, Deserialize, Clone, PartialEq)]
struct Chunk {
    low: ByteBuf,
    high: Option<ByteBuf>,
    to: Principal,
    number: u64,
}

/// The number of the last chunk that was taken from a giver.
#[derive(CandidType, Deserialize, Clone)]
struct Last {
    giver: Principal,
    number: u64,
}

#[derive(CandidType, Deserialize, Clone, Default)]
struct State {
    pieces: Vec<Piece>,
    moving: Option<Chunk>,
    sent: u64,
    taken: Vec<Last>,
    peers: Vec<Principal>,
}

impl Storable for State {
    const BOUND: Size = Size::Unbounded;

    fn to_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(Encode!(self).expect("a state is Candid"))
    }

    fn into_bytes(self) -> Vec<u8> {
        Encode!(&self).expect("a state is Candid")
    }

    fn from_bytes(bytes: Cow<'_, [u8]>) -> Self {
        Decode!(&bytes, State).expect("a state is Candid")
    }
}

#[derive(CandidType, Deserialize)]
struct Pair {
    key: ByteBuf,
    value: Option<ByteBuf>,
}

#[derive(CandidType)]
struct Got {
    is_here: bool,
    value: Option<ByteBuf>,
    elsewhere: Option<Piece>,
}

#[derive(CandidType)]
struct Page {
    pairs: Vec<Pair>,
    next: Option<ByteBuf>,
    elsewhere: Option<Piece>,
}

#[derive(CandidType, Deserialize)]
struct Part {
    low: ByteBuf,
    high: Option<ByteBuf>,
    count: u64,
}

#[derive(CandidType)]
struct Answer {
    shard: Principal,
    parts: Vec<Part>,
    error: String,
}

#[derive(CandidType)]
struct Step {
    next: Option<ByteBuf>,
    is_last: bool,
}

thread_local! {
    static MANAGER: RefCell<MemoryManager<DefaultMemoryImpl>> =
        RefCell::new(MemoryManager::init(DefaultMemoryImpl::default()));
    static ROWS: RefCell<StableBTreeMap<Vec<u8>, Vec<u8>, Memory>> =
        RefCell::new(StableBTreeMap::init(MANAGER.with_borrow(|one| one.get(MemoryId::new(0)))));
    static STATE: RefCell<StableCell<State, Memory>> = RefCell::new(StableCell::init(
        MANAGER.with_borrow(|one| one.get(MemoryId::new(200))),
        State::default(),
    ));
}

fn state() -> State {
    STATE.with_borrow(|cell| cell.get().clone())
}

fn keep(state: State) {
    STATE.with_borrow_mut(|cell| cell.set(state));
}

// --- ranges ----------------------------------------------------------------------------------------------------------

fn is_before(key: &ByteBuf, high: &Option<ByteBuf>) -> bool {
    high.as_ref().is_none_or(|high| key < high)
}

fn lower(one: &Option<ByteBuf>, other: &Option<ByteBuf>) -> Option<ByteBuf> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other).clone()),
        _ => one.clone().or_else(|| other.clone()),
    }
}

/// What there is of some pieces between two keys, cut there.
fn between(pieces: &[Piece], low: &ByteBuf, high: &Option<ByteBuf>) -> Vec<Piece> {
    let cut = |piece: &Piece| Piece {
        low: piece.low.clone().max(low.clone()),
        high: lower(&piece.high, high),
        holder: piece.holder,
    };
    pieces.iter().map(cut).filter(|piece| is_before(&piece.low, &piece.high)).collect()
}

/// Let somebody have some keys; neighbours that have the same holder become one.
fn hand(state: &mut State, low: &ByteBuf, high: &Option<ByteBuf>, holder: Principal) {
    let mut pieces = between(&state.pieces, &ByteBuf::new(), &Some(low.clone()));
    if let Some(high) = high {
        pieces.extend(between(&state.pieces, high, &None));
    }
    pieces.push(Piece { low: low.clone(), high: high.clone(), holder: Some(holder) });
    pieces.sort_by(|one, other| one.low.cmp(&other.low));
    state.pieces.clear();
    for piece in pieces {
        match state.pieces.last_mut() {
            Some(last) if last.holder == piece.holder && last.high.as_ref() == Some(&piece.low) => last.high = piece.high,
            _ => state.pieces.push(piece),
        }
    }
}

/// Who else is to be asked about a key; `None`: it is here.
fn elsewhere(state: &State, key: &ByteBuf) -> Option<Piece> {
    if let Some(chunk) = state.moving.as_ref().filter(|chunk| chunk.low <= *key && is_before(key, &chunk.high)) {
        return Some(Piece { low: chunk.low.clone(), high: chunk.high.clone(), holder: Some(chunk.to) });
    }
    match state.pieces.iter().find(|piece| piece.low <= *key && is_before(key, &piece.high)) {
        Some(piece) if piece.holder == Some(canister_self()) => None,
        Some(piece) => Some(piece.clone()),
        None => {
            let mut next = key.to_vec();
            next.push(0);
            Some(Piece { low: key.clone(), high: Some(ByteBuf::from(next)), holder: None })
        }
    }
}

/// Whether all keys between two are here, as far as pieces say.
fn is_own(state: &State, low: &ByteBuf, high: &Option<ByteBuf>) -> bool {
    let mut at = Some(low.clone());
    for piece in between(&state.pieces, low, high) {
        if piece.holder != Some(canister_self()) || at.as_ref() != Some(&piece.low) {
            return false;
        }
        at = piece.high;
    }
    at == *high
}

// --- rows ------------------------------------------------------------------------------------------------------------

fn each(low: &ByteBuf, high: &Option<ByteBuf>, mut see: impl FnMut(&[u8], &[u8]) -> bool) {
    let end = high.as_ref().map_or(Bound::Unbounded, |high| Bound::Excluded(high.to_vec()));
    ROWS.with_borrow(|rows| {
        for entry in rows.range((Bound::Included(low.to_vec()), end)) {
            if !see(entry.key(), &entry.value()) {
                break;
            }
        }
    });
}

/// The first rows between two keys that go into a message, and whether there are more.
fn first(low: &ByteBuf, high: &Option<ByteBuf>, most: usize) -> (Vec<Pair>, bool) {
    let (mut pairs, mut size_bytes, mut is_cut) = (Vec::new(), 0, false);
    each(low, high, |key, value| {
        size_bytes += key.len() + value.len() + ROW_BYTES;
        is_cut = !pairs.is_empty() && (pairs.len() >= most || size_bytes > CHUNK_BYTES);
        if !is_cut {
            pairs.push(Pair { key: ByteBuf::from(key), value: Some(ByteBuf::from(value)) });
        }
        !is_cut
    });
    (pairs, is_cut)
}

fn set(pair: &Pair) {
    ROWS.with_borrow_mut(|rows| match &pair.value {
        Some(value) => rows.insert(pair.key.to_vec(), value.to_vec()),
        None => rows.remove(&pair.key.to_vec()),
    });
}

fn remove_all(low: &ByteBuf, high: &Option<ByteBuf>) {
    let mut keys = Vec::new();
    each(low, high, |key, _| {
        keys.push(key.to_vec());
        true
    });
    ROWS.with_borrow_mut(|rows| {
        for key in keys {
            rows.remove(&key);
        }
    });
}

fn behind(pairs: &[Pair]) -> Option<ByteBuf> {
    pairs.last().map(|pair| {
        let mut next = pair.key.to_vec();
        next.push(0);
        ByteBuf::from(next)
    })
}

/// Refuses to begin with a row that no message carries: it would be nobody's for ever.
fn require_small(pairs: &[Pair]) {
    if let [pair] = pairs {
        let size_bytes = 3 * pair.key.len() + pair.value.as_ref().map_or(0, |value| value.len());
        if size_bytes > MAX_CHUNK_BYTES {
            trap(format!("a row of {size_bytes} bytes cannot be moved: a message has at most {MAX_CHUNK_BYTES} of it"));
        }
    }
}

/// Rows on their way are nobody's: perhaps the taker has them, and has changed them.
fn count(low: &ByteBuf, high: &Option<ByteBuf>) -> Vec<Part> {
    let mut state = state();
    if let Some(chunk) = state.moving.clone() {
        hand(&mut state, &chunk.low, &chunk.high, chunk.to);
    }
    let own = between(&state.pieces, low, high).into_iter().filter(|piece| piece.holder == Some(canister_self()));
    own.map(|piece| {
        let mut count = 0;
        each(&piece.low, &piece.high, |_, _| {
            count += 1;
            true
        });
        Part { low: piece.low, high: piece.high, count }
    })
    .collect()
}

fn require_controller() {
    if !is_controller(&msg_caller()) {
        trap(format!("{} is no controller of this shard", msg_caller()));
    }
}

#[query]
fn shard_columns() -> Vec<String> {
    Vec::new() // only clients know
}

#[query]
fn shard_get(key: ByteBuf) -> Got {
    match elsewhere(&state(), &key) {
        Some(piece) => Got { is_here: false, value: None, elsewhere: Some(piece) },
        None => {
            let value = ROWS.with_borrow(|rows| rows.get(&key.to_vec()));
            Got { is_here: true, value: value.map(ByteBuf::from), elsewhere: None }
        }
    }
}

#[update]
fn shard_put(pairs: Vec<Pair>) -> Option<Piece> {
    let state = state();
    if !is_controller(&msg_caller()) && !state.peers.contains(&msg_caller()) {
        trap(format!("{} may not write here", msg_caller()));
    }
    if let Some(piece) = pairs.iter().find_map(|pair| elsewhere(&state, &pair.key)) {
        return Some(piece);
    }
    pairs.iter().for_each(set);
    None
}

#[query]
fn shard_page(low: ByteBuf, high: Option<ByteBuf>, most: u32) -> Page {
    let state = state();
    if let Some(piece) = elsewhere(&state, &low) {
        return Page { pairs: Vec::new(), next: Some(low), elsewhere: Some(piece) };
    }
    let piece = state.pieces.iter().find(|piece| piece.low <= low && is_before(&low, &piece.high));
    let mut end = lower(&high, &piece.and_then(|piece| piece.high.clone()));
    if let Some(chunk) = state.moving.as_ref().filter(|chunk| chunk.low > low) {
        end = lower(&end, &Some(chunk.low.clone()));
    }
    let (pairs, is_cut) = first(&low, &end, most as usize);
    let next = if is_cut { behind(&pairs) } else if end == high { None } else { end };
    Page { pairs, next, elsewhere: None }
}

#[query]
fn shard_counts(low: ByteBuf, high: Option<ByteBuf>) -> Vec<Part> {
    count(&low, &high)
}

#[query(composite = true)]
async fn shard_fan(shards: Vec<Principal>, low: ByteBuf, high: Option<ByteBuf>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for shard in shards {
        if shard == canister_self() {
            answers.push(Answer { shard, parts: count(&low, &high), error: String::new() });
            continue;
        }
        let said = Call::bounded_wait(shard, "shard_counts").with_args(&(&low, &high)).await;
        answers.push(match said.map_err(|error| error.to_string()).map(|reply| reply.candid::<Vec<Part>>()) {
            Ok(Ok(parts)) => Answer { shard, parts, error: String::new() },
            Ok(Err(error)) => Answer { shard, parts: Vec::new(), error: error.to_string() },
            Err(error) => Answer { shard, parts: Vec::new(), error },
        });
    }
    answers
}

#[query]
fn shard_middle(low: ByteBuf, high: Option<ByteBuf>) -> Option<ByteBuf> {
    let mut keys = Vec::new();
    each(&low, &high, |key, _| {
        keys.push(key.to_vec());
        true
    });
    (keys.len() > 1).then(|| ByteBuf::from(keys.swap_remove(keys.len() / 2)))
}

// --- whose they are --------------------------------------------------------------------------------------------------

#[query]
fn shard_facts() -> State {
    state()
}

#[update]
fn shard_begin(peers: Vec<Principal>, low: ByteBuf, high: Option<ByteBuf>, is_its_own: bool) {
    require_controller();
    let mut state = state();
    if is_its_own && state.pieces.is_empty() {
        state.pieces = vec![Piece { low, high, holder: Some(canister_self()) }];
    }
    state.peers = peers;
    keep(state);
}

#[update]
async fn shard_give(low: ByteBuf, high: Option<ByteBuf>, to: Principal, most: u32) -> Step {
    require_controller();
    let mut state = state();
    let chunk = match state.moving.clone() {
        Some(chunk) => chunk,
        None => {
            if to == canister_self() || !is_own(&state, &low, &high) {
                trap("these rows are not all here, or are to go to where they are");
            }
            let (pairs, is_cut) = first(&low, &high, most as usize);
            require_small(&pairs);
            state.sent += 1;
            let end = if is_cut { behind(&pairs) } else { high.clone() };
            let chunk = Chunk { low, high: end, to, number: state.sent };
            state.moving = Some(chunk.clone());
            keep(state);
            chunk
        }
    };
    let (pairs, _) = first(&chunk.low, &chunk.high, usize::MAX);
    let arguments = (&chunk.low, &chunk.high, chunk.number, &pairs);
    if let Err(error) = Call::unbounded_wait(chunk.to, "shard_take").with_args(&arguments).await {
        trap(format!("{} does not take rows: {error}", chunk.to));
    }
    given(&chunk);
    Step { is_last: chunk.high == high && chunk.to == to, next: chunk.high }
}

fn given(chunk: &Chunk) {
    let mut state = state();
    if state.moving.as_ref() != Some(chunk) {
        return; // another one has waited for the same answer, and was here before
    }
    remove_all(&chunk.low, &chunk.high);
    state.moving = None;
    hand(&mut state, &chunk.low, &chunk.high, chunk.to);
    keep(state);
}

#[update]
fn shard_take(low: ByteBuf, high: Option<ByteBuf>, number: u64, pairs: Vec<Pair>) {
    let giver = msg_caller();
    let mut state = state();
    if !state.peers.contains(&giver) {
        trap(format!("{giver} is no peer of this shard"));
    }
    if state.taken.iter().any(|last| last.giver == giver && number <= last.number) {
        return;
    }
    if between(&state.pieces, &low, &high).iter().any(|piece| piece.holder == Some(canister_self())) {
        trap("some of these rows are on their way from here: they have to arrive before they come back");
    }
    remove_all(&low, &high); // nobody's, and nothing that was left by anybody counts
    pairs.iter().for_each(set);
    state.taken.retain(|last| last.giver != giver);
    state.taken.push(Last { giver, number });
    hand(&mut state, &low, &high, canister_self());
    keep(state);
}

ic_cdk::export_candid!();
