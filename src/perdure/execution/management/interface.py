"""The management canister's interface: Candid types of arguments and results, for the methods that are handled here.

Spec: "The IC management canister" in the interface specification 0.66.0.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from perdure.candid import Codec, parse
from perdure.candid.types import Func, resolve

__all__ = ["INTERFACE", "codecs", "transform_codecs"]

INTERFACE: Final = """
type visibility = variant { controllers; public; allowed_viewers : vec principal };
type variables = vec record { name : text; value : text };
type settings = record {
  controllers : opt vec principal; compute_allocation : opt nat; memory_allocation : opt nat;
  freezing_threshold : opt nat; reserved_cycles_limit : opt nat; minimum_incoming_canister_call_cycles : opt nat;
  log_visibility : opt visibility; snapshot_visibility : opt visibility; status_visibility : opt visibility;
  log_memory_limit : opt nat;
  wasm_memory_limit : opt nat; wasm_memory_threshold : opt nat; environment_variables : opt variables };
type definite_settings = record {
  controllers : vec principal; compute_allocation : nat; memory_allocation : nat;
  freezing_threshold : nat; reserved_cycles_limit : nat; minimum_incoming_canister_call_cycles : nat;
  log_visibility : visibility; log_memory_limit : nat; snapshot_visibility : visibility; status_visibility : visibility;
  wasm_memory_limit : nat; wasm_memory_threshold : nat; environment_variables : variables };
type snapshot_source = variant { taken_from_canister : reserved; metadata_upload : reserved };
type change = record { timestamp_nanos : nat64; canister_version : nat64;
  origin : variant { from_user : record { user_id : principal };
    from_canister : record { canister_id : principal; canister_version : opt nat64 } };
  details : variant {
    creation : record { controllers : vec principal; environment_variables_hash : opt blob };
    code_uninstall;
    code_deployment : record { mode : variant { install; reinstall; upgrade }; module_hash : blob };
    load_snapshot : record { from_canister_id : opt principal; snapshot_id : blob; canister_version : nat64;
      taken_at_timestamp : nat64; source : snapshot_source };
    controllers_change : record { controllers : vec principal } } };
type chunk_hash = record { hash : blob };
type canister = record { canister_id : principal };
type install_mode = variant { install; reinstall;
  upgrade : opt record { skip_pre_upgrade : opt bool; wasm_memory_persistence : opt variant { keep; replace } } };
type snapshot = record { id : blob; taken_at_timestamp : nat64; total_size : nat64 };
type globals = vec variant { i32 : int32; i64 : int64; f32 : float32; f64 : float64; v128 : nat };
type timer = variant { inactive; active : nat64 };
type hook_status = variant { condition_not_satisfied; ready; executed };
type one_snapshot = record { canister_id : principal; snapshot_id : blob };
type range = record { offset : nat64; size : nat64 };
type log_range = record { start : nat64; end : nat64 };
type place = record { offset : nat64 };
type path = vec blob;
type ecdsa_key = record { curve : variant { secp256k1; secp256r1 }; name : text };
type schnorr_key = record { algorithm : variant { bip340secp256k1; ed25519 }; name : text };
type vetkd_key = record { curve : variant { bls12_381_g2 }; name : text };
type public_key = record { public_key : blob; chain_code : blob };
type signature = record { signature : blob };
type header = record { name : text; value : text };
type http_method = variant { get; head; post; put; delete; patch };
type http_response = record { status : nat; headers : vec header; body : blob };
type transform = record { context : blob;
  function : func (record { response : http_response; context : blob }) -> (http_response) query };
type used64 = variant { used : nat64; exceeded : reserved };
type node_detail = record { node_id : principal;
  error : opt record { code : text; message : text };
  report : record { raw_response_bytes : opt used64; http_roundtrip_time_ms : opt used64;
    transform_instructions : opt used64; transformed_response_bytes : opt used64;
    cycles : opt variant { used : nat; exceeded : reserved } } };
service : {
  create_canister : (record { settings : opt settings; sender_canister_version : opt nat64 }) -> (canister);
  provisional_create_canister_with_cycles : (record { amount : opt nat; settings : opt settings;
    specified_id : opt principal; sender_canister_version : opt nat64 }) -> (canister);
  provisional_top_up_canister : (record { canister_id : principal; amount : nat }) -> ();
  update_settings : (record { canister_id : principal; settings : settings;
    sender_canister_version : opt nat64 }) -> ();
  upload_chunk : (record { canister_id : principal; chunk : blob }) -> (chunk_hash);
  clear_chunk_store : (canister) -> ();
  stored_chunks : (canister) -> (vec chunk_hash);
  install_code : (record { mode : install_mode; canister_id : principal; wasm_module : blob; arg : blob;
    sender_canister_version : opt nat64 }) -> ();
  install_chunked_code : (record { mode : install_mode; target_canister : principal; store_canister : opt principal;
    chunk_hashes_list : vec chunk_hash; wasm_module_hash : blob; arg : blob;
    sender_canister_version : opt nat64 }) -> ();
  uninstall_code : (record { canister_id : principal; sender_canister_version : opt nat64 }) -> ();
  start_canister : (canister) -> ();
  stop_canister : (canister) -> ();
  delete_canister : (canister) -> ();
  deposit_cycles : (canister) -> ();
  raw_rand : () -> (blob);
  canister_status : (canister) -> (record {
    status : variant { running; stopping; stopped }; ready_for_migration : bool; version : nat64;
    settings : definite_settings; module_hash : opt blob; memory_size : nat;
    memory_metrics : record { wasm_memory_size : nat; stable_memory_size : nat; global_memory_size : nat;
      wasm_binary_size : nat; custom_sections_size : nat; canister_history_size : nat; wasm_chunk_store_size : nat;
      snapshots_size : nat; log_memory_store_size : nat };
    cycles : nat; reserved_cycles : nat; idle_cycles_burned_per_day : nat;
    query_stats : record { num_calls_total : nat; num_instructions_total : nat; request_payload_bytes_total : nat;
      response_payload_bytes_total : nat } }) query;
  canister_metrics : (canister) -> (record { cycles_consumed : record {
    memory : nat; compute_allocation : nat; ingress_induction : nat; instructions : nat;
    request_and_response_transmission : nat; uninstall : nat; canister_creation : nat; http_outcalls : nat;
    burned_cycles : nat } }) query;
  list_canisters : () -> (record { canisters : vec record { start : principal; end : principal } }) query;
  canister_info : (record { canister_id : principal; num_requested_changes : opt nat64 }) -> (record {
    total_num_changes : nat64; recent_changes : vec change; module_hash : opt blob; controllers : vec principal });
  canister_metadata : (record { canister_id : principal; name : text }) -> (record { value : blob });
  fetch_canister_logs : (record { canister_id : principal; filter : opt variant {
      by_idx : log_range; by_timestamp_nanos : log_range } }) -> (record {
    canister_log_records : vec record { idx : nat64; timestamp_nanos : nat64; content : blob } }) query;
  take_canister_snapshot : (record { canister_id : principal; replace_snapshot : opt blob; uninstall_code : opt bool;
    sender_canister_version : opt nat64 }) -> (snapshot);
  load_canister_snapshot : (record { canister_id : principal; snapshot_id : blob;
    sender_canister_version : opt nat64 }) -> ();
  list_canister_snapshots : (canister) -> (vec snapshot);
  delete_canister_snapshot : (one_snapshot) -> ();
  read_canister_snapshot_metadata : (one_snapshot) -> (record {
    source : snapshot_source; taken_at_timestamp : nat64; wasm_module_size : nat64; globals : globals;
    wasm_memory_size : nat64; stable_memory_size : nat64; wasm_chunk_store : vec chunk_hash; canister_version : nat64;
    certified_data : blob; global_timer : opt timer; on_low_wasm_memory_hook_status : opt hook_status });
  read_canister_snapshot_data : (record { canister_id : principal; snapshot_id : blob;
    kind : variant { wasm_module : range; wasm_memory : range; stable_memory : range; wasm_chunk : chunk_hash } })
    -> (record { chunk : blob });
  upload_canister_snapshot_metadata : (record { canister_id : principal; replace_snapshot : opt blob;
    wasm_module_size : nat64; globals : globals; wasm_memory_size : nat64; stable_memory_size : nat64;
    certified_data : blob; global_timer : opt timer; on_low_wasm_memory_hook_status : opt hook_status })
    -> (record { snapshot_id : blob });
  upload_canister_snapshot_data : (record { canister_id : principal; snapshot_id : blob;
    kind : variant { wasm_module : place; wasm_memory : place; stable_memory : place; wasm_chunk }; chunk : blob })
    -> ();
  ecdsa_public_key : (record { canister_id : opt principal; derivation_path : path; key_id : ecdsa_key })
    -> (public_key);
  sign_with_ecdsa : (record { message_hash : blob; derivation_path : path; key_id : ecdsa_key }) -> (signature);
  schnorr_public_key : (record { canister_id : opt principal; derivation_path : path; key_id : schnorr_key })
    -> (public_key);
  sign_with_schnorr : (record { message : blob; derivation_path : path; key_id : schnorr_key;
    aux : opt variant { bip341 : record { merkle_root_hash : blob } } }) -> (signature);
  vetkd_public_key : (record { canister_id : opt principal; context : blob; key_id : vetkd_key })
    -> (record { public_key : blob });
  vetkd_derive_key : (record { input : blob; context : blob; transport_public_key : blob; key_id : vetkd_key })
    -> (record { encrypted_key : blob });
  subnet_info : (record { subnet_id : principal }) -> (record { replica_version : text; registry_version : nat64 });
  node_metrics_history : (record { subnet_id : principal; start_at_timestamp_nanos : nat64 })
    -> (vec record { timestamp_nanos : nat64; node_metrics : vec record { node_id : principal;
      num_blocks_proposed_total : nat64; num_block_failures_total : nat64 } });
  http_request : (record { url : text; max_response_bytes : opt nat64; method : http_method; headers : vec header;
    body : opt blob; transform : opt transform; is_replicated : opt bool; pricing_version : opt nat32 })
    -> (http_response);
  flexible_http_request : (record { url : text; max_response_bytes : opt nat64; method : http_method;
    headers : vec header; body : opt blob; transform : opt transform;
    replication : opt record { min_responses : nat32; max_responses : nat32; total_requests : nat32 } })
    -> (variant { ok : vec http_response; err : record { message : text; node_details : vec node_detail;
      global_error : opt variant { timeout : reserved; out_of_cycles : reserved; responses_too_large : reserved;
        too_many_rejects : reserved } } });
}
"""


@lru_cache(maxsize=1)
def transform_codecs() -> tuple[Codec, Codec]:
    """How to encode what a transform of an HTTP response is given, and to decode what it gives."""
    asked: Any = codecs()["http_request"]

    def parts(record: Any) -> dict[str, Any]:
        return {one.name: resolve(one.type) for one in record.fields}

    transform = resolve(parts(resolve(asked[0].types[0]))["transform"].content)
    return Codec(parts(transform)["function"].args), asked[1]


@lru_cache(maxsize=1)
def codecs() -> dict[str, tuple[Codec, Codec]]:
    """By method name, how to decode its argument and encode its result."""
    service = parse(INTERFACE).service
    if service is None:
        raise AssertionError("the interface has a service")
    return {
        method.name: (Codec(method.type.args), Codec(method.type.results))
        for method in service.methods
        if isinstance(method.type, Func)
    }
