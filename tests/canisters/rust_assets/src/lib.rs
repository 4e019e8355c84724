//! The asset canister: files that are uploaded in batches, and served over HTTP with certificates of both versions.
//!
//! The crate is that of the canister which `dfx` and `icp` deploy for frontends; only hooks are missing in it. State is
//! kept as Candid, since upgrades are not what this one is for.

use ic_certified_assets::types::AssetCanisterArgs;

#[ic_cdk::init]
fn init(args: Option<AssetCanisterArgs>) {
    ic_certified_assets::init(args);
}

#[ic_cdk::pre_upgrade]
fn pre_upgrade() {
    ic_cdk::storage::stable_save((ic_certified_assets::pre_upgrade(),)).expect("state is written");
}

#[ic_cdk::post_upgrade]
fn post_upgrade(args: Option<AssetCanisterArgs>) {
    let (state,) = ic_cdk::storage::stable_restore().expect("state is read");
    ic_certified_assets::post_upgrade(state, args);
}

ic_certified_assets::export_canister_methods!();
