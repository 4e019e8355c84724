//! The network's asset canister: what its crate exports, with the state that its hooks keep in stable memory.

use ic_certified_assets::types::AssetCanisterArgs;
use ic_certified_assets::StableState;

ic_certified_assets::export_canister_methods!();

#[ic_cdk::init]
fn init(args: Option<AssetCanisterArgs>) {
    ic_certified_assets::init(args);
}

#[ic_cdk::pre_upgrade]
fn pre_upgrade() {
    ic_cdk::storage::stable_save((ic_certified_assets::pre_upgrade(),)).expect("the state fits");
}

#[ic_cdk::post_upgrade]
fn post_upgrade(args: Option<AssetCanisterArgs>) {
    let (state,): (StableState,) = ic_cdk::storage::stable_restore().expect("the state is one");
    ic_certified_assets::post_upgrade(state, args);
}
