//! An oracle that signs what it fetches: threshold keys, signatures verified here, a vetKey, HTTPS outcalls.

use candid::{Principal, encode_args};
use ic_cdk::call::Call;
use ic_management_canister_types::*;
use k256::ecdsa::signature::hazmat::PrehashVerifier;
use k256::ecdsa::{Signature, VerifyingKey};

#[used]
#[unsafe(link_section = "icp:public candid:service")]
static SERVICE: [u8; include_bytes!("../signer.did").len()] = *include_bytes!("../signer.did");

const CYCLES: u128 = 30_000_000_000;

async fn manage<T: candid::CandidType + for<'a> candid::Deserialize<'a>>(
    method: &str,
    arg: &impl candid::CandidType,
    cycles: u128,
) -> Result<T, String> {
    let call = Call::unbounded_wait(Principal::management_canister(), method);
    let response = call.with_arg(arg).with_cycles(cycles).await.map_err(|error| error.to_string())?;
    response.candid().map_err(|error| error.to_string())
}

fn ecdsa_key() -> EcdsaKeyId {
    EcdsaKeyId { curve: EcdsaCurve::Secp256k1, name: "test_key_1".into() }
}

fn vetkd_key() -> VetKDKeyId {
    VetKDKeyId { curve: VetKDCurve::Bls12_381_G2, name: "test_key_1".into() }
}

/// The public key of a name.
#[ic_cdk::update]
async fn address(name: String) -> Vec<u8> {
    let arg = EcdsaPublicKeyArgs { canister_id: None, derivation_path: vec![name.into()], key_id: ecdsa_key() };
    let found: EcdsaPublicKeyResult = manage("ecdsa_public_key", &arg, 0).await.unwrap();
    found.public_key
}

/// The signature of a digest by the key of a name, verified before it goes out.
#[ic_cdk::update]
async fn sign(name: String, digest: Vec<u8>) -> Vec<u8> {
    let public_key = address(name.clone()).await;
    let arg = SignWithEcdsaArgs {
        message_hash: digest.clone(),
        derivation_path: vec![name.into()],
        key_id: ecdsa_key(),
    };
    let signed: SignWithEcdsaResult = manage("sign_with_ecdsa", &arg, CYCLES).await.unwrap();
    let key = VerifyingKey::from_sec1_bytes(&public_key).unwrap();
    key.verify_prehash(&digest, &Signature::from_slice(&signed.signature).unwrap()).unwrap();
    signed.signature
}

/// An Ed25519 signature of a message, and the public key that verifies it.
#[ic_cdk::update(manual_reply = true)]
async fn sign_schnorr(name: String, message: Vec<u8>) {
    let key_id = SchnorrKeyId { algorithm: SchnorrAlgorithm::Ed25519, name: "test_key_1".into() };
    let derivation_path = vec![name.into_bytes()];
    let arg = SchnorrPublicKeyArgs {
        canister_id: None,
        derivation_path: derivation_path.clone(),
        key_id: key_id.clone(),
    };
    let public: SchnorrPublicKeyResult = manage("schnorr_public_key", &arg, 0).await.unwrap();
    let arg = SignWithSchnorrArgs { message, derivation_path, key_id, aux: None };
    let signed: SignWithSchnorrResult = manage("sign_with_schnorr", &arg, CYCLES).await.unwrap();
    ic_cdk::api::msg_reply(encode_args((signed.signature, public.public_key)).unwrap());
}

/// An encrypted vetKey, and the public key that it is checked with.
#[ic_cdk::update(manual_reply = true)]
async fn derive(input: Vec<u8>, transport_public_key: Vec<u8>) {
    let context = b"signer".to_vec();
    let arg = VetKDPublicKeyArgs { canister_id: None, context: context.clone(), key_id: vetkd_key() };
    let public: VetKDPublicKeyResult = manage("vetkd_public_key", &arg, 0).await.unwrap();
    let arg = VetKDDeriveKeyArgs { input, context, transport_public_key, key_id: vetkd_key() };
    let derived: VetKDDeriveKeyResult = manage("vetkd_derive_key", &arg, CYCLES).await.unwrap();
    ic_cdk::api::msg_reply(encode_args((derived.encrypted_key, public.public_key)).unwrap());
}

fn transform() -> Option<TransformContext> {
    let function = TransformFunc(candid::Func { principal: ic_cdk::api::canister_self(), method: "strip".into() });
    Some(TransformContext { function, context: vec![] })
}

/// The body that a server answers with.
#[ic_cdk::update]
async fn price(url: String) -> Result<String, String> {
    let arg = HttpRequestArgs {
        url,
        max_response_bytes: Some(2_000),
        transform: transform(),
        ..Default::default()
    };
    let response: HttpRequestResult = manage("http_request", &arg, CYCLES).await?;
    String::from_utf8(response.body).map_err(|error| error.to_string())
}

/// The bodies that the nodes have got.
#[ic_cdk::update]
async fn flexible(url: String) -> Vec<String> {
    let arg = FlexibleHttpRequestArgs {
        url,
        max_response_bytes: Some(2_000),
        transform: transform(),
        ..Default::default()
    };
    match manage::<FlexibleHttpRequestResult>("flexible_http_request", &arg, CYCLES).await.unwrap() {
        FlexibleHttpRequestResult::Ok(responses) => {
            responses.into_iter().map(|one| String::from_utf8_lossy(&one.body).into_owned()).collect()
        }
        FlexibleHttpRequestResult::Err(error) => vec![error.message],
    }
}

/// What all nodes agree on.
#[ic_cdk::query]
fn strip(arg: TransformArgs) -> HttpRequestResult {
    HttpRequestResult { headers: vec![], ..arg.response }
}
