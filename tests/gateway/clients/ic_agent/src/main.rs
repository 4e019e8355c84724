//! ic-agent as its crate has it, verification on: URL CANISTER. Prints one JSON object.

use candid::{Decode, Encode, Nat, Principal};
use ic_agent::agent::{CallResponse, RequestStatusResponse};
use ic_agent::identity::{
    AnonymousIdentity, BasicIdentity, DelegatedIdentity, Delegation, Identity, Prime256v1Identity, Secp256k1Identity,
    SignedDelegation,
};
use ic_agent::{Agent, AgentError};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

type Failure = Box<dyn std::error::Error>;

fn users(canister: Principal) -> Result<Vec<(&'static str, Arc<dyn Identity>)>, Failure> {
    let user = BasicIdentity::from_raw_key(&[1; 32]);
    let session = BasicIdentity::from_raw_key(&[2; 32]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let delegation = Delegation {
        pubkey: session.public_key().ok_or("no key")?,
        expiration: (now + Duration::from_secs(600)).as_nanos() as u64,
        targets: Some(vec![canister]),
        permissions: None,
    };
    let signature = user.sign_delegation(&delegation)?;
    let chain = vec![SignedDelegation { delegation, signature: signature.signature.ok_or("no signature")? }];
    let delegated = DelegatedIdentity::new(user.public_key().ok_or("no key")?, Box::new(session), chain)?;
    Ok(vec![
        ("anonymous", Arc::new(AnonymousIdentity)),
        ("ed25519", Arc::new(user)),
        ("secp256k1", Arc::new(Secp256k1Identity::from_private_key(k256::SecretKey::from_slice(&[3; 32])?))),
        ("p256", Arc::new(Prime256v1Identity::from_private_key(p256::SecretKey::from_slice(&[4; 32])?))),
        ("delegated", Arc::new(delegated)),
    ])
}

async fn number(agent: &Agent, canister: Principal, method: &str, is_query: bool) -> Result<u64, Failure> {
    let arg = Encode!()?;
    let reply = if is_query {
        agent.query(&canister, method).with_arg(arg).call_with_verification().await?
    } else {
        agent.update(&canister, method).with_arg(arg).call_and_wait().await?
    };
    Ok(u64::try_from(Decode!(&reply, Nat)?.0)?)
}

async fn counted(url: &str, canister: Principal, user: Arc<dyn Identity>) -> Result<Value, Failure> {
    let agent = Agent::builder().with_url(url).with_arc_identity(user.clone()).build()?;
    agent.fetch_root_key().await?;
    let before = number(&agent, canister, "count", true).await?;
    let after = number(&agent, canister, "inc", false).await?;
    let seen = number(&agent, canister, "count", true).await?;
    let me = agent.query(&canister, "whoami").with_arg(Encode!()?).call_with_verification().await?;
    let me = Decode!(&me, Principal)?;
    Ok(json!({"counted": [before, after, seen], "is_me": me == user.sender()?}))
}

/// What became of a request that was signed beforehand and submitted twice.
async fn sent_twice(agent: &Agent, canister: Principal) -> Result<Value, Failure> {
    let signed = agent.update(&canister, "inc").with_arg(Encode!()?).sign()?;
    let mut replies = Vec::new();
    for _ in 0..2 {
        let reply = match agent.update_signed(canister, signed.signed_update.clone()).await? {
            CallResponse::Response(reply) => reply,
            CallResponse::Poll(id) => agent.wait(&id, canister).await?.0,
        };
        replies.push(u64::try_from(Decode!(&reply, Nat)?.0)?);
    }
    let (status, _) = agent.request_status_raw(&signed.request_id, canister).await?;
    Ok(json!({"replies": replies, "is_replied": matches!(status, RequestStatusResponse::Replied(_))}))
}

async fn facts(agent: &Agent, canister: Principal) -> Result<Value, Failure> {
    let subnet = agent.get_subnet_by_canister(&canister).await?;
    let metrics = agent.read_state_subnet_metrics(subnet.id()).await?;
    let ranges = agent.read_state_subnet_canister_ranges(subnet.id()).await?;
    let hash = agent.read_state_canister_module_hash(canister).await?;
    let controllers = agent.read_state_canister_controllers(canister).await?;
    let candid = agent.read_state_canister_metadata(canister, "candid:service").await?;
    Ok(json!({
        "module_hash": hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        "controllers": controllers.iter().map(Principal::to_text).collect::<Vec<_>>(),
        "has_candid": String::from_utf8(candid)?.contains("service"),
        "canisters": metrics.num_canisters,
        "is_in_range": ranges.iter().any(|(first, last)| *first <= canister && canister <= *last),
        "nodes": subnet.iter_nodes().count(),
        "health": agent.status().await?.replica_health_status,
    }))
}

async fn rejected(agent: &Agent, canister: Principal) -> Result<String, Failure> {
    match agent.update(&canister, "fail").with_arg(Encode!(&"no such luck")?).call_and_wait().await {
        Err(AgentError::CertifiedReject { reject, .. }) => {
            Ok(format!("{} {}", reject.error_code.unwrap_or_default(), reject.reject_message))
        }
        other => Err(format!("expected a rejection, found {other:?}").into()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let (url, canister) = (arguments[1].as_str(), Principal::from_text(&arguments[2])?);
    let mut found = Map::new();
    for (name, user) in users(canister)? {
        found.insert(name.into(), counted(url, canister, user).await?);
    }
    let agent = Agent::builder().with_url(url).with_identity(BasicIdentity::from_raw_key(&[1; 32])).build()?;
    agent.fetch_root_key().await?;
    found.insert("sent_twice".into(), sent_twice(&agent, canister).await?);
    found.insert("facts".into(), facts(&agent, canister).await?);
    found.insert("rejected".into(), rejected(&agent, canister).await?.into());
    found.insert("rounds".into(), number(&agent, canister, "incSelf", false).await?.into());
    println!("{}", Value::Object(found));
    Ok(())
}
