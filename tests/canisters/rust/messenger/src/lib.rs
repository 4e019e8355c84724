//! Calls between canisters, callbacks, cleanup, cycles and timers, through the executor of ic-cdk and ic-cdk-timers.
//!
//! Counters are bumped on both sides of each `await`, so that a test sees which of the messages of a call took effect.

use candid::{CandidType, Nat, Principal};
use futures::future::join_all;
use ic_cdk::api;
use ic_cdk::call::{Call, CallFailed, Response};
use ic_cdk_timers::TimerId;
use serde::Deserialize;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

#[used]
#[unsafe(link_section = "icp:public candid:service")]
static SERVICE: [u8; include_bytes!("../messenger.did").len()] = *include_bytes!("../messenger.did");

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static GUARDS: Cell<u64> = const { Cell::new(0) };
    static TICKS: Cell<u64> = const { Cell::new(0) };
    static REPLIES: Cell<u64> = const { Cell::new(0) };
    static TIMERS: RefCell<HashMap<u64, TimerId>> = RefCell::default();
}

fn add_one(counter: &'static std::thread::LocalKey<Cell<u64>>) -> u64 {
    counter.set(counter.get() + 1);
    counter.get()
}

// --- calls -----------------------------------------------------------------------------------------------------------

#[derive(CandidType, Deserialize)]
struct CallArguments {
    callee: Principal,
    method: String,
    argument: Vec<u8>,
    cycles: Nat,
    timeout_seconds: Option<u32>,
}

#[derive(CandidType)]
struct Failure {
    code: u32,
    message: String,
}

type CallResult = Result<Vec<u8>, Failure>;

fn result(response: Result<Response, CallFailed>) -> CallResult {
    response.map(Response::into_bytes).map_err(|failed| match failed {
        CallFailed::CallRejected(rejected) => {
            Failure { code: rejected.raw_reject_code(), message: rejected.reject_message().to_string() }
        }
        other => Failure { code: 0, message: other.to_string() },
    })
}

#[ic_cdk::update]
async fn call(arguments: CallArguments) -> CallResult {
    add_one(&COUNT);
    let call = match arguments.timeout_seconds {
        Some(seconds) => Call::bounded_wait(arguments.callee, &arguments.method).change_timeout(seconds),
        None => Call::unbounded_wait(arguments.callee, &arguments.method),
    };
    let cycles = arguments.cycles.0.try_into().expect("cycles fit into 128 bits");
    let response = call.with_raw_args(&arguments.argument).with_cycles(cycles).await;
    add_one(&COUNT);
    result(response)
}

/// Calls all of them at once; the replies come in any order and are given in the order of the callees.
#[ic_cdk::update]
async fn call_all(callees: Vec<Principal>, method: String, argument: Vec<u8>) -> Vec<CallResult> {
    let calls = callees.into_iter().map(|callee| {
        let call = Call::unbounded_wait(callee, &method).with_raw_args(&argument);
        async { result(call.await) }
    });
    join_all(calls).await
}

/// Calls a method `times` times, each time behind the reply; gives the counter as it was behind each.
#[ic_cdk::update]
async fn call_in_turn(callee: Principal, method: String, times: u32) -> Vec<u64> {
    let mut counts = Vec::new();
    for _ in 0..times {
        if let Err(failed) = Call::unbounded_wait(callee, &method).await {
            ic_cdk::trap(failed.to_string());
        }
        counts.push(add_one(&COUNT));
    }
    counts
}

struct Guard;

impl Guard {
    fn new() -> Self {
        GUARDS.set(GUARDS.get() + 1);
        Self
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        GUARDS.set(GUARDS.get() - 1);
    }
}

/// Holds a guard over a call and traps behind it: the cleanup callback lets go of the guard.
#[ic_cdk::update]
async fn guarded_call(callee: Principal, method: String) {
    let _guard = Guard::new();
    let _ = Call::unbounded_wait(callee, &method).await;
    add_one(&COUNT);
    ic_cdk::trap("behind the call, with a guard in hand");
}

#[ic_cdk::query]
fn guards() -> u64 {
    GUARDS.get()
}

#[ic_cdk::update]
fn send_oneway(callee: Principal, method: String, argument: Vec<u8>) -> bool {
    Call::unbounded_wait(callee, &method).with_raw_args(&argument).oneway().is_ok()
}

/// Replies at once, while a call goes on.
#[ic_cdk::update]
fn spawn_call(callee: Principal, method: String) {
    ic_cdk::futures::spawn(async move {
        if Call::unbounded_wait(callee, &method).await.is_ok() {
            add_one(&REPLIES);
        }
    });
}

#[ic_cdk::update]
fn bump() -> u64 {
    add_one(&COUNT)
}

#[ic_cdk::query]
fn count() -> u64 {
    COUNT.get()
}

#[ic_cdk::update(manual_reply = true)]
fn fail(text: String) {
    add_one(&COUNT);
    api::msg_reject(text);
}

#[ic_cdk::update]
fn crash(text: String) {
    add_one(&COUNT);
    ic_cdk::trap(text);
}

#[ic_cdk::query(composite = true)]
async fn read_twice(callee: Principal) -> u64 {
    let mut sum = 0;
    for _ in 0..2 {
        let response = Call::unbounded_wait(callee, "count").await;
        sum += response.unwrap_or_else(|failed| ic_cdk::trap(failed.to_string())).candid::<u64>().unwrap();
    }
    sum
}

// --- cycles ----------------------------------------------------------------------------------------------------------

#[derive(CandidType)]
struct Accepted {
    available: Nat,
    accepted: Nat,
}

#[ic_cdk::update]
fn accept(most: Nat) -> Accepted {
    let available = api::msg_cycles_available();
    let accepted = api::msg_cycles_accept(most.0.try_into().expect("cycles fit into 128 bits"));
    Accepted { available: available.into(), accepted: accepted.into() }
}

#[ic_cdk::query]
fn balance() -> Nat {
    api::canister_cycle_balance().into()
}

#[ic_cdk::update]
fn caller() -> Principal {
    api::msg_caller()
}

// --- timers ----------------------------------------------------------------------------------------------------------

fn keep(timer: TimerId) -> u64 {
    TIMERS.with_borrow_mut(|timers| {
        let number = timers.len() as u64;
        timers.insert(number, timer);
        number
    })
}

#[ic_cdk::update]
fn tick_after(nanoseconds: u64) -> u64 {
    keep(ic_cdk_timers::set_timer(Duration::from_nanos(nanoseconds), async {
        add_one(&TICKS);
    }))
}

#[ic_cdk::update]
fn tick_every(nanoseconds: u64) -> u64 {
    keep(ic_cdk_timers::set_timer_interval(Duration::from_nanos(nanoseconds), async || {
        add_one(&TICKS);
    }))
}

#[ic_cdk::update]
fn call_every(nanoseconds: u64, callee: Principal, method: String) -> u64 {
    keep(ic_cdk_timers::set_timer_interval(Duration::from_nanos(nanoseconds), move || {
        let method = method.clone();
        async move {
            if Call::unbounded_wait(callee, &method).await.is_ok() {
                add_one(&REPLIES);
            }
        }
    }))
}

#[ic_cdk::update]
fn stop(number: u64) -> bool {
    let timer = TIMERS.with_borrow(|timers| timers.get(&number).copied());
    timer.map(ic_cdk_timers::clear_timer).is_some()
}

#[ic_cdk::query]
fn ticks() -> u64 {
    TICKS.get()
}

#[ic_cdk::query]
fn replies() -> u64 {
    REPLIES.get()
}
